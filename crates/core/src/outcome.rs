//! What `apply` answers to a command: the same on every node.

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::{put_bytes, put_expected, put_len, read_expected};
use crate::head::State;
use crate::wire::{DecodeError, Input};
use crate::{Denied, Expected, Position, Revision, Right, StreamName, lease, scavenge};

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out, now or when the same command was sent before.
    Appended(Appended),
    /// Not carried out, in no part: the streams were not as expected.
    Refused(Refusal),
    /// The node id that was taken.
    Node(u64),
    /// Not carried out, in no part: who wanted it may not.
    Denied(Denied),
    /// What became of a command about a scavenge.
    Scavenge(scavenge::Answer),
    /// What became of a command about the maintenance lease.
    Lease(lease::Answer),
}

/// A command that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The position of the command's last event; of the newest event of all
    /// when it wrote none.
    pub position: Position,
    /// For each target of the command, the revision of its last event in this
    /// command; the stream's last revision where the command wrote none, and
    /// none where the stream has no event.
    pub revisions: Vec<Option<Revision>>,
    /// Whether this is the answer to a command that was carried out before.
    pub repeated: bool,
}

/// Why a command was not carried out, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The newest event of all when it was decided: the streams are as the
    /// violations say after the events up to here, inclusive.
    pub as_of: Position,
    /// What was not as expected. Never empty, in the order of the command's
    /// targets.
    pub violations: Vec<Violation>,
}

/// A stream that was not as a command expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The index of the stream in the command's targets.
    pub target: u32,
    /// The stream.
    pub stream: StreamName,
    /// What was expected.
    pub expected: Expected,
    /// What was found.
    pub actual: Actual,
}

/// The state in which a stream was found. As [`State`], by another name for
/// clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actual {
    /// No event was ever written.
    NoStream,
    /// Its last event has this revision.
    At(Revision),
    /// Soft-deleted; its last event had this revision.
    SoftDeleted(Revision),
    /// Ended for ever.
    Tombstoned,
}

impl From<State> for Actual {
    fn from(state: State) -> Self {
        match state {
            State::Empty => Actual::NoStream,
            State::Live(last) => Actual::At(last),
            State::SoftDeleted(last) => Actual::SoftDeleted(last),
            State::Tombstoned => Actual::Tombstoned,
        }
    }
}

impl Actual {
    /// The last revision, where there is one to name.
    pub fn last(self) -> Option<Revision> {
        match self {
            Actual::NoStream | Actual::Tombstoned => None,
            Actual::At(last) | Actual::SoftDeleted(last) => Some(last),
        }
    }
}

const VERSION: u8 = 1;

impl Outcome {
    /// The outcome's bytes, for the way from the leader to the node that
    /// accepted the command.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        match self {
            Outcome::Appended(appended) => {
                out.put_u8(1);
                out.put_u64_le(appended.position.get());
                out.put_u8(u8::from(appended.repeated));
                put_len(&mut out, appended.revisions.len());
                for revision in &appended.revisions {
                    // No revision lies above TOMBSTONE, so that this number is free.
                    out.put_u64_le(revision.map_or(u64::MAX, Revision::get));
                }
            }
            Outcome::Refused(refusal) => {
                out.put_u8(4);
                out.put_u64_le(refusal.as_of.get());
                put_len(&mut out, refusal.violations.len());
                for violation in &refusal.violations {
                    out.put_u32_le(violation.target);
                    put_bytes(&mut out, violation.stream.as_bytes());
                    put_expected(&mut out, violation.expected);
                    let (tag, last) = match violation.actual {
                        Actual::NoStream => (0, 0),
                        Actual::At(last) => (1, last.get()),
                        Actual::SoftDeleted(last) => (2, last.get()),
                        Actual::Tombstoned => (3, 0),
                    };
                    out.put_u8(tag);
                    out.put_u64_le(last);
                }
            }
            Outcome::Node(id) => {
                out.put_u8(3);
                out.put_u64_le(*id);
            }
            Outcome::Denied(Denied::Right { as_of, stream, right }) => {
                out.put_u8(5);
                out.put_u64_le(as_of.get());
                out.put_u8(*right as u8);
                put_bytes(&mut out, stream.as_bytes());
            }
            Outcome::Denied(Denied::Account { as_of }) => {
                out.put_u8(6);
                out.put_u64_le(as_of.get());
            }
            Outcome::Scavenge(answer) => {
                out.put_u8(16);
                answer.encode(&mut out);
            }
            Outcome::Lease(answer) => {
                out.put_u8(32);
                answer.encode(&mut out);
            }
        }
        out.freeze()
    }

    /// The outcome in these bytes.
    ///
    /// # Errors
    /// [`DecodeError`]: they are none that this version can read.
    pub fn decode(bytes: Bytes) -> Result<Outcome, DecodeError> {
        let mut input = Input::new(bytes);
        input.version(VERSION)?;
        let outcome = match input.u8()? {
            1 => {
                let position = Position::new(input.u64()?);
                let repeated = input.u8()? != 0;
                let count = input.count(8)?;
                let mut revisions = Vec::with_capacity(count);
                for _ in 0..count {
                    revisions.push(Revision::new(input.u64()?));
                }
                Outcome::Appended(Appended { position, revisions, repeated })
            }
            // 2 was a refusal that did not say when.
            4 => {
                let as_of = Position::new(input.u64()?);
                let count = input.count(18)?;
                let mut violations = Vec::with_capacity(count);
                for _ in 0..count {
                    let target = input.u32()?;
                    let stream = StreamName::from_utf8(input.bytes()?)
                        .map_err(|_| DecodeError::Invalid("a stream name out of bounds"))?;
                    let expected = read_expected(&mut input)?;
                    let tag = input.u8()?;
                    let last = Revision::saturating(input.u64()?);
                    let actual = match tag {
                        0 => Actual::NoStream,
                        1 => Actual::At(last),
                        2 => Actual::SoftDeleted(last),
                        3 => Actual::Tombstoned,
                        other => return Err(DecodeError::tag("state", other)),
                    };
                    violations.push(Violation { target, stream, expected, actual });
                }
                Outcome::Refused(Refusal { as_of, violations })
            }
            3 => Outcome::Node(input.u64()?),
            5 => {
                let as_of = Position::new(input.u64()?);
                let tag = input.u8()?;
                let right = Right::ALL.get(usize::from(tag)).ok_or(DecodeError::tag("right", tag))?;
                let stream = StreamName::from_utf8(input.bytes()?)
                    .map_err(|_| DecodeError::Invalid("a stream name out of bounds"))?;
                Outcome::Denied(Denied::Right { as_of, stream, right: *right })
            }
            6 => Outcome::Denied(Denied::Account { as_of: Position::new(input.u64()?) }),
            16 => Outcome::Scavenge(scavenge::Answer::read(&mut input)?),
            32 => Outcome::Lease(lease::Answer::read(&mut input)?),
            other => return Err(DecodeError::tag("outcome", other)),
        };
        input.end()?;
        Ok(outcome)
    }
}
