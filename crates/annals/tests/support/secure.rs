//! Nodes that speak TLS, certificates for them, and a client that looks at both.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::{Answer, PATIENCE, Running, annals, ask, eventually, run};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A directory as `annals certs` makes it.
pub(crate) struct Certs(TempDir);

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// A certificate that `annals certs` would not make.
#[derive(Default)]
pub(crate) struct Forged<'a> {
    pub(crate) common_name: &'a str,
    pub(crate) uris: &'a [&'a str],
    /// It ended a day ago.
    pub(crate) expired: bool,
    /// As of a CA for web servers: not to be shown by who connects.
    pub(crate) only_server: bool,
}

impl Certs {
    pub(crate) fn new(nodes: &str, users: &str) -> Certs {
        let certs = Certs(tempfile::tempdir().expect("a directory"));
        certs.make(&["--nodes", nodes, "--user", users]).exits(0);
        certs
    }

    /// Runs `annals certs` on this directory.
    pub(crate) fn make(&self, arguments: &[&str]) -> super::Ran {
        run(&[&["certs", "--out", self.path("").to_str().expect("text")], arguments].concat())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// Of a node or a user, as `node-127.0.0.1`.
    pub(crate) fn of(&self, name: &str) -> Own {
        Own { certificate: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) }
    }

    /// Signs what `annals certs` would not.
    pub(crate) fn forge(&self, name: &str, forged: &Forged<'_>) -> Own {
        let read = |name: &str| fs::read_to_string(self.path(name)).expect("a file");
        let ca_key = KeyPair::from_pem(&read("ca.key")).expect("a key");
        let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), ca_key).expect("a CA");
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, forged.common_name);
        let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("plain text"));
        params.subject_alt_names.extend(forged.uris.iter().map(uri));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if !forged.only_server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let now = SystemTime::now();
        params.not_before = (now - DAY * 2).into();
        params.not_after = if forged.expired { now - DAY } else { now + DAY }.into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("signed");
        let own = self.of(name);
        fs::write(&own.certificate, certificate.pem()).expect("written");
        fs::write(&own.key, key.serialize_pem()).expect("written");
        own
    }

    /// A connection string for the node on this port.
    pub(crate) fn url(&self, port: u16) -> String {
        format!("kurrentdb://127.0.0.1:{port}?tls=true&tlsCaFile={}", self.ca().display())
    }

    /// The same for who shows a certificate.
    pub(crate) fn url_as(&self, port: u16, own: &Own) -> String {
        let Own { certificate, key } = own;
        format!("{}&userCertFile={}&userKeyFile={}", self.url(port), certificate.display(), key.display())
    }

    /// Asks over HTTP/1.1 and TLS; none when there is no answer.
    pub(crate) fn http(&self, port: u16, path: &str) -> Option<Answer> {
        ask(self.connect(port)?, "GET", path, &[])
    }

    pub(crate) fn get(&self, port: u16, path: &str) -> Answer {
        self.http(port, path).expect("the node answers")
    }

    pub(crate) fn wait_ready(&self, port: u16) {
        eventually(&format!("node on {port} ready"), || {
            self.http(port, "/readyz").filter(|answer| answer.status == 200).map(|_| ())
        });
    }

    /// The certificate that a node shows on a new connection.
    pub(crate) fn shown(&self, port: u16) -> Option<Vec<u8>> {
        let stream = self.connect(port)?;
        Some(stream.conn.peer_certificates()?.first()?.to_vec())
    }

    /// A connection after its handshake, in whatever version and protocol.
    pub(crate) fn connect(&self, port: u16) -> Option<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.ca()).expect("a file") {
            roots.add(root.expect("PEM")).expect("a CA");
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let mut connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).ok()?;
        }
        Some(StreamOwned::new(connection, stream))
    }
}

/// The certificate in a file.
pub(crate) fn certificate_in(file: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(file).expect("a certificate").to_vec()
}

/// Whether a file holds a private key.
pub(crate) fn is_key(file: &Path) -> bool {
    PrivateKeyDer::from_pem_file(file).is_ok()
}

/// A node of a cluster, over TLS. It is not ready yet.
pub(crate) fn serve(
    ca: &Path,
    own: &Own,
    port: u16,
    data: &Path,
    bootstrap: &[String],
    log: &Path,
    more: &[&str],
) -> Running {
    let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("a file");
    let mut command = annals();
    command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"]).arg(data);
    // Who calls is another matter; the last word counts.
    command.args(["--set", "authentication=false"]);
    if !bootstrap.is_empty() {
        command.args(["--bootstrap", &bootstrap.join(",")]);
    }
    command.arg("--tls-cert").arg(&own.certificate).arg("--tls-key").arg(&own.key).arg("--tls-ca").arg(ca);
    let child = command.args(more).stderr(log).spawn().expect("the binary runs");
    Running { child, port }
}

/// One node on a free port, ready.
pub(crate) fn one(certs: &Certs, directory: &Path) -> Running {
    one_with(certs, directory, &[])
}

/// The same with more arguments.
pub(crate) fn one_with(certs: &Certs, directory: &Path, more: &[&str]) -> Running {
    let port = super::free_ports(1);
    let own = certs.of("node-127.0.0.1");
    let bootstrap = [format!("127.0.0.1:{port}")];
    let node = serve(&certs.ca(), &own, port, &directory.join("data"), &bootstrap, &directory.join("log"), more);
    certs.wait_ready(port);
    node
}
