//! The rules against a small model.
//!
//! The model keeps the whole log as a list and answers every question by
//! walking it: no heads, no overlay, no windows. It is written from the tables
//! of the protocol reference (2.1, 2.2, 2.7, 5.3), not from `decide`. Random
//! commands over a few streams and a few ids are decided by both; every
//! outcome and every event must agree.

use std::collections::HashMap;
use std::convert::Infallible;

use annals_core::decide::{Heads, Placed, decide};
use annals_core::scavenge::Facts;
use annals_core::{
    Actual, Append, Batch, Command, Content, Event, EventId, EventType, Expected, Head, Lease, Outcome, Position,
    Properties, Revision, Role, Scavenge, StreamName, Target, Timestamp,
};
use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

const TOMBSTONE: u64 = i64::MAX as u64;

// ---------------------------------------------------------------- the model

#[derive(Default)]
struct Model {
    /// (stream, revision, id, data), the place in the list being the position - 1.
    log: Vec<(String, u64, Uuid, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Is {
    Empty,
    Live(u64),
    Soft(u64),
    Ended,
}

impl Model {
    fn last(&self, stream: &str) -> Option<u64> {
        self.log.iter().filter(|e| e.0 == stream && e.1 != TOMBSTONE).map(|e| e.1).max()
    }
    fn ended(&self, stream: &str) -> bool {
        let own = |name: &str| self.log.iter().any(|e| e.0 == name && e.1 == TOMBSTONE);
        own(stream) || stream.strip_prefix("$$").is_some_and(own)
    }
    fn metadata(&self, stream: &str) -> Option<&[u8]> {
        let meta = format!("$${stream}");
        self.log.iter().rev().find(|e| e.0 == meta).map(|e| e.3.as_slice())
    }
    fn hidden(&self, stream: &str) -> bool {
        self.metadata(stream).is_some_and(|json| json == br#"{"$tb":9223372036854775807}"#)
    }
    fn truncate_before(&self, stream: &str) -> Option<u64> {
        let json = std::str::from_utf8(self.metadata(stream)?).ok()?;
        let digits = json.split_once(r#""$tb":"#)?.1;
        let number: u64 = digits.trim_end_matches('}').parse().ok()?;
        (number >= 1).then_some(number)
    }
    fn state(&self, stream: &str) -> Is {
        match self.last(stream) {
            _ if self.ended(stream) => Is::Ended,
            None => Is::Empty,
            Some(last) if self.hidden(stream) => Is::Soft(last),
            Some(last) => Is::Live(last),
        }
    }
    fn place(&self, stream: &str, id: Uuid) -> Option<u64> {
        self.log.iter().rev().find(|e| e.0 == stream && e.2 == id && e.1 != TOMBSTONE).map(|e| e.1)
    }

    /// Table 2.1, a row and column at a time.
    fn satisfied(&self, expected: Expected, stream: &str, check_only: bool) -> bool {
        let state = self.state(stream);
        match expected {
            Expected::Any => state != Is::Ended || check_only,
            Expected::NoStream => matches!(state, Is::Empty | Is::Soft(_)) || (check_only && state == Is::Ended),
            Expected::Exists => match state {
                Is::Live(_) => true,
                Is::Empty => self.metadata(stream).is_some(),
                Is::Soft(_) | Is::Ended => false,
            },
            Expected::SoftDeleted => matches!(state, Is::Soft(_)),
            Expected::Tombstoned => check_only && state == Is::Ended,
            Expected::Exactly(n) => matches!(state, Is::Live(m) | Is::Soft(m) if m == n.get()),
        }
    }

    /// None: these events are new. Some(Ok): all there, the last at this
    /// revision. Some(Err): a conflict that the ids alone show.
    fn repeated(&self, expected: Expected, stream: &str, ids: &[Uuid]) -> Option<Result<u64, ()>> {
        if ids.is_empty() || self.state(stream) == Is::Ended {
            return None;
        }
        let at = |revision: u64| self.log.iter().find(|e| e.0 == stream && e.1 == revision).map(|e| e.2);
        match expected {
            Expected::Tombstoned => None,
            Expected::Any | Expected::Exists | Expected::SoftDeleted => {
                let places: Vec<_> = ids.iter().map(|id| self.place(stream, *id)).collect();
                places[0]?;
                if places.iter().all(Option::is_some) {
                    Some(Ok(places.last().copied().flatten()?))
                } else {
                    Some(Err(()))
                }
            }
            Expected::NoStream | Expected::Exactly(_) => {
                let from = if let Expected::Exactly(n) = expected { n.get() + 1 } else { 0 };
                if self.last(stream)? < from {
                    return None;
                }
                let same = |from: u64| -> Vec<bool> {
                    ids.iter().zip(from..).map(|(id, revision)| at(revision) == Some(*id)).collect()
                };
                let mut starts = vec![from];
                if expected == Expected::NoStream {
                    // Where a soft-deleted stream was begun anew.
                    starts.extend(self.truncate_before(stream));
                }
                for start in starts {
                    if same(start).iter().all(|yes| *yes) {
                        return Some(Ok(start + ids.len() as u64 - 1));
                    }
                }
                // Earlier beginnings are known by their ids.
                let places: Vec<_> = ids.iter().map(|id| self.place(stream, *id)).collect();
                if expected == Expected::NoStream && self.truncate_before(stream).is_some() && places[0].is_some() {
                    return Some(
                        places.into_iter().collect::<Option<Vec<u64>>>().and_then(|all| all.last().copied()).ok_or(()),
                    );
                }
                let there = same(from);
                let recreation = expected == Expected::NoStream && matches!(self.state(stream), Is::Soft(_));
                if recreation && !there[0] { None } else { Some(Err(())) }
            }
        }
    }

    fn write(&mut self, stream: &str, id: Option<Uuid>, data: &[u8]) {
        let revision = self.last(stream).map_or(0, |last| last + 1);
        self.log.push((stream.into(), revision, id.unwrap_or(Uuid::nil()), data.to_vec()));
    }

    /// The answer: revisions per target, or the indexes of the targets in violation.
    fn run(&mut self, command: &Command) -> Result<Vec<Option<u64>>, Vec<u32>> {
        match command {
            Command::AllocateNode { .. }
            | Command::For { .. }
            | Command::StartScavenge { .. }
            | Command::Reclaim(_)
            | Command::StopScavenge { .. }
            | Command::AcquireLease(_)
            | Command::ReleaseLease { .. }
            | Command::Import(_) => unreachable!("not generated"),
            Command::Delete { stream, expected } => {
                let name = stream.as_str();
                let ok = match self.state(name) {
                    Is::Ended => false,
                    Is::Empty => self.metadata(name).is_some() && !matches!(expected, Expected::Exactly(_)),
                    _ => self.satisfied(*expected, name, false),
                };
                if !ok {
                    return Err(vec![0]);
                }
                self.write(&format!("$${name}"), None, br#"{"$tb":9223372036854775807}"#);
                Ok(vec![self.last(name)])
            }
            Command::Tombstone { stream, expected } => {
                let name = stream.as_str();
                let soft_exists = matches!(self.state(name), Is::Soft(_)) && *expected == Expected::Exists;
                if !soft_exists && !self.satisfied(*expected, name, false) {
                    return Err(vec![0]);
                }
                let last = self.last(name);
                self.log.push((name.into(), TOMBSTONE, Uuid::nil(), vec![]));
                Ok(vec![last])
            }
            Command::Append(append) => {
                let ids = |t: usize| -> Vec<Uuid> {
                    append.events.iter().filter(|(i, _)| *i as usize == t).map(|(_, e)| e.id().uuid()).collect()
                };
                let writes = |t: &Target| t.role == Role::Write;
                let repeated: Vec<_> = append
                    .targets
                    .iter()
                    .enumerate()
                    .map(|(i, t)| if writes(t) { self.repeated(t.expected, t.stream.as_str(), &ids(i)) } else { None })
                    .collect();
                let all = append
                    .targets
                    .iter()
                    .zip(&repeated)
                    .filter(|(t, _)| writes(t))
                    .all(|(_, r)| matches!(r, Some(Ok(_))));
                if all && !append.events.is_empty() {
                    let last = |(t, r): (&Target, &Option<Result<u64, ()>>)| match r {
                        Some(Ok(revision)) => Some(*revision),
                        _ => self.last(t.stream.as_str()),
                    };
                    return Ok(append.targets.iter().zip(&repeated).map(last).collect());
                }
                let conflicts = |t: &Target, r: &Option<Result<u64, ()>>| match r {
                    Some(r) => r.is_err(),
                    None => !self.satisfied(t.expected, t.stream.as_str(), !writes(t)),
                };
                let any = append.targets.iter().zip(&repeated).any(|(t, r)| conflicts(t, r));
                let bad: Vec<u32> = (0u32..)
                    .zip(append.targets.iter().zip(&repeated))
                    .filter(|(_, (t, r))| conflicts(t, r) || (!any && r.is_some()))
                    .map(|(i, _)| i)
                    .collect();
                if !bad.is_empty() {
                    return Err(bad);
                }
                let before: HashMap<String, (bool, u64)> = append
                    .targets
                    .iter()
                    .flat_map(|t| [t.stream.as_str(), t.stream.as_str().trim_start_matches("$$")])
                    .map(|s| (s.to_owned(), (self.hidden(s), self.last(s).map_or(0, |l| l + 1))))
                    .collect();
                for (i, event) in &append.events {
                    self.write(append.targets[*i as usize].stream.as_str(), Some(event.id().uuid()), event.data());
                }
                let revisions = append.targets.iter().map(|t| self.last(t.stream.as_str())).collect();
                for t in append.targets.iter().filter(|t| writes(t)) {
                    let name = t.stream.as_str();
                    let (stream, of_metadata) = match name.strip_prefix("$$") {
                        Some(stream) => (stream, true),
                        None => (name, false),
                    };
                    let (was_hidden, first_new) = before[stream];
                    let with_events = append.targets.iter().any(|o| writes(o) && o.stream.as_str() == stream);
                    let wrote_metadata =
                        append.events.iter().any(|(i, _)| append.targets[*i as usize].stream.as_str() == name);
                    let skip = of_metadata && (with_events || !wrote_metadata || self.hidden(stream));
                    if was_hidden && !skip {
                        let json = self.metadata(stream).unwrap_or_default().to_vec();
                        let text = if json.starts_with(br#"{"$tb""#) {
                            format!(r#"{{"$tb":{first_new}}}"#)
                        } else {
                            let inner = String::from_utf8(json).expect("ours");
                            format!(r#"{},"$tb":{first_new}}}"#, inner.trim_end_matches('}'))
                        };
                        self.write(&format!("$${stream}"), None, text.as_bytes());
                    }
                }
                Ok(revisions)
            }
        }
    }
}

// ------------------------------------------- the least that `decide` needs

#[derive(Default)]
struct Known {
    heads: HashMap<StreamName, Head>,
    log: Vec<Placed>,
}

impl Known {
    fn run(&mut self, command: &Command) -> Outcome {
        let Ok(decision) = decide(self, command);
        for placed in decision.events {
            assert_eq!(placed.position, self.tail().next());
            placed.advance(self.heads.entry(placed.stream.clone()).or_default());
            if let Some((stream, metadata)) = placed.describes() {
                self.heads.entry(stream).or_default().metadata = metadata;
            }
            self.log.push(placed);
        }
        decision.outcome
    }
}

impl Heads for Known {
    type Error = Infallible;
    fn tail(&self) -> Position {
        Position::new(self.log.len() as u64)
    }
    fn head(&self, stream: &StreamName) -> Result<Head, Infallible> {
        Ok(self.heads.get(stream).cloned().unwrap_or_default())
    }
    fn event_at(&self, stream: &StreamName, revision: Revision) -> Result<Option<(EventId, Position)>, Infallible> {
        let found = self.log.iter().find(|p| p.stream == *stream && p.revision == revision);
        Ok(found.map(|p| (p.event.id(), p.position)))
    }
    fn remembered(&self, stream: &StreamName, id: EventId) -> Result<Option<(Revision, Position)>, Infallible> {
        let found = self.log.iter().rev().find(|p| p.stream == *stream && p.event.id() == id);
        Ok(found.map(|p| (p.revision, p.position)))
    }
    fn newest_data(&self, stream: &StreamName) -> Result<Bytes, Infallible> {
        let found = self.log.iter().rev().find(|p| p.stream == *stream);
        Ok(found.map(|p| p.event.data().clone()).unwrap_or_default())
    }
    fn last_node(&self) -> u64 {
        0
    }
    fn time(&self) -> Timestamp {
        Timestamp::default()
    }
    fn scavenge(&self) -> Option<Scavenge> {
        None
    }
    fn lease(&self) -> Option<Lease> {
        None
    }
    fn event(&self, _: Position) -> Result<Facts, Infallible> {
        unreachable!("nobody scavenges here")
    }
}

// ------------------------------------------------------------- generators

fn stream() -> impl Strategy<Value = StreamName> {
    prop::sample::select(vec!["a", "b", "c-1", "$$a", "$$b"]).prop_map(|name| StreamName::new(name).expect("valid"))
}

fn plain_stream() -> impl Strategy<Value = StreamName> {
    prop::sample::select(vec!["a", "b", "c-1"]).prop_map(|name| StreamName::new(name).expect("valid"))
}

fn expected() -> impl Strategy<Value = Expected> {
    prop_oneof![
        4 => Just(Expected::Any),
        3 => Just(Expected::NoStream),
        2 => Just(Expected::Exists),
        1 => Just(Expected::SoftDeleted),
        1 => Just(Expected::Tombstoned),
        6 => (0u64..6).prop_map(|n| Expected::Exactly(Revision::saturating(n))),
    ]
}

fn event(id: u128, data: &'static [u8]) -> Event {
    Event::new(
        EventId::new(Uuid::from_u128(id)).expect("not nil"),
        EventType::new("T").expect("valid"),
        Content::Json,
        Properties::Opaque,
        Bytes::new(),
        Bytes::from_static(data),
    )
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let data = prop::sample::select(vec![
        br#"{"x":1}"#.as_slice(),
        br#"{"$tb":9223372036854775807}"#.as_slice(),
        br#"{"$maxCount":2}"#.as_slice(),
    ]);
    // Few ids, and runs of them, so that repetitions whole and partial occur.
    (1u128..12, 0usize..4, data)
        .prop_map(|(first, count, data)| (0..count as u128).map(|i| event(first + i, data)).collect())
}

fn append() -> impl Strategy<Value = Command> {
    let target = (stream(), expected(), prop::bool::weighted(0.8), events());
    prop::collection::vec(target, 1..4).prop_map(|parts| {
        let mut append = Append { targets: Vec::new(), events: Vec::new() };
        for (stream, expected, written, events) in parts {
            if append.targets.iter().any(|target| target.stream == stream) {
                continue;
            }
            let index = append.targets.len() as u32;
            if written {
                append.events.extend(events.into_iter().map(|event| (index, event)));
            }
            let role = if written { Role::Write } else { Role::Check };
            append.targets.push(Target { stream, expected, role });
        }
        Command::Append(append)
    })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        12 => append(),
        2 => (plain_stream(), expected()).prop_map(|(stream, expected)| Command::Delete { stream, expected }),
        1 => (plain_stream(), expected()).prop_map(|(stream, expected)| Command::Tombstone { stream, expected }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_outcome_and_event_is_as_the_model_says(commands in prop::collection::vec(command(), 1..24)) {
        let mut known = Known::default();
        let mut model = Model::default();
        for command in &commands {
            let states: Vec<Is> = match command {
                Command::Append(append) => append.targets.iter().map(|t| model.state(t.stream.as_str())).collect(),
                Command::Delete { stream, .. } | Command::Tombstone { stream, .. } => vec![model.state(stream.as_str())],
                _ => vec![],
            };
            let length = known.log.len();
            let outcome = known.run(command);
            match (&outcome, model.run(command)) {
                (Outcome::Appended(appended), Ok(revisions)) => {
                    let ours: Vec<_> = appended.revisions.iter().map(|r| r.map(Revision::get)).collect();
                    prop_assert_eq!(ours, revisions, "{:?}", command);
                    prop_assert!(!appended.repeated || known.log.len() == length);
                }
                (Outcome::Refused(refusal), Err(indexes)) => {
                    prop_assert_eq!(refusal.as_of, Position::new(length as u64));
                    let violations = &refusal.violations;
                    let ours: Vec<_> = violations.iter().map(|v| v.target).collect();
                    prop_assert_eq!(ours, indexes, "{:?}", command);
                    for violation in violations {
                        let actual = match states[violation.target as usize] {
                            Is::Empty => Actual::NoStream,
                            Is::Live(n) => Actual::At(Revision::saturating(n)),
                            Is::Soft(n) => Actual::SoftDeleted(Revision::saturating(n)),
                            Is::Ended => Actual::Tombstoned,
                        };
                        prop_assert_eq!(violation.actual, actual);
                    }
                }
                (ours, theirs) => prop_assert!(false, "{command:?}: {ours:?} but the model says {theirs:?}"),
            }
            let ours: Vec<_> = known.log.iter().map(|p| (p.stream.as_str(), p.revision.get(), p.event.data().to_vec())).collect();
            let theirs: Vec<_> = model.log.iter().map(|e| (e.0.as_str(), e.1, e.3.clone())).collect();
            prop_assert_eq!(ours, theirs, "after {:?}", command);
        }
    }

    /// A client that repeats an append until it is answered gets one answer
    /// and one set of events, whatever happened in between.
    #[test]
    fn a_repeated_append_is_answered_as_the_first_time(
        before in prop::collection::vec(command(), 0..8),
        stream in plain_stream(),
        expected in expected(),
        between in prop::collection::vec((plain_stream(), 100u128..200, 0u8..4), 0..6),
    ) {
        let mut known = Known::default();
        for command in &before {
            known.run(command);
        }
        let append = Command::Append(Append::single(stream, expected, vec![event(50, b"{}"), event(51, b"{}")]));
        let Outcome::Appended(first) = known.run(&append) else { return Ok(()) };
        for (stream, id, what) in between {
            known.run(&match what {
                0 => Command::Delete { stream, expected: Expected::Any },
                1 => Command::Append(Append::single(stream, Expected::NoStream, vec![event(id, b"{}")])),
                _ => Command::Append(Append::single(stream, Expected::Any, vec![event(id, b"{}")])),
            });
        }
        let length = known.log.len();
        let Outcome::Appended(second) = known.run(&append) else {
            return Err(TestCaseError::fail("the repetition was refused"));
        };
        prop_assert_eq!(known.log.len(), length);
        prop_assert_eq!((first.position, &first.revisions), (second.position, &second.revisions));
        prop_assert!(second.repeated);
    }

    #[test]
    fn commands_and_outcomes_survive_their_encoding(commands in prop::collection::vec(command(), 0..8)) {
        let mut known = Known::default();
        for command in &commands {
            let outcome = known.run(command);
            prop_assert_eq!(&Outcome::decode(outcome.encode()).expect("our own bytes"), &outcome);
        }
        let encoded: Vec<Bytes> = commands.iter().map(Command::encode).collect();
        let batch = Batch::encode(Timestamp::from_ticks(7), &encoded);
        let decoded = Batch::decode(batch.clone()).expect("our own bytes");
        prop_assert_eq!(decoded.stamped, Timestamp::from_ticks(7));
        prop_assert_eq!(decoded.commands, commands);
        // Cut anywhere, it is an error and never a panic or another batch.
        for cut in 0..batch.len() {
            prop_assert!(Batch::decode(batch.slice(..cut)).is_err());
        }
    }

    #[test]
    fn hostile_bytes_are_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = Batch::decode(bytes.clone());
        let _ = Command::decode(bytes.clone());
        let _ = Outcome::decode(bytes);
    }
}

#[test]
fn a_flipped_bit_in_an_event_is_noticed() {
    let append = Append::single(StreamName::new("a").expect("valid"), Expected::Any, vec![event(1, b"{\"total\":1}")]);
    let bytes = Command::Append(append).encode();
    let at = bytes.len() - 3;
    let mut damaged = bytes.to_vec();
    damaged[at] ^= 1;
    assert!(matches!(Command::decode(damaged.into()), Err(annals_core::DecodeError::Checksum { .. })));
}
