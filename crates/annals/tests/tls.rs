//! TLS on real processes: one node and three, who is let in, and certificates
//! that are exchanged while a node runs.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use annals_client::Client;
use annals_proto::annals::internal::v1 as pb;
use annals_proto::annals::internal::v1::coordination_client::CoordinationClient;
use support::secure::{self, Certs, Forged, Own};
use support::{Running, annals, eventually, free_ports, http, run, signal};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use uuid::Uuid;

const NODE: &str = "node-127.0.0.1";

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn append(url: &str, stream: &str) -> support::Ran {
    run(&["stream", "append", stream, "--type", "T", "--data", "{}", "--server", url])
}

/// The value of a metric, with its labels as they are printed.
fn metric(certs: &Certs, port: u16, name: &str) -> Option<f64> {
    let metrics = certs.http(port, "/metrics")?.body;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn one_command_makes_what_nodes_and_users_need() {
    let certs = Certs::new("127.0.0.1,a.example", "admin");
    for name in ["ca", NODE, "node-a.example", "user-admin"] {
        let Own { certificate, key } = certs.of(name);
        let mode = |file: &Path| fs::metadata(file).expect("a file").permissions().mode() & 0o777;
        assert_eq!((mode(&certificate), mode(&key)), (0o644, 0o600), "{name}");
        assert!(secure::is_key(&key) && !secure::is_key(&certificate), "{name}");
    }
    let before = text(&certs.path("node-127.0.0.1.crt"));
    let again = certs.make(&["--nodes", "b.example,127.0.0.1"]).exits(4);
    assert!(again.err.contains("node-127.0.0.1.crt is there already"), "{}", again.err);
    assert_eq!(text(&certs.path("node-127.0.0.1.crt")), before);
    assert!(!certs.path("node-b.example.crt").exists(), "all or none");
    let (ca, more) = (text(&certs.ca()), certs.make(&["--nodes", "b.example"]).exits(0));
    assert_eq!(more.out.lines().count(), 2, "{}", more.out);
    assert_eq!(text(&certs.ca()), ca, "the CA that was there signs");
    certs.make(&[]).exits(2);
    certs.make(&["--nodes", "a.example:2113"]).exits(2);
    certs.make(&["--user", "a/b"]).exits(2);
}

#[test]
fn one_node_serves_clients_and_http_over_tls() {
    let (certs, place) = (Certs::new("127.0.0.1", "admin"), directory());
    let node = secure::one(&certs, place.path());
    let url = certs.url(node.port);
    append(&url, "s").exits(0);
    append(&certs.url_as(node.port, &certs.of("user-admin")), "s").exits(0);
    let read = run(&["stream", "read", "s", "-o", "json", "--server", &url]).exits(0).lines();
    assert_eq!(read.len(), 2);
    assert!(certs.get(node.port, "/").body.contains("tls=true"));
    let expires = metric(&certs, node.port, "annals_tls_certificate_expiry_timestamp_seconds{file=\"certificate\"}");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
    let days = (expires.expect("told") - now) / 86_400.0;
    assert!((364.0..365.1).contains(&days), "{days}");
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn who_does_not_speak_tls_is_told_so() {
    let (certs, place) = (Certs::new("127.0.0.1", "admin"), directory());
    let node = secure::one(&certs, place.path());
    let answer = http(node.port, "GET", "/readyz", &[]).expect("an answer in clear text");
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("speaks TLS"), "{answer:?}");
    let refused = append(&support::url(node.port), "s");
    assert!(refused.code != 0 && refused.err.contains("speaks TLS"), "{}", refused.err);
    eventually("they are counted", || {
        metric(&certs, node.port, "annals_tls_handshakes_failed_total{reason=\"clear_text\"}").filter(|n| *n >= 2.0)
    });
}

#[test]
fn who_says_nothing_does_not_hold_a_connection() {
    let (certs, place) = (Certs::new("127.0.0.1", "admin"), directory());
    let node = secure::one_with(&certs, place.path(), &["--set", "first_byte_timeout_ms=300"]);
    let failed =
        |reason| metric(&certs, node.port, &format!("annals_tls_handshakes_failed_total{{reason=\"{reason}\"}}"));
    let silent = certs.connect(node.port).expect("a handshake");
    eventually("one that is silent after its handshake is let go", || failed("silent").filter(|n| *n == 1.0));
    let mut stuck = std::net::TcpStream::connect(("127.0.0.1", node.port)).expect("it listens");
    stuck.write_all(&[22, 3, 1]).expect("the beginning of a handshake");
    eventually("one that does not finish its handshake is let go", || failed("timeout").filter(|n| *n == 1.0));
    assert_eq!(stuck.read(&mut [0; 1]).ok(), Some(0), "closed");
    let mut garbage = std::net::TcpStream::connect(("127.0.0.1", node.port)).expect("it listens");
    garbage.write_all(&[22; 64]).expect("taken");
    eventually("what is no handshake is let go", || failed("failed").filter(|n| *n == 1.0));
    drop(silent);
}

#[test]
fn a_client_trusts_only_the_ca_that_it_names() {
    let (certs, other, place) = (Certs::new("127.0.0.1", "admin"), Certs::new("127.0.0.1", "admin"), directory());
    let node = secure::one(&certs, place.path());
    let refused = append(&other.url(node.port), "s").exits(5);
    assert!(refused.err.contains("UnknownIssuer") || refused.err.contains("BadSignature"), "{}", refused.err);
    let unnamed = append(&format!("kurrentdb://127.0.0.1:{}", node.port), "s");
    assert!(unnamed.code != 0 && unnamed.err.contains("tlsCaFile"), "{}", unnamed.err);
    let unverified = append(&format!("{}&tlsVerifyCert=false", certs.url(node.port)), "s");
    assert!(unverified.code != 0 && unverified.err.contains("tlsVerifyCert"), "{}", unverified.err);
    let missing = append(&format!("kurrentdb://127.0.0.1:{}?tlsCaFile=/no/such", node.port), "s");
    assert!(missing.code != 0 && missing.err.contains("/no/such"), "{}", missing.err);
    let key = certs.of(NODE).key;
    let wrong = append(&format!("kurrentdb://127.0.0.1:{}?tlsCaFile={}", node.port, key.display()), "s");
    assert!(wrong.code != 0 && wrong.err.contains("holds no certificate"), "{}", wrong.err);
}

/// Starts a node that must not come up; what it says.
fn refused(arguments: &[&str]) -> String {
    let place = directory();
    let data = place.path().join("data");
    run(&[&["serve", "--data", data.to_str().expect("text")], arguments].concat()).exits(2).err
}

#[test]
fn nobody_listens_beyond_this_machine_without_tls() {
    let said = refused(&["--listen", "0.0.0.0:1", "--node-address", "a.example:1"]);
    assert!(said.contains("will not listen on 0.0.0.0:1") && said.contains("--tls-cert"), "{said}");
    assert!(said.contains("--insecure") && said.contains("may read and write everything"), "{said}");
    let (own, list) = ("127.0.0.1:1", "127.0.0.1:1,b.example:1");
    let said = refused(&["--listen", own, "--bootstrap", list]);
    assert!(said.contains("will not be in a cluster with b.example:1"), "{said}");
}

#[test]
fn who_listens_without_tls_all_the_same_is_warned() {
    let (port, place) = (free_ports(1), directory());
    let (own, log) = (format!("127.0.0.1:{port}"), place.path().join("log"));
    let child = annals()
        .args(["serve", "--insecure", "--listen", &format!("0.0.0.0:{port}"), "--node-address", &own])
        .args(["--bootstrap", &own, "--data"])
        .arg(place.path().join("data"))
        .stderr(fs::File::create(&log).expect("a file"))
        .spawn()
        .expect("the binary runs");
    let node = Running { child, port };
    support::wait_ready(node.port);
    assert!(text(&log).contains("INSECURE: no TLS and no authentication"), "{}", text(&log));
}

#[test]
fn a_node_that_is_not_insecure_adds_nobody_elsewhere_without_tls() {
    let (port, place) = (free_ports(1), directory());
    let own = format!("127.0.0.1:{port}");
    let child = annals()
        .args(["serve", "--listen", &own, "--bootstrap", &own, "--set", "authentication=false", "--data"])
        .arg(place.path())
        .spawn()
        .expect("the binary runs");
    let node = Running { child, port };
    support::wait_ready(node.port);
    let refused = node.run(&["cluster", "add", "node-4.example:2113"]);
    assert!(refused.code != 0 && refused.err.contains("without TLS"), "{}", refused.err);
}

#[test]
fn a_node_says_which_file_is_wrong_and_why() {
    let (certs, other) = (Certs::new("127.0.0.1,a.example", "admin"), Certs::new("127.0.0.1", "admin"));
    let start = |own: &Own, ca: &Path| {
        let file = |path: &Path| path.to_str().expect("text").to_owned();
        let (certificate, key, ca) = (file(&own.certificate), file(&own.key), file(ca));
        refused(&["--listen", "127.0.0.1:1", "--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &ca])
    };
    let (own, ca) = (certs.of(NODE), certs.ca());
    let missing = certs.path("missing.crt");
    let said = start(&Own { certificate: missing, ..own.clone() }, &ca);
    assert!(said.contains("missing.crt") && said.contains("No such file"), "{said}");
    let said = start(&Own { key: own.certificate.clone(), ..own.clone() }, &ca);
    assert!(said.contains("`tls_key`") && said.contains("no private key"), "{said}");
    let said = start(&Own { certificate: own.key.clone(), ..own.clone() }, &ca);
    assert!(said.contains("`tls_cert`") && said.contains("no certificate"), "{said}");
    let said = start(&Own { key: certs.of("user-admin").key, ..own.clone() }, &ca);
    assert!(said.contains("user-admin.key cannot serve the certificate"), "{said}");
    let said = start(&own, &other.ca());
    assert!(said.contains("does not stand before the CA"), "{said}");
    let said = start(&certs.of("user-admin"), &ca);
    assert!(said.contains("is not for 127.0.0.1"), "{said}");
    let ours: &[&str] = &["annals://annals/node/127.0.0.1"];
    let web = Forged { common_name: "x", uris: ours, only_server: true, ..Forged::default() };
    let said = start(&certs.forge("web", &web), &ca);
    assert!(said.contains("serverAuth and clientAuth"), "{said}");
    let said =
        start(&certs.forge("old", &Forged { common_name: "x", uris: ours, expired: true, ..Forged::default() }), &ca);
    assert!(said.contains("old.crt is valid from"), "{said}");
    let said = start(&certs.forge("bare", &Forged { common_name: "x", ..Forged::default() }), &ca);
    assert!(said.contains("annals://annals/node/127.0.0.1"), "{said}");
    let file = |name| certs.path(name).to_str().expect("text").to_owned();
    let (certificate, key) = (file("node-127.0.0.1.crt"), file("node-127.0.0.1.key"));
    let said = refused(&[
        "--listen",
        "127.0.0.1:1",
        "--node-address",
        "b.example:1",
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
    ]);
    assert!(said.contains("is not for b.example"), "{said}");
    let said = refused(&["--listen", "127.0.0.1:1", "--tls-cert", "c"]);
    assert!(said.contains("`tls_cert` and `tls_key`"), "{said}");
}

/// Three nodes over mutual TLS.
struct Three {
    certs: Certs,
    place: TempDir,
    ports: [u16; 3],
    nodes: Vec<Running>,
    more: &'static [&'static str],
}

impl Drop for Three {
    /// Nothing of them is needed any more.
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.child.kill();
        }
    }
}

