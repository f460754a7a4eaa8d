//! `annals cluster`: operating a cluster.

use annals_client::{Client, Cluster, Host, Settings};
use annals_proto::annals::v1::{StatusReply, node::Role};
use serde_json::json;

use crate::Connection;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// Flags of `annals cluster`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,

    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Who is in the cluster and how it is doing, as the node that answers sees it.
    #[command(after_help = "\
Examples:
  annals cluster status
  annals cluster status --server 'kurrentdb://127.0.0.1:2114?tls=false' -o json")]
    Status,
    /// Add an empty node that waits to be added. It learns first; promote it later.
    #[command(after_help = "\
Start the node with an empty data directory and without --bootstrap.

Examples:
  annals cluster add 127.0.0.1:2116
  annals cluster add node-4.example:2113 -o json")]
    Add {
        /// Where the node listens.
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Give a learner that has caught up a vote.
    #[command(after_help = "\
Examples:
  annals cluster promote 4
  annals cluster status && annals cluster promote 4")]
    Promote {
        /// The learner's id.
        node: u64,
    },
    /// Take a node out of the cluster for good. Its id is never used again.
    #[command(after_help = "\
Examples:
  annals cluster remove 2
  annals cluster remove 2 -o json")]
    Remove {
        /// The node's id.
        node: u64,
    },
    /// Hand leadership over.
    #[command(after_help = "\
Examples:
  annals cluster transfer-leader
  annals cluster transfer-leader --to 3")]
    TransferLeader {
        /// To this node. Default: the most advanced other voter.
        #[arg(long, value_name = "NODE")]
        to: Option<u64>,
    },
    /// Compare the events of all nodes by a hash over all of them. Exit code 4 if they differ.
    #[command(after_help = "\
Examples:
  annals cluster hash
  annals cluster hash --position 100000 -o json")]
    Hash {
        /// Up to this position. Default: the newest one that all nodes have.
        #[arg(long, value_name = "POSITION")]
        position: Option<u64>,
    },
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.connection.client()?;
    let cluster = client.cluster();
    let format = arguments.connection.format();
    match arguments.command {
        Command::Status => status(&cluster.status().await?, format)?,
        Command::Add { address } => done(cluster.add(&address).await?, "added as a learner", format)?,
        Command::Promote { node } => done(cluster.promote(node).await?, "votes", format)?,
        Command::Remove { node } => done(cluster.remove(node).await?, "removed", format)?,
        Command::TransferLeader { to } => done(cluster.transfer_leader(to).await?, "leads", format)?,
        Command::Hash { position } => hash(&arguments.connection.settings()?, &cluster, position, format).await?,
    }
    Ok(())
}

fn done(node: u64, what: &str, format: Format) -> std::io::Result<()> {
    match format {
        Format::Table => output::line(&format!("node {node} {what}")),
        Format::Json => output::json(&json!({ "node": node })),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "unknown",
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Learner => "learner",
        Role::Candidate => "candidate",
    }
}

fn status(status: &StatusReply, format: Format) -> std::io::Result<()> {
    if format == Format::Json {
        let node = |node: &annals_proto::annals::v1::Node| {
            json!({
                "id": node.id,
                "address": node.address,
                "role": role(node.role()),
                "voter": node.voter,
                "matchedIndex": node.matched_index,
                "reachable": node.reachable,
            })
        };
        return output::json(&json!({
            "cluster": status.cluster,
            "node": status.node,
            "version": status.version,
            "term": status.term,
            "leader": (status.leader != 0).then_some(status.leader),
            "tail": status.tail,
            "lastLogIndex": status.last_log_index,
            "committedIndex": status.committed_index,
            "appliedIndex": status.applied_index,
            "durableIndex": status.durable_index,
            "snapshotIndex": status.snapshot_index,
            "purgedIndex": status.purged_index,
            "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
        }));
    }
    let leader = if status.leader == 0 { "none".to_owned() } else { format!("node {}", status.leader) };
    let cluster = if status.cluster.is_empty() { "none: this node waits to be added" } else { &status.cluster };
    output::line(&format!("cluster   {cluster}"))?;
    output::line(&format!("leader    {leader}, term {}", status.term))?;
    output::line(&format!(
        "answered  node {} (annals {}): newest event {}, log {} committed {} applied {} on disk {}\n",
        status.node,
        status.version,
        status.tail,
        status.last_log_index,
        status.committed_index,
        status.applied_index,
        status.durable_index
    ))?;
    let knows_all = status.leader == status.node;
    let rows = status.nodes.iter().map(|node| {
        // Only the leader hears from everybody.
        let reachable = match (node.reachable, knows_all) {
            (true, _) => "yes",
            (false, true) => "NO",
            (false, false) => "?",
        };
        vec![
            node.id.to_string(),
            node.address.clone(),
            role(node.role()).to_owned(),
            if node.voter { "yes" } else { "no" }.to_owned(),
            reachable.to_owned(),
            node.matched_index.map_or_else(|| "?".to_owned(), |index| index.to_string()),
        ]
    });
    output::table(&["NODE", "ADDRESS", "ROLE", "VOTES", "REACHABLE", "LOG"], rows.collect())
}

/// A member and a connection to it alone.
struct Peer {
    id: u64,
    address: String,
    cluster: Cluster,
}

async fn hash(settings: &Settings, cluster: &Cluster, position: Option<u64>, format: Format) -> Result<(), Failure> {
    let members = cluster.status().await?.nodes;
    let mut peers = Vec::new();
    for member in members {
        let (name, port) = member.address.rsplit_once(':').unwrap_or((&member.address, "2113"));
        let port = port.parse().unwrap_or(annals_client::connection_string::DEFAULT_PORT);
        let host = Host { name: name.trim_matches(['[', ']']).to_owned(), port };
        let alone = Settings { hosts: vec![host], discover: false, ..settings.clone() };
        peers.push(Peer { id: member.id, address: member.address, cluster: Client::new(alone).cluster() });
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
            let nodes: Vec<_> = peers
                .iter()
                .zip(&hashes)
                .map(|(peer, hash)| json!({ "node": peer.id, "address": peer.address, "hash": hash }))
                .collect();
            output::json(&json!({ "position": position, "equal": equal, "nodes": nodes }))?;
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
