//! What nodes offer to each other.
//!
//! Every call is admitted first ([`crate::identity`], [`crate::peer_memory`]),
//! and answered with this node's lineage; only `Probe`, `Join` and `Adopt`, by
//! which nodes come to have an identity, are open to all. None of this decides
//! anything: the calls go on to the consensus library, the proposer, the admin
//! actor.

use std::pin::Pin;
use std::time::{Duration, Instant};

use annals_proto::annals::internal::v1 as pb;
use annals_proto::annals::internal::v1::coordination_server::{Coordination, CoordinationServer};
use annals_proto::annals::internal::v1::replication_server::{Replication, ReplicationServer};
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::storage::RaftStateMachine;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::service::{Interceptor, RoutesBuilder};
use tonic::{Extensions, Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::admin::{self, AdminRequest};
use crate::codec;
use crate::config::is_address;
use crate::error::BarrierError;
use crate::forward::write_answer;
use crate::identity::{self, Identity, REMOVED_HEADER};
use crate::leader_loss;
use crate::network::{MESSAGE_BYTES_MAX, outdated_copy};
use crate::node::watching::until;
use crate::node::{Node, Running};
use crate::proposer::Kind;
use crate::recover;
use crate::snapshot::{Leader, Receiver, send_records};
use crate::transport::NodeNames;
use crate::types::{Raft, TypeConfig, index_of};

/// Commands of one peer that are carried out at a time.
pub const FORWARDED: usize = 8_192;

/// The longest name of a host, and a port.
const ADDRESS_BYTES_MAX: usize = 253 + 6;

/// How long a node that wants to join may have us wait for the leader.
const JOIN_MAX: Duration = Duration::from_secs(30);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The services of one node, to be mounted on the process's listener.
#[derive(Clone)]
pub struct NodeServices {
    node: Node,
}

impl NodeServices {
    pub(crate) fn new(node: Node) -> Self {
        NodeServices { node }
    }

    /// Adds `annals.internal.v1.Replication` and
    /// `annals.internal.v1.Coordination`, each call through `guard` first.
    /// Clients must not get past it: whoever does is a peer. Where connections
    /// prove who is at their other end, the guard also leaves the [`NodeNames`]
    /// in the request's extensions.
    pub fn add_to<G>(self, routes: &mut RoutesBuilder, guard: G)
    where
        G: Interceptor + Clone + Send + Sync + 'static,
    {
        let replication = ReplicationServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let coordination = CoordinationServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        routes.add_service(InterceptedService::new(replication, guard.clone()));
        routes.add_service(InterceptedService::new(coordination, guard));
    }

    /// What is running here, and who calls. The caller's boot is remembered
    /// durably before this returns.
    async fn admit(&self, headers: &MetadataMap, proved: &Extensions) -> Result<(&Running, u64), Status> {
        let Some(running) = self.node.running() else {
            self.node.turned_away(headers);
            return Err(Status::unavailable("this node takes no part yet, or no more"));
        };
        if let Some(refusal) = recover::of_former_cluster(self.node.former_clusters(), &running.identity, headers) {
            return Err(refusal);
        }
        let from = admit(&running.identity, &running.raft, headers)?;
        if let Some(names) = proved.get::<NodeNames>() {
            is_itself(names, from, running)?;
        }
        let Err(unacceptable) = running.memory.meet(from, &identity::lineage(headers)).await else {
            return Ok((running, from));
        };
        if running.memory.is_news(from) {
            tracing::error!(from, "{unacceptable}");
            self.node.config().observer.peer_outdated(from);
        }
        Err(unacceptable.status())
    }

    async fn admit_candidate(
        &self,
        request: &Request<pb::Message>,
    ) -> Result<(&Running, VoteRequest<TypeConfig>), Status> {
        let headers = request.metadata();
        let (running, _) = self.admit(headers, request.extensions()).await?;
        let candidacy = admit_candidate(&running.identity, &running.raft, headers, &request.get_ref().body)?;
        Ok((running, candidacy))
    }
}

/// Refuses a member that calls from under the certificate of another host.
#[allow(clippy::result_large_err)]
fn is_itself(names: &NodeNames, from: u64, running: &Running) -> Result<(), Status> {
    match running.metrics().membership_config.get_node(&from) {
        Some(known) if !names.cover_address(&known.address) => Err(Status::permission_denied(format!(
            "node {from} is at {}, but the certificate of the connection names {names}",
            known.address
        ))),
        // A node that this one has not heard of yet, in a cluster that it is in.
        Some(_) | None => Ok(()),
    }
}

/// Who calls, if it may.
#[allow(clippy::result_large_err)]
pub(crate) fn admit<M: RaftStateMachine<TypeConfig>>(
    identity: &Identity,
    raft: &Raft<M>,
    headers: &MetadataMap,
) -> Result<u64, Status> {
    let membership = raft.metrics().borrow_watched().membership_config.clone();
    identity.admit(headers, membership.membership())
}

/// As `admit`, for a candidate, whom a newer membership may know as removed.
#[allow(clippy::result_large_err)]
pub(crate) fn admit_candidate<M: RaftStateMachine<TypeConfig>>(
    identity: &Identity,
    raft: &Raft<M>,
    headers: &MetadataMap,
    body: &[u8],
) -> Result<VoteRequest<TypeConfig>, Status> {
    let from = admit(identity, raft, headers)?;
    let candidacy = codec::decode_vote_request(body).map_err(invalid)?;
    let committed = raft.metrics().borrow_watched().committed_membership_config.clone();
    let is_member = committed.get_node(&from).is_some();
    // A candidate votes for itself because an earlier membership of its log
    // names it. One that was committed later and does not means that it was
    // removed, and ids never come back.
    if !is_member && index_of(committed.log_id().as_ref()) > index_of(candidacy.last_log_id.as_ref()) {
        let mut status = Status::failed_precondition(format!("node {from} was removed from this cluster"));
        status.metadata_mut().insert(REMOVED_HEADER, MetadataValue::from_static("1"));
        return Err(status);
    }
    Ok(candidacy)
}

fn invalid(error: codec::CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Replication for NodeServices {
    type AppendStream = Answers<pb::AppendResponse>;
    type OfferSnapshotStream = Answers<pb::SnapshotProgress>;
    type PullRecordsStream = Answers<pb::RecordChunk>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let (running, from) = self.admit(request.metadata(), request.extensions()).await?;
        // A leader's stream goes on for as long as it leads. Ended by this node's stop
        // in both directions, it does not hold up the listener's.
        let stopping = self.node.stopping().clone();
        let incoming = Box::pin(request.into_inner().take_until(stopping.clone().cancelled_owned()));
        let requests = leader_loss::Requests::new(incoming, from, running.broken_streams.clone())
            .scan((), move |(), request| std::future::ready(read_append(request, from)));
        // The answers end when the request stream does, or at the first one
        // that is not a plain success.
        let answers = running.raft.stream_append(requests).map(|answer| match answer {
            Ok(answer) => Ok(pb::AppendResponse { body: codec::encode_append_answer(&answer) }),
            Err(fatal) => Err(stopped(fatal)),
        });
        Ok(running.identity.answer(Box::pin(answers.take_until(stopping.cancelled_owned()))))
    }

    async fn vote(&self, request: Request<pb::Message>) -> Result<Response<pb::Message>, Status> {
        let (running, candidacy) = self.admit_candidate(&request).await?;
        let answer = running.raft.vote(candidacy).await.map_err(stopped)?;
        Ok(running.identity.answer(pb::Message { body: codec::encode_vote_response(&answer) }))
    }

    async fn pre_vote(&self, request: Request<pb::Message>) -> Result<Response<pb::Message>, Status> {
        let (running, candidacy) = self.admit_candidate(&request).await?;
        let answer = running.raft.pre_vote(candidacy).await.map_err(stopped)?;
        Ok(running.identity.answer(pb::Message { body: codec::encode_vote_response(&answer) }))
    }

    async fn transfer_leader(&self, request: Request<pb::Message>) -> Result<Response<pb::Message>, Status> {
        let (running, _) = self.admit(request.metadata(), request.extensions()).await?;
        let transfer = codec::decode_transfer_request(&request.get_ref().body).map_err(invalid)?;
        let answer = running.raft.handle_transfer_leader(transfer).await.map_err(stopped)?;
        Ok(running.identity.answer(pb::Message { body: codec::encode_transfer_answer(&answer) }))
    }

    async fn offer_snapshot(
        &self,
        request: Request<pb::SnapshotOffer>,
    ) -> Result<Response<Self::OfferSnapshotStream>, Status> {
        let (running, from) = self.admit(request.metadata(), request.extensions()).await?;
        let receiver = Receiver {
            raft: running.raft.clone(),
            store: self.node.store().clone(),
            source: Box::new(Leader { identity: running.identity, channels: self.node.channels().clone(), node: from }),
            catch_ups: running.catch_ups.clone(),
            from,
        };
        let (progress, told) = mpsc::channel(4);
        let stopping = self.node.stopping().clone();
        self.node.tasks().spawn(until(stopping, receiver.receive(request.into_inner(), progress)));
        Ok(running.identity.answer(Box::pin(ReceiverStream::new(told))))
    }

    async fn pull_records(
        &self,
        request: Request<pb::PullRequest>,
    ) -> Result<Response<Self::PullRecordsStream>, Status> {
        let (running, _) = self.admit(request.metadata(), request.extensions()).await?;
        let (chunks, sent) = mpsc::channel(2);
        let stopping = self.node.stopping().clone();
        let pace = self.node.config().catch_up_bytes_per_second;
        let sending = send_records(self.node.store().clone(), request.into_inner(), pace, chunks);
        self.node.tasks().spawn(until(stopping, sending));
        Ok(running.identity.answer(Box::pin(ReceiverStream::new(sent))))
    }
}

/// One request of a leader; `None` ends the stream.
pub(crate) fn read_append(
    request: Result<pb::AppendRequest, Status>,
    from: u64,
) -> Option<AppendEntriesRequest<TypeConfig>> {
    let request = match request {
        Ok(request) => request,
        Err(status) => {
            tracing::debug!(from, %status, "the stream of a leader broke off");
            return None;
        }
    };
    match codec::decode_append(&request.header, request.entries) {
        Ok(request) => Some(request),
        Err(error) => {
            tracing::error!(from, %error, "a request of a leader could not be read");
            None
        }
    }
}

#[tonic::async_trait]
impl Coordination for NodeServices {
    type ForwardStream = Answers<pb::ForwardReply>;

    async fn forward(
        &self,
        request: Request<Streaming<pb::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let (running, _) = self.admit(request.metadata(), request.extensions()).await?;
        let proposer = running.proposer.clone();
        let mut commands = request.into_inner();
        let (replies, answers) = mpsc::channel(256);
        self.node.tasks().spawn(until(self.node.stopping().clone(), async move {
            let mut under_way = FuturesUnordered::new();
            loop {
                tokio::select! {
                    Some(reply) = under_way.next() => {
                        if replies.send(Ok(reply)).await.is_err() {
                            return;
                        }
                    }
                    // One hop only: a node that does not lead answers so.
                    command = commands.message(), if under_way.len() < FORWARDED => match command {
                        Ok(Some(command)) => {
                            let proposer = proposer.clone();
                            under_way.push(async move {
                                let deadline = Instant::now() + Duration::from_millis(u64::from(command.timeout_ms));
                                let kind = Kind::of(&command.command);
                                write_answer(command.id, proposer.append(command.command, kind, deadline).await)
                            });
                        }
                        // The other node is gone, and nobody waits any more.
                        Ok(None) | Err(_) => return,
                    },
                    () = replies.closed() => return,
                }
            }
        }));
        Ok(running.identity.answer(Box::pin(ReceiverStream::new(answers))))
    }

    async fn read_index(&self, request: Request<pb::ReadIndexRequest>) -> Result<Response<pb::ReadIndexReply>, Status> {
        let (running, _) = self.admit(request.metadata(), request.extensions()).await?;
        match running.leader_reads.get().await {
            Ok(applied) => Ok(running.identity.answer(pb::ReadIndexReply { applied })),
            Err(error @ BarrierError::NotLeader { .. }) => Err(Status::failed_precondition(error.to_string())),
            Err(error @ (BarrierError::NoLeader | BarrierError::TimedOut | BarrierError::ShuttingDown)) => {
                Err(Status::unavailable(error.to_string()))
            }
        }
    }

    async fn probe(&self, _: Request<pb::ProbeRequest>) -> Result<Response<pb::ProbeReply>, Status> {
        Ok(Response::new(self.node.probe()))
    }

    /// Called by nodes that have no identity yet. Over TLS the caller's certificate
    /// must name the host under which it wants to be a member.
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::AdminReply>, Status> {
        if self.node.running().is_none() {
            return Err(Status::unavailable("this node takes no part in a cluster"));
        }
        let names = request.extensions().get::<NodeNames>().cloned();
        let request = request.into_inner();
        if request.address.len() > ADDRESS_BYTES_MAX || !is_address(&request.address) {
            return Err(Status::invalid_argument("the address of the node that asks to join is not host:port"));
        }
        if let Some(names) = names.filter(|names| !names.cover_address(&request.address)) {
            return Err(Status::permission_denied(format!(
                "a node asks to join at {}, but the certificate of the connection names {names}",
                request.address
            )));
        }
        let timeout = Duration::from_millis(u64::from(request.timeout_ms)).min(JOIN_MAX);
        let add = AdminRequest::AddNode { address: request.address, replaces: None };
        let added = self.node.administer(add, Instant::now() + timeout).await;
        Ok(Response::new(admin::write_reply(added)))
    }

    async fn adopt(&self, request: Request<pb::AdoptRequest>) -> Result<Response<pb::AdoptReply>, Status> {
        let request = request.into_inner();
        let cluster =
            Uuid::from_slice(&request.cluster).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let adopted = self.node.adopt(cluster, request.node, &request.address, &request.founders).await;
        let incarnation = adopted.map_err(Status::failed_precondition)?;
        Ok(Response::new(pb::AdoptReply { incarnation: incarnation.as_bytes().to_vec().into() }))
    }

    async fn greet(&self, request: Request<pb::GreetRequest>) -> Result<Response<pb::GreetReply>, Status> {
        let (running, _) = self.admit(request.metadata(), request.extensions()).await?;
        Ok(running.identity.answer(pb::GreetReply {}))
    }

    async fn lost_leader(
        &self,
        request: Request<pb::LostLeaderRequest>,
    ) -> Result<Response<pb::LostLeaderReply>, Status> {
        let (running, _) = self.admit(request.metadata(), request.extensions()).await?;
        Ok(running.identity.answer(leader_loss::look(running, request.get_ref().leader).await))
    }

    async fn administer(&self, request: Request<pb::AdminRequest>) -> Result<Response<pb::AdminReply>, Status> {
        let (running, _) = self.admit(request.metadata(), request.extensions()).await?;
        let request = request.into_inner();
        let deadline = Instant::now() + Duration::from_millis(u64::from(request.timeout_ms));
        let request = admin::read_request(request).ok_or_else(|| Status::invalid_argument("an empty request"))?;
        Ok(running.identity.answer(admin::write_reply(running.admin.carry_out(request, deadline).await)))
    }

    async fn retire(&self, request: Request<pb::RetireRequest>) -> Result<Response<pb::RetireReply>, Status> {
        let (running, from) = self.admit(request.metadata(), request.extensions()).await?;
        let accusation = request.into_inner();
        let own = running.identity;
        if !accusation.missing_boot.is_empty() {
            // Seen for itself: the accusation may be meant for an earlier process.
            if accusation.missing_boot.parse().is_ok_and(|boot| !own.lineage.holds(&boot)) {
                let boot = accusation.missing_boot;
                let evidence = format!("node {from} remembers its start {boot}, of which it knows nothing");
                running.outdated.send_replace(Some(outdated_copy(own.node, &evidence)));
            }
        } else if !accusation.missing_entries.is_empty() {
            let newest = own.lineage.newest();
            if accusation.boot.is_empty() || accusation.boot.parse().ok() == newest {
                running.outdated.send_replace(Some(outdated_copy(own.node, &accusation.missing_entries)));
            }
        } else {
            tracing::warn!(from, "this node was told that it was removed from its cluster");
            running.removed.send_replace(true);
        }
        Ok(own.answer(pb::RetireReply {}))
    }
}
