//! Who is in the cluster, as the protocol's clients understand it (protocol
//! 4.2): used by gRPC gossip and by `/gossip`, which must agree.

use annals_core::Timestamp;
use annals_proto::event_store::client::gossip::member_info::VNodeState;
use annals_raft::{Member, Role, Status};
use std::time::SystemTime;
use uuid::Uuid;

use crate::context::Context;

/// Entries a learner may be behind and still count as a replica that can be
/// read from.
const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// A member as clients are told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Whether it is the node that answers.
    pub(crate) own: bool,
    pub(crate) instance: Uuid,
    pub(crate) seen: Timestamp,
    pub(crate) state: VNodeState,
    pub(crate) alive: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// All members. A node that has no cluster yet tells of itself alone, so that
/// a client that asks it learns that it is not ready rather than nothing.
pub(crate) fn told(context: &Context) -> Vec<Told> {
    let status = context.node.status();
    let seen = Timestamp::from(SystemTime::now());
    let draining = context.health.is_draining();
    if status.members.is_empty() {
        let (host, port) = split(&context.config.own_address());
        let state = if draining { VNodeState::ShuttingDown } else { VNodeState::Initializing };
        return vec![Told { own: true, instance: status.incarnation, seen, state, alive: true, host, port }];
    }
    let cluster = status.cluster.unwrap_or_else(Uuid::nil);
    let tell = |member: &Member| {
        let (host, port) = split(&member.address);
        let alive = is_alive(&status, member);
        Told {
            own: member.id == status.node,
            instance: instance(cluster, member.id),
            seen,
            state: state(&status, member, alive, draining),
            alive,
            host,
            port,
        }
    };
    status.members.iter().map(tell).collect()
}

/// The state of the answering node in lower case, as `/info` says it.
pub(crate) fn own_state(context: &Context) -> VNodeState {
    let status = context.node.status();
    let draining = context.health.is_draining();
    match status.members.iter().find(|member| member.id == status.node) {
        Some(member) => state(&status, member, true, draining),
        None if draining => VNodeState::ShuttingDown,
        None => VNodeState::Initializing,
    }
}

/// Only a leader knows of everybody; what others cannot know counts as alive,
/// because clients then simply try.
fn is_alive(status: &Status, member: &Member) -> bool {
    member.reachable || member.id == status.node || status.role != Role::Leader
}

fn state(status: &Status, member: &Member, alive: bool, draining: bool) -> VNodeState {
    let own = member.id == status.node;
    let leads = status.leader.as_ref().is_some_and(|(leader, _)| *leader == member.id);
    if own && draining {
        VNodeState::ShuttingDown
    } else if !alive {
        // Python's client goes by the state alone: a dead member has one that
        // nobody connects to first.
        VNodeState::Unknown
    } else if leads {
        VNodeState::Leader
    } else if member.voter {
        // Without a leader nobody is a follower of anything.
        if status.leader.is_some() { VNodeState::Follower } else { VNodeState::Unknown }
    } else if member.matched.is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= status.last_log) {
        VNodeState::ReadOnlyReplica
    } else {
        VNodeState::CatchingUp
    }
}

/// An id for a member that every node makes alike: node ids are never used
/// twice in a cluster.
fn instance(cluster: Uuid, node: u64) -> Uuid {
    let (high, low) = cluster.as_u64_pair();
    Uuid::from_u64_pair(high, low ^ node)
}

/// Host and port of an address that was validated when it was configured.
pub(crate) fn split(address: &str) -> (String, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "2113"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host.to_owned(), port.parse().unwrap_or(2113))
}

#[cfg(test)]
mod tests {
    use super::*;
    use annals_raft::Phase;

    fn member(id: u64, voter: bool, matched: Option<u64>, reachable: bool) -> Member {
        Member { id, address: format!("node-{id}:2113"), voter, matched, reachable, ..Member::default() }
    }

    fn status(node: u64, role: Role, leader: Option<u64>) -> Status {
        Status {
            cluster: Some(Uuid::from_u128(7)),
            node,
            incarnation: Uuid::from_u128(8),
            phase: Phase::Ready,
            role,
            term: 1,
            leader: leader.map(|id| (id, format!("node-{id}:2113"))),
            members: Vec::new(),
            last_log: 5_000,
            committed: 5_000,
            applied: 5_000,
            durable: 0,
            snapshot: 0,
            purged: 0,
            quorum_acked_ago: None,
        }
    }

    fn told_state(status: &Status, member: &Member) -> VNodeState {
        state(status, member, is_alive(status, member), false)
    }

    #[test]
    fn a_leader_tells_who_follows_and_who_is_gone() {
        let status = status(1, Role::Leader, Some(1));
        assert_eq!(told_state(&status, &member(1, true, None, false)), VNodeState::Leader);
        assert_eq!(told_state(&status, &member(2, true, None, true)), VNodeState::Follower);
        assert_eq!(told_state(&status, &member(3, true, None, false)), VNodeState::Unknown);
        assert_eq!(told_state(&status, &member(4, false, Some(10), true)), VNodeState::CatchingUp);
        assert_eq!(told_state(&status, &member(4, false, Some(4_999), true)), VNodeState::ReadOnlyReplica);
    }

    #[test]
    fn without_a_leader_nobody_leads_or_follows() {
        let status = status(1, Role::Candidate, None);
        for id in 1..=3 {
            assert_eq!(told_state(&status, &member(id, true, None, false)), VNodeState::Unknown);
        }
    }

    #[test]
    fn instances_differ_between_members_and_agree_between_nodes() {
        let cluster = Uuid::from_u128(99);
        assert_ne!(instance(cluster, 1), instance(cluster, 2));
        assert_eq!(instance(cluster, 1), instance(cluster, 1));
    }

    #[test]
    fn an_address_is_host_and_port() {
        assert_eq!(split("node-1.example:2114"), ("node-1.example".to_owned(), 2114));
        assert_eq!(split("[::1]:2113"), ("::1".to_owned(), 2113));
    }
}
