//! What helps who operates: contexts, codes, the doctor.

mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use support::secure::{self, Certs, Forged, Own};
use support::{Ran, Running, annals, run, url};
use tempfile::TempDir;

/// Somebody with a configuration directory of their own.
struct Person(TempDir);

impl Person {
    fn new() -> Person {
        Person(tempfile::tempdir().expect("a directory"))
    }

    fn command(&self) -> Command {
        let mut command = annals();
        command.env("XDG_CONFIG_HOME", self.0.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command().args(arguments).output().expect("the binary runs"))
    }
}

#[test]
fn a_context_is_where_commands_go() {
    let node = Running::dev(1, &[]);
    let person = Person::new();
    let nobody = url(support::free_ports(1));
    person.run(&["context", "add", "here", &url(node.port), "--select"]).exits(0);
    person.run(&["context", "add", "gone", &nobody]).exits(0);
    person.run(&["stream", "append", "s", "--type", "T", "--data", "{}"]).exits(0);
    person.run(&["stream", "read", "s", "--context", "gone"]).exits(5);
    person.run(&["stream", "read", "s", "--context", "nowhere"]).exits(3);
    // What is named with the command is nearer than what is selected.
    person.run(&["stream", "read", "s", "--server", &nobody]).exits(5);
    let by_variable = |name, value: &str| {
        Ran::of(&person.command().env(name, value).args(["stream", "read", "s"]).output().expect("the binary runs"))
    };
    by_variable("ANNALS_URL", &nobody).exits(5);
    by_variable("ANNALS_CONTEXT", "gone").exits(5);
    by_variable("ANNALS_CONTEXT", "here").exits(0);
    person.run(&["context", "select", "gone"]).exits(0);
    person.run(&["stream", "read", "s"]).exits(5);
    person.run(&["context", "select", "-"]).exits(0);
    person.run(&["stream", "read", "s"]).exits(0);
    let listed = person.run(&["context", "ls", "-o", "json"]).exits(0).lines();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1]["name"], "here");
    assert_eq!(listed[1]["selected"], true);
    person.run(&["context", "rm", "here"]).exits(0);
    person.run(&["context", "select", "here"]).exits(3);
}

#[test]
fn a_context_with_a_password_in_it_is_refused() {
    let person = Person::new();
    let ran = person.run(&["context", "add", "x", "kurrentdb://ada:secret@127.0.0.1:2113"]).exits(2);
    assert!(ran.err.contains("env://") && !ran.err.contains("secret"), "{}", ran.err);
}

#[test]
fn an_error_names_its_code_and_the_code_has_a_page() {
    let port = support::free_ports(1);
    let ran = run(&["stream", "read", "s", "--server", &url(port)]).exits(5);
    assert!(ran.err.starts_with("error[ANN-2001]: ") && ran.err.contains("annals explain ANN-2001"), "{}", ran.err);
    let page = run(&["explain", "ANN-2001"]).exits(0).out;
    assert!(page.contains("What to do"), "{page}");
    assert_eq!(run(&["explain", "2001"]).exits(0).out, page);
    run(&["explain", "ANN-9999"]).exits(3);
    let ran = run(&["serve", "--listen", "0.0.0.0:1", "--node-address", "a:1"]).exits(2);
    assert!(ran.err.contains("error[ANN-1002]"), "{}", ran.err);
    assert!(run(&["explain", "-o", "json"]).exits(0).lines().len() > 15);
}

#[test]
fn the_doctor_tells_a_node_that_is_well_from_one_that_is_gone() {
    let node = Running::dev(3, &[]);
    let place = tempfile::tempdir().expect("a directory");
    let data = place.path().to_str().expect("text");
    let ran = run(&["doctor", "--server", &url(node.port), "--data", data, "-o", "json"]);
    let findings = ran.lines();
    let of = |check: &str| findings.iter().filter(|finding| finding["check"] == check).collect::<Vec<_>>();
    assert_eq!(of("member").len(), 3, "{findings:#?}");
    for check in ["server", "leader", "voters", "versions", "clocks", "groups"] {
        assert_eq!(of(check).first().map(|finding| &finding["grade"]), Some(&"PASS".into()), "{check}: {findings:#?}");
    }
    drop(node);
    let port = support::free_ports(1);
    let ran = run(&["doctor", "--server", &url(port)]).exits(6);
    assert!(ran.out.starts_with("FAIL  server"), "{}", ran.out);
}

