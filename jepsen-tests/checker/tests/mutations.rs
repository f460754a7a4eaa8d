//! A server with a bug is found guilty, for the right reason, within 20 runs.

mod fake;

use annals_checker::{Settings, check};
use fake::Bug;

const RUNS: u64 = 20;

#[test]
fn every_bug_is_caught_within_20_runs_by_a_property_that_is_named_for_it() {
    let mut missed = Vec::new();
    for (bug, wanted) in Bug::ALL {
        let mut found = Vec::new();
        let caught = (0..RUNS).find(|seed| {
            let verdict = check(&fake::history(*seed, Some(bug)), &Settings::default());
            let violated: Vec<String> = verdict.violated().iter().map(ToString::to_string).collect();
            let named = violated.iter().any(|property| wanted.contains(&property.as_str()));
            found.extend(violated);
            named
        });
        found.sort();
        found.dedup();
        match caught {
            Some(seed) => println!("{bug:?}: seed {seed}, {found:?}"),
            None => missed.push(format!("{bug:?} should be caught by one of {wanted:?}, but {found:?} were violated")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
