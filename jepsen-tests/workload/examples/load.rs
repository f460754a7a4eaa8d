//! Puts load on running nodes and writes the history of it.
//!
//! `load DIR SECONDS HOST:PORT…` writes `DIR/history.jsonl`. The log of the
//! nodes should be empty at the beginning.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use annals_checker::history::{Record, Run};
use annals_workload::{Endpoints, FinalOptions, Plan, Recorder, final_phase, start};
use anyhow::{Context as _, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("the directory is missing")?);
    let seconds: u64 = arguments.next().context("the number of seconds is missing")?.parse()?;
    let nodes: Vec<(u32, String)> = (1..).zip(arguments).collect();
    anyhow::ensure!(!nodes.is_empty(), "the addresses are missing");

    let number = |name: &str, default: f64| -> Result<f64> {
        std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} is no number")))
    };
    let plan = Plan {
        seed: number("SEED", 1.0)? as u64,
        appends_per_second: number("APPENDS", 500.0)?,
        reads_per_second: number("READS", 500.0)?,
        ..Plan::default()
    };
    std::fs::create_dir_all(&directory)?;
    let recorder = Recorder::create(&directory.join("history.jsonl"))?;
    recorder.record(Record::Run(Run {
        scenario: "load".to_owned(),
        seed: plan.seed,
        nodes: nodes.len() as u32,
        started: recorder.started(),
        ..Run::default()
    }));
    let endpoints = Endpoints::new(nodes);
    let running = start(plan, endpoints.clone(), recorder.clone());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_secs(5).min(Duration::from_secs(seconds))).await;
        println!("{:3} s {:?}", begun.elapsed().as_secs(), running.counts());
    }
    let subscriptions = running.stop().await;
    println!("stopped after {:?}", begun.elapsed());
    let state = final_phase(&endpoints, &recorder, subscriptions, FinalOptions::default()).await;
    recorder.finish()?;
    println!("{:?} after {:?}", state?, begun.elapsed());
    Ok(())
}
