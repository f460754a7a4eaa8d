//! Forming a cluster, once.
//!
//! Two nodes that each begin a cluster make two, and merging them is
//! impossible. So it needs a list of all first members, identical on all of them
//! ([`crate::founders`]), and all of them present and empty at the same time. The
//! list is given by whoever runs the nodes, or found and agreed upon through seeds
//! ([`crate::join`]). The node whose address sorts first coordinates:
//!
//! 1. *Probe* all: reachable, the same list, and empty, or already adopted
//!    into the very cluster that this node began.
//! 2. Freeze the list and take an identity itself: node ids are the places in the
//!    sorted list. From here on no other cluster can come out of these nodes.
//! 3. *Adopt* the others. Each freezes the list, if it is still the same, and writes
//!    its identity before it answers.
//! 4. Initialize the log with all of them as voters.
//!
//! A crash at any point is resumed: each step does nothing where it was done.
//! A node of the list that was wiped after step 2 has an identity elsewhere to
//! contradict it, and the coordinator refuses.

use std::collections::BTreeMap;
use std::time::Duration;

use annals_proto::annals::internal::v1 as pb;
use uuid::Uuid;

use crate::founders::told;
use crate::node::Node;
use crate::types::NodeInfo;

const PAUSE: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_secs(2);

/// What became of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The cluster exists.
    Done,
    /// Not yet: this is missing.
    Wait(String),
}

