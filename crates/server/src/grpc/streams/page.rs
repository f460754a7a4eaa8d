//! A page of answers: records as clients read them, links resolved.
//!
//! A page is bounded in events and in bytes, so that what one reader holds in
//! memory is bounded whatever it reads. The bytes count what is sent: a small
//! link can resolve to a large event.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::SystemTime;

use annals_core::{Content, EventType, Head, Position, Revision, State, StreamName, Timestamp};
use annals_proto::event_store::client::streams::ReadResp;
use annals_proto::event_store::client::streams::read_resp::Content as Answer;
use annals_store::{IndexName, Link, PageLimit, Record, Store, StreamView};
use bytes::Bytes;
use uuid::Uuid;

use super::convert;
use super::frames::{Frames, Recorded};
use super::query::Style;
use crate::status::Failure;

/// Events of one page: of usual ones about a megabyte. Of fewer, what a page costs is felt; of
/// more, what was read last is out of the processor's caches when it is sent.
pub(crate) const EVENTS_MAX: usize = 4_000;

/// Bytes of one page, exceeded by its last event only.
pub(crate) const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of an answer to an event besides its record: more than that is rare.
const OVERHEAD: usize = 160;

/// A page being filled. Blocking: it reads the targets of links.
pub(crate) struct Page<'a> {
    store: &'a Store,
    style: Style,
    now: Timestamp,
    /// Links lead to nothing that is newer than this.
    as_of: Option<Position>,
    /// The streams that links on this page lead to; none where the reader may not
    /// read them.
    views: HashMap<StreamName, Option<StreamView>>,
    /// Bytes that it has room for.
    room: usize,
    /// Events that it has room for.
    events_max: usize,
    /// What it holds.
    pub(crate) frames: Frames,
    /// How many of it are events.
    pub(super) events: usize,
}

impl<'a> Page<'a> {
    /// A page of a read that looks at the log as of a position, or of one that
    /// has no end.
    pub(crate) fn new(store: &'a Store, style: Style, as_of: Option<Position>) -> Self {
        Page {
            store,
            style,
            now: Timestamp::from(SystemTime::now()),
            as_of,
            views: HashMap::new(),
            room: BYTES_MAX,
            events_max: EVENTS_MAX,
            frames: Frames::default(),
            events: 0,
        }
    }

    /// The same with room for so many bytes.
    pub(crate) fn with_room(self, room: usize) -> Self {
        Page { room, ..self }
    }

    /// The same with room for so many events.
    pub(super) fn with_events(self, events_max: usize) -> Self {
        Page { events_max, ..self }
    }

    /// What to read for it.
    pub(super) fn limit(&self) -> PageLimit {
        PageLimit { records: self.events_max, bytes: self.room }
    }

    /// The same where no more than so many events are wanted.
    pub(super) fn limit_of(&self, events: u64) -> PageLimit {
        let events = usize::try_from(events).unwrap_or(usize::MAX);
        PageLimit { records: self.events_max.min(events), ..self.limit() }
    }

    /// Whether what follows belongs on the next page.
    pub(super) fn is_full(&self) -> bool {
        self.events >= self.events_max || self.frames.len() >= self.room
    }

    /// Makes room for these records at once.
    pub(super) fn expect(&mut self, records: &[Record]) {
        let bytes = records.iter().map(|record| record.encoded().len() + OVERHEAD).sum();
        self.frames.reserve(usize::min(bytes, self.room));
    }

    /// Adds what is no event.
    pub(super) fn say(&mut self, answer: Answer) {
        self.frames.say(&ReadResp { content: Some(answer) });
    }

    /// Adds an event, or a link and its target.
    pub(crate) fn event(&mut self, record: &Record) -> Result<(), Failure> {
        debug_assert!(!record.is_reclaimed(), "of what was reclaimed nothing is shown");
        let recorded = Recorded::from(record);
        if self.style.resolve_links && recorded.event_type == EventType::LINK.as_bytes() {
            let target = self.resolve(recorded.data)?;
            self.push(target.as_ref(), &recorded)
        } else {
            self.events += 1;
            self.frames.event(Some(&recorded), None, recorded.position, self.style.ids)
        }
    }

    /// Adds an entry of an index: a link that nobody wrote, or its target.
    pub(crate) fn entry(&mut self, index: &IndexName, entry: &Link) -> Result<(), Failure> {
        let record = &entry.record;
        debug_assert!(!record.is_reclaimed(), "of what was reclaimed nothing is shown");
        // An entry for a link leads to where that link leads, as if the
        // indexed stream held the target itself.
        let is_link = record.event_type() == EventType::LINK;
        let data =
            if is_link { record.data() } else { Bytes::from(format!("{}@{}", record.revision(), record.stream())) };
        let name = index.name();
        let link = Recorded {
            id: entry_id(&name, entry.revision),
            stream: name.as_bytes(),
            revision: entry.revision,
            position: record.position().get(),
            event_type: EventType::LINK.as_bytes(),
            created: record.created(),
            content: Content::Binary,
            custom_metadata: Cow::Borrowed(&[]),
            data: &data,
        };
        if !self.style.resolve_links {
            self.events += 1;
            return self.frames.event(Some(&link), None, link.position, self.style.ids);
        }
        if is_link {
            let target = self.resolve(&data)?;
            self.push(target.as_ref(), &link)
        } else if self.hides(&record.stream_name(), record)? {
            self.push(None, &link)
        } else {
            self.push(Some(record), &link)
        }
    }

