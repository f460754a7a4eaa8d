//! Backups in a bucket: against a small server that speaks as much of S3's protocol as
//! they need.
#![cfg(feature = "s3")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::secure::Certs;
use support::{Ran, Running, annals, run_with_input};

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Serves one bucket until the test ends: over TLS, if there is a configuration for it.
fn bucket(tls: Option<Arc<ServerConfig>>) -> (u16, Objects) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let objects = Objects::default();
    let served = objects.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (objects, tls) = (served.clone(), tls.clone());
            std::thread::spawn(move || match tls {
                Some(tls) => answer(StreamOwned::new(ServerConnection::new(tls).ok()?, stream), &objects),
                None => answer(stream, &objects),
            });
        }
    });
    (port, objects)
}

fn answer<S: Read + Write>(stream: S, objects: &Objects) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let (name, value) = header.trim_end().split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        if header.trim_end().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = path.strip_prefix("/backups").unwrap_or_default().trim_start_matches('/').to_owned();
    let mut objects = objects.lock().expect("nobody panics");
    let (status, body) = match (method.as_str(), key.as_str()) {
        ("PUT", _) => {
            objects.insert(key, body);
            (200, Vec::new())
        }
        ("GET", "") => (200, listing(&objects, query)),
        ("GET" | "HEAD", _) => match objects.get(&key) {
            Some(found) => (200, found.clone()),
            None => (404, b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
        },
        ("DELETE", _) => {
            objects.remove(&key);
            (204, Vec::new())
        }
        ("POST", "") => {
            let text = String::from_utf8_lossy(&body).into_owned();
            let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
            let mut deleted = String::from("<DeleteResult>");
            for key in keys {
                objects.remove(key);
                deleted.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
            }
            (200, (deleted + "</DeleteResult>").into_bytes())
        }
        _ => (400, Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\netag: \"x\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         content-type: application/xml\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        stream.write_all(&body).ok()?;
    }
    stream.flush().ok()
}

/// The folders below a prefix.
fn listing(objects: &BTreeMap<String, Vec<u8>>, query: &str) -> Vec<u8> {
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
    let prefix = prefix.replace("%2F", "/");
    let folders: BTreeSet<String> = objects
        .keys()
        .filter_map(|key| key.strip_prefix(&prefix)?.split_once('/').map(|(folder, _)| format!("{prefix}{folder}/")))
        .collect();
    let common: String =
        folders.iter().map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>")).collect();
    format!("<ListBucketResult><IsTruncated>false</IsTruncated>{common}</ListBucketResult>").into_bytes()
}

/// Runs the binary with the credentials for a bucket at this address.
fn run_at(endpoint: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let output = annals()
        .args(arguments)
        .env("AWS_ENDPOINT", endpoint)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .envs(environment.iter().copied())
        .output()
        .expect("the binary runs");
    Ran::of(&output)
}

fn run(port: u16, arguments: &[&str]) -> Ran {
    run_at(&format!("http://127.0.0.1:{port}"), &[("AWS_ALLOW_HTTP", "true")], arguments)
}

#[test]
fn a_bucket_is_a_place_like_any_other() {
    let (port, objects) = bucket(None);
    let directory = tempfile::tempdir().expect("a directory");
    let node = Running::dev(1, &[]);
    let line = "{\"type\":\"T\",\"data\":{}}\n";
    run_with_input(&["stream", "append", "a", "--server", &node.url()], &line.repeat(100)).exits(0);
    let place = "s3://backups/of/annals";
    assert_eq!(run(port, &["backup", "verify", "--from", place]).code, 3);
    let create = |more: &[&str]| {
        let arguments = ["backup", "create", "--to", place, "-o", "json", "--server", &node.url()];
        run(port, &[&arguments[..], more].concat()).exits(0).json()
    };
    let full = create(&[]);
    run_with_input(&["stream", "append", "b", "--server", &node.url()], &line.repeat(10)).exits(0);
    let incremental = create(&["--incremental", "--resume"]);
    assert_eq!(incremental["parent"], full["backup"]);
    {
        let objects = objects.lock().expect("nobody panics");
        let names: Vec<&str> = objects.keys().filter_map(|key| key.strip_prefix("of/annals/")).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(!names.iter().any(|name| name.ends_with("progress.json")), "{names:?}");
    }
    let listed = run(port, &["backup", "ls", "--from", place, "-o", "json"]).exits(0).lines();
    assert_eq!(listed.len(), 2);
    let verified = run(port, &["backup", "verify", "--from", place, "-o", "json"]).exits(0).json();
    assert_eq!(verified["hash"], incremental["hash"]);
    let data = directory.path().join("data");
    let data = data.to_str().expect("UTF-8");
    let restored = run(port, &["backup", "restore", "--from", place, "--data", data, "-o", "json"]).exits(0).json();
    assert_eq!(restored["hash"], incremental["hash"]);

    for (key, bytes) in objects.lock().expect("nobody panics").iter_mut() {
        if key.ends_with(".zst") {
            bytes[9] ^= 1;
        }
    }
    assert_eq!(run(port, &["backup", "verify", "--from", place]).code, 4);
}

#[test]
fn a_bucket_is_reached_over_tls_by_who_trusts_its_certificate() {
    let certs = Certs::new("127.0.0.1", "nobody");
    let own = certs.of("node-127.0.0.1");
    let chain = CertificateDer::pem_file_iter(&own.certificate).expect("a file").map(|one| one.expect("PEM")).collect();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&own.key).expect("a key"))
        .expect("a certificate and its key");
    let (port, objects) = bucket(Some(Arc::new(config)));
    let endpoint = format!("https://127.0.0.1:{port}");
    let ca = certs.ca();
    let trusting = [("SSL_CERT_FILE", ca.to_str().expect("UTF-8"))];
    let node = Running::dev(1, &[]);
    run_with_input(&["stream", "append", "a", "--server", &node.url()], "{\"type\":\"T\",\"data\":{}}\n").exits(0);
    let place = "s3://backups/of/annals";

    let create = ["backup", "create", "--to", place, "-o", "json", "--server", &node.url()];
    let full = run_at(&endpoint, &trusting, &create).exits(0).json();
    assert!(!objects.lock().expect("nobody panics").is_empty());
    let verified = run_at(&endpoint, &trusting, &["backup", "verify", "--from", place, "-o", "json"]).exits(0).json();
    assert_eq!(verified["hash"], full["hash"]);

    let other = Certs::new("127.0.0.1", "nobody").ca();
    let distrusting = [("SSL_CERT_FILE", other.to_str().expect("UTF-8"))];
    let refused = run_at(&endpoint, &distrusting, &["backup", "ls", "--from", place]);
    assert!(refused.code > 0 && refused.err.contains("certificate"), "{refused:#?}");
}
