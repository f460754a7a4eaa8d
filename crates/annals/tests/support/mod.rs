//! Runs the real binary and talks to it.

// Each test file uses some of this.
#![allow(dead_code)]

pub(crate) mod secure;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, with nothing of the environment that could change what it does.
pub(crate) fn annals() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annals"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ANNALS_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Each line as JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// The only line as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("JSON")
    }
}

/// Runs the binary to its end.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    Ran::of(&annals().args(arguments).output().expect("the binary runs"))
}

/// Every command that does something, each as its words: what help tells, followed down.
pub(crate) fn commands() -> Vec<Vec<String>> {
    let mut leaves = Vec::new();
    tree(&[], &mut leaves);
    leaves
}

fn tree(path: &[&str], leaves: &mut Vec<Vec<String>>) {
    let help = run(&[path, &["--help"]].concat()).exits(0).out;
    let commands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next().filter(|_| !line.starts_with("   ")))
        .filter(|name| *name != "help");
    let commands: Vec<_> = commands.collect();
    if commands.is_empty() {
        leaves.push(path.iter().map(|part| (*part).to_owned()).collect());
    }
    for command in commands {
        tree(&[path, &[command]].concat(), leaves);
    }
}

/// Runs the binary with something on standard input.
pub(crate) fn run_with_input(arguments: &[&str], input: &str) -> Ran {
    let mut child = annals()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    Ran::of(&child.wait_with_output().expect("it ends"))
}

/// The first of `count` ports in a row that nobody listens on, never given to
/// another test. Below the range from which the system takes the ports of
/// outgoing connections: one of those could be in the way a moment later.
pub(crate) fn free_ports(count: u16) -> u16 {
    const FIRST: u32 = 10_000;
    const RANGE: u32 = 20_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..1_000 {
        let taken = TAKEN.fetch_add(u32::from(count), Ordering::Relaxed);
        let first = u16::try_from(FIRST + start.wrapping_add(taken) % RANGE).expect("below 2^16");
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} free ports in a row");
}

/// A process that runs nodes. Stopped when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) port: u16,
}

impl Running {
    /// Runs `annals dev` with these arguments on free ports and waits until
    /// the first `nodes` of them are ready.
    pub(crate) fn dev(nodes: u16, arguments: &[&str]) -> Running {
        let port = free_ports(nodes);
        Self::dev_at(port, nodes, arguments)
    }

    /// The same on these ports.
    pub(crate) fn dev_at(port: u16, nodes: u16, arguments: &[&str]) -> Running {
        let child = annals()
            .arg("dev")
            .args(["--port", &port.to_string(), "--nodes", &nodes.to_string()])
            .args(arguments)
            .spawn()
            .expect("the binary runs");
        let running = Running { child, port };
        for offset in 0..nodes {
            wait_ready(port + offset);
        }
        running
    }

    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    /// Runs a command against the first node.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let url = self.url();
        run(&[arguments, &["--server", &url]].concat())
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        signal(self.child.id(), "TERM");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the process did not end");
    }
}

impl Drop for Running {
    /// Asks before it kills: a node that was killed leaves its temporary
    /// directory behind, and a test run starts some dozens of them.
    fn drop(&mut self) {
        let gone = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)) | Err(_));
        if !gone(&mut self.child) {
            signal(self.child.id(), "TERM");
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        while !gone(&mut self.child) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn url(port: u16) -> String {
    format!("kurrentdb://127.0.0.1:{port}?tls=false")
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill is there").success());
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn wait_ready(port: u16) {
    eventually(&format!("node on {port} ready"), || {
        http(port, "GET", "/readyz", &[]).filter(|answer| answer.status == 200).map(|_| ())
    });
}

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Asks over HTTP/1.1; none when nobody answers.
pub(crate) fn http(port: u16, method: &str, path: &str, headers: &[&str]) -> Option<Answer> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    ask(stream, method, path, headers)
}

/// The same on a connection that is there.
pub(crate) fn ask(mut stream: impl Read + Write, method: &str, path: &str, headers: &[&str]) -> Option<Answer> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

#[track_caller]
pub(crate) fn get(port: u16, path: &str) -> Answer {
    http(port, "GET", path, &[]).expect("the node answers")
}
