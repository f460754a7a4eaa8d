//! Calls to peers.
//!
//! Appends of one peer travel over one long-lived stream, so that the leader
//! may send the next while earlier ones are still on their way to disk.
//! Heartbeats, votes, snapshots and everything between applications have
//! connections of their own: a large entry must not hold up a heartbeat.
//!
//! A dead peer is noticed by HTTP/2 pings, a stuck one by requests that stay
//! unanswered; both end the stream, and the consensus library begins another
//! one after a pause.
//!
//! Two kinds of answers never reach the consensus library: those of a peer that
//! runs on an outdated copy of its disk ([`crate::peer_memory`]), and those by
//! which a follower takes back what it acknowledged ([`crate::ledger`]). The
//! peer is told, and ends itself.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::seeded;
use annals_proto::annals::internal::v1 as pb;
use annals_proto::annals::internal::v1::coordination_client::CoordinationClient;
use annals_proto::annals::internal::v1::replication_client::ReplicationClient;
use futures::stream::{self, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::codec;
use crate::identity::{self, Identity, REMOVED_HEADER};
use crate::ledger::Ledger;
use crate::observer::Observer;
use crate::peer_memory::{PeerMemory, Unacceptable};
use crate::snapshot::{SnapshotData, Transfers};
use crate::state_machine::Snapshot;
use crate::transport::Connect;
use crate::types::{LogId, NodeInfo, TypeConfig, Vote};

/// The largest message between nodes: the largest append, as one entry, with
/// some room. Peers are trusted with it, clients never reach these services.
pub const MESSAGE_BYTES_MAX: usize = 320 * 1024 * 1024;

const CONNECT: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_ANSWER: Duration = Duration::from_secs(3);

/// How long a follower may take to make an append durable. Disks stall for
/// seconds now and then; a stream that is given up has to find its place again.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a follower that catches up may be silent: preparing and finishing
/// flush a database.
const SNAPSHOT_SILENCE: Duration = Duration::from_secs(120);

/// Appends that are encoded and not yet sent.
const PIPELINE: usize = 16;

pub(crate) type RpcError = RPCError<TypeConfig>;

/// What a connection is for. Each has its own, per peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Entries,
    Heartbeats,
    Snapshots,
    Coordination,
}

/// Connections to peers, made when first used and again when broken.
pub(crate) struct Channels {
    connect: Arc<dyn Connect>,
    channels: Mutex<HashMap<(String, Purpose), Channel>>,
}

impl Channels {
    pub(crate) fn new(connect: Arc<dyn Connect>) -> Self {
        Channels { connect, channels: Mutex::default() }
    }

