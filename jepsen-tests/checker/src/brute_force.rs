//! Linearizability by trying every order (Wing and Gong).
//!
//! Nothing here is shared with the rest of the checker but the words: the
//! [`World`] computes everything anew from its events, as slowly and plainly
//! as it can be said. For histories of a few operations that is fast enough,
//! and it is what the sweep is measured against.
//!
//! Judged are writes, refusals and linearizable reads, all against the log that
//! a complete linearizable read at the end showed. Local reads, subscriptions
//! and the times of events are not looked at.

mod world;

use std::collections::HashSet;

pub use world::{Answer, Entry, Shape, World};

use crate::history::{
    Append, Current, Delete, EventId, Expected, Mode, Nanos, Outcome, Read, ReadOutcome, Reason, Record, Seen, Source,
    Target,
};
use crate::settings::{Claim, Settings};

/// Something that happened, for the search.
enum Operation<'h> {
    Append(&'h Append),
    Delete(&'h Delete),
    Read(&'h Read),
}

impl Operation<'_> {
    fn invoke(&self) -> Nanos {
        match self {
            Operation::Append(append) => append.invoke,
            Operation::Delete(delete) => delete.invoke,
            Operation::Read(read) => read.invoke,
        }
    }

    /// When it was over; the end of time for what may happen later or never.
    fn complete(&self) -> Nanos {
        let (complete, outcome) = match self {
            Operation::Append(append) => (append.complete, &append.outcome),
            Operation::Delete(delete) => (delete.complete, &delete.outcome),
            Operation::Read(read) => return read.complete.unwrap_or(Nanos::MAX),
        };
        match outcome {
            Outcome::Unknown { .. } => Nanos::MAX,
            Outcome::Acked { .. } | Outcome::Refused { .. } => complete.unwrap_or(Nanos::MAX),
        }
    }

    fn may_never_happen(&self) -> bool {
        let outcome = match self {
            Operation::Append(append) => &append.outcome,
            Operation::Delete(delete) => &delete.outcome,
            Operation::Read(_) => return false,
        };
        matches!(outcome, Outcome::Unknown { .. })
    }
}

/// Whether the writes, refusals and linearizable reads of a small history can
/// be put in an order that real time allows and that ends in its final log.
/// False without a complete linearizable final read.
///
/// Takes time exponential in the number of operations that overlap.
pub fn is_linearizable(records: &[Record], settings: &Settings) -> bool {
    let mut operations = Vec::new();
    let mut end: Vec<&Seen> = Vec::new();
    let mut is_complete = false;
    let mut proposed = HashSet::new();
    for record in records {
        if let Record::Append(append) = record {
            proposed.extend(append.writes.iter().flat_map(|write| &write.events).map(|event| event.id));
        }
        match record {
            Record::Append(append) if depends_on_log(&append.outcome) => operations.push(Operation::Append(append)),
            Record::Delete(delete) if depends_on_log(&delete.outcome) => operations.push(Operation::Delete(delete)),
            Record::Read(read) if is_placed(read) => operations.push(Operation::Read(read)),
            Record::Final(part) if part.source == Source::Linearizable && !is_complete => {
                end.extend(&part.events);
                is_complete = part.complete;
            }
            _ => {}
        }
    }
    let mut placed = vec![false; operations.len()];
    let search = Search { operations: &operations, end: &end, proposed, settings };
    is_complete && search.go(&mut placed, &World::default(), &mut vec![0])
}

fn is_placed(read: &Read) -> bool {
    let is_answered = !matches!(read.outcome, ReadOutcome::Failed { .. });
    read.mode == Mode::Linearizable && read.complete.is_some() && is_answered
}

fn depends_on_log(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Acked { .. } | Outcome::Unknown { .. } => true,
        Outcome::Refused { reason, .. } => match reason {
            Reason::WrongExpectation { .. } | Reason::Tombstoned { .. } => true,
            Reason::Invalid { .. } | Reason::NotTaken { .. } => false,
        },
    }
}

struct Search<'a, 'h> {
    operations: &'a [Operation<'h>],
    end: &'a [&'h Seen],
    /// The ids that clients chose, also for what was refused.
    proposed: HashSet<EventId>,
    settings: &'a Settings,
}

impl Search<'_, '_> {
    /// `lengths` are those that the log has had.
    fn go(&self, placed: &mut [bool], world: &World, lengths: &mut Vec<u64>) -> bool {
        let left = || self.operations.iter().zip(&*placed).filter(|(_, placed)| !**placed).map(|(left, _)| left);
        if world.log.len() == self.end.len() && left().all(Operation::may_never_happen) {
            return true;
        }
        let first_to_end = left().map(Operation::complete).min().unwrap_or(Nanos::MAX);
        for (at, operation) in self.operations.iter().enumerate() {
            // Nothing may come before what was over when it was invoked.
            if placed[at] || operation.invoke() > first_to_end {
                continue;
            }
            let Some(next) = self.after(operation, world, lengths) else { continue };
            placed[at] = true;
            lengths.push(next.log.len() as u64);
            if self.go(placed, &next, lengths) {
                return true;
            }
            lengths.pop();
            placed[at] = false;
        }
        false
    }

