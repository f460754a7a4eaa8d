//! A scavenge of a cluster whose leader is killed on the way, by the real binary.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Running, eventually, get, run, run_with_input, signal, url};

/// What a node knows of the last scavenge.
fn scavenge(port: u16) -> Option<Value> {
    let ran = run(&["scavenge", "status", "-o", "json", "--server", &url(port)]);
    (ran.code == 0).then(|| ran.json())
}

/// The port of the leader, once all of these name the same one.
fn leader(ports: &[u16]) -> u16 {
    eventually("a leader", || {
        let mut found: Option<String> = None;
        for port in ports {
            let status = run(&["cluster", "status", "-o", "json", "--server", &url(*port)]);
            let status = (status.code == 0).then(|| status.json())?;
            let leader = status["leader"].as_u64()?;
            let nodes = status["nodes"].as_array()?;
            let address = nodes.iter().find(|node| node["id"] == leader)?["address"].as_str()?.to_owned();
            if found.as_ref().is_some_and(|found| *found != address) {
                return None;
            }
            found = Some(address);
        }
        found?.rsplit(':').next()?.parse().ok().filter(|port| ports.contains(port))
    })
}

fn pid(port: u16) -> u32 {
    let pid = get(port, "/stats").json()["proc"]["id"].as_u64().expect("a pid");
    u32::try_from(pid).expect("a pid")
}

