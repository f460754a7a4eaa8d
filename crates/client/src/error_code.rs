//! The codes of failed calls, each with a page in `docs/errors`.
//!
//! A code never changes its meaning and is never given to something else. Several
//! errors share one where the way out is the same.

use tonic::Code;

use crate::Error;

impl Error {
    /// The code under which this error is explained, if it has one.
    pub fn code(&self) -> Option<&'static str> {
        Some(match self {
            Error::WrongExpectedVersion { .. } => "ANN-2002",
            Error::StreamNotFound(_) => "ANN-2004",
            Error::StreamDeleted(_) => "ANN-2003",
            Error::Unauthenticated => "ANN-2006",
            Error::AccessDenied => "ANN-2005",
            Error::NoNode(_) => "ANN-2001",
            Error::Tls(_) => "ANN-1005",
            Error::NotLeader { .. } => "ANN-2007",
            Error::Protocol(_) => return None,
            Error::Status(status) => match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => "ANN-2001",
                Code::NotFound => "ANN-2004",
                Code::PermissionDenied => "ANN-2005",
                Code::Unauthenticated => "ANN-2006",
                Code::ResourceExhausted => "ANN-2008",
                Code::InvalidArgument | Code::OutOfRange => "ANN-2009",
                _ => return None,
            },
        })
    }
}
