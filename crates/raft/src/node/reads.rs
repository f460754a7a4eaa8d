//! Up to where a linearizable read must have applied.

use std::sync::Arc;
use std::time::Duration;

use annals_core::seeded::{self, Bug};
use annals_proto::annals::internal::v1 as pb;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::storage::RaftStateMachine;
use openraft::{ReadPolicy, ServerState};

use crate::error::BarrierError;
use crate::identity::Identity;
use crate::network::Channels;
use crate::read_index::ReadIndex;
use crate::types::{Raft, TypeConfig, index_of};

/// How long the leader may take to confirm that it leads.
const READ_INDEX: Duration = Duration::from_secs(2);

/// How many entries must be applied, confirmed by a quorum.
pub(crate) async fn ask_quorum<M: RaftStateMachine<TypeConfig>>(raft: Raft<M>) -> Result<u64, BarrierError> {
    if seeded::is(Bug::S5) {
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.state == ServerState::Leader {
            return Ok(index_of(metrics.local_committed.as_ref()) + 1);
        }
    }
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => Ok(linearizer.read_log_id().index() + 1),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(BarrierError::NotLeader { leader: forward.leader_id.zip(forward.leader_node.map(|node| node.address)) })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(BarrierError::NoLeader),
        Err(RaftError::Fatal(_)) => Err(BarrierError::ShuttingDown),
    }
}

/// The same, asked of whoever leads.
pub(super) async fn ask_leader(
    raft: Raft,
    channels: Arc<Channels>,
    identity: Identity,
    own: ReadIndex,
) -> Result<u64, BarrierError> {
    let (leader, node) = {
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.ok_or(BarrierError::NoLeader)?;
        let node = metrics.membership_config.get_node(&leader).cloned().ok_or(BarrierError::NoLeader)?;
        (leader, node)
    };
    if leader == identity.node {
        return own.get().await;
    }
    let mut client = channels.coordination(&node.address).map_err(|_| BarrierError::NoLeader)?;
    let call = client.read_index(identity.sign(leader, &node, pb::ReadIndexRequest {}));
    match tokio::time::timeout(READ_INDEX, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner().applied),
        Ok(Err(_)) | Err(_) => Err(BarrierError::NoLeader),
    }
}
