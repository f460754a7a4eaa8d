//! Looking at a stopped node's data directory: whether all of it is what was
//! written, and whether its parts fit each other.
//!
//! Nothing is written. The parts in the order in which a start needs them: who
//! the node is, what it has acknowledged (the witness), its log ([`log`]), its
//! state ([`annals_store::verify`]). Then what must hold between them, so that
//! the node can go on from here without having broken a promise.
//!
//! What is wrong is a problem and ends nothing: as much as can be is looked at.

mod log;

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use annals_store::ChainHash;
pub use annals_store::verify::{Audience, Problems};
use uuid::Uuid;

use self::log::LogFound;
use crate::codec::{self, LogIdForm, VoteForm};
use crate::identity::{self, Identity};
use crate::peer_memory::PeerMemory;
use crate::types::LogId;
use crate::witness::{Acknowledged, Witness};

/// What a data directory holds.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    /// Whose directory it is.
    pub owner: Option<Owner>,
    /// The position of the newest event in the state.
    pub tail: u64,
    /// The chain hash there, as stored. Computed anew too: a difference is among
    /// the problems.
    pub chain_hash: ChainHash,
    /// Streams that have or had events.
    pub streams: u64,
    /// The index of the last entry in the state.
    pub applied_index: Option<u64>,
    /// The indexes of the first and the last entry in the log.
    pub log: Option<(u64, u64)>,
    /// The last entry that the log once had and does not need any more.
    pub purged_index: Option<u64>,
    /// The last entry that is known here to be committed. Others may know more.
    pub committed_index: Option<u64>,
    /// The last entry that the witness knows to be acknowledged.
    pub witnessed_index: Option<u64>,
    /// The term of the node's vote.
    pub term: Option<u64>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
    /// What is wrong.
    pub problems: Problems,
}

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: Uuid,
    /// The node's id in it.
    pub node: u64,
    /// The directory's own name.
    pub incarnation: Uuid,
}

/// A directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is none.
    #[error("there is no directory {}", path.display())]
    NotThere {
        /// The path.
        path: PathBuf,
    },
    /// A node is running on it.
    #[error("a node is running on {}: stop it first", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Its lock cannot be taken.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Whoever was told of events failed.
    #[error("cannot pass on the events")]
    Audience(#[source] io::Error),
}

/// Looks at everything in a data directory.
///
/// # Errors
/// [`VerifyError`]: nothing can be said. Damage is no error but a problem.
pub fn verify(data: &Path, audience: &mut dyn Audience) -> Result<Verification, VerifyError> {
    if !data.is_dir() {
        return Err(VerifyError::NotThere { path: data.to_owned() });
    }
    let _lock = lock(data)?;
    let mut found = Verification::default();
    let owner = owner(data, &mut found);
    let witnessed = witnessed(data, owner, &mut found);
    let log = log::verify(data, owner.is_some(), &mut found.notes, &mut found.problems, audience);
    found.log = log.bounds();
    found.purged_index = log.purged.map(|purged| purged.index());
    found.committed_index = log.committed.map(|committed| committed.index());
    found.term = log.vote.as_ref().map(|vote| VoteForm::from(vote).term);
    if let (Some(witnessed), true) = (witnessed, log.complete) {
        compare_with_witness(&log, &witnessed, &mut found);
    }
    let state = annals_store::verify::verify(data, &mut found.problems, audience).map_err(VerifyError::Audience)?;
    found.tail = state.tail.get();
    found.chain_hash = state.chain;
    found.streams = state.streams;
    if owner.is_none() && (state.mark.is_some() || !log.is_pristine()) {
        found.problems.add("the identity file is missing, but there are data: nobody can tell which node's they are");
    }
    if let Some(mark) = state.mark {
        found.applied_index = Some(mark.index);
        match codec::decode_mark(&mark.opaque) {
            Ok((applied, _)) if applied.index() == mark.index => compare_with_log(&log, &applied, &mut found),
            Ok((applied, _)) => found.problems.add(format!(
                "the state stands at entry {}, but the log's mark in it says {}",
                mark.index,
                applied.index()
            )),
            Err(error) => found.problems.add_error("the log's mark in the state cannot be read", &error),
        }
    } else if let Some(purged) = log.purged {
        found.problems.add(format!("entries up to {} were purged, but the state holds nothing", purged.index()));
    }
    Ok(found)
}

