//! What an append expects of a stream.

use std::fmt;

use crate::Revision;

/// The state a stream must be in for a command to be carried out (protocol
/// 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// No condition.
    Any,
    /// The stream has no event; a soft-deleted stream counts as such.
    NoStream,
    /// The stream exists.
    Exists,
    /// The stream is soft-deleted.
    SoftDeleted,
    /// The stream is tombstoned. Only a check can be satisfied by this.
    Tombstoned,
    /// The stream's last event has exactly this revision.
    Exactly(Revision),
}

impl Expected {
    /// The number by which the protocol names this expectation in texts,
    /// trailers and v2 messages (protocol 2.1).
    pub fn wire_number(self) -> i64 {
        match self {
            Expected::Any => -2,
            Expected::NoStream => -1,
            Expected::Exists => -4,
            Expected::SoftDeleted => -5,
            Expected::Tombstoned => -6,
            Expected::Exactly(revision) => i64::try_from(revision.get()).expect("a revision is at most 2^63 - 1"),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Any => f.write_str("any state"),
            Expected::NoStream => f.write_str("no stream"),
            Expected::Exists => f.write_str("an existing stream"),
            Expected::SoftDeleted => f.write_str("a soft-deleted stream"),
            Expected::Tombstoned => f.write_str("a tombstoned stream"),
            Expected::Exactly(revision) => write!(f, "revision {revision}"),
        }
    }
}
