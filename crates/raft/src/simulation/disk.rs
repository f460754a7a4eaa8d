//! What a simulated machine keeps when its process ends.

use std::collections::BTreeMap;

use annals_core::Timestamp;
use annals_store::{ChainHash, Mark, Record};
use bytes::Bytes;
use uuid::Uuid;

use crate::codec;
use crate::identity::Identity;
use crate::types::LogId;

/// The data directory of one machine.
#[derive(Default)]
pub(crate) struct Disk {
    /// Names the directory from its beginning; in `identity` once it has one.
    pub(crate) incarnation: Uuid,
    pub(crate) identity: Option<Identity>,
    pub(crate) removed: bool,
    pub(crate) log: LogImage,
    pub(crate) state: StateImage,
}

/// The log as it was written.
#[derive(Default)]
pub(crate) struct LogImage {
    pub(crate) vote: Option<Bytes>,
    pub(crate) entries: BTreeMap<u64, (LogId, Bytes)>,
    pub(crate) purged: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) snapshot: Option<Bytes>,
}

/// The event store as it was flushed.
#[derive(Clone, Default)]
pub(crate) struct StateImage {
    pub(crate) mark: Option<Mark>,
    pub(crate) records: Vec<Record>,
    pub(crate) totals: Totals,
}

/// What follows from the entries beside the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) chain: ChainHash,
    pub(crate) time: Timestamp,
    pub(crate) last_node: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Totals { chain: ChainHash::START, time: Timestamp::default(), last_node: 0 }
    }
}

/// One write to the log, the least that a crash leaves or loses.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Entry(LogId, Bytes),
    Vote(Bytes),
    Committed(Bytes),
    Snapshot(Bytes),
    Truncate(u64),
    Purge(LogId),
}

impl LogImage {
    pub(crate) fn write(&mut self, write: Write) {
        match write {
            Write::Entry(log_id, bytes) => {
                self.entries.insert(log_id.index(), (log_id, bytes));
            }
            Write::Vote(bytes) => self.vote = Some(bytes),
            Write::Committed(bytes) => self.committed = Some(bytes),
            Write::Snapshot(bytes) => self.snapshot = Some(bytes),
            Write::Truncate(from) => {
                self.entries.split_off(&from);
            }
            Write::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index() + 1));
                self.purged = Some(codec::encode_log_id(&upto));
            }
        }
    }

    /// Whether anything was ever written.
    pub(crate) fn has_begun(&self) -> bool {
        self.vote.is_some() || !self.entries.is_empty() || self.purged.is_some()
    }

    fn purged_index(&self) -> Option<u64> {
        let bytes = self.purged.as_ref()?;
        Some(codec::decode_log_id(bytes).expect("it was encoded here").index())
    }
}

impl Disk {
    /// Whether this entry, or a state that includes it, survives a crash now.
    pub(crate) fn holds(&self, log_id: &LogId) -> bool {
        let index = log_id.index();
        self.log.entries.get(&index).is_some_and(|(there, _)| there == log_id)
            || self.log.purged_index().is_some_and(|purged| purged >= index)
            || self.state.mark.as_ref().is_some_and(|mark| mark.index >= index)
    }
}
