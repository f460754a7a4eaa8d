//! A node is killed at its N-th system call, for one N after the other (F6).
//!
//! A script of appends runs against a node of one until it is killed, or to
//! its end. It is then started again and must be ready within
//! [`READY_WITHIN`], hold everything it had acknowledged, and say the same
//! hash after one more kill.
//!
//! The script runs in two phases: from an empty directory (identity, forming
//! the cluster, first entries) and from the data of a killed node (recovery,
//! then appends). In both the settings are small, so that the state is flushed,
//! a snapshot is made and the log is purged within the script.
//!
//! A kill leaves everything that was written in the page cache: this finds
//! what is written in the wrong order or in two steps, not what is not synced.
//! For that there is [`crate::power_cut`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::io_error;
use crate::ledger::Ledger;
use crate::node::{Node, Options, Started};
use crate::tools;

/// How long a start may take after a crash.
pub const READY_WITHIN: Duration = Duration::from_secs(5);

/// The calls by which a node changes what is on its disk.
pub const CALLS: [&str; 12] = [
    "write",
    "pwrite64",
    "fdatasync",
    "fsync",
    "sync_file_range",
    "rename",
    "ftruncate",
    "fallocate",
    "mkdir",
    "unlink",
    "link",
    "openat",
];

const APPENDS: usize = 200;
const EVENT_BYTES: usize = 2_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// From where the script starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// An empty directory.
    Empty,
    /// The data of a node that was killed.
    Recovery,
}

/// What came of a sweep.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The calls of the script that make up its points, by phase and call: the
    /// most that one thread makes.
    pub calls: BTreeMap<String, u64>,
    /// Points that were tried.
    pub points: u64,
    /// Those at which the node was really killed; in the others its threads
    /// shared the work differently.
    pub killed: u64,
    /// Acknowledged appends before the kills.
    pub acked: u64,
    /// What must never happen.
    pub failures: Vec<String>,
    /// Most milliseconds from a start after a crash to readiness.
    pub slowest_start_ms: u64,
    /// Milliseconds in all.
    pub millis: u64,
}

struct Sweep<'a> {
    binary: &'a Path,
    directory: &'a Path,
    /// A killed node's data, and what it had acknowledged.
    base: (Options, Ledger),
}

/// Tries every `every`-th point, beginning with one that the seed chooses.
///
/// # Errors
/// The sweep could not be carried out. What the node did wrong is in the
/// report.
pub fn run(binary: &Path, directory: &Path, every: u32, seed: u64) -> Result<Report> {
    tools::require(&io_error::TOOLS)?;
    fs::create_dir_all(directory)?;
    let since = Instant::now();
    let mut report = Report::default();
    let sweep = Sweep { binary, directory, base: base(binary, directory)? };
    for phase in [Phase::Empty, Phase::Recovery] {
        let counts = sweep.measure(phase)?;
        for (call, count) in counts {
            report.calls.insert(format!("{phase:?} {call}"), count);
            let first = seed % u64::from(every.max(1)) + 1;
            for number in (first..=count).step_by(every.max(1) as usize) {
                sweep.point(phase, &call, number, &mut report)?;
            }
        }
    }
    report.millis = since.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    Ok(report)
}

/// A node that was killed with entries that are in its log only.
fn base(binary: &Path, directory: &Path) -> Result<(Options, Ledger)> {
    let home = directory.join("base");
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::create_dir(&home)?;
    let options = small(Options::new(binary, &home)?);
    let mut ledger = Ledger::default();
    let mut node = started(&options)?;
    append(&node, &mut ledger, APPENDS)?;
    node.kill();
    Ok((options, ledger))
}

fn small(options: Options) -> Options {
    options.set("memtable_bytes", 65_536).set("log_keep_entries", 20).set("log_keep_bytes", 65_536)
}

fn started(options: &Options) -> Result<Node> {
    let mut node = Node::start(options)?;
    match node.wait_ready(PATIENCE)? {
        Started::Ready(_) => Ok(node),
        other => bail!("the node does not start: {other:?}"),
    }
}

/// Appends until one fails.
fn append(node: &Node, ledger: &mut Ledger, count: usize) -> Result<()> {
    for _ in 0..count {
        let sent = ledger.next(EVENT_BYTES);
        ledger.acked(node.append(&sent.stream, sent.id, sent.data, PATIENCE)?);
    }
    Ok(())
}

