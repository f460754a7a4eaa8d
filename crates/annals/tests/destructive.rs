//! What destroys asks first: without anybody to ask and without `--yes` it does nothing,
//! and says so.
//!
//! Every command is in one of two lists here. A new one fails the test until somebody has
//! thought about which it belongs to.

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use support::{Ran, Running, eventually, run, run_with_input};

/// Commands after which something is gone that was there, each with arguments that would
/// do it, and the flag that is consent.
const DESTROY: &[(&str, &[&str], &str)] = &[
    ("stream delete", &["order-1"], "--yes"),
    ("stream tombstone", &["order-1"], "--yes"),
    ("stream meta set", &["order-1", "{\"$maxCount\": 1}"], "--yes"),
    ("psub delete", &["order-1", "mailer"], "--yes"),
    ("psub drop-parked", &["order-1", "mailer"], "--yes"),
    ("user delete", &["ann"], "--yes"),
    ("cluster remove", &["2"], "--yes"),
    ("cluster replace", &["2", "--with", "127.0.0.1:1"], "--yes"),
    ("cluster scale", &["1"], "--yes"),
    // Of a stopped node: tried by itself below.
    ("node recover", &[], "--yes-lose-data"),
];

/// Commands that leave everything there, or to which it comes back with one command.
const KEEP: &[&str] = &[
    "serve",
    "dev",
    "stream append",
    "stream read",
    "stream tail",
    "stream ls",
    "stream info",
    "stream meta get",
    "all read",
    "all tail",
    "psub create",
    "psub ls",
    "psub info",
    "psub parked",
    // Parked events go back to where consumers get them.
    "psub replay",
    "user ls",
    "user show",
    "user create",
    "user update",
    "user password",
    "user disable",
    "user enable",
    "cluster status",
    "cluster add",
    "cluster promote",
    "cluster transfer-leader",
    "cluster hash",
    "node drain",
    "node resume",
    "node check",
    "node info",
    "node log-level",
    "node logs",
    // It takes what was given up before, with consent, and is upkeep that is scheduled.
    "scavenge start",
    "scavenge status",
    "scavenge stop",
    "backup create",
    "backup ls",
    "backup verify",
    // Only into a directory that is empty.
    "backup restore",
    // Only into a file that is not there.
    "export",
    "import",
    "bench append",
    "bench read",
    "bench subscribe",
    "bench mixed",
    // Overwrites nothing.
    "certs",
    // Writes events only to a file that is not there.
    "verify",
    "doctor",
    "explain",
    // A line in a file of one's own; no server is concerned.
    "context add",
    "context ls",
    "context select",
    "context rm",
    "config explain",
    "config limits",
    "metrics list",
    "completion",
    "version",
];

#[test]
fn every_command_is_known_to_destroy_or_to_keep() {
    let all: BTreeSet<String> = support::commands().iter().map(|words| words.join(" ")).collect();
    let listed: BTreeSet<String> =
        KEEP.iter().copied().chain(DESTROY.iter().map(|(command, ..)| *command)).map(str::to_owned).collect();
    assert_eq!(all, listed);
    assert_eq!(listed.len(), KEEP.len() + DESTROY.len(), "each is in one list");
    for command in &all {
        let words: Vec<&str> = command.split(' ').collect();
        let help = run(&[&words[..], &["--help"]].concat()).exits(0).out;
        let destroys = DESTROY.iter().find(|(name, ..)| name == command);
        let asks = help.contains("--yes");
        assert_eq!(asks, destroys.is_some(), "{command}: what destroys has --yes, and nothing else has it");
    }
}

/// A cluster in which there is something of everything that can be destroyed.
fn furnished() -> Running {
    let nodes = Running::dev(3, &[]);
    for data in ["1", "2"] {
        nodes.run(&["stream", "append", "order-1", "--type", "T", "--data", data]).exits(0);
    }
    nodes.run(&["psub", "create", "order-1", "mailer"]).exits(0);
    let parked = "$persistentsubscription-order-1::mailer-parked";
    nodes.run(&["stream", "append", parked, "--type", "$>", "--binary", "--data", "0@order-1"]).exits(0);
    let server = nodes.url();
    let create = ["user", "create", "ann", "--password-stdin", "--server", &server];
    run_with_input(&create, "secret-enough-1\n").exits(0);
    nodes
}

/// All that the commands above would change.
fn there(nodes: &Running) -> Vec<String> {
    let commands: [&[&str]; 5] = [
        &["stream", "ls"],
        &["stream", "read", "order-1"],
        &["psub", "parked", "order-1", "mailer"],
        &["user", "ls"],
        &["psub", "ls", "-o", "json"],
    ];
    let mut found: Vec<String> = commands[..4].iter().map(|command| nodes.run(command).exits(0).out).collect();
    // How they do changes by itself; that they are there does not.
    found.extend(nodes.run(commands[4]).exits(0).lines().iter().map(|group| group["group"].to_string()));
    let status = nodes.run(&["cluster", "status", "-o", "json"]).exits(0).json();
    let members = status["nodes"].as_array().expect("members").iter();
    found.extend(members.map(|node| format!("{} at {}", node["id"], node["address"])));
    found
}

