//! What an answer means: `docs/consistency.md` as code.
//!
//! A write counts as refused only where that page says so, and only when the
//! server itself said it: a status that was made up on this side, such as for
//! a broken connection, has a source, and is never a refusal whatever its
//! code.

use std::error::Error as _;
use std::sync::Arc;

use annals_checker::history::{Current, Outcome, Reason};
use annals_proto::event_store::client as v1;
use annals_proto::google::rpc;
use annals_proto::kurrentdb::protocol::v2::streams::errors as v2;
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::{Done, Draft};
use crate::wire::Contact;

/// The numbers by which v2 tells the state of a stream that has no last
/// revision to tell.
const NO_STREAM: i64 = -1;
const SOFT_DELETED: i64 = -5;
const TOMBSTONED: i64 = -6;

/// What a status of `Append`, `Delete` or `Tombstone` means.
pub(super) fn v1_write(status: &Status, stream: &Arc<str>) -> Done {
    let reason = if status.source().is_some() { None } else { v1_reason(status, stream) };
    done(status, reason)
}

/// What a status of `AppendSession` or `AppendRecords` means.
pub(super) fn v2_write(status: &Status, drafts: &[Draft]) -> Done {
    let reason = if status.source().is_some() { None } else { v2_reason(status, drafts) };
    done(status, reason)
}

/// What the end of a `BatchAppend` means for what it had not answered.
pub(super) fn batch_end(status: &Status) -> Done {
    done(status, None)
}

fn done(status: &Status, reason: Option<Reason>) -> Done {
    let outcome = match reason {
        Some(reason) => Outcome::Refused { reason, as_of: as_of(status.metadata()) },
        None => Outcome::Unknown { why: described(status) },
    };
    Done { outcome, contact: contact(status), leader: leader(status.metadata()) }
}

/// Up to where the log was looked at, by the metadata of an answer.
pub(crate) fn as_of(metadata: &MetadataMap) -> Option<u64> {
    text(metadata, "annals-as-of")?.parse().ok()
}

/// Whether a status came from the node.
pub(super) fn contact(status: &Status) -> Contact {
    if status.source().is_some() { Contact::Broken } else { Contact::Answered }
}

/// A status with its causes, in which alone a broken connection is explained.
pub(crate) fn described(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = status.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

fn text<'a>(metadata: &'a MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name)?.to_str().ok()
}

pub(super) fn leader(metadata: &MetadataMap) -> Option<String> {
    Some(format!("{}:{}", text(metadata, "leader-endpoint-host")?, text(metadata, "leader-endpoint-port")?))
}

fn v1_reason(status: &Status, stream: &Arc<str>) -> Option<Reason> {
    let why = status.message().to_owned();
    match (status.code(), text(status.metadata(), "exception")) {
        (Code::FailedPrecondition, Some("stream-deleted")) => Some(deleted(stream)),
        (Code::FailedPrecondition, Some("wrong-expected-version")) => {
            let actual = text(status.metadata(), "actual-version").and_then(|number| number.parse().ok());
            Some(conflict(stream, actual))
        }
        (Code::NotFound, Some("not-leader")) => Some(Reason::NotTaken { why }),
        (Code::InvalidArgument | Code::PermissionDenied, _) => Some(Reason::Invalid { why }),
        (Code::Unavailable, _) if matches!(status.message(), "Server Is Too Busy" | "Server Is Not Ready") => {
            Some(Reason::NotTaken { why })
        }
        (Code::ResourceExhausted, _) => Some(Reason::NotTaken { why }),
        _ => None,
    }
}

/// The first generation says the same of a stream with a tombstone and of one
/// that was deleted softly but expected to exist. So does the history.
fn deleted(stream: &Arc<str>) -> Reason {
    Reason::Tombstoned { stream: stream.clone() }
}

/// A conflict with a stream whose last revision is this, -1 for none.
fn conflict(stream: &Arc<str>, actual: Option<i64>) -> Reason {
    let current = match actual {
        Some(NO_STREAM | SOFT_DELETED) => Some(Current::NoStream),
        Some(number) => u64::try_from(number).ok().map(Current::Revision),
        None => None,
    };
    Reason::WrongExpectation { stream: stream.clone(), current }
}

