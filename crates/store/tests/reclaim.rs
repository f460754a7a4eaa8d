//! Reclaiming: what goes, what stays, and that all stores come to the same.

mod common;

use std::io;

use annals_core::scavenge::Phase;
use annals_core::{Batch, Command, Expected, Outcome, Position, Revision, StreamName, Timestamp};
use annals_store::verify::{Audience, Problems, verify};
use annals_store::{CatchUp, Direction, LookLimit, PageLimit, Record, Store};
use bytes::Bytes;
use common::{Reference, any_batch, apply_rest, assert_equal, filler, mark, small, workload};
use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

const ALL: PageLimit = PageLimit { records: usize::MAX, bytes: usize::MAX };

fn store() -> (TempDir, Store) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    (data, store)
}

/// A store, the entries that were applied to it, and the model that they were applied
/// to as well.
struct Run {
    store: Store,
    entries: Vec<Batch>,
    reference: Reference,
}

impl Run {
    fn new(store: Store) -> Run {
        Run { store, entries: Vec::new(), reference: Reference::default() }
    }

    /// Applies an entry; nothing that is reclaimed changes what becomes of it.
    fn apply(&mut self, batch: Batch) -> Vec<Outcome> {
        let expected = self.reference.apply(&batch);
        self.entries.push(batch.clone());
        let outcomes = self.store.apply(mark(self.entries.len() as u64), Some(batch)).expect("applied");
        assert_eq!(outcomes, expected);
        outcomes
    }

    fn command(&mut self, command: Command) -> Outcome {
        let batch = Batch { stamped: self.store.newest_time(), commands: vec![command] };
        self.apply(batch).remove(0)
    }

    fn start(&mut self, id: u128) {
        self.command(Command::StartScavenge { id: Uuid::from_u128(id) });
    }

    /// What the leader does, once. False where nothing runs.
    fn step(&mut self, records: usize) -> bool {
        let Some(scavenge) = self.store.scavenge().filter(annals_core::Scavenge::is_running) else { return false };
        let limit = LookLimit { records, bytes: usize::MAX };
        let gone = self.store.find_gone(&scavenge, limit).expect("readable");
        assert!(gone.step.through > scavenge.cursor, "it gets on");
        let found = gone.step.positions.clone();
        let step = Batch { stamped: self.store.newest_time(), commands: vec![Command::Reclaim(gone.step)] };
        let next = mark(self.entries.len() as u64 + 1);
        assert_eq!(self.store.apply_at_hand(next, step.clone()).expect("applied"), None, "it may read much");
        self.apply(step);
        assert!(
            found.iter().all(|at| self.reference.reclaimed.contains(at)),
            "nothing came between looking and deciding"
        );
        true
    }

    fn scavenge(&mut self, id: u128) {
        self.start(id);
        while self.step(7) {}
    }

    /// Whether exactly what the model reclaimed is gone from the store.
    fn assert_reclaimed(&self) {
        assert_eq!(self.store.scavenge(), self.reference.scavenge);
        let records = self.store.read_all(Position::START, Direction::Forward, ALL).expect("readable");
        for record in records {
            let at = record.position();
            let reclaimed = self.reference.reclaimed.contains(&at);
            assert_eq!(record.is_reclaimed(), reclaimed, "{at}");
            assert_eq!(self.store.record(at).expect("readable").is_none(), reclaimed, "{at}");
            let stream = record.stream_name();
            let by_revision = self.store.record_at(&stream, record.revision()).expect("readable");
            assert_eq!(by_revision.is_none(), reclaimed, "{at}");
            if reclaimed && !stream.is_metastream() {
                assert!(record.data().is_empty() && record.metadata().is_empty(), "{at}");
            }
        }
    }
}

fn durable(store: &Store) -> annals_store::Durable {
    store.flush().expect("flushed");
    store.durable().expect("readable").expect("something was applied")
}

fn records(store: &Store) -> Vec<Record> {
    store.read_all(Position::START, Direction::Forward, ALL).expect("readable")
}

