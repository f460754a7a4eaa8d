//! Processes that are killed, stand still, or are restarted.

use std::time::{Duration, Instant};

use annals_checker::history::{Installed, NodeNumber};
use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use super::{Outcome, Party, Target, highest_term, running, wait_leader, who_leads};
use crate::cluster::leader_of;
use crate::network::Layer;
use crate::process::ProcessState;
use crate::testbed::Testbed;

/// How much longer a paused leader stands until somebody else leads.
const LED: Duration = Duration::from_secs(30);

/// How long a node may take to stop when it is asked to.
const TERMINATED: Duration = Duration::from_secs(20);

/// Entries that a transfer which is to be interrupted has to carry.
const MARGIN: u64 = 300;

/// How fast a transfer is that is to be interrupted, in bits per second: else
/// it is over before anybody can.
const SLOW: u64 = 2_000_000;

/// How long a node may take until it is ready again.
const READY: Duration = Duration::from_secs(60);

/// F1.
pub(super) async fn kill(testbed: &Testbed, target: Target, down: Duration) -> Result<Outcome> {
    let nodes = running(testbed, &target.resolve(testbed).await?);
    if nodes.is_empty() {
        return Ok(Outcome::skipped("none of them runs"));
    }
    let before = leader_of(&testbed.statuses().await);
    let (start, killed) = (testbed.now(), Instant::now());
    let mut gone = JoinSet::new();
    for node in &nodes {
        let (testbed, node) = (testbed.clone(), *node);
        gone.spawn(async move { testbed.kill(node).await });
    }
    for result in gone.join_all().await {
        result?;
    }
    let mut detail = vec![match before {
        Some((node, term)) => format!("before, node {node} led in term {term}"),
        None => "before, nobody led".into(),
    }];
    let was_leader = before.filter(|(leader, _)| nodes.contains(leader));
    let quorum_left = testbed.nodes().len() / 2 < running(testbed, &testbed.nodes()).len();
    // A restart does not wait for the election, and the election not for it.
    let watch = async {
        match was_leader {
            Some((_, term)) if quorum_left => Some((testbed.wait_leader_above(term, LED).await, killed.elapsed())),
            _ => None,
        }
    };
    let restart = async {
        tokio::time::sleep(down.saturating_sub(killed.elapsed())).await;
        for node in &nodes {
            testbed.start_node(*node).await?;
        }
        anyhow::Ok(())
    };
    let (led, restarted) = tokio::join!(watch, restart);
    restarted?;
    match led {
        Some((Some((node, term)), after)) => detail.push(format!("node {node} leads in term {term} after {after:?}")),
        Some((None, _)) => detail.push(format!("nobody led within {LED:?}")),
        None => {}
    }
    for node in &nodes {
        match testbed.wait_ready(*node, READY).await {
            Ok(took) => detail.push(format!("node {node} ready {took:?} after its start")),
            Err(error) => detail.push(format!("{error:#}")),
        }
    }
    Ok(Outcome::installed(nodes, detail.join("; ")).since(start))
}

/// F2.
pub(super) async fn pause(testbed: &Testbed, target: Target, time: Duration, until_led: bool) -> Result<Outcome> {
    let nodes = running(testbed, &target.resolve(testbed).await?);
    if nodes.is_empty() {
        return Ok(Outcome::skipped("none of them runs"));
    }
    let before = leader_of(&testbed.statuses().await);
    let term = highest_term(testbed).await;
    let (start, begin) = (testbed.now(), Instant::now());
    let paused = nodes.iter().try_for_each(|node| testbed.pause(*node));
    let stands = begin.elapsed();
    let mut detail = vec![match before {
        Some((node, term)) => format!("before, node {node} led in term {term}; all stand after {stands:?}"),
        None => "before, nobody led".into(),
    }];
    if paused.is_ok() {
        let leader_stands = before.is_some_and(|(leader, _)| nodes.contains(&leader));
        let quorum_left = testbed.nodes().len() / 2 < running(testbed, &testbed.nodes()).len();
        if leader_stands && until_led && quorum_left {
            match testbed.wait_leader_above(term, time + LED).await {
                Some((node, term)) => {
                    detail.push(format!("node {node} leads in term {term} after {:?}", begin.elapsed()));
                }
                None => detail.push("nobody else came to lead".into()),
            }
        }
        tokio::time::sleep(time.saturating_sub(begin.elapsed())).await;
    }
    for node in &nodes {
        // One that was killed meanwhile needs no resuming.
        let _ = testbed.resume(*node);
    }
    paused?;
    Ok(Outcome::installed(nodes, detail.join("; ")).since(start))
}

