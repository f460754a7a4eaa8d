//! Applying an entry of the replicated log.
//!
//! For each command of the entry, [`decide`] says what becomes of it, from the
//! heads as the commands before it leave them; the events it makes become
//! records and [`Effects`]. One write batch per entry, with the standing in
//! it: an entry is in the state entirely or not at all.
//!
//! The idempotency window and the effects run ahead of the disk while an entry
//! is applied. When something fails they are not taken back: the node must
//! stop, and [`Writer`] refuses everything after.

#[cfg(feature = "seeded-bugs")]
mod mistakes;

#[cfg(feature = "seeded-bugs")]
pub use self::mistakes::Shadow;

use std::cell::RefCell;

use annals_core::decide::{Heads, decide};
use annals_core::seeded::{self, Bug};
use annals_core::{Batch, EventId, Head, Outcome, Position, Revision, StreamName, Timestamp};
use bytes::{Bytes, BytesMut};

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
        if self.stopped {
            return Err(Error::Stopped);
        }
        match state.mark() {
            Some(applied) if mark.index <= applied.index => return Ok(Vec::new()),
            Some(applied) => {
                assert_eq!(mark.index, applied.index + 1, "entries are applied without leaving one out");
            }
            // Some logs number from 0, some from 1.
            None => assert!(mark.index <= 1, "the first entry has index {}, not 0 or 1", mark.index),
        }
        let result = self.carry_out(state, mark, batch);
        self.stopped = result.is_err();
        result
    }

    fn carry_out(&mut self, state: &State, mark: Mark, batch: Option<Batch>) -> Result<Vec<Outcome>, Error> {
        let mut effects = Effects::new(state);
        let outcomes = match batch {
            Some(batch) => self.decide_all(&mut effects, batch)?,
            None => Vec::new(),
        };
        state.commit(effects.seal(), Some(mark))?;
        Ok(outcomes)
    }

    fn decide_all(&mut self, effects: &mut Effects<'_>, batch: Batch) -> Result<Vec<Outcome>, Error> {
        let stamped = if seeded::is(Bug::S16) { Timestamp::from(std::time::SystemTime::now()) } else { batch.stamped };
        let created = stamped.max(effects.newest_time());
        let mut outcomes = Vec::with_capacity(batch.commands.len());
        #[cfg(feature = "seeded-bugs")]
        let (batch, places) = mistakes::rearranged(batch);
        for command in &batch.commands {
            let known = Known { effects: RefCell::new(effects), remembered: &self.remembered };
            let decision = decide(&known, command)?;
            if let Outcome::Node(id) = decision.outcome {
                effects.take_node(id);
            }
            for placed in decision.events {
                let record = Record::encode(&placed, created, &mut self.arena);
                self.remembered.push(placed.position, placed.stream.as_bytes(), record.id());
                effects.add(record, placed.stream)?;
            }
            outcomes.push(decision.outcome);
        }
        #[cfg(feature = "seeded-bugs")]
        mistakes::put_back(&mut outcomes, &places);
        Ok(outcomes)
    }
}

/// What is known of the log before a command.
struct Known<'a, 's> {
    /// Heads that are looked up are kept for the commands that follow.
    effects: RefCell<&'a mut Effects<'s>>,
    remembered: &'a Remembered,
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

    fn metadata_json(&self, stream: &StreamName) -> Result<Bytes, Error> {
        // Most streams have none, and then there is no metastream to ask.
        if !self.effects.borrow_mut().head(stream)?.metadata.present {
            return Ok(Bytes::new());
        }
        let metastream = stream.metastream();
        let Some(last) = self.effects.borrow_mut().head(&metastream)?.last else { return Ok(Bytes::new()) };
        Ok(self.record_at(&metastream, last)?.map_or_else(Bytes::new, |record| record.data()))
    }

    fn last_node(&self) -> u64 {
        self.effects.borrow().last_node()
    }
}
