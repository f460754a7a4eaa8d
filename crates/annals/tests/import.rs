//! Events that leave a cluster and come into another one, by the real binary.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Ran, Running, run, run_with_input, signal};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Some streams with all that can be in one.
fn fill(node: &Running) {
    for (stream, events) in [("order-1", 700), ("order-2", 30), ("gone-1", 5), ("ended-1", 5)] {
        let line = "{\"type\":\"T\",\"data\":{\"x\": 1.50}}\n";
        run_with_input(&["stream", "append", stream, "--server", &node.url()], &line.repeat(events)).exits(0);
    }
    node.run(&["stream", "append", "bytes", "--type", "B", "--data", "no json", "--binary"]).exits(0);
    node.run(&["stream", "delete", "gone-1", "--yes"]).exits(0);
    node.run(&["stream", "tombstone", "ended-1", "--yes"]).exits(0);
}

fn events(node: &Running) -> Vec<Value> {
    let read = node.run(&["all", "read", "-o", "json"]).exits(0).lines();
    let own = |event: &Value| {
        let stream = event["stream"].as_str().expect("a stream");
        !stream.starts_with('$') || (stream.starts_with("$$") && !stream.starts_with("$$$"))
    };
    let mut events: Vec<Value> = read.into_iter().filter(own).collect();
    for event in &mut events {
        event.as_object_mut().expect("an object").remove("position");
    }
    events
}

fn report(ran: Ran) -> Value {
    let report = ran.exits(0).json();
    assert_eq!(report["equal"], true, "{report}");
    report
}

#[test]
fn a_history_moves_from_one_server_to_another_with_order_ids_and_times() {
    let (old, new) = (Running::dev(1, &[]), Running::dev(1, &[]));
    fill(&old);
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state.json");
    let arguments = ["import", "--from", &old.url(), "--state", text(&state), "-o", "json"];
    let first = report(new.run(&arguments));
    assert_eq!((&first["timesKept"], &first["someWereThere"]), (&json!(true), &json!(false)));
    let moved = events(&old);
    assert_eq!(events(&new), moved);
    assert_eq!(first["events"], moved.len());

    // The state is not overwritten, and going on finds what is new.
    assert_eq!(new.run(&arguments).code, 2);
    old.run(&["stream", "append", "order-2", "--type", "T", "--data", "{}"]).exits(0);
    let second = report(new.run(&[&arguments[..], &["--resume"]].concat()));
    assert_eq!((&second["events"], &second["resumed"]), (&json!(1), &json!(true)));
    assert_eq!(events(&new), events(&old));

    // From the beginning again: nothing is doubled.
    let again = report(new.run(&["import", "--from", &old.url(), "-o", "json"]));
    assert_eq!((&again["someWereThere"], &again["events"]), (&json!(true), &json!(moved.len() + 1)));
    assert_eq!(events(&new), events(&old));
}

#[test]
fn lines_of_json_come_back_as_they_were() {
    let (old, new) = (Running::dev(1, &[]), Running::dev(1, &[]));
    fill(&old);
    let directory = tempfile::tempdir().expect("a directory");
    let (file, rest) = (directory.path().join("events.ndjson"), directory.path().join("rest.ndjson"));
    old.run(&["export", "--to", text(&file)]).exits(0);
    assert_eq!(old.run(&["export", "--to", text(&file)]).code, 1, "nothing is overwritten");
    report(new.run(&["import", "--file", text(&file), "-o", "json"]));
    assert_eq!(events(&new), events(&old));

    // In two parts, through standard output and input.
    let exported = std::fs::read_to_string(&file).expect("readable");
    let lines: Vec<&str> = exported.lines().collect();
    let middle: Value = serde_json::from_str(lines[lines.len() / 2]).expect("JSON");
    let after = middle["position"].to_string();
    let second = old.run(&["export", "--after-position", &after]).exits(0);
    assert_eq!(second.out.lines().collect::<Vec<_>>(), lines[lines.len() / 2 + 1..]);
    std::fs::write(&rest, lines[..=lines.len() / 2].join("\n") + "\n").expect("written");
    old.run(&["export", "--after-position", &after, "--to", text(&rest)]).exits(0);
    assert_eq!(std::fs::read_to_string(&rest).expect("readable"), exported);
    let other = Running::dev(1, &[]);
    let ran = run_with_input(&["import", "--file", "-", "-o", "json", "--server", &other.url()], &exported);
    report(ran);
    assert_eq!(events(&other), events(&old));
    let only = old.run(&["export", "--prefix", "order-2"]).exits(0);
    assert_eq!(only.out.lines().count(), 30);
}

#[test]
fn what_does_not_fit_is_refused_with_its_line() {
    let node = Running::dev(1, &[]);
    node.run(&["stream", "append", "taken", "--type", "T", "--data", "{}"]).exits(0);
    let id = "00000000-0000-4000-8000-000000000001";
    let event = format!("{{\"stream\":\"taken\",\"id\":\"{id}\",\"type\":\"T\"}}\n");
    let import = |input: &str, more: &[&str]| {
        run_with_input(&[&["import", "--file", "-", "--server", &node.url()][..], more].concat(), input)
    };
    let refused = import(&event, &[]);
    assert!(refused.code == 4 && refused.err.contains("taken"), "{refused:?}");
    import(&event, &["--append"]).exits(0);
    import(&event, &["--append"]).exits(0);
    assert_eq!(node.run(&["stream", "read", "taken", "-o", "json"]).exits(0).lines().len(), 2);
    let wrong = import(&format!("{event}no json\n"), &["--append"]);
    assert!(wrong.code == 2 && wrong.err.contains("line 2"), "{wrong:?}");
    assert_eq!(node.run(&["import", "--file", "/nowhere"]).code, 3);
    assert_eq!(node.run(&["import"]).code, 2);
}

#[test]
fn an_import_goes_on_when_the_node_that_takes_it_is_restarted() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let node = Running::dev(1, &["--data", text(&data)]);
    let port = node.port;
    let lines: String = (1..=60_000_u32)
        .map(|number| {
            format!(
                "{{\"stream\":\"s-{}\",\"id\":\"00000000-0000-4000-8000-{number:012}\",\"type\":\"T\",\"data\":{number}}}\n",
                number % 7
            )
        })
        .collect();
    let file = directory.path().join("events.ndjson");
    std::fs::write(&file, lines).expect("written");
    let url = node.url();
    let importing = std::thread::spawn(move || run(&["import", "--file", text(&file), "-o", "json", "--server", &url]));
    support::eventually("it is under way", || {
        let tail = node.run(&["cluster", "status", "-o", "json"]).json()["tail"].as_u64()?;
        (tail > 1_000).then_some(())
    });
    signal(node.child.id(), "KILL");
    drop(node);
    let node = Running::dev_at(port, 1, &["--data", text(&data)]);
    let told = report(importing.join().expect("it ends"));
    assert_eq!((&told["events"], &told["streams"]), (&json!(60_000), &json!(7)));
    let read = node.run(&["stream", "read", "s-3", "-o", "json"]).exits(0).lines();
    let numbers: Vec<u64> = read.iter().map(|event| event["data"].as_u64().expect("a number")).collect();
    let expected: Vec<u64> = (1..=60_000).filter(|number| number % 7 == 3).collect();
    assert_eq!(numbers, expected);
}
