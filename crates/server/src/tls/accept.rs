//! Connections that come in.

use std::io;
use std::time::Duration;

use tokio::io::AsyncBufReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ClientIdentity, Tls};

/// How long the handshake may take. Until it is done, a stranger holds a
/// connection of ours for free.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);

/// The first byte of every connection that speaks TLS (RFC 8446, 5.1).
pub(crate) const FIRST_BYTE: u8 = 22;

/// A connection whose handshake is done.
pub(crate) struct Accepted {
    pub(crate) stream: TlsStream<TcpStream>,
    /// Who is at the other end, if it proved that.
    pub(crate) identity: Option<ClientIdentity>,
}

impl Accepted {
    /// Whether a node of this cluster is at the other end.
    pub(crate) fn is_node(&self) -> bool {
        matches!(self.identity, Some(ClientIdentity::Node { .. }))
    }
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the TLS handshake took more than {} s", HANDSHAKE.as_secs())]
    Timeout,
    #[error("the TLS handshake failed: {0}")]
    Failed(#[from] io::Error),
    #[error("nothing was said after the TLS handshake")]
    Silent,
}

impl HandshakeError {
    /// As a label of a metric.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            HandshakeError::Timeout => "timeout",
            HandshakeError::Failed(_) => "failed",
            HandshakeError::Silent => "silent",
        }
    }
}

impl Tls {
    /// Does the handshake, with the newest certificates, and waits at most
    /// `first_byte` until the peer says something.
    pub(crate) async fn accept(&self, stream: TcpStream, first_byte: Duration) -> Result<Accepted, HandshakeError> {
        let acceptor = TlsAcceptor::from(self.0.current.load().server.clone());
        let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
        let mut stream = handshake.await.map_err(|_| HandshakeError::Timeout)??;
        let identity = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .and_then(|certificate| ClientIdentity::of(certificate, &self.0.files.cluster));
        // What is read here is read again by the protocol.
        match tokio::time::timeout(first_byte, stream.fill_buf()).await {
            Ok(Ok(said)) if !said.is_empty() => Ok(Accepted { stream, identity }),
            Ok(Ok(_)) | Err(_) => Err(HandshakeError::Silent),
            Ok(Err(error)) => Err(HandshakeError::Failed(error)),
        }
    }
}
