//! Where a call is carried out: here, or at the node that leads.
//!
//! A call that was handed on says that it needs the leader, so that it goes one hop
//! only: a node that does not lead any more answers who does.

use std::sync::Arc;
use std::time::Duration;

use annals_proto::event_store::client::persistent_subscriptions::persistent_subscriptions_client::PersistentSubscriptionsClient;
use annals_raft::{Phase, Role};
use parking_lot::Mutex;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Place;
use crate::context::Context;
use crate::grpc::streams::ANSWER_BYTES_MAX;
use crate::status::Failure;

const REQUIRES_LEADER: &str = "requires-leader";

/// Headers of a client that are handed on.
const HANDED_ON: [&str; 2] = ["connection-name", "authorization"];

/// How long a connection to the leader may take.
const CONNECT: Duration = Duration::from_secs(1);

/// The connection to the node that led last.
#[derive(Default)]
pub(super) struct Relay(Mutex<Option<(String, Channel)>>);

/// The node that leads, to be asked in a client's stead.
pub(super) struct There {
    pub(super) client: PersistentSubscriptionsClient<Channel>,
}

/// A client's request as this node sends it.
pub(super) fn request<T>(request: Request<T>) -> Request<T> {
    let (headers, _, message) = request.into_parts();
    let mut handed = MetadataMap::new();
    for name in HANDED_ON {
        if let Some(value) = headers.get(name) {
            handed.insert(name, value.clone());
        }
    }
    handed.insert(REQUIRES_LEADER, MetadataValue::from_static("true"));
    Request::from_parts(handed, tonic::Extensions::default(), message)
}

/// Where a call with these headers is carried out.
///
/// # Errors
/// There is no leader, or the client demands it and this node is not it.
pub(super) fn place(context: &Arc<Context>, relay: &Relay, headers: &MetadataMap) -> Result<Place, Failure> {
    if context.stopping.is_cancelled() {
        return Err(Failure::ShuttingDown);
    }
    let (ready, role, leader) = {
        let status = context.node.watch_status();
        let status = status.borrow();
        (status.phase == Phase::Ready, status.role, status.leader.clone())
    };
    if !ready {
        return Err(Failure::NotReady);
    }
    if role == Role::Leader {
        return context.groups.leading().map(Place::Here).ok_or(Failure::NotReady);
    }
    let needs_leader = headers.get(REQUIRES_LEADER).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"));
    let Some((node, address)) = leader else { return Err(Failure::NotReady) };
    if needs_leader {
        return Err(Failure::NotLeader { node, address });
    }
    let channel = relay.channel(&address)?;
    let client = PersistentSubscriptionsClient::new(channel)
        .max_decoding_message_size(ANSWER_BYTES_MAX)
        .max_encoding_message_size(super::super::MESSAGE_BYTES_MAX);
    Ok(Place::There(Box::new(There { client })))
}

/// What a client is told of a call that ended at the node that leads. If that node or
/// the way to it is gone, the client should look for a node that serves it.
pub(super) fn told(status: Status) -> Status {
    let by_the_leader = status.metadata().contains_key("annals-node");
    if by_the_leader { status } else { Status::unavailable("Server Is Not Ready") }
}

impl Relay {
    fn channel(&self, address: &str) -> Result<Channel, Failure> {
        let mut last = self.0.lock();
        if let Some((to, channel)) = last.as_ref()
            && to == address
        {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Failure::broken("connecting to the leader", &error))?;
        let channel = endpoint.connect_timeout(CONNECT).tcp_nodelay(true).connect_lazy();
        *last = Some((address.to_owned(), channel.clone()));
        Ok(channel)
    }
}
