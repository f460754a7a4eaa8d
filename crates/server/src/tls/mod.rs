//! TLS: of the one port, and between nodes.
//!
//! A node has one certificate, which it shows to clients and to other nodes,
//! as server and as client alike. Two ways to run:
//!
//! - *with a CA* (`tls_ca`): the CA of this cluster. Every node and every user
//!   with a certificate has it from this CA, and its names say who that is
//!   ([`identity`]). Nodes prove to each other who they are, both ways.
//! - *without*: one node, with a certificate from wherever clients trust.
//!   Nobody can identify by certificate, so that it can have no peers.
//!
//! Where to look: what is read from files and when it is refused ([`files`]),
//! how it is exchanged while the node runs ([`reload`]), connections that come
//! in ([`accept`]) and go out ([`peers`]), what only nodes may call ([`guard`]).
//!
//! Invariants
//! - What was loaded is complete and was checked as the other end will check
//!   it: a file that cannot work is refused at the start, and while running it
//!   changes nothing.
//! - A connection keeps what it began with. New ones get what is newest.
//! - No session is resumed: each connection proves anew who is at its ends,
//!   against the certificates and the clock of now. Connections here live for
//!   hours, so that a full handshake costs nothing that can be measured.

pub(crate) mod accept;
pub(crate) mod files;
pub(crate) mod guard;
pub mod identity;
mod peers;
mod reload;

use std::sync::Arc;

use annals_raft::{ClearText, Connect};
use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use tonic::transport::{Channel, Endpoint};

use crate::config::Config;
use crate::metrics::Metrics;

pub use files::LoadError;
pub use identity::ClientIdentity;

use files::{Files, Loaded};

/// What a TLS connection offers to speak, best first: gRPC needs HTTP/2.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificates of a node, newest first in use. Clones share them.
#[derive(Clone)]
pub(crate) struct Tls(Arc<Inner>);

struct Inner {
    files: Files,
    metrics: Metrics,
    current: ArcSwap<Loaded>,
}

impl Tls {
    /// Loads what the configuration names; none when it names nothing.
    ///
    /// # Errors
    /// [`LoadError`]: a file cannot be used.
    pub(crate) fn open(config: &Config, metrics: &Metrics) -> Result<Option<Tls>, LoadError> {
        let Some(files) = Files::of(config) else { return Ok(None) };
        let loaded = files.load()?;
        loaded.tell(metrics);
        let inner = Inner { files, metrics: metrics.clone(), current: ArcSwap::from_pointee(loaded) };
        Ok(Some(Tls(Arc::new(inner))))
    }
}

impl Connect for Tls {
    fn connect(&self, to: Endpoint) -> Channel {
        peers::connect(self.clone(), to)
    }
}

/// How other nodes are connected to: over TLS or, if there is none, without,
/// beyond this machine only if that was asked for.
pub(crate) fn peers(config: &Config, tls: Option<&Tls>) -> Arc<dyn Connect> {
    match tls {
        Some(tls) => Arc::new(tls.clone()),
        None if config.insecure => Arc::new(ClearText),
        None => Arc::new(peers::ThisMachine),
    }
}

/// The one implementation of cryptography in this program.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
