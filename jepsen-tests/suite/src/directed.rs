//! Stories that chance would hardly tell.

use std::time::Duration;

use annals_checker::Settings;
use annals_testbed::nemesis::{Move, Shape as Cutting, Target};
use annals_testbed::network::Layer;
use annals_testbed::{Cut, Partition, nemesis};
use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Harness, Job, Report, Shape};
use crate::scenario::Amount;

/// Whoever leads is killed, again and again.
pub(crate) async fn kill_leader(job: Job, amount: Amount, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::default()).await?;
    let load = harness.load(harness.plan());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut rng = StdRng::seed_from_u64(harness.job.seed);
    for _ in 0..amount.faults {
        let down = Duration::from_secs_f64(rng.random_range(0.0..6.0));
        let kill = Move::Kill { target: Target::Leader, down }.hurried(amount.hurry);
        harness.note(nemesis::perform(&harness.testbed, &kill, &harness.recorder.clock()).await);
        tokio::time::sleep(Duration::from_secs_f64(rng.random_range(0.7..2.5) / amount.hurry)).await;
    }
    harness.heal().await;
    harness.finish(Some(load), settings).await
}

/// The leader is cut off again and again, and clients still reach it: nothing
/// that it says alone may count.
pub(crate) async fn lone_leader(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::default()).await?;
    let load = harness.load(harness.plan());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut rng = StdRng::seed_from_u64(harness.job.seed);
    for _ in 0..rounds {
        let cut = Move::Partition {
            shape: Cutting::Isolated(Target::Leader),
            how: Cut::Drop,
            time: Duration::from_millis(rng.random_range(3_000..5_000)),
            clients: false,
            flapping: None,
        };
        harness.note(nemesis::perform(&harness.testbed, &cut, &harness.recorder.clock()).await);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    harness.heal().await;
    harness.finish(Some(load), settings).await
}

/// One node misses the newest events; another comes back with an empty disk
/// and its old address; together they are a majority that must not be one.
pub(crate) async fn empty_majority(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::default()).await?;
    let load = harness.load(harness.plan());
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (leader, others) = harness.roles().await?;
        let (wiped, behind) = (others[0], others[1]);
        let start = harness.recorder.now();
        harness.testbed.kill(behind).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        harness.testbed.kill(leader).await?;
        harness.testbed.kill(wiped).await?;
        let data = harness.testbed.spec(wiped).data;
        let aside = data.with_extension("aside");
        std::fs::rename(&data, &aside)?;
        harness.testbed.start_node(behind).await?;
        harness.testbed.start_node(wiped).await?;
        harness.testbed.expect_exit(wiped);
        // The empty one may refuse, wait or end; what matters is what is
        // acknowledged meanwhile.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let what = match harness.testbed.status(wiped).await {
            Ok(status) if status.node == 0 => "the empty node waited",
            Ok(_) => "the empty node was taken for the old one",
            Err(_) => "the empty node ended",
        };
        let taken = what.ends_with("old one");
        // Its old disk would only hide what has become of the events.
        if !taken {
            if harness.runs(wiped) {
                harness.testbed.kill(wiped).await?;
            }
            std::fs::remove_dir_all(&data)?;
            std::fs::rename(&aside, &data)?;
        }
        harness.noted("F14", "empty-majority", &[wiped, behind], start, what);
        if let Err(error) = harness.start_all().await {
            harness.complain(format!("not all nodes came back: {error:#}"));
            break;
        }
        if !harness.heal().await {
            break;
        }
        if taken {
            harness.complain(format!("node {wiped} has an empty disk and was taken for the one it replaces"));
            // The old leader may end over what it finds.
            tokio::time::sleep(Duration::from_secs(3)).await;
            break;
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    harness.finish(Some(load), settings).await
}

/// A follower is cut off from the others, and not from clients, until the log
/// that it misses was purged; then it catches up over a slow line, and clients
/// read from it all the while. Its process goes on, so what it shows may stand
/// still and never go back.
pub(crate) async fn slow_catch_up(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    const BITS: u64 = 2_000_000;
    const PATIENCE: Duration = Duration::from_secs(90);
    let mut harness = Harness::start(job, Shape::small()).await?;
    let load = harness.load(harness.plan());
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (leader, others) = harness.roles().await?;
        let node = others[0];
        let begin = tokio::time::Instant::now();
        let start = harness.recorder.now();
        let missed = harness.testbed.status(node).await?.last_log_index;
        let partition = Partition::isolate(node, &harness.testbed.nodes(), Cut::Drop);
        let cut = harness.testbed.partition(&partition)?;
        let purged = loop {
            let purged = harness.testbed.status(leader).await.map_or(0, |status| status.purged_index);
            if purged > missed + 300 || begin.elapsed() > PATIENCE {
                break purged;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let slow = harness.testbed.network().lay(Layer::Bandwidth { node, bits: BITS })?;
        harness.testbed.network().lift(cut)?;
        // It comes to `purged` only by catching up.
        let mut applied = 0;
        while applied < purged && begin.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(100)).await;
            applied = harness.testbed.status(node).await.map_or(0, |status| status.applied_index);
        }
        harness.testbed.network().lift(slow)?;
        if purged > missed && applied >= purged {
            let detail = format!("its log ended at {missed}, the leader had purged to {purged}");
            harness.noted("F3", "cut-off-then-slow-catch-up", &[node], start, detail);
        }
        if !harness.heal().await || harness.is_caught() {
            break;
        }
    }
    harness.finish(Some(load), settings).await
}

/// All nodes are killed at once, again and again, while state is flushed and
/// the log purged all the time.
pub(crate) async fn restarts(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::small()).await?;
    let load = harness.load(harness.plan());
    let mut rng = StdRng::seed_from_u64(harness.job.seed);
    'rounds: for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(rng.random_range(1_500..4_000))).await;
        let start = harness.recorder.now();
        let nodes = harness.testbed.nodes();
        for node in &nodes {
            harness.testbed.kill(*node).await?;
        }
        harness.noted("F1", "kill-all", &nodes, start, "");
        for node in &nodes {
            harness.testbed.start_node(*node).await?;
        }
        for node in nodes {
            if let Err(error) = harness.testbed.wait_ready(node, crate::harness::READY).await {
                harness.complain(format!("node {node} is not ready after a kill: {error:#}"));
                break 'rounds;
            }
        }
    }
    harness.heal().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    harness.finish(Some(load), settings).await
}
