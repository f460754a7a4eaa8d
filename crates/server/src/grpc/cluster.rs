//! `annals.v1.Cluster`: operating a cluster. Any node answers; what changes
//! the cluster is carried out by the leader.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::head::State;
use annals_core::scavenge::Phase;
use annals_core::{Head, Position, Scavenge, StreamName, Timestamp};
use annals_proto::annals::v1::cluster_server::{Cluster, ClusterServer};
use annals_proto::annals::v1::{
    AddNodeRequest, HashReply, HashRequest, ListStreamsReply, ListStreamsRequest, Node as ToldNode, NodeReply,
    NodeRequest, ScavengeReply, ScavengeStatusRequest, StartScavengeRequest, StatusReply, StatusRequest,
    StopScavengeRequest, TransferLeaderRequest, list_streams_reply, node, scavenge_reply,
};
use annals_raft::{AdminError, AdminRequest, Member, Role};
use annals_store::Store;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::operations::scavenge_id;
use crate::access::audit::Decision;
use crate::access::{Caller, Eyes};
use crate::consistency::refuse_v1;
use crate::context::Context;
use crate::{consistency, scavenge, version};

/// How long a change of the membership may take: a learner is adopted, a
/// configuration replicated, a leader elected.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams in one message of a listing, and in all of one listing.
const LIST_PAGE: usize = 500;
const LIST_DEFAULT: usize = 1_000;
const LIST_MAX: usize = 10_000;

/// The service.
pub(crate) fn service(context: Arc<Context>) -> ClusterServer<Service> {
    ClusterServer::new(Service { context }).max_decoding_message_size(super::MESSAGE_BYTES_MAX)
}

pub(crate) struct Service {
    context: Arc<Context>,
}

type Streams = Pin<Box<dyn Stream<Item = Result<ListStreamsReply, Status>> + Send>>;