/// What a node pulls that takes over what is durable there: as of `point`, while the
/// other node may be further.
fn take_over(mut catch_up: CatchUp, from: &Store, point: annals_store::Durable) {
    let known = catch_up.position();
    let there = records(from);
    if catch_up.lacks_stubs(&point.residue).expect("readable") {
        let stubs = there.iter().filter(|record| record.is_reclaimed() && record.position() <= known);
        let stubs: Vec<Bytes> = stubs.map(|record| record.encoded().clone()).collect();
        for chunk in stubs.chunks(3) {
            catch_up.reclaim(chunk.to_vec()).expect("stubs of what is here");
        }
    }
    let missing = there.iter().filter(|record| record.position() > known && record.position() <= point.position);
    let missing: Vec<Bytes> = missing.map(|record| record.encoded().clone()).collect();
    for chunk in missing.chunks(5) {
        catch_up.ingest(chunk.to_vec()).expect("it follows");
    }
    catch_up.finish(point.mark, &point.residue).expect("the same log");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    // One that applied everything, one that applied it again after a restart, one that
    // began empty, one that knew the beginning whole: all hold the same bytes, and
    // nothing that is decided later tells them apart.
    #[test]
    fn who_caught_up_has_reclaimed_the_same(
        before in proptest::collection::vec(any_batch(), 1..10),
        steps in proptest::collection::vec((1..9usize, proptest::option::of(any_batch())), 0..12),
        after in proptest::collection::vec(any_batch(), 0..6),
        known in 0..20usize,
        taken in 0..30usize,
    ) {
        let (_data, leader) = store();
        let mut run = Run::new(leader.clone());
        for batch in before {
            run.apply(batch);
        }
        run.start(1);
        let mut points = vec![(run.entries.len(), durable(&leader))];
        for (records, batch) in steps {
            run.step(records);
            if let Some(batch) = batch {
                run.apply(batch);
            }
            points.push((run.entries.len(), durable(&leader)));
        }
        while run.step(20) {}
        for batch in after {
            run.apply(batch);
        }
        run.scavenge(2);
        run.assert_reclaimed();

        // From a point of the past, although the leader has reclaimed more since.
        let (applied, point) = points.swap_remove(taken % points.len());
        let known = known.min(applied - 1);
        for known in [0, known] {
            let (data, follower) = store();
            apply_rest(&follower, &run.entries[..known]);
            take_over(follower.begin_catch_up().expect("begins"), &leader, point.clone());
            apply_rest(&follower, &run.entries);
            assert_equal(&follower, &leader);
            prop_assert_eq!(follower.scavenge(), leader.scavenge());
            drop(follower);
            let follower = Store::open(data.path(), small()).expect("opens again");
            assert_equal(&follower, &leader);
            prop_assert_eq!(follower.scavenge(), leader.scavenge());
        }
        let (data, again) = store();
        apply_rest(&again, &run.entries[..known]);
        drop(again);
        let again = Store::open(data.path(), small()).expect("opens again");
        apply_rest(&again, &run.entries);
        assert_equal(&again, &leader);
        drop((again, leader, run));
        assert_intact(data.path());
    }
}

struct Nobody;

impl Audience for Nobody {
    fn event(&mut self, _: &Record) -> io::Result<()> {
        Ok(())
    }
    fn progress(&mut self, _: &'static str, _: u64, _: u64) {}
}

fn assert_intact(data: &std::path::Path) {
    let mut problems = Problems::default();
    verify(data, &mut problems, &mut Nobody).expect("nobody objects");
    assert!(problems.is_empty(), "{problems:?}");
}

fn name(text: &str) -> StreamName {
    StreamName::new(text.to_owned()).expect("a name")
}

#[test]
fn a_deleted_stream_goes_at_once_and_its_revisions_go_on() {
    let (data, store) = store();
    let mut run = Run::new(store.clone());
    run.apply(filler("a-1", 1, 5));
    run.apply(filler("b-1", 100, 5));
    run.command(Command::Delete { stream: name("a-1"), expected: Expected::Any });
    let chain = store.chain(store.tail()).expect("readable");
    let tail = store.tail();
    run.scavenge(1);
    run.assert_reclaimed();
    let scavenge = store.scavenge().expect("it ran");
    assert_eq!((scavenge.phase, scavenge.events, scavenge.bytes), (Phase::Completed, 5, 5));
    assert_eq!(store.chain(tail).expect("readable"), chain, "the chain hash is of what was written");
    // Known for ever, under an exact expectation.
    let again = filler("a-1", 1, 5).commands.remove(0);
    let Command::Append(mut append) = again else { panic!("an append") };
    append.targets[0].expected = Expected::NoStream;
    let Outcome::Appended(appended) = run.command(Command::Append(append)) else { panic!("not refused") };
    assert!(appended.repeated);
    run.apply(filler("a-1", 200, 1));
    assert_eq!(store.head(&name("a-1")).expect("readable").last, Some(Revision::saturating(5)));
    // What said that it is deleted has been replaced, and goes now.
    run.scavenge(2);
    assert_eq!(store.scavenge().map(|scavenge| (scavenge.events, scavenge.bytes)), Some((1, 0)));
    run.scavenge(3);
    assert_eq!(store.scavenge().map(|scavenge| scavenge.events), Some(0));
    drop((run, store));
    assert_intact(data.path());
}

#[test]
fn a_restart_in_the_middle_goes_on_where_it_was() {
    let (data, store) = store();
    let mut run = Run::new(store);
    for batch in workload(60) {
        run.apply(batch);
    }
    run.start(1);
    for _ in 0..5 {
        assert!(run.step(11));
    }
    let before = run.store.scavenge();
    run.store.flush().expect("flushed");
    let Run { store, entries, reference } = run;
    drop(store);
    let store = Store::open(data.path(), small()).expect("opens again");
    let mut run = Run { store, entries, reference };
    assert_eq!(run.store.scavenge(), before);
    while run.step(11) {}
    run.assert_reclaimed();
    assert!(run.store.scavenge().is_some_and(|scavenge| scavenge.events > 0));
}

#[test]
fn what_is_reclaimed_is_gone_from_memory_too() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), annals_store::Options::default()).expect("opens");
    let mut run = Run::new(store.clone());
    run.apply(filler("a-1", 1, 100));
    let bytes = store.statistics().ring_bytes;
    run.command(Command::Tombstone { stream: name("a-1"), expected: Expected::Any });
    run.scavenge(1);
    run.assert_reclaimed();
    assert!(store.statistics().ring_bytes < bytes + 2_000, "the ring holds the stubs, not the records");
    let view = store.view(&name("a-1"), Timestamp::default()).expect("readable");
    assert!(store.read_stream(&view, Revision::FIRST, Direction::Forward, ALL).expect("readable").records.is_empty());
}

