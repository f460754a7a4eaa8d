//! The certificates of the node.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::declare::Declarator;

/// A file with certificates, as a label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TlsFile {
    /// The node's own.
    Certificate,
    /// Of those who issue.
    Ca,
}

impl TlsFile {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            TlsFile::Certificate => "certificate",
            TlsFile::Ca => "ca",
        }
    }
}

/// The certificates of the node.
pub(super) struct Tls {
    pub(super) expiry: IntGaugeVec,
    pub(super) reloads: IntCounterVec,
    pub(super) handshakes_failed: IntCounterVec,
}

impl Tls {
    pub(super) fn declare(d: &mut Declarator) -> Self {
        d.group = "tls";
        Tls {
            expiry: d.gauges(
                "annals_tls_certificate_expiry_timestamp_seconds",
                &["file"],
                "When the certificate in use ends, in Unix seconds: the node's own (`certificate`), and of those in \
                 `tls_ca` the one that ends first (`ca`).",
            ),
            reloads: d.counters(
                "annals_tls_reloads_total",
                &["result"],
                "Times changed files were found: `ok` when they were taken into use, `refused` when they cannot be \
                 used and those before stayed.",
            ),
            handshakes_failed: d.counters(
                "annals_tls_handshakes_failed_total",
                &["reason"],
                "Connections that ended before they carried a request: `clear_text` on a port that speaks TLS, \
                 `timeout`, `silent` after the handshake, `failed` for all else, certificates above all.",
            ),
        }
    }
}
