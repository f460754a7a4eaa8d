//! A history as it would be if the cluster had ended at a backup.
//!
//! A cluster that is restored ends where its backup ended. What was acknowledged after
//! that is gone, and rightly so; everything before it is not. [`up_to`] leaves of a history
//! what is said of the log up to that position, so that the usual judgement applies to
//! what was restored: each acknowledged event below it must be there, in its order, once,
//! and the chain hashes of old nodes and new ones must be equal.
//!
//! What is dropped is what could only be explained by events after the position:
//! sightings of them, answers as of a later place, and refusals that do not say as of
//! where, once anything later may have been written. A write that was acknowledged later
//! counts as one of unknown fate: it may not be there, but never in part.

use crate::history::{Nanos, Outcome, ReadOutcome, Reason, Record};

/// The records of what is true of the log up to this position, inclusive.
pub fn up_to(records: Vec<Record>, position: u64) -> Vec<Record> {
    let later = later_since(&records, position);
    records.into_iter().filter_map(|record| cut(record, position, later)).collect()
}

/// When the first call was made that is known to have written beyond.
fn later_since(records: &[Record], position: u64) -> Nanos {
    let is_later = |outcome: &Outcome| matches!(outcome, Outcome::Acked { position: at, .. } if *at > position);
    let invoked = records.iter().filter_map(|record| match record {
        Record::Append(append) if is_later(&append.outcome) => Some(append.invoke),
        Record::Delete(delete) if is_later(&delete.outcome) => Some(delete.invoke),
        _ => None,
    });
    invoked.min().unwrap_or(Nanos::MAX)
}

fn cut(record: Record, position: u64, later: Nanos) -> Option<Record> {
    let is_late = |complete: Option<Nanos>| complete.is_none_or(|complete| complete >= later);
    Some(match record {
        Record::Append(mut append) => {
            if is_beyond(&append.outcome, position, is_late(append.complete)) {
                (append.outcome, append.complete) = (unknown(), None);
            }
            Record::Append(append)
        }
        Record::Delete(mut delete) => {
            if is_beyond(&delete.outcome, position, is_late(delete.complete)) {
                (delete.outcome, delete.complete) = (unknown(), None);
            }
            Record::Delete(delete)
        }
        Record::Read(read) => {
            let (events, as_of) = match &read.outcome {
                ReadOutcome::Ok { events, as_of } => (events.as_slice(), *as_of),
                ReadOutcome::NoStream { as_of } | ReadOutcome::Tombstoned { as_of } => (&[][..], *as_of),
                ReadOutcome::Failed { .. } => return Some(Record::Read(read)),
            };
            let within = as_of.map_or(!is_late(read.complete), |as_of| as_of <= position);
            if !within || events.iter().any(|event| event.position > position) {
                return None;
            }
            Record::Read(read)
        }
        Record::Delivered(mut delivered) => {
            delivered.events.retain(|event| event.position <= position);
            if delivered.events.is_empty() {
                return None;
            }
            Record::Delivered(delivered)
        }
        // Of a stream it names a revision, which nobody can compare.
        Record::CaughtUp(caught_up) if caught_up.time >= later => return None,
        Record::Hash(hash) if hash.position > position => return None,
        other => other,
    })
}

/// Whether an answer was decided by more than the log up to the position.
fn is_beyond(outcome: &Outcome, position: u64, is_late: bool) -> bool {
    match outcome {
        Outcome::Acked { position: at, .. } => *at > position,
        Outcome::Refused { as_of: Some(as_of), .. } => *as_of > position,
        Outcome::Refused { reason: Reason::WrongExpectation { .. } | Reason::Tombstoned { .. }, as_of: None } => {
            is_late
        }
        Outcome::Refused { reason: Reason::Invalid { .. } | Reason::NotTaken { .. }, as_of: None }
        | Outcome::Unknown { .. } => false,
    }
}

fn unknown() -> Outcome {
    Outcome::Unknown { why: "decided after the backup".to_owned() }
}
