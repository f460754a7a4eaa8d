//! What a node remembers of its peers: the newest boot of each.
//!
//! Durable before anything that depends on it: a call is served, and an answer
//! used, only once the boot that it comes from is on this node's disk. So the
//! peer cannot go back behind that boot and be listened to again
//! ([`crate::lineage`]). A peer's boot changes once per start of its process,
//! which is how often the file is written.
//!
//! Lines of nodes that are gone stay: ids are never used again, and a removed
//! node is not to be believed either.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::seeded;
use parking_lot::Mutex;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::blocking;
use crate::error::OpenError;
use crate::identity::{OUTDATED_HEADER, write_durably};
use crate::lineage::{Boot, Lineage};

const FILE: &str = "peers";
const FIRST_LINE: &str = "annals peers 1";

/// How often it is said that a peer is not listened to.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

/// The newest boots of all peers that this node has heard of. Clones share it.
#[derive(Clone)]
pub(crate) struct PeerMemory {
    shared: Arc<Shared>,
}

struct Shared {
    data: PathBuf,
    known: Mutex<BTreeMap<u64, Boot>>,
    /// One write at a time, so that the file never goes back.
    writing: tokio::sync::Mutex<()>,
    /// When it was last said that a peer is not listened to.
    complaints: Mutex<BTreeMap<u64, Instant>>,
}

/// Why a peer is not listened to.
#[derive(Debug)]
pub(crate) enum Unacceptable {
    /// It runs on a copy of its disk that lacks this boot.
    Outdated { peer: u64, boot: Boot },
    /// Its boot could not be made durable here.
    Unwritten(io::Error),
}

impl PeerMemory {
    /// What is remembered in this data directory.
    pub(crate) fn load(data: &Path) -> Result<PeerMemory, OpenError> {
        let path = data.join(FILE);
        let known = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).ok_or_else(|| OpenError::Damaged {
                path: data.to_owned(),
                why: format!(
                    "the file {FILE} is not what was written: without it this node learns anew whom it knows, \
                     so remove the file if no other node was restored from a copy meanwhile"
                ),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(OpenError::Io { action: "read", path, source }),
        };
        let shared = Shared {
            data: data.to_owned(),
            known: Mutex::new(known),
            writing: tokio::sync::Mutex::default(),
            complaints: Mutex::default(),
        };
        Ok(PeerMemory { shared: Arc::new(shared) })
    }

    /// The newest boot that is known of a peer.
    pub(crate) fn newest(&self, peer: u64) -> Option<Boot> {
        self.shared.known.lock().get(&peer).copied()
    }

    /// Whether a peer of this lineage may be listened to. On `Ok` its newest
    /// boot is remembered durably.
    ///
    /// # Errors
    /// [`Unacceptable`].
    pub(crate) async fn meet(&self, peer: u64, lineage: &Lineage) -> Result<(), Unacceptable> {
        if seeded::breaks_promises() || self.is_known(peer, lineage)? {
            return Ok(());
        }
        let _turn = self.shared.writing.lock().await;
        // Somebody else may have written it meanwhile, or something newer.
        if self.is_known(peer, lineage)? {
            return Ok(());
        }
        let Some(newest) = lineage.newest() else { return Ok(()) };
        let mut known = self.shared.known.lock().clone();
        known.insert(peer, newest);
        let data = self.shared.data.clone();
        let text = print(&known);
        blocking::run(move || write_durably(&data, FILE, text.as_bytes()))
            .await
            .map_err(|error| Unacceptable::Unwritten(io::Error::other(error)))?
            .map_err(Unacceptable::Unwritten)?;
        *self.shared.known.lock() = known;
        Ok(())
    }

    /// Whether it is time to say again that a peer is not listened to.
    pub(crate) fn is_news(&self, peer: u64) -> bool {
        let mut complaints = self.shared.complaints.lock();
        let now = Instant::now();
        if complaints.get(&peer).is_some_and(|last| now.duration_since(*last) < COMPLAINT_EVERY) {
            return false;
        }
        complaints.insert(peer, now);
        true
    }

