//! Seeded bugs of replication that take more than a line. The list, and what
//! each must break, is in `annals_core::seeded`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::seeded::{self, Bug};
use annals_core::{Append, Appended, Batch, Command, Event, EventId, Expected, Outcome, Role, StreamName};
use annals_store::{Shadow, Store};
use bytes::Bytes;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use crate::bootstrap;
use crate::codec;
use crate::error::AppendError;
use crate::log_store::LogStore;
use crate::node::Node;
use crate::proposer::{Kind, Proposer, Reply};
use crate::types::{Raft, TypeConfig, Vote, index_of};

// ------------------------------------------------------------- S3: vote ----

const VOTE: &str = "VOTE";
const VOTE_BYTES_MAX: usize = 4096;

/// S3: writes the vote beside the witness, without a sync.
pub(crate) fn write_vote(witness: &Path, vote: &Vote) {
    let encoded = codec::encode_vote(vote);
    let mut bytes = vec![u8::try_from(encoded.len()).expect("a vote is a few bytes")];
    bytes.extend_from_slice(&encoded);
    let file = OpenOptions::new().write(true).open(witness.with_file_name(VOTE));
    file.and_then(|file| file.write_all_at(&bytes, 0)).expect("the file was made at the start");
}

/// S3: reads it back; `logged` where the mistake is another one.
pub(crate) fn read_vote(data: &Path, logged: Option<Vote>) -> Option<Vote> {
    if !seeded::is(Bug::S3) {
        return logged;
    }
    let path = data.join(VOTE);
    if !path.exists() {
        // Its blocks are there from the beginning: what is written later
        // stays in memory until the kernel likes.
        let file = File::create(&path).expect("the data directory can be written");
        file.write_all_at(&[0; VOTE_BYTES_MAX], 0).and_then(|()| file.sync_all()).expect("the disk works");
        File::open(data).and_then(|directory| directory.sync_all()).expect("the disk works");
    }
    let mut bytes = Vec::new();
    File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).expect("the file can be read");
    let len = usize::from(*bytes.first()?);
    if len == 0 {
        return None;
    }
    codec::decode_vote(bytes.get(1..=len)?).ok()
}

// ------------------------------------------------- appends on the leader ----

/// How long an early answer waits for its entry to be in the leader's log.
const LOCAL_APPEND: Duration = Duration::from_secs(2);

/// What the mistakes of proposing remember.
#[derive(Clone)]
pub(crate) struct Proposing {
    store: Store,
    log: LogStore,
    raft: Raft,
    shadow: Arc<Mutex<Option<Ahead>>>,
    window: Arc<Mutex<HashMap<Pair, Known>>>,
}

/// S1: the leader's view of the log's future.
struct Ahead {
    shadow: Shadow,
    term: u64,
    /// The index of the next entry.
    next: u64,
}

/// S1: what the callers of a proposal can be told when its entry is in the
/// leader's own log.
pub(crate) struct Foreseen {
    outcomes: Vec<Outcome>,
    term: u64,
    index: u64,
}

/// S7: what the window goes by.
type Pair = (StreamName, EventId);

/// S7: what the leader knows of an id.
enum Known {
    UnderWay,
    Done(Appended),
}

impl Proposing {
    pub(crate) fn new(store: Store, log: LogStore, raft: Raft) -> Self {
        Proposing { store, log, raft, shadow: Arc::default(), window: Arc::default() }
    }

    /// Carries out an append with the chosen mistake, if it is one of these.
    pub(crate) async fn append(
        &self,
        proposer: &Proposer,
        encoded: &Bytes,
        kind: Kind,
        deadline: Instant,
    ) -> Option<Result<Outcome, AppendError>> {
        let command = Command::decode(encoded.clone()).expect("encoded by a node");
        if seeded::is(Bug::S9)
            && let Ok(outcome @ Outcome::Refused(_)) = self.store.predict(&command)
        {
            return Some(Ok(outcome));
        }
        match command {
            Command::Append(append) if seeded::is(Bug::S7) => {
                let pair = pair(&append)?;
                Some(self.append_once(proposer, pair, encoded, kind, deadline).await)
            }
            Command::Append(append) if seeded::is(Bug::S18) => {
                let (first, second) = halves(append)?;
                let first = proposer.propose(first.encode(), kind, deadline).await;
                match first {
                    Ok(Outcome::Appended(_)) => Some(proposer.propose(second.encode(), kind, deadline).await),
                    other => Some(other),
                }
            }
            _ => None,
        }
    }

