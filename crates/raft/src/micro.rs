//! For the micro-benchmarks (`benches/micro`) alone: what every append goes
//! through here, which nobody outside may name. Not an interface.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::EntryPayload;

use crate::codec::{self, EncodedMembership, LogIdForm};
use crate::types::{Entry, LogId, Membership, NodeInfo, Proposal, StoredMembership};

/// An entry of the log.
#[derive(Debug)]
pub struct LogEntry(Entry);

impl LogEntry {
    /// An entry with this batch.
    pub fn new(batch: Bytes) -> Self {
        LogEntry(Entry { log_id: log_id(), payload: EntryPayload::Normal(Proposal::new(batch)) })
    }

    /// As it is written to the disk and sent to other nodes.
    pub fn encode(&self) -> Bytes {
        codec::encode_entry(&self.0)
    }

    /// As it is read from the disk or received. None if the bytes are no entry.
    pub fn decode(bytes: Bytes) -> Option<Self> {
        codec::decode_entry(bytes).ok().map(LogEntry)
    }
}

/// What the store keeps with every applied entry.
#[derive(Debug)]
pub struct Applied(LogId, EncodedMembership);

impl Applied {
    /// In a cluster of as many voters.
    pub fn new(voters: u64) -> Self {
        let ids: BTreeSet<u64> = (1..=voters).collect();
        let node = |id: &u64| {
            (*id, NodeInfo { address: format!("node-{id}.example:2113"), incarnation: [7; 16], ..NodeInfo::default() })
        };
        let nodes: BTreeMap<u64, NodeInfo> = ids.iter().map(node).collect();
        let membership = Membership::new(vec![ids], nodes).expect("every voter has a node");
        Applied(log_id(), EncodedMembership::from(&StoredMembership::new(Some(log_id()), membership)))
    }

    /// The bytes that go with the entry.
    pub fn encode(&self) -> Bytes {
        codec::encode_mark(&self.0, &self.1)
    }
}

fn log_id() -> LogId {
    LogIdForm { term: 3, node: 2, index: 1_000_000 }.into()
}
