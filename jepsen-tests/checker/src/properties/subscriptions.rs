//! P11: subscriptions deliver everything once and in order, across all their
//! connections.
//!
//! - Each connection is resumed after the last thing that was delivered, or
//!   further on where nothing lies between that it wants.
//! - What is delivered is the next thing in the log that the target lets
//!   through. Events of a stream may be left out if truncation or deletion
//!   *ever* hid them: a node that is read locally may know of the truncation
//!   or not, so that both are right.
//! - "Caught up with p" comes only after everything up to p.
//! - No connection ends as if all were well.
//! - A subscription that was drained has been given everything that was sent
//!   before it was closed. A stream with a tombstone is exempt: it cannot be
//!   resumed once it has ended.

use crate::gaps;
use crate::history::{Nanos, Opened, Seen, Target};
use crate::index::{Following, Step};
use crate::properties::Case;
use crate::quote::Quote;
use crate::rules::{self, LAST_OF_ALL};
use crate::stream::Stream;
use crate::verdict::{Findings, Property};

pub(crate) fn judge(case: &Case<'_, '_>, findings: &mut Findings) {
    for (number, following) in &case.index.subscriptions {
        let [asked] = following.asked[..] else {
            let times = following.asked.len();
            findings.unknown(format!("what subscription {number} asks for is recorded {times} times, not once"));
            continue;
        };
        let feed = match &asked.target {
            Target::All { prefixes } => Feed::All { prefixes, next: 0 },
            Target::Stream(name) => match case.replay.stream(name) {
                Some(stream) if !stream.dense => continue,
                stream => Feed::Stream { stream, may_skip: stream.map_or(0, hidden_ever) },
            },
        };
        let mut judge = Judge { case, number: *number, target: &asked.target, feed, cursor: asked.after };
        judge.judge(following, findings);
    }
}

/// Revisions below this were hidden at one time or another.
fn hidden_ever(stream: &Stream) -> u64 {
    let hidden = stream.epochs.iter().map(|epoch| {
        let count = stream.count(epoch.to);
        rules::first_visible(count, epoch.metadata).min(count)
    });
    let old_metadata = if stream.described.is_some() { (stream.positions.len() as u64).saturating_sub(1) } else { 0 };
    hidden.max().unwrap_or(0).max(old_metadata)
}

/// What is to be delivered.
enum Feed<'a> {
    All {
        prefixes: &'a [String],
        /// The index of the first event that was not examined.
        next: usize,
    },
    Stream {
        stream: Option<&'a Stream>,
        /// Events below this revision may be left out.
        may_skip: u64,
    },
}

struct Judge<'a, 'h> {
    case: &'a Case<'a, 'h>,
    number: u32,
    target: &'a Target,
    feed: Feed<'a>,
    /// The last position or revision that was delivered.
    cursor: Option<u64>,
}

impl Judge<'_, '_> {
    fn judge(&mut self, following: &Following<'_>, findings: &mut Findings) {
        for step in &following.steps {
            match step {
                Step::Opened(opened) => {
                    findings.checked(Property::P11, 1);
                    self.resume(opened, findings);
                }
                Step::Delivered(delivered) => {
                    for event in &delivered.events {
                        findings.checked(Property::P11, 1);
                        self.deliver(event, delivered.time, findings);
                    }
                }
                Step::CaughtUp(caught_up) => {
                    findings.checked(Property::P11, 1);
                    let Some(upto) = caught_up.upto else { continue };
                    if let Some(missing) = self.next_due(upto) {
                        self.violation(caught_up.time, findings, || {
                            format!("told that it has caught up with {upto}, but {missing} was not delivered")
                        });
                    }
                }
                Step::Dropped(dropped) => {
                    findings.checked(Property::P11, 1);
                    if dropped.ended_ok {
                        self.violation(dropped.time, findings, || {
                            format!("connection {} was ended as if all were well", dropped.connection)
                        });
                    }
                }
            }
        }
        if let Some(closed) = following.closed.filter(|closed| closed.drained) {
            findings.checked(Property::P11, 1);
            self.judge_drained(closed.time, findings);
        }
    }

