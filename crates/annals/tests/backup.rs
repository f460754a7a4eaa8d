//! Backups of clusters that are being written, and what comes out of them, by the real
//! binary.

mod support;

use std::path::Path;
use std::process::Child;

use serde_json::Value;
use support::{Ran, Running, annals, eventually, free_ports, get, run, run_with_input, signal, url, wait_ready};

/// A node that serves a directory. Killed when dropped.
struct Served {
    child: Child,
    port: u16,
}

impl Served {
    fn start(data: &Path, port: u16) -> Served {
        Served::start_with(data, port, &[])
    }

    fn start_with(data: &Path, port: u16, arguments: &[&str]) -> Served {
        let child = annals()
            .args(["serve", "--insecure", "--log", "warn", "--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(data)
            .args(arguments)
            .spawn()
            .expect("the binary runs");
        Served { child, port }
    }

    fn ready(self) -> Served {
        wait_ready(self.port);
        self
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(&[arguments, &["--server", &url(self.port)]].concat())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Appends this many events to a stream.
fn append(server: &str, stream: &str, events: usize) {
    let line = format!("{{\"type\":\"T\",\"data\":{{\"x\":\"{}\"}}}}\n", "x".repeat(200));
    run_with_input(&["stream", "append", stream, "--server", server], &line.repeat(events)).exits(0);
}

/// The chain hash of a node at a position.
fn hash(server: &str, position: u64) -> String {
    let ran = run(&["cluster", "hash", "--position", &position.to_string(), "-o", "json", "--server", server]);
    ran.exits(0).json()["nodes"][0]["hash"].as_str().expect("a hash").to_owned()
}

fn create(server: &str, to: &Path, more: &[&str]) -> Value {
    let arguments = ["backup", "create", "--to", text(to), "-o", "json", "--server", server];
    run(&[&arguments[..], more].concat()).exits(0).json()
}

fn restore(from: &Path, data: &Path, port: u16, more: &[&str]) -> Ran {
    let address = format!("127.0.0.1:{port}");
    let arguments = ["backup", "restore", "--from", text(from), "--data", text(data), "--node-address", &address];
    run(&[&arguments[..], &["-o", "json"], more].concat())
}

#[test]
fn a_cluster_comes_back_from_a_full_and_an_incremental_backup_under_a_new_identity() {
    let directory = tempfile::tempdir().expect("a directory");
    let (place, data) = (directory.path().join("backups"), directory.path().join("restored"));
    let old = Running::dev(3, &[]);
    let server = old.url();
    append(&server, "order-1", 300);
    append(&server, "order-2", 300);
    old.run(&["stream", "delete", "order-2", "--yes"]).exits(0);
    let full = create(&server, &place, &[]);
    append(&server, "order-3", 50);
    let incremental = create(&server, &place, &["--incremental"]);
    assert_eq!(incremental["parent"], full["backup"]);
    assert_eq!(incremental["after"], full["through"]);
    // What was new is the 50 events, and the report of the first backup.
    assert_eq!(incremental["events"], 51);
    assert!(incremental["fileBytes"].as_u64() < full["fileBytes"].as_u64());
    let position = incremental["through"].as_u64().expect("a position");
    assert_eq!(incremental["hash"], hash(&server, position));

    let listed = run(&["backup", "ls", "--from", text(&place), "-o", "json"]).exits(0);
    let states: Vec<Value> = listed.lines().iter().map(|line| line["state"].clone()).collect();
    assert_eq!(states, ["complete", "complete"]);
    let verified = run(&["backup", "verify", "--from", text(&place), "-o", "json"]).exits(0).json();
    assert_eq!(verified["hash"], incremental["hash"]);
    assert_eq!(verified["backups"].as_array().map(Vec::len), Some(2));

    // Every node tells of it, for every kind.
    for port in old.port..old.port + 3 {
        eventually("the metric", || {
            let metrics = get(port, "/metrics").body;
            let names = ["full", "incremental"]
                .map(|kind| format!("annals_backup_last_success_timestamp_seconds{{kind=\"{kind}\"}} "));
            let is_set =
                |name: &String| metrics.lines().any(|line| line.strip_prefix(name).is_some_and(|at| at != "0"));
            names.iter().all(is_set).then_some(())
        });
    }
    let before = run(&["cluster", "status", "-o", "json", "--server", &server]).exits(0).json();
    drop(old);

    let port = free_ports(2);
    let restored = restore(&place, &data, port, &[]).exits(0).json();
    assert_eq!((&restored["position"], &restored["hash"]), (&incremental["through"], &incremental["hash"]));
    assert_ne!(restored["cluster"], before["cluster"]);
    let checked = run(&["verify", "--data", text(&data), "-o", "json"]).exits(0).json();
    assert_eq!(checked["chainHash"], incremental["hash"]);
    let again = restore(&place, &data, port, &[]);
    assert!(again.code == 1 && again.err.contains("is not empty"), "{again:?}");

    let new = Served::start(&data, port).ready();
    assert_eq!(hash(&url(port), position), incremental["hash"].as_str().expect("a hash"));
    for (stream, events) in [("order-1", 300), ("order-3", 50), ("$ce-order", 650)] {
        let read = new.run(&["stream", "read", stream, "-o", "json"]).exits(0);
        assert_eq!(read.lines().len(), events, "{stream}");
    }
    new.run(&["stream", "read", "order-2"]).exits(3);
    append(&url(port), "order-1", 1);
    assert_eq!(new.run(&["stream", "read", "order-1", "-o", "json"]).exits(0).lines().len(), 301);

    // A node is added to it, which gets everything.
    let second = Served::start(&directory.path().join("second"), port + 1);
    let address = format!("127.0.0.1:{}", port + 1);
    eventually("the node is added", || (new.run(&["cluster", "add", &address]).code == 0).then_some(()));
    wait_ready(second.port);
    eventually("both hold the same", || {
        let ran = new.run(&["cluster", "hash", "-o", "json"]);
        let equal = (ran.code == 0).then(|| ran.json())?;
        let told = equal["nodes"].as_array()?.iter().filter(|node| node["hash"].is_string()).count();
        (equal["equal"] == true && told == 2).then_some(())
    });
}

#[test]
fn events_up_to_a_position_or_a_time_come_back_and_no_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("backups");
    let old = Running::dev(1, &[]);
    let server = old.url();
    append(&server, "a", 20);
    let first = create(&server, &place, &[]);
    append(&server, "b", 20);
    let second = create(&server, &place, &["--incremental"]);
    let read = old.run(&["all", "read", "-o", "json"]).exits(0).lines();
    let events: Vec<(u64, String)> = read
        .iter()
        .map(|line| (line["position"].as_u64().expect("one"), line["created"].as_str().expect("one").to_owned()))
        .collect();
    let port = free_ports(1);
    // In the midst of the first file, at its end, at the end of all.
    let ends = [7, first["through"].as_u64().expect("one"), second["through"].as_u64().expect("one")];
    for (index, end) in ends.into_iter().enumerate() {
        let data = directory.path().join(format!("to-{index}"));
        let restored = restore(&place, &data, port, &["--to-position", &end.to_string()]).exits(0).json();
        assert_eq!((restored["position"].as_u64(), &restored["hash"]), (Some(end), &hash(&server, end).into()));
        let checked = run(&["verify", "--data", text(&data), "-o", "json"]).exits(0).json();
        assert_eq!(checked["tail"].as_u64(), Some(end));
    }
    // Between the two appends: all of the first one, nothing of the second.
    let (last_of_first, when) = events[19].clone();
    let data = directory.path().join("to-time");
    let restored = restore(&place, &data, port, &["--to-time", &when.replace('Z', "9Z")]).exits(0).json();
    let found = restored["position"].as_u64().expect("a position");
    let expected = events.iter().filter(|(_, created)| *created <= when).map(|(position, _)| *position).max();
    assert_eq!(Some(found), expected);
    assert!(found >= last_of_first);
    let beyond = restore(&place, &directory.path().join("beyond"), port, &["--to-position", "1000"]);
    assert!(beyond.code == 3 && !directory.path().join("beyond").exists(), "{beyond:?}");
}

#[test]
fn what_was_damaged_is_found_and_nothing_is_made_of_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("backups");
    let node = Running::dev(1, &[]);
    append(&node.url(), "a", 100);
    let full = create(&node.url(), &place, &[]);
    append(&node.url(), "a", 100);
    create(&node.url(), &place, &["--incremental"]);
    let folder = place.join(full["backup"].as_str().expect("an id"));
    let file = std::fs::read_dir(&folder).expect("readable").flatten().map(|entry| entry.path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|end| end == "zst")).expect("a file");
    let whole = std::fs::read(&file).expect("readable");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    let data = directory.path().join("data");
    for (what, bytes) in [("flipped", Some(&flipped[..])), ("cut", Some(&whole[..whole.len() - 1])), ("gone", None)] {
        match bytes {
            Some(bytes) => std::fs::write(&file, bytes).expect("written"),
            None => std::fs::remove_file(&file).expect("removed"),
        }
        let verified = run(&["backup", "verify", "--from", text(&place)]);
        assert_eq!(verified.code, 4, "{what}: {verified:?}");
        let restored = restore(&place, &data, free_ports(1), &[]);
        assert_eq!(restored.code, 4, "{what}: {restored:?}");
        // What was begun is no data directory.
        let started = annals()
            .args(["serve", "--insecure", "--listen", "127.0.0.1:0", "--node-address", "127.0.0.1:1", "--data"])
            .arg(&data)
            .output()
            .expect("the binary runs");
        assert!(!started.status.success());
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        assert!(said.contains("a restore into it was not finished"), "{said}");
    }
    std::fs::write(&file, &whole).expect("written");
    run(&["backup", "verify", "--from", text(&place)]).exits(0);
    restore(&place, &data, free_ports(1), &[]).exits(0);
    // The full one is gone: what was built on it is not enough.
    std::fs::remove_file(folder.join("manifest.json")).expect("removed");
    run(&["backup", "verify", "--from", text(&place)]).exits(3);
}

#[test]
fn an_interrupted_backup_is_resumed_and_is_none_before_that() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("backups");
    // Slow enough to be killed on the way, after a file is complete.
    let node = Running::dev(1, &["--set", "backup_bytes_per_second=40000000"]);
    let server = node.url();
    let line = format!("{{\"type\":\"T\",\"data\":{{\"x\":\"{}\"}}}}\n", "x".repeat(20_000));
    for stream in 0..9 {
        run_with_input(&["stream", "append", &format!("s-{stream}"), "--server", &server], &line.repeat(500)).exits(0);
    }
    let mut child = annals()
        .args(["backup", "create", "--to", text(&place), "--server", &server])
        .spawn()
        .expect("the binary runs");
    let folder = eventually("a file is complete", || {
        let folder = std::fs::read_dir(&place).ok()?.flatten().next()?.path();
        folder.join("progress.json").exists().then_some(folder)
    });
    signal(child.id(), "KILL");
    child.wait().expect("our child");
    assert!(!folder.join("manifest.json").exists());
    let listed = run(&["backup", "ls", "--from", text(&place), "-o", "json"]).exits(0).lines();
    assert_eq!(listed[0]["state"], "incomplete");
    run(&["backup", "verify", "--from", text(&place)]).exits(3);
    run(&["backup", "create", "--to", text(&place), "--incremental", "--server", &server]).exits(3);

