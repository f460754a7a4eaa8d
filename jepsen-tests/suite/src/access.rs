//! Users whose rights change while nodes are killed and cut off (P14).

use std::time::Duration;

use annals_checker::access::{self, Outcome};
use annals_testbed::nemesis::{Move, Shape as Cutting, Target};
use annals_testbed::{Cut, nemesis};
use annals_workload::{ADMIN, AccessSeen, start_access};
use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Harness, Job, Report, Shape};
use crate::scenario::Amount;

/// Calls of each kind that a run must have seen to say anything.
const SEEN_MIN: usize = 30;

pub(crate) async fn run(job: Job, amount: Amount) -> Result<Report> {
    let mut harness = Harness::prepare(job, Shape::default()).await?;
    let file = harness.directory.join("password");
    std::fs::write(&file, ADMIN.1)?;
    for node in harness.testbed.nodes() {
        harness.respec(node, |spec| {
            spec.settings.push(("authentication".into(), "true".into()));
            spec.settings.push(("admin_password_file".into(), file.display().to_string()));
        });
    }
    harness.start_all().await?;
    let load = start_access(harness.endpoints.clone(), harness.job.seed).await?;
    let mut rng = StdRng::seed_from_u64(harness.job.seed);
    let begin = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..amount.faults {
        if begin.elapsed() > harness.job.duration {
            break;
        }
        let fault = match rng.random_range(0..3) {
            0 => Move::Kill { target: Target::Leader, down: Duration::from_millis(rng.random_range(0..2_000)) },
            1 => Move::Pause {
                target: Target::Leader,
                time: Duration::from_millis(rng.random_range(1_500..3_000)),
                until_led: true,
            },
            _ => Move::Partition {
                shape: Cutting::Isolated(if rng.random_bool(0.5) { Target::Leader } else { Target::Follower(1) }),
                how: Cut::Drop,
                time: Duration::from_millis(rng.random_range(1_500..3_000)),
                clients: false,
                flapping: None,
            },
        };
        harness.note(nemesis::perform(&harness.testbed, &fault, &harness.recorder.clock()).await);
        tokio::time::sleep(Duration::from_millis(rng.random_range(500..2_000))).await;
    }
    harness.heal().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    match load.stop().await {
        Ok(seen) => judge(&mut harness, &seen)?,
        Err(error) => harness.complain(format!("the log cannot be read at the end: {error:#}")),
    }
    harness.conclude().await
}

fn judge(harness: &mut Harness, seen: &AccessSeen) -> Result<()> {
    let lines = |values: Vec<String>| values.join("\n") + "\n";
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let log = seen.log.iter().map(|event| json(serde_json::to_string(event))).collect();
    std::fs::write(harness.directory.join("log.jsonl"), lines(log))?;
    let calls = seen.calls.iter().map(|call| json(serde_json::to_string(call))).collect();
    std::fs::write(harness.directory.join("calls.jsonl"), lines(calls))?;
    let count = |is: fn(&Outcome) -> bool| seen.calls.iter().filter(|call| is(&call.outcome)).count();
    let kinds = [
        ("written", count(|outcome| matches!(outcome, Outcome::Written(_)))),
        ("denied", count(|outcome| matches!(outcome, Outcome::Denied(_)))),
        ("shown", count(|outcome| matches!(outcome, Outcome::Shown(_)))),
        ("hidden", count(|outcome| matches!(outcome, Outcome::Hidden))),
        ("nobody", count(|outcome| matches!(outcome, Outcome::Nobody))),
    ];
    let told: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    println!("  {} events; calls: {}", seen.log.len(), told.join(", "));
    for (kind, count) in kinds {
        if count < SEEN_MIN {
            harness.complain(format!("only {count} calls were {kind}: that proves nothing"));
        }
    }
    for wrong in access::judge(&seen.log, &seen.calls) {
        harness.complain(wrong);
    }
    Ok(())
}
