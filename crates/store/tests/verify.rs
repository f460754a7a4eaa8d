//! Looking at a store offline: everything is fine where it is, and whatever is
//! not is found.

mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use annals_core::{Position, Timestamp};
use annals_store::verify::{Audience, Problems, Verified, verify};
use annals_store::{Direction, PageLimit, Record, Store};
use common::{any_batch, apply_rest, filler, mark, small, workload};
use proptest::prelude::*;
use rocksdb::{ColumnFamilyDescriptor, DB, Options, WriteOptions};
use tempfile::TempDir;

const COLUMNS: [&str; 6] = ["meta", "records", "heads", "runs", "chain", "times"];

#[derive(Default)]
struct Listener {
    events: Vec<Record>,
}

impl Audience for Listener {
    fn event(&mut self, record: &Record) -> io::Result<()> {
        self.events.push(record.clone());
        Ok(())
    }

    fn progress(&mut self, _: &'static str, done: u64, of: u64) {
        assert!(done <= of, "{done} of {of}");
    }
}

fn look(data: &Path) -> (Verified, Problems, Vec<Record>) {
    let (mut problems, mut listener) = (Problems::default(), Listener::default());
    let found = verify(data, &mut problems, &mut listener).expect("the listener does not fail");
    (found, problems, listener.events)
}

/// Closes a store as a node that stops does.
fn close(store: Store) {
    store.close().expect("closed");
}

/// A store with some 3,000 events in it, closed.
fn written() -> TempDir {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    apply_rest(&store, &workload(350));
    close(store);
    data
}

/// Changes values behind the store's back.
fn with_column(data: &Path, column: &str, change: impl FnOnce(&mut dyn FnMut(&[u8], Change))) {
    let columns = COLUMNS.map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let database = DB::open_cf_descriptors(&Options::default(), data.join("state-1"), columns).expect("opens");
    let column = database.cf_handle(column).expect("a column");
    let durably = WriteOptions::default();
    change(&mut |key, change| {
        let value = database.get_cf(column, key).expect("readable");
        match change(value) {
            Some(value) => database.put_cf_opt(column, key, value, &durably).expect("writable"),
            None => database.delete_cf_opt(column, key, &durably).expect("writable"),
        }
    });
    database.flush_cf(column).expect("flushed");
}

type Change<'a> = &'a mut dyn FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>;

fn change(data: &Path, column: &str, key: &[u8], mut to: impl FnMut(Option<Vec<u8>>) -> Option<Vec<u8>>) {
    with_column(data, column, |each| each(key, &mut to));
}

fn value(data: &Path, column: &str, key: &[u8]) -> Vec<u8> {
    let mut found = None;
    change(data, column, key, |value| {
        found.clone_from(&value);
        value
    });
    found.expect("there is a value")
}

fn add(at: usize, step: u8) -> impl FnMut(Option<Vec<u8>>) -> Option<Vec<u8>> {
    move |value| {
        let mut value = value.expect("there is a value");
        value[at] = value[at].wrapping_add(step);
        Some(value)
    }
}

#[track_caller]
fn finds(data: &TempDir, expected: &[&str]) {
    let (_, problems, _) = look(data.path());
    for expected in expected {
        assert!(problems.told.iter().any(|problem| problem.contains(expected)), "{expected}: {:#?}", problems.told);
    }
}

fn head(name: &str) -> Vec<u8> {
    [b"s", name.as_bytes()].concat()
}

/// The first key of the runs of a list.
fn run_of(list: u64, last: u64) -> Vec<u8> {
    [list.to_be_bytes(), last.to_be_bytes()].concat()
}

