//! Small histories, written down by hand.
//!
//! An event's digest is its id and its time is its position, unless said
//! otherwise.

// Each file of tests uses a part of it.
#![allow(dead_code)]

mod coverage;
pub(crate) mod groups;

use annals_checker::history::{
    Append, CaughtUp, Closed, Delete, Delivered, Digest, Direction, Dropped, EventId, Expected, Fault, Final, Hash,
    Installed, Mode, Nanos, NodeNumber, Opened, Outcome, Proposed, Read, ReadOutcome, Reason, Record, Retention, Seen,
    Source, Subscription, Target, Write,
};
use annals_checker::{Property, Settings, Validity, check};

/// The revision of a tombstone.
pub(crate) const END: u64 = i64::MAX as u64;

/// An event in the log.
pub(crate) fn event(position: u64, stream: &str, revision: u64, id: u128) -> Seen {
    Seen {
        position,
        stream: stream.into(),
        revision,
        id: EventId(id),
        digest: Digest(id as u64),
        created: position as i64,
        system: stream.starts_with('$') || revision == END,
    }
}

/// Events for one stream.
pub(crate) fn write(stream: &str, expected: Expected, ids: &[u128]) -> Write {
    let event = |id: &u128| Proposed { id: EventId(*id), digest: Digest(*id as u64), sets: None };
    Write { stream: stream.into(), expected, events: ids.iter().map(event).collect() }
}

/// One event that sets a stream's metadata.
pub(crate) fn metadata(stream: &str, id: u128, sets: Retention) -> Write {
    let event = Proposed { id: EventId(id), digest: Digest(id as u64), sets: Some(sets) };
    Write { stream: format!("$${stream}").into(), expected: Expected::Any, events: vec![event] }
}

pub(crate) fn acked(position: u64, revisions: &[u64]) -> Outcome {
    Outcome::Acked { position, revisions: revisions.to_vec() }
}

pub(crate) fn unknown() -> Outcome {
    Outcome::Unknown { why: "timed out".into() }
}

pub(crate) fn refused(reason: Reason) -> Outcome {
    Outcome::Refused { reason, as_of: None }
}

/// An append of several writes. Without a known end if its outcome is unknown.
pub(crate) fn appends(invoke: Nanos, complete: Nanos, writes: Vec<Write>, outcome: Outcome) -> Record {
    let complete = (!matches!(outcome, Outcome::Unknown { .. })).then_some(complete);
    Record::Append(Append { process: 1, node: 1, invoke, complete, call: "append".into(), writes, outcome })
}

/// An append of one event with any expectation, to one stream.
pub(crate) fn append(invoke: Nanos, complete: Nanos, stream: &str, id: u128, outcome: Outcome) -> Record {
    appends(invoke, complete, vec![write(stream, Expected::Any, &[id])], outcome)
}

/// As [`append`], with an expectation.
pub(crate) fn expect(
    invoke: Nanos,
    complete: Nanos,
    stream: &str,
    id: u128,
    expected: Expected,
    outcome: Outcome,
) -> Record {
    appends(invoke, complete, vec![write(stream, expected, &[id])], outcome)
}

pub(crate) fn delete(invoke: Nanos, complete: Nanos, stream: &str, hard: bool, outcome: Outcome) -> Record {
    let complete = (!matches!(outcome, Outcome::Unknown { .. })).then_some(complete);
    let (stream, expected) = (stream.into(), Expected::Any);
    Record::Delete(Delete { process: 2, node: 1, invoke, complete, stream, expected, hard, outcome })
}

/// A linearizable read forwards of everything in a target.
pub(crate) fn read(invoke: Nanos, complete: Nanos, target: Target, outcome: ReadOutcome) -> Read {
    Read {
        process: 3,
        node: 2,
        invoke,
        complete: Some(complete),
        target,
        direction: Direction::Forwards,
        from: None,
        limit: u64::MAX,
        mode: Mode::Linearizable,
        outcome,
    }
}

pub(crate) fn all() -> Target {
    Target::All { prefixes: Vec::new() }
}

pub(crate) fn stream(name: &str) -> Target {
    Target::Stream(name.into())
}

