//! One node, alone, on a disk: started, written to, read, killed.
//!
//! For scripts in which the disk is what matters. Clusters and histories are
//! the business of the test bed and the workload.
//!
//! The calls block; they must not be made from a task of an async runtime.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use annals_client::{Client, Cursor, Direction, Expected, Item, NewEvent, ReadOptions, Source};
use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::ledger::Sent;
use crate::leftovers::{Step, Undo};
use crate::tools;

/// The binary under test: what the environment names as
/// `JEPSEN_ANNALS_BINARY`, else what the workspace built.
///
/// # Errors
/// There is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("JEPSEN_ANNALS_BINARY") {
        return Ok(PathBuf::from(path));
    }
    let this = std::env::current_exe()?;
    let beside = this.ancestors().skip(1).take(3).map(|directory| directory.join("annals"));
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let built = ["debug", "release"].map(|profile| workspace.join(profile).join("annals"));
    beside
        .chain(built)
        .find(|path| path.is_file())
        .context("there is no binary annals: build it with `cargo build -p annals`, or name it in JEPSEN_ANNALS_BINARY")
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary `annals`.
    pub binary: PathBuf,
    /// Where its data is.
    pub data: PathBuf,
    /// Where it writes its log, anew at each start.
    pub log: PathBuf,
    /// Where it listens; keep it from start to start, it is the node's name.
    pub address: SocketAddr,
    /// What runs it, such as [`crate::io_error`] makes.
    pub wrapper: Vec<String>,
    /// `--set`.
    pub settings: Vec<(String, String)>,
    /// Environment.
    pub env: Vec<(String, String)>,
}

impl Options {
    /// A node with its data in `directory/data`, on a free port, that takes
    /// appends as long as a megabyte of its disk is free.
    ///
    /// # Errors
    /// No port is free.
    pub fn new(binary: &Path, directory: &Path) -> Result<Options> {
        Ok(Options {
            binary: binary.to_owned(),
            data: directory.join("data"),
            log: directory.join("node.log"),
            address: tools::free_address()?,
            wrapper: Vec::new(),
            settings: vec![("disk_reserve_bytes".into(), "1048576".into())],
            env: Vec::new(),
        })
    }

    /// The same with one more setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Options {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// The same, run by this.
    #[must_use]
    pub fn wrapped(mut self, wrapper: Vec<String>) -> Options {
        self.wrapper = wrapper;
        self
    }
}

/// What became of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// It serves.
    Ready(Duration),
    /// It ended.
    Exited {
        /// How.
        status: ExitStatus,
        /// The end of its log: why.
        message: String,
    },
    /// It runs, but is not ready.
    NotReady {
        /// The end of its log.
        message: String,
    },
}

/// An event as it is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the log.
    pub position: u64,
    /// Its stream.
    pub stream: String,
    /// Its place there.
    pub revision: u64,
    /// Its id.
    pub id: Uuid,
    /// Its data.
    pub data: Vec<u8>,
}

/// A node's process. Killed when dropped.
pub struct Node {
    options: Options,
    child: Child,
    since: Instant,
    runtime: Runtime,
    client: Client,
    undo: Undo,
}

