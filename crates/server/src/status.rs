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

use std::fmt::Write as _;

use annals_core::filter::{self, TooCostly};
use annals_core::{Actual, EventId, Expected, Position, StreamName, Violation, event, stream_name};
use annals_proto::event_store::client as v1;
use annals_proto::google::rpc;
use annals_proto::kurrent::rpc as kurrent;
use annals_proto::kurrentdb::protocol::v2::streams::errors as v2;
use annals_raft::{AppendError, BarrierError};
use bytes::Bytes;
use prost::Message;
use prost_types::{Any, Duration};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
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

/// What is told in a v2 status besides the code and the text.
struct Rich {
    reason: &'static str,
    domain: &'static str,
    detail: Option<Any>,
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

    /// The status of a v1 call.
    pub(crate) fn v1(&self) -> Status {
        let mut trailers = MetadataMap::new();
        let mut put = |name: &'static str, value: &str| {
            trailers.insert(name, trailer(value));
        };
        let code = match self {
            Failure::Invalid { .. } | Failure::InvalidPosition | Failure::SessionTwice(_) | Failure::SessionEmpty => {
                Code::InvalidArgument
            }
            Failure::MissingMetadata => {
                put("exception", "missing-required-metadata-property");
                put("required-metadata-properties", "type,content-type");
                Code::InvalidArgument
            }
            Failure::MessageTooLarge(_)
            | Failure::TooManySubscriptions { .. }
            | Failure::TooManyCalls { .. }
            | Failure::DiskFull { .. } => Code::ResourceExhausted,
            Failure::AnswerTooLarge { .. } => Code::OutOfRange,
            Failure::Received { code, .. } => *code,
            Failure::EventTooLarge { id, size, max, .. } => {
                put("exception", "maximum-append-event-size-exceeded");
                put("maximum-append-event-size", &max.to_string());
                put("event-id", &id.to_string());
                put("proposed-append-event-size", &size.to_string());
                Code::InvalidArgument
            }
            Failure::AppendTooLarge { max, .. } => {
                put("exception", "maximum-append-size-exceeded");
                put("maximum-append-size", &max.to_string());
                Code::InvalidArgument
            }
            Failure::AccessDenied { .. } => {
                put("exception", "access-denied");
                Code::PermissionDenied
            }
            Failure::Unauthenticated => Code::Unauthenticated,
            Failure::UserNotFound(login) => {
                put("exception", "user-not-found");
                put("login-name", login);
                Code::NotFound
            }
            Failure::UserConflict(login) => {
                put("exception", "user-conflict");
                put("login-name", login);
                Code::FailedPrecondition
            }
            Failure::NotLeader { address, .. } => {
                put_leader(&mut trailers, address);
                Code::NotFound
            }
            Failure::NotReady | Failure::Overloaded | Failure::ShuttingDown => Code::Unavailable,
            Failure::TimedOut(_) | Failure::Stalled { .. } => Code::Aborted,
            Failure::Behind { .. } => Code::DeadlineExceeded,
            Failure::Conflict(violation) => {
                put("exception", "wrong-expected-version");
                put("stream-name", violation.stream.as_str());
                put("expected-version", &v1_number(violation.expected).to_string());
                put("actual-version", &last_number(violation.actual).to_string());
                Code::FailedPrecondition
            }
            Failure::Inconsistent(_) => Code::FailedPrecondition,
            Failure::StreamDeleted { stream, .. } => {
                put("exception", "stream-deleted");
                put("stream-name", stream.as_str());
                Code::FailedPrecondition
            }
            Failure::IndexNotFound(name) => {
                put("exception", "index-not-found");
                put("index-name", name);
                Code::NotFound
            }
            Failure::ScavengeNotFound(id) => {
                put("exception", "scavenge-not-found");
                put("scavenge-id", id);
                Code::NotFound
            }
            Failure::GroupFailed { name, why } => {
                put_group(&mut trailers, "persistent-subscription-failed", name);
                trailers.insert("reason", trailer(why));
                Code::Internal
            }
            Failure::GroupNotFound(name) => {
                put_group(&mut trailers, "persistent-subscription-does-not-exist", name);
                Code::NotFound
            }
            Failure::GroupExists(name) => {
                put_group(&mut trailers, "persistent-subscription-exists", name);
                Code::AlreadyExists
            }
            Failure::MaximumSubscribers(name) => {
                put_group(&mut trailers, "maximum-subscribers-reached", name);
                Code::FailedPrecondition
            }
            Failure::GroupDropped(name) => {
                put_group(&mut trailers, "persistent-subscription-dropped", name);
                Code::Cancelled
            }
            Failure::Broken => Code::Unknown,
            Failure::Decided { failure, .. } => return failure.v1(),
        };
        Status::with_metadata(code, self.message(), trailers)
    }

    /// The entry of a v1 batch, or none when the whole call must fail with
    /// [`Failure::v1`].
    pub(crate) fn entry(&self) -> Option<rpc::Status> {
        let (code, message, detail) = match self {
            // The client must go to another node with everything it has.
            Failure::NotLeader { .. } | Failure::ShuttingDown | Failure::Received { .. } | Failure::Unauthenticated => {
                return None;
            }
            Failure::Conflict(violation) => (
                Code::AlreadyExists,
                "WrongExpectedVersion".to_owned(),
                any("event_store.client.WrongExpectedVersion", &wrong_expected_version(violation)),
            ),
            Failure::StreamDeleted { stream, .. } => {
                let stream_identifier = Some(v1::StreamIdentifier { stream_name: stream.as_bytes().clone() });
                let detail = v1::StreamDeleted { stream_identifier };
                (Code::NotFound, "StreamDeleted".to_owned(), any("event_store.client.StreamDeleted", &detail))
            }
            Failure::AccessDenied { .. } => (
                Code::PermissionDenied,
                "AccessDenied".to_owned(),
                any("event_store.client.AccessDenied", &v1::AccessDenied {}),
            ),
            Failure::TimedOut(_) | Failure::Behind { .. } => {
                (Code::DeadlineExceeded, "Timeout".to_owned(), any("event_store.client.Timeout", &v1::Timeout {}))
            }
            Failure::AppendTooLarge { max, .. } => (
                Code::InvalidArgument,
                "MaximumAppendSizeExceeded".to_owned(),
                any(
                    "event_store.client.MaximumAppendSizeExceeded",
                    &v1::MaximumAppendSizeExceeded { max_append_size: saturated(*max) },
                ),
            ),
            Failure::EventTooLarge { id, size, max, .. } => (
                Code::InvalidArgument,
                "MaximumAppendEventSizeExceeded".to_owned(),
                any(
                    "event_store.client.MaximumAppendEventSizeExceeded",
                    &v1::MaximumAppendEventSizeExceeded {
                        event_id: id.to_string(),
                        proposed_event_size: saturated(*size),
                        max_append_event_size: saturated(*max),
                    },
                ),
            ),
            Failure::Invalid { .. }
            | Failure::MissingMetadata
            | Failure::InvalidPosition
            | Failure::MessageTooLarge(_)
            | Failure::SessionTwice(_)
            | Failure::SessionEmpty
            | Failure::IndexNotFound(_) => (
                Code::InvalidArgument,
                "BadRequest".to_owned(),
                any("event_store.client.BadRequest", &v1::BadRequest { message: self.message() }),
            ),
            Failure::NotReady | Failure::Overloaded => (Code::Unavailable, self.message(), empty()),
            Failure::TooManySubscriptions { .. }
            | Failure::TooManyCalls { .. }
            | Failure::DiskFull { .. }
            | Failure::AnswerTooLarge { .. } => (Code::ResourceExhausted, self.message(), empty()),
            Failure::Inconsistent(_) => (Code::FailedPrecondition, self.message(), empty()),
            // Neither is any about a read.
            Failure::Stalled { .. } => (Code::Aborted, self.message(), empty()),
            // No entry of a batch is about a group, an account or a scavenge.
            Failure::UserNotFound(_)
            | Failure::UserConflict(_)
            | Failure::GroupFailed { .. }
            | Failure::ScavengeNotFound(_)
            | Failure::GroupNotFound(_)
            | Failure::GroupExists(_)
            | Failure::MaximumSubscribers(_)
            | Failure::GroupDropped(_)
            | Failure::Broken => (Code::Internal, self.message(), empty()),
            Failure::Decided { failure, .. } => return failure.entry(),
        };
        Some(rpc::Status { code: code as i32, message, details: vec![detail] })
    }

    /// The status of a v2 call. `alone` is whether the cluster has only this
    /// node: a client then waits longer until it tries again.
    pub(crate) fn v2(&self, alone: bool) -> Status {
        let mut trailers = MetadataMap::new();
        let (code, rich) = match self {
            Failure::Invalid { field, why } => (Code::InvalidArgument, bad_request(field, why)),
            Failure::MissingMetadata | Failure::InvalidPosition | Failure::IndexNotFound(_) => {
                (Code::InvalidArgument, bad_request("", &self.message()))
            }
            Failure::MessageTooLarge(message) => (Code::ResourceExhausted, bad_request("message", message)),
            Failure::AnswerTooLarge { .. } => (Code::OutOfRange, server("SERVER_MALFUNCTION", None)),
            Failure::Received { code, .. } => (*code, server("SERVER_MALFUNCTION", None)),
            Failure::EventTooLarge { stream, id, size, max } => {
                let detail = v2::AppendRecordSizeExceededErrorDetails {
                    stream: Some(stream.to_string()),
                    record_id: Some(id.to_string()),
                    size: Some(saturated_i32(*size)),
                    max_size: Some(saturated_i32(*max)),
                };
                (Code::InvalidArgument, streams("APPEND_RECORD_SIZE_EXCEEDED", "AppendRecordSizeExceeded", &detail))
            }
            Failure::AppendTooLarge { size, max } => {
                let detail = v2::AppendTransactionSizeExceededErrorDetails {
                    size: Some(saturated_i32(*size)),
                    max_size: Some(saturated_i32(*max)),
                };
                let rich = streams("APPEND_TRANSACTION_SIZE_EXCEEDED", "AppendTransactionSizeExceeded", &detail);
                (Code::Aborted, rich)
            }
            Failure::TooManySubscriptions { .. } | Failure::Overloaded => {
                (Code::Unavailable, server("SERVER_OVERLOADED", retry(5)))
            }
            Failure::TooManyCalls { .. } => (Code::ResourceExhausted, server("SERVER_OVERLOADED", retry(1))),
            Failure::Stalled { .. } => (Code::Aborted, server("OPERATION_TIMEOUT", retry(1))),
            // No reason of the protocol says it; clients then act on the code.
            Failure::DiskFull { .. } => (Code::ResourceExhausted, server("SERVER_OVERLOADED", retry(5))),
            Failure::AccessDenied { operation, stream } => {
                let detail = kurrent::AccessDeniedErrorDetails {
                    operation: format!("{operation}:{stream}").to_lowercase(),
                    username: None,
                    permission: None,
                };
                let detail = any("kurrent.rpc.AccessDeniedErrorDetails", &detail);
                (Code::PermissionDenied, server("ACCESS_DENIED", Some(detail)))
            }
            Failure::NotLeader { node, address } => {
                put_leader(&mut trailers, address);
                let (host, port) = host_port(address);
                let detail = kurrent::NotLeaderNodeErrorDetails {
                    current_leader: Some(kurrent::not_leader_node_error_details::NodeInfo {
                        host: host.to_owned(),
                        port: port.parse().unwrap_or_default(),
                        node_id: Some(node.to_string()),
                    }),
                };
                let detail = any("kurrent.rpc.NotLeaderNodeErrorDetails", &detail);
                (Code::FailedPrecondition, server("NOT_LEADER_NODE", Some(detail)))
            }
            Failure::NotReady => (Code::Unavailable, server("SERVER_NOT_READY", retry(5))),
            Failure::ShuttingDown => {
                (Code::Unavailable, server("SERVER_SHUTTING_DOWN", retry(if alone { 5 } else { 1 })))
            }
            Failure::TimedOut(_) | Failure::Behind { .. } => {
                (Code::DeadlineExceeded, server("OPERATION_TIMEOUT", retry(1)))
            }
            Failure::Conflict(violation) => {
                let detail = v2::StreamRevisionConflictErrorDetails {
                    stream: Some(violation.stream.to_string()),
                    expected_revision: Some(violation.expected.wire_number()),
                    actual_revision: Some(last_number(violation.actual)),
                };
                (Code::FailedPrecondition, streams("STREAM_REVISION_CONFLICT", "StreamRevisionConflict", &detail))
            }
            Failure::Inconsistent(violations) => {
                let violations = violations.iter().map(consistency_violation).collect();
                let detail = v2::AppendConsistencyViolationErrorDetails { violations };
                (
                    Code::FailedPrecondition,
                    streams("APPEND_CONSISTENCY_VIOLATION", "AppendConsistencyViolation", &detail),
                )
            }
            Failure::StreamDeleted { stream, tombstoned: true } => {
                let detail = v2::StreamTombstonedErrorDetails { stream: Some(stream.to_string()) };
                (Code::FailedPrecondition, streams("STREAM_TOMBSTONED", "StreamTombstoned", &detail))
            }
            Failure::StreamDeleted { stream, tombstoned: false } => {
                let detail = v2::StreamDeletedErrorDetails { stream: Some(stream.to_string()) };
                (Code::FailedPrecondition, streams("STREAM_DELETED", "StreamDeleted", &detail))
            }
            Failure::SessionTwice(stream) => {
                let detail = v2::StreamAlreadyInAppendSessionErrorDetails { stream: Some(stream.to_string()) };
                (Code::Aborted, streams("STREAM_ALREADY_IN_APPEND_SESSION", "StreamAlreadyInAppendSession", &detail))
            }
            Failure::SessionEmpty => (
                Code::FailedPrecondition,
                Rich { reason: "APPEND_SESSION_NO_REQUESTS", domain: "streams", detail: None },
            ),
            Failure::Unauthenticated => {
                (Code::Unauthenticated, Rich { reason: "UNAUTHENTICATED", domain: "server", detail: None })
            }
            // The second generation has no groups, no accounts and no scavenges.
            Failure::UserNotFound(_)
            | Failure::UserConflict(_)
            | Failure::GroupFailed { .. }
            | Failure::ScavengeNotFound(_)
            | Failure::GroupNotFound(_)
            | Failure::GroupExists(_)
            | Failure::MaximumSubscribers(_)
            | Failure::GroupDropped(_)
            | Failure::Broken => (Code::Internal, server("SERVER_MALFUNCTION", None)),
            Failure::Decided { failure, .. } => return failure.v2(alone),
        };
        let message = self.v2_message();
        let info =
            rpc::ErrorInfo { reason: rich.reason.to_owned(), domain: rich.domain.to_owned(), ..Default::default() };
        let mut details = vec![any("google.rpc.ErrorInfo", &info)];
        details.extend(rich.detail);
        let status = rpc::Status { code: code as i32, message: message.clone(), details };
        Status::with_details_and_metadata(code, message, Bytes::from(status.encode_to_vec()), trailers)
    }

    fn v2_message(&self) -> String {
        match self {
            // The v1 text of a conflict speaks of a delete, because a client parses it.
            Failure::Conflict(Violation { stream, expected, actual, .. }) => {
                format!("Append failed: stream '{stream}' is {}, not {expected}.", describe(*actual))
            }
            other => other.message(),
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

/// A text as the value of a trailer, which holds only printable ASCII: other
/// names travel percent-encoded, those that need it not travel as they are,
/// because clients compare them.
pub(crate) fn trailer(text: &str) -> MetadataValue<Ascii> {
    let plain = |byte: u8| (0x20..=0x7e).contains(&byte);
    // Space around a value is not part of it in HTTP, and some clients drop
    // the whole answer over it.
    if text.bytes().all(plain) && text.trim_matches(' ') == text {
        return text.parse().expect("printable ASCII is a valid value");
    }
    let inner = text.trim_matches(' ');
    let before = text.len() - text.trim_start_matches(' ').len();
    let after = text.len() - before - inner.len();
    let mut encoded = "%20".repeat(before);
    encoded.reserve(inner.len() * 3);
    for byte in inner.bytes() {
        if plain(byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded.push_str(&"%20".repeat(after));
    encoded.parse().expect("printable ASCII is a valid value")
}

fn put_group(trailers: &mut MetadataMap, exception: &'static str, name: &GroupName) {
    trailers.insert("exception", trailer(exception));
    trailers.insert("stream-name", trailer(&name.source));
    trailers.insert("group-name", trailer(&name.group));
}

fn put_leader(trailers: &mut MetadataMap, address: &str) {
    let (host, port) = host_port(address);
    trailers.insert("exception", trailer("not-leader"));
    trailers.insert("leader-endpoint-host", trailer(host));
    trailers.insert("leader-endpoint-port", trailer(port));
}

/// Host and port of an address, an IPv6 host without its brackets.
fn host_port(address: &str) -> (&str, &str) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
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

/// The last revision, -1 where there is none.
fn last_number(actual: Actual) -> i64 {
    match actual {
        Actual::NoStream => -1,
        Actual::At(last) | Actual::SoftDeleted(last) => revision_number(last),
        Actual::Tombstoned => i64::MAX,
    }
}

fn revision_number(revision: annals_core::Revision) -> i64 {
    i64::try_from(revision.get()).expect("a revision is at most 2^63 - 1")
}

/// What was found, as a violation tells it. Java knows no number below -4, so
/// that -5 is told only where the last revision would explain nothing.
fn actual_state(expected: Expected, actual: Actual) -> i64 {
    match (actual, expected) {
        (Actual::SoftDeleted(_), Expected::Exists) => -5,
        (Actual::Tombstoned, _) => -6,
        (Actual::NoStream | Actual::At(_) | Actual::SoftDeleted(_), _) => last_number(actual),
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

fn consistency_violation(violation: &Violation) -> v2::ConsistencyViolation {
    use v2::consistency_violation::{StreamStateViolation, Type};
    v2::ConsistencyViolation {
        check_index: Some(i32::try_from(violation.target).unwrap_or(i32::MAX)),
        r#type: Some(Type::StreamState(StreamStateViolation {
            stream: Some(violation.stream.to_string()),
            expected_state: Some(violation.expected.wire_number()),
            actual_state: Some(actual_state(violation.expected, violation.actual)),
        })),
    }
}

fn wrong_expected_version(violation: &Violation) -> v1::WrongExpectedVersion {
    use v1::wrong_expected_version::{CurrentStreamRevisionOption as Current, ExpectedStreamPositionOption as Wanted};
    let current = match violation.actual.last() {
        Some(last) => Current::CurrentStreamRevision(last.get()),
        None => Current::CurrentNoStream(()),
    };
    let expected = match violation.expected {
        Expected::Any => Some(Wanted::ExpectedAny(())),
        Expected::NoStream => Some(Wanted::ExpectedNoStream(())),
        Expected::Exists => Some(Wanted::ExpectedStreamExists(())),
        Expected::Exactly(revision) => Some(Wanted::ExpectedStreamPosition(revision.get())),
        // Not expressible in v1, neither in the request.
        Expected::SoftDeleted | Expected::Tombstoned => None,
    };
    v1::WrongExpectedVersion {
        current_stream_revision_option: Some(current),
        expected_stream_position_option: expected,
    }
}

fn bad_request(field: &str, why: &str) -> Rich {
    let violation = rpc::bad_request::FieldViolation { field: field.to_owned(), description: why.to_owned() };
    let detail = any("google.rpc.BadRequest", &rpc::BadRequest { field_violations: vec![violation] });
    server("BAD_REQUEST", Some(detail))
}

fn server(reason: &'static str, detail: Option<Any>) -> Rich {
    Rich { reason, domain: "server", detail }
}

fn streams(reason: &'static str, name: &str, detail: &impl Message) -> Rich {
    let name = format!("kurrentdb.protocol.v2.streams.errors.{name}ErrorDetails");
    Rich { reason, domain: "streams", detail: Some(any(&name, detail)) }
}

fn retry(seconds: i64) -> Option<Any> {
    let delay = rpc::RetryInfo { retry_delay: Some(Duration { seconds, nanos: 0 }) };
    Some(any("google.rpc.RetryInfo", &delay))
}

fn empty() -> Any {
    any("google.protobuf.Empty", &())
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

fn saturated(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn saturated_i32(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use annals_core::Revision;

    use super::*;

    fn name(text: &str) -> StreamName {
        StreamName::new(text.to_owned()).expect("a valid name")
    }

    fn violation(stream: &str, expected: Expected, actual: Actual) -> Violation {
        Violation { target: 0, stream: name(stream), expected, actual }
    }

    fn at(revision: u64) -> Actual {
        Actual::At(Revision::saturating(revision))
    }

    fn exactly(revision: u64) -> Expected {
        Expected::Exactly(Revision::saturating(revision))
    }

    fn id() -> EventId {
        EventId::new("00112233-4455-6677-8899-aabbccddeeff".parse().expect("a UUID")).expect("not nil")
    }

    fn not_leader() -> Failure {
        Failure::NotLeader { node: 2, address: "node-2.example:2113".to_owned() }
    }

    fn too_large() -> Failure {
        Failure::EventTooLarge { stream: name("s"), id: id(), size: 20, max: 10 }
    }

    fn deleted(tombstoned: bool) -> Failure {
        Failure::StreamDeleted { stream: name("s"), tombstoned }
    }

    fn denied() -> Failure {
        Failure::AccessDenied { operation: "streams:write", stream: "$All".to_owned() }
    }

    fn conflict() -> Failure {
        Failure::Conflict(violation("s", exactly(3), at(7)))
    }

    /// One of each, so that a table cannot forget one unnoticed.
    fn all() -> Vec<Failure> {
        vec![
            Failure::invalid("field", "why"),
            Failure::MissingMetadata,
            Failure::InvalidPosition,
            Failure::MessageTooLarge("large".into()),
            Failure::Received { code: Code::Cancelled, message: "gone".into() },
            too_large(),
            Failure::AppendTooLarge { size: 20, max: 10 },
            Failure::TooManySubscriptions { max: 1, of_caller: false },
            Failure::TooManyCalls { per_second: 1 },
            denied(),
            not_leader(),
            Failure::NotReady,
            Failure::Overloaded,
            Failure::ShuttingDown,
            Failure::DiskFull { free: 5 },
            Failure::TimedOut("why".into()),
            Failure::Behind { wanted: Position::new(9), tail: Position::new(3) },
            conflict(),
            Failure::Inconsistent(vec![violation("s", exactly(3), at(7))]),
            deleted(true),
            deleted(false),
            Failure::SessionTwice(name("s")),
            Failure::SessionEmpty,
            Failure::IndexNotFound("$idx-x".into()),
            Failure::ScavengeNotFound("x".into()),
            Failure::Broken,
        ]
    }

    /// Code, message and trailers as the table in protocol 2.6 has them.
    fn assert_v1(failure: &Failure, code: Code, message: &str, trailers: &[(&str, &str)]) {
        let status = failure.v1();
        assert_eq!((status.code(), status.message()), (code, message), "{failure:?}");
        let mut found: Vec<(String, String)> = Vec::new();
        for entry in status.metadata().iter() {
            if let tonic::metadata::KeyAndValueRef::Ascii(key, value) = entry {
                found.push((key.to_string(), value.to_str().expect("ASCII").to_owned()));
            }
        }
        found.sort();
        let mut expected: Vec<_> =
            trailers.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        expected.sort();
        assert_eq!(found, expected, "{failure:?}");
        assert!(status.details().is_empty(), "Python trips over rich statuses of v1 calls");
    }

    #[test]
    fn v1_statuses_are_those_of_the_protocol() {
        assert_v1(
            &not_leader(),
            Code::NotFound,
            "Leader info available",
            &[
                ("exception", "not-leader"),
                ("leader-endpoint-host", "node-2.example"),
                ("leader-endpoint-port", "2113"),
            ],
        );
        assert_v1(&Failure::NotReady, Code::Unavailable, "Server Is Not Ready", &[]);
        assert_v1(&Failure::Overloaded, Code::Unavailable, "Server Is Too Busy", &[]);
        assert_v1(&Failure::ShuttingDown, Code::Unavailable, "Server Is Shutting Down", &[]);
        assert_v1(&denied(), Code::PermissionDenied, "Access Denied", &[("exception", "access-denied")]);
        assert_v1(&Failure::TimedOut("x".into()), Code::Aborted, "Operation timed out: x", &[]);
        assert_v1(
            &deleted(true),
            Code::FailedPrecondition,
            "Event stream 's' is deleted.",
            &[("exception", "stream-deleted"), ("stream-name", "s")],
        );
        assert_v1(
            &conflict(),
            Code::FailedPrecondition,
            "Delete failed due to WrongExpectedVersion. Stream: s, Expected version: 3, Actual version: 7",
            &[
                ("exception", "wrong-expected-version"),
                ("stream-name", "s"),
                ("expected-version", "3"),
                ("actual-version", "7"),
            ],
        );
        assert_v1(
            &Failure::AppendTooLarge { size: 20, max: 10 },
            Code::InvalidArgument,
            "The append exceeds the maximum of 10 bytes.",
            &[("exception", "maximum-append-size-exceeded"), ("maximum-append-size", "10")],
        );
        assert_v1(
            &too_large(),
            Code::InvalidArgument,
            "Event 00112233-4455-6677-8899-aabbccddeeff has 20 bytes, more than the maximum of 10.",
            &[
                ("exception", "maximum-append-event-size-exceeded"),
                ("maximum-append-event-size", "10"),
                ("event-id", "00112233-4455-6677-8899-aabbccddeeff"),
                ("proposed-append-event-size", "20"),
            ],
        );
        assert_v1(
            &Failure::MissingMetadata,
            Code::InvalidArgument,
            "Required metadata properties are missing: type,content-type",
            &[
                ("exception", "missing-required-metadata-property"),
                ("required-metadata-properties", "type,content-type"),
            ],
        );
        assert_v1(&Failure::invalid("f", "why"), Code::InvalidArgument, "why", &[]);
        assert_v1(&Failure::InvalidPosition, Code::InvalidArgument, "Trying to read from an invalid position.", &[]);
        assert_v1(
            &Failure::IndexNotFound("$idx-x".into()),
            Code::NotFound,
            "Index '$idx-x' is not found.",
            &[("exception", "index-not-found"), ("index-name", "$idx-x")],
        );
        assert_v1(
            &Failure::ScavengeNotFound("x".into()),
            Code::NotFound,
            "Scavenge 'x' is not running.",
            &[("exception", "scavenge-not-found"), ("scavenge-id", "x")],
        );
        assert_v1(&Failure::Broken, Code::Unknown, "Exception was thrown by handler.", &[]);
    }

    #[test]
    fn a_conflict_names_states_by_their_numbers() {
        for (expected, actual, text) in [
            (Expected::NoStream, at(2), "Expected version: -1, Actual version: 2"),
            (Expected::Any, Actual::NoStream, "Expected version: -2, Actual version: -1"),
            (Expected::Exists, Actual::NoStream, "Expected version: -4, Actual version: -1"),
            (exactly(0), Actual::SoftDeleted(Revision::saturating(5)), "Expected version: 0, Actual version: 5"),
        ] {
            let message = Failure::Conflict(violation("s", expected, actual)).message();
            assert_eq!(message, format!("Delete failed due to WrongExpectedVersion. Stream: s, {text}"));
        }
    }

    #[test]
    fn only_deletions_are_told_apart_from_conflicts() {
        let soft = Actual::SoftDeleted(Revision::FIRST);
        assert_eq!(Failure::refused(violation("s", Expected::Any, Actual::Tombstoned)), deleted(true));
        assert_eq!(Failure::refused(violation("s", Expected::Exists, soft)), deleted(false));
        for (expected, actual) in
            [(exactly(1), soft), (Expected::Exists, Actual::NoStream), (Expected::NoStream, at(0))]
        {
            assert!(matches!(Failure::refused(violation("s", expected, actual)), Failure::Conflict(_)));
        }
    }

    #[test]
    fn a_name_that_is_not_ascii_never_fails_a_call() {
        for (text, expected) in [
            ("plain name/with%41", "plain name/with%41"),
            ("größe", "gr%C3%B6%C3%9Fe"),
            ("100%-ü", "100%25-%C3%BC"),
            ("日本", "%E6%97%A5%E6%9C%AC"),
            ("", ""),
            (" two  spaces ", "%20two  spaces%20"),
            ("  ", "%20%20"),
        ] {
            assert_eq!(trailer(text), expected, "{text}");
        }
        let longest = "ü".repeat(256);
        let status = Failure::StreamDeleted { stream: name(&longest), tombstoned: true }.v1();
        assert_eq!(status.metadata().get("stream-name").expect("set").as_encoded_bytes().len(), 256 * 6);
    }

    #[test]
    fn the_leader_is_named_without_brackets() {
        let status = Failure::NotLeader { node: 1, address: "[::1]:2113".to_owned() }.v1();
        assert_eq!(status.metadata().get("leader-endpoint-host").expect("set"), "::1");
        assert_eq!(status.metadata().get("leader-endpoint-port").expect("set"), "2113");
    }

    #[test]
    fn entries_of_a_batch_have_exactly_one_detail() {
        for failure in all() {
            let Some(entry) = failure.entry() else {
                let ends_the_call =
                    matches!(failure, Failure::NotLeader { .. } | Failure::ShuttingDown | Failure::Received { .. });
                assert!(ends_the_call, "{failure:?}");
                continue;
            };
            assert_eq!(entry.details.len(), 1, "{failure:?}");
            assert_ne!(entry.code, 0, "{failure:?}: a failure is not OK");
        }
    }

    #[test]
    fn entries_of_a_batch_are_those_of_the_protocol() {
        for (failure, code, word) in [
            (conflict(), 6, "WrongExpectedVersion"),
            (deleted(true), 5, "StreamDeleted"),
            (deleted(false), 5, "StreamDeleted"),
            (denied(), 7, "AccessDenied"),
            (Failure::TimedOut("x".into()), 4, "Timeout"),
            (Failure::AppendTooLarge { size: 20, max: 10 }, 3, "MaximumAppendSizeExceeded"),
            (too_large(), 3, "MaximumAppendEventSizeExceeded"),
            (Failure::invalid("f", "why"), 3, "BadRequest"),
            (Failure::MissingMetadata, 3, "BadRequest"),
        ] {
            let entry = failure.entry().expect("an entry");
            assert_eq!((entry.code, entry.message.as_str()), (code, word));
            assert_eq!(entry.details[0].type_url, format!("type.googleapis.com/event_store.client.{word}"));
        }
        for failure in [Failure::NotReady, Failure::Overloaded] {
            let entry = failure.entry().expect("an entry");
            assert_eq!(
                (entry.code, entry.details[0].type_url.as_str()),
                (14, "type.googleapis.com/google.protobuf.Empty")
            );
        }
    }

    #[test]
    fn the_detail_of_a_batch_conflict_names_both_sides() {
        let entry = conflict().entry().expect("an entry");
        let detail = v1::WrongExpectedVersion::decode(entry.details[0].value.as_slice()).expect("the detail");
        assert_eq!(
            detail,
            v1::WrongExpectedVersion {
                current_stream_revision_option: Some(
                    v1::wrong_expected_version::CurrentStreamRevisionOption::CurrentStreamRevision(7)
                ),
                expected_stream_position_option: Some(
                    v1::wrong_expected_version::ExpectedStreamPositionOption::ExpectedStreamPosition(3)
                ),
            }
        );
    }

    fn rich(failure: &Failure) -> (Status, rpc::Status) {
        let status = failure.v2(false);
        let rich = rpc::Status::decode(status.details()).expect("a rich status");
        (status, rich)
    }

    #[test]
    fn a_rich_status_repeats_code_and_message_and_begins_with_its_reason() {
        for failure in all() {
            let (status, rich) = rich(&failure);
            assert_eq!((rich.code, rich.message.as_str()), (status.code() as i32, status.message()), "{failure:?}");
            assert_eq!(rich.details[0].type_url, "type.googleapis.com/google.rpc.ErrorInfo");
            assert!(rich.details.len() <= 2, "{failure:?}: Node reads the last");
        }
    }

    #[test]
    fn v2_statuses_are_those_of_the_protocol() {
        let errors = "kurrentdb.protocol.v2.streams.errors";
        let s = |name: &str| Some(format!("{errors}.{name}ErrorDetails"));
        let plain = |name: &str| Some(name.to_owned());
        let inconsistent = Failure::Inconsistent(vec![violation("s", exactly(3), at(7))]);
        for (failure, reason, domain, code, detail) in [
            (denied(), "ACCESS_DENIED", "server", 7, plain("kurrent.rpc.AccessDeniedErrorDetails")),
            (Failure::invalid("f", "w"), "BAD_REQUEST", "server", 3, plain("google.rpc.BadRequest")),
            (not_leader(), "NOT_LEADER_NODE", "server", 9, plain("kurrent.rpc.NotLeaderNodeErrorDetails")),
            (Failure::TimedOut("x".into()), "OPERATION_TIMEOUT", "server", 4, plain("google.rpc.RetryInfo")),
            (Failure::NotReady, "SERVER_NOT_READY", "server", 14, plain("google.rpc.RetryInfo")),
            (Failure::Overloaded, "SERVER_OVERLOADED", "server", 14, plain("google.rpc.RetryInfo")),
            (Failure::ShuttingDown, "SERVER_SHUTTING_DOWN", "server", 14, plain("google.rpc.RetryInfo")),
            (Failure::Broken, "SERVER_MALFUNCTION", "server", 13, None),
            (deleted(false), "STREAM_DELETED", "streams", 9, s("StreamDeleted")),
            (deleted(true), "STREAM_TOMBSTONED", "streams", 9, s("StreamTombstoned")),
            (conflict(), "STREAM_REVISION_CONFLICT", "streams", 9, s("StreamRevisionConflict")),
            (too_large(), "APPEND_RECORD_SIZE_EXCEEDED", "streams", 3, s("AppendRecordSizeExceeded")),
            (
                Failure::AppendTooLarge { size: 2, max: 1 },
                "APPEND_TRANSACTION_SIZE_EXCEEDED",
                "streams",
                10,
                s("AppendTransactionSizeExceeded"),
            ),
            (
                Failure::SessionTwice(name("s")),
                "STREAM_ALREADY_IN_APPEND_SESSION",
                "streams",
                10,
                s("StreamAlreadyInAppendSession"),
            ),
            (Failure::SessionEmpty, "APPEND_SESSION_NO_REQUESTS", "streams", 9, None),
            (inconsistent, "APPEND_CONSISTENCY_VIOLATION", "streams", 9, s("AppendConsistencyViolation")),
        ] {
            let (_, rich) = rich(&failure);
            let info = rpc::ErrorInfo::decode(rich.details[0].value.as_slice()).expect("ErrorInfo");
            assert_eq!((info.reason.as_str(), info.domain.as_str(), rich.code), (reason, domain, code));
            let told = rich.details.get(1).map(|detail| detail.type_url.clone());
            assert_eq!(told, detail.map(|name| format!("type.googleapis.com/{name}")), "{reason}");
        }
    }

    #[test]
    fn a_v2_call_to_the_wrong_node_has_the_trailers_of_v1_too() {
        let (status, rich) = rich(&not_leader());
        assert_eq!(status.metadata().get("exception").expect("set"), "not-leader");
        assert_eq!(status.metadata().get("leader-endpoint-host").expect("set"), "node-2.example");
        assert_eq!(status.metadata().get("leader-endpoint-port").expect("set"), "2113");
        let detail = kurrent::NotLeaderNodeErrorDetails::decode(rich.details[1].value.as_slice()).expect("the detail");
        let leader = detail.current_leader.expect("named");
        assert_eq!((leader.host.as_str(), leader.port, leader.node_id.as_deref()), ("node-2.example", 2113, Some("2")));
    }

    #[test]
    fn violations_tell_numbers_that_java_knows_wherever_they_explain_enough() {
        let soft = Actual::SoftDeleted(Revision::saturating(4));
        for (expected, actual, state) in [
            (exactly(3), at(7), 7),
            (Expected::NoStream, at(7), 7),
            (Expected::Exists, Actual::NoStream, -1),
            (Expected::Exists, soft, -5),
            (exactly(3), soft, 4),
            (Expected::Any, Actual::Tombstoned, -6),
            (Expected::SoftDeleted, at(2), 2),
        ] {
            assert_eq!(actual_state(expected, actual), state, "{expected:?} {actual:?}");
        }
    }

    #[test]
    fn only_an_unknown_append_is_told_as_a_timeout() {
        assert!(matches!(Failure::from(AppendError::Unknown("x".into())), Failure::TimedOut(_)));
        for error in [
            AppendError::NotLeader { leader: None },
            AppendError::NotLeader { leader: Some((1, "a:1".into())) },
            AppendError::Overloaded,
            AppendError::NotReady("x".into()),
            AppendError::ShuttingDown,
            AppendError::DiskFull { free: 1 },
            AppendError::TooLarge { bytes: 2, max: 1 },
        ] {
            let failure = Failure::from(error);
            assert!(!matches!(failure, Failure::TimedOut(_)), "{failure:?}");
            let told = [failure.v1().code(), failure.v2(true).code()];
            assert!(!told.contains(&Code::DeadlineExceeded), "{failure:?}");
        }
        assert_eq!(Failure::from(AppendError::NotLeader { leader: None }), Failure::NotReady);
    }

    #[test]
    fn what_was_not_received_is_the_clients_own_doing() {
        assert!(matches!(Failure::received(&Status::out_of_range("x")), Failure::MessageTooLarge(_)));
        assert!(matches!(Failure::received(&Status::internal("x")), Failure::Invalid { .. }));
        assert_eq!(Failure::received(&Status::cancelled("x")).v1().code(), Code::Cancelled);
    }
}
