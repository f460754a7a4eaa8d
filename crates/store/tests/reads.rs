//! What a store answers, whatever was applied to it and whenever it was
//! flushed or opened again.

mod common;

use annals_core::{Batch, Position, Revision, StreamName, Timestamp};
use annals_store::{Direction, IndexName, Options, PageLimit, Store};
use common::{Reference, any_batch, apply_rest, assert_store_is, filler, mark, small, workload};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Apply(Batch),
    ApplyNothing,
    Flush,
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => any_batch().prop_map(Step::Apply),
        1 => Just(Step::ApplyNothing),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

fn agrees(steps: Vec<Step>, options: Options) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut store = Store::open(data.path(), options.clone()).expect("opens");
    let mut reference = Reference::default();
    for step in steps {
        match step {
            Step::Apply(batch) => {
                let expected = reference.apply(&batch);
                let outcomes = store.apply(common::mark(reference.applied), Some(batch)).expect("applied");
                assert_eq!(outcomes, expected);
            }
            Step::ApplyNothing => {
                reference.applied += 1;
                assert_eq!(store.apply(common::mark(reference.applied), None).expect("applied"), []);
            }
            Step::Flush => assert_eq!(store.flush().expect("flushed"), reference.mark()),
            Step::Reopen => {
                drop(store);
                store = Store::open(data.path(), options.clone()).expect("opens again");
                assert_eq!(store.mark(), reference.mark(), "a clean stop loses nothing");
            }
        }
    }
    assert_store_is(&store, &reference);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_store_answers_as_the_reference_does(steps in proptest::collection::vec(any_step(), 1..25)) {
        agrees(steps, small());
    }

    #[test]
    fn it_answers_the_same_when_all_is_in_memory(steps in proptest::collection::vec(any_step(), 1..15)) {
        agrees(steps, Options::default());
    }
}

#[test]
fn long_lists_are_read_in_full() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    let mut reference = Reference::default();
    let entries = workload(80);
    for batch in &entries {
        reference.apply(batch);
    }
    apply_rest(&store, &entries);
    assert_store_is(&store, &reference);
}

#[test]
fn readers_are_not_disturbed_by_what_is_applied_meanwhile() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    let entries = workload(400);
    let limit = PageLimit { records: 100, bytes: usize::MAX };
    std::thread::scope(|scope| {
        let forward = || {
            let mut at = Position::new(1);
            while store.mark().is_none_or(|mark| mark.index < 400) || at <= store.tail() {
                for record in store.read_all(at, Direction::Forward, limit).expect("readable") {
                    assert_eq!(record.position(), at);
                    at = at.next();
                }
            }
        };
        let streams = || {
            let stream = StreamName::new("a-7").expect("a name");
            while store.mark().is_none_or(|mark| mark.index < 400) {
                let view = store.view(&stream, Timestamp::default()).expect("readable");
                let page = store.read_stream(&view, Revision::TOMBSTONE, Direction::Backward, limit).expect("readable");
                assert!(page.records.iter().is_sorted_by_key(|record| std::cmp::Reverse(record.revision())));
                if let (Some(first), annals_core::State::Live(last)) = (page.records.first(), view.state) {
                    assert_eq!(first.revision(), last, "the head is there as soon as it is told");
                }
            }
        };
        scope.spawn(forward);
        scope.spawn(streams);
        apply_rest(&store, &entries);
    });
}

#[test]
fn a_sight_is_of_one_moment_of_the_log_whatever_is_applied_meanwhile() {
    const ENTRIES: u64 = 4_000;
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    let is_applied = || store.mark().is_some_and(|mark| mark.index == ENTRIES);
    let position = |stream: &StreamName, revision: u64| {
        let record = store.record_at(stream, Revision::saturating(revision)).expect("readable");
        record.map(|record| record.position())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let stream = StreamName::new("a-1").expect("a name");
            for at_hand in [false, true].into_iter().cycle() {
                if is_applied() {
                    break;
                }
                let sight = match at_hand {
                    false => Some(store.see(&stream, Timestamp::default()).expect("readable")),
                    true => store.see_at_hand(&stream, Timestamp::default()),
                };
                let Some(sight) = sight else { continue };
                let next = sight.view.head.last.map_or(0, |last| last.get() + 1);
                let newest = next.checked_sub(1).and_then(|last| position(&stream, last));
                assert!(newest.is_none_or(|newest| newest <= sight.as_of), "{newest:?} is beyond {}", sight.as_of);
                let following = position(&stream, next);
                assert!(following.is_none_or(|following| following > sight.as_of), "{following:?} was missed");
            }
        });
        scope.spawn(|| {
            let index = IndexName::parse(&StreamName::new("$ce-a").expect("a name")).expect("an index");
            let limit = PageLimit { records: 1, bytes: 1 };
            while !is_applied() {
                let (as_of, len) = store.see_index(&index).expect("readable");
                let entry = |number| store.read_index(&index, number, Direction::Forward, limit).expect("readable");
                let newest = len.checked_sub(1).map(|last| entry(last)[0].record.position());
                assert!(newest.is_none_or(|newest| newest <= as_of), "{newest:?} is beyond {as_of}");
                let following = entry(len).first().map(|link| link.record.position());
                assert!(following.is_none_or(|following| following > as_of), "{following:?} was missed");
            }
        });
        for entry in 1..=ENTRIES {
            let stream = if entry % 3 == 0 { "b-1" } else { "a-1" };
            store.apply(mark(entry), Some(filler(stream, u128::from(entry) * 10, 2))).expect("applied");
        }
    });
}

