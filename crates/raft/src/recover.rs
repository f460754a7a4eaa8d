//! Going on with what one stopped node has, when a quorum is lost for good.
//!
//! Without a quorum nobody can change the membership any more, not even to take the
//! lost nodes out of it. So it is rewritten in the data directory of one node that is
//! left, by its operator, who thereby says that the others are gone:
//!
//! ```text
//! log   … committed … │ perhaps committed … │ membership: this node │ marker
//!                                             └── of a new term ──────────┘
//! ```
//!
//! - All entries of the log are kept, also those that are not known to be committed:
//!   they may have been acknowledged. What others had acknowledged *beyond* this log is
//!   lost, and nothing here can tell what that was.
//! - The cluster gets a new name. Nodes of the old one are refused by it, and told the
//!   way back ([`crate::identity`] checks the name on every call): they may have
//!   entries where the recovered log goes another way.
//! - Ids of the old members are used up, so that no new node is taken for an old one.
//! - An event of the type [`EVENT_TYPE`] in the stream [`STREAM`] tells of it.
//!
//! The next start leads a cluster of one. Other nodes join it with empty directories.
//!
//! Each step can be repeated, and the order is such that a crash leaves nothing that
//! could mix with the old cluster: first the new name, then the log, then the witness.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use annals_core::{
    Append, Batch, Command, Content, Event, EventId, EventType, Expected, Properties, StreamName, Timestamp,
};
use annals_store::{Options, Store};
use bytes::Bytes;
use openraft::EntryPayload;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::codec::{self, LogIdForm, VoteForm};
use crate::identity::{self, Identity, write_durably};
use crate::segments::{self, Record, Segments, Values, Writer};
use crate::types::{Entry, LogId, Membership, NodeInfo, Proposal, Vote};
use crate::witness::{Acknowledged, Witness};

/// Where the recovery is told.
pub const STREAM: &str = "$system";

/// By an event of this type.
pub const EVENT_TYPE: &str = "$clusterRecovered";

/// Which clusters this directory belonged to before.
const FILE: &str = "recovered";

/// Set on a refusal whose reason is that the sender's cluster is no more.
pub(crate) const RECOVERED_HEADER: &str = "annals-recovered";

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 1024 * 1024;

/// Why a directory cannot be recovered. Nothing was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is none, or no node ever ran on it.
    #[error("{} is no data directory of a node that was in a cluster", path.display())]
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
    /// It must not be used.
    #[error("{} must not be recovered: {why}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted. Once it was to be written, try again.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its identity cannot be read.
    #[error(transparent)]
    Identity(#[from] crate::error::OpenError),
    /// Its state cannot be opened.
    #[error("cannot open the state")]
    Store(#[from] annals_store::OpenError),
}

/// What a directory has, and what is known of the cluster that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The cluster.
    pub cluster: Uuid,
    /// The node's id in it.
    pub node: u64,
    /// All members that it knows of: id, `host:port`, whether they vote.
    pub members: Vec<(u64, String, bool)>,
    /// Raft's term.
    pub term: u64,
    /// The last entry that it has.
    pub last_log: u64,
    /// The last entry in its state.
    pub applied: u64,
    /// The last entry that it knows to be committed: there may be more.
    pub committed: u64,
    /// The position of the newest event in its state.
    pub tail: u64,
    /// The last entry that it once had acknowledged, where its log ends before that.
    pub acknowledged_beyond: Option<u64>,
}

/// What was made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The name of the cluster from now on.
    pub cluster: Uuid,
    /// The node's id, as before.
    pub node: u64,
    /// The entry that ends the old cluster.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// A directory that nobody else uses meanwhile.
pub struct Recovery {
    data: PathBuf,
    _lock: File,
    identity: Identity,
    survivor: Survivor,
    values: Values,
    log_last: Option<LogId>,
    applied: Option<LogId>,
    witness: Witness,
    highest_node: u64,
}

