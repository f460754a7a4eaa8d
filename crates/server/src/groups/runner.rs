//! One group while this node serves it: a task that owns everything of it.
//!
//! The rules are in [`annals_core::group`]. Here is what they need: events from the
//! [`Source`], the clock, consumers at the end of channels, and a [`journal`] for what
//! must outlive this node. Nothing blocks the task: reading and writing are futures
//! beside it, one reading and one checkpoint at a time.
//!
//! A consumer's channel has as many places as the consumer has slots, so that sending
//! never waits.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::time::{Duration, Instant};

use annals_core::group::{ConsumerId, Delivery, Full, Group, Message, NackAction, Park, Place};
use annals_core::{EventId, Position, Revision};
use annals_proto::event_store::client::persistent_subscriptions::ReadResp;
use annals_proto::event_store::client::persistent_subscriptions::read_resp::{Content, SubscriptionConfirmation};
use annals_store::Interest;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::definition::Definition;
use super::journal;
use super::source::{self, Batch, Loaded, Source};
use super::stalls::{Stalls, age_of_ticks};
use crate::consistency::refuse_v1;
use crate::context::Shared;
use crate::grpc::streams::convert::Ids;
use crate::grpc::streams::read::blocking;
use crate::grpc::streams::subscribe::any_changed;
use crate::status::Failure;

/// How often is looked for what is late or due.
const TICK: Duration = Duration::from_millis(250);

/// Bytes of events that a group may have loaded; one page more, at most.
const LOADED_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that are read at once.
const READ_BYTES: usize = 1024 * 1024;

/// Messages that may wait for the task.
const QUEUE: usize = 1_024;

/// Slots that a consumer may have.
const SLOTS_MAX: usize = 10_000;

/// The other end of a consumer.
pub(crate) type Deliveries = mpsc::Receiver<Result<ReadResp, Status>>;

/// What a group can be asked.
enum Ask {
    Join {
        slots: usize,
        ids: Ids,
        who: Who,
        reply: oneshot::Sender<Result<(ConsumerId, Deliveries), Failure>>,
    },
    Leave(ConsumerId),
    Answer {
        consumer: ConsumerId,
        ids: Vec<EventId>,
        nack: Option<(NackAction, String)>,
    },
    Info(oneshot::Sender<Info>),
    Replay {
        before: Option<u64>,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Truncate {
        before: Option<u64>,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// Write the checkpoint, tell consumers, end.
    Close {
        why: Failure,
        reply: oneshot::Sender<()>,
    },
}

/// Who consumes, for whoever asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    /// The user's name.
    pub(crate) user: String,
    /// What the client calls its connection.
    pub(crate) connection: String,
}

/// A consumer, for whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerInfo {
    pub(crate) who: Who,
    pub(crate) free: usize,
    pub(crate) in_flight: usize,
    pub(crate) delivered: u64,
}

/// How a group does.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub(crate) definition: Definition,
    pub(crate) live: bool,
    pub(crate) replaying: bool,
    pub(crate) delivered: u64,
    pub(crate) per_second: u64,
    pub(crate) checkpoint: Option<u64>,
    pub(crate) known: Option<u64>,
    pub(crate) waiting: usize,
    pub(crate) retried: usize,
    pub(crate) in_flight: usize,
    pub(crate) parked: u64,
    pub(crate) consumers: Vec<ConsumerInfo>,
}

/// A handle on a group that is served.
#[derive(Clone)]
pub(crate) struct Handle {
    asks: mpsc::Sender<Ask>,
    stalls: watch::Receiver<Stalls>,
}

