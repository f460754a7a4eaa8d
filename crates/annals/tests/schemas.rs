//! Whatever a command prints with `-o json` is as its schema in `docs/schemas` says.
//!
//! The page `docs/reference-json.md` lists the commands. Each of them is run here, and
//! one that is listed and not run fails the test.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::Value;
use support::{Ran, Running, eventually, free_ports, http, run, run_with_input, url, wait_ready};

/// What a command prints, as the page says.
struct Printed {
    /// `one object`, `one object a line` or `one object, on standard error`.
    how: String,
    schema: Validator,
}

/// All commands with a schema, and those that were run.
struct Commands {
    printed: BTreeMap<String, Printed>,
    seen: BTreeSet<String>,
}

impl Commands {
    fn listed() -> Commands {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let page = fs::read_to_string(docs.join("reference-json.md")).expect("the page");
        let rows = page.lines().filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix("| `annals ")?.trim_end_matches(" |").split(" | ").collect();
            let [command, how, link] = cells[..] else { panic!("a row of three: {line}") };
            let file = link.split_once("](").expect("a link").1.trim_end_matches(')');
            let text = fs::read_to_string(docs.join(file)).expect("the schema");
            let schema: Value = serde_json::from_str(&text).expect("JSON");
            jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{file} is no schema: {error}"));
            let schema = jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema");
            Some((command.trim_end_matches('`').to_owned(), Printed { how: how.to_owned(), schema }))
        });
        Commands { printed: rows.collect(), seen: BTreeSet::new() }
    }

    /// What was printed is as the schema says, and it is something.
    #[track_caller]
    fn check(&mut self, command: &str, ran: Ran) -> Ran {
        let printed = self.printed.get(command).unwrap_or_else(|| panic!("{command} is not on the page"));
        let text = if printed.how.ends_with("standard error") { &ran.err } else { &ran.out };
        let lines: Vec<&str> = text.lines().collect();
        assert!(!lines.is_empty(), "{command} prints nothing: {ran:#?}");
        assert!(printed.how == "one object a line" || lines.len() == 1, "{command} prints more than one: {ran:#?}");
        for line in lines {
            let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{command}: {error}: {line}"));
            let wrong: Vec<String> = printed
                .schema
                .iter_errors(&value)
                .map(|error| format!("{error} at {}", error.instance_path()))
                .collect();
            assert!(wrong.is_empty(), "{command}: {wrong:#?}: {line}");
        }
        self.seen.insert(command.to_owned());
        ran
    }

    /// Runs a command, which is not to fail.
    #[track_caller]
    fn run(&mut self, command: &str, more: &[&str]) -> Ran {
        let words: Vec<&str> = command.split(' ').collect();
        let ran = run(&[&words, more, &["-o", "json"]].concat()).exits(0);
        self.check(command, ran)
    }

    /// The same at a server.
    #[track_caller]
    fn at(&mut self, server: &str, command: &str, more: &[&str]) -> Ran {
        self.run(command, &[more, &["--server", server]].concat())
    }
}

#[test]
fn what_commands_print_is_as_their_schemas_say() {
    let mut commands = Commands::listed();
    assert!(commands.printed.len() > 50, "the page was read");
    let directory = tempfile::tempdir().expect("a directory");
    without_a_server(&mut commands, directory.path());
    of_events(&mut commands, directory.path());
    of_members(&mut commands, directory.path());
    measurements(&mut commands);
    let missing: Vec<&String> = commands.printed.keys().filter(|name| !commands.seen.contains(*name)).collect();
    assert!(missing.is_empty(), "never run: {missing:?}");
}

