//! What a running node tells of itself: its log, and the names of other products.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use support::{Running, annals, eventually, free_ports, get, signal, url, wait_ready};

/// A node that runs until it is dropped.
struct Served {
    child: Child,
    port: u16,
    _data: tempfile::TempDir,
}

impl Served {
    fn start(config: &Path) -> Served {
        let (port, data) = (free_ports(1), tempfile::tempdir().expect("a directory"));
        let address = format!("127.0.0.1:{port}");
        let child = annals()
            .args(["serve", "--insecure", "--listen", &address, "--bootstrap", &address, "--config"])
            .arg(config)
            .arg("--data")
            .arg(data.path())
            .spawn()
            .expect("runs");
        let served = Served { child, port, _data: data };
        wait_ready(port);
        served
    }

    fn run(&self, arguments: &[&str]) -> support::Ran {
        support::run(&[arguments, &["--server", &url(self.port)]].concat())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn messages(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["message"].as_str()).collect()
}

/// The value of a series without labels.
fn metric(port: u16, name: &str) -> f64 {
    let text = get(port, "/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
}

#[test]
fn the_log_is_read_and_changed_from_afar() {
    let node = Running::dev(1, &["--log", "info"]);
    let level = node.run(&["node", "log-level", "-o", "json"]).exits(0).json();
    assert_eq!(level, json!({ "node": 1, "level": "info", "configured": "info", "ends": null }));
    let lines = node.run(&["node", "logs", "--last", "0", "-o", "json"]).exits(0).lines();
    assert!(messages(&lines).contains(&"listening"), "{lines:#?}");
    let numbers: Vec<_> = lines.iter().filter_map(|line| line["number"].as_u64()).collect();
    assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>());

    let level = node.run(&["node", "log-level", "raft=debug", "--for", "1h", "-o", "json"]).exits(0).json();
    assert_eq!((&level["level"], &level["configured"]), (&json!("raft=debug"), &json!("info")));
    assert!(level["ends"].is_string(), "{level}");
    assert!((metric(node.port, "annals_log_level_temporary") - 1.0).abs() < 0.1);
    let told = node.run(&["node", "log-level"]).exits(0).out;
    assert!(told.contains("raft=debug until ") && told.contains("then info as configured"), "{told}");

    for wrong in [["log-level", "debgu"], ["log-level", "raft=loud"], ["logs", "--level=loud"]] {
        let ran = node.run(&[&["node"], wrong.as_slice()].concat()).exits(1);
        assert!(ran.err.contains("level"), "{ran:?}");
    }
    node.run(&["node", "log-level", "debug", "--for", "25h"]).exits(1);
    node.run(&["node", "log-level", "--reset"]).exits(0);
    let told = node.run(&["node", "log-level"]).exits(0).out;
    assert_eq!(told.trim(), "node 1 logs info, as configured");
    assert!(metric(node.port, "annals_log_level_temporary").abs() < 0.1);
    let warnings = node.run(&["node", "logs", "--level", "warn", "--last", "0", "-o", "json"]).exits(0).lines();
    assert!(warnings.iter().all(|line| line["level"] != "info"), "{warnings:#?}");
}

#[test]
fn new_lines_are_printed_as_they_come() {
    let node = Running::dev(1, &["--log", "info"]);
    let mut following = annals()
        .args(["node", "logs", "--follow", "--last", "1", "-o", "json", "--server", &node.url()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut lines = BufReader::new(following.stdout.take().expect("piped")).lines();
    // The last one that was there: from now on what comes is new.
    lines.next().expect("a line").expect("text");
    node.run(&["node", "log-level", "store=debug"]).exits(0);
    let seen = lines.map_while(Result::ok).find(|line| line.contains("the log level was changed"));
    let seen: Value = serde_json::from_str(&seen.expect("it is said")).expect("JSON");
    assert_eq!((&seen["level"], &seen["fields"]["level"]), (&json!("info"), &json!("store=debug")));
    let _ = following.kill();
    let _ = following.wait();
}

#[test]
fn the_level_is_read_again_on_sighup_and_what_is_wrong_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("annals.toml");
    let write = |text: &str| fs::write(&config, text).expect("written");
    write("log = \"info\"\n");
    let node = Served::start(&config);
    let level = || node.run(&["node", "log-level", "-o", "json"]).exits(0).json()["configured"].clone();
    assert_eq!(level(), "info");

    write("log = \"debug\"\nheartbeat_ms = 200\n");
    signal(node.child.id(), "HUP");
    eventually("the new level", || (level() == "debug").then_some(()));
    let said = || node.run(&["node", "logs", "--last", "0", "--level", "warn", "-o", "json"]).exits(0).lines();
    let waits = eventually("what waits for a restart is said", || {
        said().into_iter().find(|line| line["fields"]["waits"] == "heartbeat_ms")
    });
    assert_eq!(waits["level"], "warn");
    assert!((metric(node.port, "annals_config_last_reload_success") - 1.0).abs() < 0.1);

    write("log = \"warn\"\nhartbeat_ms = 200\n");
    signal(node.child.id(), "HUP");
    let refused = eventually("the mistake is said", || said().into_iter().find(|line| line["level"] == "error"));
    assert!(refused["fields"]["error"].as_str().expect("a text").contains("`heartbeat_ms`"), "{refused}");
    assert_eq!(level(), "debug");
    eventually("it is counted", || (metric(node.port, "annals_config_last_reload_success").abs() < 0.1).then_some(()));
    assert!(metric(node.port, "annals_log_lines_total{level=\"error\"}") >= 1.0);
}

/// Names, types and label sets of the series of one prefix. A type is of the name
/// itself; a histogram's series have suffixes.
type Told = BTreeMap<String, (String, BTreeSet<String>)>;

fn told(text: &str, prefix: &str) -> Told {
    let mut found = Told::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').expect("a name and a type");
            current = name.to_owned();
            if name.starts_with(prefix) {
                assert!(found.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new())).is_none(), "{name} twice");
            }
        } else if line.starts_with(prefix) {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            assert!(name.starts_with(&current), "{name} under {current}");
            let labels: Vec<_> =
                labels.trim_end_matches('}').split("\",").map(|pair| pair.split("=").next().unwrap_or("")).collect();
            found.get_mut(&current).expect("declared").1.insert(labels.join(","));
        }
    }
    found
}

