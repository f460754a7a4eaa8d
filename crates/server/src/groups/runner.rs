//! One group while this node serves it: a task that owns everything of it.
//!
//! The rules are in [`annals_core::group`]. Here is what they need: events from the
//! [`Source`], the clock, [`Consumers`] at the end of channels, and a [`journal`] for
//! what must outlive this node. Nothing blocks the task: reading and writing are
//! futures beside it, one reading and one checkpoint at a time, and what fails is tried
//! again a little later.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::time::{Duration, Instant};

use annals_core::group::{ConsumerId, Delivery, Full, Group, Message, NackAction, Park, Place};
use annals_core::seeded::{self, Bug};
use annals_core::{EventId, Position, Revision};
use annals_store::Interest;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};

use super::consumers::Consumers;
use super::definition::Definition;
use super::handle::{Ask, Deliveries, Info, Who};
use super::journal::{self, Checkpoint};
use super::measured::Rate;
use super::replay::{self, Replay, Step};
use super::source::{self, Batch, Loaded, Source};
use super::stalls::{Looked, Stalls, age_of_ticks};
use crate::blocking::blocking;
use crate::consistency::refuse_v1;
use crate::context::Shared;
use crate::grpc::streams::convert::Ids;
use crate::grpc::streams::subscribe::any_changed;
use crate::status::Failure;

/// How often is looked for what is late or due.
const TICK: Duration = Duration::from_millis(250);

/// How often is counted what was delivered.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// Bytes of events that a group may have loaded; one page more, at most.
const LOADED_BYTES: usize = 16 * 1024 * 1024;

/// Bytes that are read at once.
const READ_BYTES: usize = 1024 * 1024;

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a future beside the task came to.
enum Done {
    Read(Source, Result<Batch, Failure>),
    Checkpoint(u64, Result<Revision, Failure>),
    Park(Park, Result<(), Failure>),
    /// Parked messages that are to be delivered again, those before a revision.
    Parked(u64, Result<Vec<(u64, Option<Loaded>)>, Failure>),
    /// Those that were replayed are gone.
    Replayed(Result<(), Failure>),
    Looked(Result<Looked, Failure>),
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
    consumers: Consumers,
    /// The revision of the last checkpoint.
    checkpoint: Option<Revision>,
    /// Whether there is one: a group that begins in the middle has none.
    has_checkpoint: bool,
    writing_checkpoint: bool,
    parking: HashSet<Place>,
    replay: Option<Replay>,
    beside: FuturesUnordered<Later<Done>>,
    rate: Rate,
    /// After a failure nothing is read before this.
    not_before: Instant,
    looking: bool,
    looked: Looked,
    stalls: watch::Sender<Stalls>,
}

