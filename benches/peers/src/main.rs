//! Measures Annals and its peers in the same run, through the same loop.
//!
//! Each row of `rows` runs in rounds, and each round takes every contestant in
//! turn (A B C, A B C), every time on a fresh cluster: what the machine does
//! meanwhile then falls on all of them. `measure` has the loads, `system` what
//! each of them means for each system, `results` the verdicts.
//!
//! All servers are children of this process and end with it; their data lies in
//! one directory that is removed. README.md says what the columns mean and what
//! cannot be compared.

mod chart;
mod contestant;
mod disk;
mod measure;
mod place;
mod process;
mod report;
mod results;
mod rows;
mod system;
mod usage;
mod versions;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::contestant::Contestant;
use crate::measure::Setup;
use crate::place::Place;
use crate::results::Results;
use crate::rows::{Figure, ROWS, Row};
use crate::system::Programs;

/// Of all clients: what they allocate for an answer is no part of what is compared.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures Annals and its peers on this machine.
#[derive(Parser)]
struct Arguments {
    /// The `annals` program; by default the one beside this program.
    #[arg(long)]
    annals: Option<PathBuf>,
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    #[arg(long, default_value = "nats-server")]
    nats: PathBuf,
    /// The directory with PostgreSQL's programs.
    #[arg(long, default_value = "/usr/lib/postgresql/15/bin")]
    postgres: PathBuf,
    #[arg(long, default_value = "umadb")]
    umadb: PathBuf,
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these systems.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<Contestant>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// What counts, of each load.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// What comes before that.
    #[arg(long, default_value_t = 2)]
    warm_up: u64,
    /// Where results.md, results.json and the charts go; by default a directory
    /// beside this program.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // A run that is given up is dropped, and with it its servers and their data.
    tokio::select! {
        done = compare(arguments) => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn compare(arguments: Arguments) -> anyhow::Result<()> {
    let rows = chosen(&arguments.rows)?;
    let programs = programs(&arguments)?;
    let out = arguments.out.clone().map_or_else(|| beside("compare"), Ok)?;
    std::fs::create_dir_all(&out)?;
    let place = Place::new()?;
    let mut results = Results {
        machine: versions::machine()?,
        versions: versions_of(&rows, &arguments, &programs)?,
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        warm_up_seconds: arguments.warm_up,
        disk_before: disk::measure(place.path())?,
        disk_after: None,
        rows: BTreeMap::new(),
    };
    let setup = Setup {
        programs: &programs,
        place: &place,
        warm_up: Duration::from_secs(arguments.warm_up),
        measure: Duration::from_secs(arguments.seconds),
    };
    for row in rows {
        measure_row(&setup, row, &arguments, &mut results).await?;
        // After every row, so that a run that fails later has not been for nothing.
        write(&results, &out)?;
    }
    results.disk_after = Some(disk::measure(place.path())?);
    write(&results, &out)?;
    println!("{}", report::markdown(&results));
    eprintln!("written to {}", out.display());
    Ok(())
}

async fn measure_row(
    setup: &Setup<'_>,
    row: &'static Row,
    arguments: &Arguments,
    results: &mut Results,
) -> anyhow::Result<()> {
    for round in 1..=arguments.rounds {
        for contestant in row.contestants.iter().filter(|one| one.is_among(&arguments.systems)) {
            let what = format!("{} round {round}: {}", row.name, contestant.title());
            let begin = Instant::now();
            let figures = setup.measure(row, *contestant).await.with_context(|| what.clone())?;
            let (figure, value) = figures.first_key_value().context("a measurement without figures")?;
            let title = report::figure_title(*figure, row.unit);
            eprintln!("{what}: {} {title} ({:.0} s)", report::number(*value), begin.elapsed().as_secs_f64());
            results.rows.entry(row.name).or_default().add(*contestant, figures);
        }
    }
    Ok(())
}

/// Of every system that will be measured. One that cannot be run ends a run here,
/// and not in its middle.
fn versions_of(
    rows: &[&Row],
    arguments: &Arguments,
    programs: &Programs,
) -> anyhow::Result<BTreeMap<Contestant, String>> {
    let all: BTreeSet<Contestant> = rows.iter().flat_map(|row| row.contestants).copied().collect();
    let measured = all.into_iter().filter(|one| one.is_among(&arguments.systems));
    measured.map(|one| Ok((one, versions::of(one, programs).with_context(|| one.title())?))).collect()
}

/// All rows if none is named.
fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    if let Some(unknown) = names.iter().find(|name| ROWS.iter().all(|row| row.name != name.as_str())) {
        let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        bail!("there is no row {unknown}; there are {}", known.join(", "));
    }
    Ok(ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.name)).collect())
}

/// What lies in the same directory as this program.
fn beside(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

fn programs(arguments: &Arguments) -> anyhow::Result<Programs> {
    Ok(Programs {
        annals: arguments.annals.clone().map_or_else(|| beside("annals"), Ok)?,
        etcd: arguments.etcd.clone(),
        nats: arguments.nats.clone(),
        postgres: arguments.postgres.clone(),
        umadb: arguments.umadb.clone(),
    })
}

fn write(results: &Results, out: &Path) -> anyhow::Result<()> {
    std::fs::write(out.join("results.md"), report::markdown(results))?;
    std::fs::write(out.join("results.json"), serde_json::to_string_pretty(results)?)?;
    for row in ROWS {
        let Some(measured) = results.row(row) else { continue };
        for figure in row.bars.iter().map(|bar| bar.figure) {
            if let Some(svg) = chart::svg(row, measured, figure) {
                std::fs::write(out.join(format!("{}.{}.svg", row.name, file_name(figure))), svg)?;
            }
        }
    }
    Ok(())
}

fn file_name(figure: Figure) -> &'static str {
    match figure {
        Figure::Rate => "rate",
        Figure::P50Ms => "p50",
        Figure::P99Ms => "p99",
        Figure::CpuPerMillion => "cpu",
        Figure::WrittenPerByte => "written",
        Figure::MemoryMb => "memory",
    }
}