impl Three {
    fn start() -> Three {
        Self::start_with(&[])
    }

    fn start_with(more: &'static [&'static str]) -> Three {
        let first = free_ports(3);
        let (certs, place) = (Certs::new("127.0.0.1", "admin"), directory());
        let mut three = Three { certs, place, ports: [first, first + 1, first + 2], nodes: Vec::new(), more };
        for n in 0..3 {
            let node = three.serve(n);
            three.nodes.push(node);
        }
        for port in three.ports {
            three.certs.wait_ready(port);
        }
        three
    }

    fn serve(&self, n: usize) -> Running {
        let (data, log) = (self.place.path().join(format!("data-{n}")), self.place.path().join(format!("log-{n}")));
        let bootstrap = self.ports.map(|port| format!("127.0.0.1:{port}"));
        secure::serve(&self.certs.ca(), &self.certs.of(NODE), self.ports[n], &data, &bootstrap, &log, self.more)
    }

    /// A connection string that finds whoever leads.
    fn everywhere(&self) -> String {
        let hosts = self.ports.map(|port| format!("127.0.0.1:{port}")).join(",");
        let ca = self.certs.ca();
        format!("kurrentdb+discover://{hosts}?tls=true&tlsCaFile={}&maxDiscoverAttempts=100", ca.display())
    }

    fn status(&self, port: u16) -> Option<serde_json::Value> {
        let ran = run(&["cluster", "status", "-o", "json", "--server", &self.certs.url(port)]);
        (ran.code == 0).then(|| ran.json())
    }

    /// Where the leader is among the ports, as soon as all of these agree.
    fn leader(&self, among: &[usize]) -> usize {
        eventually("a leader", || {
            let mut found = among.iter().map(|n| {
                let status = self.status(self.ports[*n])?;
                let node = status["nodes"].as_array()?.iter().find(|node| node["id"] == status["leader"])?.clone();
                let port: u16 = node["address"].as_str()?.rsplit(':').next()?.parse().ok()?;
                self.ports.iter().position(|each| *each == port)
            });
            let first = found.next()??;
            found.all(|other| other == Some(first)).then_some(first).filter(|first| among.contains(first))
        })
    }
}

