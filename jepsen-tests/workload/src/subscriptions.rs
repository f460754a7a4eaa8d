//! Subscriptions that run all the time.
//!
//! Each follows something and remembers the last place it was given. When its
//! connection ends, it goes on after that place at another node; some end
//! their own connection every second, to see the seam as often as possible;
//! some read slowly through a small window, so that the server's buffers are
//! really full, and catch up later.
//!
//! At the end, when it is known what the log holds, each gets the time to see
//! all of it.

use std::sync::Arc;
use std::time::Duration;

use annals_checker::history::{
    CaughtUp, Closed, Delivered, Direction, Dropped, NodeNumber, Opened, Record, Seen, Subscription, Target,
};
use annals_proto::event_store::client::streams::read_req::options::{CountOption, SubscriptionOptions};
use annals_proto::event_store::client::streams::{ReadResp, read_resp};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::board;
use crate::calls::{described, request, seen};
use crate::wire::Wire;
use crate::{Endpoints, Plan, Recorder};

/// Events of one record.
const BATCH: usize = 200;

/// So long an event may wait for others to be recorded with it.
const BATCH_WAIT: Duration = Duration::from_millis(250);

/// Bytes under way to a subscription that reads as fast as it can.
const WINDOW: u32 = 256 * 1024;

/// Bytes under way to one that does not.
const SMALL_WINDOW: u32 = 16 * 1024;

/// How long a slow one stays slow, before it catches up for a while.
const SLOW_FOR: Duration = Duration::from_secs(10);

/// How long it may take to catch up before it is slow again.
const FAST_FOR: Duration = Duration::from_secs(5);

/// After the last event one waits so long for what should not come.
const GRACE: Duration = Duration::from_millis(500);

/// The pause after a connection that could not be made.
const PAUSE: Duration = Duration::from_millis(100);

/// The subscriptions of a workload.
pub struct Subscriptions {
    order: watch::Sender<Order>,
    tasks: JoinSet<u32>,
    targets: Vec<Target>,
    /// The number of the first.
    first: u32,
    recorder: Recorder,
}

/// What the subscriptions are to do.
#[derive(Clone, Debug)]
enum Order {
    /// To follow.
    Run,
    /// To see everything up to these places, one per subscription, none where
    /// there is nothing to see; and then to end.
    Drain(Arc<Vec<Option<u64>>>),
}

/// How a subscription behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    /// Reads as fast as it can.
    Steady,
    /// Ends its connection about this often.
    Restless(Duration),
    /// Reads a few events per second for a while, then catches up.
    Slow,
}

impl Subscriptions {
    /// Starts as many as the plan says.
    pub fn start(plan: &Plan, endpoints: &Endpoints, recorder: &Recorder) -> Subscriptions {
        let (order, orders) = watch::channel(Order::Run);
        let mut tasks = JoinSet::new();
        let mut targets = Vec::new();
        for place in 0..plan.subscriptions {
            let (target, temper, skips) = kind(place, plan);
            let number = plan.first_number + place;
            recorder.record(Record::Subscription(Subscription {
                subscription: number,
                target: target.clone(),
                after: None,
            }));
            targets.push(target.clone());
            let follower = Follower {
                number,
                place: place as usize,
                target,
                temper,
                skips,
                endpoints: endpoints.clone(),
                recorder: recorder.clone(),
                rng: StdRng::seed_from_u64(plan.seed ^ (u64::from(number) << 32)),
                timeout: plan.timeout,
                connect_timeout: plan.connect_timeout,
                orders: orders.clone(),
                last: None,
                examined: None,
                examined_at: 0,
                node: None,
                connections: 0,
                batch: Vec::new(),
                parsed: 0,
            };
            tasks.spawn(follower.run());
        }
        Subscriptions { order, tasks, targets, first: plan.first_number, recorder: recorder.clone() }
    }

