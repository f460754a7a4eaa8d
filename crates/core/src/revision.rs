//! A place in one stream.

use std::fmt;

/// A place in one stream. Dense: the first event of a stream has revision 0.
/// The last number of all, [`Revision::TOMBSTONE`], belongs to the event that
/// ends a stream for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// The first event of a stream.
    pub const FIRST: Revision = Revision(0);
    /// The revision of a tombstone, 2^63 - 1 as on the wire (protocol 2.7).
    pub const TOMBSTONE: Revision = Revision(i64::MAX as u64);

    /// The revision with this number, or none above [`Revision::TOMBSTONE`].
    pub const fn new(number: u64) -> Option<Self> {
        if number <= Self::TOMBSTONE.0 { Some(Revision(number)) } else { None }
    }

    /// The revision with this number, or [`Revision::TOMBSTONE`] where the
    /// number lies beyond: for bounds, where "beyond every event" is enough.
    pub const fn saturating(number: u64) -> Self {
        if number <= Self::TOMBSTONE.0 { Revision(number) } else { Self::TOMBSTONE }
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision that follows.
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The revision `count` events further. Stops at [`Revision::TOMBSTONE`].
    pub fn plus(self, count: u64) -> Self {
        Self::saturating(self.0.saturating_add(count))
    }

    /// The revision that follows `last`, or the first one.
    pub fn after(last: Option<Revision>) -> Self {
        last.map_or(Self::FIRST, Revision::next)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
