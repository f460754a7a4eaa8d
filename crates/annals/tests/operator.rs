//! What helps who operates: contexts, codes, completions, the doctor.

mod support;

use std::process::Command;

use support::{Ran, Running, annals, run, url};
use tempfile::TempDir;

/// Somebody with a configuration directory of their own.
struct Person(TempDir);

impl Person {
    fn new() -> Person {
        Person(tempfile::tempdir().expect("a directory"))
    }

    fn command(&self) -> Command {
        let mut command = annals();
        command.env("XDG_CONFIG_HOME", self.0.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command().args(arguments).output().expect("the binary runs"))
    }
}

#[test]
fn a_context_is_where_commands_go() {
    let node = Running::dev(1, &[]);
    let person = Person::new();
    let nobody = url(support::free_ports(1));
    person.run(&["context", "add", "here", &url(node.port), "--select"]).exits(0);
    person.run(&["context", "add", "gone", &nobody]).exits(0);
    person.run(&["stream", "append", "s", "--type", "T", "--data", "{}"]).exits(0);
    person.run(&["stream", "read", "s", "--context", "gone"]).exits(5);
    person.run(&["stream", "read", "s", "--context", "nowhere"]).exits(3);
    // What is named with the command is nearer than what is selected.
    person.run(&["stream", "read", "s", "--server", &nobody]).exits(5);
    let by_variable = |name, value: &str| {
        Ran::of(&person.command().env(name, value).args(["stream", "read", "s"]).output().expect("the binary runs"))
    };
    by_variable("ANNALS_URL", &nobody).exits(5);
    by_variable("ANNALS_CONTEXT", "gone").exits(5);
    by_variable("ANNALS_CONTEXT", "here").exits(0);
    person.run(&["context", "select", "gone"]).exits(0);
    person.run(&["stream", "read", "s"]).exits(5);
    person.run(&["context", "select", "-"]).exits(0);
    person.run(&["stream", "read", "s"]).exits(0);
    let listed = person.run(&["context", "ls", "-o", "json"]).exits(0).lines();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1]["name"], "here");
    assert_eq!(listed[1]["selected"], true);
    person.run(&["context", "rm", "here"]).exits(0);
    person.run(&["context", "select", "here"]).exits(3);
}

#[test]
fn a_context_with_a_password_in_it_is_refused() {
    let person = Person::new();
    let ran = person.run(&["context", "add", "x", "kurrentdb://ada:secret@127.0.0.1:2113"]).exits(2);
    assert!(ran.err.contains("env://") && !ran.err.contains("secret"), "{}", ran.err);
}

#[test]
fn an_error_names_its_code_and_the_code_has_a_page() {
    let port = support::free_ports(1);
    let ran = run(&["stream", "read", "s", "--server", &url(port)]).exits(5);
    assert!(ran.err.starts_with("error[ANN-2001]: ") && ran.err.contains("annals explain ANN-2001"), "{}", ran.err);
    let page = run(&["explain", "ANN-2001"]).exits(0).out;
    assert!(page.contains("What to do"), "{page}");
    assert_eq!(run(&["explain", "2001"]).exits(0).out, page);
    run(&["explain", "ANN-9999"]).exits(3);
    let ran = run(&["serve", "--listen", "0.0.0.0:1", "--node-address", "a:1"]).exits(2);
    assert!(ran.err.contains("error[ANN-1002]"), "{}", ran.err);
    assert!(run(&["explain", "-o", "json"]).exits(0).lines().len() > 15);
}

#[test]
fn bash_completes_our_commands() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("annals");
    std::fs::write(&script, run(&["completion", "bash"]).exits(0).out).expect("written");
    let asked = format!(
        "source {} && COMP_WORDS=(annals clu) COMP_CWORD=1 && _annals annals clu annals && echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let output = Command::new("bash").args(["--norc", "-c", &asked]).output().expect("bash is there");
    let ran = Ran::of(&output).exits(0);
    assert_eq!(ran.out.trim(), "cluster");
}

#[test]
fn the_doctor_tells_a_node_that_is_well_from_one_that_is_gone() {
    let node = Running::dev(3, &[]);
    let place = tempfile::tempdir().expect("a directory");
    let data = place.path().to_str().expect("text");
    let ran = run(&["doctor", "--server", &url(node.port), "--data", data, "-o", "json"]);
    let findings = ran.lines();
    let of = |check: &str| findings.iter().filter(|finding| finding["check"] == check).collect::<Vec<_>>();
    assert_eq!(of("member").len(), 3, "{findings:#?}");
    for check in ["server", "leader", "voters", "versions", "groups"] {
        assert_eq!(of(check).first().map(|finding| &finding["grade"]), Some(&"PASS".into()), "{check}: {findings:#?}");
    }
    drop(node);
    let port = support::free_ports(1);
    let ran = run(&["doctor", "--server", &url(port)]).exits(6);
    assert!(ran.out.starts_with("FAIL  server"), "{}", ran.out);
}
