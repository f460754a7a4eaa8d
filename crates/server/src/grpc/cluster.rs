//! `annals.v1.Cluster`: operating a cluster. Any node answers; what changes
//! the cluster is carried out by the leader.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::head::State;
use annals_core::{Head, Position, StreamName};
use annals_proto::annals::v1::cluster_server::{Cluster, ClusterServer};
use annals_proto::annals::v1::{
    AddNodeRequest, HashReply, HashRequest, ListStreamsReply, ListStreamsRequest, Node as ToldNode, NodeReply,
    NodeRequest, StatusReply, StatusRequest, TransferLeaderRequest, list_streams_reply, node,
};
use annals_raft::{AdminError, AdminRequest, Member, Role};
use annals_store::Store;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::version;

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
        }))
    }

    async fn add_node(&self, request: Request<AddNodeRequest>) -> Result<Response<NodeReply>, Status> {
        let address = request.into_inner().address;
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            return Err(Status::invalid_argument(format!("the address \"{address}\" is not host:port")));
        }
        self.administer(AdminRequest::AddNode { address }).await
    }

    async fn promote(&self, request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        let node = named(request.into_inner())?;
        self.administer(AdminRequest::Promote { node }).await
    }

    async fn remove(&self, request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        let node = named(request.into_inner())?;
        self.administer(AdminRequest::Remove { node }).await
    }

    async fn transfer_leader(&self, request: Request<TransferLeaderRequest>) -> Result<Response<NodeReply>, Status> {
        let to = Some(request.into_inner().node).filter(|node| *node != 0);
        self.administer(AdminRequest::TransferLeadership { to }).await
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashReply>, Status> {
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

    type ListStreamsStream = Streams;

    async fn list_streams(&self, request: Request<ListStreamsRequest>) -> Result<Response<Streams>, Status> {
        let request = request.into_inner();
        let limit = match request.limit as usize {
            0 => LIST_DEFAULT,
            limit => limit.min(LIST_MAX),
        };
        let store = self.context.node.store().clone();
        // One page waits for the client while the next one is read.
        let (pages, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || list(&store, request, limit, &pages));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Service {
    async fn administer(&self, request: AdminRequest) -> Result<Response<NodeReply>, Status> {
        let deadline = Instant::now() + ADMIN_TIMEOUT;
        match self.context.node.administer(request, deadline).await {
            Ok(node) => Ok(Response::new(NodeReply { node })),
            Err(error) => Err(refused(&error)),
        }
    }
}

/// Sends the listing page by page, as long as somebody reads it.
fn list(
    store: &Store,
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
                (Ok(ListStreamsReply { streams: page.into_iter().map(listing).collect() }), listed)
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
    }
}

fn named(request: NodeRequest) -> Result<u64, Status> {
    match request.node {
        0 => Err(Status::invalid_argument("which node? ids begin at 1")),
        node => Ok(node),
    }
}

fn refused(error: &AdminError) -> Status {
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
