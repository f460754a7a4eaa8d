//! What a seed decides before anything happens: how large the cluster is, how
//! patient, how slow its disks and links are, what will go wrong.
//!
//! The rare branches of the code are made common here: a batch of one entry, a
//! purge after five entries, a sync that takes as long as an election.

use std::ops::Range;
use std::time::Duration;

use super::random::Random;

/// A mistake that the simulation makes on purpose, so that a test can show
/// that it would be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Entries count as durable before they are synced.
    AppendNotSynced,
    /// A vote counts as durable before it is synced.
    VoteNotSynced,
    /// A leader answers an append before the entry is committed.
    AckBeforeCommit,
    /// The log is purged up to what is applied, durable or not.
    PurgeBeforeDurable,
    /// A follower answers linearizable reads from what it has applied.
    LocalReads,
    /// A leader answers how far a read must see without asking a quorum.
    ReadsWithoutQuorum,
    /// After a restart nobody remembers event ids.
    IdsForgottenAtRestart,
    /// Event ids do not come with a catch-up.
    IdsForgottenAtCatchUp,
    /// A node with an empty disk goes on under its old identity.
    IdentityReused,
    /// Events are stamped with the clock of the node that applies them.
    ClockInApply,
    /// The data become durable before the mark of the entry they came with.
    DataBeforeMark,
    /// A catch-up does not bring the highest node id along.
    ResidueForgotten,
    /// What is known to be committed is written although the entries are not.
    CommittedBeyondLog,
    /// A snapshot that lies behind the state stays so at a start.
    SnapshotBehindState,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 14] = [
        Mutation::AppendNotSynced,
        Mutation::VoteNotSynced,
        Mutation::AckBeforeCommit,
        Mutation::PurgeBeforeDurable,
        Mutation::LocalReads,
        Mutation::ReadsWithoutQuorum,
        Mutation::IdsForgottenAtRestart,
        Mutation::IdsForgottenAtCatchUp,
        Mutation::IdentityReused,
        Mutation::ClockInApply,
        Mutation::DataBeforeMark,
        Mutation::ResidueForgotten,
        Mutation::CommittedBeyondLog,
        Mutation::SnapshotBehindState,
    ];

    /// Whether what it breaks is the storage contract itself: the oracle then
    /// looks away from the broken promise, so that what must be found is the
    /// harm that comes of it.
    pub(crate) fn breaks_promises(self) -> bool {
        matches!(self, Mutation::AppendNotSynced | Mutation::VoteNotSynced | Mutation::IdentityReused)
    }
}

/// Everything that a seed decides beforehand. Times are virtual.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Nodes of the first membership.
    pub(crate) nodes: u64,
    /// Machines that stand by to be added.
    pub(crate) spares: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) election_min: Duration,
    pub(crate) election_max: Duration,
    /// Milliseconds that a message takes.
    pub(crate) delay: Range<u64>,
    /// Messages in a thousand that take ten times as long.
    pub(crate) straggler: u64,
    /// Messages in a thousand with which their connection breaks.
    pub(crate) reset: u64,
    /// Votes in a thousand that arrive twice.
    pub(crate) twice: u64,
    /// Milliseconds that a sync takes.
    pub(crate) sync: Range<u64>,
    /// Syncs in a thousand that take very long.
    pub(crate) slow_sync: u64,
    /// Milliseconds by which a callback comes later than its sync.
    pub(crate) callback: Range<u64>,
    /// The most writes in one group.
    pub(crate) group: usize,
    /// How long blocking work takes at most.
    pub(crate) work: Duration,
    /// Applied entries in a thousand after which the state is flushed, as the
    /// database does when its memory is full.
    pub(crate) flush: u64,
    pub(crate) maintenance: Duration,
    /// Unflushed entries after which maintenance flushes.
    pub(crate) flush_entries: u64,
    /// Entries that a purge keeps.
    pub(crate) keep: u64,
    /// Records in one chunk of a catch-up.
    pub(crate) chunk: usize,
    /// Entries that are sent at once.
    pub(crate) payload: u64,
    pub(crate) clients: u64,
    /// The longest pause of a client between two calls, in milliseconds.
    pub(crate) client_pause: u64,
    pub(crate) streams: u64,
    /// How long faults happen.
    pub(crate) faults: Duration,
    /// Milliseconds between two faults.
    pub(crate) fault_pause: Range<u64>,
    pub(crate) kills: bool,
    pub(crate) power_losses: bool,
    pub(crate) pauses: bool,
    pub(crate) partitions: bool,
    pub(crate) membership: bool,
    pub(crate) skew: bool,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed).fork(1);
        let r = &mut random;
        let heartbeat = r.within(40..200);
        let election_min = heartbeat * r.within(22..50) / 10;
        let election_max = election_min + r.within(heartbeat..heartbeat * 4);
        let delay = *r.pick(&[(0, 2), (0, 2), (1, 8), (0, 25)]);
        let sync = *r.pick(&[(0, 1), (0, 3), (1, 10), (5, 40)]);
        let callback = *r.pick(&[(0, 0), (0, 0), (0, 0), (0, 20)]);
        Plan {
            nodes: *r.pick(&[1, 3, 3, 3, 3, 3, 5, 5, 5]),
            spares: 2,
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(election_min),
            election_max: Duration::from_millis(election_max),
            delay: delay.0..delay.1,
            straggler: *r.pick(&[0, 5, 50]),
            reset: *r.pick(&[0, 0, 1, 10]),
            twice: *r.pick(&[0, 100]),
            sync: sync.0..sync.1,
            slow_sync: *r.pick(&[0, 5, 30]),
            callback: callback.0..callback.1,
            group: *r.pick(&[1, 3, 1_000]),
            work: Duration::from_micros(*r.pick(&[0, 500, 5_000])),
            flush: *r.pick(&[0, 0, 20, 200]),
            maintenance: Duration::from_millis(r.within(50..1_000)),
            flush_entries: *r.pick(&[1, 10, 40, 200]),
            keep: *r.pick(&[1, 5, 30, 200]),
            chunk: *r.pick(&[1, 7, 1_000]),
            payload: *r.pick(&[1, 2, 10, 4_096]),
            clients: r.within(2..7),
            client_pause: *r.pick(&[20, 100, 300]),
            streams: r.within(2..8),
            faults: Duration::from_secs(r.within(6..14)),
            fault_pause: 100..r.within(400..2_500),
            kills: r.chance(800),
            power_losses: r.chance(300),
            pauses: r.chance(600),
            partitions: r.chance(700),
            membership: r.chance(400),
            skew: r.chance(500),
        }
    }
}
