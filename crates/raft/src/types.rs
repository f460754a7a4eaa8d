//! What the consensus library is told to work with.
//!
//! Its types appear in this crate only, and in no encoding: what goes to disk
//! or to a peer is written by [`crate::codec`].

use std::fmt;

use annals_core::Outcome;
use bytes::Bytes;
use openraft::alias;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The node's choice of types.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Applied,
        Node = NodeInfo,
        AsyncRuntime = crate::runtime::Runtime,
);

pub(crate) type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, NodeInfo>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Raft<M = crate::state_machine::StateMachine> = openraft::Raft<TypeConfig, M>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;

/// What is proposed: an encoded [`annals_core::Batch`], opaque to everything
/// but `apply`.
///
/// Once it is part of an entry that was encoded or decoded it also has the
/// entry's encoding, and is the end of it: the log and every follower get the
/// same bytes, with the checksum that was computed once.
#[derive(Clone)]
pub(crate) struct Proposal {
    pub(crate) batch: Bytes,
    pub(crate) encoded: Option<Bytes>,
}

impl Proposal {
    /// A batch that is in no entry yet.
    pub(crate) fn new(batch: Bytes) -> Self {
        Proposal { batch, encoded: None }
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Self) -> bool {
        self.batch == other.batch
    }
}

impl Eq for Proposal {}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.batch.len())
    }
}

/// What comes back: one outcome for each command of the batch, none for
/// entries that are not batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied(pub(crate) Vec<Outcome>);

/// What the replicated membership says of a node. [`crate::codec`] writes it with
/// what follows the incarnation only where that says something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeInfo {
    /// Its `host:port`.
    pub(crate) address: String,
    /// The one data directory that may speak for it. A node whose disk was
    /// wiped or swapped has another one, and nobody listens to it.
    pub(crate) incarnation: [u8; 16],
    /// What people call it. Empty: as the host of its address.
    pub(crate) name: String,
    /// It follows for good: nobody gives it a vote.
    pub(crate) replica: bool,
    /// The member whose place it takes once it has caught up, 0 for none. It stays
    /// when that is done, and then means nothing: ids are never used again.
    pub(crate) replaces: u64,
}

impl NodeInfo {
    /// What people call it.
    pub(crate) fn called(&self) -> &str {
        if self.name.is_empty() { host(&self.address) } else { &self.name }
    }
}

/// The host of a `host:port`, without the brackets of IPv6.
pub(crate) fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Index of an optional log id, 0 where there is none.
pub(crate) fn index_of(log_id: Option<&LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index())
}
