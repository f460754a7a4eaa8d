//! Why a call to a node did not succeed.
//!
//! The line that matters runs through [`AppendError`]: everything but
//! [`AppendError::Unknown`] means that the command was certainly not applied
//! and never will be.

use std::io;
use std::path::PathBuf;

use crate::config::InvalidConfig;

/// Why a node could not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration cannot work.
    #[error("the node's configuration cannot work: {0}")]
    Config(#[from] InvalidConfig),
    /// Another process, or another node of this one, has the directory open.
    #[error("the data directory {} is in use by another process", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory could not be read or written.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The identity file or the witness is damaged, or one of them is missing.
    #[error("the data directory {} is damaged: {why}", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The log ends before what the node had acknowledged: it forgot entries
    /// or votes on which the cluster relies. It must not take part any more.
    #[error(
        "the log of this node ends at {found} but it had acknowledged {acknowledged}: \
         remove node {node} from the cluster and join it again as a new one (empty data directory)"
    )]
    LogBehindWitness {
        /// The node.
        node: u64,
        /// Where the log ends.
        found: String,
        /// What had been acknowledged.
        acknowledged: String,
    },
    /// The node was started on this directory before, and a peer proved that it
    /// is an older copy of what the node had: it forgot what it acknowledged.
    #[error("the data directory {} must not be used any more: {why}", path.display())]
    Outdated {
        /// The directory.
        path: PathBuf,
        /// What was found then, and the way back.
        why: String,
    },
    /// The membership knows this node, and another member, by other addresses.
    #[error(
        "the membership knows node {node} at {known}, but this process is to serve it at {configured}{whose}: \
         if the disks of two nodes were swapped, give each its own; if the address is to change, \
         remove node {node} from the cluster and join it again as a new one (empty data directory)"
    )]
    OtherAddress {
        /// The node whose data directory this is.
        node: u64,
        /// Its address in the membership.
        known: String,
        /// The configured address.
        configured: String,
        /// Says which member has the configured address, if one has.
        whose: String,
    },
    /// The event store did not open.
    #[error("could not open the event store")]
    Store(#[from] annals_store::OpenError),
    /// Consensus did not start.
    #[error("could not start replication: {0}")]
    Raft(String),
}

/// Why an append has no outcome. All but `Unknown`: certainly not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Only the leader may take it, and this node is not the leader.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader and its address, where known.
        leader: Option<(u64, String)>,
    },
    /// Too much is waiting already.
    #[error("too many appends are waiting")]
    Overloaded,
    /// There was no leader until the deadline, or the node has no cluster.
    #[error("the node is not ready: {0}")]
    NotReady(String),
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The disk of the leader is nearly full.
    #[error("the disk has only {free} bytes left")]
    DiskFull {
        /// Bytes that are left.
        free: u64,
    },
    /// The command exceeds what the leader can ever hold.
    #[error("the append has {bytes} bytes, at most {max} are possible")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The most that is possible.
        max: usize,
    },
    /// It was proposed, and may have been applied, or may be applied later.
    /// Send it again with the same event ids to find out.
    #[error("it is unknown whether the append was carried out: {0}")]
    Unknown(String),
}

/// Why a read barrier was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// No leader confirmed by a quorum was found until the deadline.
    #[error("no leader could be reached")]
    NoLeader,
    /// The deadline passed first.
    #[error("the deadline passed")]
    TimedOut,
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The node that was asked is not the leader.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader and its address, where known.
        leader: Option<(u64, String)>,
    },
}

/// Why an administrative request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No leader could be reached. Not carried out.
    #[error("no leader could be reached")]
    NoLeader,
    /// The node it names is not there. Not carried out.
    #[error("{0}")]
    NotFound(String),
    /// The cluster, or the node it names, is not in a state that allows it.
    /// Not carried out.
    #[error("{0}")]
    Refused(String),
    /// A node that is needed did not answer. Not carried out.
    #[error("{0}")]
    Unreachable(String),
    /// Carried out in part or not at all, or still under way: look at the
    /// membership and ask again. Every request can be repeated.
    #[error("{0}")]
    Unknown(String),
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown,
}
