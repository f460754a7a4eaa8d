//! The cluster: its nodes, their directories and their processes.
//!
//! A node has a number for ever; a node that joins gets a new one, with a new
//! namespace and address. Below the run's directory each has
//!
//! ```text
//! node-<n>/data      what `annals serve --data` is given
//! node-<n>/log       what all its processes said, one after the other
//! node-<n>/clock     the offset of its wall clock, if clocks can be moved
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use annals_checker::history::{Nanos, NodeNumber};
use anyhow::{Context as _, Result, bail, ensure};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::network::{Network, Token};
use crate::process::{Process, ProcessState, Start};
use crate::{Clock, Partition, clock, cluster, namespaces, network};

/// How long the kernel may take to end a killed process.
const KILLED: Duration = Duration::from_secs(20);

/// How long a whole new cluster may take to be ready.
const FORMED: Duration = Duration::from_secs(60);

/// What cluster to start.
#[derive(Clone)]
pub struct Options {
    /// How many nodes it begins with.
    pub nodes: u32,
    /// The `annals` program.
    pub binary: PathBuf,
    /// The run's directory.
    pub root: PathBuf,
    /// `--set NAME=VALUE` for all nodes.
    pub settings: Vec<(String, String)>,
    /// Environment of all nodes.
    pub env: Vec<(String, String)>,
    /// Tells the time of the run.
    pub clock: Clock,
    /// Whether wall clocks can be moved. It costs: every look at the clock is a
    /// system call.
    pub fake_clock: bool,
}

/// How one node runs. Changes count from its next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its data directory.
    pub data: PathBuf,
    /// What runs the program: `strace -f …`. Empty: nothing does.
    pub wrapper: Vec<String>,
    /// Environment, on top of [`Options::env`].
    pub env: Vec<(String, String)>,
    /// `--set NAME=VALUE`, on top of [`Options::settings`].
    pub settings: Vec<(String, String)>,
    /// Whether it is told the list of first members.
    pub bootstrap: bool,
}

/// An exit that nobody asked for.
#[derive(Clone, Debug)]
pub struct UnexpectedExit {
    /// Of which node.
    pub node: NodeNumber,
    /// When it was noticed.
    pub time: Nanos,
    /// What is known of it.
    pub state: ProcessState,
}

/// A running cluster. Copies are handles on the same one.
#[derive(Clone)]
pub struct Testbed {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    bootstrap: Vec<String>,
    nodes: Mutex<BTreeMap<NodeNumber, Node>>,
    network: Network,
    newest: AtomicU32,
    members: watch::Sender<Vec<NodeNumber>>,
    unexpected: Mutex<Vec<UnexpectedExit>>,
}

struct Node {
    spec: NodeSpec,
    process: Option<Arc<Process>>,
    /// Removed from the cluster, or never got into it.
    retired: bool,
    /// Left alone by moves against processes and members.
    reserved: bool,
}

impl Testbed {
    /// Runs this program again in the load namespace; returns there. To be
    /// called first thing in `main`.
    ///
    /// # Errors
    /// See [`namespaces::enter_load_namespace`].
    pub fn enter_load_namespace() -> Result<()> {
        namespaces::enter_load_namespace()
    }

    /// Starts a new cluster, and returns when all nodes are ready.
    ///
    /// # Errors
    /// Something could not be set up, or a node ended or was not ready in time.
    pub async fn start(options: Options) -> Result<Testbed> {
        let testbed = Testbed::prepare(options).await?;
        testbed.start_all().await?;
        Ok(testbed)
    }

    /// Starts all members that do not run, and returns when all are ready.
    ///
    /// # Errors
    /// One could not be started, ended, or was not ready in time.
    pub async fn start_all(&self) -> Result<()> {
        let deadline = Instant::now() + FORMED;
        for node in self.nodes() {
            self.start_node(node).await?;
        }
        for node in self.nodes() {
            self.wait_ready(node, deadline.saturating_duration_since(Instant::now())).await?;
        }
        Ok(())
    }

