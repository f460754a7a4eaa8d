//! A store so simple that it is right by inspection: a vector of events, each
//! question answered by going through all of it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeSet;
use std::convert::Infallible;

use annals_core::decide::{Heads, Placed, decide};
use annals_core::lease::Acquire;
use annals_core::scavenge::Facts;
use annals_core::{
    Append, Batch, Command, Content, Event, EventId, EventType, Expected, Head, Lease, Outcome, Position, Properties,
    Revision, Role, Scavenge, State, StreamName, Target, Timestamp, metadata,
};
use annals_store::{Direction, IndexName, Mark, PageLimit, Record, Store};
use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Default, Clone)]
pub(crate) struct Reference {
    pub(crate) events: Vec<(Placed, Timestamp)>,
    pub(crate) last_node: u64,
    pub(crate) applied: u64,
    pub(crate) scavenge: Option<Scavenge>,
    pub(crate) lease: Option<Lease>,
    /// What is reclaimed. The events are kept here: nothing may depend on it.
    pub(crate) reclaimed: BTreeSet<Position>,
    /// With which the events of the entry are created.
    now: Timestamp,
}

impl Heads for Reference {
    type Error = Infallible;

    fn tail(&self) -> Position {
        Position::new(self.events.len() as u64)
    }

    fn head(&self, stream: &StreamName) -> Result<Head, Infallible> {
        let mut head = Head::default();
        for (placed, _) in &self.events {
            if placed.stream == *stream {
                placed.advance(&mut head);
            }
            if let Some((described, metadata)) = placed.describes()
                && described == *stream
            {
                head.metadata = metadata;
            }
        }
        Ok(head)
    }

    fn event_at(&self, stream: &StreamName, revision: Revision) -> Result<Option<(EventId, Position)>, Infallible> {
        let found = self.events.iter().find(|(placed, _)| placed.stream == *stream && placed.revision == revision);
        Ok(found.map(|(placed, _)| (placed.event.id(), placed.position)))
    }

    fn remembered(&self, stream: &StreamName, id: EventId) -> Result<Option<(Revision, Position)>, Infallible> {
        let found = self.events.iter().rfind(|(placed, _)| placed.stream == *stream && placed.event.id() == id);
        Ok(found.map(|(placed, _)| (placed.revision, placed.position)))
    }

    fn newest_data(&self, stream: &StreamName) -> Result<Bytes, Infallible> {
        let newest = self.events.iter().rfind(|(placed, _)| placed.stream == *stream);
        Ok(newest.map_or_else(Bytes::new, |(placed, _)| placed.event.data().clone()))
    }

    fn last_node(&self) -> u64 {
        self.last_node
    }

    fn time(&self) -> Timestamp {
        self.now
    }

    fn scavenge(&self) -> Option<Scavenge> {
        self.scavenge
    }

    fn lease(&self) -> Option<Lease> {
        self.lease
    }

    fn event(&self, at: Position) -> Result<Facts, Infallible> {
        let (placed, created) = &self.events[usize::try_from(at.get() - 1).expect("small")];
        let bytes = placed.event.metadata().len() + placed.event.data().len();
        Ok(Facts { stream: placed.stream.clone(), revision: placed.revision, created: *created, bytes: bytes as u64 })
    }
}

impl Reference {
    pub(crate) fn apply(&mut self, batch: &Batch) -> Vec<Outcome> {
        self.applied += 1;
        let created = batch.stamped.max(self.newest_time());
        self.now = created;
        let mut outcomes = Vec::new();
        for command in &batch.commands {
            let Ok(decision) = decide(self, command);
            if let Outcome::Node(id) = decision.outcome {
                self.last_node = id;
            }
            self.scavenge = decision.scavenge.or(self.scavenge);
            self.lease = decision.lease.or(self.lease);
            self.reclaimed.extend(decision.reclaimed);
            self.events.extend(decision.events.into_iter().map(|placed| (placed, created)));
            outcomes.push(decision.outcome);
        }
        outcomes
    }

    pub(crate) fn mark(&self) -> Option<Mark> {
        (self.applied > 0).then(|| mark(self.applied))
    }

    pub(crate) fn newest_time(&self) -> Timestamp {
        self.events.last().map_or(Timestamp::default(), |(_, created)| *created)
    }

