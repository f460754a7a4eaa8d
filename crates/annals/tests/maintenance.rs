//! Draining, restarting and recovering real nodes.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::secure::{self, Certs};
use support::{Ran, Running, eventually, free_ports, get, run, signal, url, wait_ready};

/// A cluster of three, each node a process that can be stopped and started by itself.
struct Trio {
    first: u16,
    directory: tempfile::TempDir,
    children: Vec<Option<Child>>,
}

impl Trio {
    fn start() -> Trio {
        let first = free_ports(3);
        let directory = tempfile::tempdir().expect("a directory");
        let mut trio = Trio { first, directory, children: vec![None, None, None] };
        (1..=3).for_each(|node| trio.begin(node));
        (1..=3).for_each(|node| wait_ready(trio.port(node)));
        trio
    }

    /// Node ids are the places in the sorted list of addresses, which these ports keep.
    fn port(&self, node: u64) -> u16 {
        self.first + u16::try_from(node).expect("small") - 1
    }

    fn address(&self, node: u64) -> String {
        format!("127.0.0.1:{}", self.port(node))
    }

    fn url(&self, node: u64) -> String {
        url(self.port(node))
    }

    fn data(&self, node: u64) -> PathBuf {
        self.directory.path().join(format!("node-{node}"))
    }

    fn log(&self, node: u64) -> PathBuf {
        self.directory.path().join(format!("node-{node}.log"))
    }

    fn begin(&mut self, node: u64) {
        let all: Vec<_> = (1..=3).map(|node| self.address(node)).collect();
        let log = fs::File::create(self.log(node)).expect("a file");
        let child = support::annals()
            .args(["serve", "--insecure", "--listen", &self.address(node), "--bootstrap", &all.join(","), "--data"])
            .arg(self.data(node))
            .stderr(log)
            .spawn()
            .expect("runs");
        self.children[node as usize - 1] = Some(child);
    }

    fn end(&mut self, node: u64, how: &str) -> Option<i32> {
        let mut child = self.children[node as usize - 1].take().expect("it runs");
        signal(child.id(), how);
        eventually("it ends", || child.try_wait().expect("our child")).code()
    }

    fn status(&self, asked: u64) -> Option<Value> {
        let ran = run(&["cluster", "status", "-o", "json", "--server", &self.url(asked)]);
        (ran.code == 0).then(|| ran.json())
    }

    fn leader(&self, asked: u64) -> u64 {
        eventually("a leader", || self.status(asked)?["leader"].as_u64())
    }

    /// Whom the node that is asked knows to have the lease.
    fn holder(&self, asked: u64) -> Option<u64> {
        self.status(asked)?["lease"]["node"].as_u64()
    }

    fn drain(&self, node: u64, timeout: &str) -> Ran {
        run(&["node", "drain", "--timeout", timeout, "--server", &self.url(node)])
    }

    fn append(&self, node: u64, data: &str) -> Ran {
        // Without the demand for the leader a follower forwards.
        let server = format!("{}&nodePreference=follower", self.url(node));
        run(&["stream", "append", "s", "--type", "T", "--data", data, "--server", &server])
    }