    /// Whether the newest boot of this lineage is the one that is remembered.
    fn is_known(&self, peer: u64, lineage: &Lineage) -> Result<bool, Unacceptable> {
        match self.newest(peer) {
            Some(boot) if !lineage.holds(&boot) => Err(Unacceptable::Outdated { peer, boot }),
            Some(boot) => Ok(lineage.newest() == Some(boot)),
            None => Ok(lineage.newest().is_none()),
        }
    }
}

impl Unacceptable {
    /// What the peer is answered. An outdated one is told which boot it lacks,
    /// so that it can see for itself.
    pub(crate) fn status(&self) -> Status {
        let code = match self {
            Unacceptable::Outdated { .. } => Code::FailedPrecondition,
            Unacceptable::Unwritten(_) => Code::Unavailable,
        };
        let mut status = Status::new(code, self.to_string());
        if let Unacceptable::Outdated { boot, .. } = self {
            let boot = MetadataValue::try_from(boot.to_string()).expect("numbers and uuids are plain text");
            status.metadata_mut().insert(OUTDATED_HEADER, boot);
        }
        status
    }
}

impl std::fmt::Display for Unacceptable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unacceptable::Outdated { peer, boot } => write!(
                f,
                "node {peer} runs on an outdated copy of its disk, which knows nothing of its start {boot}: \
                 it may have lost entries that it acknowledged, so remove node {peer} from the cluster and join it \
                 again as a new one (empty data directory), or give it back the disk that it had"
            ),
            Unacceptable::Unwritten(error) => write!(f, "a peer's start could not be remembered: {error}"),
        }
    }
}

fn print(known: &BTreeMap<u64, Boot>) -> String {
    let lines: String = known.iter().map(|(peer, boot)| format!("{peer} {boot}\n")).collect();
    let body = format!("{FIRST_LINE}\n{lines}");
    format!("{body}checksum {:08x}\n", crc32c::crc32c(body.as_bytes()))
}

fn parse(text: &str) -> Option<BTreeMap<u64, Boot>> {
    let lines = text.strip_prefix(FIRST_LINE)?.lines().skip(1);
    let known = lines
        .filter(|line| !line.starts_with("checksum "))
        .map(|line| {
            let (peer, boot) = line.split_once(' ')?;
            Some((peer.parse().ok()?, boot.parse().ok()?))
        })
        .collect::<Option<_>>()?;
    // Printing is exact, so comparing the whole covers the checksum too.
    (print(&known) == text).then_some(known)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn after(starts: u128) -> Lineage {
        (1..=starts).fold(Lineage::default(), |lineage, name| lineage.started(Uuid::from_u128(name)))
    }

    #[tokio::test]
    async fn what_was_met_is_remembered_by_the_next_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let memory = PeerMemory::load(dir.path()).expect("nothing there is fine");
        memory.meet(2, &after(3)).await.expect("new");
        memory.meet(3, &after(1)).await.expect("new");
        memory.meet(2, &after(4)).await.expect("started again");
        let memory = PeerMemory::load(dir.path()).expect("readable");
        assert_eq!(memory.newest(2), after(4).newest());
        assert_eq!(memory.newest(3), after(1).newest());
        let outdated = memory.meet(2, &after(3)).await.expect_err("an older copy");
        assert!(matches!(outdated, Unacceptable::Outdated { peer: 2, boot } if Some(boot) == after(4).newest()));
        assert!(outdated.status().metadata().contains_key(OUTDATED_HEADER));
    }

    #[tokio::test]
    async fn the_file_is_written_only_when_something_is_new() {
        let dir = tempfile::tempdir().expect("a directory");
        let memory = PeerMemory::load(dir.path()).expect("nothing there is fine");
        memory.meet(2, &Lineage::default()).await.expect("of a release that tells nothing");
        assert!(!dir.path().join(FILE).exists());
        memory.meet(2, &after(1)).await.expect("new");
        fs::remove_file(dir.path().join(FILE)).expect("it is there");
        memory.meet(2, &after(1)).await.expect("known");
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_changed_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let boot = after(3).newest().expect("started");
        let good = print(&BTreeMap::from([(2, boot)]));
        for bad in [good.replace("2 3", "2 2"), good.replace("peers 1", "peers 2"), format!("{good}\n"), String::new()]
        {
            fs::write(dir.path().join(FILE), &bad).expect("written");
            assert!(matches!(PeerMemory::load(dir.path()), Err(OpenError::Damaged { .. })), "{bad:?}");
        }
    }
}