    let resumed = create(&server, &place, &["--resume"]);
    assert_eq!(Some(resumed["backup"].as_str().expect("an id")), folder.file_name().and_then(|name| name.to_str()));
    assert_eq!(resumed["hash"], hash(&server, resumed["through"].as_u64().expect("a position")));
    assert!(!folder.join("progress.json").exists());
    run(&["backup", "verify", "--from", text(&place)]).exits(0);
}

#[test]
fn a_backup_of_another_log_is_not_gone_on_from() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("backups");
    let first = Running::dev(1, &[]);
    append(&first.url(), "a", 10);
    create(&first.url(), &place, &[]);
    let second = Running::dev(1, &[]);
    append(&second.url(), "a", 30);
    let refused = second.run(&["backup", "create", "--to", text(&place), "--incremental"]);
    assert!(refused.code == 3 && refused.err.contains("begin with a full one"), "{refused:?}");
    drop(first);
    let nobody = run(&["backup", "create", "--to", text(&place), "--server", &url(free_ports(1))]);
    assert_eq!(nobody.code, 5, "{nobody:?}");
}

#[test]
fn a_backup_is_made_while_events_are_written_and_reclaimed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (place, data) = (directory.path().join("backups"), directory.path().join("restored"));
    let node = Running::dev(1, &["--set", "backup_bytes_per_second=2000000"]);
    let server = node.url();
    append(&server, "drop-1", 2_000);
    append(&server, "keep-1", 2_000);
    node.run(&["stream", "delete", "drop-1", "--yes"]).exits(0);
    let writer = std::thread::spawn({
        let server = server.clone();
        move || {
            run(&[
                "bench",
                "append",
                "--seconds",
                "3",
                "--warm-up",
                "0",
                "--clients",
                "4",
                "-o",
                "json",
                "--server",
                &server,
            ])
            .exits(0)
        }
    });
    node.run(&["scavenge", "start"]).exits(0);
    let full = create(&server, &place, &[]);
    writer.join().expect("it writes");
    node.run(&["scavenge", "status", "--wait"]).exits(0);
    let incremental = create(&server, &place, &["--incremental"]);
    assert!(incremental["reclaimed"]["events"].as_u64() >= Some(2_000), "{incremental}");
    for backup in [&full, &incremental] {
        let position = backup["through"].as_u64().expect("a position");
        assert_eq!(backup["hash"], hash(&server, position));
    }
    drop(node);
    let port = free_ports(1);
    restore(&place, &data, port, &[]).exits(0);
    let served = Served::start(&data, port).ready();
    served.run(&["stream", "read", "drop-1"]).exits(3);
    // What the backup had whole is reclaimed again.
    served.run(&["scavenge", "status"]).exits(3);
    let scavenged = served.run(&["scavenge", "start", "--wait", "-o", "json"]).exits(0).json();
    assert_eq!(scavenged["phase"], "completed");
    assert_eq!(served.run(&["stream", "read", "keep-1", "-o", "json"]).exits(0).lines().len(), 2_000);
}
