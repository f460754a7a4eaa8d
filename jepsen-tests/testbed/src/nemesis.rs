//! What is done to a cluster, move by move.
//!
//! A [`Move`] says what to do and for how long; [`perform`] does it, takes it
//! back, and tells honestly what became of it as a [`Fault`]. [`plan`] draws
//! moves from a seed. [`heal`] brings back whatever is left.
//!
//! Invariants
//! - `perform` takes as long as the fault lasts, and leaves nothing of it
//!   behind if it is not cancelled. If it is, [`heal`] does the rest.
//! - A fault counts as installed only when its effect was seen: the process
//!   gone, its threads standing, the rules in force, the change confirmed.
//! - Who is "the leader" is found out when the move begins: plans name roles,
//!   because nobody knows beforehand who will lead.

mod clocks;
mod disks;
mod healing;
mod membership;
mod planning;
mod processes;
mod refusals;
mod weather;

use std::time::Duration;

use annals_checker::history::{Fault, Installed, NodeNumber};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use self::healing::heal;
pub use self::membership::replace_lost;
pub use self::planning::{CLASSES, plan};
use crate::network::Cut;
use crate::process::ProcessState;
use crate::testbed::Testbed;
use crate::{Clock, cluster};

/// To whom something is done. Numbers draw one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Whoever leads.
    Leader,
    /// One that does not.
    Follower(u32),
    /// As many as may fail, the leader among them or not.
    Minority(u32),
    /// Everyone.
    All,
    /// This one.
    Node(NodeNumber),
}

/// Who cannot reach whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// As many as may fail against the rest.
    Halves(u32),
    /// One against all others.
    Isolated(Target),
    /// Two halves that share one node.
    Bridge,
    /// Each node sees its neighbours only. With three nodes that is no fault.
    Ring,
    /// One that hears nobody.
    Deaf(Target),
    /// One that nobody hears.
    Mute(Target),
}

/// What a part of the network suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weather {
    /// Packets are lost, so many of a hundred.
    Loss(u32),
    /// Packets are late.
    Delay {
        /// By how much.
        by: Duration,
        /// And how much more or less.
        jitter: Duration,
        /// Whether one may overtake another.
        reorder: bool,
    },
    /// What goes to the node shares so many bits per second.
    Bandwidth(u64),
}

/// Where it is felt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// Between the leader and one follower.
    Link(u32),
    /// By all that arrives at one node.
    Node(Target),
    /// Everywhere.
    All,
}

/// A change of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changing {
    /// A new node learns and gets a vote; then a follower goes.
    Replace(u32),
    /// As above, but the leader goes.
    ReplaceLeader,
    /// Two new nodes come, then two old ones go.
    GrowAndShrink(u32),
    /// Leadership is handed over.
    Transfer,
    /// A follower is replaced; then its old process and disk come back, and
    /// must not get in.
    OldIdReturns(u32),
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "move", rename_all = "snake_case")]
pub enum Move {
    /// F1: SIGKILL, and started again.
    Kill {
        /// Whom.
        target: Target,
        /// How long it stays down.
        down: Duration,
    },
    /// F2: SIGSTOP, and SIGCONT.
    Pause {
        /// Whom.
        target: Target,
        /// How long it stands.
        time: Duration,
        /// Whether it stands on until somebody else leads, at most 30 s longer.
        until_led: bool,
    },
    /// F3: some do not reach some.
    Partition {
        /// Who.
        shape: Shape,
        /// How.
        how: Cut,
        /// How long.
        time: Duration,
        /// Whether clients do not reach the smaller side either.
        clients: bool,
        /// Comes and goes with this period, half of it each.
        flapping: Option<Duration>,
    },
    /// F4: the network is bad.
    Network {
        /// Of which kind.
        weather: Weather,
        /// Where.
        region: Region,
        /// How long.
        time: Duration,
    },
    /// F11: members come and go.
    Membership(Changing),
    /// F12: one is away for so long that its peers no longer keep what it
    /// misses as log. Needs load, and nodes that are told to keep little:
    /// `log_keep_entries=100`, `memtable_bytes=65536`.
    LongOutage {
        /// Whom.
        target: Target,
        /// How long at most: it ends when the log was purged beyond it.
        time: Duration,
        /// Who is killed in the middle of catching up.
        kill: Option<Party>,
    },
    /// F13: the wall clock jumps.
    Clock {
        /// Whose.
        target: Target,
        /// Seconds forward or back.
        by: i64,
        /// How long it stays so.
        time: Duration,
        /// Jumps to and fro with this period.
        strobe: Option<Duration>,
    },
    /// F14: a node comes with a disk that is not its own as it was.
    Disk(WrongDisk),
    /// F15: SIGTERM to one after the other, each started again.
    RollingRestart,
}

/// A side of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// Who catches up.
    Receiver,
    /// Who helps it: the leader.
    Sender,
}

