//! What a node says of itself.

use std::time::Duration;

use openraft::Instant as _;
use openraft::ServerState;
use uuid::Uuid;

use super::Node;
use crate::status::{Member, Phase, Role, Status};
use crate::types::index_of;

/// A peer that was heard of within this time counts as reachable.
const REACHABLE: Duration = Duration::from_secs(3);

impl Node {
    pub(super) fn publish_status(&self) {
        let status = self.make_status();
        self.inner.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    pub(super) fn make_status(&self) -> Status {
        let inner = &self.inner;
        let phase = *inner.phase.borrow();
        let identity = self.identity();
        let mut status = no_status(inner.incarnation);
        status.phase = phase;
        status.cluster = identity.map(|identity| identity.cluster);
        status.node = identity.map_or(0, |identity| identity.node);
        status.durable = self.durable().saturating_sub(1);
        let Some(running) = inner.running.get() else { return status };
        let metrics = running.metrics();
        let takes_part = !matches!(phase, Phase::Removed | Phase::Outdated | Phase::Stopped);
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        status.role = match metrics.state {
            ServerState::Leader if takes_part => Role::Leader,
            ServerState::Follower if takes_part => Role::Follower,
            ServerState::Candidate if takes_part => Role::Candidate,
            ServerState::Leader
            | ServerState::Follower
            | ServerState::Candidate
            | ServerState::Learner
            | ServerState::Shutdown => Role::Learner,
        };
        status.term = metrics.current_term;
        status.leader = metrics
            .current_leader
            .filter(|_| takes_part)
            .and_then(|leader| metrics.membership_config.get_node(&leader).map(|node| (leader, node.address.clone())));
        let leads = status.role == Role::Leader;
        status.members = metrics
            .membership_config
            .nodes()
            .map(|(id, node)| {
                let matched = if !leads {
                    None
                } else if *id == running.identity.node {
                    metrics.last_log_index
                } else {
                    let matched = metrics.replication.as_ref().and_then(|all| all.get(id)).and_then(Option::as_ref);
                    matched.map(|matched| matched.index())
                };
                let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(id)).and_then(Option::as_ref);
                let reachable = *id == running.identity.node
                    || heard.is_some_and(|heard| heard.elapsed() < REACHABLE)
                    || (!leads && metrics.current_leader == Some(*id));
                let mut member = Member {
                    id: *id,
                    address: node.address.clone(),
                    voter: voters.contains(id),
                    matched,
                    reachable,
                    name: node.called().to_owned(),
                    replica: node.replica,
                    replaces: Some(node.replaces).filter(|old| metrics.membership_config.get_node(old).is_some()),
                    version: None,
                    applied: None,
                };
                if *id == running.identity.node {
                    member.version = Some(inner.config.version.clone()).filter(|version| !version.is_empty());
                    member.applied = Some(running.applied.borrow().saturating_sub(1));
                } else {
                    inner.survey.complete(&mut member);
                }
                member
            })
            .collect();
        status.last_log = metrics.last_log_index.unwrap_or(0);
        status.committed = index_of(metrics.cluster_committed.as_ref()).max(index_of(metrics.local_committed.as_ref()));
        status.applied = running.applied.borrow().saturating_sub(1);
        status.snapshot = index_of(metrics.snapshot.as_ref());
        status.purged = index_of(metrics.purged.as_ref());
        status.quorum_acked_ago = metrics.last_quorum_acked.map(|acked| acked.elapsed()).filter(|_| leads);
        status
    }
}

pub(super) fn no_status(incarnation: Uuid) -> Status {
    Status {
        cluster: None,
        node: 0,
        incarnation,
        phase: Phase::Waiting,
        role: Role::Learner,
        term: 0,
        leader: None,
        members: Vec::new(),
        last_log: 0,
        committed: 0,
        applied: 0,
        durable: 0,
        snapshot: 0,
        purged: 0,
        quorum_acked_ago: None,
    }
}
