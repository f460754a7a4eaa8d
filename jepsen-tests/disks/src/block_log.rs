//! Every state that a power cut can leave on a disk, from a log of its writes.
//!
//! The log has the format of Linux' dm-log-writes, as QEMU's `blklogwrites`
//! writes it: a sector with the super block (magic, version, number of
//! entries, sector size), then entries, each one sector of header (sector,
//! number of sectors, flags, bytes of a mark; little-endian) followed by its
//! data. An entry is there before the write is answered, and a flush is there
//! only after everything answered before it.
//!
//! What a disk promises, and a crash image keeps:
//! - everything that was written before the last flush is there;
//! - of every later write, each sector of 512 bytes is there or not,
//!   independently of all others, so writes are lost, torn and reordered;
//! - what was written through (FUA) is there;
//! - what was discarded may still be there: it is left as it was.
//!
//! The process that writes the log may be killed at any moment. The super
//! block may then count fewer entries than there are, an entry at the end may
//! be half there, and an entry may be missing whose successors are there. None
//! of these was answered, so none was flushed.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const KNOWN: u64 = 31;

/// The unit in which writes are torn.
const SECTOR: usize = 512;

/// How many requests the writer of the log may have in flight: as many entries
/// at the end may be half there.
const IN_FLIGHT: usize = 128;

/// One write, flush or discard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// First sector on the disk.
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its data is in the log, in bytes.
    data: u64,
}

impl Entry {
    fn is(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Where it ends in the log, in bytes.
    fn end(&self) -> u64 {
        self.data + if self.is(DISCARD) { 0 } else { self.sectors * SECTOR as u64 }
    }
}

/// A log of writes, read.
#[derive(Debug)]
pub struct BlockLog {
    file: File,
    entries: Vec<Entry>,
}

/// How an image came about.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Loss {
    /// The seed it follows from.
    pub seed: u64,
    /// How sectors were chosen.
    pub mode: String,
    /// Writes after the last flush.
    pub unflushed_writes: usize,
    /// Their sectors.
    pub unflushed_sectors: u64,
    /// How many of these are lost.
    pub lost_sectors: u64,
}

impl BlockLog {
    /// Reads a log whose writer is gone.
    ///
    /// # Errors
    /// It is no such log, or it lacks entries that its super block counts.
    pub fn open(path: &Path) -> Result<BlockLog> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let bytes = file.metadata()?.len();
        if bytes == 0 {
            return Ok(BlockLog { file, entries: Vec::new() });
        }
        let mut head = [0; SECTOR];
        file.read_exact_at(&mut head, 0).context("the log of writes ends in its super block")?;
        let (magic, counted) = (number(&head, 0), number(&head, 16));
        let sector = u64::from(u32::from_le_bytes(head[24..28].try_into().expect("four bytes")));
        ensure!(magic == MAGIC, "not a log of writes: it begins with {magic:#x}");
        ensure!(sector == SECTOR as u64, "a log of writes in sectors of {sector} bytes");

