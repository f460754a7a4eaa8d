//! P1, P2, P3 and P15 of everything that was seen during the run.
//!
//! Each sighting is compared with the witness. One that differs only in its
//! time breaks P15; one whose content nobody sent breaks P2; any other
//! difference breaks P1. A sighting of what is not in the log at the end breaks
//! P3, or P2 if nobody sent it. A sighting that ended before its event was sent
//! breaks P2.

use crate::history::{Nanos, Read, ReadOutcome, Seen};
use crate::index::{Index, Step, flattened};
use crate::properties::Case;
use crate::quote::Quote;
use crate::verdict::{Findings, Property, Seconds};

/// Which answers held what is not in the log, so that comparing them with it
/// would only tell the same again.
pub(crate) struct Flawed {
    /// By read.
    pub(crate) reads: Vec<bool>,
}

pub(crate) fn judge(case: &Case<'_, '_>, findings: &mut Findings) -> Flawed {
    let judge = Judge::new(case);
    let mut seen = 0;
    let mut flawed = vec![false; case.index.reads.len()];
    for (read, flawed) in case.index.reads.iter().zip(&mut flawed) {
        let (ReadOutcome::Ok { events, .. }, Some(complete)) = (&read.outcome, read.complete) else { continue };
        seen += events.len();
        for event in events {
            *flawed |= !judge.agrees(event, complete, &Where::Read(read), findings);
        }
    }
    for (number, following) in &case.index.subscriptions {
        for step in &following.steps {
            let Step::Delivered(delivered) = step else { continue };
            seen += delivered.events.len();
            for event in &delivered.events {
                let place = Where::Subscription(*number, delivered.connection);
                judge.agrees(event, delivered.time, &place, findings);
            }
        }
    }
    for (number, sharing) in &case.index.sharings {
        seen += sharing.handed.len();
        for handed in &sharing.handed {
            judge.agrees(&handed.event, handed.time, &Where::Group(*number, handed.consumer), findings);
        }
    }
    findings.counts.sightings += seen as u64;
    for property in [Property::P1, Property::P2, Property::P3, Property::P15] {
        findings.checked(property, seen as u64);
    }
    Flawed { reads: flawed }
}

enum Where<'a> {
    Read(&'a Read),
    Subscription(u32, u32),
    Group(u32, u32),
}

impl std::fmt::Display for Where<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Where::Read(read) => Quote(*read).fmt(f),
            Where::Subscription(number, connection) => write!(f, "subscription {number}, connection {connection}"),
            Where::Group(number, consumer) => write!(f, "group {number}, consumer {consumer}"),
        }
    }
}

/// Whether two sightings are of one and the same event.
pub(crate) fn same_event(a: &Seen, b: &Seen) -> bool {
    same_but_for_time(a, b) && a.created == b.created
}

fn same_but_for_time(a: &Seen, b: &Seen) -> bool {
    a.position == b.position
        && a.revision == b.revision
        && a.id == b.id
        && a.digest == b.digest
        && a.system == b.system
        // Names are mostly shared.
        && (std::sync::Arc::ptr_eq(&a.stream, &b.stream) || a.stream == b.stream)
}

struct Judge<'a, 'h> {
    index: &'a Index<'h>,
    /// For each event of the log, when it was first sent.
    sent: Vec<Nanos>,
}

impl<'a, 'h> Judge<'a, 'h> {
    fn new(case: &Case<'a, 'h>) -> Self {
        let mut sent = Vec::with_capacity(case.index.log.events().len());
        for batch in &case.replay.batches {
            sent.resize(batch.end, batch.invoke);
        }
        Judge { index: case.index, sent }
    }

    fn agrees(&self, event: &Seen, time: Nanos, place: &Where<'_>, findings: &mut Findings) -> bool {
        let Some(at) = self.index.log.at(event.position) else {
            self.judge_gone(event, time, place, findings);
            return false;
        };
        let witness = self.index.log.events()[at];
        if same_event(event, witness) {
            if self.sent[at] > time {
                findings.violation(Property::P2, Some(time), || {
                    format!("{} was first sent at {}, but seen before by {place}", Quote(event), Seconds(self.sent[at]))
                });
            }
            return true;
        }
        let property = if same_but_for_time(event, witness) {
            Property::P15
        } else if self.was_sent(event) {
            Property::P1
        } else {
            Property::P2
        };
        findings.violation(property, Some(time), || {
            format!("{} is {} in the log at the end; seen by {place}", Quote(event), Quote(witness))
        });
        false
    }

    fn judge_gone(&self, event: &Seen, time: Nanos, place: &Where<'_>, findings: &mut Findings) {
        let property = if self.was_sent(event) { Property::P3 } else { Property::P2 };
        findings.violation(property, Some(time), || {
            format!("{} is not in the log at the end, but was seen by {place}", Quote(event))
        });
    }

    /// Whether an append that was not refused proposed this event, or the
    /// server can have made it.
    fn was_sent(&self, event: &Seen) -> bool {
        let Some(proposal) = self.index.proposals.get(&event.id) else { return event.system };
        let group = &self.index.groups[self.index.group_of[proposal.append as usize] as usize];
        group.possible
            && group.sends.iter().any(|send| {
                flattened(self.index.appends[*send as usize]).any(|(write, proposed)| {
                    proposed.id == event.id && proposed.digest == event.digest && write.stream == event.stream
                })
            })
    }
}
