//! Parked messages that are delivered again.
//!
//! Those that were parked when it was asked for are read in their order and go
//! before the events of the source. When the last of them is done they are dropped
//! from what is parked, all at once: a leader that is lost before begins none of it
//! again, and all are parked as they were. A message that fails once more is parked
//! anew, behind them.

use annals_core::Revision;
use annals_store::Store;

use super::definition::Definition;
use super::source::{self, Loaded};
use crate::grpc::streams::page::broken;
use crate::status::Failure;

/// A replay that is under way.
#[derive(Debug)]
pub(super) struct Replay {
    next: u64,
    end: u64,
    /// Something of it is under way: what follows waits.
    busy: bool,
}

/// What is to be done for a replay.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read the messages of `[from, end)`.
    Read {
        /// The first.
        from: u64,
        /// The one after the last.
        end: u64,
    },
    /// Drop what is parked below this revision: all of it is done.
    Drop(u64),
}

impl Replay {
    /// Replays the messages of `[first, end)`, if there is any.
    pub(super) fn begin(first: u64, end: u64) -> Option<Replay> {
        (first < end).then_some(Replay { next: first, end, busy: false })
    }

    /// What is to be done now, where the group has room for so many messages;
    /// `is_done` says whether all before a revision that were read are.
    pub(super) fn step(&mut self, room: usize, batch: usize, is_done: impl FnOnce(u64) -> bool) -> Option<Step> {
        if self.busy {
            return None;
        }
        let step = if self.next < self.end {
            let most = room.min(batch) as u64;
            (most > 0).then(|| Step::Read { from: self.next, end: self.end.min(self.next + most) })
        } else {
            is_done(self.end).then_some(Step::Drop(self.end))
        };
        self.busy = step.is_some();
        step
    }

    /// All before this revision were read.
    pub(super) fn read_to(&mut self, next: u64) {
        self.next = next;
        self.busy = false;
    }

    /// They could not be dropped yet.
    pub(super) fn not_dropped(&mut self) {
        self.busy = false;
    }
}

/// Parked messages of `[from, end)`, each with the event that it tells of; none where
/// that is gone. Blocking.
pub(super) fn read(
    store: &Store,
    definition: &Definition,
    from: u64,
    end: u64,
) -> Result<Vec<(u64, Option<Loaded>)>, Failure> {
    let Some(parked) = definition.name.parked() else { return Ok(Vec::new()) };
    let mut messages = Vec::new();
    for at in from..end {
        let record = store.record_at(&parked, Revision::saturating(at)).map_err(|error| broken(&error))?;
        let loaded = match record {
            Some(record) => source::unpark(store, definition, &record.data())?,
            None => None,
        };
        messages.push((at, loaded));
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_read_as_there_is_room_and_dropped_when_they_are_done() {
        assert!(Replay::begin(4, 4).is_none());
        let mut replay = Replay::begin(4, 9).expect("five messages");
        assert_eq!(replay.step(3, 20, |_| true), Some(Step::Read { from: 4, end: 7 }));
        assert_eq!(replay.step(3, 20, |_| true), None, "one thing at a time");
        replay.read_to(7);
        assert_eq!(replay.step(0, 20, |_| true), None, "no room");
        assert_eq!(replay.step(9, 20, |_| true), Some(Step::Read { from: 7, end: 9 }));
        replay.read_to(9);
        assert_eq!(replay.step(9, 20, |_| false), None, "some are with consumers");
        assert_eq!(replay.step(9, 20, |before| before == 9), Some(Step::Drop(9)));
        replay.not_dropped();
        assert_eq!(replay.step(9, 20, |_| true), Some(Step::Drop(9)), "again");
    }
}