        let mut entries = Vec::new();
        let mut at = SECTOR as u64;
        let mut skipped = 0_u64;
        while at + SECTOR as u64 <= bytes {
            file.read_exact_at(&mut head, at)?;
            at += SECTOR as u64;
            let Some(entry) = header(&head, at) else {
                // The hole of an entry that was never written: look for the
                // next one. Data that looks like an entry would need 480 zero
                // bytes after a plausible header.
                skipped += 1;
                continue;
            };
            if !entry.is(DISCARD) {
                at += entry.sectors * SECTOR as u64;
            }
            entries.push(entry);
        }
        // A flush updates the count before it is answered.
        if (entries.len() as u64) < counted {
            bail!("the log of writes has {} entries of {counted}, with {skipped} sectors skipped", entries.len());
        }
        Ok(BlockLog { file, entries })
    }

    /// How many writes, flushes and discards there were.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries were wholly in the log when it had this many bytes.
    pub fn until(&self, bytes: u64) -> usize {
        self.entries.partition_point(|entry| entry.end() <= bytes)
    }

    /// How many bytes the log had when it had this many entries.
    pub fn end(&self, entries: usize) -> u64 {
        let last = entries.min(self.entries.len()).checked_sub(1);
        last.map_or(0, |last| self.entries[last].end())
    }

    /// How many of the first `cut` entries are certainly on the disk when
    /// power is lost after them: those up to the last flush.
    pub fn durable(&self, cut: usize) -> usize {
        self.entries[..cut].iter().rposition(|entry| entry.is(FLUSH)).map_or(0, |last| last + 1)
    }

    /// Whether a sector of the first `cut` entries is lost in some image of a
    /// cut after them.
    pub fn exposed(&self, cut: usize) -> bool {
        let mut unflushed = self.entries[self.durable(cut)..cut].iter();
        unflushed.any(|entry| entry.sectors > 0 && !entry.is(FUA) && !entry.is(DISCARD))
    }

    /// Writes these entries into an image that has all before them.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn apply(&self, image: &Path, entries: Range<usize>) -> Result<()> {
        let image = open(image)?;
        for entry in &self.entries[entries] {
            image.write_all_at(&self.data(entry)?, entry.sector * SECTOR as u64)?;
        }
        Ok(())
    }

    /// Writes into an image that has everything certain a choice of what else
    /// was written before the cut.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn apply_some(&self, image: &Path, cut: usize, seed: u64) -> Result<Loss> {
        let image = open(image)?;
        let mut random = StdRng::seed_from_u64(seed);
        let unflushed = &self.entries[self.durable(cut)..cut];
        let writes: Vec<_> = unflushed.iter().filter(|entry| entry.sectors > 0 && !entry.is(DISCARD)).collect();
        let mode = Mode::choose(&mut random, writes.len());
        let mut loss = Loss {
            seed,
            mode: format!("{mode:?}"),
            unflushed_writes: writes.len(),
            unflushed_sectors: writes.iter().map(|entry| entry.sectors).sum(),
            lost_sectors: 0,
        };
        for (number, entry) in writes.iter().enumerate() {
            let data = self.data(entry)?;
            let whole = mode.whole(&mut random, number);
            // An entry that was being written when the writer was killed may
            // have holes. They are taken for sectors that were not written.
            let holes = cut == self.entries.len() && number + IN_FLIGHT >= writes.len();
            loss.lost_sectors += entry.sectors - (data.len() / SECTOR) as u64;
            for (offset, sector) in data.chunks_exact(SECTOR).enumerate() {
                let there = entry.is(FUA) || whole.unwrap_or_else(|| mode.sector(&mut random));
                if there && !(holes && sector.iter().all(|byte| *byte == 0)) {
                    image.write_all_at(sector, (entry.sector + offset as u64) * SECTOR as u64)?;
                } else {
                    loss.lost_sectors += 1;
                }
            }
        }
        Ok(loss)
    }

    /// The data of a write; shorter where the log ends within it.
    fn data(&self, entry: &Entry) -> Result<Vec<u8>> {
        if entry.is(DISCARD) {
            return Ok(Vec::new());
        }
        let mut data = vec![0; entry.sectors as usize * SECTOR];
        let mut filled = 0;
        while filled < data.len() {
            match self.file.read_at(&mut data[filled..], entry.data + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        data.truncate(filled / SECTOR * SECTOR);
        Ok(data)
    }
}

/// Which of the writes after the last flush reached the disk. Real disks do
/// all of these; coins alone would never show a single missing sector.
#[derive(Clone, Copy, Debug)]
enum Mode {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// Those before this one, and some sectors of it: an orderly disk.
    Upto(usize),
    /// All but some sectors of this one.
    Without(usize),
    /// Each whole write with this chance, in any order.
    Writes(f64),
    /// Each sector with this chance.
    Sectors(f64),
}

impl Mode {
    fn choose(random: &mut StdRng, writes: usize) -> Mode {
        let one = |random: &mut StdRng| if writes == 0 { 0 } else { random.random_range(0..writes) };
        match random.random_range(0..8) {
            0 => Mode::Nothing,
            1 => Mode::Everything,
            2 => Mode::Upto(one(random)),
            3 => Mode::Without(one(random)),
            4 => Mode::Writes(0.5),
            5 => Mode::Sectors(0.5),
            6 => Mode::Sectors(0.1),
            _ => Mode::Sectors(0.95),
        }
    }

    /// Whether a write is there as a whole or not at all; none when each of
    /// its sectors is asked for.
    fn whole(self, random: &mut StdRng, number: usize) -> Option<bool> {
        match self {
            Mode::Nothing => Some(false),
            Mode::Everything => Some(true),
            Mode::Upto(last) => (number != last).then_some(number < last),
            Mode::Without(one) => (number != one).then_some(true),
            Mode::Writes(chance) => Some(random.random_bool(chance)),
            Mode::Sectors(_) => None,
        }
    }

    fn sector(self, random: &mut StdRng) -> bool {
        match self {
            Mode::Sectors(chance) => random.random_bool(chance),
            Mode::Nothing | Mode::Everything | Mode::Upto(_) | Mode::Without(_) | Mode::Writes(_) => {
                random.random_bool(0.5)
            }
        }
    }
}

fn open(image: &Path) -> Result<File> {
    OpenOptions::new().write(true).open(image).with_context(|| format!("cannot open {}", image.display()))
}

/// The entry whose header this is; none when it is none.
fn header(bytes: &[u8; SECTOR], data: u64) -> Option<Entry> {
    let entry = Entry { sector: number(bytes, 0), sectors: number(bytes, 8), flags: number(bytes, 16), data };
    let marked = number(bytes, 24);
    // Writes of nothing do not occur; without this a hole would be entries.
    let plausible = marked == 0 && entry.flags <= KNOWN && (entry.sectors > 0 || entry.flags != 0);
    (plausible && bytes[32..].iter().all(|byte| *byte == 0)).then_some(entry)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Writer(Vec<u8>, u64);

    impl Writer {
        fn new() -> Writer {
            Writer(vec![0; SECTOR], 0)
        }

        fn entry(&mut self, sector: u64, data: &[u8], flags: u64) -> &mut Writer {
            let mut head = Vec::new();
            for value in [sector, (data.len() / SECTOR) as u64, flags, 0] {
                head.extend_from_slice(&value.to_le_bytes());
            }
            head.resize(SECTOR, 0);
            self.0.extend_from_slice(&head);
            self.0.extend_from_slice(data);
            self.1 += 1;
            self
        }

        fn write(&mut self, sector: u64, byte: u8) -> &mut Writer {
            self.entry(sector, &[byte; SECTOR], 0)
        }

        fn flush(&mut self) -> &mut Writer {
            self.entry(0, &[], FLUSH)
        }

        fn hole(&mut self, sectors: usize) -> &mut Writer {
            self.0.resize(self.0.len() + sectors * SECTOR, 0);
            self
        }

        fn save(&self, counted: u64) -> (tempfile::TempDir, Result<BlockLog>) {
            let mut bytes = self.0.clone();
            for (at, value) in [(0, MAGIC), (8, 1), (16, counted)] {
                bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            }
            bytes[24..28].copy_from_slice(&(SECTOR as u32).to_le_bytes());
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("log");
            std::fs::write(&path, bytes).expect("writable");
            let log = BlockLog::open(&path);
            (directory, log)
        }
    }

    /// The first byte of each of the first eight sectors.
    fn image(log: &BlockLog, directory: &tempfile::TempDir, seed: Option<u64>) -> Vec<u8> {
        let path = directory.path().join("image");
        std::fs::write(&path, [0; 8 * SECTOR]).expect("writable");
        log.apply(&path, 0..log.durable(log.len())).expect("applied");
        if let Some(seed) = seed {
            log.apply_some(&path, log.len(), seed).expect("applied");
        }
        std::fs::read(&path).expect("readable").chunks(SECTOR).map(|sector| sector[0]).collect()
    }

    #[test]
    fn what_was_flushed_is_in_every_image_and_what_was_not_in_some() {
        let mut writer = Writer::new();
        writer.write(1, 1).write(2, 2).flush().write(2, 3).write(3, 4);
        let (directory, log) = writer.save(3);
        let log = log.expect("a log");
        let images: Vec<_> = (0..200).map(|seed| image(&log, &directory, Some(seed))).collect();
        assert!(images.iter().all(|image| image[1] == 1 && (image[2] == 2 || image[2] == 3)));
        for (two, three) in [(2, 0), (2, 4), (3, 0), (3, 4)] {
            assert!(images.iter().any(|image| image[2] == two && image[3] == three), "{two} {three}");
        }
    }

    #[test]
    fn a_write_of_several_sectors_is_torn_in_some_images() {
        let mut writer = Writer::new();
        writer.flush().entry(1, &[7; 4 * SECTOR], 0);
        let (directory, log) = writer.save(1);
        let log = log.expect("a log");
        let torn = |image: &Vec<u8>| image[1..5].contains(&7) && image[1..5].contains(&0);
        assert!((0..50).map(|seed| image(&log, &directory, Some(seed))).any(|image| torn(&image)));
    }

    #[test]
    fn a_write_through_is_there_without_a_flush_and_a_later_write_may_be_over_it() {
        let mut writer = Writer::new();
        writer.flush().write(1, 1).entry(1, &[2; SECTOR], FUA).write(1, 3);
        let (directory, log) = writer.save(1);
        let log = log.expect("a log");
        let seen: std::collections::BTreeSet<_> = (0..50).map(|seed| image(&log, &directory, Some(seed))[1]).collect();
        assert_eq!(seen, [2, 3].into());
        assert_eq!([1, 2, 3, 4].map(|cut| log.exposed(cut)), [false, true, true, true]);

        let mut through = Writer::new();
        through.flush().entry(1, &[2; SECTOR], FUA);
        assert!(!through.save(1).1.expect("a log").exposed(2));
    }

    #[test]
    fn one_seed_always_makes_the_same_image() {
        let mut writer = Writer::new();
        writer.flush().entry(0, &[9; 8 * SECTOR], 0).write(3, 1).write(5, 2);
        let (directory, log) = writer.save(1);
        let log = log.expect("a log");
        for seed in 0..20 {
            assert_eq!(image(&log, &directory, Some(seed)), image(&log, &directory, Some(seed)));
        }
    }

    #[test]
    fn entries_after_one_that_was_never_written_are_found() {
        let mut writer = Writer::new();
        writer.write(1, 1).flush().hole(3).write(2, 2).flush();
        let (directory, log) = writer.save(4);
        assert_eq!(image(&log.expect("a log"), &directory, None)[1..3], [1, 2]);
    }

    #[test]
    fn a_cut_at_an_earlier_moment_has_nothing_of_what_came_later() {
        let mut writer = Writer::new();
        writer.write(1, 1).flush().write(2, 2);
        let moment = writer.0.len() as u64;
        writer.flush().write(3, 3).flush();
        let (_directory, log) = writer.save(5);
        let log = log.expect("a log");
        assert_eq!((log.until(moment), log.until(moment - 1), log.until(u64::MAX)), (3, 2, 6));
        assert_eq!((log.durable(3), log.durable(4), log.durable(6)), (2, 4, 6));
        assert_eq!([1, 2, 3, 4, 5, 6].map(|cut| log.exposed(cut)), [true, false, true, false, true, false]);
    }

    #[test]
    fn a_log_that_lost_entries_it_counts_is_refused() {
        let mut writer = Writer::new();
        writer.write(1, 1).flush();
        let (_directory, log) = writer.save(3);
        assert!(log.expect_err("incomplete").to_string().contains("2 entries of 3"));
    }

    #[test]
    fn an_entry_that_is_cut_off_is_there_up_to_where_it_ends() {
        let mut writer = Writer::new();
        writer.flush().entry(0, &[9; 8 * SECTOR], 0);
        writer.0.truncate(writer.0.len() - 5 * SECTOR - 100);
        let (directory, log) = writer.save(1);
        let log = log.expect("a log");
        let images: Vec<_> = (0..50).map(|seed| image(&log, &directory, Some(seed))).collect();
        assert!(images.iter().all(|image| image[2..] == [0; 6]));
        assert!(images.iter().any(|image| image[..2] == [9, 9]));
    }
}
