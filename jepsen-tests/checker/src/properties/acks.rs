//! P3, P5 and P1 of everything that was acknowledged.
//!
//! What was acknowledged must be in the log (P3), where the acknowledgement
//! says (P1), and all acknowledgements of one append must say the same (P5).
//! An append that is sent again is acknowledged as the first time.

use std::collections::HashMap;

use crate::history::{Append, Outcome};
use crate::index::flattened;
use crate::properties::Case;
use crate::quote::Quote;
use crate::replay::Writer;
use crate::verdict::{Findings, Property};

pub(crate) fn judge(case: &Case<'_, '_>, findings: &mut Findings) {
    judge_appends(case, findings);
    judge_deletes(case, findings);
}

fn judge_appends(case: &Case<'_, '_>, findings: &mut Findings) {
    let index = case.index;
    for (group, placed) in index.groups.iter().zip(&case.replay.placed) {
        let acked = group.sends.iter().map(|send| index.appends[*send as usize]);
        let acked = acked.filter(|append| matches!(append.outcome, Outcome::Acked { .. }));
        let acked: Vec<&Append> = acked.collect();
        let Some(first) = acked.first() else { continue };
        for property in [Property::P1, Property::P3, Property::P5] {
            findings.checked(property, acked.len() as u64);
        }
        let other = acked.iter().find(|append| append.outcome != first.outcome);
        if let Some(other) = other {
            findings.violation(Property::P5, Some(other.invoke), || {
                format!("one append is acknowledged at two places: {}; and: {}", Quote(*first), Quote(*other))
            });
            continue;
        }
        let Some(placed) = placed else {
            findings.violation(Property::P3, Some(first.invoke), || {
                format!("acknowledged, but not in the log at the end: {}", Quote(*first))
            });
            continue;
        };
        let batch = &case.replay.batches[placed.batch as usize];
        if let Some(wrong) = disagreement(case, first, batch.first) {
            findings.violation(Property::P1, Some(first.invoke), || format!("{wrong}: {}", Quote(*first)));
        }
    }
}

/// What an acknowledgement says otherwise than the log, where the append's
/// first event has this index.
fn disagreement(case: &Case<'_, '_>, append: &Append, first: usize) -> Option<String> {
    let Outcome::Acked { position, revisions } = &append.outcome else { return None };
    let events = case.index.log.events();
    let last = events.get(first + flattened(append).count() - 1)?;
    if last.position != *position {
        return Some(format!("its last event is at position {} in the log", last.position));
    }
    let mut at = first;
    // Writes without events only check, and are told of what they found.
    for (number, write) in append.writes.iter().enumerate().filter(|(_, write)| !write.events.is_empty()) {
        at += write.events.len();
        let last = events.get(at - 1)?;
        if revisions.get(number) != Some(&last.revision) {
            return Some(format!("its last event in {} has revision {} in the log", write.stream, last.revision));
        }
    }
    None
}

fn judge_deletes(case: &Case<'_, '_>, findings: &mut Findings) {
    let mut at_position: HashMap<u64, usize> = HashMap::new();
    for (number, (delete, batch)) in case.index.deletes.iter().zip(&case.replay.deleted).enumerate() {
        let Outcome::Acked { position, .. } = delete.outcome else { continue };
        for property in [Property::P1, Property::P3, Property::P5] {
            findings.checked(property, 1);
        }
        if let Some(other) = at_position.insert(position, number) {
            findings.violation(Property::P5, Some(delete.invoke), || {
                format!(
                    "two deletions are acknowledged at one place: {}; and: {}",
                    Quote(case.index.deletes[other]),
                    Quote(*delete)
                )
            });
        } else if batch.is_none() {
            findings.violation(Property::P3, Some(delete.invoke), || {
                format!("acknowledged, but not in the log at the end: {}", Quote(*delete))
            });
        }
    }
}

/// Counts the writes of unknown fate that are in the log.
pub(crate) fn count(case: &Case<'_, '_>, findings: &mut Findings) {
    let happened = case.replay.batches.iter().filter(|batch| match batch.writer {
        Writer::Append(_) | Writer::Delete(_) => batch.complete == u64::MAX,
        Writer::Nobody => false,
    });
    findings.counts.unknown_happened = happened.count() as u64;
}
