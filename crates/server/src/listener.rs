//! The one port: HTTP/2 (gRPC) and HTTP/1.1 beside it, told apart by the first
//! bytes of a connection, with limits on everything a stranger can make us
//! hold. In clear text or, when the node has a certificate, over TLS alone: who
//! speaks clear text there is told so, in words.
//!
//! Client pings are always answered and never punished: the official clients
//! ping every ten seconds by default.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::Context;
use crate::gather::gathering;
use crate::http::App;
use crate::limits::{Caller, Peer};
use crate::tasks::Tasks;
use crate::tls::accept::{FIRST_BYTE as TLS, HANDSHAKE};
use crate::tls::{ClientIdentity, Tls};

/// Why a connection is not served, in the words of HTTP/1.1 and of HTTP/2
/// (RFC 9113, 7).
struct Refusal {
    status: &'static str,
    code: u32,
    text: String,
}

impl Refusal {
    fn too_many(text: String) -> Self {
        const ENHANCE_YOUR_CALM: u32 = 0xb;
        Refusal { status: "503 Service Unavailable", code: ENHANCE_YOUR_CALM, text }
    }

    fn clear_text() -> Self {
        const INADEQUATE_SECURITY: u32 = 0xc;
        let text = "this port speaks TLS only: use https, and in connection strings tls=true with tlsCaFile";
        Refusal { status: "400 Bad Request", code: INADEQUATE_SECURITY, text: text.to_owned() }
    }
}

/// Connections beyond those that `connections_max` and `connections_per_address_max`
/// allow, for nodes that prove by certificate to be some: however many clients there
/// are, nodes reach each other. Whoever else takes one is sent away after the handshake.
pub(crate) const PLACES_FOR_NODES: usize = 64;

/// Whose place a connection has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Places {
    Anybody,
    /// See [`PLACES_FOR_NODES`].
    Nodes,
}

/// Connections that are told why they are refused, at the same time; further
/// ones are just closed.
const REFUSALS_MAX: usize = 64;

/// How long a refused connection may take to be told.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a refused HTTP/2 connection may take to ask for something. Within
/// [`REFUSAL_TIMEOUT`].
const REFUSED_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// How long after a failed accept (no file descriptors left, say) the next
/// one is tried.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Streams a client may reset before we have looked at them, and streams we
/// may reset for its errors: h2's defaults, written out because they are what
/// stands against a flood of resets.
pub(crate) const PENDING_RESETS_MAX: usize = 20;
pub(crate) const LOCAL_RESETS_MAX: usize = 1_024;

