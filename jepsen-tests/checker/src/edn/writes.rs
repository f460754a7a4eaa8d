//! Appends as other checkers want them: each set of events written once, with
//! numbers for values.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::operations::End;
use crate::history::{Append, EventId, Nanos, Outcome, ReadOutcome, Reason, Record, Seen, Source, Write};

/// All attempts to write the same events.
pub(super) struct Logical<'a> {
    /// The process, if it was one attempt only.
    pub(super) process: Option<u32>,
    /// When the first attempt began.
    pub(super) invoke: Nanos,
    /// When the first acknowledgement was there, or the last refusal.
    pub(super) complete: Option<Nanos>,
    /// What became of it.
    pub(super) end: End,
    /// The last revision of each write, if it is known.
    pub(super) revisions: Option<&'a [u64]>,
    /// What was written.
    pub(super) writes: &'a [Write],
}

/// All appends, in the order in which they began.
pub(super) fn writes(records: &[Record]) -> Vec<Logical<'_>> {
    let mut attempts: Vec<&Append> = records
        .iter()
        .filter_map(|record| match record {
            Record::Append(append) => Some(append),
            _ => None,
        })
        .collect();
    attempts.sort_by_key(|append| append.invoke);
    let mut logical: Vec<Logical<'_>> = Vec::new();
    let mut known: HashMap<EventId, usize> = HashMap::new();
    for append in attempts {
        let Some(first) = append.writes.iter().flat_map(|write| &write.events).next() else { continue };
        match known.get(&first.id) {
            None => {
                known.insert(first.id, logical.len());
                logical.push(Logical::first(append));
            }
            Some(index) => logical[*index].again(append),
        }
    }
    logical
}

impl<'a> Logical<'a> {
    fn first(append: &'a Append) -> Self {
        let (end, complete, revisions) = fate(append);
        let Append { process, invoke, writes, .. } = append;
        Logical { process: Some(*process), invoke: *invoke, complete, end, revisions, writes }
    }

    fn again(&mut self, append: &'a Append) {
        let (end, complete, revisions) = fate(append);
        self.process = None;
        (self.end, self.complete) = match (self.end, end) {
            (End::Ok, End::Ok) => (End::Ok, self.complete.min(complete)),
            (End::Ok, _) => return,
            (_, End::Ok) => (End::Ok, complete),
            (End::Fail, End::Fail) => (End::Fail, self.complete.max(complete)),
            (End::Info, _) | (_, End::Info) => (End::Info, None),
        };
        self.revisions = self.revisions.or(revisions);
    }
}

fn fate(append: &Append) -> (End, Option<Nanos>, Option<&[u64]>) {
    match (&append.outcome, append.complete) {
        (Outcome::Acked { revisions, .. }, Some(_)) => (End::Ok, append.complete, Some(revisions)),
        (Outcome::Refused { .. }, Some(_)) => (End::Fail, append.complete, None),
        (Outcome::Acked { .. } | Outcome::Refused { .. } | Outcome::Unknown { .. }, _) => (End::Info, None, None),
    }
}

/// The number that stands for each event id.
pub(super) struct Values(HashMap<EventId, u64>);

impl Values {
    /// Numbers in the order of proposal; what was never proposed but seen
    /// follows. The same for the same history.
    pub(super) fn new(records: &[Record]) -> Self {
        let mut values = HashMap::new();
        let mut number = |id: EventId| {
            let next = values.len() as u64 + 1;
            values.entry(id).or_insert(next);
        };
        for logical in writes(records) {
            logical.writes.iter().flat_map(|write| &write.events).for_each(|event| number(event.id));
        }
        let mut seen = |events: &[Seen]| events.iter().filter(|seen| !seen.system).for_each(|seen| number(seen.id));
        for record in records {
            match record {
                Record::Read(read) => {
                    if let ReadOutcome::Ok { events, .. } = &read.outcome {
                        seen(events);
                    }
                }
                Record::Delivered(delivered) => seen(&delivered.events),
                Record::Final(part) => seen(&part.events),
                _ => {}
            }
        }
        Values(values)
    }

    /// The number of an event; none for what the server itself writes.
    pub(super) fn of(&self, id: EventId) -> Option<u64> {
        self.0.get(&id).copied()
    }
}

/// The streams from which nothing ever vanishes.
pub(super) struct Lasting<'a>(BTreeSet<&'a str>);

impl<'a> Lasting<'a> {
    /// Those that were written and never deleted or truncated, as far as
    /// anybody tried to.
    pub(super) fn new(records: &'a [Record]) -> Self {
        let mut streams = BTreeSet::new();
        let mut touched = BTreeSet::new();
        for record in records {
            match record {
                Record::Append(append) => {
                    for write in &append.writes {
                        match write.stream.strip_prefix("$$") {
                            Some(described) => touched.insert(described),
                            None => streams.insert(&*write.stream),
                        };
                    }
                    // An attempt can tell as well that somebody else did it.
                    if let Outcome::Refused { reason: Reason::Tombstoned { stream }, .. } = &append.outcome {
                        touched.insert(stream);
                    }
                }
                Record::Delete(delete) => {
                    touched.insert(&*delete.stream);
                }
                _ => {}
            }
        }
        Lasting(streams.difference(&touched).copied().collect())
    }

    /// Whether this is one of them.
    pub(super) fn has(&self, stream: &str) -> bool {
        self.0.contains(stream)
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a str> + Clone + '_ {
        self.0.iter().copied()
    }
}

/// What the last linearizable reads found, complete ones only, by node.
pub(super) fn last_reads(records: &[Record]) -> Vec<Vec<&Seen>> {
    let mut found: BTreeMap<u32, (Vec<&Seen>, bool)> = BTreeMap::new();
    for record in records {
        if let Record::Final(part) = record
            && part.source == Source::Linearizable
        {
            let (events, complete) = found.entry(part.node).or_default();
            events.extend(&part.events);
            *complete |= part.complete;
        }
    }
    found.into_values().filter(|(_, complete)| *complete).map(|(events, _)| events).collect()
}
