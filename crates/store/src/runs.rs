//! Lists of positions, in runs.
//!
//! A stream and an index are the same thing: a dense list of positions. An
//! entry's position is found through the *run* that holds it, a stretch of the
//! list whose positions are consecutive too. An append of ten events costs one
//! key in its stream's list and not ten.
//!
//! The key is (list, number of the run's last entry), so that a seek to any
//! number of the run finds it. Where runs begin and end may differ between
//! nodes (a catch-up sees no entries); what they say does not.
//!
//! ```text
//! last position u64 · count u32
//! ```

use std::sync::Arc;

use annals_core::Position;
use bytes::{Buf, BufMut};

use crate::database::{Database, Reach, RunIterator};
use crate::error::Error;
use crate::keys::{Key, ListId};
use crate::read::Direction;
use crate::record::Corruption;

/// A stretch of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The number of its last entry.
    pub(crate) last: u64,
    /// Where that is in the log.
    pub(crate) last_position: Position,
    /// How many entries it has, at least 1.
    pub(crate) count: u32,
}

impl Run {
    /// Adds an entry to the end of a list, as part of its last run if it can
    /// be.
    pub(crate) fn extend(runs: &mut Vec<Run>, number: u64, position: Position) {
        if let Some(run) = runs.last_mut()
            && run.last.checked_add(1) == Some(number)
            && run.last_position.next() == position
            && run.count < u32::MAX
        {
            *run = Run { last: number, last_position: position, count: run.count + 1 };
        } else {
            runs.push(Run { last: number, last_position: position, count: 1 });
        }
    }

    /// The number of its first entry.
    pub(crate) fn first(&self) -> u64 {
        self.last - (u64::from(self.count) - 1)
    }

    /// Both as one run, if the other goes on where this one ends.
    pub(crate) fn joined_with(&self, other: &Run) -> Option<Run> {
        let count = self.count.checked_add(other.count)?;
        let goes_on = self.last.checked_add(1) == Some(other.first())
            && self.last_position.get() + u64::from(other.count) == other.last_position.get();
        goes_on.then_some(Run { count, ..*other })
    }

    /// Where the entry with this number is, if it belongs to the run.
    pub(crate) fn position_of(&self, number: u64) -> Option<Position> {
        let back = self.last.checked_sub(number).filter(|back| *back < u64::from(self.count))?;
        Some(Position::new(self.last_position.get() - back))
    }

    pub(crate) fn encode(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let mut out = &mut bytes[..];
        out.put_u64_le(self.last_position.get());
        out.put_u32_le(self.count);
        bytes
    }

    pub(crate) fn decode(last: u64, mut bytes: &[u8]) -> Result<Run, Corruption> {
        if bytes.len() != 12 {
            return Err(Corruption::Length { expected: 12, found: bytes.len() });
        }
        let run = Run { last, last_position: Position::new(bytes.get_u64_le()), count: bytes.get_u32_le() };
        let back = u64::from(run.count).checked_sub(1).ok_or(Corruption::Invalid("it is an empty run"))?;
        // Its first entry has a number from 0 and a position from 1.
        if back > run.last || back >= run.last_position.get() {
            return Err(Corruption::Invalid("it begins before its list or the log"));
        }
        Ok(run)
    }
}

/// Where the entry with this number is, by what has settled. The caller knows
/// that there is one.
pub(crate) fn position_of(database: &Database, list: ListId, number: u64, reach: Reach) -> Result<Position, Error> {
    let run = database.runs(list, reach).seek(number)?;
    run.and_then(|run| run.position_of(number)).ok_or_else(|| missing(list, number))
}

fn missing(list: ListId, number: u64) -> Error {
    Error::corrupt(Key::Run(list, number), Corruption::Missing)
}

/// Runs of a list that are in memory, each part in ascending order.
pub(crate) struct Runs {
    /// Between the bounds, as far as they may not have settled. Were looked at
    /// before the database is.
    pub(crate) newest: Vec<Run>,
    /// From the list's first entry to where `newest` begins, if known.
    pub(crate) known: Option<Arc<[Run]>>,
}

