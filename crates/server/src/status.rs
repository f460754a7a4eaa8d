//! What a client reads when a call does not succeed.
//!
//! Handlers answer with a [`Failure`], which says what happened in our words.
//! Only this module knows what the three generations of clients decide by:
//!
//! - **v1 calls**: the trailer `exception`, then further trailers, then the
//!   code; a few clients compare the message text (protocol 2.6).
//! - **entries of a v1 batch**: a `google.rpc.Status` with exactly one detail
//!   (protocol 2.5).
//! - **v2 calls**: a rich status whose details are `[ErrorInfo, specific]` in
//!   this order (protocol 2.9), with the v1 trailers about the leader besides,
//!   because half of the clients read only those.
//!
//! The promise behind the codes: [`Failure::TimedOut`] means that an append
//! may have been carried out; every other failure of an append means that it
//! was not and never will be.

mod batch;
mod v1;
mod v2;

use std::fmt::Write as _;

use annals_core::filter::{self, TooCostly};
use annals_core::{Actual, EventId, Expected, Position, StreamName, Violation, event, stream_name};
use annals_raft::{AppendError, BarrierError};
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};

use crate::groups::GroupName;
use crate::grpc::streams::feed::Reached;

/// Characters of a reason that is sent back.
const WHY_CHARS_MAX: usize = 500;

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request is not one, and never will be.
    Invalid {
        /// The part of the request, such as `records[2].schema.name`.
        field: String,
        /// What is wrong with it, for a person.
        why: String,
    },
    /// An event of a v1 append lacks `type` or `content-type`.
    MissingMetadata,
    /// A position that cannot be one.
    InvalidPosition,
    /// A message exceeds what is received.
    MessageTooLarge(String),
    /// The call's own messages could not be received any more.
    Received {
        /// As the connection says.
        code: Code,
        /// As the connection says.
        message: String,
    },
    /// An event exceeds the limit of one event.
    EventTooLarge {
        /// Where it was to go.
        stream: StreamName,
        /// Its id.
        id: EventId,
        /// Its bytes.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// All events of an append together exceed the limit.
    AppendTooLarge {
        /// Their bytes, as far as they were counted.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// An answer exceeds what clients receive.
    AnswerTooLarge {
        /// Its bytes.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// No more subscriptions are taken.
    TooManySubscriptions {
        /// The limit.
        max: usize,
        /// Whether it is one caller's, else this node's.
        of_caller: bool,
    },
    /// A reader took nothing of what was ready for it.
    Stalled {
        /// For so long.
        timeout: std::time::Duration,
        /// Up to where a subscriber was sent everything.
        reached: Option<Reached>,
    },
    /// The caller calls too often.
    TooManyCalls {
        /// The limit.
        per_second: u64,
    },
    /// Not allowed.
    AccessDenied {
        /// What was attempted, as in `streams:write`.
        operation: &'static str,
        /// On which stream; empty where it was on none.
        stream: String,
    },
    /// The credentials prove nothing, or not any more.
    Unauthenticated,
    /// There is no account of this name.
    UserNotFound(String),
    /// There is an account of this name already, or it changed meanwhile.
    UserConflict(String),
    /// The client wants the leader, and that is another node.
    NotLeader {
        /// The leader's id.
        node: u64,
        /// Its advertised `host:port`.
        address: String,
    },
    /// There is no leader, or this node does not take part yet.
    NotReady,
    /// Too much is waiting.
    Overloaded,
    /// The process is about to stop.
    ShuttingDown,
    /// The leader's disk is nearly full.
    DiskFull {
        /// Bytes that are left.
        free: u64,
    },
    /// The fate of an append is unknown: it may be carried out or not.
    TimedOut(String),
    /// This node did not reach a position that the client wants to read from.
    Behind {
        /// What the client wants.
        wanted: Position,
        /// Where this node is.
        tail: Position,
    },
    /// A stream was not as expected.
    Conflict(Violation),
    /// Streams were not as the checks of an append say.
    Inconsistent(Vec<Violation>),
    /// A stream that was deleted and therefore cannot be used like this.
    StreamDeleted {
        /// The stream.
        stream: StreamName,
        /// For ever; otherwise it was expected to exist and is soft-deleted.
        tombstoned: bool,
    },
    /// A session names a stream twice.
    SessionTwice(StreamName),
    /// A session names no stream.
    SessionEmpty,
    /// A name that begins as an index and is none.
    IndexNotFound(String),
    /// No such scavenge runs. Empty where any was meant.
    ScavengeNotFound(String),
    /// A consumer group cannot be what is asked for.
    GroupFailed {
        /// Which.
        name: GroupName,
        /// Why not.
        why: String,
    },
    /// There is no such consumer group.
    GroupNotFound(GroupName),
    /// There is such a consumer group already.
    GroupExists(GroupName),
    /// A consumer group has as many consumers as it may have.
    MaximumSubscribers(GroupName),
    /// A consumer is sent away because its group was changed.
    GroupDropped(GroupName),
    /// This node could not do its work. The cause is in its log.
    Broken,
    /// Decided by what is in the log up to this position.
    Decided {
        /// The position.
        as_of: Position,
        /// What was decided.
        failure: Box<Failure>,
    },
}

impl Failure {
    /// A request that is none.
    pub(crate) fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        let mut why = why.into();
        // It may name what the client sent, which may be megabytes.
        if let Some((end, _)) = why.char_indices().nth(WHY_CHARS_MAX) {
            why.truncate(end);
            why.push('…');
        }
        Failure::Invalid { field: field.into(), why }
    }

    /// A failure of this node itself, told to the operator here, because a
    /// client is told nothing of it.
    pub(crate) fn broken(attempt: &'static str, error: &dyn std::error::Error) -> Self {
        let mut causes = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let _ = write!(causes, ": {cause}");
            source = cause.source();
        }
        tracing::error!(attempt, error = causes, "a call failed");
        Failure::Broken
    }

    /// What became of a request that could not be received in full.
    pub(crate) fn received(status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            // tonic's code for a message above the limit; clients expect 8 (protocol 1.0).
            Code::OutOfRange | Code::ResourceExhausted => Failure::MessageTooLarge(message),
            // Bytes that are no message. INTERNAL would send Rust clients to another node.
            Code::Internal => Failure::invalid("message", message),
            code => Failure::Received { code, message },
        }
    }

    /// The refusal of a command for a single stream, where it is no conflict.
    pub(crate) fn refused(violation: Violation) -> Self {
        match (violation.actual, violation.expected) {
            (Actual::Tombstoned, _) => Failure::StreamDeleted { stream: violation.stream, tombstoned: true },
            (Actual::SoftDeleted(_), Expected::Exists) => {
                Failure::StreamDeleted { stream: violation.stream, tombstoned: false }
            }
            (Actual::NoStream | Actual::At(_) | Actual::SoftDeleted(_), _) => Failure::Conflict(violation),
        }
    }

    /// Decided by what is in the log up to this position.
    pub(crate) fn decided(self, as_of: Position) -> Self {
        Failure::Decided { as_of, failure: Box::new(self) }
    }

    /// The position as of which it was decided, where it matters.
    pub(crate) fn as_of(&self) -> Option<Position> {
        match self {
            Failure::Decided { as_of, .. } => Some(*as_of),
            _ => None,
        }
    }

    /// The bounded word by which metrics count it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Failure::Invalid { .. } | Failure::MissingMetadata | Failure::InvalidPosition | Failure::SessionEmpty => {
                "invalid"
            }
            Failure::MessageTooLarge(_)
            | Failure::EventTooLarge { .. }
            | Failure::AppendTooLarge { .. }
            | Failure::AnswerTooLarge { .. } => "too_large",
            Failure::Received { .. } => "not_received",
            Failure::TooManySubscriptions { .. } | Failure::Overloaded => "overloaded",
            Failure::TooManyCalls { .. } => "rate_limited",
            Failure::Stalled { .. } => "stalled",
            Failure::AccessDenied { .. } => "access_denied",
            Failure::Unauthenticated => "unauthenticated",
            Failure::UserConflict(_) => "invalid",
            Failure::NotLeader { .. } => "not_leader",
            Failure::NotReady => "not_ready",
            Failure::ShuttingDown => "shutting_down",
            Failure::DiskFull { .. } => "disk_full",
            Failure::TimedOut(_) => "timed_out",
            Failure::Behind { .. } => "behind",
            Failure::Conflict(_) | Failure::Inconsistent(_) => "wrong_expected_version",
            Failure::StreamDeleted { .. } => "stream_deleted",
            Failure::SessionTwice(_) => "invalid",
            Failure::IndexNotFound(_)
            | Failure::ScavengeNotFound(_)
            | Failure::GroupNotFound(_)
            | Failure::UserNotFound(_) => "not_found",
            Failure::GroupFailed { .. } | Failure::GroupExists(_) => "invalid",
            Failure::MaximumSubscribers(_) => "overloaded",
            Failure::GroupDropped(_) => "dropped",
            Failure::Broken => "broken",
            Failure::Decided { failure, .. } => failure.label(),
        }
    }

    /// The text for a person; in some cases for a client that parses it.
    pub(crate) fn message(&self) -> String {
        match self {
            Failure::Invalid { why, .. } => why.clone(),
            Failure::MissingMetadata => "Required metadata properties are missing: type,content-type".to_owned(),
            Failure::InvalidPosition => "Trying to read from an invalid position.".to_owned(),
            Failure::MessageTooLarge(message) | Failure::Received { message, .. } => message.clone(),
            Failure::EventTooLarge { id, size, max, .. } => {
                format!("Event {id} has {size} bytes, more than the maximum of {max}.")
            }
            Failure::AppendTooLarge { max, .. } => format!("The append exceeds the maximum of {max} bytes."),
            Failure::AnswerTooLarge { size, max } => {
                format!("An answer has {size} bytes, more than the maximum of {max}.")
            }
            Failure::TooManySubscriptions { max, of_caller: false } => {
                format!("This node serves at most {max} subscriptions.")
            }
            Failure::TooManySubscriptions { max, of_caller: true } => {
                format!("One caller has at most {max} subscriptions on this node.")
            }
            Failure::Stalled { timeout, reached } => {
                let text = format!("Nothing was taken for {} ms, so this call was ended.", timeout.as_millis());
                match reached {
                    Some(reached) => format!("{text} Everything up to {reached} was sent."),
                    None => text,
                }
            }
            Failure::TooManyCalls { per_second } => {
                format!("One caller makes at most {per_second} calls per second on this node.")
            }
            Failure::AccessDenied { .. } => "Access Denied".to_owned(),
            Failure::Unauthenticated => "Unauthenticated".to_owned(),
            Failure::UserNotFound(login) => format!("User '{login}' is not found."),
            Failure::UserConflict(login) => format!("User '{login}' exists, or has just been changed."),
            Failure::NotLeader { .. } => "Leader info available".to_owned(),
            Failure::NotReady => "Server Is Not Ready".to_owned(),
            Failure::Overloaded => "Server Is Too Busy".to_owned(),
            Failure::ShuttingDown => "Server Is Shutting Down".to_owned(),
            Failure::DiskFull { free } => {
                format!("Appends are refused: the disk of the leader has only {free} bytes left.")
            }
            Failure::TimedOut(detail) => format!("Operation timed out: {detail}"),
            Failure::Behind { wanted, tail } => {
                format!("This node is at position {tail} and did not reach position {wanted} in time.")
            }
            Failure::Conflict(Violation { stream, expected, actual, .. }) => format!(
                "Delete failed due to WrongExpectedVersion. Stream: {stream}, Expected version: {}, Actual version: {}",
                v1_number(*expected),
                last_number(*actual)
            ),
            Failure::Inconsistent(violations) => {
                let mut text = "The append was refused:".to_owned();
                for (at, Violation { stream, expected, actual, .. }) in violations.iter().take(8).enumerate() {
                    let separator = if at == 0 { "" } else { ";" };
                    let _ = write!(text, "{separator} stream '{stream}' is {}, not {expected}", describe(*actual));
                }
                text
            }
            Failure::StreamDeleted { stream, .. } => format!("Event stream '{stream}' is deleted."),
            Failure::SessionTwice(stream) => format!("Stream '{stream}' is already part of this append session."),
            Failure::SessionEmpty => "The append session has no requests.".to_owned(),
            Failure::IndexNotFound(name) => format!("Index '{name}' is not found."),
            Failure::ScavengeNotFound(id) if id.is_empty() => "No scavenge is running.".to_owned(),
            Failure::ScavengeNotFound(id) => format!("Scavenge '{id}' is not running."),
            Failure::GroupFailed { name, why } => {
                format!("Subscription group {} on stream {} failed: '{why}'", name.group, name.source)
            }
            Failure::GroupNotFound(name) => {
                format!("Subscription group {} on stream {} does not exist.", name.group, name.source)
            }
            Failure::GroupExists(name) => {
                format!("Subscription group {} on stream {} exists.", name.group, name.source)
            }
            // Python compares how this text begins.
            Failure::MaximumSubscribers(name) => {
                format!(
                    "Maximum subscriptions reached for subscription group {} on stream {}.",
                    name.group, name.source
                )
            }
            Failure::GroupDropped(name) => {
                format!("Subscription group {} on stream {} was dropped.", name.group, name.source)
            }
            // Python compares this text.
            Failure::Broken => "Exception was thrown by handler.".to_owned(),
            Failure::Decided { failure, .. } => failure.message(),
        }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NotLeader { leader } => Failure::from_leader(leader),
            AppendError::Overloaded => Failure::Overloaded,
            AppendError::NotReady(_) => Failure::NotReady,
            AppendError::ShuttingDown => Failure::ShuttingDown,
            AppendError::DiskFull { free } => Failure::DiskFull { free },
            AppendError::TooLarge { bytes, max } => Failure::AppendTooLarge { size: bytes, max },
            AppendError::Unknown(why) => Failure::TimedOut(why),
        }
    }
}

