//! Entries of a batch of the first generation: a code and exactly one detail (protocol 2.5).

use annals_core::{Expected, Violation};
use annals_proto::event_store::client as v1;
use annals_proto::google::rpc;
use prost_types::Any;
use tonic::Code;

use super::{Failure, any};

impl Failure {
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

fn empty() -> Any {
    any("google.protobuf.Empty", &())
}

fn saturated(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
