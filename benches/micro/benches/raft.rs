//! What Raft adds to a batch. Each case is done a hundred times.
#![allow(missing_docs, reason = "the macros make public items of what they are given")]

mod fixtures;

use std::hint::black_box;

use annals_raft::micro::{Applied, LogEntry};
use bytes::Bytes;
use gungraun::{library_benchmark, library_benchmark_group, main};

use crate::fixtures::{batch, encoded, repeat, single_appends};

fn entry(appends: u64) -> LogEntry {
    LogEntry::new(encoded(&batch(0, single_appends(appends))))
}

#[library_benchmark]
#[bench::appends_1(entry(1))]
#[bench::appends_64(entry(64))]
fn encodes_entry(entry: LogEntry) -> LogEntry {
    repeat(|| black_box(&entry).encode());
    entry
}

#[library_benchmark]
#[bench::appends_1(entry(1).encode())]
#[bench::appends_64(entry(64).encode())]
fn decodes_entry(bytes: Bytes) -> Bytes {
    repeat(|| LogEntry::decode(black_box(&bytes).clone()).expect("valid"));
    bytes
}

#[library_benchmark]
#[bench::voters_3(Applied::new(3))]
fn encodes_mark(applied: Applied) -> Applied {
    repeat(|| black_box(&applied).encode());
    applied
}

library_benchmark_group!(name = raft, benchmarks = [encodes_entry, decodes_entry, encodes_mark]);
main!(config = crate::fixtures::config(), library_benchmark_groups = [raft]);
