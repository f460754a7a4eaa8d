//! Which deletion wrote which event.
//!
//! The server chooses the ids of what a deletion writes. One that was
//! acknowledged names its position. For the rest, those of unknown fate are
//! dealt out: each event gets one that was allowed to write it and was sent
//! before the event was known, such that all have one where that is possible.

use std::collections::HashMap;

use super::{Walk, Writer};
use crate::history::{Nanos, Outcome, ReadOutcome, Seen};
use crate::quote::Quote;
use crate::rules::{self, Deed, State};
use crate::verdict::Property;

/// An event that a deletion of unknown fate may have written.
pub(super) struct Unexplained<'h> {
    pub(super) batch: usize,
    pub(super) stream: &'h str,
    pub(super) hard: bool,
    /// The state of the stream before.
    pub(super) state: State,
}

impl Walk<'_, '_> {
    /// A deletion must have been allowed to.
    pub(super) fn judge_delete(&mut self, number: u32, state: State, event: &Seen) {
        let delete = self.index.deletes[number as usize];
        let deed = if delete.hard { Deed::HardDelete } else { Deed::SoftDelete };
        if !rules::allows(state, deed, delete.expected) {
            let property = if state == State::Tombstoned { Property::P14 } else { Property::P9 };
            self.findings.violation(property, Some(delete.invoke), || {
                format!("done at position {} though the stream was {state:?}: {}", event.position, Quote(delete))
            });
        }
    }

    /// Finds deletions of unknown fate for the events that nothing else
    /// explains, each for one event: one that was allowed to, and was not sent
    /// after the event was known. Where such an assignment exists it is found.
    pub(super) fn explain(&mut self) {
        let unexplained = std::mem::take(&mut self.unexplained);
        if unexplained.is_empty() {
            return;
        }
        let known = self.known_by();
        let mut waiting: HashMap<(&str, bool), Vec<u32>> = HashMap::new();
        for (number, delete) in (0u32..).zip(&self.index.deletes) {
            if matches!(delete.outcome, Outcome::Unknown { .. }) {
                waiting.entry((&delete.stream, delete.hard)).or_default().push(number);
            }
        }
        for numbers in waiting.values_mut() {
            numbers.sort_by_key(|number| self.index.deletes[*number as usize].invoke);
        }
        let candidates: Vec<(Vec<u32>, &[u32])> = unexplained
            .iter()
            .map(|event| {
                let all = waiting.get(&(event.stream, event.hard)).map_or(&[][..], Vec::as_slice);
                let deed = if event.hard { Deed::HardDelete } else { Deed::SoftDelete };
                let time = known[self.replay.batches[event.batch].first];
                let fits = all.iter().copied().filter(|number| {
                    let delete = self.index.deletes[*number as usize];
                    delete.invoke <= time && rules::allows(event.state, deed, delete.expected)
                });
                (fits.collect(), all)
            })
            .collect();
        let fitting: Vec<&[u32]> = candidates.iter().map(|(fits, _)| fits.as_slice()).collect();
        let mut taken: HashMap<u32, usize> = assigned(&fitting);
        let mut explained: Vec<Option<u32>> = vec![None; unexplained.len()];
        for (number, event) in &taken {
            explained[*event] = Some(*number);
        }
        for (at, event) in unexplained.iter().enumerate() {
            let seen = self.index.log.events()[self.replay.batches[event.batch].first];
            // One that does not fit is better than none: it tells what is wrong.
            let number = explained[at].or_else(|| candidates[at].1.iter().copied().find(|n| !taken.contains_key(n)));
            let Some(number) = number else {
                self.findings.violation(Property::P2, None, || format!("{} was never sent", Quote(seen)));
                continue;
            };
            taken.insert(number, at);
            self.judge_delete(number, event.state, seen);
            let batch = &mut self.replay.batches[event.batch];
            (batch.writer, batch.invoke) = (Writer::Delete(number), self.index.deletes[number as usize].invoke);
            self.replay.deleted[number as usize] = Some(u32::try_from(event.batch).expect("fewer than 2^32 batches"));
        }
    }

    /// For each event, a time at which it was certainly in the log: when
    /// something at its position or above was acknowledged or seen.
    fn known_by(&self) -> Vec<Nanos> {
        let mut known = vec![Nanos::MAX; self.index.log.events().len()];
        for batch in &self.replay.batches {
            known[batch.end - 1] = batch.complete;
        }
        for read in &self.index.reads {
            let (ReadOutcome::Ok { events, .. }, Some(complete)) = (&read.outcome, read.complete) else { continue };
            let highest = events.iter().map(|event| event.position).max();
            if let Some(at) = highest.and_then(|position| self.index.log.at(position)) {
                known[at] = known[at].min(complete);
            }
        }
        let mut earliest = Nanos::MAX;
        for time in known.iter_mut().rev() {
            earliest = earliest.min(*time);
            *time = earliest;
        }
        known
    }
}

/// Gives as many as possible of these events one of their candidates each:
/// the event of each candidate that was taken. By augmenting paths.
fn assigned(candidates: &[&[u32]]) -> HashMap<u32, usize> {
    fn find(event: usize, candidates: &[&[u32]], taken: &mut HashMap<u32, usize>, tried: &mut Vec<u32>) -> bool {
        for candidate in candidates[event] {
            if tried.contains(candidate) {
                continue;
            }
            tried.push(*candidate);
            let is_free = match taken.get(candidate).copied() {
                None => true,
                Some(other) => find(other, candidates, taken, tried),
            };
            if is_free {
                taken.insert(*candidate, event);
                return true;
            }
        }
        false
    }
    let mut taken = HashMap::new();
    for event in 0..candidates.len() {
        find(event, candidates, &mut taken, &mut Vec::new());
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::assigned;

    #[test]
    fn an_event_gives_way_to_one_that_has_no_other_candidate() {
        let taken = assigned(&[&[1, 2], &[1]]);
        assert_eq!((taken[&1], taken[&2]), (1, 0));
        assert_eq!(assigned(&[&[1], &[1], &[]]).len(), 1);
    }
}
