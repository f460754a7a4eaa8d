//! One node, the real binary, over the command line and HTTP.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use serde_json::json;
use support::{Running, annals, eventually, get, http, run_with_input};

#[test]
fn a_stream_is_written_read_hidden_and_ended() {
    let node = Running::dev(1, &[]);
    let done =
        node.run(&["stream", "append", "order-1", "--type", "Placed", "--data", r#"{"total": 42}"#, "-o", "json"]);
    let done = done.exits(0).json();
    assert_eq!(done["revision"], 0);
    let position = done["position"].as_u64().expect("a position");
    assert!(position >= 1);

    let read = node.run(&["stream", "read", "order-1", "-o", "json"]).exits(0).lines();
    assert_eq!(read.len(), 1);
    assert_eq!(read[0]["type"], "Placed");
    assert_eq!(read[0]["data"], json!({"total": 42}));
    assert_eq!(read[0]["position"], position);

    node.run(&["stream", "append", "order-1", "--type", "Paid", "--expect", "no-stream"]).exits(4);
    node.run(&["stream", "append", "order-1", "--type", "Paid", "--expect", "0"]).exits(0);
    node.run(&["stream", "read", "nothing"]).exits(3);

    node.run(&["stream", "meta", "get", "order-1"]).exits(3);
    node.run(&["stream", "meta", "set", "order-1", r#"{"$maxCount":1}"#, "--yes"]).exits(0);
    assert_eq!(node.run(&["stream", "meta", "get", "order-1"]).exits(0).json(), json!({"$maxCount": 1}));
    let read = node.run(&["stream", "read", "order-1", "-o", "json"]).exits(0).lines();
    assert_eq!(read.len(), 1, "one event is kept");
    assert_eq!(read[0]["type"], "Paid");

    let info = node.run(&["stream", "info", "order-1", "-o", "json"]).exits(0).json();
    assert_eq!(
        (&info["state"], &info["lastRevision"], &info["firstVisibleRevision"]),
        (&json!("live"), &json!(1), &json!(1))
    );

    node.run(&["stream", "delete", "order-1", "--yes"]).exits(0);
    node.run(&["stream", "read", "order-1"]).exits(3);
    node.run(&["stream", "append", "order-1", "--type", "Again"]).exits(0);
    node.run(&["stream", "tombstone", "order-1"]).exits(2);
    node.run(&["stream", "tombstone", "order-1", "--yes"]).exits(0);
    let ran = node.run(&["stream", "append", "order-1", "--type", "Never"]);
    assert!(ran.code != 0 && ran.err.contains("deleted"), "{ran:?}");
}

#[test]
fn many_events_come_from_standard_input_and_are_found_everywhere() {
    let node = Running::dev(1, &[]);
    let input: String = (0..1_200).map(|n| format!("{{\"type\":\"T{}\",\"data\":{{\"n\":{n}}}}}\n", n % 2)).collect();
    let url = node.url();
    let ran = run_with_input(
        &["stream", "append", "many-1", "--expect", "no-stream", "-o", "json", "--server", &url],
        &input,
    );
    assert_eq!(ran.exits(0).json()["revision"], 1_199);
    node.run(&["stream", "append", "other-1", "--type", "T0"]).exits(0);

    let all = node.run(&["stream", "read", "many-1", "-o", "json"]).exits(0).lines();
    assert_eq!(all.len(), 1_200);
    assert!(all.iter().enumerate().all(|(n, event)| event["data"]["n"] == n && event["revision"] == n));

    let back = node.run(&["stream", "read", "many-1", "--backwards", "--limit", "3", "-o", "json"]).exits(0).lines();
    assert_eq!(
        back.iter().map(|event| event["revision"].as_u64()).collect::<Vec<_>>(),
        [Some(1_199), Some(1_198), Some(1_197)]
    );

    let category = node.run(&["stream", "read", "$ce-many", "--resolve-links", "-o", "json"]).exits(0).lines();
    assert_eq!(category.len(), 1_200);
    let filtered = node.run(&["all", "read", "--filter-type", "^T1$", "-o", "json"]).exits(0).lines();
    assert_eq!(filtered.len(), 600);
    let filtered = node.run(&["all", "read", "--filter-stream", "other-", "-o", "json"]).exits(0).lines();
    assert_eq!(filtered.len(), 1);

    let streams = node.run(&["stream", "ls", "-o", "json"]).exits(0).lines();
    assert_eq!(
        streams.iter().map(|stream| stream["stream"].as_str()).collect::<Vec<_>>(),
        [Some("many-1"), Some("other-1")]
    );
    assert_eq!(node.run(&["stream", "ls", "--prefix", "m", "-o", "json"]).exits(0).lines().len(), 1);
}

#[test]
fn a_wrong_line_of_input_is_named() {
    let node = Running::dev(1, &[]);
    let url = node.url();
    let ran = run_with_input(&["stream", "append", "s", "--server", &url], "{\"type\":\"A\"}\nno\n").exits(2);
    assert!(ran.err.contains("line 2"), "{}", ran.err);
}

#[test]
fn a_tail_prints_events_as_they_come() {
    let node = Running::dev(1, &[]);
    let mut tail = annals()
        .args(["all", "tail", "--from", "start", "--filter-stream", "tailed-", "-o", "json", "--server", &node.url()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    for n in 0..3 {
        node.run(&["stream", "append", "tailed-1", "--type", "T", "--data", &n.to_string()]).exits(0);
        let line = lines.next().expect("a line").expect("text");
        let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(event["data"], n);
    }
    tail.kill().expect("our child");
    tail.wait().expect("our child");
}

#[test]
fn the_same_id_is_not_written_twice() {
    let node = Running::dev(1, &[]);
    let id = "018f0000-0000-7000-8000-000000000001";
    for _ in 0..2 {
        node.run(&["stream", "append", "s", "--type", "T", "--data", "1", "--id", id]).exits(0);
    }
    assert_eq!(node.run(&["stream", "read", "s", "-o", "json"]).exits(0).lines().len(), 1);
}

#[test]
fn a_node_that_is_told_to_stop_comes_back_with_its_events() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_str().expect("UTF-8");
    let node = Running::dev(1, &["--data", data]);
    let port = node.port;
    node.run(&["stream", "append", "kept", "--type", "T", "--data", "1"]).exits(0);
    let before = node.run(&["cluster", "hash", "-o", "json"]).exits(0).json();
    assert_eq!(node.terminate(), Some(0));

    let node = Running::dev_at(port, 1, &["--data", data]);
    assert_eq!(node.run(&["stream", "read", "kept", "-o", "json"]).exits(0).lines().len(), 1);
    assert_eq!(node.run(&["cluster", "hash", "-o", "json"]).exits(0).json(), before);
}

#[test]
fn a_subscription_is_told_when_the_node_stops() {
    let node = Running::dev(1, &[]);
    node.run(&["stream", "append", "s", "--type", "T"]).exits(0);
    let mut tail = annals()
        .args(["stream", "tail", "s", "--from", "start", "--server", &node.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    lines.next().expect("a heading").expect("text");
    lines.next().expect("an event").expect("text");
    // An open subscription must not hold the stop up.
    let begun = std::time::Instant::now();
    assert_eq!(node.terminate(), Some(0));
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
    tail.kill().expect("our child");
    tail.wait().expect("our child");
}

#[test]
fn http_answers_as_scripts_and_probes_expect() {
    let node = Running::dev(1, &[]);
    let port = node.port;
    let info = get(port, "/info").json();
    assert_eq!((&info["esVersion"], &info["state"]), (&json!("26.1.0"), &json!("leader")));
    assert_eq!(info["features"]["projections"], false);

    let gossip = get(port, "/gossip").json();
    let members = gossip["members"].as_array().expect("a list");
    assert_eq!(members.len(), 1);
    assert_eq!(members[0]["state"], "Leader");
    assert_eq!(members[0]["httpEndPointPort"], port);
    assert_eq!(members[0]["isAlive"], true);
    assert_eq!(gossip["serverPort"], port);

    assert_eq!(get(port, "/health/live").status, 204);
    assert_eq!(get(port, "/health/live?liveCode=200").status, 200);
    assert_eq!(http(port, "HEAD", "/health/live", &[]).expect("answers").status, 204);
    assert_eq!(get(port, "/livez").status, 200);
    let ready = get(port, "/readyz");
    assert!(ready.status == 200 && ready.body.contains("[+]leader ok"), "{ready:?}");
    assert_eq!(http(port, "GET", "/readyz", &["accept: application/json"]).expect("answers").json()["ready"], true);
    assert_eq!(get(port, "/readyz/leader").status, 200);
    assert_eq!(get(port, "/readyz/nonsense").status, 404);
    assert_eq!(get(port, "/ping").status, 200);
    assert_eq!(get(port, "/").status, 200);
    assert!(get(port, "/stats").json()["proc"]["id"].is_number());
    assert!(get(port, "/stats?group=false").json()["proc-id"].is_number());
    assert!(get(port, "/stats/es/raft").json()["term"].is_number());

    let unknown = get(port, "/nothing/here");
    assert_eq!((unknown.status, &unknown.json()["status"]), (404, &json!(404)));
    assert_eq!(http(port, "POST", "/info", &["content-length: 0"]).expect("answers").status, 405);
    let cors = http(port, "GET", "/info", &["origin: http://x"]).expect("answers");
    assert!(cors.head.to_lowercase().contains("access-control-allow-origin: *"), "{}", cors.head);
}

#[test]
fn what_is_no_grpc_call_is_told_so() {
    let node = Running::dev(1, &[]);
    let path = "/event_store.client.streams.Streams/Read";
    let ask = |method, path, headers: &[&str]| http(node.port, method, path, headers).expect("answers");
    assert_eq!(ask("POST", path, &["content-type: application/json", "content-length: 0"]).status, 415);
    assert_eq!(ask("GET", path, &[]).status, 405);
    let unknown = ask("POST", "/no.Such/Method", &["content-type: application/grpc", "content-length: 0"]);
    assert!(unknown.status == 200 && unknown.head.contains("grpc-status: 12"), "{unknown:?}");
    let unsupported = ask(
        "POST",
        "/event_store.client.projections.Projections/Create",
        &["content-type: application/grpc", "content-length: 0"],
    );
    assert!(
        unsupported.head.contains("grpc-status: 12") && unsupported.head.contains("projections"),
        "{unsupported:?}"
    );
}

#[test]
fn what_happens_is_counted() {
    let node = Running::dev(1, &[]);
    node.run(&["stream", "append", "s", "--type", "T", "--data", "1"]).exits(0);
    node.run(&["stream", "read", "s"]).exits(0);
    let metrics = get(node.port, "/metrics").body;
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with([' ', '{']));
        let line = line.unwrap_or_else(|| panic!("{name} is not there"));
        line.rsplit(' ').next().expect("a value").parse().expect("a number")
    };
    assert_eq!(value("annals_events_appended_total"), 1.0);
    assert_eq!(value("annals_raft_is_leader"), 1.0);
    assert_eq!(value("annals_ready"), 1.0);
    assert!(value("annals_raft_applied_index") >= 1.0);
    assert!(value("annals_log_fsync_duration_seconds_count") >= 1.0);
    assert!(value("annals_raft_commit_duration_seconds_count") >= 1.0);
    assert!(value("annals_disk_free_bytes") > 0.0);
    assert!(metrics.contains("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Append\""), "{metrics}");
    assert!(metrics.contains("annals_append_requests_total{"), "{metrics}");
    assert!(metrics.contains("annals_rocksdb_sst_bytes{cf="), "{metrics}");
}

#[test]
fn one_connection_too_many_is_told_why() {
    let node = Running::dev(1, &["--set", "connections_max=3"]);
    // Connections over which readiness was asked may still be closing, and free
    // a place later: hold more until there is none.
    let mut held: Vec<TcpStream> = Vec::new();
    let refused = eventually("a refusal", || {
        held.extend(TcpStream::connect(("127.0.0.1", node.port)));
        get_maybe(node.port).filter(|answer| answer.starts_with("HTTP/1.1 503"))
    });
    assert!(refused.contains("connections_max"), "{refused}");
    let mut h2 = TcpStream::connect(("127.0.0.1", node.port)).expect("connects");
    h2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("written");
    let mut answer = Vec::new();
    h2.read_to_end(&mut answer).expect("an answer");
    assert!(String::from_utf8_lossy(&answer).contains("connections_max"), "{answer:?}");
    drop(held);
    support::wait_ready(node.port);
}

fn get_maybe(port: u16) -> Option<String> {
    http(port, "GET", "/ping", &[]).map(|answer| format!("{}\r\n\r\n{}", answer.head, answer.body))
}

#[test]
fn a_port_in_use_is_named() {
    let node = Running::dev(1, &[]);
    let address = format!("127.0.0.1:{}", node.port);
    let ran = support::run(&["dev", "--port", &node.port.to_string()]).exits(1);
    assert!(ran.err.contains(&address), "{}", ran.err);
}
