//! A cluster of three processes, started as a newcomer would.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Running, annals, eventually, free_ports, get, run, signal, url, wait_ready};

fn status(port: u16) -> Option<Value> {
    let ran = run(&["cluster", "status", "-o", "json", "--server", &url(port)]);
    (ran.code == 0).then(|| ran.json())
}

/// The port of the leader, as soon as all of these name the same one.
fn leader(ports: &[u16]) -> u16 {
    eventually("a leader", || {
        let mut found = None;
        for port in ports {
            let status = status(*port)?;
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

/// The process that listens on a port, by the pid in its metrics' sibling `/stats`.
fn pid(port: u16) -> u32 {
    let pid = get(port, "/stats").json()["proc"]["id"].as_u64().expect("a pid");
    u32::try_from(pid).expect("a pid")
}

fn discover(ports: &[u16]) -> String {
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("kurrentdb+discover://{}?tls=false&maxDiscoverAttempts=100", hosts.join(","))
}

fn append(server: &str, stream: &str, data: &str) -> support::Ran {
    run(&["stream", "append", stream, "--type", "T", "--data", data, "--server", server])
}

#[test]
fn every_node_takes_appends_and_all_hold_the_same_events() {
    let nodes = Running::dev(3, &[]);
    let ports = [nodes.port, nodes.port + 1, nodes.port + 2];
    leader(&ports);
    for (n, port) in ports.iter().enumerate() {
        // Without the demand for the leader a follower forwards.
        let server = format!("{}&nodePreference=follower", url(*port));
        append(&server, "s", &n.to_string()).exits(0);
        // With it, the client follows the redirect.
        append(&url(*port), "s", &n.to_string()).exits(0);
    }
    let read = run(&["stream", "read", "s", "-o", "json", "--server", &discover(&ports)]).exits(0).lines();
    assert_eq!(
        read.iter().map(|event| event["revision"].as_u64()).collect::<Vec<_>>(),
        (0..6).map(Some).collect::<Vec<_>>()
    );
    let hash = eventually("all nodes at the tail", || {
        let hash = run(&["cluster", "hash", "-o", "json", "--server", &url(ports[0])]).exits(0).json();
        (hash["position"] == 6).then_some(hash)
    });
    assert_eq!(hash["equal"], true);
    assert_eq!(hash["nodes"].as_array().expect("a list").len(), 3);

    let gossip = get(ports[0], "/gossip").json();
    let states: Vec<_> = gossip["members"].as_array().expect("a list").iter().map(|m| m["state"].as_str()).collect();
    assert_eq!(states.iter().filter(|state| **state == Some("Leader")).count(), 1, "{states:?}");
    assert_eq!(states.iter().filter(|state| **state == Some("Follower")).count(), 2, "{states:?}");
}

/// Which node gives up leadership to which is chance, and the last one that stops may
/// have it without anybody to lead.
#[test]
fn a_cluster_that_stops_as_a_whole_waits_for_no_quorum() {
    for round in 0..5 {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let port = free_ports(3);
        let child = annals()
            .args(["dev", "--nodes", "3", "--port", &port.to_string()])
            .stderr(log.reopen().expect("open"))
            .spawn()
            .expect("the binary runs");
        let running = Running { child, port };
        (port..port + 3).for_each(wait_ready);
        assert_eq!(running.terminate(), Some(0));
        let log = std::fs::read_to_string(log.path()).expect("readable");
        let (_, stopping) = log.split_once("INFO stopping").expect("it said so");
        for waited in ["not served yet", "did not stop in time"] {
            assert!(!stopping.contains(waited), "round {round}: {stopping}");
        }
    }
}

#[test]
fn the_cluster_goes_on_without_its_leader_and_takes_it_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let nodes = Running::dev(3, &["--data", directory.path().to_str().expect("UTF-8")]);
    let ports = [nodes.port, nodes.port + 1, nodes.port + 2];
    let first = leader(&ports);
    let everywhere = discover(&ports);
    append(&everywhere, "s", "1").exits(0);
    signal(pid(first), "KILL");
    let rest: Vec<u16> = ports.iter().copied().filter(|port| *port != first).collect();
    leader(&rest);
    eventually("an append without the old leader", || (append(&everywhere, "s", "2").code == 0).then_some(()));
    assert!(run(&["stream", "read", "s", "-o", "json", "--server", &everywhere]).exits(0).lines().len() >= 2);

    // As `annals dev` says: its own command line starts it again.
    let number = first - nodes.port + 1;
    let data = directory.path().join(format!("node-{number}"));
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut again = support::annals()
        .args([
            "serve",
            "--insecure",
            "--listen",
            &format!("127.0.0.1:{first}"),
            "--bootstrap",
            &hosts.join(","),
            "--data",
        ])
        .arg(&data)
        .spawn()
        .expect("runs");
    support::wait_ready(first);
    let hash = eventually("the returned node to catch up", || {
        let hash = run(&["cluster", "hash", "-o", "json", "--server", &url(first)]);
        (hash.code == 0).then(|| hash.json()).filter(|hash| {
            hash["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["hash"].is_string()))
                && hash["position"].as_u64() >= Some(2)
        })
    });
    assert_eq!(hash["equal"], true);
    again.kill().expect("our child");
    again.wait().expect("our child");
}

#[test]
fn leadership_is_handed_over_and_nodes_come_and_go() {
    let nodes = Running::dev(3, &[]);
    let ports = [nodes.port, nodes.port + 1, nodes.port + 2];
    let first = leader(&ports);
    let ran = run(&["cluster", "transfer-leader", "--server", &url(ports[0])]).exits(0);
    assert!(ran.out.contains("leads"), "{}", ran.out);
    eventually("another leader", || (leader(&ports) != first).then_some(()));
    append(&discover(&ports), "s", "1").exits(0);

    let port = support::free_ports(1);
    let directory = tempfile::tempdir().expect("a directory");
    let address = format!("127.0.0.1:{port}");
    let mut fourth = support::annals()
        .args(["serve", "--insecure", "--listen", &address, "--data"])
        .arg(directory.path())
        .spawn()
        .expect("runs");
    eventually("the fourth node to listen", || support::http(port, "GET", "/livez", &[]).map(|_| ()));
    assert_eq!(get(port, "/readyz").status, 503, "it has no cluster yet");
    let added = run(&["cluster", "add", &address, "-o", "json", "--server", &url(ports[1])]).exits(0).json();
    let id = added["node"].as_u64().expect("an id").to_string();
    support::wait_ready(port);
    eventually("the learner to catch up", || {
        (run(&["cluster", "promote", &id, "--server", &url(ports[2])]).code == 0).then_some(())
    });
    assert_eq!(run(&["stream", "read", "s", "-o", "json", "--server", &url(port)]).exits(0).lines().len(), 1);
    run(&["cluster", "remove", &id, "--yes", "--server", &url(ports[0])]).exits(0);
    let left = status(ports[0]).expect("answers")["nodes"].as_array().expect("a list").len();
    assert_eq!(left, 3);
    run(&["cluster", "remove", "99", "--yes", "--server", &url(ports[0])]).exits(3);
    fourth.kill().expect("our child");
    fourth.wait().expect("our child");
}

/// A node that was added to a cluster of three, as a process of its own.
struct Fourth {
    nodes: Running,
    address: String,
    port: u16,
    directory: tempfile::TempDir,
    child: std::process::Child,
}

impl Fourth {
    fn start() -> Fourth {
        let nodes = Running::dev(3, &[]);
        let port = support::free_ports(1);
        let address = format!("127.0.0.1:{port}");
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let child = Self::serve(&address, &data, &directory.path().join("first.log"));
        eventually("the fourth node to listen", || support::http(port, "GET", "/livez", &[]).map(|_| ()));
        run(&["cluster", "add", &address, "--server", &url(nodes.port)]).exits(0);
        support::wait_ready(port);
        Fourth { nodes, address, port, directory, child }
    }

    fn serve(address: &str, data: &std::path::Path, log: &std::path::Path) -> std::process::Child {
        let log = std::fs::File::create(log).expect("a file");
        support::annals()
            .args(["serve", "--insecure", "--listen", address, "--data"])
            .arg(data)
            .stderr(log)
            .spawn()
            .expect("runs")
    }

    fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    fn kill(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// Starts it again; answers where it says what it says.
    fn start_again(&mut self) -> std::path::PathBuf {
        let log = self.directory.path().join("again.log");
        self.child = Self::serve(&self.address, &self.data(), &log);
        log
    }
}

impl Drop for Fourth {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_node_whose_disk_was_emptied_says_what_it_waits_for_and_the_way_back() {
    let mut fourth = Fourth::start();
    fourth.kill();
    std::fs::remove_dir_all(fourth.data()).expect("removed");
    let log = fourth.start_again();
    let said = eventually("it says that it is called", || {
        let said = std::fs::read_to_string(&log).expect("readable");
        said.contains("a cluster calls this node as its node 4").then_some(said)
    });
    assert!(said.contains("waits to be added"), "{said}");
    assert!(said.contains(&format!("annals cluster replace 4 --with {}", fourth.address)), "{said}");
    assert_eq!(get(fourth.port, "/readyz").status, 503);
    assert_eq!(get(fourth.nodes.port, "/readyz").status, 200);
}

#[test]
fn a_node_on_an_older_copy_of_its_disk_ends_with_the_reason_and_the_way_back() {
    let mut fourth = Fourth::start();
    let (data, copy) = (fourth.data(), fourth.directory.path().join("copy"));
    fourth.kill();
    let copied = std::process::Command::new("cp").arg("-a").args([&data, &copy]).status();
    assert!(copied.expect("cp runs").success());
    let log = fourth.start_again();
    support::wait_ready(fourth.port);
    drop(log);
    append(&discover(&[fourth.nodes.port]), "s", "1").exits(0);
    fourth.kill();

    std::fs::remove_dir_all(&data).expect("removed");
    std::fs::rename(&copy, &data).expect("renamed");
    for _ in 0..2 {
        let log = fourth.start_again();
        let code = eventually("it ends", || fourth.child.try_wait().expect("our child"));
        assert_eq!(code.code(), Some(1), "by itself, and not as a crash");
        let said = std::fs::read_to_string(&log).expect("readable");
        assert!(said.contains("outdated copy of its disk"), "{said}");
        assert!(said.contains("remove node 4 from the cluster and join it again as a new one"), "{said}");
    }
    append(&discover(&[fourth.nodes.port]), "s", "2").exits(0);
}

#[test]
fn no_node_outlives_a_killed_parent() {
    let mut nodes = Running::dev(3, &[]);
    let pids: Vec<u32> = (0..3).map(|offset| pid(nodes.port + offset)).collect();
    nodes.child.kill().expect("our child");
    nodes.child.wait().expect("our child");
    eventually("all nodes gone", || pids.iter().all(|pid| is_gone(*pid)).then_some(()));
}

/// A process that ended may remain as a zombie until somebody reaps it.
fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

#[test]
fn a_cluster_stops_in_order_when_told() {
    let nodes = Running::dev(3, &[]);
    let pids: Vec<u32> = (0..3).map(|offset| pid(nodes.port + offset)).collect();
    let begun = std::time::Instant::now();
    assert_eq!(nodes.terminate(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(pids.iter().all(|pid| is_gone(*pid)));
}