/// Keeps a node from starting meanwhile.
fn lock(data: &Path) -> Result<Option<File>, VerifyError> {
    let failed = |source| VerifyError::Lock { path: data.to_owned(), source };
    let file = match File::open(data.join("LOCK")) {
        Ok(file) => file,
        // Never used by a node, or a copy without the file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(VerifyError::InUse { path: data.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn owner(data: &Path, found: &mut Verification) -> Option<Identity> {
    if let Err(error) = PeerMemory::load(data) {
        found.problems.add_error("what is remembered of peers cannot be read", &error);
    }
    if identity::was_removed(data) {
        found.notes.push("the node was removed from its cluster".into());
    }
    if let Some(why) = identity::was_outdated(data) {
        found.problems.add(format!("the directory must not be used any more: {why}"));
    }
    let identity = match Identity::load(data) {
        Ok(identity) => identity,
        Err(error) => {
            found.problems.add_error("it cannot be told whose directory it is", &error);
            return None;
        }
    };
    found.owner = identity.map(|Identity { cluster, node, incarnation, .. }| Owner { cluster, node, incarnation });
    identity
}

fn witnessed(data: &Path, owner: Option<Identity>, found: &mut Verification) -> Option<Acknowledged> {
    match Witness::look(data) {
        Ok(Some(witnessed)) => {
            found.witnessed_index = witnessed.last.map(|last| last.index);
            Some(witnessed)
        }
        Ok(None) => {
            if owner.is_some() {
                found.problems.add("the witness HEAD is missing: nobody knows what the node acknowledged");
            }
            None
        }
        Err(error) => {
            found.problems.add_error("the witness HEAD cannot be read", &error);
            None
        }
    }
}

fn compare_with_witness(log: &LogFound, witnessed: &Acknowledged, found: &mut Verification) {
    let acknowledged =
        Acknowledged { last: log.last.as_ref().map(LogIdForm::from), vote: log.vote.as_ref().map(VoteForm::from) };
    if !acknowledged.covers(witnessed) {
        found.problems.add(format!(
            "the log ends at {acknowledged}, but the node acknowledged up to {witnessed}: entries or votes are lost"
        ));
    }
}

/// Whether the node can go on from `applied` with this log.
fn compare_with_log(log: &LogFound, applied: &LogId, found: &mut Verification) {
    let problems = &mut found.problems;
    let index = applied.index();
    if let Some(purged) = log.purged.filter(|purged| purged.index() > index) {
        problems.add(format!("entries up to {} were purged, but the state holds only up to {index}", purged.index()));
    }
    if let Some(snapshot) = log.snapshot.filter(|snapshot| snapshot.index() > index) {
        problems
            .add(format!("the snapshot includes entry {}, but the state holds only up to {index}", snapshot.index()));
    }
    if !log.complete {
        return;
    }
    match (log.last, log.at(index)) {
        (_, Some(there)) if there != *applied => problems.add(format!(
            "the state holds entry {index} of term {}, the log has it of term {}",
            applied.committed_leader_id().term,
            there.committed_leader_id().term
        )),
        (Some(last), _) if last.index() > index => found.notes.push(format!(
            "the {} entries behind {index} in the log are not in the state: the next start applies those that are committed",
            last.index() - index
        )),
        (Some(last), _) if last.index() < index => found.notes.push(format!(
            "the state holds up to entry {index}, the node's own log ends at {}: others had committed more",
            last.index()
        )),
        (Some(_) | None, _) => {}
    }
}
