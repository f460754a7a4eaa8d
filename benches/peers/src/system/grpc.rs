//! Connections of the systems that speak gRPC, all made alike.

use anyhow::Context;
use tonic::transport::{Channel, Endpoint};

use super::CLIENTS_PER_CONNECTION;

/// Answers of catch-up reads are larger than tonic's default allows.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

pub(super) async fn connect(port: u16) -> anyhow::Result<Channel> {
    Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .connect()
        .await
        .with_context(|| format!("cannot connect to port {port}"))
}

/// One channel for each client; several share a connection.
pub(super) async fn channels(port: u16, clients: usize) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::with_capacity(clients);
    while channels.len() < clients {
        let channel = connect(port).await?;
        let share = CLIENTS_PER_CONNECTION.min(clients - channels.len());
        channels.extend(std::iter::repeat_n(channel, share));
    }
    Ok(channels)
}
