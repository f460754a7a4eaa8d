//! P12: runs that show too little are not called valid, and clusters that come
//! back too late are called invalid.

use super::*;

const MS: Nanos = 1_000_000;

/// An append every 10 ms, each taking 2 ms, but for those that begin in the
/// gap; and faults.
fn run(count: u64, gap: std::ops::Range<Nanos>, faults: Vec<Record>) -> Vec<Record> {
    let times = (0..count).map(|number| number * 10 * MS).filter(|time| !gap.contains(time));
    let mut records = faults;
    let mut log: Vec<Seen> = Vec::new();
    for (position, time) in (1u64..).zip(times) {
        records.push(append(time, time + 2 * MS, "a", u128::from(position), acked(position, &[position - 1])));
        log.push(event(position, "a", position - 1, u128::from(position)));
    }
    end(records, &log)
}

fn requiring(class: &str) -> Settings {
    Settings { required: vec![class.into()], ..Settings::default() }
}

fn judge(records: &[Record], settings: &Settings, validity: Validity, reason: &str) {
    let verdict = check(records, settings);
    assert_eq!(verdict.validity, validity, "{}", verdict.table());
    assert!(verdict.unknown.iter().any(|why| why.contains(reason)) || reason.is_empty(), "{}", verdict.table());
}

#[test]
fn a_fault_with_enough_load_is_covered() {
    let fault = fault("F3", "isolate-leader", 100 * MS, 2_000 * MS, Installed::Installed);
    let records = run(300, 0..0, vec![fault]);
    judge(&records, &requiring("F3"), Validity::Valid, "");
    assert_eq!(check(&records, &requiring("F3")).coverage.classes["F3"].acked, 190);
}

#[test]
fn a_fault_that_was_not_asked_for_or_did_not_happen_is_not_covered() {
    judge(&run(300, 0..0, Vec::new()), &requiring("F3"), Validity::Unknown, "no fault of class F3");
    for installed in [Installed::Skipped, Installed::Indeterminate] {
        let fault = fault("F3", "isolate-leader", 100 * MS, 2_000 * MS, installed);
        judge(&run(300, 0..0, vec![fault]), &requiring("F3"), Validity::Unknown, "no fault of class F3");
    }
}

#[test]
fn a_fault_without_load_is_not_covered() {
    let fault = || fault("F3", "isolate-leader", 100 * MS, 2_000 * MS, Installed::Installed);
    let silent = run(300, 120 * MS..1_990 * MS, vec![fault()]);
    judge(&silent, &requiring("F3"), Validity::Unknown, "only 3 appends");
    judge(&silent, &Settings { minimum: 3, ..requiring("F3") }, Validity::Valid, "");
}

#[test]
fn a_kill_counts_for_three_seconds_and_overlapping_faults_count_once() {
    let kill = |at| fault("F1", "kill-follower", at, at, Installed::Installed);
    let records = run(500, 0..0, vec![kill(0), kill(10 * MS)]);
    assert_eq!(check(&records, &requiring("F1")).coverage.classes["F1"].acked, 301);
}

#[test]
fn a_run_without_faults_needs_load_only() {
    judge(&run(60, 0..0, Vec::new()), &requiring("F0"), Validity::Valid, "");
    judge(&run(40, 0..0, Vec::new()), &requiring("F0"), Validity::Unknown, "only 40 appends");
}

#[test]
fn a_leader_must_be_followed_in_time() {
    let kill = || fault("F1", "kill-leader", 100 * MS, 100 * MS, Installed::Installed);
    let settings = Settings { unavailability_p99_max: Some(3_000 * MS), ..requiring("F1") };
    let quick = run(700, 90 * MS..1_900 * MS, vec![kill()]);
    judge(&quick, &settings, Validity::Valid, "");
    assert_eq!(check(&quick, &settings).coverage.unavailability.max, 1_802 * MS);
    // Load goes on after a long silence, so that it is covered.
    let mut slow = run(700, 90 * MS..4_900 * MS, vec![kill()]);
    slow.push(fault("F1", "kill-follower", 5_000 * MS, 5_000 * MS, Installed::Installed));
    judge(&slow, &settings, Validity::Invalid, "");
    assert_eq!(check(&slow, &settings).violated(), [Property::P12]);
    let never = run(10, 0..0, vec![kill()]);
    judge(&never, &Settings::default(), Validity::Unknown, "nothing was acknowledged after the leader was killed");
}

#[test]
fn a_history_without_its_end_is_unknown() {
    let mut records = run(10, 0..0, Vec::new());
    records.pop();
    judge(&records, &Settings::default(), Validity::Unknown, "no complete linearizable read");
    let settings = Settings { final_nodes: vec![1, 2], ..Settings::default() };
    judge(&run(10, 0..0, Vec::new()), &settings, Validity::Unknown, "node 2");
}