impl Recovery {
    /// Looks at the data directory of a stopped node. The state is opened, which may
    /// tidy up after a crash; nothing else is written.
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn look(data: &Path) -> Result<Recovery, RecoverError> {
        let not_there = || RecoverError::NotThere { path: data.to_owned() };
        let unusable = |why: String| RecoverError::Unusable { path: data.to_owned(), why };
        if !data.is_dir() {
            return Err(not_there());
        }
        let lock = lock(data)?;
        let identity = Identity::load(data)?.ok_or_else(not_there)?;
        if identity::was_removed(data) {
            return Err(unusable("this node was removed from its cluster".into()));
        }
        if let Some(why) = identity::was_outdated(data) {
            return Err(unusable(format!("{why}. Recover from another node's disk")));
        }
        let io = |action| move |source| RecoverError::Io { action, path: data.to_owned(), source };
        let witness = match Witness::open(data).map_err(io("read the witness in"))? {
            Some(witness) => witness,
            None => Witness::create(data).map_err(io("create the witness in"))?,
        };
        let (applied, membership, tail) = state(data)?;
        let log = data.join("log");
        let scan = segments::scan(&log).map_err(|error| {
            unusable(format!(
                "its log cannot be read ({error}). Look at it with `annals verify`, or recover from another node's disk"
            ))
        })?;
        let values = scan.values().clone();
        let log_last = scan.last();
        let mut members: BTreeMap<u64, (NodeInfo, bool)> = BTreeMap::new();
        let mut highest_node = identity.node;
        let mut learn = |membership: &Membership| {
            let voters: Vec<u64> = membership.voter_ids().collect();
            let of = |(id, info): (&u64, &NodeInfo)| (*id, (info.clone(), voters.contains(id)));
            members = membership.nodes().map(of).collect();
            highest_node = highest_node.max(membership.nodes().map(|(id, _)| *id).max().unwrap_or(0));
        };
        learn(&membership);
        let from = applied.map_or(0, |applied| applied.index() + 1);
        let in_log = memberships(&Segments::look(scan).map_err(io("read the log in"))?, from, log_last);
        in_log.map_err(io("read the log in"))?.iter().for_each(&mut learn);

        let last = log_last.max(applied);
        let index = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index());
        let witnessed = witness.acknowledged().last.map(|last| last.index);
        let survivor = Survivor {
            cluster: identity.cluster,
            node: identity.node,
            members: members.into_iter().map(|(id, (info, votes))| (id, info.address, votes)).collect(),
            term: term_of(&values, last),
            last_log: index(last),
            applied: index(applied),
            committed: index(values.committed.max(applied)),
            tail,
            acknowledged_beyond: witnessed.filter(|witnessed| last.is_none_or(|last| last.index() < *witnessed)),
        };
        Ok(Recovery {
            data: data.to_owned(),
            _lock: lock,
            identity,
            survivor,
            values,
            log_last,
            applied,
            witness,
            highest_node,
        })
    }

    /// What it has.
    pub fn survivor(&self) -> &Survivor {
        &self.survivor
    }

    /// Makes it the only member of a new cluster, at this `host:port`. Durable on
    /// return.
    ///
    /// # Errors
    /// [`RecoverError`]: part of it may be done. Do it again.
    pub fn carry_out(mut self, address: &str, now: Timestamp) -> Result<Recovered, RecoverError> {
        let data = self.data.clone();
        let io = |action| {
            let path = data.clone();
            move |source| RecoverError::Io { action, path, source }
        };
        let (former, cluster) = (self.identity.cluster, Uuid::new_v4());
        let mut all = former_clusters(&data).map_err(io("read what was recovered in"))?;
        if !all.contains(&former) {
            all.push(former);
        }
        write_durably(&data, FILE, print(&all).as_bytes()).map_err(io("write to"))?;
        let identity = Identity { cluster, ..self.identity };
        identity.store(&data).map_err(io("write the identity in"))?;

        let last = self.log_last.max(self.applied);
        let term = term_of(&self.values, last) + 1;
        let mut index = last.map_or(0, |last| last.index() + 1);
        let first = index;
        let mut records = Vec::new();
        if let Some(applied) = self.applied.filter(|applied| self.log_last.is_none_or(|last| last < *applied)) {
            // As at a start: others had committed what the state holds.
            records.push(Record::Emptied(applied));
        }
        let vote = Vote::new_committed(term, identity.node);
        records.push(Record::Vote(vote));
        let info = NodeInfo {
            address: address.to_owned(),
            incarnation: *identity.incarnation.as_bytes(),
            ..NodeInfo::default()
        };
        let alone = Membership::new(vec![[identity.node].into()], BTreeMap::from([(identity.node, info)]))
            .map_err(|error| RecoverError::Unusable { path: data.clone(), why: error.to_string() })?;
        let marker = self.marker(cluster, address, first, now);
        for payload in [EntryPayload::Membership(alone), EntryPayload::Normal(Proposal::new(marker))] {
            let log_id = LogIdForm { term, node: identity.node, index }.into();
            records.push(Record::Entry(codec::seal_entry(&mut Entry { log_id, payload })));
            index += 1;
        }
        let path = data.join("log");
        let scan = segments::scan(&path).map_err(|error| RecoverError::Unusable {
            path: data.clone(),
            why: format!("its log cannot be read any more: {error}"),
        })?;
        let mut writer = Writer::open(&path, scan).map_err(io("open the log in"))?;
        writer.write(&records, true).map_err(io("write the log in"))?;
        let end = LogIdForm { term, node: identity.node, index: index - 1 };
        let acknowledged = Acknowledged { last: Some(end), vote: Some(VoteForm::from(&vote)) };
        self.witness.write(acknowledged).map_err(io("write the witness in"))?;
        Ok(Recovered { cluster, node: identity.node, index: first, term })
    }

    /// The commands of the entry behind the membership: ids of old members are used up,
    /// and the event is written.
    fn marker(&self, cluster: Uuid, address: &str, index: u64, now: Timestamp) -> Bytes {
        let Survivor { cluster: former, node, members, committed, .. } = &self.survivor;
        let lost = members.iter().filter(|(id, ..)| id != node).map(|(id, ..)| id.to_string());
        let lost = lost.collect::<Vec<_>>().join(",");
        let data = format!(
            r#"{{"formerCluster":"{former}","cluster":"{cluster}","node":{node},"address":"{address}","membersGivenUp":[{lost}],"logIndex":{index},"committedIndexKnown":{committed}}}"#
        );
        let event = Event::new(
            EventId::new(Uuid::new_v4()).expect("a random uuid is not nil"),
            EventType::new(EVENT_TYPE).expect("a name of our own"),
            Content::Json,
            Properties::Opaque,
            Bytes::new(),
            data.into(),
        );
        let stream = StreamName::new(STREAM).expect("a name of our own");
        let commands = [
            Command::AllocateNode { above: self.highest_node.saturating_sub(1) },
            Command::Append(Append::single(stream, Expected::Any, vec![event])),
        ];
        Batch::encode(now, &commands.map(|command| command.encode()))
    }
}

