//! A node that takes over another one's records.

mod common;

use annals_core::Position;
use annals_store::{CatchUp, CatchUpError, Direction, Durable, PageLimit, Store};
use bytes::Bytes;
use common::{Reference, any_batch, apply_rest, assert_equal, assert_store_is, mark, small, workload};
use proptest::prelude::*;
use tempfile::TempDir;

fn store() -> (TempDir, Store) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    (data, store)
}

fn durable(store: &Store) -> Durable {
    store.flush().expect("flushed");
    store.durable().expect("readable").expect("something was applied")
}

/// What is to be pulled after a position, up to another.
fn pulled(from: &Store, after: Position, up_to: Position) -> Vec<Bytes> {
    let all = PageLimit { records: usize::MAX, bytes: usize::MAX };
    let records = from.read_all(after.next(), Direction::Forward, all).expect("readable");
    records.iter().filter(|record| record.position() <= up_to).map(|record| record.encoded().clone()).collect()
}

fn ingest(catch_up: &mut CatchUp, from: &Store, up_to: Position, chunk: usize) {
    for chunk in pulled(from, catch_up.position(), up_to).chunks(chunk) {
        catch_up.ingest(chunk.to_vec()).expect("it follows");
    }
}

fn catch_up(store: &Store, from: &Store, chunk: usize) {
    let point = durable(from);
    let mut catch_up = store.begin_catch_up().expect("begins");
    ingest(&mut catch_up, from, point.position, chunk);
    assert_eq!(catch_up.position(), point.position);
    catch_up.finish(point.mark, &point.residue).expect("the same log");
}

fn states(data: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(data.path()).expect("readable");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("a name"));
    names.filter(|name| name.starts_with("state-")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn who_caught_up_answers_and_goes_on_like_who_applied(
        batches in proptest::collection::vec(any_batch(), 1..20),
        known in 0..20usize,
        pulled_until in 1..20usize,
        chunk in 1..20usize,
    ) {
        let pulled_until = pulled_until.min(batches.len());
        let known = known.min(pulled_until - 1);
        let (_leader_data, leader) = store();
        let (data, mut follower) = store();
        let mut reference = Reference::default();
        for (index, batch) in (1..).zip(&batches[..pulled_until]) {
            reference.apply(batch);
            leader.apply(mark(index), Some(batch.clone())).expect("applied");
        }
        apply_rest(&follower, &batches[..known]);
        catch_up(&follower, &leader, chunk);
        assert_store_is(&follower, &reference);
        for batch in &batches[pulled_until..] {
            let expected = reference.apply(batch);
            let outcomes = follower.apply(mark(reference.applied), Some(batch.clone())).expect("applied");
            prop_assert_eq!(&outcomes, &expected);
            let outcomes = leader.apply(mark(reference.applied), Some(batch.clone())).expect("applied");
            prop_assert_eq!(&outcomes, &expected);
        }
        assert_store_is(&follower, &reference);
        assert_equal(&follower, &leader);
        drop(follower);
        follower = Store::open(data.path(), small()).expect("opens again");
        assert_store_is(&follower, &reference);
        assert_eq!(states(&data).len(), 1);
    }
}

#[test]
fn the_leader_may_be_further_than_what_is_taken_over() {
    let (_leader_data, leader) = store();
    let entries = workload(40);
    apply_rest(&leader, &entries[..20]);
    let point = durable(&leader);
    apply_rest(&leader, &entries);
    let (_data, follower) = store();
    let mut catch_up = follower.begin_catch_up().expect("begins");
    ingest(&mut catch_up, &leader, point.position, 10);
    catch_up.finish(point.mark, &point.residue).expect("the same log");
    apply_rest(&follower, &entries);
    assert_equal(&follower, &leader);
}

#[test]
fn a_catch_up_that_is_dropped_leaves_nothing_behind() {
    let (_leader_data, leader) = store();
    apply_rest(&leader, &workload(20));
    let (data, follower) = store();
    apply_rest(&follower, &workload(5));
    let (tail, head_mark) = (follower.tail(), follower.mark());
    let mut catch_up = follower.begin_catch_up().expect("begins");
    ingest(&mut catch_up, &leader, leader.tail(), 10);
    assert_eq!(states(&data).len(), 2);
    assert_eq!((follower.tail(), follower.mark()), (tail, head_mark), "the served state does not move");
    drop(catch_up);
    assert_eq!(states(&data), ["state-1"]);
    apply_rest(&follower, &workload(20));
    assert_equal(&follower, &leader);
}

