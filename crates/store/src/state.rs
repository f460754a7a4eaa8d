//! A state: one database with what is kept of it in memory.
//!
//! A store has one current state. A catch-up makes another one beside it and
//! puts it in its place; readers that are under way finish with the old one.

use annals_core::seeded::{self, Bug};
use annals_core::{Head, Position};
use parking_lot::RwLock;
use rocksdb::{Cache, WriteBatch};

use crate::database::Database;
use crate::directory::Home;
use crate::effects::Sealed;
use crate::error::{Error, OpenError};
use crate::heads::{CACHED_INDEXES_MAX, CACHED_STREAMS_MAX, HeadsCache, IndexHead, StreamHead};
use crate::keys::{self, Column, Key, Kind};
use crate::options::Options;
use crate::record::{Corruption, Header, Record};
use crate::remembered::Remembered;
use crate::standing::{Standing, Totals};
use crate::store::Mark;
use crate::tail::Ring;
use std::path::PathBuf;

/// What the layout of keys and values described in this crate is called. Part
/// of it: [`annals_core::limits::REMEMBERED_IDS`].
pub(crate) const FORMAT: u32 = 1;

/// Bytes read ahead when much is read in order.
pub(crate) const READAHEAD: usize = 1024 * 1024;

/// See the module. The order of the fields is the order in which they go: the
/// directory is removed when the database is closed.
pub(crate) struct State {
    pub(crate) database: Database,
    pub(crate) home: Home,
    pub(crate) streams: HeadsCache<StreamHead>,
    pub(crate) indexes: HeadsCache<IndexHead>,
    pub(crate) ring: RwLock<Ring>,
    standing: RwLock<Standing>,
}

impl State {
    /// Opens the state in this directory, or makes an empty one.
    pub(crate) fn open(directory: PathBuf, options: &Options, cache: &Cache) -> Result<State, OpenError> {
        let database = Database::open(&directory, options, cache)?;
        let unreadable = |source| OpenError::Unreadable { directory: directory.clone(), source };
        match read_format(&database).map_err(unreadable)? {
            Some(FORMAT) => {}
            Some(found) => return Err(OpenError::Format { directory, found, known: FORMAT }),
            None => write_format(&database).map_err(unreadable)?,
        }
        let standing = read_standing(&database).map_err(unreadable)?;
        Ok(State {
            database,
            home: Home::new(directory),
            streams: HeadsCache::new(CACHED_STREAMS_MAX),
            indexes: HeadsCache::new(CACHED_INDEXES_MAX),
            ring: RwLock::new(Ring::new(options.ring_bytes)),
            standing: RwLock::new(standing),
        })
    }

    /// What it comes to.
    pub(crate) fn totals(&self) -> Totals {
        self.standing.read().totals.clone()
    }

    pub(crate) fn mark(&self) -> Option<Mark> {
        self.standing.read().mark.clone()
    }

    pub(crate) fn tail(&self) -> Position {
        self.standing.read().totals.tail
    }

    /// What it would come to after a crash now.
    pub(crate) fn durable_standing(&self) -> Result<Standing, Error> {
        if seeded::is(Bug::S11) {
            return Ok(self.standing.read().clone());
        }
        let bytes = self.database.get_durable(&Key::Standing)?;
        decode_standing(bytes.as_deref())
    }

    /// Writes what entries do. `mark` is none only in a catch-up, which says
    /// at its end where it stands.
    ///
    /// First the disk, then the caches, then the standing that tells readers
    /// how far they may look.
    pub(crate) fn commit(&self, sealed: Sealed, mark: Option<Mark>) -> Result<(), Error> {
        let Sealed { mut batch, streams, indexes, records, totals } = sealed;
        #[cfg(feature = "seeded-bugs")]
        if seeded::is(Bug::S10) {
            self.database.write(std::mem::take(&mut batch))?;
            // A moment in which a flush can come.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if let Some(mark) = &mark {
            put_standing(&self.database, &mut batch, mark, &totals);
        }
        self.database.write(batch)?;
        self.streams.insert(streams.into_iter());
        self.indexes.insert(indexes.into_iter());
        self.ring.write().push(records);
        let mut standing = self.standing.write();
        standing.totals = totals;
        if mark.is_some() {
            standing.mark = mark;
        }
        Ok(())
    }

    /// The head of a stream, if it was ever touched. `key` is scratch.
    pub(crate) fn stream_head(&self, stream: &str, key: &mut Vec<u8>) -> Result<Option<StreamHead>, Error> {
        keys::head(Kind::Stream, stream.as_bytes(), key);
        if let Some(head) = self.streams.get(key) {
            return Ok(Some(head));
        }
        let Some(bytes) = self.database.get(Column::Heads, key)? else { return Ok(None) };
        StreamHead::decode(&bytes).map(Some).map_err(|source| corrupt_head(key, source))
    }

