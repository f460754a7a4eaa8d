//! Bringing events into a cluster of Annals, in order, as fast as it takes them, and
//! comparing afterwards what came out.
//!
//! Events go in batches of some hundreds, several of which are on their way at a time;
//! the cluster decides them one after the other. When the connection breaks, everything
//! that was not answered is sent again: nothing is written twice
//! (`annals_core::import`).
//!
//! The first time each event says which revision it is to get, counted from 0 in every
//! stream, so that the whole import can be run again from its beginning. An import that
//! is resumed, or appends to streams that are there, leaves that to the cluster.
//!
//! Two rolling hashes are computed over what was sent, in the order in which it was
//! answered, and over what the cluster shows of the same streams afterwards.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use annals_client::{Client, Recorded};
use annals_proto::annals::v1::{ImportAnswer, ImportBatch, import_batch};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::history::{METADATA_TYPE, Reader, Selection, TOMBSTONE};
use crate::line::{Rolling, Traveller};

/// Events and bytes of a batch.
const BATCH_EVENTS: usize = 500;
const BATCH_BYTES: usize = 1024 * 1024;

/// Batches that are on their way.
const WINDOW: usize = 8;

/// How long a batch waits for more events.
const LINGER: Duration = Duration::from_millis(20);

const ATTEMPTS: u32 = 12;
const PAUSE: Duration = Duration::from_millis(200);

/// An event on its way, with where to go on after it.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The event.
    pub event: Traveller,
    /// Its position or line where it comes from.
    pub place: u64,
}

/// How events are to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// Each stream from revision 0 on: what is there must be the same.
    FromTheBeginning,
    /// After what is there.
    Next,
}

/// What came of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Events that are in the cluster now, this time.
    pub events: u64,
    /// Streams that they are of.
    pub streams: u64,
    /// Whether some of them were there before.
    pub repeated_some: bool,
    /// The position of the last one.
    pub position: u64,
    /// How long it took, without the comparison.
    pub took: Duration,
    /// Over what was sent.
    pub sent: Rolling,
    /// Over what the cluster shows; none if nobody looked.
    pub found: Option<Found>,
}

/// What the cluster shows of what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Events.
    pub events: u64,
    /// Over them.
    pub hash: Rolling,
    /// Whether they have the times that they came with.
    pub times_kept: bool,
}

impl Report {
    /// Whether what was found is what was sent; true if nobody looked.
    pub fn is_equal(&self) -> bool {
        self.found.as_ref().is_none_or(|found| found.events == self.events && found.hash == self.sent)
    }
}

/// What is known of a stream that is imported.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The next revision here, where revisions are counted.
    next: u64,
    /// The first and the last revision that events of this import have here.
    bounds: Option<(u64, u64)>,
    ended: bool,
}

struct Pending {
    batch: ImportBatch,
    events: Vec<Incoming>,
}

/// An import under way.
pub struct Import<'a> {
    client: &'a Client,
    placing: Placing,
    streams: HashMap<String, Known>,
    /// By how much revisions are lower here than where they come from.
    offsets: HashMap<String, u64>,
    sent: Rolling,
    sent_with_times: Rolling,
    events: u64,
    position: u64,
    repeated_some: bool,
    sequence: u64,
}

impl<'a> Import<'a> {
    /// Nothing yet. `offsets` are those of an earlier part of the same import.
    pub fn new(client: &'a Client, placing: Placing, offsets: HashMap<String, u64>) -> Self {
        Import {
            client,
            placing,
            streams: HashMap::new(),
            offsets,
            sent: Rolling::new(false),
            sent_with_times: Rolling::new(true),
            events: 0,
            position: 0,
            repeated_some: false,
            sequence: 0,
        }
    }

    /// By how much revisions of some streams are lower here: to be kept for
    /// [`Import::new`].
    pub fn offsets(&self) -> &HashMap<String, u64> {
        &self.offsets
    }

