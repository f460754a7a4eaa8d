//! A history sorted: its records by kind, its appends by what they append, and
//! the witness.
//!
//! Invariants
//! - The [`Log`] is in the order of positions and holds each at most once; what
//!   was wrong with it has been reported.
//! - Sends of an append that begin with the same id are one *logical append*: a
//!   client that does not know what became of an append sends it again.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::history::{
    Answered, Append, CaughtUp, Checkpoint, Closed, Defined, Delete, Delivered, Digest, Dropped, EventId, Fault,
    GroupEnded, GroupStep, Handed, Hash, Joined, Left, Nanos, NodeNumber, Opened, Outcome, Parked, Proposed, Read,
    Record, Replay, Seen, Source, Subscription, Write,
};
use crate::verdict::{Findings, Property};

/// Ids are random already; hashing them again would cost most of the time.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    fn write_u128(&mut self, id: u128) {
        // Ids of tests are small numbers: spread them over the high bits.
        let folded = (id as u64) ^ ((id >> 64) as u64);
        self.0 = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A map by ids.
pub(crate) type ById<T> = HashMap<EventId, T, BuildHasherDefault<IdHasher>>;

/// A history, sorted.
pub(crate) struct Index<'h> {
    /// Appends that have events.
    pub(crate) appends: Vec<&'h Append>,
    /// For each append, its logical append.
    pub(crate) group_of: Vec<u32>,
    /// The logical appends.
    pub(crate) groups: Vec<Group>,
    /// Where an id was first proposed.
    pub(crate) proposals: ById<Proposal>,
    /// Deletions.
    pub(crate) deletes: Vec<&'h Delete>,
    /// Reads.
    pub(crate) reads: Vec<&'h Read>,
    /// Subscriptions with all that happened to them, by number.
    pub(crate) subscriptions: BTreeMap<u32, Following<'h>>,
    /// Consumer groups with all that happened to them, by number.
    pub(crate) sharings: BTreeMap<u32, Sharing<'h>>,
    /// Faults.
    pub(crate) faults: Vec<&'h Fault>,
    /// Final states.
    pub(crate) finals: Vec<FinalState<'h>>,
    /// Hashes.
    pub(crate) hashes: Vec<&'h Hash>,
    /// The witness, and which of the final states it is.
    pub(crate) witness: Option<usize>,
    /// The log as the witness holds it.
    pub(crate) log: Log<'h>,
    /// For each stream and digest that was proposed, the append. Made when the
    /// first event turns up that nobody sent: never, if all is well.
    by_content: OnceCell<HashMap<(&'h str, Digest), u32>>,
}

/// All sends of one logical append.
#[derive(Default)]
pub(crate) struct Group {
    /// The appends, by their number.
    pub(crate) sends: Vec<u32>,
    /// Whether one was not refused.
    pub(crate) possible: bool,
    /// When the first send that was not refused was invoked.
    pub(crate) invoke: Nanos,
    /// When the first acknowledgement came.
    pub(crate) complete: Option<Nanos>,
}

/// Where an id was proposed.
#[derive(Clone, Copy)]
pub(crate) struct Proposal {
    /// In which append.
    pub(crate) append: u32,
    /// As which of its events, counted over all its writes.
    pub(crate) offset: u32,
}

/// All that happened to one subscription.
#[derive(Default)]
pub(crate) struct Following<'h> {
    /// What it asks for; one, if the history is right.
    pub(crate) asked: Vec<&'h Subscription>,
    /// What happened, in order.
    pub(crate) steps: Vec<Step<'h>>,
    /// How it ended.
    pub(crate) closed: Option<&'h Closed>,
}

