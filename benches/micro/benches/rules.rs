//! The rules and the encodings of commands. Each case is done a hundred times.
#![allow(missing_docs, reason = "the macros make public items of what they are given")]

mod fixtures;

use std::convert::Infallible;
use std::hint::black_box;

use annals_core::decide::{Heads, decide};
use annals_core::filter::{Filter, Subject};
use annals_core::scavenge::Facts;
use annals_core::{Batch, Command, EventId, Head, Position, Revision, Scavenge, StreamName, Timestamp, metadata};
use bytes::Bytes;
use gungraun::{library_benchmark, library_benchmark_group, main};

use crate::fixtures::{append, batch, encoded, events, id, repeat, single_appends, stream};

/// A log of one stream, which holds the first events: what can be known of it
/// costs next to nothing.
struct OneStream {
    events: u64,
}

impl Heads for OneStream {
    type Error = Infallible;

    fn tail(&self) -> Position {
        Position::new(self.events)
    }
    fn head(&self, _: &StreamName) -> Result<Head, Infallible> {
        Ok(Head { last: self.events.checked_sub(1).map(Revision::saturating), ..Head::default() })
    }
    fn event_at(&self, _: &StreamName, revision: Revision) -> Result<Option<(EventId, Position)>, Infallible> {
        let number = revision.get();
        Ok((number < self.events).then(|| (id(number), Position::new(number + 1))))
    }
    fn remembered(&self, _: &StreamName, _: EventId) -> Result<Option<(Revision, Position)>, Infallible> {
        Ok(None)
    }
    fn newest_data(&self, _: &StreamName) -> Result<Bytes, Infallible> {
        Ok(Bytes::new())
    }
    fn last_node(&self) -> u64 {
        0
    }
    fn time(&self) -> Timestamp {
        Timestamp::default()
    }
    fn lease(&self) -> Option<annals_core::Lease> {
        None
    }

    fn scavenge(&self) -> Option<Scavenge> {
        None
    }
    fn event(&self, _: Position) -> Result<Facts, Infallible> {
        unreachable!("nobody scavenges here")
    }
}

/// How many events the stream of [`OneStream`] has before the append.
const BEFORE: u64 = 1_000;

fn next(count: u64) -> (OneStream, Command) {
    (OneStream { events: BEFORE }, append(stream(0), BEFORE, events(BEFORE, count)))
}

fn again(count: u64) -> (OneStream, Command) {
    (OneStream { events: BEFORE + count }, append(stream(0), BEFORE, events(BEFORE, count)))
}

#[library_benchmark]
#[bench::append_1(next(1))]
#[bench::append_10(next(10))]
#[bench::repeated_10(again(10))]
fn decides((heads, command): (OneStream, Command)) -> (OneStream, Command) {
    repeat(|| decide(black_box(&heads), black_box(&command)));
    (heads, command)
}

fn command(count: u64) -> Command {
    append(stream(0), BEFORE, events(0, count))
}

#[library_benchmark]
#[bench::events_1(command(1))]
#[bench::events_10(command(10))]
fn encodes_command(command: Command) -> Command {
    repeat(|| black_box(&command).encode());
    command
}

#[library_benchmark]
#[bench::events_1(command(1).encode())]
#[bench::events_10(command(10).encode())]
fn decodes_command(bytes: Bytes) -> Bytes {
    repeat(|| Command::decode(black_box(&bytes).clone()).expect("valid"));
    bytes
}

#[library_benchmark]
#[bench::appends_64(single_appends(64).iter().map(Command::encode).collect())]
fn encodes_batch(commands: Vec<Bytes>) -> Vec<Bytes> {
    repeat(|| Batch::encode(Timestamp::from_ticks(1), black_box(&commands)));
    commands
}

#[library_benchmark]
#[bench::appends_64(encoded(&batch(0, single_appends(64))))]
fn decodes_batch(bytes: Bytes) -> Bytes {
    repeat(|| Batch::decode(black_box(&bytes).clone()).expect("valid"));
    bytes
}

#[library_benchmark]
#[bench::none(&br#"{"user":"u-000000000001","source":"shop"}"#[..])]
#[bench::present(&br#"{"user":"u-000000000001","$correlationId":"c-000000000001"}"#[..])]
fn finds_correlation(json: &[u8]) {
    repeat(|| metadata::correlation_id(black_box(json)));
}

/// A filter that was used before, so that what it makes at its first use is
/// there, and the streams it is to look at.
fn warm(filter: Filter) -> (Filter, Vec<String>) {
    let streams: Vec<String> = (0..100).map(|number| stream(number).as_str().to_owned()).collect();
    assert!(filter.passes(&streams[0], "OrderPlaced").is_ok(), "a cheap filter");
    (filter, streams)
}

fn prefixes() -> Filter {
    Filter::prefixes(Subject::Stream, vec!["invoice-".into(), "customer-".into(), "order-".into()]).expect("valid")
}

fn regex(expression: &str) -> Filter {
    Filter::regex(Subject::Stream, expression).expect("valid")
}

#[library_benchmark]
#[bench::prefixes(warm(prefixes()))]
#[bench::no_system_events(warm(regex(r"^[^\$].*")))]
#[bench::negated(warm(regex(r"^(?!(\$.+$|PersistentConfig\d+$|Result$))")))]
fn filters_100((filter, streams): (Filter, Vec<String>)) -> (usize, Filter, Vec<String>) {
    let passed = streams.iter().filter(|stream| filter.passes(black_box(stream), "OrderPlaced") == Ok(true)).count();
    (passed, filter, streams)
}

library_benchmark_group!(
    name = rules,
    benchmarks =
        [decides, encodes_command, decodes_command, encodes_batch, decodes_batch, finds_correlation, filters_100]
);
main!(config = crate::fixtures::config(), library_benchmark_groups = [rules]);
