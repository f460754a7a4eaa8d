//! Members that come and go.
//!
//! A change whose answer is an error may still have happened, so each is asked
//! for again until the cluster's own status shows it in force, or time is up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use annals_checker::history::{Installed, NodeNumber};
use annals_proto::annals::v1::StatusReply;
use anyhow::{Context as _, Result, bail, ensure};

use super::{Changing, Outcome, Target, refusals, running, wait_leader};
use crate::cluster::{Change, leader_of};
use crate::namespaces::NODE_MAX;
use crate::testbed::Testbed;

/// How long one change may take, under other faults too. Calm, the server
/// itself gives up after 30 s.
const CHANGED: Duration = Duration::from_secs(90);

/// Nodes that one move may need.
const NEEDED: NodeNumber = 2;

/// F11.
pub(super) async fn change(testbed: &Testbed, changing: Changing) -> Result<Outcome> {
    let newest = testbed.newest();
    if newest + NEEDED > NODE_MAX {
        return Ok(Outcome::skipped(format!("there are no addresses left after {newest} nodes")));
    }
    let mut steps = Steps { testbed, start: Instant::now(), detail: Vec::new(), nodes: Vec::new() };
    let result = match changing {
        Changing::Replace(drawn) => steps.replace(Target::Follower(drawn)).await,
        Changing::ReplaceLeader => steps.replace(Target::Leader).await,
        Changing::GrowAndShrink(drawn) => steps.grow_and_shrink(drawn).await,
        Changing::Transfer => steps.transfer().await,
        Changing::OldIdReturns(drawn) => steps.old_id_returns(drawn).await,
    };
    let installed = match result {
        Ok(()) => Installed::Installed,
        Err(error) => {
            steps.note(format!("{error:#}"));
            Installed::Indeterminate
        }
    };
    Ok(Outcome { nodes: steps.nodes, installed, detail: steps.detail.join("; "), start: None })
}

/// What an operator does about a node whose disk is lost: another one comes,
/// the lost one is removed from the cluster. Answers what was done.
///
/// # Errors
/// One of the steps did not come about within 90 s.
pub async fn replace_lost(testbed: &Testbed, node: NodeNumber) -> Result<String> {
    let mut steps = Steps { testbed, start: Instant::now(), detail: Vec::new(), nodes: Vec::new() };
    steps.add().await?;
    steps.remove(node).await?;
    testbed.discard(node).await?;
    Ok(steps.detail.join("; "))
}

struct Steps<'a> {
    testbed: &'a Testbed,
    start: Instant,
    detail: Vec<String>,
    nodes: Vec<NodeNumber>,
}