/// A disk that a node must not come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrongDisk {
    /// An empty one.
    Wiped(Target),
    /// Two nodes have each other's.
    Swapped(u32),
    /// A copy of its own as it was a while ago.
    Restored {
        /// Whose.
        target: Target,
        /// How old.
        age: Duration,
    },
}

/// A move's target is not there: nothing was done.
#[derive(Debug)]
struct NobodyThere(String);

impl std::fmt::Display for NobodyThere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NobodyThere {}

/// What a move turned out to be.
pub(crate) struct Outcome {
    pub(crate) nodes: Vec<NodeNumber>,
    pub(crate) installed: Installed,
    pub(crate) detail: String,
    /// When it was begun in earnest, where that was later than the move.
    pub(crate) start: Option<annals_checker::history::Nanos>,
}

impl Outcome {
    fn installed(nodes: Vec<NodeNumber>, detail: impl Into<String>) -> Outcome {
        Outcome { nodes, installed: Installed::Installed, detail: detail.into(), start: None }
    }

    fn skipped(why: impl Into<String>) -> Outcome {
        Outcome { nodes: Vec::new(), installed: Installed::Skipped, detail: why.into(), start: None }
    }

    /// Counts from the moment at which it was in force.
    fn since(mut self, start: annals_checker::history::Nanos) -> Outcome {
        self.start = Some(start);
        self
    }
}

impl Move {
    /// The same move in a fraction of the time, where the time is a matter of
    /// choice. A leader that is cut off or stands must stay so until another
    /// leads, and an outage until the log was purged: 2 s and more are left of
    /// the first, all of the second.
    #[must_use]
    pub fn hurried(self, by: f64) -> Move {
        let shorter = |time: Duration, least: Duration| time.div_f64(by.max(1.0)).max(least.min(time));
        match self {
            Move::Kill { target, down } => Move::Kill { target, down: shorter(down, Duration::ZERO) },
            Move::Pause { target, time, until_led } => {
                Move::Pause { target, time: shorter(time, Duration::ZERO), until_led }
            }
            Move::Partition { shape, how, time, clients, flapping } => {
                let time = shorter(time, Duration::from_secs(2));
                Move::Partition { shape, how, time, clients, flapping }
            }
            Move::Network { weather, region, time } => {
                Move::Network { weather, region, time: shorter(time, Duration::from_secs(2)) }
            }
            Move::Membership(_)
            | Move::LongOutage { .. }
            | Move::Clock { .. }
            | Move::Disk(_)
            | Move::RollingRestart => self,
        }
    }

    /// The class in the fault matrix.
    pub fn class(&self) -> &'static str {
        match self {
            Move::Kill { .. } => "F1",
            Move::Pause { .. } => "F2",
            Move::Partition { .. } => "F3",
            Move::Network { .. } => "F4",
            Move::Membership(_) => "F11",
            Move::LongOutage { .. } => "F12",
            Move::Clock { .. } => "F13",
            Move::Disk(_) => "F14",
            Move::RollingRestart => "F15",
        }
    }

    /// What exactly, in a word.
    pub fn name(&self) -> String {
        match self {
            Move::Kill { target, .. } => format!("kill-{}", target.name()),
            Move::Pause { target, .. } => format!("pause-{}", target.name()),
            Move::Partition { shape, how, clients, flapping, .. } => {
                let shape = match shape {
                    Shape::Halves(_) => "halves".into(),
                    Shape::Isolated(target) => format!("isolate-{}", target.name()),
                    Shape::Bridge => "bridge".into(),
                    Shape::Ring => "ring".into(),
                    Shape::Deaf(target) => format!("one-way-in-{}", target.name()),
                    Shape::Mute(target) => format!("one-way-out-{}", target.name()),
                };
                let how = match how {
                    Cut::Drop => "",
                    Cut::Reset => "-reset",
                };
                let clients = if *clients { "-with-clients" } else { "" };
                format!("{}{shape}{how}{clients}", if flapping.is_some() { "flapping-" } else { "" })
            }
            Move::Network { weather, region, .. } => {
                let weather = match weather {
                    Weather::Loss(percent) => format!("loss-{percent}"),
                    Weather::Delay { by, reorder: false, .. } => format!("delay-{}", by.as_millis()),
                    Weather::Delay { by, reorder: true, .. } => format!("reorder-{}", by.as_millis()),
                    Weather::Bandwidth(_) => "bandwidth".into(),
                };
                let region = match region {
                    Region::Link(_) => "link".into(),
                    Region::Node(target) => target.name(),
                    Region::All => "all".into(),
                };
                format!("{weather}-{region}")
            }
            Move::Membership(changing) => match changing {
                Changing::Replace(_) => "replace-follower",
                Changing::ReplaceLeader => "replace-leader",
                Changing::GrowAndShrink(_) => "grow-and-shrink",
                Changing::Transfer => "transfer-leader",
                Changing::OldIdReturns(_) => "old-id-returns",
            }
            .into(),
            Move::LongOutage { kill, .. } => match kill {
                None => "long-outage",
                Some(Party::Receiver) => "long-outage-kill-receiver",
                Some(Party::Sender) => "long-outage-kill-sender",
            }
            .into(),
            Move::Clock { target, strobe, by, .. } => match strobe {
                Some(_) => format!("clock-strobe-{}", target.name()),
                None => format!("clock-jump-{}-{by:+}s", target.name()),
            },
            Move::Disk(wrong) => match wrong {
                WrongDisk::Wiped(target) => format!("wiped-disk-{}", target.name()),
                WrongDisk::Swapped(_) => "swapped-disks".into(),
                WrongDisk::Restored { target, .. } => format!("restored-disk-{}", target.name()),
            },
            Move::RollingRestart => "rolling-restart".into(),
        }
    }
}

