//! What enters the replicated log.
//!
//! A [`Command`] is one decision: it is carried out entirely or not at all.
//! The leader gathers commands into a [`Batch`], stamps it with its time and
//! proposes it as one Raft entry. Both have one encoding, used on the disk,
//! between nodes and from a follower to the leader, so that an event's bytes
//! are copied but never encoded twice.

use bytes::{BufMut, Bytes, BytesMut};

use crate::event::{self, Event, EventId, EventType};
use crate::wire::{DecodeError, Input};
use crate::{Expected, Revision, StreamName, Timestamp};

/// One decision to be made in `apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Append events to one or more streams.
    Append(Append),
    /// Soft-delete a stream: it can be appended to again.
    Delete {
        /// The stream, never a metastream.
        stream: StreamName,
        /// The state it must be in.
        expected: Expected,
    },
    /// End a stream for ever.
    Tombstone {
        /// The stream, never a metastream.
        stream: StreamName,
        /// The state it must be in.
        expected: Expected,
    },
    /// Take the next node id. Ids come from the log so that none is ever used
    /// twice, whatever became of the node that had it.
    AllocateNode {
        /// The id must be above this one, the highest the proposer knows of.
        above: u64,
    },
}

/// Events for one or more streams, under conditions on the same or others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Each stream once. The order is the order in which violations are told.
    pub targets: Vec<Target>,
    /// The events in the order in which they get their positions, each with
    /// the index of its stream in `targets`.
    pub events: Vec<(u32, Event)>,
}

/// A stream that an append writes or checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The stream.
    pub stream: StreamName,
    /// The state it must be in.
    pub expected: Expected,
    /// What the append does with it.
    pub role: Role,
}

/// What an append does with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Writes it, possibly no event: that still undeletes (protocol 2.2).
    Write,
    /// Only checks its state.
    Check,
}

impl Append {
    /// An append to a single stream.
    pub fn single(stream: StreamName, expected: Expected, events: Vec<Event>) -> Self {
        Append {
            targets: vec![Target { stream, expected, role: Role::Write }],
            events: events.into_iter().map(|event| (0, event)).collect(),
        }
    }
}

/// Commands that are proposed together, in order, with the leader's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The leader's clock when it proposed. `apply` takes the later of this
    /// and the time of the newest event.
    pub stamped: Timestamp,
    /// The commands, in the order in which they are decided.
    pub commands: Vec<Command>,
}

const BATCH_VERSION: u8 = 1;

impl Batch {
    /// A batch of commands that are encoded already.
    pub fn encode(stamped: Timestamp, commands: &[Bytes]) -> Bytes {
        let size: usize = commands.iter().map(|command| command.len() + 4).sum();
        let mut out = BytesMut::with_capacity(13 + size);
        out.put_u8(BATCH_VERSION);
        out.put_u64_le(stamped.ticks());
        put_len(&mut out, commands.len());
        for command in commands {
            put_bytes(&mut out, command);
        }
        out.freeze()
    }

    /// The batch in these bytes. Payloads are slices of them, not copies.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes are not a batch that this version can read,
    /// or an event's content does not match its checksum.
    pub fn decode(bytes: Bytes) -> Result<Batch, DecodeError> {
        let mut input = Input::new(bytes);
        input.version(BATCH_VERSION)?;
        let stamped = Timestamp::from_ticks(input.u64()?);
        let count = input.count(4)?;
        let mut commands = Vec::with_capacity(count);
        for _ in 0..count {
            commands.push(Command::decode(input.bytes()?)?);
        }
        input.end()?;
        Ok(Batch { stamped, commands })
    }
}

