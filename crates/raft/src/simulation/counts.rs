//! What came out of a run.

use std::fmt;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name, as in the module's table.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// How often things happened, so that a run in which nothing did is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries committed.
    pub committed: u64,
    /// Events written.
    pub events: u64,
    /// Appends acknowledged.
    pub acknowledged: u64,
    /// Appends that were answered as repetitions.
    pub repeated: u64,
    /// Appends refused by the rules.
    pub refused: u64,
    /// Appends that were certainly not carried out, for want of a leader.
    pub failed: u64,
    /// Appends whose fate was unknown.
    pub unknown: u64,
    /// Linearizable reads answered.
    pub reads: u64,
    /// Leaders elected.
    pub leaders: u64,
    /// Processes killed.
    pub kills: u64,
    /// Processes paused.
    pub pauses: u64,
    /// Partitions made.
    pub partitions: u64,
    /// Catch-ups installed.
    pub catch_ups: u64,
    /// Purges of a log.
    pub purges: u64,
    /// Truncations of a log.
    pub truncations: u64,
    /// Changes of the membership carried out.
    pub changes: u64,
    /// Runs that ended early for a reason that is known.
    pub abandoned: u64,
}

impl Counts {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            committed: self.committed + other.committed,
            events: self.events + other.events,
            acknowledged: self.acknowledged + other.acknowledged,
            repeated: self.repeated + other.repeated,
            refused: self.refused + other.refused,
            failed: self.failed + other.failed,
            unknown: self.unknown + other.unknown,
            reads: self.reads + other.reads,
            leaders: self.leaders + other.leaders,
            kills: self.kills + other.kills,
            pauses: self.pauses + other.pauses,
            partitions: self.partitions + other.partitions,
            catch_ups: self.catch_ups + other.catch_ups,
            purges: self.purges + other.purges,
            truncations: self.truncations + other.truncations,
            changes: self.changes + other.changes,
            abandoned: self.abandoned + other.abandoned,
        }
    }
}