impl Sweep<'_> {
    /// Where a script runs, and what is acknowledged before.
    fn prepare(&self, phase: Phase) -> Result<(Options, Ledger)> {
        let home = self.directory.join("point");
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::create_dir(&home)?;
        match phase {
            Phase::Empty => Ok((small(Options::new(self.binary, &home)?), Ledger::default())),
            Phase::Recovery => {
                let (options, ledger) = &self.base;
                let data = home.join("data");
                tools::run("cp", &["-r".as_ref(), options.data.as_os_str(), data.as_os_str()])?;
                Ok((Options { data, log: home.join("node.log"), ..options.clone() }, ledger.clone()))
            }
        }
    }

    /// The script; gives whether it came to its end. The pauses are for what a
    /// node does once a second.
    fn script(&self, options: &Options, ledger: &mut Ledger) -> Result<bool> {
        let mut node = Node::start(options)?;
        if !matches!(node.wait_ready(PATIENCE)?, Started::Ready(_)) {
            return Ok(false);
        }
        for _ in 0..2 {
            if append(&node, ledger, APPENDS / 2).is_err() {
                return Ok(false);
            }
            if node.wait_exit(Duration::from_millis(1_100))?.is_some() {
                return Ok(false);
            }
        }
        Ok(node.terminate(PATIENCE)?.is_some_and(|status| status.success()))
    }

    /// Runs the script to its end and counts.
    fn measure(&self, phase: Phase) -> Result<Vec<(String, u64)>> {
        let (mut options, mut ledger) = self.prepare(phase)?;
        let trace = self.directory.join("trace");
        let calls = CALLS.join(",");
        options.wrapper = ["strace", "-f", "-qq", "-o", &trace.display().to_string(), "-e", &format!("trace={calls}")]
            .map(str::to_owned)
            .to_vec();
        if !self.script(&options, &mut ledger)? {
            let log = fs::read_to_string(&options.log).unwrap_or_default();
            bail!("the script fails without a fault: {}", crate::node::last_lines(&log));
        }
        let mut threads: BTreeMap<(String, String), u64> = BTreeMap::new();
        for line in String::from_utf8_lossy(&fs::read(&trace)?).lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            // A call that was interrupted in the trace has two lines.
            if let Some((call, _)) = rest.trim_start().split_once('(')
                && CALLS.contains(&call)
            {
                *threads.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
            }
        }
        let most = |call: &str| {
            threads.iter().filter(|((of, _), _)| of == call).map(|(_, count)| *count).max().unwrap_or_default()
        };
        Ok(CALLS.iter().map(|call| ((*call).to_owned(), most(call))).collect())
    }

    fn point(&self, phase: Phase, call: &str, number: u64, report: &mut Report) -> Result<()> {
        let (options, mut ledger) = self.prepare(phase)?;
        let trace = self.directory.join("trace");
        let wrapped = options.clone().wrapped(io_error::kill_at(call, number, &trace));
        let ended = self.script(&wrapped, &mut ledger)?;
        report.points += 1;
        report.killed += u64::from(!ended);
        report.acked += ledger.acks() as u64;
        let what = format!("{phase:?}, killed at {call} {number}, {} acknowledged", ledger.acks());
        if let Err(error) = recover(&options, &ledger, report) {
            report.failures.push(format!("{what}: {error:#}"));
            let kept = self.directory.join(format!("failure-{}", report.failures.len()));
            fs::rename(self.directory.join("point"), kept).context("the evidence cannot be kept")?;
        }
        Ok(())
    }
}

fn recover(options: &Options, ledger: &Ledger, report: &mut Report) -> Result<()> {
    let mut node = Node::start(options)?;
    let took = match node.wait_ready(READY_WITHIN)? {
        Started::Ready(took) => took,
        other => bail!("it does not recover: {other:?}"),
    };
    report.slowest_start_ms = report.slowest_start_ms.max(took.as_millis().try_into().unwrap_or(u64::MAX));
    let events = node.read_all(PATIENCE).context("it cannot be read")?;
    let wrong = ledger.verify(&events);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    let Some(last) = events.last() else { return Ok(()) };
    let (_, before) = node.hash(Some(last.position), PATIENCE)?;
    node.kill();
    let mut node = Node::start(options)?;
    let Started::Ready(_) = node.wait_ready(READY_WITHIN)? else { bail!("it does not recover twice") };
    let (_, after) = node.hash(Some(last.position), PATIENCE)?;
    if before != after {
        bail!("the hash up to {} was {before} and is {after} after one more kill", last.position);
    }
    Ok(())
}

/// Where a failure's data is kept: `failure-<n>` of the sweep's directory.
pub fn evidence(directory: &Path, failure: usize) -> PathBuf {
    directory.join(format!("failure-{failure}"))
}
