//! What becomes of a command: the rules of the log, once more and as plainly
//! as possible.
//!
//! All state is a list of events. Whatever must be known of a stream is found
//! by looking through the list: histories of tests are short.

use std::sync::Arc;

use annals_checker::history::{
    Current, Digest, Direction, EventId, Expected, ReadOutcome, Reason, Retention, Seen, Target, Write,
};

/// The revision of a tombstone, and the "before" of a soft delete.
pub(super) const TOMBSTONE: u64 = i64::MAX as u64;

/// An event in the log.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// What readers see.
    pub(super) seen: Seen,
    /// For a metadata event: the metadata.
    pub(super) sets: Option<Retention>,
}

/// A write, as it is decided on.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// Appends to one stream or several.
    Append(Vec<Write>),
    /// Deletes, for ever or not.
    Delete { stream: Arc<str>, expected: Expected, hard: bool },
}

/// What becomes of a command.
pub(super) enum Decision {
    /// It is done, now or before.
    Done {
        /// The position of its last event.
        position: u64,
        /// The last revision of each write.
        revisions: Vec<u64>,
        /// What it adds to the log; empty if it was done before.
        events: Vec<Stored>,
    },
    /// It is not as expected.
    Refused(Reason),
}

/// What a stream is like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Empty,
    Live(u64),
    SoftDeleted(u64),
    Tombstoned,
}

/// A log and what it knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    /// The events, by position.
    pub(super) events: Vec<Stored>,
    /// The ids of events up to this position are not looked at where an
    /// append expects nothing exact. 0 unless a bug says otherwise.
    pub(super) forgotten: u64,
}

impl Log {
    /// The position of the newest event.
    pub(super) fn tail(&self) -> u64 {
        self.events.last().map_or(0, |event| event.seen.position)
    }

    /// The part up to a position.
    pub(super) fn prefix(&self, position: u64) -> &[Stored] {
        &self.events[..self.events.partition_point(|event| event.seen.position <= position)]
    }

    /// The last revision of a stream, whatever became of it.
    pub(super) fn last(&self, stream: &str) -> Option<u64> {
        last(&self.events, stream)
    }

    /// Decides. `created` is the time of the events if there are any.
    pub(super) fn decide(&self, command: &Command, created: i64) -> Decision {
        let mut placing = Placing { log: self, events: Vec::new(), created };
        match command {
            Command::Append(writes) => self.append(writes, placing),
            Command::Delete { stream, expected, hard } => {
                let state = state(&self.events, stream);
                let allowed = match (state, hard) {
                    (State::Tombstoned, _) => false,
                    (State::Empty, false) => {
                        metadata(&self.events, stream).is_some() && !matches!(expected, Expected::Revision(_))
                    }
                    (State::SoftDeleted(_), true) if *expected == Expected::Exists => true,
                    _ => self.satisfied(stream, *expected, state),
                };
                if !allowed {
                    return Decision::Refused(refusal(stream, *expected, state));
                }
                if *hard {
                    placing.tombstone(stream);
                } else {
                    let sets = Retention { max_count: None, truncate_before: Some(TOMBSTONE) };
                    placing.metadata(stream, sets);
                }
                let position = placing.tail();
                Decision::Done { position, revisions: Vec::new(), events: placing.events }
            }
        }
    }

    /// Places the events of an append without asking whether it may be.
    pub(super) fn place(&self, writes: &[Write], created: i64) -> Decision {
        let mut placing = Placing { log: self, events: Vec::new(), created };
        let mut revisions = Vec::new();
        for write in writes {
            for event in &write.events {
                placing.event(&write.stream, event.id, event.digest, event.sets);
            }
            revisions.push(placing.last(&write.stream).unwrap_or_default());
        }
        let position = placing.tail();
        for write in writes {
            placing.undelete(write, writes);
        }
        Decision::Done { position, revisions, events: placing.events }
    }

    fn append(&self, writes: &[Write], placing: Placing<'_>) -> Decision {
        let places: Vec<_> = writes.iter().map(|write| self.repeated(write)).collect();
        if let Some(all) = places.iter().cloned().collect::<Option<Result<Vec<(u64, u64)>, ()>>>()
            && let Ok(all) = all
        {
            let position = all.last().map_or(0, |(_, position)| *position);
            let revisions = all.into_iter().map(|(revision, _)| revision).collect();
            return Decision::Done { position, revisions, events: Vec::new() };
        }
        for (write, place) in writes.iter().zip(&places) {
            let state = state(&self.events, &write.stream);
            if place.is_some() || !self.satisfied(&write.stream, write.expected, state) {
                return Decision::Refused(refusal(&write.stream, write.expected, state));
            }
        }
        self.place(writes, placing.created)
    }

