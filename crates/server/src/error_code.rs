//! The codes of what keeps a node from running, each with a page in `docs/errors`.
//!
//! A code never changes its meaning and is never given to something else. Several
//! errors share one where the way out is the same.

use annals_raft::OpenError;
use annals_store::OpenError as StateError;

use crate::config::Invalid;
use crate::run::RunError;

impl RunError {
    /// The code under which this error is explained.
    pub fn code(&self) -> &'static str {
        match self {
            RunError::Config(invalid) => invalid.code(),
            RunError::Tls(_) => "ANN-1005",
            RunError::Listen { .. } => "ANN-1004",
            RunError::AdminPassword { .. } => "ANN-1010",
            RunError::LocalToken { .. } => "ANN-1011",
            RunError::Outdated(_) => "ANN-1009",
            RunError::Open { source, .. } => open(source),
        }
    }
}

impl Invalid {
    /// The code under which this error is explained.
    pub fn code(&self) -> &'static str {
        match self {
            Invalid::Insecure { .. } | Invalid::InsecurePeer { .. } => "ANN-1002",
            Invalid::HalfTls | Invalid::OnlyCa | Invalid::NoCa { .. } => "ANN-1005",
            _ => "ANN-1001",
        }
    }
}

fn open(error: &OpenError) -> &'static str {
    match error {
        OpenError::Config(_) => "ANN-1001",
        OpenError::OtherAddress { .. } => "ANN-1003",
        OpenError::InUse { .. } | OpenError::Store(StateError::InUse { .. }) => "ANN-1006",
        OpenError::Store(StateError::Format { .. }) => "ANN-1008",
        OpenError::LogBehindWitness { .. } | OpenError::Outdated { .. } => "ANN-1009",
        OpenError::Io { .. } | OpenError::Store(StateError::Io { .. }) => "ANN-1011",
        OpenError::Damaged { .. } | OpenError::Store(_) => "ANN-1007",
        OpenError::Raft(_) => "ANN-1012",
    }
}
