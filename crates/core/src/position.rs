//! A place in the whole log.

use std::fmt;

/// A place in the global order of events. Dense: the first event has position
/// 1, each following one exactly one more. 0 means "before the first event"
/// and is never an event's own position, so that a subscription *after* 0
/// misses nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// Before the first event.
    pub const START: Position = Position(0);

    /// The position with this number.
    pub const fn new(number: u64) -> Self {
        Position(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position of the event that follows.
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The position `count` events further.
    pub fn plus(self, count: u64) -> Self {
        Position(self.0.checked_add(count).expect("2^64 events are out of reach"))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
