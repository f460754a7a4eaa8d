//! What a node does by itself, about once a second.
//!
//! The log must not grow for ever, and must never lose what could still be
//! needed. An entry may be purged when its effects survive a crash without it
//! (it is *durable*: flushed), when the current snapshot includes it, when it
//! is old enough that followers who were briefly away do not need it, and when
//! no transfer reaches back to it. In this order:
//!
//! 1. flush the state when much is applied and not flushed;
//! 2. make what is durable the current snapshot;
//! 3. purge up to the lowest of these bounds.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::RaftStateMachine;

use crate::flusher::stop_process;
use crate::node::{Node, Running};
use crate::types::{Raft, TypeConfig, index_of};

const EVERY: Duration = Duration::from_secs(1);

/// Purging in smaller steps would only cost.
const PURGE_STEP: u64 = 1_000;

/// What `log_keep_bytes` is measured with: where the log stood at times, and
/// how many bytes had been applied then.
#[derive(Default)]
struct Growth {
    samples: VecDeque<(u64, u64)>,
}

impl Growth {
    /// Remembers that `applied` entries had `bytes` in all.
    fn sample(&mut self, applied: u64, bytes: u64) {
        if self.samples.back().is_none_or(|(last, _)| *last < applied) {
            self.samples.push_back((applied, bytes));
        }
    }

    /// The number of entries, from the first, that lie further back than
    /// `keep` bytes.
    fn older_than(&mut self, keep: u64) -> u64 {
        let Some((_, total)) = self.samples.back().copied() else { return 0 };
        while self.samples.get(1).is_some_and(|(_, bytes)| total - bytes >= keep) {
            self.samples.pop_front();
        }
        match self.samples.front() {
            Some((applied, bytes)) if total - bytes >= keep => *applied,
            Some(_) | None => 0,
        }
    }
}

/// Runs until the node stops.
pub(crate) async fn run(node: Node) {
    let stopping = node.stopping().clone();
    let mut growth = Growth::default();
    let mut flushed_bytes = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stopping.cancelled() => return,
        }
        node.log().tick();
        measure_disk(&node);
        if let Some(running) = node.running() {
            look_after_log(&node, running, &mut growth, &mut flushed_bytes).await;
        }
    }
}

/// Notes how many bytes the disk has free.
pub(crate) fn measure_disk(node: &Node) {
    match rustix::fs::statvfs(&node.config().data) {
        Ok(disk) => node.free_bytes().store(disk.f_bavail.saturating_mul(disk.f_frsize), Ordering::Relaxed),
        Err(error) => tracing::warn!(%error, "the free space of the disk is not known"),
    }
}

async fn look_after_log(node: &Node, running: &Running, growth: &mut Growth, flushed_bytes: &mut u64) {
    let config = node.config();
    let applied = *running.applied.borrow();
    let bytes = running.machine.applied_bytes();
    growth.sample(applied, bytes);

    let durable = durable(node, running).await;
    node.note_durable(durable);
    let unflushed = applied.saturating_sub(durable);
    if unflushed >= config.flush_entries || (unflushed > 0 && bytes - *flushed_bytes >= config.flush_bytes) {
        flush(node).await;
        *flushed_bytes = bytes;
        node.note_durable(self::durable(node, running).await);
    }

    let older = applied.saturating_sub(config.log_keep_entries).max(growth.older_than(config.log_keep_bytes));
    let (_, purged) = node.log().bounds();
    let bounds = Bounds {
        purged: purged.map_or(0, |purged| purged.index() + 1),
        older,
        durable: node.durable(),
        transfer: node.transfers().limit(),
    };
    let Some(upto) = bounds.purge_upto(PURGE_STEP.min(config.log_keep_entries.max(1))) else { return };
    if let Err(error) = purge(&running.raft, upto).await {
        tracing::warn!(%error, "the log could not be purged");
    }
}

/// What limits a purge. Numbers of entries from the first, but `transfer`.
pub(crate) struct Bounds {
    /// Are purged.
    pub(crate) purged: u64,
    /// Are old enough that nobody who was briefly away needs them.
    pub(crate) older: u64,
    /// Survive a crash without the log.
    pub(crate) durable: u64,
    /// The highest entry that no transfer needs.
    pub(crate) transfer: Option<u64>,
}

impl Bounds {
    /// The highest entry that may go, if at least `step` would go.
    pub(crate) fn purge_upto(&self, step: u64) -> Option<u64> {
        let mut end = self.older.min(self.durable);
        if let Some(limit) = self.transfer {
            end = end.min(limit + 1);
        }
        (end >= self.purged + step.max(1)).then(|| end - 1)
    }
}

/// How many entries survive a crash without the log.
async fn durable(node: &Node, running: &Running) -> u64 {
    let store = node.store().clone();
    match tokio::task::spawn_blocking(move || store.durable_mark()).await {
        Ok(Ok(mark)) => mark.map_or(0, |mark| mark.index + 1),
        Ok(Err(error)) => stop_process("the state could not be read", &error),
        // The runtime is going down.
        Err(_) => *running.applied.borrow(),
    }
}

async fn flush(node: &Node) {
    let store = node.store().clone();
    let started = Instant::now();
    match tokio::task::spawn_blocking(move || store.flush()).await {
        Ok(Ok(_)) => node.config().observer.state_flushed(started.elapsed()),
        Ok(Err(error)) => stop_process("the state could not be flushed", &error),
        Err(_) => {}
    }
}

pub(crate) async fn purge<M: RaftStateMachine<TypeConfig>>(raft: &Raft<M>, upto: u64) -> Result<(), String> {
    let mut metrics = raft.metrics();
    let snapshot = |metrics: &crate::types::Metrics| index_of(metrics.snapshot.as_ref());
    if snapshot(&metrics.borrow_watched()) < upto {
        raft.trigger().snapshot().await.map_err(|error| error.to_string())?;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while snapshot(&metrics.borrow_watched()) < upto {
            match tokio::time::timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("the node stops".into()),
                Err(_) => return Err("the snapshot was not made in time".into()),
            }
        }
    }
    tracing::debug!(upto, "purging the log");
    raft.trigger().purge_log(upto).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_tells_what_lies_further_back_than_the_bytes_to_keep() {
        let mut growth = Growth::default();
        assert_eq!(growth.older_than(100), 0);
        for step in 1..=10 {
            growth.sample(step * 10, step * 50);
        }
        assert_eq!(growth.older_than(1_000), 0);
        assert_eq!(growth.older_than(100), 80, "entries 81 to 100 hold the newest 100 bytes");
    }
}
