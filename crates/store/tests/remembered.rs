//! The idempotency window at its real size.

mod common;

use std::time::Instant;

use annals_core::limits::REMEMBERED_IDS;
use annals_core::{Batch, Outcome};
use annals_store::{Options, Store};
use common::{filler, mark};

/// Whether an event is answered as one that was appended before.
fn is_remembered(store: &Store, index: u64, id: u64) -> bool {
    let Batch { stamped, commands } = filler("a-1", u128::from(id), 1);
    let outcomes = store.apply(mark(index), Some(Batch { stamped, commands })).expect("applied");
    match &outcomes[..] {
        [Outcome::Appended(appended)] => appended.repeated,
        other => panic!("{other:?}"),
    }
}

#[test]

fn exactly_the_last_million_events_are_remembered_also_after_a_restart() {
    const BEYOND: u64 = 1_000;
    let data = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(data.path(), Options::default()).expect("opens");
    let entries = (REMEMBERED_IDS + BEYOND) / 1_000;
    for entry in 0..entries {
        // Event n has id n.
        store.apply(mark(entry + 1), Some(filler("a-1", u128::from(entry * 1_000 + 1), 1_000))).expect("applied");
    }
    drop(store);
    let started = Instant::now();
    let store = Store::open(data.path(), Options::default()).expect("opens");
    println!("opened with a full window in {:?}", started.elapsed());
    assert_eq!(store.statistics().ids_remembered, REMEMBERED_IDS);
    // The oldest in the window is repeated and so moves nothing; the one
    // before it is forgotten, and appending it moves the window by one.
    assert!(is_remembered(&store, entries + 1, BEYOND + 1));
    assert!(!is_remembered(&store, entries + 2, BEYOND));
    assert!(!is_remembered(&store, entries + 3, BEYOND + 1));
    assert!(is_remembered(&store, entries + 4, BEYOND + 3));
    assert!(is_remembered(&store, entries + 5, BEYOND));
}