    async fn append_once(
        &self,
        proposer: &Proposer,
        pair: Pair,
        encoded: &Bytes,
        kind: Kind,
        deadline: Instant,
    ) -> Result<Outcome, AppendError> {
        loop {
            let known = match self.window.lock().get(&pair) {
                None => break,
                Some(Known::UnderWay) => None,
                Some(Known::Done(appended)) => Some(appended.clone()),
            };
            if let Some(appended) = known {
                return Ok(Outcome::Appended(Appended { repeated: true, ..appended }));
            }
            if Instant::now() >= deadline {
                return Err(AppendError::Overloaded);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.window.lock().insert(pair.clone(), Known::UnderWay);
        let turn = Turn { window: &self.window, pair: &pair };
        let result = proposer.propose(encoded.clone(), kind, deadline).await;
        match &result {
            Ok(Outcome::Appended(appended)) => {
                self.window.lock().insert(pair.clone(), Known::Done(appended.clone()));
            }
            // What was remembered was remembered by the leader.
            Err(AppendError::NotLeader { .. }) => self.window.lock().clear(),
            Ok(_) | Err(_) => {}
        }
        drop(turn);
        result
    }

    /// S1: what will become of this batch, where nothing unknown comes before
    /// it.
    pub(crate) fn foresee(&self, batch: &Bytes, idle: bool) -> Option<Foreseen> {
        if !seeded::is(Bug::S1) {
            return None;
        }
        let (leads, term) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.state == ServerState::Leader, metrics.current_term)
        };
        let mut ahead = self.shadow.lock();
        if !leads || ahead.as_ref().is_some_and(|ahead| ahead.term != term) {
            *ahead = None;
        }
        if !leads {
            return None;
        }
        if ahead.is_none() && idle {
            let last = index_of(self.log.bounds().0.as_ref());
            *ahead = self.store.shadow(last).map(|shadow| Ahead { shadow, term, next: last + 1 });
        }
        let Ahead { shadow, next, .. } = ahead.as_mut()?;
        let outcomes = shadow.foresee(Batch::decode(batch.clone()).expect("encoded by this node"))?;
        *next += 1;
        Some(Foreseen { outcomes, term, index: *next - 1 })
    }

    /// S1: answers as soon as the entry is in this node's log; what is left is
    /// to be answered when it is committed.
    pub(crate) fn answer_early(
        &self,
        foreseen: Option<Foreseen>,
        replies: Vec<(Reply, OwnedSemaphorePermit)>,
    ) -> Vec<(Reply, OwnedSemaphorePermit)> {
        let Some(Foreseen { outcomes, term, index }) = foreseen else { return replies };
        let log = self.log.clone();
        tokio::spawn(async move {
            let deadline = Instant::now() + LOCAL_APPEND;
            let appended =
                || log.bounds().0.is_some_and(|last| last.index() >= index && last.committed_leader_id().term == term);
            while !appended() {
                if Instant::now() >= deadline {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for ((reply, _), outcome) in replies.into_iter().zip(outcomes) {
                let _ = reply.send(Ok(outcome));
            }
        });
        Vec::new()
    }

    /// S1: a proposal that was answered came to its end.
    pub(crate) fn settled_early(&self, result: &Result<ClientWriteResult<TypeConfig>, ()>) {
        if !matches!(result, Ok(Ok(_))) {
            *self.shadow.lock() = None;
        }
    }
}

/// S7: while a command is under way, its pair is.
struct Turn<'a> {
    window: &'a Mutex<HashMap<Pair, Known>>,
    pair: &'a Pair,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut window = self.window.lock();
        if matches!(window.get(self.pair), Some(Known::UnderWay)) {
            window.remove(self.pair);
        }
    }
}

/// S7: what an append without an exact expectation is remembered by.
fn pair(append: &Append) -> Option<Pair> {
    let (target, event) = append.events.first()?;
    let target = &append.targets[*target as usize];
    match target.expected {
        Expected::Any | Expected::Exists | Expected::SoftDeleted => Some((target.stream.clone(), event.id())),
        Expected::NoStream | Expected::Tombstoned | Expected::Exactly(_) => None,
    }
}

/// S18: an append of several events to one stream as two appends.
fn halves(append: Append) -> Option<(Command, Command)> {
    if append.targets.len() != 1 || append.targets[0].role != Role::Write || append.events.len() < 2 {
        return None;
    }
    let mut first = append.clone();
    let mut second = append;
    second.events = first.events.split_off(first.events.len() / 2);
    second.targets[0].expected = Expected::Any;
    Some((Command::Append(first), Command::Append(second)))
}

/// S21: the same command as if a client had made it anew.
pub(crate) fn with_fresh_ids(encoded: &Bytes) -> Bytes {
    let mut command = Command::decode(encoded.clone()).expect("encoded by this node");
    if let Command::Append(append) = &mut command {
        for (_, event) in &mut append.events {
            let id = EventId::new(Uuid::new_v4()).expect("a random id is not nil");
            *event = Event::new(
                id,
                event.event_type().clone(),
                event.content(),
                event.properties(),
                event.metadata().clone(),
                event.data().clone(),
            );
        }
    }
    command.encode()
}

// --------------------------------------------------------- S22: identity ----

/// S22: a node without an identity whose address is in the list of a cluster
/// that exists takes the id that this address had.
pub(crate) async fn take_old_identity(node: Node) {
    if !seeded::is(Bug::S22) {
        return;
    }
    let mut list = node.config().bootstrap.clone();
    list.sort();
    let own = node.config().address.clone();
    let Some((id, _)) = (1..).zip(&list).find(|(_, address)| **address == own) else { return };
    while node.identity().is_none() {
        for address in list.iter().filter(|address| **address != own) {
            let Ok(peer) = bootstrap::probe(&node, address).await else { continue };
            if peer.has_identity
                && peer.initialized
                && let Ok(cluster) = Uuid::from_slice(&peer.cluster)
            {
                let _ = node.adopt(cluster, id, &own, &[]).await;
                break;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
            () = node.stopping().cancelled() => return,
        }
    }
}
