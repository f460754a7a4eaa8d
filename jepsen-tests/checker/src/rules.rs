//! What a write may do to a stream in a given state: the rules of the
//! protocol, told again without a look at the server's code.
//!
//! | expected | never written | live at m | deleted softly at m | tombstone |
//! |---|---|---|---|---|
//! | any | yes | yes | yes | no |
//! | no stream | yes | no | yes | no |
//! | exists | only if it has metadata | yes | no | no |
//! | revision n | no | n = m | n = m | no |

use crate::history::{Current, Expected, Reason, Retention};

/// The revision of a tombstone, and the truncation that hides everything.
pub(crate) const LAST_OF_ALL: u64 = i64::MAX as u64;

/// Whether the server itself writes to a stream of this name, by what it does
/// for consumer groups and when it is told of a backup.
pub(crate) fn is_bookkeeping(stream: &str) -> bool {
    let plain = stream.strip_prefix("$$").filter(|plain| plain.starts_with('$')).unwrap_or(stream);
    matches!(plain, "$persistentSubscriptionConfig" | "$backups") || plain.starts_with("$persistentsubscription-")
}

/// What a stream is like for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No event was ever written; it may have metadata.
    Empty {
        /// Whether it has.
        metadata: bool,
    },
    /// Has events up to this revision.
    Live(u64),
    /// Has events up to this revision, all hidden by a soft delete.
    Soft(u64),
    /// Has ended.
    Tombstoned,
}

impl State {
    /// The state of a stream with so many events.
    pub(crate) fn of(count: u64, metadata: Option<Retention>, tombstoned: bool) -> State {
        match count.checked_sub(1) {
            _ if tombstoned => State::Tombstoned,
            None => State::Empty { metadata: metadata.is_some() },
            Some(last) if hides_everything(metadata) => State::Soft(last),
            Some(last) => State::Live(last),
        }
    }
}

/// Whether this metadata is that of a soft delete.
pub(crate) fn hides_everything(metadata: Option<Retention>) -> bool {
    metadata.is_some_and(|retention| retention.truncate_before == Some(LAST_OF_ALL))
}

/// Metadata as the server understands it: numbers below 1 and beyond all
/// revisions count as absent.
pub(crate) fn understood(sets: Option<Retention>) -> Retention {
    let Retention { max_count, truncate_before } = sets.unwrap_or_default();
    let sane = |number: &u64| (1..=LAST_OF_ALL).contains(number);
    Retention { max_count: max_count.filter(sane), truncate_before: truncate_before.filter(sane) }
}

/// The first revision that can be read of a stream with so many events.
pub(crate) fn first_visible(count: u64, metadata: Option<Retention>) -> u64 {
    let Retention { max_count, truncate_before } = metadata.unwrap_or_default();
    let kept = max_count.map_or(0, |max| count.saturating_sub(max));
    kept.max(truncate_before.unwrap_or(0))
}

/// What wants to be done to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Events are appended.
    Append,
    /// It is deleted softly.
    SoftDelete,
    /// It is ended.
    HardDelete,
}

/// Whether a stream in this state lets it happen.
pub(crate) fn allows(state: State, deed: Deed, expected: Expected) -> bool {
    let as_expected = match (expected, state) {
        (_, State::Tombstoned) => false,
        (Expected::Any, State::Empty { .. } | State::Live(_) | State::Soft(_)) => true,
        (Expected::NoStream, State::Empty { .. } | State::Soft(_)) => true,
        (Expected::NoStream, State::Live(_)) => false,
        (Expected::Exists, State::Empty { metadata }) => metadata,
        (Expected::Exists, State::Live(_)) => true,
        (Expected::Exists, State::Soft(_)) => false,
        (Expected::Revision(_), State::Empty { .. }) => false,
        (Expected::Revision(revision), State::Live(last) | State::Soft(last)) => revision == last,
    };
    match (deed, state) {
        (Deed::Append, _) => as_expected,
        // There is nothing to delete where there is nothing at all.
        (Deed::SoftDelete, State::Empty { metadata }) => metadata && !matches!(expected, Expected::Revision(_)),
        (Deed::SoftDelete, _) => as_expected,
        // What is deleted softly may be ended also by one who says it exists.
        (Deed::HardDelete, State::Soft(_)) if expected == Expected::Exists => true,
        (Deed::HardDelete, _) => as_expected,
    }
}

/// Whether a stream in this state, which does not let something happen, is
/// told by this reason. In the first version of the protocol, one who expects
/// a stream to exist is told of a soft delete in the words of a tombstone.
pub(crate) fn tells(reason: &Reason, state: State, expected: Expected) -> bool {
    match (reason, state) {
        (Reason::Tombstoned { .. }, State::Tombstoned) => true,
        (Reason::Tombstoned { .. }, State::Soft(_)) => expected == Expected::Exists,
        (Reason::Tombstoned { .. }, State::Empty { .. } | State::Live(_)) => false,
        // Nothing is said but that it is not as expected, which is true of what has ended.
        (Reason::WrongExpectation { current: None, .. }, _) => true,
        (Reason::WrongExpectation { current: Some(_), .. }, State::Tombstoned) => false,
        (Reason::WrongExpectation { current: Some(current), .. }, State::Empty { .. }) => *current == Current::NoStream,
        (Reason::WrongExpectation { current: Some(current), .. }, State::Live(last)) => {
            *current == Current::Revision(last)
        }
        (Reason::WrongExpectation { current: Some(current), .. }, State::Soft(last)) => {
            *current == Current::NoStream || *current == Current::Revision(last)
        }
        // These do not depend on a stream.
        (Reason::Invalid { .. } | Reason::NotTaken { .. }, _) => true,
    }
}