/// What is promised: name, type, labels. Counters without `_total`.
const KURRENT: [(&str, &str, &str); 30] = [
    ("statuses", "gauge", "name,status"),
    ("checkpoints", "gauge", "name,read"),
    ("elections_count", "counter", ""),
    ("io_events", "counter", "activity"),
    ("cache_hits_misses", "counter", "cache,kind"),
    ("cache_resources_bytes", "gauge", "cache,kind"),
    ("cache_resources_entries", "gauge", "cache,kind"),
    ("current_incoming_grpc_calls", "gauge", ""),
    ("incoming_grpc_calls", "counter", "kind"),
    ("grpc_method_duration_seconds", "histogram", "activity,status"),
    ("kestrel_connections", "gauge", ""),
    ("persistent_sub_connections", "gauge", "event_stream_id,group_name"),
    ("persistent_sub_parked_messages", "gauge", "event_stream_id,group_name"),
    ("persistent_sub_in_flight_messages", "gauge", "event_stream_id,group_name"),
    ("persistent_sub_oldest_parked_message_seconds", "gauge", "event_stream_id,group_name"),
    ("persistent_sub_items_processed", "counter", "event_stream_id,group_name"),
    ("persistent_sub_last_known_event_number", "gauge", "event_stream_id,group_name"),
    ("persistent_sub_last_known_event_commit_position", "gauge", "event_stream_id,group_name"),
    ("writer_flush_duration_max_seconds", "gauge", "range"),
    ("writer_flush_size_max", "gauge", "range"),
    ("queue_queueing_duration_max_seconds", "gauge", "name,range"),
    ("proc_cpu", "gauge", ""),
    ("proc_up_time_seconds", "counter", "pid"),
    ("proc_thread_count", "gauge", ""),
    ("proc_mem_bytes", "gauge", "kind"),
    ("disk_io_bytes", "counter", "activity"),
    ("disk_io_operations", "counter", "activity"),
    ("sys_load_avg", "gauge", "period"),
    ("sys_mem_bytes", "gauge", "kind"),
    ("sys_disk_bytes", "gauge", "disk,kind"),
];

