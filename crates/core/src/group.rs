//! Consumer groups: who gets which event next, and what is done.
//!
//! A [`Group`] is what one node knows of a group while it serves it. It holds no
//! event, only where each is; it reads nothing and knows no clock: whoever runs it
//! brings messages in the order of the source ([`Group::push`]), answers of consumers
//! and the time, and carries out what comes out: [`Delivery`], [`Park`],
//! [`Group::checkpoint`]. Rules from the protocol's section 6.
//!
//! Invariants
//! - A message is in one place: waiting, in flight at one consumer, or being parked.
//!   It leaves when it is acked, skipped, or its parking is confirmed.
//! - The checkpoint is below every message of the source that is in one of these
//!   places: whoever goes on from it forgets none. What is written beside it names
//!   messages that have left, and no others.
//! - With a pinned strategy at most one message of a key is in flight or being
//!   parked, and none is delivered before an earlier one of its key has left, however
//!   members come and go.
//! - A consumer never has more in flight than it has slots.

mod done;
mod pinned;
mod settings;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

pub use settings::{InvalidSettings, Settings, Strategy};

use xxhash_rust::xxh3::xxh3_64;

use self::done::Done;
use self::pinned::Pinned;
use crate::event::EventId;
use crate::seeded::{self, Bug};

/// Places that are passed, at least, before they alone make a checkpoint due.
const PASSED_MIN: u64 = 1_000;

/// The same as a time, where no time is set.
const PASSED_AFTER: Duration = Duration::from_secs(2);

/// A consumer, unique in its group for as long as the group is served.
pub type ConsumerId = u64;

/// Where a message came from. Those that are replayed go before those of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A message that was parked, by its revision in the parked stream.
    Parked(u64),
    /// An event of the source: its revision or position.
    Source(u64),
}

/// A message as far as a group has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it is.
    pub place: Place,
    /// What consumers name it by: the id of the event, of the link if it is one.
    pub id: EventId,
    /// A hash of what keeps its order with a pinned strategy.
    pub key: u64,
    /// How often it was delivered in vain.
    pub retries: u32,
}

/// A message on its way to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// To whom.
    pub consumer: ConsumerId,
    /// What.
    pub message: Message,
}

/// A message that is to be parked. It stays in the group until
/// [`Group::parked`] says that it is durable where it was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Park {
    /// Which.
    pub message: Message,
    /// Why, for whoever looks at it later.
    pub reason: String,
}

/// What a consumer wants done with a message that it does not ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NackAction {
    /// Deliver it again, or park it after too many times.
    Retry,
    /// Park it.
    Park,
    /// Treat it as done.
    Skip,
    /// Treat it as done. That the client means to stop is its own affair (protocol 6.4).
    Stop,
}

/// Counts since the group is served on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries.
    pub delivered: u64,
    /// Messages that were acked or skipped.
    pub acked: u64,
    /// Messages that were parked.
    pub parked: u64,
    /// Deliveries after the first of a message.
    pub retried: u64,
}

/// Why a consumer cannot join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the group has as many consumers as it may have")]
pub struct Full;

#[derive(Debug)]
struct Consumer {
    slots: usize,
    in_flight: BTreeSet<Place>,
}

impl Consumer {
    fn has_room(&self) -> bool {
        self.in_flight.len() < self.slots
    }
}

/// What was done since a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Messages of the source that are finished.
    finished: u64,
    /// Places that were passed and are not for the group.
    passed: u64,
}

#[derive(Debug)]
struct Flight {
    message: Message,
    consumer: ConsumerId,
    since: Duration,
}

/// A group that is served.
#[derive(Debug)]
pub struct Group {
    settings: Settings,
    waiting: BTreeMap<Place, Message>,
    in_flight: BTreeMap<Place, Flight>,
    /// What a consumer names a message by. Ids may repeat.
    by_id: HashMap<(ConsumerId, EventId), BTreeSet<Place>>,
    parking: BTreeMap<Place, Message>,
    /// With a pinned strategy: the keys of what waits.
    pinned: Option<Pinned>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    /// The consumer that got something last, for taking turns.
    last_served: Option<ConsumerId>,
    /// What was read of the source, whether it was for the group or not.
    read_to: Option<u64>,
    checkpointed: Option<u64>,
    checkpointed_at: Duration,
    /// Above the checkpoint.
    done: Done,
    since_checkpoint: Progress,
    /// What of that was so when the checkpoint that is being written was decided on.
    in_checkpoint: Progress,
    /// What has left since it was last asked.
    left: Vec<Place>,
    counts: Counts,
}

