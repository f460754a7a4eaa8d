//! The witness `HEAD`: what this node has acknowledged, kept beside its log.
//!
//! The log's database repairs a torn tail by dropping it, which is right after
//! a crash: what was not synced was not acknowledged. It cannot tell that from
//! a live write-ahead log that was cut or lost, and a node that forgot what it
//! acknowledged would help to elect a leader without it. The witness tells.
//!
//! - Two slots, written in turn, each with a checksum: a torn write leaves the
//!   other slot.
//! - It never claims more than what is synced: it is written *after* the log,
//!   and lowered *before* the log is truncated.
//! - It may lag (by at most [`ENTRIES_MAX`] entries or about a second), so it
//!   catches what lies further back than that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::codec::{LogIdForm, VoteForm};

/// The file's name in the data directory.
pub(crate) const FILE: &str = "HEAD";

/// Entries after which the witness is written again.
pub(crate) const ENTRIES_MAX: u64 = 1_000;

const SLOT_BYTES: u64 = 4096;
const MAGIC: [u8; 8] = *b"ANNLHEAD";

/// What a node has acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acknowledged {
    /// The last entry on its disk.
    pub(crate) last: Option<LogIdForm>,
    /// Its last vote.
    pub(crate) vote: Option<VoteForm>,
}

impl Acknowledged {
    /// Whether a log that stands at `self` holds everything that `witnessed`
    /// says it acknowledged.
    pub(crate) fn covers(&self, witnessed: &Acknowledged) -> bool {
        let log = |acknowledged: &Acknowledged| acknowledged.last.map(|last| (last.term, last.node, last.index));
        let vote = |acknowledged: &Acknowledged| acknowledged.vote.map(|vote| (vote.term, vote.node));
        let index = |acknowledged: &Acknowledged| acknowledged.last.map(|last| last.index);
        log(self) >= log(witnessed) && index(self) >= index(witnessed) && vote(self) >= vote(witnessed)
    }
}

impl std::fmt::Display for Acknowledged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.last {
            Some(last) => write!(f, "index {} of term {}", last.index, last.term)?,
            None => write!(f, "its beginning")?,
        }
        match self.vote {
            Some(vote) => write!(f, " (vote of term {})", vote.term),
            None => write!(f, " (no vote)"),
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Witness {
    file: File,
    path: PathBuf,
    sequence: u64,
    written: Acknowledged,
}

impl Witness {
    /// Creates the file, saying that nothing was acknowledged. The directory
    /// entry is durable when this returns.
    pub(crate) fn create(data: &Path) -> io::Result<Witness> {
        let path = data.join(FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let mut witness = Witness { file, path, sequence: 0, written: Acknowledged::default() };
        witness.write(Acknowledged::default())?;
        File::open(data)?.sync_all()?;
        Ok(witness)
    }

    /// Opens the file, `None` where there is none.
    ///
    /// # Errors
    /// `InvalidData` where neither slot can be read.
    pub(crate) fn open(data: &Path) -> io::Result<Option<Witness>> {
        let path = data.join(FILE);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (sequence, written) = read(&file)?;
        Ok(Some(Witness { file, path, sequence, written }))
    }

    /// What the file says, without opening it to be written; `None` where there
    /// is none.
    ///
    /// # Errors
    /// As [`Witness::open`].
    pub(crate) fn look(data: &Path) -> io::Result<Option<Acknowledged>> {
        match File::open(data.join(FILE)) {
            Ok(file) => read(&file).map(|(_, written)| Some(written)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What it says.
    pub(crate) fn acknowledged(&self) -> Acknowledged {
        self.written
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes and syncs. On return the other slot is the one to be written
    /// next, so that this one survives a torn write.
    pub(crate) fn write(&mut self, acknowledged: Acknowledged) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.file.write_all_at(&encode(sequence, &acknowledged), (sequence % 2) * SLOT_BYTES)?;
        self.file.sync_data()?;
        self.sequence = sequence;
        self.written = acknowledged;
        Ok(())
    }
}

/// The newer of the slots that can be read.
fn read(mut file: &File) -> io::Result<(u64, Acknowledged)> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let newest = (0..2)
        .filter_map(|slot| bytes.get(slot * SLOT_BYTES as usize..).and_then(decode))
        .max_by_key(|(sequence, _)| *sequence);
    newest.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "neither slot of the witness can be read"))
}

fn encode(sequence: u64, acknowledged: &Acknowledged) -> Vec<u8> {
    let body = bincode::serde::encode_to_vec((sequence, acknowledged), bincode::config::standard())
        .expect("plain numbers can be encoded");
    let len = u32::try_from(body.len()).expect("a few dozen bytes");
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<(u64, Acknowledged)> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let len = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let body = rest.get(4..4usize.checked_add(len)?)?;
    let end = MAGIC.len() + 4 + len;
    let checksum = u32::from_le_bytes(bytes.get(end..end + 4)?.try_into().ok()?);
    if crc32c::crc32c(&bytes[..end]) != checksum {
        return None;
    }
    bincode::serde::decode_from_slice(body, bincode::config::standard()).ok().map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> Acknowledged {
        Acknowledged {
            last: Some(LogIdForm { term, node: 1, index }),
            vote: Some(VoteForm { term, node: 1, committed: true }),
        }
    }

    #[test]
    fn the_newest_write_is_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Witness::open(dir.path()).expect("no file is fine").is_none());
        let mut witness = Witness::create(dir.path()).expect("created");
        for index in 1..6 {
            witness.write(at(1, index)).expect("written");
            let read = Witness::open(dir.path()).expect("readable").expect("there");
            assert_eq!(read.acknowledged(), at(1, index));
        }
    }

    #[test]
    fn a_torn_write_leaves_the_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut witness = Witness::create(dir.path()).expect("created");
        witness.write(at(1, 1)).expect("written");
        witness.write(at(1, 2)).expect("written");
        let torn = (witness.sequence % 2) * SLOT_BYTES + 14;
        witness.file.write_all_at(&[0xff; 4], torn).expect("damaged");
        let read = Witness::open(dir.path()).expect("readable").expect("there");
        assert_eq!(read.acknowledged(), at(1, 1));
    }

    #[test]
    fn two_damaged_slots_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(Witness::create(dir.path()).expect("created"));
        std::fs::write(dir.path().join(FILE), vec![0; 8192]).expect("damaged");
        assert_eq!(Witness::open(dir.path()).expect_err("damaged").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_log_covers_what_it_holds_and_nothing_beyond() {
        assert!(at(2, 5).covers(&at(2, 5)));
        assert!(at(3, 5).covers(&at(2, 5)));
        assert!(!at(2, 4).covers(&at(2, 5)));
        assert!(!at(1, 9).covers(&at(2, 5)));
        assert!(!Acknowledged::default().covers(&at(1, 1)));
        let forgotten_vote = Acknowledged { vote: None, ..at(2, 5) };
        assert!(!forgotten_vote.covers(&at(2, 5)));
    }
}
