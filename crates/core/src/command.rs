//! What enters the replicated log.
//!
//! A [`Command`] is one decision: it is carried out entirely or not at all.
//! The leader gathers commands into a [`Batch`], stamps it with its time and
//! proposes it as one Raft entry. Both have one encoding, used on the disk,
//! between nodes and from a follower to the leader, so that an event's bytes
//! are copied but never encoded twice.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::event::{self, Event, EventId, EventType};
use crate::import::{self, Import, Imported};
use crate::lease::Acquire;
use crate::scavenge;
use crate::wire::{DecodeError, Input};
use crate::{Expected, Position, Principal, Reclaim, Revision, StreamName, Timestamp};

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
    /// Carry out a command, if who wants it may. Without this around it a command is
    /// the cluster's own, or of a cluster that knows no users.
    For {
        /// Who wants it.
        principal: Principal,
        /// What is wanted; not another of these.
        command: Box<Command>,
    },
    /// Start to reclaim what is gone, unless that is under way.
    StartScavenge {
        /// Names what is started.
        id: Uuid,
    },
    /// Go on with it.
    Reclaim(Reclaim),
    /// Stop it where it is. What is reclaimed stays so.
    StopScavenge {
        /// Only this one; none for any.
        id: Option<Uuid>,
    },
    /// Take in events that were recorded elsewhere.
    Import(Import),
    /// Take the maintenance lease, or prolong it.
    AcquireLease(Acquire),
    /// Give it back.
    ReleaseLease {
        /// The node that has it.
        node: u64,
        /// The start of that node which took it.
        boot: Uuid,
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

/// With which encoded commands begin.
const START_SCAVENGE: u8 = 16;
const RECLAIM: u8 = 17;
const STOP_SCAVENGE: u8 = 18;
const IMPORT: u8 = 48;
const ACQUIRE_LEASE: u8 = 32;
const RELEASE_LEASE: u8 = 33;

impl Command {
    /// Whether an encoded command must be possible when the disk is full: it gives space
    /// back rather than take it, or is about the maintenance of a node.
    pub fn gives_space(encoded: &[u8]) -> bool {
        let possible = [START_SCAVENGE, RECLAIM, STOP_SCAVENGE, ACQUIRE_LEASE, RELEASE_LEASE];
        encoded.first().is_some_and(|tag| possible.contains(tag))
    }

    /// The command's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.put(&mut out);
        out.freeze()
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Command::Append(append) => {
                out.put_u8(1);
                put_len(out, append.targets.len());
                for target in &append.targets {
                    out.put_u8(match target.role {
                        Role::Write => 0,
                        Role::Check => 1,
                    });
                    put_expected(out, target.expected);
                    put_bytes(out, target.stream.as_bytes());
                }
                put_len(out, append.events.len());
                for (target, event) in &append.events {
                    out.put_u32_le(*target);
                    put_event(out, event);
                }
            }
            Command::Delete { stream, expected } => {
                out.put_u8(2);
                put_expected(out, *expected);
                put_bytes(out, stream.as_bytes());
            }
            Command::Tombstone { stream, expected } => {
                out.put_u8(3);
                put_expected(out, *expected);
                put_bytes(out, stream.as_bytes());
            }
            Command::AllocateNode { above } => {
                out.put_u8(4);
                out.put_u64_le(*above);
            }
            Command::For { principal, command } => {
                out.put_u8(FOR);
                put_principal(out, principal);
                command.put(out);
            }
            Command::StartScavenge { id } => {
                out.put_u8(START_SCAVENGE);
                out.put_slice(id.as_bytes());
            }
            Command::Reclaim(Reclaim { scavenge, from, through, positions }) => {
                out.put_u8(RECLAIM);
                out.put_slice(scavenge.as_bytes());
                out.put_u64_le(from.get());
                out.put_u64_le(through.get());
                put_len(out, positions.len());
                for position in positions {
                    out.put_u64_le(position.get());
                }
            }
            Command::StopScavenge { id } => {
                out.put_u8(STOP_SCAVENGE);
                out.put_slice(id.unwrap_or_default().as_bytes());
            }
            Command::Import(Import { events }) => {
                out.put_u8(IMPORT);
                put_len(out, events.len());
                for Imported { stream, revision, created, event } in events {
                    put_bytes(out, stream.as_bytes());
                    // No revision lies above TOMBSTONE, so that this number is free.
                    out.put_u64_le(revision.map_or(u64::MAX, Revision::get));
                    out.put_u64_le(created.ticks());
                    put_event(out, event);
                }
            }
            Command::AcquireLease(acquire) => {
                out.put_u8(ACQUIRE_LEASE);
                acquire.put(out);
            }
            Command::ReleaseLease { node, boot } => {
                out.put_u8(RELEASE_LEASE);
                out.put_u64_le(*node);
                out.put_slice(boot.as_bytes());
            }
        }
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
            Command::For { principal, command } => 1 + principal_len(principal) + command.encoded_len(),
            Command::StartScavenge { .. } | Command::StopScavenge { .. } => 17,
            Command::Reclaim(Reclaim { positions, .. }) => 37 + 8 * positions.len(),
            Command::Import(Import { events }) => {
                5 + events.iter().map(|one| 53 + one.stream.as_str().len() + one.event.size()).sum::<usize>()
            }
            Command::AcquireLease(_) => 1 + Acquire::ENCODED_LEN,
            Command::ReleaseLease { .. } => 1 + 8 + 16,
        }
    }

    /// The command in these bytes. Payloads are slices of them, not copies.
    ///
    /// # Errors
    /// As [`Batch::decode`].
    pub fn decode(bytes: Bytes) -> Result<Command, DecodeError> {
        let mut input = Input::new(bytes);
        let command = match input.u8()? {
            FOR => {
                let principal = read_principal(&mut input)?;
                let command = match input.u8()? {
                    FOR => return Err(DecodeError::Invalid("a command for a principal within another")),
                    tag => Box::new(Self::read(tag, &mut input)?),
                };
                Command::For { principal, command }
            }
            tag => Self::read(tag, &mut input)?,
        };
        input.end()?;
        Ok(command)
    }

    /// What comes after its tag.
    fn read(tag: u8, input: &mut Input) -> Result<Command, DecodeError> {
        Ok(match tag {
            1 => {
                let count = input.count(6)?;
                let mut targets = Vec::with_capacity(count);
                for _ in 0..count {
                    let role = match input.u8()? {
                        0 => Role::Write,
                        1 => Role::Check,
                        other => return Err(DecodeError::tag("role", other)),
                    };
                    let expected = read_expected(input)?;
                    targets.push(Target { stream: read_stream(input)?, expected, role });
                }
                let count = input.count(37)?;
                let mut events = Vec::with_capacity(count);
                for _ in 0..count {
                    let target = input.u32()?;
                    if target as usize >= targets.len() {
                        return Err(DecodeError::Invalid("an event names a stream that is not there"));
                    }
                    events.push((target, read_event(input)?));
                }
                Command::Append(Append { targets, events })
            }
            2 => {
                let expected = read_expected(input)?;
                Command::Delete { stream: read_stream(input)?, expected }
            }
            3 => {
                let expected = read_expected(input)?;
                Command::Tombstone { stream: read_stream(input)?, expected }
            }
            4 => Command::AllocateNode { above: input.u64()? },
            START_SCAVENGE => Command::StartScavenge { id: input.uuid()? },
            RECLAIM => Command::Reclaim(read_reclaim(input)?),
            STOP_SCAVENGE => Command::StopScavenge { id: Some(input.uuid()?).filter(|id| !id.is_nil()) },
            IMPORT => Command::Import(read_import(input)?),
            ACQUIRE_LEASE => Command::AcquireLease(Acquire::read(input)?),
            RELEASE_LEASE => Command::ReleaseLease { node: input.u64()?, boot: input.uuid()? },
            other => return Err(DecodeError::tag("command", other)),
        })
    }
}