#[test]
fn three_nodes_work_over_mutual_tls_and_replace_their_leader() {
    let mut three = Three::start();
    let leader = three.leader(&[0, 1, 2]);
    for port in three.ports {
        // Without the demand for the leader a follower forwards.
        append(&format!("{}&nodePreference=follower", three.certs.url(port)), "s").exits(0);
        append(&three.certs.url(port), "s").exits(0);
    }
    let follower = three.certs.url(three.ports[(leader + 1) % 3]) + "&nodePreference=follower";
    run(&["psub", "create", "s", "g", "--server", &follower]).exits(0);
    run(&["psub", "info", "s", "g", "--server", &follower]).exits(0);

    three.nodes[leader].child.kill().expect("our child");
    three.nodes[leader].child.wait().expect("our child");
    let rest: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    three.leader(&rest);
    let everywhere = three.everywhere();
    eventually("an append without the old leader", || (append(&everywhere, "s").code == 0).then_some(()));
    three.nodes[leader] = three.serve(leader);
    three.certs.wait_ready(three.ports[leader]);
    let hash = eventually("the returned node to catch up", || {
        let ran = run(&["cluster", "hash", "-o", "json", "--server", &everywhere]);
        (ran.code == 0).then(|| ran.json()).filter(|hash| hash["position"].as_u64() >= Some(7))
    });
    assert_eq!(hash["equal"], true);
    // Those who would not prove who they are take no part in this.
    for n in 0..3 {
        assert!(!text(&three.place.path().join(format!("log-{n}"))).contains("INSECURE"));
    }
}

