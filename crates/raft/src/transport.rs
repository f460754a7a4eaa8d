//! How connections between nodes travel, and who a caller has proved to be.
//!
//! What a connection is for, its windows and its pings are decided in
//! [`crate::network`]. Whether its bytes are encrypted, and by whose
//! certificate each end is known, is decided by whoever runs the node: it
//! hands in a [`Connect`], and names callers by [`NodeNames`].
//!
//! A certificate cannot hold what [`crate::identity`] knows nodes by: the
//! cluster's id is made when the cluster is, and node ids come out of its log.
//! Both come after the certificates. What exists before is where a node is
//! reached. So a certificate names *hosts*, and the membership says which node
//! is at which address.

use std::sync::Arc;

use tonic::transport::{Channel, Endpoint};

/// Makes connections to peers.
pub trait Connect: Send + Sync + 'static {
    /// A connection to this endpoint, made when it is first used, and again
    /// when it is used after it broke. Returns at once.
    fn connect(&self, to: Endpoint) -> Channel;
}

/// Connections without TLS.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClearText;

impl Connect for ClearText {
    fn connect(&self, to: Endpoint) -> Channel {
        to.connect_lazy()
    }
}

/// The hosts that a caller has proved to be, by its certificate.
///
/// Whoever mounts [`crate::NodeServices`] puts it into the extensions of each
/// request that came over TLS. A call from a member is then refused unless the
/// member's address lies at one of these hosts: a node can speak for itself,
/// not for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNames(Arc<[String]>);

impl NodeNames {
    /// Names as certificates write them. One that begins with `*.` stands for
    /// all names with one more label, as in names of servers.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        NodeNames(names.into_iter().map(|name| plain(&name)).collect())
    }

    /// Whether a host is among them. IPv6 with or without brackets.
    pub fn cover(&self, host: &str) -> bool {
        let host = plain(host);
        self.0.iter().any(|name| match name.strip_prefix("*.") {
            Some(domain) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
            None => *name == host,
        })
    }

    /// Whether the host of a `host:port` is among them.
    pub(crate) fn cover_address(&self, address: &str) -> bool {
        self.cover(address.rsplit_once(':').map_or(address, |(host, _)| host))
    }
}

impl std::fmt::Display for NodeNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Names of hosts are compared without case.
fn plain(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> NodeNames {
        NodeNames::new(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn a_host_is_covered_by_its_name_in_any_case() {
        let names = names(&["node-1.example", "::1", "127.0.0.1"]);
        for host in ["node-1.example", "Node-1.Example", "node-1.example.", "[::1]", "::1", "127.0.0.1"] {
            assert!(names.cover(host), "{host}");
        }
        for host in ["node-2.example", "example", "x.node-1.example", ""] {
            assert!(!names.cover(host), "{host}");
        }
        assert!(names.cover_address("node-1.example:2113") && names.cover_address("[::1]:2113"));
        assert!(!names.cover_address("node-2.example:2113"));
    }

    #[test]
    fn a_star_stands_for_one_label() {
        let names = names(&["*.annals-headless"]);
        assert!(names.cover("annals-0.annals-headless"));
        for host in ["annals-headless", "a.b.annals-headless", ".annals-headless", "annals-0.other"] {
            assert!(!names.cover(host), "{host}");
        }
    }
}
