//! `annals certs`: a CA and certificates to try TLS with.
//!
//! Made for test clusters: the CA's key lies beside what it signed, without a
//! password. What the certificates say is what any CA has to put into them
//! (docs/security.md).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use annals_server::tls::identity::{node_uri, user_uri};
use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use uuid::Uuid;

use crate::failure::{Code, Failure};
use crate::output;

/// How long a CA holds.
const CA_DAYS: u32 = 3_650;

/// Clocks of machines differ: certificates are valid from a little before now.
const BEFORE: Duration = Duration::from_secs(3_600);

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// By these every node is reached from its own machine.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Flags of `annals certs`.
#[derive(clap::Args)]
#[command(after_help = "\
For test clusters: the CA's key is written beside the certificates, without a
password. Where the directory holds a CA already (ca.crt, ca.key), that one
signs, so that nodes and users can be added and certificates renewed. No file
is ever overwritten.

Examples:
  annals certs --out certs --nodes 127.0.0.1
  annals certs --out certs --nodes annals-0.example,annals-1.example,annals-2.example --user admin
  annals certs --out certs --user alice --user bob --days 30")]
pub(crate) struct Arguments {
    /// Where to write them. Made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// The hosts of the nodes' addresses, each for one certificate. It holds
    /// for localhost, too.
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    nodes: Vec<String>,

    /// A user who identifies by certificate. May be repeated.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    user: Vec<String>,

    /// The name of the cluster, its nodes' `cluster_name`.
    #[arg(long, value_name = "NAME", default_value = "annals")]
    cluster_name: String,

    /// How long the certificates of nodes and users hold.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=CA_DAYS as i64))]
    days: u32,
}

/// A certificate or key, and its file.
struct Pem {
    path: PathBuf,
    text: String,
    secret: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let nodes: Vec<_> = arguments.nodes.iter().map(|host| plain(host)).collect();
    check(arguments, &nodes)?;
    let out = &arguments.out;
    let (issuer, mut files) = ca(out, &arguments.cluster_name)?;
    for host in &nodes {
        files.extend(leaf(out, &format!("node-{}", host.replace(':', "_")), node(arguments, host)?, &issuer)?);
    }
    for name in &arguments.user {
        files.extend(leaf(out, &format!("user-{name}"), user(arguments, name)?, &issuer)?);
    }
    write(out, &files)?;
    for file in &files {
        output::line(&file.path.display().to_string())?;
    }
    explain(arguments, &nodes);
    Ok(())
}

fn check(arguments: &Arguments, nodes: &[String]) -> Result<(), Failure> {
    if nodes.is_empty() && arguments.user.is_empty() {
        return Err(Failure::usage("name whom the certificates are for: --nodes HOST,… or --user NAME"));
    }
    let sound = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        !name.is_empty() && name.chars().all(plain)
    };
    if let Some(host) = nodes.iter().find(|host| host.parse::<IpAddr>().is_err() && !sound(host)) {
        return Err(Failure::usage(format!(
            "--nodes: \"{host}\" is no host; write names or IP addresses without a port"
        )));
    }
    if let Some(name) = arguments.user.iter().chain([&arguments.cluster_name]).find(|name| !sound(name)) {
        return Err(Failure::usage(format!("\"{name}\" is no name for a certificate: letters, digits, `.`, `_`, `-`")));
    }
    Ok(())
}

