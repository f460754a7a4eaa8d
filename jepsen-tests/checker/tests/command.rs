//! The command tells its verdict by its exit code and writes it down.

use std::fs;
use std::process::Command;

use annals_checker::{Validity, Verdict};

const APPEND: &str = r#"{"record":"append","process":1,"node":1,"invoke":0,"complete":10,"call":"append","writes":[{"stream":"a","expected":"any","events":[{"id":"01","digest":"07"}]}],"outcome":{"is":"acked","position":1,"revisions":[0]}}"#;
const WHOLE: &str =
    r#"{"record":"final","node":1,"source":"linearizable","events":[[1,"a",0,"01","07",5,false]],"complete":true}"#;
const EMPTY: &str = r#"{"record":"final","node":1,"source":"linearizable","events":[],"complete":true}"#;

/// Runs the command on these lines; its exit code, and the verdict it wrote.
fn run(lines: &[&str], arguments: &[&str]) -> (Option<i32>, Option<Verdict>) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("history.jsonl"), lines.join("\n")).expect("a history");
    let mut command = Command::new(env!("CARGO_BIN_EXE_annals-check"));
    let output = command.arg(dir.path()).args(arguments).current_dir(dir.path()).output().expect("the command runs");
    let verdict = fs::read_to_string(dir.path().join("verdict.json")).ok();
    let verdict = verdict.map(|json| serde_json::from_str(&json).expect("a verdict"));
    for (flag, path) in [("--report", "report.html"), ("--edn", "edn")] {
        assert_eq!(arguments.contains(&flag), dir.path().join(path).exists(), "{flag}");
    }
    (output.status.code(), verdict)
}

#[test]
fn the_exit_code_tells_the_verdict() {
    for (lines, arguments, code, validity) in [
        (&[APPEND, WHOLE][..], &[][..], 0, Validity::Valid),
        (&[APPEND, WHOLE], &["--report", "report.html", "--edn", "edn"], 0, Validity::Valid),
        (&[APPEND, EMPTY], &[], 1, Validity::Invalid),
        (&[APPEND], &[], 2, Validity::Unknown),
        (&[APPEND, WHOLE], &["--require", "F1,F3"], 2, Validity::Unknown),
        (&[APPEND, WHOLE], &["--nodes", "1"], 2, Validity::Unknown),
    ] {
        let (exit, verdict) = run(lines, arguments);
        assert_eq!(exit, Some(code), "{lines:?} {arguments:?}");
        assert_eq!(verdict.map(|verdict| verdict.validity), Some(validity), "{lines:?} {arguments:?}");
    }
}

#[test]
fn what_is_no_history_is_an_error_and_no_verdict() {
    let (exit, verdict) = run(&[APPEND, "nonsense"], &[]);
    assert_eq!((exit, verdict), (Some(3), None));
}
