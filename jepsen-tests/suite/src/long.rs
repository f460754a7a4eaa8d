//! The runs for the record: scenarios in turn, each on a fresh cluster with a
//! seed of its own, until the time is over. `summary.json` holds the sums.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::harness::{self, Job, Report};
use crate::scenario::{self, Amount};
use crate::verdict;

/// What is run in a round: scenario, nodes, faults at most.
const ROUND: &[(&str, u32, usize)] = &[
    ("kill-leader", 3, 56),
    ("partition", 3, 36),
    ("power-loss", 3, 9),
    ("pause", 3, 28),
    ("membership", 3, 7),
    ("corruption", 3, 14),
    ("mix", 5, 0),
    ("kill-leader", 5, 22),
    ("partition", 5, 14),
    ("membership", 5, 7),
    ("identity", 3, 3),
    ("catch-up", 3, 2),
    ("kill", 3, 10),
    ("restarts", 3, 8),
    ("rotten-majority", 3, 2),
    ("network", 3, 3),
    ("clock", 3, 3),
    ("empty-majority", 3, 1),
    ("slow-catch-up", 3, 2),
    ("rolling", 3, 2),
    ("vote-loss", 3, 1),
    ("disk-full", 3, 2),
    ("io-error", 3, 3),
    ("slow-disk", 3, 2),
];

/// Faults are this much shorter than drawn for a change: many of them count.
const HURRY: f64 = 3.0;

/// How long nothing may be acknowledged after a kill of the leader, 99 times of
/// 100.
const UNAVAILABLE_MAX_MS: u64 = 3_000;

/// The sums over all runs.
#[derive(Default, Serialize)]
struct Summary {
    runs: Vec<Line>,
    /// Seconds of all runs together.
    seconds: f64,
    acked: u64,
    valid: u64,
    /// By class and name.
    faults: BTreeMap<String, u64>,
    /// Milliseconds from each kill of a leader to the next acknowledgement of
    /// an append made after it.
    unavailable_ms: Vec<u64>,
}

#[derive(Serialize)]
struct Line {
    scenario: String,
    seed: u64,
    nodes: u32,
    seconds: f64,
    result: String,
}

/// Runs rounds until the time is over.
pub(crate) async fn run(binary: &Path, out: &Path, hours: f64, first: u64) -> Result<bool> {
    let binary = harness::require_binary(binary)?;
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(hours * 3_600.0);
    let mut summary = Summary::default();
    let mut bad = Vec::new();
    let mut seed = first;
    'rounds: loop {
        for (scenario, nodes, faults) in ROUND {
            if Instant::now() >= end {
                break 'rounds;
            }
            seed += 1;
            let job = Job {
                scenario: (*scenario).to_owned(),
                seed,
                nodes: *nodes,
                duration: Duration::from_secs(if *scenario == "mix" { 90 } else { 300 }),
                binary: binary.clone(),
                out: out.to_owned(),
                seeded_bug: None,
            };
            let directory = out.join(format!("{scenario}-{seed}"));
            let result = match scenario::run(job, Amount { faults: *faults, minimum: 50, hurry: HURRY }).await {
                Ok(report) => {
                    verdict::print(&report);
                    summary.add(&report);
                    if report.is_valid() { "valid".to_owned() } else { "not valid".to_owned() }
                }
                Err(error) => format!("not run: {error:#}"),
            };
            println!("{:.0} s: {scenario} seed {seed}: {result}", begin.elapsed().as_secs_f64());
            if result == "valid" {
                // Gigabytes an hour. Seed and scenario make it again.
                keep_the_verdict(&directory)?;
            } else {
                bad.push(seed);
            }
            let seconds = begin.elapsed().as_secs_f64();
            summary.seconds = seconds;
            summary.runs.push(Line { scenario: (*scenario).to_owned(), seed, nodes: *nodes, seconds, result });
            std::fs::write(out.join("summary.json"), serde_json::to_vec_pretty(&summary)?)?;
        }
    }
    println!("{} runs in {:.0} s, {} acknowledged appends", summary.runs.len(), summary.seconds, summary.acked);
    for (fault, count) in &summary.faults {
        println!("{count:6} {fault}");
    }
    let unavailable = summary.unavailable_p99();
    if let Some(p99) = unavailable {
        println!("after a kill of the leader, p99: {p99} ms of {} kills", summary.unavailable_ms.len());
    }
    println!("not valid: {bad:?}");
    Ok(bad.is_empty() && unavailable.is_none_or(|p99| p99 <= UNAVAILABLE_MAX_MS))
}

/// Removes all of a run but its page and its verdict.
fn keep_the_verdict(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Some("report.html" | "verdict.json" | "nemesis.json") => {}
            _ if entry.file_type()?.is_dir() => std::fs::remove_dir_all(entry.path())?,
            _ => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

impl Summary {
    fn unavailable_p99(&mut self) -> Option<u64> {
        self.unavailable_ms.sort_unstable();
        let last = self.unavailable_ms.len().checked_sub(1)?;
        self.unavailable_ms.get((last * 99).div_ceil(100)).copied()
    }

    fn add(&mut self, report: &Report) {
        self.valid += u64::from(report.is_valid());
        for (fault, count) in &report.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
        if let Some(verdict) = &report.verdict {
            self.acked += verdict.counts.acked;
            self.unavailable_ms.extend(verdict.coverage.unavailability.each.iter().map(|nanos| nanos / 1_000_000));
        }
    }
}
