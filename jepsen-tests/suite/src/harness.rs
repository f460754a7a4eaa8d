//! The life of one run: a cluster, load, faults, healing, final reads, judgement.
//!
//! Invariants
//! - Everything that decides the verdict is in the run's directory when the run
//!   ends: `history.jsonl`, the nodes' logs, `verdict.json`, `report.html`.
//! - A run is never judged on less than its whole final phase: whatever keeps
//!   that from happening makes the verdict unknown, or is a violation itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use annals_checker::history::{Fault, Installed, NodeNumber, Record, Run};
use annals_checker::{Settings, Validity, Verdict};
use annals_testbed::{NodeSpec, Options, ProcessState, Testbed, nemesis};
use annals_workload::{Endpoints, FinalOptions, GroupPlan, Groups, Plan, Recorder, Running};
use anyhow::{Context as _, Result, ensure};

use crate::offline;

/// How long a node may take to be ready after its process was started.
pub(crate) const READY: Duration = Duration::from_secs(30);

/// How long consumer groups may take to finish what is left.
const GROUPS_DRAIN: Duration = Duration::from_secs(60);

/// What to run, and on what.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) scenario: String,
    pub(crate) seed: u64,
    pub(crate) nodes: u32,
    /// Length of the part with faults.
    pub(crate) duration: Duration,
    /// The `annals` program.
    pub(crate) binary: PathBuf,
    /// Where the run's directory is made.
    pub(crate) out: PathBuf,
    /// `S1` … `S29`: what the server is told to get wrong.
    pub(crate) seeded_bug: Option<String>,
}

/// What is special about a run's cluster.
#[derive(Clone, Default)]
pub(crate) struct Shape {
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) fake_clock: bool,
}

impl Shape {
    /// Small logs and states, so that flushing, purging and catching up happen
    /// within seconds instead of hours.
    pub(crate) fn small() -> Shape {
        let settings = [("log_keep_entries", "100"), ("log_keep_bytes", "262144"), ("memtable_bytes", "262144")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Shape { settings: settings.to_vec(), fake_clock: false }
    }
}

/// A run under way.
pub(crate) struct Harness {
    pub(crate) job: Job,
    pub(crate) directory: PathBuf,
    pub(crate) recorder: Recorder,
    pub(crate) testbed: Testbed,
    pub(crate) endpoints: Endpoints,
    /// Consumer groups, where the run has any.
    groups: Option<Groups>,
    /// What the suite itself saw to be wrong, and no history can show.
    complaints: Vec<String>,
    /// Ended with the run: they hold on to the cluster.
    tasks: tokio::task::JoinSet<()>,
}

/// What came of a run.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    /// None where nothing was recorded that a checker could judge.
    pub(crate) verdict: Option<Verdict>,
    /// Seen by the suite, not by the checker.
    pub(crate) complaints: Vec<String>,
    /// How often which fault happened, by class and name.
    pub(crate) faults: std::collections::BTreeMap<String, u64>,
}

impl Report {
    pub(crate) fn is_valid(&self) -> bool {
        self.complaints.is_empty() && self.verdict.as_ref().is_none_or(|verdict| verdict.validity == Validity::Valid)
    }
}

impl Harness {
    /// A cluster that is not started yet.
    pub(crate) async fn prepare(job: Job, shape: Shape) -> Result<Harness> {
        let directory = job.out.join(format!("{}-{}", job.scenario, job.seed));
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        std::fs::create_dir_all(&directory)?;
        let recorder = Recorder::create(&directory.join("history.jsonl"))?;
        recorder.record(Record::Run(Run {
            scenario: job.scenario.clone(),
            seed: job.seed,
            nodes: job.nodes,
            versions: versions(&job.binary),
            seeded_bug: job.seeded_bug.clone(),
            started: recorder.started(),
        }));
        let mut settings = shape.settings;
        // The machine's disk may be small; the scenario of a full disk sets
        // its own.
        if !settings.iter().any(|(name, _)| name == "disk_reserve_bytes") {
            settings.push(("disk_reserve_bytes".into(), "16777216".into()));
        }
        let mut env = Vec::new();
        if let Some(bug) = &job.seeded_bug {
            env.push(("SEEDED_BUG".to_owned(), bug.clone()));
        }
        let testbed = Testbed::prepare(Options {
            nodes: job.nodes,
            binary: job.binary.clone(),
            root: directory.clone(),
            settings,
            env,
            clock: recorder.clock(),
            fake_clock: shape.fake_clock,
        })
        .await?;
        let endpoints = Endpoints::new(testbed.nodes().into_iter().map(|node| (node, testbed.address(node))).collect());
        Ok(Harness {
            job,
            directory,
            recorder,
            testbed,
            endpoints,
            groups: None,
            complaints: Vec::new(),
            tasks: tokio::task::JoinSet::new(),
        })
    }

    /// A cluster that is ready.
    pub(crate) async fn start(job: Job, shape: Shape) -> Result<Harness> {
        let harness = Harness::prepare(job, shape).await?;
        harness.start_all().await?;
        Ok(harness)
    }

