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
//!   places: whoever goes on from it forgets none.
//! - With a pinned strategy at most one message of a key is in flight or being
//!   parked, and none is delivered before an earlier one of its key has left, however
//!   members come and go.
//! - A consumer never has more in flight than it has slots.

mod settings;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

pub use settings::{InvalidSettings, Settings, Strategy};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::event::EventId;

/// Buckets over which keys are spread with the pinned strategies.
const BUCKETS: u64 = 1_024;

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
    /// Keys of which a message is in flight or being parked.
    busy: HashSet<u64>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    /// The consumer that got something last, for taking turns.
    last_served: Option<ConsumerId>,
    /// What was read of the source, whether it was for the group or not.
    read_to: Option<u64>,
    checkpointed: Option<u64>,
    finished_since_checkpoint: u64,
    /// Places that were passed and are not for the group.
    passed_since_checkpoint: u64,
    checkpointed_at: Duration,
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
            busy: HashSet::new(),
            consumers: BTreeMap::new(),
            last_served: None,
            read_to: checkpoint,
            checkpointed: checkpoint,
            finished_since_checkpoint: 0,
            passed_since_checkpoint: 0,
            checkpointed_at: now,
            counts: Counts::default(),
        }
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

    /// How many more messages it takes.
    pub fn room(&self) -> usize {
        self.settings.history_buffer.saturating_sub(self.waiting.len() + self.parking.len())
    }

    /// Takes the next message: of the source in ascending order, or a parked one that
    /// is replayed. One that it has is ignored.
    pub fn push(&mut self, message: Message) {
        if let Place::Source(at) = message.place {
            if self.read_to.is_some_and(|read| at <= read) {
                return;
            }
            self.read_to = Some(at);
        } else if self.in_flight.contains_key(&message.place) || self.parking.contains_key(&message.place) {
            return;
        }
        self.waiting.entry(message.place).or_insert(message);
    }

    /// The source was read up to here, inclusive, and what did not come is not for
    /// this group.
    pub fn passed(&mut self, at: u64) {
        let read = self.read_to.unwrap_or(0);
        if self.read_to.is_none() || read < at {
            self.read_to = Some(at);
            self.passed_since_checkpoint += at.saturating_sub(read);
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
        Ok(())
    }

    /// A consumer is gone. What it had goes to others, with the number of retries
    /// that it had: nobody knows that it failed.
    pub fn leave(&mut self, consumer: ConsumerId) {
        let Some(gone) = self.consumers.remove(&consumer) else { return };
        for place in gone.in_flight {
            if let Some(flight) = self.end_flight(place) {
                self.busy.remove(&flight.message.key);
                self.waiting.insert(place, flight.message);
            }
        }
    }

    /// What is to be delivered now. Each is in flight from here on.
    pub fn deliver(&mut self, now: Duration) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        if !self.consumers.values().any(Consumer::has_room) {
            return deliveries;
        }
        let pinned = self.settings.strategy.is_pinned();
        // Of a key that cannot be served, nothing later may be either.
        let mut blocked = HashSet::new();
        let mut served = Vec::new();
        let members: Vec<ConsumerId> = self.consumers.keys().copied().collect();
        let mut free = self.consumers.values().filter(|consumer| consumer.has_room()).count();
        for (place, message) in &self.waiting {
            if free == 0 {
                break;
            }
            if pinned && (self.busy.contains(&message.key) || blocked.contains(&message.key)) {
                continue;
            }
            let chosen = match self.settings.strategy {
                Strategy::DispatchToSingle => {
                    self.consumers.iter().find(|(_, consumer)| consumer.has_room()).map(|(id, _)| *id)
                }
                Strategy::RoundRobin => {
                    let after = self.last_served.map_or(0, |last| last + 1);
                    let has_room = |(id, consumer): (&ConsumerId, &Consumer)| consumer.has_room().then_some(*id);
                    self.consumers
                        .range(after..)
                        .find_map(has_room)
                        .or_else(|| self.consumers.range(..after).find_map(has_room))
                }
                Strategy::Pinned | Strategy::PinnedByCorrelation => {
                    let id = pinned_to(message.key, &members);
                    id.filter(|id| self.consumers.get(id).is_some_and(Consumer::has_room))
                }
            };
            let Some(consumer) = chosen else {
                blocked.insert(message.key);
                continue;
            };
            self.last_served = Some(consumer);
            if pinned {
                self.busy.insert(message.key);
            }
            if let Some(consumer) = self.consumers.get_mut(&consumer) {
                consumer.in_flight.insert(*place);
                free -= usize::from(!consumer.has_room());
            }
            self.by_id.entry((consumer, message.id)).or_default().insert(*place);
            self.in_flight.insert(*place, Flight { message: *message, consumer, since: now });
            served.push(*place);
            deliveries.push(Delivery { consumer, message: *message });
        }
        for place in &served {
            self.waiting.remove(place);
        }
        self.counts.delivered += deliveries.len() as u64;
        self.counts.retried += deliveries.iter().filter(|delivery| delivery.message.retries > 0).count() as u64;
        deliveries
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

    /// The checkpoint that is due, if one is. Written or not, the next one is due by
    /// what is finished after [`Group::checkpointed`].
    ///
    /// Places that are passed make one due only by many of them, and not more often than
    /// by time: a group on everything would otherwise follow its own checkpoints.
    pub fn checkpoint(&self, now: Duration) -> Option<u64> {
        let Settings { checkpoint_after, min_checkpoint, max_checkpoint, .. } = self.settings;
        let (finished, elapsed) = (self.finished_since_checkpoint, now.saturating_sub(self.checkpointed_at));
        let by_count = finished >= max_checkpoint.max(1);
        let by_time = checkpoint_after.is_some_and(|after| elapsed >= after) && finished >= min_checkpoint.max(1);
        let by_passing = self.passed_since_checkpoint >= max_checkpoint.max(PASSED_MIN)
            && elapsed >= checkpoint_after.unwrap_or(PASSED_AFTER);
        if by_count || by_time || by_passing { self.last_checkpoint() } else { None }
    }

    /// The checkpoint, due or not, where it is another than the last.
    pub fn last_checkpoint(&self) -> Option<u64> {
        self.finished_to().filter(|at| self.checkpointed.is_none_or(|last| last < *at))
    }

    /// A checkpoint is durable.
    pub fn checkpointed(&mut self, at: u64, now: Duration) {
        self.checkpointed = Some(at);
        self.checkpointed_at = now;
        self.finished_since_checkpoint = 0;
        self.passed_since_checkpoint = 0;
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
        match self.first_unfinished() {
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
        self.busy.remove(&message.key);
        self.waiting.insert(message.place, Message { retries: message.retries + 1, ..message });
        None
    }

    /// The key stays busy: what comes after it may not overtake its parking.
    fn park(&mut self, message: Message, reason: String) -> Park {
        self.parking.insert(message.place, message);
        Park { message, reason }
    }

    fn finish(&mut self, message: &Message) {
        self.busy.remove(&message.key);
        if matches!(message.place, Place::Source(_)) {
            self.finished_since_checkpoint += 1;
        }
    }
}

fn first_of_source<T>(places: &BTreeMap<Place, T>) -> Option<u64> {
    match places.range(Place::Source(0)..).next() {
        Some((Place::Source(at), _)) => Some(*at),
        Some((Place::Parked(_), _)) | None => None,
    }
}

/// The member that serves a key: the one with the highest hash of member and bucket,
/// so that one that comes or goes moves its own share only.
fn pinned_to(key: u64, members: &[ConsumerId]) -> Option<ConsumerId> {
    let bucket = key % BUCKETS;
    members.iter().copied().max_by_key(|member| xxh3_64_with_seed(&member.to_le_bytes(), bucket))
}

/// The key of a stream name or correlation id.
pub fn key(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

#[cfg(test)]
mod tests;
