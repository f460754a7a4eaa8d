//! The Raft log and vote, on disk and in memory.
//!
//! A RocksDB database of its own in `<data>/log`, with a write-ahead log and
//! one sync per group of writes (see [`crate::flusher`]). The column family
//! `log` maps an index, big-endian, to an encoded entry; `meta` holds a handful
//! of single values.
//!
//! Invariants
//! - Entries are contiguous from the one after `purged` to `last`.
//! - An entry can be read as soon as [`RaftLogStorage::append`] returns, from
//!   [`Tail`]; it is durable when its callback runs.
//! - Memory is changed first, the flusher's queue keeps the same order, so what
//!   memory says and what the disk will say never differ by more than what is
//!   queued.
//!
//! RocksDB's default recovery mode silently drops acknowledged records after a
//! damaged one. It is not used here: a log that was damaged in its middle does
//! not open, and a torn tail, which every power cut may leave, is compared with
//! the witness.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use annals_core::seeded::{self, Bug};
use bytes::Bytes;
use futures::stream::{self, Stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::{Mutex, RwLock};
use rocksdb::{
    ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, Options, ReadOptions,
};
use tokio::sync::{mpsc, oneshot};

use crate::codec::{self, LogIdForm, VoteForm};
use crate::entries::{self, Tail};
use crate::error::OpenError;
use crate::flusher::{self, Request};
use crate::observer::Observer;
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::witness::{Acknowledged, Witness};

pub(crate) const COLUMN_LOG: &str = "log";
pub(crate) const COLUMN_META: &str = "meta";

/// The keys of the column family `meta`.
pub(crate) mod meta {
    pub(crate) const FORMAT: &[u8] = b"format";
    pub(crate) const VOTE: &[u8] = b"vote";
    pub(crate) const PURGED: &[u8] = b"purged";
    pub(crate) const COMMITTED: &[u8] = b"committed";
    pub(crate) const SNAPSHOT: &[u8] = b"snapshot";
}

pub(crate) const FORMAT: u8 = 1;

/// Bytes of entries kept in memory: all that a proposer has in flight, twice.
/// What a follower or `apply` lags behind further than this is read from the
/// database.
const TAIL_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of the log's memtable. One that held all that the log keeps would
/// spare few entries their way to a file, because they leave it at about the
/// pace at which they come; it would only cost its memory.
const MEMTABLE_BYTES: usize = 64 * 1024 * 1024;

/// Files of the log before they are merged: as many as hold four times what
/// the log keeps by default, so that three quarters of it are purged by then,
/// and dropped instead of being written again. Reads of the log are long and
/// in order; they hardly mind many files.
const FILES: i32 = 16;

/// Bytes of entries that are read at once, for a follower or to be applied.
const READ_BYTES: usize = 1024 * 1024;

/// What the flusher and all readers share.
pub(crate) struct Shared {
    /// Taken out when the log is closed, so that the directory can be opened
    /// again although a reader may linger in a task that is being cancelled.
    database: RwLock<Option<Arc<DB>>>,
    log: Mutex<Log>,
}

struct Log {
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// The index of the first entry, where there is one.
    first: u64,
    last: Option<LogId>,
    committed: Option<LogId>,
    snapshot: Option<Bytes>,
    tail: Tail,
}

impl Shared {
    pub(crate) fn database(&self) -> Option<Arc<DB>> {
        self.database.read().clone()
    }

    pub(crate) fn committed(&self) -> Option<LogId> {
        self.log.lock().committed
    }

    pub(crate) fn flushed(&self, generation: u64, last: u64) {
        self.log.lock().tail.flushed(generation, last);
    }
}

/// Whether a log that ends at `last` can hold an entry that is known to be
/// committed. It cannot if the entry is of a later term: then the log still has
/// to replace its end, and another entry is where the committed one will be.
pub(crate) fn can_hold(last: &LogId, committed: &LogId) -> bool {
    let term = |log_id: &LogId| log_id.committed_leader_id().term;
    committed.index() <= last.index() && term(committed) <= term(last)
}

/// The key of an entry.
pub(crate) fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// A handle on the log. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    flusher: Arc<Flusher>,
}