    fn push(&mut self, target: Option<&Record>, link: &Recorded<'_>) -> Result<(), Failure> {
        self.events += 1;
        let target = target.map(Recorded::from);
        self.frames.event(target.as_ref(), Some(link), link.position, self.style.ids)
    }

    /// The event that a link leads to, unless it is gone or hidden.
    fn resolve(&mut self, data: &[u8]) -> Result<Option<Record>, Failure> {
        let Some((revision, stream)) = convert::link_target(data) else { return Ok(None) };
        let record = self.store.record_at(&stream, revision).map_err(|error| broken(&error))?;
        let record = record.filter(|record| self.as_of.is_none_or(|as_of| record.position() <= as_of));
        match record {
            Some(record) if !self.hides(&stream, &record)? => Ok(Some(record)),
            Some(_) | None => Ok(None),
        }
    }

    /// Whether the target of a link is not for the reader.
    fn hides(&mut self, stream: &StreamName, record: &Record) -> Result<bool, Failure> {
        if !self.views.contains_key(stream) {
            let seen = self.style.eyes.see(self.store, stream)?;
            let view = if seen { Some(view(self.store, stream, self.now)?) } else { None };
            self.views.insert(stream.clone(), view);
        }
        let Some(view) = &self.views[stream] else { return Ok(true) };
        let gone = match view.state {
            State::Tombstoned | State::SoftDeleted(_) => true,
            State::Empty | State::Live(_) => false,
        };
        Ok(gone || hides(view, record))
    }

    /// The stream as readers see it now.
    pub(super) fn view(&self, stream: &StreamName) -> Result<StreamView, Failure> {
        view(self.store, stream, self.now)
    }
}

/// A stream as readers see it at this time: a metastream shows its newest
/// event and ends with the stream that it describes (protocol 3.7, 5.3).
pub(crate) fn view(store: &Store, stream: &StreamName, now: Timestamp) -> Result<StreamView, Failure> {
    let view = store.view(stream, now).map_err(|error| broken(&error))?;
    let described = match stream.described() {
        Some(described) => Some(store.head(&described).map_err(|error| broken(&error))?),
        None => None,
    };
    Ok(as_shown(view, described.as_ref()))
}

/// The same, with the position up to which the log was looked at: everything
/// of one moment.
pub(super) fn see(store: &Store, stream: &StreamName, now: Timestamp) -> Result<(Position, StreamView), Failure> {
    let sight = store.see(stream, now).map_err(|error| broken(&error))?;
    Ok((sight.as_of, as_shown(sight.view, sight.described.as_ref())))
}

/// As [`see`], but never waits: none where it would have to.
pub(super) fn see_at_hand(store: &Store, stream: &StreamName, now: Timestamp) -> Option<(Position, StreamView)> {
    let sight = store.see_at_hand(stream, now)?;
    Some((sight.as_of, as_shown(sight.view, sight.described.as_ref())))
}

fn as_shown(mut view: StreamView, described: Option<&Head>) -> StreamView {
    if let Some(described) = described {
        if described.tombstoned {
            view.state = State::Tombstoned;
        }
        view.first_visible = view.first_visible.max(view.head.last.unwrap_or(Revision::FIRST));
    }
    view
}

/// Whether truncation or age hides a record of this stream.
pub(super) fn hides(view: &StreamView, record: &Record) -> bool {
    record.revision() < view.first_visible || view.not_before.is_some_and(|oldest| record.created() < oldest)
}

/// A failure of the store while reading.
pub(crate) fn broken(error: &annals_store::Error) -> Failure {
    Failure::broken("reading", error)
}

/// The id of an entry of an index: the same on every node and at every time,
/// because readers tell events apart by their ids.
fn entry_id(index: &StreamName, number: u64) -> Uuid {
    // FNV-1a with 128 bits: nothing here has to be hard to guess.
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = index.as_str().bytes().chain(number.to_be_bytes());
    let hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_indexes_have_ids_of_their_own_that_never_change() {
        let name = |text: &str| StreamName::new(text.to_owned()).expect("a valid name");
        let mut seen = std::collections::HashSet::new();
        for index in ["$ce-a", "$ce-b", "$et-a", "$streams"] {
            for number in 0..1000 {
                assert!(seen.insert(entry_id(&name(index), number)), "{index} {number}");
            }
        }
        assert_eq!(entry_id(&name("$ce-order"), 7).to_string(), "3bd15890-7dbd-8f70-bf0e-f19b4251c4ef");
    }
}
