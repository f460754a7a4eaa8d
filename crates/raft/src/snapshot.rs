//! Catching up a follower that the log no longer reaches.
//!
//! A snapshot holds no data: it is a log id, the membership there, and the
//! position of the newest event there. The committed history is the same on
//! every node, so a follower needs only the records after its own position.
//! It pulls them from the leader into a second state beside the one it serves
//! ([`annals_store::CatchUp`]), and when the consensus library agrees, the
//! second state takes the first one's place in one step.
//!
//! What was reclaimed meanwhile among the records that the follower has already is
//! pulled first, as stubs. The leader may have reclaimed more than the snapshot says;
//! that does no harm ([`annals_core::scavenge`]).
//!
//! The leader keeps the log from the offered entry on while a transfer is
//! under way and for a while after it, so that the follower can go on with the
//! log where the snapshot ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use annals_core::Position;
use annals_core::seeded::{self, Bug};
use annals_proto::annals::internal::v1 as pb;
use annals_store::PageLimit;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::blocking;
use crate::codec;
use crate::event_store::{CatchUp, EventStore, SnapshotShelf};
use crate::identity::Identity;
use crate::network::{Channels, Purpose};
use crate::state_machine::{Snapshot, StateMachine};
use crate::types::{NodeInfo, Raft};

/// Records and bytes in one chunk of a pull.
const CHUNK: PageLimit = PageLimit { records: 10_000, bytes: 1024 * 1024 };

/// How long a pull may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Pulls in a row that may fail without a single record arriving.
const ATTEMPTS: u32 = 10;

/// How long the log is kept for a follower after its transfer: it still has to
/// ask for what comes next.
const GRACE: Duration = Duration::from_secs(30);

/// What travels with a snapshot inside one process.
pub(crate) enum SnapshotData<C = annals_store::CatchUp> {
    /// What a node has: everything up to `position` is in its store.
    Pointer { position: u64, residue: Bytes },
    /// What a follower has pulled, ready to take its state's place.
    Pulled { catch_up: Box<C>, position: u64, residue: Bytes },
}

/// Transfers that this node's log must be kept for.
#[derive(Default)]
pub(crate) struct Transfers {
    state: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    last_id: u64,
    transfers: BTreeMap<u64, Line>,
}

struct Line {
    /// The highest entry that the snapshot includes.
    included: u64,
    /// When it ended, if it has.
    ended: Option<Instant>,
}

/// A transfer that a follower has accepted. Dropped, it is over.
pub(crate) struct Transfer {
    transfers: Arc<Transfers>,
    id: u64,
}

impl Transfers {
    /// A transfer of a snapshot that includes entries up to `included` begins.
    /// Not before the follower has accepted it: attempts to reach a dead one
    /// must not keep the log.
    pub(crate) fn begin(self: &Arc<Self>, included: u64) -> Transfer {
        let mut book = self.state.lock();
        book.last_id += 1;
        let id = book.last_id;
        book.transfers.insert(id, Line { included, ended: None });
        Transfer { transfers: self.clone(), id }
    }

    /// The highest entry that may be purged, none where no transfer limits it.
    pub(crate) fn limit(&self) -> Option<u64> {
        let mut book = self.state.lock();
        book.transfers.retain(|_, line| line.ended.is_none_or(|ended| ended.elapsed() < GRACE));
        book.transfers.values().map(|line| line.included).min()
    }
}

