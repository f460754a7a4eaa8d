//! Tells the crate which commit and compiler it is built from.

use std::process::Command;
use std::{env, path::Path};

fn main() {
    let commit = env::var("ANNALS_COMMIT")
        .ok()
        .or_else(|| output("git", &["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = output(&rustc, &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=ANNALS_COMMIT={commit}");
    println!("cargo::rustc-env=ANNALS_RUSTC={rustc}");
    println!("cargo::rerun-if-env-changed=ANNALS_COMMIT");
    // Moves with every commit and checkout. Cargo would run this each time
    // for a file that is not there.
    let head = "../../.git/logs/HEAD";
    println!("cargo::rerun-if-changed={}", if Path::new(head).exists() { head } else { "build.rs" });
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
