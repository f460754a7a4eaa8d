//! Statuses of the first generation: trailers, then a code (protocol 2.6).

use std::fmt::Write as _;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Code, Status};

use super::{Failure, host_port, last_number, v1_number};
use crate::groups::GroupName;

impl Failure {
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
}

/// A text as the value of a trailer, which holds only printable ASCII: other
/// names travel percent-encoded, those that need it not travel as they are,
/// because clients compare them.
pub(super) fn trailer(text: &str) -> MetadataValue<Ascii> {
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

pub(super) fn put_leader(trailers: &mut MetadataMap, address: &str) {
    let (host, port) = host_port(address);
    trailers.insert("exception", trailer("not-leader"));
    trailers.insert("leader-endpoint-host", trailer(host));
    trailers.insert("leader-endpoint-port", trailer(port));
}