#[test]
fn a_store_that_was_closed_is_as_it_was_written_and_all_events_are_told() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    apply_rest(&store, &workload(600));
    let all = PageLimit { records: usize::MAX, bytes: usize::MAX };
    let written = store.read_all(Position::START, Direction::Forward, all).expect("readable");
    let (mark, tail, chain) = (store.mark(), store.tail(), store.chain(store.tail()).expect("readable"));
    let streams = store.list_streams("", "", usize::MAX, true).expect("readable");
    close(store);

    let (found, problems, told) = look(data.path());
    assert_eq!(problems, Problems::default());
    assert_eq!((found.mark, found.tail, Some(found.chain)), (mark, tail, chain));
    assert_eq!(found.streams, streams.iter().filter(|(_, head)| head.last.is_some()).count() as u64);
    assert!(told == written, "every event once, in order");
    assert!(tail > Position::new(3_000), "more than one saved chain hash is compared");
}

#[test]
fn a_directory_without_a_store_has_no_problems() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let (found, problems, _) = look(data.path());
    assert_eq!((found.mark, problems), (None, Problems::default()));
    close(Store::open(data.path(), small()).expect("opens"));
    let (found, problems, _) = look(data.path());
    assert_eq!((found.mark, problems), (None, Problems::default()));
}

#[test]
fn nothing_is_written() {
    let data = written();
    let files = || -> Vec<(PathBuf, Vec<u8>)> {
        let entries = std::fs::read_dir(data.path().join("state-1")).expect("readable");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
    };
    let before = files();
    look(data.path());
    assert!(files() == before);
}

#[test]
fn a_state_that_lost_its_newest_entries_in_a_crash_is_fine_too() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    apply_rest(&store, &workload(200));
    store.flush().expect("flushed");
    for entry in 201..=210 {
        store.apply(mark(entry), Some(filler("later", u128::from(entry) * 100, 3))).expect("applied");
    }
    // Dropped as by a crash: not flushed.
    drop(store);
    let (found, problems, _) = look(data.path());
    assert_eq!(problems, Problems::default());
    assert!(found.mark.expect("there were entries").index >= 200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_was_applied_is_verified(batches in proptest::collection::vec(any_batch(), 1..30), caught_up: bool) {
        let data = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(data.path(), small()).expect("opens");
        apply_rest(&store, &batches);
        store.flush().expect("flushed");
        let other = tempfile::tempdir().expect("a temporary directory");
        let looked_at = if caught_up {
            let point = store.durable().expect("readable").expect("something was applied");
            let behind = Store::open(other.path(), small()).expect("opens");
            let all = PageLimit { records: usize::MAX, bytes: usize::MAX };
            let records = store.read_all(Position::START, Direction::Forward, all).expect("readable");
            let mut catch_up = behind.begin_catch_up().expect("begins");
            catch_up.ingest(records.iter().map(|record| record.encoded().clone()).collect()).expect("it follows");
            catch_up.finish(point.mark, &point.residue).expect("the same log");
            close(behind);
            other.path()
        } else {
            data.path()
        };
        close(store);
        let (_, problems, told) = look(looked_at);
        prop_assert_eq!(&problems.told, &Vec::<String>::new());
        prop_assert!((1..).zip(&told).all(|(position, record)| record.position() == Position::new(position)));
    }
}

#[test]
fn an_event_that_is_gone_or_elsewhere_is_found() {
    let data = written();
    change(data.path(), "records", &7u64.to_be_bytes(), |_| None);
    finds(&data, &["there are no events from position 7 to 7"]);

    let data = written();
    let eighth = value(data.path(), "records", &8u64.to_be_bytes());
    change(data.path(), "records", &7u64.to_be_bytes(), |_| Some(eighth.clone()));
    finds(&data, &["the record at position 7 is corrupt: it holds what belongs at position 8"]);

    let data = written();
    change(data.path(), "records", &7u64.to_be_bytes(), add(70, 1));
    finds(&data, &["the record at position 7 is corrupt"]);

    let data = written();
    change(data.path(), "records", &1_000_000u64.to_be_bytes(), |_| Some(eighth.clone()));
    finds(&data, &["1 events lie behind position"]);
}

