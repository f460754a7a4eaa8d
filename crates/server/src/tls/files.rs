//! The certificates of a node as they lie in files, and when they are refused.
//!
//! Everything that the other end of a connection would refuse is refused here,
//! where the reason can be told: a key that does not fit, a certificate that
//! has expired, is not of the cluster's CA or does not name this node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use xxhash_rust::xxh3::Xxh3;

use super::identity::{ClientIdentity, node_uri};
use super::{PROTOCOLS, provider};
use crate::config::Config;
use crate::members;
use crate::metrics::{Metrics, TlsFile};
use crate::time::rfc3339;

/// The largest file that is read. Certificates are some KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a certificate, key or CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read `{option}`, {path}")]
    Read {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("`{option}`, {path}, holds no {expected}: {why}")]
    Content {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What it must hold.
        expected: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The private key is not the certificate's.
    #[error("the key in {key} cannot serve the certificate in {certificate}")]
    Key {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// Outside the time for which it was issued.
    #[error("the certificate in {certificate} is valid from {from} to {to}, and it is {now}")]
    Time {
        /// The file.
        certificate: PathBuf,
        /// Its first second.
        from: String,
        /// Its last second.
        to: String,
        /// This machine's clock.
        now: String,
    },
    /// Not issued by the CA.
    #[error(
        "the certificate in {certificate} does not stand before the CA in {ca}: with `tls_ca`, nodes and users have \
         their certificates from that CA, for both ends of a connection (extended key usage serverAuth and clientAuth)"
    )]
    Issuer {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the CA.
        ca: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// It is not made for this node's address.
    #[error(
        "the certificate in {certificate} is not for {host}, the host of this node's `node_address`: clients and peers \
         connect to it by that name, so it must be among the certificate's DNS names or IP addresses"
    )]
    Host {
        /// The file.
        certificate: PathBuf,
        /// The host.
        host: String,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// It does not name this node of this cluster.
    #[error(
        "the certificate in {certificate} does not name this node: among its names must be the URI {uri} \
         (`cluster_name` and the host of `node_address`), else peers refuse it. `annals certs` makes such certificates"
    )]
    Unnamed {
        /// The file.
        certificate: PathBuf,
        /// What it must name.
        uri: String,
    },
    /// The cryptography refused it.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

/// Where the certificates lie, and what they must say.
#[derive(Clone, Debug)]
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    ca: Option<PathBuf>,
    pub(super) cluster: String,
    /// Where clients and peers reach this node.
    host: String,
}

/// What was read.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Option<Vec<u8>>,
}

/// Certificates that can be used.
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    /// To call peers; none without a CA.
    pub(super) client: Option<Arc<ClientConfig>>,
    /// Of the contents of all files.
    pub(super) fingerprint: u128,
    certificate_expires: i64,
    ca_expires: Option<i64>,
}

impl Files {
    /// As configured and validated; none without TLS.
    pub(super) fn of(config: &Config) -> Option<Files> {
        let (certificate, key) = config.tls_cert.clone().zip(config.tls_key.clone())?;
        let (host, _) = members::split(&config.own_address());
        Some(Files { certificate, key, ca: config.tls_ca.clone(), cluster: config.cluster_name.clone(), host })
    }

    /// What distinguishes the files' contents from others.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn fingerprint(&self) -> Result<u128, LoadError> {
        Ok(self.read()?.fingerprint())
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn load(&self) -> Result<Loaded, LoadError> {
        let contents = self.read()?;
        let chain = certificates("tls_cert", &self.certificate, &contents.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| content("tls_key", &self.key, "private key in PEM", error))?;
        let certificate_expires = self.check_time(&chain[0])?;
        self.check_host(&chain[0])?;
        let roots = match self.ca.as_ref().zip(contents.ca.as_ref()) {
            Some((path, ca)) => Some(roots(path, ca)?),
            None => None,
        };
        if let Some((roots, _)) = &roots {
            self.check_peer(&chain, roots)?;
        }
        let server = self.server(&chain, &key, roots.as_ref().map(|(roots, _)| roots))?;
        let client = match &roots {
            Some((roots, _)) => Some(Arc::new(client(chain, key, roots)?)),
            None => None,
        };
        Ok(Loaded {
            server: Arc::new(server),
            client,
            fingerprint: contents.fingerprint(),
            certificate_expires,
            ca_expires: roots.map(|(_, expires)| expires),
        })
    }

    fn read(&self) -> Result<Contents, LoadError> {
        Ok(Contents {
            certificate: read("tls_cert", &self.certificate)?,
            key: read("tls_key", &self.key)?,
            ca: self.ca.as_ref().map(|ca| read("tls_ca", ca)).transpose()?,
        })
    }

    /// When the certificate ends, in Unix seconds.
    fn check_time(&self, certificate: &CertificateDer<'_>) -> Result<i64, LoadError> {
        let (from, to) = validity("tls_cert", &self.certificate, certificate)?;
        let now = UnixTime::now().as_secs().cast_signed();
        if (from..=to).contains(&now) {
            return Ok(to);
        }
        let certificate = self.certificate.clone();
        Err(LoadError::Time { certificate, from: moment(from), to: moment(to), now: moment(now) })
    }

