//! Volumes that can lose power (F5).
//!
//! A file system on a loop device, over a file that a `qemu-storage-daemon`
//! serves by FUSE and whose every write it logs. Killing the daemon is the
//! power cut: from then on nothing reaches the disk, and every sync fails.
//! From the log any state that the cut could have left is rebuilt
//! ([`crate::block_log`]).
//!
//! ```text
//! node ─ ext4 or XFS ─ /dev/loopN ─ FUSE file ─ daemon ─┬─ live.raw
//!                                                       └─ writes.log
//! ```
//!
//! - [`Volume::power_off`] takes microseconds, so [`power_off_all`] cuts all
//!   nodes within a millisecond. Kill the nodes' processes next, then call
//!   [`Volume::cut`].
//! - `base.raw` is the disk as it was when the volume was made; `live.raw`
//!   is what the daemon works on and is never looked at again.
//! - The daemon does not pass syncs on to the disk of this machine: a killed
//!   process loses nothing of the page cache, and the volume stays fast.
//! - A surviving image is mounted by [`CrashImage::restore`], again on a
//!   volume that can lose power.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::block_log::{BlockLog, Loss};
use crate::leftovers::{self, Step, Undo};
use crate::tools;

/// The programs that this needs.
pub const TOOLS: [&str; 8] =
    ["qemu-storage-daemon", "losetup", "mount", "umount", "mkfs.ext4", "mkfs.xfs", "fusermount3", "cp"];

const DAEMON_TIMEOUT: Duration = Duration::from_secs(10);

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filesystem {
    /// With its journal for metadata, data written before it.
    Ext4,
    /// Needs at least 300 MB.
    Xfs,
}

impl Filesystem {
    /// Makes it on a file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(self, file: &Path) -> Result<()> {
        match self {
            // Lazily, so that an empty image stays small; never discarding,
            // because discards would have to be modelled.
            Filesystem::Ext4 => tools::run(
                "mkfs.ext4",
                &["-q".as_ref(), "-F".as_ref(), "-E".as_ref()]
                    .into_iter()
                    .chain(["lazy_itable_init=1,lazy_journal_init=1,nodiscard".as_ref(), file.as_os_str()])
                    .collect::<Vec<&std::ffi::OsStr>>(),
            ),
            Filesystem::Xfs => tools::run("mkfs.xfs", &["-q".as_ref(), "-f".as_ref(), "-K".as_ref(), file.as_os_str()]),
        }
        .map(|_| ())
    }

    /// How it is mounted. `nouuid` because several images of one file system
    /// may be mounted at once; `noinit_itable` because the kernel would
    /// otherwise write zeros for minutes.
    pub(crate) fn options(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "noatime,noinit_itable",
            Filesystem::Xfs => "noatime,nouuid",
        }
    }
}

/// A mounted volume whose power can be cut.
#[derive(Debug)]
pub struct Volume {
    home: PathBuf,
    filesystem: Filesystem,
    daemon: Child,
    undo: Undo,
}

/// A moment in the life of a volume: the length of its log of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// What mounting an image led to.
#[derive(Debug)]
pub enum Restored {
    /// It is there.
    Mounted(Volume),
    /// The file system could not be mounted. A journal that does what it
    /// promises never lets that happen.
    Refused(String),
}

impl Restored {
    /// The volume.
    ///
    /// # Errors
    /// The image was refused.
    pub fn mounted(self) -> Result<Volume> {
        match self {
            Restored::Mounted(volume) => Ok(volume),
            Restored::Refused(why) => bail!("the image cannot be mounted: {why}"),
        }
    }
}

/// What is left of a volume without power.
#[derive(Debug)]
pub struct Cut {
    home: PathBuf,
    filesystem: Filesystem,
    log: BlockLog,
    /// How many entries of the log `certain.raw` has.
    applied: usize,
}

/// A state in which a cut may have left the disk.
#[derive(Debug)]
pub struct CrashImage {
    path: PathBuf,
    filesystem: Filesystem,
    /// How it came about.
    pub loss: Loss,
}

