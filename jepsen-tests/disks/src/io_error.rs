//! System calls of a node that fail, lie or are slow (F8, F10).
//!
//! `strace` runs the node, or is attached to it, and tampers with chosen
//! calls. The functions build what goes before the node's command line, or
//! attach.
//!
//! What a node calls: `pwrite64` for the log and the witness; `write` for the
//! state's tables and small files; `fdatasync` for the log, manifests and the
//! witness; `fsync` for directories and small files; `sync_file_range` within
//! large files; `fallocate` and `ftruncate` for what RocksDB reserves; `rename`
//! for what is replaced.
//!
//! - `strace` counts the calls of each *thread* on its own: `when=50` is the
//!   50th call of whichever thread gets there. A node writes its log by one
//!   thread.
//! - `strace` is the parent of the node and does not pass signals on: send
//!   them to the process group. It ends as the node ended.
//! - Every call that was tampered with is in the trace; [`tampered`] counts
//!   them. A fault that never happened proves nothing.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::tools;

/// The programs that this needs.
pub const TOOLS: [&str; 1] = ["strace"];

/// The calls that make something durable.
pub const SYNCS: &str = "fsync,fdatasync,sync_file_range";

/// The calls that write to files.
pub const WRITES: &str = "pwrite64,pwritev,pwritev2,fallocate,write,writev";

/// Runs a node with this tampering; `calls` and `fault` as in
/// `strace -e inject=CALLS:FAULT`, such as `error=EIO:when=50`.
pub fn inject(calls: &str, fault: &str, trace: &Path) -> Vec<String> {
    let trace = trace.display().to_string();
    // Other calls run at full speed with a filter in the kernel; but strace
    // 6.1 then loses injected signals.
    let filter: &[&str] = if fault.contains("signal=") { &[] } else { &["--seccomp-bpf"] };
    let words = ["strace", "-f", "-qq", "-o", &trace].into_iter().chain(filter.iter().copied());
    let mut words: Vec<String> = words.map(str::to_owned).collect();
    words.extend(tampering(calls, fault));
    words
}

/// The same, but only for calls on one of these files. Writes need it: a call
/// that wakes another thread is a `write`, too.
pub fn inject_on(files: &[PathBuf], calls: &str, fault: &str, trace: &Path) -> Vec<String> {
    let mut words = inject(calls, fault, trace);
    for file in files {
        words.extend(["-P".to_owned(), file.display().to_string()]);
    }
    words
}

/// Every sync says that it succeeded and does nothing. Together with
/// [`crate::power_loss`] this must lose what was acknowledged.
pub fn lying_sync(trace: &Path) -> Vec<String> {
    inject(SYNCS, "retval=0", trace)
}

/// Every sync takes this much longer.
pub fn slow_sync(by: Duration, trace: &Path) -> Vec<String> {
    inject("fsync,fdatasync", &format!("delay_enter={}", by.as_micros()), trace)
}

/// The process is killed as it makes its `number`-th call of this kind, which
/// is not carried out.
pub fn kill_at(call: &str, number: u64, trace: &Path) -> Vec<String> {
    // Without an error the call would still happen in some kernels: the signal
    // is delivered on the way out of the stop before it.
    inject(call, &format!("error=EINTR:signal=KILL:when={number}"), trace)
}

/// How many calls were tampered with according to a trace.
pub fn tampered(trace: &Path) -> usize {
    let text = std::fs::read(trace).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count()
}

/// Tampering with a process that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Attached {
    strace: Child,
}

impl Attached {
    /// Tampers from now on with the calls of all threads of a process. With a
    /// node that a wrapper runs, give the id of the node itself.
    ///
    /// # Errors
    /// It cannot be attached.
    pub fn to(pid: u32, calls: &str, fault: &str, trace: &Path) -> Result<Attached> {
        tools::require(&TOOLS)?;
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-p", &pid.to_string(), "-o"])
            .arg(trace)
            .args(tampering(calls, fault))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run strace")?;
        let mut attached = Attached { strace };
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !is_traced(pid) {
            if let Some(status) = attached.strace.try_wait()? {
                bail!("strace did not attach to {pid}: {status}");
            }
            if std::time::Instant::now() > deadline {
                bail!("strace did not attach to {pid} in time");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(attached)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Told to terminate it lets go of the process, which runs on.
        let _ = tools::run("kill", &["-TERM", &self.strace.id().to_string()]);
        let ended = || matches!(self.strace.try_wait(), Ok(Some(_)) | Err(_));
        if tools::eventually("strace ends", Duration::from_secs(5), ended).is_err() {
            let _ = self.strace.kill();
        }
        let _ = self.strace.wait();
    }
}

/// Whether all threads of a process are traced.
fn is_traced(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
    })
}

fn tampering(calls: &str, fault: &str) -> [String; 4] {
    ["-e".into(), format!("trace={calls}"), "-e".into(), format!("inject={calls}:{fault}")]
}
