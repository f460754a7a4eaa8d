//! What a run saw: the one thing the checker judges.
//!
//! A history is a file of JSON, one [`Record`] per line. Whoever talks to a
//! cluster writes one record per call, with the time before its first byte
//! left and the time after its whole answer was parsed; faults and the state
//! in which the cluster ended go into the same file.
//!
//! Invariants
//! - All times are nanoseconds of one monotonic clock, counted from the run's
//!   beginning.
//! - A call whose fate is not known has no `complete`: it may take effect at
//!   any later time, or never.
//! - An outcome is `Refused` only where the protocol promises that nothing was
//!   applied. Everything else that is not an acknowledgement is `Unknown`.
//! - Positions are counted from 1, revisions from 0, both without gaps.
//! - The records of one history may stand in any order.

mod group;

use std::fmt;
use std::sync::Arc;

pub use group::{
    Answer, Answered, Checkpoint, Defined, Group, GroupEnded, GroupSource, GroupStep, Handed, Joined, Left, Parked,
    ParkedMessage, Replay,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds since the run began.
pub type Nanos = u64;

/// A node of the cluster, by its number in the test bed (1, 2, 3 …), not by
/// the id that the cluster gave it.
pub type NodeNumber = u32;

/// The id of an event, as its 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u128);

/// A digest over the type, data and metadata of an event, computed by the
/// client from what it sent or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u64);

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// What was run; at most once.
    Run(Run),
    /// An append, to one stream or to several at once.
    Append(Append),
    /// A soft delete or a tombstone.
    Delete(Delete),
    /// A read of a stream or of all events.
    Read(Read),
    /// What a subscription asks for. Stands for all its connections.
    Subscription(Subscription),
    /// A subscription was opened or resumed.
    Opened(Opened),
    /// Events arrived at a subscription.
    Delivered(Delivered),
    /// A subscription was told that it has caught up.
    CaughtUp(CaughtUp),
    /// A connection of a subscription ended.
    Dropped(Dropped),
    /// A subscription was ended by the run.
    Closed(Closed),
    /// Something was done to the cluster.
    Fault(Fault),
    /// A part of what a node holds at the end.
    Final(Final),
    /// The chain hash of a node's events up to a position.
    Hash(Hash),
    /// Something happened to a consumer group.
    Group(Group),
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The name of the scenario.
    pub scenario: String,
    /// Everything random follows from it.
    pub seed: u64,
    /// How many nodes the cluster began with.
    pub nodes: u32,
    /// Versions of the server, the suite, the kernel and so on, by name.
    pub versions: std::collections::BTreeMap<String, String>,
    /// The seeded bug that the server was told to have, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeded_bug: Option<String>,
    /// Seconds since 1970 at time 0.
    pub started: u64,
}

/// What an append demands of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Nothing.
    Any,
    /// That it was never written, or deleted softly since.
    NoStream,
    /// That it was written, and not deleted since.
    Exists,
    /// That its last event has this revision.
    Revision(u64),
}

/// An event as it was submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposed {
    /// Its id.
    pub id: EventId,
    /// Its digest.
    pub digest: Digest,
    /// For an event that sets a stream's metadata: what it sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sets: Option<Retention>,
}

/// What of a stream's metadata the checker models. A metadata event replaces
/// all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Only this many of the newest events can be read from the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_count: Option<u64>,
    /// Events before this revision can not be read from the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate_before: Option<u64>,
}

/// Events for one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Write {
    /// The stream. `$$name` is the metadata of `name`.
    pub stream: Arc<str>,
    /// What it must be like.
    pub expected: Expected,
    /// In this order.
    pub events: Vec<Proposed>,
}

/// An append. All writes happen, adjacent and in their order, or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Append {
    /// The logical process that called; it does one thing after the other.
    pub process: u32,
    /// Whom it called.
    pub node: NodeNumber,
    /// Before the first byte left.
    pub invoke: Nanos,
    /// After the answer was parsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<Nanos>,
    /// How it travelled: `append`, `batch_append`, `append_session`,
    /// `append_records`. For people.
    pub call: String,
    /// What was to be written.
    pub writes: Vec<Write>,
    /// How it went.
    pub outcome: Outcome,
}

