//! Reclaiming, as a node sees it: what is gone, and how its space comes back.
//!
//! What is gone is found by the node that leads ([`State::find_gone`]) and decided by
//! all of them, in `apply`, which writes the stub of an event over its record. The
//! record itself is then hidden by the stub, and lies in a file as before. Its space
//! comes back when that file is written anew without it. RocksDB would do so only when
//! enough has changed around it; so each node has the part of the log that a scavenge
//! has passed compacted, a stretch at a time ([`crate::Store::give_back`]). Up to where
//! is remembered, so that a node that was away does it later.
//!
//! A compaction may flush what is in memory if that lies in its range, and nothing may
//! be flushed before it has settled. So the store is flushed first; what is written
//! meanwhile lies after the range. The exception is a second scavenge that begins in
//! between: what is flushed then are records ahead of their heads, as after a crash,
//! and the entries that are applied again write the same ones.

use std::collections::HashMap;

use annals_core::scavenge::{EVENTS_MAX, Facts, Reclaim, is_gone};
use annals_core::{Head, Position, Scavenge, StreamName};
use bytes::{Buf, BufMut, Bytes};
use uuid::Uuid;

use crate::database::reading;
use crate::error::Error;
use crate::keys::{self, Column, Key};
use crate::record::{Corruption, Header};
use crate::state::State;

/// How far to look at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookLimit {
    /// Records.
    pub records: usize,
    /// Bytes of records.
    pub bytes: usize,
}

/// What was found by looking at a stretch of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// What to propose.
    pub step: Reclaim,
    /// Bytes of the records that were looked at.
    pub bytes: usize,
}

/// A stretch of the log whose space was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenBack {
    /// From here, inclusive.
    pub from: Position,
    /// Up to here, inclusive.
    pub through: Position,
    /// Bytes of the files of records before and after.
    pub before: u64,
    /// See `before`.
    pub after: u64,
    /// Whether there is nothing more to be done now.
    pub is_last: bool,
}

/// Bytes of files that are compacted at once: several files, so that little is written
/// twice at the ends, and a second or two of one processor.
const STRETCH_BYTES: u64 = 128 * 1024 * 1024;

/// Bytes read ahead while looking for what is gone. Steps are small where much is.
const LOOK_AHEAD: usize = 256 * 1024;

/// Up to where space was given back, and of which scavenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    scavenge: Uuid,
    through: Position,
}

impl Mark {
    fn encode(self) -> Vec<u8> {
        let mut out = self.scavenge.as_bytes().to_vec();
        out.put_u64_le(self.through.get());
        out
    }

    fn decode(mut bytes: &[u8]) -> Result<Mark, Error> {
        if bytes.len() != 24 {
            let source = Corruption::Length { expected: 24, found: bytes.len() };
            return Err(Error::corrupt(Key::GivenBack, source));
        }
        let mut id = [0; 16];
        bytes.copy_to_slice(&mut id);
        Ok(Mark { scavenge: Uuid::from_bytes(id), through: Position::new(bytes.get_u64_le()) })
    }
}

impl State {
    /// See [`crate::Store::find_gone`].
    pub(crate) fn find_gone(&self, scavenge: &Scavenge, limit: LookLimit) -> Result<Gone, Error> {
        let Scavenge { id, cursor, point, started, .. } = *scavenge;
        let from = keys::number(cursor.next().get());
        let to = keys::number(point.next().get());
        let mut records = self.database.scan(Column::Records, &from, &to, limit.bytes.clamp(1, LOOK_AHEAD));
        records.seek_to_first();
        let mut heads: HashMap<Bytes, (StreamName, Head, Option<Head>)> = HashMap::new();
        let mut step = Reclaim { scavenge: id, from: cursor, through: cursor, positions: Vec::new() };
        let (mut looked_at, mut bytes) = (0, 0);
        while step.through < point && looked_at < limit.records && bytes < limit.bytes {
            let at = step.through.next();
            let corrupt = |source| Error::corrupt(Key::Record(at), source);
            let Some(value) = records.value() else {
                records.status().map_err(reading)?;
                return Err(corrupt(Corruption::Missing));
            };
            let header = Header::read(value).map_err(corrupt)?;
            if header.position != at {
                return Err(corrupt(Corruption::Misplaced { found: header.position }));
            }
            looked_at += 1;
            bytes += value.len();
            if !header.is_reclaimed {
                if !heads.contains_key(header.stream) {
                    let name = Bytes::copy_from_slice(header.stream);
                    let found = self.heads_of(&name).map_err(|error| error.unwrap_or_else(|| corrupt(INVALID_NAME)))?;
                    heads.insert(name, found);
                }
                let (stream, head, described) = &heads[header.stream];
                let facts = Facts {
                    stream: stream.clone(),
                    revision: header.revision,
                    created: header.created,
                    bytes: header.content_bytes,
                };
                if is_gone(&facts, head, described.as_ref(), started) {
                    if step.positions.len() == EVENTS_MAX {
                        break;
                    }
                    step.positions.push(at);
                }
            }
            step.through = at;
            records.next();
        }
        Ok(Gone { step, bytes })
    }

