//! A volume whose device fails for a while (F8): the kernel answers a sync with
//! an error *once* and forgets the pages, so that the next sync of the same
//! file succeeds for data that never reached the disk. A program that tries
//! again after a failed sync acknowledges what is lost.
//!
//! `nbdkit` serves a file with a filter that fails requests while a trigger
//! file exists, `nbdfuse` makes a file of it, over which a loop device lies.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::leftovers::{Step, Undo};
use crate::power_loss::Filesystem;
use crate::tools;

/// The programs that this needs.
pub const TOOLS: [&str; 6] = ["nbdkit", "nbdfuse", "losetup", "mount", "umount", "mkfs.ext4"];

const TIMEOUT: Duration = Duration::from_secs(10);

/// A mounted volume whose device can be told to fail.
#[derive(Debug)]
pub struct FailingVolume {
    home: PathBuf,
    server: Child,
    bridge: Option<Child>,
    undo: Undo,
}

impl FailingVolume {
    /// Makes an empty one in `directory/name`, which must not be there, and
    /// mounts it. Every write takes `delay` longer, for a slow disk.
    ///
    /// # Errors
    /// A program is missing or failed; nothing is left but files.
    pub fn create(
        directory: &Path,
        name: &str,
        bytes: u64,
        filesystem: Filesystem,
        delay: Duration,
    ) -> Result<FailingVolume> {
        tools::require(&TOOLS)?;
        fs::create_dir_all(directory)?;
        let home = directory.canonicalize()?.join(name);
        fs::create_dir(&home).with_context(|| format!("cannot make {}", home.display()))?;
        fs::create_dir(home.join("mount"))?;
        let disk = home.join("disk.raw");
        File::create(&disk)?.set_len(bytes)?;
        filesystem.make(&disk)?;

        let (socket, device, mount) = (home.join("socket"), home.join("device"), home.join("mount"));
        let trigger = home.join("fail").display().to_string();
        let mut undo = Undo::new()?;
        undo.add(Step::Remove(socket.clone()))?;
        let told = File::create(home.join("server.log"))?;
        let server = Command::new("nbdkit")
            .args(["-f", "-U"])
            .arg(&socket)
            .args(["--filter=error", "--filter=delay", "file"])
            .arg(&disk)
            .args(["error=EIO", "error-pwrite-rate=100%", "error-zero-rate=100%"])
            .args([format!("error-pwrite-file={trigger}"), format!("error-zero-file={trigger}")])
            .arg(format!("delay-write={}ms", delay.as_millis()))
            .stdin(Stdio::null())
            .stdout(told.try_clone()?)
            .stderr(told)
            .spawn()
            .context("cannot run nbdkit")?;
        let started = tools::started(server.id()).context("nbdkit ended at once")?;
        undo.add(Step::Kill { pid: server.id(), started })?;
        let mut volume = FailingVolume { home, server, bridge: None, undo };
        tools::eventually("nbdkit listens", TIMEOUT, || {
            fs::metadata(&socket).is_ok_and(|file| file.file_type().is_socket())
        })
        .with_context(|| volume.told())?;

        File::create(&device)?;
        volume.undo.add(Step::Unmount(device.clone()))?;
        let bridge = Command::new("nbdfuse")
            .arg(&device)
            .arg("--unix")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run nbdfuse")?;
        let started = tools::started(bridge.id()).context("nbdfuse ended at once")?;
        volume.undo.add(Step::Kill { pid: bridge.id(), started })?;
        volume.bridge = Some(bridge);
        tools::eventually("nbdfuse serves the disk", TIMEOUT, || {
            fs::metadata(&device).is_ok_and(|file| file.len() == bytes)
        })
        .with_context(|| volume.told())?;

        volume.undo.add(Step::Detach(device.clone()))?;
        let block = tools::run("losetup", &["-f".as_ref(), "--show".as_ref(), device.as_os_str()])?;
        volume.undo.add(Step::Unmount(mount.clone()))?;
        tools::run("mount", &["-o", filesystem.options(), &block, &mount.display().to_string()])?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.home.join("mount")
    }

    /// Where a node may keep its data.
    pub fn data(&self) -> PathBuf {
        self.mount_point().join("data")
    }

    /// From now on every write of the device fails.
    ///
    /// # Errors
    /// The trigger cannot be made.
    pub fn fail(&self) -> Result<()> {
        File::create(self.home.join("fail")).map(|_| ()).context("cannot make the trigger")
    }

    /// From now on the device works again.
    ///
    /// # Errors
    /// The trigger cannot be removed.
    pub fn heal(&self) -> Result<()> {
        fs::remove_file(self.home.join("fail")).context("cannot remove the trigger")
    }

    /// Unmounts and mounts again, which forgets everything that is in memory
    /// and not on the disk. Nobody may have files open.
    ///
    /// # Errors
    /// It cannot be unmounted or mounted.
    pub fn remount(&self) -> Result<()> {
        let mount = self.mount_point().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&mount)).context("it is not mounted")?;
        let device = line.split(' ').next().unwrap_or_default();
        tools::run("umount", &[&mount])?;
        // The pages of the device would be believed, too.
        tools::run("blockdev", &["--flushbufs", device])?;
        tools::run("mount", &["-o", "noatime", device, &mount])?;
        Ok(())
    }

    fn told(&self) -> String {
        fs::read_to_string(self.home.join("server.log")).unwrap_or_default()
    }
}

impl Drop for FailingVolume {
    fn drop(&mut self) {
        let _ = self.heal();
        self.undo.all();
        for child in self.bridge.iter_mut().chain([&mut self.server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
