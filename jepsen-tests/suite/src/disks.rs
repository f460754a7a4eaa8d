//! F6, F7, F8, F10: crashes in the middle of a system call, no space, errors,
//! slow syncs.

use std::time::{Duration, Instant};

use annals_checker::Settings;
use annals_disks::crash_points;
use annals_disks::full_disk::SmallVolume;
use annals_disks::io_error::{self, Attached};
use annals_testbed::ProcessState;
use anyhow::Result;

use crate::harness::{Harness, Job, READY, Report, Shape};
use crate::power_loss::blocking;

/// Every `one_of`-th system call of a script is the last of its process.
pub(crate) async fn crash_points(job: Job, one_of: usize, _settings: Settings) -> Result<Report> {
    let plan = crash_points::Plan {
        binary: job.binary.clone(),
        env: job.seeded_bug.iter().map(|bug| ("SEEDED_BUG".to_owned(), bug.clone())).collect(),
        directory: job.out.join(format!("{}-{}", job.scenario, job.seed)),
        every: u32::try_from(one_of.max(1))?,
        seed: job.seed,
    };
    let begin = Instant::now();
    let swept = blocking(move || crash_points::run(&plan)).await?;
    println!("  {}", serde_json::to_string(&swept)?);
    let mut report = Report {
        scenario: job.scenario,
        seed: job.seed,
        seconds: begin.elapsed().as_secs_f64(),
        verdict: None,
        complaints: swept.failures,
        faults: std::iter::once(("F6 crash-point".to_owned(), swept.killed)).collect(),
    };
    if swept.killed == 0 {
        report.complaints.push("uncovered: no process was killed".into());
    }
    Ok(report)
}

/// The disk of one node is full for a while; it must neither lose anything nor
/// need help when there is space again.
pub(crate) async fn full(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    const BYTES: u64 = 1024 * 1024 * 1024;
    let mut harness = Harness::prepare(job, Shape::small()).await?;
    let mut volumes = Vec::new();
    for node in harness.testbed.nodes() {
        let directory = harness.testbed.directory(node);
        let volume = blocking(move || SmallVolume::ext4(&directory, "small", BYTES)).await?;
        let data = volume.data();
        harness.respec(node, |spec| spec.data = data);
        volumes.push((node, volume));
    }
    harness.start_all().await?;
    let load = harness.load(harness.plan());
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (leader, others) = harness.roles().await?;
        let node = if round % 2 == 0 { leader } else { others[round % others.len()] };
        let Some((_, volume)) = volumes.iter().find(|(each, _)| *each == node) else { continue };
        let start = harness.recorder.now();
        volume.fill(64 * 1024)?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let made = match harness.testbed.state(node) {
            ProcessState::Exited { .. } => "it ended",
            _ => "it went on",
        };
        harness.testbed.expect_exit(node);
        volume.free()?;
        harness.noted("F7", "disk-full", &[node], start, made);
        harness.testbed.start_node(node).await?;
        if let Err(error) = harness.testbed.wait_ready(node, READY).await {
            harness.complain(format!("node {node} does not come back after its disk was full: {error:#}"));
        }
    }
    harness.heal().await;
    let report = harness.finish(Some(load), settings).await?;
    drop(volumes);
    Ok(report)
}

/// Syncs of one node fail. It must end at once: what the kernel dropped then
/// no later sync will bring back.
pub(crate) async fn errors(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::default()).await?;
    let load = harness.load(harness.plan());
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (leader, others) = harness.roles().await?;
        let node = if round % 2 == 0 { leader } else { others[round % others.len()] };
        let ProcessState::Running { pid } = harness.testbed.state(node) else { continue };
        let trace = harness.testbed.directory(node).join(format!("errors-{round}.trace"));
        let start = harness.recorder.now();
        let (calls, fault) =
            [("fdatasync", "error=EIO"), ("fdatasync", "error=ENOSPC"), ("write,pwrite64", "error=EIO")][round % 3];
        harness.testbed.expect_exit(node);
        let attached = blocking({
            let trace = trace.clone();
            move || Attached::to(pid, calls, fault, &trace)
        })
        .await?;
        let deadline = Instant::now() + Duration::from_secs(3);
        while harness.runs(node) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let seen = io_error::tampered(&trace);
        if harness.runs(node) && seen > 0 {
            harness.complain(format!("node {node} goes on after an I/O error: {calls} {fault}, {seen} times"));
        }
        blocking(move || {
            drop(attached);
            Ok(())
        })
        .await?;
        harness.noted("F8", fault, &[node], start, format!("{calls}, {seen} times"));
        if harness.runs(node) {
            harness.testbed.kill(node).await?;
        }
        harness.testbed.start_node(node).await?;
        if let Err(error) = harness.testbed.wait_ready(node, READY).await {
            harness.complain(format!("node {node} does not come back after an I/O error: {error:#}"));
        }
    }
    harness.heal().await;
    harness.finish(Some(load), settings).await
}

/// Syncs of one node take long.
pub(crate) async fn slow(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::default()).await?;
    let load = harness.load(harness.plan());
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (leader, _) = harness.roles().await?;
        let ProcessState::Running { pid } = harness.testbed.state(leader) else { continue };
        let trace = harness.testbed.directory(leader).join(format!("slow-{round}.trace"));
        let start = harness.recorder.now();
        let micros = [50_000, 200_000, 500_000][round % 3];
        let attached =
            blocking(move || Attached::to(pid, "fdatasync", &format!("delay_enter={micros}"), &trace)).await?;
        tokio::time::sleep(Duration::from_secs(8)).await;
        blocking(move || {
            drop(attached);
            Ok(())
        })
        .await?;
        harness.noted("F10", &format!("sync-{}ms", micros / 1_000), &[leader], start, "");
    }
    harness.heal().await;
    harness.finish(Some(load), settings).await
}