    /// Every stream that was written or given metadata, in byte order.
    pub(crate) fn streams(&self) -> Vec<StreamName> {
        let mut names: Vec<StreamName> = self
            .events
            .iter()
            .flat_map(|(placed, _)| [Some(placed.stream.clone()), placed.stream.described()])
            .flatten()
            .collect();
        names.sort();
        names.dedup();
        names
    }

    pub(crate) fn index(&self, index: &IndexName) -> Vec<&(Placed, Timestamp)> {
        let belongs = |(placed, _): &&(Placed, Timestamp)| match index {
            IndexName::Category(category) => placed.stream.category() == Some(category),
            IndexName::EventType(of) => placed.event.event_type().as_str() == of && of != EventType::LINK,
            IndexName::Correlation(id) => metadata::correlation_id(placed.event.metadata()).as_ref() == Some(id),
            IndexName::Streams => placed.revision == Revision::FIRST && !placed.stream.is_system(),
        };
        self.events.iter().filter(belongs).collect()
    }

    /// What can be seen of a stream, in order.
    pub(crate) fn visible(&self, stream: &StreamName, now: Timestamp) -> Vec<&(Placed, Timestamp)> {
        let Ok(head) = self.head(stream);
        match head.state() {
            State::Live(_) => {}
            State::Empty | State::SoftDeleted(_) | State::Tombstoned => return Vec::new(),
        }
        let now = now.max(self.newest_time());
        let not_before = head.metadata.max_age_seconds.map(|seconds| now.minus_seconds(seconds));
        self.events
            .iter()
            .filter(|(placed, created)| {
                placed.stream == *stream
                    && placed.revision >= head.first_visible()
                    && not_before.is_none_or(|not_before| *created >= not_before)
            })
            .collect()
    }
}

/// The mark of the entry with this index.
pub(crate) fn mark(index: u64) -> Mark {
    Mark { index, opaque: Bytes::from(format!("opaque {index}")) }
}

/// The first of some events that a page holds.
pub(crate) fn page<'a>(
    events: impl Iterator<Item = &'a (Placed, Timestamp)>,
    limit: PageLimit,
) -> Vec<&'a (Placed, Timestamp)> {
    let mut bytes = 0;
    events
        .enumerate()
        .take_while(|(index, (placed, _))| {
            bytes += 62 + placed.stream.as_str().len() + placed.event.size();
            *index == 0 || (*index < limit.records && bytes <= limit.bytes)
        })
        .map(|(_, event)| event)
        .collect()
}

/// Whether records are exactly these events.
pub(crate) fn assert_same<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    events: impl IntoIterator<Item = &'a (Placed, Timestamp)>,
) {
    let told = |record: &Record| {
        let event = Event::new(
            record.id(),
            EventType::new(record.event_type().to_owned()).expect("a type"),
            record.content(),
            record.properties(),
            record.metadata(),
            record.data(),
        );
        let placed =
            Placed { stream: record.stream_name(), revision: record.revision(), position: record.position(), event };
        (placed, record.created())
    };
    let told: Vec<_> = records.into_iter().map(told).collect();
    let expected: Vec<_> = events.into_iter().cloned().collect();
    assert_eq!(told, expected);
}

/// Asks a store everything and compares each answer.
pub(crate) fn assert_store_is(store: &Store, reference: &Reference) {
    assert_eq!(store.tail(), reference.tail());
    assert_eq!(*store.watch_tail().borrow(), reference.tail());
    assert_eq!(store.mark(), reference.mark());
    assert_eq!(store.newest_time(), reference.newest_time());
    assert_eq!(store.lease(), reference.lease);
    assert_eq!(*store.watch_lease().borrow(), reference.lease);
    let tail = reference.events.len() as u64;
    let limits = [(0, 0), (1, usize::MAX), (3, usize::MAX), (usize::MAX, 300), (usize::MAX, usize::MAX)]
        .map(|(records, bytes)| PageLimit { records, bytes });
    for limit in limits {
        for from in [0, 1, tail / 2, tail, tail + 3] {
            let read = |direction| store.read_all(Position::new(from), direction, limit).expect("readable");
            let forward = reference.events.iter().filter(|(placed, _)| placed.position.get() >= from);
            assert_same(&read(Direction::Forward), page(forward, limit));
            let backward = reference.events.iter().rev().filter(|(placed, _)| placed.position.get() <= from);
            assert_same(&read(Direction::Backward), page(backward, limit));
        }
    }
    for at in 0..=tail + 1 {
        let expected = at.checked_sub(1).and_then(|index| reference.events.get(usize::try_from(index).expect("small")));
        assert_same(&store.record(Position::new(at)).expect("readable"), expected);
    }
    assert_eq!(store.chain(Position::new(tail + 1)).expect("readable"), None);
    for stream in reference.streams() {
        assert_stream_is(store, reference, &stream, &limits);
    }
    let never = StreamName::new("never-touched").expect("a name");
    assert_eq!(store.head(&never).expect("readable"), Head::default());
    assert_indexes_are(store, reference, &limits);
    assert_lists_are(store, reference);
}