impl Command {
    /// The command's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        match self {
            Command::Append(append) => {
                out.put_u8(1);
                put_len(&mut out, append.targets.len());
                for target in &append.targets {
                    out.put_u8(match target.role {
                        Role::Write => 0,
                        Role::Check => 1,
                    });
                    put_expected(&mut out, target.expected);
                    put_bytes(&mut out, target.stream.as_bytes());
                }
                put_len(&mut out, append.events.len());
                for (target, event) in &append.events {
                    out.put_u32_le(*target);
                    out.put_u8(event::flags(event.content, event.properties));
                    out.put_u32_le(event.checksum);
                    out.put_slice(event.id.uuid().as_bytes());
                    put_bytes(&mut out, event.event_type.as_bytes());
                    put_bytes(&mut out, &event.metadata);
                    put_bytes(&mut out, &event.data);
                }
            }
            Command::Delete { stream, expected } => {
                out.put_u8(2);
                put_expected(&mut out, *expected);
                put_bytes(&mut out, stream.as_bytes());
            }
            Command::Tombstone { stream, expected } => {
                out.put_u8(3);
                put_expected(&mut out, *expected);
                put_bytes(&mut out, stream.as_bytes());
            }
            Command::AllocateNode { above } => {
                out.put_u8(4);
                out.put_u64_le(*above);
            }
        }
        out.freeze()
    }

    fn encoded_len(&self) -> usize {
        match self {
            Command::Append(append) => {
                let targets: usize = append.targets.iter().map(|target| 14 + target.stream.as_str().len()).sum();
                let events: usize = append.events.iter().map(|(_, event)| 37 + event.size()).sum();
                9 + targets + events
            }
            Command::Delete { stream, .. } | Command::Tombstone { stream, .. } => 14 + stream.as_str().len(),
            Command::AllocateNode { .. } => 9,
        }
    }

    /// The command in these bytes. Payloads are slices of them, not copies.
    ///
    /// # Errors
    /// As [`Batch::decode`].
    pub fn decode(bytes: Bytes) -> Result<Command, DecodeError> {
        let mut input = Input::new(bytes);
        let command = match input.u8()? {
            1 => {
                let count = input.count(6)?;
                let mut targets = Vec::with_capacity(count);
                for _ in 0..count {
                    let role = match input.u8()? {
                        0 => Role::Write,
                        1 => Role::Check,
                        other => return Err(DecodeError::tag("role", other)),
                    };
                    let expected = read_expected(&mut input)?;
                    targets.push(Target { stream: read_stream(&mut input)?, expected, role });
                }
                let count = input.count(37)?;
                let mut events = Vec::with_capacity(count);
                for _ in 0..count {
                    let target = input.u32()?;
                    if target as usize >= targets.len() {
                        return Err(DecodeError::Invalid("an event names a stream that is not there"));
                    }
                    events.push((target, read_event(&mut input)?));
                }
                Command::Append(Append { targets, events })
            }
            2 => {
                let expected = read_expected(&mut input)?;
                Command::Delete { stream: read_stream(&mut input)?, expected }
            }
            3 => {
                let expected = read_expected(&mut input)?;
                Command::Tombstone { stream: read_stream(&mut input)?, expected }
            }
            4 => Command::AllocateNode { above: input.u64()? },
            other => return Err(DecodeError::tag("command", other)),
        };
        input.end()?;
        Ok(command)
    }
}

fn read_event(input: &mut Input) -> Result<Event, DecodeError> {
    let (content, properties) = event::labels(input.u8()?).ok_or(DecodeError::Invalid("unknown event flags"))?;
    let checksum = input.u32()?;
    let id = EventId::new(input.uuid()?).ok_or(DecodeError::Invalid("a nil event id"))?;
    let event_type = EventType::new(input.text()?).map_err(|_| DecodeError::Invalid("an event type out of bounds"))?;
    let metadata = input.bytes()?;
    let data = input.bytes()?;
    Event::verified(id, event_type, content, properties, metadata, data, checksum).ok_or(DecodeError::Checksum { id })
}

fn read_stream(input: &mut Input) -> Result<StreamName, DecodeError> {
    StreamName::from_utf8(input.bytes()?).map_err(|_| DecodeError::Invalid("a stream name out of bounds"))
}

pub(crate) fn put_expected(out: &mut BytesMut, expected: Expected) {
    match expected {
        Expected::Any => out.put_u8(0),
        Expected::NoStream => out.put_u8(1),
        Expected::Exists => out.put_u8(2),
        Expected::SoftDeleted => out.put_u8(3),
        Expected::Tombstoned => out.put_u8(4),
        Expected::Exactly(revision) => {
            out.put_u8(5);
            out.put_u64_le(revision.get());
        }
    }
}

pub(crate) fn read_expected(input: &mut Input) -> Result<Expected, DecodeError> {
    Ok(match input.u8()? {
        0 => Expected::Any,
        1 => Expected::NoStream,
        2 => Expected::Exists,
        3 => Expected::SoftDeleted,
        4 => Expected::Tombstoned,
        5 => Expected::Exactly(Revision::new(input.u64()?).ok_or(DecodeError::Invalid("a revision out of bounds"))?),
        other => return Err(DecodeError::tag("expectation", other)),
    })
}

pub(crate) fn put_len(out: &mut BytesMut, len: usize) {
    out.put_u32_le(u32::try_from(len).expect("limits keep every length far below 4 GiB"));
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.put_slice(bytes);
}