    /// Starts all nodes and waits until they are ready.
    pub(crate) async fn start_all(&self) -> Result<()> {
        let nodes = self.testbed.nodes();
        for node in &nodes {
            self.testbed.start_node(*node).await?;
        }
        for node in nodes {
            self.testbed.wait_ready(node, READY).await?;
        }
        Ok(())
    }

    /// The usual load: modest, because everything shares two cores.
    pub(crate) fn plan(&self) -> Plan {
        Plan { seed: self.job.seed, ..Plan::default() }
    }

    /// Starts clients.
    pub(crate) fn load(&self, plan: Plan) -> Running {
        annals_workload::start(plan, self.endpoints.clone(), self.recorder.clone())
    }

    /// Starts consumer groups, before there are any events.
    pub(crate) async fn share(&mut self) -> Result<()> {
        let plan = GroupPlan { seed: self.job.seed, ..GroupPlan::default() };
        self.groups = Some(Groups::start(plan, &self.endpoints, &self.recorder).await?);
        Ok(())
    }

    /// Notes a fault.
    pub(crate) fn note(&self, fault: Fault) {
        let when = Duration::from_nanos(fault.start).as_secs_f64();
        let took = Duration::from_nanos(fault.end.saturating_sub(fault.start)).as_secs_f64();
        let mark = match fault.installed {
            Installed::Installed => "",
            Installed::Skipped => " skipped",
            Installed::Indeterminate => " indeterminate",
        };
        println!(
            "  {when:7.1} s  {} {} {:?}{mark} ({took:.1} s) {}",
            fault.class, fault.name, fault.nodes, fault.detail
        );
        self.recorder.record(Record::Fault(fault));
    }

    /// Notes a fault of the suite's own making, which began at `start`.
    pub(crate) fn noted(&self, class: &str, name: &str, nodes: &[NodeNumber], start: u64, detail: impl Into<String>) {
        self.note(Fault {
            class: class.into(),
            name: name.into(),
            nodes: nodes.to_vec(),
            start,
            end: self.recorder.now(),
            installed: Installed::Installed,
            detail: detail.into(),
        });
    }

    /// Says that something is wrong which the history does not show.
    pub(crate) fn complain(&mut self, what: impl Into<String>) {
        let what = what.into();
        println!("  WRONG: {what}");
        self.complaints.push(what);
    }

    /// Whether a server that was made wrong has shown it: the rest of the run
    /// would tell nothing more.
    pub(crate) fn is_caught(&self) -> bool {
        self.job.seeded_bug.is_some() && !self.complaints.is_empty()
    }

    /// Whether all nodes run. One that does not, and should, is a violation.
    pub(crate) fn all_run(&mut self) -> bool {
        let ended: Vec<NodeNumber> = self.testbed.nodes().into_iter().filter(|node| !self.runs(*node)).collect();
        if !ended.is_empty() {
            self.complain(format!("nodes {ended:?} do not run any more"));
        }
        ended.is_empty()
    }