/// A deletion. A soft one writes an event to `$$stream`, a hard one a last
/// event to the stream itself; their ids are chosen by the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delete {
    /// See [`Append::process`].
    pub process: u32,
    /// See [`Append::node`].
    pub node: NodeNumber,
    /// See [`Append::invoke`].
    pub invoke: Nanos,
    /// See [`Append::complete`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<Nanos>,
    /// What to delete.
    pub stream: Arc<str>,
    /// What it must be like.
    pub expected: Expected,
    /// Whether it is a tombstone.
    pub hard: bool,
    /// How it went; `revisions` of an acknowledgement is empty.
    pub outcome: Outcome,
}

/// How a write went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Outcome {
    /// It is durable.
    Acked {
        /// The position of its last event.
        position: u64,
        /// The revision of the last event of each write.
        revisions: Vec<u64>,
    },
    /// It was certainly not applied and never will be.
    Refused {
        /// Why.
        reason: Reason,
        /// Up to where the log was looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        as_of: Option<u64>,
    },
    /// It may have been applied, or may be later.
    Unknown {
        /// What the client saw.
        why: String,
    },
}

/// Why a write was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// A stream is not as expected.
    WrongExpectation {
        /// Which one.
        stream: Arc<str>,
        /// What it is like instead, as far as the answer says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        current: Option<Current>,
    },
    /// A stream has a tombstone.
    Tombstoned {
        /// Which one.
        stream: Arc<str>,
    },
    /// The request could not be right whatever the log holds.
    Invalid {
        /// What the server said.
        why: String,
    },
    /// The node did not take it: not the leader, too busy, not ready, full.
    NotTaken {
        /// What the server said.
        why: String,
    },
}

/// What a stream is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Current {
    /// Never written, or deleted softly.
    NoStream,
    /// Its last event has this revision.
    Revision(u64),
}

/// An event as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SeenForm", into = "SeenForm")]
pub struct Seen {
    /// Its place in the log.
    pub position: u64,
    /// Its stream.
    pub stream: Arc<str>,
    /// Its place in the stream.
    pub revision: u64,
    /// Its id.
    pub id: EventId,
    /// Its digest.
    pub digest: Digest,
    /// When the server says it was written, in units of 100 ns since 1970.
    pub created: i64,
    /// Whether its type begins with `$`: metadata and tombstones.
    pub system: bool,
}

type SeenForm = (u64, Arc<str>, u64, EventId, Digest, i64, bool);

impl From<SeenForm> for Seen {
    fn from((position, stream, revision, id, digest, created, system): SeenForm) -> Self {
        Seen { position, stream, revision, id, digest, created, system }
    }
}

impl From<Seen> for SeenForm {
    fn from(seen: Seen) -> Self {
        (seen.position, seen.stream, seen.revision, seen.id, seen.digest, seen.created, seen.system)
    }
}

/// What is read or subscribed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// All events, by position.
    All {
        /// Only events whose stream's name begins with one of these. Empty:
        /// every event.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        prefixes: Vec<String>,
    },
    /// The events of one stream, by revision.
    Stream(Arc<str>),
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Oldest first.
    Forwards,
    /// Newest first.
    Backwards,
}

/// What a read demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everything acknowledged before the read began.
    Linearizable,
    /// Everything up to this position.
    AtLeast(u64),
    /// Any prefix of the log.
    Local,
}

/// A read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// See [`Append::process`].
    pub process: u32,
    /// See [`Append::node`].
    pub node: NodeNumber,
    /// See [`Append::invoke`].
    pub invoke: Nanos,
    /// See [`Append::complete`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<Nanos>,
    /// What is read.
    pub target: Target,
    /// In which order.
    pub direction: Direction,
    /// From which position or revision on, inclusive. Absent: from the very
    /// beginning, or the very end when reading backwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// At most how many events.
    pub limit: u64,
    /// What it demands.
    pub mode: Mode,
    /// How it went.
    pub outcome: ReadOutcome,
}

