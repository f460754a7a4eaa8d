//! The house keeps its shape: which crate may depend on which, and which may
//! name the libraries that are hidden behind one crate each. The rule is in
//! docs/architecture.md; this test is what makes it one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// What each crate may depend on, of our own crates and of the hidden ones.
fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    BTreeMap::from([
        ("annals-core", BTreeSet::from([])),
        ("annals-proto", BTreeSet::from(["tonic"])),
        ("annals-store", BTreeSet::from(["annals-core", "rocksdb"])),
        ("annals-raft", BTreeSet::from(["annals-core", "annals-proto", "annals-store", "openraft", "tonic"])),
        ("annals-server", BTreeSet::from(["annals-core", "annals-proto", "annals-raft", "annals-store", "tonic"])),
        ("annals-client", BTreeSet::from(["annals-proto", "tonic"])),
        (
            "annals-backup",
            BTreeSet::from([
                "annals-client",
                "annals-core",
                "annals-proto",
                "annals-raft",
                "annals-store",
                "object_store",
            ]),
        ),
        ("annals", BTreeSet::from(["annals-backup", "annals-bench", "annals-client", "annals-proto", "annals-server"])),
        ("annals-bench", BTreeSet::from(["annals-client", "annals-proto", "tonic"])),
        // What it measures, it depends on as a test does.
        ("annals-micro", BTreeSet::from([])),
        (
            "annals-fuzz",
            BTreeSet::from([
                "annals-client",
                "annals-core",
                "annals-proto",
                "annals-raft",
                "annals-server",
                "annals-store",
            ]),
        ),
        // Who judges shares nothing with who is judged.
        ("annals-checker", BTreeSet::from([])),
        ("annals-disks", BTreeSet::from(["annals-checker", "annals-client"])),
        ("annals-testbed", BTreeSet::from(["annals-checker", "annals-proto", "tonic"])),
        ("annals-workload", BTreeSet::from(["annals-checker", "annals-proto", "tonic"])),
        ("annals-jepsen", BTreeSet::from(["annals-checker", "annals-disks", "annals-testbed", "annals-workload"])),
    ])
}

const WATCHED: [&str; 5] = ["openraft", "rocksdb", "tonic", "object_store", "annals"];

#[test]
fn dependencies_point_one_way() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let allowed = allowed();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        seen.insert(name.to_owned());
        let may = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in the list of docs/architecture.md"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            // What a test uses is not part of the house.
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            let other = dependency["name"].as_str().expect("a name");
            let watched = WATCHED.iter().any(|prefix| other == *prefix || other.starts_with(&format!("{prefix}-")));
            let family = match other {
                _ if other.starts_with("annals-") => other,
                _ => WATCHED.iter().find(|prefix| other.starts_with(**prefix)).copied().unwrap_or(other),
            };
            assert!(!watched || may.contains(family), "{name} must not depend on {other}");
        }
    }
    assert_eq!(seen, allowed.keys().map(|name| (*name).to_owned()).collect(), "every crate is in the list");
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_crate_forbids_unsafe_code() {
    for entry in std::fs::read_dir(root().join("crates")).expect("crates").flatten() {
        let src = entry.path().join("src");
        let top = if src.join("lib.rs").exists() { src.join("lib.rs") } else { src.join("main.rs") };
        let text = std::fs::read_to_string(&top).expect("a readable file");
        assert!(text.contains("#![forbid(unsafe_code)]"), "{} does not", top.display());
    }
}

#[test]
fn no_queue_is_unbounded() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    assert!(files.len() > 30, "the sources were found");
    for file in files.iter().filter(|file| file.components().any(|part| part.as_os_str() == "src")) {
        let text = std::fs::read_to_string(file).expect("a readable file");
        assert!(!text.contains("unbounded_channel"), "{}: bound it in the unit that hurts", file.display());
    }
}