    /// Makes the namespaces and directories of a new cluster, and starts
    /// nothing yet: for those who want other [`NodeSpec`]s from the beginning.
    /// [`Testbed::start_all`] is the rest.
    ///
    /// # Errors
    /// Something could not be set up.
    pub async fn prepare(options: Options) -> Result<Testbed> {
        let count = options.nodes;
        ensure!(count > 0, "a cluster has nodes");
        let bootstrap = (1..=count).map(address).collect();
        let testbed = Testbed {
            inner: Arc::new(Inner {
                options,
                bootstrap,
                nodes: Mutex::default(),
                network: Network::new(),
                newest: AtomicU32::new(0),
                members: watch::Sender::new(Vec::new()),
                unexpected: Mutex::default(),
            }),
        };
        if testbed.inner.options.fake_clock {
            clock::install(&testbed.clock_library())?;
        }
        for _ in 0..count {
            let node = testbed.make_node()?;
            testbed.with(node, |each| each.spec.bootstrap = true)?;
        }
        let watched = Arc::downgrade(&testbed.inner);
        tokio::spawn(async move {
            while let Some(inner) = watched.upgrade() {
                inner.notice_exits();
                drop(inner);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(testbed)
    }

    /// What the cluster was started with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// The time of the run.
    pub fn now(&self) -> Nanos {
        (self.inner.options.clock)()
    }

    /// `host:port` of a node.
    pub fn address(&self, node: NodeNumber) -> String {
        address(node)
    }

    /// The members, as far as this test bed made them.
    pub fn nodes(&self) -> Vec<NodeNumber> {
        self.inner.nodes.lock().iter().filter(|(_, node)| !node.retired).map(|(number, _)| *number).collect()
    }

    /// Nodes that were members.
    pub fn retired(&self) -> Vec<NodeNumber> {
        self.inner.nodes.lock().iter().filter(|(_, node)| node.retired).map(|(number, _)| *number).collect()
    }

    /// Tells when [`Testbed::nodes`] changes.
    pub fn members(&self) -> watch::Receiver<Vec<NodeNumber>> {
        self.inner.members.subscribe()
    }

    /// The directory of a node in the run's directory.
    pub fn directory(&self, node: NodeNumber) -> PathBuf {
        directory(&self.inner.options.root, node)
    }

    /// What a node's processes said.
    pub fn log_file(&self, node: NodeNumber) -> PathBuf {
        self.directory(node).join("log")
    }

    /// How a node runs.
    ///
    /// # Panics
    /// There is no such node.
    pub fn spec(&self, node: NodeNumber) -> NodeSpec {
        self.with(node, |each| each.spec.clone()).expect("a node of this test bed")
    }

    /// How a node runs from its next start on.
    ///
    /// # Panics
    /// There is no such node.
    pub fn set_spec(&self, node: NodeNumber, spec: NodeSpec) {
        self.with(node, |each| each.spec = spec).expect("a node of this test bed");
    }

    /// Starts a node's process. Does nothing when it runs.
    ///
    /// # Errors
    /// It could not be started. That it ends soon after is no error here.
    pub async fn start_node(&self, node: NodeNumber) -> Result<()> {
        let spec = self.with(node, |each| each.spec.clone())?;
        match self.state(node) {
            ProcessState::Running { .. } | ProcessState::Paused { .. } => return Ok(()),
            ProcessState::Stopped | ProcessState::Exited { .. } => {}
        }
        let options = &self.inner.options;
        let mut env = options.env.clone();
        if options.fake_clock {
            env.extend(clock::environment(&self.clock_library(), &self.clock_file(node)));
        }
        env.extend(spec.env.iter().cloned());
        let mut program = vec![options.binary.display().to_string(), "serve".into(), "--insecure".into()];
        for (flag, value) in [
            ("--listen", address(node)),
            ("--node-address", address(node)),
            ("--data", spec.data.display().to_string()),
        ] {
            program.extend([flag.to_owned(), value]);
        }
        // Who votes is up to the operators of a run.
        program.extend(["--set".to_owned(), "voters_max=0".to_owned()]);
        if spec.bootstrap {
            program.extend(["--bootstrap".to_owned(), self.inner.bootstrap.join(",")]);
        }
        for (name, value) in options.settings.iter().chain(&spec.settings) {
            program.extend(["--set".to_owned(), format!("{name}={value}")]);
        }
        let start = Start {
            namespace: namespaces::node(node),
            wrapper: spec.wrapper.clone(),
            program,
            env,
            log: self.log_file(node),
        };
        let process = Arc::new(Process::start(&start)?);
        self.with(node, |each| each.process = Some(process))
    }

    /// Waits until a node says that it may be sent work. Answers how long that
    /// took.
    ///
    /// # Errors
    /// It ended, or did not say so in time.
    pub async fn wait_ready(&self, node: NodeNumber, timeout: Duration) -> Result<Duration> {
        self.wait_page(node, "/readyz", timeout).await
    }

    /// Waits until a node's process answers, ready or not.
    ///
    /// # Errors
    /// It ended, or did not answer in time.
    pub async fn wait_listening(&self, node: NodeNumber, timeout: Duration) -> Result<Duration> {
        self.wait_page(node, "/livez", timeout).await
    }

    async fn wait_page(&self, node: NodeNumber, page: &str, timeout: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            if self.page_is_ok(node, page).await {
                return Ok(start.elapsed());
            }
            match self.state(node) {
                ProcessState::Running { .. } if start.elapsed() < timeout => {}
                state => bail!("node {node} does not say {page} after {:?}: {state:?}", start.elapsed()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL to a node. Returns when it is gone.
    ///
    /// # Errors
    /// It does not run, or the kernel does not end it.
    pub async fn kill(&self, node: NodeNumber) -> Result<()> {
        let process = self.running(node)?;
        process.kill();
        process.wait(KILLED).await.map(drop)
    }

    /// SIGTERM to a node. Returns when it is gone, with how long that took.
    ///
    /// # Errors
    /// It does not run, or not end in time: it is killed then.
    pub async fn terminate(&self, node: NodeNumber, timeout: Duration) -> Result<Duration> {
        let process = self.running(node)?;
        let start = Instant::now();
        process.terminate();
        match process.wait(timeout).await {
            Ok(_) => Ok(start.elapsed()),
            Err(error) => {
                process.kill();
                process.wait(KILLED).await?;
                Err(error.context("it was killed"))
            }
        }
    }

    /// SIGSTOP to a node. Returns when all its threads stand.
    ///
    /// # Errors
    /// It does not run, or does not stop.
    pub fn pause(&self, node: NodeNumber) -> Result<()> {
        self.running(node)?.pause()
    }

    /// SIGCONT to a node.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self, node: NodeNumber) -> Result<()> {
        self.running(node)?.resume();
        Ok(())
    }

    /// What became of a node's process. Of a node that is not there: it is
    /// stopped.
    pub fn state(&self, node: NodeNumber) -> ProcessState {
        let process = self.with(node, |each| each.process.clone()).ok().flatten();
        process.map_or(ProcessState::Stopped, |process| process.state())
    }

    /// What a node's last process said last.
    pub fn said(&self, node: NodeNumber) -> String {
        let process = self.with(node, |each| each.process.clone()).ok().flatten();
        process.map_or_else(String::new, |process| process.said())
    }

    /// Exits that nobody asked for, in the order in which they were noticed.
    pub fn unexpected_exits(&self) -> Vec<UnexpectedExit> {
        self.inner.notice_exits();
        self.inner.unexpected.lock().clone()
    }

    /// From now on, an exit of a node's current process is as it should be:
    /// for faults that are meant to end it.
    pub fn expect_exit(&self, node: NodeNumber) {
        self.inner.notice_exits();
        let process = self.with(node, |each| each.process.clone()).ok().flatten();
        if let Some(process) = process {
            process.forgive();
        }
    }

    /// What is wrong with the network.
    pub fn network(&self) -> &Network {
        &self.inner.network
    }

    /// Keeps packets from arriving. [`Network::lift`] or
    /// [`Testbed::heal_network`] take it back.
    ///
    /// # Errors
    /// A tool failed.
    pub fn partition(&self, partition: &Partition) -> Result<Token> {
        self.inner.network.lay(network::Layer::Partition(partition.clone()))
    }

    /// Takes all faults of the network back.
    ///
    /// # Errors
    /// A tool failed.
    pub fn heal_network(&self) -> Result<()> {
        self.inner.network.heal()
    }

    /// Sets a node's wall clock beside the machine's.
    ///
    /// # Errors
    /// Clocks cannot be moved here: see [`Options::fake_clock`].
    pub fn set_clock_offset(&self, node: NodeNumber, seconds: i64) -> Result<()> {
        ensure!(self.inner.options.fake_clock, "this test bed was started without movable clocks");
        clock::set(&self.clock_file(node), seconds)
    }

    /// Makes a node that is to join: directory, namespace, address. It is not
    /// started.
    ///
    /// # Errors
    /// There is no address left, or a tool failed.
    pub fn make_node(&self) -> Result<NodeNumber> {
        let mut nodes = self.inner.nodes.lock();
        let node = self.newest() + 1;
        let directory = self.directory(node);
        let data = directory.join("data");
        std::fs::create_dir_all(&data).with_context(|| format!("could not make {}", data.display()))?;
        if self.inner.options.fake_clock {
            clock::set(&self.clock_file(node), 0)?;
        }
        namespaces::add_node(node)?;
        self.inner.network.add(node)?;
        self.inner.newest.store(node, Ordering::Relaxed);
        let spec = NodeSpec { data, wrapper: Vec::new(), env: Vec::new(), settings: Vec::new(), bootstrap: false };
        nodes.insert(node, Node { spec, process: None, retired: false, reserved: false });
        drop(nodes);
        self.tell_members();
        Ok(node)
    }

    /// Counts a node no longer as a member. Its process, directory and
    /// namespace stay.
    pub fn retire(&self, node: NodeNumber) {
        let _ = self.with(node, |each| each.retired = true);
        self.tell_members();
    }

    /// Keeps moves that begin from now on from stopping, killing or removing a
    /// node, or lets them again: somebody else is at work on it.
    pub fn reserve(&self, node: NodeNumber, reserved: bool) {
        let _ = self.with(node, |each| each.reserved = reserved);
    }

    /// Whether a node is reserved.
    pub fn is_reserved(&self, node: NodeNumber) -> bool {
        self.with(node, |each| each.reserved).unwrap_or(false)
    }

    /// Gives up a node for good: its process, its data and its namespace. What
    /// it said stays.
    ///
    /// # Errors
    /// The kernel does not end its process.
    pub async fn discard(&self, node: NodeNumber) -> Result<()> {
        self.retire(node);
        if self.running(node).is_ok() {
            self.kill(node).await?;
        }
        let Some(gone) = self.inner.nodes.lock().remove(&node) else { return Ok(()) };
        self.inner.network.remove(node);
        // Both are only in the way; the next start removes what is left.
        let _ = namespaces::remove_node(node);
        let _ = std::fs::remove_dir_all(&gone.spec.data);
        Ok(())
    }

    /// The number of the newest node that was ever made.
    pub fn newest(&self) -> NodeNumber {
        self.inner.newest.load(Ordering::Relaxed)
    }

    /// Stops all nodes: SIGTERM, and SIGKILL for who takes too long.
    pub async fn stop_all(&self) {
        let numbers: Vec<NodeNumber> = self.inner.nodes.lock().keys().copied().collect();
        let mut stopping = tokio::task::JoinSet::new();
        for node in numbers {
            let testbed = self.clone();
            stopping.spawn(async move {
                let _ = testbed.resume(node);
                let _ = testbed.terminate(node, Duration::from_secs(15)).await;
            });
        }
        stopping.join_all().await;
    }

    /// What all nodes say, one line each, for people.
    pub async fn describe(&self) -> String {
        let statuses = self.statuses().await;
        let line = |node: NodeNumber| match statuses.get(&node) {
            Some(status) => cluster::line(node, status),
            None => format!("node {node} does not answer; {:?}", self.state(node)),
        };
        self.nodes().into_iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn clock_file(&self, node: NodeNumber) -> PathBuf {
        self.directory(node).join("clock")
    }

    fn clock_library(&self) -> PathBuf {
        self.inner.options.root.join("wall-clock.so")
    }

    fn running(&self, node: NodeNumber) -> Result<Arc<Process>> {
        let process = self.with(node, |each| each.process.clone())?;
        match process {
            Some(process) if matches!(process.state(), ProcessState::Running { .. } | ProcessState::Paused { .. }) => {
                Ok(process)
            }
            _ => bail!("node {node} does not run: {:?}", self.state(node)),
        }
    }

    fn with<T>(&self, node: NodeNumber, what: impl FnOnce(&mut Node) -> T) -> Result<T> {
        let mut nodes = self.inner.nodes.lock();
        let node = nodes.get_mut(&node).with_context(|| format!("there is no node {node}"))?;
        Ok(what(node))
    }

    fn tell_members(&self) {
        let members = self.nodes();
        self.inner.members.send_if_modified(|known| {
            let changed = *known != members;
            *known = members;
            changed
        });
    }
}

impl Inner {
    fn notice_exits(&self) {
        let nodes = self.nodes.lock();
        for (number, node) in nodes.iter() {
            let Some(process) = &node.process else { continue };
            let state = process.state();
            if matches!(state, ProcessState::Exited { .. }) && process.notice() {
                let time = (self.options.clock)();
                self.unexpected.lock().push(UnexpectedExit { node: *number, time, state });
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (number, node) in std::mem::take(&mut *self.nodes.lock()) {
            if let Some(process) = node.process {
                process.kill();
            }
            self.network.remove(number);
            let _ = namespaces::remove_node(number);
        }
    }
}

fn address(node: NodeNumber) -> String {
    format!("{}:{}", namespaces::ip(node), namespaces::PORT)
}

fn directory(root: &Path, node: NodeNumber) -> PathBuf {
    root.join(format!("node-{node}"))
}
