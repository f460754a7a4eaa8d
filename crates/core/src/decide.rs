//! The heart: what becomes of a command.
//!
//! [`decide`] looks at the heads of the streams a command names and answers
//! either with the events it makes, each with its revision and position, or
//! with a refusal that changes nothing. It is called in `apply` and nowhere
//! else, on every node, in log order; therefore:
//!
//! - it reads no clock, no randomness, no configuration, and iterates nothing
//!   whose order is not part of its arguments;
//! - positions and revisions are dense: each event gets the next of both;
//! - a command is carried out entirely or not at all, over all its streams;
//! - a command that was carried out before is answered as the first time.
//!
//! The rules are sections 2.1, 2.2, 2.7, 2.9 and 5.3 of the protocol
//! reference. They are tested against a small model that knows nothing of
//! this code (`tests/model.rs`).

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use crate::access;
use crate::event::{Content, Event, EventId, EventType, Properties};
use crate::head::{Head, State};
use crate::import;
use crate::lease::{self, Lease};
use crate::metadata::{self, Metadata};
use crate::scavenge::{self, Facts, Scavenge};
use crate::{
    Actual, Append, Appended, Command, Expected, Outcome, Position, Refusal, Revision, Role, StreamName, Target,
    Timestamp, Violation,
};

/// What must be known of the log to decide a command. All answers are as of
/// the command before this one.
pub trait Heads {
    /// Why an answer could not be had. It stops the node: a guess would make
    /// replicas differ.
    type Error;

    /// The position of the newest event.
    fn tail(&self) -> Position;
    /// The head of a stream; the default one where it was never touched.
    fn head(&self, stream: &StreamName) -> Result<Head, Self::Error>;
    /// The id and position of the event at a revision.
    fn event_at(&self, stream: &StreamName, revision: Revision) -> Result<Option<(EventId, Position)>, Self::Error>;
    /// Where this id is in this stream, if it is among the last
    /// [`crate::limits::REMEMBERED_IDS`] events of the whole log.
    fn remembered(&self, stream: &StreamName, id: EventId) -> Result<Option<(Revision, Position)>, Self::Error>;
    /// The data of the stream's newest event; nothing where it has none.
    fn newest_data(&self, stream: &StreamName) -> Result<Bytes, Self::Error>;
    /// The highest node id ever taken.
    fn last_node(&self) -> u64;
    /// With which the command's events are created.
    fn time(&self) -> Timestamp;
    /// The last scavenge that was started.
    fn scavenge(&self) -> Option<Scavenge>;
    /// The maintenance lease that was given last.
    fn lease(&self) -> Option<Lease>;
    /// The event at a position, which is above the start and not above the tail.
    fn event(&self, at: Position) -> Result<Facts, Self::Error>;
}

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub outcome: Outcome,
    /// The events to write, in position order, the first at the tail's next.
    pub events: Vec<Placed>,
    /// What is known of the last scavenge from now on; none where that stays.
    pub scavenge: Option<Scavenge>,
    /// The maintenance lease from now on; none where that stays.
    pub lease: Option<Lease>,
    /// Where an event is reclaimed: what is left is its stub. Ascending. Some may be
    /// stubs already.
    pub reclaimed: Vec<Position>,
    /// For each of `events`, when it was created where it comes from; empty for events
    /// of now. What they get never goes back, and is never later than [`Heads::time`].
    pub created: Vec<Timestamp>,
}

impl Decision {
    /// An answer, and nothing is written.
    pub(crate) fn of(outcome: Outcome) -> Self {
        Decision {
            outcome,
            events: Vec::new(),
            scavenge: None,
            lease: None,
            reclaimed: Vec::new(),
            created: Vec::new(),
        }
    }
}

/// An event with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its stream.
    pub stream: StreamName,
    /// Its place there.
    pub revision: Revision,
    /// Its place in the log.
    pub position: Position,
    /// The event.
    pub event: Event,
}

impl Placed {
    /// The head of the event's own stream once the event is written.
    pub fn advance(&self, head: &mut Head) {
        if self.revision == Revision::TOMBSTONE {
            head.tombstoned = true;
        } else {
            assert_eq!(self.revision, Revision::after(head.last), "revisions of {} are dense", self.stream);
            head.last = Some(self.revision);
        }
    }

