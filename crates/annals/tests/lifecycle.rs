//! How clusters begin, grow, shrink and lose nodes: nodes as processes of their own,
//! that find each other by seeds.

mod support;

use std::path::PathBuf;
use std::process::Child;

use annals_client::Client;
use annals_proto::annals::internal::v1::JoinRequest;
use annals_proto::annals::internal::v1::coordination_client::CoordinationClient;
use serde_json::Value;
use support::secure::{self, Certs, Forged};
use support::{Ran, eventually, free_ports, http, run, signal, url};
use tonic::Code;

/// A node: its place on this machine outlives its process.
struct Place {
    port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// Several nodes that have the same seeds.
struct Nodes {
    places: Vec<Place>,
    _directory: tempfile::TempDir,
}

impl Nodes {
    /// Places for `count` nodes, all of them seeds of all, that expect `expect`.
    fn new(count: u16, expect: u16) -> Nodes {
        let first = free_ports(count);
        let ports: Vec<u16> = (first..first + count).collect();
        let seeds: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        Nodes::with(&ports, |_| vec![format!("--join={}", seeds.join(",")), format!("--bootstrap-expect={expect}")])
    }

    fn with(ports: &[u16], arguments: impl Fn(usize) -> Vec<String>) -> Nodes {
        let directory = tempfile::tempdir().expect("a directory");
        let places = ports.iter().enumerate().map(|(place, port)| {
            let mut own = arguments(place);
            own.push(format!("--node-name=node-{place}"));
            Place {
                port: *port,
                directory: directory.path().join(format!("node-{place}")),
                arguments: own,
                child: None,
            }
        });
        Nodes { places: places.collect(), _directory: directory }
    }

    /// A place for one more, that knows these as its seeds.
    fn add(&mut self, arguments: &[String]) -> usize {
        let place = self.places.len();
        let directory = self._directory.path().join(format!("node-{place}"));
        let arguments = [arguments, &[format!("--node-name=node-{place}")]].concat();
        self.places.push(Place { port: free_ports(1), directory, arguments, child: None });
        place
    }

    /// A seed of those that come later.
    fn join(&self, place: usize) -> String {
        format!("--join={}", self.address(place))
    }

    /// A node that has nothing to do takes less than a quarter of a processor.
    fn rests(&self, place: usize) {
        let pid = self.places[place].child.as_ref().expect("it runs").id();
        let ticks = || -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
            let after_name = stat.rsplit_once(") ").expect("its name is in brackets").1;
            // Of `proc(5)` the fields 14 and 15: in its own code and in the kernel's.
            after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
        };
        let before = ticks();
        std::thread::sleep(std::time::Duration::from_secs(2));
        let taken = ticks() - before;
        assert!(taken < 50, "{taken} hundredths of a second of a processor in two seconds");
    }

    fn address(&self, place: usize) -> String {
        format!("127.0.0.1:{}", self.places[place].port)
    }

    fn url(&self, place: usize) -> String {
        url(self.places[place].port)
    }

    fn start(&mut self, place: usize) {
        let place = &mut self.places[place];
        std::fs::create_dir_all(&place.directory).expect("made");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(place.directory.join("log"));
        let mut command = support::annals();
        command.args(["serve", "--insecure", "--listen", &format!("127.0.0.1:{}", place.port), "--data"]);
        command.arg(place.directory.join("data")).args(&place.arguments).stderr(log.expect("a file"));
        place.child = Some(command.spawn().expect("runs"));
    }

    fn start_all(&mut self) {
        (0..self.places.len()).for_each(|place| self.start(place));
    }

    fn start_all_but(&mut self, late: usize) {
        (0..self.places.len()).filter(|place| *place != late).for_each(|place| self.start(place));
    }