impl Transfer {
    /// The follower has installed it, and will ask for what follows.
    pub(crate) fn succeeded(self) {
        if let Some(line) = self.transfers.state.lock().transfers.get_mut(&self.id) {
            line.ended = Some(Instant::now());
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut book = self.transfers.state.lock();
        if book.transfers.get(&self.id).is_some_and(|line| line.ended.is_none()) {
            book.transfers.remove(&self.id);
        }
    }
}

/// Catch-ups of this node: one at a time, the newest offer wins.
pub(crate) struct CatchUps {
    current: Mutex<CancellationToken>,
    turn: Semaphore,
}

impl Default for CatchUps {
    fn default() -> Self {
        CatchUps { current: Mutex::default(), turn: Semaphore::new(1) }
    }
}

/// The records of one pull, as they arrive.
pub(crate) type Chunks = BoxStream<'static, Result<pb::RecordChunk, Status>>;

/// Where records are pulled from.
pub(crate) trait Source: Send + Sync {
    /// Begins a pull from the node at `address`, which made the offer.
    fn pull<'a>(&'a self, address: &'a str, request: pb::PullRequest) -> BoxFuture<'a, Result<Chunks, Status>>;
}

/// A leader that is reached through the network.
pub(crate) struct Leader {
    pub(crate) identity: Identity,
    pub(crate) channels: Arc<Channels>,
    pub(crate) node: u64,
}

impl Source for Leader {
    fn pull<'a>(&'a self, address: &'a str, request: pb::PullRequest) -> BoxFuture<'a, Result<Chunks, Status>> {
        Box::pin(async move {
            let mut client = self.channels.replication(address, Purpose::Snapshots)?;
            let request = self.identity.sign(self.node, &NodeInfo::default(), request);
            Ok(client.pull_records(request).await?.into_inner().boxed())
        })
    }
}

/// What a catch-up needs.
pub(crate) struct Receiver<S: EventStore, L: SnapshotShelf> {
    pub(crate) raft: Raft<StateMachine<S, L>>,
    pub(crate) store: S,
    pub(crate) source: Box<dyn Source>,
    pub(crate) catch_ups: Arc<CatchUps>,
    pub(crate) from: u64,
}

impl<S: EventStore, L: SnapshotShelf> Receiver<S, L> {
    /// Pulls what the offer says and installs it, telling its progress. Ends
    /// early when nobody listens any more or a newer offer comes in.
    pub(crate) async fn receive(
        self,
        offer: pb::SnapshotOffer,
        progress: mpsc::Sender<Result<pb::SnapshotProgress, Status>>,
    ) {
        let mine = CancellationToken::new();
        std::mem::replace(&mut *self.catch_ups.current.lock(), mine.clone()).cancel();
        let result = tokio::select! {
            // In this order, so that a simulation can be repeated.
            biased;
            result = self.run(offer, &progress) => result,
            () = mine.cancelled() => Err(Status::aborted("a newer snapshot was offered")),
            () = progress.closed() => return,
        };
        if let Err(status) = result {
            tracing::warn!(%status, "a catch-up ended without success");
            let _ = progress.send(Err(status)).await;
        }
    }

    async fn run(
        &self,
        offer: pb::SnapshotOffer,
        progress: &mpsc::Sender<Result<pb::SnapshotProgress, Status>>,
    ) -> Result<(), Status> {
        let invalid = |error: codec::CodecError| Status::invalid_argument(error.to_string());
        let vote = codec::decode_vote(&offer.vote).map_err(invalid)?;
        let meta = codec::decode_snapshot_meta(&offer.meta).map_err(invalid)?;
        let _turn = self.catch_ups.turn.acquire().await.expect("never closed");

        let store = self.store.clone();
        let catch_up = off_the_runtime(move || store.begin_catch_up()).await?;
        tracing::info!(from = self.from, after = %catch_up.position(), through = offer.position, "catching up");
        let lacks_stubs = catch_up.lacks_stubs(&offer.residue).map_err(|error| Status::internal(error.to_string()))?;
        let catch_up = if lacks_stubs && !seeded::is(Bug::S29) {
            self.pull_stubs(catch_up, &offer, progress).await?
        } else {
            catch_up
        };
        let catch_up = self.pull(catch_up, &offer, progress).await?;

        let data =
            SnapshotData::Pulled { catch_up: Box::new(catch_up), position: offer.position, residue: offer.residue };
        let answer = self
            .raft
            .install_full_snapshot(vote, Snapshot { meta, snapshot: data })
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        tracing::info!(position = offer.position, "caught up");
        let last = pb::SnapshotProgress { position: offer.position, result: codec::encode_vote(&answer.vote) };
        let _ = progress.send(Ok(last)).await;
        Ok(())
    }