/// One thing that happened to a subscription.
#[derive(Clone, Copy)]
pub(crate) enum Step<'h> {
    Opened(&'h Opened),
    Delivered(&'h Delivered),
    CaughtUp(&'h CaughtUp),
    Dropped(&'h Dropped),
}

impl Step<'_> {
    /// Connections follow each other; within one, time decides, and at one
    /// time the order of the records.
    fn order(&self) -> (u32, u8, Nanos) {
        match self {
            Step::Opened(step) => (step.connection, 0, step.time),
            Step::Delivered(step) => (step.connection, 1, step.time),
            Step::CaughtUp(step) => (step.connection, 1, step.time),
            Step::Dropped(step) => (step.connection, 2, step.time),
        }
    }
}

/// All that happened to one consumer group.
#[derive(Default)]
pub(crate) struct Sharing<'h> {
    /// What it is; one, if the history is right.
    pub(crate) defined: Vec<&'h Defined>,
    /// Its consumers, by number.
    pub(crate) joined: BTreeMap<u32, &'h Joined>,
    /// What they got.
    pub(crate) handed: Vec<&'h Handed>,
    /// What they said of it.
    pub(crate) answered: Vec<&'h Answered>,
    /// Connections that ended.
    pub(crate) left: Vec<&'h Left>,
    /// When what was parked was asked for.
    pub(crate) replays: Vec<&'h Replay>,
    /// Checkpoints as others saw them.
    pub(crate) checkpoints: Vec<&'h Checkpoint>,
    /// What was parked.
    pub(crate) parked: Option<&'h Parked>,
    /// How it ended.
    pub(crate) ended: Option<&'h GroupEnded>,
}

impl<'h> Sharing<'h> {
    fn sort(&mut self, step: &'h GroupStep) {
        match step {
            GroupStep::Defined(defined) => self.defined.push(defined),
            GroupStep::Joined(joined) => {
                self.joined.insert(joined.consumer, joined);
            }
            GroupStep::Handed(handed) => self.handed.push(handed),
            GroupStep::Answered(answered) => self.answered.push(answered),
            GroupStep::Left(left) => self.left.push(left),
            GroupStep::Replay(replay) => self.replays.push(replay),
            GroupStep::Checkpoint(checkpoint) => self.checkpoints.push(checkpoint),
            GroupStep::Parked(parked) => self.parked = Some(parked),
            GroupStep::Ended(ended) => self.ended = Some(ended),
        }
    }
}

/// What one node held at the end, by one way of reading it.
pub(crate) struct FinalState<'h> {
    /// Which node.
    pub(crate) node: NodeNumber,
    /// How it was read.
    pub(crate) source: Source,
    /// The events, in the order of the records.
    pub(crate) events: Vec<&'h Seen>,
    /// Whether all was read.
    pub(crate) complete: bool,
}

/// Events by position.
#[derive(Default)]
pub(crate) struct Log<'h> {
    events: Vec<&'h Seen>,
}

impl<'h> Log<'h> {
    /// The events, in order.
    pub(crate) fn events(&self) -> &[&'h Seen] {
        &self.events
    }

    /// The position of the newest event; 0 without any.
    pub(crate) fn tail(&self) -> u64 {
        self.events.last().map_or(0, |event| event.position)
    }

    /// How many events have this position or a lower one.
    pub(crate) fn upto(&self, position: u64) -> usize {
        // Without gaps the position is the answer.
        let guess = usize::try_from(position).unwrap_or(usize::MAX).min(self.events.len());
        let is_begin = guess == 0 || self.events[guess - 1].position <= position;
        if is_begin && self.is_end(guess, position) {
            return guess;
        }
        self.events.partition_point(|event| event.position <= position)
    }

    fn is_end(&self, count: usize, position: u64) -> bool {
        self.events.get(count).is_none_or(|event| event.position > position)
    }

    /// The index of the event at a position.
    pub(crate) fn at(&self, position: u64) -> Option<usize> {
        // Without gaps it is in its place.
        let guess = usize::try_from(position).ok()?.checked_sub(1)?;
        if self.events.get(guess).is_some_and(|event| event.position == position) {
            return Some(guess);
        }
        let index = self.upto(position).checked_sub(1)?;
        (self.events[index].position == position).then_some(index)
    }
}

/// The events of an append, over all its writes.
pub(crate) fn flattened(append: &Append) -> impl Iterator<Item = (&Write, &Proposed)> {
    append.writes.iter().flat_map(|write| write.events.iter().map(move |event| (write, event)))
}

impl<'h> Index<'h> {
    /// Sorts a history.
    pub(crate) fn new(records: &'h [Record], findings: &mut Findings) -> Self {
        let mut index = Index {
            appends: Vec::new(),
            group_of: Vec::new(),
            groups: Vec::new(),
            proposals: ById::default(),
            deletes: Vec::new(),
            reads: Vec::new(),
            subscriptions: BTreeMap::new(),
            sharings: BTreeMap::new(),
            faults: Vec::new(),
            finals: Vec::new(),
            hashes: Vec::new(),
            witness: None,
            log: Log::default(),
            by_content: OnceCell::new(),
        };
        for record in records {
            index.sort(record);
        }
        for following in index.subscriptions.values_mut() {
            following.steps.sort_by_key(Step::order);
        }
        index.group();
        index.choose_witness(findings);
        index
    }