    /// Where the write is if it was done before; an error if a part of it was.
    fn repeated(&self, write: &Write) -> Option<Result<(u64, u64), ()>> {
        if state(&self.events, &write.stream) == State::Tombstoned {
            return None;
        }
        let events: Vec<&Seen> = self.events.iter().map(|event| &event.seen).collect();
        let mine: Vec<&Seen> = events.into_iter().filter(|seen| seen.stream == write.stream).collect();
        match write.expected {
            Expected::Any | Expected::Exists => {
                let find = |id| mine.iter().find(|seen| seen.id == id && seen.position > self.forgotten);
                let mut place = None;
                for (index, event) in write.events.iter().enumerate() {
                    match find(event.id) {
                        Some(seen) => place = Some((seen.revision, seen.position)),
                        None if index == 0 => return None,
                        None => return Some(Err(())),
                    }
                }
                place.map(Ok)
            }
            Expected::Revision(before) => all_at(&mine, before as usize + 1, write),
            Expected::NoStream => (0..mine.len()).find_map(|start| all_at(&mine, start, write)),
        }
    }

    fn satisfied(&self, stream: &str, expected: Expected, state: State) -> bool {
        match (expected, state) {
            (_, State::Tombstoned) => false,
            (Expected::Any, _) => true,
            (Expected::NoStream, State::Empty | State::SoftDeleted(_)) => true,
            (Expected::NoStream, State::Live(_)) => false,
            (Expected::Exists, State::Live(_)) => true,
            (Expected::Exists, State::Empty) => metadata(&self.events, stream).is_some(),
            (Expected::Exists, State::SoftDeleted(_)) => false,
            (Expected::Revision(revision), State::Live(last) | State::SoftDeleted(last)) => revision == last,
            (Expected::Revision(_), State::Empty) => false,
        }
    }
}

fn all_at(mine: &[&Seen], start: usize, write: &Write) -> Option<Result<(u64, u64), ()>> {
    let there = mine.get(start..start + write.events.len())?;
    let same = there.iter().zip(&write.events).all(|(seen, event)| seen.id == event.id);
    same.then(|| there.last().map(|seen| Ok((seen.revision, seen.position))))?
}

fn refusal(stream: &Arc<str>, expected: Expected, state: State) -> Reason {
    let current = match state {
        State::Tombstoned => return Reason::Tombstoned { stream: stream.clone() },
        // This answer does not say more.
        State::SoftDeleted(_) if expected == Expected::Exists => None,
        State::Empty => Some(Current::NoStream),
        State::Live(last) | State::SoftDeleted(last) => Some(Current::Revision(last)),
    };
    Reason::WrongExpectation { stream: stream.clone(), current }
}

fn described(stream: &str) -> Option<&str> {
    stream.strip_prefix("$$")
}

fn last(events: &[Stored], stream: &str) -> Option<u64> {
    let mine = |event: &&Stored| &*event.seen.stream == stream && event.seen.revision != TOMBSTONE;
    events.iter().rev().find(mine).map(|event| event.seen.revision)
}

fn ended(events: &[Stored], stream: &str) -> bool {
    events.iter().any(|event| &*event.seen.stream == stream && event.seen.revision == TOMBSTONE)
}

fn metadata(events: &[Stored], stream: &str) -> Option<Retention> {
    let of = |event: &&Stored| described(&event.seen.stream) == Some(stream);
    events.iter().rev().find(of).and_then(|event| event.sets)
}

fn state(events: &[Stored], stream: &str) -> State {
    if ended(events, described(stream).unwrap_or(stream)) {
        return State::Tombstoned;
    }
    let hidden = metadata(events, stream).is_some_and(|retention| retention.truncate_before == Some(TOMBSTONE));
    match last(events, stream) {
        None => State::Empty,
        Some(last) if hidden => State::SoftDeleted(last),
        Some(last) => State::Live(last),
    }
}