    fn others(&self, node: u64) -> Vec<u64> {
        (1..=3).filter(|other| *other != node).collect()
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn held(port: u16) -> bool {
    get(port, "/metrics").body.lines().any(|line| line == "annals_maintenance_lease_held 1")
}

#[test]
fn a_drained_leader_is_out_of_the_way_until_it_is_resumed() {
    let trio = Trio::start();
    let leader = trio.leader(1);
    let [second, _] = trio.others(leader)[..] else { unreachable!("two others") };
    trio.append(leader, "1").exits(0);
    let mut subscriber = support::annals()
        .args(["stream", "tail", "s", "--from", "start", "-o", "json", "--server", &trio.url(leader)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut lines = BufReader::new(subscriber.stdout.take().expect("piped")).lines();
    assert!(lines.next().expect("an event").expect("text").contains("\"revision\":0"));

    let ran = trio.drain(leader, "60s").exits(0);
    assert!(ran.out.contains("has the maintenance lease"), "{}", ran.out);
    assert!(ran.out.lines().last().is_some_and(|last| last.contains("drained")), "{}", ran.out);

    let busy = |line: &str| line.starts_with("annals_subscriptions_active{") && !line.ends_with(" 0");
    let metrics = get(trio.port(leader), "/metrics").body;
    assert!(!metrics.lines().any(busy), "clients went elsewhere: {metrics}");
    let readiness = get(trio.port(leader), "/readyz");
    assert_eq!(readiness.status, 503);
    assert!(readiness.body.contains("[-]draining"), "{}", readiness.body);
    assert_eq!(get(trio.port(leader), "/livez").status, 200, "nobody is to kill it for that");
    let check = run(&["node", "check", "--server", &trio.url(leader)]).exits(6);
    assert!(check.out.contains("[-]draining"), "{}", check.out);
    run(&["node", "check", "--server", &trio.url(second)]).exits(0);
    let gossip = get(trio.port(leader), "/gossip").json();
    let own = gossip["members"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|member| member["httpEndPointPort"].as_u64() == Some(u64::from(trio.port(leader))));
    assert_eq!(own.expect("itself")["state"], "ShuttingDown");
    assert_ne!(trio.leader(second), leader);
    assert!(held(trio.port(leader)) && !held(trio.port(second)));
    let seen = eventually("the lease is known elsewhere", || trio.holder(second));
    assert_eq!(seen, leader);
    assert!(run(&["cluster", "status", "--server", &trio.url(second)]).exits(0).out.contains("has the lease until"));
    // Whoever has not noticed is served all the same, but nobody stays.
    trio.append(leader, "2").exits(0);
    assert!(lines.next().expect("an event").expect("text").contains("\"revision\":1"), "from another node");
    subscriber.kill().expect("our child");
    subscriber.wait().expect("our child");
    let here = format!("{}&nodePreference=follower", trio.url(leader));
    let tail = || run(&["stream", "tail", "s", "--limit", "1", "--from", "start", "--server", &here]);
    tail().exits(5);

    let again = trio.drain(leader, "10s").exits(0);
    assert!(again.out.contains("drained already"), "{}", again.out);
    let refused = trio.drain(second, "2s").exits(5);
    assert!(refused.err.contains(&format!("node {leader} has the maintenance lease")), "{}", refused.err);
    assert_eq!(get(trio.port(second), "/readyz").status, 200, "a drain that gives up has changed nothing");

    let resumed = run(&["node", "resume", "-o", "json", "--server", &trio.url(leader)]).exits(0).json();
    assert_eq!((resumed["node"].as_u64(), resumed["wasDrained"].as_bool()), (Some(leader), Some(true)));
    wait_ready(trio.port(leader));
    let resumed = run(&["node", "resume", "-o", "json", "--server", &trio.url(leader)]).exits(0).json();
    assert_eq!(resumed["wasDrained"], false);
    eventually("the lease is given back", || trio.holder(second).is_none().then_some(()));
    tail().exits(0);
    trio.drain(second, "60s").exits(0);
}

#[test]
fn restarts_wait_for_each_other_and_for_voters_that_are_down() {
    let mut trio = Trio::start();
    let first = trio.leader(1);
    let [second, third] = trio.others(first)[..] else { unreachable!("two others") };
    trio.drain(first, "60s").exits(0);
    // Waits for its turn, while the first one is restarted.
    let url = trio.url(second);
    let waiting = support::annals()
        .args(["node", "drain", "--timeout", "120s", "-o", "json", "--server", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    assert_eq!(trio.end(first, "TERM"), Some(0));
    assert_eq!(get(trio.port(second), "/readyz").status, 200, "it is not its turn while the other is down");
    assert_eq!(eventually("it is known who has the lease", || trio.holder(third)), first);
    trio.begin(first);
    wait_ready(trio.port(first));
    let ran = Ran::of(&waiting.wait_with_output().expect("it ends")).exits(0);
    let steps: Vec<_> = ran.lines().iter().map(|step| step["step"].as_str().expect("a step").to_owned()).collect();
    assert_eq!(steps.first().map(String::as_str), Some("waiting"), "{steps:?}");
    assert_eq!(steps.last().map(String::as_str), Some("drained"), "{steps:?}");
    assert_eq!(eventually("it is known who has the lease", || trio.holder(third)), second);
    run(&["node", "resume", "--server", &url]).exits(0);
    eventually("the lease is given back", || trio.holder(third).is_none().then_some(()));

    trio.end(third, "KILL");
    let leader = trio.leader(first);
    eventually("it is noticed", || {
        let status = trio.status(leader)?;
        let gone = |node: &Value| node["id"] == third && node["reachable"] == false;
        status["nodes"].as_array()?.iter().any(gone).then_some(())
    });
    let refused = trio.drain(first, "6s").exits(5);
    assert!(refused.err.contains(&format!("node {third}, a voter, does not answer")), "{}", refused.err);
    trio.begin(third);
    wait_ready(trio.port(third));
    trio.drain(first, "60s").exits(0);
}

#[test]
fn a_node_that_is_told_to_terminate_keeps_others_from_being_drained() {
    let mut trio = Trio::start();
    let leader = trio.leader(1);
    let [second, _] = trio.others(leader)[..] else { unreachable!("two others") };
    assert_eq!(trio.end(leader, "TERM"), Some(0));
    assert_ne!(trio.leader(second), leader);
    assert_eq!(trio.holder(second), Some(leader));
    trio.begin(leader);
    wait_ready(trio.port(leader));
    eventually("the lease is given back", || trio.holder(second).is_none().then_some(()));
}

#[test]
fn what_is_no_member_has_nothing_to_drain() {
    let port = free_ports(1);
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = support::annals();
    command.args(["serve", "--insecure", "--listen", &format!("127.0.0.1:{port}"), "--data"]).arg(directory.path());
    let _node = Running { child: command.spawn().expect("runs"), port };
    eventually("it listens", || support::http(port, "GET", "/livez", &[]).map(|_| ()));
    let ran = run(&["node", "drain", "--server", &url(port)]).exits(0);
    assert!(ran.out.contains("there is nothing to drain"), "{}", ran.out);
    run(&["node", "check", "--server", &url(port)]).exits(6);
    let several = run(&["node", "drain", "--server", "kurrentdb://a:1,b:1?tls=false"]).exits(2);
    assert!(several.err.contains("name one node"), "{}", several.err);
}

/// A command for the node on this machine, as in its container.
fn locally(data: &Path, port: u16, arguments: &[&str]) -> Command {
    let mut command = support::annals();
    command.arg("node").args(arguments).arg("--local");
    command.env("ANNALS_DATA", data).env("ANNALS_LISTEN", format!("127.0.0.1:{port}"));
    command
}

fn ran(mut command: Command) -> Ran {
    Ran::of(&command.output().expect("runs"))
}

#[test]
fn whoever_has_the_nodes_token_operates_it_over_loopback_and_no_more() {
    let port = free_ports(1);
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let address = format!("127.0.0.1:{port}");
    let mut command = support::annals();
    command.args(["serve", "--listen", &address, "--bootstrap", &address, "--data"]).arg(&data);
    let node = Running { child: command.spawn().expect("runs"), port };
    wait_ready(port);
    let file = data.join("local-token");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    ran(locally(&data, port, &["check"])).exits(0);

    run(&["node", "drain", "--server", &url(port)]).exits(1);
    assert_eq!(get(port, "/readyz").status, 200, "nobody drains it without credentials");
    let token = fs::read_to_string(&file).expect("readable");
    fs::write(&file, token.to_ascii_lowercase()).expect("written");
    ran(locally(&data, port, &["drain"])).exits(1);
    fs::write(&file, &token).expect("written");

    let drained = ran(locally(&data, port, &["drain", "--timeout", "80s"])).exits(0);
    assert!(drained.out.contains("the only voter"), "{}", drained.out);
    ran(locally(&data, port, &["check"])).exits(6);
    let info = ran(locally(&data, port, &["info", "-o", "json"])).exits(0).json();
    assert_eq!((info["drained"].as_bool(), info["node"].as_u64()), (Some(true), Some(1)));
    ran(locally(&data, port, &["resume"])).exits(0);
    ran(locally(&data, port, &["check"])).exits(0);
    assert_eq!(node.terminate(), Some(0));
    assert!(!file.exists(), "it goes with the node");
    ran(locally(&data, port, &["check"])).exits(6);
}

#[test]
fn the_node_on_this_machine_is_found_over_tls_too() {
    let certs = Certs::new("127.0.0.1", "ann");
    let directory = tempfile::tempdir().expect("a directory");
    let node = secure::one(&certs, directory.path());
    let own = certs.of("node-127.0.0.1");
    let command = |arguments: &[&str]| {
        let mut command = locally(&directory.path().join("data"), node.port, arguments);
        command.env("ANNALS_TLS_CERT", &own.certificate).env("ANNALS_TLS_KEY", &own.key);
        command.env("ANNALS_TLS_CA", certs.ca());
        command
    };
    ran(command(&["check"])).exits(0);
    ran(command(&["drain"])).exits(0);
    ran(command(&["check"])).exits(6);
}

#[test]
fn one_disk_of_three_goes_on_and_the_others_do_not_come_back() {
    let mut trio = Trio::start();
    let leader = trio.leader(1);
    for number in 0..20 {
        trio.append(leader, &number.to_string()).exits(0);
    }
    eventually("node 1 has all of it", || {
        run(&["stream", "read", "s", "-o", "json", "--server", &format!("{}&nodePreference=follower", trio.url(1))])
            .lines()
            .len()
            .eq(&20)
            .then_some(())
    });
    let cluster = trio.status(1).expect("answers")["cluster"].as_str().expect("a name").to_owned();
    for node in 1..=3 {
        trio.end(node, "KILL");
    }
    fs::remove_dir_all(trio.data(3)).expect("removed");

    let (data, address) = (trio.data(1), trio.address(1));
    let recover = |more: &[&str]| {
        let data = data.to_str().expect("text");
        run(&[&["node", "recover", "--data", data, "--unsafe-new-membership", &address], more].concat())
    };
    let asked = recover(&[]).exits(2);
    assert!(asked.err.contains("--yes-lose-data"), "{}", asked.err);
    assert!(asked.out.contains(&cluster) && asked.out.contains("LOST"), "{}", asked.out);
    let two = format!("{address},{}", trio.address(2));
    run(&["node", "recover", "--data", data.to_str().expect("text"), "--unsafe-new-membership", &two]).exits(2);
    let done = recover(&["--yes-lose-data"]).exits(0);
    assert!(done.out.contains("is the only member"), "{}", done.out);
    run(&["verify", "--data", data.to_str().expect("text")]).exits(0);

    trio.begin(1);
    wait_ready(trio.port(1));
    let status = trio.status(1).expect("answers");
    assert_ne!(status["cluster"].as_str(), Some(cluster.as_str()));
    assert_eq!(status["leader"].as_u64(), Some(1));
    assert_eq!(status["nodes"].as_array().expect("a list").len(), 1);
    let events = run(&["stream", "read", "s", "-o", "json", "--server", &trio.url(1)]).exits(0).lines();
    assert_eq!(events.len(), 20, "all that it had is there");
    let told = run(&["stream", "read", "$system", "-o", "json", "--server", &trio.url(1)]).exits(0).lines();
    let told: Vec<_> = told.iter().filter(|event| event["type"] == "$clusterRecovered").collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].to_string().contains(&cluster), "{told:?}");
    trio.append(1, "21").exits(0);

    // The second node has its disk still, and belongs to a cluster that is no more.
    trio.begin(2);
    let mut child = trio.children[1].take().expect("it was started");
    let code = eventually("it ends by itself", || child.try_wait().expect("our child"));
    assert_eq!(code.code(), Some(1));
    let said = fs::read_to_string(trio.log(2)).expect("readable");
    assert!(said.contains("went on alone") && said.contains("annals cluster add"), "{said}");

    // The way back.
    fs::remove_dir_all(trio.data(2)).expect("removed");
    trio.begin(2);
    eventually("it listens", || support::http(trio.port(2), "GET", "/livez", &[]).map(|_| ()));
    let added = eventually("it is added", || {
        let ran = run(&["cluster", "add", &trio.address(2), "-o", "json", "--server", &trio.url(1)]);
        (ran.code == 0).then(|| ran.json()["node"].as_u64().expect("an id"))
    });
    assert!(added > 3, "node {added}: ids of old members are used up");
    wait_ready(trio.port(2));
    let read = format!("{}&nodePreference=follower", trio.url(2));
    eventually("it has all events", || {
        run(&["stream", "read", "s", "-o", "json", "--server", &read]).lines().len().eq(&21).then_some(())
    });
}

#[test]
fn a_running_node_is_not_recovered() {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Running::dev(1, &["--data", directory.path().to_str().expect("text")]);
    let address = format!("127.0.0.1:{}", node.port);
    let data = directory.path().to_str().expect("text");
    let refused = run(&["node", "recover", "--data", data, "--unsafe-new-membership", &address, "--yes-lose-data"]);
    assert!(refused.exits(1).err.contains("stop it first"));
    let none = directory.path().join("none");
    let none = none.to_str().expect("text");
    run(&["node", "recover", "--data", none, "--unsafe-new-membership", &address, "--yes-lose-data"]).exits(3);
}
