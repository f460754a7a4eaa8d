//! Connections to peers: one for each purpose, made when they are first used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use annals_proto::annals::internal::v1::coordination_client::CoordinationClient;
use annals_proto::annals::internal::v1::replication_client::ReplicationClient;
use parking_lot::Mutex;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::MESSAGE_BYTES_MAX;
use crate::transport::Connect;

/// How long a connection may take to come about.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_ANSWER: Duration = Duration::from_secs(3);

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