    /// What each follows.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Gives each the time to see everything up to its place, at most this
    /// long, ends them, and tells how many did not get there.
    pub(crate) async fn drain(mut self, places: Vec<Option<u64>>, timeout: Duration) -> usize {
        self.order.send_replace(Order::Drain(Arc::new(places)));
        let deadline = Instant::now() + timeout;
        let mut missing: Vec<u32> = (self.first..).take(self.targets.len()).collect();
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
            missing.retain(|number| ended.as_ref().ok() != Some(number));
        }
        self.tasks.shutdown().await;
        for number in &missing {
            self.close(*number);
        }
        missing.len()
    }

    /// Ends them where they are.
    pub async fn abandon(mut self) {
        self.tasks.shutdown().await;
        for number in (self.first..).take(self.targets.len()) {
            self.close(number);
        }
    }

    fn close(&self, subscription: u32) {
        let time = self.recorder.now();
        self.recorder.record(Record::Closed(Closed { subscription, time, drained: false }));
    }
}

/// What the subscription of this number follows, how it behaves, and whether
/// it resumes after what the server said it has examined.
fn kind(number: u32, plan: &Plan) -> (Target, Temper, bool) {
    let all = |prefixes: &[&str]| Target::All { prefixes: prefixes.iter().map(|text| (*text).to_owned()).collect() };
    let hot = |at: u32| Target::Stream(board::hot(at % plan.hot_streams.max(1)).into());
    let second = Duration::from_secs(1);
    match number % 8 {
        0 => (all(&[]), Temper::Restless(second), false),
        1 => (all(&[]), Temper::Steady, false),
        2 => (all(&["order-", "cart-"]), Temper::Restless(second), true),
        3 => (hot(0), Temper::Restless(second), false),
        4 => (all(&[]), Temper::Slow, false),
        5 => (all(&["hot-"]), Temper::Steady, false),
        6 => (hot(1), Temper::Steady, false),
        _ => (all(&["bin-", "kept-", "race-", "$$"]), Temper::Restless(5 * second), true),
    }
}

struct Follower {
    number: u32,
    /// Which of the workload's it is.
    place: usize,
    target: Target,
    temper: Temper,
    skips: bool,
    endpoints: Endpoints,
    recorder: Recorder,
    rng: StdRng,
    timeout: Duration,
    connect_timeout: Duration,
    orders: watch::Receiver<Order>,
    /// The place of the last event.
    last: Option<u64>,
    /// Up to where the server said that it has examined the log, and when.
    examined: Option<u64>,
    examined_at: u64,
    node: Option<NodeNumber>,
    connections: u32,
    batch: Vec<Seen>,
    /// When the last event of the batch was parsed.
    parsed: u64,
}

/// Why following came to an end.
enum End {
    /// Everything was seen.
    Done,
    /// The connection is to be made anew.
    Restart,
    /// The server ended it, or it broke.
    Dropped { why: String, ended_ok: bool },
}

impl Follower {
    /// Follows until everything was seen. Its number.
    async fn run(mut self) -> u32 {
        loop {
            let Some(node) = self.endpoints.choose_other(self.node, &mut self.rng) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            self.node = Some(node);
            let Some((wire, mut messages, after)) = self.open(node).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let connection = self.connections;
            self.connections += 1;
            self.recorder.record(Record::Opened(Opened {
                subscription: self.number,
                connection,
                node: wire.node,
                time: self.recorder.now(),
                after,
            }));
            let end = self.follow(connection, &mut messages).await;
            self.flush(connection);
            let (why, ended_ok) = match end {
                End::Done => {
                    let time = self.recorder.now();
                    self.recorder.record(Record::Closed(Closed { subscription: self.number, time, drained: true }));
                    return self.number;
                }
                End::Restart => ("ended by the run".to_owned(), false),
                End::Dropped { why, ended_ok } => (why, ended_ok),
            };
            if self.skips && self.examined > self.last {
                // What was examined has been delivered as far as it belongs:
                // the place after which it will go on has to be true.
                self.caught_up(connection, self.examined_at, self.examined);
            }
            let time = self.recorder.now();
            let number = self.number;
            self.recorder.record(Record::Dropped(Dropped { subscription: number, connection, time, why, ended_ok }));
        }
    }

