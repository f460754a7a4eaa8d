//! Mistakes on purpose, to find out whether the fault suite finds them.
//!
//! A suite that has never failed proves little. Each [`Bug`] is a mistake that
//! a developer could really make, at the very line that gets it right today.
//! The lines ask [`is`]; without the cargo feature `seeded-bugs` that is the
//! constant `false` and nothing of a mistake is compiled.
//!
//! With the feature, one mistake is chosen when the process starts, by the
//! environment variable `SEEDED_BUG=S7`; none is made without it. A release
//! build with the feature does not compile, and such a binary says so in its
//! version. The mistakes that take more than a line are in the modules
//! `mistakes` of the crates that make them.
//!
//! Where another safety net would stop a mistake before it costs anything
//! (the witness, the assertion against logs that go back), the mistake takes
//! the net away too: what is tested is the suite, not the net. Which one is
//! said at each bug.

#[cfg(all(feature = "seeded-bugs", not(debug_assertions)))]
compile_error!("seeded-bugs makes a server that loses data: never in a release build");

/// A mistake that can be made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The leader answers an append when the entry is in its own log, with the
    /// outcome as it would be; acknowledged events go with a leader that is
    /// cut off or killed.
    S1,
    /// Entries are written to the log and not synced; acknowledged events go
    /// with the power. Net taken away: the witness, log reversion.
    S2,
    /// The vote is in a file of its own that is never synced; after a power
    /// cut a node votes twice in a term. Net taken away: the witness, log
    /// reversion.
    S3,
    /// A follower answers a linearizable read from what it has applied; the
    /// read misses what was acknowledged before.
    S4,
    /// A leader answers how far a read must see without asking whether it
    /// still leads; one that was paused or cut off answers with the past.
    S5,
    /// A read takes its data first and passes the barrier afterwards; the
    /// answer is older than the call.
    S6,
    /// Event ids are remembered in the leader's memory only; an append that is
    /// repeated after a change of the leader is in the log twice.
    S7,
    /// The remembered ids do not come with a catch-up; a repeated append is
    /// answered differently on the node that caught up, and the replicas differ.
    S8,
    /// The expected revision is checked before an append is proposed and not
    /// when it is applied; of two that race, both succeed.
    S9,
    /// What an entry does and the mark that it was applied are two writes; a
    /// crash between them applies it again on top of itself.
    S10,
    /// What is only in memory counts as durable; the log that could restore it
    /// is purged, and a crash leaves a state that ends before its log begins.
    S11,
    /// A catch-up empties the state that is being served and fills it again;
    /// readers see the log begin anew, and a crash leaves half of it.
    S12,
    /// A subscription that has caught up goes on from the tail as it is then,
    /// not from what it has sent; events between the two are never delivered.
    S13,
    /// A subscription resumes at the place it is given instead of after it;
    /// that event is delivered twice.
    S14,
    /// A subscription that falls behind goes on from the tail; what it missed
    /// is never delivered and nobody is told.
    S15,
    /// `apply` stamps events with the clock of its own node; the replicas
    /// differ.
    S16,
    /// `apply` groups the commands of an entry by stream in a `HashMap` and
    /// decides them in its order; the replicas differ.
    S17,
    /// An append of several events is proposed as two; others come in between,
    /// or the second is lost with the leader.
    S18,
    /// The log is read up to the first damage; what follows it is dropped
    /// silently. Net taken away: the witness, log reversion.
    S19,
    /// An error of a write to the log is logged, and the write is answered as
    /// if it were durable. Net taken away: the witness, log reversion.
    S20,
    /// An append whose outcome is unknown is tried again with new event ids;
    /// one append is in the log twice.
    S21,
    /// A node with an empty disk takes the id that its address had before, and
    /// its peers accept it; a quorum then holds less than it acknowledged.
    /// Net taken away: log reversion.
    S22,
    /// The checkpoint of a consumer group is below what waits in it, and not
    /// below what its consumers have not answered for; that is lost with them
    /// and the leader.
    S23,
    /// A pinned strategy gives the next event of a key to its consumer while
    /// that still has the one before; an event that fails is overtaken.
    S24,
    /// What a consumer group parks counts as parked when it is to be written,
    /// with others, a little later; a leader that dies in between forgets it.
    S25,
    /// Rights are looked at by the node that takes an append, and not when it is
    /// applied; one that comes after a right was taken away is carried out.
    S26,
    /// A right to read that an account once had is remembered; it sees what was closed
    /// to it meanwhile.
    S27,
    /// A scavenge takes the first event that a truncation keeps with those before it;
    /// an event that readers see is gone.
    S28,
    /// A node that catches up does not ask what was reclaimed among the records that it
    /// has; it shows them for ever, and the replicas differ.
    S29,
}