    /// The stream whose metadata this event is, and that metadata.
    pub fn describes(&self) -> Option<(StreamName, Metadata)> {
        let described = self.stream.described()?;
        Some((described, Metadata::parse(self.event.data())))
    }
}

/// Decides a command.
///
/// # Errors
/// Whatever `heads` could not answer.
pub fn decide<H: Heads>(heads: &H, command: &Command) -> Result<Decision, H::Error> {
    match command {
        Command::Append(append) => decide_append(heads, append),
        Command::Delete { stream, expected } => decide_delete(heads, stream, *expected),
        Command::Tombstone { stream, expected } => decide_tombstone(heads, stream, *expected),
        Command::AllocateNode { above } => Ok(Decision::of(Outcome::Node(heads.last_node().max(*above) + 1))),
        Command::For { principal, command } => match access::denies(heads, principal, command)? {
            Some(denied) => Ok(Decision::of(Outcome::Denied(denied))),
            None => decide(heads, command),
        },
        Command::StartScavenge { id } => scavenge::decide_start(heads, *id),
        Command::Reclaim(step) => scavenge::decide_reclaim(heads, step),
        Command::StopScavenge { id } => scavenge::decide_stop(heads, *id),
        Command::Import(import) => import::decide_import(heads, import),
        Command::AcquireLease(wish) => Ok(lease::decide_acquire(heads, wish)),
        Command::ReleaseLease { node, boot } => Ok(lease::decide_release(heads, *node, *boot)),
    }
}

/// What an append finds at one of its targets.
enum Finding {
    /// As expected.
    AsExpected,
    /// Every event of the append is there already, up to this one.
    Repeated(Revision, Position),
    /// Not as expected.
    Conflict,
}

fn decide_append<H: Heads>(heads: &H, append: &Append) -> Result<Decision, H::Error> {
    let mut ids: Vec<Vec<EventId>> = vec![Vec::new(); append.targets.len()];
    for (target, event) in &append.events {
        ids[*target as usize].push(event.id);
    }
    let mut found = Vec::with_capacity(append.targets.len());
    for (target, ids) in append.targets.iter().zip(&ids) {
        let head = heads.head(&target.stream)?;
        let state = state_of(heads, &target.stream, &head)?;
        found.push((look(heads, target, ids, &head, state)?, head, state));
    }

    // A write is repeated only as a whole. What it merely checked may have
    // changed since the first time.
    let mut written = append.targets.iter().zip(&found).filter(|(target, _)| target.role == Role::Write);
    let repeated_all =
        !append.events.is_empty() && written.all(|(_, (finding, ..))| matches!(finding, Finding::Repeated(..)));
    if repeated_all {
        let at = |finding: &Finding| match finding {
            Finding::Repeated(revision, position) => Some((*revision, *position)),
            Finding::AsExpected | Finding::Conflict => None,
        };
        let last_target = append.events.last().map_or(0, |(target, _)| *target as usize);
        let position = at(&found[last_target].0).map_or(heads.tail(), |(_, position)| position);
        let revisions =
            found.iter().map(|(finding, head, _)| at(finding).map(|(revision, _)| revision).or(head.last)).collect();
        return Ok(Decision::of(Outcome::Appended(Appended { position, revisions, repeated: true })));
    }

    // Where a part was written before and the rest was not, that part is what
    // is wrong, unless something else is.
    let conflict = found.iter().any(|(finding, ..)| matches!(finding, Finding::Conflict));
    let violations: Vec<Violation> = (0u32..)
        .zip(append.targets.iter().zip(&found))
        .filter(|(_, (_, (finding, ..)))| match finding {
            Finding::AsExpected => false,
            Finding::Conflict => true,
            Finding::Repeated(..) => !conflict,
        })
        .map(|(index, (target, (_, _, state)))| violation(index, target.stream.clone(), target.expected, *state))
        .collect();
    if !violations.is_empty() {
        return Ok(Decision::of(refusal(heads, violations)));
    }

    let mut place = Placing::new(heads);
    for (target, event) in &append.events {
        place.event(&append.targets[*target as usize].stream, event.clone())?;
    }
    let position = place.tail;
    let revisions = append
        .targets
        .iter()
        .zip(&found)
        .map(|(target, (_, head, _))| place.heads.get(&target.stream).map_or(head.last, |head| head.last))
        .collect();
    for target in append.targets.iter().filter(|target| target.role == Role::Write) {
        place.undelete(target, append)?;
    }
    let outcome = Outcome::Appended(Appended { position, revisions, repeated: false });
    Ok(Decision { events: place.events, ..Decision::of(outcome) })
}

