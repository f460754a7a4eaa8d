//! The bugs that the fake server can be told to have: for each seeded bug of
//! the real server what a client would see of it.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// An isolated leader acknowledges what it never commits.
    S1AckBeforeCommit,
    /// A power cut loses the end of the log on all nodes.
    S2NoFsyncOnAppend,
    /// Two leaders of one term: a position holds two events.
    S3NoFsyncOnVote,
    /// A follower answers linearizable reads from what it has.
    S4LocalReadAsLinearizable,
    /// A leader that was replaced answers linearizable reads.
    S5NoQuorumCheck,
    /// A new leader answers before it has applied what was committed.
    S6ReadIndexAfterRead,
    /// A new leader does not know the ids of before.
    S7IdsInLeaderMemory,
    /// A node that installed a snapshot does not know the ids of before.
    S8IdsNotInSnapshot,
    /// An expectation is judged when the call arrives and not again.
    S9JudgedBeforePropose,
    /// A restarted node applies a command once more.
    S10AppliedTwice,
    /// A restarted node lacks a part of the log that it had purged.
    S11PurgedTooEarly,
    /// A node serves a half loaded snapshot.
    S12HalfSnapshot,
    /// A subscription misses an event when it has caught up.
    S13GapAfterCatchUp,
    /// A subscription repeats an event when it resumes.
    S14RepeatOnResume,
    /// A subscription leaves out events when many wait.
    S15SlowConsumer,
    /// Each node writes its own time into the events.
    S16ClockInApply,
    /// A node applies the events of a command in another order.
    S17UnorderedApply,
    /// The events of an append are written in two parts.
    S18SplitBatch,
    /// A node with a damaged log comes back with a shorter one, and leads.
    S19ShortLogLeads,
    /// After a failed fsync a node goes on, and loses it with the power.
    S20FsyncErrorIgnored,
    /// What is unknown is sent again under new ids.
    S21FreshIds,
    /// An emptied node forms a majority with one that lags behind.
    S22EmptyNodeAccepted,
    /// A group's checkpoint passes what is with a consumer.
    S23CheckpointTooHigh,
    /// The next event of a stream goes out while one is with a consumer.
    S24KeyOvertakes,
    /// What is to be parked counts as parked, and may never be.
    S25ParkedTooEarly,
}

impl Bug {
    /// Every bug with the properties of which at least one must catch it.
    pub(crate) const ALL: [(Bug, &'static [&'static str]); 25] = [
        (Bug::S1AckBeforeCommit, &["P3"]),
        (Bug::S2NoFsyncOnAppend, &["P3"]),
        (Bug::S3NoFsyncOnVote, &["P1", "P3"]),
        (Bug::S4LocalReadAsLinearizable, &["P8"]),
        (Bug::S5NoQuorumCheck, &["P8"]),
        (Bug::S6ReadIndexAfterRead, &["P8"]),
        (Bug::S7IdsInLeaderMemory, &["P5"]),
        (Bug::S8IdsNotInSnapshot, &["P5"]),
        (Bug::S9JudgedBeforePropose, &["P9", "P4"]),
        (Bug::S10AppliedTwice, &["P5", "P4", "P13"]),
        (Bug::S11PurgedTooEarly, &["P3"]),
        (Bug::S12HalfSnapshot, &["P13", "P10"]),
        (Bug::S13GapAfterCatchUp, &["P11"]),
        (Bug::S14RepeatOnResume, &["P11"]),
        (Bug::S15SlowConsumer, &["P11"]),
        (Bug::S16ClockInApply, &["P13", "P15"]),
        (Bug::S17UnorderedApply, &["P13"]),
        (Bug::S18SplitBatch, &["P6"]),
        (Bug::S19ShortLogLeads, &["P3", "P13"]),
        (Bug::S20FsyncErrorIgnored, &["P3"]),
        (Bug::S21FreshIds, &["P5"]),
        (Bug::S22EmptyNodeAccepted, &["P3"]),
        (Bug::S23CheckpointTooHigh, &["P11"]),
        (Bug::S24KeyOvertakes, &["P11"]),
        (Bug::S25ParkedTooEarly, &["P11"]),
    ];
}
