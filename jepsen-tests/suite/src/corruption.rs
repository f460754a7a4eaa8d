//! F9: the disk of one node rots.
//!
//! A node may refuse to start on what it finds, or go on without being wrong.
//! It may not serve anything but the truth, and may not lead with a hole in its
//! log. Whoever starts on a damaged disk is therefore made the leader and read
//! from; the checker compares what it says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use annals_checker::Settings;
use annals_checker::history::NodeNumber;
use annals_disks::corruption::{Corruption, Damage, Part, corrupt};
use annals_testbed::{ProcessState, Testbed, nemesis};
use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Harness, Job, READY, Report, Shape};
use crate::power_loss::blocking;

/// How long a node on a damaged disk is given to become ready or end.
const DECIDES: Duration = Duration::from_secs(6);

/// How long a damaged node serves before it is mended.
const SERVES: Duration = Duration::from_secs(2);

/// Damages one node after the other.
pub(crate) async fn run(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::small()).await?;
    harness.follow_members();
    let load = harness.load(harness.plan());
    let mut rng = StdRng::seed_from_u64(harness.job.seed);
    // Tables and a purged log need some history.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut done = 0;
    // A part that has no file yet is another try, not a fault.
    for attempt in 0..rounds as u64 * 4 {
        if done == rounds {
            break;
        }
        let (leader, others) = harness.roles().await?;
        let node = if rng.random_ratio(1, 3) { leader } else { *others.choose(&mut rng).unwrap_or(&leader) };
        let part = *Part::ALL.choose(&mut rng).unwrap_or(&Part::Log);
        let damage = *Damage::ALL.choose(&mut rng).unwrap_or(&Damage::FlipBit);
        let start = harness.recorder.now();
        // A log that ends early is what every crash may leave, unless the node
        // was stopped in order: then it must know better.
        if matches!(damage, Damage::Truncate | Damage::Remove | Damage::ZeroPage) || rng.random() {
            harness.testbed.terminate(node, Duration::from_secs(10)).await?;
        } else {
            harness.testbed.kill(node).await?;
        }
        let seed = harness.job.seed.wrapping_mul(1_009).wrapping_add(attempt);
        let damaged = Damaged::new(&harness.testbed, node, part, damage, seed).await?;
        let Some(damaged) = damaged else {
            harness.testbed.start_node(node).await?;
            harness.testbed.wait_ready(node, READY).await?;
            continue;
        };
        let name = damaged.name();
        let detail = damaged.corruption.to_string();
        let made = suffer(&harness.testbed, node).await?;
        harness.noted("F9", &name, &[node], start, format!("{made}; {detail}"));
        done += 1;
        if let Err(error) = damaged.mend(&harness.testbed).await {
            harness.complain(format!("node {node} does not come back after its disk was mended: {error:#}"));
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    harness.heal().await;
    harness.finish(Some(load), settings).await
}

/// A node that is stopped, and whose disk was damaged since.
pub(crate) struct Damaged {
    node: NodeNumber,
    data: PathBuf,
    pub(crate) corruption: Corruption,
    /// The files as they were before: a node that refuses to start may have
    /// changed others than the damaged one by then.
    spared: PathBuf,
    /// Who the node is, with all its starts.
    identity: Option<Vec<u8>>,
}

impl Damaged {
    /// None when there is nothing to damage.
    pub(crate) async fn new(
        testbed: &Testbed,
        node: NodeNumber,
        part: Part,
        damage: Damage,
        seed: u64,
    ) -> Result<Option<Damaged>> {
        let data = testbed.spec(node).data;
        blocking(move || {
            let spared = data.with_extension("spared");
            let _ = std::fs::remove_dir_all(&spared);
            let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(&data).arg(&spared).status()?;
            ensure!(status.success(), "{} cannot be copied", data.display());
            let Some(corruption) = corrupt(&data, part, damage, seed)? else { return Ok(None) };
            Ok(Some(Damaged { node, corruption, spared, identity: identity(&data), data }))
        })
        .await
    }

    pub(crate) fn name(&self) -> String {
        let part = serde_json::to_value(self.corruption.part).ok();
        let damage = serde_json::to_value(self.corruption.damage).ok();
        let text = |value: Option<serde_json::Value>| {
            value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default().replace('_', "-")
        };
        format!("{}-{}", text(damage), text(part))
    }

    /// Brings the cluster back to its strength, as an operator would: the other
    /// nodes run.
    pub(crate) async fn mend(self, testbed: &Testbed) -> Result<()> {
        let Damaged { node, data, corruption, spared, identity: before } = self;
        let ended = !runs(testbed, node);
        if !ended {
            testbed.kill(node).await?;
        }
        // Each start is in the identity before anything is promised to anyone.
        // A node that has promised nothing may have its old disk back; any other
        // is an outdated copy with it, and would rightly be refused.
        let silent = identity(&data) == before;
        let table = corruption.part == Part::StateTable;
        let mended = blocking(move || {
            if ended && silent {
                std::fs::remove_dir_all(&data)?;
                std::fs::rename(&spared, &data)?;
                return Ok(true);
            }
            std::fs::remove_dir_all(&spared)?;
            // Tables never change; of all else the node has made something newer.
            if table {
                corruption.undo()?;
            }
            Ok(table)
        })
        .await?;
        testbed.start_node(node).await?;
        if !mended {
            testbed.expect_exit(node);
        }
        match testbed.wait_ready(node, if mended { READY } else { DECIDES }).await {
            Ok(_) => Ok(()),
            Err(error) if mended => Err(error),
            Err(_) => {
                let done = nemesis::replace_lost(testbed, node).await?;
                println!("  node {node} is of no use any more: {done}");
                Ok(())
            }
        }
    }
}

fn identity(data: &Path) -> Option<Vec<u8>> {
    std::fs::read(data.join("identity")).ok()
}

/// Starts a node on its damaged disk, lets it lead if it dares, and answers
/// what it made of it.
pub(crate) async fn suffer(testbed: &Testbed, node: NodeNumber) -> Result<&'static str> {
    testbed.start_node(node).await?;
    testbed.expect_exit(node);
    if testbed.wait_ready(node, DECIDES).await.is_err() {
        return Ok(if runs(testbed, node) { "was not ready" } else { "refused to start" });
    }
    // It may refuse that as well.
    if let Ok(status) = testbed.status(node).await {
        let _ = testbed.transfer_leader(status.node).await;
    }
    tokio::time::sleep(SERVES).await;
    Ok(if runs(testbed, node) { "served" } else { "served, then ended" })
}

