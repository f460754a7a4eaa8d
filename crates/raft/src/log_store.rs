//! The Raft log and vote, on disk and in memory.
//!
//! On disk it is in segments ([`crate::segments`]) with one sync per group of
//! writes ([`crate::flusher`]); its newest entries are in memory too ([`Tail`]).
//!
//! Invariants
//! - Entries are contiguous from the one after `purged` to `last`.
//! - An entry can be read as soon as [`RaftLogStorage::append`] returns, from
//!   [`Tail`]; it is durable when its callback runs.
//! - Memory is changed first, the flusher's queue keeps the same order, so what
//!   memory says and what the disk will say never differ by more than what is
//!   queued.
//!
//! A log that was damaged in its middle does not open, and a torn end, which every
//! power cut may leave, is compared with the witness.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use annals_core::seeded;
use bytes::Bytes;
use futures::stream::{self, Stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use crate::codec::{self, LogIdForm, VoteForm};
use crate::entries::{self, Tail};
use crate::error::OpenError;
use crate::flusher::{self, Request};
use crate::observer::Observer;
use crate::segments::{self, ScanError, Segments, Values, Writer};
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::witness::{Acknowledged, Witness};

/// Bytes of entries kept in memory: all that a proposer has in flight, twice.
/// What a follower or `apply` lags behind further than this is read from the
/// database.
const TAIL_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of entries that are read at once, for a follower or to be applied.
const READ_BYTES: usize = 1024 * 1024;

/// What the flusher and all readers share.
pub(crate) struct Shared {
    /// Taken out when the log is closed: a reader may linger in a task that is
    /// being cancelled.
    segments: RwLock<Option<Arc<Segments>>>,
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

/// A handle on the log. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    flusher: Arc<Flusher>,
}

/// The way to the thread that writes. Whoever lets go of the log last waits
/// for that thread: what it was asked to write is written then.
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
        let (log, writer) = open_segments(&path, data)?;
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
        let segments = RwLock::new(Some(writer.segments()));
        let shared = Arc::new(Shared { segments, log: Mutex::new(log) });
        let (requests, thread) = flusher::spawn(shared.clone(), writer, witness, acknowledged, observer)
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
    /// files. Everything that comes later fails.
    pub(crate) async fn close(&self) {
        let _ = self.flusher.requests().send(Request::Close).await;
        let flusher = self.flusher.clone();
        let shared = self.shared.clone();
        let closed = tokio::task::spawn_blocking(move || {
            flusher.join();
            shared.segments.write().take();
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

    /// Entries of `[start, end)` on disk, none where `start` is not there.
    async fn read_disk(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        let segments = self.shared.segments.read().clone().ok_or_else(closed)?;
        tokio::task::spawn_blocking(move || segments.read(start, end, bytes)).await.map_err(io::Error::other)?
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

/// Opens the log in `path`, which is in the data directory `data`.
fn open_segments(path: &Path, data: &Path) -> Result<(Log, Writer), OpenError> {
    let io = |action| move |source| OpenError::Io { action, path: path.to_owned(), source };
    if !path.is_dir() {
        std::fs::create_dir(path).map_err(io("make"))?;
        std::fs::File::open(data).and_then(|data| data.sync_all()).map_err(io("make"))?;
    }
    let scan = segments::scan(path).map_err(|error| match error {
        ScanError::Io { path, source } => OpenError::Io { action: "read", path, source },
        ScanError::Damaged { .. } => OpenError::Damaged { path: path.to_owned(), why: error.to_string() },
    })?;
    if let Some(torn) = &scan.torn {
        tracing::warn!(
            "the last write to {} before a crash is incomplete: what is there from byte {} on was never acknowledged",
            torn.file.display(),
            torn.offset
        );
    }
    let last = scan.last();
    let Values { vote, purged, committed, snapshot, .. } = scan.values().clone();
    let committed = committed.filter(|committed| last.is_some_and(|last| can_hold(&last, committed)));
    let next = last.map_or(0, |last| last.index() + 1);
    let first = scan.first().unwrap_or(next);
    let log = Log { vote, purged, first, last, committed, snapshot, tail: Tail::new(next, TAIL_BYTES) };
    let writer = Writer::open(path, scan).map_err(io("open"))?;
    Ok((log, writer))
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
        let encoded = entries.iter_mut().map(codec::seal_entry).collect();
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

#[cfg(test)]
mod tests;