    /// The world after an operation, if it can happen now as it was told.
    fn after(&self, operation: &Operation<'_>, world: &World, lengths: &[u64]) -> Option<World> {
        let mut next = world.clone();
        let (answer, outcome) = match operation {
            Operation::Append(append) => (next.append(&append.writes), &append.outcome),
            Operation::Delete(delete) => (next.delete(&delete.stream, delete.expected, delete.hard), &delete.outcome),
            Operation::Read(read) => return self.shows(read, world, lengths).then_some(next),
        };
        let fits = match (outcome, &answer) {
            // One that changes nothing need not be placed.
            (Outcome::Unknown { .. }, _) => next.log.len() > world.log.len(),
            (Outcome::Acked { position, revisions }, Answer::Done(at, last)) => position == at && revisions == last,
            (Outcome::Refused { reason, as_of }, Answer::Not(because)) => {
                let told = because.iter().any(|(stream, expected, shape)| told(reason, stream, *expected, *shape));
                told && is_claimed(*as_of, lengths, self.settings.refusal_claim)
            }
            (Outcome::Acked { .. }, Answer::Not(_)) | (Outcome::Refused { .. }, Answer::Done(..)) => false,
        };
        (fits && self.is_beginning(&next, world.log.len())).then_some(next)
    }

    /// Whether the log at the end begins with this one.
    fn is_beginning(&self, world: &World, known: usize) -> bool {
        world.log.len() <= self.end.len()
            && (1u64..).zip(world.log.iter().zip(self.end)).skip(known).all(|(position, (entry, seen))| {
                let same = match &entry.proposed {
                    Some(proposed) => proposed.id == seen.id && proposed.digest == seen.digest,
                    None => seen.system && !self.proposed.contains(&seen.id),
                };
                same && seen.position == position && seen.revision == entry.revision && seen.stream == entry.stream
            })
    }

    fn shows(&self, read: &Read, world: &World, lengths: &[u64]) -> bool {
        let shown = world.read(&read.target, read.direction, read.from, read.limit);
        let (same, as_of) = match (&read.outcome, shown) {
            (ReadOutcome::Ok { events, as_of }, Ok(positions)) => {
                let there = positions.iter().map(|position| self.end[usize::try_from(*position - 1).unwrap_or(0)]);
                (events.iter().eq(there), as_of)
            }
            (ReadOutcome::NoStream { as_of }, Err(shape)) => {
                (matches!(shape, Shape::Nothing | Shape::SoftlyDeleted(_)), as_of)
            }
            (ReadOutcome::Tombstoned { as_of }, Err(shape)) => (shape == Shape::Ended, as_of),
            _ => return false,
        };
        let claim = match read.target {
            Target::All { .. } => Claim::Exact,
            Target::Stream(_) => self.settings.stream_claim,
        };
        same && is_claimed(*as_of, lengths, claim)
    }
}

/// Whether an answer about a log that had these lengths, one after the other,
/// may claim this position.
fn is_claimed(as_of: Option<u64>, lengths: &[u64], claim: Claim) -> bool {
    as_of.is_none_or(|as_of| match claim {
        Claim::Ignored => true,
        Claim::AtLeast => lengths.contains(&as_of),
        Claim::Exact => lengths.last() == Some(&as_of),
    })
}

/// Whether a refusal for this reason can be told of a stream that is so.
fn told(reason: &Reason, stream: &str, expected: Expected, shape: Shape) -> bool {
    match reason {
        Reason::WrongExpectation { stream: named, current } => {
            let current = match (current, shape) {
                (None, _) => true,
                (Some(_), Shape::Ended) => false,
                (Some(Current::NoStream), shape) => !matches!(shape, Shape::At(_)),
                (Some(Current::Revision(revision)), Shape::At(last) | Shape::SoftlyDeleted(last)) => *revision == last,
                (Some(Current::Revision(_)), Shape::Nothing) => false,
            };
            **named == *stream && current
        }
        Reason::Tombstoned { stream: named } => {
            let softly = matches!(shape, Shape::SoftlyDeleted(_)) && expected == Expected::Exists;
            **named == *stream && (shape == Shape::Ended || softly)
        }
        Reason::Invalid { .. } | Reason::NotTaken { .. } => false,
    }
}
