//! Clients: they append, repeat what they do not know the fate of, read, and
//! tell the oracle what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use annals_core::{
    Append, Command, Content, Event, EventId, EventType, Expected, Outcome, Properties, Revision, Role, StreamName,
    Target,
};
use bytes::Bytes;
use futures::future::{BoxFuture, join};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::node::SimulatedNode;
use super::random::Random;
use super::world::World;
use crate::error::AppendError;

/// How often a client asks for the same append at most.
const ATTEMPTS: u64 = 5;

/// What clients know of streams, without asking.
#[derive(Default)]
pub(crate) struct Known {
    revisions: Mutex<BTreeMap<String, Revision>>,
}

/// One append, however often it is sent.
struct Order {
    name: String,
    command: Bytes,
    streams: Vec<(String, Vec<EventId>)>,
}

/// What is known of an order after some attempts.
#[derive(Default)]
struct Fate {
    acknowledged: bool,
    unknown: bool,
}

/// One client. It stops when it is told to.
pub(crate) async fn client(world: Arc<World>, number: u64, known: Arc<Known>, until: Instant) {
    let mut random = Random::new(world.seed).fork(10_000 + number);
    let mut orders = 0;
    while Instant::now() < until {
        tokio::time::sleep(random.duration(0..world.plan.client_pause)).await;
        let host = somewhere(&world, &mut random);
        match random.within(0..10) {
            0..=5 => {
                orders += 1;
                let order = make_order(&world, &mut random, &known, number, orders);
                place(&world, &mut random, &known, order, host).await;
            }
            6..=8 => read(&world, &mut random, host, true).await,
            _ => read(&world, &mut random, host, false).await,
        }
    }
}

/// A machine that may or may not run a member.
fn somewhere(world: &World, random: &mut Random) -> u64 {
    random.within(1..world.plan.nodes + world.plan.spares / 2 + 1)
}

fn make_order(world: &World, random: &mut Random, known: &Known, client: u64, number: u64) -> Order {
    let count = if random.chance(200) { 2.min(world.plan.streams) } else { 1 };
    let mut names: Vec<u64> = (0..world.plan.streams).collect();
    random.shuffle(&mut names);
    let mut targets = Vec::new();
    let mut events = Vec::new();
    let mut streams = Vec::new();
    for (index, name) in names.into_iter().take(count as usize).enumerate() {
        let name = format!("s-{name}");
        let last = known.revisions.lock().get(&name).copied();
        let expected = match (random.within(0..10), last) {
            (0..=3, _) => Expected::Any,
            (4..=7, Some(last)) => Expected::Exactly(last),
            (8, Some(_)) => Expected::Exists,
            _ => Expected::NoStream,
        };
        let stream = StreamName::new(name.as_str()).expect("a plain name");
        targets.push(Target { stream, expected, role: Role::Write });
        let mut ids = Vec::new();
        for event in 0..random.within(1..4) {
            let id = Uuid::from_u128(
                u128::from(client + 1) << 96 | u128::from(number) << 32 | (index as u128) << 16 | u128::from(event),
            );
            let id = EventId::new(id).expect("not nil");
            ids.push(id);
            let event_type = EventType::new("simulated").expect("a plain type");
            let data = Bytes::from(format!("{client}.{number}.{event}"));
            events.push((
                index as u32,
                Event::new(id, event_type, Content::Json, Properties::Opaque, Bytes::new(), data),
            ));
        }
        streams.push((name, ids));
    }
    let command = Command::Append(Append { targets, events }).encode();
    Order { name: format!("append {client}.{number}"), command, streams }
}

async fn place(world: &Arc<World>, random: &mut Random, known: &Known, order: Order, mut host: u64) {
    let mut fate = Fate::default();
    for attempt in 1..=ATTEMPTS {
        let patience = random.duration(50..2_500);
        let result = if random.chance(150) {
            // To two nodes at once.
            let other = somewhere(world, random);
            let both = join(send(world, &order, host, patience), send(world, &order, other, patience));
            let (one, two) = both.await;
            settle(world, known, &order, &two, &mut fate, other);
            one
        } else {
            send(world, &order, host, patience).await
        };
        settle(world, known, &order, &result, &mut fate, host);
        let again = match result {
            // An answer that is final is asked for again now and then.
            Ok(_) => random.chance(50),
            Err(_) => random.chance(800),
        };
        if !again || attempt == ATTEMPTS {
            break;
        }
        host = somewhere(world, random);
    }
    if !fate.acknowledged && !fate.unknown {
        world.oracle().certainly_not(&order.name, &order.streams);
    }
}