fn metric(port: u16, name: &str) -> Option<f64> {
    let text = get(port, "/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))?;
    line.parse().ok()
}

/// Every event as its files hold it, one line each, and the chain hash.
fn verified(data: &Path) -> (String, Value) {
    let dump = data.with_extension("ndjson");
    let (data, file) = (data.display().to_string(), dump.display().to_string());
    let ran = run(&["verify", "--data", &data, "--dump", &file, "-o", "json"]).exits(0);
    (std::fs::read_to_string(&dump).expect("dumped"), ran.json())
}

#[test]
fn a_scavenge_goes_on_when_its_leader_is_killed_and_all_nodes_come_to_the_same() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_str().expect("UTF-8");
    // Slow enough that it is still under way when the leader is killed.
    let nodes = Running::dev(3, &["--data", data, "--set", "scavenge_bytes_per_second=400000"]);
    let ports = [nodes.port, nodes.port + 1, nodes.port + 2];
    let first = leader(&ports);
    let filler = "x".repeat(900);
    let line = format!("{{\"type\":\"T\",\"data\":{{\"x\":\"{filler}\"}}}}\n");
    for (stream, events) in [("drop-1", 2_000), ("keep-1", 500), ("drop-2", 2_000), ("keep-2", 500)] {
        let input = line.repeat(events);
        run_with_input(&["stream", "append", stream, "--server", &url(first)], &input).exits(0);
    }
    for stream in ["drop-1", "drop-2"] {
        run(&["stream", "delete", stream, "--yes", "--server", &url(first)]).exits(0);
    }
    run(&["scavenge", "status", "--server", &url(first)]).exits(3);
    let started = run(&["scavenge", "start", "-o", "json", "--server", &url(first)]).exits(0).json();
    let id = started["scavenge"].as_str().expect("an id").to_owned();
    eventually("it is under way", || scavenge(first).filter(|status| status["events"].as_u64() > Some(0)).map(|_| ()));
    assert_eq!(metric(first, "annals_scavenge_running"), Some(1.0));
    let again = run(&["scavenge", "start", "-o", "json", "--server", &url(first)]).exits(0);
    assert_eq!(again.json()["scavenge"], id.as_str());
    assert!(again.err.contains("runs already"), "{again:?}");

    signal(pid(first), "KILL");
    let rest: Vec<u16> = ports.iter().copied().filter(|port| *port != first).collect();
    let second = leader(&rest);
    let unfinished = scavenge(second).expect("it answers");
    assert_eq!((&unfinished["scavenge"], &unfinished["phase"]), (&id.clone().into(), &"running".into()));
    let waited = run(&["scavenge", "status", "--wait", "-o", "json", "--server", &url(second)]).exits(0).json();
    assert_eq!((&waited["phase"], &waited["events"]), (&"completed".into(), &4_000.into()));

    let number = first - nodes.port + 1;
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut back = support::annals()
        .args([
            "serve",
            "--insecure",
            "--listen",
            &format!("127.0.0.1:{first}"),
            "--bootstrap",
            &hosts.join(","),
            "--data",
        ])
        .arg(directory.path().join(format!("node-{number}")))
        .spawn()
        .expect("runs");
    support::wait_ready(first);
    for port in ports {
        let told = eventually("every node has applied its end", || {
            scavenge(port).filter(|status| status["phase"] == "completed")
        });
        assert_eq!(told["events"], 4_000, "{port}");
        let types = run(&["stream", "read", "$et-T", "-o", "json", "--server", &url(port)]).exits(0);
        assert_eq!(types.lines().len(), 1_000, "{port}");
    }
    let hash = eventually("all nodes at the tail", || {
        let hash = run(&["cluster", "hash", "-o", "json", "--server", &url(first)]);
        (hash.code == 0).then(|| hash.json()).filter(|hash| {
            hash["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["hash"].is_string()))
        })
    });
    assert_eq!(hash["equal"], true);
    assert_eq!(metric(second, "annals_scavenge_running"), Some(0.0));
    run(&["scavenge", "stop", "--server", &url(second)]).exits(3);

    signal(back.id(), "TERM");
    back.wait().expect("our child");
    assert_eq!(nodes.terminate(), Some(0));
    let (expected, found) = verified(&directory.path().join("node-1"));
    assert_eq!(expected.lines().filter(|line| line.contains("\"reclaimed\":true")).count(), 4_000);
    for node in ["node-2", "node-3"] {
        let (events, other) = verified(&directory.path().join(node));
        assert_eq!(other["chainHash"], found["chainHash"]);
        assert!(events == expected, "what {node} holds differs");
    }
}

#[test]
fn a_stop_does_not_wait_for_the_pace_at_which_space_is_given_back() {
    // What is kept takes a minute and a half to write anew at this pace. It comes while the
    // scavenge goes on, which does not look at it, and lies in the same file as what goes.
    const KEPT_EVENTS: usize = 360;
    let slow = ["--set", "scavenge_bytes_per_second=400000", "--set", "shutdown_timeout_ms=120000"];
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("node");
    let data = ["--data", place.to_str().expect("UTF-8")];
    let node = Running::dev(1, &[&data[..], &slow].concat());
    let line = |bytes| format!("{{\"type\":\"T\",\"data\":{{\"x\":\"{}\"}}}}\n", "x".repeat(bytes));
    let append = |stream, events, bytes| {
        let url = node.url();
        run_with_input(&["stream", "append", stream, "--server", &url], &line(bytes).repeat(events)).exits(0);
    };
    append("drop", 2_000, 900);
    run(&["stream", "delete", "drop", "--yes", "--server", &node.url()]).exits(0);
    run(&["scavenge", "start", "--server", &node.url()]).exits(0);
    append("keep", KEPT_EVENTS, 100_000);
    run(&["scavenge", "status", "--wait", "--server", &node.url()]).exits(0);
    eventually("it gives space back", || metric(node.port, "annals_rocksdb_running_compactions").filter(|n| *n > 0.0));
    assert!(metric(node.port, "annals_scavenge_positions_to_give_back") > Some(0.0));
    let stopping = Instant::now();
    assert_eq!(node.terminate(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(45), "{:?}", stopping.elapsed());

    let again = Running::dev(1, &data);
    let kept = run(&["stream", "read", "keep", "--server", &again.url(), "-o", "json"]).exits(0);
    assert_eq!(kept.lines().len(), KEPT_EVENTS);
    eventually("the space is given back", || {
        metric(again.port, "annals_scavenge_positions_to_give_back").filter(|left| *left == 0.0)
    });
    assert_eq!(again.terminate(), Some(0));
    let (events, _) = verified(&place);
    assert_eq!(events.lines().filter(|line| line.contains("\"reclaimed\":true")).count(), 2_000);
}
