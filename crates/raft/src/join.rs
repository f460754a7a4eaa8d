//! How an empty node finds its cluster, or others with which to start one.
//!
//! A node with an empty data directory asks its *seeds* who they are, again and again
//! until it takes part, and decides anew each time ([`decide`], a pure function of
//! what they say):
//!
//! - A seed belongs to a cluster that exists: ask it to be added. The leader adopts
//!   the node as a learner ([`crate::admin`]), one at a time; asking twice does no harm.
//! - All are empty, all resolved and all answer, and there are `expect` of them that
//!   expect as many: the first `expect` by address are the founders. A node that finds
//!   itself among them says so when it is asked, and the first of them starts the
//!   cluster when all of them say the same ([`crate::bootstrap`]). The rest joins.
//! - Anything else: wait, and say what for whenever that changes.
//!
//! A seed that does not answer could be what is left of a cluster, so nobody starts
//! one beside it. For the same reason a node that a cluster calls as one of its members,
//! because its disk was lost, starts none; it joins, and is refused under its old
//! address until it is said to take its own former place ([`crate::admin`], `replaces`).
//!
//! What this cannot see: a cluster of which no seed leads to any member.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use annals_proto::annals::internal::v1 as pb;
use futures::future::{BoxFuture, join_all};
use rand::Rng as _;
use uuid::Uuid;

use crate::admin;
use crate::bootstrap::{self, Attempt};
use crate::founders::told;
use crate::node::Node;
use crate::status::Phase;

/// The first pause between two looks, and after a change.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// While a cluster is being started everybody looks at least so often.
const PAUSE_FOUNDING: Duration = Duration::from_millis(500);

/// How long being added may take, from the first look of the leader at the node to
/// the commitment of the membership.
const ADDED: Duration = Duration::from_secs(10);

/// How long names may take to be resolved.
const RESOLVED: Duration = Duration::from_secs(10);

/// Where a node looks for its cluster.
pub trait Seeds: Send + Sync + 'static {
    /// Who they are at present. Asked again for every look.
    fn resolve(&self) -> BoxFuture<'_, Resolved>;
}

/// What became of the names of seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The `host:port` of each, in any order.
    pub addresses: Vec<String>,
    /// What could not be resolved, and why, a sentence for each.
    pub missing: Vec<String>,
}

/// What one seed said, or why it said nothing.
#[derive(Clone, Debug)]
struct Seen {
    at: String,
    reply: Result<pb::ProbeReply, String>,
}

/// What a node knows of itself.
#[derive(Clone, Debug)]
struct Own {
    probe: pb::ProbeReply,
    /// An identity that comes from starting a cluster that may not be there yet.
    is_founder: bool,
    /// The node as which a cluster has called this one, which knows of none.
    called: Option<u64>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Ask one of these to be added.
    Join(Vec<String>),
    /// Start a cluster with these, this node among them, in order.
    Start(Vec<String>),
    /// Nothing, for this reason.
    Wait(String),
}

/// Runs until the node takes part in a cluster, or stops. One that did when it started
/// needs nobody: its log says where the others are.
pub(crate) async fn run(node: Node) {
    if node.has_begun() {
        return;
    }
    let stopping = node.stopping().clone();
    let mut pause = PAUSE;
    let mut told = String::new();
    loop {
        if !matches!(node.phase(), Phase::Waiting | Phase::Bootstrapping | Phase::Recovering) {
            return;
        }
        let (state, longest) = tokio::select! {
            state = look(&node) => state,
            () = stopping.cancelled() => return,
        };
        if state == told {
            pause = (pause * 3 / 2).min(longest);
        } else {
            tracing::info!("{state}");
            told = state;
            pause = PAUSE;
        }
        let mut phase = node.watch_phase();
        // Nodes that began together do not ask together for ever.
        let pause = pause.mul_f64(rand::rng().random_range(0.75..1.25));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = phase.wait_for(|phase| *phase == Phase::Ready) => {}
            () = stopping.cancelled() => return,
        }
    }
}