    /// The connection to an address. Nothing is sent yet.
    ///
    /// # Errors
    /// Where the address is none.
    pub(crate) fn get(&self, address: &str, purpose: Purpose) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(address.to_owned(), purpose)) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(8 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024);
        let channel = self.connect.connect(endpoint);
        channels.insert((address.to_owned(), purpose), channel.clone());
        Ok(channel)
    }

    /// A client of a node's coordination.
    pub(crate) fn coordination(&self, address: &str) -> Result<CoordinationClient<Channel>, Status> {
        let channel =
            self.get(address, Purpose::Coordination).map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(CoordinationClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A client of a node's replication.
    pub(crate) fn replication(&self, address: &str, purpose: Purpose) -> Result<ReplicationClient<Channel>, Status> {
        let channel = self.get(address, purpose).map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(ReplicationClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

/// What all connections of this node share.
pub(crate) struct Dialer {
    pub(crate) identity: Identity,
    /// Where this node's records can be pulled.
    pub(crate) address: String,
    pub(crate) channels: Arc<Channels>,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Set when a peer says that this node was removed.
    pub(crate) removed: watch::Sender<bool>,
    /// Set when a peer shows that this node runs on an outdated copy: why.
    pub(crate) outdated: watch::Sender<Option<String>>,
    pub(crate) memory: PeerMemory,
    pub(crate) ledger: Ledger,
}

/// What a node is told that runs on an outdated copy of its disk.
pub(crate) fn outdated_copy(node: u64, evidence: &str) -> String {
    format!(
        "this node runs on an outdated copy of its disk: {evidence}. It may have lost entries that it acknowledged, \
         so remove node {node} from the cluster and join it again as a new one (empty data directory), \
         or give it back the disk that it had"
    )
}

/// Makes a [`Peer`] for whoever the consensus library wants to talk to.
#[derive(Clone)]
pub(crate) struct Network {
    dialer: Arc<Dialer>,
}

impl Network {
    pub(crate) fn new(dialer: Arc<Dialer>) -> Self {
        Network { dialer }
    }

    fn peer(&self, id: u64, node: &NodeInfo, purpose: Purpose) -> Peer {
        Peer { dialer: self.dialer.clone(), id, node: node.clone(), purpose }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Peer {
        self.peer(target, node, Purpose::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeInfo) -> Peer {
        self.peer(target, node, Purpose::Heartbeats)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &NodeInfo) -> Peer {
        self.peer(target, node, Purpose::Snapshots)
    }
}

/// One peer, for one purpose.
pub(crate) struct Peer {
    dialer: Arc<Dialer>,
    id: u64,
    node: NodeInfo,
    purpose: Purpose,
}

impl Peer {
    fn client(&self) -> Result<ReplicationClient<Channel>, RpcError> {
        self.dialer.channels.replication(&self.node.address, self.purpose).map_err(|status| self.failed(status))
    }

    fn sign<T>(&self, message: T) -> Request<T> {
        self.dialer.identity.sign(self.id, &self.node, message)
    }

    fn failed(&self, status: Status) -> RpcError {
        self.dialer.observer.peer_call_failed(self.id);
        if status.metadata().contains_key(REMOVED_HEADER) {
            self.dialer.removed.send_replace(true);
        }
        // Seen for itself: a refusal may be meant for an earlier process.
        if let Some(boot) = identity::missed_boot(status.metadata())
            && !self.dialer.identity.lineage.holds(&boot)
        {
            let evidence = format!("node {} remembers its start {boot}, of which it knows nothing", self.id);
            self.dialer.outdated.send_replace(Some(outdated_copy(self.dialer.identity.node, &evidence)));
        }
        // "Unreachable" makes the library pause before it tries again, which
        // is right for all of these: none goes away within microseconds.
        RpcError::Unreachable(Unreachable::from_string(format!("node {} at {}: {status}", self.id, self.node.address)))
    }

    async fn call<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RpcError> {
        let started = Instant::now();
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => {
                self.dialer.observer.peer_round_trip(self.id, started.elapsed());
                let lineage = identity::lineage(response.metadata());
                match self.dialer.memory.meet(self.id, &lineage).await {
                    Ok(()) => Ok(response.into_inner()),
                    Err(unacceptable) => Err(self.unacceptable(&unacceptable)),
                }
            }
            Ok(Err(status)) => Err(self.failed(status)),
            Err(_) => Err(self.failed(Status::deadline_exceeded(format!("no answer within {limit:?}")))),
        }
    }

    fn unacceptable(&self, why: &Unacceptable) -> RpcError {
        match why {
            Unacceptable::Outdated { boot, .. } => {
                let missing_boot = boot.to_string();
                self.accuse(&why.to_string(), pb::RetireRequest { missing_boot, ..pb::RetireRequest::default() });
            }
            Unacceptable::Unwritten(_) => tracing::error!(peer = self.id, "{why}"),
        }
        self.failed(Status::failed_precondition(why.to_string()))
    }

    /// Says in the log what is wrong with this peer, and tells the peer.
    fn accuse(&self, why: &str, accusation: pb::RetireRequest) {
        if !self.dialer.memory.is_news(self.id) {
            return;
        }
        tracing::error!(peer = self.id, "{why}");
        self.dialer.observer.peer_outdated(self.id);
        let (request, channels, address) =
            (self.sign(accusation), self.dialer.channels.clone(), self.node.address.clone());
        // Nothing depends on it: it is told again, or told when it asks for votes.
        tokio::spawn(async move {
            if let Ok(mut client) = channels.coordination(&address) {
                let _ = tokio::time::timeout(CONNECT * 2, client.retire(request)).await;
            }
        });
    }

    /// Offers the snapshot and waits until the follower has installed it.
    async fn offer(&mut self, offer: pb::SnapshotOffer, included: u64) -> Result<Vote, RpcError> {
        let mut client = self.client()?;
        let answers = self.call(CONNECT * 5, client.offer_snapshot(self.sign(offer))).await?;
        installed(self, &self.dialer.transfers, included, answers).await
    }
}

/// What is told of the calls to one peer.
pub(crate) trait Calls: Sync {
    /// A call failed; answers what to tell the consensus library.
    fn failed(&self, status: Status) -> RpcError;
    /// A call was answered.
    fn answered(&self, after: Duration);
    /// What followers acknowledged, and which of them this peer is.
    fn ledger(&self) -> (&Ledger, u64);
    /// The peer says that it has not the entry at `missing`, although it had
    /// acknowledged everything up to `acknowledged`; answers what to tell the
    /// consensus library.
    fn lost(&self, missing: u64, acknowledged: u64) -> RpcError {
        let why = format!("entry {missing} is gone, of {acknowledged} that were acknowledged");
        self.failed(Status::data_loss(why))
    }
}

impl Calls for Peer {
    fn failed(&self, status: Status) -> RpcError {
        Peer::failed(self, status)
    }

    fn answered(&self, after: Duration) {
        self.dialer.observer.peer_round_trip(self.id, after);
    }

    fn ledger(&self) -> (&Ledger, u64) {
        (&self.dialer.ledger, self.id)
    }

    fn lost(&self, missing: u64, acknowledged: u64) -> RpcError {
        let id = self.id;
        let why = format!(
            "node {id} lost entries that it had acknowledged: it has not the entry {missing}, of {acknowledged}. \
             Remove node {id} from the cluster and join it again as a new one (empty data directory)"
        );
        let missing_entries = format!(
            "the leader, node {}, has its acknowledgement of entry {acknowledged}, but it has \
             not entry {missing}",
            self.dialer.identity.node
        );
        let boot = self.dialer.memory.newest(id).map(|boot| boot.to_string()).unwrap_or_default();
        self.accuse(&why, pb::RetireRequest { missing_entries, boot, ..pb::RetireRequest::default() });
        self.failed(Status::data_loss(why))
    }
}

/// Waits until a follower that was offered a snapshot has installed it.
pub(crate) async fn installed(
    calls: &impl Calls,
    transfers: &Arc<Transfers>,
    included: u64,
    mut answers: impl Stream<Item = Result<pb::SnapshotProgress, Status>> + Unpin,
) -> Result<Vote, RpcError> {
    let transfer = transfers.begin(included);
    loop {
        let progress = match tokio::time::timeout(SNAPSHOT_SILENCE, answers.next()).await {
            Ok(Some(Ok(progress))) => progress,
            Ok(None) => return Err(calls.failed(Status::unavailable("the catch-up ended without a result"))),
            Ok(Some(Err(status))) => return Err(calls.failed(status)),
            Err(_) => return Err(calls.failed(Status::deadline_exceeded("the catch-up fell silent"))),
        };
        if !progress.result.is_empty() {
            transfer.succeeded();
            return codec::decode_vote(&progress.result).map_err(|error| unreadable(&error));
        }
    }
}

pub(crate) fn unreadable(error: &codec::CodecError) -> RpcError {
    RpcError::Unreachable(Unreachable::from_string(format!("an answer could not be read: {error}")))
}

/// The pauses between calls to a peer that fail.
pub(crate) fn pauses() -> Backoff {
    // Short at first: after an election the new leader often finds a peer that
    // is just coming up. Never longer than a follower's patience.
    let first = [50, 100, 200, 400].map(Duration::from_millis);
    Backoff::new(first.into_iter().chain(std::iter::repeat(Duration::from_millis(500))))
}

impl NetBackoff<TypeConfig> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        Some(pauses())
    }
}

impl NetVote<TypeConfig> for Peer {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let message = self.sign(pb::Message { body: codec::encode_vote_request(&request) });
        let answer = self.call(option.soft_ttl(), client.vote(message)).await?;
        codec::decode_vote_response(&answer.body).map_err(|error| unreadable(&error))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let message = self.sign(pb::Message { body: codec::encode_vote_request(&request) });
        let answer = self.call(option.soft_ttl(), client.pre_vote(message)).await?;
        codec::decode_vote_response(&answer.body).map_err(|error| unreadable(&error))
    }
}

impl NetTransferLeader<TypeConfig> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let mut client = self.client()?;
        let message = self.sign(pb::Message { body: codec::encode_transfer_request(&request) });
        let answer = self.call(option.hard_ttl().max(CONNECT), client.transfer_leader(message)).await?;
        codec::decode_transfer_answer(&answer.body).map_err(|error| unreadable(&error))
    }
}

