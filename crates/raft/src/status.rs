//! How a node is doing.

use std::time::Duration;

use uuid::Uuid;

/// How a node is doing, at one moment. Indexes are Raft's, 0 where there is
/// none yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The cluster this node belongs to, none before it was adopted.
    pub cluster: Option<Uuid>,
    /// The node's id, 0 before it was adopted.
    pub node: u64,
    /// Names this data directory: another one has another value.
    pub incarnation: Uuid,
    /// What the node's process is going through.
    pub phase: Phase,
    /// What the node is to the others.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// The leader this node knows of and its address. A leader that lost its
    /// quorum still names itself: look at `quorum_acked_ago`.
    pub leader: Option<(u64, String)>,
    /// All members this node knows of, sorted by id.
    pub members: Vec<Member>,
    /// The last entry of the log.
    pub last_log: u64,
    /// The last entry that is known to be committed.
    pub committed: u64,
    /// The last entry that is applied.
    pub applied: u64,
    /// The last entry whose effects survive a crash without the log.
    pub durable: u64,
    /// The last entry that the current snapshot includes.
    pub snapshot: u64,
    /// The last entry that was purged from the log.
    pub purged: u64,
    /// On a leader: how long ago a quorum last confirmed it.
    pub quorum_acked_ago: Option<Duration>,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its `host:port`.
    pub address: String,
    /// Whether it votes; learners only follow.
    pub voter: bool,
    /// The last entry that is known to be on its disk. Known to leaders only.
    pub matched: Option<u64>,
    /// Whether it answered lately. A node that does not lead says this of the
    /// leader and of itself, and cannot know it of others (`false`).
    pub reachable: bool,
    /// What people call it; not necessarily another name than that of all others.
    pub name: String,
    /// It follows for good and is never given a vote.
    pub replica: bool,
    /// The member whose place it takes once it has caught up.
    pub replaces: Option<u64>,
    /// The release that it runs, as it lately said itself.
    pub version: Option<String>,
    /// The last entry that it had applied then.
    pub applied: Option<u64>,
}

/// What a node's process is going through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Has no identity and waits to be adopted.
    Waiting,
    /// Has no identity, or its log is empty, and it forms a cluster together
    /// with the other nodes of its bootstrap list.
    Bootstrapping,
    /// Applies what was committed before it started, or looks for a leader
    /// for the first time.
    Recovering,
    /// Has applied what was committed when it started.
    Ready,
    /// Was removed from its cluster. Only an empty data directory lets it
    /// join again.
    Removed,
    /// Runs on an outdated copy of its disk, as a peer has shown, and takes no
    /// part any more. The process is to end.
    Outdated,
    /// Is going down.
    ShuttingDown,
    /// Has let go of its disks.
    Stopped,
}

impl Phase {
    /// For metrics and people.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Bootstrapping => "bootstrapping",
            Phase::Recovering => "recovering",
            Phase::Ready => "ready",
            Phase::Removed => "removed",
            Phase::Outdated => "outdated",
            Phase::ShuttingDown => "shutting-down",
            Phase::Stopped => "stopped",
        }
    }
}

/// What a node is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes proposals, as long as a quorum confirms it.
    Leader,
    /// Follows a leader and may become one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Follows without a vote; also: not a member of anything.
    Learner,
}

impl Role {
    /// For metrics and people.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
        }
    }
}