    /// Subscribes at a node and waits for its confirmation.
    async fn open(&mut self, node: NodeNumber) -> Option<(Wire, Streaming<ReadResp>, Option<u64>)> {
        let window = if self.temper == Temper::Slow { SMALL_WINDOW } else { WINDOW };
        let wire = match Wire::connect(&self.endpoints, node, self.connect_timeout, Some(window)).await {
            Ok(wire) => wire,
            Err(_) => {
                self.endpoints.silent(node);
                return None;
            }
        };
        let after = if self.skips { self.last.max(self.examined) } else { self.last };
        let options = CountOption::Subscription(SubscriptionOptions {});
        let request = request(&self.target, Direction::Forwards, after, options);
        let mut client = wire.streams();
        let confirmed = async {
            let mut messages = client.read(request).await?.into_inner();
            match messages.message().await?.and_then(|message| message.content) {
                Some(read_resp::Content::Confirmation(_)) => Ok(messages),
                _ => Err(Status::internal("the first message is no confirmation")),
            }
        };
        match tokio::time::timeout(self.timeout, confirmed).await {
            Ok(Ok(messages)) => Some((wire, messages, after)),
            Ok(Err(_)) => None,
            Err(_) => {
                self.endpoints.silent(node);
                None
            }
        }
    }

    async fn follow(&mut self, connection: u32, messages: &mut Streaming<ReadResp>) -> End {
        let restart = match self.temper {
            Temper::Restless(every) => Some(Instant::now() + every.mul_f64(self.rng.random_range(0.2..1.8))),
            Temper::Steady | Temper::Slow => None,
        };
        // Slow first: the past is then read slowly as well.
        let mut slow_until = Instant::now() + SLOW_FOR;
        let mut fast_until = None;
        let mut grace: Option<Instant> = None;
        loop {
            let draining = matches!(*self.orders.borrow(), Order::Drain(_));
            if !draining && self.temper == Temper::Slow {
                let now = Instant::now();
                match fast_until {
                    None if now < slow_until => self.dawdle().await,
                    None => fast_until = Some(now + FAST_FOR),
                    Some(until) if now >= until => {
                        fast_until = None;
                        slow_until = now + SLOW_FOR;
                    }
                    Some(_) => {}
                }
            }
            if draining && grace.is_none() && self.is_done() {
                grace = Some(Instant::now() + GRACE);
            }
            let mut wake = Instant::now() + BATCH_WAIT;
            if let Some(grace) = grace {
                wake = wake.min(grace);
            }
            if !draining && let Some(restart) = restart {
                wake = wake.min(restart);
            }
            let message = match tokio::time::timeout_at(wake, messages.message()).await {
                Err(_) => {
                    self.flush(connection);
                    let now = Instant::now();
                    if grace.is_some_and(|grace| grace <= now) {
                        return End::Done;
                    }
                    if !draining && restart.is_some_and(|restart| restart <= now) {
                        return End::Restart;
                    }
                    continue;
                }
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return End::Dropped { why: "ended with OK".to_owned(), ended_ok: true },
                Ok(Err(status)) => return End::Dropped { why: described(&status), ended_ok: false },
            };
            if let Err(why) = self.take(connection, message) {
                return End::Dropped { why: why.to_owned(), ended_ok: false };
            }
            let now = Instant::now();
            if grace.is_some_and(|grace| grace <= now) {
                return End::Done;
            }
            if !draining && restart.is_some_and(|restart| restart <= now) {
                return End::Restart;
            }
        }
    }

