//! What is left after the process died without a word.

mod common;

use std::process::Command;

use annals_core::Position;
use annals_store::{Options, Store};
use common::{apply_rest, assert_equal, mark, workload};

const ENTRIES: u64 = 600;

/// Small enough that RocksDB flushes by itself several times.
fn options() -> Options {
    Options { memtable_bytes: 128 * 1024, ..Options::default() }
}

/// Not a test of its own: the process that dies in the one below.
#[test]
#[ignore = "run by another test in a process of its own"]
fn applies_some_entries_and_aborts() {
    let data = std::env::var_os("ANNALS_STORE_TEST_DATA").expect("set by the other test");
    let entries = std::env::var("ANNALS_STORE_TEST_ENTRIES").expect("set by the other test");
    let entries: u64 = entries.parse().expect("a number");
    let store = Store::open(data.as_ref(), options()).expect("opens");
    apply_rest(&store, &workload(entries));
    let durable = store.durable_mark().expect("readable").map_or(0, |mark| mark.index);
    println!("durable: {durable}.");
    std::process::abort();
}

#[test]
fn after_a_crash_the_state_is_that_of_the_durable_mark_and_applying_the_rest_leads_to_the_same_log() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut durable = 0;
    for entries in [200, 400, ENTRIES] {
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        child.args(["--exact", "--ignored", "--nocapture", "applies_some_entries_and_aborts"]);
        child.env("ANNALS_STORE_TEST_DATA", data.path()).env("ANNALS_STORE_TEST_ENTRIES", entries.to_string());
        let output = child.output().expect("runs");
        assert!(!output.status.success(), "it aborts");
        let text = String::from_utf8_lossy(&output.stdout);
        let said = text.split_once("durable: ").and_then(|(_, rest)| rest.split_once('.')).expect("it was said").0;
        let said: u64 = said.parse().expect("a number");

        let store = Store::open(data.path(), options()).expect("opens after a crash");
        let found = store.mark().map_or(0, |mark| mark.index);
        // A flush may have ended between the words and the crash.
        assert!((said..=entries).contains(&found), "{found} is not between {said} and {entries}");
        assert!(found > durable, "something was flushed since the crash before");
        durable = found;
        let other = tempfile::tempdir().expect("a temporary directory");
        let same = Store::open(other.path(), options()).expect("opens");
        apply_rest(&same, &workload(found));
        assert_equal(&store, &same);
    }
    assert!(durable < ENTRIES, "something was lost, or this shows nothing");
    let store = Store::open(data.path(), options()).expect("opens");
    apply_rest(&store, &workload(ENTRIES));
    let other = tempfile::tempdir().expect("a temporary directory");
    let same = Store::open(other.path(), Options::default()).expect("opens");
    apply_rest(&same, &workload(ENTRIES));
    assert_equal(&store, &same);
    let mut at = Position::START;
    while at <= store.tail() {
        assert_eq!(store.chain(at).expect("readable"), same.chain(at).expect("readable"), "at {at}");
        at = at.plus(97);
    }
}

#[test]
fn what_was_flushed_is_durable_and_what_was_not_is_not() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), Options::default()).expect("opens");
    assert_eq!(store.durable_mark().expect("readable"), None);
    apply_rest(&store, &workload(3));
    assert_eq!(store.durable_mark().expect("readable"), None);
    assert_eq!(store.flush().expect("flushed"), Some(mark(3)));
    let tail = store.tail();
    apply_rest(&store, &workload(5));
    assert_eq!(store.durable_mark().expect("readable"), Some(mark(3)));
    let durable = store.durable().expect("readable").expect("flushed");
    assert_eq!((durable.mark, durable.position), (mark(3), tail));
    assert_eq!(store.mark(), Some(mark(5)));
}

#[test]
fn an_entry_that_was_applied_changes_nothing() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), Options::default()).expect("opens");
    apply_rest(&store, &workload(4));
    let (tail, chain) = (store.tail(), store.chain(store.tail()).expect("readable"));
    let again = workload(4).pop();
    assert_eq!(store.apply(mark(4), again.clone()).expect("ignored"), []);
    assert_eq!(store.apply(mark(1), again).expect("ignored"), []);
    assert_eq!((store.tail(), store.chain(tail).expect("readable")), (tail, chain));
    assert_eq!(store.mark(), Some(mark(4)));
}

#[test]
#[should_panic(expected = "without leaving one out")]
fn leaving_out_an_entry_is_a_bug() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), Options::default()).expect("opens");
    apply_rest(&store, &workload(2));
    let _ = store.apply(mark(4), None);
}

#[test]
fn a_tail_that_is_watched_moves_when_its_events_can_be_read() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), Options::default()).expect("opens");
    let mut watch = store.watch_tail();
    let reader = store.clone();
    let watcher = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut seen = Position::START;
        while seen < Position::new(500) {
            runtime.block_on(watch.changed()).expect("the store is there");
            let tail = *watch.borrow_and_update();
            assert!(tail > seen, "it never goes back");
            assert!(reader.record(tail).expect("readable").is_some());
            seen = tail;
        }
    });
    for index in 1..=100 {
        store.apply(mark(index), Some(common::filler("a-1", u128::from(index) * 10, 5))).expect("applied");
    }
    watcher.join().expect("saw all of it");
}