    /// A stream's name, its head, and that of the stream that it describes. The error
    /// is none where the bytes are no name.
    fn heads_of(&self, name: &Bytes) -> Result<(StreamName, Head, Option<Head>), Option<Error>> {
        let stream = StreamName::from_utf8(name.clone()).map_err(|_| None)?;
        let head = self.head(stream.as_str())?;
        let described = stream.described().map(|described| self.head(described.as_str())).transpose()?;
        Ok((stream, head, described))
    }

    /// The stretch whose space is to be given back next: from, through, and whether it
    /// is the last one. None where nothing is to be done.
    pub(crate) fn next_stretch(&self) -> Result<Option<(Position, Position, bool)>, Error> {
        let Some(scavenge) = self.totals().scavenge.filter(|scavenge| scavenge.cursor > Position::START) else {
            return Ok(None);
        };
        let done = self.given_back(&scavenge)?;
        let (from, through) = (done.next(), scavenge.cursor);
        // Nothing that was reclaimed: nothing to give back.
        if from > through || scavenge.events == 0 {
            return Ok(None);
        }
        let bytes =
            self.database.size_of(Column::Records, &keys::number(from.get()), &keys::number(through.next().get()));
        let stretches = bytes.div_ceil(STRETCH_BYTES).max(1);
        if stretches == 1 {
            // While it goes on there is more to come.
            let worth_it = !scavenge.is_running() || bytes >= STRETCH_BYTES / 2;
            return Ok(worth_it.then_some((from, through, !scavenge.is_running())));
        }
        let positions = (through.get() - done.get()).div_ceil(stretches);
        Ok(Some((from, done.plus(positions).min(through), false)))
    }

    /// Up to where the space of what this scavenge reclaimed is given back.
    fn given_back(&self, scavenge: &Scavenge) -> Result<Position, Error> {
        let mark = self.database.get(Column::Meta, &Key::GivenBack.encode())?;
        let mark = mark.map(|bytes| Mark::decode(&bytes)).transpose()?;
        Ok(mark.filter(|mark| mark.scavenge == scavenge.id).map_or(Position::START, |mark| mark.through))
    }

    /// How much of the log the last scavenge has looked at whose space is still to be
    /// given back.
    pub(crate) fn to_give_back(&self) -> Result<u64, Error> {
        match self.totals().scavenge {
            // Nothing that was reclaimed: nothing to give back.
            Some(scavenge) if scavenge.events > 0 => {
                Ok(scavenge.cursor.get().saturating_sub(self.given_back(&scavenge)?.get()))
            }
            Some(_) | None => Ok(0),
        }
    }

    /// Has a stretch compacted, and remembers that. What it holds must have been
    /// flushed.
    pub(crate) fn compact_stretch(&self, from: Position, through: Position) -> Result<(), Error> {
        self.database.compact(Column::Records, &keys::number(from.get()), &keys::number(through.get()));
        let Some(scavenge) = self.totals().scavenge else { return Ok(()) };
        self.database.put(&Key::GivenBack, &Mark { scavenge: scavenge.id, through }.encode())
    }

    /// Bytes of the files of records.
    pub(crate) fn record_file_bytes(&self) -> u64 {
        self.database.property(Column::Records, rocksdb::properties::TOTAL_SST_FILES_SIZE)
    }
}

const INVALID_NAME: Corruption = Corruption::Invalid("its stream's name is no stream name");