#[track_caller]
fn is_refused(ran: Ran, flag: &str) {
    let ran = ran.exits(2);
    assert!(ran.err.contains(&format!("Say {flag} if")) && ran.err.contains("nothing was done"), "{}", ran.err);
    assert!(ran.out.is_empty(), "{}", ran.out);
}

#[test]
fn where_nobody_can_be_asked_nothing_is_destroyed() {
    let nodes = furnished();
    let before = there(&nodes);
    assert!(before.len() >= 8, "{before:#?}");
    for (command, arguments, flag) in DESTROY.iter().filter(|(command, ..)| *command != "node recover") {
        let words: Vec<&str> = command.split(' ').collect();
        is_refused(nodes.run(&[&words[..], arguments].concat()), flag);
        // An answer that nobody typed is none.
        let server = nodes.url();
        let piped = [&words[..], arguments, &["--server", &server]].concat();
        is_refused(run_with_input(&piped, "y\nyes\norder-1\nmailer\nann\n"), flag);
        assert_eq!(there(&nodes), before, "{command}");
    }
}

#[test]
fn a_stopped_node_keeps_its_cluster_where_nobody_can_be_asked() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_str().expect("text");
    let node = Running::dev(1, &["--data", data]);
    node.run(&["stream", "append", "s", "--type", "T"]).exits(0);
    let address = format!("127.0.0.1:{}", node.port);
    assert_eq!(node.terminate(), Some(0));
    let before = run(&["verify", "--data", data]).exits(0).out;
    let recover = ["node", "recover", "--data", data, "--unsafe-new-membership", &address];
    let ran = run(&recover).exits(2);
    assert!(ran.err.contains("Say --yes-lose-data"), "{}", ran.err);
    assert_eq!(run(&["verify", "--data", data]).exits(0).out, before);
}

/// Types a line at a terminal at which the command was given.
fn typed(server: &str, arguments: &str, line: &str) -> (Option<i32>, String) {
    let command = format!("'{}' {arguments} --server '{server}'", env!("CARGO_BIN_EXE_annals"));
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is there: it gives a command a terminal");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(format!("{line}\n").as_bytes()).expect("it reads");
    let status = eventually("it ends", || child.try_wait().expect("our child"));
    drop(stdin);
    let mut said = String::new();
    let _ = std::io::Read::read_to_string(&mut child.stdout.take().expect("piped"), &mut said);
    (status.code(), said)
}

#[test]
fn at_a_terminal_the_name_is_consent_and_nothing_else_is() {
    let node = Running::dev(1, &[]);
    let server = node.url();
    for stream in ["order-1", "order-2"] {
        node.run(&["stream", "append", stream, "--type", "T"]).exits(0);
    }
    for line in ["y", "yes", "order-2", ""] {
        let (code, said) = typed(&server, "stream delete order-1", line);
        assert_eq!(code, Some(1), "{line:?}: {said}");
        assert!(said.contains("Type order-1 to go on") && said.contains("nothing was done"), "{said}");
        node.run(&["stream", "read", "order-1"]).exits(0);
    }
    let (code, said) = typed(&server, "stream delete order-1", "order-1");
    assert_eq!(code, Some(0), "{said}");
    node.run(&["stream", "read", "order-1"]).exits(3);
    node.run(&["stream", "read", "order-2"]).exits(0);
}

#[test]
fn metadata_that_hides_nothing_is_set_without_a_question() {
    let node = Running::dev(1, &[]);
    let set = |metadata: &str, more: &[&str]| node.run(&[&["stream", "meta", "set", "s", metadata], more].concat());
    // There is nothing yet that could be hidden.
    set("{\"$maxCount\": 5}", &[]).exits(0);
    node.run(&["stream", "append", "s", "--type", "T"]).exits(0);
    set("{\"$maxCount\": 5, \"owner\": \"shop\"}", &[]).exits(0);
    is_refused(set("{\"$maxCount\": 4, \"owner\": \"shop\"}", &[]), "--yes");
    set("{\"$maxCount\": 4}", &["--yes"]).exits(0);
    set("{}", &[]).exits(0);
}

#[test]
fn a_dump_overwrites_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data").display().to_string();
    let node = Running::dev(1, &["--data", &data]);
    assert_eq!(node.terminate(), Some(0));
    let file = directory.path().join("mine");
    std::fs::write(&file, "mine").expect("written");
    let ran = run(&["verify", "--data", &data, "--dump", file.to_str().expect("text")]).exits(4);
    assert!(ran.err.contains("is there already"), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(&file).expect("there"), "mine");
}
