//! Each read by itself: does it show the log at some place, and at the place
//! that it claims?
//!
//! | what is wrong | property |
//! |---|---|
//! | there is no place at all | P4; P14 if the stream was ever truncated or deleted |
//! | there are places only inside a batch, or the claim is inside one | P6 |
//! | the claimed position is not in the log at the end | P3 |
//! | not at the claimed place | P8 for a linearizable read, P10 for any other; P14 if it were right had nothing ever been hidden |
//! | not where at least everything up to a position is | P10 |
//! | a local read goes back behind the one before it, by one process on one node | P10 |
//!
//! Whether linearizable reads fit together in time is asked by `order`.

use std::collections::HashMap;

use crate::gaps::{self, Filters, Gaps};
use crate::history::{Fault, Mode, NodeNumber, Read, ReadOutcome, Target};
use crate::properties::Case;
use crate::properties::sightings::Flawed;
use crate::quote::Quote;
use crate::settings::Claim;
use crate::stream::Stream;
use crate::verdict::{Findings, Property};

/// Where a linearizable read can be, with and without its claim.
pub(crate) struct Placeable<'h> {
    /// The read.
    pub(crate) read: &'h Read,
    /// Where its content is right.
    pub(crate) gaps: Gaps,
    /// Where its claim is right as well; absent when that was reported.
    pub(crate) claimed: Option<Gaps>,
}

/// The position that an answer claims.
fn as_of(read: &Read) -> Option<u64> {
    match &read.outcome {
        ReadOutcome::Ok { as_of, .. } | ReadOutcome::NoStream { as_of } | ReadOutcome::Tombstoned { as_of } => *as_of,
        ReadOutcome::Failed { .. } => None,
    }
}

fn is_answered(read: &Read) -> bool {
    !matches!(read.outcome, ReadOutcome::Failed { .. }) && read.complete.is_some()
}

/// Judges each read, and returns those that must also fit in time.
pub(crate) fn judge<'h>(case: &Case<'_, 'h>, flawed: &Flawed, findings: &mut Findings) -> Vec<Placeable<'h>> {
    let mut filters = Filters::default();
    let mut placeable = Vec::new();
    for (read, flawed) in case.index.reads.iter().zip(&flawed.reads) {
        if !is_answered(read) {
            continue;
        }
        findings.checked(Property::P4, 1);
        if as_of(read).is_some_and(|as_of| as_of > case.index.log.tail()) {
            let tail = case.index.log.tail();
            findings.violation(Property::P3, Some(read.invoke), || {
                format!("the log ends at position {tail}, before what was claimed by the {}", Quote(*read))
            });
            continue;
        }
        if *flawed {
            continue;
        }
        match &read.target {
            Target::All { prefixes } => {
                let positions = filters.positions(prefixes, &case.index.log);
                let gaps = match &read.outcome {
                    ReadOutcome::Ok { events, .. } => gaps::of_all_read(read, events, positions, case.index.log.tail()),
                    // Everything exists and has no tombstone.
                    ReadOutcome::NoStream { .. } | ReadOutcome::Tombstoned { .. } => Gaps::new(),
                    ReadOutcome::Failed { .. } => continue,
                };
                placeable.extend(judge_places(case, read, gaps, None, findings));
            }
            Target::Stream(name) => match case.replay.stream(name) {
                Some(stream) if stream.dense => {
                    let gaps = gaps::of_stream_read(read, stream, &stream.epochs);
                    placeable.extend(judge_places(case, read, gaps, Some(stream), findings));
                }
                // What its revisions are was reported; they say nothing more.
                Some(_) => {}
                None => {
                    let nothing = Stream::nothing(name.clone(), case.index.log.tail());
                    let gaps = gaps::of_stream_read(read, &nothing, &nothing.epochs);
                    placeable.extend(judge_places(case, read, gaps, Some(&nothing), findings));
                }
            },
        }
    }
    judge_sessions(case, findings);
    placeable
}

