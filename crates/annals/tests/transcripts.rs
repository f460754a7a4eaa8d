//! The documentation does what it says: the commands of its `console` blocks are typed
//! into a shell, against a node that was just started, and what comes back is compared.
//!
//! `[..]` in an expected line stands for anything in that line.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Running, eventually, free_ports};

/// A command, and what it must print.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    command: String,
    expected: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            line if inside => match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), expected: Vec::new() }),
                None => steps.last_mut().expect("a command comes first").expected.push(line.to_owned()),
            },
            _ => {}
        }
    }
    steps
}

fn is_like(expected: &str, found: &str) -> bool {
    let mut parts = expected.split("[..]");
    let Some(mut rest) = found.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

/// Types the commands of a page, and compares what comes back.
#[track_caller]
fn type_page(page: &str, least: usize, server: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let steps = steps(&fs::read_to_string(path).expect("the page"));
    assert!(steps.len() >= least, "{steps:?}");
    let binary = Path::new(env!("CARGO_BIN_EXE_annals"));
    let place = binary.parent().expect("a directory").display();
    let path = format!("{place}:{}", std::env::var("PATH").unwrap_or_default());
    for Step { command, expected } in steps {
        let output = Command::new("bash")
            .args(["--norc", "-c", &format!("exec 2>&1; {command}")])
            .env("PATH", &path)
            .env("ANNALS_URL", server)
            .stdin(Stdio::null())
            .output()
            .expect("bash is there");
        let text = String::from_utf8_lossy(&output.stdout);
        let found: Vec<&str> = text.lines().collect();
        let same = found.len() == expected.len() && expected.iter().zip(&found).all(|(e, f)| is_like(e, f));
        assert!(same, "$ {command}\nexpected {expected:#?}\nfound {found:#?}");
    }
}

#[test]
fn the_five_minutes_run_as_they_are_written() {
    let node = Running::dev(1, &[]);
    type_page("start.md", 9, &node.url());
}

/// Nodes of one cluster, each a process with a name.
fn named(count: u16, directory: &Path) -> Vec<Running> {
    let first = free_ports(count);
    let all: Vec<String> = (first..first + count).map(|port| format!("127.0.0.1:{port}")).collect();
    let nodes = (first..first + count).zip(0..).map(|(port, number): (u16, u16)| {
        let name = format!("annals-{number}");
        let log = fs::File::create(directory.join(format!("{name}.log"))).expect("a file");
        let mut command = support::annals();
        command.args(["serve", "--insecure", "--listen", &format!("127.0.0.1:{port}"), "--node-name", &name]);
        command.args(["--bootstrap", &all.join(","), "--data"]).arg(directory.join(&name)).stderr(log);
        Running { child: command.spawn().expect("runs"), port }
    });
    nodes.collect()
}

#[test]
fn nodes_come_and_go_as_it_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let nodes = named(4, directory.path());
    nodes.iter().for_each(|node| support::wait_ready(node.port));
    let first = &nodes[0];
    // The page begins where the first one leads and everybody has what there is.
    eventually("annals-0 leads, and hears from all", || {
        let status = first.run(&["cluster", "status", "-o", "json"]).exits(0).json();
        if status["leader"] != 1 {
            first.run(&["cluster", "transfer-leader", "--to", "annals-0"]);
            return None;
        }
        let members = status["nodes"].as_array()?;
        let is_well = |node: &Value| node["reachable"] == true && node["lag"] == 0 && node["version"].is_string();
        members.iter().all(is_well).then_some(())
    });
    type_page("lifecycle.md", 5, &first.url());
}

#[test]
fn anything_may_stand_for_dots_and_nothing_else() {
    assert!(is_like("a [..] c", "a b c"));
    assert!(is_like("a", "a"));
    assert!(is_like("[..]", "anything"));
    assert!(!is_like("a", "ab"));
    assert!(!is_like("a [..] c", "a b d"));
    assert!(!is_like("x [..] y [..] z", "x z"));
    assert!(is_like("x [..] y [..] z", "x 1 y 2 z"));
}
