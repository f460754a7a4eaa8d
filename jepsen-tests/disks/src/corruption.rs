//! Files of a node that rot (F9): one bit flips, a page becomes zeros, the end
//! is gone.
//!
//! A node whose disk rots may refuse to start, and may refuse a read; it may
//! never serve anything but what was written, never pass for a node that has
//! less than it acknowledged, and never delete what it cannot read.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Kinds of files in a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A segment of the log: what was acknowledged last is in one.
    Log,
    /// A table of the state.
    StateTable,
    /// The manifest of the state's database.
    StateManifest,
    /// The pointer to it.
    StateCurrent,
    /// RocksDB's options of the state; nothing depends on them.
    StateOptions,
    /// Which state counts.
    StatePointer,
    /// Who the node is.
    Identity,
    /// What the log acknowledged.
    Witness,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 8] = [
        Part::Log,
        Part::StateTable,
        Part::StateManifest,
        Part::StateCurrent,
        Part::StateOptions,
        Part::StatePointer,
        Part::Identity,
        Part::Witness,
    ];

    /// The files of this kind that are not empty, the largest first.
    fn files(self, data: &Path) -> Result<Vec<PathBuf>> {
        let state = || -> Result<PathBuf> {
            let name = fs::read_to_string(data.join("CURRENT_STATE")).context("no state is named")?;
            Ok(data.join(name.trim_end()))
        };
        let (directory, prefix, suffix) = match self {
            Part::Log => (data.join("log"), "", ".log"),
            Part::StateTable => (state()?, "", ".sst"),
            Part::StateManifest => (state()?, "MANIFEST-", ""),
            Part::StateCurrent => (state()?, "CURRENT", ""),
            Part::StateOptions => (state()?, "OPTIONS-", ""),
            Part::StatePointer => (data.to_owned(), "CURRENT_STATE", ""),
            Part::Identity => (data.to_owned(), "identity", ""),
            Part::Witness => (data.to_owned(), "HEAD", ""),
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let bytes = entry.metadata()?.len();
            if name.starts_with(prefix) && name.ends_with(suffix) && bytes > 0 {
                files.push((std::cmp::Reverse(bytes), entry.path()));
            }
        }
        files.sort();
        Ok(files.into_iter().map(|(_, path)| path).collect())
    }
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// One bit is another.
    FlipBit,
    /// A page of 4 KiB, or what there is of it, is zeros.
    ZeroPage,
    /// The file ends earlier.
    Truncate,
    /// The file is gone.
    Remove,
}

impl Damage {
    /// All of them.
    pub const ALL: [Damage; 4] = [Damage::FlipBit, Damage::ZeroPage, Damage::Truncate, Damage::Remove];
}

/// What was done to a file, and what it was before.
#[derive(Clone, Debug)]
pub struct Corruption {
    /// The kind of file.
    pub part: Part,
    /// What was done.
    pub damage: Damage,
    /// The file.
    pub file: PathBuf,
    /// Its length before.
    pub bytes: u64,
    /// Where the damage begins.
    pub offset: u64,
    /// The bit that was flipped, or how many bytes became zeros or are gone.
    pub extent: u64,
    before: Vec<u8>,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corruption { offset, extent, bytes, .. } = self;
        let file = self.file.display();
        match self.damage {
            Damage::FlipBit => write!(f, "bit {extent} of byte {offset} of {bytes} flipped in {file}"),
            Damage::ZeroPage => write!(f, "{extent} bytes from {offset} of {bytes} zeroed in {file}"),
            Damage::Truncate => write!(f, "{file} cut at {offset} of {bytes}"),
            Damage::Remove => write!(f, "{file} of {bytes} bytes removed"),
        }
    }
}

/// Damages one file of this kind, chosen by the seed. Works on the files of a
/// node that is stopped and of one that runs. None when there is no such file,
/// or when nothing in it would be changed.
///
/// # Errors
/// The files cannot be read or written.
pub fn corrupt(data: &Path, part: Part, damage: Damage, seed: u64) -> Result<Option<Corruption>> {
    let mut random = StdRng::seed_from_u64(seed);
    let files = part.files(data)?;
    if files.is_empty() {
        return Ok(None);
    }
    let file = files[random.random_range(0..files.len())].clone();
    let before = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    // What is reserved behind the end does not count: nothing is lost there.
    let used = before.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if used == 0 {
        return Ok(None);
    }
    // Nor does what fills a block up.
    let at = random.random_range(0..used);
    let at = (at..used).find(|at| before[*at] != 0).unwrap_or(at);
    let bytes = before.len() as u64;
    let mut done =
        Corruption { part, damage, file: file.clone(), bytes, offset: at as u64, extent: 0, before: before.clone() };
    let open = OpenOptions::new().write(true).open(&file)?;
    match damage {
        Damage::FlipBit => {
            done.extent = random.random_range(0..8);
            open.write_all_at(&[before[at] ^ (1 << done.extent)], at as u64)?;
        }
        Damage::ZeroPage => {
            let start = at / 4096 * 4096;
            let end = (start + 4096).min(before.len());
            if before[start..end].iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            (done.offset, done.extent) = (start as u64, (end - start) as u64);
            open.write_all_at(&vec![0; end - start], start as u64)?;
        }
        Damage::Truncate => {
            done.extent = bytes - at as u64;
            open.set_len(at as u64)?;
        }
        Damage::Remove => {
            (done.offset, done.extent) = (0, bytes);
            fs::remove_file(&file)?;
        }
    }
    open.sync_all()?;
    Ok(Some(done))
}

impl Corruption {
    /// Puts the file back as it was. Only sensible for a node that is stopped.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn undo(&self) -> Result<()> {
        fs::write(&self.file, &self.before).with_context(|| format!("cannot restore {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> tempfile::TempDir {
        let data = tempfile::tempdir().expect("a directory");
        for (name, bytes) in [("log/000004.log", 30_000), ("state-1/000008.sst", 9_000), ("HEAD", 4_121)] {
            let path = data.path().join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
            let mut content = vec![0x5a; bytes];
            content.resize(bytes + 20_000, 0);
            fs::write(path, content).expect("writable");
        }
        fs::write(data.path().join("CURRENT_STATE"), "state-1\n").expect("writable");
        data
    }

    #[test]
    fn every_damage_changes_what_was_written_and_can_be_undone() {
        let data = data();
        for part in [Part::Log, Part::StateTable, Part::Witness, Part::StatePointer] {
            for damage in Damage::ALL {
                for seed in 0..20 {
                    let done = corrupt(data.path(), part, damage, seed).expect("readable").expect("there is a file");
                    let after = fs::read(&done.file).ok();
                    let used = done.before.iter().rposition(|byte| *byte != 0).expect("not empty") + 1;
                    let lost = after.as_ref().is_none_or(|after| after.get(..used) != done.before.get(..used));
                    assert!(lost, "{done}");
                    done.undo().expect("writable");
                    assert_eq!(fs::read(&done.file).expect("readable"), done.before);
                }
            }
        }
    }

    #[test]
    fn a_flip_changes_one_bit() {
        let data = data();
        let done = corrupt(data.path(), Part::Log, Damage::FlipBit, 3).expect("readable").expect("a file");
        let after = fs::read(&done.file).expect("readable");
        let bits: u32 = after.iter().zip(&done.before).map(|(after, before)| (after ^ before).count_ones()).sum();
        assert_eq!(bits, 1);
    }

    #[test]
    fn a_part_without_a_file_is_none() {
        assert!(corrupt(data().path(), Part::StateManifest, Damage::Truncate, 1).expect("readable").is_none());
    }
}
