//! The idempotency window: where the ids of the last events are.
//!
//! For appends without an exact expectation, an id that is in the same stream
//! among the last [`REMEMBERED_IDS`] events of the log is a repetition. The
//! window is a function of the log alone: every node has exactly the same
//! one, also after a restart or a catch-up, when it is read from the last
//! records.
//!
//! An event's slot is its position modulo the window's size, so that an event
//! overwrites the one that leaves. A slot holds 16 bytes, the id mixed with a
//! hash of the stream's name; a table finds slots by them. Some 30 MB for a
//! million events. A hit is only a hint: who asks looks at the record itself.
//! Where one pair has two events (the second written under an exact
//! expectation), the newer one is remembered.
//!
//! The hashes are seeded anew in each process. What is answered does not
//! depend on it, as long as no two pairs in the window share all 128 bits
//! (chance alone needs some 2^88 windows for that); but with a known seed a
//! client could choose ids so that they do, and make other streams forget.

use std::hash::BuildHasher;

use annals_core::limits::REMEMBERED_IDS;
use annals_core::{EventId, Position};
use hashbrown::{DefaultHashBuilder, HashTable};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// See the module.
pub(crate) struct Remembered {
    /// What each slot remembers. Grows to the window's size.
    pairs: Vec<u128>,
    window: usize,
    /// Slots, found by what they remember.
    slots: HashTable<u32>,
    /// The last event.
    tail: Position,
    /// For the hashes of streams' names.
    seed: u64,
    /// For the table.
    hasher: DefaultHashBuilder,
}

impl Remembered {
    /// An empty window of [`REMEMBERED_IDS`], for the events after `tail`.
    pub(crate) fn after(tail: Position) -> Self {
        Self::with_window(tail, usize::try_from(REMEMBERED_IDS).expect("a million"))
    }

    fn with_window(tail: Position, window: usize) -> Self {
        Remembered {
            pairs: vec![0; window],
            window,
            slots: HashTable::with_capacity(window),
            tail,
            seed: std::hash::RandomState::new().hash_one(window),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The position before the first event of the window that ends at `tail`.
    pub(crate) fn begins_after(tail: Position) -> Position {
        Position::new(tail.get().saturating_sub(REMEMBERED_IDS))
    }

    /// Takes in the next event; the one that is a window older leaves.
    pub(crate) fn push(&mut self, position: Position, stream: &[u8], id: EventId) {
        assert_eq!(position, self.tail.next(), "ids are remembered in the order of the log");
        let slot = self.slot_of(position);
        let leaving = self.pairs[slot as usize];
        let pair = self.pair(stream, id);
        let Remembered { pairs, slots, hasher, .. } = self;
        if let Ok(found) = slots.find_entry(hasher.hash_one(leaving), |other| *other == slot) {
            found.remove();
        }
        pairs[slot as usize] = pair;
        let hash = hasher.hash_one(pair);
        match slots.find_mut(hash, |other| pairs[*other as usize] == pair) {
            Some(older) => *older = slot,
            None => {
                slots.insert_unique(hash, slot, |other| hasher.hash_one(pairs[*other as usize]));
            }
        }
        self.tail = position;
    }

    /// Where the event probably is.
    pub(crate) fn find(&self, stream: &[u8], id: EventId) -> Option<Position> {
        let pair = self.pair(stream, id);
        let slot = *self.slots.find(self.hasher.hash_one(pair), |slot| self.pairs[*slot as usize] == pair)?;
        let window = self.window as u64;
        let back = (self.tail.get() % window + window - u64::from(slot)) % window;
        Some(Position::new(self.tail.get() - back))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    fn pair(&self, stream: &[u8], id: EventId) -> u128 {
        id.uuid().as_u128() ^ xxh3_128_with_seed(stream, self.seed)
    }

    fn slot_of(&self, position: Position) -> u32 {
        u32::try_from(position.get() % self.window as u64).expect("a window has fewer than 2^32 slots")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> EventId {
        EventId::new(Uuid::from_u128(number + 1)).expect("not nil")
    }

    proptest! {
        #[test]
        fn exactly_the_window_is_remembered_and_the_newest_of_each_pair(
            start in 0..20u64,
            events in proptest::collection::vec((0..3usize, 0..6u128), 0..60),
        ) {
            const WINDOW: usize = 7;
            let streams: [&[u8]; 3] = [b"a", b"b", b"c"];
            let mut remembered = Remembered::with_window(Position::new(start), WINDOW);
            for (count, (stream, number)) in events.iter().enumerate() {
                remembered.push(Position::new(start + count as u64 + 1), streams[*stream], id(*number));
                let window = &events[..=count];
                let from = window.len().saturating_sub(WINDOW);
                for (asked_stream, name) in streams.iter().enumerate() {
                    for asked in 0..6u128 {
                        let newest = (from..window.len()).rev().find(|at| window[*at] == (asked_stream, asked));
                        let expected = newest.map(|at| Position::new(start + at as u64 + 1));
                        prop_assert_eq!(remembered.find(name, id(asked)), expected);
                    }
                }
            }
        }
    }
}
