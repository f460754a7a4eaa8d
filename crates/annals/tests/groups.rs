//! `annals psub` on a real node. What consumers do is tested with the official clients.

mod support;

use support::{Running, eventually, get, run, url};

#[test]
fn a_group_is_defined_listed_shown_and_deleted() {
    let node = Running::dev(1, &[]);
    node.run(&["stream", "append", "orders-1", "--type", "T", "--data", "{}"]).exits(0);
    node.run(&["psub", "create", "orders-1", "mailer", "--strategy", "Pinned", "--max-retries", "3"]).exits(0);
    node.run(&["psub", "create", "$all", "audit", "--filter-stream", "orders-", "--from", "end"]).exits(0);

    let groups = node.run(&["psub", "ls", "-o", "json"]).exits(0).lines();
    let names: Vec<_> = groups.iter().map(|group| (group["source"].as_str(), group["group"].as_str())).collect();
    assert_eq!(names, [(Some("$all"), Some("audit")), (Some("orders-1"), Some("mailer"))]);
    assert_eq!(node.run(&["psub", "ls", "orders-1", "-o", "json"]).exits(0).lines().len(), 1);
    assert!(node.run(&["psub", "ls"]).exits(0).out.contains("mailer"));

    let info = node.run(&["psub", "info", "orders-1", "mailer", "-o", "json"]).exits(0).json();
    assert_eq!((info["strategy"].as_str(), info["from"].as_str()), (Some("Pinned"), Some("0")));
    eventually("the event is loaded", || {
        let info = node.run(&["psub", "info", "orders-1", "mailer", "-o", "json"]).exits(0).json();
        (info["waiting"] == 1 && info["newest"] == "0").then_some(())
    });
    eventually("the group is in the metrics", || {
        let metrics = get(node.port, "/metrics").body;
        metrics.contains("annals_group_lag_events{group=\"mailer\",source=\"orders-1\"} 1").then_some(())
    });
    assert!(node.run(&["psub", "parked", "orders-1", "mailer"]).exits(0).out.is_empty());

    let again = node.run(&["psub", "create", "orders-1", "mailer"]).exits(4);
    assert!(again.err.contains("exists"), "{}", again.err);
    node.run(&["psub", "delete", "orders-1", "mailer"]).exits(2);
    node.run(&["psub", "delete", "orders-1", "mailer", "--yes"]).exits(0);
    node.run(&["psub", "info", "orders-1", "mailer"]).exits(3);
    node.run(&["psub", "replay", "orders-1", "mailer"]).exits(3);
}

#[test]
fn what_no_group_can_be_is_told() {
    let node = Running::dev(1, &[]);
    let refused = node.run(&["psub", "create", "s", "g", "--strategy", "Best"]);
    assert!(refused.code != 0 && refused.err.contains("no such consumer strategy"), "{}", refused.err);
    node.run(&["psub", "create", "s", "g", "--filter-stream", "x"]).exits(2);
    let long = "x".repeat(500);
    let refused = node.run(&["psub", "create", "s", &long]);
    assert!(refused.code != 0 && refused.err.contains("too long"), "{}", refused.err);
}

#[test]
fn groups_are_there_again_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_str().expect("text").to_owned();
    let node = Running::dev(1, &["--data", &data]);
    node.run(&["psub", "create", "orders-1", "mailer"]).exits(0);
    assert_eq!(node.terminate(), Some(0));
    let node = Running::dev(1, &["--data", &data]);
    let server = url(node.port);
    eventually("the group is served", || {
        let info = run(&["psub", "info", "orders-1", "mailer", "--server", &server]);
        (info.code == 0).then_some(())
    });
}
