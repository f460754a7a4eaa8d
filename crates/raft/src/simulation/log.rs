//! The log, simulated.
//!
//! As in [`crate::log_store`], entries are in memory first and become durable
//! when a flusher has written its group; only then does anybody hear of it.
//! What a crash leaves is what was written and a random prefix of what was not.
//! Entries are kept encoded, and read back at a start through the same codec.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{AsyncRuntime, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::disk::{LogImage, Write};
use super::plan::Mutation;
use super::random::Random;
use super::runtime::SimulatedRuntime;
use super::world::World;
use crate::codec;
use crate::event_store::SnapshotShelf;
use crate::log_store::{bounds, can_hold};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// How long a sync takes that lies about being one.
const LAZY: Duration = Duration::from_secs(2);

/// A handle on the log of one node. Clones share it.
#[derive(Clone)]
pub(crate) struct SimulatedLog {
    shared: Arc<Shared>,
}

struct Shared {
    host: u64,
    world: Arc<World>,
    inner: Mutex<Inner>,
    /// Wakes the flusher.
    queued: Notify,
}

struct Inner {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
    snapshot: Option<Bytes>,
    entries: BTreeMap<u64, Entry>,
    queue: VecDeque<Request>,
    random: Random,
}

/// What is to be written, and who is to be told.
struct Request {
    writes: Vec<Write>,
    told: Told,
}

enum Told {
    Nobody,
    Appended(LogId, IOFlushed<TypeConfig>),
    Voted(Vote, oneshot::Sender<()>),
    Saved(oneshot::Sender<()>),
}

impl SimulatedLog {
    /// Reads the log that is on the disk of a host.
    ///
    /// # Errors
    /// What was written cannot be read.
    pub(crate) fn open(world: &Arc<World>, host: u64, random: Random) -> io::Result<SimulatedLog> {
        let disk = world.disk(host);
        let disk = disk.lock();
        let LogImage { vote, entries, purged, committed, snapshot } = &disk.log;
        let log_id = |bytes: &Bytes| codec::decode_log_id(bytes);
        let entries: BTreeMap<u64, Entry> = entries
            .iter()
            .map(|(index, (_, bytes))| codec::decode_entry(bytes.clone()).map(|entry| (*index, entry)))
            .collect::<Result<_, _>>()?;
        let purged = purged.as_ref().map(log_id).transpose()?;
        let inner = Inner {
            vote: vote.as_ref().map(|bytes| codec::decode_vote(bytes)).transpose()?,
            purged,
            last: entries.last_key_value().map(|(_, entry)| entry.log_id).or(purged),
            committed: committed.as_ref().map(log_id).transpose()?,
            snapshot: snapshot.clone(),
            entries,
            queue: VecDeque::new(),
            random,
        };
        let shared = Shared { host, world: world.clone(), inner: Mutex::new(inner), queued: Notify::new() };
        Ok(SimulatedLog { shared: Arc::new(shared) })
    }

    /// Whether nothing was ever written: no vote and no entry.
    pub(crate) fn is_pristine(&self) -> bool {
        let inner = self.shared.inner.lock();
        inner.vote.is_none() && inner.last.is_none()
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.inner.lock().vote
    }

    /// How many entries are purged.
    pub(crate) fn purged(&self) -> u64 {
        self.shared.inner.lock().purged.map_or(0, |purged| purged.index() + 1)
    }

    pub(crate) fn committed(&self) -> Option<LogId> {
        self.shared.inner.lock().committed
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.shared.inner.lock().entries.values().cloned().collect()
    }

    /// Writes what is queued, for ever.
    pub(crate) async fn flush(self) {
        let shared = &self.shared;
        let plan = &shared.world.plan;
        loop {
            let queued = shared.queued.notified();
            let (writes, took, told, late) = {
                let mut inner = shared.inner.lock();
                let size = inner.queue.len().min(plan.group);
                let mut writes = Vec::new();
                let mut told = Vec::new();
                let mut end = None;
                for request in &mut inner.queue.iter_mut().take(size) {
                    if let Told::Appended(last, _) = &request.told {
                        end = Some(*last);
                    }
                    // Left in the queue until they are written: a crash in
                    // the middle of the write leaves a part of them.
                    writes.extend(request.writes.iter().cloned());
                    told.push(std::mem::replace(&mut request.told, Told::Nobody));
                }
                // As in `crate::flusher`.
                let beyond = shared.world.mutation == Some(Mutation::CommittedBeyondLog);
                let reached = |committed: &&LogId| end.is_some_and(|end| beyond || can_hold(&end, committed));
                if let Some(committed) = inner.committed.as_ref().filter(reached) {
                    writes.push(Write::Committed(codec::encode_log_id(committed)));
                }
                let slow = inner.random.chance(plan.slow_sync);
                let took = inner.random.duration(if slow { 50..600 } else { plan.sync.clone() });
                let late = if plan.callback.is_empty() {
                    Duration::ZERO
                } else {
                    inner.random.duration(plan.callback.clone())
                };
                (writes, took, told, late)
            };
            if told.is_empty() {
                queued.await;
                continue;
            }
            let size = told.len();
            let lazy = shared.world.mutation == Some(Mutation::AppendNotSynced);
            tokio::time::sleep(if lazy { LAZY } else { took * shared.world.slowness(shared.host) }).await;
            shared.inner.lock().queue.drain(..size);
            for write in writes {
                shared.world.write(shared.host, write);
            }
            shared.world.note(format_args!("h{} synced {size} writes", shared.host));
            if !late.is_zero() {
                tokio::time::sleep(late).await;
            }
            for told in told {
                self.tell(told);
            }
        }
    }