    /// The head of an index, if it has an entry. `key` is the head's.
    pub(crate) fn index_head(&self, key: &[u8]) -> Result<Option<IndexHead>, Error> {
        if let Some(head) = self.indexes.get(key) {
            return Ok(Some(head));
        }
        let Some(bytes) = self.database.get(Column::Heads, key)? else { return Ok(None) };
        IndexHead::decode(&bytes).map(Some).map_err(|source| corrupt_head(key, source))
    }

    /// The head of a stream; the default one where it was never touched.
    pub(crate) fn head(&self, stream: &str) -> Result<Head, Error> {
        let known = self.stream_head(stream, &mut Vec::with_capacity(1 + stream.len()))?;
        Ok(known.map_or_else(Head::default, |known| known.head))
    }

    /// The record at a position up to the tail.
    pub(crate) fn record(&self, at: Position) -> Result<Record, Error> {
        if let Some(record) = self.ring.read().get(at) {
            return Ok(record.clone());
        }
        let bytes = self.database.get(Column::Records, &keys::number(at.get()))?;
        record_at(at, bytes.as_deref())
    }

    /// The idempotency window, read from the last records.
    pub(crate) fn read_remembered(&self) -> Result<Remembered, Error> {
        let tail = self.tail();
        let begin = Remembered::begins_after(tail);
        let mut remembered = Remembered::after(begin);
        let from = keys::number(begin.next().get());
        let to = keys::number(tail.next().get());
        let mut records = self.database.scan(Column::Records, &from, &to, READAHEAD);
        records.seek_to_first();
        let mut at = begin;
        while at < tail {
            at = at.next();
            let corrupt = |source| Error::Corrupt { key: Key::Record(at), source };
            let Some(bytes) = records.value() else {
                records.status().map_err(crate::database::reading)?;
                return Err(corrupt(Corruption::Missing));
            };
            let header = Header::read(bytes).map_err(corrupt)?;
            if header.position != at {
                return Err(corrupt(Corruption::Misplaced { found: header.position }));
            }
            remembered.push(at, header.stream, header.id);
            records.next();
        }
        Ok(remembered)
    }
}

/// The record in the bytes that were found at a position.
pub(crate) fn record_at(at: Position, bytes: Option<&[u8]>) -> Result<Record, Error> {
    let corrupt = |source| Error::Corrupt { key: Key::Record(at), source };
    let record = Record::from_slice(bytes.ok_or(Corruption::Missing).map_err(corrupt)?).map_err(corrupt)?;
    if record.position() != at {
        return Err(corrupt(Corruption::Misplaced { found: record.position() }));
    }
    Ok(record)
}

pub(crate) fn corrupt_head(key: &[u8], source: Corruption) -> Error {
    let key = Key::decode(Column::Heads, key).expect("made by this crate");
    Error::Corrupt { key, source }
}

fn put_standing(database: &Database, batch: &mut WriteBatch, mark: &Mark, totals: &Totals) {
    let mut value = Vec::with_capacity(64 + mark.opaque.len());
    Standing::encode(mark, totals, &mut value);
    batch.put_cf(database.column(Column::Meta), Key::Standing.encode(), value);
}

pub(crate) fn read_standing(database: &Database) -> Result<Standing, Error> {
    let bytes = database.get(Column::Meta, &Key::Standing.encode())?;
    decode_standing(bytes.as_deref())
}

pub(crate) fn decode_standing(bytes: Option<&[u8]>) -> Result<Standing, Error> {
    match bytes {
        None => Ok(Standing::new()),
        Some(bytes) => Standing::decode(bytes).map_err(|source| Error::Corrupt { key: Key::Standing, source }),
    }
}

pub(crate) fn read_format(database: &Database) -> Result<Option<u32>, Error> {
    let Some(bytes) = database.get(Column::Meta, &Key::Format.encode())? else { return Ok(None) };
    let bytes: [u8; 4] = (*bytes).try_into().map_err(|_| Error::Corrupt {
        key: Key::Format,
        source: Corruption::Length { expected: 4, found: bytes.len() },
    })?;
    Ok(Some(u32::from_le_bytes(bytes)))
}

fn write_format(database: &Database) -> Result<(), Error> {
    let mut batch = WriteBatch::default();
    batch.put_cf(database.columns().meta, Key::Format.encode(), FORMAT.to_le_bytes());
    database.write(batch)?;
    database.flush()
}
