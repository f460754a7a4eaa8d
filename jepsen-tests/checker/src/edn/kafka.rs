//! For Jepsen's kafka checker: streams are partitions, revisions are offsets,
//! subscriptions poll.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use super::format::{Quoted, Spaced};
use super::operations::{End, Operations};
use super::process::Processes;
use super::writes::{Lasting, Values, writes};
use crate::history::{Direction, Nanos, Read, ReadOutcome, Record, Seen, Subscription, Target};

/// Writes the kafka dialect: `[:send stream value]`, which ends as
/// `[:send stream [revision value]]`, and `[:poll {stream [[revision value] …]}]`.
///
/// A subscription is a process that polls; it assigns its streams when it is
/// opened and keeps its place when it resumes. A forward read is a process of
/// its own that polls once.
///
/// # Errors
/// `out` could not be written.
pub fn kafka(records: &[Record], out: &mut dyn Write) -> io::Result<()> {
    let lasting = Lasting::new(records);
    let values = Values::new(records);
    let mut operations = Operations::new(records);
    let mut processes = Processes::new(records);

    for logical in writes(records) {
        let mut before = Vec::new();
        let mut after = Vec::new();
        for (index, write) in logical.writes.iter().enumerate().filter(|(_, write)| lasting.has(&write.stream)) {
            let last = logical.revisions.and_then(|revisions| revisions.get(index));
            let first = last.and_then(|last| (last + 1).checked_sub(write.events.len() as u64));
            for (offset, event) in (0u64..).zip(&write.events) {
                let Some(value) = values.of(event.id) else { continue };
                let stream = Quoted(&write.stream);
                before.push(format!("[:send {stream} {value}]"));
                after.push(match first {
                    Some(first) => format!("[:send {stream} [{} {value}]]", first + offset),
                    None => format!("[:send {stream} {value}]"),
                });
            }
        }
        if before.is_empty() {
            continue;
        }
        let process = match logical.process {
            Some(process) => processes.number(process, logical.invoke, logical.complete, logical.end),
            None => processes.fresh(),
        };
        let (before, after) = (format!("[{}]", Spaced(&before)), format!("[{}]", Spaced(&after)));
        operations.add(process, ":send", (logical.invoke, &before), (logical.complete, logical.end, &after));
    }
    for record in records {
        if let Record::Read(read) = record {
            poll_once(read, &lasting, &values, &mut operations, &mut processes);
        }
    }
    subscriptions(records, &lasting, &values, &mut operations, &mut processes);
    for events in super::writes::last_reads(records) {
        let time = operations.end();
        let polled = polled(events, &lasting, &values);
        operations.add(processes.fresh(), ":poll", (time, POLL), (Some(time + 1), End::Ok, &polled));
    }
    operations.write(out)
}

const POLL: &str = "[[:poll]]";

fn poll_once(
    read: &Read,
    lasting: &Lasting<'_>,
    values: &Values,
    operations: &mut Operations,
    processes: &mut Processes,
) {
    let followed = match &read.target {
        Target::Stream(stream) => lasting.has(stream),
        Target::All { .. } => false,
    };
    let (ReadOutcome::Ok { events, .. }, Some(complete), Direction::Forwards, true) =
        (&read.outcome, read.complete, read.direction, followed)
    else {
        return;
    };
    let polled = polled(events, lasting, values);
    operations.add(processes.fresh(), ":poll", (read.invoke, POLL), (Some(complete), End::Ok, &polled));
}

/// What was seen, by stream.
fn polled<'a>(events: impl IntoIterator<Item = &'a Seen>, lasting: &Lasting<'_>, values: &Values) -> String {
    let mut by_stream: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for seen in events.into_iter().filter(|seen| lasting.has(&seen.stream)) {
        if let Some(value) = values.of(seen.id) {
            by_stream.entry(&seen.stream).or_default().push(format!("[{} {value}]", seen.revision));
        }
    }
    let streams: Vec<String> =
        by_stream.iter().map(|(stream, pairs)| format!("{} [{}]", Quoted(stream), Spaced(pairs))).collect();
    format!("[[:poll {{{}}}]]", Spaced(&streams))
}

/// When, on which connection, and the events that came; none when it opened.
type Step<'a> = (Nanos, u32, Option<&'a [Seen]>);

fn subscriptions(
    records: &[Record],
    lasting: &Lasting<'_>,
    values: &Values,
    operations: &mut Operations,
    processes: &mut Processes,
) {
    let mut wanted: HashMap<u32, &Subscription> = HashMap::new();
    let mut followed: BTreeMap<u32, Vec<Step<'_>>> = BTreeMap::new();
    for record in records {
        match record {
            Record::Subscription(subscription) => {
                wanted.insert(subscription.subscription, subscription);
            }
            Record::Opened(opened) => {
                followed.entry(opened.subscription).or_default().push((opened.time, opened.connection, None));
            }
            Record::Delivered(delivered) => followed.entry(delivered.subscription).or_default().push((
                delivered.time,
                delivered.connection,
                Some(&delivered.events),
            )),
            _ => {}
        }
    }
    for (number, mut steps) in followed {
        let Some(subscription) = wanted.get(&number) else { continue };
        let streams: Vec<&str> = lasting.iter().filter(|stream| follows(&subscription.target, stream)).collect();
        if streams.is_empty() {
            continue;
        }
        let assigned: Vec<String> = streams.iter().map(|stream| Quoted(stream).to_string()).collect();
        let assigned = format!("[{}]", Spaced(&assigned));
        let process = processes.fresh();
        // Stable: what arrived at the same time stays in its order.
        steps.sort_by_key(|(time, connection, events)| (*connection, events.is_some(), *time));
        let mut before = 0;
        for (time, _, events) in steps {
            // A step lasts from the end of the one before to its own.
            let end = time.max(before + 2);
            let begin = if events.is_some() { before + 1 } else { end - 1 };
            match events {
                Some(events) => {
                    let polled = polled(events, lasting, values);
                    operations.add(process, ":poll", (begin, POLL), (Some(end), End::Ok, &polled));
                }
                None => operations.add(process, ":assign", (begin, &assigned), (Some(end), End::Ok, &assigned)),
            }
            before = end;
        }
    }
}

fn follows(target: &Target, stream: &str) -> bool {
    match target {
        Target::All { prefixes } => prefixes.is_empty() || prefixes.iter().any(|prefix| stream.starts_with(&**prefix)),
        Target::Stream(only) => **only == *stream,
    }
}