/// Asks a node's coordination, as whoever has this certificate.
async fn coordination(url: &str) -> Result<CoordinationClient<tonic::transport::Channel>, annals_client::Error> {
    Ok(CoordinationClient::new(Client::from_connection_string(url).expect("valid").channel().await?))
}

async fn probe(url: &str) -> Result<pb::ProbeReply, Status> {
    let mut client = coordination(url).await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(client.probe(pb::ProbeRequest {}).await?.into_inner())
}

/// A call that says it comes from this member.
fn signed(to: &pb::ProbeReply, from: &pb::ProbeReply) -> Request<pb::GreetRequest> {
    let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).expect("16 bytes").to_string();
    let mut request = Request::new(pb::GreetRequest {});
    let headers = [
        ("annals-cluster", uuid(&to.cluster)),
        ("annals-to", to.node.to_string()),
        ("annals-to-incarnation", uuid(&to.incarnation)),
        ("annals-from", from.node.to_string()),
        ("annals-from-incarnation", uuid(&from.incarnation)),
    ];
    for (name, value) in headers {
        request.metadata_mut().insert(name, value.parse().expect("plain text"));
    }
    request
}

#[test]
fn only_nodes_may_call_what_nodes_say_to_each_other() {
    let three = Three::start();
    let (certs, port) = (&three.certs, three.ports[0]);
    let foreign = Certs::new("127.0.0.1", "admin");
    let forge = |name, uri: &str, expired| {
        certs.forge(name, &Forged { common_name: "x", uris: &[uri], expired, ..Forged::default() })
    };
    let ours = "annals://annals/node/127.0.0.1";
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let denied = |what: &str, result: Result<pb::ProbeReply, Status>| {
            let status = result.expect_err(what);
            assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
            assert!(status.message().contains("only nodes of the cluster `annals`"), "{what}: {status}");
        };
        denied("no certificate", probe(&certs.url(port)).await);
        denied("a user", probe(&certs.url_as(port, &certs.of("user-admin"))).await);
        let other = forge("other", "annals://other/node/127.0.0.1", false);
        denied("a node of another cluster", probe(&certs.url_as(port, &other)).await);
        // These fail before a call can be made.
        for (what, own) in [("expired", forge("expired", ours, true)), ("of another CA", foreign.of(NODE))] {
            let status = probe(&certs.url_as(port, &own)).await.expect_err(what);
            assert_ne!(status.code(), Code::PermissionDenied, "{what}: {status}");
        }
        let own = probe(&certs.url_as(port, &certs.of(NODE))).await.expect("a node of this cluster");

        // A node speaks for itself only.
        let from = probe(&certs.url_as(three.ports[1], &certs.of(NODE))).await.expect("a node of this cluster");
        let elsewhere = forge("elsewhere", "annals://annals/node/elsewhere.example", false);
        let mut client = coordination(&certs.url_as(port, &elsewhere)).await.expect("a node, but which");
        let status = client.greet(signed(&own, &from)).await.expect_err("not that one");
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains("elsewhere.example"), "{status}");
        let mut client = coordination(&certs.url_as(port, &certs.of(NODE))).await.expect("that one");
        let answer = client.greet(signed(&own, &from)).await;
        assert!(answer.as_ref().map_or_else(Status::code, |_| Code::Ok) != Code::PermissionDenied, "{answer:?}");
    });
    let failed = metric(certs, port, "annals_tls_handshakes_failed_total{reason=\"failed\"}");
    assert!(failed >= Some(2.0), "{failed:?}");
}

