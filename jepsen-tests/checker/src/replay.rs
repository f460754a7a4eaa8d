//! The witness walked once from its first event to its last.
//!
//! The log is cut into *batches*: what one call wrote, together with what the
//! server added to it. For each is found which call that was, and whether the
//! call was allowed to, given the state of its streams at that place. On the
//! way each [`Stream`] learns its history, from which later every question
//! about it at any place is answered.
//!
//! What the server adds: an append to a stream that is deleted softly, or to
//! the metadata of one, is followed by one more metadata event that makes the
//! stream visible from the first new revision on. What it writes down of
//! consumer groups and of backups is nobody's, and belongs there.
//!
//! Invariants
//! - Batches follow each other without gap and cover the log.
//! - Each deletion explains one event at most.

mod deletions;

use std::collections::HashMap;
use std::sync::Arc;

use crate::history::{Append, Expected, Nanos, Outcome, Retention, Seen};
use crate::index::{Index, Proposal, flattened};
use crate::quote::Quote;
use crate::rules::{self, Deed, LAST_OF_ALL, State};
use crate::stream::Stream;
use crate::verdict::{Findings, Property};

use deletions::Unexplained;

/// What one call wrote, or one event that nobody is known to have written.
pub(crate) struct Batch {
    /// The index of its first event in the log.
    pub(crate) first: usize,
    /// The index after its last event.
    pub(crate) end: usize,
    /// Who wrote it.
    pub(crate) writer: Writer,
    /// When it was first sent.
    pub(crate) invoke: Nanos,
    /// When it was first acknowledged; the end of time if never.
    pub(crate) complete: Nanos,
}

/// Who wrote a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// This append, or another send of the same.
    Append(u32),
    /// This deletion.
    Delete(u32),
    /// Nobody known.
    Nobody,
}

/// Where a logical append is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Its batch.
    pub(crate) batch: u32,
    /// Which of its sends fits what is there.
    pub(crate) append: u32,
}

/// What the walk found.
pub(crate) struct Replay {
    /// All streams of the log.
    pub(crate) streams: Vec<Stream>,
    names: HashMap<Arc<str>, u32>,
    /// The batches, in order.
    pub(crate) batches: Vec<Batch>,
    /// For each event of the log, its batch.
    pub(crate) batch_of: Vec<u32>,
    /// For each logical append, where it is.
    pub(crate) placed: Vec<Option<Placed>>,
    /// For each deletion, its batch.
    pub(crate) deleted: Vec<Option<u32>>,
}

impl Replay {
    /// Walks the log of a history.
    pub(crate) fn new(index: &Index<'_>, findings: &mut Findings) -> Replay {
        let replay = Replay {
            streams: Vec::new(),
            names: HashMap::new(),
            batches: Vec::new(),
            batch_of: Vec::with_capacity(index.log.events().len()),
            placed: vec![None; index.groups.len()],
            deleted: vec![None; index.deletes.len()],
        };
        let mut walk = Walk { index, findings, replay, deletes_at: HashMap::new(), unexplained: Vec::new() };
        walk.walk();
        walk.explain();
        let mut replay = walk.replay;
        replay.cut(index.log.tail());
        replay
    }

    /// The history of the stream with this name, if the log knows it.
    pub(crate) fn stream(&self, name: &str) -> Option<&Stream> {
        self.names.get(name).map(|number| &self.streams[*number as usize])
    }

    /// The least gap at or after this one that is not inside a batch.
    pub(crate) fn boundary(&self, index: &Index<'_>, gap: u64) -> u64 {
        let count = index.log.upto(gap);
        let Some(last) = count.checked_sub(1) else { return gap };
        let end = self.batches[self.batch_of[last] as usize].end;
        if end == count { gap } else { index.log.events()[end - 1].position }
    }

    fn intern(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        let described = name.strip_prefix("$$").filter(|plain| !plain.is_empty());
        let described = described.map(|plain| self.intern(&Arc::from(plain)));
        let number = u32::try_from(self.streams.len()).expect("fewer than 2^32 streams");
        self.streams.push(Stream::new(name.clone(), described));
        self.names.insert(name.clone(), number);
        number
    }

    fn state(&self, stream: u32) -> State {
        let known = &self.streams[stream as usize];
        let described = known.described.map(|described| &self.streams[described as usize]);
        let tombstoned = known.tombstone.is_some() || described.is_some_and(|stream| stream.tombstone.is_some());
        State::of(known.positions.len() as u64, known.newest(), tombstoned)
    }

