//! The log's files.
//!
//! `<data>/log` holds segments: files `<number>-<salt>.log` of about
//! [`SEGMENT_BYTES`] that are written one after the other, each from its beginning.
//! Every group of changes is one [`frame`], one write, one sync. Each byte of an
//! entry is written once; where it is stays in memory ([`Index`], 16 bytes each).
//!
//! A file whose entries are all purged becomes the next one: blocks that were
//! written before sync in half the time, because the file system has nothing of its
//! own to write down. Every segment begins with all single values, so none before
//! it is needed for more than its entries.
//!
//! Invariants
//! - A frame is written only when all before it are on the disk.
//! - No block that holds something durable is written again before all of its file
//!   is of no use.
//! - What is read is checked: an entry has a checksum of its own.

mod frame;
pub(crate) mod fuzzing;
mod one_bit;
mod record;
mod scan;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

pub(crate) use self::record::Record;
pub(crate) use self::scan::{Scan, ScanError, scan};
pub(crate) use self::writer::Writer;
use crate::codec;
use crate::types::{Entry, LogId, Vote};

/// Bytes of a segment; more only where a single group needs more.
const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;

/// What a file's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    number: u64,
    salt: frame::Salt,
}

impl Name {
    /// A name for a new use of a file.
    fn new(number: u64) -> Name {
        Name { number, salt: *uuid::Uuid::new_v4().as_bytes() }
    }

    fn parse(text: &str) -> Option<Name> {
        let (number, salt) = text.strip_suffix(".log")?.split_once('-')?;
        if number.len() != 12 || salt.len() != 32 {
            return None;
        }
        let salt = uuid::Uuid::try_parse(salt).ok()?;
        Some(Name { number: number.parse().ok()?, salt: *salt.as_bytes() })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:012}-{}.log", self.number, uuid::Uuid::from_bytes(self.salt).simple())
    }
}

/// The single values of a log: the newest of each counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Values {
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<LogId>,
    pub(crate) committed: Option<LogId>,
    pub(crate) snapshot: Option<Bytes>,
    /// Where the log ends.
    last: Option<LogId>,
}

impl Values {
    fn follow(&mut self, record: &Record) {
        match record {
            Record::Entry(encoded) => self.last = codec::entry_log_id(encoded).ok(),
            Record::Truncated(_, last) => self.last = *last,
            Record::Purged(upto) => self.purged = Some(*upto),
            Record::Emptied(upto) => (self.purged, self.last) = (Some(*upto), Some(*upto)),
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(log_id) => self.committed = Some(*log_id),
            Record::Snapshot(encoded) => self.snapshot = Some(encoded.clone()),
            Record::End(log_id) => self.last = Some(*log_id),
        }
    }

    /// What a segment begins with.
    fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        records.extend(self.vote.map(Record::Vote));
        records.extend(self.purged.map(Record::Purged));
        records.extend(self.committed.map(Record::Committed));
        records.extend(self.snapshot.clone().map(Record::Snapshot));
        records.extend(self.last.map(Record::End));
        records
    }
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    segment: u64,
    offset: u32,
    len: u32,
}

impl Place {
    fn new(segment: u64, offset: usize, len: usize) -> Place {
        let fits = |number: usize| u32::try_from(number).expect("no segment comes near 4 GiB");
        Place { segment, offset: fits(offset), len: fits(len) }
    }

    fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }
}

/// Where the entries are that can be read from files: contiguous, and their places
/// in the order of their indexes.
#[derive(Debug, Default)]
struct Index {
    first: u64,
    places: VecDeque<Place>,
}

impl Index {
    fn first(&self) -> Option<u64> {
        (!self.places.is_empty()).then_some(self.first)
    }

    fn push(&mut self, index: u64, place: Place) {
        if self.places.is_empty() {
            self.first = index;
        }
        self.places.push_back(place);
    }

    /// Drops what a record that is no entry says is gone.
    fn follow(&mut self, record: &Record) {
        match record {
            Record::Truncated(from, _) => {
                let left = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
                self.places.truncate(left);
            }
            Record::Purged(upto) => self.purge(upto.index()),
            Record::Emptied(_) => self.places.clear(),
            _ => {}
        }
    }

    fn purge(&mut self, upto: u64) {
        while self.first <= upto && self.places.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// The places of the entries from this one on.
    fn from(&self, index: u64) -> impl Iterator<Item = &Place> {
        let skip = index.checked_sub(self.first).and_then(|skip| usize::try_from(skip).ok()).unwrap_or(usize::MAX);
        self.places.iter().skip(skip.min(self.places.len()))
    }
}

/// The files, to read from. Shared with the [`Writer`].
#[derive(Debug, Default)]
pub(crate) struct Segments {
    index: Mutex<Index>,
    files: Mutex<BTreeMap<u64, (Name, Arc<File>)>>,
}

impl Segments {
    /// The files of a log that nobody writes.
    pub(crate) fn look(scan: Scan) -> io::Result<Segments> {
        Segments::open(&scan.files, scan.index, OpenOptions::new().read(true))
    }

    fn open(files: &[(Name, PathBuf)], index: Index, options: &OpenOptions) -> io::Result<Segments> {
        let open = |(name, path): &(Name, PathBuf)| Ok((name.number, (*name, Arc::new(options.open(path)?))));
        let files = files.iter().map(open).collect::<io::Result<_>>()?;
        Ok(Segments { index: Mutex::new(index), files: Mutex::new(files) })
    }

    /// Entries of `[start, end)`, from `start` on: as many as are together in one
    /// file and have about `bytes`, at least one. None where `start` is not there.
    ///
    /// Blocks. An error says which entry cannot be read.
    pub(crate) fn read(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        let budget = u64::try_from(bytes).unwrap_or(u64::MAX);
        let (places, file) = {
            let index = self.index.lock();
            let mut places: Vec<Place> = Vec::new();
            for place in index.from(start).take(usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX)) {
                let begin = *places.first().unwrap_or(place);
                let is_near = place.segment == begin.segment && place.end() - u64::from(begin.offset) <= budget;
                if !is_near && !places.is_empty() {
                    break;
                }
                places.push(*place);
            }
            let Some(first) = places.first() else { return Ok(Vec::new()) };
            // Within the lock of the index: a file goes only after its places have.
            let file = self.files.lock().get(&first.segment).map(|(_, file)| file.clone());
            (places, file)
        };
        let file = file.ok_or_else(|| io::Error::other(format!("the file of log entry {start} is not there")))?;
        let (from, to) = (u64::from(places[0].offset), places[places.len() - 1].end());
        let mut content = vec![0; usize::try_from(to - from).expect("bounded by the budget")];
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("log entry {start}: {error}"));
        file.read_exact_at(&mut content, from).map_err(failed)?;
        let content = Bytes::from(content);
        let decode = |(place, index): (&Place, u64)| {
            let at = (u64::from(place.offset) - from) as usize;
            decode(index, content.slice(at..at + place.len as usize))
        };
        places.iter().zip(start..).map(decode).collect()
    }
}

/// The entry in these bytes, which must be the one with this index.
fn decode(index: u64, bytes: Bytes) -> io::Result<Entry> {
    let damaged = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index}: {why}"));
    let entry = codec::decode_entry(bytes).map_err(|error| damaged(error.to_string()))?;
    if entry.log_id.index() != index {
        return Err(damaged(format!("it says that it is {}", entry.log_id.index())));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests;