fn runs(testbed: &Testbed, node: NodeNumber) -> bool {
    matches!(testbed.state(node), ProcessState::Running { .. })
}

/// One node misses the newest events; the log of another is damaged; together
/// they are a majority that must not be one.
pub(crate) async fn rotten_majority(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::default()).await?;
    harness.follow_members();
    let load = harness.load(harness.plan());
    for round in 0..rounds as u64 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if !harness.all_run() {
            break;
        }
        let (leader, others) = harness.roles().await?;
        let (rotten, behind) = (others[0], others[1]);
        let start = harness.recorder.now();
        harness.testbed.kill(behind).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        harness.testbed.kill(leader).await?;
        harness.testbed.kill(rotten).await?;
        let seed = harness.job.seed.wrapping_mul(1_013).wrapping_add(round);
        let damaged = Damaged::new(&harness.testbed, rotten, Part::Log, Damage::FlipBit, seed).await?;
        harness.testbed.start_node(behind).await?;
        harness.testbed.start_node(rotten).await?;
        for node in [rotten, behind] {
            harness.testbed.expect_exit(node);
        }
        let ready = harness.testbed.wait_ready(rotten, DECIDES).await.is_ok();
        tokio::time::sleep(SERVES).await;
        let made = match (harness.runs(rotten), ready) {
            (false, _) => "refused to start",
            (true, true) => "served",
            (true, false) => "was not ready",
        };
        let detail = damaged.as_ref().map(|damaged| damaged.corruption.to_string()).unwrap_or_default();
        harness.noted("F9", "flip-bit-log-then-elect", &[rotten, behind], start, format!("{made}; {detail}"));
        harness.testbed.start_node(leader).await?;
        if let Some(damaged) = damaged
            && let Err(error) = damaged.mend(&harness.testbed).await
        {
            harness.complain(format!("node {rotten} does not come back: {error:#}"));
            break;
        }
        if !harness.heal().await {
            break;
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    harness.finish(Some(load), settings).await
}
