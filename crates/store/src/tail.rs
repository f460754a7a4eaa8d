//! The newest records, in memory.
//!
//! Readers that keep up with the log, which is all live subscribers, are
//! served from here, whatever their number; who falls behind reads from disk.
//! Bounded in bytes; the oldest records leave first.

use std::collections::VecDeque;

use annals_core::Position;

use crate::record::Record;

/// A contiguous stretch of records that ends at the tail, or nothing.
pub(crate) struct Ring {
    records: VecDeque<Record>,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Ring { records: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Takes in the records that follow.
    pub(crate) fn push(&mut self, records: impl IntoIterator<Item = Record>) {
        for record in records {
            if let Some(last) = self.records.back() {
                assert_eq!(record.position(), last.position().next(), "the ring has no gaps");
            }
            self.bytes += record.encoded().len();
            self.records.push_back(record);
        }
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.records.pop_front()
        {
            self.bytes -= oldest.encoded().len();
        }
    }

    /// Puts stubs where their records are, if they are here.
    pub(crate) fn replace(&mut self, stubs: impl IntoIterator<Item = Record>) {
        let Some(first) = self.records.front().map(Record::position) else { return };
        for stub in stubs {
            let index = stub.position().get().checked_sub(first.get()).and_then(|index| usize::try_from(index).ok());
            if let Some(record) = index.and_then(|index| self.records.get_mut(index)) {
                self.bytes = self.bytes - record.encoded().len() + stub.encoded().len();
                *record = stub;
            }
        }
    }

    /// The record at this position, if it is here.
    pub(crate) fn get(&self, at: Position) -> Option<&Record> {
        let first = self.records.front()?.position();
        let index = at.get().checked_sub(first.get())?;
        self.records.get(usize::try_from(index).ok()?)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
