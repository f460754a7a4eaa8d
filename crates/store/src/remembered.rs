//! The idempotency window: where the ids of the last events are.
//!
//! For appends without an exact expectation, an id that is in the same stream
//! among the last [`REMEMBERED_IDS`] events of the log is a repetition. The
//! window is a function of the log alone: every node has exactly the same
//! one, also after a restart or a catch-up, when it is read from the last
//! records.
//!
//! An event's *pair* is 16 bytes, its id mixed with a hash of the stream's
//! name. It is kept in a slot, the event's position modulo the window's size,
//! so that an event overwrites the one that leaves. Slots are found through
//! buckets, a cache line of sixteen entries each: a pair's hash chooses the
//! bucket, and an entry holds the rest of the hash (the *tag*) beside the low
//! bits of the event's position. Taking in an event thus touches one cache
//! line at random, where a hash table of slots would touch five. Some 24 MB
//! for a million events.
//!
//! - An entry says by itself whether it is still in the window: its *age* is
//!   its distance to the last event. Nobody removes what leaves; the next event
//!   of the bucket takes its place.
//! - Ages are counted modulo a power of two, at least twice the window. Before
//!   an old entry could look young again a sweep, a bucket every few events,
//!   has passed by and set it back to the window's end. An empty entry is an
//!   old one like others.
//! - An event that finds its bucket full of the living goes into a table beside
//!   them, one in two thousand by chance. So the window is exact, whatever
//!   ids are chosen.
//! - Where one pair has two events (the second written under an exact
//!   expectation), the newer one takes the entry of the older: a pair in the
//!   window has one entry, in its bucket or in the table.
//!
//! A hit is only a hint: who asks looks at the record itself.
//!
//! The hashes are seeded anew in each process. What is answered does not
//! depend on it, as long as no two pairs in the window share all 128 bits
//! (chance alone needs some 2^88 windows for that); but with a known seed a
//! client could choose ids so that they do, and make other streams forget.

use std::hash::BuildHasher;
use std::hint::black_box;

use annals_core::limits::REMEMBERED_IDS;
use annals_core::{EventId, Position};
use hashbrown::HashTable;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// Entries of a bucket: what a cache line holds.
const ENTRIES: usize = 16;

/// Half full with a whole window, so that few overflow.
const BUCKETS: usize = 1 << 17;

/// See the module.
pub(crate) struct Remembered {
    window: u64,
    /// Before the first event that was taken in.
    begin: Position,
    /// The last event.
    tail: Position,
    /// What each slot remembers.
    pairs: Vec<u128>,
    buckets: Vec<Bucket>,
    /// Positions that found no place in their bucket.
    overflow: HashTable<u64>,
    /// The bits of an entry that are its position; the others are its tag.
    position_bits: u32,
    /// Events from one bucket's sweep to the next one's.
    sweep_every: u64,
    /// For the hashes of streams' names, and of pairs.
    seed: u64,
}

#[derive(Clone)]
#[repr(align(64))]
struct Bucket([u32; ENTRIES]);

impl Remembered {
    /// An empty window of [`REMEMBERED_IDS`], for the events after `tail`.
    pub(crate) fn after(tail: Position) -> Self {
        Self::with_window(tail, REMEMBERED_IDS, BUCKETS)
    }

    fn with_window(tail: Position, window: u64, buckets: usize) -> Self {
        let ages = (2 * window).next_power_of_two();
        // A sweep passes by each bucket before what it set back is as old as
        // all ages there are, and would be young again.
        let sweep_every = (ages - 1 - window) / buckets as u64;
        assert!(buckets.is_power_of_two() && sweep_every > 0, "{buckets} buckets for a window of {window}");
        let mut remembered = Remembered {
            window,
            begin: tail,
            tail,
            pairs: vec![0; usize::try_from(window).expect("a million")],
            buckets: Vec::new(),
            overflow: HashTable::new(),
            position_bits: u32::try_from(ages - 1).expect("a million is far below 2^31"),
            sweep_every,
            seed: std::hash::RandomState::new().hash_one(window),
        };
        remembered.buckets = vec![Bucket([remembered.expired(); ENTRIES]); buckets];
        remembered
    }

