//! What happens to consumer groups.
//!
//! Consumers of one group share the events of a source; each says what became
//! of those that it was given. The protocol has no answer to that: an answer
//! may be lost with the node it was sent to, and then the event comes again.
//! So a history says when a consumer sent its answer, and by the group's own
//! streams, read by others, what the group made of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Nanos, NodeNumber, Seen};

/// Something happened to a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its number in the run.
    pub group: u32,
    /// What.
    pub step: GroupStep,
}

/// What happens to a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupStep {
    /// It was made, before anything else; once.
    Defined(Defined),
    /// A consumer joined.
    Joined(Joined),
    /// A consumer got an event.
    Handed(Handed),
    /// A consumer said what became of an event.
    Answered(Answered),
    /// The connection of a consumer ended.
    Left(Left),
    /// It was asked to deliver what it had parked.
    Replay(Replay),
    /// Its newest checkpoint, as a linearizable read showed it.
    Checkpoint(Checkpoint),
    /// What is in the stream of its parked events at the end.
    Parked(Parked),
    /// The run ended it.
    Ended(GroupEnded),
}

/// What a group is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Defined {
    /// Its name, for people.
    pub name: String,
    /// Whose events its consumers share, from the first one on.
    pub source: GroupSource,
    /// Whether the events of each stream come in order.
    pub in_order: bool,
}

/// Whose events the consumers of a group share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupSource {
    /// Of streams whose names begin with one of these; places are positions.
    All {
        /// The prefixes, at least one.
        prefixes: Vec<String>,
    },
    /// Of one stream; places are revisions.
    Stream(Arc<str>),
    /// Of the streams with this name before the first dash; places count them
    /// from 0.
    Category(Arc<str>),
}

/// A consumer joined: its connection was confirmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// Its number; a new one for every connection.
    pub consumer: u32,
    /// Whom it called, who may have passed it on.
    pub node: NodeNumber,
    /// Before the first byte left.
    pub invoke: Nanos,
    /// When the confirmation was parsed.
    pub time: Nanos,
    /// The term of the leader that serves it, as that leader says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
}

/// A consumer got an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handed {
    /// See [`Joined::consumer`].
    pub consumer: u32,
    /// When it was parsed.
    pub time: Nanos,
    /// The event, where a link led to it the one that it led to.
    pub event: Seen,
    /// How often it was given in vain before, says the server.
    pub retries: u32,
}

/// A consumer said what became of an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// See [`Joined::consumer`].
    pub consumer: u32,
    /// Before the first byte left. Nobody knows whether it arrived.
    pub time: Nanos,
    /// The position of the event.
    pub position: u64,
    /// What.
    pub answer: Answer,
}

/// What a consumer says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Ack,
    /// Treat it as done.
    Skip,
    /// Keep it aside.
    Park,
    /// Give it to somebody again.
    Retry,
}

impl Answer {
    /// Whether the group is done with the event.
    pub fn is_final(self) -> bool {
        match self {
            Answer::Ack | Answer::Skip => true,
            Answer::Park | Answer::Retry => false,
        }
    }
}

/// The connection of a consumer ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Left {
    /// See [`Joined::consumer`].
    pub consumer: u32,
    /// When.
    pub time: Nanos,
    /// What the client saw, or that it went by itself.
    pub why: String,
    /// Whether the server ended it as if all were well, which it never may.
    pub ended_ok: bool,
}

/// A group was asked to deliver what it had parked. Clocks are those of the
/// wall, in units of 100 ns since 1970, as events have them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Before the first byte left.
    pub time: Nanos,
    /// The same by the wall clock.
    pub asked: i64,
    /// When the answer was parsed; none where its fate is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<i64>,
}

/// The newest checkpoint of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// When the answer was parsed.
    pub time: Nanos,
    /// The term of the leader that answered.
    pub term: u64,
    /// The last place that is done.
    pub place: u64,
}

/// The stream of parked events of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parked {
    /// All that was ever put there, in order.
    pub messages: Vec<ParkedMessage>,
    /// Revisions below this were delivered again, and are done.
    pub done_before: u64,
}

/// A parked event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedMessage {
    /// Its revision there.
    pub revision: u64,
    /// When it was put there, by the server's wall clock, in units of 100 ns
    /// since 1970.
    pub created: i64,
    /// The stream that it names: a category is `$ce-` and its name.
    pub stream: Arc<str>,
    /// The place in it.
    pub of: u64,
}

/// The run ended a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEnded {
    /// When.
    pub time: Nanos,
    /// Whether its checkpoint had reached the end of its source, after which
    /// nothing is to come any more.
    pub drained: bool,
    /// The last place of its source then; none if there was no event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto: Option<u64>,
}

impl GroupStep {
    /// When it happened, as far as it has a time.
    pub fn time(&self) -> Option<Nanos> {
        match self {
            GroupStep::Defined(_) | GroupStep::Parked(_) => None,
            GroupStep::Joined(joined) => Some(joined.time),
            GroupStep::Handed(handed) => Some(handed.time),
            GroupStep::Answered(answered) => Some(answered.time),
            GroupStep::Left(left) => Some(left.time),
            GroupStep::Replay(replay) => Some(replay.time),
            GroupStep::Checkpoint(checkpoint) => Some(checkpoint.time),
            GroupStep::Ended(ended) => Some(ended.time),
        }
    }
}