impl Node {
    /// Starts the process and does not wait for anything.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(options: &Options) -> Result<Node> {
        let log = File::create(&options.log).with_context(|| format!("cannot make {}", options.log.display()))?;
        let address = options.address.to_string();
        let mut words: Vec<String> = options.wrapper.clone();
        words.push(options.binary.display().to_string());
        words.extend(["serve", "--insecure", "--data"].map(str::to_owned));
        words.push(options.data.display().to_string());
        words.extend(["--listen", &address, "--bootstrap", &address].map(str::to_owned));
        for (name, value) in &options.settings {
            words.extend(["--set".to_owned(), format!("{name}={value}")]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(options.env.iter().map(|(name, value)| (name, value)));
        // A group of its own, so that a wrapper dies with what it wraps.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let since = Instant::now();
        let mut undo = Undo::new()?;
        let child = command.spawn().with_context(|| format!("cannot run {}", words[0]))?;
        if let Some(started) = tools::started(child.id()) {
            undo.add(Step::KillGroup { pid: child.id(), started })?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = {
            let _inside = runtime.enter();
            Client::from_connection_string(&format!("kurrentdb://{address}?tls=false&maxDiscoverAttempts=1"))?
        };
        Ok(Node { options: options.clone(), child, since, runtime, client, undo })
    }

    /// Waits until it is ready or has ended.
    ///
    /// # Errors
    /// Its process cannot be asked.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<Started> {
        let deadline = self.since + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Started::Exited { status, message: self.message() });
            }
            if self.log().lines().any(|line| line.contains(" ready node=")) {
                return Ok(Started::Ready(self.since.elapsed()));
            }
            if Instant::now() > deadline {
                return Ok(Started::NotReady { message: self.message() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until its process has ended; none when it did not within
    /// `timeout`.
    ///
    /// # Errors
    /// Its process cannot be asked.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Appends one event and waits for its acknowledgement; gives its position.
    ///
    /// # Errors
    /// It was not acknowledged within `timeout`: it may be there or not.
    pub fn append(&self, stream: &str, id: Uuid, data: Vec<u8>, timeout: Duration) -> Result<u64> {
        let event = NewEvent { id, ..NewEvent::new("Written", false, data) };
        let appended = self.runtime.block_on(async {
            tokio::time::timeout(timeout, self.client.append(stream, Expected::Any, vec![event])).await
        });
        appended.context("no answer in time")??.position.context("an acknowledgement without a position")
    }

    /// Sends several events at once, each as an append of its own; gives for
    /// each its position, or why it was not acknowledged within `timeout`.
    pub fn append_all(&self, sent: &[Sent], timeout: Duration) -> Vec<Result<u64>> {
        let one = |sent: &Sent| {
            let (client, sent) = (self.client.clone(), sent.clone());
            async move {
                let event = NewEvent { id: sent.id, ..NewEvent::new("Written", false, sent.data) };
                let appended = client.append(&sent.stream, Expected::Any, vec![event]);
                let appended = tokio::time::timeout(timeout, appended).await.context("no answer in time")??;
                appended.position.context("an acknowledgement without a position")
            }
        };
        self.runtime.block_on(async {
            let calls: Vec<_> = sent.iter().map(|sent| tokio::spawn(one(sent))).collect();
            let mut answers = Vec::new();
            for call in calls {
                answers.push(call.await.map_err(anyhow::Error::from).and_then(|answer| answer));
            }
            answers
        })
    }

    /// Reads everything, linearizably.
    ///
    /// # Errors
    /// It could not be read to its end within `timeout`.
    pub fn read_all(&self, timeout: Duration) -> Result<Vec<Event>> {
        let source = Source::All { from: Cursor::Start, filter: None, resolve_links: false };
        let options = ReadOptions { source, direction: Direction::Forwards, count: u64::MAX };
        let reading = async {
            let mut events = Vec::new();
            let mut reading = self.client.read(options).await?;
            while let Some(item) = reading.next().await? {
                let Item::Event(resolved) = item else { continue };
                let Some(event) = resolved.event else { continue };
                events.push(Event {
                    position: event.position,
                    stream: event.stream,
                    revision: event.revision,
                    id: event.id,
                    data: event.data.to_vec(),
                });
            }
            anyhow::Ok(events)
        };
        self.runtime.block_on(async { tokio::time::timeout(timeout, reading).await }).context("no answer in time")?
    }

    /// The chain hash up to a position; of the whole log without one.
    ///
    /// # Errors
    /// The node did not answer within `timeout`.
    pub fn hash(&self, position: Option<u64>, timeout: Duration) -> Result<(u64, String)> {
        let cluster = self.client.cluster();
        let reply = self.runtime.block_on(async { tokio::time::timeout(timeout, cluster.hash(position)).await });
        let reply = reply.context("no answer in time")??;
        Ok((reply.position, reply.hash))
    }

    /// The id of its process, or of its wrapper's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.options.log).unwrap_or_default()).into_owned()
    }

    /// The end of its log.
    pub fn message(&self) -> String {
        last_lines(&self.log())
    }

    /// Kills it and what runs it, and waits until both have let go of their
    /// files and of the address.
    pub fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let group = self.child.id();
            let _ = tools::run("kill", &["-9", "--", &format!("-{group}")]);
            let _ = self.child.kill();
            // Before the wait, after which the id may be another's. A wrapper
            // can be gone while the node that it ran is still in a system call.
            let _ = tools::eventually("they are gone", Duration::from_secs(20), || !tools::group_runs(group));
        }
        let _ = self.child.wait();
        self.undo.forget();
    }

    /// Asks it to stop, and kills it when it does not.
    ///
    /// # Errors
    /// Its process cannot be asked.
    pub fn terminate(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        // The group: a wrapper does not pass it on.
        tools::run("kill", &["-TERM", "--", &format!("-{}", self.child.id())])?;
        let ended = self.wait_exit(timeout)?;
        self.kill();
        Ok(ended)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log that say something.
pub(crate) fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}