impl Volume {
    /// Makes an empty volume of this size in `directory/name`, which must not
    /// be there, and mounts it.
    ///
    /// # Errors
    /// A program is missing or failed; nothing is left but files.
    pub fn create(directory: &Path, name: &str, bytes: u64, filesystem: Filesystem) -> Result<Volume> {
        tools::require(&TOOLS)?;
        let home = make_home(directory, name)?;
        let base = home.join("base.raw");
        File::create(&base)?.set_len(bytes)?;
        filesystem.make(&base)?;
        attach(home, filesystem)?.mounted()
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.home.join("mount")
    }

    /// Where a node may keep its data: a directory of the volume that is not
    /// its root, which holds what belongs to the file system.
    pub fn data(&self) -> PathBuf {
        self.mount_point().join("data")
    }

    /// Now, as the disk knows it. What was synced before is on the disk in
    /// every image of a cut at this moment or later.
    ///
    /// # Errors
    /// The log of writes cannot be looked at.
    pub fn moment(&self) -> Result<Moment> {
        Ok(Moment(fs::metadata(self.home.join("writes.log"))?.len()))
    }

    /// Cuts the power. Files stay open and mounted; syncs fail from now on.
    ///
    /// # Errors
    /// The daemon was gone already: then there is no telling what happened.
    pub fn power_off(&mut self) -> Result<()> {
        if let Some(status) = self.daemon.try_wait()? {
            let told = fs::read_to_string(self.home.join("daemon.log")).unwrap_or_default();
            bail!("the daemon of {} ended by itself: {status}: {told}", self.home.display());
        }
        self.daemon.kill().context("the daemon cannot be killed")
    }

    /// Gives the disk as the cut left it. Cuts the power if that was not done;
    /// whoever has files open on the volume should be dead by now.
    ///
    /// # Errors
    /// The log of writes cannot be read.
    pub fn cut(mut self) -> Result<Cut> {
        if self.daemon.try_wait()?.is_none() {
            self.power_off()?;
        }
        self.daemon.wait()?;
        self.undo.all();
        let home = self.home.clone();
        let log = BlockLog::open(&home.join("writes.log"))?;
        tools::copy_sparse(&home.join("base.raw"), &home.join("certain.raw"))?;
        Ok(Cut { home, filesystem: self.filesystem, log, applied: 0 })
    }

    /// Unmounts in order, so that everything is on the disk, and removes all
    /// files of the volume.
    ///
    /// # Errors
    /// Files cannot be removed.
    pub fn discard(mut self) -> Result<()> {
        self.undo.all();
        self.daemon.wait()?;
        Ok(fs::remove_dir_all(&self.home)?)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The mount first: the daemon must live to let it go.
        self.undo.all();
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Cuts the power of several volumes as good as at once.
///
/// # Errors
/// The first that failed; all others are cut nevertheless.
pub fn power_off_all<'a>(volumes: impl IntoIterator<Item = &'a mut Volume>) -> Result<()> {
    let results: Vec<_> = volumes.into_iter().map(Volume::power_off).collect();
    results.into_iter().collect()
}

impl Cut {
    /// `count` images, the first of seed `seed`, the next of `seed + 1` and so
    /// on. Each is a sparse file.
    ///
    /// # Errors
    /// Files cannot be written.
    pub fn images(&mut self, seed: u64, count: u64) -> Result<Vec<CrashImage>> {
        (seed..seed + count).map(|seed| self.image(seed)).collect()
    }

    /// The image of one seed.
    ///
    /// # Errors
    /// Files cannot be written.
    pub fn image(&mut self, seed: u64) -> Result<CrashImage> {
        self.image_at(Moment(u64::MAX), seed)
    }

    /// The image of one seed if power had been lost at an earlier moment
    /// already. Cheapest when the moments asked for go forwards.
    ///
    /// # Errors
    /// Files cannot be written.
    pub fn image_at(&mut self, moment: Moment, seed: u64) -> Result<CrashImage> {
        let certain = self.home.join("certain.raw");
        let cut = self.log.until(moment.0);
        let durable = self.log.durable(cut);
        if durable < self.applied {
            tools::copy_sparse(&self.home.join("base.raw"), &certain)?;
            self.applied = 0;
        }
        self.log.apply(&certain, self.applied..durable)?;
        self.applied = durable;
        let path = self.home.join(format!("image-{cut}-{seed}.raw"));
        tools::copy_sparse(&certain, &path)?;
        let loss = self.log.apply_some(&path, cut, seed)?;
        Ok(CrashImage { path, filesystem: self.filesystem, loss })
    }