/// What a read of these events answers.
pub(super) fn read(
    events: &[Stored],
    target: &Target,
    direction: Direction,
    from: Option<u64>,
    limit: u64,
    as_of: Option<u64>,
) -> ReadOutcome {
    let mut found: Vec<(u64, &Stored)> = match target {
        Target::All { .. } => {
            events.iter().filter(|event| selects(target, event)).map(|event| (event.seen.position, event)).collect()
        }
        Target::Stream(stream) => {
            match state(events, stream) {
                State::Tombstoned => return ReadOutcome::Tombstoned { as_of },
                State::Empty | State::SoftDeleted(_) => return ReadOutcome::NoStream { as_of },
                State::Live(_) => {}
            }
            let first = first_visible(events, stream);
            let mine = events.iter().filter(|event| selects(target, event) && event.seen.revision >= first);
            mine.map(|event| (event.seen.revision, event)).collect()
        }
    };
    match direction {
        Direction::Forwards => found.retain(|(place, _)| from.is_none_or(|from| *place >= from)),
        Direction::Backwards => {
            found.retain(|(place, _)| from.is_none_or(|from| *place <= from));
            found.reverse();
        }
    }
    let events = found.into_iter().take(limit as usize).map(|(_, event)| event.seen.clone()).collect();
    ReadOutcome::Ok { events, as_of }
}

/// Whether an event belongs to a target.
pub(super) fn selects(target: &Target, event: &Stored) -> bool {
    match target {
        Target::All { prefixes } => {
            prefixes.is_empty() || prefixes.iter().any(|prefix| event.seen.stream.starts_with(&**prefix))
        }
        Target::Stream(stream) => event.seen.stream == *stream,
    }
}

fn first_visible(events: &[Stored], stream: &str) -> u64 {
    let last = last(events, stream).unwrap_or_default();
    if described(stream).is_some() {
        return last;
    }
    let Retention { max_count, truncate_before } = metadata(events, stream).unwrap_or_default();
    let kept = max_count.map_or(0, |count| (last + 1).saturating_sub(count));
    kept.max(truncate_before.unwrap_or_default())
}

/// Events being given their places.
struct Placing<'a> {
    log: &'a Log,
    events: Vec<Stored>,
    created: i64,
}

impl Placing<'_> {
    fn tail(&self) -> u64 {
        self.log.tail() + self.events.len() as u64
    }

    fn last(&self, stream: &str) -> Option<u64> {
        last(&self.events, stream).or_else(|| self.log.last(stream))
    }

    fn event(&mut self, stream: &Arc<str>, id: EventId, digest: Digest, sets: Option<Retention>) {
        let revision = self.last(stream).map_or(0, |last| last + 1);
        self.push(stream, revision, id, digest, sets, sets.is_some());
    }

    fn push(
        &mut self,
        stream: &Arc<str>,
        revision: u64,
        id: EventId,
        digest: Digest,
        sets: Option<Retention>,
        system: bool,
    ) {
        let position = self.tail() + 1;
        let seen = Seen { position, stream: stream.clone(), revision, id, digest, created: self.created, system };
        self.events.push(Stored { seen, sets });
    }

    fn metadata(&mut self, stream: &str, sets: Retention) {
        let metastream: Arc<str> = format!("$${stream}").into();
        let digest = Digest(sets.max_count.unwrap_or(0) << 32 ^ sets.truncate_before.unwrap_or(0));
        let id = self.own_id();
        self.event(&metastream, id, digest, Some(sets));
    }

    fn tombstone(&mut self, stream: &Arc<str>) {
        let id = self.own_id();
        self.push(stream, TOMBSTONE, id, Digest(7), None, true);
    }

    fn own_id(&self) -> EventId {
        EventId(u128::from(self.tail() + 1) << 64 | 0x5e7e7)
    }

    /// What makes a soft-deleted stream visible again from its first new
    /// event on.
    fn undelete(&mut self, write: &Write, writes: &[Write]) {
        let stream = described(&write.stream).unwrap_or(&write.stream);
        let hides = |retention: Retention| retention.truncate_before == Some(TOMBSTONE);
        if !metadata(&self.log.events, stream).is_some_and(hides) {
            return;
        }
        let of_metadata = described(&write.stream).is_some();
        if of_metadata && writes.iter().any(|other| &*other.stream == stream) {
            return;
        }
        let current = metadata(&self.events, stream).or_else(|| metadata(&self.log.events, stream)).unwrap_or_default();
        if of_metadata && hides(current) {
            return;
        }
        let anew = self.log.last(stream).map_or(0, |last| last + 1);
        let stream = stream.to_owned();
        self.metadata(&stream, Retention { truncate_before: Some(anew), ..current });
    }
}