impl Group {
    /// A group that goes on after `checkpoint`, or from where its definition says
    /// if there is none yet.
    pub fn new(settings: Settings, checkpoint: Option<u64>, now: Duration) -> Group {
        Group {
            settings,
            waiting: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            by_id: HashMap::new(),
            parking: BTreeMap::new(),
            pinned: settings.strategy.is_pinned().then(Pinned::default),
            consumers: BTreeMap::new(),
            last_served: None,
            read_to: checkpoint,
            checkpointed: checkpoint,
            checkpointed_at: now,
            done: Done::default(),
            since_checkpoint: Progress::default(),
            in_checkpoint: Progress::default(),
            left: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// A group that goes on after a checkpoint, without what was written beside it
    /// ([`Group::done_above`]).
    pub fn resumed(settings: Settings, checkpoint: u64, done_above: &str, now: Duration) -> Group {
        Group { done: Done::read(checkpoint, done_above), ..Group::new(settings, Some(checkpoint), now) }
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Messages that wait for a consumer, of these that were delivered before, and
    /// those in flight.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let retried = self.waiting.values().filter(|message| message.retries > 0).count();
        (self.waiting.len(), retried, self.in_flight.len())
    }

    /// Free and used slots of a consumer.
    pub fn slots(&self, consumer: ConsumerId) -> Option<(usize, usize)> {
        let consumer = self.consumers.get(&consumer)?;
        Some((consumer.slots.saturating_sub(consumer.in_flight.len()), consumer.in_flight.len()))
    }

    /// Whether a message is anywhere in it.
    pub fn holds(&self, place: Place) -> bool {
        self.waiting.contains_key(&place) || self.in_flight.contains_key(&place) || self.parking.contains_key(&place)
    }

    /// The messages that have left it since this was last asked.
    pub fn take_left(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.left)
    }

    /// How many more messages it takes.
    pub fn room(&self) -> usize {
        self.settings.history_buffer.saturating_sub(self.waiting.len() + self.parking.len())
    }

    /// Takes the next message: of the source in ascending order, or a parked one that
    /// is replayed. One that it has, or that is known to be done, is ignored.
    pub fn push(&mut self, message: Message) {
        if let Place::Source(at) = message.place {
            if self.read_to.is_some_and(|read| at <= read) {
                return;
            }
            self.read_to = Some(at);
            if self.done.contains(at) {
                return;
            }
        } else if self.in_flight.contains_key(&message.place) || self.parking.contains_key(&message.place) {
            return;
        }
        if !self.waiting.contains_key(&message.place) {
            self.wait(message);
        }
    }

    /// The source was read up to here, inclusive, and what did not come is not for
    /// this group.
    pub fn passed(&mut self, at: u64) {
        let read = self.read_to.unwrap_or(0);
        if self.read_to.is_none() || read < at {
            self.read_to = Some(at);
            self.since_checkpoint.passed += at.saturating_sub(read);
        }
    }

    /// A consumer joins that may have so many messages unanswered.
    ///
    /// # Errors
    /// [`Full`].
    pub fn join(&mut self, consumer: ConsumerId, slots: usize) -> Result<(), Full> {
        if self.settings.max_consumers.is_some_and(|max| self.consumers.len() >= max) {
            return Err(Full);
        }
        self.consumers.insert(consumer, Consumer { slots: slots.max(1), in_flight: BTreeSet::new() });
        self.members_changed();
        Ok(())
    }

    /// A consumer is gone. What it had goes to others, with the number of retries
    /// that it had: nobody knows that it failed.
    pub fn leave(&mut self, consumer: ConsumerId) {
        let Some(gone) = self.consumers.remove(&consumer) else { return };
        for place in gone.in_flight {
            if let Some(flight) = self.end_flight(place) {
                self.wait(flight.message);
                self.free(flight.message.key);
            }
        }
        self.members_changed();
    }

    /// What is to be delivered now, in the order of places. Each is in flight from
    /// here on.
    pub fn deliver(&mut self, now: Duration) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while let Some((consumer, message)) = self.next() {
            self.last_served = Some(consumer);
            self.waiting.remove(&message.place);
            if let Some(consumer) = self.consumers.get_mut(&consumer) {
                consumer.in_flight.insert(message.place);
            }
            self.by_id.entry((consumer, message.id)).or_default().insert(message.place);
            self.in_flight.insert(message.place, Flight { message, consumer, since: now });
            deliveries.push(Delivery { consumer, message });
        }
        deliveries.sort_by_key(|delivery| delivery.message.place);
        self.counts.delivered += deliveries.len() as u64;
        self.counts.retried += deliveries.iter().filter(|delivery| delivery.message.retries > 0).count() as u64;
        deliveries
    }

