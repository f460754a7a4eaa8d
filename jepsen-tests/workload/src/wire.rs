//! Connections: one per node for whoever owns them, made when needed.
//!
//! A connection that broke is thrown away, and so is one on which two calls
//! in a row were not answered: its packets may wait in a backoff of TCP long
//! after the network was healed.

use std::collections::HashMap;
use std::time::Duration;

use annals_checker::history::NodeNumber;
use annals_proto::annals::v1::cluster_client::ClusterClient;
use annals_proto::event_store::client::operations::operations_client::OperationsClient;
use annals_proto::event_store::client::persistent_subscriptions::persistent_subscriptions_client::PersistentSubscriptionsClient;
use annals_proto::event_store::client::streams::streams_client::StreamsClient;
use annals_proto::event_store::client::users::users_client::UsersClient;
use annals_proto::kurrentdb::protocol::v2::streams::streams_service_client::StreamsServiceClient;
use anyhow::{Context as _, Result};
use tonic::transport::{Channel, Endpoint};

use crate::Endpoints;

/// The largest answer that is taken; the product's own limit is 17 MiB.
const MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// Unanswered calls after which a connection is not trusted any more.
const SILENCE_MAX: u32 = 2;

const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection to a node. Clones share it.
#[derive(Clone)]
pub struct Wire {
    /// Which node.
    pub node: NodeNumber,
    channel: Channel,
}

impl Wire {
    /// Connects. A connection for following has a small window of this many
    /// bytes, so that the server feels at once that nobody reads.
    ///
    /// # Errors
    /// When there is no connection in time; nothing was sent then.
    pub async fn connect(
        endpoints: &Endpoints,
        node: NodeNumber,
        timeout: Duration,
        following: Option<u32>,
    ) -> Result<Wire> {
        let address = endpoints.address(node).with_context(|| format!("node {node} has no address"))?;
        let mut endpoint = Endpoint::from_shared(format!("http://{address}"))
            .with_context(|| format!("{address} is no address"))?
            .connect_timeout(timeout)
            .tcp_nodelay(true);
        if let Some(window) = following {
            // Who only listens notices a lost peer by pings alone.
            endpoint = endpoint
                .initial_stream_window_size(window)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true);
        }
        let connected = tokio::time::timeout(timeout, endpoint.connect()).await;
        let channel = connected
            .with_context(|| format!("cannot connect to {address} in time"))?
            .with_context(|| format!("cannot connect to {address}"))?;
        Ok(Wire { node, channel })
    }

    /// The first generation of calls.
    pub fn streams(&self) -> StreamsClient<Channel> {
        StreamsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The second generation of calls.
    pub fn streams_v2(&self) -> StreamsServiceClient<Channel> {
        StreamsServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Accounts.
    pub fn users(&self) -> UsersClient<Channel> {
        UsersClient::new(self.channel.clone())
    }

    /// Consumer groups.
    pub fn groups(&self) -> PersistentSubscriptionsClient<Channel> {
        PersistentSubscriptionsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// What operators ask of a node.
    pub fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    /// Administration.
    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }
}

/// How well a call was answered, as far as its connection is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// The node said something.
    Answered,
    /// Nothing came in time.
    Silent,
    /// The connection broke.
    Broken,
}

/// The connections of one owner.
pub(crate) struct Connections {
    endpoints: Endpoints,
    timeout: Duration,
    open: HashMap<NodeNumber, Open>,
    /// Whether others learn which nodes do not answer.
    shared: bool,
}

struct Open {
    address: Option<String>,
    wire: Wire,
    silent: u32,
}

impl Connections {
    pub(crate) fn new(endpoints: Endpoints, timeout: Duration) -> Self {
        Connections { endpoints, timeout, open: HashMap::new(), shared: true }
    }

    /// The same for an owner that is too impatient to warn others.
    pub(crate) fn impatient(endpoints: Endpoints, timeout: Duration) -> Self {
        Connections { shared: false, ..Connections::new(endpoints, timeout) }
    }

    /// The connection to a node, made if there is none.
    ///
    /// # Errors
    /// As [`Wire::connect`].
    pub(crate) async fn to(&mut self, node: NodeNumber) -> Result<Wire> {
        let address = self.endpoints.address(node);
        if let Some(open) = self.open.get(&node)
            && open.address == address
        {
            return Ok(open.wire.clone());
        }
        match Wire::connect(&self.endpoints, node, self.timeout, None).await {
            Ok(wire) => {
                self.open.insert(node, Open { address, wire: wire.clone(), silent: 0 });
                Ok(wire)
            }
            Err(error) => {
                self.open.remove(&node);
                self.warn(node);
                Err(error)
            }
        }
    }

    /// Learns how a call went.
    pub(crate) fn note(&mut self, node: NodeNumber, contact: Contact) {
        match contact {
            Contact::Answered => {
                self.endpoints.answered(node);
                if let Some(open) = self.open.get_mut(&node) {
                    open.silent = 0;
                }
            }
            Contact::Silent => {
                self.warn(node);
                if let Some(open) = self.open.get_mut(&node) {
                    open.silent += 1;
                    if open.silent >= SILENCE_MAX {
                        self.open.remove(&node);
                    }
                }
            }
            Contact::Broken => {
                self.warn(node);
                self.open.remove(&node);
            }
        }
    }

    fn warn(&self, node: NodeNumber) {
        if self.shared {
            self.endpoints.silent(node);
        }
    }
}
