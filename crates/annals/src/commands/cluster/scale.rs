//! `annals cluster scale`: fewer nodes, or more.
//!
//! Down: the nodes with the highest names leave, one after another, each only when those
//! that are left can decide without it; one that leads hands leadership over first, and
//! the only one that votes gives a vote to one that stays. Up:
//! nothing but the nodes themselves is missing, which join by `--join`; this command
//! says how and waits for them. Replicas are not counted and not touched.

use annals_client::Cluster;
use annals_proto::annals::v1::{Node, StatusReply};
use schemars::JsonSchema;
use serde::Serialize;

use super::progress::Progress;
use crate::consent::Consent;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

pub(super) struct Wanted {
    pub(super) nodes: usize,
    pub(super) consent: Consent,
    pub(super) no_wait: bool,
}

/// How large the cluster is now.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Scaled {
    /// Members; replicas do not count.
    nodes: usize,
    /// Those of them that vote.
    voters: usize,
    /// The ids of nodes that were removed, in that order.
    removed: Vec<u64>,
}

pub(super) async fn run(
    cluster: &Cluster,
    wanted: Wanted,
    mut progress: Progress,
    format: Format,
) -> Result<(), Failure> {
    if wanted.nodes == 0 {
        return Err(Failure::usage("a cluster has at least one node"));
    }
    let status = progress.status(cluster).await?;
    let members = in_order(&status);
    let mut removed = Vec::new();
    if members.len() > wanted.nodes {
        let going: Vec<Node> = members.iter().rev().take(members.len() - wanted.nodes).cloned().collect();
        let list: Vec<String> = going.iter().map(|node| format!("{} (node {})", node.name, node.id)).collect();
        let name = match &going[..] {
            [one] => one.name.clone(),
            several => format!("remove {} nodes", several.len()),
        };
        let what = format!("this removes {} from the cluster for good", list.join(", then "));
        wanted.consent.ask(&what, &name)?;
        for node in going {
            remove(cluster, &node, &mut progress).await?;
            eprintln!("{} (node {}) is removed", node.name, node.id);
            removed.push(node.id);
        }
    } else if members.len() < wanted.nodes {
        tell_how(&status, wanted.nodes);
        if !wanted.no_wait {
            wait_for(cluster, wanted.nodes, &mut progress).await?;
        }
    }
    let now = progress.status(cluster).await?;
    let members = in_order(&now);
    let voters = members.iter().filter(|node| node.voter).count();
    match format {
        Format::Json => output::json(&Scaled { nodes: members.len(), voters, removed: removed.clone() })?,
        Format::Table => {
            output::line(&format!("the cluster has {} nodes, {voters} of them vote", members.len()))?;
            if !removed.is_empty() {
                output::line(
                    "stop the removed nodes now and delete their data directories \
                     (Kubernetes: kubectl scale statefulset annals --replicas=N, then delete their PVCs)",
                )?;
            }
        }
    }
    Ok(())
}

/// Takes one node out, as soon as the others can do without it.
async fn remove(cluster: &Cluster, node: &Node, progress: &mut Progress) -> Result<(), Failure> {
    loop {
        let status = progress.status(cluster).await?;
        if !status.nodes.iter().any(|member| member.id == node.id) {
            return Ok(());
        }
        if let Some(heir) = heir(&status, node.id) {
            let state = match cluster.promote(heir.id).await {
                Ok(_) => format!("{} votes now", heir.name),
                Err(error) => format!("{} cannot vote yet: {error}", heir.name),
            };
            progress.wait(state).await?;
            continue;
        }
        if status.leader == node.id {
            let to = in_order(&status).into_iter().find(|other| other.id != node.id && other.voter && other.reachable);
            let asked = cluster.transfer_leader(to.map(|to| to.id)).await;
            let state = match asked {
                Ok(to) => format!("node {to} leads now"),
                Err(error) => format!("{} cannot hand leadership over yet: {error}", node.name),
            };
            progress.wait(state).await?;
            continue;
        }
        match cluster.remove(node.id, false).await {
            Ok(_) => return Ok(()),
            Err(error) => match Code::of(&error) {
                Code::NotFound => return Ok(()),
                // It passes when those that are left are back.
                Code::Conflict | Code::Unavailable => {
                    progress.wait(format!("{} (node {}) has to stay yet: {error}", node.name, node.id)).await?;
                }
                Code::Failed | Code::Usage | Code::Unhealthy => return Err(error.into()),
            },
        }
    }
}

