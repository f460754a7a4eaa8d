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

/// What to try.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `annals` program.
    pub binary: PathBuf,
    /// More of its environment: mistakes on purpose. One failure is enough then.
    pub env: Vec<(String, String)>,
    /// Where all of it happens.
    pub directory: PathBuf,
    /// Every so-many-th point is tried, beginning with one that the seed chooses.
    pub every: u32,
    /// See there.
    pub seed: u64,
}

/// Tries the points.
///
/// # Errors
/// The sweep could not be carried out. What the node did wrong is in the
/// report.
pub fn run(plan: &Plan) -> Result<Report> {
    tools::require(&io_error::TOOLS)?;
    fs::create_dir_all(&plan.directory)?;
    let since = Instant::now();
    let mut report = Report::default();
    let is_enough = |report: &Report| !plan.env.is_empty() && !report.failures.is_empty();
    let every = u64::from(plan.every.max(1));
    'phases: for phase in [Phase::Empty, Phase::Recovery] {
        if is_enough(&report) {
            break;
        }
        let base = match phase {
            Phase::Empty => None,
            Phase::Recovery => Some(plan.base()?),
        };
        let sweep = Sweep { plan, phase, base };
        for (call, count) in sweep.measure()? {
            report.calls.insert(format!("{phase:?} {call}"), count);
            for number in (plan.seed % every + 1..=count).step_by(plan.every.max(1) as usize) {
                sweep.point(&call, number, &mut report)?;
                if is_enough(&report) {
                    break 'phases;
                }
            }
        }
    }
    report.millis = since.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    Ok(report)
}

impl Plan {
    fn options(&self, home: &Path) -> Result<Options> {
        Ok(Options { env: self.env.clone(), ..small(Options::new(&self.binary, home)?) })
    }

    /// A node that was killed with entries that are in its log only.
    fn base(&self) -> Result<(Options, Ledger)> {
        let home = self.directory.join("base");
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::create_dir(&home)?;
        let options = self.options(&home)?;
        let mut ledger = Ledger::default();
        let mut node = started(&options)?;
        append(&node, &mut ledger, APPENDS)?;
        node.kill();
        Ok((options, ledger))
    }
}

struct Sweep<'a> {
    plan: &'a Plan,
    phase: Phase,
    /// A killed node's data, and what it had acknowledged: where the script
    /// starts, if not from an empty directory.
    base: Option<(Options, Ledger)>,
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
    fn prepare(&self) -> Result<(Options, Ledger)> {
        let home = self.plan.directory.join("point");
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::create_dir(&home)?;
        match &self.base {
            None => Ok((self.plan.options(&home)?, Ledger::default())),
            Some((options, ledger)) => {
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
    fn measure(&self) -> Result<Vec<(String, u64)>> {
        let (mut options, mut ledger) = self.prepare()?;
        let trace = self.plan.directory.join("trace");
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

    fn point(&self, call: &str, number: u64, report: &mut Report) -> Result<()> {
        let (options, mut ledger) = self.prepare()?;
        let trace = self.plan.directory.join("trace");
        let wrapped = options.clone().wrapped(io_error::kill_at(call, number, &trace));
        let ended = self.script(&wrapped, &mut ledger)?;
        report.points += 1;
        report.killed += u64::from(!ended);
        report.acked += ledger.acks() as u64;
        let what = format!("{:?}, killed at {call} {number}, {} acknowledged", self.phase, ledger.acks());
        if let Err(error) = recover(&options, &ledger, report) {
            report.failures.push(format!("{what}: {error:#}"));
            let kept = self.plan.directory.join(format!("failure-{}", report.failures.len()));
            fs::rename(self.plan.directory.join("point"), kept).context("the evidence cannot be kept")?;
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
        bail!("P13, the hash up to {} was {before} and is {after} after one more kill", last.position);
    }
    Ok(())
}

/// Where a failure's data is kept: `failure-<n>` of the sweep's directory.
pub fn evidence(directory: &Path, failure: usize) -> PathBuf {
    directory.join(format!("failure-{failure}"))
}
