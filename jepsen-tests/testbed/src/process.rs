//! One process of a node: started, signalled, watched.
//!
//! Invariants
//! - A node dies with the test bed, however that ends: the kernel kills it
//!   when the thread that started it is gone. That thread is one that lives as
//!   long as the program, because a worker of a runtime may end any time.
//! - Signals go to the whole process group, so a wrapper (`strace …`) and what
//!   it wraps share their fate.
//! - An exit that nobody asked for is kept, with the last lines that the
//!   process said.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::namespaces;

/// Bytes of the log that are looked at when a process ended, and told.
const LAST_BYTES: u64 = 64 * 1024;
const TOLD_BYTES: usize = 3 * 1024;

/// How long stopping all threads may take.
const STOPPED: Duration = Duration::from_secs(2);

/// What became of a node's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs.
    Running {
        /// The process, or its wrapper, and their group.
        pid: u32,
    },
    /// It was stopped by SIGSTOP.
    Paused {
        /// As above.
        pid: u32,
    },
    /// It was never started, or was ended by the test bed.
    Stopped,
    /// It ended by itself.
    Exited {
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// The last it said.
        last_lines: String,
    },
}

/// What to start.
pub(crate) struct Start {
    /// In which namespace.
    pub(crate) namespace: String,
    /// What runs the program, before the program: `strace -f …`.
    pub(crate) wrapper: Vec<String>,
    /// The program and its arguments.
    pub(crate) program: Vec<String>,
    /// Environment on top of this process's.
    pub(crate) env: Vec<(String, String)>,
    /// Where it says things, appended to.
    pub(crate) log: PathBuf,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    paused: AtomicBool,
    /// Whether the test bed ended it.
    asked: AtomicBool,
    /// Whether its end was told already.
    noticed: AtomicBool,
    ended: watch::Receiver<Option<ExitStatus>>,
    log: PathBuf,
    /// Where in the log this process begins.
    from: u64,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(start: &Start) -> Result<Process> {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&start.log)
            .with_context(|| format!("could not open {}", start.log.display()))?;
        writeln!(log, "--- start: {} {}", start.wrapper.join(" "), start.program.join(" "))?;
        let from = log.metadata()?.len();
        let mut command = namespaces::inside(&start.namespace, "setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if !start.wrapper.is_empty() {
            // The kernel clears the wish at every fork, so what the wrapper
            // starts states it again: it dies with the wrapper.
            command.args(&start.wrapper).args(["setpriv", "--pdeathsig", "KILL", "--"]);
        }
        command
            .args(&start.program)
            .envs(start.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let mut child = spawn(command).with_context(|| format!("could not start {}", start.program.join(" ")))?;
        let pid = child.id();
        let (tell, ended) = watch::channel(None);
        std::thread::Builder::new().name(format!("wait-{pid}")).spawn(move || {
            // Waiting for a child of our own fails only if it was waited for.
            if let Ok(status) = child.wait() {
                let _ = tell.send(Some(status));
            }
        })?;
        Ok(Process {
            pid,
            paused: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            noticed: AtomicBool::new(false),
            ended,
            log: start.log.clone(),
            from,
        })
    }

    /// What became of it.
    pub(crate) fn state(&self) -> ProcessState {
        let status = *self.ended.borrow();
        match status {
            None if self.paused.load(Ordering::Relaxed) => ProcessState::Paused { pid: self.pid },
            None => ProcessState::Running { pid: self.pid },
            Some(_) if self.asked.load(Ordering::Relaxed) => ProcessState::Stopped,
            Some(status) => {
                ProcessState::Exited { code: status.code(), signal: status.signal(), last_lines: self.said() }
            }
        }
    }

    /// The last it said, since it was started.
    pub(crate) fn said(&self) -> String {
        last_lines(&self.log, self.from).unwrap_or_else(|error| format!("(its log could not be read: {error:#})"))
    }

    /// Whether this is the first to notice that it ended by itself, and nobody
    /// expects that.
    pub(crate) fn notice(&self) -> bool {
        !self.noticed.swap(true, Ordering::Relaxed)
    }

    /// Its end needs no notice.
    pub(crate) fn forgive(&self) {
        self.noticed.store(true, Ordering::Relaxed);
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.signal(Signal::KILL);
    }

    /// Asks it to end. One that is paused does so when it goes on.
    pub(crate) fn terminate(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.signal(Signal::TERM);
    }

    /// Stops all its threads, and returns when they stand.
    pub(crate) fn pause(&self) -> Result<()> {
        self.paused.store(true, Ordering::Relaxed);
        self.signal(Signal::STOP);
        let deadline = Instant::now() + STOPPED;
        while !stands(self.pid) {
            if self.ended.borrow().is_some() {
                bail!("process {} ended before it could be paused", self.pid);
            }
            if Instant::now() > deadline {
                bail!("process {} still runs {} s after SIGSTOP", self.pid, STOPPED.as_secs());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
        self.paused.store(false, Ordering::Relaxed);
    }

    /// Waits until it has ended.
    pub(crate) async fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let mut ended = self.ended.clone();
        let status = tokio::time::timeout(timeout, ended.wait_for(Option::is_some)).await;
        match status {
            Ok(Ok(status)) => (*status).context("waited for an end"),
            Ok(Err(_)) => bail!("nobody waits for process {} any more", self.pid),
            Err(_) => bail!("process {} still runs after {timeout:?}", self.pid),
        }
    }

    fn signal(&self, signal: Signal) {
        // Once it was waited for, its number may belong to another process.
        if self.ended.borrow().is_some() {
            return;
        }
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, signal);
        }
    }
}

/// Starts a child from the one thread that lives as long as the program.
fn spawn(command: Command) -> Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<parking_lot::Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, work) = mpsc::channel::<Job>();
        let run = move || {
            for (mut command, reply) in work {
                let _ = reply.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("spawner".into()).spawn(run).expect("a thread can be started");
        parking_lot::Mutex::new(jobs)
    });
    let (reply, child) = mpsc::channel();
    spawner.lock().send((command, reply)).context("the thread that starts processes ended")?;
    Ok(child.recv().context("the thread that starts processes ended")??)
}

/// Whether no thread of a process runs.
fn stands(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let Ok(line) = std::fs::read_to_string(thread.path().join("stat")) else { return true };
        // The name before it may hold anything, a bracket too.
        let state = line.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('T' | 't' | 'Z' | 'X'))
    })
}

fn last_lines(log: &Path, from: u64) -> Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(LAST_BYTES))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(essence(&String::from_utf8_lossy(&bytes)))
}

/// What matters of the last that a process said: no frames of a backtrace, or
/// they would be all there is.
fn essence(text: &str) -> String {
    let is_frame = |line: &str| {
        let line = line.trim_start();
        let numbered = line.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        numbered || line.starts_with("at ")
    };
    let lines: Vec<&str> = text.lines().filter(|line| !is_frame(line)).collect();
    let text = lines.join("\n");
    let mut from = text.len().saturating_sub(TOLD_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backtrace_does_not_hide_what_was_said_before_it() {
        let said = "ready\nERROR panic: at position 7: it broke\n   0: std::rt::begin\n             at /rustc/rt.rs:5:1\n  12: main\n";
        assert_eq!(essence(said), "ready\nERROR panic: at position 7: it broke");
    }

    #[test]
    fn only_the_end_of_much_text_is_told() {
        let told = essence(&"ü line\n".repeat(10_000));
        assert!(told.len() <= TOLD_BYTES && told.ends_with("ü line"));
    }
}