impl NetSnapshot<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Pointer { position, residue } = snapshot.snapshot else {
            return Err(StreamingError::Network(NetworkError::from_string("only a current snapshot can be offered")));
        };
        let included = crate::types::index_of(snapshot.meta.last_log_id.as_ref());
        let offer = pb::SnapshotOffer {
            vote: codec::encode_vote(&vote),
            meta: codec::encode_snapshot_meta(&snapshot.meta),
            position,
            residue,
            address: self.dialer.address.clone(),
        };
        let dialer = self.dialer.clone();
        let observer = &dialer.observer;
        let id = self.id;
        let result = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            result = self.offer(offer, included) => result,
        };
        observer.catch_up_sent(id, result.is_ok());
        match result {
            Ok(accepted) => {
                if accepted == vote {
                    dialer.ledger.note(id, &vote, included);
                }
                Ok(SnapshotResponse::new(accepted))
            }
            Err(RpcError::Timeout(error)) => Err(StreamingError::Timeout(error)),
            Err(RpcError::Unreachable(error)) => Err(StreamingError::Unreachable(error)),
            Err(RpcError::Network(error)) => Err(StreamingError::Network(error)),
        }
    }
}

impl NetStreamAppend<TypeConfig> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let peer = &*self;
        Box::pin(append_stream(peer, input, async move |requests| {
            let mut client = peer.client()?;
            peer.call(CONNECT, client.append(peer.sign(requests))).await
        }))
    }
}

