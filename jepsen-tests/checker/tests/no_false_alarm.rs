//! A correct server is never found guilty.

mod fake;

use annals_checker::{Settings, Validity, check};

const RUNS: u64 = 10_000;

#[test]
fn ten_thousand_runs_of_a_correct_server_hold_no_violation() {
    let settings = Settings { final_nodes: vec![1, 2, 3], ..Settings::default() };
    let mut valid = 0;
    for seed in 0..RUNS {
        let verdict = check(&fake::history(seed, None), &settings);
        assert!(verdict.violated().is_empty(), "seed {seed}\n{}", verdict.table());
        valid += u64::from(verdict.validity == Validity::Valid);
    }
    // A few are too short to tell how long a leader was missing.
    assert!(valid * 100 >= RUNS * 95, "{valid} of {RUNS} runs are valid");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    assert_eq!(fake::history(7, None), fake::history(7, None));
    assert_ne!(fake::history(7, None), fake::history(8, None));
}