/// Forms the cluster of a node's bootstrap list, as far as that is this node's
/// task, and returns when nothing is left to do.
pub(crate) async fn run(node: Node) {
    let list = node.founders().list();
    if list.first() != Some(&node.config().address) {
        // Another node coordinates; being adopted is all there is to do.
        return;
    }
    let stopping = node.stopping().clone();
    let mut told = String::new();
    loop {
        match attempt(&node, &list).await {
            Attempt::Done => return,
            Attempt::Wait(why) => {
                if why != told {
                    tracing::info!(%why, "waiting to form the cluster");
                    told = why;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stopping.cancelled() => return,
        }
    }
}

/// One attempt of the node that coordinates.
pub(crate) async fn attempt(node: &Node, list: &[String]) -> Attempt {
    if node.is_initialized().await {
        return Attempt::Done;
    }
    if node.identity().is_some() && !node.founders().is_written() {
        // A cluster that was there before has adopted it.
        return Attempt::Done;
    }
    let mut probes = Vec::new();
    for address in list {
        let probe = if *address == node.config().address {
            node.probe()
        } else {
            match probe(node, address).await {
                Ok(probe) => probe,
                Err(why) => return Attempt::Wait(format!("the node at {address} cannot be reached: {why}")),
            }
        };
        probes.push(probe);
    }
    if let Err(why) = agree(list, &probes) {
        return Attempt::Wait(why);
    }
    let cluster = match node.identity() {
        Some(identity) => identity.cluster,
        None => Uuid::new_v4(),
    };
    let mut members = BTreeMap::new();
    for ((id, address), probe) in (1..).zip(list).zip(probes) {
        let incarnation = if *address == node.config().address {
            node.adopt(cluster, id, address, list).await
        } else {
            adopt(node, address, cluster, id, list).await
        };
        match incarnation {
            Ok(incarnation) => {
                let incarnation = *incarnation.as_bytes();
                let info = NodeInfo { address: address.clone(), incarnation, name: probe.name, ..NodeInfo::default() };
                members.insert(id, info)
            }
            Err(why) => return Attempt::Wait(format!("the node at {address} could not be adopted: {why}")),
        };
    }
    match node.initialize(members).await {
        Ok(()) => {
            tracing::info!(%cluster, members = list.len(), "the cluster is formed");
            Attempt::Done
        }
        Err(why) => Attempt::Wait(why),
    }
}

/// Whether these nodes, the coordinator first, may form a cluster together.
fn agree(list: &[String], probes: &[pb::ProbeReply]) -> Result<(), String> {
    let coordinator = &probes[0];
    for ((id, address), probe) in (1..).zip(list).zip(probes) {
        if !probe.address.is_empty() && probe.address != *address {
            return Err(format!("at {address} answers the node whose address is {}", probe.address));
        }
        if probe.bootstrap != list {
            return Err(format!(
                "the node at {address} is to start a cluster with {}, this one with {}",
                told(&probe.bootstrap),
                told(list)
            ));
        }
        let adopted_by_this = coordinator.has_identity && probe.cluster == coordinator.cluster && probe.node == id;
        if probe.has_identity && !adopted_by_this {
            return Err(format!(
                "the node at {address} already belongs to a cluster, as node {}: add this node to that cluster instead",
                probe.node
            ));
        }
        if probe.initialized {
            return Err(format!("the node at {address} already has a log"));
        }
    }
    Ok(())
}

pub(crate) async fn probe(node: &Node, address: &str) -> Result<pb::ProbeReply, String> {
    let mut client = node.channels().coordination(address).map_err(|status| status.to_string())?;
    match tokio::time::timeout(ANSWER, client.probe(pb::ProbeRequest {})).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("it did not answer".into()),
    }
}

async fn adopt(node: &Node, address: &str, cluster: Uuid, id: u64, founders: &[String]) -> Result<Uuid, String> {
    let mut client = node.channels().coordination(address).map_err(|status| status.to_string())?;
    let request = pb::AdoptRequest {
        cluster: cluster.as_bytes().to_vec().into(),
        node: id,
        address: address.to_owned(),
        founders: founders.to_vec(),
    };
    match tokio::time::timeout(ANSWER, client.adopt(request)).await {
        Ok(Ok(reply)) => Uuid::from_slice(&reply.into_inner().incarnation).map_err(|error| error.to_string()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("it did not answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<String> {
        ["a:1", "b:1", "c:1"].map(String::from).to_vec()
    }

    fn empty() -> pb::ProbeReply {
        pb::ProbeReply { bootstrap: list(), ..Default::default() }
    }

    fn adopted(cluster: u8, node: u64) -> pb::ProbeReply {
        pb::ProbeReply { has_identity: true, cluster: vec![cluster; 16].into(), node, ..empty() }
    }

    #[test]
    fn empty_nodes_with_the_same_list_may_begin() {
        assert_eq!(agree(&list(), &[empty(), empty(), empty()]), Ok(()));
    }

    #[test]
    fn an_interrupted_beginning_may_go_on() {
        assert_eq!(agree(&list(), &[adopted(1, 1), adopted(1, 2), empty()]), Ok(()));
    }

    #[test]
    fn nobody_begins_beside_a_node_that_belongs_to_a_cluster() {
        // The coordinator's disk was wiped: the others remember.
        assert!(agree(&list(), &[empty(), adopted(1, 2), adopted(1, 3)]).is_err());
        assert!(agree(&list(), &[adopted(1, 1), adopted(2, 2), empty()]).is_err());
        assert!(agree(&list(), &[adopted(1, 1), adopted(1, 3), empty()]).is_err());
    }

    #[test]
    fn an_address_that_leads_to_another_node_stops_the_beginning() {
        let lost = pb::ProbeReply { address: "c:1".into(), ..empty() };
        let refused = agree(&list(), &[empty(), lost, empty()]).expect_err("b:1 is not c:1");
        assert_eq!(refused, "at b:1 answers the node whose address is c:1");
    }

    #[test]
    fn a_differing_list_or_a_log_stops_the_beginning() {
        let other = pb::ProbeReply { bootstrap: vec!["a:1".into()], ..Default::default() };
        assert!(agree(&list(), &[empty(), other, empty()]).is_err());
        let logged = pb::ProbeReply { initialized: true, ..adopted(1, 2) };
        assert!(agree(&list(), &[adopted(1, 1), logged, empty()]).is_err());
    }
}