impl Runs {
    /// The run that holds this entry.
    fn find(&self, number: u64) -> Option<Run> {
        let among = |runs: &[Run]| {
            let run = runs.get(runs.partition_point(|run| run.last < number))?;
            run.position_of(number).map(|_| *run)
        };
        among(&self.newest).or_else(|| self.known.as_deref().and_then(among))
    }
}

/// The entries of a list with numbers from one bound to another, both
/// inclusive, each with its position. The caller knows that they exist; a gap
/// is corruption.
pub(crate) struct Entries<'d> {
    database: &'d Database,
    list: ListId,
    memory: Runs,
    /// Over what has settled, once it is needed.
    settled: Option<RunIterator<'d>>,
    reach: Reach,
    direction: Direction,
    next: Option<u64>,
    end: u64,
    run: Option<Run>,
}

impl<'d> Entries<'d> {
    /// From `from` to `to` in the direction.
    pub(crate) fn new(
        database: &'d Database,
        list: ListId,
        memory: Runs,
        from: u64,
        to: u64,
        direction: Direction,
        reach: Reach,
    ) -> Self {
        let some = match direction {
            Direction::Forward => from <= to,
            Direction::Backward => from >= to,
        };
        let next = some.then_some(from);
        Entries { database, list, memory, settled: None, reach, direction, next, end: to, run: None }
    }

    fn position_of(&mut self, number: u64) -> Result<Position, Error> {
        if let Some(position) = self.run.and_then(|run| run.position_of(number)) {
            return Ok(position);
        }
        self.run = self.find(number)?;
        let position = self.run.and_then(|run| run.position_of(number));
        position.ok_or_else(|| missing(self.list, number))
    }

    fn find(&mut self, number: u64) -> Result<Option<Run>, Error> {
        if let Some(run) = self.memory.find(number) {
            return Ok(Some(run));
        }
        match (&mut self.settled, self.direction) {
            (None, _) => self.settled.insert(self.database.runs(self.list, self.reach)).seek(number),
            (Some(settled), Direction::Forward) => settled.next(),
            (Some(settled), Direction::Backward) => settled.previous(),
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(u64, Position), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let number = self.next?;
        self.next = match self.direction {
            _ if number == self.end => None,
            Direction::Forward => Some(number + 1),
            Direction::Backward => Some(number - 1),
        };
        Some(self.position_of(number).map(|position| (number, position)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(entries: &[(u64, u64)]) -> Vec<Run> {
        let mut runs = Vec::new();
        for (number, position) in entries {
            Run::extend(&mut runs, *number, Position::new(*position));
        }
        runs
    }

    #[test]
    fn entries_with_consecutive_positions_share_a_run() {
        let runs = runs(&[(0, 5), (1, 6), (2, 7), (3, 9)]);
        assert_eq!(runs.iter().map(|run| (run.last, run.count)).collect::<Vec<_>>(), [(2, 3), (3, 1)]);
        assert_eq!(runs[0].position_of(0), Some(Position::new(5)));
        assert_eq!(runs[0].position_of(2), Some(Position::new(7)));
        assert_eq!(runs[0].position_of(3), None);
        assert_eq!(runs[1].position_of(2), None);
    }

    #[test]
    fn a_tombstone_never_joins_the_run_before_it() {
        assert_eq!(runs(&[(0, 1), (i64::MAX as u64, 2)]).len(), 2);
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let run = Run { last: 7, last_position: Position::new(1 << 40), count: 8 };
        assert_eq!(Run::decode(7, &run.encode()), Ok(run));
        assert!(Run::decode(6, &run.encode()).is_err(), "it would begin before number 0");
        let early = Run { last: 7, last_position: Position::new(3), count: 4 };
        assert!(Run::decode(7, &early.encode()).is_err(), "it would begin before position 1");
        assert!(Run::decode(7, &[0; 12]).is_err(), "it would be empty");
    }
}
