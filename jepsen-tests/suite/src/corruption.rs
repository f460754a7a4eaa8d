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
use annals_testbed::ProcessState;
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
        let part = *Part::ALL.choose(&mut rng).unwrap_or(&Part::LogWal);
        let damage = *Damage::ALL.choose(&mut rng).unwrap_or(&Damage::FlipBit);
        let start = harness.recorder.now();
        // A log that ends early is what every crash may leave, unless the node
        // was stopped in order: then it must know better.
        if matches!(damage, Damage::Truncate | Damage::Remove | Damage::ZeroPage) || rng.random() {
            harness.testbed.terminate(node, Duration::from_secs(10)).await?;
        } else {
            harness.testbed.kill(node).await?;
        }
        let data = harness.testbed.spec(node).data;
        let seed = harness.job.seed.wrapping_mul(1_009).wrapping_add(attempt);
        let (spared, corruption) = blocking(move || {
            let spared = Spared::of(&data)?;
            Ok((spared, corrupt(&data, part, damage, seed)?))
        })
        .await?;
        if let Some(corruption) = corruption {
            let made = suffer(&mut harness, node, &corruption, spared).await?;
            harness.noted("F9", &name(&corruption), &[node], start, format!("{made}; {corruption}"));
            done += 1;
        }
        harness.testbed.start_node(node).await?;
        if let Err(error) = harness.testbed.wait_ready(node, READY).await {
            harness.complain(format!("node {node} does not come back after its disk was mended: {error:#}"));
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    harness.heal().await;
    harness.finish(Some(load), settings).await
}

fn name(corruption: &Corruption) -> String {
    let part = serde_json::to_value(corruption.part).ok();
    let damage = serde_json::to_value(corruption.damage).ok();
    let text = |value: Option<serde_json::Value>| {
        value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default().replace('_', "-")
    };
    format!("{}-{}", text(damage), text(part))
}

/// The files of a node as they were before. A node that refuses to start may
/// have changed others than the damaged one by then.
struct Spared {
    data: PathBuf,
    copy: PathBuf,
}

impl Spared {
    fn of(data: &Path) -> Result<Spared> {
        let copy = data.with_extension("spared");
        let _ = std::fs::remove_dir_all(&copy);
        let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(data).arg(&copy).status()?;
        ensure!(status.success(), "{} cannot be copied", data.display());
        Ok(Spared { data: data.to_owned(), copy })
    }

    /// Puts them back. Only for a node that has promised nothing since.
    fn restore(self) -> Result<()> {
        std::fs::remove_dir_all(&self.data)?;
        Ok(std::fs::rename(&self.copy, &self.data)?)
    }
}

/// Starts a node on its damaged disk, lets it lead if it dares, stops it and
/// mends what can be mended. Answers what the node made of it.
async fn suffer(
    harness: &mut Harness,
    node: NodeNumber,
    corruption: &Corruption,
    spared: Spared,
) -> Result<&'static str> {
    harness.testbed.start_node(node).await?;
    harness.testbed.expect_exit(node);
    let ready = harness.testbed.wait_ready(node, DECIDES).await.is_ok();
    let mut made = match harness.testbed.state(node) {
        ProcessState::Exited { .. } => "refused to start",
        _ if ready => "served",
        _ => "was not ready",
    };
    if ready {
        // It may refuse that as well.
        if let Ok(status) = harness.testbed.status(node).await {
            let _ = harness.testbed.transfer_leader(status.node).await;
        }
        tokio::time::sleep(SERVES).await;
        if !harness.runs(node) {
            made = "served, then ended";
        }
    }
    if harness.runs(node) {
        harness.testbed.kill(node).await?;
    }
    // What a node that started has made of its log and manifests since then is
    // newer than the copy. Tables never change.
    let table = matches!(corruption.part, Part::StateTable | Part::LogTable);
    if made == "refused to start" {
        blocking(move || spared.restore()).await?;
    } else if table && corruption.file.exists() {
        let corruption = corruption.clone();
        blocking(move || corruption.undo()).await?;
    }
    Ok(made)
}

/// One node misses the newest events; the log of another is damaged; together
/// they are a majority that must not be one.
pub(crate) async fn rotten_majority(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::default()).await?;
    let load = harness.load(harness.plan());
    for round in 0..rounds as u64 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (leader, others) = harness.roles().await?;
        let (rotten, behind) = (others[0], others[1]);
        let start = harness.recorder.now();
        harness.testbed.kill(behind).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        harness.testbed.kill(leader).await?;
        harness.testbed.kill(rotten).await?;
        let data = harness.testbed.spec(rotten).data;
        let seed = harness.job.seed.wrapping_mul(1_013).wrapping_add(round);
        let (spared, corruption) = blocking(move || {
            let spared = Spared::of(&data)?;
            Ok((spared, corrupt(&data, Part::LogWal, Damage::FlipBit, seed)?))
        })
        .await?;
        harness.testbed.start_node(behind).await?;
        harness.testbed.start_node(rotten).await?;
        harness.testbed.expect_exit(rotten);
        let ready = harness.testbed.wait_ready(rotten, DECIDES).await.is_ok();
        tokio::time::sleep(SERVES).await;
        let ended = matches!(harness.testbed.state(rotten), ProcessState::Exited { .. });
        if harness.runs(rotten) {
            harness.testbed.kill(rotten).await?;
        }
        let detail = corruption.as_ref().map(ToString::to_string).unwrap_or_default();
        if ended {
            blocking(move || spared.restore()).await?;
        }
        let made = match (ended, ready) {
            (true, _) => "refused to start",
            (false, true) => "served",
            (false, false) => "was not ready",
        };
        harness.noted("F9", "flip-bit-log-wal-then-elect", &[rotten, behind], start, format!("{made}; {detail}"));
        harness.start_all().await?;
        harness.heal().await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    harness.finish(Some(load), settings).await
}