/// The way to the thread that writes. Whoever lets go of the log last waits
/// for that thread: it holds the database, and a process that exits while a
/// database closes itself elsewhere is aborted.
struct Flusher {
    /// There until the drop.
    requests: Option<mpsc::Sender<Request>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Flusher {
    fn requests(&self) -> &mpsc::Sender<Request> {
        self.requests.as_ref().expect("taken by the drop only")
    }

    /// Waits until the thread has ended, which it does when asked to close or
    /// when nobody can ask it any more.
    fn join(&self) {
        if let Some(thread) = self.thread.lock().take() {
            thread.join().expect("the flusher ends the process instead of panicking");
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.requests = None;
        self.join();
    }
}

impl LogStore {
    /// Opens the log in `<data>/log` and compares it with the witness.
    pub(crate) fn open(
        data: &Path,
        witness: Witness,
        node: u64,
        observer: Arc<dyn Observer>,
    ) -> Result<LogStore, OpenError> {
        let path = data.join("log");
        let database = open_database(&path, data)?;
        let log = read_log(&database, &path)?;
        #[cfg(feature = "seeded-bugs")]
        let log = Log { vote: crate::mistakes::read_vote(data, log.vote), ..log };
        let acknowledged =
            Acknowledged { last: log.last.as_ref().map(LogIdForm::from), vote: log.vote.as_ref().map(VoteForm::from) };
        let witnessed = witness.acknowledged();
        if !acknowledged.covers(&witnessed) && !seeded::breaks_promises() {
            return Err(OpenError::LogBehindWitness {
                node,
                found: acknowledged.to_string(),
                acknowledged: witnessed.to_string(),
            });
        }
        let shared = Arc::new(Shared { database: RwLock::new(Some(Arc::new(database))), log: Mutex::new(log) });
        let (requests, thread) = flusher::spawn(shared.clone(), witness, acknowledged, observer)
            .map_err(|source| OpenError::Io { action: "start the log's thread for", path, source })?;
        let flusher = Arc::new(Flusher { requests: Some(requests), thread: Mutex::new(Some(thread)) });
        Ok(LogStore { shared, flusher })
    }

    /// Whether nothing was ever written: no vote and no entry.
    pub(crate) fn is_pristine(&self) -> bool {
        let log = self.shared.log.lock();
        log.vote.is_none() && log.last.is_none()
    }

    /// The last entry and the last purged one.
    pub(crate) fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let log = self.shared.log.lock();
        (log.last, log.purged)
    }

    /// The current snapshot, encoded.
    pub(crate) fn snapshot(&self) -> Option<Bytes> {
        self.shared.log.lock().snapshot.clone()
    }

    /// Keeps a snapshot. Durable on return.
    pub(crate) async fn save_snapshot(&self, encoded: Bytes) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(Request::Snapshot { encoded: encoded.clone(), done }).await?;
        answer.await.map_err(|_| closed())?;
        self.shared.log.lock().snapshot = Some(encoded);
        Ok(())
    }

    /// Lets the flusher look at the age of its witness.
    pub(crate) fn tick(&self) {
        // A full queue means that it is busy, and looks anyway.
        let _ = self.flusher.requests().try_send(Request::Tick);
    }

