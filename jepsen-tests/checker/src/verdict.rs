//! What the checker says about a history.
//!
//! Invariants
//! - One violated property makes a verdict invalid, however much is unknown.
//! - A verdict is valid only where the history held enough to decide: the
//!   state in which the cluster ended, and every fault that was asked for with
//!   enough load around it. Otherwise it is unknown, which is no praise.
//! - Every violation is counted; the texts of the first 20 of each property
//!   are kept.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::history::Nanos;

/// Texts that are kept of each property.
pub const TEXTS_KEPT: usize = 20;

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Property {
    /// Agreement: a position holds the same event in every sighting and
    /// acknowledgement.
    P1,
    /// No phantoms: what is seen was sent before, not refused, and is intact.
    P2,
    /// No loss: what was acknowledged or seen is in the log at the end.
    P3,
    /// Density: positions and revisions have no gaps, reads are slices.
    P4,
    /// Exactly once: no id is in the log twice or acknowledged at two places.
    P5,
    /// Atomicity: an append is there whole and adjacent, or not at all.
    P6,
    /// Appends take their places in the order of real time.
    P7,
    /// Reads that ask for it are linearizable.
    P8,
    /// Expectations: acknowledged where true, refused where false.
    P9,
    /// Local and session reads show a prefix, the one that they must.
    P10,
    /// Subscriptions deliver everything once and in order; consumer groups
    /// lose nothing, and keep the orders that they promise.
    P11,
    /// Faults and load happened as wanted, and the cluster came back in time.
    P12,
    /// Replicas are identical.
    P13,
    /// Truncation, deletion and tombstones hide what they must, and only that.
    P14,
    /// Time never goes back along positions and is the same everywhere.
    P15,
}

impl Property {
    /// All of them.
    pub const ALL: [Property; 15] = [
        Property::P1,
        Property::P2,
        Property::P3,
        Property::P4,
        Property::P5,
        Property::P6,
        Property::P7,
        Property::P8,
        Property::P9,
        Property::P10,
        Property::P11,
        Property::P12,
        Property::P13,
        Property::P14,
        Property::P15,
    ];

    /// A few words for tables.
    pub fn title(self) -> &'static str {
        match self {
            Property::P1 => "agreement",
            Property::P2 => "no phantoms",
            Property::P3 => "no loss",
            Property::P4 => "density, reads are slices",
            Property::P5 => "exactly once",
            Property::P6 => "atomic appends",
            Property::P7 => "order of appends",
            Property::P8 => "linearizable reads",
            Property::P9 => "expectations",
            Property::P10 => "local and session reads",
            Property::P11 => "subscriptions",
            Property::P12 => "coverage and liveness",
            Property::P13 => "identical replicas",
            Property::P14 => "truncation and deletion",
            Property::P15 => "time",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The whole of it in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    /// Every property held, and enough was recorded to know.
    Valid,
    /// A property was violated.
    Invalid,
    /// Nothing was found, but not enough was recorded or happened.
    Unknown,
}

/// One breach of a property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// What happened, quoting the operations.
    pub text: String,
    /// When to look, if it has a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Nanos>,
}

/// What became of one property.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How many things were looked at.
    pub checked: u64,
    /// How many breached it.
    pub violations: u64,
    /// The first of them.
    pub first: Vec<Violation>,
}

/// How much a history holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Appends and deletions acknowledged.
    pub acked: u64,
    /// Appends and deletions refused.
    pub refused: u64,
    /// Appends and deletions whose fate was not told.
    pub unknown: u64,
    /// Of those, how many are in the log at the end.
    pub unknown_happened: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Reads that failed.
    pub reads_failed: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Connections of subscriptions.
    pub connections: u64,
    /// Events delivered to subscriptions.
    pub delivered: u64,
    /// Consumer groups.
    #[serde(default)]
    pub groups: u64,
    /// Events handed to their consumers, first time or again.
    #[serde(default)]
    pub handed: u64,
    /// Of those, how many had been handed out before.
    #[serde(default)]
    pub handed_again: u64,
    /// Events that were parked, each time.
    #[serde(default)]
    pub parked: u64,
    /// Sightings of events in reads, subscriptions, groups and final states.
    pub sightings: u64,
    /// Events in the log at the end.
    pub events: u64,
    /// Faults that were installed.
    pub faults: u64,
}

/// How one class of faults was covered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCoverage {
    /// Faults that happened.
    pub installed: u64,
    /// Faults that were left out.
    pub skipped: u64,
    /// Faults of which nobody knows.
    pub indeterminate: u64,
    /// Appends acknowledged while one was in force.
    pub acked: u64,
}

/// How long nothing was acknowledged after the leader was killed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unavailability {
    /// Kills that were looked at.
    pub kills: u64,
    /// The median, nanoseconds.
    pub p50: Nanos,
    /// 99 of 100 were shorter, nanoseconds.
    pub p99: Nanos,
    /// The longest, nanoseconds.
    pub max: Nanos,
    /// All of them, ascending, to be put together with those of other runs.
    #[serde(default)]
    pub each: Vec<Nanos>,
}

/// What happened to the cluster and how it coped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// By class of faults.
    pub classes: BTreeMap<String, ClassCoverage>,
    /// After kills of the leader.
    pub unavailability: Unavailability,
}

