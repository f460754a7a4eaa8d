//! How long a store takes: per applied event, to open, per event read.
//!
//! `cargo run --release -p annals-store --example timing -- [events] [bytes] [events per append] [streams]`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use annals_core::{
    Append, Batch, Command, Content, Event, EventId, EventType, Expected, Position, Properties, Revision, StreamName,
    Timestamp,
};
use annals_store::{Direction, IndexName, Mark, Options, PageLimit, Store};
use bytes::Bytes;
use uuid::Uuid;

const EVENTS_PER_ENTRY: u64 = 100;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let events = arguments.next().unwrap_or(1_000_000);
    let bytes = arguments.next().unwrap_or(256);
    let per_append = arguments.next().unwrap_or(1);
    let streams = arguments.next().unwrap_or(20_000);
    let data = tempfile::tempdir()?;
    let mut random = Random(0x9E37_79B9_7F4A_7C15);

    let store = Store::open(data.path(), Options::default())?;
    let mut applying = Duration::ZERO;
    let mut on_cpu = Duration::ZERO;
    for index in 0..events / EVENTS_PER_ENTRY {
        // As it comes from the replicated log: decoded from one buffer.
        let commands: Vec<Bytes> = (0..EVENTS_PER_ENTRY / per_append)
            .map(|_| command(&mut random, bytes, per_append, streams).encode())
            .collect();
        let entry = Batch::encode(Timestamp::from_ticks(index * 10_000), &commands);
        let batch = Batch::decode(entry)?;
        let (started, cpu) = (Instant::now(), cpu_of_this_thread());
        store.apply(Mark { index, opaque: Bytes::from_static(&[0; 100]) }, Some(batch))?;
        applying += started.elapsed();
        on_cpu += cpu_of_this_thread() - cpu;
    }
    report("apply", applying, events);
    report("apply, CPU of its thread", on_cpu, events);
    let started = Instant::now();
    store.flush()?;
    println!("flush: {:?}", started.elapsed());
    drop(store);

    let started = Instant::now();
    let store = Store::open(data.path(), Options::default())?;
    println!("open with {} events: {:?}", store.tail(), started.elapsed());

    let page = PageLimit { records: 1_000, bytes: 1024 * 1024 };
    for direction in [Direction::Forward, Direction::Backward] {
        let started = Instant::now();
        let mut at = if direction == Direction::Forward { Position::new(1) } else { store.tail() };
        let mut count = 0;
        while at > Position::START {
            let records = store.read_all(at, direction, page)?;
            let Some(last) = records.last() else { break };
            count += records.len() as u64;
            at = match direction {
                Direction::Forward => last.position().next(),
                Direction::Backward => Position::new(last.position().get() - 1),
            };
            black_box(records);
        }
        report(&format!("$all {direction:?}"), started.elapsed(), count);
    }

    let started = Instant::now();
    let mut count = 0;
    for stream in 0..streams.min(2_000) {
        let view = store.view(&name(stream), Timestamp::default())?;
        count += store.read_stream(&view, Revision::FIRST, Direction::Forward, page)?.records.len() as u64;
    }
    report("streams", started.elapsed(), count);

    for index in [IndexName::Category("order".into()), IndexName::EventType("OrderPlaced".into())] {
        let started = Instant::now();
        let (mut from, end) = (0, store.index_len(&index)?.min(200_000));
        while from < end {
            from += store.read_index(&index, from, Direction::Forward, page)?.len() as u64;
        }
        report(index.name().as_str(), started.elapsed(), end);
    }
    println!("{:#?}", store.statistics());
    Ok(())
}

/// Where there are other things to do, the clock on the wall tells nothing.
/// Zero where the system does not say.
fn cpu_of_this_thread() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn report(what: &str, took: Duration, events: u64) {
    let micros = took.as_secs_f64() * 1e6 / events.max(1) as f64;
    println!("{what}: {events} events, {took:?}, {micros:.2} µs per event");
}

fn name(stream: u64) -> StreamName {
    StreamName::new(format!("order-{stream:012}")).expect("a name")
}

fn command(random: &mut Random, bytes: u64, events: u64, streams: u64) -> Command {
    let stream = name(random.next() % streams);
    let events = (0..events).map(|_| {
        let mut data = Vec::with_capacity(bytes as usize);
        while data.len() + 8 <= bytes as usize {
            // Compresses about as JSON does.
            data.extend_from_slice(format!("{:08}", random.next() % 10_000).as_bytes());
        }
        Event::new(
            EventId::new(Uuid::from_u64_pair(random.next(), random.next())).expect("not nil"),
            EventType::new(["OrderPlaced", "OrderPaid", "OrderShipped"][(random.next() % 3) as usize]).expect("a type"),
            Content::Json,
            Properties::Opaque,
            Bytes::new(),
            Bytes::from(data),
        )
    });
    Command::Append(Append::single(stream, Expected::Any, events.collect()))
}
