//! Where a call is carried out: here, or at the node that leads.
//!
//! A call that was handed on says that it needs the leader, so that it goes one hop
//! only: a node that does not lead any more answers who does.

use std::sync::Arc;
use std::time::Duration;

use annals_proto::event_store::client::persistent_subscriptions::persistent_subscriptions_client::PersistentSubscriptionsClient;
use annals_raft::{Connect, Phase, Role};
use parking_lot::Mutex;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Place;
use crate::access;
use crate::context::Context;
use crate::grpc::streams::ANSWER_BYTES_MAX;
use crate::status::Failure;

const REQUIRES_LEADER: &str = "requires-leader";

/// Headers of a client that are handed on.
const HANDED_ON: [&str; 2] = ["connection-name", "authorization"];

/// How long a connection to the leader may take.
const CONNECT: Duration = Duration::from_secs(1);

/// Set on what is handed on: the caller is a node, and stands for many.
pub(super) const RELAYED: &str = "annals-relayed";

/// Consumers that share a connection. Above the calls that a node serves at the
/// same time on one, further ones would wait, unseen.
const CONSUMERS_PER_CONNECTION: usize = 100;

/// The connections to the node that led last.
#[derive(Default)]
pub(super) struct Relay(Mutex<Option<Lines>>);

struct Lines {
    to: String,
    /// For calls that end at once.
    calls: Channel,
    /// For consumers; each holds one more of what counts them.
    consumers: Vec<(Channel, Arc<()>)>,
}

/// The node that leads, to be asked in a client's stead.
pub(super) struct There {
    pub(super) client: PersistentSubscriptionsClient<Channel>,
    /// Held as long as a consumer uses the connection.
    pub(super) line: Option<Arc<()>>,
}

/// A client's request as this node sends it.
pub(super) fn request<T>(request: Request<T>) -> Request<T> {
    let (headers, extensions, message) = request.into_parts();
    let mut handed = MetadataMap::new();
    // The leader sees this node's certificate, not the client's.
    if let Some(user) = access::proved_by_certificate(&headers, &extensions)
        && let Ok(user) = user.parse()
    {
        handed.insert(access::FOR_USER, user);
    }
    for name in HANDED_ON {
        if let Some(value) = headers.get(name) {
            handed.insert(name, value.clone());
        }
    }
    handed.insert(REQUIRES_LEADER, MetadataValue::from_static("true"));
    handed.insert(RELAYED, MetadataValue::from_static("1"));
    Request::from_parts(handed, tonic::Extensions::default(), message)
}

/// Where a call with these headers is carried out.
///
/// # Errors
/// There is no leader, or the client demands it and this node is not it.
pub(super) fn place(
    context: &Arc<Context>,
    relay: &Relay,
    headers: &MetadataMap,
    consumes: bool,
) -> Result<Place, Failure> {
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
    let (channel, line) = relay.channel(&*context.peers, &address, consumes)?;
    let client = PersistentSubscriptionsClient::new(channel)
        .max_decoding_message_size(ANSWER_BYTES_MAX)
        .max_encoding_message_size(super::super::MESSAGE_BYTES_MAX);
    Ok(Place::There(Box::new(There { client, line })))
}

/// What a client is told of a call that ended at the node that leads. If that node or
/// the way to it is gone, the client should look for a node that serves it.
pub(super) fn told(status: Status) -> Status {
    let by_the_leader = status.metadata().contains_key("annals-node");
    if by_the_leader { status } else { Status::unavailable("Server Is Not Ready") }
}

impl Relay {
    fn channel(
        &self,
        peers: &dyn Connect,
        address: &str,
        consumes: bool,
    ) -> Result<(Channel, Option<Arc<()>>), Failure> {
        let mut lines = self.0.lock();
        let lines = match &mut *lines {
            Some(lines) if lines.to == address => lines,
            other => {
                let calls = connect(peers, address)?;
                other.insert(Lines { to: address.to_owned(), calls, consumers: Vec::new() })
            }
        };
        if !consumes {
            return Ok((lines.calls.clone(), None));
        }
        let free = lines.consumers.iter().find(|(_, used)| Arc::strong_count(used) <= CONSUMERS_PER_CONNECTION);
        if let Some((channel, used)) = free {
            return Ok((channel.clone(), Some(used.clone())));
        }
        let (channel, used) = (connect(peers, address)?, Arc::new(()));
        lines.consumers.push((channel.clone(), used.clone()));
        Ok((channel, Some(used)))
    }
}

fn connect(peers: &dyn Connect, address: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Failure::broken("connecting to the leader", &error))?;
    Ok(peers.connect(endpoint.connect_timeout(CONNECT).tcp_nodelay(true)))
}

#[cfg(test)]
mod tests {
    use annals_raft::ClearText;

    use super::*;

    #[tokio::test]
    async fn consumers_share_a_connection_by_the_hundred() {
        let relay = Relay::default();
        let lines = |relay: &Relay| relay.0.lock().as_ref().map_or(0, |lines| lines.consumers.len());
        let consume = |address: &str| relay.channel(&ClearText, address, true).expect("an address").1;
        let mut held: Vec<_> = (0..CONSUMERS_PER_CONNECTION).map(|_| consume("127.0.0.1:1")).collect();
        assert_eq!(lines(&relay), 1);
        held.push(consume("127.0.0.1:1"));
        assert_eq!(lines(&relay), 2);
        held.remove(0);
        held.push(consume("127.0.0.1:1"));
        assert_eq!(lines(&relay), 2, "the place that became free is taken");
        assert!(relay.channel(&ClearText, "127.0.0.1:1", false).expect("an address").1.is_none());
        consume("127.0.0.1:2");
        assert_eq!(lines(&relay), 1, "another leader");
    }
}