impl From<BarrierError> for Failure {
    fn from(error: BarrierError) -> Self {
        match error {
            BarrierError::NotLeader { leader } => Failure::from_leader(leader),
            // Not confirmed by a quorum: a client should look for a node that is.
            BarrierError::NoLeader | BarrierError::TimedOut => Failure::NotReady,
            BarrierError::ShuttingDown => Failure::ShuttingDown,
        }
    }
}

impl Failure {
    /// Not the leader. Without a leader to name, the protocol would have
    /// UNKNOWN; UNAVAILABLE makes all clients look for one, which is right
    /// during an election.
    pub(crate) fn from_leader(leader: Option<(u64, String)>) -> Self {
        match leader {
            Some((node, address)) => Failure::NotLeader { node, address },
            None => Failure::NotReady,
        }
    }
}

impl From<stream_name::Invalid> for Failure {
    fn from(invalid: stream_name::Invalid) -> Self {
        Failure::invalid("stream", invalid.to_string())
    }
}

impl From<event::InvalidType> for Failure {
    fn from(invalid: event::InvalidType) -> Self {
        Failure::invalid("type", invalid.to_string())
    }
}

impl From<filter::Invalid> for Failure {
    fn from(invalid: filter::Invalid) -> Self {
        Failure::invalid("filter", invalid.to_string())
    }
}

