//! What bash offers when the tab key is pressed. The function is called as bash calls it.

mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use support::{Running, run, url};
use tempfile::TempDir;

/// Somebody at a shell.
struct Person {
    home: TempDir,
    server: String,
}

impl Person {
    fn new(server: &str) -> Person {
        Person { home: tempfile::tempdir().expect("a directory"), server: server.to_owned() }
    }

    fn bash(&self, script: &str) -> support::Ran {
        let binary = Path::new(env!("CARGO_BIN_EXE_annals"));
        let place = binary.parent().expect("a directory").display();
        let output = Command::new("bash")
            .args(["--norc", "--noprofile", "-c", script])
            .env("PATH", format!("{place}:{}", std::env::var("PATH").unwrap_or_default()))
            .env("XDG_CONFIG_HOME", self.home.path())
            .env("ANNALS_URL", &self.server)
            .env_remove("ANNALS_CONTEXT")
            .output()
            .expect("bash is there");
        support::Ran::of(&output)
    }

    /// What is offered at the end of this line. Nothing else may be said.
    #[track_caller]
    fn offered(&self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let at = words.len() - 1;
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            "source <(annals completion bash)\n\
             complete -p annals > /dev/null || exit 9\n\
             COMP_WORDS=({}) COMP_CWORD={at} COMP_TYPE=9\n\
             _clap_complete_annals annals {} {}\n\
             (( ${{#COMPREPLY[@]}} )) && printf '%s\\n' \"${{COMPREPLY[@]}}\"\n\
             exit 0",
            quoted.join(" "),
            quoted[at],
            quoted[at - 1],
        );
        let ran = self.bash(&script).exits(0);
        assert_eq!(ran.err, "", "{line}");
        ran.out.lines().map(|word| word.trim_end().to_owned()).collect()
    }
}

#[test]
fn commands_flags_and_values_are_offered() {
    let person = Person::new(&url(support::free_ports(1)));
    assert_eq!(person.offered("annals clu"), ["cluster"]);
    assert_eq!(person.offered("annals stream meta ")[..2], ["get", "set"]);
    assert_eq!(person.offered("annals stream read --back"), ["--backwards"]);
    assert_eq!(person.offered("annals stream ls -o j"), ["json"]);
    assert_eq!(person.offered("annals explain ANN-2001"), ["ANN-2001"]);
    assert!(person.offered("annals config explain heart").contains(&"heartbeat_ms".to_owned()));
}

#[test]
fn contexts_are_offered_by_name() {
    let person = Person::new(&url(support::free_ports(1)));
    for name in ["prod", "staging", "prod-eu"] {
        person.bash(&format!("annals context add {name} kurrentdb://{name}.example:2113")).exits(0);
    }
    assert_eq!(person.offered("annals stream ls --context prod"), ["prod", "prod-eu"]);
    assert_eq!(person.offered("annals context select s"), ["staging"]);
}

#[test]
fn a_server_is_asked_for_what_it_has() {
    let node = Running::dev(3, &[]);
    let hostile = ["order-1; touch pwned", "order-$(id)", "order-`id`", "order-1 --yes", "order-'", "--order"];
    for stream in ["order-1", "order-2", "other-1"].iter().chain(&hostile) {
        run(&["stream", "append", "--type", "T", "--server", &node.url(), "--", stream]).exits(0);
    }
    node.run(&["psub", "create", "order-1", "mailer"]).exits(0);
    node.run(&["psub", "create", "order-2", "billing"]).exits(0);
    let person = Person::new(&node.url());
    assert_eq!(person.offered("annals stream read order"), ["order-1", "order-2"]);
    assert_eq!(person.offered("annals stream delete ot"), ["other-1"]);
    assert_eq!(person.offered("annals psub info order"), ["order-1", "order-2"]);
    assert_eq!(person.offered("annals psub info order-1 ma"), ["mailer"]);
    assert!(person.offered("annals psub info order-2 ma").is_empty(), "a group of another stream");
    let nodes = node.run(&["cluster", "status", "-o", "json"]).exits(0).json();
    let name = nodes["nodes"][0]["name"].as_str().expect("a name").to_owned();
    assert!(person.offered("annals cluster transfer-leader --to 127").contains(&name));
    // The line is nearer than the environment.
    let elsewhere = Person::new(&url(support::free_ports(1)));
    let line = format!("annals stream --server {} read ot", node.url());
    assert_eq!(elsewhere.offered(&line), ["other-1"]);
}

#[test]
fn a_server_that_does_not_answer_offers_nothing_and_says_nothing() {
    let nobody = Person::new(&url(support::free_ports(1)));
    assert!(nobody.offered("annals stream read or").is_empty());
    // It takes connections, and that is all.
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let person = Person::new(&url(port));
    assert!(person.offered("annals stream read or").is_empty());
    assert!(Person::new("no connection string").offered("annals cluster promote a").is_empty());
}

#[test]
fn a_malformed_file_of_contexts_is_no_words_in_the_line() {
    let person = Person::new(&url(support::free_ports(1)));
    let directory = person.home.path().join("annals");
    std::fs::create_dir(&directory).expect("made");
    let mut file = std::fs::File::create(directory.join("contexts.json")).expect("made");
    file.write_all(b"{").expect("written");
    assert!(person.offered("annals stream ls --context p").is_empty());
}

#[test]
fn every_shell_has_its_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completion", shell]).exits(0).out;
        assert!(script.contains("ANNALS_COMPLETE"), "{shell}: {script}");
    }
}
