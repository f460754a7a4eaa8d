//! The event store as the consensus library's state machine.
//!
//! Committed entries are applied in order by one task. The store's mark moves
//! with each entry's effects in the same write, so an entry is applied once,
//! whatever crashes in between; what was applied but not flushed is applied
//! again from the log at the next start.
//!
//! An entry is applied on a thread that may block, unless it is alone, small and
//! needs nothing but memory: waking another thread would take longer than all that
//! it does.
//!
//! Applying cannot fail and go on: replicas would differ. Whatever goes wrong
//! here ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_core::{Batch, Command, Outcome};
use annals_store::{Mark, Store};
use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, alias};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::blocking;
use crate::codec::{self, EncodedMembership};
use crate::event_store::{CatchUp, EventStore, SnapshotShelf};
use crate::flusher::stop_process;
use crate::log_store::LogStore;
use crate::observer::Observer;
use crate::snapshot::SnapshotData;
use crate::types::{Applied, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries that are applied before the next look at the queue.
const CHUNK: usize = 64;

/// Bytes of an entry that may be applied by the task itself. To apply that many takes
/// a tenth of a millisecond, even of the smallest events.
const AT_HAND_BYTES: usize = 4 * 1024;

pub(crate) type Snapshot<C = annals_store::CatchUp> = alias::SnapshotOf<TypeConfig, SnapshotData<C>>;

/// The state machine. Clones share it; only one of them applies.
pub(crate) struct StateMachine<S = Store, L = LogStore> {
    shared: Arc<Shared<S, L>>,
}

impl<S, L> Clone for StateMachine<S, L> {
    fn clone(&self) -> Self {
        StateMachine { shared: self.shared.clone() }
    }
}

struct Shared<S, L> {
    me: u64,
    store: S,
    log: L,
    observer: Arc<dyn Observer>,
    membership: Mutex<Known>,
    /// How many entries are applied: the next index. (Indexes begin at 0.)
    applied: watch::Sender<u64>,
    applied_bytes: AtomicU64,
    /// Set when this node's removal from the membership is applied.
    removed: watch::Sender<bool>,
}

/// The applied membership, and as what it goes into the mark of each entry.
struct Known {
    stored: StoredMembership,
    encoded: EncodedMembership,
}

impl Known {
    fn new(stored: StoredMembership) -> Self {
        Known { encoded: EncodedMembership::from(&stored), stored }
    }
}

impl<S: EventStore, L: SnapshotShelf> StateMachine<S, L> {
    /// The state machine over a store that was opened, of node `me`.
    ///
    /// # Errors
    /// Where the store's mark cannot be read.
    pub(crate) fn new(
        me: u64,
        store: S,
        log: L,
        observer: Arc<dyn Observer>,
        removed: watch::Sender<bool>,
    ) -> io::Result<Self> {
        let (applied, membership) = match store.mark() {
            Some(mark) => {
                let (applied, membership) = codec::decode_mark(&mark.opaque)?;
                (applied.index() + 1, membership)
            }
            None => (0, StoredMembership::default()),
        };
        Ok(StateMachine {
            shared: Arc::new(Shared {
                me,
                store,
                log,
                observer,
                membership: Mutex::new(Known::new(membership)),
                applied: watch::Sender::new(applied),
                applied_bytes: AtomicU64::new(0),
                removed,
            }),
        })
    }

    /// Makes the current snapshot include what is durable, at the start.
    ///
    /// The state can be ahead of snapshot and log after a crash: an entry that
    /// a quorum has is applied, and possibly flushed, before it is in this
    /// node's own log; and a catch-up takes over before its snapshot is kept.
    /// The log then begins after the state, and a follower that needs what
    /// comes before could only be offered a snapshot that ends too early.
    pub(crate) async fn bring_snapshot_up_to_date(&self) -> io::Result<()> {
        let Some(mark) = self.shared.store.mark() else { return Ok(()) };
        let included = match self.shared.log.snapshot() {
            Some(encoded) => codec::decode_snapshot(&encoded)?.0.last_log_id,
            None => None,
        };
        if included.is_none_or(|included| included.index() < mark.index) {
            self.clone().build_snapshot().await?;
        }
        Ok(())
    }

    /// Tells how many entries are applied.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Bytes of all batches applied since the start.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.shared.applied_bytes.load(Ordering::Relaxed)
    }
}

