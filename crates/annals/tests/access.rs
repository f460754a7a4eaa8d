//! Accounts and rights on real nodes that ask who calls: with the command line, as
//! those do who have no other client at hand.

mod support;

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use support::{Ran, eventually, free_ports, http, run, run_with_input, signal, wait_ready};

const ADMIN: (&str, &str) = ("admin", "first-password");

/// Nodes that ask who calls.
struct Nodes {
    children: Vec<Child>,
    first: u16,
    directory: tempfile::TempDir,
}

impl Nodes {
    /// Starts so many, of one cluster; with the administrator's password or without.
    fn start(count: u16, given: bool) -> Nodes {
        let directory = tempfile::tempdir().expect("a directory");
        let password = directory.path().join("password");
        fs::write(&password, format!("{}\n", ADMIN.1)).expect("written");
        let first = free_ports(count);
        let hosts: Vec<_> = (first..first + count).map(|port| format!("127.0.0.1:{port}")).collect();
        let mut nodes = Nodes { children: Vec::new(), first, directory };
        for port in first..first + count {
            let mut command = support::annals();
            command
                .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--bootstrap", &hosts.join(","), "--data"])
                .arg(nodes.data(port));
            if given {
                command.args(["--set", &format!("admin_password_file={}", password.display())]);
            }
            nodes.children.push(command.spawn().expect("runs"));
        }
        (first..first + count).for_each(wait_ready);
        nodes
    }

    fn data(&self, port: u16) -> std::path::PathBuf {
        self.directory.path().join(port.to_string())
    }

    fn url(&self, port: u16, who: Option<(&str, &str)>) -> String {
        let credentials = who.map(|(login, password)| format!("{login}:{password}@")).unwrap_or_default();
        format!("kurrentdb://{credentials}127.0.0.1:{port}?tls=false")
    }

    fn run(&self, who: Option<(&str, &str)>, arguments: &[&str]) -> Ran {
        run(&[arguments, &["--server", &self.url(self.first, who)]].concat())
    }

    /// Runs a command as the administrator, who is there a moment after the node is.
    fn admin(&self, arguments: &[&str]) -> Ran {
        eventually("the administrator is there", || {
            self.run(Some(ADMIN), &["user", "show", "admin"]).code.eq(&0).then_some(())
        });
        self.run(Some(ADMIN), arguments).exits(0)
    }

    fn create(&self, login: &str, password: &str, more: &[&str]) {
        self.admin(&["user", "ls"]);
        let server = self.url(self.first, Some(ADMIN));
        let arguments = [&["user", "create", login, "--password-stdin", "--server", &server], more].concat();
        run_with_input(&arguments, &format!("{password}\n")).exits(0);
    }

    fn append(&self, who: (&str, &str), stream: &str) -> Ran {
        self.run(Some(who), &["stream", "append", stream, "--type", "T", "--data", "{}"])
    }

