//! The bytes of format 1, as every later release must be able to read them.
//!
//! `golden/state-v1.txt` holds everything that a small store has on disk, a
//! line for each key: column, key, value, in hexadecimal. When a test here
//! fails because the bytes have changed, the change needs a new format
//! version and a way to read the old one; the file is never to be made anew.
//! (It was made with `ANNALS_WRITE_GOLDEN=1`.)

mod common;

use std::path::{Path, PathBuf};

use annals_core::{
    Append, Batch, Command, Content, Event, EventId, EventType, Expected, Position, Properties, StreamName, Timestamp,
};
use annals_store::{Options as StoreOptions, Store};
use bytes::Bytes;
use common::{Reference, assert_store_is, mark};
use rocksdb::{ColumnFamilyDescriptor, DB, IteratorMode, Options};
use uuid::Uuid;

const COLUMNS: [&str; 6] = ["meta", "records", "heads", "runs", "chain", "times"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn raw(data: &Path) -> DB {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let columns = COLUMNS.map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    DB::open_cf_descriptors(&options, data.join("state-1"), columns).expect("opens")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect()
}

fn dump(data: &Path, columns: &[&str]) -> String {
    let database = raw(data);
    let mut out = String::new();
    for name in columns {
        let column = database.cf_handle(name).expect("a column");
        for item in database.iterator_cf(column, IteratorMode::Start) {
            let (key, value) = item.expect("readable");
            out.push_str(&format!("{name} {} {}\n", hex(&key), hex(&value)));
        }
    }
    out
}

fn assert_golden(name: &str, found: &str) {
    if std::env::var_os("ANNALS_WRITE_GOLDEN").is_some() {
        std::fs::write(golden(name), found).expect("writable");
    }
    let expected = std::fs::read_to_string(golden(name)).expect("there is a golden file");
    assert_eq!(found, expected, "the bytes of format 1 have changed");
}

fn event(id: u128, event_type: &str, properties: Properties, metadata: &'static [u8], data: &'static [u8]) -> Event {
    Event::new(
        EventId::new(Uuid::from_u128(id)).expect("not nil"),
        EventType::new(event_type.to_owned()).expect("a type"),
        if properties == Properties::Opaque { Content::Json } else { Content::Binary },
        properties,
        Bytes::from_static(metadata),
        Bytes::from_static(data),
    )
}

/// Something of everything that can be stored.
fn scenario() -> Vec<Batch> {
    let name = |text: &str| StreamName::new(text.to_owned()).expect("a name");
    let append = |stream: &str, events| Command::Append(Append::single(name(stream), Expected::Any, events));
    let opaque = Properties::Opaque;
    let batch = |ticks, commands| Batch { stamped: Timestamp::from_ticks(ticks), commands };
    vec![
        batch(
            17_000_000_000_000_000,
            vec![
                append(
                    "a-1",
                    vec![
                        event(1, "One", opaque, br#"{"$correlationId":"x"}"#, b"{}"),
                        event(2, "Two", opaque, b"", b""),
                    ],
                ),
                append("plain-größe", vec![event(3, "One", Properties::Struct, b"", b"\x00\xff")]),
            ],
        ),
        batch(
            17_000_000_015_000_000,
            vec![
                append("$$a-1", vec![event(4, "$metadata", opaque, b"", br#"{"$maxCount":5,"$maxAge":60,"$tb":1}"#)]),
                append("b-1", vec![event(5, "$>", opaque, b"", b"0@a-1")]),
                Command::AllocateNode { above: 3 },
                Command::Delete { stream: name("a-1"), expected: Expected::Any },
                Command::Tombstone { stream: name("b-1"), expected: Expected::Any },
            ],
        ),
    ]
}

#[test]
fn a_store_writes_the_bytes_of_format_1() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), StoreOptions::default()).expect("opens");
    for (index, batch) in (1..).zip(scenario()) {
        store.apply(mark(index), Some(batch)).expect("applied");
    }
    drop(store);
    assert_golden("state-v1.txt", &dump(data.path(), &COLUMNS));
}

#[test]
fn a_saved_chain_hash_has_the_bytes_of_format_1() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), StoreOptions::default()).expect("opens");
    for index in 1..=21 {
        store.apply(mark(index), Some(common::filler("a-1", u128::from(index) * 1000, 100))).expect("applied");
        // Or the runs of all entries would be one.
        store.flush().expect("flushed");
    }
    drop(store);
    assert_golden("chain-v1.txt", &dump(data.path(), &["meta", "heads", "runs", "chain", "times"]));
}

#[test]
fn a_state_of_format_1_is_read() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let text = std::fs::read_to_string(golden("state-v1.txt")).expect("there is a golden file");
    let database = raw(data.path());
    for line in text.lines() {
        let [column, key, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let column = database.cf_handle(column).expect("a column");
        database.put_cf(column, unhex(key), unhex(value)).expect("writable");
    }
    drop(database);
    std::fs::write(data.path().join("CURRENT_STATE"), "state-1\n").expect("writable");

    let store = Store::open(data.path(), StoreOptions::default()).expect("opens");
    let mut reference = Reference::default();
    for batch in scenario() {
        reference.apply(&batch);
    }
    assert_store_is(&store, &reference);
    let chain = store.chain(Position::new(7)).expect("readable").expect("there are seven events");
    assert_eq!(chain.to_string(), "68852c52fd8766346a2c2c01cf783be0");
    let node = Batch { stamped: Timestamp::default(), commands: vec![Command::AllocateNode { above: 0 }] };
    assert_eq!(store.apply(mark(3), Some(node)).expect("applied"), [annals_core::Outcome::Node(5)]);
}