#[test]
fn a_log_that_ends_too_early_is_found() {
    let data = written();
    let tail = look(data.path()).0.tail.get();
    with_column(data.path(), "records", |each| {
        (tail - 2..=tail).for_each(|position| each(&position.to_be_bytes(), &mut |_| None));
    });
    finds(&data, &[&format!("there are no events from position {} to {tail}, where the log ends", tail - 2)]);
}

#[test]
fn a_chain_hash_that_differs_is_found() {
    let data = written();
    change(data.path(), "chain", &1_000u64.to_be_bytes(), add(3, 1));
    finds(
        &data,
        &["the chain hash of the events up to position 1000 is", "the chain hash of the events up to position 2000"],
    );

    let data = written();
    // Where the standing holds the chain hash.
    change(data.path(), "meta", b"standing", add(24, 1));
    finds(&data, &["the chain hash of all events is"]);
}

#[test]
fn a_stream_that_is_not_as_its_events_say_is_found() {
    // One more revision than there are events.
    let data = written();
    change(data.path(), "heads", &head("a-1"), add(8, 1));
    finds(&data, &["the head of stream \"a-1\" says that there are"]);

    let data = written();
    change(data.path(), "heads", &head("a-1"), |_| None);
    finds(
        &data,
        &["the head of stream \"a-1\" is not there, though the event at position", "lists belong to no stream"],
    );

    // The list of another stream.
    let data = written();
    let other = value(data.path(), "heads", &head("b-1"));
    change(data.path(), "heads", &head("a-1"), |_| Some(other.clone()));
    finds(&data, &["shares list", "the head of stream \"a-1\" has "]);

    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    store.apply(mark(1), Some(filler("a-1", 1, 5))).expect("applied");
    store.apply(mark(2), Some(filler("a-1", 10, 5))).expect("applied");
    let mut metadata = filler("$$a-1", 20, 1);
    metadata.stamped = Timestamp::from_ticks(2_000);
    store.apply(mark(3), Some(metadata)).expect("applied");
    close(store);
    finds(&data, &[]);
    change(data.path(), "heads", &head("a-1"), add(16, 2u8.wrapping_neg()));
    finds(&data, &["its metastream says"]);
}

#[test]
fn a_run_that_is_gone_moved_or_nobodys_is_found() {
    let written = || {
        let data = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(data.path(), small()).expect("opens");
        store.apply(mark(1), Some(filler("a-1", 1, 5))).expect("applied");
        store.apply(mark(2), Some(filler("b-1", 10, 5))).expect("applied");
        store.apply(mark(3), Some(filler("a-1", 20, 5))).expect("applied");
        close(store);
        let list = u64::from_le_bytes(value(data.path(), "heads", &head("a-1"))[..8].try_into().expect("eight bytes"));
        (data, list)
    };
    let (data, list) = written();
    change(data.path(), "runs", &run_of(list, 4), |_| None);
    finds(
        &data,
        &[
            "\"a-1\": a run begins at number 5, not at 0",
            "\"a-1\" has nothing as number 0, though the event at position 1 belongs",
        ],
    );

    let (data, list) = written();
    change(data.path(), "runs", &run_of(list, 9), add(0, 1u8.wrapping_neg()));
    finds(&data, &["\"a-1\" has position 10 as number 5, though the event at position 11 belongs"]);

    let (data, _) = written();
    let run = [7u64.to_le_bytes().as_slice(), &1u32.to_le_bytes()].concat();
    change(data.path(), "runs", &run_of(1_000, 0), |_| Some(run.clone()));
    finds(&data, &["but the lists have"]);
}

#[test]
fn an_index_that_is_not_as_the_events_say_is_found() {
    let data = written();
    change(data.path(), "heads", b"ca", add(8, 1));
    finds(&data, &["the head of the index of category \"a\" says that there are"]);

    let data = written();
    change(data.path(), "heads", b"tOne", |_| None);
    finds(&data, &["the head of the index of type \"One\" is not there", "lists of kind EventType have"]);

    let data = written();
    change(data.path(), "times", &0u64.to_be_bytes(), |_| None);
    finds(&data, &["the first event of second 0 is not position 1", "the column times has"]);
}

