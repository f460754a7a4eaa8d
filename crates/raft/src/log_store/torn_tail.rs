//! The end of a write-ahead log that a power cut tore.
//!
//! Every group of writes is one record of the write-ahead log, and the next
//! group begins only after the sync of the one before. So at most the last
//! record can be incomplete, and nobody was told that it is durable. RocksDB
//! forgives a last record that reaches beyond the end of its file. It does not
//! forgive one whose file has its full length but whose sectors were not all
//! written, which is what file systems that settle the length first leave
//! behind: sectors full of zeros.
//!
//! Such a record is recognised, after RocksDB has refused the file, by all of
//! - it is in the newest write-ahead log, where only synced records precede it;
//! - at least one aligned sector within it holds nothing but zeros;
//! - no record begins behind it.
//!
//! A flipped bit makes no zeros, and damage further back has records behind it:
//! both stay refused. What no rule can tell from a torn write is a last record
//! of which a sector was zeroed later; the witness judges what is left then, as
//! after every start.
//!
//! The format is RocksDB's: blocks of 32 KiB, fragments of a masked CRC32C, a
//! length and a type, never across a block.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
const SECTOR: usize = 512;

/// Types of fragments.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// A torn record at the end of a write-ahead log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TornTail {
    pub(super) file: PathBuf,
    /// Where it begins.
    pub(super) offset: u64,
    /// Bytes from there to the end of the file.
    pub(super) bytes: u64,
}

/// Looks for a torn record in the newest write-ahead log of a database.
///
/// # Errors
/// The files cannot be read.
pub(super) fn find(database: &Path) -> io::Result<Option<TornTail>> {
    let Some(file) = newest(database)? else { return Ok(None) };
    let mut content = Vec::new();
    File::open(&file)?.read_to_end(&mut content)?;
    Ok(torn_at(&content).map(|offset| TornTail { file, offset: offset as u64, bytes: (content.len() - offset) as u64 }))
}

