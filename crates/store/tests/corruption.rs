//! What a store does with a disk that is not as it was left.

mod common;

use std::error::Error as _;
use std::path::Path;

use annals_core::{Position, Revision, StreamName, Timestamp};
use annals_store::{Corruption, Direction, Error, Key, OpenError, PageLimit, Store};
use common::{filler, mark, small};
use rocksdb::{ColumnFamilyDescriptor, DB, Options, WriteOptions};

const COLUMNS: [&str; 6] = ["meta", "records", "heads", "runs", "chain", "times"];

/// Changes a value behind the store's back.
fn change(data: &Path, column: &str, key: &[u8], change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
    let columns = COLUMNS.map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let database = DB::open_cf_descriptors(&Options::default(), data.join("state-1"), columns).expect("opens");
    let column = database.cf_handle(column).expect("a column");
    let value = database.get_cf(column, key).expect("readable").expect("there is a value");
    let durably = WriteOptions::default();
    match change(value) {
        Some(value) => database.put_cf_opt(column, key, value, &durably).expect("writable"),
        None => database.delete_cf_opt(column, key, &durably).expect("writable"),
    }
    database.flush_cf(column).expect("flushed");
}

fn written() -> tempfile::TempDir {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    store.apply(mark(1), Some(filler("a-1", 1, 20))).expect("applied");
    data
}

fn flipped(at_from_end: usize) -> impl FnOnce(Vec<u8>) -> Option<Vec<u8>> {
    move |mut value| {
        let at = value.len() - 1 - at_from_end;
        value[at] ^= 0x10;
        Some(value)
    }
}

fn is_corrupt(error: &Error, place: &Key, reason: &Corruption) -> bool {
    matches!(error, Error::Corrupt { key, source } if key == place && source == reason)
}

#[test]
fn a_flipped_bit_of_an_event_is_noticed_by_every_read_of_it() {
    let data = written();
    change(data.path(), "records", &7u64.to_be_bytes(), flipped(0));
    let store = Store::open(data.path(), small()).expect("opens");
    let at = Position::new(7);
    let place = Key::Record(at);
    let limit = PageLimit { records: 100, bytes: usize::MAX };
    let stream = StreamName::new("a-1").expect("a name");
    let view = store.view(&stream, Timestamp::default()).expect("readable");
    let failures = [
        store.record(at).expect_err("noticed"),
        store.read_all(Position::START, Direction::Forward, limit).expect_err("noticed"),
        store.read_all(Position::new(100), Direction::Backward, limit).expect_err("noticed"),
        store.read_stream(&view, Revision::FIRST, Direction::Forward, limit).expect_err("noticed"),
        store.record_at(&stream, Revision::saturating(6)).expect_err("noticed"),
        store.chain(at).expect_err("noticed"),
    ];
    for failure in failures {
        assert!(is_corrupt(&failure, &place, &Corruption::Content), "{failure:?}");
        assert_eq!(failure.to_string(), "the record at position 7 is corrupt");
        assert_eq!(failure.source().expect("a reason").to_string(), "its content does not match its checksum");
    }
    assert!(store.record(Position::new(8)).expect("readable").is_some(), "its neighbours are well");
}

#[test]
fn a_header_that_was_changed_keeps_the_store_from_opening() {
    let data = written();
    change(data.path(), "records", &7u64.to_be_bytes(), |mut value| {
        value[25] ^= 1;
        Some(value)
    });
    let refused = Store::open(data.path(), small()).map(|_| ()).expect_err("the idempotency window cannot be read");
    let OpenError::Unreadable { source, .. } = &refused else { panic!("{refused:?}") };
    assert!(is_corrupt(source, &Key::Record(Position::new(7)), &Corruption::Header), "{refused:?}");
}

#[test]
fn a_record_that_is_gone_is_noticed() {
    let data = written();
    change(data.path(), "records", &7u64.to_be_bytes(), |_| None);
    assert!(matches!(Store::open(data.path(), small()), Err(OpenError::Unreadable { .. })));
}

#[test]
fn a_record_in_the_place_of_another_is_noticed() {
    let data = written();
    let mut sixth = Vec::new();
    change(data.path(), "records", &6u64.to_be_bytes(), |value| {
        sixth = value.clone();
        Some(value)
    });
    change(data.path(), "records", &7u64.to_be_bytes(), |_| Some(sixth));
    let refused = Store::open(data.path(), small()).map(|_| ()).expect_err("noticed");
    let OpenError::Unreadable { source, .. } = &refused else { panic!("{refused:?}") };
    let misplaced = Corruption::Misplaced { found: Position::new(6) };
    assert!(is_corrupt(source, &Key::Record(Position::new(7)), &misplaced), "{refused:?}");
}

#[test]
fn a_run_that_is_gone_is_noticed() {
    let data = written();
    let run = [0u64.to_be_bytes(), 19u64.to_be_bytes()].concat();
    change(data.path(), "runs", &run, |_| None);
    let store = Store::open(data.path(), small()).expect("opens");
    let stream = StreamName::new("a-1").expect("a name");
    let failure = store.record_at(&stream, Revision::saturating(3)).expect_err("noticed");
    assert!(matches!(failure, Error::Corrupt { key: Key::Run(_, 3), source: Corruption::Missing }), "{failure:?}");
}

#[test]
fn a_format_from_the_future_is_refused() {
    let data = written();
    change(data.path(), "meta", b"format", |_| Some(2u32.to_le_bytes().to_vec()));
    let refused = Store::open(data.path(), small());
    assert!(matches!(refused, Err(OpenError::Format { found: 2, known: 1, .. })));
}

#[test]
fn a_store_that_is_open_is_not_opened_twice() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let _store = Store::open(data.path(), small()).expect("opens");
    assert!(matches!(Store::open(data.path(), small()), Err(OpenError::InUse { .. })));
}

#[test]
fn a_state_whose_pointer_is_gone_is_not_guessed_at() {
    let data = written();
    std::fs::remove_file(data.path().join("CURRENT_STATE")).expect("it was there");
    assert!(matches!(Store::open(data.path(), small()), Err(OpenError::Pointer { .. })));
}

#[test]
fn a_state_that_is_gone_is_not_made_anew() {
    let data = written();
    std::fs::remove_dir_all(data.path().join("state-1")).expect("it was there");
    assert!(matches!(Store::open(data.path(), small()), Err(OpenError::Missing { .. })));
}

#[test]
fn a_first_start_that_was_cut_short_is_made_up_for() {
    let data = tempfile::tempdir().expect("a temporary directory");
    drop(Store::open(data.path(), small()).expect("opens"));
    std::fs::remove_file(data.path().join("CURRENT_STATE")).expect("it was there");
    let store = Store::open(data.path(), small()).expect("nothing was applied, so nothing is lost");
    assert_eq!(store.mark(), None);
}
