//! Which waiting message may go to whom, where the order of each key is kept.
//!
//! Of a key only the first waiting message may go, to the one member that serves
//! the key, and only while no other of that key is in flight or being parked: the
//! key is *busy* then. So each member has a set of messages that are ready for it,
//! and neither a busy key nor a member without room costs a look at what waits
//! behind it.
//!
//! Invariants
//! - A key that is not busy has its first waiting message in the ready set of the
//!   member that it belongs to, and no other one anywhere; a busy one has none.
//! - Members and buckets are hashed together: one that comes or goes moves its own
//!   share of the keys only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{ConsumerId, Place};
use crate::seeded::{self, Bug};

/// Buckets over which keys are spread.
const BUCKETS: u64 = 1_024;

/// The keys of what waits.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    waiting: HashMap<u64, BTreeSet<Place>>,
    busy: HashSet<u64>,
    ready: BTreeMap<ConsumerId, BTreeSet<(Place, u64)>>,
}

impl Pinned {
    /// These are the members now.
    pub(super) fn members(&mut self, members: impl Iterator<Item = ConsumerId>) {
        self.ready = members.map(|member| (member, BTreeSet::new())).collect();
        let free: Vec<u64> = self.waiting.keys().copied().filter(|key| !self.busy.contains(key)).collect();
        free.into_iter().for_each(|key| self.make_ready(key));
    }

    /// A message waits.
    pub(super) fn waits(&mut self, place: Place, key: u64) {
        let places = self.waiting.entry(key).or_default();
        let before = places.first().copied();
        places.insert(place);
        if self.busy.contains(&key) || before.is_some_and(|before| before <= place) {
            return;
        }
        if let Some(ready) = self.member_of(key) {
            if let Some(before) = before {
                ready.remove(&(before, key));
            }
            ready.insert((place, key));
        }
    }

    /// The next message for a member. It waits no more, and its key is busy.
    pub(super) fn next(&mut self, member: ConsumerId) -> Option<Place> {
        let (place, key) = self.ready.get_mut(&member)?.pop_first()?;
        if let Some(places) = self.waiting.get_mut(&key) {
            places.remove(&place);
            if places.is_empty() {
                self.waiting.remove(&key);
            }
        }
        match seeded::is(Bug::S24) {
            true => self.make_ready(key),
            false => _ = self.busy.insert(key),
        }
        Some(place)
    }

    /// Nothing of this key is in flight or being parked any more.
    pub(super) fn free(&mut self, key: u64) {
        self.busy.remove(&key);
        self.make_ready(key);
    }

    fn make_ready(&mut self, key: u64) {
        let Some(first) = self.waiting.get(&key).and_then(|places| places.first().copied()) else { return };
        if let Some(ready) = self.member_of(key) {
            ready.insert((first, key));
        }
    }

    fn member_of(&mut self, key: u64) -> Option<&mut BTreeSet<(Place, u64)>> {
        let bucket = key % BUCKETS;
        let member =
            self.ready.keys().copied().max_by_key(|member| xxh3_64_with_seed(&member.to_le_bytes(), bucket))?;
        self.ready.get_mut(&member)
    }
}
