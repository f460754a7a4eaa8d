//! Scavenges that are interrupted, of streams that are deleted and restored meanwhile (P14).

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use annals_checker::history::NodeNumber;
use annals_checker::scavenge::{self, Record};
use annals_testbed::nemesis::{Move, Shape as Cutting, Target};
use annals_testbed::{Cut, nemesis};
use annals_workload::{seen_digest, start_scavenges};
use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Deserialize;

use crate::harness::{Harness, Job, Report, Shape};
use crate::scenario::Amount;

/// A scavenge is to take some seconds.
const BYTES_PER_SECOND: &str = "262144";

/// What a run must have seen to say anything: scavenges that came to their end, events
/// that went, and views.
const SCAVENGES_MIN: usize = 2;
const GONE_MIN: usize = 50;
const VIEWS_MIN: usize = 20;

pub(crate) async fn run(job: Job, amount: Amount) -> Result<Report> {
    // Nodes that were away come back by a snapshot, and pull what was reclaimed.
    let mut shape = Shape::small();
    shape.settings.push(("scavenge_bytes_per_second".into(), BYTES_PER_SECOND.into()));
    let mut harness = Harness::start(job, shape).await?;
    let load = start_scavenges(harness.endpoints.clone(), harness.recorder.clone(), harness.job.seed);
    let mut rng = StdRng::seed_from_u64(harness.job.seed);
    let begin = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    for _ in 0..amount.faults {
        if begin.elapsed() > harness.job.duration {
            break;
        }
        let fault = draw(&mut rng);
        harness.note(nemesis::perform(&harness.testbed, &fault, &harness.recorder.clock()).await);
        tokio::time::sleep(Duration::from_millis(rng.random_range(1_000..3_000))).await;
    }
    harness.heal().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = load.stop().await;
    harness.testbed.stop_all().await;
    match seen {
        Ok(mut records) => {
            for node in harness.testbed.nodes() {
                match files(&harness.job.binary, &harness.testbed.spec(node).data, node) {
                    Ok(record) => records.push(record),
                    Err(error) => harness.complain(format!("the files of node {node} cannot be compared: {error:#}")),
                }
            }
            judge(&mut harness, &records)?;
        }
        Err(error) => harness.complain(format!("P14: the scavenges did not come to their end: {error:#}")),
    }
    harness.conclude().await
}

/// The leader is what drives a scavenge: most of it is done to that. A node that is away
/// for long has to catch up with what went meanwhile.
fn draw(rng: &mut StdRng) -> Move {
    match rng.random_range(0..5) {
        0 | 1 => Move::Kill { target: Target::Leader, down: Duration::from_millis(rng.random_range(0..2_000)) },
        2 => Move::Kill {
            target: Target::Follower(rng.random()),
            down: Duration::from_millis(rng.random_range(2_000..8_000)),
        },
        3 => Move::Pause {
            target: Target::Leader,
            time: Duration::from_millis(rng.random_range(1_500..3_000)),
            until_led: true,
        },
        _ => Move::Partition {
            shape: Cutting::Isolated(Target::Leader),
            how: Cut::Drop,
            time: Duration::from_millis(rng.random_range(1_500..4_000)),
            clients: false,
            flapping: None,
        },
    }
}

fn judge(harness: &mut Harness, records: &[Record]) -> Result<()> {
    let lines: Result<Vec<String>, _> = records.iter().map(serde_json::to_string).collect();
    std::fs::write(harness.directory.join("scavenges.jsonl"), lines?.join("\n") + "\n")?;
    let scavenge::Judgement { wrong, written, gone, restored, scavenges, views } = scavenge::judge(records);
    println!(
        "  {written} events, {gone} of them reclaimed, {restored} restored in time; {scavenges} scavenges, {views} views"
    );
    for (what, count, least) in [
        ("scavenges came to their end", scavenges, SCAVENGES_MIN),
        ("events went", gone, GONE_MIN),
        ("views", views, VIEWS_MIN),
    ] {
        if count < least {
            harness.complain(format!("only {count} {what}: that proves nothing"));
        }
    }
    for wrong in wrong {
        harness.complain(wrong);
    }
    Ok(())
}

#[derive(Deserialize)]
struct Line {
    position: u64,
    #[serde(default)]
    reclaimed: bool,
}

/// What the files of a stopped node hold, as the program itself verifies and dumps it.
fn files(binary: &Path, data: &Path, node: NodeNumber) -> Result<Record> {
    let mut child = Command::new(binary)
        .args(["verify", "--dump", "-", "--data"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("annals verify cannot be started")?;
    let output = child.stdout.take().context("no output")?;
    let (mut everything, mut reclaimed) = (Vec::new(), Vec::new());
    for line in BufReader::new(output).lines() {
        let line = line?;
        let event: Line = serde_json::from_str(&line).context("annals verify does not print what it should")?;
        if event.reclaimed {
            reclaimed.push(event.position);
        }
        everything.extend_from_slice(line.as_bytes());
    }
    let ended = child.wait_with_output()?;
    ensure!(ended.status.success(), "annals verify: {}", String::from_utf8_lossy(&ended.stderr).trim());
    Ok(Record::Files { node, digest: seen_digest("dump", &everything, &[]), reclaimed })
}
