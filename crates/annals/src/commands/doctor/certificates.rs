//! Certificates: those that nodes show, and those that we show.
//!
//! A connection that is refused for its certificate tells one reason and not what the
//! certificate says. Here the handshake goes on whatever is shown, and nothing is sent
//! over that connection; what a client would say of the certificate is written down.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annals_client::{Host, Settings};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::extensions::GeneralName;

use super::{Check, Finding};

const CHECK: Check = Check { name: "certificate", code: "ANN-3010" };

const DAY: i64 = 24 * 3_600;

/// Certificates that hold no longer than this are to be renewed.
const DAYS_MIN: i64 = 14;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the files that we name, and at what is shown by those that answer.
pub(super) async fn look(settings: &Settings, hosts: &[Host]) -> Vec<Finding> {
    if !settings.tls {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = own(settings).iter().map(|file| of_file(file, now())).collect();
    findings.extend(of_hosts(settings, hosts).await);
    findings
}

/// Looks at what is shown by those that answer.
pub(super) async fn of_hosts(settings: &Settings, hosts: &[Host]) -> Vec<Finding> {
    if !settings.tls || hosts.is_empty() {
        return Vec::new();
    }
    let roots = match roots(settings.tls_ca_file.as_deref()) {
        Ok(roots) => roots,
        Err(error) => return vec![Finding::fail(CHECK, error, "name a file with the CA's certificate in PEM")],
    };
    let asked = hosts.iter().map(|host| of_host(settings, host, Arc::clone(&roots)));
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// The files of ours in which there are certificates.
fn own(settings: &Settings) -> Vec<&Path> {
    let user = settings.user_certificate.as_ref().map(|(certificate, _)| certificate.as_path());
    settings.tls_ca_file.as_deref().into_iter().chain(user).collect()
}

fn roots(file: Option<&Path>) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    let certificates = match file {
        Some(file) => read(file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err("no CA is trusted here".to_owned());
    }
    Ok(Arc::new(roots))
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", file.display());
    let found = CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))?;
    let found: Result<Vec<_>, _> = found.collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{} holds no certificate in PEM", file.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(unreadable(&error)),
    }
}

fn of_file(file: &Path, now: i64) -> Finding {
    match read(file) {
        Ok(chain) => lasting(&file.display().to_string(), &chain, now),
        Err(error) => Finding::fail(CHECK, error, "name a file with a certificate in PEM"),
    }
}

/// None where no certificate is shown: whoever does not answer is another check's.
async fn of_host(settings: &Settings, host: &Host, roots: Arc<RootCertStore>) -> Option<Finding> {
    let name = settings.tls_server_name.clone().unwrap_or_else(|| host.name.clone());
    let shown = tokio::time::timeout(PATIENCE, shown(host, &name, roots)).await.ok()??;
    Some(judge(&host.to_string(), &name, &shown, now()))
}

/// What a node shows, and what a client says of it.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    verdict: Result<(), rustls::Error>,
}

async fn shown(host: &Host, name: &str, roots: Arc<RootCertStore>) -> Option<Shown> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().ok()?;
    let witness = Arc::new(Witness { inner, seen: Mutex::new(None) });
    let config = config(provider, Arc::clone(&witness))?;
    let stream = TcpStream::connect((host.name.as_str(), host.port)).await.ok()?;
    let name = ServerName::try_from(name.to_owned()).ok()?;
    // Also a handshake that ends badly has shown a certificate.
    let _ = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    witness.seen.lock().ok()?.take()
}

fn config(provider: Arc<CryptoProvider>, witness: Arc<Witness>) -> Option<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let mut config = config.dangerous().with_custom_certificate_verifier(witness).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Some(config)
}

/// Writes down what is shown, and lets it pass: the connection is for nothing else.
#[derive(Debug)]
struct Witness {
    inner: Arc<WebPkiServerVerifier>,
    seen: Mutex<Option<Shown>>,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let chain = std::iter::once(end_entity).chain(intermediates).map(|shown| shown.clone().into_owned()).collect();
        if let Ok(mut seen) = self.seen.lock() {
            *seen = Some(Shown { chain, verdict: verdict.map(|_| ()) });
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn judge(host: &str, name: &str, shown: &Shown, now: i64) -> Finding {
    let Err(error) = &shown.verdict else { return lasting(host, &shown.chain, now) };
    let (found, advice) = match error {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            let names = shown.chain.first().map(names).unwrap_or_default();
            (
                format!("not for {name}, but for {}", names.join(", ")),
                "it needs the name by which clients call the node",
            )
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            ("signed by a CA that is not trusted here".to_owned(), "name the CA's certificate with tlsCaFile")
        }
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            ("it has expired".to_owned(), "put a new one in its place: nodes read it anew by themselves")
        }
        other => (other.to_string(), "have it made anew"),
    };
    Finding::fail(CHECK, format!("{host}: {found}"), advice)
}

/// How long the first of these to end still holds.
fn lasting(what: &str, chain: &[CertificateDer<'_>], now: i64) -> Finding {
    const ADVICE: &str = "have it renewed: nodes read a new one by themselves";
    let ends = chain.iter().map(|certificate| {
        let parsed = x509_parser::parse_x509_certificate(certificate).ok();
        parsed.map(|(_, parsed)| parsed.validity().not_after.timestamp())
    });
    let Some(Some(end)) = ends.min() else {
        return Finding::fail(CHECK, format!("{what}: it cannot be read"), "have it made anew");
    };
    let days = (end - now).div_euclid(DAY);
    if end <= now {
        Finding::fail(CHECK, format!("{what}: it has expired"), ADVICE)
    } else if days < DAYS_MIN {
        Finding::warn(CHECK, format!("{what}: it holds {days} more days"), ADVICE)
    } else {
        Finding::pass(CHECK, format!("{what}: it holds {days} more days"))
    }
}

/// For whom a certificate is.
fn names(certificate: &CertificateDer<'static>) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return vec!["nobody".to_owned()] };
    let shown = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(shown).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    #[test]
    fn what_ends_soon_is_told_before_it_ends() {
        let mut params = CertificateParams::new(["a.example".to_owned(), "10.0.0.7".to_owned()]).expect("names");
        let end = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        params.not_before = (end - Duration::from_secs(90 * 86_400)).into();
        params.not_after = end.into();
        let key = KeyPair::generate().expect("a key");
        let chain = [params.self_signed(&key).expect("signed").der().clone()];
        let before = |days: i64| lasting("x", &chain, 2_000_000_000 - days * DAY);
        assert_eq!(before(80).grade, Grade::Pass);
        assert_eq!(before(14).grade, Grade::Pass);
        assert_eq!((before(13).grade, before(13).found.as_str()), (Grade::Warn, "x: it holds 13 more days"));
        assert_eq!(before(0).grade, Grade::Fail);
        assert_eq!(before(-5).grade, Grade::Fail);
        assert_eq!(names(&chain[0]), ["a.example", "10.0.0.7"]);
        assert_eq!(lasting("x", &[CertificateDer::from(vec![1, 2, 3])], 0).grade, Grade::Fail);
    }
}
