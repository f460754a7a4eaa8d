//! What a group is fed with: the events of its source, as consumers get them.
//!
//! The same cursor as that of subscriptions ([`Feed`]) and the same page: what
//! truncation hides, how links are resolved and what a filter passes are decided in
//! one place. The answers of both services have the same fields with the same
//! numbers; only the retry count is added for a group, when an event is delivered.
//!
//! A group sees everything; what a consumer may see of it is decided when an event is
//! delivered to that one.

use annals_core::filter::{Filter, Subject};
use annals_core::group::{Strategy, key};
use annals_core::{EventId, Position, Revision, StreamName};
use annals_proto::event_store::client::persistent_subscriptions::ReadResp;
use annals_proto::event_store::client::persistent_subscriptions::read_resp::read_event::{self, RecordedEvent};
use annals_proto::event_store::client::persistent_subscriptions::read_resp::{Content, ReadEvent};
use annals_store::{Direction, IndexName, Interest, Link, PageLimit, Store};
use bytes::{Buf, Bytes};
use prost::Message as _;

use super::definition::{Definition, Selection};
use crate::access::Eyes;
use crate::grpc::streams::convert::{self, Ids, link_target};
use crate::grpc::streams::feed::Feed;
use crate::grpc::streams::page::{Page, broken};
use crate::grpc::streams::query::{self, SelectedBy, Start, Style};
use crate::status::Failure;

/// Ids of what is loaded are text; a consumer that wants halves gets them.
const IDS: Ids = Ids::Text;

/// An event that a group has loaded.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// What consumers get, without the retry count.
    pub(crate) event: ReadEvent,
    /// What consumers name it by.
    pub(crate) id: EventId,
    /// What keeps its order.
    pub(crate) key: u64,
    /// Bytes that it holds.
    pub(crate) bytes: usize,
}

/// What was read at once.
pub(crate) struct Batch {
    /// Events and their places, ascending.
    pub(crate) events: Vec<(u64, Loaded)>,
    /// Up to here, inclusive, nothing else is for the group.
    pub(crate) passed: Option<u64>,
    /// Whether that is the end for now.
    pub(crate) at_end: bool,
}

/// Where a group is in its source.
pub(crate) struct Source {
    feed: Feed,
    style: Style,
    strategy: Strategy,
    is_all: bool,
}

impl Source {
    /// The source of a group, right after a place. Blocking.
    pub(crate) fn open(store: &Store, definition: &Definition, after: Option<u64>) -> Result<Source, Failure> {
        let style = Style { resolve_links: definition.settings.resolve_links, ids: IDS, eyes: Eyes::ALL };
        let feed = Feed::begin(store, wanted(definition, after)?)?;
        Ok(Source { feed, style, strategy: definition.settings.strategy, is_all: definition.name.is_all() })
    }

    /// What wakes it; nothing where every entry does.
    pub(crate) fn interests(&self, store: &Store) -> Vec<Interest> {
        self.feed.interests(store)
    }

    /// Reads on: at most so many events, and about so many bytes. Blocking.
    pub(crate) fn read(&mut self, store: &Store, events: usize, bytes: usize) -> Result<Batch, Failure> {
        let step = self.feed.read(store, &self.style, bytes, events)?;
        let mut loaded = Vec::with_capacity(step.events);
        for event in events_in(step.frames.into_bytes())? {
            let at = place(&event, self.is_all);
            loaded.push((at, load(event, self.strategy)?));
        }
        Ok(Batch { events: loaded, passed: self.feed.passed(), at_end: step.at_end || step.ended.is_some() })
    }
}

/// What is at the place that a parked message tells of, unless it is gone. Blocking.
pub(crate) fn unpark(store: &Store, definition: &Definition, message: &[u8]) -> Result<Option<Loaded>, Failure> {
    let Some((revision, stream)) = link_target(message) else { return Ok(None) };
    let style = Style { resolve_links: definition.settings.resolve_links, ids: IDS, eyes: Eyes::ALL };
    let mut page = Page::new(store, style, None);
    match IndexName::parse(&stream) {
        Some(index) => {
            let one = PageLimit { records: 1, bytes: 1 };
            let entries = store.read_index(&index, revision.get(), Direction::Forward, one);
            let entries = entries.map_err(|error| broken(&error))?;
            let is_there = |entry: &&Link| entry.revision == revision.get() && !entry.record.is_reclaimed();
            let Some(entry) = entries.first().filter(is_there) else { return Ok(None) };
            page.entry(&index, entry)?;
        }
        None => {
            let record = store.record_at(&stream, revision).map_err(|error| broken(&error))?;
            let Some(record) = record else { return Ok(None) };
            page.event(&record)?;
        }
    }
    let event = events_in(page.frames.into_bytes())?.into_iter().next();
    event.map(|event| load(event, definition.settings.strategy)).transpose()
}