#[tonic::async_trait]
impl Cluster for Service {
    /// Needs no credentials, as gossip, whose numbers it tells.
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let status = self.context.node.status();
        let nodes = status.members.iter().map(|member| told(&status, member)).collect();
        Ok(Response::new(StatusReply {
            cluster: status.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            node: status.node,
            version: version::VERSION.to_owned(),
            term: status.term,
            leader: status.leader.as_ref().map_or(0, |(leader, _)| *leader),
            nodes,
            tail: self.context.node.store().tail().get(),
            applied_index: status.applied,
            committed_index: status.committed,
            last_log_index: status.last_log,
            durable_index: status.durable,
            snapshot_index: status.snapshot,
            purged_index: status.purged,
            lease: self.context.node.held_lease().map(super::maintenance::told),
            voters_max: self.context.config.voters_max,
        }))
    }

    async fn add_node(&self, request: Request<AddNodeRequest>) -> Result<Response<NodeReply>, Status> {
        let caller = self.operator(&request, "cluster:addNode").await?;
        let AddNodeRequest { address, replaces } = request.into_inner();
        let replaces = Some(replaces).filter(|old| *old != 0);
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            let shown: String = address.chars().take(100).collect();
            return Err(Status::invalid_argument(format!("the address \"{shown}\" is not host:port")));
        }
        self.administer(&caller, "cluster:addNode", &address.clone(), AdminRequest::AddNode { address, replaces }).await
    }

    async fn promote(&self, request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        let caller = self.operator(&request, "cluster:promote").await?;
        let node = named(request.into_inner())?;
        self.administer(&caller, "cluster:promote", &node.to_string(), AdminRequest::Promote { node }).await
    }

    async fn remove(&self, request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        let caller = self.operator(&request, "cluster:remove").await?;
        let request = request.into_inner();
        let force = request.force;
        let node = named(request)?;
        self.administer(&caller, "cluster:remove", &node.to_string(), AdminRequest::Remove { node, force }).await
    }

    async fn transfer_leader(&self, request: Request<TransferLeaderRequest>) -> Result<Response<NodeReply>, Status> {
        let caller = self.operator(&request, "cluster:transferLeader").await?;
        let to = Some(request.into_inner().node).filter(|node| *node != 0);
        let on = to.map(|node| node.to_string()).unwrap_or_default();
        self.administer(&caller, "cluster:transferLeader", &on, AdminRequest::TransferLeadership { to }).await
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashReply>, Status> {
        self.known(&request, "node:hash").await?;
        let store = self.context.node.store().clone();
        let at = match request.into_inner().position {
            0 => store.tail(),
            position => Position::new(position),
        };
        let tail = store.tail();
        let hash = blocking(move || store.chain(at)).await?.map_err(|error| broken(&error))?;
        match hash {
            Some(hash) => Ok(Response::new(HashReply {
                position: at.get(),
                hash: hash.to_string(),
                node: self.context.node.status().node,
            })),
            None => {
                Err(Status::out_of_range(format!("this node has no event at {at} yet: its newest one is at {tail}")))
            }
        }
    }

    async fn start_scavenge(&self, request: Request<StartScavengeRequest>) -> Result<Response<ScavengeReply>, Status> {
        let caller = self.operator(&request, "operations:startScavenge").await?;
        let started = scavenge::start(&self.context, Uuid::new_v4(), consistency::route(request.metadata())).await;
        let answer = started.map_err(|failure| consistency::refuse_v1(&self.context, &failure))?;
        self.context.access.audit.administered(&caller, "operations:startScavenge", "", Decision::Allowed);
        Ok(Response::new(self.told_scavenge(answer.last, answer.carried_out)))
    }

    async fn stop_scavenge(&self, request: Request<StopScavengeRequest>) -> Result<Response<ScavengeReply>, Status> {
        let caller = self.operator(&request, "operations:stopScavenge").await?;
        let route = consistency::route(request.metadata());
        let stopped = match scavenge_id(&request.into_inner().scavenge) {
            Ok(id) => scavenge::stop(&self.context, id, route).await,
            Err(failure) => Err(failure),
        };
        let scavenge = stopped.map_err(|failure| consistency::refuse_v1(&self.context, &failure))?;
        self.context.access.audit.administered(&caller, "operations:stopScavenge", "", Decision::Allowed);
        Ok(Response::new(self.told_scavenge(Some(scavenge), true)))
    }

    async fn scavenge_status(
        &self,
        request: Request<ScavengeStatusRequest>,
    ) -> Result<Response<ScavengeReply>, Status> {
        self.known(&request, "operations:scavengeStatus").await?;
        Ok(Response::new(self.told_scavenge(scavenge::last(&self.context), false)))
    }

    type ListStreamsStream = Streams;

    async fn list_streams(&self, request: Request<ListStreamsRequest>) -> Result<Response<Streams>, Status> {
        let caller = self.known(&request, "streams:list").await?;
        let eyes = self.context.eyes(&caller).map_err(|failure| refuse_v1(&self.context, &failure))?;
        let request = request.into_inner();
        let limit = match request.limit as usize {
            0 => LIST_DEFAULT,
            limit => limit.min(LIST_MAX),
        };
        let store = self.context.node.store().clone();
        // One page waits for the client while the next one is read.
        let (pages, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || list(&store, &eyes, request, limit, &pages));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Service {
    /// Who asks; anybody with an account may.
    async fn known<T>(&self, request: &Request<T>, act: &'static str) -> Result<Caller, Status> {
        let caller = self.context.known(request, act).await;
        caller.map_err(|failure| refuse_v1(&self.context, &failure))
    }

    /// Who asks for what changes the cluster.
    async fn operator<T>(&self, request: &Request<T>, act: &'static str) -> Result<Caller, Status> {
        let caller = self.context.operator(request, act).await;
        caller.map_err(|failure| refuse_v1(&self.context, &failure))
    }

    fn told_scavenge(&self, scavenge: Option<Scavenge>, carried_out: bool) -> ScavengeReply {
        let columns = self.context.node.store().statistics().columns;
        let file_bytes = columns.iter().find(|column| column.name == "records").map_or(0, |column| column.file_bytes);
        let node = self.context.node.status().node;
        let reply = ScavengeReply { carried_out, node, file_bytes, ..ScavengeReply::default() };
        let Some(scavenge) = scavenge else { return reply };
        let phase = match scavenge.phase {
            Phase::Running => scavenge_reply::Phase::Running,
            Phase::Completed => scavenge_reply::Phase::Completed,
            Phase::Stopped => scavenge_reply::Phase::Stopped,
        };
        ScavengeReply {
            scavenge: scavenge.id.to_string(),
            phase: phase.into(),
            point: scavenge.point.get(),
            cursor: scavenge.cursor.get(),
            events: scavenge.events,
            bytes: scavenge.bytes,
            started: scavenge.started.ticks(),
            ended: scavenge.ended.map_or(0, Timestamp::ticks),
            ..reply
        }
    }

    async fn administer(
        &self,
        caller: &Caller,
        act: &'static str,
        on: &str,
        request: AdminRequest,
    ) -> Result<Response<NodeReply>, Status> {
        let deadline = Instant::now() + ADMIN_TIMEOUT;
        let done = self.context.node.administer(request, deadline).await;
        if done.is_ok() {
            self.context.access.audit.administered(caller, act, on, Decision::Allowed);
        }
        match done {
            Ok(node) => Ok(Response::new(NodeReply { node })),
            Err(error) => Err(refused(&error)),
        }
    }
}

/// Sends the listing page by page, as long as somebody reads it; of each only what
/// they may read.
fn list(
    store: &Store,
    eyes: &Eyes,
    request: ListStreamsRequest,
    limit: usize,
    pages: &mpsc::Sender<Result<ListStreamsReply, Status>>,
) {
    let mut after = request.after;
    let mut left = limit;
    while left > 0 {
        let wanted = left.min(LIST_PAGE);
        let (reply, listed) = match store.list_streams(&request.prefix, &after, wanted, request.system) {
            Ok(page) => {
                if let Some((last, _)) = page.last() {
                    after = last.as_str().to_owned();
                }
                let listed = page.len();
                let seen = |(name, _): &(StreamName, Head)| eyes.see(store, name).unwrap_or(false);
                (Ok(ListStreamsReply { streams: page.into_iter().filter(seen).map(listing).collect() }), listed)
            }
            Err(error) => (Err(broken(&error)), 0),
        };
        if pages.blocking_send(reply).is_err() || listed < wanted {
            return;
        }
        left -= listed;
    }
}

fn listing((name, head): (StreamName, Head)) -> list_streams_reply::Stream {
    let state = head.state();
    list_streams_reply::Stream {
        name: name.as_str().to_owned(),
        last_revision: head.last.map(annals_core::Revision::get),
        soft_deleted: matches!(state, State::SoftDeleted(_)),
        tombstoned: matches!(state, State::Tombstoned),
    }
}

fn told(status: &annals_raft::Status, member: &Member) -> ToldNode {
    let own = member.id == status.node;
    let leads = status.leader.as_ref().is_some_and(|(leader, _)| *leader == member.id);
    let role = if leads {
        node::Role::Leader
    } else if !member.voter {
        node::Role::Learner
    } else if own && status.role == Role::Candidate {
        node::Role::Candidate
    } else {
        node::Role::Follower
    };
    ToldNode {
        id: member.id,
        address: member.address.clone(),
        role: role.into(),
        voter: member.voter,
        matched_index: member.matched,
        reachable: member.reachable || own,
        name: member.name.clone(),
        replica: member.replica,
        version: member.version.clone().unwrap_or_default(),
        applied_index: member.applied,
        replaces: member.replaces.unwrap_or(0),
    }
}

fn named(request: NodeRequest) -> Result<u64, Status> {
    match request.node {
        0 => Err(Status::invalid_argument("which node? ids begin at 1")),
        node => Ok(node),
    }
}

pub(super) fn refused(error: &AdminError) -> Status {
    let text = error.to_string();
    match error {
        AdminError::NoLeader | AdminError::Unreachable(_) | AdminError::ShuttingDown => Status::unavailable(text),
        AdminError::NotFound(_) => Status::not_found(text),
        AdminError::Refused(_) => Status::failed_precondition(text),
        AdminError::Unknown(_) => Status::deadline_exceeded(text),
    }
}

fn broken(error: &annals_store::Error) -> Status {
    tracing::error!(%error, "a read of the store failed");
    Status::internal("this node cannot read its store; see its log")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::unavailable("this node is stopping"))
}