/// The state of a stream, where a metastream shares its stream's tombstone.
fn state_of<H: Heads>(heads: &H, stream: &StreamName, head: &Head) -> Result<State, H::Error> {
    if let Some(described) = stream.described()
        && heads.head(&described)?.tombstoned
    {
        return Ok(State::Tombstoned);
    }
    Ok(head.state())
}

fn look<H: Heads>(heads: &H, target: &Target, ids: &[EventId], head: &Head, state: State) -> Result<Finding, H::Error> {
    let satisfied = |yes: bool| if yes { Finding::AsExpected } else { Finding::Conflict };
    match target.role {
        Role::Check => return Ok(satisfied(check_satisfied(target.expected, state, head))),
        Role::Write if state == State::Tombstoned => return Ok(Finding::Conflict),
        Role::Write => {}
    }
    let before = match target.expected {
        Expected::Any | Expected::Exists | Expected::SoftDeleted => {
            let known = remembered(heads, &target.stream, ids)?;
            return Ok(known.unwrap_or_else(|| satisfied(write_satisfied(target.expected, state, head))));
        }
        Expected::Tombstoned => return Ok(Finding::Conflict),
        Expected::NoStream => None,
        Expected::Exactly(revision) => Some(revision),
    };
    // The ids at the expected revisions are compared only where the stream
    // has gone on from there: then the append may have been what moved it.
    if !ids.is_empty() && before < head.last {
        let start = Revision::after(before);
        if let Some((revision, position)) = all_there(heads, &target.stream, start, ids)? {
            return Ok(Finding::Repeated(revision, position));
        }
        if target.expected != Expected::NoStream {
            return Ok(Finding::Conflict);
        }
        // "No stream" also begins a soft-deleted stream anew. The newest such
        // beginning is where its metadata truncates it, so a repetition is
        // found there; older ones are known among the remembered ids only.
        if let Some(anew) = head.metadata.truncate_before {
            if let Some((revision, position)) = all_there(heads, &target.stream, anew, ids)? {
                return Ok(Finding::Repeated(revision, position));
            }
            if let Some(known) = remembered(heads, &target.stream, ids)? {
                return Ok(known);
            }
        }
        let first_differs = heads.event_at(&target.stream, start)?.map(|(id, _)| id) != Some(ids[0]);
        return Ok(satisfied(matches!(state, State::SoftDeleted(_)) && first_differs));
    }
    Ok(satisfied(write_satisfied(target.expected, state, head)))
}

/// Without an exact expectation, the remembered ids tell: none when the first
/// id is new, whatever follows it.
fn remembered<H: Heads>(heads: &H, stream: &StreamName, ids: &[EventId]) -> Result<Option<Finding>, H::Error> {
    let mut last = None;
    for id in ids {
        match (heads.remembered(stream, *id)?, last) {
            (Some(place), _) => last = Some(place),
            (None, None) => return Ok(None),
            (None, Some(_)) => return Ok(Some(Finding::Conflict)),
        }
    }
    Ok(last.map(|(revision, position)| Finding::Repeated(revision, position)))
}

/// With an exact expectation, the events from there on tell, for ever.
fn all_there<H: Heads>(
    heads: &H,
    stream: &StreamName,
    from: Revision,
    ids: &[EventId],
) -> Result<Option<(Revision, Position)>, H::Error> {
    let mut revision = from;
    let mut last = None;
    for id in ids {
        match heads.event_at(stream, revision)? {
            Some((there, position)) if there == *id => last = Some((revision, position)),
            Some(_) | None => return Ok(None),
        }
        revision = revision.next();
    }
    Ok(last)
}

