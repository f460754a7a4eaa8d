//! Events that were recorded elsewhere, taken in with their ids and times.
//!
//! An append stamps its events with the leader's time and answers a repetition as a
//! whole. An import moves a history: each event has a time of its own, and whoever
//! imports must be able to begin again anywhere, with other batches than before. So
//! every event is decided by itself: with a revision it is *there already* if the event
//! at that revision has its id, for ever; without one, if its id is among the remembered
//! ones of its stream, or among those that this command has placed before it: how a
//! history is cut into commands makes no difference. What is there already is not
//! written again. Anything that does not fit refuses the whole command.
//!
//! Times never go back along positions, and never lie after the leader's clock: an
//! event gets its own time if that is not before the newest event's, else that event's,
//! and never a later one than the command's ([`Decision::created`]). In a cluster
//! without events, all times are kept.

use std::collections::{BTreeMap, BTreeSet};

use crate::decide::{Decision, Heads, Placing, refusal, violation};
use crate::event::{Event, EventId};
use crate::head::State;
use crate::outcome::{Appended, Outcome};
use crate::{Expected, Position, Revision, StreamName, Timestamp};

/// Events of one command: with their bytes it bounds the work of one entry.
pub const EVENTS_MAX: usize = 10_000;

/// Events to be taken in, in the order in which they get their positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// At least one, at most [`EVENTS_MAX`].
    pub events: Vec<Imported>,
}

/// An event that was recorded elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its stream.
    pub stream: StreamName,
    /// The revision that it gets; [`Revision::TOMBSTONE`] for the event that ends its
    /// stream. None: the next one, unless it is remembered.
    pub revision: Option<Revision>,
    /// When it was recorded.
    pub created: Timestamp,
    /// The event.
    pub event: Event,
}

/// What becomes of an event.
enum Finding {
    Next,
    There(Revision, Position),
    Conflict(Expected),
}

pub(crate) fn decide_import<H: Heads>(heads: &H, import: &Import) -> Result<Decision, H::Error> {
    let mut place = Placing::new(heads);
    // Of streams that this command has ended, as of which nothing may follow.
    let mut ended: BTreeSet<&StreamName> = BTreeSet::new();
    // What this command has placed, which is remembered only once it is applied.
    let mut placed: BTreeMap<(&StreamName, EventId), (Revision, Position)> = BTreeMap::new();
    let (mut revisions, mut created) = (Vec::with_capacity(import.events.len()), Vec::new());
    let (mut position, mut repeated) = (heads.tail(), false);
    for (index, imported) in (0u32..).zip(&import.events) {
        let stream = &imported.stream;
        let next = Revision::after(place.last(stream)?);
        let tombstoned = heads.head(stream)?.tombstoned || ended.contains(stream);
        let id = imported.event.id();
        let just_now = placed.get(&(stream, id)).filter(|_| imported.revision.is_none());
        let finding = match just_now {
            Some((revision, at)) => Finding::There(*revision, *at),
            None => find(heads, imported, next, tombstoned)?,
        };
        match finding {
            Finding::There(revision, at) => {
                repeated = true;
                position = at;
                revisions.push(Some(revision));
            }
            Finding::Next => {
                created.push(imported.created);
                let revision = match imported.revision {
                    Some(Revision::TOMBSTONE) => {
                        ended.insert(stream);
                        place.end(stream, imported.event.clone())
                    }
                    Some(_) | None => place.event(stream, imported.event.clone())?,
                };
                position = place.tail();
                placed.insert((stream, id), (revision, position));
                revisions.push(Some(revision));
            }
            Finding::Conflict(expected) => {
                let state = match (tombstoned, next) {
                    (true, _) => State::Tombstoned,
                    (false, Revision::FIRST) => State::Empty,
                    (false, next) => State::Live(Revision::saturating(next.get() - 1)),
                };
                return Ok(Decision::of(refusal(heads, vec![violation(index, stream.clone(), expected, state)])));
            }
        }
    }
    let outcome = Outcome::Appended(Appended { position, revisions, repeated });
    Ok(Decision { events: place.into_events(), created, ..Decision::of(outcome) })
}

fn find<H: Heads>(heads: &H, imported: &Imported, next: Revision, tombstoned: bool) -> Result<Finding, H::Error> {
    let (stream, id) = (&imported.stream, imported.event.id());
    let known = match imported.revision {
        None => heads.remembered(stream, id)?,
        Some(revision) => match heads.event_at(stream, revision)? {
            Some((there, position)) if there == id => Some((revision, position)),
            Some(_) | None => None,
        },
    };
    if let Some((revision, position)) = known {
        return Ok(Finding::There(revision, position));
    }
    let expected = match imported.revision {
        None => Expected::Any,
        Some(Revision::FIRST) => Expected::NoStream,
        Some(Revision::TOMBSTONE) => Expected::Any,
        Some(revision) => Expected::Exactly(Revision::saturating(revision.get() - 1)),
    };
    let fits = imported.revision.is_none_or(|revision| revision == next || revision == Revision::TOMBSTONE);
    Ok(if fits && !tombstoned { Finding::Next } else { Finding::Conflict(expected) })
}