/// What the doctor says of this server: its exit code, and the findings of one check.
fn found(server: &str, check: &str) -> (i32, Vec<Value>) {
    let ran = run(&["doctor", "--server", server, "-o", "json"]);
    let findings = ran.lines();
    for finding in &findings {
        assert_eq!(finding["grade"] == "PASS", finding["code"].is_null(), "{finding}");
        if let Some(code) = finding["code"].as_str() {
            run(&["explain", code]).exits(0);
        }
    }
    (ran.code, findings.into_iter().filter(|finding| finding["check"] == check).collect())
}

#[track_caller]
fn is_one_failure(found: &[Value], code: &str, words: &str) {
    let failed: Vec<&Value> = found.iter().filter(|finding| finding["grade"] == "FAIL").collect();
    let [one] = failed[..] else { panic!("one failure: {found:#?}") };
    assert_eq!(one["code"], code, "{one}");
    assert!(one["found"].as_str().is_some_and(|found| found.contains(words)), "{words}: {one}");
}

#[test]
fn the_doctor_looks_at_certificates_also_at_those_that_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let certs = Certs::new("127.0.0.1", "ann");
    let node = secure::one(&certs, directory.path());
    let (code, findings) = found(&certs.url_as(node.port, &certs.of("user-ann")), "certificate");
    assert_eq!(code, 0, "{findings:#?}");
    assert_eq!(findings.len(), 3, "the CA's, the user's and the node's: {findings:#?}");
    assert!(findings.iter().all(|finding| finding["grade"] == "PASS"), "{findings:#?}");
    let (code, findings) = found(&Certs::new("127.0.0.1", "ann").url(node.port), "certificate");
    assert_eq!(code, 6);
    is_one_failure(&findings, "ANN-3010", "a CA that is not trusted here");
}

/// Shows a certificate to whoever connects, and says nothing else.
fn showing(own: &Own) -> u16 {
    let chain = CertificateDer::pem_file_iter(&own.certificate).expect("a file").map(|pem| pem.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    let mut config = config;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("a configuration");
            let mut stream = rustls::StreamOwned::new(connection, stream);
            // Whoever leaves has seen enough.
            let _ = stream.flush();
        }
    });
    port
}

#[test]
fn the_doctor_tells_what_is_wrong_with_a_certificate() {
    let certs = Certs::new("127.0.0.1", "ann");
    let expired = certs.forge("expired", &Forged { common_name: "n", expired: true, ..Forged::default() });
    let (code, findings) = found(&certs.url(showing(&expired)), "certificate");
    assert_eq!(code, 6);
    is_one_failure(&findings, "ANN-3010", "it has expired");
    let sound = certs.forge("sound", &Forged { common_name: "n", ..Forged::default() });
    let port = showing(&sound);
    let named = certs.url(port).replace("127.0.0.1", "localhost");
    let (_, findings) = found(&named, "certificate");
    is_one_failure(&findings, "ANN-3010", "not for localhost, but for 127.0.0.1");
    // A day is what this one has left.
    let (_, findings) = found(&certs.url(port), "certificate");
    let warned: Vec<&Value> = findings.iter().filter(|finding| finding["grade"] == "WARN").collect();
    assert_eq!(warned.len(), 1, "{findings:#?}");
    assert!(warned[0]["found"].as_str().is_some_and(|found| found.contains("more days")), "{findings:#?}");
}

#[test]
fn the_doctor_looks_names_up() {
    let (code, findings) = found("kurrentdb://annals.invalid:2113?tls=false", "names");
    assert_eq!(code, 6);
    is_one_failure(&findings, "ANN-3009", "annals.invalid");
}
