//! The documentation does what it says: the commands of its `console` blocks are typed
//! into a shell, against a node that was just started, and what comes back is compared.
//!
//! `[..]` in an expected line stands for anything in that line.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Running, url};

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

#[test]
fn the_five_minutes_run_as_they_are_written() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/start.md");
    let steps = steps(&fs::read_to_string(page).expect("the page"));
    assert!(steps.len() > 8, "{steps:?}");
    let node = Running::dev(1, &[]);
    let binary = Path::new(env!("CARGO_BIN_EXE_annals"));
    let place = binary.parent().expect("a directory").display();
    let path = format!("{place}:{}", std::env::var("PATH").unwrap_or_default());
    for Step { command, expected } in steps {
        let output = Command::new("bash")
            .args(["--norc", "-c", &format!("exec 2>&1; {command}")])
            .env("PATH", &path)
            .env("ANNALS_URL", url(node.port))
            .output()
            .expect("bash is there");
        let text = String::from_utf8_lossy(&output.stdout);
        let found: Vec<&str> = text.lines().collect();
        let same = found.len() == expected.len() && expected.iter().zip(&found).all(|(e, f)| is_like(e, f));
        assert!(same, "$ {command}\nexpected {expected:#?}\nfound {found:#?}");
    }
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
