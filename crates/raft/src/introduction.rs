//! How a node that starts makes itself known to all members.
//!
//! Consensus speaks mostly between the leader and each follower, so a follower
//! may never have heard of another one's latest boot, and then could not tell
//! an older copy of its disk ([`crate::lineage`]). So a node that starts calls
//! every member once:
//!
//! - *before it takes part*, all at the same time and for at most [`PATIENCE`].
//!   Who remembers a boot that this node lacks says so, and the node does not
//!   start. Nobody has to answer: nodes that start at the same time go on, as
//!   none of them listens yet.
//! - *afterwards*, until each member has answered once, also those that join
//!   later.
//!
//! From then on every member that this node ever reached remembers this boot.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use annals_proto::annals::internal::v1 as pb;
use futures::future::join_all;
use tonic::Status;

use crate::identity::{self, Identity};
use crate::network::{Channels, outdated_copy};
use crate::node::Node;
use crate::peer_memory::PeerMemory;
use crate::recover;
use crate::types::{Membership, NodeInfo};

/// How long the members may take to answer before this node takes part.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often those that have not answered are called again.
const AGAIN: Duration = Duration::from_secs(1);

/// What an introduction needs.
#[derive(Clone)]
pub(crate) struct Introduction {
    pub(crate) identity: Identity,
    pub(crate) channels: Arc<Channels>,
    pub(crate) memory: PeerMemory,
}

impl Introduction {
    /// Calls all members that are not among `known`, and adds to these who
    /// answered.
    ///
    /// # Errors
    /// Why this node must not take part: a member shows that it runs on an
    /// outdated copy of its disk, or went on without this cluster.
    pub(crate) async fn to_all(&self, membership: &Membership, known: &mut BTreeSet<u64>) -> Result<(), String> {
        let strangers = membership.nodes().filter(|(id, _)| **id != self.identity.node && !known.contains(id));
        let calls = strangers.map(|(id, node)| async move {
            let answer = tokio::time::timeout(PATIENCE, self.to(*id, node)).await;
            (*id, answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))))
        });
        for (id, answer) in join_all(calls).await {
            match answer {
                Ok(()) => {
                    known.insert(id);
                }
                Err(status) => {
                    // Seen for itself, as everywhere.
                    let missed = identity::missed_boot(status.metadata());
                    if let Some(boot) = missed.filter(|boot| !self.identity.lineage.holds(boot)) {
                        let evidence = format!("node {id} remembers its start {boot}, of which it knows nothing");
                        return Err(outdated_copy(self.identity.node, &evidence));
                    }
                    if let Some(why) = recover::told_given_up(id, status.metadata()) {
                        return Err(why);
                    }
                    tracing::debug!(peer = id, %status, "a member could not be told of this start yet");
                }
            }
        }
        Ok(())
    }

    async fn to(&self, id: u64, node: &NodeInfo) -> Result<(), Status> {
        let mut client = self.channels.coordination(&node.address)?;
        let answer = client.greet(self.identity.sign(id, node, pb::GreetRequest {})).await?;
        let lineage = identity::lineage(answer.metadata());
        self.memory.meet(id, &lineage).await.map_err(|unacceptable| Status::unavailable(unacceptable.to_string()))
    }
}

/// Goes on until each member has answered, and for those that join later.
pub(crate) async fn run(node: Node, introduction: Introduction, mut known: BTreeSet<u64>) {
    loop {
        tokio::time::sleep(AGAIN).await;
        let Some(running) = node.running() else { return };
        let membership = running.metrics().membership_config;
        if let Err(why) = introduction.to_all(membership.membership(), &mut known).await {
            running.outdated.send_replace(Some(why));
            return;
        }
    }
}