#[test]
fn stubs_that_belong_elsewhere_are_refused() {
    let (_data, leader) = store();
    let mut run = Run::new(leader.clone());
    run.apply(filler("a-1", 1, 5));
    run.command(Command::Delete { stream: name("a-1"), expected: Expected::Any });
    run.scavenge(1);
    let stubs: Vec<Bytes> =
        records(&leader).iter().filter(|record| record.is_reclaimed()).map(|record| record.encoded().clone()).collect();
    let (_other_data, other) = store();
    other.apply(mark(1), Some(filler("b-1", 1, 3))).expect("applied");
    let refused = other.begin_catch_up().expect("begins").reclaim(vec![stubs[0].clone()]);
    assert!(refused.is_err(), "it is of another event");
    let refused = other.begin_catch_up().expect("begins").reclaim(vec![stubs[4].clone()]);
    assert!(refused.is_err(), "there is no such event here");
    let whole = records(&other)[0].encoded().clone();
    let refused = other.begin_catch_up().expect("begins").reclaim(vec![whole]);
    assert!(refused.is_err(), "it is no stub");
}

#[test]
fn space_comes_back() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    let mut run = Run::new(store.clone());
    let mut seed = 1u64;
    for entry in 0..200u128 {
        let mut batch = filler(["keep-1", "drop-1"][entry as usize % 2], entry * 100 + 1, 100);
        for command in &mut batch.commands {
            let Command::Append(append) = command else { continue };
            for (_, event) in &mut append.events {
                // What lz4 cannot make smaller.
                let data: Vec<u8> = std::iter::repeat_with(|| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    seed.to_be_bytes()[0]
                })
                .take(1_000)
                .collect();
                *event = annals_core::Event::new(
                    event.id(),
                    event.event_type().clone(),
                    event.content(),
                    event.properties(),
                    Bytes::new(),
                    Bytes::from(data),
                );
            }
        }
        run.apply(batch);
    }
    run.command(Command::Delete { stream: name("drop-1"), expected: Expected::Any });
    run.start(1);
    while run.step(1_000) {}
    store.flush().expect("flushed");
    let given = store.give_back().expect("compacted").expect("there is something to give back");
    assert!(given.is_last);
    assert!(given.before > 20_000_000, "{given:?}");
    assert!(given.after < given.before * 6 / 10, "{given:?}");
    assert_eq!(store.give_back().expect("nothing to do"), None);
    run.assert_reclaimed();
    // Remembered, once it is on the disk.
    store.flush().expect("flushed");
    drop((run, store));
    let store = Store::open(data.path(), small()).expect("opens again");
    assert_eq!(store.give_back().expect("nothing to do"), None);
    drop(store);
    assert_intact(data.path());
}
