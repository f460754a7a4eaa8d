//! Applying an entry of the replicated log.
//!
//! For each command of the entry, [`decide`] says what becomes of it, from the
//! heads as the commands before it leave them; the events it makes become
//! records and [`Effects`]. One write batch per entry, with the standing in
//! it: an entry is in the state entirely or not at all.
//!
//! The idempotency window and the effects run ahead of the disk while an entry
//! is applied. When something fails they are not taken back: the node must
//! stop, and [`Writer`] refuses everything after. Only an entry of one command can be
//! given up without harm, because it enters the window after it is committed.

#[cfg(feature = "seeded-bugs")]
mod mistakes;

#[cfg(feature = "seeded-bugs")]
pub use self::mistakes::Shadow;

use std::cell::RefCell;

use annals_core::decide::{Heads, decide};
use annals_core::scavenge::Facts;
use annals_core::seeded::{self, Bug};
use annals_core::{Batch, Command, EventId, Head, Lease, Outcome, Position, Revision, Scavenge, StreamName, Timestamp};
use bytes::{Bytes, BytesMut};

use crate::database::Reach;
use crate::effects::Effects;
use crate::error::Error;
use crate::record::Record;
use crate::remembered::Remembered;
use crate::state::State;
use crate::store::Mark;

/// What only the one who applies has.
pub(crate) struct Writer {
    pub(crate) remembered: Remembered,
    /// From which records take their memory, many from one allocation.
    arena: BytesMut,
    stopped: bool,
}

/// Bytes of one such allocation. A record that someone holds on to keeps its
/// neighbours; more would save little.
const ARENA_BYTES: usize = 64 * 1024;

impl Writer {
    pub(crate) fn new(remembered: Remembered) -> Self {
        Writer { remembered, arena: BytesMut::with_capacity(ARENA_BYTES), stopped: false }
    }

    /// Applies an entry. See [`crate::Store::apply`].
    pub(crate) fn apply(&mut self, state: &State, mark: Mark, batch: Option<Batch>) -> Result<Vec<Outcome>, Error> {
        if !self.is_next(state, &mark)? {
            return Ok(Vec::new());
        }
        let result = self.carry_out(state, mark, batch);
        self.stopped = result.is_err();
        result
    }

    /// See [`crate::Store::apply_at_hand`].
    pub(crate) fn apply_at_hand(
        &mut self,
        state: &State,
        mark: Mark,
        batch: Batch,
    ) -> Result<Option<Vec<Outcome>>, Error> {
        if !self.is_next(state, &mark)? {
            return Ok(Some(Vec::new()));
        }
        // A step of a scavenge reads many events, and they may be large.
        let is_little = matches!(&batch.commands[..], [command] if !matches!(command, Command::Reclaim(_)));
        if !is_little || state.is_something_due() {
            return Ok(None);
        }
        match self.carry_out_at_hand(state, mark, batch) {
            Ok(outcomes) => Ok(Some(outcomes)),
            Err(error) if error.is_out_of_reach() => Ok(None),
            Err(error) => {
                self.stopped = true;
                Err(error)
            }
        }
    }

    /// Whether an entry is the one that follows, and not one that was applied before.
    fn is_next(&self, state: &State, mark: &Mark) -> Result<bool, Error> {
        if self.stopped {
            return Err(Error::Stopped);
        }
        match state.mark() {
            Some(applied) if mark.index <= applied.index => return Ok(false),
            Some(applied) => {
                assert_eq!(mark.index, applied.index + 1, "entries are applied without leaving one out");
            }
            // Some logs number from 0, some from 1.
            None => assert!(mark.index <= 1, "the first entry has index {}, not 0 or 1", mark.index),
        }
        Ok(true)
    }

    fn carry_out(&mut self, state: &State, mark: Mark, batch: Option<Batch>) -> Result<Vec<Outcome>, Error> {
        let mut effects = Effects::new(state);
        let outcomes = match batch {
            Some(batch) => self.decide_all(state, &mut effects, batch)?,
            None => Vec::new(),
        };
        self.remember(effects.added_after(self.remembered.tail()));
        state.commit(effects.seal(), Some(mark))?;
        Ok(outcomes)
    }

    fn carry_out_at_hand(&mut self, state: &State, mark: Mark, batch: Batch) -> Result<Vec<Outcome>, Error> {
        let mut effects = Effects::within(state, Reach::Memory);
        let outcomes = self.decide_all(state, &mut effects, batch)?;
        let added = effects.added_after(self.remembered.tail()).to_vec();
        state.commit_at_hand(effects.seal(), mark)?;
        self.remember(&added);
        Ok(outcomes)
    }

    /// Takes events into the idempotency window.
    fn remember(&mut self, records: &[Record]) {
        for record in records {
            self.remembered.push(record.position(), record.stream_slice(), record.id());
        }
    }

