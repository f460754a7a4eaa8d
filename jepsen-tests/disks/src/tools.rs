//! Running the programs of the system that do the work.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// It is missing, or it failed: then with what it printed to standard error.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let told: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
        bail!("{program} {}: {}: {}", told.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Fails unless every one of these programs is installed.
///
/// # Errors
/// Names the ones that are missing.
pub fn require(programs: &[&str]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where root's tools are, also for a shell that does not look there.
    let directories: Vec<_> =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(std::path::PathBuf::from)).collect();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !directories.iter().any(|directory| directory.join(program).is_file()))
        .copied()
        .collect();
    if missing.is_empty() { Ok(()) } else { bail!("these programs are not installed: {}", missing.join(", ")) }
}

/// Waits until something holds.
///
/// # Errors
/// It does not within `timeout`.
pub fn eventually(what: &str, timeout: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !holds() {
        if Instant::now() > deadline {
            bail!("{what}: not within {timeout:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// When a process started, in ticks since boot: with its id it names the
/// process for ever. None when there is no such process, or only its remains.
pub fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses that may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether a thread of this group of processes still runs, also one of a
/// process that was killed and whose files and sockets are not closed yet.
pub fn group_runs(group: u32) -> bool {
    // A thread has closed what it held by the time that only its remains are
    // listed, and the first thread of a process may be gone before the others.
    let runs = |stat: std::path::PathBuf| {
        let stat = std::fs::read_to_string(stat).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let of: u32 = fields.nth(1)?.parse().ok()?;
        Some(of == group && !matches!(state, "Z" | "X"))
    };
    let entries = |path: std::path::PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    entries("/proc".into())
        .filter(|process| process.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .flat_map(|process| entries(process.path().join("task")))
        .any(|thread| runs(thread.path().join("stat")) == Some(true))
}

/// An address of this machine on which nobody listens, never given twice by
/// this process. Its port is below the range from which the system takes those
/// of outgoing connections: one of these could be in the way of a node that
/// starts again.
///
/// # Errors
/// Every port that was tried is taken.
pub fn free_address() -> Result<SocketAddr> {
    const FIRST: u32 = 10_000;
    const RANGE: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..1_000 {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + start.wrapping_add(given) % RANGE)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port")
}

/// Copies a file and keeps its holes.
///
/// # Errors
/// The copy failed.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    run("cp", &[OsStr::new("--sparse=always"), OsStr::new("--reflink=auto"), from.as_os_str(), to.as_os_str()])?;
    Ok(())
}