    /// Keeps the list of those whom clients call equal to the members.
    pub(crate) fn follow_members(&mut self) {
        let mut members = self.testbed.members();
        let (testbed, endpoints) = (self.testbed.clone(), self.endpoints.clone());
        self.tasks.spawn(async move {
            loop {
                let now: Vec<NodeNumber> = members.borrow_and_update().clone();
                for node in endpoints.nodes() {
                    if !now.contains(&node) {
                        endpoints.remove(node);
                    }
                }
                for node in now {
                    if endpoints.address(node).is_none() {
                        endpoints.add(node, testbed.address(node));
                    }
                }
                if members.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Heals everything. What does not heal is a violation.
    pub(crate) async fn heal(&mut self) -> bool {
        match nemesis::heal(&self.testbed).await {
            Ok(_) => true,
            Err(error) => {
                self.complain(format!("the cluster did not heal: {error:#}"));
                false
            }
        }
    }

    /// Reads everything at the end, stops the nodes, reads their files, judges.
    pub(crate) async fn finish(mut self, load: Option<Running>, mut settings: Settings) -> Result<Report> {
        // A node that is not there is a violation, and none that hides others.
        let mut there = self.testbed.nodes();
        there.retain(|node| {
            let runs = self.runs(*node);
            if !runs {
                self.complain(format!("node {node} does not run at the end"));
                self.endpoints.remove(*node);
            }
            runs
        });
        if let Some(running) = load {
            let subscriptions = running.stop().await;
            if let Some(groups) = self.groups.take() {
                match groups.drain(GROUPS_DRAIN).await {
                    Ok(left) if left.is_empty() => {}
                    Ok(left) => self.complain(format!("P11: groups did not finish within {GROUPS_DRAIN:?}: {left:?}")),
                    Err(error) => self.complain(format!("the groups could not be ended: {error:#}")),
                }
            }
            let options = FinalOptions::default();
            match annals_workload::final_phase(&self.endpoints, &self.recorder, subscriptions, options).await {
                Ok(state) if state.not_drained > 0 => self.complain(format!(
                    "P11: {} subscriptions did not see everything within {:?}",
                    state.not_drained, options.drain
                )),
                Ok(_) => {}
                Err(error) => self.complain(format!("the final reads failed: {error:#}")),
            }
        }
        for exit in self.testbed.unexpected_exits() {
            self.complain(format!("node {} ended by itself: {:?}", exit.node, exit.state));
        }
        self.testbed.stop_all().await;
        for node in there.clone() {
            let data = self.testbed.spec(node).data;
            match offline::read(&self.job.binary, &data, node, &self.recorder) {
                Ok(()) => {}
                Err(error) => self.complain(format!("the files of node {node} are not as they must be: {error:#}")),
            }
        }
        if settings.final_nodes.is_empty() {
            settings.final_nodes = there;
        }
        let Harness { job, directory, recorder, complaints, testbed, mut tasks, .. } = self;
        tasks.shutdown().await;
        let seconds = Duration::from_nanos(recorder.now()).as_secs_f64();
        drop(testbed);
        recorder.finish()?;
        let records = annals_checker::load(directory.join("history.jsonl"))?;
        let verdict = annals_checker::check(&records, &settings);
        let report = Report {
            scenario: job.scenario,
            seed: job.seed,
            seconds,
            faults: count_faults(&records),
            verdict: Some(verdict),
            complaints,
        };
        std::fs::write(directory.join("verdict.json"), serde_json::to_vec_pretty(&report)?)?;
        if let Some(verdict) = &report.verdict {
            std::fs::write(directory.join("report.html"), annals_checker::report::html(&records, verdict))?;
        }
        annals_checker::edn::export(&records, &directory)?;
        Ok(report)
    }

    /// Stops the nodes and reads their files, of a run that has judged itself.
    pub(crate) async fn conclude(mut self) -> Result<Report> {
        for exit in self.testbed.unexpected_exits() {
            self.complain(format!("node {} ended by itself: {:?}", exit.node, exit.state));
        }
        self.testbed.stop_all().await;
        for node in self.testbed.nodes() {
            let data = self.testbed.spec(node).data;
            if let Err(error) = offline::read(&self.job.binary, &data, node, &self.recorder) {
                self.complain(format!("the files of node {node} are not as they must be: {error:#}"));
            }
        }
        let Harness { job, directory, recorder, complaints, testbed, mut tasks, .. } = self;
        tasks.shutdown().await;
        let seconds = Duration::from_nanos(recorder.now()).as_secs_f64();
        drop(testbed);
        recorder.finish()?;
        let records = annals_checker::load(directory.join("history.jsonl"))?;
        let faults = count_faults(&records);
        let report = Report { scenario: job.scenario, seed: job.seed, seconds, faults, verdict: None, complaints };
        std::fs::write(directory.join("verdict.json"), serde_json::to_vec_pretty(&report)?)?;
        Ok(report)
    }

    /// Whether a node's process runs.
    pub(crate) fn runs(&self, node: NodeNumber) -> bool {
        matches!(self.testbed.state(node), ProcessState::Running { .. })
    }

    /// Changes how a node runs from its next start on.
    pub(crate) fn respec(&self, node: NodeNumber, change: impl FnOnce(&mut NodeSpec)) {
        let mut spec = self.testbed.spec(node);
        change(&mut spec);
        self.testbed.set_spec(node, spec);
    }

    /// The leader, once there is one.
    pub(crate) async fn leader(&self) -> Result<NodeNumber> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
        loop {
            if let Some(leader) = self.testbed.leader().await {
                return Ok(leader);
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "no leader within 15 s:\n{}",
                self.testbed.describe().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The leader and the others.
    pub(crate) async fn roles(&self) -> Result<(NodeNumber, Vec<NodeNumber>)> {
        let leader = self.leader().await?;
        let others = self.testbed.nodes().into_iter().filter(|node| *node != leader).collect();
        Ok((leader, others))
    }
}

fn count_faults(records: &[Record]) -> std::collections::BTreeMap<String, u64> {
    let mut counts = std::collections::BTreeMap::new();
    for record in records {
        if let Record::Fault(fault) = record
            && fault.installed == Installed::Installed
        {
            *counts.entry(format!("{} {}", fault.class, fault.name)).or_default() += 1;
        }
    }
    counts
}

fn versions(binary: &Path) -> std::collections::BTreeMap<String, String> {
    let said = |program: &Path, argument: &str| {
        let output = std::process::Command::new(program).arg(argument).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
    };
    let mut versions = std::collections::BTreeMap::new();
    versions.insert("suite".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    versions.insert("annals".to_owned(), said(binary, "--version").unwrap_or_default());
    versions.insert("kernel".to_owned(), said(Path::new("uname"), "-r").unwrap_or_default());
    versions
}

/// Makes sure of a program to test.
pub(crate) fn require_binary(binary: &Path) -> Result<PathBuf> {
    binary.canonicalize().with_context(|| format!("{} is not there: build it first", binary.display()))
}