/// What an error entry of `BatchAppend` means.
pub(super) fn entry(error: &rpc::Status, stream: &Arc<str>) -> Outcome {
    let why = format!("{} ({})", error.message, error.code);
    let reason = match error.message.as_str() {
        "Timeout" => return Outcome::Unknown { why },
        "WrongExpectedVersion" => {
            use v1::wrong_expected_version::CurrentStreamRevisionOption as Found;
            let detail = error.details.first().and_then(|any| v1::WrongExpectedVersion::decode(&*any.value).ok());
            let current = match detail.and_then(|detail| detail.current_stream_revision_option) {
                Some(Found::CurrentStreamRevision(revision)) => Some(Current::Revision(revision)),
                Some(Found::CurrentNoStream(())) => Some(Current::NoStream),
                None => None,
            };
            Reason::WrongExpectation { stream: stream.clone(), current }
        }
        "StreamDeleted" => deleted(stream),
        "BadRequest" | "AccessDenied" | "MaximumAppendSizeExceeded" | "MaximumAppendEventSizeExceeded" => {
            Reason::Invalid { why }
        }
        _ => Reason::NotTaken { why },
    };
    Outcome::Refused { reason, as_of: None }
}

fn v2_reason(status: &Status, drafts: &[Draft]) -> Option<Reason> {
    let rich = rpc::Status::decode(status.details()).ok()?;
    let info = rpc::ErrorInfo::decode(&*rich.details.first()?.value).ok()?;
    let specific = rich.details.get(1).map(|any| &*any.value).unwrap_or_default();
    let why = format!("{}: {}", info.reason, status.message());
    Some(match info.reason.as_str() {
        "" | "OPERATION_TIMEOUT" => return None,
        "STREAM_REVISION_CONFLICT" => {
            let detail = v2::StreamRevisionConflictErrorDetails::decode(specific).ok();
            let stream = named(detail.as_ref().and_then(|detail| detail.stream.as_deref()), drafts);
            conflict(&stream, detail.and_then(|detail| detail.actual_revision))
        }
        "STREAM_TOMBSTONED" => {
            let detail = v2::StreamTombstonedErrorDetails::decode(specific).ok();
            Reason::Tombstoned { stream: named(detail.and_then(|detail| detail.stream).as_deref(), drafts) }
        }
        "STREAM_DELETED" => {
            let detail = v2::StreamDeletedErrorDetails::decode(specific).ok();
            conflict(&named(detail.and_then(|detail| detail.stream).as_deref(), drafts), Some(SOFT_DELETED))
        }
        "APPEND_CONSISTENCY_VIOLATION" => {
            let detail = v2::AppendConsistencyViolationErrorDetails::decode(specific).ok();
            let states = detail.into_iter().flat_map(|detail| detail.violations).filter_map(|one| one.r#type);
            let states: Vec<_> = states.map(|v2::consistency_violation::Type::StreamState(state)| state).collect();
            // Of several, a tombstone: streams that an earlier attempt has
            // written are listed as well, though nothing is wrong with them.
            let ended = states.iter().find(|state| state.actual_state == Some(TOMBSTONED));
            match (ended, states.first()) {
                (Some(state), _) => Reason::Tombstoned { stream: named(state.stream.as_deref(), drafts) },
                (None, Some(state)) => conflict(&named(state.stream.as_deref(), drafts), state.actual_state),
                (None, None) => Reason::WrongExpectation { stream: named(None, drafts), current: None },
            }
        }
        "NOT_LEADER_NODE"
        | "SERVER_NOT_READY"
        | "SERVER_OVERLOADED"
        | "SERVER_SHUTTING_DOWN"
        | "SERVER_MALFUNCTION" => Reason::NotTaken { why },
        _ => Reason::Invalid { why },
    })
}

/// The stream that an answer names, else the first one.
fn named(name: Option<&str>, drafts: &[Draft]) -> Arc<str> {
    let found = drafts.iter().map(|draft| &draft.stream).find(|stream| Some(&***stream) == name);
    match (found, name) {
        (Some(stream), _) => stream.clone(),
        (None, Some(name)) => name.into(),
        (None, None) => drafts.first().map_or_else(|| "".into(), |draft| draft.stream.clone()),
    }
}

#[cfg(test)]
mod tests {
    use annals_checker::history::Expected;
    use prost_types::Any;
    use tonic::metadata::MetadataValue;

    use super::*;

    fn stream() -> Arc<str> {
        "s".into()
    }

    fn v1(code: Code, message: &str, trailers: &[(&'static str, &'static str)]) -> Outcome {
        let mut metadata = MetadataMap::new();
        for (name, value) in trailers {
            metadata.insert(*name, MetadataValue::from_static(value));
        }
        v1_write(&Status::with_metadata(code, message, metadata), &stream()).outcome
    }

    fn refused(outcome: Outcome) -> Reason {
        match outcome {
            Outcome::Refused { reason, .. } => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn only_what_the_server_promises_is_a_refusal() {
        for (code, message) in [
            (Code::Aborted, "Operation timed out: x"),
            (Code::DeadlineExceeded, ""),
            (Code::Cancelled, ""),
            (Code::Unavailable, "Server Is Shutting Down"),
            (Code::Unavailable, "tcp connect error"),
            (Code::Unknown, "Exception was thrown by handler."),
            (Code::Internal, ""),
            (Code::NotFound, "no trailer"),
            (Code::FailedPrecondition, "no trailer"),
        ] {
            assert!(matches!(v1(code, message, &[]), Outcome::Unknown { .. }), "{code:?} {message}");
        }
        for message in ["Server Is Too Busy", "Server Is Not Ready"] {
            assert!(matches!(refused(v1(Code::Unavailable, message, &[])), Reason::NotTaken { .. }));
        }
        assert!(matches!(refused(v1(Code::InvalidArgument, "", &[])), Reason::Invalid { .. }));
        assert!(matches!(refused(v1(Code::ResourceExhausted, "", &[])), Reason::NotTaken { .. }));
        let not_leader = v1(Code::NotFound, "", &[("exception", "not-leader")]);
        assert!(matches!(refused(not_leader), Reason::NotTaken { .. }));
    }

    #[test]
    fn a_status_made_on_this_side_is_never_a_refusal() {
        let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
        assert!(matches!(v1_write(&broken, &stream()).outcome, Outcome::Unknown { .. }));
        assert_eq!(contact(&broken), Contact::Broken);
    }

    #[test]
    fn the_trailers_of_a_refused_deletion_tell_the_last_revision() {
        let trailers = [("exception", "wrong-expected-version"), ("actual-version", "7"), ("annals-as-of", "31")];
        let outcome = v1(Code::FailedPrecondition, "", &trailers);
        let reason = Reason::WrongExpectation { stream: stream(), current: Some(Current::Revision(7)) };
        assert_eq!(outcome, Outcome::Refused { reason, as_of: Some(31) });
        let trailers = [("exception", "wrong-expected-version"), ("actual-version", "-1")];
        let reason = Reason::WrongExpectation { stream: stream(), current: Some(Current::NoStream) };
        assert_eq!(refused(v1(Code::FailedPrecondition, "", &trailers)), reason);
    }

    fn v2(reason: &str, detail: &impl Message) -> Outcome {
        let any = |value: Vec<u8>| Any { type_url: String::new(), value };
        let info = rpc::ErrorInfo { reason: reason.to_owned(), ..rpc::ErrorInfo::default() };
        let details = vec![any(info.encode_to_vec()), any(detail.encode_to_vec())];
        let rich = rpc::Status { code: 9, message: String::new(), details };
        let status = Status::with_details(Code::FailedPrecondition, "", rich.encode_to_vec().into());
        let drafts = [Draft { stream: stream(), expected: Expected::Any, events: Vec::new() }];
        v2_write(&status, &drafts).outcome
    }

    #[test]
    fn a_rich_status_refuses_unless_it_speaks_of_time() {
        assert!(matches!(v2("OPERATION_TIMEOUT", &()), Outcome::Unknown { .. }));
        assert!(matches!(refused(v2("NOT_LEADER_NODE", &())), Reason::NotTaken { .. }));
        assert!(matches!(refused(v2("BAD_REQUEST", &())), Reason::Invalid { .. }));
        let detail = v2::StreamRevisionConflictErrorDetails {
            stream: Some("s".to_owned()),
            expected_revision: Some(4),
            actual_revision: Some(6),
        };
        let reason = Reason::WrongExpectation { stream: stream(), current: Some(Current::Revision(6)) };
        assert_eq!(refused(v2("STREAM_REVISION_CONFLICT", &detail)), reason);
        let bare = Status::new(Code::FailedPrecondition, "a proxy");
        assert!(matches!(v2_write(&bare, &[]).outcome, Outcome::Unknown { .. }));
    }

    #[test]
    fn an_entry_refuses_unless_it_is_a_timeout() {
        let of = |message: &str| {
            let status = rpc::Status { code: 4, message: message.to_owned(), details: Vec::new() };
            entry(&status, &stream())
        };
        assert!(matches!(of("Timeout"), Outcome::Unknown { .. }));
        assert!(matches!(refused(of("Server Is Too Busy")), Reason::NotTaken { .. }));
        assert!(matches!(refused(of("StreamDeleted")), Reason::Tombstoned { .. }));
    }
}
