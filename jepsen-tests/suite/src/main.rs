//! annals-jepsen: faults against a cluster of real `annals serve` processes,
//! and a verdict about what their clients were told.
//!
//! Jepsen-style, our own: the ideas are Jepsen's, the checker is not.
//!
//! | module | idea |
//! |---|---|
//! | `harness` | the life of one run |
//! | `scenario` | what can be run, by name |
//! | `mix`, `directed`, `power_loss`, `corruption`, `disks` | the scenarios |
//! | `smoke`, `long`, `bugs` | many runs: for every change, for the record, for the suite itself |
#![forbid(unsafe_code)]

mod access;
mod bugs;
mod corruption;
mod directed;
mod disks;
mod harness;
mod long;
mod mix;
mod offline;
mod power_loss;
mod scavenge;
mod scenario;
mod smoke;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::harness::Job;
use crate::scenario::Amount;

/// Faults against a cluster of real annals processes, and a verdict.
///
/// Needs root: it makes network namespaces, loop devices and mounts, and
/// removes them. Nothing leaves the namespaces.
#[derive(Parser)]
#[command(
    name = "annals-jepsen",
    version,
    after_help = "Examples:
  annals-jepsen list
  annals-jepsen run kill --seed 7 --faults 15
  annals-jepsen smoke
  annals-jepsen bugs S2 S19 --binary target/debug/annals
  annals-jepsen long --hours 2"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone)]
struct Common {
    /// The annals program.
    #[arg(long, default_value = "target/debug/annals")]
    binary: PathBuf,
    /// Where a directory per run is made: history, logs, verdict, report.
    #[arg(long, default_value = "target/jepsen")]
    out: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// What can be run.
    List,
    /// Run one scenario. Exit code 0: valid, 1: not.
    Run {
        /// Its name.
        scenario: String,
        #[command(flatten)]
        common: Common,
        /// Everything random follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Nodes at the beginning.
        #[arg(long, default_value_t = 3)]
        nodes: u32,
        /// Seconds after which no fault begins.
        #[arg(long, default_value_t = 300)]
        seconds: u64,
        /// Faults after which it ends.
        #[arg(long, default_value_t = 6)]
        faults: usize,
        /// Appends that must be acknowledged during the faults of each class.
        #[arg(long, default_value_t = 50)]
        minimum: u64,
        /// By how much the drawn faults are shorter than usual.
        #[arg(long, default_value_t = 1.0)]
        hurry: f64,
        /// What the server is told to get wrong: S1 … S29. Needs a program
        /// built with the feature seeded-bugs.
        #[arg(long)]
        seeded_bug: Option<String>,
    },
    /// The runs of every change: all classes, little of each.
    Smoke {
        #[command(flatten)]
        common: Common,
        /// Everything random follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// So much of it: a third of the faults, in a third of the time. At least one of
        /// each class; a run that saw none of a class still fails.
        #[arg(long, default_value_t = 1.0, value_parser = share)]
        share: f64,
        /// Only these scenarios.
        only: Vec<String>,
    },
    /// The runs for the record: scenarios in turn, hour after hour.
    Long {
        #[command(flatten)]
        common: Common,
        /// How long.
        #[arg(long, default_value_t = 2.0)]
        hours: f64,
        /// The seed of the first run; the next has the next.
        #[arg(long, default_value_t = 1_000)]
        seed: u64,
    },
    /// Tell the server to be wrong in known ways, and see whether the suite
    /// notices. Exit code 0: every one of them.
    Bugs {
        #[command(flatten)]
        common: Common,
        /// Which: S1 … S29. None: all.
        bugs: Vec<String>,
        /// The first seed to try.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// Above 0, at most 1.
fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if share > 0.0 && share <= 1.0 { Ok(share) } else { Err("must be above 0 and at most 1".to_owned()) }
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if matches!(cli.command, Command::List) {
        for scenario in scenario::SCENARIOS {
            println!("{:16} {:12} {}", scenario.name, scenario.classes.join(" "), scenario.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    annals_testbed::Testbed::enter_load_namespace()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // Moves that go on at the same time stay on this thread.
    let passed = tokio::task::LocalSet::new().block_on(&runtime, async {
        match cli.command {
            Command::List => Ok(true),
            Command::Run { scenario, common, seed, nodes, seconds, faults, minimum, hurry, seeded_bug } => {
                let job = Job {
                    scenario,
                    seed,
                    nodes,
                    duration: Duration::from_secs(seconds),
                    binary: harness::require_binary(&common.binary)?,
                    out: common.out,
                    seeded_bug,
                };
                let report = scenario::run(job, Amount { faults, minimum, hurry }).await?;
                verdict::print(&report);
                Ok(report.is_valid())
            }
            Command::Smoke { common, seed, share, only } => {
                smoke::run(&common.binary, &common.out, seed, share, &only).await
            }
            Command::Long { common, hours, seed } => long::run(&common.binary, &common.out, hours, seed).await,
            Command::Bugs { common, bugs, seed } => bugs::run(&common.binary, &common.out, &bugs, seed).await,
        }
    });
    // What still runs holds nodes and mounts; they end with it.
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(if passed? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
