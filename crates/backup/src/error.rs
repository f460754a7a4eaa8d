//! Why something with a backup did not succeed.

use annals_core::Position;
use annals_store::{ChainHash, Corruption};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place cannot be read or written.
    #[error("cannot {attempted} {name}")]
    Place {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        name: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What was written as a place, a time or an id is none.
    #[error("{0}")]
    Invalid(String),
    /// What is asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// A file of a backup is not what was written.
    #[error("{file} is damaged: {why}")]
    Damaged {
        /// The file.
        file: String,
        /// In what way.
        why: String,
    },
    /// A record is not one.
    #[error("the record at position {position} is damaged")]
    Record {
        /// Its position.
        position: Position,
        /// In what way.
        #[source]
        source: Corruption,
    },
    /// The records have another chain hash than whoever wrote them.
    #[error("at position {position} the chain hash of the records is {found}, not {expected}")]
    Diverged {
        /// Where.
        position: Position,
        /// What it should be.
        expected: String,
        /// What it is.
        found: ChainHash,
    },
    /// The cluster does not answer, or refuses.
    #[error(transparent)]
    Cluster(#[from] annals_client::Error),
    /// The data directory cannot be made.
    #[error(transparent)]
    Restore(#[from] annals_raft::restore::RestoreError),
    /// A thread ended early.
    #[error("the work was given up")]
    Cancelled,
}

impl Error {
    pub(crate) fn place(
        attempted: &'static str,
        name: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Error::Place { attempted, name: name.into(), source: source.into() }
    }

    pub(crate) fn damaged(file: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Damaged { file: file.into(), why: why.into() }
    }
}
