//! A state: one database with what is kept of it in memory.
//!
//! What an entry does goes two ways: records to the database, heads and runs to
//! the [`Delta`]. They come together when the delta *settles*, which is always
//! the case before a flush. So a file never holds part of an entry, and what is
//! in memory alone is applied again after a crash, from the entry after the
//! standing that was flushed with the rest.
//!
//! A store has one current state. A catch-up makes another one beside it and
//! puts it in its place; readers that are under way finish with the old one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use annals_core::seeded::{self, Bug};
use annals_core::{Head, Lease, Position, Scavenge, StreamName};
use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;
use rocksdb::{Cache, WriteBatch, properties};

use crate::database::{Database, Reach};
use crate::delta::Delta;
use crate::directory::Home;
use crate::effects::Sealed;
use crate::error::{Error, OpenError};
use crate::heads::{CACHED_INDEXES_MAX, CACHED_STREAMS_MAX, HeadsCache, IndexHead, StreamHead};
use crate::interest::Interests;
use crate::keys::{self, Column, Key, Kind, ListId};
use crate::known_runs::KnownRuns;
use crate::options::Options;
use crate::read::Direction;
use crate::record::{Corruption, Header, Record};
use crate::remembered::Remembered;
use crate::runs::{self, Entries, Runs};
use crate::standing::{Standing, Totals};
use crate::store::Mark;
use crate::tail::Ring;

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
    pub(crate) runs: KnownRuns,
    pub(crate) ring: RwLock<Ring>,
    newest: RwLock<Newest>,
    interests: Arc<Interests>,
    /// Bytes that are written before they are flushed.
    flush_at: usize,
}

/// What has changed with the last entries.
struct Newest {
    standing: Standing,
    /// Whether the mark of the standing is that of its totals: not in the middle
    /// of a catch-up.
    marked: bool,
    delta: Delta,
    /// Whether something was committed since the delta settled.
    changed: bool,
    /// How often all of the delta has settled.
    settled: u64,
    /// Bytes that were written since the last flush began.
    unflushed: usize,
}

/// What is to be written of what has gathered in memory.
#[derive(PartialEq, Eq)]
enum Due {
    Nothing,
    Runs,
    All,
    /// All of it, and to the disk.
    Flush,
}

/// A moment of the log at which something was looked up.
pub(crate) struct Moment {
    pub(crate) totals: Totals,
    settled: u64,
}

