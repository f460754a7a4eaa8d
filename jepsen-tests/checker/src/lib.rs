//! Decides from a recorded history whether a replicated event log kept its
//! promises. Contains no code of the server.
//!
//! The picture: positions fix one total order of all events, so there is
//! nothing to search for. The log as it is read at the very end is the
//! *witness*. A history is right if everything that anyone was ever told
//! agrees with the witness and fits it in time:
//!
//! 1. [`load()`] reads the records, `index` sorts them and picks the witness;
//! 2. `replay` walks the witness once, from the first event to the last, and
//!    finds for each event the call that wrote it and the state of its stream;
//! 3. `properties` compare what was told with that, one promise each;
//! 4. `sweep` asks whether reads, refusals and appends can be placed along the
//!    witness in an order that real time allows.
//!
//! All of it takes O(n log n). [`brute_force`] does what 3 and 4 do by trying
//! every order, for histories of a few operations; both must always agree.
#![forbid(unsafe_code)]

pub mod access;
pub mod brute_force;
mod coverage;
pub mod edn;
mod gaps;
pub mod history;
mod index;
mod load;
mod properties;
mod quote;
mod replay;
pub mod report;
pub mod restored;
mod rules;
pub mod scavenge;
mod settings;
mod stream;
mod sweep;
mod verdict;

pub use load::{load, read};
pub use settings::{Claim, Settings};
pub use verdict::{
    ClassCoverage, Counts, Coverage, Finding, Property, TEXTS_KEPT, Unavailability, Validity, Verdict, Violation,
};

use history::{Outcome, ReadOutcome, Record};
use index::{Index, Step};
use properties::Case;
use replay::Replay;
use verdict::Findings;

/// Judges a history.
pub fn check(records: &[Record], settings: &Settings) -> Verdict {
    let mut findings = Findings::new();
    let index = Index::new(records, &mut findings);
    count(&index, &mut findings);
    coverage::judge(&index, settings, &mut findings);
    properties::replicas::judge_hashes(&index.hashes, &mut findings);
    if index.witness.is_none() {
        // Nothing can be said about the log without one.
        return findings.verdict();
    }
    let replay = Replay::new(&index, &mut findings);
    let case = Case { index: &index, replay: &replay, settings };
    properties::acks::count(&case, &mut findings);
    let flawed = properties::sightings::judge(&case, &mut findings);
    properties::acks::judge(&case, &mut findings);
    let placeable = properties::reads::judge(&case, &flawed, &mut findings);
    properties::order::judge(&case, &placeable, &mut findings);
    properties::subscriptions::judge(&case, &mut findings);
    properties::groups::judge(&case, &mut findings);
    properties::replicas::judge(&case, &mut findings);
    properties::time::judge(&case, &mut findings);
    findings.verdict()
}

fn count(index: &Index<'_>, findings: &mut Findings) {
    let counts = &mut findings.counts;
    let appends = index.appends.iter().map(|append| &append.outcome);
    for outcome in appends.chain(index.deletes.iter().map(|delete| &delete.outcome)) {
        match outcome {
            Outcome::Acked { .. } => counts.acked += 1,
            Outcome::Refused { .. } => counts.refused += 1,
            Outcome::Unknown { .. } => counts.unknown += 1,
        }
    }
    for read in &index.reads {
        match read.outcome {
            ReadOutcome::Failed { .. } => counts.reads_failed += 1,
            ReadOutcome::Ok { .. } | ReadOutcome::NoStream { .. } | ReadOutcome::Tombstoned { .. } => counts.reads += 1,
        }
    }
    counts.subscriptions = index.subscriptions.len() as u64;
    for step in index.subscriptions.values().flat_map(|following| &following.steps) {
        match step {
            Step::Opened(_) => counts.connections += 1,
            Step::Delivered(delivered) => counts.delivered += delivered.events.len() as u64,
            Step::CaughtUp(_) | Step::Dropped(_) => {}
        }
    }
    for sharing in index.sharings.values() {
        counts.groups += 1;
        counts.handed += sharing.handed.len() as u64;
        counts.parked += sharing.parked.map_or(0, |parked| parked.messages.len() as u64);
    }
    counts.events = index.log.events().len() as u64;
}