/// The highest term of which there is a trace.
fn term_of(values: &Values, last: Option<LogId>) -> u64 {
    let voted = values.vote.as_ref().map_or(0, |vote| VoteForm::from(vote).term);
    voted.max(last.map_or(0, |last| last.committed_leader_id().term))
}

/// Where the state stands, with the membership and the newest position there.
fn state(data: &Path) -> Result<(Option<LogId>, Membership, u64), RecoverError> {
    let store = Store::open(data, Options::default())?;
    let (mark, tail) = (store.mark(), store.tail().get());
    let closed = store.close();
    closed.map_err(|error| RecoverError::Io {
        action: "close the state in",
        path: data.to_owned(),
        source: io::Error::other(error),
    })?;
    let Some(mark) = mark else { return Ok((None, Membership::default(), tail)) };
    let (applied, membership) = codec::decode_mark(&mark.opaque).map_err(|error| RecoverError::Unusable {
        path: data.to_owned(),
        why: format!("the log's mark in the state cannot be read: {error}"),
    })?;
    Ok((Some(applied), membership.membership().clone(), tail))
}

/// The memberships in a log, from an entry on.
fn memberships(segments: &Segments, from: u64, last: Option<LogId>) -> io::Result<Vec<Membership>> {
    let mut found = Vec::new();
    let Some(last) = last else { return Ok(found) };
    let mut next = from;
    while next <= last.index() {
        let entries = segments.read(next, last.index() + 1, READ_BYTES)?;
        if entries.is_empty() {
            return Err(io::Error::other(format!("log entry {next} is not there")));
        }
        next += entries.len() as u64;
        found.extend(entries.into_iter().filter_map(|entry| match entry.payload {
            EntryPayload::Membership(membership) => Some(membership),
            EntryPayload::Blank | EntryPayload::Normal(_) => None,
        }));
    }
    Ok(found)
}

