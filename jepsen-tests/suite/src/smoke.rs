//! The runs of every change: every class of faults that must not break, in
//! amounts that fit into twenty minutes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::harness::{self, Job};
use crate::scenario::{self, Amount};
use crate::verdict;

struct Part {
    scenario: &'static str,
    nodes: u32,
    faults: usize,
    /// Appends that must be acknowledged during the faults of each class: of a share of
    /// them, that share. A leader that stands still for five seconds holds up, one by
    /// one, all clients that come to it, until few are left that append.
    minimum: usize,
    seconds: u64,
}

const fn part(scenario: &'static str, nodes: u32, faults: usize, seconds: u64) -> Part {
    Part { scenario, nodes, faults, minimum: 50, seconds }
}

/// The amounts of the matrix's column "per CI".
const PARTS: &[Part] = &[
    part("calm", 1, 0, 10),
    part("calm", 3, 0, 25),
    part("calm", 5, 0, 25),
    part("kill", 3, 15, 240),
    part("pause", 3, 10, 240),
    part("partition", 3, 4, 120),
    part("partition", 5, 4, 120),
    part("network", 3, 2, 120),
    part("groups", 3, 6, 60),
    part("power-loss", 3, 16, 300),
    part("corruption", 3, 6, 240),
    part("membership", 3, 4, 180),
    part("catch-up", 3, 5, 180),
    part("clock", 3, 1, 60),
    part("identity", 3, 3, 120),
    part("access", 3, 6, 45),
    part("scavenge", 3, 6, 60),
];

/// Runs them all, or those of these names, or a share of each.
pub(crate) async fn run(binary: &Path, out: &Path, seed: u64, share: f64, only: &[String]) -> Result<bool> {
    let binary = harness::require_binary(binary)?;
    let begin = Instant::now();
    let (mut passed, mut failed) = (0, Vec::new());
    for (number, part) in PARTS.iter().enumerate() {
        if !only.is_empty() && !only.iter().any(|name| name == part.scenario) {
            continue;
        }
        let job = Job {
            scenario: part.scenario.to_owned(),
            // Two parts of one scenario must not share a directory.
            seed: seed * 100 + number as u64,
            nodes: part.nodes,
            duration: Duration::from_secs(part.seconds).mul_f64(share),
            binary: binary.clone(),
            out: out.to_owned(),
            seeded_bug: None,
        };
        let (faults, minimum) = (of(part.faults, share), of(part.minimum, share));
        let rerun = format!(
            "annals-jepsen run {} --seed {} --nodes {} --faults {faults} --minimum {minimum} --seconds {:.0}",
            job.scenario,
            job.seed,
            job.nodes,
            job.duration.as_secs_f64()
        );
        match scenario::run(job, Amount { faults, minimum: minimum as u64, hurry: 1.0 }).await {
            Ok(report) => {
                verdict::print(&report);
                if report.is_valid() {
                    passed += 1;
                } else {
                    failed.push(rerun);
                }
            }
            Err(error) => {
                println!("  could not be run: {error:#}");
                failed.push(rerun);
            }
        }
    }
    println!("{passed} passed, {} failed, {:.0} s", failed.len(), begin.elapsed().as_secs_f64());
    for rerun in &failed {
        println!("again: {rerun}");
    }
    Ok(failed.is_empty() && passed > 0)
}

/// At least one, where there are any.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "some tens")]
fn of(amount: usize, share: f64) -> usize {
    (amount as f64 * share).ceil() as usize
}
