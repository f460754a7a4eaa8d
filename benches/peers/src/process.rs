//! Server processes: started in a group of their own, killed when dropped.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// One server. Dropping it ends it and everything it started.
pub(crate) struct Process {
    command: Command,
    child: Child,
    log: PathBuf,
    farewell: Farewell,
}

/// How a server is ended when its data is not needed any more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The whole group at once.
    Kill,
    /// The parent ends its children, which have left its group (PostgreSQL).
    AskParent,
}

impl Process {
    /// Starts `command`; what it says goes to `log`.
    pub(crate) fn start(mut command: Command, log: &Path, farewell: Farewell) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { command, child, log: log.to_owned(), farewell })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power failure of this process would, and waits for that.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it once more, with the same arguments, on the same data.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.child = self.command.spawn().with_context(|| format!("cannot start {:?}", self.command.get_program()))?;
        Ok(())
    }

    /// An error with what the server said, if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{:?} ended with {status}:\n{}", self.command.get_program(), self.last_words());
        }
        Ok(())
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        if self.farewell == Farewell::AskParent {
            let _ = kill_process(pid, Signal::QUIT);
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(10) {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a command to its end; its output, or an error with it.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let done = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if !done.status.success() {
        bail!("{:?} ended with {}: {said}", command.get_program(), done.status);
    }
    Ok(said)
}
