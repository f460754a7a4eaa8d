//! Connections that go out, to other nodes.
//!
//! The other end must hold a certificate of the CA for the host that was
//! called, as every client demands, and be a node of this cluster: whoever
//! else has a certificate for that host gets no log entries from us. This
//! node shows its own certificate, for the same check at the other end.

use std::io;

use annals_raft::Connect;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{ClientIdentity, Tls};
use crate::config::is_loopback;

/// Connections without TLS that stay on this machine.
pub(super) struct ThisMachine;

impl Connect for ThisMachine {
    fn connect(&self, to: Endpoint) -> Channel {
        if to.uri().authority().is_some_and(|address| is_loopback(address.as_str())) {
            return to.connect_lazy();
        }
        to.connect_with_connector_lazy(tower::service_fn(async |uri: Uri| {
            Err::<TokioIo<TcpStream>, _>(DialError::InTheOpen(uri))
        }))
    }
}

/// Why a peer is not talked to.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(
        "will not speak to {0} without TLS: give the nodes certificates (--tls-cert, --tls-key, --tls-ca), or set `insecure`"
    )]
    InTheOpen(Uri),
    #[error("this node has no CA to know its peers by: set `tls_ca` (--tls-ca)")]
    NoCa,
    #[error("{0} is no address of a node")]
    Address(Uri),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS with {host}: {source}")]
    Handshake { host: String, source: io::Error },
    #[error("the certificate of {host} names no node of the cluster `{cluster}` at that host, but {found}")]
    OtherNode { host: String, cluster: String, found: String },
}

/// A connection that is made with the certificates that are newest when it is.
pub(super) fn connect(tls: Tls, to: Endpoint) -> Channel {
    to.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move { tls.dial(&uri).await.map(TokioIo::new) }
    }))
}

impl Tls {
    async fn dial(&self, uri: &Uri) -> Result<TlsStream<TcpStream>, DialError> {
        let address = || DialError::Address(uri.clone());
        let (host, port) = uri.host().zip(uri.port_u16()).ok_or_else(address)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| address())?;
        let client = self.0.current.load().client.clone().ok_or(DialError::NoCa)?;
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        // How long all this may take is said by the endpoint.
        let stream = TlsConnector::from(client)
            .connect(name, stream)
            .await
            .map_err(|source| DialError::Handshake { host: host.to_owned(), source })?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let cluster = &self.0.files.cluster;
        match shown.and_then(|certificate| ClientIdentity::of(certificate, cluster)) {
            Some(ClientIdentity::Node { names, .. }) if names.cover(host) => Ok(stream),
            other => Err(DialError::OtherNode {
                host: host.to_owned(),
                cluster: cluster.clone(),
                found: found(other.as_ref()),
            }),
        }
    }
}

fn found(identity: Option<&ClientIdentity>) -> String {
    match identity {
        Some(ClientIdentity::Node { names, .. }) => format!("the node at {names}"),
        Some(ClientIdentity::User(name)) => format!("the user {name}"),
        None => "nobody of it".to_owned(),
    }
}
