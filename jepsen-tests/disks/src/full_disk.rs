//! A volume that is full, and then is not (F7).
//!
//! A ballast file takes all of the free space but some bytes; removing it
//! gives the space back. On ext4 the ballast is reserved, not written: it costs
//! nothing whatever its size. On a tmpfs it is memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::leftovers::{Step, Undo};
use crate::power_loss::Filesystem;
use crate::tools;

/// The programs that this needs.
pub const TOOLS: [&str; 7] = ["losetup", "mount", "umount", "mkfs.ext4", "fallocate", "df", "truncate"];

/// A mounted volume that can be filled.
#[derive(Debug)]
pub struct SmallVolume {
    home: PathBuf,
    undo: Undo,
}

impl SmallVolume {
    /// An ext4 of this size in `directory/name`, which must not be there.
    ///
    /// # Errors
    /// A program is missing or failed; nothing is left but files.
    pub fn ext4(directory: &Path, name: &str, bytes: u64) -> Result<SmallVolume> {
        let mut volume = SmallVolume::empty(directory, name)?;
        let disk = volume.home.join("disk.raw");
        File::create(&disk)?.set_len(bytes)?;
        Filesystem::Ext4.make(&disk)?;
        volume.undo.add(Step::Detach(disk.clone()))?;
        let block = tools::run("losetup", &["-f".as_ref(), "--show".as_ref(), disk.as_os_str()])?;
        let mount = volume.mount_point();
        volume.undo.add(Step::Unmount(mount.clone()))?;
        tools::run("mount", &["-o", Filesystem::Ext4.options(), &block, &mount.display().to_string()])?;
        Ok(volume)
    }

    /// A tmpfs of this size in `directory/name`, which must not be there.
    ///
    /// # Errors
    /// A program is missing or failed; nothing is left but files.
    pub fn tmpfs(directory: &Path, name: &str, bytes: u64) -> Result<SmallVolume> {
        let mut volume = SmallVolume::empty(directory, name)?;
        let mount = volume.mount_point();
        volume.undo.add(Step::Unmount(mount.clone()))?;
        let options = format!("size={bytes}");
        tools::run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &mount.display().to_string()])?;
        Ok(volume)
    }

    fn empty(directory: &Path, name: &str) -> Result<SmallVolume> {
        tools::require(&TOOLS)?;
        fs::create_dir_all(directory)?;
        let home = directory.canonicalize()?.join(name);
        fs::create_dir(&home).with_context(|| format!("cannot make {}", home.display()))?;
        fs::create_dir(home.join("mount"))?;
        Ok(SmallVolume { home, undo: Undo::new()? })
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.home.join("mount")
    }

    /// Where a node may keep its data.
    pub fn data(&self) -> PathBuf {
        self.mount_point().join("data")
    }

    /// How many bytes are free.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn free_bytes(&self) -> Result<u64> {
        let mount = self.mount_point().display().to_string();
        let told = tools::run("df", &["--output=avail", "-B1", &mount])?;
        told.lines().last().and_then(|line| line.trim().parse().ok()).context("df does not say what is free")
    }

    /// Takes all free space but about `leave` bytes. May be called again to
    /// take what has become free.
    ///
    /// # Errors
    /// The space cannot be taken.
    pub fn fill(&self, leave: u64) -> Result<()> {
        // Files of halving size: a file system can rarely give its last
        // blocks to a single one.
        for number in 0.. {
            let free = self.free_bytes()?;
            if free <= leave + 4096 {
                break;
            }
            let mut take = free - leave;
            let file = self.ballast(number);
            let mount = file.display().to_string();
            if file.exists() {
                continue;
            }
            while take >= 4096 && tools::run("fallocate", &["-l", &take.to_string(), &mount]).is_err() {
                let _ = fs::remove_file(&file);
                take /= 2;
            }
            if take < 4096 || number > 1_000 {
                break;
            }
        }
        let free = self.free_bytes()?;
        ensure!(free <= leave + (1 << 20), "{free} bytes are still free");
        Ok(())
    }

    /// Gives all space back.
    ///
    /// # Errors
    /// The ballast cannot be removed.
    pub fn free(&self) -> Result<()> {
        for number in 0.. {
            match fs::remove_file(self.ballast(number)) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error) => return Err(error).context("the ballast cannot be removed"),
            }
        }
        Ok(())
    }

    fn ballast(&self, number: u32) -> PathBuf {
        self.mount_point().join(format!("ballast-{number}"))
    }
}

impl Drop for SmallVolume {
    fn drop(&mut self) {
        self.undo.all();
    }
}
