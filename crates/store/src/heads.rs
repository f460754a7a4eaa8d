//! The heads of lists: what is known of a stream or an index without reading
//! its entries; on disk, and the newest of them in memory.
//!
//! ```text
//! index   list u64 · entries u64
//! stream  list u64 · last revision u64 (2^64 - 1: none) · flags u8
//!         · $maxCount u64, $maxAge u64, $tb u64, $acl, each if its flag is set
//! $acl    rights that it has u8, one bit each · for each of them: names u16,
//!         for each of those its length u16 and its bytes
//! ```

use std::sync::Arc;

use annals_core::{Acl, Head, Metadata, Revision};
use bytes::{Buf, BufMut};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::keys::ListId;
use crate::record::Corruption;

/// The head of a stream, and where its entries are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamHead {
    pub(crate) list: ListId,
    pub(crate) head: Head,
}

/// The head of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexHead {
    pub(crate) list: ListId,
    /// How many entries it has: the number of the next one.
    pub(crate) count: u64,
}

const TOMBSTONED: u8 = 1;
const METADATA: u8 = 2;
const MAX_COUNT: u8 = 4;
const MAX_AGE: u8 = 8;
const TRUNCATE_BEFORE: u8 = 16;
const ACL: u8 = 32;
/// No revision is that high.
const NO_REVISION: u64 = u64::MAX;

impl StreamHead {
    /// Puts the head's bytes in place of what is in `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let Head { last, tombstoned, metadata } = &self.head;
        let Metadata { present, max_count, max_age_seconds, truncate_before, acl } = metadata;
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        out.clear();
        out.put_u64_le(self.list.get());
        out.put_u64_le(last.map_or(NO_REVISION, Revision::get));
        out.put_u8(
            flag(*tombstoned, TOMBSTONED)
                | flag(*present, METADATA)
                | flag(max_count.is_some(), MAX_COUNT)
                | flag(max_age_seconds.is_some(), MAX_AGE)
                | flag(truncate_before.is_some(), TRUNCATE_BEFORE)
                | flag(acl.is_some(), ACL),
        );
        for number in [*max_count, *max_age_seconds, truncate_before.map(Revision::get)].into_iter().flatten() {
            out.put_u64_le(number);
        }
        if let Some(acl) = acl {
            acl.put(out);
        }
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<StreamHead, Corruption> {
        const FIXED: usize = 17;
        let found = bytes.len();
        if found < FIXED {
            return Err(Corruption::Length { expected: FIXED, found });
        }
        let list = ListId::new(bytes.get_u64_le());
        let last = match bytes.get_u64_le() {
            NO_REVISION => None,
            number => Some(revision(number)?),
        };
        let flags = bytes.get_u8();
        if flags & !(TOMBSTONED | METADATA | MAX_COUNT | MAX_AGE | TRUNCATE_BEFORE | ACL) != 0 {
            return Err(Corruption::Invalid("it has unknown flags"));
        }
        let numbers = (flags & (MAX_COUNT | MAX_AGE | TRUNCATE_BEFORE)).count_ones() as usize;
        let has_acl = flags & ACL != 0;
        if bytes.len() < 8 * numbers || (!has_acl && bytes.len() > 8 * numbers) {
            return Err(Corruption::Length { expected: FIXED + 8 * numbers, found });
        }
        let mut number = |flag: u8| (flags & flag != 0).then(|| bytes.get_u64_le());
        let max_count = number(MAX_COUNT);
        let max_age_seconds = number(MAX_AGE);
        let truncate_before = number(TRUNCATE_BEFORE).map(revision).transpose()?;
        let acl = if has_acl {
            let acl = Acl::take(&mut bytes).filter(|_| bytes.is_empty());
            Some(Arc::new(acl.ok_or(Corruption::Invalid("its list of rights is none"))?))
        } else {
            None
        };
        let metadata = Metadata { present: flags & METADATA != 0, max_count, max_age_seconds, truncate_before, acl };
        Ok(StreamHead { list, head: Head { last, tombstoned: flags & TOMBSTONED != 0, metadata } })
    }
}

fn revision(number: u64) -> Result<Revision, Corruption> {
    Revision::new(number).ok_or(Corruption::Invalid("it holds a revision out of bounds"))
}

