//! Records, applying entries, and reading.
//!
//! RocksDB is part of what is counted as far as it runs on the calling thread;
//! its own threads are not. Each benchmark has its own store and process.
#![allow(missing_docs, reason = "the macros make public items of what they are given")]

mod fixtures;

use std::hint::black_box;

use annals_core::decide::Placed;
use annals_core::{Batch, Command, Outcome, Position, Revision, Timestamp};
use annals_store::{Direction, Mark, Options, PageLimit, Record, Store};
use bytes::{Bytes, BytesMut};
use gungraun::{library_benchmark, library_benchmark_group, main};
use tempfile::TempDir;

use crate::fixtures::{append, batch, event, events, stream};

const STREAMS: u64 = 250;
const EVENTS_EACH: u64 = 20;

/// A store that holds some events, and its directory.
struct Filled {
    store: Store,
    dir: TempDir,
    /// Entries applied.
    entries: u64,
}

impl Filled {
    /// Each stream gets one event after the other, as if all were written at
    /// the same time.
    ///
    /// RocksDB has written it out: what it has in memory is ordered by random
    /// heights, whose seed follows from addresses, and a search among thousands
    /// of keys costs up to 10 % more in one binary than in the next.
    fn new(events_each: u64) -> Filled {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(dir.path(), Options::default()).expect("a new store");
        let mut filled = Filled { store, dir, entries: 0 };
        for round in 0..events_each {
            let append = |number| append(stream(number), round, events(round * STREAMS + number, 1));
            filled.apply(filled.batch((0..STREAMS).map(append)));
        }
        filled.store.flush().expect("flushed");
        filled
    }

    fn batch(&self, commands: impl Iterator<Item = Command>) -> Batch {
        batch(self.entries, commands.collect())
    }

    fn apply(&mut self, batch: Batch) -> Vec<Outcome> {
        self.entries += 1;
        // As long as the mark of a cluster of three is.
        let mark = Mark { index: self.entries, opaque: Bytes::from_static(&[7; 120]) };
        self.store.apply(mark, Some(batch)).expect("applied")
    }

    /// The same with nothing of it in memory.
    fn reopened(self) -> Filled {
        let Filled { store, dir, entries } = self;
        store.close().expect("flushed");
        drop(store);
        let store = Store::open(dir.path(), Options::default()).expect("the same store");
        Filled { store, dir, entries }
    }

    /// The same after this was read once: blocks are in the cache, and the
    /// allocator has room for the answer, which otherwise grows in place or is
    /// moved as chance has it.
    fn after<T>(self, read: impl Fn(&Store) -> T) -> Filled {
        drop(read(&self.store));
        self
    }
}

/// Each case applies one entry to each of so many stores, because a single
/// store's heights are drawn too rarely to even out.
const STORES: u64 = 8;

/// Events that no stream of these stores holds begin with this number.
const NEW: u64 = STREAMS;

/// Stores whose streams have one event each, and an entry for each of them.
fn to_apply(commands: &[Command]) -> Vec<(Filled, Batch)> {
    let one = |_| {
        let filled = Filled::new(1);
        let batch = filled.batch(commands.iter().cloned());
        (filled, batch)
    };
    (0..STORES).map(one).collect()
}

/// Appends to streams that are there.
fn appends(count: u64) -> Vec<Command> {
    (0..count).map(|number| append(stream(number * 97 % STREAMS), 1, events(NEW + number, 1))).collect()
}

/// Appends to streams that are not there yet.
fn first_appends(count: u64) -> Vec<Command> {
    (0..count).map(|number| append(stream(STREAMS + number), 0, events(NEW + number, 1))).collect()
}

#[library_benchmark]
#[bench::appends_1(to_apply(&appends(1)))]
#[bench::appends_64(to_apply(&appends(64)))]
#[bench::first_appends_64(to_apply(&first_appends(64)))]
#[bench::events_100(to_apply(&[append(stream(97), 1, events(NEW, 100))]))]
fn applies_to_8(stores: Vec<(Filled, Batch)>) -> Vec<(Filled, Vec<Outcome>)> {
    let apply = |(mut filled, batch): (Filled, Batch)| {
        let outcomes = filled.apply(black_box(batch));
        (filled, outcomes)
    };
    stores.into_iter().map(apply).collect()
}

fn page_of_all(store: &Store) -> Vec<Record> {
    let limit = PageLimit { records: 1_000, bytes: 4 * 1024 * 1024 };
    let page = store.read_all(Position::new(1_001), Direction::Forward, limit).expect("read");
    assert_eq!(page.len(), 1_000, "a full page");
    page
}

#[library_benchmark]
#[bench::memory(Filled::new(EVENTS_EACH).after(page_of_all))]
#[bench::disk(Filled::new(EVENTS_EACH).reopened().after(page_of_all))]
fn reads_1000_of_all(filled: Filled) -> (Vec<Record>, Filled) {
    (page_of_all(black_box(&filled.store)), filled)
}

fn whole_stream(store: &Store) -> Vec<Record> {
    let limit = PageLimit { records: 1_000, bytes: 4 * 1024 * 1024 };
    let view = store.view(&stream(97), Timestamp::default()).expect("read");
    let page = store.read_stream(&view, Revision::FIRST, Direction::Forward, limit).expect("read");
    assert_eq!(page.records.len() as u64, EVENTS_EACH, "the whole stream");
    page.records
}

#[library_benchmark]
#[bench::memory(Filled::new(EVENTS_EACH).after(whole_stream))]
#[bench::disk(Filled::new(EVENTS_EACH).reopened().after(whole_stream))]
fn reads_20_of_stream(filled: Filled) -> (Vec<Record>, Filled) {
    (whole_stream(black_box(&filled.store)), filled)
}

fn placed(count: u64) -> Vec<Placed> {
    let placed = |number| Placed {
        stream: stream(number),
        revision: Revision::FIRST,
        position: Position::new(number + 1),
        event: event(number),
    };
    (0..count).map(placed).collect()
}

fn encode(placed: &[Placed]) -> Vec<Record> {
    // As applying does: many records take their memory from one allocation.
    let mut arena = BytesMut::with_capacity(64 * 1024);
    placed.iter().map(|placed| Record::encode(placed, Timestamp::from_ticks(1), &mut arena)).collect()
}

#[library_benchmark]
#[bench::one_size(placed(100))]
fn encodes_100_records(placed: Vec<Placed>) -> (Vec<Record>, Vec<Placed>) {
    (encode(black_box(&placed)), placed)
}

#[library_benchmark]
#[bench::one_size(encode(&placed(100)))]
fn decodes_100_records(records: Vec<Record>) -> (Vec<Record>, Vec<Record>) {
    let read = |record: &Record| Record::from_slice(black_box(record.encoded())).expect("valid");
    (records.iter().map(read).collect(), records)
}

library_benchmark_group!(
    name = store,
    benchmarks = [encodes_100_records, decodes_100_records, applies_to_8, reads_1000_of_all, reads_20_of_stream]
);
main!(config = crate::fixtures::config(), library_benchmark_groups = [store]);
