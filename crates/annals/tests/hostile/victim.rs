//! The node that is attacked, and the client that behaves meanwhile.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use annals_client::{Client, Cursor, Direction, Expected, NewEvent, ReadOptions, Source};
use tempfile::TempDir;

use crate::support::{self, annals, free_ports, wait_ready};

/// What a client that behaves may wait, in 99 of 100 cases.
const PATIENCE: Duration = Duration::from_secs(1);

/// Memory that an attack may leave behind.
const KIB_MAX: u64 = 64 * 1024;

/// How long it may take until memory is given back.
const GIVEN_BACK: Duration = Duration::from_secs(30);

/// A node with the canary beside it.
pub(crate) struct Victim {
    child: Child,
    pub(crate) port: u16,
    data: TempDir,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
    canary: Canary,
    /// Resident memory before the first attack.
    kib: u64,
}

impl Victim {
    /// Starts a node with these options besides, and waits until it is warm.
    pub(crate) fn start(options: &[&str]) -> Victim {
        let port = free_ports(1);
        let data = tempfile::tempdir().expect("a directory");
        let mut command = annals();
        command.args(["dev", "--port", &port.to_string(), "--data"]).arg(data.path());
        // Caches that fill by and by would look like memory that is not given back.
        for cache in ["memtable_bytes", "block_cache_bytes", "ring_bytes"] {
            command.args(["--set", &format!("{cache}=8388608")]);
        }
        command.args(options).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let log = Arc::new(Mutex::new(String::new()));
        let written = log.clone();
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let reading = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = written.lock().expect("nobody panics");
                log.push_str(&line);
                log.push('\n');
            }
        });
        wait_ready(port);
        let canary = Canary::start(port);
        let mut victim = Victim { child, port, data, log, reading: Some(reading), canary, kib: 0 };
        victim.canary.wait_for(200);
        victim.canary.take();
        victim.kib = victim.resident();
        victim
    }

    /// Asserts that all is well, after this.
    pub(crate) fn survives(&mut self, after: &str) -> String {
        assert!(matches!(self.child.try_wait(), Ok(None)), "after {after} it is gone: {}", self.log());
        self.canary.wait_for(50);
        let Heard { mut took, failed } = self.canary.take();
        took.sort_unstable();
        let p99 = took[(took.len() * 99 / 100).min(took.len() - 1)];
        assert!(failed.is_empty(), "after {after} the canary failed: {failed:?}");
        assert!(p99 < PATIENCE, "during {after} the canary's p99 was {p99:?} of {}", took.len());
        let deadline = Instant::now() + GIVEN_BACK;
        while self.resident() > self.kib + KIB_MAX {
            let (now, before) = (self.resident(), self.kib);
            assert!(Instant::now() < deadline, "after {after} memory is {now} KiB, was {before} KiB");
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = self.log();
        assert!(!log.contains("panic"), "after {after}: {log}");
        format!("p99 {} ms of {}, {} MiB", p99.as_millis(), took.len(), self.resident() / 1024)
    }

    /// What was done so far is no attack: memory is compared with what it is now.
    pub(crate) fn settle(&mut self) {
        self.kib = self.resident();
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of that name");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("nobody panics").clone()
    }

    /// Stops it in order and verifies its files. What it logged.
    pub(crate) fn finish(mut self) -> String {
        self.canary.stop();
        support::signal(self.child.id(), "TERM");
        let status = support::eventually("it ends", || self.child.try_wait().expect("our child"));
        self.reading.take().expect("once").join().expect("nobody panics");
        let log = self.log();
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains("panic"), "{log}");
        let data = self.data.path().to_str().expect("text").to_owned();
        support::run(&["verify", "--data", &data]).exits(0);
        log
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.canary.stop();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log.lock().map(|log| log.clone()).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the last lines of its log, backwards: {last:#?}");
        }
    }
}

/// What the canary has heard.
#[derive(Default)]
struct Heard {
    took: Vec<Duration>,
    failed: Vec<String>,
}

impl Heard {
    fn note(&mut self, took: Duration, result: Result<(), String>) {
        self.took.push(took);
        self.failed.extend(result.err());
    }
}

/// A client that appends an event and reads it, again and again.
struct Canary {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Canary {
    fn start(port: u16) -> Canary {
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let (told, stopped) = (heard.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client = Client::from_connection_string(&support::url(port)).expect("valid");
                while !stopped.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let result = once(&client).await;
                    told.lock().expect("nobody panics").note(begun.elapsed(), result);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        });
        Canary { heard, stop, thread: Some(thread) }
    }

    /// Waits until it has done so much since it was last asked.
    fn wait_for(&self, turns: usize) {
        let deadline = Instant::now() + support::PATIENCE;
        while self.heard.lock().expect("nobody panics").took.len() < turns {
            assert!(Instant::now() < deadline, "the canary is stuck");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn take(&self) -> Heard {
        std::mem::take(&mut *self.heard.lock().expect("nobody panics"))
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn once(client: &Client) -> Result<(), String> {
    let event = NewEvent::new("Alive", true, "{}");
    let appended = client.append("canary-1", Expected::Any, vec![event.clone()]).await;
    let revision = appended.map_err(|error| error.to_string())?.revision.ok_or("no revision")?;
    let source = Source::Stream { name: "canary-1".to_owned(), from: Cursor::At(revision), resolve_links: false };
    let options = ReadOptions { source, direction: Direction::Forwards, count: 1 };
    let mut reading = client.read(options).await.map_err(|error| error.to_string())?;
    match reading.next().await.map_err(|error| error.to_string())? {
        Some(annals_client::Item::Event(read)) if read.original().is_some_and(|read| read.id == event.id) => Ok(()),
        other => Err(format!("read {other:?}")),
    }
}
