//! Bringing everything back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use annals_checker::history::NodeNumber;
use annals_proto::annals::v1::StatusReply;
use anyhow::{Result, bail};

use crate::cluster::{claims, leader_of};
use crate::process::ProcessState;
use crate::testbed::Testbed;

/// How long a cluster without faults may take to be whole again.
const WHOLE: Duration = Duration::from_secs(60);

/// Takes back every fault, starts every member that does not run, and waits
/// until all of them are ready, follow one leader, and have applied what was
/// committed when the first leader was seen. Answers how long that took.
///
/// # Errors
/// That did not come about within 60 s; the message says what all nodes say.
pub async fn heal(testbed: &Testbed) -> Result<Duration> {
    let begin = Instant::now();
    testbed.heal_network()?;
    for node in testbed.nodes() {
        match testbed.state(node) {
            ProcessState::Paused { .. } => testbed.resume(node)?,
            ProcessState::Running { .. } => {}
            ProcessState::Stopped | ProcessState::Exited { .. } => testbed.start_node(node).await?,
        }
        if testbed.options().fake_clock {
            testbed.set_clock_offset(node, 0)?;
        }
    }
    let mut goal = None;
    loop {
        let statuses = testbed.statuses().await;
        let missing = match wholeness(&testbed.nodes(), &statuses, &mut goal) {
            None => match unready(testbed).await {
                None => return Ok(begin.elapsed()),
                Some(node) => format!("node {node} is not ready"),
            },
            Some(missing) => missing,
        };
        if begin.elapsed() > WHOLE {
            bail!("not whole {WHOLE:?} after the last fault: {missing}\n{}", testbed.describe().await);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn unready(testbed: &Testbed) -> Option<NodeNumber> {
    for node in testbed.nodes() {
        if !testbed.page_is_ok(node, "/readyz").await {
            return Some(node);
        }
    }
    None
}

/// What is missing until a cluster is whole. `goal` is kept between looks, so
/// that a cluster under load can reach it.
fn wholeness(
    nodes: &[NodeNumber],
    statuses: &BTreeMap<NodeNumber, StatusReply>,
    goal: &mut Option<u64>,
) -> Option<String> {
    let Some((leader, term)) = leader_of(statuses) else { return Some("nobody leads".into()) };
    let leading = &statuses[&leader];
    let goal = *goal.get_or_insert(leading.committed_index);
    for node in nodes {
        let Some(status) = statuses.get(node) else { return Some(format!("node {node} does not answer")) };
        if status.leader != leading.node || status.term != term {
            return Some(format!(
                "node {node} follows {} in term {}, not {} in term {term}",
                status.leader, status.term, leading.node
            ));
        }
        if claims(status) && *node != leader {
            return Some(format!("nodes {node} and {leader} both lead"));
        }
        if status.applied_index < goal {
            return Some(format!("node {node} has applied {} of {goal}", status.applied_index));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node: u64, leader: u64, term: u64, applied: u64) -> StatusReply {
        StatusReply { node, leader, term, applied_index: applied, committed_index: applied, ..Default::default() }
    }

    #[test]
    fn a_cluster_is_whole_when_all_follow_one_leader_and_have_what_it_had() {
        let whole = BTreeMap::from([(1, status(1, 2, 5, 9)), (2, status(2, 2, 5, 9)), (3, status(3, 2, 5, 9))]);
        assert_eq!(wholeness(&[1, 2, 3], &whole, &mut None), None);
        for wrong in [status(3, 3, 4, 9), status(3, 0, 5, 9), status(3, 2, 5, 8), status(3, 2, 4, 9)] {
            let mut part = whole.clone();
            part.insert(3, wrong);
            assert!(wholeness(&[1, 2, 3], &part, &mut None).is_some());
        }
        assert!(wholeness(&[1, 2, 3, 4], &whole, &mut None).is_some());
        assert!(wholeness(&[1], &BTreeMap::from([(1, status(1, 0, 1, 0))]), &mut None).is_some());
    }

    #[test]
    fn the_goal_does_not_run_away_under_load() {
        let mut goal = None;
        let early = BTreeMap::from([(1, status(1, 1, 1, 10)), (2, status(2, 1, 1, 5))]);
        assert!(wholeness(&[1, 2], &early, &mut goal).is_some());
        let later = BTreeMap::from([(1, status(1, 1, 1, 100)), (2, status(2, 1, 1, 10))]);
        assert_eq!(wholeness(&[1, 2], &later, &mut goal), None);
    }
}
