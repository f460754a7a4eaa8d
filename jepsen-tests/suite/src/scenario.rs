//! What can be run, by name.
//!
//! A scenario is a kind of cluster, a load and faults of some classes. Most
//! draw their faults from a seed; the directed ones play out one story that
//! chance would hardly tell.

use std::time::Duration;

use annals_checker::Settings;
use anyhow::{Result, bail};

use crate::harness::{Harness, Job, Report, Shape};
use crate::{access, corruption, directed, disks, mix, power_loss, scavenge};

/// How much of a scenario to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Faults after which it ends, however much time is left.
    pub(crate) faults: usize,
    /// Appends that must be acknowledged while faults of each class last.
    pub(crate) minimum: u64,
    /// By how much the drawn faults are shorter, where that is a matter of
    /// choice. 1: as drawn, for minutes of partitions; 4: for many of them.
    pub(crate) hurry: f64,
}

/// A scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The classes of faults that must happen in it.
    pub(crate) classes: &'static [&'static str],
    pub(crate) about: &'static str,
}

/// All of them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "calm",
        classes: &["F0"],
        about: "no faults: nothing may be refused for lack of a leader, nothing unknown",
    },
    Scenario { name: "kill", classes: &["F1"], about: "SIGKILL to the leader, a follower, a minority, all at once" },
    Scenario { name: "kill-leader", classes: &["F1"], about: "SIGKILL to whoever leads, again and again" },
    Scenario {
        name: "pause",
        classes: &["F2"],
        about: "SIGSTOP, the leader half of the time; it wakes up when another leads",
    },
    Scenario {
        name: "partition",
        classes: &["F3"],
        about: "halves, isolated leader, bridge, one-way, flapping; dropped and reset",
    },
    Scenario { name: "network", classes: &["F4"], about: "loss, delay, reordering, little bandwidth" },
    Scenario {
        name: "power-loss",
        classes: &["F5"],
        about: "disks that keep only what was flushed, and a random part of the rest",
    },
    Scenario { name: "crash-points", classes: &["F6"], about: "a node killed at its N-th system call, for every N-th" },
    Scenario { name: "disk-full", classes: &["F7"], about: "no space, then space again" },
    Scenario { name: "io-error", classes: &["F8"], about: "writes and syncs that fail" },
    Scenario {
        name: "corruption",
        classes: &["F9"],
        about: "bits flipped, pages zeroed, files cut, on the disk of one node",
    },
    Scenario { name: "slow-disk", classes: &["F10"], about: "syncs that take long" },
    Scenario {
        name: "membership",
        classes: &["F11"],
        about: "nodes come and go, the leader too; old ids must not return",
    },
    Scenario {
        name: "catch-up",
        classes: &["F12"],
        about: "a node away for longer than the log is kept; kills in the middle of its return",
    },
    Scenario { name: "clock", classes: &["F13"], about: "wall clocks that jump by a second to a year" },
    Scenario { name: "identity", classes: &["F14"], about: "wiped, swapped and outdated disks" },
    Scenario { name: "rolling", classes: &["F15"], about: "SIGTERM to one node after the other" },
    Scenario {
        name: "processes",
        classes: &["F1", "F2", "F3", "F4"],
        about: "kills, pauses, partitions and bad networks, one after the other",
    },
    Scenario {
        name: "groups",
        classes: &["F1", "F2", "F3"],
        about: "consumer groups whose consumers fail, with kills, pauses and partitions, one after the other",
    },
    Scenario {
        name: "mix",
        classes: &["F1", "F3"],
        about: "F1 to F5, F8 to F13 at once, shifting every half minute, a quarter of the time calm",
    },
    Scenario { name: "vote-loss", classes: &["F5"], about: "power lost just after a vote" },
    Scenario {
        name: "lone-leader",
        classes: &["F3"],
        about: "the leader cut off again and again, while clients still reach it",
    },
    Scenario {
        name: "rotten-majority",
        classes: &["F9"],
        about: "a node with a damaged log, and a new leader elected with its vote",
    },
    Scenario {
        name: "slow-catch-up",
        classes: &["F3"],
        about: "a follower cut off until its log was purged elsewhere, then read from while it catches up",
    },
    Scenario {
        name: "empty-majority",
        classes: &["F14"],
        about: "a node with an empty disk under its old id, and a new leader elected with its vote",
    },
    Scenario {
        name: "access",
        classes: &[],
        about: "users whose rights change, while leaders are killed, paused and cut off",
    },
    Scenario {
        name: "scavenge",
        classes: &[],
        about: "streams deleted, truncated and restored under scavenges whose leader is killed, paused and cut off",
    },
    Scenario {
        name: "restarts",
        classes: &["F1"],
        about: "all nodes killed at once, again and again, while state is flushed all the time",
    },
];

