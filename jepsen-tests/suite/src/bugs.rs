//! The suite against servers that are known to be wrong.
//!
//! A suite that finds nothing may be blind. Each of these mistakes is one that
//! somebody made in a real system; a program built with the feature
//! `seeded-bugs` makes it on demand. A bug counts as caught only when one of
//! the properties that it breaks is reported, in a scenario that anybody can
//! run again.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use annals_checker::Property::{self, P1, P2, P3, P4, P5, P6, P8, P9, P10, P11, P13, P15};
use anyhow::{Result, ensure};

use crate::harness::{self, Job, Report};
use crate::scenario::{self, Amount};

struct Bug {
    name: &'static str,
    about: &'static str,
    scenario: &'static str,
    faults: usize,
    /// Any of these.
    breaks: &'static [Property],
    /// What the suite itself may say instead: part of a complaint.
    complaint: &'static str,
}

const BUGS: &[Bug] = &[
    bug("S1", "acknowledged before it is committed", "lone-leader", 6, &[P3, P1], ""),
    bug("S2", "no sync on append", "power-loss", 6, &[P3, P1], "power loss"),
    bug("S3", "no sync on vote", "vote-loss", 3, &[], "election safety"),
    bug("S4", "a follower answers linearizable reads by itself", "partition", 4, &[P8], ""),
    bug("S5", "a leader answers without asking its quorum", "pause", 6, &[P8], ""),
    bug("S6", "the read index is taken after the read", "kill", 4, &[P8], ""),
    bug("S7", "ids are remembered by the leader only", "kill", 8, &[P5], ""),
    bug("S8", "ids are not part of catching up", "catch-up", 4, &[P5, P13], ""),
    bug("S9", "expectations are checked before the proposal only", "calm", 0, &[P9, P4], ""),
    bug("S10", "the applied index and the data are two writes", "crash-points", 40, &[P5, P4, P13], "killed at"),
    bug("S11", "the log is purged before the state is durable", "power-loss", 6, &[P3, P13], "power loss"),
    bug("S12", "catching up clears, then loads", "slow-catch-up", 2, &[P10, P13], ""),
    bug("S13", "a gap between catching up and following", "calm", 0, &[P11], ""),
    bug("S14", "one event twice when a subscription resumes", "kill", 4, &[P11], ""),
    bug("S15", "slow subscribers silently lose events", "calm", 0, &[P11], ""),
    bug("S16", "the wall clock in apply", "clock", 3, &[P13, P15], ""),
    bug("S17", "the order of a hash map in apply", "catch-up", 3, &[P13, P1], ""),
    bug("S18", "one append, two entries", "kill", 10, &[P6], ""),
    bug("S19", "recovery up to the first damaged record", "rotten-majority", 4, &[P3, P13, P1], ""),
    bug("S20", "errors of sync are logged and ignored", "io-error", 3, &[P3], "after an I/O error"),
    bug("S21", "unknown writes are repeated under fresh ids", "kill", 8, &[P5, P2], ""),
    bug("S26", "rights are looked at before the proposal only", "access", 8, &[], "P14"),
    bug("S27", "a right that was once there is remembered", "access", 8, &[], "P14"),
    bug("S22", "an empty node is taken for the one it replaces", "empty-majority", 3, &[P3, P1], ""),
    bug("S23", "a group's checkpoint passes what a consumer has not answered for", "groups", 6, &[P11], ""),
    bug("S24", "a key's next event is handed out while one is with a consumer", "groups", 3, &[P11], ""),
    bug("S25", "an event counts as parked before it is", "groups", 6, &[P11], ""),
    bug("S28", "a scavenge takes the first event that is kept", "scavenge", 3, &[], "nothing had hidden it"),
    bug("S29", "catching up leaves out what was reclaimed", "scavenge", 6, &[], "P14"),
];

const fn bug(
    name: &'static str,
    about: &'static str,
    scenario: &'static str,
    faults: usize,
    breaks: &'static [Property],
    complaint: &'static str,
) -> Bug {
    Bug { name, about, scenario, faults, breaks, complaint }
}

/// Seeds to try before a bug counts as missed.
const ATTEMPTS: u64 = 3;

/// Tries these bugs, or all.
pub(crate) async fn run(binary: &Path, out: &Path, names: &[String], seed: u64) -> Result<bool> {
    let binary = harness::require_binary(binary)?;
    for name in names {
        ensure!(BUGS.iter().any(|bug| bug.name == name), "there is no seeded bug {name}");
    }
    let mut table =
        String::from("| bug | what is wrong | scenario, seed | caught by | seconds |\n|---|---|---|---|---|\n");
    let mut missed = Vec::new();
    for bug in BUGS.iter().filter(|bug| names.is_empty() || names.iter().any(|name| name == bug.name)) {
        let begin = Instant::now();
        let mut caught = None;
        for seed in seed..seed + ATTEMPTS {
            let job = Job {
                scenario: bug.scenario.to_owned(),
                seed,
                nodes: 3,
                duration: Duration::from_secs(if bug.faults == 0 { 25 } else { 180 }),
                binary: binary.clone(),
                out: out.join(bug.name),
                seeded_bug: Some(bug.name.to_owned()),
            };
            match scenario::run(job, Amount { faults: bug.faults, minimum: 0, hurry: 1.0 }).await {
                Ok(report) => {
                    crate::verdict::print(&report);
                    caught = evidence(bug, &report).map(|by| (seed, by));
                }
                Err(error) => println!("  could not be run to its end: {error:#}"),
            }
            if caught.is_some() {
                break;
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        match caught {
            Some((seed, by)) => {
                println!("{}: caught by {by} in {seconds:.0} s", bug.name);
                writeln!(table, "| {} | {} | {}, {seed} | {by} | {seconds:.0} |", bug.name, bug.about, bug.scenario)?;
            }
            None => {
                println!("{}: MISSED after {ATTEMPTS} seeds", bug.name);
                writeln!(table, "| {} | {} | {} | **missed** | {seconds:.0} |", bug.name, bug.about, bug.scenario)?;
                missed.push(bug.name);
            }
        }
        std::fs::write(out.join("bugs.md"), &table)?;
    }
    println!("\n{table}");
    println!("missed: {}", if missed.is_empty() { "none".to_owned() } else { missed.join(" ") });
    Ok(missed.is_empty())
}

fn evidence(bug: &Bug, report: &Report) -> Option<String> {
    let mut found = Vec::new();
    if let Some(verdict) = &report.verdict {
        for property in bug.breaks {
            if let Some(finding) = verdict.properties.get(property)
                && finding.violations > 0
            {
                found.push(format!("{property} ({})", finding.violations));
            }
        }
    }
    if !bug.complaint.is_empty()
        && let Some(complaint) = report.complaints.iter().find(|complaint| complaint.contains(bug.complaint))
    {
        let short: String = complaint.chars().take(120).collect();
        found.push(format!("the suite: {}", short.replace(['|', '\n'], " ")));
    }
    (!found.is_empty()).then(|| found.join(", "))
}
