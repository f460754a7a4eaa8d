//! All events and the rules, computed anew for every question.

use std::sync::Arc;

use crate::history::{Direction, EventId, Expected, Proposed, Retention, Target, Write};

/// The revision of a tombstone, and the truncation of a soft delete.
const END: u64 = i64::MAX as u64;

/// An event as the world knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its stream.
    pub stream: Arc<str>,
    /// Its place there.
    pub revision: u64,
    /// What was proposed; absent if the server made it.
    pub proposed: Option<Proposed>,
    /// The metadata that it sets, if it is a metadata event.
    pub sets: Option<Retention>,
}

/// How a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Never written.
    Nothing,
    /// The last event has this revision.
    At(u64),
    /// Deleted softly after this revision.
    SoftlyDeleted(u64),
    /// Ended.
    Ended,
}

/// What a write comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Done, or done before: the last position and the last revision of each
    /// write.
    Done(u64, Vec<u64>),
    /// Not done, because of these streams, which are so.
    Not(Vec<(Arc<str>, Expected, Shape)>),
}

/// All events, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// The event at position p is at index p - 1.
    pub log: Vec<Entry>,
}

enum Look {
    AsExpected,
    Repeated(u64, u64),
    Conflict,
}

impl World {
    /// The events of a stream with their positions, without a tombstone.
    fn events<'a>(&'a self, stream: &'a str) -> impl Iterator<Item = (u64, &'a Entry)> {
        (1u64..).zip(&self.log).filter(move |(_, entry)| &*entry.stream == stream && entry.revision != END)
    }

    fn last(&self, stream: &str) -> Option<u64> {
        self.events(stream).last().map(|(_, entry)| entry.revision)
    }

    fn metadata(&self, stream: &str) -> Option<Retention> {
        let name = format!("$${stream}");
        self.events(&name).last().map(|(_, entry)| entry.sets.unwrap_or_default())
    }

    fn is_ended(&self, stream: &str) -> bool {
        self.log.iter().any(|entry| &*entry.stream == stream && entry.revision == END)
            || stream.strip_prefix("$$").is_some_and(|described| self.is_ended(described))
    }

    fn is_hidden(&self, stream: &str) -> bool {
        self.metadata(stream).is_some_and(|retention| retention.truncate_before == Some(END))
    }

    /// How a stream is now.
    pub fn shape(&self, stream: &str) -> Shape {
        if self.is_ended(stream) {
            return Shape::Ended;
        }
        match self.last(stream) {
            None => Shape::Nothing,
            Some(last) if self.is_hidden(stream) => Shape::SoftlyDeleted(last),
            Some(last) => Shape::At(last),
        }
    }

    fn is_as(&self, stream: &str, expected: Expected) -> bool {
        match (self.shape(stream), expected) {
            (Shape::Ended, _) => false,
            (_, Expected::Any) => true,
            (shape, Expected::NoStream) => !matches!(shape, Shape::At(_)),
            (Shape::Nothing, Expected::Exists) => self.metadata(stream).is_some(),
            (shape, Expected::Exists) => matches!(shape, Shape::At(_)),
            (Shape::Nothing, Expected::Revision(_)) => false,
            (Shape::At(last) | Shape::SoftlyDeleted(last), Expected::Revision(revision)) => last == revision,
        }
    }

    /// Where these ids stand in a stream, adjacent from this revision on.
    fn adjacent(&self, stream: &str, from: u64, ids: &[EventId]) -> Option<(u64, u64)> {
        let there: Vec<(u64, &Entry)> = self.events(stream).collect();
        let from = usize::try_from(from).ok()?;
        let there = there.get(from..from.checked_add(ids.len())?)?;
        let same = there.iter().zip(ids).all(|((_, entry), id)| entry.proposed.as_ref().map(|p| p.id) == Some(*id));
        there.last().filter(|_| same).map(|(position, entry)| (entry.revision, *position))
    }

    fn look(&self, write: &Write) -> Look {
        let stream = &*write.stream;
        let ids: Vec<EventId> = write.events.iter().map(|event| event.id).collect();
        let satisfied = |yes: bool| if yes { Look::AsExpected } else { Look::Conflict };
        if self.shape(stream) == Shape::Ended {
            return Look::Conflict;
        }
        let before = match write.expected {
            Expected::Any | Expected::Exists => {
                let place = |id: &EventId| {
                    let found =
                        self.events(stream).find(|(_, entry)| entry.proposed.as_ref().map(|p| p.id) == Some(*id));
                    found.map(|(position, entry)| (entry.revision, position))
                };
                let places: Vec<Option<(u64, u64)>> = ids.iter().map(place).collect();
                return match (places.first().copied().flatten(), places.iter().all(Option::is_some)) {
                    (None, _) => satisfied(self.is_as(stream, write.expected)),
                    (Some(_), false) => Look::Conflict,
                    (Some(first), true) => {
                        let (revision, position) = places.last().copied().flatten().unwrap_or(first);
                        Look::Repeated(revision, position)
                    }
                };
            }
            Expected::NoStream => None,
            Expected::Revision(revision) => Some(revision),
        };
        if before >= self.last(stream) {
            return satisfied(self.is_as(stream, write.expected));
        }
        let start = before.map_or(0, |before| before + 1);
        if let Some((revision, position)) = self.adjacent(stream, start, &ids) {
            return Look::Repeated(revision, position);
        }
        if write.expected != Expected::NoStream {
            return Look::Conflict;
        }
        // It may have begun the stream anew after a soft delete, however often
        // that was: there the metadata truncated it.
        let metastream = format!("$${stream}");
        let beginnings = self.events(&metastream).filter_map(|(_, entry)| entry.sets?.truncate_before);
        for anew in beginnings.collect::<Vec<u64>>() {
            if let Some((revision, position)) = self.adjacent(stream, anew, &ids) {
                return Look::Repeated(revision, position);
            }
        }
        let first_differs = self.adjacent(stream, start, &ids[..1]).is_none();
        satisfied(matches!(self.shape(stream), Shape::SoftlyDeleted(_)) && first_differs)
    }

    fn write(&mut self, stream: &Arc<str>, proposed: Option<Proposed>, sets: Option<Retention>) -> u64 {
        let revision = self.last(stream).map_or(0, |last| last + 1);
        self.log.push(Entry { stream: stream.clone(), revision, proposed, sets });
        revision
    }

    /// Carries out an append.
    pub fn append(&mut self, writes: &[Write]) -> Answer {
        let looks: Vec<Look> = writes.iter().map(|write| self.look(write)).collect();
        let repeated = looks.iter().filter(|look| matches!(look, Look::Repeated(..))).count();
        if repeated == writes.len() {
            let revisions = looks.iter().filter_map(|look| match look {
                Look::Repeated(revision, _) => Some(*revision),
                Look::AsExpected | Look::Conflict => None,
            });
            let last = looks.last().map_or(0, |look| match look {
                Look::Repeated(_, position) => *position,
                Look::AsExpected | Look::Conflict => 0,
            });
            return Answer::Done(last, revisions.collect());
        }
        let not: Vec<(Arc<str>, Expected, Shape)> = writes
            .iter()
            .zip(&looks)
            .filter(|(_, look)| !matches!(look, Look::AsExpected))
            .map(|(write, _)| (write.stream.clone(), write.expected, self.shape(&write.stream)))
            .collect();
        if !not.is_empty() {
            return Answer::Not(not);
        }
        let before = self.clone();
        let mut revisions = Vec::new();
        for write in writes {
            let mut last = 0;
            for event in &write.events {
                let sets = write.stream.starts_with("$$").then(|| event.sets.unwrap_or_default());
                last = self.write(&write.stream, Some(event.clone()), sets);
            }
            revisions.push(last);
        }
        let position = self.log.len() as u64;
        for write in writes {
            self.show_again(&before, write, writes);
        }
        Answer::Done(position, revisions)
    }

    /// After a write to what was deleted softly, one more metadata event makes
    /// it visible from the first new revision on.
    fn show_again(&mut self, before: &World, write: &Write, writes: &[Write]) {
        let described = write.stream.strip_prefix("$$");
        let stream: Arc<str> = described.map_or_else(|| write.stream.clone(), Arc::from);
        if !before.is_hidden(&stream) {
            return;
        }
        let metastream: Arc<str> = format!("$${stream}").into();
        let own = writes.iter().filter(|other| other.stream == metastream).flat_map(|other| &other.events).next_back();
        let own = own.map(|event| event.sets.unwrap_or_default());
        if described.is_some() {
            let also_written = writes.iter().any(|other| other.stream == stream);
            if also_written || own.is_some_and(|own| own.truncate_before == Some(END)) {
                return;
            }
        }
        let first_new = before.last(&stream).map_or(0, |last| last + 1);
        let kept = own.or(before.metadata(&stream)).unwrap_or_default();
        let sets = Retention { truncate_before: Some(first_new).filter(|first| *first > 0), ..kept };
        self.write(&metastream, None, Some(sets));
    }

    /// Carries out a deletion.
    pub fn delete(&mut self, stream: &Arc<str>, expected: Expected, hard: bool) -> Answer {
        let shape = self.shape(stream);
        let allowed = match (hard, shape, expected) {
            (_, Shape::Ended, _) => false,
            (true, Shape::SoftlyDeleted(_), Expected::Exists) => true,
            (false, Shape::Nothing, Expected::Revision(_)) => false,
            (false, Shape::Nothing, _) => self.metadata(stream).is_some(),
            _ => self.is_as(stream, expected),
        };
        if !allowed {
            return Answer::Not(vec![(stream.clone(), expected, shape)]);
        }
        if hard {
            self.log.push(Entry { stream: stream.clone(), revision: END, proposed: None, sets: None });
        } else {
            let sets = Retention { max_count: None, truncate_before: Some(END) };
            self.write(&format!("$${stream}").into(), None, Some(sets));
        }
        Answer::Done(self.log.len() as u64, Vec::new())
    }

    /// The positions that a read shows now.
    ///
    /// # Errors
    /// How the stream is, where it can not be read.
    pub fn read(
        &self,
        target: &Target,
        direction: Direction,
        from: Option<u64>,
        limit: u64,
    ) -> Result<Vec<u64>, Shape> {
        let mut shown: Vec<(u64, u64)> = match target {
            Target::All { prefixes } => (1u64..)
                .zip(&self.log)
                .filter(|(_, entry)| {
                    prefixes.is_empty() || prefixes.iter().any(|prefix| entry.stream.starts_with(prefix.as_str()))
                })
                .map(|(position, _)| (position, position))
                .collect(),
            Target::Stream(stream) => {
                let last = match self.shape(stream) {
                    Shape::At(last) => last,
                    shape @ (Shape::Nothing | Shape::SoftlyDeleted(_) | Shape::Ended) => return Err(shape),
                };
                let Retention { max_count, truncate_before } = self.metadata(stream).unwrap_or_default();
                let is_metadata = stream.starts_with("$$");
                self.events(stream)
                    .map(|(position, entry)| (entry.revision, position))
                    .filter(|(revision, _)| max_count.is_none_or(|max| revision + max > last))
                    .filter(|(revision, _)| truncate_before.is_none_or(|before| *revision >= before))
                    .filter(|(revision, _)| !is_metadata || *revision == last)
                    .collect()
            }
        };
        match direction {
            Direction::Forwards => shown.retain(|(place, _)| from.is_none_or(|from| *place >= from)),
            Direction::Backwards => {
                shown.retain(|(place, _)| from.is_none_or(|from| *place <= from));
                shown.reverse();
            }
        }
        Ok(shown.into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX)).map(|(_, position)| position).collect())
    }
}