impl From<TooCostly> for Failure {
    fn from(costly: TooCostly) -> Self {
        Failure::invalid("filter", costly.to_string())
    }
}

/// The number of an expectation in v1 texts and trailers (protocol 2.1).
fn v1_number(expected: Expected) -> i64 {
    match expected {
        Expected::Tombstoned => i64::MAX,
        Expected::Any | Expected::NoStream | Expected::Exists | Expected::SoftDeleted | Expected::Exactly(_) => {
            expected.wire_number()
        }
    }
}

fn describe(actual: Actual) -> String {
    match actual {
        Actual::NoStream => "not there".to_owned(),
        Actual::At(last) => format!("at revision {last}"),
        Actual::SoftDeleted(last) => format!("soft-deleted at revision {last}"),
        Actual::Tombstoned => "tombstoned".to_owned(),
    }
}

fn revision_number(revision: annals_core::Revision) -> i64 {
    i64::try_from(revision.get()).expect("a revision is at most 2^63 - 1")
}

/// Host and port of an address, an IPv6 host without its brackets.
fn host_port(address: &str) -> (&str, &str) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

/// The last revision, -1 where there is none.
fn last_number(actual: Actual) -> i64 {
    match actual {
        Actual::NoStream => -1,
        Actual::At(last) | Actual::SoftDeleted(last) => revision_number(last),
        Actual::Tombstoned => i64::MAX,
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests;