#[test]
fn dashboards_of_other_products_find_their_names() {
    let node = Running::dev(1, &["--set", "metrics_compat=kurrentdb,eventstore"]);
    for _ in 0..3 {
        node.run(&["stream", "append", "orders-1", "--type", "Placed"]).exits(0);
    }
    node.run(&["psub", "create", "orders-1", "mailer"]).exits(0);
    node.run(&["psub", "create", "$all", "audit"]).exits(0);
    node.run(&["stream", "read", "orders-1"]).exits(0);
    let text = eventually("groups tell where they stand", || {
        let text = get(node.port, "/metrics").body;
        let both = ["event_number{", "event_commit_position{"].map(|name| text.contains(&format!("last_known_{name}")));
        (both == [true, true]).then_some(text)
    });

    let kurrent = told(&text, "kurrentdb_");
    let old = told(&text, "eventstore_");
    for (name, kind, labels) in KURRENT {
        let labels: BTreeSet<_> = match kind {
            "histogram" => [labels.to_owned(), format!("{labels},le")].into(),
            _ => [labels.to_owned()].into(),
        };
        let new_name = format!("kurrentdb_{name}{}", if kind == "counter" { "_total" } else { "" });
        assert_eq!(kurrent.get(&new_name), Some(&(kind.to_owned(), labels.clone())), "{new_name}");
        let (old_name, old_kind) = match name {
            "statuses" => ("eventstore_statuses".to_owned(), "counter"),
            "proc_up_time_seconds" => ("eventstore_proc_up_time".to_owned(), kind),
            name => (format!("eventstore_{name}"), kind),
        };
        assert_eq!(old.get(&old_name), Some(&(old_kind.to_owned(), labels)), "{old_name}");
    }
    // The first checkpoints of groups come later; nothing else is told.
    let others: Vec<_> = kurrent.keys().filter(|name| !name.contains("checkpointed")).collect();
    assert_eq!(others.len(), KURRENT.len(), "{others:#?}");

    let value = |series: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series}")).parse().expect("a number")
    };
    let position = value("annals_position");
    assert!(position >= 3.0);
    assert!((value(r#"kurrentdb_checkpoints{name="writer",read="non-flushed"}"#) - position).abs() < 0.1);
    assert!(value(r#"kurrentdb_incoming_grpc_calls_total{kind="total"}"#) >= 6.0);
    assert!(value(r#"kurrentdb_statuses{name="Node",status="Leader"}"#) > 1_700_000_000.0);
    assert!(
        (value(r#"kurrentdb_persistent_sub_last_known_event_number{event_stream_id="orders-1",group_name="mailer"}"#)
            - 2.0)
            .abs()
            < 0.1
    );
}

#[test]
fn other_names_are_told_only_to_who_asks_for_them() {
    let node = Running::dev(1, &[]);
    let text = get(node.port, "/metrics").body;
    assert!(!text.contains("kurrentdb_") && !text.contains("eventstore_"));
    let ran = support::run(&["dev", "--set", "metrics_compat=kafka"]).exits(2);
    assert!(ran.err.contains("kurrentdb"), "{ran:?}");
}