#[test]
fn a_schema_refuses_what_it_does_not_name() {
    let commands = Commands::listed();
    let is_valid = |command: &str, value: &Value| commands.printed[command].schema.is_valid(value);
    let right = serde_json::json!({ "login": "ann", "fullName": "", "groups": ["$ops"], "disabled": false });
    assert!(is_valid("user show", &right));
    let changed = |name: &str, value: Option<Value>| {
        let mut object = right.as_object().expect("an object").clone();
        match value {
            Some(value) => object.insert(name.to_owned(), value),
            None => object.remove(name),
        };
        Value::Object(object)
    };
    assert!(!is_valid("user show", &changed("password", Some("x".into()))), "what is not named");
    assert!(!is_valid("user show", &changed("login", None)), "what is missing");
    assert!(!is_valid("user show", &changed("disabled", Some("no".into()))), "another type");
    let line = serde_json::json!({
        "stream": "s", "revision": 0, "position": 1, "id": "00000000-0000-0000-0000-000000000001", "type": "T",
        "created": "2026-01-01T00:00:00Z", "contentType": "application/json", "data": 1
    });
    assert!(is_valid("stream read", &line));
    for (name, value) in [("created", "yesterday"), ("id", "1"), ("dataBase64", "AA==")] {
        let mut line = line.clone();
        line[name] = value.into();
        assert!(!is_valid("stream read", &line), "{name}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn without_a_server(commands: &mut Commands, directory: &Path) {
    commands.run("version", &[]);
    commands.run("metrics list", &[]);
    commands.run("explain", &[]);
    commands.run("explain", &["ANN-1001"]);
    let mut annals = support::annals();
    annals.env("XDG_CONFIG_HOME", directory);
    let context =
        ["context", "add", "prod", "kurrentdb://annals.example:2113", "--user", "ada", "--password", "env://P"];
    assert!(annals.args(context).status().expect("runs").success());
    let mut annals = support::annals();
    annals.env("XDG_CONFIG_HOME", directory);
    let listed = annals.args(["context", "ls", "-o", "json"]).output().expect("runs");
    commands.check("context ls", Ran::of(&listed).exits(0));
}

/// A node with a disk of its own, on its own.
struct Node {
    running: Running,
    data: PathBuf,
}

impl Node {
    /// A node that waits to be added to a cluster, or is one.
    fn serve(directory: &Path, name: &str, more: &[&str]) -> Node {
        let (port, data) = (free_ports(1), directory.join(name));
        let log = fs::File::create(directory.join(format!("{name}.log"))).expect("a file");
        let address = format!("127.0.0.1:{port}");
        let mut command = support::annals();
        command.args(["serve", "--insecure", "--listen", &address, "--node-name", name, "--data"]).arg(&data);
        if !more.is_empty() {
            command.args(["--bootstrap", &address]).args(more);
        }
        let running = Running { child: command.stderr(log).spawn().expect("runs"), port };
        eventually("it listens", || http(port, "GET", "/livez", &[]).map(|_| ()));
        Node { running, data }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.running.port)
    }
}

/// Streams, groups, accounts, and what becomes of events when they are moved.
fn of_events(commands: &mut Commands, directory: &Path) {
    let node = Node::serve(directory, "first", &["--set", "voters_max=1"]);
    wait_ready(node.running.port);
    let server = node.running.url();
    streams(commands, &server);
    groups(commands, &server);
    accounts(commands, &server);
    commands.at(&server, "scavenge start", &["--wait"]);
    commands.at(&server, "scavenge status", &[]);
    scavenge_is_stopped(commands);
    moved(commands, &server, directory);
    let local = ["--local", "--data", text(&node.data), "--listen", &node.address()].map(str::to_owned);
    let local: Vec<&str> = local.iter().map(String::as_str).collect();
    commands.run("node info", &local);
    commands.run("node check", &local);
    commands.at(&server, "node log-level", &["debug", "--for", "1m"]);
    commands.at(&server, "node log-level", &["--reset"]);
    commands.at(&server, "node logs", &["--last", "0"]);
    // What is told of this machine's disk may be a failure.
    let looked = run(&["doctor", "--data", text(&node.data), "--server", &server, "-o", "json"]);
    commands.check("doctor", looked);
    commands.at(&server, "node drain", &["--timeout", "30s"]);
    commands.at(&server, "node info", &[]);
    commands.at(&server, "node resume", &[]);
    // A stopped node.
    let (data, address) = (node.data.clone(), node.address());
    assert_eq!(node.running.terminate(), Some(0));
    commands.run("verify", &["--data", text(&data)]);
    let recover = ["--data", text(&data), "--unsafe-new-membership", &address, "--yes-lose-data"];
    commands.run("node recover", &recover);
}

fn streams(commands: &mut Commands, server: &str) {
    let event = ["order-1", "--type", "OrderPlaced", "--data", "{\"total\": 42}", "--metadata", "{\"by\": \"me\"}"];
    commands.at(server, "stream append", &event);
    commands.at(server, "stream append", &["order-1", "--type", "Photo", "--binary", "--data", "no json"]);
    let lines =
        run_with_input(&["stream", "append", "order-2", "-o", "json", "--server", server], "{\"type\":\"T\"}\n");
    commands.check("stream append", lines.exits(0));
    commands.at(server, "stream meta set", &["order-1", "{\"$maxAge\": 86400, \"owner\": \"shop\"}", "--yes"]);
    commands.at(server, "stream meta get", &["order-1"]);
    commands.at(server, "stream read", &["order-1", "--backwards"]);
    commands.at(server, "stream tail", &["order-1", "--from", "start", "--limit", "1"]);
    commands.at(server, "all tail", &["--from", "start", "--limit", "2"]);
    commands.at(server, "stream info", &["order-1"]);
    commands.at(server, "stream append", &["gone-1", "--type", "T"]);
    commands.at(server, "stream delete", &["order-2", "--yes"]);
    commands.at(server, "stream tombstone", &["gone-1", "--yes"]);
    commands.at(server, "stream info", &["gone-1"]);
    let links = commands.at(server, "stream read", &["$ce-order", "--resolve-links"]);
    let links = links.lines();
    assert!(links.iter().any(|line| line["link"]["stream"] == "$ce-order"), "{links:#?}");
    let gone = links.iter().any(|line| line["event"].is_null() && line.get("stream").is_none());
    assert!(gone, "an event that is gone: {links:#?}");
    commands.at(server, "stream ls", &["--system"]);
    commands.at(server, "all read", &[]);
}

fn groups(commands: &mut Commands, server: &str) {
    commands.at(server, "psub create", &["order-1", "mailer"]);
    commands.at(server, "psub ls", &[]);
    commands.at(server, "psub info", &["order-1", "mailer"]);
    // What a server writes when a consumer gives an event up.
    let parked = "$persistentsubscription-order-1::mailer-parked";
    let link = ["--type", "$>", "--binary", "--data", "0@order-1", "--metadata"];
    let metadata = "{\"added\": \"2026-01-01T00:00:00.0000000Z\", \"reason\": \"no address\"}";
    run(&[&["stream", "append", parked], &link[..], &[metadata, "--server", server]].concat()).exits(0);
    commands.at(server, "psub parked", &["order-1", "mailer"]);
    commands.at(server, "psub drop-parked", &["order-1", "mailer", "--yes"]);
    commands.at(server, "psub replay", &["order-1", "mailer"]);
    commands.at(server, "psub delete", &["order-1", "mailer", "--yes"]);
}

fn accounts(commands: &mut Commands, server: &str) {
    for (command, more) in [("user create", &["--group", "$ops"][..]), ("user password", &[])] {
        let words: Vec<&str> = command.split(' ').collect();
        let common = ["ann", "--password-stdin", "-o", "json", "--server", server];
        let ran = run_with_input(&[&words, &common[..], more].concat(), "secret-enough-1\n").exits(0);
        commands.check(command, ran);
    }
    commands.at(server, "user ls", &[]);
    commands.at(server, "user show", &["ann"]);
    commands.at(server, "user update", &["ann", "--full-name", "Ann"]);
    commands.at(server, "user disable", &["ann"]);
    commands.at(server, "user enable", &["ann"]);
    commands.at(server, "user delete", &["ann", "--yes"]);
}

/// A scavenge that takes long enough to be stopped.
fn scavenge_is_stopped(commands: &mut Commands) {
    let node = Running::dev(1, &["--set", "scavenge_bytes_per_second=65536"]);
    let server = node.url();
    let line = format!("{{\"type\":\"T\",\"data\":\"{}\"}}\n", "x".repeat(60_000));
    for stream in ["much-1", "much-2"] {
        run_with_input(&["stream", "append", stream, "--server", &server], &line.repeat(50)).exits(0);
        run(&["stream", "delete", stream, "--yes", "--server", &server]).exits(0);
    }
    commands.at(&server, "scavenge start", &[]);
    commands.at(&server, "scavenge stop", &[]);
    commands.at(&server, "scavenge status", &[]);
}

/// Backups, export and import.
fn moved(commands: &mut Commands, server: &str, directory: &Path) {
    let (place, lines, state) = (directory.join("backups"), directory.join("events"), directory.join("state"));
    commands.at(server, "backup create", &["--to", text(&place)]);
    commands.at(server, "backup create", &["--to", text(&place), "--incremental"]);
    fs::create_dir(place.join("20260101T000000Z-full-000000")).expect("made");
    fs::write(place.join("20260101T000000Z-full-000000/manifest.json"), "cut of").expect("written");
    let listed = commands.run("backup ls", &["--from", text(&place)]).lines();
    assert!(listed.iter().any(|line| line["state"] == "unreadable"), "{listed:#?}");
    commands.run("backup verify", &["--from", text(&place)]);
    let data = directory.join("restored");
    commands.run("backup restore", &["--from", text(&place), "--data", text(&data)]);
    commands.at(server, "export", &["--to", text(&lines)]);
    let other = Running::dev(1, &[]);
    commands.at(&other.url(), "import", &["--file", text(&lines), "--state", text(&state)]);
    commands.at(&other.url(), "import", &["--file", text(&lines), "--no-verify"]);
}

/// Nodes that come and go, and what three of them tell.
fn of_members(commands: &mut Commands, directory: &Path) {
    let three = Running::dev(3, &[]);
    let server = three.url();
    commands.at(&server, "cluster status", &[]);
    run(&["stream", "append", "s", "--type", "T", "--server", &server]).exits(0);
    eventually("all have an event", || (run(&["cluster", "hash", "--server", &server]).code == 0).then_some(()));
    commands.at(&server, "cluster hash", &[]);
    commands.at(&server, "cluster transfer-leader", &[]);
    commands.at(&server, "cluster scale", &["3"]);
    drop(three);

    // One that votes, and others that only follow, so that each step is by hand.
    let voter = Node::serve(directory, "voter", &["--set", "voters_max=1"]);
    wait_ready(voter.running.port);
    let server = url(voter.running.port);
    let learner = Node::serve(directory, "learner", &[]);
    commands.at(&server, "cluster add", &[&learner.address()]);
    commands.at(&server, "cluster status", &[]);
    wait_ready(learner.running.port);
    eventually("it has caught up", || {
        let ran = run(&["cluster", "promote", "learner", "-o", "json", "--server", &server]);
        (ran.code == 0).then(|| commands.check("cluster promote", ran)).map(|_| ())
    });
    commands.at(&server, "cluster remove", &["learner", "--yes"]);
    let mut lost = Node::serve(directory, "lost", &[]);
    commands.at(&server, "cluster add", &[&lost.address()]);
    lost.running.child.kill().expect("our child");
    lost.running.child.wait().expect("our child");
    let new = Node::serve(directory, "new", &[]);
    commands.at(&server, "cluster replace", &["lost", "--with", &new.address(), "--yes"]);
    // It leaves the one that votes out, which gives its vote on first.
    wait_ready(new.running.port);
    commands.at(&url(new.running.port), "cluster scale", &["1", "--yes"]);
}

fn measurements(commands: &mut Commands) {
    let node = Running::dev(1, &[]);
    let server = node.url();
    let short = ["--seconds", "1", "--warm-up", "0"];
    commands.at(&server, "bench append", &[&short[..], &["--clients", "2", "--mode", "batch"]].concat());
    commands.at(&server, "bench append", &[&short[..], &["--clients", "2", "--rate", "50"]].concat());
    commands.at(&server, "bench read", &["--clients", "1", "--events", "10"]);
    for what in ["stream", "single"] {
        let prepared = ["--what", what, "--prepare", "--streams", "2", "--events", "5", "--clients", "1"];
        commands.at(&server, "bench read", &[&short[..], &prepared].concat());
    }
    commands.at(&server, "bench subscribe", &[&short[..], &["--subscriptions", "2", "--slow", "1"]].concat());
    commands.at(&server, "bench mixed", &[&short[..], &["--appenders", "2", "--readers", "1"]].concat());
}
