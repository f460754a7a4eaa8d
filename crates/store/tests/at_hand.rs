//! Entries that are applied without waiting for anything: to the same effect, or
//! not at all.

mod common;

use annals_core::{Batch, Position};
use annals_store::{Options, Store};
use common::{Reference, any_batch, assert_store_is, filler, mark, small};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Apply(Batch),
    Flush,
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => any_batch().prop_map(Step::Apply),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

/// Each command as an entry of its own.
fn alone(batch: Batch) -> impl Iterator<Item = Batch> {
    let stamped = batch.stamped;
    batch.commands.into_iter().map(move |command| Batch { stamped, commands: vec![command] })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn it_is_the_same_however_an_entry_is_applied(steps in proptest::collection::vec(any_step(), 1..25)) {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut store = Store::open(data.path(), small()).expect("opens");
        let mut reference = Reference::default();
        for step in steps {
            match step {
                Step::Apply(batch) => for batch in alone(batch) {
                    let before = (store.mark(), store.tail());
                    let expected = reference.apply(&batch);
                    let mark = mark(reference.applied);
                    let outcomes = match store.apply_at_hand(mark.clone(), batch.clone()).expect("applied") {
                        Some(outcomes) => outcomes,
                        None => {
                            prop_assert_eq!((store.mark(), store.tail()), before, "nothing has changed");
                            store.apply(mark, Some(batch)).expect("applied")
                        }
                    };
                    prop_assert_eq!(outcomes, expected);
                },
                Step::Flush => prop_assert_eq!(store.flush().expect("flushed"), reference.mark()),
                Step::Reopen => {
                    drop(store);
                    store = Store::open(data.path(), small()).expect("opens again");
                }
            }
        }
        assert_store_is(&store, &reference);
    }
}

#[test]
fn what_is_on_the_disk_alone_is_not_at_hand() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), Options::default()).expect("opens");
    let outcomes = store.apply_at_hand(mark(1), filler("a-1", 1, 2)).expect("applied");
    assert!(outcomes.is_some(), "nothing is on the disk");
    drop(store);

    let store = Store::open(data.path(), Options::default()).expect("opens");
    assert_eq!(store.apply_at_hand(mark(2), filler("a-1", 10, 2)).expect("applied"), None, "its head is on the disk");
    assert_eq!((store.tail(), store.mark()), (Position::new(2), Some(mark(1))));
    // The same ids: they were not remembered when they were not applied.
    let outcomes = store.apply(mark(2), Some(filler("a-1", 10, 2))).expect("applied");
    assert_eq!(store.tail(), Position::new(4));
    assert_eq!(outcomes.len(), 1);
    let outcomes = store.apply_at_hand(mark(3), filler("a-1", 20, 2)).expect("applied");
    assert!(outcomes.is_some(), "its head is in memory now");
    assert_eq!(store.apply_at_hand(mark(3), filler("a-1", 30, 2)).expect("applied"), Some(vec![]), "it was applied");
    assert_eq!(store.tail(), Position::new(6));
    let outcomes = store.apply_at_hand(mark(4), filler("a-1", 1, 2)).expect("applied");
    assert_eq!(outcomes, None, "what was repeated is on the disk");
}

#[test]
fn several_commands_are_not_at_hand() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), Options::default()).expect("opens");
    let Batch { stamped, mut commands } = filler("a-1", 1, 1);
    commands.extend(filler("a-2", 10, 1).commands);
    assert_eq!(store.apply_at_hand(mark(1), Batch { stamped, commands }).expect("applied"), None);
    assert_eq!(store.mark(), None);
}

#[test]
fn what_gathers_in_memory_is_bounded() {
    const BYTES: usize = 64 * 1024;
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), small()).expect("opens");
    let mut at_hand = 0;
    for index in 1.. {
        let batch = filler("a-1", u128::from(index) * 100, 20);
        if store.apply_at_hand(mark(index), batch.clone()).expect("applied").is_none() {
            assert_eq!(store.durable_mark().expect("readable"), None, "nothing was flushed so far");
            store.apply(mark(index), Some(batch)).expect("applied");
            break;
        }
        at_hand += 1;
    }
    let records = 20 * at_hand * 80;
    assert!((BYTES / 4..4 * BYTES).contains(&records), "{at_hand} entries were at hand before the first flush");
    let last = store.mark().expect("applied");
    assert_eq!(store.flush().expect("flushed"), Some(last.clone()));
    let next = filler("a-1", 1 << 40, 1);
    assert!(store.apply_at_hand(mark(last.index + 1), next).expect("applied").is_some(), "there is room again");
}