/// How a read went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ReadOutcome {
    /// It was answered completely.
    Ok {
        /// In the order of the answer.
        events: Vec<Seen>,
        /// Up to where the log was looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        as_of: Option<u64>,
    },
    /// The stream was said not to exist.
    NoStream {
        /// As in `Ok`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        as_of: Option<u64>,
    },
    /// The stream was said to have a tombstone.
    Tombstoned {
        /// As in `Ok`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        as_of: Option<u64>,
    },
    /// There was no whole answer; what came of it is not evidence.
    Failed {
        /// What the client saw.
        why: String,
    },
}

/// What a subscription asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its number in the run.
    pub subscription: u32,
    /// What it follows.
    pub target: Target,
    /// It wants what comes after this position or revision; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// A subscription was opened or resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// See [`Subscription::subscription`].
    pub subscription: u32,
    /// Counts the connections of this subscription from 0.
    pub connection: u32,
    /// Where.
    pub node: NodeNumber,
    /// When the server confirmed it.
    pub time: Nanos,
    /// What it asked for: what comes after this position or revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// Events arrived, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivered {
    /// See [`Subscription::subscription`].
    pub subscription: u32,
    /// See [`Opened::connection`].
    pub connection: u32,
    /// When the last of them was parsed.
    pub time: Nanos,
    /// The events.
    pub events: Vec<Seen>,
}

/// A subscription was told that it has caught up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaughtUp {
    /// See [`Subscription::subscription`].
    pub subscription: u32,
    /// See [`Opened::connection`].
    pub connection: u32,
    /// When.
    pub time: Nanos,
    /// Up to which position (of all events) or revision (of a stream).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto: Option<u64>,
}

/// A connection of a subscription ended without the run wanting it, or
/// because the run restarts it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// See [`Subscription::subscription`].
    pub subscription: u32,
    /// See [`Opened::connection`].
    pub connection: u32,
    /// When.
    pub time: Nanos,
    /// What the client saw.
    pub why: String,
    /// Whether the server ended it as if all were well, which it never may.
    pub ended_ok: bool,
}

/// A subscription was ended by the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// See [`Subscription::subscription`].
    pub subscription: u32,
    /// When.
    pub time: Nanos,
    /// Whether it was given the time to see everything: then everything must
    /// have been delivered.
    pub drained: bool,
}

/// Whether a fault happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Installed {
    /// It did.
    Installed,
    /// It did not, and the cluster was left alone.
    Skipped,
    /// It was tried, and nobody knows.
    Indeterminate,
}

/// Something was done to the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// The class: `F1`, `F2` …
    pub class: String,
    /// What exactly: `kill-leader`, `isolate-leader`, `one-way-in` …
    pub name: String,
    /// To whom.
    pub nodes: Vec<NodeNumber>,
    /// When it began.
    pub start: Nanos,
    /// When it was taken back, or had happened.
    pub end: Nanos,
    /// Whether it happened.
    pub installed: Installed,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Where a final state was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A linearizable read of all events through this node.
    Linearizable,
    /// A local read of all events on this node.
    Local,
    /// The files of the stopped node.
    Offline,
}

/// A part of what a node holds at the end; the parts of one node and source
/// stand in the file in the order of positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Final {
    /// Which node.
    pub node: NodeNumber,
    /// Read where.
    pub source: Source,
    /// The events.
    pub events: Vec<Seen>,
    /// Whether this is the last part, and all was read.
    pub complete: bool,
}

/// The chain hash of a node's events up to a position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hash {
    /// Which node.
    pub node: NodeNumber,
    /// When it answered.
    pub time: Nanos,
    /// Up to which position, inclusive.
    pub position: u64,
    /// The hash, as the node says it.
    pub hash: String,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(EventId).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Digest).map_err(serde::de::Error::custom)
    }
}