    /// What the audit stream tells, in its order.
    fn audited(&self) -> Vec<serde_json::Value> {
        let events = self.run(Some(ADMIN), &["stream", "read", "$audit", "-o", "json"]);
        events.lines().into_iter().map(|event| event["data"].clone()).collect()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn without_credentials_nothing_is_told_and_with_wrong_ones_neither() {
    let nodes = Nodes::start(1, true);
    nodes.admin(&["stream", "append", "s-1", "--type", "T", "--data", "{}"]);
    for arguments in [
        &["stream", "read", "s-1"][..],
        &["stream", "append", "s-1", "--type", "T", "--data", "{}"],
        &["stream", "delete", "s-1", "--yes"],
        &["all", "read"],
        &["all", "tail", "--limit", "1"],
        &["stream", "ls"],
        &["psub", "ls"],
        &["psub", "create", "s-1", "g"],
        &["user", "ls"],
        &["user", "show", "admin"],
        &["cluster", "add", "127.0.0.1:1"],
        &["node", "log-level", "debug"],
        &["node", "logs"],
    ] {
        let ran = nodes.run(None, arguments);
        assert!(ran.code != 0 && ran.err.contains("access denied") && ran.out.is_empty(), "{arguments:?}: {ran:#?}");
        let ran = nodes.run(Some(("admin", "wrong")), arguments);
        assert!(ran.code != 0 && ran.err.contains("credentials") && ran.out.is_empty(), "{arguments:?}: {ran:#?}");
    }
    for open in ["/ping", "/info", "/gossip", "/livez", "/readyz", "/metrics"] {
        assert_eq!(http(nodes.first, "GET", open, &[]).expect("answered").status, 200, "{open}");
    }
    for closed in ["/stats", "/stats/proc"] {
        let refused = http(nodes.first, "GET", closed, &[]).expect("answered");
        assert_eq!(refused.status, 401, "{closed}");
        assert!(refused.head.contains("www-authenticate: Basic"), "{}", refused.head);
    }
}

#[test]
fn the_first_administrators_password_is_drawn_and_left_for_the_operator() {
    let nodes = Nodes::start(1, false);
    let file = nodes.data(nodes.first).join("admin-password");
    let password = eventually("there is a password", || fs::read_to_string(&file).ok());
    let who = Some(("admin", password.trim()));
    eventually("it is the administrator's", || nodes.run(who, &["user", "ls"]).code.eq(&0).then_some(()));
    let changeit = nodes.run(Some(("admin", "changeit")), &["user", "ls"]);
    assert!(changeit.err.contains("credentials"), "no default password: {changeit:#?}");
}

#[test]
fn a_password_file_that_holds_none_stops_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = format!("admin_password_file={}", directory.path().join("none").display());
    let data = directory.path().join("data");
    let data = data.to_str().expect("text");
    let ran = run(&["serve", "--listen", "127.0.0.1:1", "--data", data, "--set", &missing]);
    let listen = run(&["serve", "--listen", "127.0.0.1:0", "--data", data, "--set", &missing]).exits(2);
    assert!(listen.err.contains("admin_password_file") || ran.err.contains("admin_password_file"), "{listen:#?}");
    assert!(!Path::new(data).exists(), "nothing was touched");
}

#[test]
fn accounts_have_the_rights_that_the_lists_give_them() {
    let nodes = Nodes::start(1, true);
    let (ann, bob) = (("ann", "anns"), ("bob", "bobs"));
    nodes.create(ann.0, ann.1, &["--group", "sales", "--full-name", "Ann Example"]);
    nodes.create(bob.0, bob.1, &[]);

    nodes.append(ann, "order-1").exits(0);
    nodes.run(Some(bob), &["stream", "read", "order-1"]).exits(0);
    for arguments in [&["all", "read"][..], &["stream", "read", "$ce-order"], &["user", "show", "ann"]] {
        assert!(nodes.run(Some(bob), arguments).err.contains("access denied"), "{arguments:?}");
    }
    nodes.run(Some(ann), &["user", "show", "ann"]).exits(0);

    let acl = r#"{"$acl":{"$r":["sales"],"$w":"ann","$d":[],"$mw":"ann"}}"#;
    nodes.run(Some(ann), &["stream", "meta", "set", "order-1", acl]).exits(0);
    for arguments in [
        &["stream", "read", "order-1"][..],
        &["stream", "append", "order-1", "--type", "T", "--data", "{}"],
        &["stream", "meta", "set", "order-1", "{}"],
        &["stream", "delete", "order-1", "--yes"],
    ] {
        let ran = nodes.run(Some(bob), arguments);
        assert!(ran.code == 1 && ran.err.contains("access denied"), "{arguments:?}: {ran:#?}");
    }
    nodes.append(ann, "order-1").exits(0);
    assert!(nodes.run(Some(ann), &["stream", "delete", "order-1", "--yes"]).err.contains("access denied"));
    nodes.admin(&["stream", "read", "order-1"]);

    let seen = |who| nodes.run(Some(who), &["stream", "ls", "-o", "json"]).exits(0).out;
    assert!(seen(ann).contains("order-1") && !seen(bob).contains("order-1"));

    // A link to what one may not read leads nowhere.
    nodes.append(bob, "links").exits(0);
    nodes.run(Some(bob), &["stream", "append", "links", "--type", "$>", "--data", "0@order-1", "--binary"]).exits(0);
    let resolved = |who| {
        let read = nodes.run(Some(who), &["stream", "read", "links", "--resolve-links", "-o", "json"]).exits(0);
        read.lines().iter().filter(|event| event["stream"] == "order-1").count()
    };
    assert_eq!((resolved(ann), resolved(bob)), (1, 0));

    // The defaults, for everybody who has no list of their own.
    let settings = r#"{"$userStreamAcl":{"$r":"sales","$w":"$all"},"$systemStreamAcl":{"$r":"sales"}}"#;
    nodes.admin(&["stream", "append", "$settings", "--type", "$settings", "--data", settings]);
    nodes.run(Some(ann), &["all", "read", "--limit", "1"]).exits(0);
    nodes.append(bob, "order-2").exits(0);
    assert!(nodes.run(Some(bob), &["stream", "read", "order-2"]).err.contains("access denied"));

    let audited = eventually("the denials are told", || {
        let audited = nodes.audited();
        let told = |act: &str, on: &str| {
            audited.iter().any(|act_of| {
                act_of["act"] == act && act_of["on"] == on && act_of["who"] == "bob" && act_of["decision"] == "denied"
            })
        };
        (told("streams:read", "order-2") && told("streams:write", "order-1")).then_some(audited)
    });
    let created: Vec<_> = audited.iter().filter(|act| act["act"] == "users:create").collect();
    assert_eq!(created.len(), 2, "those that somebody made");
    assert!(
        created.iter().all(|act| act["who"] == "admin" && act["from"] == "127.0.0.1" && act["decision"] == "allowed")
    );
    assert!(audited.iter().any(|act| act["act"] == "streams:metadataWrite" && act["on"] == "$settings"));
    let text = serde_json::to_string(&audited).expect("JSON");
    assert!(!text.contains("anns") && !text.contains("argon2") && !text.contains(ADMIN.1), "secrets are not told");
}

#[test]
fn an_account_that_is_disabled_or_has_another_password_is_nobody_also_in_running_calls() {
    let nodes = Nodes::start(1, true);
    let ann = ("ann", "anns");
    nodes.create(ann.0, ann.1, &[]);
    nodes.append(ann, "s").exits(0);
    let url = nodes.url(nodes.first, Some(ann));
    let follow = |limit: &str| {
        let mut command = support::annals();
        command.args(["stream", "tail", "s", "--from", "end", "--limit", limit, "--server", &url]);
        command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().expect("runs")
    };
    let mut following = follow("100");
    let metrics = || http(nodes.first, "GET", "/metrics", &[]).expect("answered").body;
    eventually("she follows", || metrics().contains("annals_subscriptions_active{kind=\"stream\"} 1").then_some(()));
    nodes.admin(&["user", "disable", "ann"]);
    assert!(nodes.append(ann, "s").err.contains("credentials"));
    nodes.admin(&["stream", "append", "s", "--type", "T", "--data", "{}"]);
    let ended = eventually("she does not follow any more", || following.try_wait().expect("our child"));
    assert!(!ended.success());
    let said = Ran::of(&following.wait_with_output().expect("ended"));
    assert!(said.out.is_empty() && said.err.contains("credentials"), "{said:#?}");

    nodes.admin(&["user", "enable", "ann"]);
    nodes.append(ann, "s").exits(0);
    let server = nodes.url(nodes.first, Some(ADMIN));
    run_with_input(&["user", "password", "ann", "--password-stdin", "--server", &server], "other\n").exits(0);
    assert!(nodes.append(ann, "s").err.contains("credentials"));
    nodes.append(("ann", "other"), "s").exits(0);
    nodes.admin(&["user", "delete", "ann", "--yes"]);
    assert!(nodes.append(("ann", "other"), "s").err.contains("credentials"));
    nodes.run(Some(ADMIN), &["user", "show", "ann"]).exits(3);

    let own = nodes.run(Some(ADMIN), &["user", "disable", "admin"]);
    assert!(own.code == 1 && own.err.contains("your own rights"), "{own:#?}");
}

#[test]
fn accounts_and_rights_hold_on_every_node_and_outlive_the_leader() {
    let mut nodes = Nodes::start(3, true);
    let (ann, bob) = (("ann", "anns"), ("bob", "bobs"));
    nodes.create(ann.0, ann.1, &[]);
    nodes.create(bob.0, bob.1, &[]);
    nodes.append(ann, "s").exits(0);
    nodes.admin(&["stream", "meta", "set", "s", r#"{"$acl":{"$r":"ann","$w":"ann"}}"#]);
    let ports: Vec<u16> = (nodes.first..nodes.first + 3).collect();
    let on =
        |port: u16, who, arguments: &[&str]| run(&[arguments, &["--server", &nodes.url(port, Some(who))]].concat());
    let append = ["stream", "append", "s", "--type", "T", "--data", "{}"];
    for port in &ports {
        on(*port, ann, &append).exits(0);
        assert!(on(*port, bob, &append).err.contains("access denied"), "{port}");
        eventually("the node knows", || {
            on(*port, bob, &["stream", "read", "s"]).err.contains("access denied").then_some(())
        });
        on(*port, ann, &["stream", "read", "s"]).exits(0);
    }
    let status = on(ports[0], ADMIN, &["cluster", "status", "-o", "json"]).exits(0).json();
    let members = status["nodes"].as_array().expect("nodes");
    let leader = members.iter().find(|node| node["role"] == "leader").and_then(|node| node["address"].as_str());
    let leader: u16 = leader.and_then(|address| address.rsplit(':').next()?.parse().ok()).expect("a leader");
    let at = ports.iter().position(|port| *port == leader).expect("one of ours");
    signal(nodes.children[at].id(), "KILL");
    let _ = nodes.children[at].wait();
    let left: Vec<u16> = ports.iter().copied().filter(|port| *port != leader).collect();
    let on =
        |port: u16, who, arguments: &[&str]| run(&[arguments, &["--server", &nodes.url(port, Some(who))]].concat());
    eventually("somebody leads", || {
        std::thread::sleep(Duration::from_millis(100));
        on(left[0], ann, &append).code.eq(&0).then_some(())
    });
    for port in left {
        assert!(on(port, bob, &append).err.contains("access denied"));
        on(port, ADMIN, &["user", "show", "bob"]).exits(0);
    }
}
