//! Calls between simulated machines.
//!
//! What the transport of [`crate::network`] does, without bytes on a wire:
//! a message takes time, arrives in the order of its stream, waits where a
//! link is cut and arrives when it is healed, or never, when the connection
//! breaks meanwhile. A call outlives its caller: what was sent arrives even if
//! nobody waits for the answer any more.
//!
//! The messages, their encodings, the identities they carry and who is
//! admitted by them, the pipeline of appends and the life of a snapshot offer
//! are the real ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use annals_proto::annals::internal::v1 as pb;
use futures::future::BoxFuture;
use futures::stream::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::BoxStream;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::node::SimulatedNode;
use super::runtime::Process;
use super::store::SimulatedCatchUp;
use super::world::World;
use crate::admin::Peers;
use crate::codec;
use crate::identity::{Identity, REMOVED_HEADER};
use crate::ledger::Ledger;
use crate::network::{Calls, RpcError, append_stream, installed, pauses, unreadable};
use crate::snapshot::{Chunks, SnapshotData, Source, Transfers};
use crate::state_machine::Snapshot;
use crate::types::{NodeInfo, TypeConfig, Vote};

/// Messages of one stream that may be on their way.
const ON_THE_WAY: usize = 64;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);

/// The address of a machine.
pub(crate) fn address(host: u64) -> String {
    format!("h{host}:1")
}

/// The machine at an address.
pub(crate) fn host_at(address: &str) -> Option<u64> {
    address.strip_prefix('h')?.strip_suffix(":1")?.parse().ok()
}

/// Has the node at `to` carry something out, and waits for what it answers.
///
/// # Errors
/// What the node answers, or that it cannot be known: what was asked may have
/// been carried out, may be under way, may still arrive.
pub(crate) async fn call<T: Send + 'static>(
    world: &Arc<World>,
    from: u64,
    to: &str,
    what: &'static str,
    carry_out: impl FnOnce(Arc<SimulatedNode>) -> BoxFuture<'static, Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    let to = host_at(to).ok_or_else(|| Status::unavailable("no such address"))?;
    let (reply, answer) = oneshot::channel();
    let way = world.clone();
    tokio::spawn(async move {
        let result = deliver(&way, from, to, what, carry_out).await;
        if way.travel(to, from, way.arrival(to, from)).await.is_ok() {
            let _ = reply.send(result);
        }
    });
    answer.await.unwrap_or_else(|_| Err(Status::unavailable("the connection broke")))
}

async fn deliver<T: Send + 'static>(
    world: &Arc<World>,
    from: u64,
    to: u64,
    what: &'static str,
    carry_out: impl FnOnce(Arc<SimulatedNode>) -> BoxFuture<'static, Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    world.travel(from, to, world.arrival(from, to)).await?;
    world.note(format_args!("h{from} -> h{to} {what}"));
    let node = world.node(to).ok_or_else(|| Status::unavailable(REFUSED))?;
    let (reply, result) = oneshot::channel();
    node.process.clone().spawn(async move {
        let _ = reply.send(carry_out(node).await);
    });
    result.await.unwrap_or_else(|_| Err(Status::unavailable("the connection broke")))
}

/// The message of a call that reached nobody: certainly not carried out.
pub(crate) const REFUSED: &str = "the connection was refused";

/// What is sent into a stream, as it comes out at the other end. It ends with
/// an error if the connection breaks or the process that sends ends.
fn stream<T: Send + 'static>(
    world: &Arc<World>,
    from: u64,
    to: u64,
    what: &'static str,
    sender: Option<Arc<Process>>,
    mut input: impl Stream<Item = T> + Send + Unpin + 'static,
) -> ReceiverStream<Result<T, Status>> {
    let (out, output) = mpsc::channel(ON_THE_WAY);
    let world = world.clone();
    tokio::spawn(async move {
        let mut on_the_way: VecDeque<(Instant, T)> = VecDeque::new();
        let mut ended = false;
        let mut last = Instant::now();
        loop {
            let next = on_the_way.front().map(|(at, _)| *at);
            tokio::select! {
                biased;
                () = out.closed() => return,
                item = input.next(), if !ended && on_the_way.len() < ON_THE_WAY => match item {
                    Some(item) => {
                        // Nothing overtakes within a stream.
                        last = last.max(world.arrival(from, to));
                        on_the_way.push_back((last, item));
                    }
                    None => ended = true,
                },
                () = tokio::time::sleep_until(next.unwrap_or(last)), if next.is_some() => {
                    let Some((at, item)) = on_the_way.pop_front() else { continue };
                    if let Err(status) = world.travel(from, to, at).await {
                        let _ = out.send(Err(status)).await;
                        return;
                    }
                    world.note(format_args!("h{from} ~> h{to} {what}"));
                    if out.send(Ok(item)).await.is_err() {
                        return;
                    }
                }
            }
            if ended && on_the_way.is_empty() {
                if sender.as_ref().is_some_and(|sender| sender.is_over()) {
                    let _ = out.send(Err(Status::unavailable("the connection broke"))).await;
                }
                return;
            }
        }
    });
    ReceiverStream::new(output)
}