/// Runs one.
///
/// # Errors
/// It could not be run to its end; nothing is known then.
pub(crate) async fn run(job: Job, amount: Amount) -> Result<Report> {
    let result = run_to_its_end(job, amount).await;
    if result.is_err() {
        // What was under way holds on to the cluster until it is next looked at.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    result
}

async fn run_to_its_end(job: Job, amount: Amount) -> Result<Report> {
    println!("{} seed {} on {} nodes", job.scenario, job.seed, job.nodes);
    let settings = |classes: &[&str]| Settings {
        required: classes.iter().map(|class| (*class).to_owned()).collect(),
        minimum: amount.minimum,
        unavailability_p99_max: None,
        ..Settings::default()
    };
    let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == job.scenario) else {
        bail!("there is no scenario {:?}; `annals-jepsen list` names them", job.scenario);
    };
    let settings = settings(scenario.classes);
    let faults = amount.faults;
    match scenario.name {
        "calm" => {
            let harness = Harness::start(job, Shape::default()).await?;
            let load = harness.load(harness.plan());
            tokio::time::sleep(harness.job.duration).await;
            harness.finish(Some(load), settings).await
        }
        "kill" | "pause" | "partition" | "network" | "processes" | "rolling" => {
            mix::in_turn(job, scenario.classes, Shape::default(), amount, settings).await
        }
        "membership" | "catch-up" | "identity" => {
            mix::in_turn(job, scenario.classes, Shape::small(), amount, settings).await
        }
        "clock" => {
            mix::in_turn(job, scenario.classes, Shape { fake_clock: true, ..Shape::default() }, amount, settings).await
        }
        "access" => access::run(job, amount).await,
        "scavenge" => scavenge::run(job, amount).await,
        // Twice as many faults in the same time: what counts for groups is the change of leaders.
        "groups" => {
            let amount = Amount { hurry: amount.hurry * 2.0, ..amount };
            mix::with_groups(job, scenario.classes, amount, settings).await
        }
        "mix" => mix::at_once(job, settings).await,
        "power-loss" => power_loss::run(job, faults, settings).await,
        // A slow network and no leader most of the time: what counts is what
        // one node remembers.
        "vote-loss" => power_loss::vote_loss(job, faults, Settings { minimum: 0, ..settings }).await,
        "crash-points" => disks::crash_points(job, faults, settings).await,
        "disk-full" => disks::full(job, faults, settings).await,
        "io-error" => disks::errors(job, faults, settings).await,
        "slow-disk" => disks::slow(job, faults, settings).await,
        "corruption" => corruption::run(job, faults, settings).await,
        "rotten-majority" => corruption::rotten_majority(job, faults, settings).await,
        "kill-leader" => directed::kill_leader(job, amount, settings).await,
        "lone-leader" => directed::lone_leader(job, faults, settings).await,
        "slow-catch-up" => directed::slow_catch_up(job, faults, settings).await,
        "empty-majority" => directed::empty_majority(job, faults, settings).await,
        "restarts" => directed::restarts(job, faults, settings).await,
        name => bail!("the scenario {name} is listed and not there"),
    }
}

/// The time between two faults: long enough for some work, short enough for
/// many of them.
pub(crate) fn pause_between(rng: &mut impl rand::Rng) -> Duration {
    Duration::from_millis(rng.random_range(700..2_500))
}
