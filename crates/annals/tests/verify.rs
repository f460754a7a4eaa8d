//! `annals verify` on the files of a real node.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Ran, Running, run, run_with_input};
use tempfile::TempDir;

const EVENTS: u64 = 1_500;

/// The data directory of a node that took some events and was stopped.
fn stopped() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let node = Running::dev(1, &["--data", &text(directory.path())]);
    for stream in ["many-1", "many-2", "few-1"] {
        let events = if stream == "few-1" { 2 } else { EVENTS / 2 - 1 };
        let input: String = (0..events).map(|n| format!("{{\"type\":\"T\",\"data\":{{\"n\":{n}}}}}\n")).collect();
        run_with_input(&["stream", "append", stream, "--server", &node.url()], &input).exits(0);
    }
    assert_eq!(node.terminate(), Some(0));
    directory
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path of text").to_owned()
}

fn verify(data: &Path) -> Ran {
    run(&["verify", "-o", "json", "--data", &text(data)])
}

/// The problems of a directory that has some.
#[track_caller]
fn problems(data: &Path) -> String {
    verify(data).exits(4).json()["problems"].to_string()
}

/// The largest file with this extension in a directory below.
fn largest(data: &Path, below: &str, extension: &str) -> PathBuf {
    let entries = fs::read_dir(data.join(below)).expect("readable");
    let files = entries.map(|entry| entry.expect("readable").path());
    let files = files.filter(|path| path.extension().is_some_and(|found| found == extension));
    files.max_by_key(|path| fs::metadata(path).expect("readable").len()).expect("there is one")
}

/// Bytes up to the zeros that a file of the log ends with.
fn used(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).expect("not empty") + 1
}

#[test]
fn the_files_of_a_stopped_node_are_verified_and_dumped() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = text(directory.path());
    let node = Running::dev(1, &["--data", &data]);
    let input: String = (0..300).map(|n| format!("{{\"type\":\"T\",\"data\":{{\"n\":{n}}}}}\n")).collect();
    run_with_input(&["stream", "append", "many-1", "--server", &node.url()], &input).exits(0);
    node.run(&["stream", "append", "a", "--type", "Ä", "--data", "{\"a\":1}", "--metadata", "{\"m\":1}"]).exits(0);
    node.run(&["stream", "tombstone", "a", "--yes"]).exits(0);
    let read = node.run(&["all", "read", "-o", "json"]).exits(0).lines();
    let hash = node.run(&["cluster", "hash", "-o", "json"]).exits(0).json();

    let refused = verify(directory.path()).exits(1);
    assert!(refused.err.contains("a node is running"), "{}", refused.err);
    assert_eq!(node.terminate(), Some(0));

    let found = verify(directory.path()).exits(0).json();
    assert_eq!(found["problems"], serde_json::json!([]));
    assert_eq!(found["tail"], read.len());
    assert_eq!(found["chainHash"], hash["nodes"][0]["hash"]);
    assert_eq!(found["streams"], 2);
    assert_eq!(found["appliedIndex"], found["lastLogIndex"]);
    let table = run(&["verify", "--data", &data]).exits(0).out;
    assert!(table.contains("everything is as it was written"), "{table}");

    let dump = run(&["verify", "--data", &data, "--dump", "-"]).exits(0);
    assert!(dump.err.contains("everything is as it was written"), "the result goes elsewhere: {}", dump.err);
    let dumped = dump.lines();
    let place = |event: &Value| ["position", "stream", "revision", "id", "type"].map(|name| event[name].clone());
    assert_eq!(dumped.iter().map(place).collect::<Vec<_>>(), read.iter().map(place).collect::<Vec<_>>());
    assert_eq!(dumped[300]["data"], "eyJhIjoxfQ==");
    assert_eq!(dumped[300]["metadata"], "eyJtIjoxfQ==");
    assert_eq!(dumped[300]["json"], true);
    let file = directory.path().join("dump.jsonl");
    run(&["verify", "--data", &data, "--dump", &text(&file)]).exits(0);
    assert_eq!(fs::read_to_string(file).expect("written"), dump.out);
}

#[test]
fn a_flipped_byte_of_the_state_is_found_and_the_rest_is_dumped() {
    let directory = stopped();
    let table = largest(directory.path(), "state-1", "sst");
    let mut content = fs::read(&table).expect("readable");
    content[100] ^= 0x10;
    fs::write(&table, content).expect("written");
    let problems = problems(directory.path());
    assert!(problems.contains("checksum mismatch"), "{problems}");
    let dumped = run(&["verify", "--data", &text(directory.path()), "--dump", "-"]).exits(4);
    assert!(dumped.err.contains("PROBLEM: "), "{}", dumped.err);
}

#[test]
fn a_log_that_was_cut_is_found() {
    let directory = stopped();
    let log = largest(directory.path(), "log", "log");
    let len = used(&fs::read(&log).expect("readable"));
    fs::OpenOptions::new().write(true).open(&log).and_then(|file| file.set_len(len as u64 / 2)).expect("cut");
    let problems = problems(directory.path());
    assert!(problems.contains("entries or votes are lost"), "{problems}");
}

#[test]
fn a_damaged_log_is_found() {
    let directory = stopped();
    let log = largest(directory.path(), "log", "log");
    let mut content = fs::read(&log).expect("readable");
    // What fills a block up is nothing.
    let middle = used(&content) / 2;
    let damaged = (middle..content.len()).find(|at| content[*at] != 0).expect("the last byte that is used");
    content[damaged] ^= 1;
    fs::write(&log, content).expect("written");
    let problems = problems(directory.path());
    assert!(problems.contains("is damaged: "), "{problems}");
}

#[test]
fn files_that_are_missing_are_named() {
    let directory = stopped();
    for (file, expected) in [
        ("identity", "the identity file is missing"),
        ("HEAD", "the witness HEAD is missing"),
        ("CURRENT_STATE", "CURRENT_STATE"),
        ("log", "is not there"),
    ] {
        let (path, aside) = (directory.path().join(file), directory.path().join("aside"));
        fs::rename(&path, &aside).expect("renamed");
        let problems = problems(directory.path());
        assert!(problems.contains(expected), "{file}: {problems}");
        fs::rename(&aside, &path).expect("renamed");
    }
    verify(directory.path()).exits(0);
    verify(&directory.path().join("nowhere")).exits(3);
}