#[test]
fn an_event_is_hidden_once_it_is_older_than_the_maximum_age() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    let seconds = |seconds: u64| Timestamp::from_ticks(seconds * Timestamp::TICKS_PER_SECOND);
    let stream = StreamName::new("a-1").expect("a name");
    for second in 1..=9 {
        // Event n is created in second n.
        let batch = Batch { stamped: seconds(second), ..filler("a-1", second.into(), 1) };
        store.apply(mark(second), Some(batch)).expect("applied");
    }
    let metadata = annals_core::Event::new(
        annals_core::EventId::new(uuid::Uuid::from_u128(99)).expect("not nil"),
        annals_core::EventType::new("$metadata").expect("a type"),
        annals_core::Content::Json,
        annals_core::Properties::Opaque,
        bytes::Bytes::new(),
        bytes::Bytes::from_static(br#"{"$maxAge":3}"#),
    );
    let append = annals_core::Append::single(stream.metastream(), annals_core::Expected::Any, vec![metadata]);
    let batch = Batch { stamped: seconds(9), commands: vec![annals_core::Command::Append(append)] };
    store.apply(mark(10), Some(batch)).expect("applied");
    let limit = PageLimit { records: 100, bytes: usize::MAX };
    // A clock that is behind the newest event counts as being at it.
    for (now, visible) in [(0, 6..=9), (9, 6..=9), (10, 7..=9), (12, 9..=9)] {
        let view = store.view(&stream, seconds(now)).expect("readable");
        for (direction, from) in [(Direction::Forward, Revision::FIRST), (Direction::Backward, Revision::TOMBSTONE)] {
            let page = store.read_stream(&view, from, direction, limit).expect("readable");
            let mut created: Vec<_> = page.records.iter().map(|record| record.created()).collect();
            created.sort_unstable();
            assert_eq!(created, visible.clone().map(seconds).collect::<Vec<_>>(), "at second {now}");
            assert_eq!(page.next, None);
        }
    }
    let view = store.view(&stream, seconds(13)).expect("readable");
    assert!(store.read_stream(&view, Revision::FIRST, Direction::Forward, limit).expect("readable").records.is_empty());
}

#[test]
fn what_is_in_memory_is_at_hand_and_nothing_else() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), Options::default()).expect("opens");
    apply_rest(&store, &workload(80));
    let (stream, now) = (StreamName::new("a-7").expect("a name"), Timestamp::default());
    let limit = PageLimit { records: 100, bytes: usize::MAX };
    let sight = store.see(&stream, now).expect("readable");
    assert_eq!(store.see_at_hand(&stream, now), Some(sight.clone()));
    let read = store.read_stream(&sight.view, Revision::FIRST, Direction::Forward, limit).expect("readable");
    assert!(!read.records.is_empty());
    let at_hand = |store: &Store| {
        store.read_stream_at_hand(&sight.view, Revision::FIRST, Direction::Forward, limit).expect("readable")
    };
    assert_eq!(at_hand(&store), Some(read));
    drop(store);
    let store = Store::open(data.path(), Options::default()).expect("opens again");
    assert_eq!((store.see_at_hand(&stream, now), at_hand(&store)), (None, None), "it would have to be read from disk");
}

#[test]
fn a_stream_that_grows_is_read_to_its_end_each_time() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    let (stream, limit) = (StreamName::new("a-1").expect("a name"), PageLimit { records: 1_000, bytes: usize::MAX });
    let mut written = 0;
    // Beyond what is remembered of a list, with events of others between its own.
    for entry in 1..=120 {
        let name = if entry % 4 == 0 { "b-1" } else { "a-1" };
        store.apply(mark(entry), Some(filler(name, u128::from(entry) * 10, 2))).expect("applied");
        written += if name == "a-1" { 2 } else { 0 };
        let view = store.view(&stream, Timestamp::default()).expect("readable");
        for (direction, from) in [(Direction::Forward, Revision::FIRST), (Direction::Backward, Revision::TOMBSTONE)] {
            let read = store.read_stream(&view, from, direction, limit).expect("readable").records;
            let mut revisions: Vec<u64> = read.iter().map(|record| record.revision().get()).collect();
            revisions.sort_unstable();
            assert_eq!(revisions, (0..written).collect::<Vec<_>>(), "{direction:?} after entry {entry}");
            assert!(read.iter().all(|record| record.stream() == "a-1"));
        }
    }
}
