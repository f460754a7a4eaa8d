//! P7, P8 and P9 of all operations together: can they be placed along the log
//! in an order that real time allows?
//!
//! The sweep is run twice: once with what answers claim, once with what their
//! content alone allows, so that a server gains nothing by lying. An operation
//! that is misplaced is told once.

use std::collections::HashSet;

use crate::gaps::{self, Gaps, Refusal, Repeated};
use crate::history::{Append, Outcome, Proposed, Reason, Seen, Write};
use crate::index::flattened;
use crate::properties::Case;
use crate::properties::reads::Placeable;
use crate::quote::Quote;
use crate::replay::Writer;
use crate::rules::Deed;
use crate::stream::Stream;
use crate::sweep::Sweep;
use crate::verdict::{Findings, Property};

/// What was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Append(u32),
    Delete(u32),
    Read(u32),
    /// An acknowledged append of which there is more than one send.
    Repeated(u32),
    RefusedAppend(u32),
    RefusedDelete(u32),
}

pub(crate) fn judge(case: &Case<'_, '_>, reads: &[Placeable<'_>], findings: &mut Findings) {
    let mut refused = refusals(case, findings);
    refused.extend(repetitions(case, findings));
    let mut told = HashSet::new();
    for with_claims in [true, false] {
        let mut sweep = Sweep::new();
        add_batches(case, &mut sweep);
        for (number, placeable) in (0u32..).zip(reads) {
            let gaps = if with_claims { placeable.claimed.as_ref() } else { Some(&placeable.gaps) };
            if let (Some(gaps), Some(complete)) = (gaps, placeable.read.complete) {
                sweep.gap(placeable.read.invoke, complete, gaps, What::Read(number));
            }
        }
        for refused in &refused {
            let gaps = if with_claims { &refused.claimed } else { &refused.gaps };
            sweep.gap(refused.invoke, refused.complete, gaps, refused.what);
        }
        if with_claims {
            let batches = case.replay.batches.len() as u64;
            findings.checked(Property::P7, batches);
            findings.checked(Property::P8, sweep.len() as u64 - batches.min(sweep.len() as u64));
        }
        for misplaced in sweep.run(|gap| case.replay.boundary(case.index, gap)) {
            if !told.insert(misplaced.what) {
                continue;
            }
            let what = |what| quote(case, reads, what);
            findings.violation(property(misplaced.what, misplaced.after), invoke(case, reads, misplaced.what), || {
                format!(
                    "must be placed at or above position {}, but cannot: {}; because before it was completed the {}",
                    misplaced.floor,
                    what(misplaced.what),
                    what(misplaced.after)
                )
            });
        }
    }
}

fn property(what: What, after: What) -> Property {
    match (what, after) {
        (What::Repeated(_) | What::RefusedAppend(_) | What::RefusedDelete(_), _) => Property::P9,
        (What::Read(_), _) => Property::P8,
        (What::Append(_) | What::Delete(_), What::Append(_) | What::Delete(_) | What::Repeated(_)) => Property::P7,
        // The other claimed to be as of a place that did not exist yet.
        (What::Append(_) | What::Delete(_), What::Read(_)) => Property::P8,
        (What::Append(_) | What::Delete(_), What::RefusedAppend(_) | What::RefusedDelete(_)) => Property::P9,
    }
}

fn quote(case: &Case<'_, '_>, reads: &[Placeable<'_>], what: What) -> String {
    match what {
        What::Append(number) | What::Repeated(number) | What::RefusedAppend(number) => {
            Quote(case.index.appends[number as usize]).to_string()
        }
        What::Delete(number) | What::RefusedDelete(number) => Quote(case.index.deletes[number as usize]).to_string(),
        What::Read(number) => Quote(reads[number as usize].read).to_string(),
    }
}

fn invoke(case: &Case<'_, '_>, reads: &[Placeable<'_>], what: What) -> Option<u64> {
    Some(match what {
        What::Append(number) | What::Repeated(number) | What::RefusedAppend(number) => {
            case.index.appends[number as usize].invoke
        }
        What::Delete(number) | What::RefusedDelete(number) => case.index.deletes[number as usize].invoke,
        What::Read(number) => reads[number as usize].read.invoke,
    })
}

fn add_batches(case: &Case<'_, '_>, sweep: &mut Sweep<What>) {
    for batch in &case.replay.batches {
        let last = case.index.log.events()[batch.end - 1].position;
        let what = match batch.writer {
            Writer::Append(number) => What::Append(number),
            Writer::Delete(number) => What::Delete(number),
            // Reported, and of no known time.
            Writer::Nobody => continue,
        };
        if last > 0 {
            sweep.batch(batch.invoke, batch.complete, last, what);
        }
    }
}

/// An answer that says what the log is like at some place.
struct Refused {
    what: What,
    invoke: u64,
    complete: u64,
    gaps: Gaps,
    claimed: Gaps,
}

/// The refusals that depend on the log, with where they can be. One that can
/// be nowhere is reported.
fn refusals(case: &Case<'_, '_>, findings: &mut Findings) -> Vec<Refused> {
    let mut refused = Vec::new();
    for (number, append) in (0u32..).zip(&case.index.appends) {
        let Outcome::Refused { reason, as_of } = &append.outcome else { continue };
        let Some(stream) = stream_of(reason) else { continue };
        let gaps = append.writes.iter().find(|write| *write.stream == *stream).map(|write| {
            let repeated = repeated(case, number, append, stream);
            let refusal = Refusal { deed: Deed::Append, expected: write.expected, reason, repeated };
            gaps_of(case, &refusal, stream)
        });
        let what = What::RefusedAppend(number);
        let when = (append.invoke, append.complete);
        refused.extend(judge_refusal(case, what, when, gaps.flatten(), *as_of, findings));
    }
    for (number, delete) in (0u32..).zip(&case.index.deletes) {
        let Outcome::Refused { reason, as_of } = &delete.outcome else { continue };
        let Some(stream) = stream_of(reason) else { continue };
        let deed = if delete.hard { Deed::HardDelete } else { Deed::SoftDelete };
        let refusal = Refusal { deed, expected: delete.expected, reason, repeated: None };
        let gaps = if *delete.stream == *stream { gaps_of(case, &refusal, stream) } else { Some(Gaps::new()) };
        let what = What::RefusedDelete(number);
        refused.extend(judge_refusal(case, what, (delete.invoke, delete.complete), gaps, *as_of, findings));
    }
    refused
}

/// Acknowledgements of appends that were sent more than once. Whichever send
/// wrote it: each acknowledgement was decided where the events were there and
/// recognised. (The send that wrote it may as well be placed right after.)
fn repetitions(case: &Case<'_, '_>, findings: &mut Findings) -> Vec<Refused> {
    let mut repetitions = Vec::new();
    for (group, placed) in case.index.groups.iter().zip(&case.replay.placed) {
        let Some(placed) = placed.filter(|_| group.sends.len() > 1) else { continue };
        let batch = &case.replay.batches[placed.batch as usize];
        let last = case.index.log.events()[batch.end - 1].position;
        for number in &group.sends {
            let append = case.index.appends[*number as usize];
            let Outcome::Acked { .. } = append.outcome else { continue };
            findings.checked(Property::P9, 1);
            let gaps = gaps::of_repetition(append, case, batch.first, last, None);
            if gaps.is_empty() {
                findings.violation(Property::P9, Some(append.invoke), || {
                    format!(
                        "acknowledged as a repetition, though its expectation never was that of what is at position \
                         {last}: {}",
                        Quote(append)
                    )
                });
                continue;
            }
            let complete = append.complete.unwrap_or(u64::MAX);
            let claimed = gaps.clone();
            repetitions.push(Refused { what: What::Repeated(*number), invoke: append.invoke, complete, gaps, claimed });
        }
    }
    repetitions
}

fn stream_of(reason: &Reason) -> Option<&str> {
    match reason {
        Reason::WrongExpectation { stream, .. } | Reason::Tombstoned { stream } => Some(stream),
        Reason::Invalid { .. } | Reason::NotTaken { .. } => None,
    }
}

/// The gaps of a refusal; absent where the stream cannot be judged.
fn gaps_of(case: &Case<'_, '_>, refusal: &Refusal<'_>, stream: &str) -> Option<Gaps> {
    match case.replay.stream(stream) {
        Some(known) => known.dense.then(|| gaps::of_refusal(refusal, known)),
        None => {
            let nothing = Stream::nothing(stream.into(), case.index.log.tail());
            Some(gaps::of_refusal(refusal, &nothing))
        }
    }
}

/// Where the events of a refused append are in the log by another send.
fn repeated(case: &Case<'_, '_>, number: u32, append: &Append, stream: &str) -> Option<Repeated> {
    let placed = case.replay.placed[case.index.group_of[number as usize] as usize]?;
    let batch = &case.replay.batches[placed.batch as usize];
    let there = &case.index.log.events()[batch.first..batch.end];
    let count = flattened(append).count();
    let same = |((write, proposed), event): ((&Write, &Proposed), &&Seen)| {
        event.id == proposed.id && event.stream == write.stream
    };
    if count > there.len() || !flattened(append).zip(there).all(same) {
        return None;
    }
    let position = there[count - 1].position;
    let first = gaps::first_revision_of(append, stream, case.index, batch.first)?;
    let elsewhere = gaps::of_repetition(append, case, batch.first, position, Some(stream));
    Some(Repeated { position, first, torn: gaps::complement(&elsewhere, position, case.index.log.tail()) })
}

fn judge_refusal(
    case: &Case<'_, '_>,
    what: What,
    (invoke, complete): (u64, Option<u64>),
    gaps: Option<Gaps>,
    as_of: Option<u64>,
    findings: &mut Findings,
) -> Option<Refused> {
    findings.checked(Property::P9, 1);
    let gaps = match (gaps, what) {
        (Some(gaps), _) => gaps,
        // The named stream is not one that it wanted to write.
        (None, What::RefusedAppend(number)) if !is_judged(case, number) => Gaps::new(),
        (None, _) => return None,
    };
    let claimed = gaps::claimed(&gaps, as_of, case.settings.refusal_claim);
    let boundary = |gap| case.replay.boundary(case.index, gap);
    if gaps::least(&claimed, 0, boundary).is_none() {
        findings.violation(Property::P9, Some(invoke), || {
            format!("the reason was true at no place that it can mean: {}", quote(case, &[], what))
        });
        return None;
    }
    Some(Refused { what, invoke, complete: complete.unwrap_or(u64::MAX), gaps, claimed })
}

/// Whether the stream that a refused append was told of is one of its own.
fn is_judged(case: &Case<'_, '_>, number: u32) -> bool {
    let append = case.index.appends[number as usize];
    let Outcome::Refused { reason, .. } = &append.outcome else { return false };
    stream_of(reason).is_some_and(|stream| append.writes.iter().any(|write| *write.stream == *stream))
}