/// Serves connections until told to stop.
pub(crate) struct Server {
    pub(crate) app: App,
    pub(crate) context: Arc<Context>,
    /// None: clear text.
    pub(crate) tls: Option<Tls>,
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
        let free = Arc::new(Semaphore::new(server.context.config.connections_max.min(Semaphore::MAX_PERMITS)));
        // Only a certificate tells a node from others before it has a place.
        let for_nodes = if server.tls.is_some() { PLACES_FOR_NODES } else { 0 };
        let for_nodes = Arc::new(Semaphore::new(for_nodes));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        loop {
            let accepted = tokio::select! {
                // First the stop: a flood of connections must not delay it.
                biased;
                () = server.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let standing = server.context.callers.of(Caller::at(address.ip()));
            let places = match (standing.connection(), free.clone().try_acquire_owned()) {
                (Some(own), Ok(place)) => Ok((Some(own), place, Places::Anybody)),
                (own, _) => match (own, for_nodes.clone().try_acquire_owned()) {
                    (own, Ok(place)) => Ok((own, place, Places::Nodes)),
                    (None, Err(_)) => Err(server.full("connections_per_address_max", "from one address")),
                    (Some(_), Err(_)) => Err(server.full("connections_max", "in all")),
                },
            };
            match places {
                Ok((own, place, places)) => {
                    let server = server.clone();
                    connections.spawn(async move {
                        server.connection(stream, Peer::new(address, standing), places).await;
                        drop((own, place));
                    });
                }
                Err(refusal) => {
                    tracing::debug!(caller = ?standing.caller(), "{}", refusal.text);
                    server.context.metrics.connection_refused();
                    if let Ok(permit) = refusals.clone().try_acquire_owned() {
                        connections.spawn(async move {
                            // Nobody is left to tell when even that fails.
                            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream, &refusal)).await;
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

    /// What is said to a connection for which there is no place.
    fn full(&self, option: &str, of: &str) -> Refusal {
        let config = &self.context.config;
        let max = if option == "connections_max" { config.connections_max } else { config.connections_per_address_max };
        Refusal::too_many(format!(
            "this node serves {max} connections {of}, its configured `{option}`; try another node"
        ))
    }

    async fn connection(&self, stream: TcpStream, peer: Peer, places: Places) {
        let _counted = self.context.metrics.connection();
        // Answers are small and awaited: waiting to fill a packet only delays them.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let Some(first) = self.first_byte(&stream, places).await else { return };
        match &self.tls {
            None => self.requests(stream, peer, None).await,
            Some(tls) if first == TLS => self.over_tls(tls, stream, peer, places).await,
            Some(_) => {
                self.context.metrics.tls_handshake_failed("clear_text");
                let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream, &Refusal::clear_text())).await;
            }
        }
    }

    async fn over_tls(&self, tls: &Tls, stream: TcpStream, peer: Peer, places: Places) {
        let accepted = tokio::select! {
            accepted = tls.accept(stream, self.first_byte_timeout(places)) => accepted,
            () = self.stop.cancelled() => return,
        };
        match accepted {
            Ok(accepted) if places == Places::Nodes && !accepted.is_node() => {
                self.context.metrics.connection_refused();
                tracing::debug!(peer = %peer.address(), "what is left of connections is for nodes");
            }
            Ok(accepted) => self.requests(accepted.stream, peer, accepted.identity).await,
            Err(error) => {
                self.context.metrics.tls_handshake_failed(error.reason());
                // Whoever reaches the port can cause these: counted, and told to who asks.
                tracing::debug!(peer = %peer.address(), %error, "no TLS connection");
            }
        }
    }

    async fn requests(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        identity: Option<ClientIdentity>,
    ) {
        let builder = self.protocol();
        let app = self.app.to(peer.clone(), identity);
        let mut connection = gathering(stream, |stream| builder.serve_connection(TokioIo::new(stream), app));
        let result = tokio::select! {
            result = &mut connection => result,
            () = self.over(&peer) => {
                connection.work().graceful_shutdown();
                tokio::select! {
                    result = connection => result,
                    () = self.cut.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = result {
            // Clients that just go away are everyday life.
            tracing::debug!(peer = %peer.address(), error = %error, "connection ended");
        }
    }

    /// Returns when a connection is to end: the process stops, or nothing was
    /// asked over it for `connection_idle_ms`, at the latest twice that. Clients
    /// connect again by themselves when they need one.
    async fn over(&self, peer: &Peer) {
        /// This function's caller, and the service of the connection.
        const HOLDERS: usize = 2;
        let idle = Duration::from_millis(self.context.config.connection_idle_ms);
        loop {
            let begun = peer.begun();
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(idle) => {
                    if peer.begun() == begun && !peer.is_in_use(HOLDERS) {
                        return;
                    }
                }
            }
        }
    }

    /// What the peer says first, if it does in time; it is not taken. Without
    /// this a connection that never speaks would be held for ever.
    async fn first_byte(&self, stream: &TcpStream, places: Places) -> Option<u8> {
        let mut first = [0u8; 1];
        tokio::select! {
            () = self.stop.cancelled() => None,
            peeked = tokio::time::timeout(self.first_byte_timeout(places), stream.peek(&mut first)) => {
                matches!(peeked, Ok(Ok(1))).then_some(first[0])
            }
        }
    }

    fn first_byte_timeout(&self, places: Places) -> Duration {
        let configured = Duration::from_millis(self.context.config.first_byte_timeout_ms);
        match places {
            Places::Anybody => configured,
            // Nodes are quick to say who they are.
            Places::Nodes => configured.min(HANDSHAKE),
        }
    }

    fn protocol(&self) -> auto::Builder<Tasks> {
        let config = &self.context.config;
        let mut builder = auto::Builder::new(Tasks);
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
            .keep_alive(true)
            // Who has said all they have to say still waits for the answer.
            .half_close(true);
        builder
    }
}

/// Says in the peer's protocol why it is not served.
async fn refuse(mut stream: TcpStream, refusal: &Refusal) -> std::io::Result<()> {
    let Refusal { status, code, text } = refusal;
    let mut first = [0u8; 3];
    let mut peeked = stream.peek(&mut first).await?;
    while peeked > 0 && peeked < first.len() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        peeked = stream.peek(&mut first).await?;
    }
    let answer = if &first == b"PRI" {
        stream.write_all(&SETTINGS).await?;
        // A client whose connection ends before it has asked for anything has no
        // request that could fail for our reason: it says "connection closed".
        if let Ok(read) = tokio::time::timeout(REFUSED_REQUEST_TIMEOUT, until_headers(&mut stream)).await {
            read?;
        }
        go_away(*code, text)
    } else if first[0] == TLS {
        TLS_ALERT.to_vec()
    } else {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        )
        .into_bytes()
    };
    stream.write_all(&answer).await?;
    stream.shutdown().await?;
    // A socket that is closed with something unread takes back what it has sent.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

/// A fatal `internal_error` (RFC 8446, 6.2), the only way to say no before a
/// handshake: it cannot carry a text.
const TLS_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Empty SETTINGS (RFC 9113, 6.5), what a server says first (3.4).
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Reads a client's preface and its frames up to the head of its first HEADERS
/// (RFC 9113, 3.4 and 6.2), and keeps nothing of them.
async fn until_headers(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    const PREFACE: u64 = 24;
    const HEADERS: u8 = 1;
    let mut skipped = PREFACE;
    loop {
        tokio::io::copy(&mut (&mut *stream).take(skipped), &mut tokio::io::sink()).await?;
        let mut head = [0u8; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, ..] = head;
        if kind == HEADERS {
            return Ok(());
        }
        skipped = u64::from(u32::from_be_bytes([0, a, b, c]));
    }
}

/// A GOAWAY (RFC 9113, 6.8) with an error code and a text, which gRPC clients
/// show in their errors.
fn go_away(code: u32, text: &str) -> Vec<u8> {
    const GOAWAY: u8 = 7;
    let length = u32::try_from(8 + text.len()).expect("a short text");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&0u32.to_be_bytes());
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_well_formed_frame() {
        let frame = go_away(0xb, "full");
        assert_eq!(frame.len(), 9 + 8 + 4);
        assert_eq!(frame[..4], [0, 0, 12, 7]);
        assert_eq!(&frame[17..], b"full");
    }

    #[tokio::test]
    async fn what_a_client_says_before_its_request_is_passed_over() {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings = [&[0, 0, 6, 4, 0, 0, 0, 0, 0][..], &[0, 4, 0, 1, 0, 0]].concat();
        let said = [PREFACE, &settings, &SETTINGS, &[0, 0, 5, 1, 4, 0, 0, 0, 1], b"block"].concat();
        let mut rest = &said[..];
        until_headers(&mut rest).await.expect("a request");
        assert_eq!(rest, b"block");
        let cut = until_headers(&mut &said[..PREFACE.len() + 20]).await.expect_err("no request");
        assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}