/// Sends the requests of `input` over a stream that `open` opens, and hands
/// out the answers.
pub(crate) async fn append_stream<'s, S, A>(
    calls: &'s impl Calls,
    mut input: S,
    open: impl AsyncFnOnce(ReceiverStream<pb::AppendRequest>) -> Result<A, RpcError>,
) -> Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    A: Stream<Item = Result<pb::AppendResponse, Status>> + Send + Unpin + 's,
{
    // The library's pause after a failure is in this stream: a session that
    // fails before it asks for a request would begin again at once, thousands
    // of times in a second.
    let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
    let asked = VecDeque::from([Asked::from(&first)]);
    let (header, entries) = codec::encode_append(&first);
    let (requests, outgoing) = mpsc::channel(PIPELINE);
    let answers = open(ReceiverStream::new(outgoing)).await?;
    let session = Session {
        calls,
        input: Some(input),
        requests: Some(requests),
        next: Some(pb::AppendRequest { header, entries }),
        answers,
        leadership: first.vote,
        asked,
        unanswered: VecDeque::new(),
        waiting_since: tokio::time::Instant::now(),
    };
    let answers = stream::unfold(Some(session), |session| async move {
        let mut session = session?;
        let answer = session.next_answer().await?;
        // After anything but a plain success the stream is over.
        let session = matches!(answer, Ok(Ok(_))).then_some(session);
        Some((answer, session))
    });
    Ok(answers.boxed())
}