fn flat<T>(item: Result<Result<T, Status>, Status>) -> Result<T, Status> {
    item.and_then(|item| item)
}

/// What all calls of one node share.
pub(crate) struct Dialer {
    pub(crate) world: Arc<World>,
    pub(crate) host: u64,
    pub(crate) identity: Identity,
    pub(crate) transfers: Arc<Transfers>,
    /// Set when a peer says that this node was removed.
    pub(crate) removed: watch::Sender<bool>,
    pub(crate) ledger: Ledger,
}

/// Makes a [`Peer`] for whoever the consensus library wants to talk to.
pub(crate) struct Network(pub(crate) Arc<Dialer>);

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Peer {
        Peer { dialer: self.0.clone(), id: target, node: node.clone() }
    }
}

/// One peer.
pub(crate) struct Peer {
    dialer: Arc<Dialer>,
    id: u64,
    node: NodeInfo,
}

impl Calls for Peer {
    fn failed(&self, status: Status) -> RpcError {
        if status.metadata().contains_key(REMOVED_HEADER) {
            self.dialer.removed.send_replace(true);
        }
        RPCError::Unreachable(Unreachable::from_string(format!("node {}: {status}", self.id)))
    }

    fn answered(&self, _: Duration) {}

    fn ledger(&self) -> (&Ledger, u64) {
        (&self.dialer.ledger, self.id)
    }
}

impl Peer {
    fn headers(&self) -> MetadataMap {
        self.dialer.identity.sign(self.id, &self.node, ()).into_parts().0
    }

    fn host(&self) -> u64 {
        host_at(&self.node.address).unwrap_or(0)
    }

    async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        what: &'static str,
        carry_out: impl FnOnce(Arc<SimulatedNode>) -> BoxFuture<'static, Result<T, Status>> + Send + 'static,
    ) -> Result<T, RpcError> {
        let Dialer { world, host, .. } = &*self.dialer;
        match tokio::time::timeout(limit, call(world, *host, &self.node.address, what, carry_out)).await {
            Ok(result) => result.map_err(|status| self.failed(status)),
            Err(_) => Err(self.failed(Status::deadline_exceeded(format!("no answer within {limit:?}")))),
        }
    }

    async fn ask_for_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        limit: Duration,
        pre: bool,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let Dialer { world, host, .. } = &*self.dialer;
        let body = codec::encode_vote_request(&request);
        let what = if pre { "pre-vote" } else { "vote" };
        let (headers, again) = (self.headers(), self.headers());
        if world.random(|random| random.chance(world.plan.twice)) {
            let (world, host, to, body) = (world.clone(), *host, self.node.address.clone(), body.clone());
            tokio::spawn(async move {
                let _ = call(&world, host, &to, what, move |node| {
                    Box::pin(async move { node.serve_vote(&again, &body, pre).await })
                })
                .await;
            });
        }
        let answer = self
            .call(limit, what, move |node| Box::pin(async move { node.serve_vote(&headers, &body, pre).await }))
            .await?;
        codec::decode_vote_response(&answer).map_err(|error| unreadable(&error))
    }
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
        self.ask_for_vote(request, option.soft_ttl(), false).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_for_vote(request, option.soft_ttl(), true).await
    }
}

impl NetTransferLeader<TypeConfig> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let (headers, body) = (self.headers(), codec::encode_transfer_request(&request));
        let limit = option.hard_ttl().max(CONNECT);
        let answer = self
            .call(limit, "transfer", move |node| Box::pin(async move { node.serve_transfer(&headers, &body).await }))
            .await?;
        codec::decode_transfer_answer(&answer).map_err(|error| unreadable(&error))
    }
}