fn assert_stream_is(store: &Store, reference: &Reference, stream: &StreamName, limits: &[PageLimit]) {
    let Ok(head) = reference.head(stream);
    assert_eq!(store.head(stream).expect("readable"), head, "{stream}");
    for now in [Timestamp::default(), Timestamp::from_ticks(reference.newest_time().ticks() + 15_000_000)] {
        let view = store.view(stream, now).expect("readable");
        assert_eq!(view.state, head.state());
        assert_eq!(view.head, head);
        let visible = reference.visible(stream, now);
        for limit in limits {
            for from in [0, 1, 3, i64::MAX as u64].map(Revision::saturating) {
                let forward: Vec<_> = visible.iter().copied().filter(|(placed, _)| placed.revision >= from).collect();
                let backward: Vec<_> =
                    visible.iter().rev().copied().filter(|(placed, _)| placed.revision <= from).collect();
                for (direction, events) in [(Direction::Forward, forward), (Direction::Backward, backward)] {
                    let read = store.read_stream(&view, from, direction, *limit).expect("readable");
                    let expected = page(events.iter().copied(), *limit);
                    let next = events.get(expected.len()).map(|(placed, _)| placed.revision);
                    assert_same(&read.records, expected);
                    let at_hand = store.read_stream_at_hand(&view, from, direction, *limit).expect("readable");
                    assert!(at_hand.is_none_or(|at_hand| at_hand == read), "what is at hand is the same, or nothing");
                    assert_eq!(read.next, next, "{stream} {direction:?} from {from} {limit:?}");
                }
            }
        }
    }
    for revision in (0..8).map(Revision::saturating).chain([Revision::TOMBSTONE]) {
        let found = store.record_at(stream, revision).expect("readable");
        let Ok(expected) = reference.event_at(stream, revision);
        assert_eq!(found.map(|record| (record.id(), record.position())), expected);
    }
}

fn assert_indexes_are(store: &Store, reference: &Reference, limits: &[PageLimit]) {
    let names = ["$ce-a", "$ce-b", "$ce-$$a", "$et-One", "$et-Two", "$et-$>", "$et-$metadata", "$bc-x", "$streams"];
    for name in names {
        let index = IndexName::parse(&StreamName::new(name).expect("a name")).expect("an index");
        let events = reference.index(&index);
        assert_eq!(store.index_len(&index).expect("readable"), events.len() as u64, "{name}");
        for limit in limits {
            for from in [0, 1, events.len() / 2, events.len(), events.len() + 1] {
                for direction in [Direction::Forward, Direction::Backward] {
                    let links = store.read_index(&index, from as u64, direction, *limit).expect("readable");
                    let numbers: Vec<usize> = match direction {
                        Direction::Forward => (from..events.len()).collect(),
                        Direction::Backward => (0..events.len().min(from + 1)).rev().collect(),
                    };
                    let expected = page(numbers.iter().map(|number| events[*number]), *limit);
                    let revisions: Vec<u64> = links.iter().map(|link| link.revision).collect();
                    let told: Vec<u64> = numbers.iter().take(expected.len()).map(|number| *number as u64).collect();
                    assert_eq!(revisions, told, "{name}");
                    assert_same(links.iter().map(|link| &link.record), expected);
                }
            }
        }
    }
}

fn assert_lists_are(store: &Store, reference: &Reference) {
    for (prefix, after, limit, system) in [
        ("", "", usize::MAX, true),
        ("", "", usize::MAX, false),
        ("", "a-1", 2, false),
        ("a", "", usize::MAX, true),
        ("a-", "a-1", usize::MAX, false),
        ("$", "", usize::MAX, false),
        ("$$", "", usize::MAX, true),
        ("b", "a-1", usize::MAX, true),
        ("a", "b", usize::MAX, true),
    ] {
        let expected: Vec<_> = reference
            .streams()
            .into_iter()
            .filter(|name| name.as_str().starts_with(prefix) && name.as_str() > after && (system || !name.is_system()))
            .take(limit)
            .map(|name| {
                let Ok(head) = reference.head(&name);
                (name, head)
            })
            .collect();
        let listed = store.list_streams(prefix, after, limit, system).expect("readable");
        assert_eq!(listed, expected, "{prefix} {after} {limit} {system}");
    }
}