impl Handle {
    /// Begins to serve a group on this node, which leads.
    pub(crate) fn start(context: Shared, definition: Definition, stop: CancellationToken) -> Handle {
        let (asks, asked) = mpsc::channel(QUEUE);
        let (told, stalls) = watch::channel(Stalls::default());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = keep_serving(context, definition, asked, told) => {}
            }
        });
        Handle { asks, stalls }
    }

    /// Whether it gets on, as of a second ago at most.
    pub(crate) fn stalls(&self) -> Stalls {
        *self.stalls.borrow()
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Failure::NotReady)?;
        answer.await.map_err(|_| Failure::NotReady)
    }

    /// A consumer joins.
    pub(crate) async fn join(&self, slots: usize, ids: Ids, who: Who) -> Result<(ConsumerId, Deliveries), Failure> {
        let slots = slots.clamp(1, SLOTS_MAX);
        self.ask(|reply| Ask::Join { slots, ids, who, reply }).await?
    }

    /// A consumer is gone.
    pub(crate) async fn leave(&self, consumer: ConsumerId) {
        let _ = self.asks.send(Ask::Leave(consumer)).await;
    }

    /// A consumer answers for messages: acked where nothing is said.
    pub(crate) async fn answer(&self, consumer: ConsumerId, ids: Vec<EventId>, nack: Option<(NackAction, String)>) {
        let _ = self.asks.send(Ask::Answer { consumer, ids, nack }).await;
    }

    /// How it does.
    pub(crate) async fn info(&self) -> Result<Info, Failure> {
        self.ask(Ask::Info).await
    }

    /// Delivers parked messages again, those before a revision.
    pub(crate) async fn replay(&self, before: Option<u64>) -> Result<(), Failure> {
        self.ask(|reply| Ask::Replay { before, reply }).await?
    }

    /// Drops parked messages, those before a revision.
    pub(crate) async fn truncate(&self, before: Option<u64>) -> Result<(), Failure> {
        self.ask(|reply| Ask::Truncate { before, reply }).await?
    }

    /// Ends it: consumers are told why.
    pub(crate) async fn close(&self, why: Failure) {
        let _ = self.ask(|reply| Ask::Close { why, reply }).await;
    }
}

struct Consumer {
    deliveries: mpsc::Sender<Result<ReadResp, Status>>,
    ids: Ids,
    who: Who,
    delivered: u64,
}

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a future beside the task came to.
enum Done {
    Read(Source, Result<Batch, Failure>),
    Checkpoint(u64, Result<Revision, Failure>),
    Park(Park, Result<(), Failure>),
    /// Parked messages that are to be delivered again.
    Parked(Result<Vec<(u64, Option<Loaded>)>, Failure>),
    /// Those that were replayed are gone.
    Replayed(Result<(), Failure>),
    Looked(Result<Looked, Failure>),
}

/// What is found in the store from time to time.
#[derive(Clone, Copy, Debug, Default)]
struct Looked {
    /// The newest place of the source.
    known: Option<u64>,
    /// Parked messages, and the age of the first.
    parked: u64,
    oldest: Duration,
}

/// A replay that is under way.
struct Replay {
    next: u64,
    end: u64,
    reading: bool,
    /// All are delivered and done, and are being dropped.
    dropping: bool,
}

struct Runner {
    context: Shared,
    definition: Definition,
    began: Instant,
    group: Group,
    /// Away while it reads.
    source: Option<Source>,
    interests: Vec<Interest>,
    tail: watch::Receiver<Position>,
    live: bool,
    loaded: HashMap<Place, Loaded>,
    loaded_bytes: usize,
    consumers: HashMap<ConsumerId, Consumer>,
    next_consumer: ConsumerId,
    /// The revision of the last checkpoint.
    checkpoint: Option<Revision>,
    /// Whether there is one: a group that begins in the middle has none.
    has_checkpoint: bool,
    writing_checkpoint: bool,
    parking: HashSet<Place>,
    replay: Option<Replay>,
    beside: FuturesUnordered<Later<Done>>,
    /// Deliveries when it was last looked, and what came in a second since.
    measured: (Instant, u64, u64),
    /// After a failure nothing is read before this.
    not_before: Instant,
    looking: bool,
    looked: Looked,
    stalls: watch::Sender<Stalls>,
}