#[test]
fn nodes_find_a_place_where_clients_have_taken_all() {
    let (certs, place) = (Certs::new("127.0.0.1", "admin"), directory());
    let node = secure::one_with(&certs, place.path(), &["--set", "connections_max=3"]);
    let held: Vec<_> = std::iter::repeat_with(|| certs.connect(node.port)).take(3).collect();
    assert!(held.iter().all(Option::is_some), "three places");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        probe(&certs.url_as(node.port, &certs.of(NODE))).await.expect("a node has a place");
        for (who, url) in
            [("nobody", certs.url(node.port)), ("a user", certs.url_as(node.port, &certs.of("user-admin")))]
        {
            let status = probe(&url).await.expect_err(who);
            assert_ne!(status.code(), Code::PermissionDenied, "{who} was served: {status}");
        }
    });
    drop(held);
    certs.wait_ready(node.port);
}

#[test]
fn a_node_of_another_cluster_or_another_ca_cannot_join() {
    let (certs, place) = (Certs::new("127.0.0.1", "admin"), directory());
    let node = secure::one(&certs, place.path());
    let other = certs
        .forge("other", &Forged { common_name: "x", uris: &["annals://other/node/127.0.0.1"], ..Forged::default() });
    let foreign = Certs::new("127.0.0.1", "admin");
    for (what, ca, own, name) in
        [("another cluster", certs.ca(), other, "other"), ("another CA", foreign.ca(), foreign.of(NODE), "annals")]
    {
        let (port, place) = (free_ports(1), directory());
        let (data, log) = (place.path().join("data"), place.path().join("log"));
        let _waiting = secure::serve(&ca, &own, port, &data, &[], &log, &["--cluster-name", name]);
        eventually(what, || text(&log).contains("listening").then_some(()));
        let added = run(&["cluster", "add", &format!("127.0.0.1:{port}"), "--server", &certs.url(node.port)]);
        assert_ne!(added.code, 0, "{what}: {added:?}");
        let status = run(&["cluster", "status", "-o", "json", "--server", &certs.url(node.port)]).exits(0).json();
        assert_eq!(status["nodes"].as_array().map(Vec::len), Some(1), "{what}");
    }
    // One that belongs to it can.
    let (port, place) = (free_ports(1), directory());
    let (data, log) = (place.path().join("data"), place.path().join("log"));
    let _second = secure::serve(&certs.ca(), &certs.of(NODE), port, &data, &[], &log, &[]);
    eventually("the second node", || text(&log).contains("listening").then_some(()));
    run(&["cluster", "add", &format!("127.0.0.1:{port}"), "--server", &certs.url(node.port)]).exits(0);
    certs.wait_ready(port);
}

