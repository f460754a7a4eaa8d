//! P11 of consumer groups: nothing is lost, and what is promised of order and
//! repetition holds.
//!
//! - What is handed out belongs to the group's source.
//! - Nothing is lost: of a group that was drained, every event of its source was
//!   acked or skipped by a consumer, or is among the parked ones. One that was
//!   parked and delivered again needs an answer, or to be parked anew.
//! - What is done stays done: whoever joins after a checkpoint was seen gets
//!   nothing at or below it, but what was parked. A leader that has been
//!   replaced and does not know may still hand out what it has: so the term of
//!   who serves the consumer must not be older than that of the checkpoint.
//! - A checkpoint never goes back.
//! - In groups that keep the order of each stream, an event is handed out when
//!   all before it in its stream are done, by anyone's word; and within one term
//!   not while the one before it, if that was handed out again, has no answer
//!   of that term.
//! - An event is parked once, and once more for each time it was asked for
//!   again.
//! - No connection ends as if all were well.
//!
//! An answer counts from when it was sent: a server that has not got it yet may
//! only do less. What was parked may have been so at any time, whatever its
//! consumers said: a server parks by itself what nobody answers for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::gaps;
use crate::history::{Defined, GroupSource, Handed, Nanos, ParkedMessage, Seen};
use crate::index::Sharing;
use crate::properties::Case;
use crate::quote::Quote;
use crate::rules::LAST_OF_ALL;
use crate::verdict::{Findings, Property, Seconds};

/// What the wall clocks of two processes on one machine may be apart, in units
/// of 100 ns: a tenth of a second.
const CLOCKS_APART: i64 = 1_000_000;

pub(crate) fn judge(case: &Case<'_, '_>, findings: &mut Findings) {
    for (number, sharing) in &case.index.sharings {
        let [defined] = sharing.defined[..] else {
            let times = sharing.defined.len();
            findings.unknown(format!("what group {number} is was recorded {times} times, not once"));
            continue;
        };
        let judge = Judge::new(case, *number, defined, sharing);
        judge.judge_handed(findings);
        judge.judge_connections(findings);
        judge.judge_checkpoints(findings);
        if defined.in_order {
            judge.judge_order(findings);
        }
        judge.judge_parked(findings);
        judge.judge_end(findings);
    }
}

/// What is known of one event.
#[derive(Default)]
struct Story<'h> {
    /// How often it was handed out.
    handed: u64,
    /// When the first consumer said that it is done.
    done: Option<Nanos>,
    /// How it was parked, in order.
    parked: Vec<&'h ParkedMessage>,
}

struct Judge<'a, 'h> {
    number: u32,
    defined: &'h Defined,
    sharing: &'a Sharing<'h>,
    /// The events of its source, in order.
    source: Vec<&'h Seen>,
    /// By position.
    stories: HashMap<u64, Story<'h>>,
}

/// The events of a source.
fn events_of<'h>(log: &[&'h Seen], source: &GroupSource) -> Vec<&'h Seen> {
    let belongs = |event: &&'h Seen| match source {
        GroupSource::All { prefixes } => gaps::passes(prefixes, &event.stream),
        GroupSource::Stream(name) => *name == event.stream && event.revision != LAST_OF_ALL,
        GroupSource::Category(name) => {
            event.stream.split_once('-').is_some_and(|(category, _)| *category == **name)
                && event.revision != LAST_OF_ALL
        }
    };
    log.iter().copied().filter(belongs).collect()
}

impl<'a, 'h> Judge<'a, 'h> {
    fn new(case: &Case<'_, 'h>, number: u32, defined: &'h Defined, sharing: &'a Sharing<'h>) -> Self {
        let source = events_of(case.index.log.events(), &defined.source);
        let mut judge = Judge { number, defined, sharing, source, stories: HashMap::new() };
        for handed in &sharing.handed {
            judge.stories.entry(handed.event.position).or_default().handed += 1;
        }
        for answered in sharing.answered.iter().filter(|answered| answered.answer.is_final()) {
            let done = &mut judge.stories.entry(answered.position).or_default().done;
            *done = Some(done.map_or(answered.time, |known| known.min(answered.time)));
        }
        for message in sharing.parked.iter().flat_map(|parked| &parked.messages) {
            if let Some(position) = judge.named(&message.stream, message.of) {
                judge.stories.entry(position).or_default().parked.push(message);
            }
        }
        judge
    }