/// What a request is about.
struct Asked {
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl From<&AppendEntriesRequest<TypeConfig>> for Asked {
    fn from(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        Asked { previous: request.prev_log_id, last }
    }
}

/// One stream of appends to one peer.
///
/// The consensus library takes an answer for one to every request that it covers,
/// also to those that were made after the answer was on its way: a request without
/// entries right behind one with some. To such a request the answer says nothing,
/// but the library would believe that the peer followed it when the request was
/// made, and let a leader that was replaced meanwhile read what is no longer true
/// (its time of the last confirmation is that of the request). So an answer is held
/// back, and left out, where a later request is under way that it would seem to
/// answer too: what the peer says to that one covers both.
///
/// The input is polled from here rather than from a task of its own, so that
/// it is gone as soon as the session is: the next session waits for a lock
/// that the input holds.
struct Session<'s, C, S, A> {
    calls: &'s C,
    input: Option<S>,
    requests: Option<mpsc::Sender<pb::AppendRequest>>,
    next: Option<pb::AppendRequest>,
    answers: A,
    leadership: Vote,
    /// The requests that the library made and that have no answer.
    asked: VecDeque<Asked>,
    /// For each of these that was sent, what had been acknowledged then.
    unanswered: VecDeque<Option<u64>>,
    waiting_since: tokio::time::Instant,
}

impl<C, S, A> Session<'_, C, S, A>
where
    C: Calls,
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
    A: Stream<Item = Result<pb::AppendResponse, Status>> + Unpin,
{
    async fn next_answer(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        loop {
            let late = self.waiting_since + ANSWER;
            tokio::select! {
                // Answers first: they commit what clients wait for.
                biased;
                answer = self.answers.next() => match self.answered(answer) {
                    Some(Ok(Ok(matched))) if self.seems_to_answer_more(matched.as_ref()) => {}
                    answer => return answer,
                },
                permit = reserve(self.requests.clone()), if self.next.is_some() => {
                    match (permit, self.next.take()) {
                        (Some(permit), Some(request)) => {
                            if self.unanswered.is_empty() {
                                self.waiting_since = tokio::time::Instant::now();
                            }
                            let (ledger, peer) = self.calls.ledger();
                            self.unanswered.push_back(ledger.acknowledged(peer, &self.leadership));
                            drop(permit.send(request));
                        }
                        // The transport let go of its end; its error follows
                        // as an answer.
                        _ => { self.input = None; self.requests = None; }
                    }
                }
                request = next_of(&mut self.input), if self.next.is_none() && self.input.is_some() => {
                    match request {
                        Some(request) => {
                            self.asked.push_back(Asked::from(&request));
                            let (header, entries) = codec::encode_append(&request);
                            self.next = Some(pb::AppendRequest { header, entries });
                        }
                        None => { self.input = None; self.requests = None; }
                    }
                }
                () = tokio::time::sleep_until(late), if !self.unanswered.is_empty() => {
                    let status = Status::deadline_exceeded(format!("an append was not answered within {ANSWER:?}"));
                    return Some(Err(self.calls.failed(status)));
                }
            }
        }
    }

    fn answered(
        &mut self,
        answer: Option<Result<pb::AppendResponse, Status>>,
    ) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        match answer {
            Some(Ok(answer)) => {
                self.calls.answered(self.waiting_since.elapsed());
                let acknowledged = self.unanswered.pop_front().flatten();
                self.asked.pop_front();
                self.waiting_since = tokio::time::Instant::now();
                Some(match codec::decode_append_answer(&answer.body) {
                    Ok(answer) => self.weighed(answer, acknowledged),
                    Err(error) => Err(unreadable(&error)),
                })
            }
            None if self.unanswered.is_empty() => None,
            None => Some(Err(self.calls.failed(Status::unavailable("the stream ended with appends unanswered")))),
            Some(Err(status)) => Some(Err(self.calls.failed(status))),
        }
    }
}

