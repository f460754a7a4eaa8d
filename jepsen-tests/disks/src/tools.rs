//! Running the programs of the system that do the work.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
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

/// Copies a file and keeps its holes.
///
/// # Errors
/// The copy failed.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    run("cp", &[OsStr::new("--sparse=always"), OsStr::new("--reflink=auto"), from.as_os_str(), to.as_os_str()])?;
    Ok(())
}