#[test]
fn a_state_that_was_left_over_by_a_crash_is_removed() {
    let (data, follower) = store();
    apply_rest(&follower, &workload(5));
    let left = data.path().join("state-7");
    std::fs::create_dir(&left).expect("writable");
    std::fs::write(left.join("MANIFEST"), "cut short").expect("writable");
    drop(follower);
    let follower = Store::open(data.path(), small()).expect("opens");
    assert_eq!(follower.mark(), Some(mark(5)));
    assert_eq!(states(&data), ["state-1"]);
}

#[test]
fn records_that_do_not_follow_are_refused() {
    let (_leader_data, leader) = store();
    apply_rest(&leader, &workload(10));
    let (_data, follower) = store();
    let records = pulled(&leader, Position::START, leader.tail());
    let begin = || follower.begin_catch_up().expect("begins");

    let gap = begin().ingest(records[1..].to_vec());
    assert!(matches!(gap, Err(CatchUpError::DoesNotFollow { .. })), "{gap:?}");
    let twice = begin().ingest(vec![records[0].clone(), records[0].clone()]);
    assert!(matches!(twice, Err(CatchUpError::DoesNotFollow { .. })), "{twice:?}");
    let mut flipped = records[0].to_vec();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let flipped = begin().ingest(vec![Bytes::from(flipped)]);
    assert!(matches!(flipped, Err(CatchUpError::Record { .. })), "{flipped:?}");
    assert_eq!(follower.tail(), Position::START);
}

#[test]
fn a_mark_that_belongs_to_another_position_is_refused() {
    let (_leader_data, leader) = store();
    apply_rest(&leader, &workload(10));
    let point = durable(&leader);
    let (_data, follower) = store();
    let mut catch_up = follower.begin_catch_up().expect("begins");
    ingest(&mut catch_up, &leader, Position::new(point.position.get() - 1), 100);
    let refused = catch_up.finish(point.mark, &point.residue);
    assert!(matches!(refused, Err(CatchUpError::Position { .. })), "{refused:?}");
    assert_eq!(follower.tail(), Position::START);
}

#[test]
fn another_history_is_noticed() {
    let (_leader_data, leader) = store();
    let (_other_data, other) = store();
    leader.apply(mark(1), Some(common::filler("a-1", 1, 3))).expect("applied");
    other.apply(mark(1), Some(common::filler("a-2", 1, 3))).expect("applied");
    leader.apply(mark(2), Some(common::filler("b-1", 10, 3))).expect("applied");
    let point = durable(&leader);
    let mut catch_up = other.begin_catch_up().expect("begins");
    ingest(&mut catch_up, &leader, point.position, 100);
    let refused = catch_up.finish(point.mark, &point.residue);
    assert!(matches!(refused, Err(CatchUpError::Diverged { .. })), "{refused:?}");
}

#[test]
fn a_catch_up_never_takes_a_state_back() {
    let (_leader_data, leader) = store();
    let entries = workload(20);
    apply_rest(&leader, &entries[..10]);
    let point = durable(&leader);
    let (data, follower) = store();
    let mut catch_up = follower.begin_catch_up().expect("begins");
    ingest(&mut catch_up, &leader, point.position, 100);
    apply_rest(&follower, &entries);
    let refused = catch_up.finish(point.mark, &point.residue);
    assert!(matches!(refused, Err(CatchUpError::Outdated { mark: 10, applied: 20 })), "{refused:?}");
    assert_eq!(follower.mark(), Some(mark(20)));
    assert_eq!(states(&data), ["state-1"]);
}

#[test]
fn readers_go_on_while_another_state_takes_over() {
    let (_leader_data, leader) = store();
    let entries = workload(100);
    apply_rest(&leader, &entries);
    let (data, follower) = store();
    apply_rest(&follower, &entries[..50]);
    let reader = follower.clone();
    let last = leader.tail();
    let reads = std::thread::spawn(move || {
        let limit = PageLimit { records: 50, bytes: usize::MAX };
        let mut at = Position::new(1);
        while at <= last {
            let page = reader.read_all(at, Direction::Forward, limit).expect("readable");
            for record in &page {
                assert_eq!(record.position(), at);
                at = at.next();
            }
        }
    });
    catch_up(&follower, &leader, 7);
    reads.join().expect("all was read");
    assert_equal(&follower, &leader);
    assert_eq!(states(&data), ["state-2"]);
}
