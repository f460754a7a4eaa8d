//! Runs seeds of the deterministic simulation.
//!
//! ```text
//! cargo run -p annals-raft --features simulation --example simulate -- --seeds 200 --first 1
//! cargo run -p annals-raft --features simulation --example simulate -- --seed 42 --trace
//! ```
//!
//! Every seed that fails is printed as one line with the command that repeats
//! it. The exit status is 1 if any did.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use annals_raft::simulation::{Counts, Mutation, Options, Verdict, run};
use anyhow::{Context, bail};

struct Arguments {
    first: u64,
    seeds: u64,
    threads: usize,
    keep_going: bool,
    options: Options,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { first, seeds, threads, keep_going, options } = parse()?;
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let work = || {
        let mut verdicts = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                break;
            }
            let verdict = run(seed, options);
            if verdict.violation.is_some() || seeds == 1 {
                println!("{verdict}");
            }
            stop.fetch_or(verdict.violation.is_some() && !keep_going, Ordering::Relaxed);
            verdicts.push(verdict);
        }
        verdicts
    };
    let verdicts: Vec<Verdict> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    let failed = verdicts.iter().filter(|verdict| verdict.violation.is_some()).count();
    let counts = verdicts.iter().fold(Counts::default(), |sum, verdict| sum.plus(verdict.counts));
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} seeds, {failed} failed, {:.1} s, {:.1} seeds/s\n{counts:?}",
        verdicts.len(),
        seconds,
        verdicts.len() as f64 / seconds
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse() -> anyhow::Result<Arguments> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut arguments =
        Arguments { first: 1, seeds: 200, threads: cores, keep_going: false, options: Options::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--first" => arguments.first = value()?.parse()?,
            "--seeds" => arguments.seeds = value()?.parse()?,
            "--threads" => arguments.threads = value()?.parse()?,
            "--seed" => {
                arguments.first = value()?.parse()?;
                arguments.seeds = 1;
                arguments.threads = 1;
            }
            "--keep-going" => arguments.keep_going = true,
            "--trace" => arguments.options.trace = true,
            "--mutation" => {
                let name = value()?;
                let mutation = Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == name);
                arguments.options.mutation =
                    Some(mutation.with_context(|| format!("{name} is none of {:?}", Mutation::ALL))?);
            }
            _ => bail!(
                "{word} is not known: --seed N, --seeds N, --first N, --threads N, --keep-going, --trace, --mutation NAME"
            ),
        }
    }
    Ok(arguments)
}