    /// The position before the first event of the window that ends at `tail`.
    pub(crate) fn begins_after(tail: Position) -> Position {
        Position::new(tail.get().saturating_sub(REMEMBERED_IDS))
    }

    /// Takes in the next event; the one that is a window older leaves.
    pub(crate) fn push(&mut self, position: Position, stream: &[u8], id: EventId) {
        assert_eq!(position, self.tail.next(), "ids are remembered in the order of the log");
        let pair = self.pair(stream, id);
        let hash = hash_of(pair, self.seed);
        let slot = self.slot_of(position.get());
        if !self.overflow.is_empty() {
            self.leave_overflow(position.get().wrapping_sub(self.window), self.pairs[slot]);
        }
        self.pairs[slot] = pair;
        self.tail = position;
        self.enter(position.get(), hash, pair);
        if position.get().is_multiple_of(self.sweep_every) {
            self.sweep();
        }
    }

    /// Has near what taking in these events will look at, as far as that can stay near.
    ///
    /// Where an event's bucket is, chance decides, so that each is waited for when it is
    /// looked at. Here many are on their way at the same time.
    pub(crate) fn bring_near<'e>(&self, events: impl Iterator<Item = (&'e [u8], EventId)>) {
        /// Cache lines that a processor fetches at the same time.
        const AT_ONCE: usize = 16;
        /// Buckets of 64 bytes that come to a part of a processor's own cache.
        const NEAR_MAX: usize = 4_096;
        let mut buckets =
            events.take(NEAR_MAX).map(|(stream, id)| self.bucket_of(hash_of(self.pair(stream, id), self.seed)));
        loop {
            let mut awaited = [0; AT_ONCE];
            let count = awaited.iter_mut().zip(&mut buckets).map(|(awaited, bucket)| *awaited = bucket).count();
            black_box(awaited[..count].iter().fold(0, |all, bucket| all ^ self.buckets[*bucket].0[0]));
            if count < AT_ONCE {
                return;
            }
        }
    }

    /// Where the event probably is.
    pub(crate) fn find(&self, stream: &[u8], id: EventId) -> Option<Position> {
        let pair = self.pair(stream, id);
        let hash = hash_of(pair, self.seed);
        if let Some(at) = self.find_entry(hash, pair) {
            return Some(Position::new(self.position_of(self.buckets[self.bucket_of(hash)].0[at])));
        }
        if self.overflow.is_empty() {
            return None;
        }
        let position = self.overflow.find(hash, |other| self.pairs[self.slot_of(*other)] == pair)?;
        Some(Position::new(*position))
    }

    /// The last event that was taken in.
    pub(crate) fn tail(&self) -> Position {
        self.tail
    }

    /// Events whose ids are known.
    pub(crate) fn len(&self) -> u64 {
        (self.tail.get() - self.begin.get()).min(self.window)
    }

    fn pair(&self, stream: &[u8], id: EventId) -> u128 {
        id.uuid().as_u128() ^ xxh3_128_with_seed(stream, self.seed)
    }

    fn slot_of(&self, position: u64) -> usize {
        usize::try_from(position % self.window).expect("a window is a million")
    }

    fn bucket_of(&self, hash: u64) -> usize {
        usize::try_from(hash & (self.buckets.len() as u64 - 1)).expect("below the number of buckets")
    }

    /// The hash's upper half, of which the position leaves what becomes the tag.
    fn entry(&self, position: u64, hash: u64) -> u32 {
        let [_, _, _, _, high @ ..] = hash.to_le_bytes();
        (u32::from_le_bytes(high) & !self.position_bits) | self.low_bits(position)
    }

    /// An entry that is just no longer in the window, and nobody's.
    fn expired(&self) -> u32 {
        self.low_bits(self.tail.get().wrapping_sub(self.window))
    }

    fn low_bits(&self, position: u64) -> u32 {
        u32::try_from(position & u64::from(self.position_bits)).expect("masked to less than 32 bits")
    }

    /// How far before the last event this entry's is; an expired one's is the
    /// window's size or more.
    fn age(&self, entry: u32) -> u32 {
        self.low_bits(self.tail.get()).wrapping_sub(entry) & self.position_bits
    }

    fn position_of(&self, entry: u32) -> u64 {
        self.tail.get() - u64::from(self.age(entry))
    }

    /// Entries of a bucket, one bit each: those with this entry's tag that are
    /// in the window, and those that are expired. One pass without branches:
    /// half of a bucket is expired, in no order that could be foreseen.
    fn scan(&self, bucket: &Bucket, entry: u32) -> (u32, u32) {
        let tail = self.low_bits(self.tail.get());
        let window = u32::try_from(self.window).expect("a million");
        let (mut alike, mut expired) = (0, 0);
        for (at, other) in bucket.0.iter().enumerate() {
            expired |= u32::from(tail.wrapping_sub(*other) & self.position_bits >= window) << at;
            alike |= u32::from((entry ^ other) & !self.position_bits == 0) << at;
        }
        (alike & !expired, expired)
    }

    /// The place of the pair in its bucket.
    fn find_entry(&self, hash: u64, pair: u128) -> Option<usize> {
        let bucket = &self.buckets[self.bucket_of(hash)];
        let (alike, _) = self.scan(bucket, self.entry(0, hash));
        self.find_among(bucket, alike, pair)
    }

    /// Which of these entries is the pair's. Tags are alike by chance once in
    /// hundreds of events, so this rarely looks into a slot for nothing.
    fn find_among(&self, bucket: &Bucket, mut alike: u32, pair: u128) -> Option<usize> {
        while alike != 0 {
            let at = alike.trailing_zeros() as usize;
            if self.pairs[self.slot_of(self.position_of(bucket.0[at]))] == pair {
                return Some(at);
            }
            alike &= alike - 1;
        }
        None
    }

    /// Makes the last event the one that is found for its pair.
    fn enter(&mut self, position: u64, hash: u64, pair: u128) {
        let entry = self.entry(position, hash);
        let index = self.bucket_of(hash);
        let bucket = &self.buckets[index];
        let (alike, expired) = self.scan(bucket, entry);
        if let Some(older) = self.find_among(bucket, alike, pair) {
            self.buckets[index].0[older] = entry;
            return;
        }
        let Remembered { pairs, overflow, window, seed, .. } = self;
        let pair_at = |position: &u64| pairs[usize::try_from(position % *window).expect("a window is a million")];
        if !overflow.is_empty()
            && let Some(older) = overflow.find_mut(hash, |other| pair_at(other) == pair)
        {
            *older = position;
        } else if expired != 0 {
            self.buckets[index].0[expired.trailing_zeros() as usize] = entry;
        } else {
            overflow.insert_unique(hash, position, |other| hash_of(pair_at(other), *seed));
        }
    }

    fn leave_overflow(&mut self, leaving: u64, pair: u128) {
        if let Ok(found) = self.overflow.find_entry(hash_of(pair, self.seed), |other| *other == leaving) {
            found.remove();
        }
    }

    /// Sets what is expired in the next bucket back to the window's end.
    fn sweep(&mut self) {
        let turn = self.tail.get() / self.sweep_every % self.buckets.len() as u64;
        let turn = usize::try_from(turn).expect("below the number of buckets");
        let (_, old) = self.scan(&self.buckets[turn], 0);
        let expired = self.expired();
        for (at, entry) in self.buckets[turn].0.iter_mut().enumerate() {
            *entry = if old >> at & 1 == 1 { expired } else { *entry };
        }
    }
}

