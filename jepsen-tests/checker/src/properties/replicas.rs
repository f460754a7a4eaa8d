//! P13, and P3 of what nodes hold at the end.
//!
//! All hashes of one position are equal. A complete local final state equals
//! the log, up to its very end; what the files of a stopped node hold is at
//! least what that node showed. A final state that lacks an acknowledged event
//! has also lost it (P3). Final linearizable reads besides the witness may end
//! earlier, because a write of unknown fate may still have happened, but not
//! before anything acknowledged. Nodes that are stopped write down how far their
//! consumer groups have come, after everybody has read for the last time: of such
//! events files may hold more than the log, as long as no two nodes hold different ones.

use std::collections::BTreeMap;

use crate::history::{Hash, NodeNumber, Seen, Source};
use crate::index::FinalState;
use crate::properties::Case;
use crate::properties::sightings::same_event;
use crate::quote::Quote;
use crate::verdict::{Findings, Property};

/// Compares the hashes; needs no log.
pub(crate) fn judge_hashes(hashes: &[&Hash], findings: &mut Findings) {
    let mut first: BTreeMap<u64, &Hash> = BTreeMap::new();
    findings.checked(Property::P13, hashes.len() as u64);
    for hash in hashes {
        let known = first.entry(hash.position).or_insert(hash);
        if known.hash != hash.hash {
            findings.violation(Property::P13, Some(hash.time), || {
                format!(
                    "up to position {} node {} has hash {}, node {} has {}",
                    hash.position, known.node, known.hash, hash.node, hash.hash
                )
            });
        }
    }
}

/// Compares the final states with the log.
pub(crate) fn judge(case: &Case<'_, '_>, findings: &mut Findings) {
    let index = case.index;
    let mut shown: BTreeMap<NodeNumber, usize> = BTreeMap::new();
    for state in index.finals.iter().filter(|state| state.source == Source::Local && state.complete) {
        shown.insert(state.node, state.events.len());
    }
    let mut parting = BTreeMap::new();
    for (number, state) in index.finals.iter().enumerate() {
        if Some(number) == index.witness {
            continue;
        }
        findings.counts.sightings += state.events.len() as u64;
        findings.checked(Property::P13, state.events.len() as u64);
        let must_hold = match state.source {
            _ if !state.complete => 0,
            Source::Local => index.log.events().len(),
            Source::Linearizable => last_acked(case),
            Source::Offline => shown.get(&state.node).copied().unwrap_or(index.log.events().len()),
        };
        compare(case, state, must_hold, &mut parting, findings);
    }
    for node in &case.settings.final_nodes {
        if !shown.contains_key(node) {
            findings.unknown(format!("what node {node} holds at the end was not read completely"));
        }
    }
}

/// How many events of the log there are up to the last acknowledged one.
fn last_acked(case: &Case<'_, '_>) -> usize {
    let acked = case.replay.batches.iter().rev().find(|batch| batch.complete != u64::MAX);
    acked.map_or(0, |batch| batch.end)
}

/// What nodes wrote when they were stopped, by position.
type Parting<'h> = BTreeMap<u64, &'h Seen>;

fn compare<'h>(
    case: &Case<'_, 'h>,
    state: &FinalState<'h>,
    must_hold: usize,
    parting: &mut Parting<'h>,
    findings: &mut Findings,
) {
    let log = case.index.log.events();
    let place = || format!("node {} at the end ({:?})", state.node, state.source);
    let mut held = state.events.iter().copied().peekable();
    for (at, event) in log.iter().enumerate() {
        // What is not at its turn, or there twice.
        while let Some(extra) = held.next_if(|held| held.position < event.position) {
            findings
                .violation(Property::P13, None, || format!("{} is there out of order on {}", Quote(extra), place()));
        }
        let is_end = held.peek().is_none();
        match held.next_if(|held| held.position == event.position) {
            Some(held) if same_event(held, event) => {}
            Some(held) => findings
                .violation(Property::P13, None, || format!("{} is {} on {}", Quote(*event), Quote(held), place())),
            None if is_end && at >= must_hold => break,
            None => {
                let batch = &case.replay.batches[case.replay.batch_of[at] as usize];
                for property in [Some(Property::P13), (batch.complete != u64::MAX).then_some(Property::P3)] {
                    let Some(property) = property else { continue };
                    findings.violation(property, None, || format!("{} is missing on {}", Quote(*event), place()));
                }
            }
        }
    }
    let end = log.last().map_or(0, |event| event.position);
    for extra in held {
        if state.source == Source::Offline && extra.position > end && is_of_groups(extra) {
            let known = *parting.entry(extra.position).or_insert(extra);
            if !same_event(known, extra) {
                findings
                    .violation(Property::P13, None, || format!("{} is {} on {}", Quote(known), Quote(extra), place()));
            }
            continue;
        }
        findings.violation(Property::P13, None, || format!("{} is only on {}", Quote(extra), place()));
    }
}

/// Whether an event says how far a consumer group has come.
fn is_of_groups(event: &Seen) -> bool {
    event.stream.starts_with("$persistentsubscription-")
}
