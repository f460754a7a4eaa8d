//! `annals bench` against a real node: every measurement finds what it must, and
//! its figures are there for programs.

mod support;

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use support::{Ran, Running, annals, run, signal};

/// Runs a measurement of one second.
#[track_caller]
fn bench(node: &Running, arguments: &[&str]) -> Value {
    let short = ["--seconds", "1", "--warm-up", "0", "-o", "json"];
    node.run(&[&["bench"], arguments, &short].concat()).exits(0).json()
}

#[track_caller]
fn assert_above_nothing(report: &Value, figures: &[&str]) {
    for figure in figures {
        assert!(report[figure].as_f64().is_some_and(|value| value > 0.0), "{figure}: {report:#}");
    }
}

const LATENCY: [&str; 5] = ["p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"];

#[test]
fn each_measurement_reports_its_figures() {
    let node = Running::dev(1, &[]);

    let unary = bench(&node, &["append", "--clients", "4", "--events", "2", "--bytes", "10", "--streams", "20"]);
    assert_above_nothing(&unary, &["requests", "requests_per_second", "events_per_second", "elapsed_seconds"]);
    assert_above_nothing(&unary, &LATENCY);
    assert_eq!(unary["events"].as_u64(), unary["requests"].as_u64().map(|requests| 2 * requests));
    assert_eq!((&unary["interrupted"], &unary["streams"]), (&Value::from(false), &Value::from(20)));

    let batch = bench(&node, &["append", "--mode", "batch", "--clients", "2", "--in-flight", "8", "--rate", "200"]);
    assert_above_nothing(&batch, &LATENCY);
    assert!(batch["requests"].as_u64().is_some_and(|requests| (150..=210).contains(&requests)), "{batch:#}");

    let prefix = unary["prefix"].as_str().expect("a prefix");
    let streams = bench(&node, &["read", "--what", "stream", "--prefix", prefix, "--streams", "4"]);
    assert_above_nothing(&streams, &["streams_per_second", "events_per_second"]);
    assert_above_nothing(&streams, &LATENCY);

    let of_single = ["read", "--what", "single", "--prepare", "--streams", "10", "--consistency"];
    for consistency in ["linearizable", "local", "leader"] {
        let single = bench(&node, &[&of_single[..], &[consistency]].concat());
        assert_above_nothing(&single, &["reads_per_second"]);
        assert_above_nothing(&single, &LATENCY);
    }

    let all = bench(&node, &["read", "--clients", "2", "--events", "1000"]);
    assert_eq!(all["events"], 2_000);
    assert_above_nothing(&all, &["events_per_second", "data_bytes_per_second"]);

    for to in ["stream", "all", "filtered"] {
        let load = ["subscribe", "--subscriptions", "3", "--rate", "300", "--clients", "2", "--streams", "3"];
        let seen = bench(&node, &[&load[..], &["--slow", "2", "--idle", "2", "--to", to]].concat());
        assert_above_nothing(&seen, &["append_requests", "append_p50_ms", "seen_p50_ms", "seen_p99_ms"]);
        let each = if to == "stream" { 1 } else { 3 };
        assert_eq!(seen["seen_events"].as_u64(), seen["append_events"].as_u64().map(|events| each * events), "{to}");
    }

    let mixed = ["bench", "mixed", "--streams", "10", "--report", "1", "--seconds", "2", "-o", "json"];
    let mixed = node.run(&mixed).exits(0);
    assert_above_nothing(&mixed.json(), &["append_p99_ms", "read_p99_ms", "seen_p99_ms", "read_events"]);
    assert!(mixed.err.lines().count() >= 2 && mixed.err.contains("/s p50"), "{}", mixed.err);

    let table = node.run(&["bench", "append", "--seconds", "1", "--warm-up", "0"]).exits(0);
    assert!(table.out.starts_with("FIGURE") && table.out.contains("p999_ms"), "{}", table.out);
}

#[test]
fn a_wrong_answer_ends_the_run() {
    let node = Running::dev(1, &[]);
    let write = ["append", "--prefix", "taken", "--clients", "1", "--streams", "1"];
    bench(&node, &write);
    // The stream is there already, so the first append must be refused.
    let ran = node.run(&[&["bench"], &write[..], &["--seconds", "60", "-o", "json"]].concat()).exits(1);
    assert!(ran.err.contains("taken-0") && ran.err.contains("refused"), "{}", ran.err);
    let missing = ["bench", "read", "--what", "stream", "--prefix", "nothing"];
    let ran = node.run(&missing).exits(1);
    assert!(ran.err.contains("there is no such stream"), "{}", ran.err);
    let fewer = ["bench", "read", "--what", "stream", "--prefix", "taken", "--streams", "1", "--events", "1"];
    let ran = node.run(&fewer).exits(1);
    assert!(ran.err.contains("events where 1 were written"), "{}", ran.err);
}

#[test]
fn an_interrupt_prints_what_was_measured_so_far() {
    let node = Running::dev(1, &[]);
    let child = annals()
        .args(["bench", "append", "--seconds", "600", "--warm-up", "0", "-o", "json", "--server", &node.url()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    std::thread::sleep(Duration::from_secs(3));
    signal(child.id(), "INT");
    let report = Ran::of(&child.wait_with_output().expect("it ends")).exits(0).json();
    assert_eq!(report["interrupted"], true);
    assert_above_nothing(&report, &["requests", "p99_ms"]);
    assert!(report["elapsed_seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{report:#}");
}

#[test]
fn nobody_to_measure_exits_with_5() {
    let url = support::url(support::free_ports(1));
    run(&["bench", "append", "--server", &url]).exits(5);
    run(&["bench", "read", "--what", "stream"]).exits(1);
}
