//! Consumer groups, written down by hand: group 1, and consumers that joined in
//! a term.

use annals_checker::history::{
    Answer, Answered, Checkpoint, Defined, Group, GroupEnded, GroupSource, GroupStep, Handed, Joined, Left, Nanos,
    Parked, ParkedMessage, Record, Replay, Seen,
};

fn step(step: GroupStep) -> Record {
    Record::Group(Group { group: 1, step })
}

/// A group on this; `in_order` if it keeps the order of each stream.
pub(crate) fn group(source: GroupSource, in_order: bool) -> Record {
    step(GroupStep::Defined(Defined { name: "g".into(), source, in_order }))
}

/// On the streams that begin with `a`.
pub(crate) fn on_a() -> GroupSource {
    GroupSource::All { prefixes: vec!["a".into()] }
}

pub(crate) fn joined(consumer: u32, time: Nanos, term: u64) -> Record {
    step(GroupStep::Joined(Joined { consumer, node: 1, invoke: time - 1, time, term: Some(term) }))
}

pub(crate) fn handed(consumer: u32, time: Nanos, event: &Seen) -> Record {
    step(GroupStep::Handed(Handed { consumer, time, event: event.clone(), retries: 0 }))
}

pub(crate) fn answered(consumer: u32, time: Nanos, position: u64, answer: Answer) -> Record {
    step(GroupStep::Answered(Answered { consumer, time, position, answer }))
}

pub(crate) fn acked(consumer: u32, time: Nanos, position: u64) -> Record {
    answered(consumer, time, position, Answer::Ack)
}

pub(crate) fn left(consumer: u32, time: Nanos, ended_ok: bool) -> Record {
    step(GroupStep::Left(Left { consumer, time, why: "gone".into(), ended_ok }))
}

pub(crate) fn checkpoint(time: Nanos, term: u64, place: u64) -> Record {
    step(GroupStep::Checkpoint(Checkpoint { time, term, place }))
}

pub(crate) fn replay(asked: i64, answered: i64) -> Record {
    step(GroupStep::Replay(Replay { time: 0, asked, answered: Some(answered) }))
}

/// Parked: the revision of stream `a`, and when, in seconds of the wall clock.
pub(crate) fn parked(messages: &[(u64, i64)], done_before: u64) -> Record {
    let message = |(revision, (of, seconds)): (u64, &(u64, i64))| ParkedMessage {
        revision,
        created: seconds * 10_000_000,
        stream: "a".into(),
        of: *of,
    };
    let messages = (0..).zip(messages).map(message).collect();
    step(GroupStep::Parked(Parked { messages, done_before }))
}

/// Drained up to this place.
pub(crate) fn ended(upto: u64) -> Record {
    step(GroupStep::Ended(GroupEnded { time: 500, drained: true, upto: Some(upto) }))
}