    fn tell(&self, told: Told) {
        let Shared { host, world, .. } = &*self.shared;
        match told {
            Told::Nobody => {}
            Told::Appended(last, done) => {
                world.oracle().promised_entries(*host, last);
                done.io_completed(Ok(()));
            }
            Told::Voted(vote, done) => {
                world.oracle().promised_vote(*host, vote);
                let _ = done.send(());
            }
            Told::Saved(done) => {
                let _ = done.send(());
            }
        }
    }

    /// What was not written when the process ended, in order.
    pub(crate) fn unwritten(&self) -> Vec<Write> {
        let mut inner = self.shared.inner.lock();
        inner.queue.drain(..).flat_map(|request| request.writes).collect()
    }

    fn request(&self, writes: Vec<Write>, told: Told) {
        let Shared { host, world, .. } = &*self.shared;
        match (world.mutation, told) {
            (Some(Mutation::VoteNotSynced), told @ Told::Voted(..)) => {
                let (shared, writes) = (self.shared.clone(), writes);
                SimulatedRuntime::spawn(async move {
                    tokio::time::sleep(LAZY).await;
                    writes.into_iter().for_each(|write| shared.world.write(shared.host, write));
                });
                self.tell(told);
            }
            (Some(Mutation::AppendNotSynced), told @ (Told::Voted(..) | Told::Saved(..))) => {
                writes.into_iter().for_each(|write| world.write(*host, write));
                self.tell(told);
            }
            (Some(Mutation::AppendNotSynced), told @ Told::Appended(..)) => {
                self.enqueue(Request { writes, told: Told::Nobody });
                self.tell(told);
            }
            (_, told) => self.enqueue(Request { writes, told }),
        }
    }

    fn enqueue(&self, request: Request) {
        self.shared.inner.lock().queue.push_back(request);
        self.shared.queued.notify_one();
    }

    fn read(&self, range: &impl RangeBounds<u64>) -> Vec<Entry> {
        let (start, end) = bounds(range);
        let inner = self.shared.inner.lock();
        if start >= end {
            return Vec::new();
        }
        inner.entries.range(start..end).map(|(_, entry)| entry.clone()).collect()
    }
}

impl SnapshotShelf for SimulatedLog {
    fn snapshot(&self) -> Option<Bytes> {
        self.shared.inner.lock().snapshot.clone()
    }

    async fn save_snapshot(&self, encoded: Bytes) -> io::Result<()> {
        let (done, saved) = oneshot::channel();
        self.request(vec![Write::Snapshot(encoded.clone())], Told::Saved(done));
        saved.await.map_err(io::Error::other)?;
        self.shared.inner.lock().snapshot = Some(encoded);
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for SimulatedLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(&range))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let mut entries = self.read(&(start..end));
        // As the real one: fewer are fine, others than asked for are not.
        match entries.first() {
            Some(first) if first.log_id.index() == start => {
                let fewer = self.shared.inner.lock().random.within(0..entries.len() as u64) as usize;
                entries.truncate(fewer + 1);
                Ok(entries)
            }
            None if start >= end => Ok(entries),
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("entry {start} of the log was purged while it was read"),
            )),
        }
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }
}

impl RaftLogStorage<TypeConfig> for SimulatedLog {
    type LogReader = SimulatedLog;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let inner = self.shared.inner.lock();
        Ok(LogState { last_purged_log_id: inner.purged, last_log_id: inner.last })
    }

    async fn get_log_reader(&mut self) -> SimulatedLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, saved) = oneshot::channel();
        self.request(vec![Write::Vote(codec::encode_vote(vote))], Told::Voted(*vote, done));
        saved.await.map_err(io::Error::other)?;
        self.shared.inner.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.inner.lock().committed = committed;
        if let Some(committed) = committed {
            self.shared.world.oracle().committed(self.shared.host, committed);
            self.shared.world.verify_commits();
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.inner.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            done.io_completed(Ok(()));
            return Ok(());
        };
        self.shared.world.oracle().appended(self.shared.host, &entries);
        let writes = entries.iter().map(|entry| Write::Entry(entry.log_id, codec::encode_entry(entry))).collect();
        {
            let mut inner = self.shared.inner.lock();
            inner.last = Some(last);
            inner.entries.extend(entries.into_iter().map(|entry| (entry.log_id.index(), entry)));
        }
        self.request(writes, Told::Appended(last, done));
        Ok(())
    }

    async fn truncate_after(&mut self, keep: Option<LogId>) -> Result<(), io::Error> {
        let from = keep.map_or(0, |keep| keep.index() + 1);
        {
            let mut inner = self.shared.inner.lock();
            if inner.last.is_none_or(|last| last.index() < from) {
                return Ok(());
            }
            inner.last = keep;
            inner.entries.split_off(&from);
        }
        let lost = self.shared.world.oracle().truncated(self.shared.host, from);
        if let Some(lost) = lost {
            self.shared.world.verify_truncation(self.shared.host, lost);
        }
        self.request(vec![Write::Truncate(from)], Told::Nobody);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        {
            let mut inner = self.shared.inner.lock();
            if inner.purged.is_some_and(|purged| purged >= upto) {
                return Ok(());
            }
            inner.purged = Some(upto);
            inner.entries = inner.entries.split_off(&(upto.index() + 1));
            if inner.last.is_none_or(|last| last.index() <= upto.index()) {
                inner.last = Some(upto);
            }
        }
        self.shared.world.oracle().purged(self.shared.host, upto);
        self.request(vec![Write::Purge(upto)], Told::Nobody);
        Ok(())
    }
}