    fn cut(&mut self, tail: u64) {
        // The metadata of an ended stream has ended too, also where there is none.
        let ended: Vec<Arc<str>> =
            self.streams.iter().filter(|s| s.tombstone.is_some()).map(|s| s.name.clone()).collect();
        for name in ended {
            self.intern(&Arc::from(format!("$${name}")));
        }
        for number in 0..self.streams.len() {
            let stream = &self.streams[number];
            let described = stream.described.and_then(|described| self.streams[described as usize].tombstone);
            let tombstone = stream.tombstone.or(described);
            self.streams[number].cut(tombstone, tail);
        }
    }
}

struct Walk<'a, 'h> {
    index: &'a Index<'h>,
    findings: &'a mut Findings,
    replay: Replay,
    /// Deletions that were acknowledged, by position.
    deletes_at: HashMap<u64, u32>,
    /// Events of deletions that nobody acknowledged.
    unexplained: Vec<Unexplained<'h>>,
}

impl<'h> Walk<'_, 'h> {
    fn walk(&mut self) {
        self.sort_deletes();
        let count = self.index.log.events().len();
        self.findings.checked(Property::P2, count as u64);
        self.findings.checked(Property::P5, count as u64);
        let mut at = 0;
        while at < count {
            let event = self.index.log.events()[at];
            let batch = match self.index.proposals.get(&event.id) {
                Some(proposal) => self.appended(at, *proposal),
                None => self.added(at),
            };
            at = batch.end;
            let number = u32::try_from(self.replay.batches.len()).expect("fewer than 2^32 batches");
            self.replay.batch_of.resize(at, number);
            self.replay.batches.push(batch);
        }
        self.findings.checked(Property::P6, self.replay.batches.len() as u64);
        self.findings.checked(Property::P9, self.replay.batches.len() as u64);
    }

    fn sort_deletes(&mut self) {
        for (number, delete) in (0u32..).zip(&self.index.deletes) {
            if let Outcome::Acked { position, .. } = delete.outcome {
                // A second one at the same position is reported elsewhere.
                self.deletes_at.entry(position).or_insert(number);
            }
        }
    }

    /// An event that some append proposed, and what came with it.
    fn appended(&mut self, at: usize, proposal: Proposal) -> Batch {
        let events = self.index.log.events();
        let event = events[at];
        let number = self.index.group_of[proposal.append as usize];
        let group = &self.index.groups[number as usize];
        let single = Batch { first: at, end: at + 1, writer: Writer::Nobody, invoke: 0, complete: Nanos::MAX };
        let before = self.replay.placed[number as usize].and_then(|before| {
            let first = self.replay.batches[before.batch as usize].first + proposal.offset as usize;
            events.get(first).copied().filter(|first| first.id == event.id)
        });
        if let Some(before) = before {
            self.findings.violation(Property::P5, None, || {
                format!("one id is in the log twice: {} and {}", Quote(before), Quote(event))
            });
            if proposal.offset != 0 {
                self.write(event, None);
                return single;
            }
        }
        if proposal.offset != 0 {
            let append = self.index.appends[proposal.append as usize];
            self.findings.violation(Property::P6, Some(append.invoke), || {
                format!("{} is in the log without the event before it of the {}", Quote(event), Quote(append))
            });
            self.write(event, None);
            return single;
        }
        let (send, fits) = self.best_send(&group.sends, at);
        let append = self.index.appends[send as usize];
        if !group.possible {
            self.findings.violation(Property::P2, Some(append.invoke), || {
                format!("{} is in the log, but was refused: {}", Quote(event), Quote(append))
            });
        }
        let whole = flattened(append).count();
        if fits < whole {
            self.findings.violation(Property::P6, Some(append.invoke), || {
                format!(
                    "only {fits} of {whole} events from {} on are in the log of the {}",
                    Quote(event),
                    Quote(append)
                )
            });
        }
        // What is there twice was reported, and has no time of its own.
        let is_judged = fits == whole && before.is_none();
        let allowed = if is_judged { self.judge_condition(&group.sends, send, at) } else { None };
        let end = at + fits.max(1);
        let undeleting = if fits == whole { self.undeleting(append) } else { Vec::new() };
        self.judge_content(append, at, fits);
        for (event, (_, proposed)) in events[at..end].iter().zip(flattened(append)) {
            self.write(event, event.stream.starts_with("$$").then(|| rules::understood(proposed.sets)));
        }
        let end = self.undelete(append, end, undeleting);
        if before.is_some() {
            return Batch { end, ..single };
        }
        let batch = u32::try_from(self.replay.batches.len()).expect("fewer than 2^32 batches");
        self.replay.placed[number as usize] = Some(Placed { batch, append: send });
        let invoke = allowed.unwrap_or(if group.possible { group.invoke } else { 0 });
        // An acknowledgement from before is misplaced by itself.
        let complete = group.complete.map_or(Nanos::MAX, |complete| complete.max(invoke));
        Batch { first: at, end, writer: Writer::Append(send), invoke, complete }
    }

    /// The send whose events are the ones from here on, and how many are.
    fn best_send(&self, sends: &[u32], at: usize) -> (u32, usize) {
        let rank = |send: u32| {
            let append = self.index.appends[send as usize];
            let events = &self.index.log.events()[at..];
            let fits = flattened(append)
                .zip(events)
                .take_while(|((write, proposed), event)| proposed.id == event.id && write.stream == event.stream)
                .count();
            let is_whole = fits == flattened(append).count();
            let is_possible = !matches!(append.outcome, Outcome::Refused { .. });
            (is_possible && is_whole, is_whole, is_possible, fits)
        };
        let mut best = (sends[0], rank(sends[0]));
        for send in &sends[1..] {
            let other = rank(*send);
            if other > best.1 {
                best = (*send, other);
            }
        }
        (best.0, best.1.3)
    }

    /// One of the sends that can have written this must have been allowed to.
    /// Answers when the first of those was invoked.
    fn judge_condition(&mut self, sends: &[u32], chosen: u32, at: usize) -> Option<Nanos> {
        let append = self.index.appends[chosen as usize];
        let mut invoke = None;
        for send in sends {
            let other = self.index.appends[*send as usize];
            let is_same =
                *send == chosen || flattened(other).map(|(_, e)| e.id).eq(flattened(append).map(|(_, e)| e.id));
            let is_possible = !matches!(other.outcome, Outcome::Refused { .. });
            if is_same && is_possible && self.unmet(other).is_none() {
                invoke = Some(invoke.map_or(other.invoke, |known: Nanos| known.min(other.invoke)));
            }
        }
        if invoke.is_some() {
            return invoke;
        }
        let (stream, state, expected) = self.unmet(append)?;
        let property = if state == State::Tombstoned { Property::P14 } else { Property::P9 };
        let event = self.index.log.events()[at];
        self.findings.violation(property, Some(append.invoke), || {
            format!(
                "written at position {} though {stream} was {state:?} and not as expected ({}): {}",
                event.position,
                Quote(&expected),
                Quote(append)
            )
        });
        None
    }

    /// The first stream that is not as this append expects.
    fn unmet(&mut self, append: &'h Append) -> Option<(Arc<str>, State, Expected)> {
        for write in &append.writes {
            let stream = self.replay.intern(&write.stream);
            let state = self.replay.state(stream);
            if !rules::allows(state, Deed::Append, write.expected) {
                return Some((write.stream.clone(), state, write.expected));
            }
        }
        None
    }

    fn judge_content(&mut self, append: &'h Append, at: usize, fits: usize) {
        for (event, (write, proposed)) in self.index.log.events()[at..at + fits.max(1)].iter().zip(flattened(append)) {
            if event.digest != proposed.digest || event.stream != write.stream {
                self.findings.violation(Property::P2, Some(append.invoke), || {
                    format!(
                        "{} is not what was sent to {} with digest {}: {}",
                        Quote(*event),
                        write.stream,
                        proposed.digest,
                        Quote(append)
                    )
                });
            }
        }
    }

    /// The metadata that the server must add after this append, which has not
    /// been written yet: for which stream, and what.
    fn undeleting(&mut self, append: &'h Append) -> Vec<(u32, Retention)> {
        let mut added = Vec::new();
        for write in &append.writes {
            let target = self.replay.intern(&write.stream);
            let of_metadata = self.replay.streams[target as usize].described;
            let stream = of_metadata.unwrap_or(target);
            let known = &self.replay.streams[stream as usize];
            if !rules::hides_everything(known.newest()) {
                continue;
            }
            let own = append.writes.iter().rev().find_map(|other| {
                (other.stream.strip_prefix("$$") == Some(&*known.name)).then(|| other.events.last()).flatten()
            });
            let own = own.map(|event| rules::understood(event.sets));
            if of_metadata.is_some() {
                let also_written = append.writes.iter().any(|other| other.stream == known.name);
                if also_written || own.is_none() || rules::hides_everything(own) {
                    continue;
                }
            }
            let Some(kept) = own.or(known.newest()) else { continue };
            let first_new = known.positions.len() as u64;
            // A truncation before revision 0 counts as none, as in any metadata.
            added.push((stream, rules::understood(Some(Retention { truncate_before: Some(first_new), ..kept }))));
        }
        added
    }

    /// Finds the events that the server must have added from here on. Their
    /// order is that of the streams in the command, which need not be that of
    /// the writes: a call may name streams that it checks before others.
    fn undelete(&mut self, append: &'h Append, mut at: usize, mut added: Vec<(u32, Retention)>) -> usize {
        self.findings.checked(Property::P14, added.len() as u64);
        while let Some(event) = self.index.log.events().get(at).copied() {
            let is_own = event.system && !self.index.proposals.contains_key(&event.id);
            let stream = event.stream.strip_prefix("$$").filter(|_| is_own);
            let name = |stream: &u32| &*self.replay.streams[*stream as usize].name;
            let Some(found) = added.iter().position(|(number, _)| Some(name(number)) == stream) else { break };
            let (_, retention) = added.remove(found);
            self.write(event, Some(retention));
            at += 1;
        }
        for (stream, _) in added {
            let name = self.replay.streams[stream as usize].name.clone();
            self.findings.violation(Property::P14, Some(append.invoke), || {
                format!("{name} was deleted softly and is not made visible again after the {}", Quote(append))
            });
        }
        at
    }

    /// An event that no append proposed: a deletion, or a phantom.
    fn added(&mut self, at: usize) -> Batch {
        let event = self.index.log.events()[at];
        let hard = event.revision == LAST_OF_ALL;
        let stream = if hard { Some(&*event.stream) } else { event.stream.strip_prefix("$$") };
        let mut batch = Batch { first: at, end: at + 1, writer: Writer::Nobody, invoke: 0, complete: Nanos::MAX };
        if event.system && rules::is_bookkeeping(&event.stream) {
            self.write(event, None);
            return batch;
        }
        let metadata =
            (!hard && event.system).then_some(Retention { max_count: None, truncate_before: Some(LAST_OF_ALL) });
        let Some(stream) = stream.filter(|_| event.system) else {
            match self.index.proposer_of(event) {
                Some(append) => self.findings.violation(Property::P5, None, || {
                    format!("{} is an event of the {}, under an id that nobody gave it", Quote(event), Quote(append))
                }),
                None => {
                    self.findings.violation(Property::P2, None, || format!("{} was never sent", Quote(event)));
                }
            }
            self.write(event, metadata);
            return batch;
        };
        let named = self.replay.intern(&Arc::from(stream));
        let state = self.replay.state(named);
        self.findings.checked(Property::P14, 1);
        self.write(event, metadata);
        let acked = self.deletes_at.get(&event.position).copied().filter(|number| {
            let delete = self.index.deletes[*number as usize];
            *delete.stream == *stream && delete.hard == hard
        });
        match acked {
            Some(number) => {
                let delete = self.index.deletes[number as usize];
                self.judge_delete(number, state, event);
                self.replay.deleted[number as usize] =
                    Some(u32::try_from(self.replay.batches.len()).expect("fewer than 2^32 batches"));
                (batch.writer, batch.invoke) = (Writer::Delete(number), delete.invoke);
                batch.complete = delete.complete.unwrap_or(Nanos::MAX);
            }
            None => {
                self.unexplained.push(Unexplained { batch: self.replay.batches.len(), stream, hard, state });
            }
        }
        batch
    }

    /// Lets a stream have this event, and the described stream its metadata.
    fn write(&mut self, event: &Seen, metadata: Option<Retention>) {
        let number = self.replay.intern(&event.stream);
        let stream = &mut self.replay.streams[number as usize];
        if event.revision == LAST_OF_ALL {
            stream.tombstone.get_or_insert(event.position);
            return;
        }
        if event.revision != stream.positions.len() as u64 {
            let expected = stream.positions.len();
            if stream.dense {
                self.findings.violation(Property::P4, None, || {
                    format!("{} has not revision {expected}, the next of its stream", Quote(event))
                });
            }
            stream.dense = false;
        }
        stream.positions.push(event.position);
        let described = stream.described;
        if let (Some(described), Some(retention)) = (described, metadata) {
            self.replay.streams[described as usize].metadata.push((event.position, retention));
        }
    }
}