/// For buckets, tags and the table. Ids of clients may count upwards, which a weaker
/// hash leaves in few buckets with some seeds.
fn hash_of(pair: u128, seed: u64) -> u64 {
    xxh3_64_with_seed(&pair.to_le_bytes(), seed)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const STREAMS: [&[u8]; 3] = [b"a", b"b", b"c"];

    fn id(number: u128) -> EventId {
        EventId::new(Uuid::from_u128(number + 1)).expect("not nil")
    }

    /// Entries that are in the window by their age.
    fn living(remembered: &Remembered) -> usize {
        let in_buckets =
            remembered.buckets.iter().map(|bucket| remembered.scan(bucket, 0).1.count_zeros() as usize - 16);
        in_buckets.sum::<usize>() + remembered.overflow.len()
    }

    /// Pushes these events one by one, and after each asks for all.
    fn check(mut remembered: Remembered, events: &[(usize, u128)], ids: u128) -> Result<(), TestCaseError> {
        let mut newest = HashMap::new();
        let mut overflows = false;
        for (stream, number) in events {
            let position = remembered.tail.next();
            remembered.push(position, STREAMS[*stream], id(*number));
            newest.insert((*stream, *number), position);
            let leaves = position.get().saturating_sub(remembered.window);
            for (asked_stream, name) in STREAMS.iter().enumerate() {
                for asked in 0..ids {
                    let known = newest.get(&(asked_stream, asked)).copied();
                    let expected = known.filter(|position| position.get() > leaves);
                    prop_assert_eq!(remembered.find(name, id(asked)), expected);
                }
            }
            let pairs = newest.values().filter(|position| position.get() > leaves).count();
            prop_assert_eq!(living(&remembered), pairs, "a pair has one entry");
            overflows |= !remembered.overflow.is_empty();
        }
        let one_bucket_holds = remembered.buckets.len() > 1 || remembered.window <= ENTRIES as u64;
        let distinct = newest.len() > ENTRIES;
        prop_assert!(overflows || one_bucket_holds || !distinct || events.len() < 200, "the table was never used");
        Ok(())
    }

    proptest! {
        #[test]
        fn exactly_the_window_is_remembered_and_the_newest_of_each_pair(
            start in 0..20u64,
            buckets in 0..3u32,
            events in proptest::collection::vec((0..3usize, 0..6u128), 0..60),
        ) {
            check(Remembered::with_window(Position::new(start), 7, 1 << buckets), &events, 6)?;
        }

        // A window of forty pairs in buckets of sixteen: the table beside them
        // fills and empties, and ages go around several times.
        #[test]
        fn full_buckets_forget_nothing(
            start in 0..200u64,
            buckets in 0..3u32,
            events in proptest::collection::vec((0..3usize, 0..20u128), 0..400),
        ) {
            check(Remembered::with_window(Position::new(start), 40, 1 << buckets), &events, 20)?;
        }
    }

    #[test]
    fn an_entry_that_no_event_replaces_never_looks_young_again() {
        let mut remembered = Remembered::with_window(Position::new(0), 40, 2);
        remembered.push(Position::new(1), b"a", id(0));
        // The same pair again and again replaces its own entry only.
        for position in 2..2_000 {
            assert_eq!(remembered.find(b"a", id(0)).is_some(), position <= 41, "before {position}");
            remembered.push(Position::new(position), b"b", id(1));
            assert_eq!(living(&remembered), if position <= 40 { 2 } else { 1 }, "after {position}");
        }
    }

    #[test]
    fn a_whole_window_overflows_little() {
        let mut remembered = Remembered::after(Position::new(0));
        for number in 1..=2 * REMEMBERED_IDS {
            remembered.push(Position::new(number), b"a", id(u128::from(number)));
        }
        assert_eq!(remembered.len(), REMEMBERED_IDS);
        let beside = remembered.overflow.len();
        assert!(beside < 10_000, "{beside} of a million found their bucket full");
    }
}