    /// Does nothing for as long as a slow reader takes for an event.
    async fn dawdle(&mut self) {
        let pause = Duration::from_millis(self.rng.random_range(20..500));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = self.orders.changed() => {}
        }
    }

    fn take(&mut self, connection: u32, message: ReadResp) -> Result<(), &'static str> {
        use read_resp::Content;
        match message.content.ok_or("a message has no content")? {
            Content::Event(event) => {
                let seen = seen(event)?;
                self.last = self.last.max(Some(place(&self.target, &seen)));
                self.parsed = self.recorder.now();
                self.batch.push(seen);
                if self.batch.len() >= BATCH {
                    self.flush(connection);
                }
            }
            Content::CaughtUp(caught_up) => {
                self.flush(connection);
                let upto = match &self.target {
                    Target::All { .. } => caught_up.position.map(|position| position.commit_position),
                    Target::Stream(_) => caught_up.stream_revision.and_then(|number| u64::try_from(number).ok()),
                };
                self.caught_up(connection, self.recorder.now(), upto);
            }
            Content::Checkpoint(checkpoint) => {
                self.examined = self.examined.max(Some(checkpoint.commit_position));
                self.examined_at = self.recorder.now();
            }
            Content::Confirmation(_) => return Err("a second confirmation"),
            Content::StreamNotFound(_) => return Err("a subscription was told that there is no stream"),
            Content::FellBehind(_)
            | Content::FirstStreamPosition(_)
            | Content::LastStreamPosition(_)
            | Content::LastAllStreamPosition(_) => {}
        }
        Ok(())
    }

    fn caught_up(&self, connection: u32, time: u64, upto: Option<u64>) {
        let subscription = self.number;
        self.recorder.record(Record::CaughtUp(CaughtUp { subscription, connection, time, upto }));
    }

    /// Records what arrived.
    fn flush(&mut self, connection: u32) {
        if self.batch.is_empty() {
            return;
        }
        self.recorder.record(Record::Delivered(Delivered {
            subscription: self.number,
            connection,
            time: self.parsed,
            events: std::mem::take(&mut self.batch),
        }));
    }

    /// Whether everything that it was told to see has arrived.
    fn is_done(&self) -> bool {
        match &*self.orders.borrow() {
            Order::Run => false,
            Order::Drain(places) => match places.get(self.place).copied().flatten() {
                None => true,
                Some(place) => self.last.is_some_and(|last| last >= place),
            },
        }
    }
}

/// Where an event stands in what is followed.
pub(crate) fn place(target: &Target, seen: &Seen) -> u64 {
    match target {
        Target::All { .. } => seen.position,
        Target::Stream(_) => seen.revision,
    }
}

/// Whether an event belongs to what is followed.
pub(crate) fn belongs(target: &Target, seen: &Seen) -> bool {
    match target {
        Target::All { prefixes } => {
            prefixes.is_empty() || prefixes.iter().any(|prefix| seen.stream.starts_with(prefix.as_str()))
        }
        Target::Stream(stream) => *stream == seen.stream,
    }
}

#[cfg(test)]
mod tests {
    use annals_checker::history::{Digest, EventId};

    use super::*;

    #[test]
    fn an_event_belongs_where_its_stream_does() {
        let seen = Seen {
            position: 9,
            stream: "order-1".into(),
            revision: 3,
            id: EventId(1),
            digest: Digest(1),
            created: 1,
            system: false,
        };
        let all = |prefixes: &[&str]| Target::All { prefixes: prefixes.iter().map(|text| (*text).into()).collect() };
        assert!(belongs(&all(&[]), &seen));
        assert!(belongs(&all(&["cart-", "order-"]), &seen));
        assert!(!belongs(&all(&["cart-"]), &seen));
        assert!(belongs(&Target::Stream("order-1".into()), &seen));
        assert!(!belongs(&Target::Stream("order-10".into()), &seen));
        assert_eq!(place(&all(&[]), &seen), 9);
        assert_eq!(place(&Target::Stream("order-1".into()), &seen), 3);
    }
}