/// The CA that is there, or a new one and its files.
fn ca(out: &Path, cluster: &str) -> anyhow::Result<(Issuer<'static, KeyPair>, Vec<Pem>)> {
    let (certificate, key) = (out.join("ca.crt"), out.join("ca.key"));
    if certificate.exists() || key.exists() {
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let (pem, own) = (read(&certificate)?, read(&key)?);
        let own = KeyPair::from_pem(&own).with_context(|| format!("{} holds no key", key.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, own)
            .with_context(|| format!("{} holds no certificate of a CA", certificate.display()))?;
        return Ok((issuer, Vec::new()));
    }
    let mut params = CertificateParams::default();
    // No two alike: where one replaces another, both are looked up by name.
    let (which, _) = Uuid::new_v4().as_u64_pair();
    params.distinguished_name = named(&format!("Test CA {which:016x} of the cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_DAYS);
    let own = KeyPair::generate()?;
    let pem = params.self_signed(&own)?.pem();
    let files = vec![
        Pem { path: certificate, text: pem, secret: false },
        Pem { path: key, text: own.serialize_pem(), secret: true },
    ];
    Ok((Issuer::new(params, own), files))
}

/// A node serves clients and peers, and is a client of its peers.
fn node(arguments: &Arguments, host: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(host);
    let local = LOCAL.iter().filter(|local| **local != host).copied();
    params.subject_alt_names = [host].into_iter().chain(local).map(host_name).collect::<Result<_, _>>()?;
    params.subject_alt_names.push(SanType::URI(node_uri(&arguments.cluster_name, host).try_into()?));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    valid_for(&mut params, arguments.days);
    Ok(params)
}

fn user(arguments: &Arguments, name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.subject_alt_names = vec![SanType::URI(user_uri(&arguments.cluster_name, name).try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    valid_for(&mut params, arguments.days);
    Ok(params)
}

/// Signs, and names the files.
fn leaf(
    out: &Path,
    name: &str,
    mut params: CertificateParams,
    issuer: &Issuer<'static, KeyPair>,
) -> anyhow::Result<[Pem; 2]> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok([
        Pem { path: out.join(format!("{name}.crt")), text: certificate.pem(), secret: false },
        Pem { path: out.join(format!("{name}.key")), text: key.serialize_pem(), secret: true },
    ])
}

fn host_name(host: &str) -> anyhow::Result<SanType> {
    Ok(match host.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(host.try_into()?),
    })
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + DAY * days).into();
}

/// IPv6 without brackets.
fn plain(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Writes all files or, if one is there already, none.
fn write(out: &Path, files: &[Pem]) -> Result<(), Failure> {
    if let Some(there) = files.iter().find(|file| file.path.exists()) {
        let text = format!("{} is there already, and nothing is overwritten: remove it first", there.path.display());
        return Err(Failure::new(Code::Conflict, anyhow::anyhow!(text)));
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for Pem { path, text, secret } in files {
        let mode = if *secret { 0o600 } else { 0o644 };
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn explain(arguments: &Arguments, nodes: &[String]) {
    let out = arguments.out.display();
    let (name, days) = (&arguments.cluster_name, arguments.days);
    eprintln!("\nvalid for {days} days, for the cluster `{name}`\n");
    if let Some(host) = nodes.first() {
        let file = host.replace(':', "_");
        let (address, cluster) = (
            if host.contains(':') { format!("[{host}]:2113") } else { format!("{host}:2113") },
            if name == "annals" { String::new() } else { format!(" --cluster-name {name}") },
        );
        let listen = match host.parse::<IpAddr>() {
            Ok(_) => format!("--listen {address}"),
            Err(_) => format!("--listen 0.0.0.0:2113 --node-address {address}"),
        };
        eprintln!(
            "  a node     annals serve {listen} --data DIR --bootstrap {address}{cluster} \\\n\
             \x20            --tls-cert {out}/node-{file}.crt --tls-key {out}/node-{file}.key --tls-ca {out}/ca.crt\n\
             \x20 clients    kurrentdb://{address}?tls=true&tlsCaFile={out}/ca.crt"
        );
    }
    if let Some(user) = arguments.user.first() {
        eprintln!("  as a user  …&userCertFile={out}/user-{user}.crt&userKeyFile={out}/user-{user}.key");
    }
    eprintln!("\nkeep {out}/ca.key away from nodes: whoever has it can be any node and any user");
}