    /// That clients will accept the certificate for this node's address.
    fn check_host(&self, certificate: &CertificateDer<'_>) -> Result<(), LoadError> {
        let host = ServerName::try_from(self.host.as_str())
            .map_err(|error| content("node_address", Path::new(&self.host), "host", error))?;
        let parsed = ParsedCertificate::try_from(certificate)
            .map_err(|error| content("tls_cert", &self.certificate, "certificate that can be used", error))?;
        verify_server_name(&parsed, &host).map_err(|source| LoadError::Host {
            certificate: self.certificate.clone(),
            host: self.host.clone(),
            source,
        })
    }

    /// That peers will accept the certificate at either end of a connection.
    fn check_peer(&self, chain: &[CertificateDer<'static>], roots: &Arc<RootCertStore>) -> Result<(), LoadError> {
        let (own, intermediates) = chain.split_first().expect("at least one was read");
        let (certificate, ca) = (self.certificate.clone(), self.ca.clone().unwrap_or_default());
        let now = UnixTime::now();
        if let Err(source) = verifier(roots)?.verify_client_cert(own, intermediates, now) {
            return Err(LoadError::Issuer { certificate, ca, source });
        }
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let host = ServerName::try_from(self.host.clone()).expect("it was checked as a host");
        if let Err(source) = servers.verify_server_cert(own, intermediates, &host, &[], now) {
            return Err(LoadError::Issuer { certificate, ca, source });
        }
        match ClientIdentity::of(own, &self.cluster) {
            Some(ClientIdentity::Node { names, .. }) if names.cover(&self.host) => Ok(()),
            Some(_) | None => Err(LoadError::Unnamed { certificate, uri: node_uri(&self.cluster, &self.host) }),
        }
    }

    fn server(
        &self,
        chain: &[CertificateDer<'static>],
        key: &PrivateKeyDer<'static>,
        roots: Option<&Arc<RootCertStore>>,
    ) -> Result<ServerConfig, LoadError> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match roots {
            Some(roots) => builder.with_client_cert_verifier(verifier(roots)?),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain.to_vec(), key.clone_key()).map_err(|source| {
            LoadError::Key { key: self.key.clone(), certificate: self.certificate.clone(), source }
        })?;
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(server)
    }
}

fn client(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: &Arc<RootCertStore>,
) -> Result<ClientConfig, LoadError> {
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain, key)?;
    client.alpn_protocols = vec![PROTOCOLS[0].to_vec()];
    client.resumption = Resumption::disabled();
    Ok(client)
}

/// Who connects may show a certificate. Then it must be one of this CA.
fn verifier(roots: &Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, LoadError> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| LoadError::Setup(rustls::Error::General(error.to_string())))
}

impl Contents {
    fn fingerprint(&self) -> u128 {
        let mut hash = Xxh3::new();
        for part in [&self.certificate, &self.key].into_iter().chain(&self.ca) {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.digest128()
    }
}

impl Loaded {
    /// Says until when these hold.
    pub(super) fn tell(&self, metrics: &Metrics) {
        metrics.tls_expires(TlsFile::Certificate, self.certificate_expires);
        if let Some(expires) = self.ca_expires {
            metrics.tls_expires(TlsFile::Ca, expires);
        }
    }

    /// When the certificate ends.
    pub(super) fn expires(&self) -> String {
        moment(self.certificate_expires)
    }
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read { option, path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(failed(io::Error::other(format!("it has {bytes} bytes, at most {FILE_BYTES_MAX} are read"))));
    }
    fs::read(path).map_err(failed)
}

fn content(option: &'static str, path: &Path, expected: &'static str, why: impl std::fmt::Display) -> LoadError {
    LoadError::Content { option, path: path.to_owned(), expected, why: why.to_string() }
}

/// The certificates of a file, at least one.
fn certificates(option: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let expected = "certificate in PEM";
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(content(option, path, expected, "there is none in it")),
        Ok(found) => Ok(found),
        Err(error) => Err(content(option, path, expected, error)),
    }
}

/// Whom to trust, and when the first of them ends.
fn roots(path: &Path, pem: &[u8]) -> Result<(Arc<RootCertStore>, i64), LoadError> {
    let mut roots = RootCertStore::empty();
    let mut first = i64::MAX;
    for certificate in certificates("tls_ca", path, pem)? {
        first = first.min(validity("tls_ca", path, &certificate)?.1);
        roots.add(certificate).map_err(|error| content("tls_ca", path, "CA certificate", error))?;
    }
    Ok((Arc::new(roots), first))
}

/// First and last second, in Unix seconds.
fn validity(option: &'static str, path: &Path, certificate: &CertificateDer<'_>) -> Result<(i64, i64), LoadError> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| content(option, path, "certificate that can be read", error))?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn moment(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    rfc3339(UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH))
}
