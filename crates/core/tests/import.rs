//! What becomes of events that were recorded elsewhere.

use std::collections::BTreeMap;
use std::convert::Infallible;

use annals_core::decide::{Heads, decide};
use annals_core::scavenge::{Facts, Scavenge};
use annals_core::{
    Appended, Command, Content, Event, EventId, EventType, Head, Import, Imported, Outcome, Position, Properties,
    Revision, StreamName, Timestamp,
};
use bytes::Bytes;
use uuid::Uuid;

/// A log in memory, one line an event: stream, revision, id.
#[derive(Default)]
struct Log {
    events: Vec<(StreamName, Revision, EventId)>,
    heads: BTreeMap<StreamName, Head>,
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
        let mut places = (1..).zip(&self.events);
        let found = places.find(|(_, (name, at, _))| name == stream && *at == revision);
        Ok(found.map(|(position, (_, _, id))| (*id, Position::new(position))))
    }
    fn remembered(&self, stream: &StreamName, id: EventId) -> Result<Option<(Revision, Position)>, Infallible> {
        let mut places = (1..).zip(&self.events);
        let found = places.find(|(_, (name, _, there))| name == stream && *there == id);
        Ok(found.map(|(position, (_, revision, _))| (*revision, Position::new(position))))
    }
    fn newest_data(&self, _: &StreamName) -> Result<Bytes, Infallible> {
        Ok(Bytes::new())
    }
    fn last_node(&self) -> u64 {
        0
    }
    fn time(&self) -> Timestamp {
        Timestamp::from_ticks(1_000)
    }
    fn lease(&self) -> Option<annals_core::Lease> {
        None
    }

    fn scavenge(&self) -> Option<Scavenge> {
        None
    }
    fn event(&self, _: Position) -> Result<Facts, Infallible> {
        unreachable!("nothing is reclaimed")
    }
}

impl Log {
    fn run(&mut self, events: Vec<Imported>) -> Result<(usize, Appended), Outcome> {
        let command = Command::Import(Import { events });
        assert_eq!(Command::decode(command.encode()).as_ref(), Ok(&command));
        let Ok(decision) = decide(self, &command);
        let Outcome::Appended(appended) = decision.outcome else {
            assert!(decision.events.is_empty(), "a refusal writes nothing");
            return Err(decision.outcome);
        };
        assert_eq!(decision.created.len(), decision.events.len());
        let written = decision.events.len();
        for placed in decision.events {
            assert_eq!(placed.position, self.tail().next());
            placed.advance(self.heads.entry(placed.stream.clone()).or_default());
            self.events.push((placed.stream, placed.revision, placed.event.id()));
        }
        Ok((written, appended))
    }
}

fn imported(stream: &str, revision: Option<u64>, id: u128) -> Imported {
    let id = EventId::new(Uuid::from_u128(id)).expect("not nil");
    let event_type = EventType::new("T").expect("a type");
    Imported {
        stream: StreamName::new(stream.to_owned()).expect("a name"),
        revision: revision.map(Revision::saturating),
        created: Timestamp::from_ticks(7),
        event: Event::new(id, event_type, Content::Json, Properties::Opaque, Bytes::new(), Bytes::new()),
    }
}

fn history() -> Vec<Imported> {
    vec![
        imported("a", Some(0), 1),
        imported("b", Some(0), 2),
        imported("a", Some(1), 3),
        // The same id once more: a history may have it.
        imported("a", Some(2), 1),
        imported("b", Some(Revision::TOMBSTONE.get()), 4),
    ]
}

#[test]
fn a_history_can_be_taken_in_again_in_any_batches_without_doubling() {
    for cut in 0..history().len() {
        for overlap in 0..=cut {
            let mut log = Log::default();
            let (first, second) = (history()[..cut].to_vec(), history()[overlap..].to_vec());
            let written = log.run(first).expect("it fits").0;
            let (rest, appended) = log.run(second).expect("it fits");
            assert_eq!(written + rest, 5, "cut {cut}, overlap {overlap}");
            assert_eq!(appended.position, Position::new(5));
            assert_eq!(appended.repeated, overlap < cut);
            assert_eq!(log.run(history()).expect("it fits").0, 0);
        }
    }
}

#[test]
fn without_revisions_what_is_remembered_is_not_written_again() {
    let mut log = Log::default();
    log.run(vec![imported("a", None, 1), imported("a", None, 2)]).expect("it fits");
    let (written, appended) = log.run(vec![imported("a", None, 2), imported("a", None, 3)]).expect("it fits");
    assert_eq!(written, 1);
    let revisions: Vec<_> = appended.revisions.iter().map(|revision| revision.map(Revision::get)).collect();
    assert_eq!(revisions, [Some(1), Some(2)]);
    // However a history is cut: here the repetition is in the same command.
    let (written, appended) =
        log.run(vec![imported("a", None, 4), imported("b", None, 4), imported("a", None, 4)]).expect("it fits");
    assert_eq!((written, appended.repeated), (2, true));
    let revisions: Vec<_> = appended.revisions.iter().map(|revision| revision.map(Revision::get)).collect();
    assert_eq!(revisions, [Some(3), Some(0), Some(3)]);
}

#[test]
fn what_does_not_fit_refuses_all_of_it() {
    let mut log = Log::default();
    log.run(history()).expect("it fits");
    for wrong in [
        imported("a", Some(1), 9),
        imported("a", Some(4), 9),
        imported("c", Some(1), 9),
        imported("b", Some(1), 9),
        imported("b", None, 9),
        imported("b", Some(Revision::TOMBSTONE.get()), 9),
    ] {
        let outcome = log.run(vec![imported("new", Some(0), 8), wrong.clone()]).expect_err("it does not fit");
        let Outcome::Refused(refusal) = outcome else { panic!("{outcome:?}") };
        assert_eq!((refusal.violations.len(), refusal.violations[0].target), (1, 1), "{wrong:?}");
        assert_eq!(refusal.violations[0].stream, wrong.stream);
    }
    assert_eq!(log.events.len(), 5);
}