impl<C: Calls, S, A> Session<'_, C, S, A> {
    /// Whether the library would take this answer for one to a later request too.
    fn seems_to_answer_more(&self, matched: Option<&LogId>) -> bool {
        self.asked.front().is_some_and(|next| next.last.as_ref() <= matched || next.previous.as_ref() < matched)
    }

    /// The answer, unless it takes back what was acknowledged before its
    /// request was sent.
    fn weighed(
        &self,
        answer: StreamAppendResult<TypeConfig>,
        acknowledged: Option<u64>,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        match &answer {
            Ok(Some(matched)) => {
                let (ledger, peer) = self.calls.ledger();
                ledger.note(peer, &self.leadership, matched.index());
            }
            Err(StreamAppendError::Conflict(missing)) => {
                if let Some(acknowledged) = acknowledged.filter(|acknowledged| missing.index() <= *acknowledged)
                    && !seeded::breaks_promises()
                {
                    return Err(self.calls.lost(missing.index(), acknowledged));
                }
            }
            Ok(None) | Err(StreamAppendError::HigherVote(_)) => {}
        }
        Ok(answer)
    }
}

async fn reserve(requests: Option<mpsc::Sender<pb::AppendRequest>>) -> Option<mpsc::OwnedPermit<pb::AppendRequest>> {
    requests?.reserve_owned().await.ok()
}

