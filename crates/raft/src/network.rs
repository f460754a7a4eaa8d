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

mod appends;
mod channels;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_proto::annals::internal::v1 as pb;
use annals_proto::annals::internal::v1::replication_client::ReplicationClient;
use futures::stream::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::codec;
use crate::identity::{self, Identity, REMOVED_HEADER};
use crate::ledger::Ledger;
use crate::observer::Observer;
use crate::peer_memory::{PeerMemory, Unacceptable};
use crate::snapshot::{SnapshotData, Transfers};
use crate::state_machine::Snapshot;
use crate::types::{NodeInfo, TypeConfig, Vote};

pub(crate) use appends::append_stream;
use channels::CONNECT;
pub(crate) use channels::{Channels, Purpose};

/// The largest message between nodes: the largest append, as one entry, with
/// some room. Peers are trusted with it, clients never reach these services.
pub const MESSAGE_BYTES_MAX: usize = 320 * 1024 * 1024;

/// How long a follower that catches up may be silent: preparing and finishing
/// flush a database.
const SNAPSHOT_SILENCE: Duration = Duration::from_secs(120);

pub(crate) type RpcError = RPCError<TypeConfig>;

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
