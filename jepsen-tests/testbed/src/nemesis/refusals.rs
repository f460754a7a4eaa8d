//! Whether a node that must not take part is kept out.
//!
//! It may end with a message, or run and stay outside. What counts as *in* is
//! what a client would notice: the node says that it is ready.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use annals_checker::history::NodeNumber;

use crate::process::ProcessState;
use crate::testbed::Testbed;

/// How long such a node is watched.
pub(super) const WATCHED: Duration = Duration::from_secs(8);

/// Words by which a node or its peers name such a case.
const WORDS: [&str; 7] =
    ["wiped", "was removed", "belongs to", "had acknowledged", "the identity", "remove node", "revert"];

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Nodes that came to say that they are ready, and after what time.
    pub(super) ready: BTreeMap<NodeNumber, Duration>,
    /// Nodes that ended.
    pub(super) ended: Vec<NodeNumber>,
    /// What they, and then their peers, said of it.
    pub(super) said: Vec<String>,
}

impl Seen {
    /// Whether all of them were kept out.
    pub(super) fn refused(&self) -> bool {
        self.ready.is_empty()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", if self.refused() { "refused" } else { "admitted" })?;
        for (node, after) in &self.ready {
            write!(f, ", node {node} ready after {after:?}")?;
        }
        for node in &self.ended {
            write!(f, ", node {node} ended by itself")?;
        }
        for said in &self.said {
            write!(f, " | {said}")?;
        }
        Ok(())
    }
}

/// Watches nodes that must not get in, from just after their start. Ends early
/// when all of them ended or are ready.
pub(super) async fn watch(testbed: &Testbed, nodes: &[NodeNumber], time: Duration) -> Seen {
    let begin = Instant::now();
    for node in nodes {
        testbed.expect_exit(*node);
    }
    let mut seen = Seen::default();
    while begin.elapsed() < time {
        for node in nodes {
            if seen.ready.contains_key(node) || seen.ended.contains(node) {
                continue;
            }
            if let ProcessState::Exited { .. } = testbed.state(*node) {
                seen.ended.push(*node);
            } else if testbed.page_is_ok(*node, "/readyz").await {
                seen.ready.insert(*node, begin.elapsed());
            }
        }
        if seen.ready.len() + seen.ended.len() == nodes.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Themselves first, then whoever had to do with them.
    let others = testbed.nodes().into_iter().filter(|node| !nodes.contains(node));
    for node in nodes.iter().copied().chain(others) {
        let said = testbed.said(node);
        let names_it = |line: &&str| WORDS.iter().any(|word| line.contains(word));
        // Of a node that names nothing, the last it said has to do.
        let itself = nodes.contains(&node);
        let last = said.lines().last().filter(|_| itself);
        if let Some(line) = said.lines().rev().find(names_it).or(last) {
            seen.said.push(format!("node {node} says: {}", shorten(line)));
        }
    }
    seen
}

fn shorten(line: &str) -> String {
    line.chars().take(400).collect()
}
