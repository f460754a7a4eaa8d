//! The newest entries of the log, in memory.
//!
//! The consensus library reads every entry back, once for each follower and
//! once to apply it. Here it finds them without touching the disk.
//!
//! Invariants: the entries are contiguous and end where the log ends; an entry
//! that is not yet on disk is never dropped.

use std::collections::VecDeque;

use openraft::EntryPayload;

use crate::codec::ENTRY_HEADER;
use crate::types::Entry;

/// The tail of the log.
pub(crate) struct Tail {
    /// The index of the first entry held, or of the next one to come.
    first: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    /// Entries below this are on disk.
    durable_end: u64,
    /// Counts truncations: a flush that was under way when entries were
    /// replaced says nothing about the ones that took their place.
    generation: u64,
}

impl Tail {
    /// An empty tail of a log whose next entry has this index.
    pub(crate) fn new(next: u64, bytes_max: usize) -> Self {
        Tail { first: next, entries: VecDeque::new(), bytes: 0, bytes_max, durable_end: next, generation: 0 }
    }

    /// The index of the first entry held; from here on the tail has all.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        let offset = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.entries.get(offset)
    }

    /// Takes the next entry. In an empty log it may have any index.
    pub(crate) fn push(&mut self, entry: Entry) {
        let index = entry.log_id.index();
        if self.entries.is_empty() {
            self.first = index;
            self.durable_end = index;
        } else {
            let expected = self.first + self.entries.len() as u64;
            assert_eq!(index, expected, "entries are appended without a gap");
        }
        self.bytes += size(&entry);
        self.entries.push_back(entry);
    }

    /// Entries up to `last` are on disk, as far as they still are the ones
    /// that were handed over in this generation.
    pub(crate) fn flushed(&mut self, generation: u64, last: u64) {
        if generation == self.generation {
            self.durable_end = self.durable_end.max(last + 1);
            self.shrink();
        }
    }

    /// Drops entries from `from` on; the next one to come has that index.
    pub(crate) fn truncate(&mut self, from: u64) {
        self.generation += 1;
        while self.first + self.entries.len() as u64 > from && !self.entries.is_empty() {
            let entry = self.entries.pop_back().expect("checked in the line above");
            self.bytes -= size(&entry);
        }
        if self.entries.is_empty() {
            self.first = from;
        }
        self.durable_end = self.durable_end.min(from);
    }

    /// Drops entries up to `upto`; the next one comes after it.
    pub(crate) fn purge(&mut self, upto: u64) {
        while self.first <= upto && !self.entries.is_empty() {
            self.pop_front();
        }
        if self.entries.is_empty() && self.first <= upto {
            self.first = upto + 1;
            self.durable_end = self.durable_end.max(self.first);
        }
    }

    fn shrink(&mut self) {
        while self.bytes > self.bytes_max && self.first < self.durable_end && !self.entries.is_empty() {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        let entry = self.entries.pop_front().expect("every caller checks");
        self.bytes -= size(&entry);
        self.first += 1;
    }
}

/// Bytes that an entry stands for.
pub(crate) fn size(entry: &Entry) -> usize {
    ENTRY_HEADER
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(proposal) => proposal.batch.len(),
            EntryPayload::Membership(_) => 256,
        }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::codec::LogIdForm;
    use crate::types::Proposal;

    fn entry(index: u64) -> Entry {
        let log_id = LogIdForm { term: 1, node: 1, index }.into();
        Entry { log_id, payload: EntryPayload::Normal(Proposal::new(Bytes::from(vec![0; 100]))) }
    }

    #[test]
    fn what_is_not_on_disk_is_kept_whatever_its_size() {
        let mut tail = Tail::new(5, 200);
        for index in 5..15 {
            tail.push(entry(index));
        }
        assert_eq!(tail.first(), 5);
        tail.flushed(0, 9);
        assert_eq!(tail.first(), 10, "entries 5 to 9 are on disk and above the budget");
        assert!(tail.get(9).is_none());
        assert_eq!(tail.get(14).map(|entry| entry.log_id.index()), Some(14));
    }

    #[test]
    fn a_flush_from_before_a_truncation_frees_nothing_after_it() {
        let mut tail = Tail::new(0, 0);
        (0..4).for_each(|index| tail.push(entry(index)));
        tail.truncate(2);
        (2..4).for_each(|index| tail.push(entry(index)));
        tail.flushed(0, 3);
        assert_eq!(tail.first(), 0);
        tail.flushed(1, 3);
        assert_eq!(tail.first(), 4);
    }

    #[test]
    fn a_purge_beyond_the_end_leaves_an_empty_tail_behind_it() {
        let mut tail = Tail::new(0, 0);
        (0..4).for_each(|index| tail.push(entry(index)));
        tail.purge(10);
        assert_eq!(tail.first(), 11);
        tail.push(entry(11));
        assert_eq!(tail.get(11).map(|entry| entry.log_id.index()), Some(11));
    }
}