impl<S: EventStore, L: SnapshotShelf> Shared<S, L> {
    fn apply(&self, entry: Entry) -> Vec<Outcome> {
        let log_id = entry.log_id;
        let mut bytes = 0;
        let batch = match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(proposal) => {
                bytes = proposal.batch.len();
                Some(decode(&log_id, proposal.batch))
            }
            EntryPayload::Membership(membership) => {
                let is_member = |membership: &StoredMembership| membership.get_node(&self.me).is_some();
                let stored = StoredMembership::new(Some(log_id), membership);
                let leaves = !is_member(&stored);
                let before = std::mem::replace(&mut *self.membership.lock(), Known::new(stored));
                if leaves && is_member(&before.stored) {
                    self.removed.send_replace(true);
                }
                None
            }
        };
        let events = batch.as_ref().map_or(0, events);
        let started = Instant::now();
        match self.store.apply(self.mark(&log_id), batch) {
            Ok(outcomes) => {
                self.applied(&log_id, bytes, started.elapsed(), events);
                outcomes
            }
            Err(error) => stop_process(&format!("entry {} could not be applied", log_id.index()), &error),
        }
    }

    /// Applies an entry if that blocks nobody; none else, and it is still to be applied.
    fn apply_at_hand(&self, entry: &Entry) -> Option<Vec<Outcome>> {
        let EntryPayload::Normal(proposal) = &entry.payload else { return None };
        let (log_id, bytes) = (&entry.log_id, proposal.batch.len());
        if bytes > AT_HAND_BYTES {
            return None;
        }
        let batch = decode(log_id, proposal.batch.clone());
        let events = events(&batch);
        let started = Instant::now();
        match self.store.apply_at_hand(self.mark(log_id), batch) {
            Ok(outcomes) => {
                let outcomes = outcomes?;
                self.applied(log_id, bytes, started.elapsed(), events);
                Some(outcomes)
            }
            Err(error) => stop_process(&format!("entry {} could not be applied", log_id.index()), &error),
        }
    }

    fn mark(&self, log_id: &LogId) -> Mark {
        Mark { index: log_id.index(), opaque: codec::encode_mark(log_id, &self.membership.lock().encoded) }
    }

    /// Tells those who watch that an entry is applied.
    fn applied(&self, log_id: &LogId, bytes: usize, took: Duration, events: usize) {
        self.applied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if events > 0 {
            self.observer.applied(took, events);
        }
        self.applied.send_replace(log_id.index() + 1);
    }

    /// What a crash would leave, kept as the current snapshot.
    fn durable(&self) -> io::Result<(SnapshotMeta, u64, Bytes)> {
        let durable = match self.store.durable().map_err(io::Error::other)? {
            Some(durable) => durable,
            None => {
                self.store.flush().map_err(io::Error::other)?;
                self.store
                    .durable()
                    .map_err(io::Error::other)?
                    .ok_or_else(|| io::Error::other("nothing was applied yet, so there is no snapshot"))?
            }
        };
        let (applied, membership) = codec::decode_mark(&durable.mark.opaque)?;
        let meta = SnapshotMeta { last_log_id: Some(applied), last_membership: membership };
        Ok((meta, durable.position.get(), durable.residue))
    }
}

fn decode(log_id: &LogId, batch: Bytes) -> Batch {
    Batch::decode(batch)
        .unwrap_or_else(|error| stop_process(&format!("committed entry {} is no batch", log_id.index()), &error))
}

fn events(batch: &Batch) -> usize {
    fn of(command: &Command) -> usize {
        match command {
            Command::Append(append) => append.events.len(),
            Command::Import(import) => import.events.len(),
            Command::Delete { .. } | Command::Tombstone { .. } => 1,
            Command::AllocateNode { .. }
            | Command::StartScavenge { .. }
            | Command::Reclaim(_)
            | Command::StopScavenge { .. }
            | Command::AcquireLease(_)
            | Command::ReleaseLease { .. } => 0,
            Command::For { command, .. } => of(command),
        }
    }
    batch.commands.iter().map(of).sum()
}

impl<S: EventStore, L: SnapshotShelf> RaftStateMachine<TypeConfig> for StateMachine<S, L> {
    type SnapshotData = SnapshotData<S::CatchUp>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        match self.shared.store.mark() {
            Some(mark) => {
                let (applied, membership) = codec::decode_mark(&mark.opaque)?;
                Ok((Some(applied), membership))
            }
            None => Ok((None, StoredMembership::default())),
        }
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(CHUNK);
        while let Some(chunk) = chunks.next().await {
            let mut chunk: Vec<(Entry, Option<ApplyResponder<TypeConfig>>)> =
                chunk.into_iter().collect::<Result<_, _>>()?;
            if let [(entry, responder)] = &mut chunk[..]
                && let Some(outcomes) = self.shared.apply_at_hand(entry)
            {
                if let Some(responder) = responder.take() {
                    responder.send(Applied(outcomes));
                }
                continue;
            }
            let shared = self.shared.clone();
            // The store blocks; the runtime's threads must not.
            let apply = move || {
                for (entry, responder) in chunk {
                    let outcomes = shared.apply(entry);
                    if let Some(responder) = responder {
                        responder.send(Applied(outcomes));
                    }
                }
            };
            blocking::run(apply).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Self::SnapshotData) -> Result<(), io::Error> {
        let SnapshotData::Pulled { catch_up, position, residue } = data else {
            return Err(io::Error::other(
                "the snapshot holds no data: the state is older than the snapshot that was made of it",
            ));
        };
        let last = meta.last_log_id.ok_or_else(|| io::Error::other("the snapshot includes no entry"))?;
        let encoded = codec::encode_snapshot(meta, position, &residue);
        let membership = Known::new(meta.last_membership.clone());
        let mark = Mark { index: last.index(), opaque: codec::encode_mark(&last, &membership.encoded) };
        let finish = move || catch_up.finish(mark, &residue);
        blocking::run(finish).await.map_err(io::Error::other)?.map_err(io::Error::other)?;

        self.shared.log.save_snapshot(encoded).await?;
        *self.shared.membership.lock() = membership;
        self.shared.applied.send_replace(last.index() + 1);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<S::CatchUp>>, io::Error> {
        let Some(encoded) = self.shared.log.snapshot() else { return Ok(None) };
        let (meta, position, residue) = codec::decode_snapshot(&encoded)?;
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::Pointer { position, residue } }))
    }
}

impl<S: EventStore, L: SnapshotShelf> RaftSnapshotBuilder<TypeConfig> for StateMachine<S, L> {
    type SnapshotData = SnapshotData<S::CatchUp>;

    async fn build_snapshot(&mut self) -> Result<Snapshot<S::CatchUp>, io::Error> {
        let shared = self.shared.clone();
        let (meta, position, residue) = blocking::run(move || shared.durable()).await.map_err(io::Error::other)??;
        self.shared.log.save_snapshot(codec::encode_snapshot(&meta, position, &residue)).await?;
        Ok(Snapshot { meta, snapshot: SnapshotData::Pointer { position, residue } })
    }
}