    /// Writes what waits, brings the witness up to date, and lets go of the
    /// database. Everything that comes later fails.
    pub(crate) async fn close(&self) {
        let _ = self.flusher.requests().send(Request::Close).await;
        let flusher = self.flusher.clone();
        let shared = self.shared.clone();
        let closed = tokio::task::spawn_blocking(move || {
            flusher.join();
            let Some(database) = shared.database.write().take() else { return };
            // Reads are short; the last one out closes the database.
            while Arc::strong_count(&database) > 1 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        closed.await.expect("closing the log does not panic");
    }

    async fn send(&self, request: Request) -> io::Result<()> {
        self.flusher.requests().send(request).await.map_err(|_| closed())
    }

    /// Entries of `[start, end)` that the log has, at most about `bytes` but
    /// at least one.
    async fn read(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut budget = bytes;
        let mut next = start;
        loop {
            let (tail_first, end) = {
                let log = self.shared.log.lock();
                let last_end = log.last.map_or(0, |last| last.index() + 1);
                let end = end.min(last_end);
                if entries.is_empty() {
                    next = next.max(log.first);
                }
                while next < end && next >= log.tail.first() {
                    let Some(entry) = log.tail.get(next) else { break };
                    let size = entries::size(entry);
                    if !entries.is_empty() && size > budget {
                        return Ok(entries);
                    }
                    budget = budget.saturating_sub(size);
                    entries.push(entry.clone());
                    next += 1;
                }
                (log.tail.first(), end)
            };
            if next >= end {
                return Ok(entries);
            }
            let found = self.read_disk(next, end.min(tail_first), budget).await?;
            match found.first() {
                Some(first) if first.log_id.index() == next => {}
                // What is missing at the very beginning may just have been
                // purged; the next round sees it.
                _ if entries.is_empty() && self.purged_at_least(next) => continue,
                _ => {
                    return Err(io::Error::other(format!(
                        "the log has no entry {next}, though it reaches from before it to after it"
                    )));
                }
            }
            for entry in found {
                let size = entries::size(&entry);
                if !entries.is_empty() && size > budget {
                    return Ok(entries);
                }
                budget = budget.saturating_sub(size);
                next += 1;
                entries.push(entry);
            }
        }
    }

    fn purged_at_least(&self, index: u64) -> bool {
        self.shared.log.lock().purged.is_some_and(|purged| purged.index() >= index)
    }

    /// Contiguous entries of `[start, end)` on disk.
    async fn read_disk(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        let database = self.shared.database().ok_or_else(closed)?;
        let read = move || -> io::Result<Vec<Entry>> {
            let log = database.cf_handle(COLUMN_LOG).expect("opened with this column family");
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(key(end).to_vec());
            let mut entries = Vec::new();
            let mut budget = bytes;
            for item in database.iterator_cf_opt(&log, options, IteratorMode::From(&key(start), Direction::Forward)) {
                let (found, value) = item.map_err(io::Error::other)?;
                let entry = decode(&found, value)?;
                let index = entry.log_id.index();
                let expected = start + entries.len() as u64;
                if index != expected {
                    // A gap at the beginning is the caller's to judge.
                    if entries.is_empty() {
                        return Ok(vec![entry]);
                    }
                    return Err(io::Error::other(format!("log entry {expected} is missing, {index} is there")));
                }
                let size = entries::size(&entry);
                entries.push(entry);
                if size >= budget {
                    break;
                }
                budget -= size;
            }
            Ok(entries)
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

pub(crate) fn decode(found: &[u8], value: Box<[u8]>) -> io::Result<Entry> {
    let entry = codec::decode_entry(Bytes::from(value))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("log entry {}: {error}", Hex(found))))?;
    if found != key(entry.log_id.index()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("log entry {} says that it is {}", Hex(found), entry.log_id.index()),
        ));
    }
    Ok(entry)
}

struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Opens the database, once more if all that kept it from opening is a torn end
/// that nobody was told is durable.
fn open_database(path: &Path, data: &Path) -> Result<DB, OpenError> {
    let refused = match try_open_database(path, data) {
        Err(refused @ OpenError::Log { .. }) => refused,
        other => return other,
    };
    let Ok(Some(torn)) = torn_tail::find(path) else { return Err(refused) };
    tracing::warn!(
        "the last write to {} before a crash is incomplete: {} bytes from {} on were never acknowledged and are cut off",
        torn.file.display(),
        torn.bytes,
        torn.offset
    );
    torn.cut(&data.join("torn-log-tail")).map_err(|source| OpenError::Io {
        action: "cut the torn end off",
        path: torn.file.clone(),
        source,
    })?;
    try_open_database(path, data)
}

fn try_open_database(path: &Path, data: &Path) -> Result<DB, OpenError> {
    let (mut options, columns) = database_options();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    DB::open_cf_descriptors(&options, path, columns).map_err(|source| {
        // RocksDB has no error code of its own for a lock that is held.
        if source.as_ref().contains("lock") && source.kind() == rocksdb::ErrorKind::IOError {
            OpenError::InUse { path: data.to_owned() }
        } else {
            OpenError::Log { path: path.to_owned(), source }
        }
    })
}

/// Opens the database in `<data>/log` to look at it; nothing is written.
pub(crate) fn open_read_only(path: &Path) -> Result<DB, rocksdb::Error> {
    let (options, columns) = database_options();
    DB::open_cf_descriptors_read_only(&options, path, columns, false)
}

/// What a power cut left at the end of the log in `<data>/log`, in words, if it
/// left something that the next start cuts off.
pub(crate) fn torn_end(path: &Path) -> Option<String> {
    let torn = torn_tail::find(path).ok().flatten()?;
    Some(format!("the last {} bytes of {}", torn.bytes, torn.file.display()))
}

fn database_options() -> (Options, [ColumnFamilyDescriptor; 3]) {
    let mut options = Options::default();
    options.set_wal_recovery_mode(if seeded::is(Bug::S19) {
        DBRecoveryMode::PointInTime
    } else {
        DBRecoveryMode::TolerateCorruptedTailRecords
    });
    // Recycling would silently switch that mode's check off.
    options.set_recycle_log_file_num(0);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(1024 * 1024 * 1024);
    options.set_keep_log_file_num(4);
    options.set_max_background_jobs(2);

    let mut log = Options::default();
    log.set_write_buffer_size(MEMTABLE_BYTES);
    log.set_max_write_buffer_number(3);
    log.set_level_zero_file_num_compaction_trigger(FILES);
    log.set_level_zero_slowdown_writes_trigger(2 * FILES);
    log.set_level_zero_stop_writes_trigger(3 * FILES);
    log.set_compression_type(DBCompressionType::Lz4);
    let mut single = Options::default();
    single.set_write_buffer_size(1024 * 1024);

    let columns = [
        ColumnFamilyDescriptor::new("default", single.clone()),
        ColumnFamilyDescriptor::new(COLUMN_LOG, log),
        ColumnFamilyDescriptor::new(COLUMN_META, single),
    ];
    (options, columns)
}

fn read_log(database: &DB, path: &Path) -> Result<Log, OpenError> {
    let failed = |source| OpenError::Log { path: path.to_owned(), source };
    let damaged = |why: String| OpenError::Damaged { path: path.to_owned(), why };
    let column = database.cf_handle(COLUMN_META).expect("opened with this column family");
    let get = |name: &[u8]| database.get_cf(&column, name).map_err(failed);

    match get(meta::FORMAT)?.as_deref() {
        None => database.put_cf(&column, meta::FORMAT, [FORMAT]).map_err(failed)?,
        Some([FORMAT]) => {}
        Some(other) => {
            return Err(damaged(format!("the log has format {}, this release reads format {FORMAT}", Hex(other))));
        }
    }
    let log_id = |name: &[u8]| -> Result<Option<LogId>, OpenError> {
        get(name)?.map(|bytes| codec::decode_log_id(&bytes).map_err(|error| damaged(error.to_string()))).transpose()
    };
    let vote = get(meta::VOTE)?
        .map(|bytes| codec::decode_vote(&bytes).map_err(|error| damaged(error.to_string())))
        .transpose()?;
    let purged = log_id(meta::PURGED)?;
    let committed = log_id(meta::COMMITTED)?;
    let snapshot = get(meta::SNAPSHOT)?.map(Bytes::from);

    let entries = database.cf_handle(COLUMN_LOG).expect("opened with this column family");
    let end = |mode| -> Result<Option<LogId>, OpenError> {
        let Some(item) = database.iterator_cf(&entries, mode).next() else { return Ok(None) };
        let (found, value) = item.map_err(failed)?;
        decode(&found, value).map(|entry| Some(entry.log_id)).map_err(|error| damaged(error.to_string()))
    };
    let (first, last) = (end(IteratorMode::Start)?, end(IteratorMode::End)?);
    if let (Some(first), Some(purged)) = (&first, &purged)
        && first.index() != purged.index() + 1
    {
        return Err(damaged(format!(
            "entries up to {} were purged, but the first one that is left is {}",
            purged.index(),
            first.index()
        )));
    }
    let last = last.or(purged);
    let committed = committed.filter(|committed| last.is_some_and(|last| can_hold(&last, committed)));
    let next = last.map_or(0, |last| last.index() + 1);
    let first = first.map_or(next, |first| first.index());
    Ok(Log { vote, purged, first, last, committed, snapshot, tail: Tail::new(next, TAIL_BYTES) })
}

pub(crate) fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, READ_BYTES).await?;
        // A short or shifted answer would make the leader send a wrong
        // previous entry; an error makes it look again.
        match entries.first() {
            Some(first) if first.log_id.index() == start => Ok(entries),
            None if start >= end => Ok(entries),
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("entry {start} of the log was purged while it was read"),
            )),
        }
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // In pieces: after a restart much may have to be applied again.
        let (start, end) = bounds(&range);
        let pieces = stream::unfold(Some((self.clone(), start)), move |state| async move {
            let (store, start) = state?;
            match store.read(start, end, READ_BYTES).await {
                Ok(entries) => {
                    let last = entries.last()?.log_id.index();
                    let items: Vec<_> = entries.into_iter().map(Ok).collect();
                    Some((stream::iter(items), (last + 1 < end).then_some((store, last + 1))))
                }
                Err(error) => Some((stream::iter(vec![Err(error)]), None)),
            }
        });
        Box::pin(futures::StreamExt::flatten(pieces))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.log.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let log = self.shared.log.lock();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, answer) = oneshot::channel();
        self.send(Request::Vote { vote: *vote, done }).await?;
        answer.await.map_err(|_| closed())?;
        self.shared.log.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.log.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.committed())
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let since = Instant::now();
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            done.io_completed(Ok(()));
            return Ok(());
        };
        let encoded = entries.iter_mut().map(|entry| (entry.log_id.index(), codec::seal_entry(entry))).collect();
        let generation = {
            let mut log = self.shared.log.lock();
            for entry in entries {
                match log.last {
                    Some(last) => {
                        assert_eq!(entry.log_id.index(), last.index() + 1, "entries are appended without a gap")
                    }
                    None => log.first = entry.log_id.index(),
                }
                log.last = Some(entry.log_id);
                log.tail.push(entry);
            }
            log.tail.generation()
        };
        self.send(Request::Append { entries: encoded, last, generation, since, done }).await
    }

    async fn truncate_after(&mut self, keep: Option<LogId>) -> Result<(), io::Error> {
        let from = keep.map_or(0, |keep| keep.index() + 1);
        {
            let mut log = self.shared.log.lock();
            if log.last.is_none_or(|last| last.index() < from) {
                return Ok(());
            }
            log.last = keep;
            log.tail.truncate(from);
        }
        self.send(Request::Truncate { from, last: keep }).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let empties = {
            let mut log = self.shared.log.lock();
            if log.purged.is_some_and(|purged| purged >= upto) {
                return Ok(());
            }
            log.purged = Some(upto);
            log.first = upto.index() + 1;
            log.tail.purge(upto.index());
            let empties = log.last.is_none_or(|last| last.index() <= upto.index());
            if empties {
                log.last = Some(upto);
            }
            empties
        };
        self.send(Request::Purge { upto, empties }).await
    }
}

mod torn_tail;

#[cfg(test)]
mod tests;