    /// An append that proposed an event with this content for this stream.
    pub(crate) fn proposer_of(&self, event: &Seen) -> Option<&'h Append> {
        let by_content = self.by_content.get_or_init(|| {
            let mut by_content = HashMap::new();
            for (number, append) in (0u32..).zip(&self.appends) {
                for (write, proposed) in flattened(append) {
                    by_content.entry((&*write.stream, proposed.digest)).or_insert(number);
                }
            }
            by_content
        });
        by_content.get(&(&*event.stream, event.digest)).map(|number| self.appends[*number as usize])
    }

    fn sort(&mut self, record: &'h Record) {
        let step = |number: u32, step: Step<'h>, index: &mut Self| {
            index.subscriptions.entry(number).or_default().steps.push(step);
        };
        match record {
            Record::Run(_) => {}
            Record::Append(append) => {
                if flattened(append).next().is_some() {
                    self.appends.push(append);
                }
            }
            Record::Delete(delete) => self.deletes.push(delete),
            Record::Read(read) => self.reads.push(read),
            Record::Subscription(asked) => {
                self.subscriptions.entry(asked.subscription).or_default().asked.push(asked);
            }
            Record::Opened(opened) => step(opened.subscription, Step::Opened(opened), self),
            Record::Delivered(delivered) => step(delivered.subscription, Step::Delivered(delivered), self),
            Record::CaughtUp(caught_up) => step(caught_up.subscription, Step::CaughtUp(caught_up), self),
            Record::Dropped(dropped) => step(dropped.subscription, Step::Dropped(dropped), self),
            Record::Closed(closed) => {
                self.subscriptions.entry(closed.subscription).or_default().closed = Some(closed);
            }
            Record::Fault(fault) => self.faults.push(fault),
            Record::Final(part) => {
                let state = self
                    .finals
                    .iter_mut()
                    .find(|state| state.node == part.node && state.source == part.source && !state.complete);
                match state {
                    Some(state) => {
                        state.events.extend(&part.events);
                        state.complete = part.complete;
                    }
                    None => self.finals.push(FinalState {
                        node: part.node,
                        source: part.source,
                        events: part.events.iter().collect(),
                        complete: part.complete,
                    }),
                }
            }
            Record::Hash(hash) => self.hashes.push(hash),
            Record::Group(group) => self.sharings.entry(group.group).or_default().sort(&group.step),
        }
    }

    fn group(&mut self) {
        let mut first_ids: ById<u32> = ById::default();
        for (number, append) in (0u32..).zip(&self.appends) {
            for (offset, (_, event)) in (0u32..).zip(flattened(append)) {
                self.proposals.entry(event.id).or_insert(Proposal { append: number, offset });
            }
            let Some((_, first)) = flattened(append).next() else { continue };
            let group = *first_ids.entry(first.id).or_insert_with(|| {
                self.groups.push(Group { invoke: Nanos::MAX, ..Group::default() });
                u32::try_from(self.groups.len() - 1).expect("fewer than 2^32 appends")
            });
            self.group_of.push(group);
            let group = &mut self.groups[group as usize];
            group.sends.push(number);
            match &append.outcome {
                Outcome::Refused { .. } => {}
                Outcome::Acked { .. } | Outcome::Unknown { .. } => {
                    group.possible = true;
                    group.invoke = group.invoke.min(append.invoke);
                }
            }
            if let (Outcome::Acked { .. }, Some(complete)) = (&append.outcome, append.complete) {
                group.complete = Some(group.complete.map_or(complete, |known| known.min(complete)));
            }
        }
    }

    /// The longest complete linearizable final state; failing that, the
    /// longest complete local one, by which violations can be found but not
    /// excluded.
    fn choose_witness(&mut self, findings: &mut Findings) {
        let longest = |source: Source| {
            let complete = self.finals.iter().enumerate().filter(|(_, state)| state.complete && state.source == source);
            // The first of several: max_by_key would take the last.
            complete.rev().max_by_key(|(_, state)| state.events.len()).map(|(at, _)| at)
        };
        let linearizable = longest(Source::Linearizable);
        if linearizable.is_none() {
            findings.unknown("there is no complete linearizable read of all events at the end".to_owned());
        }
        self.witness = linearizable.or_else(|| longest(Source::Local));
        let Some(witness) = self.witness else { return };
        let mut events = self.finals[witness].events.clone();
        findings.checked(Property::P4, events.len() as u64);
        let mut expected = 1;
        for event in &events {
            if event.position != expected {
                findings.violation(Property::P4, None, || {
                    format!("the log at the end has position {} where {expected} must be", event.position)
                });
            }
            expected = event.position.saturating_add(1);
        }
        // The rest is judged as if the log were in order.
        events.sort_by_key(|event| event.position);
        events.dedup_by_key(|event| event.position);
        self.log = Log { events };
    }
}
