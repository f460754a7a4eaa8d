//! Histories of a correct server that were once found guilty.

use std::sync::Arc;

use annals_checker::history::{
    Append, Current, Delete, Digest, EventId, Expected, Final, Nanos, Outcome, Proposed, Reason, Record, Seen, Source,
    Write,
};
use annals_checker::{Settings, check};

fn write(stream: &str, expected: Expected, id: u128) -> Write {
    let event = Proposed { id: EventId(id), digest: Digest(id as u64), sets: None };
    Write { stream: stream.into(), expected, events: vec![event] }
}

fn append(invoke: Nanos, complete: Option<Nanos>, writes: Vec<Write>, outcome: Outcome) -> Record {
    Record::Append(Append { process: 1, node: 1, invoke, complete, call: "append".into(), writes, outcome })
}

fn delete(invoke: Nanos, stream: &str, hard: bool, position: u64) -> Record {
    let outcome = Outcome::Acked { position, revisions: Vec::new() };
    let (stream, expected, complete) = (stream.into(), Expected::Any, Some(invoke + 5));
    Record::Delete(Delete { process: 2, node: 1, invoke, complete, stream, expected, hard, outcome })
}

fn acked(position: u64, revisions: &[u64]) -> Outcome {
    Outcome::Acked { position, revisions: revisions.to_vec() }
}

fn seen(position: u64, stream: &str, revision: u64, id: u128, system: bool) -> Seen {
    let stream: Arc<str> = stream.into();
    Seen { position, stream, revision, id: EventId(id), digest: Digest(id as u64), created: 1, system }
}

fn finals(events: &[Seen]) -> impl Iterator<Item = Record> {
    [Source::Linearizable, Source::Local]
        .into_iter()
        .map(|source| Record::Final(Final { node: 1, source, events: events.to_vec(), complete: true }))
}

fn holds(records: &[Record]) {
    let verdict = check(records, &Settings::default());
    assert!(verdict.violated().is_empty(), "{}", verdict.table());
}

/// The first attempt wrote both, its answer was lost. Then one of the streams
/// got a tombstone. The second attempt is refused, and may be told so because
/// of the other stream: what is there already is not what it expected.
#[test]
fn a_repetition_can_be_refused_because_of_a_stream_that_has_the_events() {
    let both = || vec![write("a", Expected::Any, 1), write("t", Expected::Any, 2)];
    let reason = Reason::WrongExpectation { stream: "a".into(), current: Some(Current::Revision(0)) };
    let mut records = vec![
        append(0, None, both(), Outcome::Unknown { why: "deadline".into() }),
        delete(10, "t", true, 3),
        append(20, Some(25), both(), Outcome::Refused { reason, as_of: Some(3) }),
    ];
    records.extend(finals(&[
        seen(1, "a", 0, 1, false),
        seen(2, "t", 0, 2, false),
        seen(3, "t", i64::MAX as u64, 7, true),
    ]));
    holds(&records);
}

/// An append that expects no stream began a soft-deleted stream anew and is
/// repeated when the stream was deleted again: it is answered as the first
/// time, for ever.
#[test]
fn a_repetition_that_expects_no_stream_is_recognised_after_another_deletion() {
    let anew = || vec![write("d", Expected::NoStream, 2)];
    let mut records = vec![
        append(0, Some(5), vec![write("d", Expected::Any, 1)], acked(1, &[0])),
        delete(10, "d", false, 2),
        append(20, Some(25), anew(), acked(3, &[1])),
        delete(30, "d", false, 5),
        append(40, Some(45), anew(), acked(3, &[1])),
    ];
    records.extend(finals(&[
        seen(1, "d", 0, 1, false),
        seen(2, "$$d", 0, 8, true),
        seen(3, "d", 1, 2, false),
        seen(4, "$$d", 1, 9, true),
        seen(5, "$$d", 2, 10, true),
    ]));
    holds(&records);
}
