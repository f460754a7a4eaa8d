//! The streams of a run: their names, and what was acknowledged in each.
//!
//! Every stream has one writer, so that the revision of each append is known
//! before it is answered. Who reads beside the writers learns here what must be
//! there by now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// What the writers and the readers of a run share.
pub(crate) struct Streams {
    /// What all names begin with, the dash included.
    beginning: String,
    names: Vec<Bytes>,
    /// Events of each stream that were acknowledged.
    acknowledged: Vec<AtomicU64>,
}

impl Streams {
    /// A beginning that no other run has.
    pub(crate) fn new_prefix() -> String {
        format!("bench{:08x}", rand::random::<u32>())
    }

    /// `prefix-0`, `prefix-1` and so on.
    pub(crate) fn new(prefix: &str, count: u32) -> Arc<Self> {
        Arc::new(Streams {
            beginning: format!("{prefix}-"),
            names: (0..count).map(|number| Bytes::from(format!("{prefix}-{number}"))).collect(),
            acknowledged: (0..count).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    /// What all names begin with, the dash left out.
    pub(crate) fn prefix(&self) -> &str {
        self.beginning().strip_suffix('-').unwrap_or_default()
    }

    /// What all names begin with, the dash included.
    pub(crate) fn beginning(&self) -> &str {
        &self.beginning
    }

    pub(crate) fn name(&self, stream: usize) -> &Bytes {
        &self.names[stream]
    }

    /// The stream of this name; none for a stream of somebody else.
    pub(crate) fn find(&self, name: &[u8]) -> Option<usize> {
        let number = name.strip_prefix(self.beginning.as_bytes())?;
        let number: usize = std::str::from_utf8(number).ok()?.parse().ok()?;
        (number < self.count()).then_some(number)
    }

    /// How many events of this stream were acknowledged.
    pub(crate) fn acknowledged(&self, stream: usize) -> u64 {
        self.acknowledged[stream].load(Ordering::Acquire)
    }

    /// How many events of all streams were acknowledged.
    pub(crate) fn acknowledged_in_all(&self) -> u64 {
        (0..self.count()).map(|stream| self.acknowledged(stream)).sum()
    }

    /// From now on readers may rely on so many events being there.
    pub(crate) fn acknowledge(&self, stream: usize, events: u64) {
        self.acknowledged[stream].store(events, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_found_by_its_name() {
        let streams = Streams::new("bench", 3);
        assert_eq!(streams.find(streams.name(2)), Some(2));
        for other in ["bench-3", "bench-", "bench-x", "other-1", "bench"] {
            assert_eq!(streams.find(other.as_bytes()), None, "{other}");
        }
    }
}