    async fn pull(
        &self,
        mut catch_up: S::CatchUp,
        offer: &pb::SnapshotOffer,
        progress: &mpsc::Sender<Result<pb::SnapshotProgress, Status>>,
    ) -> Result<S::CatchUp, Status> {
        let mut failures = 0;
        while catch_up.position().get() < offer.position {
            let before = catch_up.position();
            let (back, failure) = self.pull_once(catch_up, offer, progress).await?;
            catch_up = back;
            let Some(status) = failure else { continue };
            failures = if catch_up.position() > before { 1 } else { failures + 1 };
            if failures >= ATTEMPTS {
                return Err(status);
            }
            tracing::debug!(%status, position = %catch_up.position(), "a pull broke off");
            tokio::time::sleep(Duration::from_millis(100) * failures).await;
        }
        Ok(catch_up)
    }

    /// Pulls what is left of reclaimed events among those that are here already.
    async fn pull_stubs(
        &self,
        mut catch_up: S::CatchUp,
        offer: &pb::SnapshotOffer,
        progress: &mpsc::Sender<Result<pb::SnapshotProgress, Status>>,
    ) -> Result<S::CatchUp, Status> {
        let through = catch_up.position().get();
        let (mut looked_at, mut failures) = (0, 0);
        while looked_at < through {
            let before = looked_at;
            let request = pb::PullRequest { after: looked_at, through, stubs_only: true };
            let failure = match self.chunks(&offer.address, request).await {
                Ok(mut chunks) => loop {
                    let chunk = match next(&mut chunks).await {
                        Ok(Some(chunk)) => chunk,
                        Ok(None) => break Status::unavailable("the pull ended early"),
                        Err(status) => break status,
                    };
                    looked_at = looked_at.max(chunk.through);
                    catch_up = off_the_runtime(move || catch_up.reclaim(chunk.records).map(|()| catch_up)).await?;
                    // No record has come, but somebody waits for a sign.
                    tell(progress, catch_up.position()).await?;
                },
                Err(status) => status,
            };
            failures = if looked_at > before { 1 } else { failures + 1 };
            if looked_at < through && failures >= ATTEMPTS {
                return Err(failure);
            }
            if looked_at < through {
                tokio::time::sleep(Duration::from_millis(100) * failures).await;
            }
        }
        Ok(catch_up)
    }

    async fn chunks(&self, address: &str, request: pb::PullRequest) -> Result<Chunks, Status> {
        match tokio::time::timeout(SILENCE, self.source.pull(address, request)).await {
            Ok(begun) => begun,
            Err(_) => Err(Status::deadline_exceeded("the pull was not answered")),
        }
    }

    /// One stream of records. A failure of the connection comes back with the
    /// catch-up, which can go on; one of the records ends it.
    async fn pull_once(
        &self,
        mut catch_up: S::CatchUp,
        offer: &pb::SnapshotOffer,
        progress: &mpsc::Sender<Result<pb::SnapshotProgress, Status>>,
    ) -> Result<(S::CatchUp, Option<Status>), Status> {
        let request = pb::PullRequest { after: catch_up.position().get(), through: offer.position, stubs_only: false };
        let mut chunks = match self.chunks(&offer.address, request).await {
            Ok(chunks) => chunks,
            Err(status) => return Ok((catch_up, Some(status))),
        };
        loop {
            let chunk = match next(&mut chunks).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok((catch_up, None)),
                Err(status) => return Ok((catch_up, Some(status))),
            };
            catch_up = off_the_runtime(move || catch_up.ingest(chunk.records).map(|()| catch_up)).await?;
            tell(progress, catch_up.position()).await?;
        }
    }
}

/// The next chunk of a pull; none at its end.
async fn next(chunks: &mut Chunks) -> Result<Option<pb::RecordChunk>, Status> {
    match tokio::time::timeout(SILENCE, chunks.next()).await {
        Ok(chunk) => chunk.transpose(),
        Err(_) => Err(Status::deadline_exceeded("the pull fell silent")),
    }
}

/// Says how far a catch-up is.
async fn tell(progress: &mpsc::Sender<Result<pb::SnapshotProgress, Status>>, position: Position) -> Result<(), Status> {
    let told = pb::SnapshotProgress { position: position.get(), result: Bytes::new() };
    let sent = progress.send(Ok(told)).await;
    sent.map_err(|_| Status::cancelled("nobody waits for this catch-up any more"))
}

