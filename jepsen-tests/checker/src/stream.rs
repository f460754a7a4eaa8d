//! The history of one stream: where its events are, and when what is shown of
//! it changed.
//!
//! Invariants
//! - `positions` hold its events in order, without the tombstone; an event's
//!   index in them is its revision unless the stream is not dense.
//! - Epochs follow each other from gap 0 to the tail.

use std::sync::Arc;

use crate::history::Retention;

/// A stretch of the log in which nothing but appends happened to a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    /// From the gap after this position …
    pub(crate) from: u64,
    /// … to the gap after this one, inclusive.
    pub(crate) to: u64,
    /// The stream's metadata, if it has any.
    pub(crate) metadata: Option<Retention>,
    /// Whether the stream has ended.
    pub(crate) tombstoned: bool,
}

/// The history of one stream.
pub(crate) struct Stream {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// The positions of its events, by revision.
    pub(crate) positions: Vec<u64>,
    /// Where its metadata was set, and to what.
    pub(crate) metadata: Vec<(u64, Retention)>,
    /// Where it was ended.
    pub(crate) tombstone: Option<u64>,
    /// The stream whose metadata this one holds.
    pub(crate) described: Option<u32>,
    /// Whether its revisions have no gaps.
    pub(crate) dense: bool,
    /// Its history in stretches.
    pub(crate) epochs: Vec<Epoch>,
}

impl Stream {
    /// The history of a stream that never was.
    pub(crate) fn nothing(name: Arc<str>, tail: u64) -> Stream {
        let mut stream = Stream::new(name, None);
        stream.cut(None, tail);
        stream
    }

    pub(crate) fn new(name: Arc<str>, described: Option<u32>) -> Stream {
        Stream {
            name,
            positions: Vec::new(),
            metadata: Vec::new(),
            tombstone: None,
            described,
            dense: true,
            epochs: Vec::new(),
        }
    }

    /// How many events it has up to this position.
    pub(crate) fn count(&self, position: u64) -> u64 {
        self.positions.partition_point(|at| *at <= position) as u64
    }

    /// Its newest metadata.
    pub(crate) fn newest(&self) -> Option<Retention> {
        self.metadata.last().map(|(_, retention)| *retention)
    }

    /// Whether anything was ever hidden in it.
    pub(crate) fn was_altered(&self) -> bool {
        self.epochs.len() > 1
    }

    /// Cuts its history into stretches, when it is known.
    pub(crate) fn cut(&mut self, tombstone: Option<u64>, tail: u64) {
        let mut starts = vec![(0, None, false)];
        starts.extend(self.metadata.iter().map(|(at, retention)| (*at, Some(*retention), false)));
        if let Some(at) = tombstone {
            starts.retain(|(start, ..)| *start < at);
            starts.push((at, self.newest(), true));
        }
        let ends = starts.iter().skip(1).map(|(start, ..)| start.saturating_sub(1)).chain([tail]);
        let epochs = starts.iter().zip(ends);
        self.epochs = epochs
            .map(|((from, metadata, tombstoned), to)| Epoch {
                from: *from,
                to,
                metadata: *metadata,
                tombstoned: *tombstoned,
            })
            .collect();
    }
}