impl Steps<'_> {
    fn note(&mut self, what: String) {
        self.detail.push(format!("{:.1} s: {what}", self.start.elapsed().as_secs_f64()));
    }

    async fn replace(&mut self, target: Target) -> Result<()> {
        self.add().await?;
        let node = *target.resolve(self.testbed).await?.first().context("there is nobody to remove")?;
        self.remove(node).await?;
        self.testbed.discard(node).await
    }

    async fn grow_and_shrink(&mut self, drawn: u32) -> Result<()> {
        // From three nodes to five and back, from five to three and back.
        let grow_first = self.testbed.nodes().len() < 5;
        if grow_first {
            self.add().await?;
            self.add().await?;
        }
        for at in 0..2 {
            let node = *Target::Follower(drawn + at).resolve(self.testbed).await?.first().context("nobody left")?;
            self.remove(node).await?;
            self.testbed.discard(node).await?;
        }
        if !grow_first {
            self.add().await?;
            self.add().await?;
        }
        Ok(())
    }

    async fn transfer(&mut self) -> Result<()> {
        let from = wait_leader(self.testbed).await?;
        self.nodes.push(from);
        let change = self.testbed.transfer_leader(0).await;
        let to = wait_leader(self.testbed).await?;
        self.note(format!("from node {from}: {change:?}; node {to} leads"));
        ensure!(to != from, "leadership did not move");
        Ok(())
    }

    async fn old_id_returns(&mut self, drawn: u32) -> Result<()> {
        self.add().await?;
        let node = *Target::Follower(drawn).resolve(self.testbed).await?.first().context("nobody to remove")?;
        // It is away when it is removed, so nobody can tell it.
        if running(self.testbed, &[node]).is_empty() {
            bail!("node {node} was down already");
        }
        self.testbed.kill(node).await?;
        self.remove(node).await?;
        self.testbed.start_node(node).await?;
        let seen = refusals::watch(self.testbed, &[node], refusals::WATCHED).await;
        self.note(format!("node {node} is back with its old disk: {seen}"));
        let again = self.testbed.ask_to_add(node).await;
        self.note(format!("and was asked for: {again:?}"));
        self.testbed.discard(node).await?;
        ensure!(
            matches!(again, Change::Refused(_) | Change::Unknown(_)),
            "admitted: a removed node was added as it was"
        );
        ensure!(seen.refused(), "admitted: a removed node took part again");
        Ok(())
    }

    /// A new node: learner, caught up, voter.
    async fn add(&mut self) -> Result<NodeNumber> {
        let (node, change) = self.testbed.add_node_change().await?;
        self.nodes.push(node);
        let address = self.testbed.address(node);
        let known = |status: &StatusReply| status.nodes.iter().find(|each| each.address == address).map(|each| each.id);
        let id = match change {
            Change::Done(id) => id,
            Change::Refused(_) | Change::Unknown(_) => {
                self.note(format!("adding node {node}: {change:?}"));
                let again = self.settle(async || self.testbed.ask_to_add(node).await, |status| known(status)).await;
                match again {
                    Ok(id) => id,
                    Err(error) => {
                        // It holds nothing that anyone counts on.
                        self.testbed.discard(node).await?;
                        return Err(error.context(format!("node {node} was not added")));
                    }
                }
            }
        };
        self.note(format!("node {node} learns, as {id}"));
        self.testbed.wait_ready(node, CHANGED).await?;
        let voter =
            |status: &StatusReply| status.nodes.iter().find(|each| each.id == id && each.voter).map(|each| each.id);
        self.settle(async || self.testbed.promote(id).await, voter)
            .await
            .with_context(|| format!("node {node} did not get a vote"))?;
        self.note(format!("node {node} votes"));
        Ok(node)
    }

    async fn remove(&mut self, node: NodeNumber) -> Result<()> {
        self.nodes.push(node);
        let id = self.testbed.id(node).await.with_context(|| format!("nobody knows the id of node {node}"))?;
        let led = self.testbed.leader().await == Some(node);
        let gone = |status: &StatusReply| status.nodes.iter().all(|each| each.id != id).then_some(id);
        self.settle(async || self.testbed.remove(id).await, gone)
            .await
            .with_context(|| format!("node {node} was not removed"))?;
        self.testbed.retire(node);
        self.note(format!("node {node}{} is removed, id {id}", if led { ", leading," } else { "" }));
        Ok(())
    }

    /// Asks until it is done, or what the leader says shows that it is.
    async fn settle(
        &self,
        ask: impl AsyncFn() -> Change,
        in_force: impl Fn(&StatusReply) -> Option<u64>,
    ) -> Result<u64> {
        let deadline = Instant::now() + CHANGED;
        loop {
            let change = ask().await;
            if let Change::Done(id) = change {
                return Ok(id);
            }
            let statuses = self.testbed.statuses().await;
            if let Some(id) = leading(&statuses).and_then(&in_force) {
                return Ok(id);
            }
            if Instant::now() > deadline {
                bail!("after {CHANGED:?}: {change:?}\n{}", self.testbed.describe().await);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn leading(statuses: &BTreeMap<NodeNumber, StatusReply>) -> Option<&StatusReply> {
    leader_of(statuses).and_then(|(leader, _)| statuses.get(&leader))
}
