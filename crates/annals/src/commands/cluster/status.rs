//! `annals cluster status`.

use annals_proto::annals::v1::node::Role;
use annals_proto::annals::v1::{Node, StatusReply};
use serde_json::json;

use crate::commands::node::{lease_json, lease_text};
use crate::output::{self, Format};

pub(super) fn print(status: &StatusReply, format: Format) -> std::io::Result<()> {
    match format {
        Format::Json => json(status),
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

fn json(status: &StatusReply) -> std::io::Result<()> {
    let node = |node: &Node| {
        json!({
            "id": node.id,
            "name": node.name,
            "address": node.address,
            "role": role(node),
            "voter": node.voter,
            "replica": node.replica,
            "replaces": (node.replaces != 0).then_some(node.replaces),
            "matchedIndex": node.matched_index,
            "appliedIndex": node.applied_index,
            "lag": lag(status, node),
            "reachable": node.reachable,
            "version": (!node.version.is_empty()).then_some(&node.version),
        })
    };
    output::json(&json!({
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
        "votersMax": status.voters_max,
        "lease": status.lease.as_ref().map(lease_json),
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
    }))
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