/// Serves; after a failure anew, from what is written.
pub(super) async fn keep_serving(
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
    let (revision, checkpoint, source) = {
        let store = store.clone();
        blocking(move || {
            let (revision, checkpoint) = journal::load_checkpoint(&store, &opening.name)?;
            let after = checkpoint.as_ref().map(|checkpoint| checkpoint.at).or(opening.after);
            Ok::<_, Failure>((revision, checkpoint, Source::open(&store, &opening, after)))
        })
        .await?
    };
    let settings = definition.settings;
    let began = Instant::now();
    // A source that was deleted for good feeds nothing; the group is there all the same.
    let source = source.ok();
    let mut runner = Runner {
        has_checkpoint: checkpoint.is_some(),
        group: match checkpoint {
            Some(Checkpoint { at, done_above }) => Group::resumed(settings, at, &done_above, Duration::ZERO),
            None => Group::new(settings, definition.after, Duration::ZERO),
        },
        consumers: Consumers::new(settings.extra_statistics),
        interests: source.as_ref().map(|source| source.interests(&store)).unwrap_or_default(),
        tail: store.watch_tail(),
        source,
        definition,
        began,
        live: false,
        loaded: HashMap::new(),
        loaded_bytes: 0,
        checkpoint: revision,
        writing_checkpoint: false,
        parking: HashSet::new(),
        replay: None,
        beside: FuturesUnordered::new(),
        rate: Rate::new(began),
        not_before: began,
        looking: false,
        looked: Looked::default(),
        stalls,
        context,
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Whatever is ready again and again must not keep others from their turn, nor
        // this task from being stopped.
        tokio::task::consume_budget().await;
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
            if let Some(loaded) = self.loaded.get(&message.place) {
                self.consumers.send(consumer, loaded, message.retries);
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
        let checkpoint = Checkpoint { at, done_above: self.group.done_above(at) };
        self.beside.push(Box::pin(async move {
            let saved = journal::save_checkpoint(&context, &name, before, checkpoint).await;
            Done::Checkpoint(at, unhurried(saved).await)
        }));
    }

    fn park(&mut self, park: Park) {
        let place = park.message.place;
        let Some(loaded) = self.loaded.get(&place).cloned() else { return };
        if !self.parking.insert(place) {
            return;
        }
        let (context, definition) = (self.context.clone(), self.definition.clone());
        if seeded::is(Bug::S25) {
            self.group.parked(place);
        }
        self.beside.push(Box::pin(async move {
            if seeded::is(Bug::S25) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let result = journal::park(&context, &definition, place, &loaded, &park.reason).await;
            Done::Park(park, unhurried(result).await)
        }));
    }

    /// Messages leave memory when they leave the group.
    fn forget(&mut self) {
        for place in self.group.take_left() {
            if let Some(loaded) = self.loaded.remove(&place) {
                self.loaded_bytes -= loaded.bytes;
            }
        }
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
            Done::Parked(end, Ok(messages)) => {
                if let Some(replay) = &mut self.replay {
                    replay.read_to(end);
                }
                for (at, loaded) in messages {
                    // What is gone meanwhile has nothing to be delivered.
                    if let Some(loaded) = loaded {
                        self.keep(Place::Parked(at), loaded);
                    }
                }
            }
            Done::Parked(_, Err(_)) => self.replay = None,
            Done::Looked(looked) => {
                self.looking = false;
                self.looked = looked.unwrap_or(self.looked);
            }
            Done::Replayed(Ok(())) => self.replay = None,
            Done::Replayed(Err(_)) => {
                if let Some(replay) = &mut self.replay {
                    replay.not_dropped();
                }
            }
        }
        Ok(())
    }

    /// The next step of a replay.
    fn replay_on(&mut self) {
        let Some(replay) = &mut self.replay else { return };
        let (room, batch) = (self.group.room(), self.definition.settings.read_batch);
        let Some(step) = replay.step(room, batch, |before| self.group.has_replayed(before)) else { return };
        let (context, definition) = (self.context.clone(), self.definition.clone());
        self.beside.push(match step {
            Step::Read { from, end } => Box::pin(async move {
                let store = context.node.store().clone();
                Done::Parked(end, blocking(move || replay::read(&store, &definition, from, end)).await)
            }),
            Step::Drop(end) => Box::pin(async move {
                Done::Replayed(unhurried(journal::drop_parked(&context, &definition.name, end).await).await)
            }),
        });
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
            Ask::Answer { consumer, ids, nack } => self.answer(consumer, ids, nack.as_ref()),
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

    fn answer(&mut self, consumer: ConsumerId, ids: Vec<EventId>, nack: Option<&(NackAction, String)>) {
        let now = self.now();
        for id in ids {
            if self.consumers.measures() {
                let since = self.group.in_flight_since(consumer, id);
                self.consumers.answered(consumer, since.map(|since| now.saturating_sub(since)));
            }
            match nack {
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

    fn join(&mut self, slots: usize, ids: Ids, who: Who) -> Result<(ConsumerId, Deliveries), Failure> {
        let name = &self.definition.name;
        let joined = self.group.join(self.consumers.next(), slots);
        joined.map_err(|Full| Failure::MaximumSubscribers(name.clone()))?;
        Ok(self.consumers.add(slots, ids, who, name.to_string()))
    }

    fn leave(&mut self, consumer: ConsumerId) {
        self.consumers.remove(consumer);
        self.group.leave(consumer);
    }

    async fn parked(&mut self) -> Result<(u64, u64), Failure> {
        let (store, name) = (self.context.node.store().clone(), self.definition.name.clone());
        blocking(move || journal::parked(&store, &name)).await
    }

    async fn begin_replay(&mut self, before: Option<u64>) -> Result<(), Failure> {
        self.is_free()?;
        let (first, end) = self.parked().await?;
        self.replay = Replay::begin(first, before.map_or(end, |before| before.min(end)));
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
        for gone in self.consumers.gone() {
            self.leave(gone);
        }
        for park in self.group.expire(now) {
            self.park(park);
        }
        if self.rate.since().elapsed() >= MEASURE_EVERY {
            self.rate.measure(self.group.counts().delivered, Instant::now());
            self.consumers.measure(Instant::now());
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
            known: self.looked.known,
            checkpoint: self.checkpoint_at(),
            counts: self.group.counts(),
        });
        if !std::mem::replace(&mut self.looking, true) {
            let looking = self.look_up();
            self.beside.push(Box::pin(async move { Done::Looked(looking.await) }));
        }
    }

    fn checkpoint_at(&self) -> Option<u64> {
        self.group.checkpointed_at().filter(|_| self.has_checkpoint)
    }

    fn look_up(&self) -> impl Future<Output = Result<Looked, Failure>> + Send + use<> {
        let (store, name) = (self.context.node.store().clone(), self.definition.name.clone());
        blocking(move || Looked::now(&store, &name))
    }

    async fn info(&mut self) -> Info {
        let (waiting, retried, in_flight) = self.group.sizes();
        let Looked { known, parked, .. } = self.look_up().await.unwrap_or(self.looked);
        Info {
            definition: self.definition.clone(),
            live: self.live,
            replaying: self.replay.is_some(),
            delivered: self.group.counts().delivered,
            per_second: self.rate.per_second(),
            in_last: self.rate.in_last(),
            checkpoint: self.checkpoint_at(),
            known,
            waiting,
            retried,
            in_flight,
            parked,
            consumers: self.consumers.told(&self.group),
        }
    }

    async fn close(&mut self, why: &Failure) {
        if let Some(at) = self.group.last_checkpoint()
            && !self.writing_checkpoint
        {
            // Without it more is delivered again, and nothing is lost.
            let checkpoint = Checkpoint { at, done_above: self.group.done_above(at) };
            let _ = journal::save_checkpoint(&self.context, &self.definition.name, self.checkpoint, checkpoint).await;
        }
        self.consumers.dismiss(|| refuse_v1(&self.context, why));
    }
}

/// A failure is told a little later: whoever tries again at once would do nothing
/// else, and a node that leads no more refuses at once.
async fn unhurried<T>(result: Result<T, Failure>) -> Result<T, Failure> {
    if result.is_err() {
        tokio::time::sleep(TICK).await;
    }
    result
}
