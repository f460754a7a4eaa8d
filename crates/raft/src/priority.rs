//! Who should lead, where any of several could.
//!
//! Each node has a priority, a number that its operator sets, 0 by default. A leader
//! asks the other voters for theirs, and hands leadership over to one with a higher
//! one. That is a wish and no rule: elections do not know of priorities, so that a
//! cluster has a leader whoever is left, and safety does not depend on them. Nobody
//! hands over to a voter that is behind or does not answer, and nobody to an equal
//! one: leadership comes to rest.

use std::time::{Duration, Instant};

use annals_proto::annals::internal::v1 as pb;

use crate::admin::AdminRequest;
use crate::node::Node;
use crate::status::{Member, Phase, Role};

/// How often a leader asks.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long a voter may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Entries that a voter may lag behind and still take over.
const LAG: u64 = 100;

/// How long that may take.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub(crate) async fn run(node: Node) {
    let stopping = node.stopping().clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            () = node.priority_changed() => {}
            () = stopping.cancelled() => return,
        }
        let own = node.priority();
        let Some((to, priority)) = preferred(&node, own).await else { continue };
        let request = AdminRequest::TransferLeadership { to: Some(to) };
        match node.administer(request, Instant::now() + HAND_OVER).await {
            Ok(_) => tracing::info!(to, priority, own, "handed leadership over to a node with a higher priority"),
            Err(error) => tracing::warn!(to, priority, own, %error, "leadership was not handed over"),
        }
    }
}

/// The voter that should lead in this node's stead, if this node leads.
async fn preferred(node: &Node, own: i32) -> Option<(u64, i32)> {
    let status = node.status();
    if status.role != Role::Leader || status.phase != Phase::Ready {
        return None;
    }
    let cluster = status.cluster?;
    let could_lead = |member: &&Member| {
        let caught_up = member.matched.is_some_and(|matched| matched + LAG >= status.last_log);
        member.id != status.node && member.voter && member.reachable && caught_up
    };
    let mut best = None;
    for member in status.members.iter().filter(could_lead) {
        let Ok(mut client) = node.channels().coordination(&member.address) else { continue };
        let Ok(Ok(reply)) = tokio::time::timeout(ANSWER, client.probe(pb::ProbeRequest {})).await else { continue };
        let reply = reply.into_inner();
        let is_it = reply.cluster[..] == cluster.as_bytes()[..] && reply.node == member.id;
        if is_it && reply.priority > best.map_or(own, |(_, priority)| priority) {
            best = Some((member.id, reply.priority));
        }
    }
    best
}