/// Whether this mistake is to be made.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// Whether the mistake that is made breaks promises of the log, so that the
/// nets under them are taken away with it.
pub fn breaks_promises() -> bool {
    is(Bug::S2) || is(Bug::S3) || is(Bug::S19) || is(Bug::S20) || is(Bug::S22)
}

#[cfg(feature = "seeded-bugs")]
pub use self::choice::{Unknown, choose, is};

#[cfg(feature = "seeded-bugs")]
mod choice {
    use std::sync::OnceLock;

    use super::Bug;

    const VARIABLE: &str = "SEEDED_BUG";

    const ALL: [Bug; 29] = [
        Bug::S1,
        Bug::S2,
        Bug::S3,
        Bug::S4,
        Bug::S5,
        Bug::S6,
        Bug::S7,
        Bug::S8,
        Bug::S9,
        Bug::S10,
        Bug::S11,
        Bug::S12,
        Bug::S13,
        Bug::S14,
        Bug::S15,
        Bug::S16,
        Bug::S17,
        Bug::S18,
        Bug::S19,
        Bug::S20,
        Bug::S21,
        Bug::S22,
        Bug::S23,
        Bug::S24,
        Bug::S25,
        Bug::S26,
        Bug::S27,
        Bug::S28,
        Bug::S29,
    ];

    /// The variable names no bug.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    #[error("{VARIABLE} is {name:?}, which is no seeded bug")]
    pub struct Unknown {
        /// What it says.
        pub name: String,
    }

    fn parse(name: Option<&str>) -> Result<Option<Bug>, Unknown> {
        let Some(name) = name else { return Ok(None) };
        match ALL.into_iter().find(|bug| format!("{bug:?}") == name) {
            Some(bug) => Ok(Some(bug)),
            None => Err(Unknown { name: name.to_owned() }),
        }
    }

    fn chosen() -> &'static Result<Option<Bug>, Unknown> {
        static CHOSEN: OnceLock<Result<Option<Bug>, Unknown>> = OnceLock::new();
        CHOSEN.get_or_init(|| {
            let name = std::env::var_os(VARIABLE).map(|name| name.to_string_lossy().into_owned());
            parse(name.as_deref())
        })
    }

    /// The mistake that this process makes, chosen once. To be called at its
    /// start.
    ///
    /// # Errors
    /// [`Unknown`]: a run that seeds nothing must not count as one that did.
    pub fn choose() -> Result<Option<Bug>, Unknown> {
        chosen().clone()
    }

    /// Whether this mistake is to be made.
    pub fn is(bug: Bug) -> bool {
        *chosen() == Ok(Some(bug))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_bug_is_chosen_by_its_name_and_no_other() {
            assert_eq!(parse(None), Ok(None));
            assert_eq!(parse(Some("S7")), Ok(Some(Bug::S7)));
            assert_eq!(parse(Some("S22")), Ok(Some(Bug::S22)));
            for name in ["", "s7", "S0", "S99", "S7,S8", " S7"] {
                assert!(parse(Some(name)).is_err(), "{name:?}");
            }
        }
    }
}