    /// A connection goes on where the last one ended, or further on where
    /// nothing is left out: the server may have said what it examined.
    fn resume(&mut self, opened: &Opened, findings: &mut Findings) {
        let (asked, last) = (opened.after, self.cursor);
        if asked < last {
            self.violation(opened.time, findings, || {
                format!("resumed after {asked:?} while the last that was delivered is {last:?}")
            });
        } else if let Some((asked, missing)) = asked.and_then(|asked| Some((asked, self.next_due(asked)?))) {
            self.violation(opened.time, findings, || format!("resumed after {asked}, but {missing} was not delivered"));
        }
    }

    fn violation(&self, time: Nanos, findings: &mut Findings, text: impl FnOnce() -> String) {
        let (number, target) = (self.number, Quote(self.target));
        findings.violation(Property::P11, Some(time), || format!("subscription {number} to {target}: {}", text()));
    }

    /// Where an event stands among what is delivered.
    fn place(&self, event: &Seen) -> u64 {
        match self.feed {
            Feed::All { .. } => event.position,
            Feed::Stream { .. } => event.revision,
        }
    }

    fn deliver(&mut self, event: &Seen, time: Nanos, findings: &mut Findings) {
        let place = self.place(event);
        let last = self.cursor;
        let wanted = match self.target {
            Target::All { prefixes } => gaps::passes(prefixes, &event.stream),
            Target::Stream(name) => *name == event.stream,
        };
        if !wanted {
            self.violation(time, findings, || format!("{} does not belong to it", Quote(event)));
            return;
        }
        if last.is_some_and(|last| place <= last) {
            self.violation(time, findings, || format!("{} was delivered after {last:?}", Quote(event)));
            return;
        }
        if let Some(missing) = place.checked_sub(1).and_then(|before| self.next_due(before)) {
            self.violation(time, findings, || format!("{} was delivered, {missing} was not", Quote(event)));
        }
        self.cursor = Some(place);
    }

    /// The first thing up to this place that should have been delivered.
    fn next_due(&mut self, upto: u64) -> Option<String> {
        let cursor = self.cursor;
        match &mut self.feed {
            Feed::All { prefixes, next } => {
                let log = &self.case.index.log;
                let end = log.upto(upto);
                // What was examined once is not examined again.
                *next = (*next).max(cursor.map_or(0, |cursor| log.upto(cursor)));
                while *next < end {
                    let event = log.events()[*next];
                    if gaps::passes(prefixes, &event.stream) {
                        return Some(Quote(event).to_string());
                    }
                    *next += 1;
                }
                None
            }
            Feed::Stream { stream, may_skip } => {
                let next = cursor.map_or(0, |cursor| cursor.saturating_add(1)).max(*may_skip);
                // The tombstone has no place among the revisions.
                let count = stream.map_or(0, |stream| stream.positions.len() as u64);
                let upto = if upto >= LAST_OF_ALL - 1 { count.checked_sub(1)? } else { upto };
                (next <= upto && next < count).then(|| format!("revision {next}"))
            }
        }
    }

    fn judge_drained(&mut self, time: Nanos, findings: &mut Findings) {
        // What was first sent after it was closed it cannot have.
        let sent = self.case.replay.batches.iter().rev().find(|batch| batch.invoke < time);
        let Some(sent) = sent else { return };
        let last = self.case.index.log.events()[sent.end - 1].position;
        let upto = match &self.feed {
            Feed::All { .. } => Some(last),
            Feed::Stream { stream: None, .. } => None,
            Feed::Stream { stream: Some(stream), .. } => {
                let ended = stream.epochs.iter().any(|epoch| epoch.tombstoned);
                if ended { None } else { stream.count(last).checked_sub(1) }
            }
        };
        if let Some(missing) = upto.and_then(|upto| self.next_due(upto)) {
            self.violation(time, findings, || format!("ended without {missing}"));
        }
    }
}