impl State {
    /// Opens the state in this directory, or makes an empty one.
    pub(crate) fn open(
        directory: PathBuf,
        options: &Options,
        cache: &Cache,
        interests: &Arc<Interests>,
    ) -> Result<State, OpenError> {
        let database = Database::open(&directory, cache)?;
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
            runs: KnownRuns::default(),
            ring: RwLock::new(Ring::new(options.ring_bytes)),
            newest: RwLock::new(Newest {
                standing,
                marked: true,
                delta: Delta::default(),
                changed: false,
                settled: 0,
                unflushed: 0,
            }),
            interests: Arc::clone(interests),
            flush_at: options.memtable_bytes,
        })
    }

    /// What it comes to.
    pub(crate) fn totals(&self) -> Totals {
        self.newest.read().standing.totals.clone()
    }

    pub(crate) fn mark(&self) -> Option<Mark> {
        self.newest.read().standing.mark.clone()
    }

    pub(crate) fn tail(&self) -> Position {
        self.newest.read().standing.totals.tail
    }

    /// What it would come to after a crash now.
    pub(crate) fn durable_standing(&self) -> Result<Standing, Error> {
        if seeded::is(Bug::S11) {
            return Ok(self.newest.read().standing.clone());
        }
        loop {
            let read = |key| self.database.get_durable(key);
            let standing = decode_standing(read(&Key::Standing)?.as_deref())?;
            let scavenge = decode_scavenge(read(&Key::Scavenge)?.as_deref())?;
            let lease = decode_lease(read(&Key::Lease)?.as_deref())?;
            // All of one flush: none came between them.
            if decode_standing(read(&Key::Standing)?.as_deref())?.mark == standing.mark {
                return Ok(standing.with(scavenge, lease));
            }
        }
    }

    /// Takes in what entries do. One caller at a time. `mark` is none only in a
    /// catch-up, which says at its end where it stands.
    ///
    /// The records first, then all that leads to them and the standing that
    /// tells readers how far they may look, at once.
    pub(crate) fn commit(&self, sealed: Sealed, mark: Option<Mark>) -> Result<(), Error> {
        self.take_in(sealed, mark, Reach::Disk)?;
        match self.due() {
            Due::Flush => self.begin_flush(),
            Due::All => self.settle(),
            Due::Runs => self.settle_runs(),
            Due::Nothing => Ok(()),
        }
    }

    /// The same within memory, where nothing is due: what becomes due is left to the next
    /// [`State::commit`]. Nothing has changed where it is out of reach.
    pub(crate) fn commit_at_hand(&self, sealed: Sealed, mark: Mark) -> Result<(), Error> {
        self.take_in(sealed, Some(mark), Reach::Memory)
    }

    /// Whether the next commit may have to write what has gathered.
    pub(crate) fn is_something_due(&self) -> bool {
        self.due() != Due::Nothing
    }

    fn take_in(&self, sealed: Sealed, mark: Option<Mark>, reach: Reach) -> Result<(), Error> {
        let Sealed { batch, lists, records, stubs, totals } = sealed;
        let bytes = batch.size_in_bytes();
        if !batch.is_empty() {
            self.database.write_within(batch, reach)?;
        }
        {
            let mut ring = self.ring.write();
            ring.push(records);
            ring.replace(stubs);
        }
        let mut newest = self.newest.write();
        lists.add_to(&mut newest.delta, &self.interests);
        newest.standing.totals = totals;
        newest.marked = mark.is_some();
        if mark.is_some() {
            newest.standing.mark = mark;
        }
        newest.changed = true;
        newest.unflushed += bytes;
        Ok(())
    }

    fn due(&self) -> Due {
        let newest = self.newest.read();
        if newest.unflushed >= self.flush_at {
            Due::Flush
        } else if newest.delta.has_many_heads() {
            Due::All
        } else if newest.delta.has_many_runs() {
            Due::Runs
        } else {
            Due::Nothing
        }
    }

    /// Writes the delta to the database, with the standing. Nothing may be
    /// committed meanwhile.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        let columns = self.database.columns();
        let mut batch = WriteBatch::default();
        {
            let newest = self.newest.read();
            if !newest.changed {
                return Ok(());
            }
            newest.delta.put_runs(&columns, &mut batch);
            for (key, head) in newest.delta.encoded_heads() {
                batch.put_cf(columns.heads, key, head);
            }
            if let Some(mark) = newest.standing.mark.as_ref().filter(|_| newest.marked) {
                let mut value = Vec::with_capacity(64 + mark.opaque.len());
                Standing::encode(mark, &newest.standing.totals, &mut value);
                #[cfg(feature = "seeded-bugs")]
                self.flush_half(&value)?;
                batch.put_cf(columns.meta, Key::Standing.encode(), value);
                if let Some(scavenge) = newest.standing.totals.scavenge {
                    let mut value = Vec::new();
                    scavenge.encode(&mut value);
                    batch.put_cf(columns.meta, Key::Scavenge.encode(), value);
                }
                if let Some(lease) = newest.standing.totals.lease {
                    let mut value = Vec::with_capacity(Lease::ENCODED_LEN);
                    lease.encode(&mut value);
                    batch.put_cf(columns.meta, Key::Lease.encode(), value);
                }
            }
        }
        let bytes = batch.size_in_bytes();
        self.database.write(batch)?;
        let mut newest = self.newest.write();
        newest.changed = false;
        newest.unflushed += bytes;
        newest.settled += 1;
        // Both caches have what was here before it is here no more.
        self.streams.insert(newest.delta.streams.drain());
        self.indexes.insert(newest.delta.indexes.drain());
        newest.delta.clear_runs();
        Ok(())
    }

    /// Writes the runs to the database, where they wait for the heads that lead
    /// to them. Nothing may be committed meanwhile.
    fn settle_runs(&self) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        self.newest.read().delta.put_runs(&self.database.columns(), &mut batch);
        let bytes = batch.size_in_bytes();
        self.database.write(batch)?;
        let mut newest = self.newest.write();
        newest.unflushed += bytes;
        newest.delta.clear_runs();
        Ok(())
    }

    /// S10: the standing is flushed with the records, what leads to them is not.
    #[cfg(feature = "seeded-bugs")]
    fn flush_half(&self, standing: &[u8]) -> Result<(), Error> {
        if !seeded::is(Bug::S10) {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.put_cf(self.database.columns().meta, Key::Standing.encode(), standing);
        self.database.write(batch)?;
        self.database.begin_flush()
    }

    /// Begins to make all that was committed durable. Nothing may be committed
    /// meanwhile.
    pub(crate) fn begin_flush(&self) -> Result<(), Error> {
        self.settle()?;
        self.database.begin_flush()?;
        self.newest.write().unflushed = 0;
        Ok(())
    }

    /// Makes all that was committed durable. Nothing may be committed meanwhile.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        self.settle()?;
        self.database.flush()?;
        self.newest.write().unflushed = 0;
        Ok(())
    }

    /// Waits until what was committed up to this mark is durable, for which a
    /// flush must have begun. False where RocksDB has met an error, which may
    /// have ended that flush.
    pub(crate) fn wait_durable(&self, mark: &Mark) -> Result<bool, Error> {
        const LOOK_EVERY: Duration = Duration::from_millis(1);
        while self.durable_standing()?.mark.is_none_or(|durable| durable.index < mark.index) {
            if self.database.property(Column::Meta, properties::BACKGROUND_ERRORS) > 0 {
                return Ok(false);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(true)
    }

    /// The head of a stream, if it was ever touched. `key` is scratch.
    pub(crate) fn stream_head(
        &self,
        stream: &str,
        key: &mut Vec<u8>,
        reach: Reach,
    ) -> Result<Option<StreamHead>, Error> {
        keys::head(Kind::Stream, stream.as_bytes(), key);
        if let Some(head) = self.newest.read().delta.streams.get(&key[..]) {
            return Ok(Some(head.clone()));
        }
        self.settled_stream(key, reach)
    }

    /// What `look` finds in the delta, and the moment at which it did.
    pub(crate) fn moment<T>(&self, look: impl FnOnce(&Delta) -> T) -> (Moment, T) {
        let newest = self.newest.read();
        let moment = Moment { totals: newest.standing.totals.clone(), settled: newest.settled };
        (moment, look(&newest.delta))
    }

    /// Whether what has settled may no longer be what had settled then.
    pub(crate) fn has_settled_since(&self, moment: &Moment) -> bool {
        self.newest.read().settled != moment.settled
    }

    /// Where the entry of a list with this number is. The caller knows that
    /// there is one.
    pub(crate) fn position_of(&self, list: ListId, number: u64, reach: Reach) -> Result<Position, Error> {
        let newest = self.newest.read().delta.run(list, number);
        match newest.and_then(|run| run.position_of(number)) {
            Some(position) => Ok(position),
            None => runs::position_of(&self.database, list, number, reach),
        }
    }

    /// The entries of a list from one number to another, both inclusive. The
    /// caller knows that there are these.
    pub(crate) fn entries(
        &self,
        list: ListId,
        from: u64,
        to: u64,
        direction: Direction,
        reach: Reach,
    ) -> Result<Entries<'_>, Error> {
        let (low, high) = (from.min(to), from.max(to));
        let newest = self.newest.read().delta.runs_between(list, low, high);
        let settled = match newest.first() {
            Some(first) => first.first().checked_sub(1).filter(|last| *last >= low),
            None => Some(high),
        };
        let known = match settled {
            Some(last) => self.runs.up_to(last, &self.database, list, reach)?,
            None => None,
        };
        Ok(Entries::new(&self.database, list, Runs { newest, known }, from, to, direction, reach))
    }

    /// The head of a stream, if it is in memory.
    pub(crate) fn head_at_hand(&self, stream: &StreamName) -> Option<StreamHead> {
        let mut key = Vec::with_capacity(1 + stream.as_bytes().len());
        keys::head(Kind::Stream, stream.as_bytes(), &mut key);
        let newest = self.newest.read().delta.streams.get(&key[..]).cloned();
        newest.or_else(|| self.streams.get(&key))
    }

    pub(crate) fn settled_stream(&self, key: &[u8], reach: Reach) -> Result<Option<StreamHead>, Error> {
        if let Some(head) = self.streams.get(key) {
            return Ok(Some(head));
        }
        let Some(bytes) = self.database.get_within(Column::Heads, key, reach)? else { return Ok(None) };
        StreamHead::decode(&bytes).map(Some).map_err(|source| corrupt_head(key, source))
    }

    /// The head of an index, if it has an entry. `key` is the head's.
    pub(crate) fn index_head(&self, key: &[u8], reach: Reach) -> Result<Option<IndexHead>, Error> {
        if let Some(head) = self.newest.read().delta.indexes.get(key) {
            return Ok(Some(*head));
        }
        self.settled_index(key, reach)
    }

    pub(crate) fn settled_index(&self, key: &[u8], reach: Reach) -> Result<Option<IndexHead>, Error> {
        if let Some(head) = self.indexes.get(key) {
            return Ok(Some(head));
        }
        let Some(bytes) = self.database.get_within(Column::Heads, key, reach)? else { return Ok(None) };
        IndexHead::decode(&bytes).map(Some).map_err(|source| corrupt_head(key, source))
    }

    /// The head of a stream; the default one where it was never touched.
    pub(crate) fn head(&self, stream: &str) -> Result<Head, Error> {
        let known = self.stream_head(stream, &mut Vec::with_capacity(1 + stream.len()), Reach::Disk)?;
        Ok(known.map_or_else(Head::default, |known| known.head))
    }

    /// The record at a position up to the tail.
    pub(crate) fn record(&self, at: Position, reach: Reach) -> Result<Record, Error> {
        if let Some(record) = self.ring.read().get(at) {
            return Ok(record.clone());
        }
        let bytes = self.database.get_within(Column::Records, &keys::number(at.get()), reach)?;
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
            let corrupt = |source| Error::corrupt(Key::Record(at), source);
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

impl Drop for State {
    /// What RocksDB flushes when it is closed is that after a whole entry.
    fn drop(&mut self) {
        if let Err(error) = self.settle() {
            tracing::warn!(%error, "what was applied last is not kept, and is applied again at the next start");
        }
    }
}

/// The record in the bytes that were found at a position.
pub(crate) fn record_at(at: Position, bytes: Option<&[u8]>) -> Result<Record, Error> {
    checked(at, bytes, Record::from_slice)
}

/// The same for one of many, which share their memory.
pub(crate) fn record_among(at: Position, bytes: Option<&[u8]>, memory: &mut BytesMut) -> Result<Record, Error> {
    checked(at, bytes, |bytes| Record::from_slice_into(bytes, memory))
}

fn checked(
    at: Position,
    bytes: Option<&[u8]>,
    read: impl FnOnce(&[u8]) -> Result<Record, Corruption>,
) -> Result<Record, Error> {
    let corrupt = |source| Error::corrupt(Key::Record(at), source);
    let record = read(bytes.ok_or(Corruption::Missing).map_err(corrupt)?).map_err(corrupt)?;
    if record.position() != at {
        return Err(corrupt(Corruption::Misplaced { found: record.position() }));
    }
    Ok(record)
}

pub(crate) fn corrupt_head(key: &[u8], source: Corruption) -> Error {
    let key = Key::decode(Column::Heads, key).expect("made by this crate");
    Error::corrupt(key, source)
}

pub(crate) fn read_standing(database: &Database) -> Result<Standing, Error> {
    let bytes = database.get(Column::Meta, &Key::Standing.encode())?;
    let scavenge = database.get(Column::Meta, &Key::Scavenge.encode())?;
    let lease = database.get(Column::Meta, &Key::Lease.encode())?;
    Ok(decode_standing(bytes.as_deref())?.with(decode_scavenge(scavenge.as_deref())?, decode_lease(lease.as_deref())?))
}

fn decode_lease(bytes: Option<&[u8]>) -> Result<Option<Lease>, Error> {
    let corrupt = |_| Error::Corrupt { key: Key::Lease, source: Corruption::Invalid("it cannot be read") };
    bytes.map(|bytes| Lease::decode(Bytes::copy_from_slice(bytes))).transpose().map_err(corrupt)
}

fn decode_scavenge(bytes: Option<&[u8]>) -> Result<Option<Scavenge>, Error> {
    let corrupt = |_| Error::corrupt(Key::Scavenge, Corruption::Invalid("it cannot be read"));
    bytes.map(|bytes| Scavenge::decode(Bytes::copy_from_slice(bytes))).transpose().map_err(corrupt)
}

pub(crate) fn decode_standing(bytes: Option<&[u8]>) -> Result<Standing, Error> {
    match bytes {
        None => Ok(Standing::new()),
        Some(bytes) => Standing::decode(bytes).map_err(|source| Error::corrupt(Key::Standing, source)),
    }
}

pub(crate) fn read_format(database: &Database) -> Result<Option<u32>, Error> {
    let Some(bytes) = database.get(Column::Meta, &Key::Format.encode())? else { return Ok(None) };
    let bytes: [u8; 4] = (*bytes)
        .try_into()
        .map_err(|_| Error::corrupt(Key::Format, Corruption::Length { expected: 4, found: bytes.len() }))?;
    Ok(Some(u32::from_le_bytes(bytes)))
}

fn write_format(database: &Database) -> Result<(), Error> {
    let mut batch = WriteBatch::default();
    batch.put_cf(database.columns().meta, Key::Format.encode(), FORMAT.to_le_bytes());
    database.write(batch)?;
    database.flush()
}