    /// What becomes of the commands. The events of the last one do not enter the
    /// idempotency window here.
    fn decide_all(&mut self, state: &State, effects: &mut Effects<'_>, batch: Batch) -> Result<Vec<Outcome>, Error> {
        let stamped = if seeded::is(Bug::S16) { Timestamp::from(std::time::SystemTime::now()) } else { batch.stamped };
        let created = stamped.max(effects.newest_time());
        let mut outcomes = Vec::with_capacity(batch.commands.len());
        #[cfg(feature = "seeded-bugs")]
        let (batch, places) = mistakes::rearranged(batch);
        self.remembered.bring_near(batch.commands.iter().flat_map(appended));
        for command in &batch.commands {
            self.remember(effects.added_after(self.remembered.tail()));
            let known = Known {
                at_hand: read_ahead(state, command)?,
                effects: RefCell::new(effects),
                remembered: &self.remembered,
                created,
                looked_at: RefCell::default(),
            };
            let decision = decide(&known, command)?;
            let looked_at = known.looked_at.into_inner();
            if let Outcome::Node(id) = decision.outcome {
                effects.take_node(id);
            }
            // Before the events that tell of it: what is reclaimed lies before them.
            for record in looked_at.iter().filter(|record| decision.reclaimed.binary_search(&record.position()).is_ok())
            {
                effects.reclaim(record);
            }
            if decision.scavenge.is_some() {
                effects.set_scavenge(decision.scavenge);
            }
            if decision.lease.is_some() {
                effects.set_lease(decision.lease);
            }
            let mut own_times = decision.created.into_iter();
            for placed in decision.events {
                let created = match own_times.next() {
                    Some(own) => own.max(effects.newest_time()).min(created),
                    None => created,
                };
                let record = Record::encode(&placed, created, &mut self.arena);
                effects.add(record, placed.stream)?;
            }
            outcomes.push(decision.outcome);
        }
        #[cfg(feature = "seeded-bugs")]
        mistakes::put_back(&mut outcomes, &places);
        Ok(outcomes)
    }
}

/// The events that a client wants to append, with their streams' names.
fn appended(command: &Command) -> impl Iterator<Item = (&[u8], EventId)> {
    let append = match command {
        Command::Append(append) => Some(append),
        Command::For { command, .. } => match &**command {
            Command::Append(append) => Some(append),
            _ => None,
        },
        _ => None,
    };
    append.into_iter().flat_map(|append| {
        append.events.iter().filter_map(|(target, event)| {
            let target = append.targets.get(usize::try_from(*target).ok()?)?;
            Some((&target.stream.as_bytes()[..], event.id()))
        })
    })
}

/// What is known of the log before a command.
struct Known<'a, 's> {
    /// Heads that are looked up are kept for the commands that follow.
    effects: RefCell<&'a mut Effects<'s>>,
    remembered: &'a Remembered,
    /// With which the events of the entry are created.
    created: Timestamp,
    /// The events that will be asked for by their position, in its order.
    at_hand: Vec<Record>,
    /// Those that were.
    looked_at: RefCell<Vec<Record>>,
}

/// The events that a step of a scavenge names, read at once: one by one they would take
/// several times as long, and appends wait meanwhile.
fn read_ahead(state: &State, command: &Command) -> Result<Vec<Record>, Error> {
    let Command::Reclaim(step) = command else { return Ok(Vec::new()) };
    let tail = state.tail();
    let mut positions = step.positions.clone();
    positions.retain(|at| *at > Position::START && *at <= tail);
    positions.sort_unstable();
    positions.dedup();
    state.look_up(&positions, Reach::Disk)
}

impl Known<'_, '_> {
    fn record_at(&self, stream: &StreamName, revision: Revision) -> Result<Option<Record>, Error> {
        let mut effects = self.effects.borrow_mut();
        let Some(position) = effects.position_of(stream, revision)? else { return Ok(None) };
        effects.record(position).map(Some)
    }
}

impl Heads for Known<'_, '_> {
    type Error = Error;

    fn tail(&self) -> Position {
        self.effects.borrow().tail()
    }

    fn head(&self, stream: &StreamName) -> Result<Head, Error> {
        self.effects.borrow_mut().head(stream).cloned()
    }

    fn event_at(&self, stream: &StreamName, revision: Revision) -> Result<Option<(EventId, Position)>, Error> {
        Ok(self.record_at(stream, revision)?.map(|record| (record.id(), record.position())))
    }

    fn remembered(&self, stream: &StreamName, id: EventId) -> Result<Option<(Revision, Position)>, Error> {
        if seeded::is(Bug::S7) {
            return Ok(None);
        }
        let Some(position) = self.remembered.find(stream.as_bytes(), id) else { return Ok(None) };
        let record = self.effects.borrow().record(position)?;
        let same = record.id() == id && record.stream() == stream.as_str();
        Ok(same.then(|| (record.revision(), position)))
    }

    fn newest_data(&self, stream: &StreamName) -> Result<Bytes, Error> {
        let Some(last) = self.effects.borrow_mut().head(stream)?.last else { return Ok(Bytes::new()) };
        Ok(self.record_at(stream, last)?.map_or_else(Bytes::new, |record| record.data()))
    }

    fn last_node(&self) -> u64 {
        self.effects.borrow().last_node()
    }

    fn time(&self) -> Timestamp {
        self.created
    }

    fn scavenge(&self) -> Option<Scavenge> {
        self.effects.borrow().scavenge()
    }

    fn lease(&self) -> Option<Lease> {
        self.effects.borrow().lease()
    }

    fn event(&self, at: Position) -> Result<Facts, Error> {
        let record = match self.at_hand.binary_search_by_key(&at, Record::position) {
            Ok(index) => self.at_hand[index].clone(),
            Err(_) => self.effects.borrow().record(at)?,
        };
        let facts = record.facts();
        self.looked_at.borrow_mut().push(record);
        Ok(facts)
    }
}
