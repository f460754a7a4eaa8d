//! The deterministic simulation: that it holds, that it can be repeated, and
//! that it can fail.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use annals_raft::simulation::{Counts, Mutation, Options, Verdict, run};

/// Seeds that a change has to get past. The nightly run goes on from there.
const SEEDS: u64 = 200;

/// Seeds within which a mistake must have been found. Most are by the first
/// few; those that need a crash in one certain moment are by about the 170th.
const FOUND_WITHIN: u64 = 250;

fn run_all(seeds: impl Iterator<Item = u64> + Send, options: Options) -> Vec<Verdict> {
    let seeds = std::sync::Mutex::new(seeds);
    let next = || seeds.lock().expect("nobody panics with it").next();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || std::iter::from_fn(next).map(|seed| run(seed, options)).collect::<Vec<_>>();
    let mut verdicts: Vec<Verdict> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a run does not panic")).collect()
    });
    verdicts.sort_by_key(|verdict| verdict.seed);
    verdicts
}

#[test]
fn two_hundred_clusters_survive_whatever_happens_to_them() {
    let seeds = seeds();
    let count = seeds.end() - seeds.start() + 1;
    let verdicts = run_all(seeds, Options::default());
    let failed: Vec<String> =
        verdicts.iter().filter(|verdict| verdict.violation.is_some()).map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));

    // A run in which nothing happens finds nothing either.
    let counts = verdicts.iter().fold(Counts::default(), |sum, verdict| sum.plus(verdict.counts));
    let enough = [
        ("acknowledged", counts.acknowledged, 5_000),
        ("repeated", counts.repeated, 500),
        ("refused", counts.refused, 500),
        ("unknown", counts.unknown, 500),
        ("reads", counts.reads, 2_000),
        ("leaders", counts.leaders, 400),
        ("kills", counts.kills, 200),
        ("pauses", counts.pauses, 100),
        ("partitions", counts.partitions, 200),
        ("catch-ups", counts.catch_ups, 50),
        ("purges", counts.purges, 1_000),
        ("truncations", counts.truncations, 20),
        ("changes of the membership", counts.changes, 100),
    ];
    for (what, happened, least) in enough {
        let least = least * count / SEEDS;
        assert!(happened >= least, "only {happened} {what} in {count} seeds, at least {least} are wanted");
    }
    let most = count / 100;
    assert!(counts.abandoned <= most, "{} runs of {count} were abandoned, at most {most} may be", counts.abandoned);
}

/// Those of `SIMULATION_SEEDS=FIRST..LAST`, if that is set.
fn seeds() -> RangeInclusive<u64> {
    let Ok(wanted) = std::env::var("SIMULATION_SEEDS") else { return 1..=SEEDS };
    let (first, last) = wanted.split_once("..").expect("SIMULATION_SEEDS is FIRST..LAST");
    first.parse().expect("FIRST is a number")..=last.parse().expect("LAST is a number")
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..=20 {
        let (first, second) = (run(seed, Options::default()), run(seed, Options::default()));
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn another_seed_gives_another_run() {
    let verdicts = run_all(1..=20, Options::default());
    let traces: BTreeSet<u64> = verdicts.iter().map(|verdict| verdict.trace).collect();
    assert_eq!(traces.len(), verdicts.len());
}

#[test]
fn a_failing_seed_says_how_to_run_it_again() {
    let verdict = run(1, Options { mutation: Some(Mutation::ClockInApply), ..Options::default() });
    let line = verdict.to_string();
    assert!(!line.contains('\n'), "{line}");
    assert!(
        line.ends_with("again: cargo run -p annals-raft --features simulation --example simulate -- --seed 1 --trace"),
        "{line}"
    );
}

/// Whether a mistake is found, and as what.
fn is_found(mutation: Mutation, as_one_of: &[&str]) {
    let options = Options { mutation: Some(mutation), ..Options::default() };
    let mut others = BTreeSet::new();
    for seed in 1..=FOUND_WITHIN {
        if let Some(violation) = run(seed, options).violation {
            if as_one_of.contains(&violation.invariant) {
                return;
            }
            others.insert(violation.invariant);
        }
    }
    panic!("{mutation:?} was not found as one of {as_one_of:?} within {FOUND_WITHIN} seeds, but as {others:?}");
}

/// The harm that comes of a promise that was broken.
const LOSS: [&str; 6] =
    ["commit", "leader completeness", "state machine", "acknowledgement", "log matching", "exactly once"];

#[test]
fn entries_that_are_acknowledged_before_they_are_synced_are_found() {
    is_found(Mutation::AppendNotSynced, &LOSS);
}

#[test]
fn votes_that_are_acknowledged_before_they_are_synced_are_found() {
    is_found(Mutation::VoteNotSynced, &["election safety", "commit", "leader completeness"]);
}

#[test]
fn an_append_that_is_answered_before_it_is_committed_is_found() {
    is_found(Mutation::AckBeforeCommit, &["acknowledgement"]);
}

#[test]
fn a_log_that_is_purged_before_the_state_is_durable_is_found() {
    is_found(Mutation::PurgeBeforeDurable, &["order of marks"]);
}

#[test]
fn a_local_read_that_is_called_linearizable_is_found() {
    is_found(Mutation::LocalReads, &["linearizability"]);
}

#[test]
fn a_leader_that_does_not_ask_whether_it_still_leads_is_found() {
    is_found(Mutation::ReadsWithoutQuorum, &["linearizability"]);
}

#[test]
fn event_ids_that_are_forgotten_at_a_restart_are_found() {
    is_found(Mutation::IdsForgottenAtRestart, &["exactly once", "state machine"]);
}

#[test]
fn event_ids_that_do_not_come_with_a_catch_up_are_found() {
    is_found(Mutation::IdsForgottenAtCatchUp, &["exactly once", "state machine"]);
}

#[test]
fn an_empty_disk_under_an_old_identity_is_found() {
    is_found(Mutation::IdentityReused, &LOSS);
}

#[test]
fn a_clock_in_apply_is_found() {
    is_found(Mutation::ClockInApply, &["state machine"]);
}

#[test]
fn data_that_are_durable_before_their_mark_are_found() {
    is_found(Mutation::DataBeforeMark, &["state machine", "exactly once"]);
}

#[test]
fn a_node_id_that_a_catch_up_forgets_is_found() {
    is_found(Mutation::ResidueForgotten, &["state machine", "node ids"]);
}

#[test]
fn a_committed_index_beyond_the_log_on_disk_is_found() {
    is_found(Mutation::CommittedBeyondLog, &["start"]);
}

#[test]
fn a_snapshot_that_stays_behind_the_state_is_found() {
    // The consensus library's own assertion, in builds that have it.
    is_found(Mutation::SnapshotBehindState, &["panic", "order of marks", "liveness"]);
}