    fn kill(&mut self, place: usize) {
        if let Some(mut child) = self.places[place].child.take() {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
    }

    /// As an orchestrator does it; answers the exit code.
    fn terminate(&mut self, place: usize) -> Option<i32> {
        let mut child = self.places[place].child.take().expect("it runs");
        signal(child.id(), "TERM");
        eventually("it ends", || child.try_wait().expect("our child")).code()
    }

    fn wipe(&self, place: usize) {
        std::fs::remove_dir_all(self.places[place].directory.join("data")).expect("removed");
    }

    /// Everything that the node has said.
    fn said(&self, place: usize) -> String {
        std::fs::read_to_string(self.places[place].directory.join("log")).unwrap_or_default()
    }

    #[track_caller]
    fn says(&self, place: usize, words: &str) {
        eventually(&format!("node-{place} says {words:?}"), || self.said(place).contains(words).then_some(()));
    }

    fn is_ready(&self, place: usize) -> bool {
        http(self.places[place].port, "GET", "/readyz", &[]).is_some_and(|answer| answer.status == 200)
    }

    #[track_caller]
    fn wait_ready(&self, places: impl IntoIterator<Item = usize>) {
        for place in places {
            eventually(&format!("node-{place} is ready"), || self.is_ready(place).then_some(()));
        }
    }

    fn status(&self, place: usize) -> Option<Value> {
        let ran = run(&["cluster", "status", "-o", "json", "--server", &self.url(place)]);
        (ran.code == 0).then(|| ran.json())
    }

    /// The members as one node sees them, each as `name role`, sorted.
    fn members(&self, place: usize) -> Vec<String> {
        let Some(status) = self.status(place) else { return Vec::new() };
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let mut members: Vec<String> = nodes
            .iter()
            .map(|node| {
                let kind = match (node["voter"].as_bool(), node["replica"].as_bool()) {
                    (Some(true), _) => "votes",
                    (_, Some(true)) => "replica",
                    _ => "learns",
                };
                format!("{} {kind}", node["name"].as_str().unwrap_or_default())
            })
            .collect();
        members.sort();
        members
    }

    #[track_caller]
    fn wait_members(&self, asked: usize, expected: &[&str]) {
        eventually(&format!("{expected:?}, as node-{asked} sees it"), || {
            (self.members(asked) == expected).then_some(())
        });
    }

    /// All of these are ready, in one cluster, whose voters they are.
    #[track_caller]
    fn are_one_cluster(&self, places: &[usize]) {
        self.wait_ready(places.iter().copied());
        let expected: Vec<String> = places.iter().map(|place| format!("node-{place} votes")).collect();
        for place in places {
            self.wait_members(*place, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let clusters: Vec<Value> =
            places.iter().map(|place| self.status(*place).expect("it answers")["cluster"].clone()).collect();
        assert!(clusters.iter().all(|cluster| *cluster == clusters[0]), "{clusters:?}");
        assert!(clusters[0].as_str().is_some_and(|cluster| !cluster.is_empty()));
    }

    fn append(&self, place: usize, data: &str) -> Ran {
        run(&["stream", "append", "s", "--type", "T", "--binary", "--data", data, "--server", &self.url(place)])
    }

    /// The place of the node that leads.
    fn leader(&self, asked: usize) -> usize {
        eventually("a leader", || {
            let status = self.status(asked)?;
            let leader = status["leader"].as_u64()?;
            let nodes = status["nodes"].as_array()?;
            let name = nodes.iter().find(|node| node["id"] == leader)?["name"].as_str()?.to_owned();
            name.strip_prefix("node-")?.parse().ok()
        })
    }

    #[track_caller]
    fn hold_the_same(&self, asked: usize) {
        let hash = eventually("all nodes tell their hash", || {
            let ran = run(&["cluster", "hash", "-o", "json", "--server", &self.url(asked)]);
            let hash = (ran.code == 0).then(|| ran.json())?;
            hash["nodes"].as_array()?.iter().all(|node| node["hash"].is_string()).then_some(hash)
        });
        assert_eq!(hash["equal"], true, "{hash}");
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for place in &mut self.places {
            if let Some(child) = &mut place.child {
                let _ = child.kill();
                let _ = child.wait();
            }
            if std::thread::panicking() {
                let log = std::fs::read_to_string(place.directory.join("log")).unwrap_or_default();
                eprintln!("--- {}:\n{log}", place.directory.display());
            }
        }
    }
}

// -------------------------------------------------------------- beginning ----

#[test]
fn empty_nodes_start_one_cluster_in_any_order_also_when_one_is_late() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut nodes = Nodes::new(3, 3);
        nodes.start(order[0]);
        nodes.start(order[1]);
        nodes.says(order[0], "2 of 3 empty nodes are here");
        assert!(!nodes.is_ready(order[0]), "two of three start nothing");
        nodes.start(order[2]);
        nodes.are_one_cluster(&[0, 1, 2]);
        nodes.append(order[2], "1").exits(0);
    }
}

#[test]
fn of_one_node_more_than_expected_the_last_joins_and_is_given_a_vote() {
    let mut nodes = Nodes::new(4, 3);
    nodes.start_all();
    nodes.are_one_cluster(&[0, 1, 2, 3]);
    assert!(nodes.said(3).contains("this node is added to the cluster"), "{}", nodes.said(3));
    nodes.append(3, "1").exits(0);
    nodes.hold_the_same(0);
}

#[test]
fn nodes_that_are_killed_while_they_start_a_cluster_go_on_when_they_are_back() {
    // Wherever in the process the kill falls: the outcome is one cluster of all.
    for pause in [0, 150, 300, 500] {
        let mut nodes = Nodes::new(3, 3);
        nodes.start_all();
        eventually("they listen", || http(nodes.places[0].port, "GET", "/livez", &[]).map(|_| ()));
        std::thread::sleep(std::time::Duration::from_millis(pause));
        for place in 0..3 {
            nodes.kill(place);
        }
        nodes.start(2);
        nodes.start(0);
        nodes.start(1);
        nodes.are_one_cluster(&[0, 1, 2]);
    }
}

#[test]
fn nodes_that_expect_differing_numbers_say_so() {
    let first = free_ports(2);
    let seeds = format!("--join=127.0.0.1:{first},127.0.0.1:{}", first + 1);
    let mut nodes =
        Nodes::with(&[first, first + 1], |place| vec![seeds.clone(), format!("--bootstrap-expect={}", place + 2)]);
    nodes.start_all();
    nodes.says(0, "`bootstrap_expect` is 2 here, but 3 at");
    assert!(!nodes.is_ready(0) && !nodes.is_ready(1));
}

#[test]
fn a_node_that_is_alone_and_expects_nobody_else_is_a_cluster() {
    let mut nodes = Nodes::with(&[free_ports(1)], |_| vec!["--bootstrap-expect=1".to_owned()]);
    nodes.start_all();
    nodes.are_one_cluster(&[0]);
    assert_eq!(nodes.terminate(0), Some(0));
    nodes.start(0);
    nodes.are_one_cluster(&[0]);
}

// ------------------------------------------------------------ a lost disk ----

#[test]
fn a_node_whose_disk_is_gone_starts_nothing_and_takes_its_own_place_when_it_is_told_to() {
    let mut nodes = Nodes::new(3, 3);
    nodes.start_all();
    nodes.are_one_cluster(&[0, 1, 2]);
    for data in 0..20 {
        nodes.append(0, &data.to_string()).exits(0);
    }
    nodes.kill(1);
    nodes.wipe(1);
    nodes.start(1);
    nodes.says(1, &format!("annals cluster replace node-1 --with {}", nodes.address(1)));
    assert!(!nodes.is_ready(1));
    nodes.append(0, "meanwhile").exits(0);

    let (address, server) = (nodes.address(1), nodes.url(0));
    let replaced =
        run(&["cluster", "replace", "node-1", "--with", &address, "--yes", "--server", &server, "-o", "json"]).exits(0);
    assert!(replaced.json()["node"].as_u64() > Some(3), "a new id: {}", replaced.out);
    nodes.are_one_cluster(&[0, 1, 2]);
    nodes.append(1, "after").exits(0);
    nodes.hold_the_same(1);

    // It is a member like others: it comes back by itself.
    nodes.kill(1);
    nodes.start(1);
    nodes.are_one_cluster(&[0, 1, 2]);
}

#[test]
fn two_lost_disks_of_three_start_no_second_cluster() {
    let mut nodes = Nodes::new(3, 3);
    nodes.start_all();
    nodes.are_one_cluster(&[0, 1, 2]);
    for place in [1, 2] {
        nodes.kill(place);
        nodes.wipe(place);
    }
    // Not while the one that remembers is away, nor when it is back.
    nodes.kill(0);
    nodes.start(1);
    nodes.start(2);
    nodes.says(1, "a cluster is started only when every seed answers");
    nodes.start(0);
    nodes.says(1, "is not added to its cluster yet");
    nodes.says(2, "is not added to its cluster yet");
    assert!(!nodes.is_ready(1) && !nodes.is_ready(2));
}

#[test]
fn a_node_that_is_gone_is_replaced_by_another_at_another_address() {
    let mut nodes = Nodes::new(3, 3);
    nodes.start_all();
    nodes.are_one_cluster(&[0, 1, 2]);
    nodes.append(0, "1").exits(0);
    let fourth = nodes.add(&[]);
    nodes.start(fourth);
    let (address, server) = (nodes.address(fourth), nodes.url(0));
    let replace = ["cluster", "replace", "node-2", "--with", &address, "--yes", "--server", &server];
    eventually("it listens", || http(nodes.places[fourth].port, "GET", "/livez", &[]).map(|_| ()));
    let refused = run(&replace).exits(4);
    assert!(refused.err.contains("is there, with its data"), "{}", refused.err);
    nodes.kill(2);
    eventually("it is replaced", || (run(&replace).code == 0).then_some(()));
    nodes.are_one_cluster(&[0, 1, 3]);
    nodes.hold_the_same(0);

    // The old one hears that it is out, and stays out.
    nodes.start(2);
    nodes.says(2, "this node was removed from its cluster");
    nodes.are_one_cluster(&[0, 1, 3]);
}

// ------------------------------------------------------ growing, shrinking ----

#[test]
fn a_cluster_grows_from_one_to_five_and_shrinks_to_three_while_it_takes_appends() {
    let mut nodes = Nodes::with(&[free_ports(1)], |_| vec!["--bootstrap-expect=1".to_owned()]);
    nodes.start(0);
    nodes.wait_ready([0]);
    nodes.append(0, "first").exits(0);
    let seed = nodes.join(0);
    for _ in 0..4 {
        let place = nodes.add(std::slice::from_ref(&seed));
        nodes.start(place);
    }
    let server = nodes.url(0);
    let scaled = run(&["cluster", "scale", "5", "--server", &server, "-o", "json"]).exits(0).json();
    assert_eq!((scaled["nodes"].as_u64(), scaled["voters"].as_u64()), (Some(5), Some(5)));
    nodes.are_one_cluster(&[0, 1, 2, 3, 4]);
    nodes.append(4, "five").exits(0);
    nodes.hold_the_same(0);

    // The one that leads is among those that go.
    run(&["cluster", "transfer-leader", "--to", "node-4", "--server", &server]).exits(0);
    eventually("node-4 leads", || (nodes.leader(0) == 4).then_some(()));
    let unasked = run(&["cluster", "scale", "3", "--server", &server]).exits(2);
    assert!(unasked.err.contains("--yes"), "{}", unasked.err);
    let scaled = run(&["cluster", "scale", "3", "--yes", "--server", &server, "-o", "json"]).exits(0).json();
    assert_eq!((scaled["nodes"].as_u64(), scaled["voters"].as_u64()), (Some(3), Some(3)));
    nodes.are_one_cluster(&[0, 1, 2]);
    nodes.says(3, "this node was removed from its cluster");
    nodes.says(4, "this node was removed from its cluster");
    nodes.rests(4);
    nodes.append(0, "three").exits(0);
    nodes.hold_the_same(0);

    // Removed for good: its data do not come back, an empty node under its name does.
    nodes.kill(4);
    nodes.start(4);
    nodes.says(4, "it takes no part any more");
    nodes.kill(4);
    nodes.wipe(4);
    nodes.start(4);
    nodes.are_one_cluster(&[0, 1, 2, 4]);
}

#[test]
fn a_node_joins_although_its_seeds_come_later_and_the_leader_changes_and_it_is_killed() {
    let mut nodes = Nodes::new(3, 3);
    let seeds = format!("--join={},{}", nodes.address(1), nodes.address(2));
    let late = nodes.add(&[seeds]);
    nodes.start(late);
    nodes.says(late, "waiting for a seed that belongs to a cluster; no answer:");
    nodes.start_all_but(late);
    eventually("it is adopted", || nodes.said(late).contains("this node has an identity now").then_some(()));
    nodes.kill(late);
    nodes.wait_ready(0..3);
    let first = nodes.leader(0);
    nodes.kill(first);
    nodes.start(late);
    nodes.wait_ready([late]);
    nodes.start(first);
    nodes.are_one_cluster(&[0, 1, 2, late]);
    nodes.append(late, "1").exits(0);
    nodes.hold_the_same(late);
}

#[test]
fn several_nodes_that_join_at_once_are_all_added() {
    let mut nodes = Nodes::with(&[free_ports(1)], |_| vec!["--bootstrap-expect=1".to_owned()]);
    nodes.start(0);
    // All of them seeds of all, as by DNS.
    let ports = free_ports(3);
    let seeds: Vec<String> =
        [nodes.places[0].port, ports, ports + 1, ports + 2].iter().map(|port| format!("127.0.0.1:{port}")).collect();
    for offset in 0..3 {
        let place = nodes.add(&[format!("--join={}", seeds.join(",")), "--bootstrap-expect=1".to_owned()]);
        nodes.places[place].port = ports + offset;
    }
    nodes.wait_ready([0]);
    nodes.start_all_but(0);
    nodes.are_one_cluster(&[0, 1, 2, 3]);
}

#[test]
fn a_removal_that_would_leave_nobody_to_decide_is_refused_unless_it_is_forced_by_name() {
    let mut nodes = Nodes::new(3, 3);
    nodes.start_all();
    nodes.are_one_cluster(&[0, 1, 2]);
    let leader = nodes.leader(0);
    let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    nodes.kill(others[0]);
    let (name, server) = (format!("node-{}", others[1]), nodes.url(leader));
    let gone = format!("node-{}", others[0]);
    eventually("the leader has noticed", || {
        let status = nodes.status(leader)?;
        let mut members = status["nodes"].as_array()?.iter();
        members.any(|node| node["name"] == *gone && node["reachable"] == false).then_some(())
    });
    let refused = run(&["cluster", "remove", &name, "--yes", "--server", &server]).exits(4);
    assert!(refused.err.contains("only 1 can be reached"), "{}", refused.err);
    let unsure = run(&["cluster", "remove", &name, "--force", "--server", &server]).exits(2);
    assert!(unsure.err.contains(&format!("--confirm {name}")), "{}", unsure.err);
    run(&["cluster", "remove", &name, "--force", "--confirm", "node-9", "--server", &server]).exits(1);
    nodes.append(leader, "still two of three").exits(0);
    // The one that is gone may leave: the two that are there decide.
    run(&["cluster", "remove", &gone, "--yes", "--server", &server]).exits(0);
    nodes.append(leader, "two").exits(0);
    let unknown = run(&["cluster", "remove", "node-9", "--yes", "--server", &server]).exits(3);
    assert!(unknown.err.contains("there is no node node-9; there are"), "{}", unknown.err);
}

// --------------------------------------------------------------- replicas ----

#[test]
fn a_replica_follows_for_good_and_may_leave_when_it_stops() {
    let mut nodes = Nodes::with(&[free_ports(1)], |_| vec!["--bootstrap-expect=1".to_owned()]);
    nodes.start(0);
    nodes.wait_ready([0]);
    let seed = nodes.join(0);
    let replica = nodes.add(&[seed.clone(), "--replica".into(), "--set".into(), "leave_on_shutdown=true".into()]);
    nodes.start(replica);
    let voter = nodes.add(&[seed]);
    nodes.start(voter);
    // The one that came later votes long since, and this one does not.
    nodes.wait_members(0, &["node-0 votes", "node-1 replica", "node-2 votes"]);
    nodes.wait_ready([replica]);
    nodes.append(replica, "1").exits(0);
    let refused = run(&["cluster", "promote", "node-1", "--server", &nodes.url(0)]).exits(4);
    assert!(refused.err.contains("is a replica, which never votes"), "{}", refused.err);
    let told = run(&["cluster", "status", "--server", &nodes.url(0)]).exits(0);
    assert!(told.out.lines().any(|line| line.contains("node-1") && line.contains("replica")), "{}", told.out);

    assert_eq!(nodes.terminate(replica), Some(0));
    nodes.wait_members(0, &["node-0 votes", "node-2 votes"]);
    assert!(nodes.said(replica).contains("this replica has left its cluster"), "{}", nodes.said(replica));
}

/// A voter and a replica that leaves when it stops, both ready, with an event.
fn with_a_replica() -> (Nodes, usize) {
    let mut nodes = Nodes::with(&[free_ports(1)], |_| vec!["--bootstrap-expect=1".to_owned()]);
    nodes.start(0);
    nodes.wait_ready([0]);
    let seed = nodes.join(0);
    let replica = nodes.add(&[seed, "--replica".into(), "--set".into(), "leave_on_shutdown=true".into()]);
    nodes.start(replica);
    nodes.wait_members(0, &["node-0 votes", "node-1 replica"]);
    nodes.wait_ready([replica]);
    nodes.append(0, "before").exits(0);
    (nodes, replica)
}

/// It is a member again, under another id, and has everything.
fn is_back(nodes: &Nodes, replica: usize, former: u64) {
    nodes.wait_ready([replica]);
    nodes.wait_members(0, &["node-0 votes", "node-1 replica"]);
    assert!(id_of(nodes, "node-1") > former, "an id is never given twice");
    eventually("it has what was written while it was away", || {
        let read = run(&["stream", "read", "s", "-o", "json", "--server", &nodes.url(replica)]);
        (read.code == 0 && read.lines().len() > 1).then_some(())
    });
}

fn id_of(nodes: &Nodes, name: &str) -> u64 {
    eventually("the node is known", || {
        let status = nodes.status(0)?;
        status["nodes"].as_array()?.iter().find(|node| node["name"] == name)?["id"].as_u64()
    })
}

#[test]
fn a_replica_that_has_left_joins_anew_when_it_is_started_on_its_old_directory() {
    let (mut nodes, replica) = with_a_replica();
    for _ in 0..2 {
        let former = id_of(&nodes, "node-1");
        assert_eq!(nodes.terminate(replica), Some(0));
        nodes.wait_members(0, &["node-0 votes"]);
        nodes.append(0, "meanwhile").exits(0);
        nodes.start(replica);
        is_back(&nodes, replica, former);
    }
    nodes.says(replica, "this replica had left its cluster: it joins anew, with nothing");
}

#[test]
fn a_replica_whose_disk_is_lost_takes_its_former_place_back() {
    let (mut nodes, replica) = with_a_replica();
    let former = id_of(&nodes, "node-1");
    nodes.kill(replica);
    nodes.append(0, "meanwhile").exits(0);
    nodes.wipe(replica);
    nodes.start(replica);
    is_back(&nodes, replica, former);
}

// ----------------------------------------------------------------- status ----

#[test]
fn every_node_tells_names_lag_and_versions_of_all() {
    let mut nodes = Nodes::new(3, 3);
    nodes.start_all();
    nodes.are_one_cluster(&[0, 1, 2]);
    nodes.append(0, "1").exits(0);
    for place in 0..3 {
        eventually("it knows all", || {
            let status = nodes.status(place)?;
            let knows = |node: &Value| node["version"].is_string() && node["lag"] == 0 && node["appliedIndex"].is_u64();
            status["nodes"].as_array()?.iter().all(knows).then_some(())
        });
    }
}

// --------------------------------------------------------------- stopping ----

#[test]
fn a_follower_with_an_open_stream_from_its_leader_stops_without_cutting_anything_off() {
    let mut nodes = Nodes::new(3, 3);
    nodes.start_all();
    nodes.are_one_cluster(&[0, 1, 2]);
    nodes.append(0, "1").exits(0);
    let follower = (0..3).find(|place| *place != nodes.leader(0)).expect("there are two");
    assert_eq!(nodes.terminate(follower), Some(0));
    let said = nodes.said(follower);
    assert!(said.contains("stopped"), "{said}");
    assert!(!said.contains("cutting off calls"), "{said}");
}

// -------------------------------------------------------------------- TLS ----

#[test]
fn over_tls_a_node_joins_under_its_own_certificate_and_under_no_other() {
    let certs = Certs::new("127.0.0.1", "ann");
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let ports = free_ports(3);
    let own = certs.of("node-127.0.0.1");
    let ca = certs.ca();
    let _first = secure::serve(&ca, &own, ports, &path("1"), &[], &path("1.log"), &["--bootstrap-expect=1"]);
    certs.wait_ready(ports);
    let seed = format!("--join=127.0.0.1:{ports}");
    let joins = ["--node-name=node-1", seed.as_str()];
    let _second = secure::serve(&ca, &own, ports + 1, &path("2"), &[], &path("2.log"), &joins);
    certs.wait_ready(ports + 1);

    // Another node of this cluster asks for an address that its certificate does not name.
    let forged =
        Forged { common_name: "x", uris: &["annals://annals/node/other.example"], expired: false, only_server: false };
    let other = certs.forge("other", &forged);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let refused = runtime.block_on(async {
        let client = Client::from_connection_string(&certs.url_as(ports, &other)).expect("valid");
        let mut client = CoordinationClient::new(client.channel().await.expect("a connection"));
        let address = format!("127.0.0.1:{}", ports + 2);
        client.join(JoinRequest { address, timeout_ms: 5_000 }).await.expect_err("not its own address")
    });
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("but the certificate of the connection names"), "{refused}");

    // And itself it does not even start there.
    let log = path("3.log");
    let mut third = secure::serve(&ca, &other, ports + 2, &path("3"), &[], &log, &[&seed]);
    eventually("it ends", || third.child.try_wait().expect("it was started"));
    let said = std::fs::read_to_string(log).expect("a file");
    assert!(said.contains("annals://annals/node/127.0.0.1"), "{said}");
}