impl TornTail {
    /// Cuts the file where the torn record begins. What is cut is kept in
    /// `aside`; both are on the disk on return.
    ///
    /// # Errors
    /// Something could not be written; the file is cut last.
    pub(super) fn cut(&self, aside: &Path) -> io::Result<()> {
        let content = fs::read(&self.file)?;
        let mut copy = File::create(aside)?;
        copy.write_all(content.get(self.offset as usize..).unwrap_or_default())?;
        copy.sync_all()?;
        let file = OpenOptions::new().write(true).open(&self.file)?;
        file.set_len(self.offset)?;
        file.sync_all()?;
        match self.file.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn newest(database: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|extension| extension == "log"))
            && newest.as_ref().is_none_or(|(highest, _)| number > *highest)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the record begins that is the last and torn.
fn torn_at(log: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Where the record that the next fragment belongs to begins.
    let mut record = 0;
    let mut inside = false;
    while at < log.len() {
        let left = BLOCK - at % BLOCK;
        if left < HEADER {
            at += left;
            continue;
        }
        let Some((kind, end)) = fragment(log, at) else { break };
        match kind {
            FULL | FIRST if inside => return None,
            MIDDLE | LAST if !inside => return None,
            FULL => {}
            FIRST => (record, inside) = (at, true),
            MIDDLE => {}
            _ => inside = false,
        }
        at = end;
    }
    if !inside {
        record = at;
    }
    let written = log.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // Nothing but what was reserved: that is no record.
    if written <= record {
        return None;
    }
    // What is reserved behind the record is zeros as well and says nothing.
    let claimed = log.get(at + 4..at + 6).map_or(0, |length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    let end = written.max(at + HEADER + claimed).min(log.len());
    (has_zero_sector(log, at..end) && !begins_behind(log, at)).then_some(record)
}

/// The type and the end of an intact fragment.
fn fragment(log: &[u8], at: usize) -> Option<(u8, usize)> {
    let header = log.get(at..at + HEADER)?;
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let kind = header[6];
    if !(FULL..=LAST).contains(&kind) || at % BLOCK + HEADER + length > BLOCK {
        return None;
    }
    let end = at + HEADER + length;
    let checked = log.get(at + HEADER - 1..end)?;
    (mask(crc32c::crc32c(checked)) == stored).then_some((kind, end))
}

/// RocksDB's way to store a checksum of bytes that may hold checksums.
fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Whether an aligned sector, or the part of one that the range ends with,
/// holds nothing but zeros.
fn has_zero_sector(log: &[u8], range: std::ops::Range<usize>) -> bool {
    let aligned = range.start.next_multiple_of(SECTOR);
    log.get(aligned..range.end).unwrap_or_default().chunks(SECTOR).any(|sector| sector.iter().all(|byte| *byte == 0))
}

/// Whether an intact record begins behind `at`: then what is damaged was
/// followed by others, and was durable.
fn begins_behind(log: &[u8], at: usize) -> bool {
    (at + 1..log.len().saturating_sub(HEADER)).any(|start| {
        let kind = log[start + HEADER - 1];
        (kind == FULL || kind == FIRST)
            && BLOCK - start % BLOCK >= HEADER
            && fragment(log, start).is_some_and(|(_, end)| end > start + HEADER)
    })
}

#[cfg(test)]
mod tests {
    use rocksdb::{DB, DBRecoveryMode, Options, WriteOptions};

    use super::*;

    fn options() -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_recycle_log_file_num(0);
        options.set_track_and_verify_wals_in_manifest(true);
        options
    }

    /// A database whose write-ahead log holds records of these sizes.
    fn written(sizes: &[usize]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let live = directory.path().join("live");
        let database = DB::open(&options(), &live).expect("opens");
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        for (key, size) in sizes.iter().enumerate() {
            let value: Vec<u8> = (0..*size).map(|at| (at % 251 + 1) as u8).collect();
            database.put_opt((key as u64).to_be_bytes(), value, &sync).expect("writes");
        }
        // Closing would write tables; a copy is what a crash leaves.
        let crashed = directory.path().join("crashed");
        fs::create_dir(&crashed).expect("makes");
        for entry in fs::read_dir(&live).expect("lists").flatten() {
            if entry.file_name() != "LOCK" {
                fs::copy(entry.path(), crashed.join(entry.file_name())).expect("copies");
            }
        }
        drop(database);
        (directory, crashed)
    }

    fn damage(database: &Path, change: impl FnOnce(&mut Vec<u8>, usize)) {
        let file = newest(database).expect("lists").expect("there is one");
        let mut content = fs::read(&file).expect("reads");
        let end = content.iter().rposition(|byte| *byte != 0).expect("not empty") + 1;
        change(&mut content, end);
        fs::write(&file, content).expect("writes");
    }

    fn keys(database: &Path) -> Result<usize, rocksdb::Error> {
        Ok(DB::open(&options(), database)?.iterator(rocksdb::IteratorMode::Start).count())
    }

    #[test]
    fn a_last_record_without_its_end_is_cut_off() {
        let (_directory, database) = written(&[400, 400, 20_000]);
        damage(&database, |log, end| log[end - 9_000..].fill(0));
        assert!(keys(&database).is_err(), "RocksDB refuses it");
        let torn = find(&database).expect("reads").expect("it is torn");
        let aside = database.join("../aside");
        torn.cut(&aside).expect("cuts");
        assert_eq!(fs::metadata(&aside).expect("kept").len(), torn.bytes);
        assert_eq!(keys(&database).expect("opens"), 2);
    }

    #[test]
    fn a_last_record_with_a_hole_is_cut_off_though_its_end_is_there() {
        let (_directory, database) = written(&[400, 100_000]);
        damage(&database, |log, _| log[40_960..45_056].fill(0));
        assert!(keys(&database).is_err(), "RocksDB refuses it");
        find(&database).expect("reads").expect("it is torn").cut(&database.join("../aside")).expect("cuts");
        assert_eq!(keys(&database).expect("opens"), 1);
    }

    #[test]
    fn a_flipped_bit_stays_refused() {
        for back in [1, 300, 5_000] {
            let (_directory, database) = written(&[400, 400, 20_000]);
            damage(&database, |log, end| log[end - back] ^= 4);
            assert!(keys(&database).is_err());
            assert_eq!(find(&database).expect("reads"), None, "{back} bytes before the end");
        }
    }

    #[test]
    fn a_flipped_bit_before_reserved_space_stays_refused() {
        let (_directory, database) = written(&[400, 400, 20_000]);
        damage(&database, |log, end| {
            log[end - 300] ^= 4;
            log.resize(end + 100_000, 0);
        });
        assert_eq!(find(&database).expect("reads"), None);
    }

    #[test]
    fn zeros_in_a_record_that_others_follow_stay_refused() {
        let (_directory, database) = written(&[400, 20_000, 400]);
        damage(&database, |log, _| log[4_096..8_192].fill(0));
        assert!(keys(&database).is_err());
        assert_eq!(find(&database).expect("reads"), None);
    }

    #[test]
    fn an_intact_log_is_left_alone() {
        let (_directory, database) = written(&[400, 50_000, 400]);
        assert_eq!(find(&database).expect("reads"), None);
        damage(&database, |log, _| log.resize(log.len() + 100_000, 0));
        assert_eq!(find(&database).expect("reads"), None, "what is reserved behind the end is no record");
    }
}
