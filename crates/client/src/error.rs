//! Why a call did not succeed.

use tonic::{Code, Status};

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream was not in the state that was expected. Nothing was written.
    #[error("stream \"{stream}\" is not as expected: expected {expected}, found {actual}")]
    WrongExpectedVersion {
        /// The stream.
        stream: String,
        /// What was expected.
        expected: String,
        /// What was found: a revision, or `no stream`.
        actual: String,
    },
    /// There is no such stream, or all its events are deleted.
    #[error("stream \"{0}\" is not found")]
    StreamNotFound(String),
    /// The stream was ended for ever. Nothing was written.
    #[error("stream \"{0}\" is deleted")]
    StreamDeleted(String),
    /// The credentials prove nothing.
    #[error("the server does not accept these credentials, or asks for some: write kurrentdb://user:password@host")]
    Unauthenticated,
    /// The account may not do this.
    #[error("access denied: the account has no right to do this")]
    AccessDenied,
    /// No node of the cluster could be found that fits.
    #[error("no node to connect to was found: {0}")]
    NoNode(String),
    /// TLS cannot be set up as asked.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// Another node is the leader.
    #[error("the node is not the leader; the leader is {leader}")]
    NotLeader {
        /// Its `host:port`.
        leader: String,
    },
    /// The server answered something that the protocol does not know.
    #[error("the server's answer makes no sense: {0}")]
    Protocol(&'static str),
    /// Any other status.
    #[error("{}", describe(.0))]
    Status(Box<Status>),
}

/// What an error means to who sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was asked for is not there.
    NotFound,
    /// Not in the expected state. Nothing was changed.
    Conflict,
    /// Nobody is there to answer, now. Whether something was changed is not known.
    Unavailable,
    /// Anything else, such as an invalid argument.
    Failed,
}

impl Error {
    /// What the error means.
    pub fn kind(&self) -> Kind {
        match self {
            Error::StreamNotFound(_) => Kind::NotFound,
            Error::WrongExpectedVersion { .. } => Kind::Conflict,
            Error::NoNode(_) | Error::NotLeader { .. } => Kind::Unavailable,
            Error::StreamDeleted(_)
            | Error::Tls(_)
            | Error::Protocol(_)
            | Error::Unauthenticated
            | Error::AccessDenied => Kind::Failed,
            Error::Status(status) => match status.code() {
                Code::NotFound => Kind::NotFound,
                Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => Kind::Unavailable,
                Code::FailedPrecondition | Code::AlreadyExists => Kind::Conflict,
                _ => Kind::Failed,
            },
        }
    }
}

impl Error {
    /// Whether the same call may succeed when it is made again: nobody answered, or the
    /// connection broke off on the way.
    pub fn may_pass(&self) -> bool {
        match self {
            // What a broken connection becomes depends on where it breaks.
            Error::Status(status) if matches!(status.code(), Code::Unknown | Code::Internal) => true,
            other => other.kind() == Kind::Unavailable,
        }
    }
}

impl From<Status> for Error {
    /// By the trailer `exception`, as the protocol has it.
    fn from(status: Status) -> Self {
        let stream = || trailer(&status, "stream-name").unwrap_or_default();
        match trailer(&status, "exception").as_deref() {
            Some("not-leader") => match leader(&status) {
                Some((host, port)) => Error::NotLeader { leader: format!("{host}:{port}") },
                None => Error::Status(Box::new(status)),
            },
            Some("access-denied") => Error::AccessDenied,
            Some("stream-deleted") => Error::StreamDeleted(stream()),
            Some("stream-not-found") => Error::StreamNotFound(stream()),
            Some("wrong-expected-version") => {
                let number = |name| match trailer(&status, name).as_deref() {
                    None | Some("" | "-1") => "no stream".to_owned(),
                    Some("-2") => "any state".to_owned(),
                    Some("-4") => "an existing stream".to_owned(),
                    Some(revision) => format!("revision {revision}"),
                };
                Error::WrongExpectedVersion {
                    stream: stream(),
                    expected: number("expected-version"),
                    actual: number("actual-version"),
                }
            }
            _ if status.code() == Code::Unauthenticated => Error::Unauthenticated,
            _ => Error::Status(Box::new(status)),
        }
    }
}

/// The leader that a not-leader answer names.
pub(crate) fn leader(status: &Status) -> Option<(String, u16)> {
    if trailer(status, "exception").as_deref() != Some("not-leader") {
        return None;
    }
    let host = trailer(status, "leader-endpoint-host")?;
    let port = trailer(status, "leader-endpoint-port")?.parse().ok()?;
    Some((host, port))
}

fn trailer(status: &Status, name: &str) -> Option<String> {
    Some(status.metadata().get(name)?.to_str().ok()?.to_owned())
}

fn describe(status: &Status) -> String {
    use std::error::Error as _;
    let mut text = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    // Transport errors say only "transport error"; why is in their sources.
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