/// Who has to vote before this node can go: if nobody else does, the first of those that
/// stay and can be reached.
fn heir(status: &StatusReply, going: u64) -> Option<Node> {
    let mut others = in_order(status).into_iter().filter(|node| node.id != going);
    if others.clone().any(|node| node.voter) { None } else { others.find(|node| node.reachable) }
}

fn tell_how(status: &StatusReply, wanted: usize) {
    let members = in_order(status);
    let seeds: Vec<&str> = members.iter().map(|node| node.address.as_str()).collect();
    eprintln!(
        "The cluster has {} of {wanted} nodes. Start {} more with empty data directories:\n  \
         Kubernetes  kubectl scale statefulset annals --replicas={wanted}\n  \
         elsewhere   annals serve --data DIR --listen IP:PORT --node-address HOST:PORT --join {}",
        members.len(),
        wanted - members.len(),
        seeds.join(",")
    );
    let max = status.voters_max as usize;
    if wanted > max {
        eprintln!("Only {max} nodes vote (`voters_max`); the others follow.");
    }
}

async fn wait_for(cluster: &Cluster, wanted: usize, progress: &mut Progress) -> Result<(), Failure> {
    loop {
        let status = progress.status(cluster).await?;
        let members = in_order(&status);
        let voters = members.iter().filter(|node| node.voter).count();
        let votes = wanted.min(status.voters_max as usize);
        if members.len() >= wanted && voters >= votes {
            return Ok(());
        }
        let learners: Vec<&str> = members.iter().filter(|node| !node.voter).map(|node| node.name.as_str()).collect();
        let catching =
            if learners.is_empty() { String::new() } else { format!("; catching up: {}", learners.join(", ")) };
        progress.wait(format!("{} of {wanted} nodes have joined, {voters} vote{catching}", members.len())).await?;
    }
}

/// All but replicas, as their names count: `annals-9` before `annals-10`.
fn in_order(status: &StatusReply) -> Vec<Node> {
    let mut members: Vec<Node> = status.nodes.iter().filter(|node| !node.replica).cloned().collect();
    members.sort_by_cached_key(|node| {
        let (prefix, ordinal) = ordinal(&node.name);
        (prefix.to_owned(), ordinal, node.id)
    });
    members
}

/// A name, and the number that it ends with.
fn ordinal(name: &str) -> (&str, Option<u64>) {
    // Behind an ordinal may follow a domain.
    let label = name.split_once('.').map_or(name, |(label, _)| label);
    if name.parse::<std::net::IpAddr>().is_ok() {
        return (name, None);
    }
    let prefix = label.trim_end_matches(|c: char| c.is_ascii_digit());
    (prefix, label.get(prefix.len()..).and_then(|digits| digits.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_ordinal_comes_last_whatever_the_alphabet_says() {
        let names = ["annals-10", "annals-2", "annals-9.annals-headless.default.svc", "annals-0", "10.0.0.7", "annals"];
        let node = |(id, name): (usize, &&str)| Node { id: id as u64, name: (*name).to_owned(), ..Node::default() };
        let mut nodes: Vec<Node> = names.iter().enumerate().map(node).collect();
        nodes.push(Node { id: 50, name: "annals-99".into(), replica: true, ..Node::default() });
        let status = StatusReply { nodes, ..StatusReply::default() };
        let sorted: Vec<String> = in_order(&status).into_iter().map(|node| node.name).collect();
        assert_eq!(
            sorted,
            ["10.0.0.7", "annals", "annals-0", "annals-2", "annals-9.annals-headless.default.svc", "annals-10"]
        );
    }

    #[test]
    fn the_last_vote_is_given_to_one_that_stays() {
        let node =
            |id: u64, voter| Node { id, name: format!("annals-{id}"), voter, reachable: id != 1, ..Node::default() };
        let status = |voters: &[u64]| StatusReply {
            nodes: (0..4).map(|id| node(id, voters.contains(&id))).collect(),
            ..StatusReply::default()
        };
        let heir_of = |going, voters: &[u64]| heir(&status(voters), going).map(|node| node.id);
        assert_eq!(heir_of(3, &[3]), Some(0));
        assert_eq!(heir_of(0, &[0]), Some(2), "one that cannot be reached would be no help");
        assert_eq!((heir_of(3, &[0, 3]), heir_of(3, &[0])), (None, None));
    }

    #[test]
    fn nodes_of_one_name_leave_newest_first() {
        let node = |id| Node { id, name: "127.0.0.1".to_owned(), ..Node::default() };
        let status = StatusReply { nodes: vec![node(7), node(2), node(3)], ..StatusReply::default() };
        assert_eq!(in_order(&status).iter().map(|node| node.id).collect::<Vec<_>>(), [2, 3, 7]);
    }
}