pub(crate) fn saw(events: &[Seen], as_of: Option<u64>) -> ReadOutcome {
    ReadOutcome::Ok { events: events.to_vec(), as_of }
}

/// The same read, in another mode.
pub(crate) fn with_mode(read: Read, mode: Mode) -> Record {
    Record::Read(Read { mode, ..read })
}

pub(crate) fn subscription(target: Target) -> Record {
    Record::Subscription(Subscription { subscription: 1, target, after: None })
}

pub(crate) fn opened(connection: u32, time: Nanos, after: Option<u64>) -> Record {
    Record::Opened(Opened { subscription: 1, connection, node: 1, time, after })
}

pub(crate) fn delivered(connection: u32, time: Nanos, events: &[Seen]) -> Record {
    Record::Delivered(Delivered { subscription: 1, connection, time, events: events.to_vec() })
}

pub(crate) fn caught_up(connection: u32, time: Nanos, upto: u64) -> Record {
    Record::CaughtUp(CaughtUp { subscription: 1, connection, time, upto: Some(upto) })
}

pub(crate) fn dropped(connection: u32, time: Nanos, ended_ok: bool) -> Record {
    Record::Dropped(Dropped { subscription: 1, connection, time, why: "ended".into(), ended_ok })
}

pub(crate) fn closed(time: Nanos, drained: bool) -> Record {
    Record::Closed(Closed { subscription: 1, time, drained })
}

pub(crate) fn fault(class: &str, name: &str, start: Nanos, end: Nanos, installed: Installed) -> Record {
    let (class, name) = (class.into(), name.into());
    Record::Fault(Fault { class, name, nodes: vec![2], start, end, installed, detail: String::new() })
}

pub(crate) fn hash(node: NodeNumber, position: u64, hash: &str) -> Record {
    Record::Hash(Hash { node, time: 1_000, position, hash: hash.into() })
}

pub(crate) fn held(node: NodeNumber, source: Source, events: &[Seen]) -> Record {
    Record::Final(Final { node, source, events: events.to_vec(), complete: true })
}

/// The history with the log at its end.
pub(crate) fn end(mut records: Vec<Record>, log: &[Seen]) -> Vec<Record> {
    records.push(held(1, Source::Linearizable, log));
    records
}

/// The log after [`four`].
pub(crate) fn log() -> Vec<Seen> {
    vec![event(1, "a", 0, 1), event(2, "a", 1, 2), event(3, "b", 0, 3), event(4, "a", 2, 4)]
}

/// Four appends, one after the other: at 0 to 10, 20 to 30, 40 to 50, 60 to 70.
pub(crate) fn four() -> Vec<Record> {
    vec![
        append(0, 10, "a", 1, acked(1, &[0])),
        append(20, 30, "a", 2, acked(2, &[1])),
        append(40, 50, "b", 3, acked(3, &[0])),
        append(60, 70, "a", 4, acked(4, &[2])),
    ]
}

/// [`four`], with another record, and its log.
pub(crate) fn four_and(more: impl IntoIterator<Item = Record>) -> Vec<Record> {
    let mut records = four();
    records.extend(more);
    end(records, &log())
}

/// The history is right.
pub(crate) fn good(what: &str, records: &[Record]) {
    good_with(what, records, &Settings::default());
}

/// The history is right under these settings.
pub(crate) fn good_with(what: &str, records: &[Record], settings: &Settings) {
    let verdict = check(records, settings);
    assert_eq!(verdict.validity, Validity::Valid, "{what}\n{}", verdict.table());
}

/// The history violates this property, and no other.
pub(crate) fn bad(property: Property, what: &str, records: &[Record]) {
    bad_for(&[property], what, records);
}

/// The history violates these properties, and no others.
pub(crate) fn bad_for(properties: &[Property], what: &str, records: &[Record]) {
    let verdict = check(records, &Settings::default());
    assert_eq!(verdict.validity, Validity::Invalid, "{what}\n{}", verdict.table());
    assert_eq!(verdict.violated(), properties, "{what}\n{}", verdict.table());
    let finding = &verdict.properties[&properties[0]];
    assert!(
        finding.first.iter().all(|violation| !violation.text.is_empty()),
        "{what}: every violation says what it is"
    );
}
