//! What a node looks after while it lives.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::identity;
use crate::status::{Phase, Role};
use crate::types::Raft;

/// How often a status is made even if nothing is known to have changed.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// Runs a task until it ends or the node stops.
pub(crate) async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = stop.cancelled() => {}
    }
}

/// Ends the process when the consensus library's core has ended by itself: a
/// node that answers reads and never learns anything new is worse than none.
pub(super) async fn watch_core(node: Node, raft: Raft) {
    let mut metrics = raft.metrics();
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        let stopped = match (state, metrics.changed().await) {
            (Err(fatal), _) => fatal.to_string(),
            (Ok(()), Err(_)) => "its core is gone".to_owned(),
            (Ok(()), Ok(())) => continue,
        };
        // A process that is going down may drop the core before it drops this
        // task; then this never wakes up again.
        tokio::time::sleep(Duration::from_millis(200)).await;
        // A removed node stops its core itself.
        if node.stopping().is_cancelled() || node.running().is_none() {
            return;
        }
        crate::flusher::stop_process("replication stopped", &std::io::Error::other(stopped));
    }
}

/// Notices when everything that was committed at the start is applied.
pub(super) async fn watch_recovery(node: Node, raft: Raft) {
    let mut metrics = raft.metrics();
    let target = loop {
        let target = {
            let metrics = metrics.borrow_watched();
            let committed = metrics.cluster_committed.as_ref().map(|committed| committed.index() + 1);
            metrics.current_leader.and(committed)
        };
        match target {
            Some(target) => break target,
            None if metrics.changed().await.is_err() => return,
            None => {}
        }
    };
    let Some(running) = node.running() else { return };
    let mut applied = running.applied.clone();
    if applied.wait_for(|applied| *applied >= target).await.is_ok() {
        node.inner.phase.send_if_modified(|phase| {
            let recovering = matches!(phase, Phase::Recovering | Phase::Bootstrapping | Phase::Waiting);
            if recovering {
                *phase = Phase::Ready;
            }
            recovering
        });
        node.publish_status();
    }
}

/// Stops taking part once this node is no member any more.
pub(super) async fn watch_removal(node: Node, mut removed: watch::Receiver<bool>) {
    if removed.wait_for(|removed| *removed).await.is_err() {
        return;
    }
    tracing::warn!("this node was removed from its cluster: it takes no part any more");
    if let Err(error) = identity::mark_removed(&node.config().data) {
        tracing::error!(%error, "the removal could not be remembered");
    }
    let raft = node.running().map(|running| running.raft.clone());
    node.inner.phase.send_replace(Phase::Removed);
    node.publish_status();
    if let Some(raft) = raft
        && let Err(error) = raft.shutdown().await
    {
        tracing::warn!(%error, "replication did not stop cleanly");
    }
}

/// Stops taking part once this node is known to run on an outdated copy of its
/// disk. Whoever runs the node ends the process ([`Node::outdated`]).
pub(super) async fn watch_outdated(node: Node) {
    let why = node.outdated().await;
    tracing::error!("{why}");
    node.refused_as_outdated(why);
    let raft = node.running().map(|running| running.raft.clone());
    node.inner.phase.send_replace(Phase::Outdated);
    node.publish_status();
    if let Some(raft) = raft
        && let Err(error) = raft.shutdown().await
    {
        tracing::warn!(%error, "replication did not stop cleanly");
    }
}

pub(super) async fn keep_status(node: Node) {
    let stopping = node.stopping().clone();
    let mut phase = node.inner.phase.subscribe();
    let observer = node.config().observer.clone();
    let mut before = node.make_status();
    // One receiver for all rounds: each new one begins with "changed".
    let mut changes = None;
    loop {
        if changes.is_none() {
            changes = node.inner.running.get().map(|running| running.raft.server_metrics());
        }
        tokio::select! {
            () = tokio::time::sleep(STATUS_EVERY) => {}
            _ = phase.changed() => {}
            () = async {
                let changed = match changes.as_mut() {
                    Some(changes) => changes.changed().await.is_ok(),
                    None => false,
                };
                // The replication of a node that was removed has ended: it tells no more.
                if !changed {
                    std::future::pending::<()>().await;
                }
            } => {}
            () = stopping.cancelled() => return,
        }
        node.publish_status();
        let now = node.make_status();
        if now.leader != before.leader {
            observer.leader_changed();
        }
        if now.role == Role::Candidate && before.role != Role::Candidate {
            observer.election_started();
        }
        before = now;
    }
}