/// One look, and one step. Answers what the node is waiting for, and how long at most
/// until the next look.
async fn look(node: &Node) -> (String, Duration) {
    let Some(seeds) = node.config().seeds.clone() else {
        return ("this node waits to be added (annals cluster add)".to_owned(), PAUSE_MAX);
    };
    let resolved = match tokio::time::timeout(RESOLVED, seeds.resolve()).await {
        Ok(resolved) => resolved,
        Err(_) => Resolved { missing: vec!["no name server answers".to_owned()], ..Resolved::default() },
    };
    let addresses: BTreeSet<String> =
        resolved.addresses.into_iter().filter(|address| *address != node.config().address).collect();
    let seen = join_all(addresses.into_iter().map(|at| async {
        let reply = bootstrap::probe(node, &at).await;
        Seen { at, reply }
    }))
    .await;
    let own = Own { probe: node.probe(), is_founder: node.founders().is_written(), called: node.called_as() };
    match decide(&own, &seen, &resolved.missing) {
        Step::Join(at) => {
            node.founders().propose(Vec::new());
            (join(node, &at).await, PAUSE_MAX)
        }
        Step::Start(list) => (start(node, &list, &seen).await, PAUSE_FOUNDING),
        Step::Wait(why) => {
            node.founders().propose(Vec::new());
            (why, PAUSE_MAX)
        }
    }
}

/// Asks each of these to be added until one does not refuse.
async fn join(node: &Node, at: &[String]) -> String {
    let own = &node.config().address;
    let mut refusals = Vec::new();
    for address in at {
        let refusal = match ask(node, address).await {
            Ok(id) => {
                return format!("this node is added to the cluster of {address} as node {id}; it waits for the log");
            }
            Err(refusal) => refusal,
        };
        let refusal = format!("{address}: {refusal}");
        if !refusals.contains(&refusal) {
            refusals.push(refusal);
        }
    }
    format!("this node ({own}) is not added to its cluster yet: {}", refusals.join("; "))
}