    /// Brings in what comes. `tell` is called with the number of events that are in, and
    /// the place of the last one, when they are durable.
    ///
    /// # Errors
    /// [`Error`]. What was told is in.
    pub async fn run(
        mut self,
        mut incoming: mpsc::Receiver<Result<Incoming, Error>>,
        verify: bool,
        mut tell: impl FnMut(&Import<'_>, u64, u64) -> Result<(), Error>,
    ) -> Result<Report, Error> {
        let begun = Instant::now();
        let before = self.client.cluster().status().await?.tail;
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let (mut is_done, mut failures) = (false, 0);
        while !is_done || !pending.is_empty() {
            let answered = self.events;
            let failed = self.run_once(&mut incoming, &mut pending, &mut is_done, &mut tell).await;
            let Err(error) = failed else { continue };
            failures = if self.events > answered { 1 } else { failures + 1 };
            match error {
                Error::Cluster(error) if error.may_pass() && failures < ATTEMPTS => {
                    self.client.backups().forget().await;
                    tokio::time::sleep(PAUSE * failures).await;
                }
                error => return Err(error),
            }
        }
        let took = begun.elapsed();
        let found = if verify { Some(self.compare(before).await?) } else { None };
        Ok(Report {
            events: self.events,
            streams: self.streams.len() as u64,
            repeated_some: self.repeated_some,
            position: self.position,
            took,
            sent: self.sent,
            found,
        })
    }

    /// Over one connection, until it breaks or all is answered.
    async fn run_once(
        &mut self,
        incoming: &mut mpsc::Receiver<Result<Incoming, Error>>,
        pending: &mut VecDeque<Pending>,
        is_done: &mut bool,
        tell: &mut impl FnMut(&Import<'_>, u64, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let broken = || Error::Cluster(annals_client::Error::NoNode("the connection broke off".into()));
        let (batches, mut answers) = self.client.backups().import(WINDOW).await?.split();
        for waiting in pending.iter() {
            // There is room for all of them; who takes none tells why in an answer.
            let _ = batches.send(waiting.batch.clone()).await;
        }
        let mut gathered: Vec<Incoming> = Vec::new();
        let mut bytes = 0;
        while !*is_done || !pending.is_empty() || !gathered.is_empty() {
            let is_full = gathered.len() >= BATCH_EVENTS || bytes >= BATCH_BYTES;
            let has_room = pending.len() < WINDOW;
            if has_room && !gathered.is_empty() && (is_full || *is_done || incoming.is_empty()) {
                let batch = self.batch(std::mem::take(&mut gathered));
                bytes = 0;
                let _ = batches.send(batch.batch.clone()).await;
                pending.push_back(batch);
                continue;
            }
            tokio::select! {
                answer = answers.next(), if !pending.is_empty() => {
                    let answered = match answer {
                        Ok(Some(answer)) => self.answered(pending, &answer),
                        Ok(None) => Err(broken()),
                        Err(error) => Err(error.into()),
                    };
                    match answered {
                        Ok(place) => tell(self, self.events, place)?,
                        Err(error) => {
                            // What was gathered is not lost: it goes first the next time.
                            if !gathered.is_empty() {
                                let batch = self.batch(gathered);
                                pending.push_back(batch);
                            }
                            return Err(error);
                        }
                    }
                }
                next = incoming.recv(), if !is_full && !*is_done => match next {
                    Some(next) => {
                        let next = next?;
                        bytes += next.event.size();
                        gathered.push(next);
                        if incoming.is_empty() && pending.is_empty() && gathered.len() < BATCH_EVENTS {
                            tokio::time::sleep(LINGER).await;
                        }
                    }
                    None => *is_done = true,
                },
            }
        }
        Ok(())
    }

    /// Makes a batch of events, in their order.
    fn batch(&mut self, mut events: Vec<Incoming>) -> Pending {
        self.sequence += 1;
        let mut batch = ImportBatch { sequence: self.sequence, events: Vec::with_capacity(events.len()) };
        for Incoming { event, .. } in &mut events {
            self.translate(event);
            let is_tombstone = event.is_tombstone();
            let known = self.streams.entry(event.stream.clone()).or_default();
            let counted = (self.placing == Placing::FromTheBeginning && !is_tombstone).then_some(known.next);
            if !is_tombstone {
                known.next += 1;
            }
            if let (Some(here), Some(there)) = (counted, event.revision) {
                note_offset(&mut self.offsets, &event.stream, there, here);
            }
            batch.events.push(import_batch::Event {
                stream: event.stream.clone(),
                revision: counted,
                id: event.id.as_bytes().to_vec().into(),
                r#type: event.event_type.clone(),
                json: event.json,
                created: event.created.map_or(u64::MAX, annals_core::Timestamp::ticks),
                metadata: event.metadata.clone(),
                data: event.data.clone(),
                tombstone: is_tombstone,
            });
        }
        Pending { batch, events }
    }

    /// Metadata that truncates a stream names a revision of where it comes from.
    fn translate(&self, event: &mut Traveller) {
        let Some(described) = event.stream.strip_prefix("$$").filter(|_| event.event_type == METADATA_TYPE) else {
            return;
        };
        let offset = match (self.offsets.get(described), self.streams.contains_key(described), self.placing) {
            (Some(offset), _, _) => *offset,
            (None, true, _) | (None, false, Placing::Next) => 0,
            // Nothing of it has come: what it hides was not there any more.
            (None, false, Placing::FromTheBeginning) => u64::MAX,
        };
        if let Some(changed) = lowered(&event.data, offset) {
            event.data = changed.into();
        }
    }

    /// Takes account of an answer; the place of the last event that it is about.
    fn answered(&mut self, pending: &mut VecDeque<Pending>, answer: &ImportAnswer) -> Result<u64, Error> {
        let wrong = |why: &str| Error::damaged("an answer of the cluster", why);
        let Some(front) = pending.front() else { return Err(wrong("nothing was asked")) };
        if front.batch.sequence != answer.sequence || front.events.len() != answer.revisions.len() {
            return Err(wrong("it is about another batch"));
        }
        let Some(front) = pending.pop_front() else { return Err(wrong("nothing was asked")) };
        let mut place = 0;
        for (Incoming { event, place: at }, revision) in front.events.iter().zip(&answer.revisions) {
            let known = self.streams.entry(event.stream.clone()).or_default();
            if event.is_tombstone() {
                known.ended = true;
            } else {
                known.bounds = Some(
                    known
                        .bounds
                        .map_or((*revision, *revision), |(first, last)| (first.min(*revision), last.max(*revision))),
                );
                if let Some(there) = event.revision {
                    note_offset(&mut self.offsets, &event.stream, there, *revision);
                }
            }
            self.sent.add(event, *revision);
            self.sent_with_times.add(event, *revision);
            place = *at;
        }
        self.events += front.events.len() as u64;
        self.position = self.position.max(answer.position);
        self.repeated_some |= answer.repeated_some;
        Ok(place)
    }

    /// Reads what the cluster shows of the streams, in its order.
    async fn compare(&self, before: u64) -> Result<Found, Error> {
        let after = if self.repeated_some { None } else { Some(before).filter(|before| *before > 0) };
        let everything = Selection { system: true, ..Selection::default() };
        let mut reader = Reader::new(self.client.clone(), everything, after);
        let (mut hash, mut with_times, mut events) = (Rolling::new(false), Rolling::new(true), 0);
        while let Some(event) = reader.next().await? {
            if event.position > self.position {
                break;
            }
            if !self.is_ours(&event) {
                continue;
            }
            let revision = event.revision;
            let event = Traveller::from(event);
            hash.add(&event, revision);
            with_times.add(&event, revision);
            events += 1;
        }
        Ok(Found { events, hash, times_kept: with_times == self.sent_with_times })
    }

    fn is_ours(&self, event: &Recorded) -> bool {
        let Some(known) = self.streams.get(&event.stream) else { return false };
        match known.bounds {
            _ if event.revision == TOMBSTONE => known.ended,
            Some((first, last)) => (first..=last).contains(&event.revision),
            None => false,
        }
    }
}

fn note_offset(offsets: &mut HashMap<String, u64>, stream: &str, there: u64, here: u64) {
    let offset = there.saturating_sub(here);
    if offset > 0 && there != TOMBSTONE {
        offsets.insert(stream.to_owned(), offset);
    }
}

/// Metadata with its `$tb` lowered; none where it need not be.
fn lowered(json: &[u8], offset: u64) -> Option<Vec<u8>> {
    let mut value: serde_json::Value = serde_json::from_slice(json).ok().filter(|_| offset > 0)?;
    let before = value.get("$tb")?.as_u64()?;
    // That of a deleted stream hides everything for good.
    if before >= TOMBSTONE {
        return None;
    }
    *value.get_mut("$tb")? = before.saturating_sub(offset).into();
    serde_json::to_vec(&value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncation_means_the_same_events_when_the_stream_begins_later() {
        let lowered =
            |json: &str, offset| lowered(json.as_bytes(), offset).map(|json| String::from_utf8(json).expect("JSON"));
        assert_eq!(lowered(r#"{"$tb":150,"a":1}"#, 100).as_deref(), Some(r#"{"$tb":50,"a":1}"#));
        assert_eq!(lowered(r#"{"$tb":150}"#, u64::MAX).as_deref(), Some(r#"{"$tb":0}"#));
        for (json, offset) in [
            (r#"{"$tb":150}"#, 0),
            (r#"{"$tb":9223372036854775807}"#, 100),
            (r#"{"$maxCount":1}"#, 100),
            (r#"{"$tb":"x"}"#, 100),
            ("no json", 100),
        ] {
            assert_eq!(lowered(json, offset), None, "{json}");
        }
    }
}