/// Sends the records of `(after, through]`, or the stubs among them, until nobody
/// listens. Reads no more bytes of them per second than it may: others read and append
/// meanwhile.
pub(crate) async fn send_records<S: EventStore>(
    store: S,
    request: pb::PullRequest,
    bytes_per_second: u64,
    chunks: mpsc::Sender<Result<pb::RecordChunk, Status>>,
) {
    let mut due = Instant::now();
    let mut next = Position::new(request.after).next();
    while next.get() <= request.through {
        // Time that passed unused, as while the other node stood still, is not made up for.
        due = due.max(Instant::now());
        let reader = store.clone();
        let page = off_the_runtime(move || reader.read_forward(next, CHUNK)).await;
        let chunk = page.and_then(|records| {
            let records: Vec<_> = records.iter().filter(|record| record.position().get() <= request.through).collect();
            let last = records.last().ok_or_else(|| Status::out_of_range(format!("there is no record {next}")))?;
            let read: usize = records.iter().map(|record| record.encoded().len()).sum();
            due += Duration::from_secs_f64(read as f64 / bytes_per_second as f64);
            let following = last.position().next();
            let wanted = records.iter().filter(|record| !request.stubs_only || record.is_reclaimed());
            let through = if request.stubs_only { last.position().get() } else { 0 };
            Ok((
                following,
                pb::RecordChunk { records: wanted.map(|record| record.encoded().clone()).collect(), through },
            ))
        });
        match chunk {
            Ok((following, chunk)) => {
                next = following;
                if chunks.send(Ok(chunk)).await.is_err() {
                    return;
                }
                if due > Instant::now() {
                    tokio::time::sleep_until(due).await;
                }
            }
            Err(status) => {
                let _ = chunks.send(Err(status)).await;
                return;
            }
        }
    }
}

/// Runs what blocks off the runtime's threads.
async fn off_the_runtime<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Status>
where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    match blocking::run(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            Err(Status::internal(format!("{error}{source}")))
        }
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use annals_core::{
        Append, Batch, Command, Content, Event, EventId, EventType, Expected, Properties, StreamName, Timestamp,
    };
    use annals_store::{Mark, Options, Store};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_log_is_kept_for_the_transfer_that_reaches_back_furthest() {
        let transfers = Arc::new(Transfers::default());
        assert_eq!(transfers.limit(), None);
        let early = transfers.begin(10);
        let _late = transfers.begin(20);
        assert_eq!(transfers.limit(), Some(10));
        early.succeeded();
        assert_eq!(transfers.limit(), Some(10), "a follower that just caught up still needs what follows");
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_sent_no_faster_than_they_may_be() {
        const MIB: usize = 1024 * 1024;
        let data = tempfile::tempdir().expect("a directory");
        let store = Store::open(data.path(), Options::default()).expect("opens");
        let stream = StreamName::new("large").expect("a name");
        for index in 1..=8 {
            let event = Event::new(
                EventId::new(Uuid::from_u128(index)).expect("not nil"),
                EventType::new("large").expect("a type"),
                Content::Binary,
                Properties::Opaque,
                Bytes::new(),
                Bytes::from(vec![7; MIB]),
            );
            let append = Append::single(stream.clone(), Expected::Any, vec![event]);
            let batch = Batch { stamped: Timestamp::from_ticks(index as u64), commands: vec![Command::Append(append)] };
            let mark = Mark { index: index as u64, opaque: Bytes::new() };
            store.apply(mark, Some(batch)).expect("applied");
        }
        let (chunks, mut sent) = mpsc::channel(2);
        let begun = Instant::now();
        let request = pb::PullRequest { after: 0, through: 8, stubs_only: false };
        let sending = tokio::spawn(send_records(store, request, 2 * MIB as u64, chunks));
        let mut records = 0;
        while let Some(chunk) = sent.recv().await {
            records += chunk.expect("records").records.len();
        }
        sending.await.expect("ends");
        assert_eq!(records, 8);
        // The clock goes on by sleeping alone.
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn a_transfer_that_failed_keeps_nothing() {
        let transfers = Arc::new(Transfers::default());
        drop(transfers.begin(10));
        assert_eq!(transfers.limit(), None);
    }
}