/// Serves; after a failure anew, from what is written.
async fn keep_serving(
    context: Shared,
    definition: Definition,
    mut asked: mpsc::Receiver<Ask>,
    stalls: watch::Sender<Stalls>,
) {
    while let Err(failure) = serve(context.clone(), definition.clone(), &mut asked, stalls.clone()).await {
        let group = definition.name.to_string();
        tracing::warn!(group, failure = failure.message(), "a consumer group begins anew");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn serve(
    context: Shared,
    definition: Definition,
    asked: &mut mpsc::Receiver<Ask>,
    stalls: watch::Sender<Stalls>,
) -> Result<(), Failure> {
    let store = context.node.store().clone();
    let opening = definition.clone();
    let (checkpoint, has_checkpoint, after, source) = {
        let store = store.clone();
        blocking(move || {
            let (checkpoint, at) = journal::load_checkpoint(&store, &opening.name)?;
            let after = at.or(opening.after);
            Ok::<_, Failure>((checkpoint, at.is_some(), after, Source::open(&store, &opening, after)))
        })
        .await?
    };
    let began = Instant::now();
    // A source that was deleted for good feeds nothing; the group is there all the same.
    let source = source.ok();
    let mut runner = Runner {
        group: Group::new(definition.settings, after, Duration::ZERO),
        interests: source.as_ref().map(|source| source.interests(&store)).unwrap_or_default(),
        tail: store.watch_tail(),
        source,
        definition,
        began,
        live: false,
        loaded: HashMap::new(),
        loaded_bytes: 0,
        consumers: HashMap::new(),
        next_consumer: 1,
        checkpoint,
        has_checkpoint,
        writing_checkpoint: false,
        parking: HashSet::new(),
        replay: None,
        beside: FuturesUnordered::new(),
        measured: (began, 0, 0),
        not_before: began,
        looking: false,
        looked: Looked::default(),
        stalls,
        context,
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        runner.work();
        let waits = runner.live && runner.source.is_some();
        tokio::select! {
            ask = asked.recv() => match ask {
                Some(Ask::Close { why, reply }) => {
                    runner.close(&why).await;
                    let _ = reply.send(());
                    return Ok(());
                }
                Some(ask) => runner.carry_out(ask).await,
                None => return Ok(()),
            },
            Some(done) = runner.beside.next() => runner.done(done)?,
            () = any_changed(&mut runner.interests), if waits && !runner.interests.is_empty() => runner.live = false,
            moved = runner.tail.changed(), if waits && runner.interests.is_empty() => match moved {
                Ok(()) => runner.live = false,
                Err(_) => return Ok(()),
            },
            _ = ticks.tick() => runner.tick(),
        }
    }
}

impl Runner {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Everything that can be done at once, and what is to be begun.
    fn work(&mut self) {
        self.deliver();
        self.read();
        self.replay_on();
        self.write_checkpoint();
    }

    fn deliver(&mut self) {
        let now = self.now();
        for Delivery { consumer, message } in self.group.deliver(now) {
            let Some(loaded) = self.loaded.get(&message.place) else { continue };
            if let Some(consumer) = self.consumers.get_mut(&consumer) {
                consumer.delivered += 1;
                // There is room for as many as the consumer has slots; who is gone leaves.
                let _ = consumer.deliveries.try_send(Ok(source::delivered(loaded, message.retries, consumer.ids)));
            }
        }
    }

    fn read(&mut self) {
        let batch = self.definition.settings.read_batch;
        let wanted = self.group.room() >= batch && self.loaded_bytes < LOADED_BYTES;
        if self.live || !wanted || Instant::now() < self.not_before {
            return;
        }
        let Some(mut source) = self.source.take() else { return };
        self.interests.iter_mut().for_each(Interest::look);
        self.tail.borrow_and_update();
        let store = self.context.node.store().clone();
        self.beside.push(Box::pin(async move {
            let (source, batch) = blocking(move || {
                let batch = source.read(&store, batch, READ_BYTES);
                (source, batch)
            })
            .await;
            Done::Read(source, batch)
        }));
    }

    fn write_checkpoint(&mut self) {
        if self.writing_checkpoint {
            return;
        }
        let Some(at) = self.group.checkpoint(self.now()) else { return };
        self.writing_checkpoint = true;
        let (context, name, before) = (self.context.clone(), self.definition.name.clone(), self.checkpoint);
        self.beside.push(Box::pin(async move {
            Done::Checkpoint(at, journal::save_checkpoint(&context, &name, before, at).await)
        }));
    }

    fn park(&mut self, park: Park) {
        let place = park.message.place;
        let Some(loaded) = self.loaded.get(&place).cloned() else { return };
        if !self.parking.insert(place) {
            return;
        }
        let (context, definition) = (self.context.clone(), self.definition.clone());
        self.beside.push(Box::pin(async move {
            let result = journal::park(&context, &definition, place, &loaded, &park.reason).await;
            if result.is_err() {
                tokio::time::sleep(TICK).await;
            }
            Done::Park(park, result)
        }));
    }

    /// Messages leave memory when they leave the group.
    fn forget(&mut self) {
        let group = &self.group;
        let before = self.loaded_bytes;
        let mut bytes = before;
        self.loaded.retain(|place, loaded| {
            let kept = group.holds(*place);
            if !kept {
                bytes -= loaded.bytes;
            }
            kept
        });
        self.loaded_bytes = bytes;
    }

    fn keep(&mut self, place: Place, loaded: Loaded) {
        let message = Message { place, id: loaded.id, key: loaded.key, retries: 0 };
        self.group.push(message);
        if self.group.holds(place) && !self.loaded.contains_key(&place) {
            self.loaded_bytes += loaded.bytes;
            self.loaded.insert(place, loaded);
        }
    }

    fn done(&mut self, done: Done) -> Result<(), Failure> {
        match done {
            Done::Read(source, Ok(batch)) => {
                for (at, loaded) in batch.events {
                    self.keep(Place::Source(at), loaded);
                }
                if let Some(passed) = batch.passed {
                    self.group.passed(passed);
                }
                self.live = batch.at_end;
                self.source = Some(source);
            }
            Done::Read(source, Err(_)) => {
                self.source = Some(source);
                self.not_before = Instant::now() + Duration::from_secs(1);
            }
            Done::Checkpoint(at, Ok(revision)) => {
                self.writing_checkpoint = false;
                self.checkpoint = Some(revision);
                self.has_checkpoint = true;
                self.group.checkpointed(at, self.now());
            }
            Done::Checkpoint(_, Err(failure @ Failure::Conflict(_))) => return Err(failure),
            // Its fate may be unknown: then the next one is a conflict, and the group
            // begins anew from what is written.
            Done::Checkpoint(_, Err(Failure::Decided { failure, .. })) => return Err(*failure),
            Done::Checkpoint(..) => self.writing_checkpoint = false,
            Done::Park(park, Ok(())) => {
                self.parking.remove(&park.message.place);
                self.group.parked(park.message.place);
                self.forget();
            }
            Done::Park(park, Err(failure)) => {
                tracing::warn!(group = %self.definition.name, failure = failure.message(), "a message cannot be parked yet");
                self.parking.remove(&park.message.place);
                self.park(park);
            }
            Done::Parked(Ok(messages)) => {
                if let Some(replay) = &mut self.replay {
                    replay.reading = false;
                    replay.next = messages.last().map_or(replay.end, |(at, _)| at + 1);
                }
                for (at, loaded) in messages {
                    // What is gone meanwhile has nothing to be delivered.
                    if let Some(loaded) = loaded {
                        self.keep(Place::Parked(at), loaded);
                    }
                }
            }
            Done::Parked(Err(_)) => self.replay = None,
            Done::Looked(looked) => {
                self.looking = false;
                self.looked = looked.unwrap_or(self.looked);
            }
            Done::Replayed(result) => match result {
                Ok(()) => self.replay = None,
                Err(_) => {
                    if let Some(replay) = &mut self.replay {
                        replay.dropping = false;
                    }
                }
            },
        }
        Ok(())
    }

    /// The next step of a replay: read on, or drop what is done.
    fn replay_on(&mut self) {
        let room = self.group.room();
        let Some(replay) = &mut self.replay else { return };
        if replay.reading || replay.dropping {
            return;
        }
        let (context, definition) = (self.context.clone(), self.definition.clone());
        if replay.next < replay.end {
            if room == 0 {
                return;
            }
            replay.reading = true;
            let (from, end) = (replay.next, replay.end.min(replay.next + definition.settings.read_batch as u64));
            self.beside.push(Box::pin(async move {
                let store = context.node.store().clone();
                Done::Parked(blocking(move || read_parked(&store, &definition, from, end)).await)
            }));
        } else if self.group.has_replayed(replay.end) {
            replay.dropping = true;
            let end = replay.end;
            self.beside.push(Box::pin(async move {
                Done::Replayed(journal::drop_parked(&context, &definition.name, end).await)
            }));
        }
    }

    async fn carry_out(&mut self, ask: Ask) {
        match ask {
            Ask::Join { slots, ids, who, reply } => {
                let joined = self.join(slots, ids, who);
                if let Err(Ok((consumer, _))) = reply.send(joined) {
                    self.leave(consumer);
                }
            }
            Ask::Leave(consumer) => self.leave(consumer),
            Ask::Answer { consumer, ids, nack } => {
                for id in ids {
                    match &nack {
                        None => self.group.ack(consumer, id),
                        Some((action, reason)) => {
                            if let Some(park) = self.group.nack(consumer, id, *action, reason) {
                                self.park(park);
                            }
                        }
                    }
                }
                self.forget();
            }
            Ask::Info(reply) => {
                let info = self.info().await;
                let _ = reply.send(info);
            }
            Ask::Replay { before, reply } => {
                let _ = reply.send(self.begin_replay(before).await);
            }
            Ask::Truncate { before, reply } => {
                let _ = reply.send(self.truncate(before).await);
            }
            Ask::Close { .. } => {}
        }
    }

    fn join(&mut self, slots: usize, ids: Ids, who: Who) -> Result<(ConsumerId, Deliveries), Failure> {
        let consumer = self.next_consumer;
        self.group.join(consumer, slots).map_err(|Full| Failure::MaximumSubscribers(self.definition.name.clone()))?;
        self.next_consumer += 1;
        // One more for the confirmation, one for the end.
        let (deliveries, delivered) = mpsc::channel(slots + 2);
        let confirmation = SubscriptionConfirmation { subscription_id: self.definition.name.to_string() };
        let _ = deliveries.try_send(Ok(ReadResp { content: Some(Content::SubscriptionConfirmation(confirmation)) }));
        self.consumers.insert(consumer, Consumer { deliveries, ids, who, delivered: 0 });
        Ok((consumer, delivered))
    }

    fn leave(&mut self, consumer: ConsumerId) {
        self.consumers.remove(&consumer);
        self.group.leave(consumer);
    }

    async fn parked(&mut self) -> Result<(u64, u64), Failure> {
        let (store, name) = (self.context.node.store().clone(), self.definition.name.clone());
        blocking(move || journal::parked(&store, &name)).await
    }

    async fn begin_replay(&mut self, before: Option<u64>) -> Result<(), Failure> {
        self.is_free()?;
        let (next, end) = self.parked().await?;
        let end = before.map_or(end, |before| before.min(end));
        if next < end {
            self.replay = Some(Replay { next, end, reading: false, dropping: false });
        }
        Ok(())
    }

    async fn truncate(&mut self, before: Option<u64>) -> Result<(), Failure> {
        self.is_free()?;
        let (next, end) = self.parked().await?;
        let end = before.map_or(end, |before| before.min(end));
        if next < end {
            journal::drop_parked(&self.context, &self.definition.name, end).await?;
        }
        Ok(())
    }

    fn is_free(&self) -> Result<(), Failure> {
        match self.replay {
            None => Ok(()),
            Some(_) => Err(Failure::GroupFailed {
                name: self.definition.name.clone(),
                why: "parked messages are being replayed".into(),
            }),
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let gone: Vec<ConsumerId> =
            self.consumers.iter().filter(|(_, consumer)| consumer.deliveries.is_closed()).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|consumer| self.leave(consumer));
        for park in self.group.expire(now) {
            self.park(park);
        }
        let (since, delivered, _) = self.measured;
        if since.elapsed() >= Duration::from_secs(1) {
            let all = self.group.counts().delivered;
            let per_second = (all - delivered) as f64 / since.elapsed().as_secs_f64();
            self.measured = (Instant::now(), all, per_second as u64);
            self.look();
        }
    }

    /// Tells how it gets on; parked messages are looked at beside.
    fn look(&mut self) {
        let (waiting, _, in_flight) = self.group.sizes();
        let first = self.group.first_unfinished().and_then(|at| self.loaded.get(&Place::Source(at)));
        let created =
            first.and_then(|loaded| source::original(&loaded.event)).and_then(|event| event.metadata.get("created"));
        let finished = self.group.finished_to();
        self.stalls.send_replace(Stalls {
            lag_events: self.looked.known.map_or(0, |known| known + 1).saturating_sub(finished.map_or(0, |at| at + 1)),
            lag: age_of_ticks(created),
            waiting,
            in_flight,
            parked: self.looked.parked,
            oldest_parked: self.looked.oldest,
            consumers: self.consumers.len(),
        });
        if !std::mem::replace(&mut self.looking, true) {
            let looking = self.look_up();
            self.beside.push(Box::pin(async move { Done::Looked(looking.await) }));
        }
    }

    fn look_up(&self) -> impl Future<Output = Result<Looked, Failure>> + Send + use<> {
        let (store, name) = (self.context.node.store().clone(), self.definition.name.clone());
        blocking(move || {
            let (parked, oldest) = journal::oldest_parked(&store, &name)?;
            Ok(Looked { known: super::end(&store, &name)?, parked, oldest })
        })
    }

    async fn info(&mut self) -> Info {
        let (waiting, retried, in_flight) = self.group.sizes();
        let Looked { known, parked, .. } = self.look_up().await.unwrap_or(self.looked);
        let consumer = |(id, consumer): (&ConsumerId, &Consumer)| {
            let (free, in_flight) = self.group.slots(*id).unwrap_or_default();
            ConsumerInfo { who: consumer.who.clone(), free, in_flight, delivered: consumer.delivered }
        };
        let mut consumers: Vec<_> = self.consumers.iter().collect();
        consumers.sort_by_key(|(id, _)| **id);
        Info {
            definition: self.definition.clone(),
            live: self.live,
            replaying: self.replay.is_some(),
            delivered: self.group.counts().delivered,
            per_second: self.measured.2,
            checkpoint: self.group.checkpointed_at().filter(|_| self.has_checkpoint),
            known,
            waiting,
            retried,
            in_flight,
            parked,
            consumers: consumers.into_iter().map(consumer).collect(),
        }
    }

    async fn close(&mut self, why: &Failure) {
        if let Some(at) = self.group.last_checkpoint()
            && !self.writing_checkpoint
        {
            // Without it more is delivered again, and nothing is lost.
            let _ = journal::save_checkpoint(&self.context, &self.definition.name, self.checkpoint, at).await;
        }
        for consumer in self.consumers.values() {
            let _ = consumer.deliveries.try_send(Err(refuse_v1(&self.context, why)));
        }
    }
}

/// Parked messages of `[from, end)`, each with the event that it tells of. Blocking.
fn read_parked(
    store: &annals_store::Store,
    definition: &Definition,
    from: u64,
    end: u64,
) -> Result<Vec<(u64, Option<Loaded>)>, Failure> {
    let Some(parked) = definition.name.parked() else { return Ok(Vec::new()) };
    let mut messages = Vec::new();
    for at in from..end {
        let record = store.record_at(&parked, Revision::saturating(at));
        let record = record.map_err(|error| crate::grpc::streams::page::broken(&error))?;
        let loaded = match record {
            Some(record) => source::unpark(store, definition, &record.data())?,
            None => None,
        };
        messages.push((at, loaded));
    }
    Ok(messages)
}
