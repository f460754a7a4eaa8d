//! Reading a log that was left by a process that is gone.
//!
//! Frames are read in their order, each file from its beginning, and what they
//! say is carried out. Numbers leave no gap: a frame that is missing, damaged or
//! in the wrong place is found, and only the last one may be incomplete.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use annals_core::seeded::{self, Bug};
use bytes::Bytes;

use super::frame::{self, End, Header};
use super::record::{self, Record};
use super::{Index, Name, Place, Values};
use crate::codec;
use crate::types::LogId;

/// A log as it was found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(super) values: Values,
    pub(super) index: Index,
    /// The files, in order.
    pub(super) files: Vec<(Name, PathBuf)>,
    /// Files that are of no use any more: behind a gap nobody needs what is
    /// before it, and a file that was begun holds nothing.
    pub(super) leftovers: Vec<PathBuf>,
    /// Where the next frame belongs in the last of the files.
    pub(super) offset: u64,
    /// The number of the next frame.
    pub(super) next_frame: u64,
    /// What a power cut left of the last write, if it left something.
    pub(crate) torn: Option<Torn>,
}

/// The incomplete end of a log: it was never acknowledged.
#[derive(Debug)]
pub(crate) struct Torn {
    /// The file.
    pub(crate) file: PathBuf,
    /// Where it begins.
    pub(crate) offset: u64,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("cannot read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
}

/// Reads all frames in a directory. Nothing is written. The memory of one file is
/// needed.
pub(crate) fn scan(directory: &Path) -> Result<Scan, ScanError> {
    let damaged = |path: &Path, why: String| ScanError::Damaged { path: path.to_owned(), why };
    let mut scan = Scan::default();
    let mut files = files(directory)?;
    // What is kept has no gap; before one there are files that were to be removed.
    let kept = (1..files.len()).rev().find(|at| files[at - 1].0.number + 1 != files[*at].0.number).unwrap_or(0);
    scan.leftovers.extend(files.drain(..kept).map(|(_, path)| path));
    let mut next = Next::default();
    let mut files = files.into_iter().peekable();
    while let Some((name, path)) = files.next() {
        let is_newest = files.peek().is_none();
        let content = fs::read(&path).map_err(|source| ScanError::Io { path: path.clone(), source })?;
        let content = Bytes::from(content);
        let mut offset = 0;
        while let Some(header) = Header::read(&content[offset..], &name.salt)
            && next.frame.is_none_or(|number| number == header.number)
            && header.has_intact_body(&content[offset..])
        {
            let body = header.body();
            let body = body.start + offset..body.end + offset;
            scan.carry_out(content.slice(body.clone()), body.start, &name, &mut next)
                .map_err(|why| damaged(&path, format!("frame {}: {why}", header.number)))?;
            next.frame = Some(header.number + 1);
            offset = (offset + header.len()).min(content.len());
        }
        let number = next.frame.unwrap_or_else(|| Header::read(&content, &name.salt).map_or(0, |header| header.number));
        match frame::judge(&content, offset, &name.salt, number) {
            // S19: what is behind a damaged write is forgotten.
            End::Damaged(_) if seeded::is(Bug::S19) => scan.leftovers.extend(files.by_ref().map(|(_, path)| path)),
            End::Damaged(why) => {
                return Err(damaged(&path, format!("frame {number} at byte {offset} is damaged: {why}")));
            }
            End::Open { torn } => {
                if torn && is_newest {
                    scan.torn = Some(Torn { file: path.clone(), offset: offset as u64 });
                }
            }
        }
        if offset == 0 && files.peek().is_none() {
            scan.leftovers.push(path);
        } else if offset == 0 {
            return Err(damaged(&path, format!("frame {number} is not there")));
        } else {
            scan.offset = offset as u64;
            scan.files.push((name, path));
        }
    }
    scan.next_frame = next.frame.unwrap_or(0);
    if let Some(purged) = scan.values.purged {
        scan.index.purge(purged.index());
    }
    let due = scan.values.purged.map_or(0, |purged| purged.index().saturating_add(1));
    if let Some(first) = scan.index.first()
        && first != due
    {
        let why = format!("its entries begin with {first}, but only those before {due} were purged");
        return Err(damaged(directory, why));
    }
    Ok(scan)
}

/// What has to come next, where it is known.
#[derive(Default)]
pub(super) struct Next {
    frame: Option<u64>,
    entry: Option<u64>,
}

/// The index after this one. There is none after the last, which no log reaches.
fn following(index: u64) -> Result<u64, String> {
    index.checked_add(1).ok_or_else(|| format!("there is no entry {index}"))
}

impl Scan {
    pub(super) fn carry_out(
        &mut self,
        mut body: Bytes,
        start: usize,
        name: &Name,
        next: &mut Next,
    ) -> Result<(), String> {
        let len = body.len();
        while !body.is_empty() {
            let record = record::take(&mut body).map_err(|error| error.to_string())?;
            match &record {
                Record::Entry(encoded) => {
                    let log_id = codec::entry_log_id(encoded).map_err(|error| error.to_string())?;
                    let index = log_id.index();
                    let after = following(index)?;
                    if let Some(due) = next.entry.filter(|due| *due != index) {
                        return Err(format!("entry {index} is where {due} belongs"));
                    }
                    let end = start + len - body.len();
                    self.index.push(index, Place::new(name.number, end - encoded.len(), encoded.len()));
                    self.values.last = Some(log_id);
                    next.entry = Some(after);
                }
                other => {
                    self.index.follow(other);
                    self.values.follow(other);
                    match other {
                        Record::Truncated(from, _) => next.entry = Some(*from),
                        Record::Emptied(upto) | Record::End(upto) => next.entry = Some(following(upto.index())?),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// The single values.
    pub(crate) fn values(&self) -> &Values {
        &self.values
    }

    /// The index of the first entry.
    pub(crate) fn first(&self) -> Option<u64> {
        self.index.first()
    }

    /// The last entry, or the last one that was purged.
    pub(crate) fn last(&self) -> Option<LogId> {
        if self.index.first().is_some() { self.values.last } else { self.values.purged }
    }
}

fn files(directory: &Path) -> Result<Vec<(Name, PathBuf)>, ScanError> {
    let failed = |source| ScanError::Io { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for item in fs::read_dir(directory).map_err(failed)? {
        let item = item.map_err(failed)?;
        if let Some(name) = item.file_name().to_str().and_then(Name::parse) {
            files.push((name, item.path()));
        }
    }
    files.sort_by_key(|(name, _)| name.number);
    Ok(files)
}
