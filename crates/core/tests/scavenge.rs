//! What goes for good, against a model that walks the whole log.
//!
//! The model asks of each event what a reader of its stream would see (protocol 3.7,
//! 5.3). Random appends, deletions and metadata are mixed with steps of a scavenge that
//! name everything; nothing that can be seen may go, and once a scavenge has run by
//! itself, nothing of what cannot be seen may be left.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use annals_core::decide::{Heads, Placed, decide};
use annals_core::scavenge::{Answer, EVENTS_MAX, Facts, Phase};
use annals_core::{
    Append, Command, Content, Event, EventId, EventType, Expected, Head, Lease, Outcome, Position, Properties, Reclaim,
    Revision, Scavenge, StreamName, Timestamp,
};
use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Default)]
struct Log {
    events: Vec<(Placed, u64)>,
    heads: BTreeMap<StreamName, Head>,
    scavenge: Option<Scavenge>,
    reclaimed: BTreeSet<u64>,
    second: u64,
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_ticks(second * Timestamp::TICKS_PER_SECOND)
}

impl Log {
    fn run(&mut self, command: &Command) -> Outcome {
        let Ok(decision) = decide(self, command);
        let before = self.events.len() as u64;
        for position in &decision.reclaimed {
            assert!(position.get() <= before, "only what is there is reclaimed");
            assert!(!self.is_visible(position.get()), "{position} can be seen, and is reclaimed");
            self.reclaimed.insert(position.get());
        }
        self.scavenge = decision.scavenge.or(self.scavenge);
        for placed in decision.events {
            placed.advance(self.heads.entry(placed.stream.clone()).or_default());
            if let Some((stream, metadata)) = placed.describes() {
                self.heads.entry(stream).or_default().metadata = metadata;
            }
            self.events.push((placed, self.second));
        }
        decision.outcome
    }

