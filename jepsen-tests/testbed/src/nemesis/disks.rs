//! Nodes that come with a disk they must not come with.
//!
//! A node is pointed at another directory, and at its own again afterwards. The
//! fault's detail begins with `refused` or `admitted`: whether the cluster kept
//! such a node out.
//!
//! A node that was admitted with a disk that had forgotten something keeps that
//! disk: the cluster counts on it from then on, and the earlier one would be
//! one more that has forgotten something. Only swapped disks are always swapped
//! back, because neither forgot anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use annals_checker::history::{Installed, NodeNumber};
use anyhow::{Context as _, Result, bail};

use super::{Outcome, Target, WrongDisk, refusals, running};
use crate::testbed::{NodeSpec, Testbed};

/// How long the right disk may take until its node is ready.
const READY: Duration = Duration::from_secs(60);

/// F14.
pub(super) async fn wrong_disk(testbed: &Testbed, wrong: WrongDisk) -> Result<Outcome> {
    if testbed.nodes().len() < 2 {
        return Ok(Outcome::skipped("there is nobody who could remember what the disk forgot"));
    }
    match wrong {
        WrongDisk::Wiped(target) => wiped(testbed, target).await,
        WrongDisk::Swapped(drawn) => swapped(testbed, drawn).await,
        WrongDisk::Restored { target, age } => restored(testbed, target, age).await,
    }
}

async fn wiped(testbed: &Testbed, target: Target) -> Result<Outcome> {
    let Some(node) = one(testbed, target).await? else {
        return Ok(Outcome::skipped("none of them runs"));
    };
    let spec = testbed.spec(node);
    let empty = unused(&testbed.directory(node), "empty");
    std::fs::create_dir_all(&empty).with_context(|| format!("could not make {}", empty.display()))?;
    testbed.kill(node).await?;
    let wrong = NodeSpec { data: empty, ..spec.clone() };
    come_with(testbed, vec![(node, spec, wrong)], "an empty disk", Afterwards::UnlessAdmitted).await
}

async fn swapped(testbed: &Testbed, drawn: u32) -> Result<Outcome> {
    let nodes = running(testbed, &testbed.nodes());
    if nodes.len() < 2 {
        return Ok(Outcome::skipped("there are no two nodes that run"));
    }
    let first = usize::try_from(drawn).unwrap_or(0) % nodes.len();
    let (one, other) = (nodes[first], nodes[(first + 1) % nodes.len()]);
    let (spec, other_spec) = (testbed.spec(one), testbed.spec(other));
    testbed.kill(one).await?;
    testbed.kill(other).await?;
    let changes = vec![
        (one, spec.clone(), NodeSpec { data: other_spec.data.clone(), ..spec.clone() }),
        (other, other_spec.clone(), NodeSpec { data: spec.data, ..other_spec }),
    ];
    come_with(testbed, changes, "each other's disks", Afterwards::PutBack).await
}

async fn restored(testbed: &Testbed, target: Target, age: Duration) -> Result<Outcome> {
    let Some(node) = one(testbed, target).await? else {
        return Ok(Outcome::skipped("none of them runs"));
    };
    let spec = testbed.spec(node);
    let copy = unused(&testbed.directory(node), "copy");
    // A node that was stopped has nothing in flight: the best copy there is.
    testbed.terminate(node, Duration::from_secs(20)).await?;
    copy_directory(&spec.data, &copy)?;
    testbed.start_node(node).await?;
    testbed.wait_ready(node, READY).await?;
    let then = testbed.status(node).await?;
    tokio::time::sleep(age).await;
    let now = testbed.status(node).await?;
    testbed.kill(node).await?;
    let what = format!(
        "its disk as it was {age:?} ago: last log index {} instead of {}, position {} instead of {}",
        then.last_log_index, now.last_log_index, then.tail, now.tail
    );
    let wrong = NodeSpec { data: copy, ..spec.clone() };
    let mut outcome = come_with(testbed, vec![(node, spec, wrong)], &what, Afterwards::UnlessAdmitted).await?;
    if then.last_log_index == now.last_log_index {
        // What forgot nothing need not be refused.
        outcome.installed = Installed::Skipped;
    }
    Ok(outcome)
}

/// Whether the right disks are put back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    PutBack,
    UnlessAdmitted,
}

/// Starts nodes with their wrong disks, watches, and puts the right ones back.
async fn come_with(
    testbed: &Testbed,
    changes: Vec<(NodeNumber, NodeSpec, NodeSpec)>,
    what: &str,
    afterwards: Afterwards,
) -> Result<Outcome> {
    let start = testbed.now();
    let nodes: Vec<NodeNumber> = changes.iter().map(|(node, ..)| *node).collect();
    for (node, _, wrong) in &changes {
        testbed.set_spec(*node, wrong.clone());
        testbed.start_node(*node).await?;
    }
    let seen = refusals::watch(testbed, &nodes, refusals::WATCHED).await;
    let cluster = testbed.describe().await.replace('\n', " / ");
    let mut detail = format!("{seen}; it came with {what}; {cluster}");
    if afterwards == Afterwards::UnlessAdmitted && !seen.refused() {
        detail.push_str("; it keeps that disk");
        return Ok(Outcome::installed(nodes, detail).since(start));
    }
    for node in &nodes {
        // It may have ended by itself.
        let _ = testbed.kill(*node).await;
    }
    for (node, right, wrong) in changes {
        testbed.set_spec(node, right);
        testbed.start_node(node).await?;
        if afterwards == Afterwards::UnlessAdmitted {
            let _ = std::fs::remove_dir_all(wrong.data);
        }
    }
    for node in &nodes {
        match testbed.wait_ready(*node, READY).await {
            Ok(took) => detail.push_str(&format!("; with its own disk node {node} is ready after {took:?}")),
            Err(error) => bail!("{detail}; with its own disk again: {error:#}"),
        }
    }
    Ok(Outcome::installed(nodes, detail).since(start))
}

async fn one(testbed: &Testbed, target: Target) -> Result<Option<NodeNumber>> {
    Ok(running(testbed, &target.resolve(testbed).await?).first().copied())
}

/// A directory that is not there yet: one of that name may be in use.
fn unused(folder: &Path, name: &str) -> PathBuf {
    let mut numbers = 1_u32..;
    loop {
        let path = folder.join(format!("{name}-{}", numbers.next().unwrap_or(0)));
        if !path.exists() {
            return path;
        }
    }
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("could not make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)
                .with_context(|| format!("could not copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}
