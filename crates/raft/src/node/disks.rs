//! What lies on disk when a node opens, and whose alone it is while the node lives.

use std::fs::{self, File, TryLockError};
use std::time::{Duration, Instant};

use annals_store::Store;

use crate::config::Config;
use crate::error::OpenError;
use crate::identity::Identity;
use crate::log_store::LogStore;
use crate::peer_memory::PeerMemory;
use crate::restore;
use crate::witness::Witness;

/// How long an open waits for another process to let go of the directory: a
/// restart may overlap with the end of the one before.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// What lies on disk.
pub(super) struct Disks {
    /// With this start in it, durably.
    pub(super) identity: Option<Identity>,
    pub(super) memory: PeerMemory,
    pub(super) store: Store,
    pub(super) log: LogStore,
}

impl Disks {
    pub(super) fn open(config: &Config) -> Result<Disks, OpenError> {
        let data = &config.data;
        let damaged = |why: &str| OpenError::Damaged { path: data.clone(), why: why.to_owned() };
        let io = |action: &'static str| move |source| OpenError::Io { action, path: data.clone(), source };
        if restore::is_unfinished(data) {
            return Err(damaged("a restore into it was not finished: run `annals backup restore` again"));
        }
        let identity = Identity::load(data)?;
        let node = identity.map_or(0, |identity| identity.node);
        let witness = match Witness::open(data).map_err(io("read the witness in"))? {
            Some(witness) => witness,
            // The witness is made before the identity, so it was there.
            None if identity.is_some() => {
                return Err(damaged(&format!(
                    "the witness HEAD is missing, so nobody knows what this node acknowledged: \
                     remove node {node} from the cluster and join it again as a new one (empty data directory)"
                )));
            }
            None => Witness::create(data).map_err(io("create the witness in"))?,
        };
        let log = LogStore::open(data, witness, node, config.observer.clone())?;
        let store = Store::open(data, config.store.clone())?;
        if identity.is_none() && (!log.is_pristine() || store.mark().is_some()) {
            return Err(damaged(
                "the identity file is missing, but there are data: restore the file, or join again with an empty data directory",
            ));
        }
        let memory = PeerMemory::load(data)?;
        // Last: a start that fails before it reaches anybody is none.
        let identity = identity.map(Identity::started);
        if let Some(identity) = identity {
            identity.store(data).map_err(io("write the identity in"))?;
        }
        Ok(Disks { identity, memory, store, log })
    }
}

pub(super) async fn lock(config: &Config) -> Result<File, OpenError> {
    let io = |action| move |source| OpenError::Io { action, path: config.data.clone(), source };
    fs::create_dir_all(&config.data).map_err(io("create"))?;
    let file = File::create(config.data.join("LOCK")).map_err(io("lock"))?;
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: config.data.clone() }),
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
    }
}