type Sent = Result<Outcome, AppendError>;

async fn send(world: &Arc<World>, order: &Order, host: u64, patience: Duration) -> Sent {
    let deadline = Instant::now() + patience;
    let command = order.command.clone();
    let asked = ask(world, host, move |node| Box::pin(async move { node.append(command, deadline).await }));
    match asked.await {
        Some(result) => result,
        // Nobody was there, or the connection broke: this client cannot tell.
        None => Err(AppendError::Unknown("the connection broke".into())),
    }
}

/// Has the node of a machine do something, if there is one and it stays.
async fn ask<T: Send + 'static>(
    world: &Arc<World>,
    host: u64,
    what: impl FnOnce(Arc<SimulatedNode>) -> BoxFuture<'static, T> + Send + 'static,
) -> Option<T> {
    let way = world.random(|random| random.duration(0..3));
    tokio::time::sleep(way).await;
    let node = world.node(host)?;
    let (reply, answer) = oneshot::channel();
    node.process.clone().spawn(async move {
        let _ = reply.send(what(node).await);
    });
    let answer = answer.await.ok();
    tokio::time::sleep(way).await;
    answer
}

fn settle(world: &World, known: &Known, order: &Order, result: &Sent, fate: &mut Fate, host: u64) {
    world.note(format_args!("{} at h{host}: {result:?}", order.name));
    let mut oracle = world.oracle();
    match result {
        Ok(outcome @ Outcome::Appended(appended)) => {
            fate.acknowledged = true;
            oracle.acknowledged(&order.name, &order.streams, outcome);
            for ((stream, _), revision) in order.streams.iter().zip(&appended.revisions) {
                if let Some(revision) = revision {
                    let mut revisions = known.revisions.lock();
                    let last = revisions.entry(stream.clone()).or_insert(*revision);
                    *last = (*last).max(*revision);
                }
            }
        }
        Ok(Outcome::Refused(refusal)) => {
            oracle.counts.refused += 1;
            for violation in &refusal.violations {
                if let Some(last) = violation.actual.last() {
                    known.revisions.lock().insert(violation.stream.to_string(), last);
                }
            }
        }
        Ok(other @ (Outcome::Node(_) | Outcome::Scavenge(_) | Outcome::Lease(_) | Outcome::Denied(_))) => {
            oracle.fail("acknowledgement", format!("{} was answered {other:?}", order.name));
        }
        Err(AppendError::Unknown(_)) => {
            oracle.counts.unknown += 1;
            fate.unknown = true;
        }
        Err(_) => oracle.counts.failed += 1,
    }
}

async fn read(world: &Arc<World>, random: &mut Random, host: u64, linearizable: bool) {
    let deadline = Instant::now() + random.duration(50..2_500);
    let floor = world.oracle().floor();
    let asked = ask(world, host, move |node| Box::pin(async move { node.read(linearizable, deadline).await }));
    match asked.await {
        Some(Ok(view)) => {
            world.note(format_args!("read at h{host}, linearizable {linearizable}: {}", view.tail));
            world.oracle().read(host, linearizable.then_some(floor), view.tail, view.chain);
        }
        Some(Err(error)) => world.note(format_args!("read at h{host}: {error}")),
        None => {}
    }
}

/// One append that must succeed at a machine: the cluster is whole.
pub(crate) async fn must_append(world: &Arc<World>, known: &Known, host: u64, number: u64) -> bool {
    let mut random = Random::new(world.seed).fork(20_000 + number);
    let order = {
        let mut order = make_order(world, &mut random, &Known::default(), 9_000 + host, number);
        // Whatever is there.
        let Ok(Command::Append(mut append)) = Command::decode(order.command.clone()) else { return false };
        append.targets.iter_mut().for_each(|target| target.expected = Expected::Any);
        order.command = Command::Append(append).encode();
        order
    };
    let result = send(world, &order, host, Duration::from_secs(5)).await;
    settle(world, known, &order, &result, &mut Fate::default(), host);
    matches!(result, Ok(Outcome::Appended(_)))
}

/// One linearizable read that must succeed at a machine.
pub(crate) async fn must_read(world: &Arc<World>, host: u64) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    let floor = world.oracle().floor();
    match ask(world, host, move |node| Box::pin(async move { node.read(true, deadline).await })).await {
        Some(Ok(view)) => {
            world.oracle().read(host, Some(floor), view.tail, view.chain);
            true
        }
        _ => false,
    }
}
