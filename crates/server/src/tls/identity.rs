//! Who a certificate names.
//!
//! | a name in the certificate | whose it is |
//! |---|---|
//! | URI `annals://<cluster>/node/<host>` | a node of that cluster, reached at that host |
//! | URI `annals://<cluster>/user/<name>` | that user |
//! | common name of the subject, and no URI `annals://…` | the user of that name |
//!
//! `<cluster>` is the option `cluster_name`, not the cluster's id: that is
//! made when the cluster is, and certificates are there before. For the same
//! reason a node is named by the host of its `node_address`, not by its number
//! ([`annals_raft::NodeNames`]). A certificate may name several hosts, or with
//! `*.domain` all hosts of a domain, when nodes share it; then each of them can
//! speak for the others.
//!
//! One that names only other clusters names nobody here, although the CA
//! signed it: clusters may share a CA without trusting each other.
//!
//! Only certificates that were verified are looked at.

use std::sync::Arc;

use annals_raft::NodeNames;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

const SCHEME: &str = "annals://";

/// Who is at the other end of a connection, proved by a certificate that this
/// cluster's CA signed and that was valid when the connection began.
///
/// It is in the extensions of every `http::Request` that such a connection
/// carries, and from there in those of `tonic::Request`; absent where nothing
/// was proved: over clear text, without a certificate, or with one that names
/// nobody of this cluster. Cloning it is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientIdentity {
    /// A node of this cluster. Calls that one node hands on to another come
    /// under this identity, whoever made them first.
    Node {
        /// The cluster's name: this node's `cluster_name`.
        cluster: Arc<str>,
        /// The hosts that it may be.
        names: NodeNames,
    },
    /// A user, by name. Whether there is such a user, and what it may do, is
    /// not said by a certificate.
    User(Arc<str>),
}

impl ClientIdentity {
    /// Who a verified certificate names, as seen by a cluster of this name.
    pub(crate) fn of(certificate: &CertificateDer<'_>, cluster: &str) -> Option<ClientIdentity> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let uris = uris(&certificate);
        let ours: Vec<_> = uris.iter().filter_map(|uri| name(uri, cluster)).collect();
        let nodes: Vec<_> = ours.iter().filter_map(|name| name.strip_prefix("node/")).collect();
        if !nodes.is_empty() {
            let names = NodeNames::new(nodes.into_iter().map(str::to_owned));
            return Some(ClientIdentity::Node { cluster: cluster.into(), names });
        }
        let mut users = ours.iter().filter_map(|name| name.strip_prefix("user/"));
        match (users.next(), users.next()) {
            (Some(user), None) => Some(ClientIdentity::User(user.into())),
            // Two users are nobody.
            (Some(_), Some(_)) => None,
            (None, _) if uris.is_empty() => common_name(&certificate).map(|name| ClientIdentity::User(name.into())),
            (None, _) => None,
        }
    }
}

/// The URI by which a certificate names a node.
pub fn node_uri(cluster: &str, host: &str) -> String {
    format!("{SCHEME}{cluster}/node/{}", host.trim_start_matches('[').trim_end_matches(']'))
}

/// The URI by which a certificate names a user.
pub fn user_uri(cluster: &str, user: &str) -> String {
    format!("{SCHEME}{cluster}/user/{user}")
}

/// What a URI names in this cluster.
fn name<'a>(uri: &'a str, cluster: &str) -> Option<&'a str> {
    let name = uri.strip_prefix(SCHEME)?.strip_prefix(cluster)?.strip_prefix('/')?;
    // `node/` and nothing after it names nothing.
    name.split_once('/').filter(|(_, which)| !which.is_empty()).map(|_| name)
}

/// The URIs that are meant for us.
fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let uri = |name: &'a GeneralName<'_>| match name {
        GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
        _ => None,
    };
    names.value.general_names.iter().filter_map(uri).collect()
}

/// The only common name; several are none.
fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let mut names = certificate.subject().iter_common_name();
    match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().filter(|name| !name.is_empty()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn of(common_name: &str, uris: &[&str]) -> Option<ClientIdentity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("plain text"));
        params.subject_alt_names = uris.iter().map(uri).collect();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        ClientIdentity::of(certificate.der(), "prod")
    }

    fn node(hosts: &[&str]) -> Option<ClientIdentity> {
        let names = NodeNames::new(hosts.iter().map(|host| (*host).to_owned()));
        Some(ClientIdentity::Node { cluster: "prod".into(), names })
    }

    fn user(name: &str) -> Option<ClientIdentity> {
        Some(ClientIdentity::User(name.into()))
    }

    #[test]
    fn a_node_is_named_by_cluster_and_host() {
        assert_eq!(of("x", &[&node_uri("prod", "a.example")]), node(&["a.example"]));
        assert_eq!(of("x", &[&node_uri("prod", "[::1]")]), node(&["::1"]));
        assert_eq!(of("x", &["annals://prod/node/a", "annals://prod/node/b"]), node(&["a", "b"]));
        assert_eq!(of("x", &["annals://prod/user/u", "annals://prod/node/a"]), node(&["a"]));
    }

    #[test]
    fn a_user_is_named_by_uri_or_by_common_name() {
        assert_eq!(of("x", &[&user_uri("prod", "alice")]), user("alice"));
        assert_eq!(of("alice", &[]), user("alice"));
        assert_eq!(of("alice", &["https://example.org"]), user("alice"), "a URI that is not for us");
        assert_eq!(of("x", &["annals://prod/user/a", "annals://prod/user/b"]), None, "two are nobody");
        assert_eq!(of("", &[]), None);
    }

    #[test]
    fn who_belongs_to_another_cluster_is_nobody_here() {
        for uri in [
            "annals://other/node/a",
            "annals://other/user/alice",
            "annals://prod2/node/a",
            "annals://prod/node/",
            "annals://prod/boss/a",
            "annals://prod",
        ] {
            assert_eq!(of("alice", &[uri]), None, "{uri}");
        }
        assert_eq!(of("x", &["annals://other/node/a", "annals://prod/node/b"]), node(&["b"]));
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        assert_eq!(ClientIdentity::of(&CertificateDer::from(vec![1, 2, 3]), "prod"), None);
    }
}
