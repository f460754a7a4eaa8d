//! `annals cluster hash`: whether all nodes hold the same events.

use annals_client::{Cluster, Settings};
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::alone;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// The events of all nodes, compared by a hash over all of them.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hashes {
    /// Up to which position.
    position: u64,
    /// Whether those that answered have the same.
    equal: bool,
    /// The members.
    nodes: Vec<OfNode>,
}

/// The hash of one node.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OfNode {
    /// Its id.
    node: u64,
    /// Its address, HOST:PORT.
    address: String,
    /// Over all its events up to the position, 32 hexadecimal digits; null: it did not
    /// answer.
    hash: Option<String>,
}

/// A member and a connection to it alone.
struct Peer {
    id: u64,
    address: String,
    cluster: Cluster,
}

pub(super) async fn run(
    settings: &Settings,
    cluster: &Cluster,
    position: Option<u64>,
    format: Format,
) -> Result<(), Failure> {
    let members = cluster.status().await?.nodes;
    let mut peers = Vec::new();
    for member in members {
        let cluster = alone(settings, &member.address).cluster();
        peers.push(Peer { id: member.id, address: member.address, cluster });
    }
    let position = match position {
        Some(position) => position,
        None => common_tail(&peers).await?,
    };
    if position == 0 {
        return Err(Failure::new(Code::NotFound, anyhow::anyhow!("there is no event yet that all nodes have")));
    }
    let mut hashes = Vec::new();
    for peer in &peers {
        let hash = peer.cluster.hash(Some(position)).await.map(|reply| reply.hash);
        if let Err(error) = &hash {
            eprintln!("warning: node {} at {}: {error}", peer.id, peer.address);
        }
        hashes.push(hash.ok());
    }
    let told: Vec<&String> = hashes.iter().flatten().collect();
    let equal = told.windows(2).all(|pair| pair[0] == pair[1]);
    match format {
        Format::Json => {
            let nodes = peers
                .iter()
                .zip(&hashes)
                .map(|(peer, hash)| OfNode { node: peer.id, address: peer.address.clone(), hash: hash.clone() })
                .collect();
            output::json(&Hashes { position, equal, nodes })?;
        }
        Format::Table => {
            let rows = peers.iter().zip(&hashes).map(|(peer, hash)| {
                let hash = hash.clone().unwrap_or_else(|| "no answer".to_owned());
                vec![peer.id.to_string(), peer.address.clone(), position.to_string(), hash]
            });
            output::table(&["NODE", "ADDRESS", "POSITION", "HASH"], rows.collect())?;
        }
    }
    if told.is_empty() {
        return Err(Failure::new(Code::Unavailable, anyhow::anyhow!("no node told its hash")));
    }
    if !equal {
        return Err(Failure::new(Code::Conflict, anyhow::anyhow!("the nodes differ: stop writing and look into it")));
    }
    Ok(())
}

/// The newest position that every node that answers has.
async fn common_tail(peers: &[Peer]) -> Result<u64, Failure> {
    let mut lowest = None;
    for peer in peers {
        match peer.cluster.status().await {
            Ok(status) => lowest = Some(lowest.map_or(status.tail, |lowest: u64| lowest.min(status.tail))),
            Err(error) => eprintln!("warning: node {} at {}: {error}", peer.id, peer.address),
        }
    }
    lowest.ok_or_else(|| Failure::new(Code::Unavailable, anyhow::anyhow!("no node answers")))
}