/// What the checker says about a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// In one word.
    pub validity: Validity,
    /// Why it cannot be called valid though nothing was found.
    pub unknown: Vec<String>,
    /// By property; all are there.
    pub properties: BTreeMap<Property, Finding>,
    /// What the history held.
    pub counts: Counts,
    /// What happened to the cluster.
    pub coverage: Coverage,
}

impl Verdict {
    /// Whether every property held and enough was recorded to know.
    pub fn is_valid(&self) -> bool {
        self.validity == Validity::Valid
    }

    /// The properties that were violated, in order.
    pub fn violated(&self) -> Vec<Property> {
        self.properties.iter().filter(|(_, finding)| finding.violations > 0).map(|(property, _)| *property).collect()
    }

    /// The exit code that tells it: 0 valid, 1 invalid, 2 unknown.
    pub fn exit_code(&self) -> u8 {
        match self.validity {
            Validity::Valid => 0,
            Validity::Invalid => 1,
            Validity::Unknown => 2,
        }
    }

    /// A table for a terminal.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let Counts { acked, refused, unknown, unknown_happened, reads, reads_failed, events, .. } = &self.counts;
        let Counts { subscriptions, connections, delivered, sightings, faults, .. } = &self.counts;
        let _ = writeln!(out, "verdict: {}", word(self.validity));
        let _ = writeln!(
            out,
            "{events} events; writes: {acked} acked, {refused} refused, {unknown} unknown ({unknown_happened} happened); \
             reads: {reads} answered, {reads_failed} failed; {subscriptions} subscriptions over {connections} \
             connections, {delivered} events delivered; {sightings} sightings; {faults} faults"
        );
        let Counts { groups, handed, handed_again, parked, .. } = &self.counts;
        if *groups > 0 {
            let _ = writeln!(
                out,
                "{groups} consumer groups: {handed} events handed out, {handed_again} of them again; {parked} parked"
            );
        }
        for (property, finding) in &self.properties {
            let said = match finding.violations {
                0 if finding.checked == 0 => "nothing to check".to_owned(),
                0 => "holds".to_owned(),
                n => format!("VIOLATED {n} times"),
            };
            let _ = writeln!(out, "{property:<4} {:<26} {:>10} checked   {said}", property.title(), finding.checked);
            for violation in &finding.first {
                let _ = writeln!(out, "       - {}", violation.text);
            }
        }
        for (class, covered) in &self.coverage.classes {
            let ClassCoverage { installed, skipped, indeterminate, acked } = covered;
            let _ = writeln!(
                out,
                "{class:<4} {installed} installed, {skipped} skipped, {indeterminate} indeterminate; {acked} appends \
                 acked meanwhile"
            );
        }
        let Unavailability { kills, p50, p99, max, .. } = &self.coverage.unavailability;
        if *kills > 0 {
            let _ = writeln!(
                out,
                "unavailable after {kills} kills of the leader: p50 {}, p99 {}, max {}",
                Seconds(*p50),
                Seconds(*p99),
                Seconds(*max)
            );
        }
        for reason in &self.unknown {
            let _ = writeln!(out, "unknown: {reason}");
        }
        out
    }
}

fn word(validity: Validity) -> &'static str {
    match validity {
        Validity::Valid => "VALID",
        Validity::Invalid => "INVALID",
        Validity::Unknown => "UNKNOWN",
    }
}

/// Nanoseconds shown as seconds.
pub(crate) struct Seconds(pub(crate) Nanos);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000)
    }
}

/// A verdict in the making.
pub(crate) struct Findings {
    properties: BTreeMap<Property, Finding>,
    unknown: Vec<String>,
    /// What the history held.
    pub(crate) counts: Counts,
    /// What happened to the cluster.
    pub(crate) coverage: Coverage,
}

impl Findings {
    pub(crate) fn new() -> Self {
        Findings {
            properties: Property::ALL.into_iter().map(|property| (property, Finding::default())).collect(),
            unknown: Vec::new(),
            counts: Counts::default(),
            coverage: Coverage::default(),
        }
    }

    fn finding(&mut self, property: Property) -> &mut Finding {
        self.properties.entry(property).or_default()
    }

    /// So many more things were looked at.
    pub(crate) fn checked(&mut self, property: Property, more: u64) {
        self.finding(property).checked += more;
    }

    /// A breach. The text is only made where it is kept: a broken cluster can
    /// breach a property in every single answer.
    pub(crate) fn violation(&mut self, property: Property, time: Option<Nanos>, text: impl FnOnce() -> String) {
        let finding = self.finding(property);
        finding.violations += 1;
        if finding.first.len() < TEXTS_KEPT {
            finding.first.push(Violation { text: text(), time });
        }
    }

    /// A reason why the verdict cannot be "valid".
    pub(crate) fn unknown(&mut self, reason: String) {
        self.unknown.push(reason);
    }

    pub(crate) fn verdict(self) -> Verdict {
        let Findings { properties, unknown, counts, coverage } = self;
        let validity = if properties.values().any(|finding| finding.violations > 0) {
            Validity::Invalid
        } else if unknown.is_empty() {
            Validity::Valid
        } else {
            Validity::Unknown
        };
        Verdict { validity, unknown, properties, counts, coverage }
    }
}