impl NetStreamAppend<TypeConfig> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> openraft::base::BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let peer = &*self;
        Box::pin(append_stream(peer, input, async move |requests: ReceiverStream<pb::AppendRequest>| {
            let Dialer { world, host, .. } = &*peer.dialer;
            let (here, there) = (*host, peer.host());
            let incoming = stream(world, here, there, "append", Process::current(), requests);
            let headers = peer.headers();
            let (answers, server) = peer
                .call(CONNECT, "open appends", move |node| {
                    Box::pin(async move { Ok((node.serve_appends(&headers, incoming)?, node.process.clone())) })
                })
                .await?;
            let answers = stream(world, there, here, "appended", Some(server), ReceiverStream::new(answers));
            Ok(answers.map(flat).boxed())
        }))
    }
}

impl NetSnapshot<TypeConfig> for Peer {
    type SnapshotData = SnapshotData<SimulatedCatchUp>;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SimulatedCatchUp>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Pointer { position, residue } = snapshot.snapshot else {
            return Err(StreamingError::Network(NetworkError::from_string("only a current snapshot can be offered")));
        };
        let Dialer { world, host, transfers, .. } = &*self.dialer;
        let included = crate::types::index_of(snapshot.meta.last_log_id.as_ref());
        let offer = pb::SnapshotOffer {
            vote: codec::encode_vote(&vote),
            meta: codec::encode_snapshot_meta(&snapshot.meta),
            position,
            residue,
            address: address(*host),
        };
        let headers = self.headers();
        let offered = async {
            let (told, server) = self
                .call(CONNECT * 5, "offer", move |node| {
                    Box::pin(async move { Ok((node.serve_offer(&headers, offer)?, node.process.clone())) })
                })
                .await?;
            let told = stream(world, self.host(), *host, "progress", Some(server), ReceiverStream::new(told));
            installed(self, transfers, included, told.map(flat)).await
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = offered => match result {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(RPCError::Timeout(error)) => Err(StreamingError::Timeout(error)),
                Err(RPCError::Unreachable(error)) => Err(StreamingError::Unreachable(error)),
                Err(RPCError::Network(error)) => Err(StreamingError::Network(error)),
            },
        }
    }
}

/// Where a node that catches up pulls from.
pub(crate) struct Puller {
    pub(crate) world: Arc<World>,
    pub(crate) host: u64,
    pub(crate) identity: Identity,
    pub(crate) from: u64,
}

impl Source for Puller {
    fn pull<'a>(&'a self, address: &'a str, request: pb::PullRequest) -> BoxFuture<'a, Result<Chunks, Status>> {
        Box::pin(async move {
            let headers = self.identity.sign(self.from, &NodeInfo::default(), ()).into_parts().0;
            let (chunks, server) = call(&self.world, self.host, address, "pull", move |node| {
                Box::pin(async move { Ok((node.serve_pull(&headers, request)?, node.process.clone())) })
            })
            .await?;
            let there = host_at(address).unwrap_or(0);
            let chunks = ReceiverStream::new(chunks);
            Ok(stream(&self.world, there, self.host, "records", Some(server), chunks).map(flat).boxed())
        })
    }
}

/// Nodes that may be members or not.
pub(crate) struct SimulatedPeers(pub(crate) Arc<Dialer>);

impl Peers for SimulatedPeers {
    fn probe<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<pb::ProbeReply, Status>> {
        let Dialer { world, host, .. } = &*self.0;
        Box::pin(call(world, *host, address, "probe", |node| Box::pin(async move { Ok(node.probe()) })))
    }

    fn adopt<'a>(
        &'a self,
        address: &'a str,
        request: pb::AdoptRequest,
    ) -> BoxFuture<'a, Result<pb::AdoptReply, Status>> {
        let Dialer { world, host, .. } = &*self.0;
        Box::pin(call(world, *host, address, "adopt", |node| Box::pin(async move { node.adopt(request).await })))
    }

    fn retire<'a>(&'a self, id: u64, info: &'a NodeInfo) -> BoxFuture<'a, Result<(), Status>> {
        let Dialer { world, host, identity, .. } = &*self.0;
        let headers = identity.sign(id, info, ()).into_parts().0;
        Box::pin(call(world, *host, &info.address, "retire", move |node| {
            Box::pin(async move { node.serve_retire(&headers) })
        }))
    }
}