fn lock(data: &Path) -> Result<File, RecoverError> {
    let failed = |source| RecoverError::Io { action: "lock", path: data.to_owned(), source };
    let file = File::create(data.join("LOCK")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RecoverError::InUse { path: data.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The clusters that this directory belonged to before it was recovered.
pub(crate) fn former_clusters(data: &Path) -> io::Result<Vec<Uuid>> {
    match fs::read_to_string(data.join(FILE)) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn print(clusters: &[Uuid]) -> String {
    clusters.iter().map(|cluster| format!("{cluster}\n")).collect()
}

/// The refusal of who calls from a cluster that was given up, if that is so.
pub(crate) fn of_former_cluster(former: &[Uuid], identity: &Identity, headers: &MetadataMap) -> Option<Status> {
    let cluster: Uuid = headers.get("annals-cluster")?.to_str().ok()?.parse().ok()?;
    if !former.contains(&cluster) {
        return None;
    }
    let mut status = Status::new(Code::FailedPrecondition, given_up(identity.node, identity.cluster));
    let name = MetadataValue::try_from(identity.cluster.to_string()).expect("a uuid is plain text");
    status.metadata_mut().insert(RECOVERED_HEADER, name);
    Some(status)
}

/// Why this node must not take part any more, if a peer says that the cluster is no more.
pub(crate) fn told_given_up(peer: u64, headers: &MetadataMap) -> Option<String> {
    let cluster: Uuid = headers.get(RECOVERED_HEADER)?.to_str().ok()?.parse().ok()?;
    Some(given_up(peer, cluster))
}

fn given_up(node: u64, cluster: Uuid) -> String {
    format!(
        "node {node} went on alone, as cluster {cluster}, after this cluster had lost its quorum \
         (annals node recover): what other nodes had is given up. To be in the new cluster, start with an empty data \
         directory and be added as a new node (annals cluster add)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::Lineage;

    fn identity(cluster: u128) -> Identity {
        let (cluster, incarnation) = (Uuid::from_u128(cluster), Uuid::from_u128(9));
        Identity { cluster, node: 1, incarnation, lineage: Lineage::default() }
    }

    #[test]
    fn who_calls_from_a_cluster_that_was_given_up_is_told_the_way_back() {
        let former = [Uuid::from_u128(7), Uuid::from_u128(8)];
        let call = identity(7).sign(1, &NodeInfo::default(), ());
        let status = of_former_cluster(&former, &identity(99), call.metadata()).expect("refused");
        assert_eq!(status.code(), Code::FailedPrecondition);
        let why = told_given_up(1, status.metadata()).expect("it is told");
        assert!(why.contains("annals cluster add") && why.contains(&Uuid::from_u128(99).to_string()), "{why}");
        let own = identity(99).sign(1, &NodeInfo::default(), ());
        assert!(of_former_cluster(&former, &identity(99), own.metadata()).is_none());
        assert!(told_given_up(1, own.metadata()).is_none());
    }

    #[test]
    fn former_clusters_are_read_as_they_were_written() {
        let data = tempfile::tempdir().expect("a directory");
        assert!(former_clusters(data.path()).expect("nothing there is fine").is_empty());
        let former = [Uuid::from_u128(7), Uuid::from_u128(8)];
        write_durably(data.path(), FILE, print(&former).as_bytes()).expect("written");
        assert_eq!(former_clusters(data.path()).expect("readable"), former);
    }

    #[test]
    fn a_directory_that_no_node_used_is_refused() {
        let data = tempfile::tempdir().expect("a directory");
        assert!(matches!(Recovery::look(data.path()), Err(RecoverError::NotThere { .. })));
        assert!(matches!(Recovery::look(&data.path().join("none")), Err(RecoverError::NotThere { .. })));
    }
}
