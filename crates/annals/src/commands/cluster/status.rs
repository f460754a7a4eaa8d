//! `annals cluster status`.

use annals_proto::annals::v1::node::Role;
use annals_proto::annals::v1::{Node, StatusReply};
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::node::{Lease, lease_text};
use crate::output::{self, Format};

pub(super) fn print(status: &StatusReply, format: Format) -> std::io::Result<()> {
    match format {
        Format::Json => output::json(&Status::from(status)),
        Format::Table => table(status),
    }
}

/// Entries that a node is behind, as far as the node that answered knows.
pub(super) fn lag(status: &StatusReply, node: &Node) -> Option<u64> {
    match node.matched_index {
        Some(matched) => Some(status.last_log_index.saturating_sub(matched)),
        None => Some(status.committed_index.saturating_sub(node.applied_index?)),
    }
}

fn role(node: &Node) -> &'static str {
    match node.role() {
        Role::Unspecified => "unknown",
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Learner if node.replica => "replica",
        Role::Learner => "learner",
        Role::Candidate => "candidate",
    }
}

/// A cluster, as one of its nodes sees it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// Its id; empty: the node that answers has joined none yet.
    cluster: String,
    /// Who answers.
    node: u64,
    /// The release that it runs.
    version: String,
    /// Raft's term.
    term: u64,
    /// The node that leads; null: none is known.
    leader: Option<u64>,
    /// The position of the newest event that this node has applied; 0: none.
    tail: u64,
    /// The index of the last entry of this node's log.
    last_log_index: u64,
    /// The index of the last entry known to be on a majority of the voters.
    committed_index: u64,
    /// The index of the last entry that this node has applied.
    applied_index: u64,
    /// The index of the last entry in the files of this node's state.
    durable_index: u64,
    /// The index of the last entry in this node's snapshot; 0: there is none.
    snapshot_index: u64,
    /// The index of the last entry that this node's log has given up; 0: none.
    purged_index: u64,
    /// So many nodes get a vote by themselves.
    voters_max: u32,
    /// Whose turn it is to be maintained; null: nobody's.
    lease: Option<Lease>,
    /// The members.
    nodes: Vec<Member>,
}

/// A member of a cluster.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Member {
    /// Its id, which no other node ever gets.
    id: u64,
    /// What people call it.
    name: String,
    /// Where clients and peers reach it, HOST:PORT.
    address: String,
    /// What it does.
    #[schemars(extend("enum" = ["leader", "follower", "learner", "replica", "candidate", "unknown"]))]
    role: &'static str,
    /// Whether it votes.
    voter: bool,
    /// Whether it follows for good, without a vote.
    replica: bool,
    /// The id of the member whose place it is about to take.
    replaces: Option<u64>,
    /// The last entry of the log that it is known to have; only the leader knows.
    matched_index: Option<u64>,
    /// The last entry that it has applied, as last heard.
    applied_index: Option<u64>,
    /// By how many entries it is behind; null: the node that answers does not know.
    lag: Option<u64>,
    /// Whether the node that answers hears from it; only the leader hears from all.
    reachable: bool,
    /// The release that it runs, as last heard.
    version: Option<String>,
}

impl Member {
    fn of(status: &StatusReply, node: &Node) -> Self {
        Member {
            id: node.id,
            name: node.name.clone(),
            address: node.address.clone(),
            role: role(node),
            voter: node.voter,
            replica: node.replica,
            replaces: (node.replaces != 0).then_some(node.replaces),
            matched_index: node.matched_index,
            applied_index: node.applied_index,
            lag: lag(status, node),
            reachable: node.reachable,
            version: (!node.version.is_empty()).then(|| node.version.clone()),
        }
    }
}

impl From<&StatusReply> for Status {
    fn from(status: &StatusReply) -> Self {
        Status {
            cluster: status.cluster.clone(),
            node: status.node,
            version: status.version.clone(),
            term: status.term,
            leader: (status.leader != 0).then_some(status.leader),
            tail: status.tail,
            last_log_index: status.last_log_index,
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            durable_index: status.durable_index,
            snapshot_index: status.snapshot_index,
            purged_index: status.purged_index,
            voters_max: status.voters_max,
            lease: status.lease.as_ref().map(Lease::from),
            nodes: status.nodes.iter().map(|node| Member::of(status, node)).collect(),
        }
    }
}

fn table(status: &StatusReply) -> std::io::Result<()> {
    let named = |id: u64| {
        let node = status.nodes.iter().find(|node| node.id == id);
        node.map_or_else(|| format!("node {id}"), |node| format!("{} (node {id})", node.name))
    };
    let leader = if status.leader == 0 { "none".to_owned() } else { named(status.leader) };
    let cluster = if status.cluster.is_empty() { "none: this node has joined none yet" } else { &status.cluster };
    output::line(&format!("cluster   {cluster}"))?;
    output::line(&format!("leader    {leader}, term {}", status.term))?;
    if let Some(lease) = &status.lease {
        output::line(&format!("upkeep    {}", lease_text(lease)))?;
    }
    output::line(&format!(
        "answered  node {} (annals {}): newest event {}, log {} committed {} applied {} on disk {}",
        status.node,
        status.version,
        status.tail,
        status.last_log_index,
        status.committed_index,
        status.applied_index,
        status.durable_index
    ))?;
    let mut versions: Vec<&str> = status.nodes.iter().map(|node| node.version.as_str()).collect();
    versions.retain(|version| !version.is_empty());
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        output::line(&format!("versions  DIFFER: {}", versions.join(", ")))?;
    }
    output::line("")?;
    let knows_all = status.leader == status.node;
    let rows = status.nodes.iter().map(|node| {
        // Only the leader hears from everybody.
        let reachable = match (node.reachable, knows_all) {
            (true, _) => "yes",
            (false, true) => "NO",
            (false, false) => "?",
        };
        let role = match node.replaces {
            0 => role(node).to_owned(),
            old => format!("{}, for node {old}", role(node)),
        };
        vec![
            node.id.to_string(),
            node.name.clone(),
            node.address.clone(),
            role,
            if node.voter { "yes" } else { "no" }.to_owned(),
            reachable.to_owned(),
            lag(status, node).map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
            if node.version.is_empty() { "?".to_owned() } else { node.version.clone() },
        ]
    });
    output::table(&["NODE", "NAME", "ADDRESS", "ROLE", "VOTES", "REACHABLE", "LAG", "VERSION"], rows.collect())
}
