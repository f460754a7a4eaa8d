//! What the members say of themselves: release, and how far they have applied.
//!
//! Consensus speaks between the leader and each follower, and of none of this. Each
//! node asks all members every few seconds, so that any node can tell an operator how
//! the cluster is doing. Nothing is decided by it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;

use crate::bootstrap;
use crate::node::Node;
use crate::status::Member;

/// How often.
const EVERY: Duration = Duration::from_secs(2);

/// What was said longer ago counts no more.
const LATELY: Duration = Duration::from_secs(8);

/// The newest answers, by node.
#[derive(Default)]
pub(crate) struct Survey(Mutex<BTreeMap<u64, Answer>>);

struct Answer {
    at: Instant,
    version: String,
    applied: u64,
}

impl Survey {
    /// Completes what a node tells of a member.
    pub(crate) fn complete(&self, member: &mut Member) {
        let answers = self.0.lock();
        let Some(answer) = answers.get(&member.id).filter(|answer| answer.at.elapsed() < LATELY) else { return };
        member.version = Some(answer.version.clone()).filter(|version| !version.is_empty());
        member.applied = Some(answer.applied);
    }
}

/// Runs until the node stops.
pub(crate) async fn run(node: Node) {
    let stopping = node.stopping().clone();
    loop {
        tokio::select! {
            () = ask(&node) => {}
            () = stopping.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stopping.cancelled() => return,
        }
    }
}

async fn ask(node: &Node) {
    let status = node.status();
    let Some(cluster) = status.cluster else { return };
    let others = status.members.iter().filter(|member| member.id != status.node);
    let asked = others.map(|member| async {
        let reply = bootstrap::probe(node, &member.address).await.ok()?;
        // At the address may be another node by now.
        let is_it = reply.cluster[..] == cluster.as_bytes()[..] && reply.node == member.id;
        is_it.then(|| (member.id, Answer { at: Instant::now(), version: reply.version, applied: reply.applied }))
    });
    let answers: Vec<(u64, Answer)> = join_all(asked).await.into_iter().flatten().collect();
    let mut known = node.survey().0.lock();
    known.retain(|id, _| status.members.iter().any(|member| member.id == *id));
    known.extend(answers);
}
