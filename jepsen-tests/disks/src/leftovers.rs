//! What must be undone, remembered in a file, so that the mounts, loop devices
//! and processes of a run that was killed do not stay for ever.
//!
//! Every volume keeps an [`Undo`]: a step is noted *before* it is taken where
//! that is possible. Dropping it undoes all steps, the newest first. Its file
//! names the process that owns it; [`sweep`] undoes those of processes that
//! are gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::tools;

/// How to undo something. Undoing twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Unmount this, now or when its last user is gone.
    Unmount(PathBuf),
    /// Detach the loop devices over this file.
    Detach(PathBuf),
    /// Kill this process.
    Kill {
        /// Its id.
        pid: u32,
        /// When it started, so that nobody else is killed.
        started: u64,
    },
    /// Kill the process group that this process leads.
    KillGroup {
        /// Its id, and the group's.
        pid: u32,
        /// When it started, so that nobody else is killed.
        started: u64,
    },
    /// Remove this file.
    Remove(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct Form {
    owner: u32,
    started: u64,
    steps: Vec<Step>,
}

/// The steps that undo what a value did.
#[derive(Debug)]
pub struct Undo {
    file: PathBuf,
    steps: Vec<Step>,
}

impl Undo {
    /// Nothing to undo yet. Undoes first what dead processes left behind.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new() -> Result<Undo> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        sweep();
        let directory = directory();
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let undo = Undo { file: directory.join(format!("{}-{count}.json", std::process::id())), steps: Vec::new() };
        undo.write()?;
        Ok(undo)
    }

    /// Remembers a step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, step: Step) -> Result<()> {
        self.steps.push(step);
        self.write()
    }

    /// Undoes everything, the newest first.
    pub fn all(&mut self) {
        for step in self.steps.drain(..).rev() {
            step.undo();
        }
        // Gone already when this is the second call.
        let _ = fs::remove_file(&self.file);
    }

    /// There is nothing to undo any more.
    pub fn forget(&mut self) {
        self.steps.clear();
        self.all();
    }

    fn write(&self) -> Result<()> {
        let owner = std::process::id();
        let started = tools::started(owner).context("this process is not in /proc")?;
        let text = serde_json::to_vec(&Form { owner, started, steps: self.steps.clone() })?;
        let next = self.file.with_extension("next");
        fs::write(&next, text)
            .and_then(|()| fs::rename(&next, &self.file))
            .with_context(|| format!("cannot write {}", self.file.display()))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        self.all();
    }
}

impl Step {
    /// Errors mean that it was undone before, or that nobody can.
    fn undo(self) {
        match self {
            Step::Unmount(path) => {
                let _ = tools::run("umount", &["-l".as_ref(), path.as_os_str()]);
            }
            Step::Detach(file) => detach(&file),
            Step::Kill { pid, started } => {
                if tools::started(pid) == Some(started) {
                    let _ = tools::run("kill", &["-9", &pid.to_string()]);
                    let gone = || tools::started(pid) != Some(started);
                    let _ = tools::eventually("a killed process is gone", Duration::from_secs(5), gone);
                }
            }
            // Its leader may be gone and the others not, but then the id cannot
            // have been given to another process yet.
            Step::KillGroup { pid, started } => {
                if tools::started(pid).is_none_or(|now| now == started) {
                    let _ = tools::run("kill", &["-9", "--", &format!("-{pid}")]);
                }
            }
            Step::Remove(path) => {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Undoes what processes left behind that are gone.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(directory()) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let form = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Form>(&text).ok());
        let Some(form) = form else { continue };
        if tools::started(form.owner) != Some(form.started) {
            Undo { file: path, steps: form.steps }.all();
        }
    }
}

/// Detaches every loop device over a file. The table of the kernel is read
/// instead of asking for the file, which may not answer any more.
pub(crate) fn detach(file: &Path) {
    let Ok(devices) = fs::read_dir("/sys/block") else { return };
    for device in devices.flatten() {
        let name = device.file_name();
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        let backing = backing.trim_end();
        if Path::new(backing.strip_suffix(" (deleted)").unwrap_or(backing)) == file {
            let _ = tools::run("losetup", &["-d".as_ref(), Path::new("/dev").join(name).as_os_str()]);
        }
    }
}

fn directory() -> PathBuf {
    std::env::temp_dir().join("annals-disks-leftovers")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_dead_process_left_is_undone_and_what_a_living_one_owns_is_not() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let started = tools::started(sleeper.id()).expect("it runs");
        let step = Step::Kill { pid: sleeper.id(), started };
        let mut mine = Undo::new().expect("writable");
        mine.add(step.clone()).expect("writable");
        sweep();
        assert!(sleeper.try_wait().expect("ours").is_none(), "its owner lives");
        mine.steps.clear();
        let dead = Form { owner: std::process::id(), started: 1, steps: vec![step] };
        let file = directory().join(format!("{}-dead.json", std::process::id()));
        fs::write(&file, serde_json::to_vec(&dead).expect("JSON")).expect("writable");
        sweep();
        assert!(!sleeper.wait().expect("ours").success());
        assert!(!file.exists());
    }
}