async fn ask(node: &Node, address: &str) -> Result<u64, String> {
    let deadline = Instant::now() + ADDED;
    let mut client = node.channels().coordination(address).map_err(|status| status.message().to_owned())?;
    let timeout_ms = u32::try_from(ADDED.as_millis()).unwrap_or(u32::MAX);
    let request = pb::JoinRequest { address: node.config().address.clone(), timeout_ms };
    match tokio::time::timeout_at((deadline + Duration::from_secs(1)).into(), client.join(request)).await {
        Ok(Ok(reply)) => admin::read_reply(reply.into_inner()).map_err(|error| error.to_string()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Takes part in starting a cluster of these.
async fn start(node: &Node, list: &[String], seen: &[Seen]) -> String {
    let list = node.founders().propose(list.to_vec());
    let own = &node.config().address;
    if list.first() == Some(own) {
        return match bootstrap::attempt(node, &list).await {
            Attempt::Done => "this node waits for the log of its cluster".to_owned(),
            Attempt::Wait(why) => format!("waiting to start a cluster of {}: {why}", told(&list)),
        };
    }
    let other = seen.iter().find_map(|seen| {
        let reply = seen.reply.as_ref().ok()?;
        let differs = list.contains(&reply.address) && !reply.bootstrap.is_empty() && reply.bootstrap != list;
        differs.then(|| format!("; {} has seen {}", reply.address, told(&reply.bootstrap)))
    });
    let first = list.first().map(String::as_str).unwrap_or_default();
    format!("waiting for {first} to start a cluster of {}{}", told(&list), other.unwrap_or_default())
}

/// What a node does that sees this.
fn decide(own: &Own, seen: &[Seen], missing: &[String]) -> Step {
    let others: Vec<(&str, &pb::ProbeReply)> = seen
        .iter()
        .filter_map(|seen| Some((seen.at.as_str(), seen.reply.as_ref().ok()?)))
        .filter(|(_, reply)| reply.incarnation != own.probe.incarnation)
        .collect();
    if let Some(step) = join_what_exists(own, &others) {
        return step;
    }
    if let Some(step) = go_on_with_what_was_begun(own, &others) {
        return step;
    }
    start_with_all(own, &others, seen, missing)
}

/// A cluster is there.
fn join_what_exists(own: &Own, others: &[(&str, &pb::ProbeReply)]) -> Option<Step> {
    let members: Vec<_> = others.iter().filter(|(_, reply)| reply.has_identity && reply.initialized).collect();
    let mut clusters: Vec<_> = members.iter().map(|(_, reply)| &reply.cluster).collect();
    clusters.sort();
    clusters.dedup();
    match clusters[..] {
        [] => None,
        [cluster] if own.probe.has_identity && *cluster != own.probe.cluster => Some(Step::Wait(format!(
            "this node has an identity in the cluster {}, but its seeds belong to the cluster {}: \
             correct `join`, or empty the data directory",
            name(&own.probe.cluster),
            name(cluster)
        ))),
        [_] => Some(Step::Join(members.iter().map(|(at, _)| (*at).to_owned()).collect())),
        [first, second, ..] => {
            let of = |cluster: &[u8]| {
                let member = members.iter().find(|(_, reply)| reply.cluster[..] == *cluster);
                member.map_or("", |(at, _)| *at)
            };
            Some(Step::Wait(format!(
                "the seeds {} and {} belong to different clusters, {} and {}: correct `join`",
                of(first),
                of(second),
                name(first),
                name(second)
            )))
        }
    }
}

/// A cluster is being started, by this node or by others.
fn go_on_with_what_was_begun(own: &Own, others: &[(&str, &pb::ProbeReply)]) -> Option<Step> {
    if own.probe.has_identity {
        return Some(if own.is_founder {
            Step::Start(own.probe.bootstrap.clone())
        } else {
            Step::Wait(format!(
                "this node has an identity in the cluster {} and waits for a seed that belongs to it",
                name(&own.probe.cluster)
            ))
        });
    }
    let (at, begun) = others.iter().find(|(_, reply)| reply.has_identity)?;
    let is_founder = begun.bootstrap.contains(&own.probe.address) && may_start(&own.probe) && own.called.is_none();
    Some(if is_founder {
        Step::Start(begun.bootstrap.clone())
    } else {
        Step::Wait(format!("{at} is about to start a cluster of {}: this node joins it then", told(&begun.bootstrap)))
    })
}

/// Nobody has a cluster.
fn start_with_all(own: &Own, others: &[(&str, &pb::ProbeReply)], seen: &[Seen], missing: &[String]) -> Step {
    let silent = seen.iter().filter_map(|seen| Some(format!("{} ({})", seen.at, seen.reply.as_ref().err()?)));
    let absent: Vec<String> = missing.iter().cloned().chain(silent).collect();
    if !may_start(&own.probe) {
        let absent = if absent.is_empty() { String::new() } else { format!("; no answer: {}", absent.join(", ")) };
        return Step::Wait(format!("waiting for a seed that belongs to a cluster{absent}"));
    }
    if let Some(node) = own.called {
        return Step::Wait(format!(
            "a cluster calls this node as its node {node}, whose disk is lost: waiting for a seed that belongs to it"
        ));
    }
    let mut founders = vec![&own.probe.address];
    for (at, reply) in others.iter().filter(|(_, reply)| may_start(reply)) {
        if reply.expect != own.probe.expect {
            return Step::Wait(format!(
                "`bootstrap_expect` is {} here, but {} at {at}: it must be the same on all nodes",
                own.probe.expect, reply.expect
            ));
        }
        if founders.contains(&&reply.address) {
            return Step::Wait(format!(
                "two nodes have the address {}, one of them found at {at}: each needs a `node_address` of its own",
                reply.address
            ));
        }
        founders.push(&reply.address);
    }
    founders.sort();
    let here = founders.len();
    let expected = usize::try_from(own.probe.expect).unwrap_or(usize::MAX);
    let founders: Vec<String> = founders.into_iter().take(expected).cloned().collect();
    if !absent.is_empty() {
        return Step::Wait(format!(
            "{here} of {expected} empty nodes are here; a cluster is started only when every seed answers, \
             since one that does not may belong to a cluster: {}",
            absent.join(", ")
        ));
    }
    if here < expected {
        return Step::Wait(format!("{here} of {expected} empty nodes are here: {}", told(&founders)));
    }
    if founders.contains(&own.probe.address) {
        Step::Start(founders)
    } else {
        Step::Wait(format!("{} are about to start a cluster: this node joins it then", told(&founders)))
    }
}

/// Whether an empty node may be among the first of a cluster.
fn may_start(probe: &pb::ProbeReply) -> bool {
    probe.expect > 0 && !probe.replica
}

fn name(cluster: &[u8]) -> String {
    Uuid::from_slice(cluster).map_or_else(|_| "?".to_owned(), |cluster| cluster.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(address: &str, expect: u32) -> pb::ProbeReply {
        pb::ProbeReply {
            address: address.to_owned(),
            incarnation: address.as_bytes().to_vec().into(),
            expect,
            ..pb::ProbeReply::default()
        }
    }

    fn begun(address: &str, cluster: u8, list: &[&str]) -> pb::ProbeReply {
        pb::ProbeReply {
            has_identity: true,
            cluster: vec![cluster; 16].into(),
            bootstrap: list.iter().map(|address| (*address).to_owned()).collect(),
            ..empty(address, 3)
        }
    }

    fn member(address: &str, cluster: u8) -> pb::ProbeReply {
        pb::ProbeReply { initialized: true, ..begun(address, cluster, &[]) }
    }

    fn own(probe: pb::ProbeReply) -> Own {
        Own { probe, is_founder: false, called: None }
    }

    fn seen(replies: &[pb::ProbeReply]) -> Vec<Seen> {
        replies.iter().map(|reply| Seen { at: reply.address.clone(), reply: Ok(reply.clone()) }).collect()
    }

    fn silent(at: &str) -> Seen {
        Seen { at: at.to_owned(), reply: Err("refused".to_owned()) }
    }

    fn start(list: &[&str]) -> Step {
        Step::Start(list.iter().map(|address| (*address).to_owned()).collect())
    }

    #[track_caller]
    fn waits(step: Step, words: &str) {
        match step {
            Step::Wait(why) => assert!(why.contains(words), "{why}"),
            other => panic!("expected it to wait, not {other:?}"),
        }
    }

    #[test]
    fn as_many_empty_nodes_as_expected_start_a_cluster_in_the_order_of_their_addresses() {
        let three = [empty("c:1", 3), empty("a:1", 3), empty("b:1", 3)];
        for node in &three {
            assert_eq!(decide(&own(node.clone()), &seen(&three), &[]), start(&["a:1", "b:1", "c:1"]));
        }
        waits(decide(&own(three[0].clone()), &seen(&three[..2]), &[]), "2 of 3 empty nodes");
        assert_eq!(decide(&own(empty("a:1", 1)), &[], &[]), start(&["a:1"]));
    }

    #[test]
    fn one_more_than_expected_joins_those_who_start() {
        let four = [empty("a:1", 3), empty("b:1", 3), empty("c:1", 3), empty("d:1", 3)];
        assert_eq!(decide(&own(four[1].clone()), &seen(&four), &[]), start(&["a:1", "b:1", "c:1"]));
        waits(decide(&own(four[3].clone()), &seen(&four), &[]), "this node joins it then");
    }

    #[test]
    fn nobody_starts_a_cluster_beside_a_seed_that_says_nothing() {
        let three = [empty("a:1", 3), empty("b:1", 3), empty("c:1", 3)];
        let mut seen = seen(&three);
        waits(decide(&own(three[0].clone()), &seen, &["d.example cannot be resolved".into()]), "d.example");
        seen.push(silent("d:1"));
        waits(decide(&own(three[0].clone()), &seen, &[]), "d:1 (refused)");
    }

    #[test]
    fn nobody_starts_a_cluster_beside_one_that_exists() {
        let found = [empty("b:1", 3), empty("c:1", 3), member("d:1", 7)];
        for own in [own(empty("a:1", 3)), Own { called: Some(4), ..own(empty("a:1", 3)) }] {
            assert_eq!(decide(&own, &seen(&found), &[]), Step::Join(vec!["d:1".into()]));
        }
        let mut seen = seen(&found);
        seen.push(silent("e:1"));
        assert_eq!(decide(&own(empty("a:1", 3)), &seen, &["x".into()]), Step::Join(vec!["d:1".into()]));
    }

    #[test]
    fn seeds_of_two_clusters_are_a_mistake() {
        let two = [member("b:1", 7), member("c:1", 8)];
        waits(decide(&own(empty("a:1", 0)), &seen(&two), &[]), "the seeds b:1 and c:1 belong to different clusters");
        waits(decide(&own(begun("a:1", 9, &[])), &seen(&two[..1]), &[]), "correct `join`");
    }

    #[test]
    fn a_node_that_a_cluster_calls_starts_no_other() {
        let three = [empty("a:1", 3), empty("b:1", 3), empty("c:1", 3)];
        let called = Own { called: Some(4), ..own(three[0].clone()) };
        waits(decide(&called, &seen(&three), &[]), "calls this node as its node 4");
    }

    #[test]
    fn what_others_have_begun_is_gone_on_with_by_those_whom_it_names() {
        let list = ["a:1", "b:1", "c:1"];
        let found = [begun("a:1", 7, &list), empty("c:1", 3), empty("0:1", 3)];
        assert_eq!(decide(&own(empty("b:1", 3)), &seen(&found), &[]), start(&list));
        waits(decide(&own(empty("d:1", 3)), &seen(&found), &[]), "a:1 is about to start a cluster");
        waits(decide(&own(empty("0:1", 3)), &seen(&found), &[]), "a:1 is about to start a cluster");
    }

    #[test]
    fn who_has_an_identity_goes_on_with_what_it_is_from() {
        let list = ["a:1", "b:1", "c:1"];
        let founder = Own { is_founder: true, ..own(begun("a:1", 7, &list)) };
        let found = [empty("b:1", 3), empty("c:1", 3), empty("0:1", 3)];
        assert_eq!(decide(&founder, &seen(&found), &[]), start(&list));
        // Adopted by a cluster, and killed before it had an entry of its log.
        let adopted = own(begun("a:1", 7, &[]));
        waits(decide(&adopted, &seen(&found), &[]), "waits for a seed that belongs to it");
        assert_eq!(decide(&adopted, &seen(&[member("b:1", 7)]), &[]), Step::Join(vec!["b:1".into()]));
    }

    #[test]
    fn replicas_and_nodes_that_expect_nobody_only_join() {
        let replica = |address| pb::ProbeReply { replica: true, ..empty(address, 3) };
        let found = [empty("a:1", 3), empty("b:1", 3), replica("c:1"), empty("d:1", 0)];
        waits(decide(&own(found[0].clone()), &seen(&found), &[]), "2 of 3 empty nodes are here");
        waits(decide(&own(found[2].clone()), &seen(&found), &[]), "waiting for a seed that belongs to a cluster");
        waits(decide(&own(found[3].clone()), &seen(&found), &[]), "waiting for a seed that belongs to a cluster");
    }

    #[test]
    fn mistakes_in_the_configuration_are_told() {
        let found = [empty("a:1", 3), empty("b:1", 2)];
        waits(decide(&own(found[0].clone()), &seen(&found), &[]), "`bootstrap_expect` is 3 here, but 2 at b:1");
        let twin = pb::ProbeReply { incarnation: vec![9].into(), ..empty("a:1", 3) };
        waits(decide(&own(found[0].clone()), &seen(&[twin]), &[]), "two nodes have the address a:1");
    }

    #[test]
    fn a_seed_that_leads_to_the_node_itself_is_nobody_else() {
        let own = own(empty("a.example:1", 2));
        let mut seen = seen(&[empty("b:1", 2)]);
        seen.push(Seen { at: "10.0.0.1:1".into(), reply: Ok(own.probe.clone()) });
        assert_eq!(decide(&own, &seen, &[]), start(&["a.example:1", "b:1"]));
    }
}