pub(crate) fn any_stream() -> impl Strategy<Value = StreamName> {
    prop_oneof![
        4 => Just("a-1"),
        2 => Just("a-2"),
        2 => Just("b-1"),
        1 => Just("plain"),
        1 => Just("$system"),
        2 => Just("$$a-1"),
        1 => Just("$$b-1"),
    ]
    .prop_map(|name| StreamName::new(name).expect("a name"))
}

fn any_event() -> impl Strategy<Value = Event> {
    let data = prop_oneof![
        Just(&b"{}"[..]),
        Just(&br#"{"$maxCount":2}"#[..]),
        Just(&br#"{"$maxAge":2,"x":1}"#[..]),
        Just(&br#"{"$tb":2}"#[..]),
        Just(&br#"{"$tb":9223372036854775807}"#[..]),
        Just(&[0u8; 100][..]),
    ];
    let metadata = prop_oneof![Just(&b""[..]), Just(&br#"{"$correlationId":"x"}"#[..])];
    let event_type = prop_oneof![4 => Just("One"), 2 => Just("Two"), 1 => Just(EventType::LINK)];
    (1..30u128, event_type, any::<bool>(), metadata, data).prop_map(|(id, event_type, json, metadata, data)| {
        Event::new(
            EventId::new(Uuid::from_u128(id)).expect("not nil"),
            EventType::new(event_type).expect("a type"),
            if json { Content::Json } else { Content::Binary },
            Properties::Opaque,
            Bytes::from_static(metadata),
            Bytes::from_static(data),
        )
    })
}

fn any_expected() -> impl Strategy<Value = Expected> {
    prop_oneof![
        6 => Just(Expected::Any),
        2 => Just(Expected::NoStream),
        1 => Just(Expected::Exists),
        1 => Just(Expected::SoftDeleted),
        2 => (0..4u64).prop_map(|revision| Expected::Exactly(Revision::saturating(revision))),
    ]
}

fn any_append() -> impl Strategy<Value = Command> {
    let targets = proptest::collection::vec((any_stream(), any_expected(), proptest::bool::weighted(0.85)), 1..3);
    let events = proptest::collection::vec((any::<proptest::sample::Index>(), any_event()), 0..5);
    (targets, events).prop_map(|(targets, events)| {
        let mut once: Vec<Target> = Vec::new();
        for (stream, expected, write) in targets {
            if once.iter().all(|target| target.stream != stream) {
                let role = if write { Role::Write } else { Role::Check };
                once.push(Target { stream, expected, role });
            }
        }
        let writes: Vec<usize> = (0..once.len()).filter(|index| once[*index].role == Role::Write).collect();
        let events = events
            .into_iter()
            .filter(|_| !writes.is_empty())
            .map(|(index, event)| (u32::try_from(*index.get(&writes)).expect("few"), event))
            .collect();
        Command::Append(Append { targets: once, events })
    })
}

fn boot(node: u64) -> Uuid {
    Uuid::from_u128(u128::from(node))
}

fn any_command() -> impl Strategy<Value = Command> {
    let plain = || any_stream().prop_filter("not a metastream", |stream| !stream.is_metastream());
    prop_oneof![
        20 => any_append(),
        2 => (plain(), any_expected()).prop_map(|(stream, expected)| Command::Delete { stream, expected }),
        1 => (plain(), any_expected()).prop_map(|(stream, expected)| Command::Tombstone { stream, expected }),
        1 => (0..5u64).prop_map(|above| Command::AllocateNode { above }),
        2 => (1..4u64, 1..4u32).prop_map(|(node, seconds)| {
            Command::AcquireLease(Acquire { node, boot: boot(node), seconds })
        }),
        1 => (1..4u64).prop_map(|node| Command::ReleaseLease { node, boot: boot(node) }),
    ]
}

pub(crate) fn any_batch() -> impl Strategy<Value = Batch> {
    (0..60_000_000u64, proptest::collection::vec(any_command(), 0..6))
        .prop_map(|(ticks, commands)| Batch { stamped: Timestamp::from_ticks(ticks), commands })
}

/// A batch that appends this many small events to one stream.
pub(crate) fn filler(stream: &str, first_id: u128, events: u64) -> Batch {
    let event = |offset: u64| {
        Event::new(
            EventId::new(Uuid::from_u128(first_id + u128::from(offset))).expect("not nil"),
            EventType::new("Filler").expect("a type"),
            Content::Json,
            Properties::Opaque,
            Bytes::new(),
            Bytes::from(format!("{offset}")),
        )
    };
    let stream = StreamName::new(stream.to_owned()).expect("a name");
    Batch {
        stamped: Timestamp::from_ticks(1_000),
        commands: vec![Command::Append(Append::single(stream, Expected::Any, (0..events).map(event).collect()))],
    }
}

/// Options that make disk, cache and ring all take part.
pub(crate) fn small() -> annals_store::Options {
    annals_store::Options { memtable_bytes: 64 * 1024, block_cache_bytes: 1024 * 1024, ring_bytes: 500 }
}

/// Entries that are the same in every process: appends to some fifty streams
/// with metadata, correlation ids, deletions and repetitions among them.
pub(crate) fn workload(entries: u64) -> Vec<Batch> {
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    (0..entries).map(|entry| workload_batch(entry, &mut random)).collect()
}

fn workload_batch(entry: u64, random: &mut impl FnMut(u64) -> u64) -> Batch {
    let mut commands = Vec::new();
    for _ in 0..=random(4) {
        let stream = StreamName::new(format!("{}-{}", ["a", "b"][random(2) as usize], random(25))).expect("a name");
        let of = if random(20) == 0 { stream.metastream() } else { stream.clone() };
        let events = (0..=random(6)).map(|_| {
            let data = match random(4) {
                0 => format!(r#"{{"$maxCount":{}}}"#, random(9)),
                _ => "x".repeat(random(900) as usize),
            };
            let metadata = if random(3) == 0 { r#"{"$correlationId":"x"}"# } else { "" };
            Event::new(
                // Few enough that some are appended again.
                EventId::new(Uuid::from_u128(u128::from(random(20_000)) + 1)).expect("not nil"),
                EventType::new(["One", "Two"][random(2) as usize]).expect("a type"),
                Content::Json,
                Properties::Opaque,
                Bytes::from_static(metadata.as_bytes()),
                Bytes::from(data),
            )
        });
        let events = events.collect();
        commands.push(match random(30) {
            0 => Command::Delete { stream, expected: Expected::Any },
            1 => Command::AllocateNode { above: 0 },
            _ => Command::Append(Append::single(of, Expected::Any, events)),
        });
    }
    Batch { stamped: Timestamp::from_ticks(entry * 3_000_000), commands }
}

/// Applies entries from the one after the store's mark on.
pub(crate) fn apply_rest(store: &Store, entries: &[Batch]) {
    for (index, batch) in (1..).zip(entries) {
        store.apply(mark(index), Some(batch.clone())).expect("applied");
    }
}

/// Whether two stores hold the same log and come to the same.
pub(crate) fn assert_equal(a: &Store, b: &Store) {
    assert_eq!(a.mark(), b.mark());
    assert_eq!(a.tail(), b.tail());
    assert_eq!(a.newest_time(), b.newest_time());
    assert_eq!(a.chain(a.tail()).expect("readable"), b.chain(b.tail()).expect("readable"));
    let all = PageLimit { records: usize::MAX, bytes: usize::MAX };
    let records = |store: &Store| store.read_all(Position::START, Direction::Forward, all).expect("readable");
    assert!(records(a) == records(b), "the records differ");
    let streams = |store: &Store| store.list_streams("", "", usize::MAX, true).expect("readable");
    assert_eq!(streams(a), streams(b));
    for (stream, _) in streams(a) {
        let read = |store: &Store| {
            let view = store.view(&stream, Timestamp::default()).expect("readable");
            store.read_stream(&view, Revision::FIRST, Direction::Forward, all).expect("readable")
        };
        assert_eq!(read(a), read(b), "{stream}");
    }
    for name in ["$ce-a", "$ce-b", "$et-One", "$et-Two", "$et-$metadata", "$bc-x", "$streams"] {
        let index = IndexName::parse(&StreamName::new(name).expect("a name")).expect("an index");
        let read = |store: &Store| store.read_index(&index, 0, Direction::Forward, all).expect("readable");
        assert!(read(a) == read(b), "{name} differs");
    }
}