#[test]
fn a_flipped_bit_of_a_file_is_found_and_does_not_end_the_search() {
    let data = written();
    let files = std::fs::read_dir(data.path().join("state-1")).expect("readable");
    let files: Vec<PathBuf> = files.map(|entry| entry.expect("readable").path()).collect();
    let tables = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    let mut events_lost = 0;
    for table in tables {
        let intact = std::fs::read(table).expect("readable");
        let mut flipped = intact.clone();
        flipped[intact.len() / 2] ^= 0x40;
        std::fs::write(table, flipped).expect("written");
        let (found, problems, told) = look(data.path());
        if problems.is_empty() {
            // In a small table there may be a block that nothing needs.
            assert_eq!(told.len() as u64, found.tail.get());
            std::fs::write(table, intact).expect("written");
            continue;
        }
        assert!(problems.told.iter().any(|problem| problem.contains("orruption")), "{:#?}", problems.told);
        // Without its standing nothing can be said of a state.
        let looked_at = found.mark.is_none() || told.len() as u64 > found.tail.get() / 2;
        assert!(looked_at, "only {} of {} events: {:#?}", told.len(), found.tail, problems.told);
        if (told.len() as u64) < found.tail.get() {
            events_lost += 1;
            assert!(problems.told.iter().any(|problem| problem.ends_with("cannot be read")), "{:#?}", problems.told);
        }
        std::fs::write(table, intact).expect("written");
    }
    assert!(events_lost > 0, "some table holds events");
    assert_eq!(look(data.path()).1, Problems::default());
}

#[test]
fn a_state_that_is_not_where_it_should_be_is_found() {
    let data = written();
    std::fs::remove_file(data.path().join("CURRENT_STATE")).expect("removed");
    std::fs::rename(data.path().join("state-1"), data.path().join("state-2")).expect("renamed");
    finds(&data, &["is missing: nothing says which state counts"]);
    std::fs::write(data.path().join("CURRENT_STATE"), "state-1\n").expect("written");
    finds(&data, &["state-1 is not there"]);
    std::fs::write(data.path().join("CURRENT_STATE"), "state-x\n").expect("written");
    finds(&data, &["cannot tell which state counts"]);
}

#[test]
fn an_audience_that_fails_ends_the_verification() {
    struct Full;
    impl Audience for Full {
        fn event(&mut self, _: &Record) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn progress(&mut self, _: &'static str, _: u64, _: u64) {}
    }
    let data = written();
    let error = verify(data.path(), &mut Problems::default(), &mut Full).expect_err("it fails");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_store_that_is_closed_while_entries_are_applied_is_that_after_one_of_them() {
    for _ in 0..5 {
        let data = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(data.path(), annals_store::Options::default()).expect("opens");
        let is_closed = Arc::new(AtomicBool::new(false));
        let applying = {
            let (store, is_closed) = (store.clone(), Arc::clone(&is_closed));
            std::thread::spawn(move || {
                for index in (1..).take_while(|_| !is_closed.load(Ordering::Acquire)) {
                    let entry = filler("stream", u128::from(index) * 10, 10);
                    store.apply(mark(index), Some(entry)).expect("applied, in memory at least");
                }
            })
        };
        while store.mark().is_none_or(|mark| mark.index < 500) {
            std::thread::yield_now();
        }
        let closed = store.close().expect("closed").expect("some were applied");
        is_closed.store(true, Ordering::Release);
        applying.join().expect("it went on until the end");
        drop(store);
        let (found, problems, _) = look(data.path());
        assert_eq!(problems.told, Vec::<String>::new());
        assert_eq!(found.mark, Some(closed));
    }
}