    /// The moment at which the disk had seen this many writes and flushes.
    pub fn moment(&self, entries: usize) -> Moment {
        Moment(self.log.end(entries))
    }

    /// How many writes and flushes the disk had seen at a moment.
    pub fn entries_at(&self, moment: Moment) -> usize {
        self.log.until(moment.0)
    }

    /// Whether a cut at a moment can lose something.
    pub fn exposed_at(&self, moment: Moment) -> bool {
        self.log.exposed(self.log.until(moment.0))
    }

    /// How many writes and flushes the disk saw.
    pub fn entries(&self) -> usize {
        self.log.len()
    }

    /// Removes all files of the volume; images that were made of it as well.
    ///
    /// # Errors
    /// Files cannot be removed.
    pub fn discard(self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.home)?)
    }
}

impl CrashImage {
    /// Mounts the image as a new volume in `directory/name`, which must not be
    /// there. The image's file becomes the volume's.
    ///
    /// # Errors
    /// A program is missing or failed.
    pub fn restore(self, directory: &Path, name: &str) -> Result<Restored> {
        let home = make_home(directory, name)?;
        let base = home.join("base.raw");
        if fs::rename(&self.path, &base).is_err() {
            // Another file system.
            tools::copy_sparse(&self.path, &base)?;
            fs::remove_file(&self.path)?;
        }
        attach(home, self.filesystem)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn make_home(directory: &Path, name: &str) -> Result<PathBuf> {
    // Before anything is made: a run that was killed may have left files of the
    // same names to be removed.
    leftovers::sweep();
    fs::create_dir_all(directory)?;
    // The kernel names backing files by their real path.
    let home = directory.canonicalize()?.join(name);
    fs::create_dir(&home).with_context(|| format!("cannot make {}", home.display()))?;
    fs::create_dir(home.join("mount"))?;
    Ok(home)
}

/// Serves `base.raw` and mounts it.
fn attach(home: PathBuf, filesystem: Filesystem) -> Result<Restored> {
    let (live, log, export) = (home.join("live.raw"), home.join("writes.log"), home.join("device"));
    tools::copy_sparse(&home.join("base.raw"), &live)?;
    File::create(&log)?;
    File::create(&export)?;
    let mut undo = Undo::new()?;
    undo.add(Step::Remove(live.clone()))?;
    undo.add(Step::Unmount(export.clone()))?;
    let told = File::create(home.join("daemon.log"))?;
    let text = |path: &Path| path.display().to_string().replace(',', ",,");
    let child = Command::new("qemu-storage-daemon")
        .args(["--blockdev", &format!("driver=file,node-name=disk,cache.no-flush=on,filename={}", text(&live))])
        .args(["--blockdev", &format!("driver=file,node-name=log,cache.no-flush=on,filename={}", text(&log))])
        .args(["--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512"])
        .args(["--export", &format!("type=fuse,id=device,node-name=logged,writable=on,mountpoint={}", text(&export))])
        .stdin(Stdio::null())
        .stdout(told.try_clone()?)
        .stderr(told)
        .spawn()
        .context("cannot run qemu-storage-daemon")?;
    let started = tools::started(child.id()).context("the daemon ended at once")?;
    // From here on dropping the volume undoes everything.
    undo.add(Step::Kill { pid: child.id(), started })?;
    let mut volume = Volume { home, filesystem, daemon: child, undo };
    let bytes = fs::metadata(volume.home.join("base.raw"))?.len();
    tools::eventually("the daemon serves the disk", DAEMON_TIMEOUT, || {
        fs::metadata(&export).is_ok_and(|file| file.len() == bytes)
    })
    .with_context(|| fs::read_to_string(volume.home.join("daemon.log")).unwrap_or_default())?;

    volume.undo.add(Step::Detach(export.clone()))?;
    let device = tools::run("losetup", &["-f".as_ref(), "--show".as_ref(), export.as_os_str()])?;
    let mount_point = volume.mount_point();
    volume.undo.add(Step::Unmount(mount_point.clone()))?;
    let mounted = tools::run("mount", &["-o", filesystem.options(), &device, &mount_point.display().to_string()]);
    match mounted {
        Ok(_) => Ok(Restored::Mounted(volume)),
        Err(error) => Ok(Restored::Refused(format!("{error:#}"))),
    }
}
