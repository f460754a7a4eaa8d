//! Histories of clusters that were restored from a backup that ends at position 3.

mod golden;

use annals_checker::history::{Current, Mode, Outcome, Reason, Record, Seen};
use annals_checker::{Property, restored};
use golden::{
    all, append, appends, bad, caught_up, closed, delivered, end, event, four, good, hash, log, opened, read, refused,
    saw, subscription, with_mode, write,
};

const UP_TO: u64 = 3;

/// What happened before the cluster was lost: also a read, a subscription, a refusal and
/// hashes that knew of position 4.
fn before() -> Vec<Record> {
    let conflict = Reason::WrongExpectation { stream: "a".into(), current: Some(Current::Revision(2)) };
    let strict = write("a", annals_checker::history::Expected::Revision(0), &[9]);
    let mut records = four();
    records.extend([
        with_mode(read(32, 35, all(), saw(&log()[..2], Some(2))), Mode::Linearizable),
        with_mode(read(75, 80, all(), saw(&log(), Some(4))), Mode::Linearizable),
        appends(75, 80, vec![strict], refused(conflict)),
        subscription(all()),
        opened(0, 5, None),
        delivered(0, 55, &log()[..3]),
        delivered(0, 75, &log()[3..]),
        caught_up(0, 76, 4),
        closed(90, false),
        hash(1, 3, "aa"),
        hash(2, 4, "bb"),
    ]);
    records
}

fn restored(log: &[Seen]) -> Vec<Record> {
    end(restored::up_to(before(), UP_TO), log)
}

#[test]
fn what_came_after_the_backup_may_be_lost() {
    good("restored", &restored(&log()[..3]));
    bad(Property::P3, "without the cut it is a loss", &end(four(), &log()[..3]));
}

#[test]
fn what_was_acknowledged_before_it_must_be_there() {
    let records = restored(&log()[..2]);
    let verdict = annals_checker::check(&records, &annals_checker::Settings::default());
    assert!(verdict.violated().contains(&Property::P3), "{}", verdict.table());
}

#[test]
fn what_is_there_is_what_was_written_and_in_its_order() {
    let mut other = log();
    other[1] = event(2, "a", 1, 77);
    other.truncate(3);
    let verdict = annals_checker::check(&restored(&other), &annals_checker::Settings::default());
    assert!(verdict.violated().contains(&Property::P2), "{}", verdict.table());
    assert!(verdict.violated().contains(&Property::P3), "{}", verdict.table());
}

#[test]
fn the_chain_hash_is_the_one_from_before() {
    let mut records = restored(&log()[..3]);
    records.push(hash(1, 3, "other"));
    bad(Property::P13, "another hash", &records);
}

#[test]
fn an_append_that_is_restored_in_part_is_one() {
    let two = write("c", annals_checker::history::Expected::Any, &[5, 6]);
    let mut records = four();
    records.push(appends(80, 90, vec![two], Outcome::Acked { position: 6, revisions: vec![1] }));
    let mut log = log();
    log.push(event(5, "c", 0, 5));
    bad(Property::P6, "half an append", &end(restored::up_to(records, 5), &log));
    let whole = [append(0, 10, "a", 1, golden::acked(1, &[0]))];
    good("a whole one", &end(restored::up_to(whole.to_vec(), 1), &log[..1]));
}
