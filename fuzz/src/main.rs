//! Runs fuzz targets: see the library.
//!
//! Each target runs in a process of its own, on a thread with the stack of the
//! server's threads, under an allocator that refuses more than an input may cost.
//! A decoder that panics, recurses without end or allocates without bound ends
//! that process; what it was given is then in `failures/`.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use annals_fuzz::mutate::{Random, mutate};
use annals_fuzz::{TARGETS, Target, seeds};
use anyhow::{Context as _, bail};
use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// Bytes that a decoder may take for an input of at most 64 KiB.
const ALLOCATED_MAX: usize = 64 * 1024 * 1024;

/// Bytes of the stack of a thread that serves.
const STACK: usize = 2 * 1024 * 1024;

/// Time for one input. More is as good as not at all.
const INPUT_TIME_MAX: Duration = Duration::from_secs(2);

/// Seconds that a process has besides its time, on a busy machine.
const GRACE: u64 = 30;

/// Inputs that are kept for their answer in one run.
const KEPT_MAX: usize = 2_000;

const USAGE: &str = "\
annals-fuzz run [TARGET…] [--seconds N] [--seed N]
annals-fuzz one TARGET FILE
annals-fuzz seeds
annals-fuzz list";

/// What is being tried: written to `failures/` by whoever notices that it fails.
static TRIED: Mutex<(&str, Vec<u8>)> = Mutex::new(("", Vec::new()));

fn main() -> ExitCode {
    match carry_out(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(arguments: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", rest @ ..] => run(rest),
        ["one", name, file] => {
            println!("{}", (target(name)?.run)(&fs::read(file)?));
            Ok(())
        }
        ["seeds"] => write_seeds(),
        ["list"] => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            Ok(())
        }
        // How `run` calls itself.
        ["child", name, seconds, seed, careful] => {
            let (target, seconds, seed) = (*target(name)?, seconds.parse()?, seed.parse()?);
            let careful = (!careful.is_empty()).then(|| PathBuf::from(*careful));
            let thread = std::thread::Builder::new().stack_size(STACK);
            let thread = thread.spawn(move || fuzz(target, Duration::from_secs(seconds), seed, careful.as_deref()))?;
            thread.join().map_err(|_| anyhow::anyhow!("it panicked"))?
        }
        _ => bail!("{USAGE}"),
    }
}

fn target(name: &str) -> anyhow::Result<&'static Target> {
    TARGETS.iter().find(|target| target.name == name).with_context(|| format!("there is no target {name}"))
}

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let (mut seconds, mut seed, mut names) = ("10", "1", Vec::new());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => seconds = words.next().context("--seconds N")?,
            "--seed" => seed = words.next().context("--seed N")?,
            name => names.push(target(name)?.name),
        }
    }
    if names.is_empty() {
        names.extend(TARGETS.iter().map(|target| target.name));
    }
    let mut failed = Vec::new();
    for name in names {
        let patience = Duration::from_secs(seconds.parse::<u64>()? + GRACE);
        let child = |careful: &str| {
            let arguments = ["child", name, seconds, seed, careful];
            let mut child =
                Command::new(std::env::current_exe()?).args(arguments).env("RUST_BACKTRACE", "0").spawn()?;
            let begun = Instant::now();
            loop {
                match child.try_wait()? {
                    Some(status) => return anyhow::Ok(status),
                    None if begun.elapsed() > patience => child.kill()?,
                    None => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        };
        let status = child("")?;
        if status.success() {
            continue;
        }
        // Who died without a word (the stack, the allocator) is watched doing it
        // again: the same seed makes the same inputs.
        let careful = std::env::temp_dir().join(format!("annals-fuzz-{}-{name}", std::process::id()));
        if !child(careful.to_str().context("a path of text")?)?.success()
            && let Ok(input) = fs::read(&careful)
        {
            eprintln!("{name}: {}", keep_failure(name, &input)?.display());
        }
        let _ = fs::remove_file(&careful);
        failed.push(name);
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

/// Replays the corpus, then tries what can be made of it until the time is up.
fn fuzz(target: Target, time: Duration, seed: u64, careful: Option<&Path>) -> anyhow::Result<()> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What tells of it takes memory of its own.
        let _ = ALLOCATOR.set_limit(usize::MAX);
        hook(panic);
        if let Ok(tried) = TRIED.lock() {
            let kept = keep_failure(tried.0, &tried.1);
            eprintln!("{}: {kept:?}", tried.0);
        }
    }));
    let mut corpus = read_corpus(target.name)?;
    corpus.extend(seeds::seeds().into_iter().filter(|(name, _)| *name == target.name).map(|(_, seed)| seed));
    if corpus.is_empty() {
        bail!("{} has nothing to begin with", target.name);
    }
    let mut answers = BTreeSet::new();
    for input in &corpus {
        answers.insert(shape(&attempt(target, input, careful)?));
    }
    let replayed = corpus.len();
    let mut random = Random::new(seed);
    let (begun, mut tried) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        let input = mutate(&mut random, &corpus);
        let answer = attempt(target, &input, careful)?;
        tried += 1;
        if corpus.len() < replayed + KEPT_MAX && answers.insert(shape(&answer)) {
            corpus.push(input);
        }
    }
    println!("{:18} {replayed:4} replayed, {tried:9} tried, {:4} kinds of answers", target.name, answers.len());
    Ok(())
}

fn attempt(target: Target, input: &[u8], careful: Option<&Path>) -> anyhow::Result<String> {
    if let Some(careful) = careful {
        fs::write(careful, input)?;
    }
    {
        let mut tried = TRIED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tried.0 = target.name;
        tried.1.clear();
        tried.1.extend_from_slice(input);
    }
    ALLOCATOR
        .set_limit(ALLOCATOR.allocated() + ALLOCATED_MAX)
        .map_err(|()| anyhow::anyhow!("a limit below what is used"))?;
    let begun = Instant::now();
    let answer = (target.run)(input);
    let took = begun.elapsed();
    ALLOCATOR.set_limit(usize::MAX).map_err(|()| anyhow::anyhow!("no limit"))?;
    if took > INPUT_TIME_MAX {
        bail!("{}: an input took {took:?}: {}", target.name, keep_failure(target.name, input)?.display());
    }
    Ok(answer)
}

/// An answer without its numbers: what kind of answer it is. The number of a kind
/// of error is one.
fn shape(answer: &str) -> String {
    if answer.starts_with("Discriminant") {
        return answer.to_owned();
    }
    answer.chars().filter(|c| !c.is_ascii_digit()).take(200).collect()
}

fn read_corpus(name: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let directory = home().join("corpus").join(name);
    let Ok(entries) = fs::read_dir(&directory) else { return Ok(Vec::new()) };
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.sort();
    files.into_iter().map(|file| fs::read(&file).with_context(|| file.display().to_string())).collect()
}

fn keep_failure(name: &str, input: &[u8]) -> anyhow::Result<PathBuf> {
    write_input(&home().join("failures").join(name), input)
}

fn write_seeds() -> anyhow::Result<()> {
    for (name, seed) in seeds::seeds() {
        target(name)?;
        write_input(&home().join("corpus").join(name), &seed)?;
    }
    Ok(())
}

/// Writes an input under a name that follows from its bytes.
fn write_input(directory: &Path, input: &[u8]) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let file = directory.join(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(input)));
    fs::write(&file, input)?;
    Ok(file)
}