/// The tag of [`Command::For`].
const FOR: u8 = 5;

fn principal_len(principal: &Principal) -> usize {
    17 + principal.name.len() + principal.groups.iter().map(|group| 4 + group.len()).sum::<usize>()
}

fn put_principal(out: &mut BytesMut, principal: &Principal) {
    // No revision lies above TOMBSTONE, so that this number is free.
    out.put_u64_le(principal.account.map_or(u64::MAX, Revision::get));
    put_bytes(out, principal.name.as_bytes());
    put_len(out, principal.groups.len());
    for group in &principal.groups {
        put_bytes(out, group.as_bytes());
    }
}

fn read_principal(input: &mut Input) -> Result<Principal, DecodeError> {
    let account = Revision::new(input.u64()?);
    let name = input.text()?.to_string();
    let count = input.count(4)?;
    let mut groups = Vec::with_capacity(count);
    for _ in 0..count {
        groups.push(input.text()?.to_string());
    }
    Ok(Principal { name, groups, account })
}

fn read_reclaim(input: &mut Input) -> Result<Reclaim, DecodeError> {
    let scavenge = input.uuid()?;
    let from = Position::new(input.u64()?);
    let through = Position::new(input.u64()?);
    let count = input.count(8)?;
    if count > scavenge::EVENTS_MAX {
        return Err(DecodeError::Invalid("it reclaims too much at once"));
    }
    let mut positions = Vec::with_capacity(count);
    for _ in 0..count {
        positions.push(Position::new(input.u64()?));
    }
    Ok(Reclaim { scavenge, from, through, positions })
}

fn read_import(input: &mut Input) -> Result<Import, DecodeError> {
    let count = input.count(53)?;
    if count > import::EVENTS_MAX {
        return Err(DecodeError::Invalid("it imports too much at once"));
    }
    let mut events = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = read_stream(input)?;
        let revision = Revision::new(input.u64()?);
        let created = Timestamp::from_ticks(input.u64()?);
        events.push(Imported { stream, revision, created, event: read_event(input)? });
    }
    Ok(Import { events })
}

fn put_event(out: &mut BytesMut, event: &Event) {
    out.put_u8(event::flags(event.content, event.properties));
    out.put_u32_le(event.checksum);
    out.put_slice(event.id.uuid().as_bytes());
    put_bytes(out, event.event_type.as_bytes());
    put_bytes(out, &event.metadata);
    put_bytes(out, &event.data);
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