    /// By the tables of the reference, as of now but by the clock of the scavenge.
    fn is_visible(&self, position: u64) -> bool {
        let (event, created) = &self.events[usize::try_from(position - 1).expect("small")];
        let name = event.stream.as_str();
        let ended = |stream: &str| {
            self.events.iter().any(|(e, _)| e.stream.as_str() == stream && e.revision == Revision::TOMBSTONE)
        };
        if event.revision == Revision::TOMBSTONE {
            return true;
        }
        if ended(name) || name.strip_prefix("$$").is_some_and(ended) {
            return false;
        }
        let last = self.events.iter().filter(|(e, _)| e.stream.as_str() == name).map(|(e, _)| e.revision.get()).max();
        let last = last.expect("this one at least");
        if name.starts_with("$$") {
            return event.revision.get() == last;
        }
        let metastream = format!("$${name}");
        let metadata = self.events.iter().rev().find(|(e, _)| e.stream.as_str() == metastream);
        let json = metadata.map_or("", |(e, _)| std::str::from_utf8(e.event.data()).expect("text"));
        let number = |key: &str| -> Option<u64> {
            let rest = json.split_once(&format!("\"{key}\":"))?.1;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let kept = number("$maxCount").map_or(0, |count| (last + 1).saturating_sub(count));
        let first = kept.max(number("$tb").unwrap_or(0));
        let now = self.scavenge.map_or(0, |scavenge| scavenge.started.ticks() / Timestamp::TICKS_PER_SECOND);
        let young = number("$maxAge").is_none_or(|age| created + age >= now);
        event.revision.get() >= first && young
    }

    /// A step that names everything up to there.
    fn step(&mut self, events: u64) -> Option<Answer> {
        let scavenge = self.scavenge.filter(Scavenge::is_running)?;
        let through = Position::new((scavenge.cursor.get() + events).min(scavenge.point.get()));
        let positions = (scavenge.cursor.get() + 1..=through.get()).map(Position::new).collect();
        let step = Reclaim { scavenge: scavenge.id, from: scavenge.cursor, through, positions };
        match self.run(&Command::Reclaim(step)) {
            Outcome::Scavenge(answer) => Some(answer),
            other => panic!("{other:?}"),
        }
    }
}

impl Heads for Log {
    type Error = Infallible;
    fn tail(&self) -> Position {
        Position::new(self.events.len() as u64)
    }
    fn head(&self, stream: &StreamName) -> Result<Head, Infallible> {
        Ok(self.heads.get(stream).cloned().unwrap_or_default())
    }
    fn event_at(&self, stream: &StreamName, revision: Revision) -> Result<Option<(EventId, Position)>, Infallible> {
        let found = self.events.iter().find(|(e, _)| e.stream == *stream && e.revision == revision);
        Ok(found.map(|(e, _)| (e.event.id(), e.position)))
    }
    fn remembered(&self, _: &StreamName, _: EventId) -> Result<Option<(Revision, Position)>, Infallible> {
        Ok(None)
    }
    fn newest_data(&self, stream: &StreamName) -> Result<Bytes, Infallible> {
        let found = self.events.iter().rev().find(|(e, _)| e.stream == *stream);
        Ok(found.map(|(e, _)| e.event.data().clone()).unwrap_or_default())
    }
    fn last_node(&self) -> u64 {
        0
    }
    fn time(&self) -> Timestamp {
        at(self.second)
    }
    fn scavenge(&self) -> Option<Scavenge> {
        self.scavenge
    }
    fn lease(&self) -> Option<Lease> {
        None
    }
    fn event(&self, at: Position) -> Result<Facts, Infallible> {
        let (event, created) = &self.events[usize::try_from(at.get() - 1).expect("small")];
        Ok(Facts {
            stream: event.stream.clone(),
            revision: event.revision,
            created: self::at(*created),
            bytes: event.event.data().len() as u64,
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Command(Command),
    Wait(u64),
    Start(u128),
    Reclaim(u64),
    Stop,
}

fn name(text: &str) -> StreamName {
    StreamName::new(text.to_owned()).expect("a name")
}

fn append(stream: &str, id: u128, data: &'static str) -> Command {
    let event = Event::new(
        EventId::new(Uuid::from_u128(id)).expect("not nil"),
        EventType::new("T").expect("a type"),
        Content::Json,
        Properties::Opaque,
        Bytes::new(),
        Bytes::from_static(data.as_bytes()),
    );
    Command::Append(Append::single(name(stream), Expected::Any, vec![event]))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let plain = prop::sample::select(vec!["a", "b"]);
    let metadata = prop::sample::select(vec![
        r#"{"$maxCount":2}"#,
        r#"{"$maxAge":3}"#,
        r#"{"$tb":2}"#,
        r#"{"$tb":9223372036854775807}"#,
        r#"{"x":1}"#,
    ]);
    let step = prop_oneof![
        10 => (plain.clone(), 1..1_000_000u128).prop_map(|(s, id)| Step::Command(append(s, id, "{}"))),
        4 => (plain.clone(), 1..1_000_000u128, metadata)
            .prop_map(|(s, id, json)| Step::Command(append(&format!("$${s}"), id, json))),
        2 => plain.clone()
            .prop_map(|s| Step::Command(Command::Delete { stream: name(s), expected: Expected::Any })),
        1 => plain.prop_map(|s| Step::Command(Command::Tombstone { stream: name(s), expected: Expected::Any })),
        2 => (1..4u64).prop_map(Step::Wait),
        2 => (1..5u128).prop_map(Step::Start),
        6 => (1..6u64).prop_map(Step::Reclaim),
        1 => Just(Step::Stop),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn what_can_be_seen_stays_and_the_rest_goes(steps in steps()) {
        let mut log = Log::default();
        for step in steps {
            match step {
                Step::Command(command) => drop(log.run(&command)),
                Step::Wait(seconds) => log.second += seconds,
                Step::Start(id) => drop(log.run(&Command::StartScavenge { id: Uuid::from_u128(id) })),
                Step::Reclaim(events) => drop(log.step(events)),
                Step::Stop => drop(log.run(&Command::StopScavenge { id: None })),
            }
        }
        log.run(&Command::StopScavenge { id: None });
        let id = Uuid::from_u128(99);
        log.run(&Command::StartScavenge { id });
        let point = log.scavenge.expect("started").point.get();
        while let Some(answer) = log.step(3) {
            prop_assert!(answer.carried_out);
        }
        let scavenge = log.scavenge.expect("it ran");
        prop_assert_eq!((scavenge.id, scavenge.phase, scavenge.cursor), (id, Phase::Completed, scavenge.point));
        for position in 1..=point {
            prop_assert!(log.is_visible(position) || log.reclaimed.contains(&position), "{position} is left");
        }
        // What tells of it can be read like any other events.
        let told: Vec<_> = log
            .events
            .iter()
            .filter(|(e, _)| e.stream == scavenge.stream())
            .map(|(e, _)| e.event.event_type().as_str())
            .collect();
        prop_assert_eq!(told.last(), Some(&"$scavengeCompleted"));
    }

    #[test]
    fn commands_about_scavenges_survive_their_encoding(
        id in 1..u128::MAX,
        from: u64,
        through: u64,
        positions in prop::collection::vec(any::<u64>(), 0..EVENTS_MAX),
    ) {
        let positions = positions.into_iter().map(Position::new).collect();
        let scavenge = Uuid::from_u128(id);
        let step = Reclaim { scavenge, from: Position::new(from), through: Position::new(through), positions };
        for command in [
            Command::Reclaim(step),
            Command::StartScavenge { id: scavenge },
            Command::StopScavenge { id: Some(scavenge) },
            Command::StopScavenge { id: None },
        ] {
            let bytes = command.encode();
            prop_assert!(Command::gives_space(&bytes));
            prop_assert_eq!(Command::decode(bytes.clone()), Ok(command));
            prop_assert!(Command::decode(bytes.slice(..bytes.len() - 1)).is_err());
        }
    }
}

#[test]
fn a_step_that_was_carried_out_is_not_carried_out_again() {
    let mut log = Log::default();
    for id in 1..=4 {
        log.run(&append("a", id, "{}"));
    }
    log.run(&Command::Delete { stream: name("a"), expected: Expected::Any });
    log.run(&Command::StartScavenge { id: Uuid::from_u128(1) });
    let step = |from: u64, through: u64| {
        let positions = (from + 1..=through).map(Position::new).collect();
        Command::Reclaim(Reclaim {
            scavenge: Uuid::from_u128(1),
            from: Position::new(from),
            through: Position::new(through),
            positions,
        })
    };
    let answer = |outcome: Outcome| match outcome {
        Outcome::Scavenge(answer) => answer,
        other => panic!("{other:?}"),
    };
    let first = answer(log.run(&step(0, 2)));
    assert!(first.carried_out);
    assert_eq!(first.last.map(|last| (last.events, last.cursor.get())), Some((2, 2)));
    for stale in [step(0, 2), step(1, 3), step(2, 2), step(2, 99)] {
        let again = answer(log.run(&stale));
        assert_eq!((again.carried_out, again.last), (false, first.last));
    }
    // Another one does not begin meanwhile, and the same call again is the same.
    let other = answer(log.run(&Command::StartScavenge { id: Uuid::from_u128(2) }));
    assert_eq!((other.carried_out, other.last), (false, first.last));
    assert!(answer(log.run(&Command::StartScavenge { id: Uuid::from_u128(1) })).carried_out);
    assert!(!answer(log.run(&Command::StopScavenge { id: Some(Uuid::from_u128(2)) })).carried_out);
    assert!(answer(log.run(&Command::StopScavenge { id: Some(Uuid::from_u128(1)) })).carried_out);
    assert!(!answer(log.run(&step(2, 4))).carried_out, "it is stopped");
    let outcome = log.run(&Command::StartScavenge { id: Uuid::from_u128(3) });
    assert_eq!(Outcome::decode(outcome.encode()), Ok(outcome.clone()));
    assert_eq!(answer(outcome).last.map(|last| last.commands), Some(1));
}

#[test]
fn of_an_empty_log_a_scavenge_is_done_at_once() {
    let mut log = Log::default();
    log.run(&Command::StartScavenge { id: Uuid::from_u128(1) });
    assert_eq!(log.scavenge.map(|scavenge| scavenge.phase), Some(Phase::Completed));
}
