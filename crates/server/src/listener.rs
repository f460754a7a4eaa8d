//! The one port: HTTP/2 in clear text (gRPC) and HTTP/1.1 beside it, told
//! apart by the first bytes of a connection, with limits on everything a
//! stranger can make us hold.
//!
//! Client pings are always answered and never punished: the official clients
//! ping every ten seconds by default.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::http::App;
use crate::metrics::Metrics;

/// Connections that are told why they are refused, at the same time; further
/// ones are just closed.
const REFUSALS_MAX: usize = 64;

/// How long a refused connection may take to be told.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after a failed accept (no file descriptors left, say) the next
/// one is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Streams a client may reset before we have looked at them, and streams we
/// may reset for its errors: h2's defaults, written out because they are what
/// stands against a flood of resets.
const PENDING_RESETS_MAX: usize = 20;
const LOCAL_RESETS_MAX: usize = 1_024;

/// Serves connections until told to stop.
pub(crate) struct Server {
    pub(crate) app: App,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    /// Cancelled: no new connections, running calls end in their own time.
    pub(crate) stop: CancellationToken,
    /// Cancelled: whatever still runs is cut off.
    pub(crate) cut: CancellationToken,
}

impl Server {
    /// Accepts connections until `stop`, then waits for those that are open.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let server = Arc::new(self);
        let connections = TaskTracker::new();
        let free = Arc::new(Semaphore::new(server.config.connections_max));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        loop {
            let accepted = tokio::select! {
                // First the stop: a flood of connections must not delay it.
                biased;
                () = server.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match free.clone().try_acquire_owned() {
                Ok(permit) => {
                    let server = server.clone();
                    connections.spawn(async move {
                        server.connection(stream, peer).await;
                        drop(permit);
                    });
                }
                Err(_) => {
                    server.metrics.connection_refused();
                    if let Ok(permit) = refusals.clone().try_acquire_owned() {
                        let limit = server.config.connections_max;
                        connections.spawn(async move {
                            // Nobody is left to tell when even that fails.
                            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream, limit)).await;
                            drop(permit);
                        });
                    }
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr) {
        let _counted = self.metrics.connection();
        // Answers are small and awaited: waiting to fill a packet only delays them.
        if stream.set_nodelay(true).is_err() || !self.spoke(&stream).await {
            return;
        }
        let builder = self.protocol();
        let connection = builder.serve_connection(TokioIo::new(stream), self.app.clone());
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    result = connection => result,
                    () = self.cut.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = result {
            // Clients that just go away are everyday life.
            tracing::debug!(%peer, error = %error, "connection ended");
        }
    }

    /// Whether the peer says something in time. Without this a connection
    /// that never speaks would be held for ever.
    async fn spoke(&self, stream: &TcpStream) -> bool {
        let mut first = [0u8; 1];
        let timeout = Duration::from_millis(self.config.first_byte_timeout_ms);
        tokio::select! {
            () = self.stop.cancelled() => false,
            peeked = tokio::time::timeout(timeout, stream.peek(&mut first)) => matches!(peeked, Ok(Ok(1))),
        }
    }

    fn protocol(&self) -> auto::Builder<TokioExecutor> {
        let config = &self.config;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.streams_per_connection_max)
            .max_header_list_size(config.header_list_bytes_max)
            .initial_stream_window_size(config.stream_window_bytes)
            .initial_connection_window_size(config.connection_window_bytes)
            .keep_alive_interval(Duration::from_millis(config.keep_alive_interval_ms))
            .keep_alive_timeout(Duration::from_millis(config.keep_alive_timeout_ms))
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX);
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(config.first_byte_timeout_ms))
            .max_buf_size(config.header_list_bytes_max as usize)
            .keep_alive(true);
        builder
    }
}

/// Says in the peer's protocol that there are too many connections.
async fn refuse(mut stream: TcpStream, limit: usize) -> std::io::Result<()> {
    let text = format!("this node serves {limit} connections, its configured `connections_max`; try another node");
    let mut first = [0u8; 3];
    let mut peeked = stream.peek(&mut first).await?;
    while peeked > 0 && peeked < first.len() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        peeked = stream.peek(&mut first).await?;
    }
    let answer = if &first == b"PRI" {
        go_away(&text)
    } else {
        format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        )
        .into_bytes()
    };
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// Empty SETTINGS and a GOAWAY (RFC 9113, 6.5 and 6.8) with ENHANCE_YOUR_CALM
/// and a text, which gRPC clients show in their errors.
fn go_away(text: &str) -> Vec<u8> {
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    let mut frames = vec![0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    let length = u32::try_from(8 + text.len()).expect("a short text");
    frames.extend_from_slice(&length.to_be_bytes()[1..]);
    frames.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
    frames.extend_from_slice(&0u32.to_be_bytes());
    frames.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frames.extend_from_slice(text.as_bytes());
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_two_well_formed_frames() {
        let frames = go_away("full");
        assert_eq!(frames.len(), 9 + 9 + 8 + 4);
        assert_eq!(frames[9..13], [0, 0, 12, 7]);
        assert_eq!(&frames[26..], b"full");
    }
}