impl IndexHead {
    /// Puts the head's bytes in place of what is in `out`.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.clear();
        out.put_u64_le(self.list.get());
        out.put_u64_le(self.count);
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<IndexHead, Corruption> {
        if bytes.len() != 16 {
            return Err(Corruption::Length { expected: 16, found: bytes.len() });
        }
        let head = IndexHead { list: ListId::new(bytes.get_u64_le()), count: bytes.get_u64_le() };
        // An index comes into being with its first entry.
        if head.count == 0 { Err(Corruption::Invalid("it is an index without entries")) } else { Ok(head) }
    }
}

/// Heads of streams in the cache, at most: some 40 MB with ordinary names. A
/// miss costs a point read in RocksDB, 2–10 µs.
pub(crate) const CACHED_STREAMS_MAX: usize = 200_000;

/// Heads of indexes in the cache, at most. Categories and types are few, but
/// correlation ids are not.
pub(crate) const CACHED_INDEXES_MAX: usize = 50_000;

/// The heads that were written or needed last, by the bytes of their keys.
///
/// Only apply puts heads in, and only after they are on disk. A reader that
/// filled it after a miss could put back a head that apply has replaced in the
/// meantime, and apply would decide by it.
///
/// Two generations: when the young one is full it becomes the old one, and
/// what is used again moves back. Cheaper than true recency, and as good here.
pub(crate) struct HeadsCache<H>(Mutex<Generations<H>>);

struct Generations<H> {
    young: HashMap<Box<[u8]>, H>,
    old: HashMap<Box<[u8]>, H>,
    young_max: usize,
}

impl<H: Clone> HeadsCache<H> {
    pub(crate) fn new(heads_max: usize) -> Self {
        HeadsCache(Mutex::new(Generations { young: HashMap::new(), old: HashMap::new(), young_max: heads_max / 2 }))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<H> {
        let mut generations = self.0.lock();
        if let Some(head) = generations.young.get(key) {
            return Some(head.clone());
        }
        let (key, head) = generations.old.remove_entry(key)?;
        generations.insert(key, head.clone());
        Some(head)
    }

    /// Puts many in under one lock.
    pub(crate) fn insert(&self, heads: impl Iterator<Item = (Box<[u8]>, H)>) {
        let mut generations = self.0.lock();
        for (key, head) in heads {
            // The old generation may still hold what this replaces; the young
            // one is asked first.
            generations.insert(key, head);
        }
    }

    pub(crate) fn len(&self) -> usize {
        let generations = self.0.lock();
        generations.young.len() + generations.old.len()
    }
}

impl<H> Generations<H> {
    fn insert(&mut self, key: Box<[u8]>, head: H) {
        if self.young.len() >= self.young_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, head);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stream_head_is_read_as_it_was_written(
            list: u64,
            last in proptest::option::of(0..=Revision::TOMBSTONE.get()),
            tombstoned: bool,
            present: bool,
            max_count: Option<u64>,
            max_age_seconds: Option<u64>,
            truncate_before in proptest::option::of(0..=Revision::TOMBSTONE.get()),
            acl in proptest::option::of(r#"\{("\$r":"[a-z]{0,9}")?\}"#),
        ) {
            let metadata = Metadata {
                present,
                max_count,
                max_age_seconds,
                truncate_before: truncate_before.and_then(Revision::new),
                acl: acl.map(|json| Arc::new(Acl::parse(&json))),
            };
            let head = Head { last: last.and_then(Revision::new), tombstoned, metadata };
            let head = StreamHead { list: ListId::new(list), head };
            let mut bytes = Vec::new();
            head.encode(&mut bytes);
            prop_assert_eq!(StreamHead::decode(&bytes), Ok(head));
            prop_assert!(StreamHead::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    fn put(cache: &HeadsCache<u64>, key: &str, count: u64) {
        cache.insert(std::iter::once((key.as_bytes().into(), count)));
    }

    #[test]
    fn what_was_put_in_last_is_what_is_found() {
        let cache = HeadsCache::new(4);
        put(&cache, "x", 1);
        put(&cache, "y", 1);
        put(&cache, "z", 1);
        put(&cache, "x", 2);
        assert_eq!(cache.get(b"x"), Some(2));
        for other in ["1", "2", "3"] {
            put(&cache, other, 0);
            assert!(matches!(cache.get(b"x"), None | Some(2)));
        }
    }

    #[test]
    fn the_cache_stays_within_its_bound_and_keeps_what_is_used() {
        let cache = HeadsCache::new(10);
        put(&cache, "used", 1);
        for other in 0..100 {
            put(&cache, &other.to_string(), 0);
            assert_eq!(cache.get(b"used"), Some(1));
            assert!(cache.len() <= 11);
        }
        assert_eq!(cache.get(b"0"), None);
    }
}
