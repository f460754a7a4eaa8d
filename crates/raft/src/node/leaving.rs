//! How a node stops: in the reverse order of its start, with as little for others to wait
//! for as it can.

use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use super::{Node, Running};
use crate::admin::{self, AdminRequest};
use crate::departure;
use crate::status::Phase;

/// How long leadership may take to be handed over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// How long a replica may take to leave the cluster.
const LEAVE: Duration = Duration::from_secs(3);

/// How long what was proposed may take to be answered.
const DRAIN: Duration = Duration::from_secs(1);

impl Node {
    /// Stops: hands leadership over if it leads (within 2 s), takes no more
    /// part, flushes the state and lets go of the disks. Later calls fail.
    pub async fn shutdown(&self) {
        if self.inner.stopping.is_cancelled() {
            return;
        }
        self.leave().await;
        self.inner.phase.send_replace(Phase::ShuttingDown);
        self.publish_status();
        if let Some(running) = self.running() {
            self.hand_over(running).await;
            // What is under way gets its outcome, if it comes soon.
            let _ = tokio::time::timeout(DRAIN, running.proposer.drained()).await;
        }
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        if let Some(running) = self.running()
            && let Err(error) = running.raft.shutdown().await
        {
            tracing::warn!(%error, "replication did not stop cleanly");
        }
        if tokio::time::timeout(Duration::from_secs(5), self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        let store = self.inner.store.clone();
        match tokio::task::spawn_blocking(move || store.close()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the state could not be flushed; it will be applied again from the log")
            }
            Err(error) => tracing::error!(%error, "the state could not be flushed"),
        }
        self.inner.log.close().await;
        self.inner.phase.send_replace(Phase::Stopped);
        self.publish_status();
        drop(self.inner.lock.lock().take());
    }

    /// Leaves the cluster, if this node is one that comes and goes.
    async fn leave(&self) {
        let config = &self.inner.config;
        let status = self.status();
        let is_replica = status.members.iter().any(|member| member.id == status.node && member.replica);
        if !config.leave_on_shutdown || !is_replica || status.phase == Phase::Removed {
            return;
        }
        if let Err(error) = departure::announce(&config.data) {
            tracing::error!(%error, "this replica stays in its cluster: that it leaves could not be written down");
            return;
        }
        let request = AdminRequest::Remove { node: status.node, force: false };
        match self.administer(request, Instant::now() + LEAVE).await {
            Ok(_) => tracing::info!("this replica has left its cluster"),
            Err(error) => tracing::warn!(%error, "this replica could not leave its cluster"),
        }
    }

    async fn hand_over(&self, running: &Running) {
        let metrics = running.metrics();
        if metrics.state != ServerState::Leader {
            return;
        }
        let voters = metrics.membership_config.voter_ids().collect();
        let Some(to) = admin::most_advanced(&metrics, running.identity.node, &voters) else { return };
        if running.raft.trigger().transfer_leader(to).await.is_err() {
            return;
        }
        let mut changes = running.raft.server_metrics();
        let handed_over = async {
            while changes.borrow_watched().current_leader == Some(running.identity.node) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(HAND_OVER, handed_over).await.is_err() {
            tracing::warn!(to, "leadership was not taken over in time");
        }
    }
}
