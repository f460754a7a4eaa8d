//! Mistakes on purpose are for the fault suite alone: whoever builds Annals as
//! usual gets a program that does not know of them.

mod support;

use std::path::Path;
use std::process::Command;

use support::{Ran, annals};

const FEATURE: &str = "seeded-bugs";

#[cfg(not(feature = "seeded-bugs"))]
#[test]
fn the_program_knows_of_no_mistakes_on_purpose() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_annals")).expect("the program is there");
    let variable = b"SEEDED_BUG";
    assert!(!program.windows(variable.len()).any(|bytes| bytes == variable), "it would look for the variable");
    let ran = Ran::of(&annals().env("SEEDED_BUG", "no bug").arg("version").output().expect("runs")).exits(0);
    assert!(!ran.out.contains(FEATURE), "{}", ran.out);
    assert_eq!(ran.err, "");
}

#[cfg(feature = "seeded-bugs")]
#[test]
fn a_program_that_makes_mistakes_says_so_and_makes_none_that_it_does_not_know() {
    let version = |bug: &str| Ran::of(&annals().env("SEEDED_BUG", bug).arg("version").output().expect("runs"));
    let ran = version("S7").exits(0);
    assert!(ran.out.contains("+seeded-bugs") && ran.err.contains("SEEDED BUG S7"), "{ran:?}");
    assert!(version("S99").exits(2).err.contains("no seeded bug"));
}

#[test]
fn nothing_but_its_own_name_switches_the_mistakes_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(&root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let names = |list: &serde_json::Value| list.to_string().contains(FEATURE);
    let mut having = 0;
    for package in metadata["packages"].as_array().expect("packages") {
        for (feature, enables) in package["features"].as_object().expect("features") {
            if feature == FEATURE {
                having += 1;
            } else {
                assert!(!names(enables), "{}: {feature} = {enables}", package["name"]);
            }
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            assert!(!names(&dependency["features"]), "{}: {}", package["name"], dependency["name"]);
        }
    }
    assert!(having >= 5, "the feature was found");
    let core = std::fs::read_to_string(root.join("crates/core/src/seeded.rs")).expect("readable");
    assert!(
        core.contains("#[cfg(all(feature = \"seeded-bugs\", not(debug_assertions)))]\ncompile_error!"),
        "a release build with the feature must not compile"
    );
}