fn write_satisfied(expected: Expected, state: State, head: &Head) -> bool {
    match (expected, state) {
        (_, State::Tombstoned) | (Expected::Tombstoned, _) => false,
        (Expected::Any, _) => true,
        (Expected::NoStream, State::Empty | State::SoftDeleted(_)) => true,
        (Expected::NoStream, State::Live(_)) => false,
        (Expected::Exists, State::Live(_)) => true,
        // A stream that has only metadata exists.
        (Expected::Exists, State::Empty) => head.metadata.present,
        (Expected::Exists, State::SoftDeleted(_)) => false,
        (Expected::SoftDeleted, State::SoftDeleted(_)) => true,
        (Expected::SoftDeleted, State::Empty | State::Live(_)) => false,
        (Expected::Exactly(revision), State::Live(last) | State::SoftDeleted(last)) => revision == last,
        (Expected::Exactly(_), State::Empty) => false,
    }
}

/// A stream that is only checked: as for a write, except that a tombstone can
/// be what was asked for.
fn check_satisfied(expected: Expected, state: State, head: &Head) -> bool {
    match (expected, state) {
        (Expected::Any | Expected::NoStream | Expected::Tombstoned, State::Tombstoned) => true,
        _ => write_satisfied(expected, state, head),
    }
}

fn decide_delete<H: Heads>(heads: &H, stream: &StreamName, expected: Expected) -> Result<Decision, H::Error> {
    let head = heads.head(stream)?;
    let state = state_of(heads, stream, &head)?;
    let allowed = match state {
        State::Tombstoned => false,
        State::Empty => head.metadata.present && !matches!(expected, Expected::Exactly(_)),
        State::Live(_) | State::SoftDeleted(_) => write_satisfied(expected, state, &head),
    };
    if !allowed {
        return Ok(refused(heads, stream, expected, state));
    }
    let mut place = Placing::new(heads);
    place.metadata(stream, Bytes::from_static(Metadata::SOFT_DELETE))?;
    Ok(place.decided(head.last))
}

fn decide_tombstone<H: Heads>(heads: &H, stream: &StreamName, expected: Expected) -> Result<Decision, H::Error> {
    let head = heads.head(stream)?;
    let state = state_of(heads, stream, &head)?;
    let allowed = match (state, expected) {
        // What is soft-deleted may be ended also by one who says it exists.
        (State::SoftDeleted(_), Expected::Exists) => true,
        _ => write_satisfied(expected, state, &head),
    };
    if !allowed {
        return Ok(refused(heads, stream, expected, state));
    }
    let mut place = Placing::new(heads);
    place.tombstone(stream);
    Ok(place.decided(head.last))
}

fn refused<H: Heads>(heads: &H, stream: &StreamName, expected: Expected, state: State) -> Decision {
    let violation = violation(0, stream.clone(), expected, state);
    Decision::of(refusal(heads, vec![violation]))
}

pub(crate) fn refusal<H: Heads>(heads: &H, violations: Vec<Violation>) -> Outcome {
    Outcome::Refused(Refusal { as_of: heads.tail(), violations })
}

pub(crate) fn violation(target: u32, stream: StreamName, expected: Expected, state: State) -> Violation {
    Violation { target, stream, expected, actual: Actual::from(state) }
}

/// Events being given their places.
pub(crate) struct Placing<'a, H> {
    known: &'a H,
    /// The heads of the streams written by this command, as they will be.
    heads: BTreeMap<StreamName, Head>,
    tail: Position,
    events: Vec<Placed>,
}

impl<'a, H: Heads> Placing<'a, H> {
    pub(crate) fn new(known: &'a H) -> Self {
        Placing { known, heads: BTreeMap::new(), tail: known.tail(), events: Vec::new() }
    }

    /// Where the next event goes.
    pub(crate) fn next_position(&self) -> Position {
        self.tail.next()
    }

    /// The newest position that is taken.
    pub(crate) fn tail(&self) -> Position {
        self.tail
    }