    /// Somebody with room, and what is to go there next.
    fn next(&mut self) -> Option<(ConsumerId, Message)> {
        let with_room = |(id, consumer): (&ConsumerId, &Consumer)| consumer.has_room().then_some(*id);
        if let Some(pinned) = &mut self.pinned {
            let mut free = self.consumers.iter().filter_map(with_room);
            let (consumer, place) = free.find_map(|consumer| Some((consumer, pinned.next(consumer)?)))?;
            return Some((consumer, *self.waiting.get(&place)?));
        }
        let (_, message) = self.waiting.first_key_value()?;
        let consumer = match self.settings.strategy {
            Strategy::RoundRobin => {
                let after = self.last_served.map_or(0, |last| last + 1);
                let later = self.consumers.range(after..).find_map(with_room);
                later.or_else(|| self.consumers.range(..after).find_map(with_room))
            }
            Strategy::DispatchToSingle | Strategy::Pinned | Strategy::PinnedByCorrelation => {
                self.consumers.iter().find_map(with_room)
            }
        };
        Some((consumer?, *message))
    }

    /// A consumer has processed a message. Ids of which it has none are ignored.
    pub fn ack(&mut self, consumer: ConsumerId, id: EventId) {
        if let Some(flight) = self.answered(consumer, id) {
            self.counts.acked += 1;
            self.finish(&flight.message);
        }
    }

    /// A consumer has not processed a message.
    pub fn nack(&mut self, consumer: ConsumerId, id: EventId, action: NackAction, reason: &str) -> Option<Park> {
        let flight = self.answered(consumer, id)?;
        match action {
            NackAction::Retry => self.retry(flight.message),
            NackAction::Park => {
                let reason = format!("Client explicitly NAK'ed message.\n{reason}");
                Some(self.park(flight.message, reason))
            }
            NackAction::Skip | NackAction::Stop => {
                self.counts.acked += 1;
                self.finish(&flight.message);
                None
            }
        }
    }

    /// Since when a consumer has had a message, if it has it.
    pub fn in_flight_since(&self, consumer: ConsumerId, id: EventId) -> Option<Duration> {
        let place = self.by_id.get(&(consumer, id))?.first()?;
        self.in_flight.get(place).map(|flight| flight.since)
    }

    /// Takes messages back that were not answered in time.
    pub fn expire(&mut self, now: Duration) -> Vec<Park> {
        let is_late = |flight: &Flight| now.saturating_sub(flight.since) >= self.settings.message_timeout;
        let late: Vec<Place> =
            self.in_flight.iter().filter(|(_, flight)| is_late(flight)).map(|(place, _)| *place).collect();
        let retry = |place| self.end_flight(place).and_then(|flight| self.retry(flight.message));
        late.into_iter().filter_map(retry).collect()
    }

    /// A message that was to be parked is durable where it was put.
    pub fn parked(&mut self, place: Place) {
        if let Some(message) = self.parking.remove(&place) {
            self.counts.parked += 1;
            self.finish(&message);
        }
    }

    /// Messages that are being parked: their parking may have to be tried again.
    pub fn parking(&self) -> impl Iterator<Item = &Message> {
        self.parking.values()
    }

    /// Whether every message that was replayed and comes before this one is done.
    pub fn has_replayed(&self, before: u64) -> bool {
        let is_left = |place: &Place| matches!(place, Place::Parked(at) if *at < before);
        !self.waiting.keys().chain(self.in_flight.keys()).chain(self.parking.keys()).any(is_left)
    }

    /// The checkpoint that is due, if one is, to be written before it is asked for
    /// again. What is done meanwhile counts for the next one.
    ///
    /// Places that are passed make one due only by many of them, and not more often than
    /// by time: a group on everything would otherwise follow its own checkpoints.
    pub fn checkpoint(&mut self, now: Duration) -> Option<u64> {
        let Settings { checkpoint_after, min_checkpoint, max_checkpoint, .. } = self.settings;
        let (Progress { finished, passed }, elapsed) =
            (self.since_checkpoint, now.saturating_sub(self.checkpointed_at));
        let by_count = finished >= max_checkpoint.max(1);
        let by_time = checkpoint_after.is_some_and(|after| elapsed >= after) && finished >= min_checkpoint.max(1);
        let by_passing =
            passed >= max_checkpoint.max(PASSED_MIN) && elapsed >= checkpoint_after.unwrap_or(PASSED_AFTER);
        if !(by_count || by_time || by_passing) {
            return None;
        }
        self.in_checkpoint = self.since_checkpoint;
        self.last_checkpoint()
    }