    fn violation(&self, time: Option<Nanos>, findings: &mut Findings, text: impl FnOnce() -> String) {
        let (number, name) = (self.number, &self.defined.name);
        findings.violation(Property::P11, time, || format!("group {number} ({name}): {}", text()));
    }

    /// The position of the event at a place of the source.
    fn position(&self, place: u64) -> Option<u64> {
        match self.defined.source {
            GroupSource::All { .. } => Some(place),
            GroupSource::Stream(_) | GroupSource::Category(_) => {
                self.source.get(usize::try_from(place).ok()?).map(|event| event.position)
            }
        }
    }

    /// The position of an event of the source that a parked message names.
    fn named(&self, stream: &str, of: u64) -> Option<u64> {
        match &self.defined.source {
            GroupSource::Category(name) if stream.strip_prefix("$ce-") == Some(&**name) => self.position(of),
            GroupSource::Category(_) | GroupSource::Stream(_) | GroupSource::All { .. } => {
                self.source.iter().find(|event| *event.stream == *stream && event.revision == of).map(|e| e.position)
            }
        }
    }

    fn event(&self, position: u64) -> Option<&'h Seen> {
        let at = self.source.binary_search_by_key(&position, |event| event.position).ok()?;
        Some(self.source[at])
    }

    fn judge_handed(&self, findings: &mut Findings) {
        findings.checked(Property::P11, self.sharing.handed.len() as u64);
        findings.counts.handed_again += self.stories.values().map(|story| story.handed.saturating_sub(1)).sum::<u64>();
        for handed in &self.sharing.handed {
            if self.event(handed.event.position).is_none() {
                self.violation(Some(handed.time), findings, || {
                    format!("{} does not belong to it", Quote(&handed.event))
                });
            }
        }
        if self.sharing.handed.is_empty() && !self.source.is_empty() {
            findings.unknown(format!("not covered: group {} handed out nothing", self.number));
        }
    }

    fn judge_connections(&self, findings: &mut Findings) {
        findings.checked(Property::P11, self.sharing.left.len() as u64);
        for left in self.sharing.left.iter().filter(|left| left.ended_ok) {
            self.violation(Some(left.time), findings, || {
                format!("the connection of consumer {} was ended as if all were well", left.consumer)
            });
        }
    }

    fn judge_checkpoints(&self, findings: &mut Findings) {
        let mut seen = self.sharing.checkpoints.clone();
        seen.sort_by_key(|checkpoint| checkpoint.time);
        findings.checked(Property::P11, seen.len() as u64);
        for pair in seen.windows(2) {
            if pair[1].place < pair[0].place {
                self.violation(Some(pair[1].time), findings, || {
                    format!("its checkpoint went back from {} to {}", pair[0].place, pair[1].place)
                });
            }
        }
        // Up to where everything was done when a consumer joined.
        let mut done: HashMap<u32, u64> = HashMap::new();
        for (consumer, joined) in &self.sharing.joined {
            let Some(term) = joined.term else { continue };
            let before = seen.iter().filter(|seen| seen.time < joined.invoke && seen.term <= term);
            let last = before.map(|seen| self.position(seen.place).unwrap_or(u64::MAX)).max();
            done.extend(last.map(|last| (*consumer, last)));
        }
        for handed in &self.sharing.handed {
            let position = handed.event.position;
            let Some(done) = done.get(&handed.consumer).filter(|done| position <= **done) else { continue };
            if self.stories.get(&position).is_none_or(|story| story.parked.is_empty()) {
                self.violation(Some(handed.time), findings, || {
                    format!(
                        "{} was handed out to consumer {}, who joined after everything up to position {done} was done",
                        Quote(&handed.event),
                        handed.consumer
                    )
                });
            }
        }
    }

    /// When an event was done, at the earliest that can be true.
    fn done(&self, position: u64) -> Nanos {
        match self.stories.get(&position) {
            Some(story) if !story.parked.is_empty() => 0,
            Some(story) => story.done.unwrap_or(Nanos::MAX),
            None => Nanos::MAX,
        }
    }

    fn judge_order(&self, findings: &mut Findings) {
        let mut streams: BTreeMap<&Arc<str>, Vec<u64>> = BTreeMap::new();
        for event in &self.source {
            streams.entry(&event.stream).or_default().push(event.position);
        }
        // For each event when all before it in its stream were done, and the one before it.
        let mut before: HashMap<u64, (Nanos, u64)> = HashMap::new();
        for positions in streams.values() {
            let mut all = 0;
            for pair in positions.windows(2) {
                all = all.max(self.done(pair[0]));
                before.insert(pair[1], (all, pair[0]));
            }
        }
        let in_term = self.by_term();
        for handed in &self.sharing.handed {
            let Some((all, previous)) = before.get(&handed.event.position) else { continue };
            findings.checked(Property::P11, 1);
            if *all > handed.time {
                self.violation(Some(handed.time), findings, || {
                    format!("{} was handed out before all before it in its stream were done", Quote(&handed.event))
                });
                continue;
            }
            let Some(term) = self.term(handed.consumer) else { continue };
            let Some((first, answered)) = in_term.get(&(term, *previous)) else { continue };
            let is_open = *first < handed.time && answered.is_none_or(|answered| answered > handed.time);
            if is_open && self.done(*previous) > 0 {
                self.violation(Some(handed.time), findings, || {
                    format!(
                        "{} was handed out while the one before it in its stream, at position {previous}, which was \
                         handed out in the same term {term} at {}, was not answered for",
                        Quote(&handed.event),
                        Seconds(*first)
                    )
                });
            }
        }
    }

    fn term(&self, consumer: u32) -> Option<u64> {
        self.sharing.joined.get(&consumer)?.term
    }

    /// By term and position, when an event was first handed out and first said to be done.
    fn by_term(&self) -> HashMap<(u64, u64), (Nanos, Option<Nanos>)> {
        let mut found: HashMap<(u64, u64), (Nanos, Option<Nanos>)> = HashMap::new();
        let key = |handed: &Handed| Some((self.term(handed.consumer)?, handed.event.position));
        for handed in &self.sharing.handed {
            let Some(key) = key(handed) else { continue };
            let first = &mut found.entry(key).or_insert((handed.time, None)).0;
            *first = (*first).min(handed.time);
        }
        for answered in self.sharing.answered.iter().filter(|answered| answered.answer.is_final()) {
            let Some(term) = self.term(answered.consumer) else { continue };
            if let Some((_, done)) = found.get_mut(&(term, answered.position)) {
                *done = Some(done.map_or(answered.time, |known| known.min(answered.time)));
            }
        }
        found
    }

    fn judge_parked(&self, findings: &mut Findings) {
        let messages = self.sharing.parked.map_or(&[][..], |parked| &parked.messages);
        findings.checked(Property::P11, messages.len() as u64);
        for message in messages {
            if self.named(&message.stream, message.of).is_none() {
                self.violation(None, findings, || {
                    format!("parked {}@{}, which is nothing of its source", message.of, message.stream)
                });
            }
        }
        let mut parked: Vec<(&u64, &Story<'_>)> = self.stories.iter().collect();
        parked.sort_by_key(|(position, _)| **position);
        for (position, story) in parked {
            for pair in story.parked.windows(2) {
                let between = self.sharing.replays.iter().any(|replay| {
                    replay.asked <= pair[1].created + CLOCKS_APART
                        && replay.answered.is_none_or(|answered| answered + CLOCKS_APART >= pair[0].created)
                });
                if !between {
                    self.violation(None, findings, || {
                        format!(
                            "the event at position {position} is parked twice, at revisions {} and {}, and was not \
                             asked for in between",
                            pair[0].revision, pair[1].revision
                        )
                    });
                }
            }
        }
    }

    fn judge_end(&self, findings: &mut Findings) {
        let Some(ended) = self.sharing.ended.filter(|ended| ended.drained) else {
            findings.unknown(format!("group {} was not given the time to finish", self.number));
            return;
        };
        let Some(parked) = self.sharing.parked else {
            findings.unknown(format!("nobody knows what group {} has parked", self.number));
            return;
        };
        let Some(last) = ended.upto.and_then(|upto| self.position(upto)) else { return };
        for event in self.source.iter().take_while(|event| event.position <= last) {
            findings.checked(Property::P11, 1);
            let nothing = Story::default();
            let story = self.stories.get(&event.position).unwrap_or(&nothing);
            let is_parked = story.parked.iter().any(|message| message.revision >= parked.done_before);
            if story.done.is_none() && !is_parked {
                self.violation(None, findings, || {
                    format!(
                        "{} is lost: handed out {} times, parked {} times, never said to be done and not among what \
                         is parked",
                        Quote(*event),
                        story.handed,
                        story.parked.len()
                    )
                });
            }
        }
    }
}
