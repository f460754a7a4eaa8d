//! What is known of a stream without reading its events.

use crate::{Metadata, Revision};

/// The head of a stream. The head of a stream that was never touched is
/// [`Head::default`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The last event's revision; a tombstone does not count. Never goes back,
    /// whatever is truncated or deleted.
    pub last: Option<Revision>,
    /// Whether a tombstone ended the stream.
    pub tombstoned: bool,
    /// The stream's own metadata, as its metastream says.
    pub metadata: Metadata,
}

/// The state of a stream as the rules see it (protocol 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No event was ever written. Metadata may exist.
    Empty,
    /// Has events up to this revision.
    Live(Revision),
    /// Has events up to this revision, all deleted; can be appended to again.
    SoftDeleted(Revision),
    /// Ended for ever.
    Tombstoned,
}

impl Head {
    /// The state of the stream.
    pub fn state(&self) -> State {
        match self.last {
            _ if self.tombstoned => State::Tombstoned,
            None => State::Empty,
            Some(last) if self.metadata.hides_everything() => State::SoftDeleted(last),
            Some(last) => State::Live(last),
        }
    }

    /// The first revision that `$maxCount` and `$tb` leave visible. May lie
    /// beyond the last event. `$maxAge` is the reader's to apply.
    pub fn first_visible(&self) -> Revision {
        let kept = match (self.metadata.max_count, self.last) {
            (Some(count), Some(last)) => Revision::saturating((last.get() + 1).saturating_sub(count)),
            _ => Revision::FIRST,
        };
        kept.max(self.metadata.truncate_before.unwrap_or(Revision::FIRST))
    }
}