/// Puts other files in the place of a certificate and its key, as a mounted secret is exchanged.
fn exchange(own: &Own, new: &Own) {
    fs::copy(&new.certificate, &own.certificate).expect("copied");
    fs::copy(&new.key, &own.key).expect("copied");
}

#[test]
fn certificates_are_exchanged_while_a_subscription_goes_on() {
    let (certs, place) = (Certs::new("127.0.0.1", "admin"), directory());
    let node = secure::one(&certs, place.path());
    let (url, own) = (certs.url(node.port), certs.of(NODE));
    append(&url, "s").exits(0);
    let mut tail = annals()
        .args(["stream", "tail", "s", "--from", "start", "-o", "json", "--limit", "3", "--server", &url])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    lines.next().expect("the first event").expect("text");

    // A new certificate of the same CA.
    let first = certs.shown(node.port).expect("shown");
    assert_eq!(first, secure::certificate_in(&own.certificate));
    let new = certs
        .forge("new", &Forged { common_name: "new", uris: &["annals://annals/node/127.0.0.1"], ..Forged::default() });
    exchange(&own, &new);
    let second = secure::certificate_in(&new.certificate);
    eventually("the new certificate", || (certs.shown(node.port)? == second).then_some(()));
    assert_ne!(first, second);
    append(&url, "s").exits(0);
    lines.next().expect("the second event").expect("text");

    // One that cannot be used: what was there stays, and it is told once.
    fs::write(&own.certificate, "nonsense").expect("written");
    let refused = "annals_tls_reloads_total{result=\"refused\"}";
    eventually("the refusal", || metric(&certs, node.port, refused).filter(|n| *n == 1.0));
    signal(node.child.id(), "HUP");
    eventually("the refusal, asked again", || metric(&certs, node.port, refused).filter(|n| *n == 2.0));
    assert_eq!(certs.shown(node.port).expect("shown"), second);
    let log = text(&place.path().join("log"));
    assert_eq!(log.matches("cannot be used").count(), 2, "{log}");
    assert!(log.contains("node-127.0.0.1.crt"), "{log}");

    append(&url, "s").exits(0);
    lines.next().expect("the third event").expect("text");
    assert!(tail.wait().expect("our child").success());
    // It was never opened again: the connection held.
    assert_eq!(metric(&certs, node.port, "annals_subscriptions_total{kind=\"stream\"}"), Some(1.0));
    assert_eq!(metric(&certs, node.port, "annals_tls_reloads_total{result=\"ok\"}"), Some(1.0));
}