    /// The last revision of a stream, as it will be.
    pub(crate) fn last(&mut self, stream: &StreamName) -> Result<Option<Revision>, H::Error> {
        match self.heads.get(stream) {
            Some(head) => Ok(head.last),
            None => Ok(self.known.head(stream)?.last),
        }
    }

    /// Places the event that ends a stream; its revision.
    pub(crate) fn end(&mut self, stream: &StreamName, event: Event) -> Revision {
        self.tail = self.tail.next();
        let revision = Revision::TOMBSTONE;
        self.events.push(Placed { stream: stream.clone(), revision, position: self.tail, event });
        revision
    }

    /// The events, in the order of their positions.
    pub(crate) fn into_events(self) -> Vec<Placed> {
        self.events
    }

    /// Places an event; its revision.
    pub(crate) fn event(&mut self, stream: &StreamName, event: Event) -> Result<Revision, H::Error> {
        if !self.heads.contains_key(stream) {
            self.heads.insert(stream.clone(), self.known.head(stream)?);
        }
        let head = self.heads.get_mut(stream).expect("inserted above");
        self.tail = self.tail.next();
        let placed =
            Placed { stream: stream.clone(), revision: Revision::after(head.last), position: self.tail, event };
        placed.advance(head);
        let revision = placed.revision;
        self.events.push(placed);
        Ok(revision)
    }

    fn metadata(&mut self, stream: &StreamName, json: Bytes) -> Result<(), H::Error> {
        let metastream = stream.metastream();
        let event = own_event(&metastream, self.tail.next(), EventType::METADATA, Content::Json, json);
        self.event(&metastream, event).map(|_| ())
    }

    fn tombstone(&mut self, stream: &StreamName) {
        let event = own_event(stream, self.tail.next(), EventType::TOMBSTONE, Content::Binary, Bytes::new());
        self.end(stream, event);
    }

    /// Makes a soft-deleted stream visible again from its first new event on,
    /// after the append wrote it or its metadata (protocol 5.3).
    fn undelete(&mut self, target: &Target, append: &Append) -> Result<(), H::Error> {
        let (stream, of_metadata) = match target.stream.described() {
            Some(described) => (described, true),
            None => (target.stream.clone(), false),
        };
        // The usual case, before anything is looked up or copied.
        let head = self.known.head(&stream)?;
        if !head.metadata.hides_everything() {
            return Ok(());
        }
        let metastream = stream.metastream();
        let mut written =
            append.events.iter().rev().filter(|(index, _)| append.targets[*index as usize].stream == metastream);
        let json = match (written.next(), of_metadata) {
            (Some((_, event)), _) => event.data().clone(),
            (None, false) => self.known.newest_data(&metastream)?,
            (None, true) => return Ok(()),
        };
        if of_metadata {
            let also_written = append.targets.iter().any(|other| other.role == Role::Write && other.stream == stream);
            if also_written || Metadata::parse(&json).hides_everything() {
                return Ok(());
            }
        }
        self.metadata(&stream, metadata::with_truncate_before(&json, Revision::after(head.last)))
    }

    fn decided(self, last: Option<Revision>) -> Decision {
        let outcome = Outcome::Appended(Appended { position: self.tail, revisions: vec![last], repeated: false });
        Decision { events: self.events, ..Decision::of(outcome) }
    }
}

/// An event that the rules make. Its id is a function of its place, so that
/// all nodes make the same one.
pub(crate) fn own_event(
    stream: &StreamName,
    position: Position,
    event_type: &'static str,
    content: Content,
    data: Bytes,
) -> Event {
    let mut seed = Vec::with_capacity(stream.as_str().len() + 8);
    seed.extend_from_slice(&position.get().to_le_bytes());
    seed.extend_from_slice(stream.as_bytes());
    let id = uuid::Builder::from_custom_bytes(xxhash_rust::xxh3::xxh3_128(&seed).to_be_bytes()).into_uuid();
    debug_assert_ne!(id, Uuid::nil());
    let id = EventId::new(id).expect("a UUID with its version bits set is not nil");
    let event_type = EventType::new(event_type).expect("our own types are valid");
    Event::new(id, event_type, content, Properties::Opaque, Bytes::new(), data)
}
