//! A data directory made of records: a new cluster of one node that holds an old log.
//!
//! The records go into the state as in a catch-up. Around it comes what a node needs to
//! go on from there by itself: a log that is empty and continues after one entry, which
//! stands for everything that led to the state and names the only member; a snapshot
//! that says the same, for nodes that are added; and an identity of its own. Nothing is
//! taken over from the cluster that the records come from, so that its nodes and this
//! one never take each other for peers.
//!
//! The directory holds the file `restoring` from the first moment until all is durable.
//! A node does not start on it meanwhile, and another attempt begins from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annals_core::Position;
use annals_store::{CatchUp, CatchUpError, ChainHash, Mark, Options, Store};
use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use uuid::Uuid;

use crate::codec::{self, EncodedMembership, LogIdForm};
use crate::error::OpenError;
use crate::identity::{Identity, write_durably};
use crate::lineage::Lineage;
use crate::log_store::LogStore;
use crate::types::{LogId, Membership, NodeInfo, SnapshotMeta, StoredMembership, Vote};
use crate::witness::Witness;

const MARKER: &str = "restoring";

/// The only node of the new cluster.
const NODE: u64 = 1;

/// The entry that stands for all that led to the state.
const BEFORE: LogIdForm = LogIdForm { term: 1, node: NODE, index: 1 };

/// What a node's directory holds, and an unfinished one may.
const OURS: [&str; 7] = ["LOCK", "identity", "peers", "HEAD", "log", "CURRENT_STATE", MARKER];

/// A data directory cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something in it already.
    #[error("the directory {} is not empty (it has {found}): restore into a new one", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// Another process uses it.
    #[error("the directory {} is in use by another process", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("cannot write to {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The log or the witness cannot be made.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The state cannot be made.
    #[error(transparent)]
    Store(#[from] annals_store::OpenError),
    /// The records do not make a log.
    #[error(transparent)]
    Records(#[from] CatchUpError),
    /// The state cannot be read again.
    #[error(transparent)]
    State(#[from] annals_store::Error),
}

/// A data directory in the making. Dropped unfinished, it stays marked as such.
#[derive(Debug)]
pub struct Restoration {
    data: PathBuf,
    store: Store,
    catch_up: CatchUp,
    _lock: File,
}

/// A data directory that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster: Uuid,
    /// The position of its newest event.
    pub position: Position,
    /// The chain hash there.
    pub chain_hash: ChainHash,
}

/// Whether a restore into this directory was begun and not finished.
pub(crate) fn is_unfinished(data: &Path) -> bool {
    data.join(MARKER).exists()
}

impl Restoration {
    /// Begins with an empty directory, which is made if it is not there. What an
    /// earlier attempt left is removed. `what` is for whoever looks into it meanwhile.
    ///
    /// # Errors
    /// [`RestoreError`]. Nothing that was there is touched.
    pub fn begin(data: &Path, what: &str) -> Result<Restoration, RestoreError> {
        let io = |source| RestoreError::Io { path: data.to_owned(), source };
        fs::create_dir_all(data).map_err(io)?;
        if !is_unfinished(data)
            && let Some(found) = something_in(data).map_err(io)?
        {
            return Err(RestoreError::NotEmpty { path: data.to_owned(), found });
        }
        let lock = File::create(data.join("LOCK")).map_err(io)?;
        if lock.try_lock().is_err() {
            return Err(RestoreError::InUse { path: data.to_owned() });
        }
        write_durably(data, MARKER, format!("{what}\n").as_bytes()).map_err(io)?;
        remove_attempt(data).map_err(io)?;
        let store = Store::open(data, Options::default())?;
        let catch_up = store.begin_catch_up()?;
        Ok(Restoration { data: data.to_owned(), store, catch_up, _lock: lock })
    }

    /// The last position that it holds.
    pub fn position(&self) -> Position {
        self.catch_up.position()
    }

    /// The chain hash there.
    pub fn chain_hash(&self) -> ChainHash {
        self.catch_up.chain()
    }

    /// Takes in the records that follow, as they were stored. Blocks.
    ///
    /// # Errors
    /// [`RestoreError`]: this attempt is over.
    pub fn ingest(&mut self, records: Vec<Bytes>) -> Result<(), RestoreError> {
        Ok(self.catch_up.ingest(records)?)
    }

    /// Makes it the directory of a node at this `host:port`, the only one of a new
    /// cluster. All is durable on return.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub async fn finish(self, address: &str) -> Result<Restored, RestoreError> {
        let Restoration { data, store, catch_up, _lock } = self;
        let io = |source| RestoreError::Io { path: data.clone(), source };
        let identity =
            Identity { cluster: Uuid::new_v4(), node: NODE, incarnation: Uuid::new_v4(), lineage: Lineage::default() };
        let before = LogId::from(BEFORE);
        let membership = membership(identity, address).map_err(io)?;
        let opaque = codec::encode_mark(&before, &EncodedMembership::from(&membership));
        let (position, chain_hash) = (catch_up.position(), catch_up.chain());
        let (finished, closing) = (store.clone(), store);
        let durable = tokio::task::spawn_blocking(move || {
            catch_up.finish_alone(Mark { index: before.index(), opaque })?;
            let durable = finished.durable()?;
            closing.close()?;
            Ok::<_, RestoreError>(durable)
        });
        let durable = durable.await.map_err(|error| io(io::Error::other(error)))??;
        let durable = durable.ok_or_else(|| io(io::Error::other("the state that was written is not there")))?;
        let meta = SnapshotMeta { last_log_id: Some(before), last_membership: membership };
        let snapshot = codec::encode_snapshot(&meta, durable.position.get(), &durable.residue);

        let witness = Witness::create(&data).map_err(io)?;
        let mut log = LogStore::open(&data, witness, NODE, Arc::new(()))?;
        log.save_vote(&Vote::new(BEFORE.term, NODE)).await.map_err(io)?;
        log.save_snapshot(snapshot).await.map_err(io)?;
        log.purge(before).await.map_err(io)?;
        log.close().await;
        identity.store(&data).map_err(io)?;
        fs::remove_file(data.join(MARKER)).and_then(|()| File::open(&data)?.sync_all()).map_err(io)?;
        Ok(Restored { cluster: identity.cluster, position, chain_hash })
    }
}

/// The node alone.
fn membership(identity: Identity, address: &str) -> io::Result<StoredMembership> {
    let info =
        NodeInfo { address: address.to_owned(), incarnation: *identity.incarnation.as_bytes(), ..NodeInfo::default() };
    let membership = Membership::new(vec![BTreeSet::from([NODE])], BTreeMap::from([(NODE, info)]));
    let membership = membership.map_err(|error| io::Error::other(error.to_string()))?;
    Ok(StoredMembership::new(Some(BEFORE.into()), membership))
}

/// Something in a directory that is to be empty. What file systems put into every one
/// is nothing.
fn something_in(data: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(data)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "lost+found" && name != "LOCK" {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Removes what an unfinished attempt left, but the lock and the marker.
fn remove_attempt(data: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = OURS.contains(&name.as_str())
            || name.starts_with("state-")
            || name.ends_with(".tmp")
            || name.ends_with(".next");
        if !is_ours || name == MARKER || name == "LOCK" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
