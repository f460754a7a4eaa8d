//! The command line without a server: help, configuration, exit codes.

mod support;

use support::{annals, run};

#[test]
fn every_command_shows_two_examples() {
    let leaves = support::commands();
    assert!(leaves.len() >= 20, "{leaves:?}");
    for leaf in leaves {
        let path: Vec<&str> = leaf.iter().map(String::as_str).collect();
        let help = run(&[path.as_slice(), &["--help"]].concat()).exits(0).out;
        let examples = help.split_once("Examples:").unwrap_or_else(|| panic!("{path:?} has no examples")).1;
        assert!(examples.matches("annals").count() >= 2, "{path:?}: {examples}");
    }
}

#[test]
fn a_command_that_makes_no_sense_exits_with_2() {
    run(&["serve", "--nonsense"]).exits(2);
    run(&["stream", "append"]).exits(2);
    run(&["stream", "ls", "--server", "localhost:2113"]).exits(2);
    run(&["stream", "append", "s", "--type", "T", "--data", "{"]).exits(2);
}

#[test]
fn nobody_to_talk_to_exits_with_5() {
    let port = support::free_ports(1);
    let ran = run(&["stream", "read", "s", "--server", &support::url(port)]).exits(5);
    assert!(ran.err.contains("cannot connect"), "{}", ran.err);
}

#[test]
fn beyond_loopback_a_node_wants_to_be_told_so() {
    let ran = run(&["serve", "--listen", "0.0.0.0:1", "--node-address", "a:1"]).exits(2);
    assert!(ran.err.contains("--insecure") && ran.err.contains("without TLS"), "{}", ran.err);
}

#[test]
fn an_unknown_option_names_the_nearest_one() {
    let output = annals().env("ANNALS_LISTN", "x").args(["config", "explain"]).output().expect("runs");
    let ran = support::Ran::of(&output).exits(2);
    assert!(ran.err.contains("did you mean `listen`?"), "{}", ran.err);
}

#[test]
fn service_variables_of_kubernetes_are_no_options() {
    let output = annals()
        .env("ANNALS_SERVICE_HOST", "10.0.0.1")
        .env("ANNALS_PORT", "tcp://10.0.0.1:2113")
        .env("ANNALS_PORT_2113_TCP", "tcp://10.0.0.1:2113")
        .args(["config", "explain"])
        .output()
        .expect("runs");
    support::Ran::of(&output).exits(0);
}

#[test]
fn explain_tells_where_each_value_came_from() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("annals.toml");
    std::fs::write(&file, "heartbeat_ms = 100\n").expect("written");
    let output =
        annals().env("ANNALS_LOG", "debug").args(["config", "explain", "--file"]).arg(&file).output().expect("runs");
    let ran = support::Ran::of(&output).exits(0);
    assert!(ran.out.contains("log = \"debug\"    (environment ANNALS_LOG)"), "{}", ran.out);
    assert!(ran.out.contains(&format!("heartbeat_ms = 100    (file {})", file.display())), "{}", ran.out);
    assert!(ran.out.contains("ring_bytes = 67108864    (default)"), "{}", ran.out);
}

#[test]
fn the_metric_table_names_what_alerts_need() {
    let table = run(&["metrics", "list"]).exits(0).out;
    for name in [
        "annals_raft_has_leader",
        "annals_log_fsync_duration_seconds",
        "annals_append_requests_total",
        "grpc_server_handled_total",
    ] {
        assert!(table.contains(&format!("`{name}`")), "{name}");
    }
}