async fn next_of<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    input.as_mut()?.next().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Entry;

    const FOLLOWER: u64 = 2;

    /// A follower of whom one thing is to be known: whether it lost something.
    #[derive(Default)]
    struct Follower {
        ledger: Ledger,
        lost: Mutex<Option<(u64, u64)>>,
    }

    impl Calls for Follower {
        fn failed(&self, status: Status) -> RpcError {
            RpcError::Unreachable(Unreachable::from_string(status.to_string()))
        }

        fn answered(&self, _: Duration) {}

        fn ledger(&self) -> (&Ledger, u64) {
            (&self.ledger, FOLLOWER)
        }

        fn lost(&self, missing: u64, acknowledged: u64) -> RpcError {
            *self.lost.lock() = Some((missing, acknowledged));
            self.failed(Status::data_loss("lost"))
        }
    }

    fn leadership() -> Vote {
        Vote::new_committed(1, 1)
    }

    fn entry(index: u64) -> LogId {
        LogId::new(crate::types::LeaderId { term: 1, node_id: 1 }, index)
    }

    fn after(index: u64) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: leadership(),
            prev_log_id: Some(entry(index)),
            entries: Vec::new(),
            leader_commit: None,
        }
    }

    fn answer(answer: &StreamAppendResult<TypeConfig>) -> Result<pb::AppendResponse, Status> {
        Ok(pb::AppendResponse { body: codec::encode_append_answer(answer) })
    }

    /// Sends one request; `before` happens when it was sent, then it is
    /// answered.
    async fn answered(
        follower: &Follower,
        given: StreamAppendResult<TypeConfig>,
        before: impl FnOnce(),
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let (answers, coming) = mpsc::channel(1);
        let (sent, mut arrived) = mpsc::channel(1);
        let input = stream::iter([after(5)]).chain(stream::pending());
        let mut session = append_stream(follower, input, async move |mut requests: ReceiverStream<_>| {
            tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    sent.send(request).await.expect("somebody waits for it");
                }
            });
            Ok(ReceiverStream::new(coming))
        })
        .await
        .expect("opened");
        let mut next = session.next();
        tokio::select! {
            biased;
            _ = &mut next => panic!("there is no answer yet"),
            request = arrived.recv() => assert!(request.is_some()),
        }
        before();
        answers.send(answer(&given)).await.expect("somebody waits for it");
        next.await.expect("an answer")
    }

    #[tokio::test]
    async fn a_follower_that_takes_back_what_it_acknowledged_never_reaches_the_library() {
        let follower = Follower::default();
        let matched = answered(&follower, Ok(Some(entry(7))), || {}).await;
        assert_eq!(matched.expect("a plain answer"), Ok(Some(entry(7))));
        let conflict = answered(&follower, Err(StreamAppendError::Conflict(entry(5))), || {}).await;
        assert!(conflict.is_err(), "{conflict:?}");
        assert_eq!(*follower.lost.lock(), Some((5, 7)));
    }

    fn with_entries(from: u64, to: u64) -> AppendEntriesRequest<TypeConfig> {
        let entry = |index| Entry { log_id: entry(index), payload: openraft::EntryPayload::Blank };
        AppendEntriesRequest { entries: (from..=to).map(entry).collect(), ..after(from - 1) }
    }

    /// What reaches the library when the peer answers these requests in order, all
    /// of which were made before the first answer was taken.
    async fn told(requests: Vec<AppendEntriesRequest<TypeConfig>>, given: &[u64]) -> Vec<u64> {
        let follower = Follower::default();
        let (answers, coming) = mpsc::channel(8);
        let (sent, mut arrived) = mpsc::channel(8);
        let count = requests.len();
        let input = stream::iter(requests).chain(stream::pending());
        let mut session = append_stream(&follower, input, async move |mut requests: ReceiverStream<_>| {
            tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    sent.send(request).await.expect("somebody waits for it");
                }
            });
            Ok(ReceiverStream::new(coming))
        })
        .await
        .expect("opened");
        let mut next = session.next();
        for _ in 0..count {
            tokio::select! {
                biased;
                _ = &mut next => panic!("there is no answer yet"),
                request = arrived.recv() => assert!(request.is_some()),
            }
        }
        for index in given {
            answers.send(answer(&Ok(Some(entry(*index))))).await.expect("somebody waits for it");
        }
        drop(answers);
        let mut told = Vec::new();
        while let Some(Ok(Ok(Some(matched)))) = next.await {
            told.push(matched.index());
            next = session.next();
        }
        told
    }

    #[tokio::test]
    async fn an_answer_is_never_taken_for_one_to_a_request_without_entries_behind_it() {
        let requests = vec![with_entries(6, 7), after(7), after(7), with_entries(8, 9)];
        assert_eq!(told(requests, &[7]).await, [0; 0], "two requests are open that end where it matched");
        let requests = vec![with_entries(6, 7), after(7), after(7), with_entries(8, 9)];
        assert_eq!(told(requests, &[7, 7, 7, 9]).await, [7, 9]);
    }

    #[tokio::test]
    async fn every_answer_to_requests_with_entries_is_told() {
        let requests = vec![with_entries(6, 7), with_entries(8, 8), with_entries(9, 12)];
        assert_eq!(told(requests, &[7, 8, 12]).await, [7, 8, 12]);
    }

    #[tokio::test]
    async fn a_conflict_that_was_overtaken_by_an_acknowledgement_is_no_loss() {
        let follower = Follower::default();
        let meanwhile = || follower.ledger.note(FOLLOWER, &leadership(), 9);
        let conflict = answered(&follower, Err(StreamAppendError::Conflict(entry(5))), meanwhile).await;
        assert_eq!(conflict.expect("a plain answer"), Err(StreamAppendError::Conflict(entry(5))));
        assert_eq!(*follower.lost.lock(), None);
    }
}