/// The event that was delivered: the link where one led to it.
pub(crate) fn original(event: &ReadEvent) -> Option<&RecordedEvent> {
    event.link.as_ref().or(event.event.as_ref())
}

/// As delivered for the so-many-th time, with ids as a consumer wants them.
pub(crate) fn delivered(loaded: &Loaded, retries: u32, ids: Ids) -> ReadResp {
    let mut event = loaded.event.clone();
    event.count = Some(read_event::Count::RetryCount(i32::try_from(retries).unwrap_or(i32::MAX)));
    if ids == Ids::Structured {
        for part in [&mut event.event, &mut event.link].into_iter().flatten() {
            part.id = convert::uuid(part.id.as_ref(), "id").ok().map(|id| convert::wire_uuid(id, ids));
        }
    }
    ReadResp { content: Some(Content::Event(event)) }
}

fn wanted(definition: &Definition, after: Option<u64>) -> Result<query::Source, Failure> {
    if definition.name.is_all() {
        let by = match &definition.selection {
            None => SelectedBy::Everything,
            Some(selection) => selected(selection)?,
        };
        // Nobody is told of checkpoints here.
        let selection = query::Selection { by, checkpoint_every: u64::MAX };
        let start = after.map_or(Start::Beginning, |after| Start::At(Position::new(after)));
        return Ok(query::Source::All { start, selection: Some(selection) });
    }
    let name = StreamName::new(definition.name.source.clone())?;
    let start = after.map_or(Start::Beginning, |after| Start::At(Revision::saturating(after)));
    Ok(match IndexName::parse(&name) {
        Some(index) => query::Source::Index { index, start },
        None => query::Source::Stream { name, start },
    })
}

/// The filter of a group on everything.
pub(crate) fn selected(selection: &Selection) -> Result<SelectedBy, Failure> {
    let subject = if selection.by_stream { Subject::Stream } else { Subject::EventType };
    let filter = if selection.regex.is_empty() {
        Filter::prefixes(subject, selection.prefixes.clone())?
    } else {
        Filter::regex(subject, &selection.regex)?
    };
    Ok(SelectedBy::Filter(filter))
}

fn place(event: &ReadEvent, is_all: bool) -> u64 {
    let Some(original) = original(event) else { return 0 };
    if is_all { original.commit_position } else { original.stream_revision }
}

fn load(event: ReadEvent, strategy: Strategy) -> Result<Loaded, Failure> {
    let bytes = event.encoded_len();
    let original = original(&event).ok_or_else(|| Failure::broken("reading for a group", &Empty))?;
    let id = convert::event_id(convert::uuid(original.id.as_ref(), "id")?, "id")?;
    // Of a link the stream that it leads to.
    let source = event.event.as_ref().unwrap_or(original);
    let stream = source.stream_identifier.as_ref().map_or(&[][..], |stream| &stream.stream_name);
    let key = match strategy {
        Strategy::PinnedByCorrelation => {
            correlation(&source.custom_metadata).map_or_else(|| key(stream), |id| key(id.as_bytes()))
        }
        Strategy::DispatchToSingle | Strategy::RoundRobin | Strategy::Pinned => key(stream),
    };
    Ok(Loaded { id, key, bytes, event })
}

#[derive(Debug, thiserror::Error)]
#[error("an answer without an event")]
struct Empty;

/// The `$correlationId` in an event's metadata.
fn correlation(metadata: &[u8]) -> Option<String> {
    if metadata.is_empty() {
        return None;
    }
    let metadata: serde_json::Value = serde_json::from_slice(metadata).ok()?;
    Some(metadata.get("$correlationId")?.as_str()?.to_owned())
}

/// The events in answers of the streams' service.
fn events_in(mut frames: Bytes) -> Result<Vec<ReadEvent>, Failure> {
    let mut events = Vec::new();
    while frames.len() >= 5 {
        frames.advance(1);
        let len = frames.get_u32() as usize;
        let answer =
            ReadResp::decode(frames.split_to(len)).map_err(|error| Failure::broken("reading for a group", &error))?;
        if let Some(Content::Event(event)) = answer.content {
            events.push(event);
        }
    }
    Ok(events)
}

/// The place of a message in the source, for whoever looks at it later: what a link
/// to it says.
pub(crate) fn told(event: &ReadEvent) -> Option<(u64, String)> {
    let original = original(event)?;
    let stream = original.stream_identifier.as_ref()?;
    Some((original.stream_revision, String::from_utf8_lossy(&stream.stream_name).into_owned()))
}