#[test]
fn a_ca_is_exchanged_by_way_of_both() {
    let (certs, next, place) = (Certs::new("127.0.0.1", "admin"), Certs::new("127.0.0.1", "bob"), directory());
    let node = secure::one(&certs, place.path());
    let bob = next.of("user-bob");
    assert_ne!(append(&certs.url_as(node.port, &bob), "s").code, 0, "of a CA that is not known yet");
    fs::write(certs.ca(), text(&certs.ca()) + &text(&next.ca())).expect("written");
    eventually("both are known", || (append(&certs.url_as(node.port, &bob), "s").code == 0).then_some(()));
    // Now the node's own may come from the new one.
    exchange(&certs.of(NODE), &next.of(NODE));
    let own = secure::certificate_in(&next.of(NODE).certificate);
    eventually("the new certificate", || (certs.shown(node.port)? == own).then_some(()));
    fs::copy(next.ca(), certs.ca()).expect("copied");
    let before = certs.of("user-admin");
    eventually("the old one is not known any more", || {
        (append(&next.url_as(node.port, &before), "s").code != 0).then_some(())
    });
    append(&next.url_as(node.port, &bob), "s").exits(0);
}

#[test]
fn a_users_certificate_is_what_its_account_may_do() {
    let (certs, place) = (Certs::new("127.0.0.1", "admin,eve"), directory());
    let node = secure::one_with(&certs, place.path(), &["--set", "authentication=true"]);
    let admin = certs.url_as(node.port, &certs.of("user-admin"));
    eventually("there is an administrator", || {
        run(&["user", "show", "admin", "--server", &admin]).code.eq(&0).then_some(())
    });
    append(&admin, "s").exits(0);
    run(&["psub", "create", "s", "group", "--server", &admin]).exits(0);
    for nobody in [certs.url(node.port), certs.url_as(node.port, &certs.of(NODE))] {
        let ran = append(&nobody, "s");
        assert!(ran.code != 0 && ran.err.contains("access denied"), "{ran:?}");
    }
    let ran = append(&certs.url_as(node.port, &certs.of("user-eve")), "s");
    assert!(ran.code != 0 && ran.err.contains("credentials"), "there is no account eve: {ran:?}");
    // Credentials count before a certificate, also when they are wrong.
    let ran = append(&admin.replace("://", "://admin:wrong@"), "s");
    assert!(ran.code != 0 && ran.err.contains("credentials"), "{ran:?}");
}

#[test]
fn a_user_of_a_follower_is_the_same_at_the_leader() {
    let three = Three::start_with(&["--set", "authentication=true"]);
    for port in three.ports {
        let admin = three.certs.url_as(port, &three.certs.of("user-admin"));
        eventually("the administrator makes a group through any node", || {
            run(&["psub", "create", "s", &format!("group-{port}"), "--server", &admin]).code.eq(&0).then_some(())
        });
        let nobody = run(&["psub", "ls", "--server", &three.certs.url(port)]);
        assert!(nobody.code != 0 && nobody.err.contains("access denied"), "{nobody:?}");
    }
}

#[test]
fn a_cluster_gets_a_new_ca_and_keeps_its_leader() {
    let mut three = Three::start();
    let leader = three.leader(&[0, 1, 2]);
    let term = three.status(three.ports[0]).expect("answers")["term"].clone();
    let next = Certs::new("127.0.0.1", "admin");
    let taken = |three: &Three, times: f64| {
        for port in three.ports {
            eventually("the new files are in use", || {
                metric(&three.certs, port, "annals_tls_reloads_total{result=\"ok\"}").filter(|n| *n >= times)
            });
        }
        append(&three.everywhere(), "s").exits(0);
    };
    fs::write(three.certs.ca(), text(&three.certs.ca()) + &text(&next.ca())).expect("written");
    taken(&three, 1.0);
    exchange(&three.certs.of(NODE), &next.of(NODE));
    taken(&three, 2.0);
    fs::copy(next.ca(), three.certs.ca()).expect("copied");
    taken(&three, 3.0);
    assert_eq!(three.status(three.ports[0]).expect("answers")["term"], term, "nobody had a reason to vote");
    // All connections of this one are made anew.
    let follower = (leader + 1) % 3;
    three.nodes[follower].child.kill().expect("our child");
    three.nodes[follower].child.wait().expect("our child");
    three.nodes[follower] = three.serve(follower);
    three.certs.wait_ready(three.ports[follower]);
    append(&three.certs.url(three.ports[follower]), "s").exits(0);
}
