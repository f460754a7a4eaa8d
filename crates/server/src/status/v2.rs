//! Rich statuses of the second generation: `[ErrorInfo, specific]` (protocol 2.9).

use annals_core::{Actual, Expected, Violation};
use annals_proto::google::rpc;
use annals_proto::kurrent::rpc as kurrent;
use annals_proto::kurrentdb::protocol::v2::streams::errors as v2;
use bytes::Bytes;
use prost::Message;
use prost_types::{Any, Duration};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::v1::put_leader;
use super::{Failure, any, describe, host_port, last_number};

/// What is told in a v2 status besides the code and the text.
struct Rich {
    reason: &'static str,
    domain: &'static str,
    detail: Option<Any>,
}

impl Failure {
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

/// What was found, as a violation tells it. Java knows no number below -4, so
/// that -5 is told only where the last revision would explain nothing.
pub(super) fn actual_state(expected: Expected, actual: Actual) -> i64 {
    match (actual, expected) {
        (Actual::SoftDeleted(_), Expected::Exists) => -5,
        (Actual::Tombstoned, _) => -6,
        (Actual::NoStream | Actual::At(_) | Actual::SoftDeleted(_), _) => last_number(actual),
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

fn saturated_i32(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