/// F15.
pub(super) async fn rolling_restart(testbed: &Testbed) -> Result<Outcome> {
    let nodes = running(testbed, &testbed.nodes());
    let mut detail = Vec::new();
    for node in &nodes {
        let led = testbed.leader().await == Some(*node);
        let stopped = testbed.terminate(*node, TERMINATED).await;
        let after = who_leads(testbed).await;
        testbed.start_node(*node).await?;
        let ready = testbed.wait_ready(*node, READY).await?;
        let stopped = match stopped {
            Ok(took) => format!("stopped in {took:?}"),
            Err(error) => format!("did not stop ({error:#})"),
        };
        detail.push(format!(
            "node {node}{} {stopped}, then {after}, ready after {ready:?}",
            if led { ", leading," } else { "" }
        ));
    }
    Ok(Outcome::installed(nodes, detail.join("; ")))
}

/// F12. Counts as installed when the node came back to a cluster that had
/// purged what it misses, the kill hit a transfer, and it caught up.
pub(super) async fn long_outage(
    testbed: &Testbed,
    target: Target,
    time: Duration,
    kill: Option<Party>,
) -> Result<Outcome> {
    let nodes = running(testbed, &target.resolve(testbed).await?);
    let Some(node) = nodes.first().copied() else {
        return Ok(Outcome::skipped("none of them runs"));
    };
    let last = testbed.status(node).await?.last_log_index;
    let start = testbed.now();
    testbed.kill(node).await?;
    let deadline = Instant::now() + time;
    // A transfer that is to be interrupted needs something to carry.
    let margin = if kill.is_some() { MARGIN } else { 0 };
    let purged = loop {
        let statuses = testbed.statuses().await;
        let leader = leader_of(&statuses).and_then(|(leader, _)| statuses.get(&leader));
        let purged = leader.map_or(0, |leader| leader.purged_index);
        if purged > last + margin || Instant::now() > deadline {
            break purged;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let mut detail = vec![format!("its log ended at {last}, the leader had purged to {purged}")];
    let mut installed = purged > last;
    if let Some(party) = kill.filter(|_| installed) {
        let slow = testbed.network().lay(Layer::Bandwidth { node, bits: SLOW })?;
        let interrupted = interrupt(testbed, node, party).await;
        testbed.network().lift(slow)?;
        let (in_the_middle, what) = interrupted?;
        installed &= in_the_middle;
        detail.push(what);
    } else {
        testbed.start_node(node).await?;
    }
    let begin = Instant::now();
    let caught_up = catch_up(testbed, node).await?;
    detail.push(format!("caught up to {caught_up} after another {:?}", begin.elapsed()));
    let installed = if installed { Installed::Installed } else { Installed::Skipped };
    Ok(Outcome { nodes: vec![node], installed, detail: detail.join("; "), start: Some(start) })
}

/// Starts a node, kills a side of the transfer to it while that is under way,
/// and starts the killed one again. Tells whether it was.
async fn interrupt(testbed: &Testbed, node: NodeNumber, party: Party) -> Result<(bool, String)> {
    let leader = wait_leader(testbed).await?;
    let killed = match party {
        Party::Receiver => node,
        Party::Sender => leader,
    };
    let begin = Instant::now();
    testbed.start_node(node).await?;
    let mut transfers = (false, false);
    while !transfers.0 && begin.elapsed() < READY {
        tokio::time::sleep(Duration::from_millis(1)).await;
        transfers = transfer(testbed, node);
    }
    // The first records should have come over.
    tokio::time::sleep(Duration::from_millis(50)).await;
    testbed.kill(killed).await?;
    let when = begin.elapsed();
    transfers = transfer(testbed, node);
    testbed.start_node(killed).await?;
    let in_the_middle = transfers == (true, false);
    let during = if in_the_middle { "during" } else { "outside" };
    Ok((
        in_the_middle,
        format!("node {killed} was killed {when:?} after the start of node {node}, {during} a transfer"),
    ))
}

/// Whether a node's process has said that a transfer to it began, and that one
/// ended.
fn transfer(testbed: &Testbed, node: NodeNumber) -> (bool, bool) {
    let said = testbed.said(node);
    (said.contains("catching up"), said.contains("caught up"))
}

/// Waits until a node has applied what is committed now.
async fn catch_up(testbed: &Testbed, node: NodeNumber) -> Result<u64> {
    let deadline = Instant::now() + READY;
    testbed.wait_ready(node, READY).await?;
    let mut goal = None;
    loop {
        let statuses = testbed.statuses().await;
        if goal.is_none() {
            goal =
                leader_of(&statuses).and_then(|(leader, _)| statuses.get(&leader)).map(|status| status.committed_index);
        }
        let applied = statuses.get(&node).map_or(0, |status| status.applied_index);
        if goal.is_some_and(|goal| applied >= goal) {
            return Ok(applied);
        }
        if let ProcessState::Exited { last_lines, .. } = testbed.state(node) {
            anyhow::bail!("node {node} ended while it caught up: {last_lines}");
        }
        if Instant::now() > deadline {
            return Err(anyhow::anyhow!("node {node} is at {applied} of {goal:?} after {READY:?}"))
                .context(testbed.describe().await);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
