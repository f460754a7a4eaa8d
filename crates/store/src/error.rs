//! What can go wrong with the store's disk.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::keys::Key;
use crate::record::Corruption;

/// The store cannot answer. None of these is a refusal: whoever applies must
/// stop the process, whoever reads may tell its client that the node failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// RocksDB or the disk under it failed.
    #[error("cannot {attempted}")]
    Database {
        /// What was attempted.
        attempted: &'static str,
        /// What RocksDB says.
        #[source]
        source: rocksdb::Error,
    },
    /// Something stored is not what was written.
    #[error("{key} is corrupt")]
    Corrupt {
        /// Where.
        key: Key,
        /// In what way.
        #[source]
        source: Corruption,
    },
    /// A write failed before; nothing is written any more until a restart,
    /// because memory and disk may differ.
    #[error("an earlier entry could not be applied, nothing more is applied until restart")]
    Stopped,
}

/// Of this process, whichever store: what damages one disk is a matter of the machine.
static CORRUPTIONS: AtomicU64 = AtomicU64::new(0);

/// How often this process found that something stored is not what was written.
pub(crate) fn corruptions() -> u64 {
    CORRUPTIONS.load(Ordering::Relaxed)
}

impl Error {
    /// Something that serves requests or applies entries found this, which is counted.
    pub(crate) fn corrupt(key: Key, source: Corruption) -> Error {
        CORRUPTIONS.fetch_add(1, Ordering::Relaxed);
        Error::Corrupt { key, source }
    }

    /// RocksDB failed. Its own checksums are counted with ours.
    pub(crate) fn database(attempted: &'static str, source: rocksdb::Error) -> Error {
        if source.kind() == rocksdb::ErrorKind::Corruption {
            CORRUPTIONS.fetch_add(1, Ordering::Relaxed);
        }
        Error::Database { attempted, source }
    }

    /// Whether all that is wrong is that the disk would have to be asked
    /// ([`Reach::Memory`](crate::database::Reach)).
    pub(crate) fn is_out_of_reach(&self) -> bool {
        match self {
            Error::Database { source, .. } => source.kind() == rocksdb::ErrorKind::Incomplete,
            Error::Corrupt { .. } | Error::Stopped => false,
        }
    }
}

/// A store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another handle in this one, has it open.
    #[error("the state in {} is in use by another process", directory.display())]
    InUse {
        /// The state's directory.
        directory: PathBuf,
    },
    /// RocksDB cannot open it.
    #[error("cannot open the state in {}", directory.display())]
    Database {
        /// The state's directory.
        directory: PathBuf,
        /// What RocksDB says.
        #[source]
        source: rocksdb::Error,
    },
    /// A file or directory operation failed.
    #[error("cannot {attempted} {}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file that names the current state is missing or unreadable while
    /// there is a state with data. Deciding which is current is not ours.
    #[error("{} does not name the current state, though there is one", path.display())]
    Pointer {
        /// The file.
        path: PathBuf,
    },
    /// The state that is named as the current one is not there.
    #[error("the current state {} is not there", directory.display())]
    Missing {
        /// Its directory.
        directory: PathBuf,
    },
    /// Written in a format that this release does not know.
    #[error("the state in {} has format {found}, this release reads format {known}", directory.display())]
    Format {
        /// The state's directory.
        directory: PathBuf,
        /// What it says.
        found: u32,
        /// What can be read.
        known: u32,
    },
    /// It can be opened but not read.
    #[error("cannot read the state in {}", directory.display())]
    Unreadable {
        /// The state's directory.
        directory: PathBuf,
        /// Why not.
        #[source]
        source: Error,
    },
}