    /// The checkpoint, due or not, where it would tell more than the last.
    pub fn last_checkpoint(&self) -> Option<u64> {
        let tells_more =
            |at: &u64| self.since_checkpoint.finished > 0 || self.checkpointed.is_none_or(|last| last < *at);
        self.finished_to().filter(tells_more)
    }

    /// What is done above a checkpoint, to be written beside it.
    pub fn done_above(&self, checkpoint: u64) -> String {
        self.done.written(checkpoint)
    }

    /// A checkpoint is durable.
    pub fn checkpointed(&mut self, at: u64, now: Duration) {
        self.checkpointed = Some(at);
        self.checkpointed_at = now;
        self.done.forget(at);
        let counted = std::mem::take(&mut self.in_checkpoint);
        self.since_checkpoint.finished -= counted.finished;
        self.since_checkpoint.passed -= counted.passed;
    }

    /// The last checkpoint.
    pub fn checkpointed_at(&self) -> Option<u64> {
        self.checkpointed
    }

    /// The first event of the source that it has and that is not done.
    pub fn first_unfinished(&self) -> Option<u64> {
        let lowest = [first_of_source(&self.waiting), first_of_source(&self.in_flight), first_of_source(&self.parking)];
        lowest.into_iter().flatten().min()
    }

    /// Up to here, inclusive, everything of the source is done.
    pub fn finished_to(&self) -> Option<u64> {
        let lowest = match seeded::is(Bug::S23) {
            true => first_of_source(&self.waiting).into_iter().chain(first_of_source(&self.parking)).min(),
            false => self.first_unfinished(),
        };
        match lowest {
            Some(lowest) => lowest.checked_sub(1),
            None => self.read_to,
        }
    }

    fn answered(&mut self, consumer: ConsumerId, id: EventId) -> Option<Flight> {
        let place = *self.by_id.get(&(consumer, id))?.first()?;
        self.end_flight(place)
    }

    fn end_flight(&mut self, place: Place) -> Option<Flight> {
        let flight = self.in_flight.remove(&place)?;
        let named = (flight.consumer, flight.message.id);
        if let Some(places) = self.by_id.get_mut(&named) {
            places.remove(&place);
            if places.is_empty() {
                self.by_id.remove(&named);
            }
        }
        if let Some(consumer) = self.consumers.get_mut(&flight.consumer) {
            consumer.in_flight.remove(&place);
        }
        Some(flight)
    }

    fn retry(&mut self, message: Message) -> Option<Park> {
        if message.retries >= self.settings.max_retries {
            let reason = format!("Reached retry count of {}", self.settings.max_retries);
            return Some(self.park(message, reason));
        }
        self.wait(Message { retries: message.retries + 1, ..message });
        self.free(message.key);
        None
    }

    fn wait(&mut self, message: Message) {
        self.waiting.insert(message.place, message);
        if let Some(pinned) = &mut self.pinned {
            pinned.waits(message.place, message.key);
        }
    }

    /// No message of this key is in flight or being parked any more.
    fn free(&mut self, key: u64) {
        if let Some(pinned) = &mut self.pinned {
            pinned.free(key);
        }
    }

    fn members_changed(&mut self) {
        if let Some(pinned) = &mut self.pinned {
            pinned.members(self.consumers.keys().copied());
        }
    }

    /// The key stays busy: what comes after it may not overtake its parking.
    fn park(&mut self, message: Message, reason: String) -> Park {
        self.parking.insert(message.place, message);
        Park { message, reason }
    }

    fn finish(&mut self, message: &Message) {
        self.left.push(message.place);
        self.free(message.key);
        if let Place::Source(at) = message.place {
            self.since_checkpoint.finished += 1;
            self.done.insert(at);
        }
    }
}

fn first_of_source<T>(places: &BTreeMap<Place, T>) -> Option<u64> {
    match places.range(Place::Source(0)..).next() {
        Some((Place::Source(at), _)) => Some(*at),
        Some((Place::Parked(_), _)) | None => None,
    }
}

/// The key of a stream name or correlation id.
pub fn key(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

#[cfg(test)]
mod tests;