fn judge_places<'h>(
    case: &Case<'_, 'h>,
    read: &'h Read,
    gaps: Gaps,
    stream: Option<&Stream>,
    findings: &mut Findings,
) -> Option<Placeable<'h>> {
    let time = Some(read.invoke);
    let altered = stream.filter(|stream| stream.was_altered());
    if altered.is_some() {
        findings.checked(Property::P14, 1);
    }
    if gaps.is_empty() {
        let property = if altered.is_some() { Property::P14 } else { Property::P4 };
        findings.violation(property, time, || format!("shows the log at no place at all: {}", Quote(read)));
        return None;
    }
    let boundary = |gap| case.replay.boundary(case.index, gap);
    findings.checked(Property::P6, 1);
    if gaps::least(&gaps, 0, boundary).is_none() {
        findings.violation(Property::P6, time, || format!("shows a part of an append: {}", Quote(read)));
        return None;
    }
    let claim = match read.target {
        Target::All { .. } => Claim::Exact,
        Target::Stream(_) => case.settings.stream_claim,
    };
    let mut claimed = gaps::claimed(&gaps, as_of(read), claim);
    if let Some(as_of) = as_of(read).filter(|as_of| claim != Claim::Ignored && boundary(*as_of) != *as_of) {
        findings.violation(Property::P6, time, || format!("position {as_of} is inside an append: {}", Quote(read)));
        return None;
    }
    findings.checked(if read.mode == Mode::Linearizable { Property::P8 } else { Property::P10 }, 1);
    if gaps::least(&claimed, 0, boundary).is_none() {
        let unaltered = altered.map(|stream| {
            let visible = Stream::nothing(stream.name.clone(), case.index.log.tail());
            gaps::of_stream_read(read, stream, &visible.epochs)
        });
        let unaltered = unaltered.map(|gaps| gaps::claimed(&gaps, as_of(read), claim));
        let property = match read.mode {
            _ if unaltered.is_some_and(|gaps| !gaps.is_empty()) => Property::P14,
            Mode::Linearizable => Property::P8,
            Mode::AtLeast(_) | Mode::Local => Property::P10,
        };
        findings.violation(property, time, || {
            format!("does not show the log as of the position it claims, only at {gaps:?}: {}", Quote(read))
        });
        // What is hidden wrongly is no question of time.
        let is_asked = read.mode == Mode::Linearizable && property != Property::P14;
        return is_asked.then_some(Placeable { read, gaps, claimed: None });
    }
    match read.mode {
        Mode::Linearizable => Some(Placeable { read, gaps, claimed: Some(claimed) }),
        Mode::Local => None,
        Mode::AtLeast(position) => {
            claimed.retain(|(_, high)| *high >= position);
            if as_of(read).is_some_and(|as_of| as_of < position) || gaps::least(&claimed, position, boundary).is_none()
            {
                findings.violation(Property::P10, time, || {
                    format!("does not show everything up to position {position}, only {gaps:?}: {}", Quote(read))
                });
            }
            None
        }
    }
}

/// Faults through which a process goes on with all that it has: pauses,
/// partitions, bad networks, slow disks, clocks.
const LIVES_ON: [&str; 5] = ["F2", "F3", "F4", "F10", "F13"];

/// Local reads of one process on one node follow each other; the second must
/// not be as of an earlier position, unless the node was restarted meanwhile.
fn judge_sessions(case: &Case<'_, '_>, findings: &mut Findings) {
    if !case.settings.local_reads_never_go_back {
        return;
    }
    let mut sessions: HashMap<(u32, NodeNumber), Vec<&Read>> = HashMap::new();
    for read in case.index.reads.iter().filter(|read| is_answered(read) && as_of(read).is_some()) {
        sessions.entry((read.process, read.node)).or_default().push(read);
    }
    for ((_, node), mut reads) in sessions {
        reads.sort_by_key(|read| read.invoke);
        for pair in reads.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            findings.checked(Property::P10, 1);
            let is_judged = after.mode != Mode::Linearizable && before.complete < Some(after.invoke);
            if !is_judged || as_of(after) >= as_of(before) {
                continue;
            }
            let touches = |fault: &&&Fault| {
                fault.nodes.contains(&node)
                    && !LIVES_ON.contains(&&*fault.class)
                    && fault.start <= after.complete.unwrap_or(u64::MAX)
                    && fault.end >= before.invoke
            };
            if case.index.faults.iter().find(touches).is_none() {
                findings.violation(Property::P10, Some(after.invoke), || {
                    format!("goes back: first {}; then {}", Quote(before), Quote(after))
                });
            }
        }
    }
}