impl Target {
    fn name(self) -> String {
        match self {
            Target::Leader => "leader".into(),
            Target::Follower(_) => "follower".into(),
            Target::Minority(_) => "minority".into(),
            Target::All => "all".into(),
            Target::Node(node) => format!("node-{node}"),
        }
    }

    /// Who that is at this moment.
    ///
    /// # Errors
    /// Nobody leads, and it matters.
    pub async fn resolve(self, testbed: &Testbed) -> Result<Vec<NodeNumber>> {
        self.find(testbed).await.map_err(|error| anyhow::Error::new(NobodyThere(format!("{error:#}"))))
    }

    async fn find(self, testbed: &Testbed) -> Result<Vec<NodeNumber>> {
        let nodes = testbed.nodes();
        let number = |number: u32| usize::try_from(number).unwrap_or(0);
        Ok(match self {
            Target::Leader => vec![wait_leader(testbed).await?],
            Target::Follower(drawn) => {
                let leader = wait_leader(testbed).await?;
                let others: Vec<_> = nodes.into_iter().filter(|node| *node != leader).collect();
                let drawn = others.get(number(drawn) % others.len().max(1)).copied();
                vec![drawn.context("there is no follower")?]
            }
            Target::Minority(drawn) => {
                let few = (nodes.len().max(1) - 1) / 2;
                (0..few).map(|at| nodes[(at + number(drawn)) % nodes.len()]).collect()
            }
            Target::All => nodes,
            Target::Node(node) => vec![node],
        })
    }
}

/// Does it, and takes it back.
pub async fn perform(testbed: &Testbed, what: &Move, clock: &Clock) -> Fault {
    let begin = clock();
    let outcome = match what {
        Move::Kill { target, down } => processes::kill(testbed, *target, *down).await,
        Move::Pause { target, time, until_led } => processes::pause(testbed, *target, *time, *until_led).await,
        Move::RollingRestart => processes::rolling_restart(testbed).await,
        Move::LongOutage { target, time, kill } => processes::long_outage(testbed, *target, *time, *kill).await,
        Move::Partition { shape, how, time, clients, flapping } => {
            weather::partition(testbed, *shape, *how, *time, *clients, *flapping).await
        }
        Move::Network { weather, region, time } => weather::weather(testbed, *weather, *region, *time).await,
        Move::Membership(changing) => membership::change(testbed, *changing).await,
        Move::Clock { target, by, time, strobe } => clocks::move_clock(testbed, *target, *by, *time, *strobe).await,
        Move::Disk(wrong) => disks::wrong_disk(testbed, *wrong).await,
    };
    let outcome = outcome.unwrap_or_else(|error| {
        // Moves look for their target before they do anything.
        let installed = match error.is::<NobodyThere>() {
            true => Installed::Skipped,
            false => Installed::Indeterminate,
        };
        Outcome { nodes: Vec::new(), installed, detail: format!("{error:#}"), start: None }
    });
    Fault {
        class: what.class().into(),
        name: what.name(),
        nodes: outcome.nodes,
        start: outcome.start.unwrap_or(begin),
        end: clock(),
        installed: outcome.installed,
        detail: outcome.detail,
    }
}

/// Who leads, waiting for an election that is under way.
async fn wait_leader(testbed: &Testbed) -> Result<NodeNumber> {
    for _ in 0..50 {
        if let Some(leader) = testbed.leader().await {
            return Ok(leader);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("nobody leads")
}

/// Of these nodes, the ones whose process runs and that nobody else works on.
fn running(testbed: &Testbed, nodes: &[NodeNumber]) -> Vec<NodeNumber> {
    let runs = |node: &&NodeNumber| {
        matches!(testbed.state(**node), ProcessState::Running { .. }) && !testbed.is_reserved(**node)
    };
    nodes.iter().filter(runs).copied().collect()
}

/// The highest term that any node knows.
async fn highest_term(testbed: &Testbed) -> u64 {
    testbed.statuses().await.values().map(|status| status.term).max().unwrap_or(0)
}

/// Tells who leads now, or that nobody does.
async fn who_leads(testbed: &Testbed) -> String {
    match cluster::leader_of(&testbed.statuses().await) {
        Some((node, term)) => format!("node {node} leads in term {term}"),
        None => "nobody leads".into(),
    }
}
