//! What a group writes: checkpoints, messages that were given up, and what of those
//! is gone again. All of it are events, appended like any other: replicated, durable
//! when they are answered, and read by whoever leads next.
//!
//! An id follows from what an event is about, so that an append that is repeated
//! because its fate was unknown is written once.

use std::time::{Duration, Instant, SystemTime};

use annals_core::group::Place;
use annals_core::{
    Append, Command, Content, Event, EventId, EventType, Expected, Outcome, Properties, Revision, State, StreamName,
    Timestamp,
};
use annals_raft::Route;
use annals_store::{Record, Store};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::definition::{CONFIGURATION, CONFIGURATION_TYPE, Definition, Definitions, GroupName};
use super::source;
use super::stalls::age;
use crate::context::Context;
use crate::grpc::streams::page::{self, broken};
use crate::grpc::streams::{WRITE_TIMEOUT, refused, unexpected};
use crate::status::Failure;
use crate::time::rfc3339;

const CHECKPOINT_TYPE: &str = "$SubscriptionCheckpoint";
const METADATA_TYPE: &str = "$metadata";

/// A name of ours that is too long: refused when a group is defined.
fn stream(name: Option<StreamName>) -> Result<StreamName, Failure> {
    name.ok_or_else(|| Failure::invalid("group_name", "the names of stream and group are too long together"))
}

/// Appends one event as the leader; the revision it got.
async fn append(context: &Context, stream: StreamName, expected: Expected, event: Event) -> Result<Revision, Failure> {
    let command = Command::Append(Append::single(stream, expected, vec![event]));
    match context.node.append(command, Route::LeaderOnly, Instant::now() + WRITE_TIMEOUT).await? {
        Outcome::Appended(appended) => Ok(appended.revisions.first().copied().flatten().unwrap_or(Revision::FIRST)),
        Outcome::Refused(refusal) => Err(refused(refusal)),
        outcome @ (Outcome::Node(_) | Outcome::Denied(_) | Outcome::Scavenge(_) | Outcome::Lease(_)) => {
            Err(unexpected(&outcome))
        }
    }
}

fn json(id: EventId, event_type: &str, metadata: &serde_json::Value, data: Vec<u8>) -> Result<Event, Failure> {
    let metadata = if metadata.is_null() { Bytes::new() } else { Bytes::from(metadata.to_string()) };
    let event_type = EventType::new(event_type.to_owned())?;
    Ok(Event::new(id, event_type, Content::Json, Properties::Opaque, metadata, Bytes::from(data)))
}

fn new_id() -> EventId {
    EventId::new(uuid::Uuid::new_v4()).expect("a random id is not nil")
}

/// The same id for the same parts, on every node.
fn id_of(parts: &[&str]) -> EventId {
    let hash = xxhash_rust::xxh3::xxh3_128(parts.join("\n").as_bytes());
    EventId::new(uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()).expect("custom ids are not nil")
}

/// The last revision of a stream, which the next append expects, and that event if it
/// can be seen. Blocking.
fn newest(store: &Store, stream: &StreamName) -> Result<(Option<Revision>, Option<Record>), Failure> {
    let view = page::view(store, stream, Timestamp::from(SystemTime::now()))?;
    let State::Live(last) = view.state else { return Ok((None, None)) };
    if last < view.first_visible {
        return Ok((Some(last), None));
    }
    let record = store.record_at(stream, last).map_err(|error| broken(&error))?;
    Ok((Some(last), record))
}

// ---------------------------------------------------------- definitions ----

/// All definitions, and the revision to be expected when they are replaced.
/// Blocking.
pub(crate) fn load_definitions(store: &Store) -> Result<(Option<Revision>, Definitions), Failure> {
    let stream = StreamName::new(CONFIGURATION.to_owned())?;
    let (revision, document) = newest(store, &stream)?;
    let definitions = document.map(|document| Definitions::decode(&document.data())).transpose();
    Ok((revision, definitions.map_err(|error| Failure::broken("reading groups", &error))?.unwrap_or_default()))
}

/// Replaces all definitions.
pub(crate) async fn save_definitions(
    context: &Context,
    before: Option<Revision>,
    definitions: &Definitions,
) -> Result<Revision, Failure> {
    let stream = StreamName::new(CONFIGURATION.to_owned())?;
    let expected = before.map_or(Expected::NoStream, Expected::Exactly);
    let event = json(new_id(), CONFIGURATION_TYPE, &serde_json::Value::Null, definitions.encode())?;
    append(context, stream, expected, event).await
}

// ----------------------------------------------------------- checkpoints ----

/// How the place of a group is written: a revision, or a position twice.
pub(crate) fn written(is_all: bool, at: u64) -> String {
    if is_all { format!("C:{at}/P:{at}") } else { at.to_string() }
}

fn read(is_all: bool, text: &str) -> Option<u64> {
    if !is_all {
        return text.parse().ok();
    }
    text.strip_prefix("C:")?.split_once("/P:")?.0.parse().ok()
}

/// A checkpoint as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Everything up to this place is done.
    pub(crate) at: u64,
    /// What is done above it, as [`annals_core::group::Group::done_above`] says it.
    pub(crate) done_above: String,
}

/// What is beside a checkpoint: the metadata of its event. Events without it were
/// written by earlier releases, or have nothing to tell.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Beside {
    #[serde(default)]
    done_above: String,
}

/// The last checkpoint of a group, and the revision of its event. Blocking.
pub(crate) fn load_checkpoint(
    store: &Store,
    name: &GroupName,
) -> Result<(Option<Revision>, Option<Checkpoint>), Failure> {
    let (revision, record) = newest(store, &stream(name.checkpoints())?)?;
    let Some(record) = record else { return Ok((revision, None)) };
    let text: Option<String> = serde_json::from_slice(&record.data()).ok();
    let at = text.and_then(|text| read(name.is_all(), &text));
    let Some(at) = at else { return Err(Failure::broken("reading a checkpoint", &NoCheckpoint(name.to_string()))) };
    let Beside { done_above } = serde_json::from_slice(&record.metadata()).unwrap_or_default();
    Ok((revision, Some(Checkpoint { at, done_above })))
}

#[derive(Debug, thiserror::Error)]
#[error("the newest event in the checkpoints of {0} is none")]
struct NoCheckpoint(String);

/// Writes a checkpoint right after the one at `before`: one that somebody else wrote
/// in between is not passed over.
pub(crate) async fn save_checkpoint(
    context: &Context,
    name: &GroupName,
    before: Option<Revision>,
    checkpoint: Checkpoint,
) -> Result<Revision, Failure> {
    let Checkpoint { at, done_above } = checkpoint;
    let expected = before.map_or(Expected::NoStream, Expected::Exactly);
    let data = serde_json::Value::String(written(name.is_all(), at)).to_string().into_bytes();
    let beside = match done_above.as_str() {
        "" => serde_json::Value::Null,
        _ => serde_json::json!(Beside { done_above }),
    };
    let event = json(new_id(), CHECKPOINT_TYPE, &beside, data)?;
    append(context, stream(name.checkpoints())?, expected, event).await
}

/// Has old checkpoints go, and those of an earlier group of this name stay gone: metadata
/// replace what hides them.
pub(crate) async fn keep_few_checkpoints(context: &Context, name: &GroupName) -> Result<(), Failure> {
    let checkpoints = stream(name.checkpoints())?;
    let before = context.node.store().head(&checkpoints).map_err(|error| broken(&error))?.last;
    let metadata = match before {
        None => serde_json::json!({ "$maxCount": 2 }),
        Some(last) => serde_json::json!({ "$maxCount": 2, "$tb": last.get() + 1 }),
    };
    set_metadata(context, &checkpoints, metadata).await
}

async fn set_metadata(context: &Context, of: &StreamName, metadata: serde_json::Value) -> Result<(), Failure> {
    let stream = StreamName::new(format!("$${of}"))?;
    let event = json(new_id(), METADATA_TYPE, &serde_json::Value::Null, metadata.to_string().into_bytes())?;
    append(context, stream, Expected::Any, event).await.map(|_| ())
}

// --------------------------------------------------------------- parking ----

/// Puts a message with those that were given up. Written once however often it is
/// repeated, also by the next leader.
pub(crate) async fn park(
    context: &Context,
    definition: &Definition,
    place: Place,
    event: &source::Loaded,
    reason: &str,
) -> Result<(), Failure> {
    let parked = stream(definition.name.parked())?;
    let Some((revision, of)) = source::told(&event.event) else { return Ok(()) };
    let place = match place {
        Place::Source(at) => format!("source {at}"),
        Place::Parked(at) => format!("parked {at}"),
    };
    let id = id_of(&[parked.as_str(), &definition.incarnation.to_string(), &place]);
    let metadata = serde_json::json!({
        "added": rfc3339(SystemTime::now()),
        "reason": reason,
        "subscriptionEventNumber": revision,
    });
    let event_type = EventType::new(EventType::LINK.to_owned())?;
    let data = Bytes::from(format!("{revision}@{of}"));
    let metadata = Bytes::from(metadata.to_string());
    let event = Event::new(id, event_type, Content::Binary, Properties::Opaque, metadata, data);
    append(context, parked, Expected::Any, event).await.map(|_| ())
}

/// The messages of a group that were given up and are neither replayed nor dropped:
/// the first revision and the one after the last. Blocking.
pub(crate) fn parked(store: &Store, name: &GroupName) -> Result<(u64, u64), Failure> {
    let view = page::view(store, &stream(name.parked())?, Timestamp::from(SystemTime::now()))?;
    match view.state {
        State::Live(last) => {
            let end = last.get() + 1;
            Ok((view.first_visible.get().min(end), end))
        }
        _ => Ok((0, 0)),
    }
}

/// How many messages were given up, and the age of the first. Blocking.
pub(crate) fn oldest_parked(store: &Store, name: &GroupName) -> Result<(u64, Duration), Failure> {
    let (first, end) = parked(store, name)?;
    if first >= end {
        return Ok((0, Duration::ZERO));
    }
    let record = store.record_at(&stream(name.parked())?, Revision::saturating(first));
    let record = record.map_err(|error| broken(&error))?;
    Ok((end - first, record.map_or(Duration::ZERO, |record| age(record.created()))))
}

/// Drops messages that were given up, those before this revision.
pub(crate) async fn drop_parked(context: &Context, name: &GroupName, before: u64) -> Result<(), Failure> {
    set_metadata(context, &stream(name.parked())?, serde_json::json!({ "$tb": before })).await
}

/// Removes what a group has written.
pub(crate) async fn remove(context: &Context, name: &GroupName) -> Result<(), Failure> {
    for stream in [stream(name.checkpoints())?, stream(name.parked())?] {
        let command = Command::Delete { stream, expected: Expected::Any };
        let deadline = Instant::now() + WRITE_TIMEOUT;
        match context.node.append(command, Route::LeaderOnly, deadline).await? {
            // One that was never written cannot be deleted, and need not be.
            Outcome::Appended(_) | Outcome::Refused(_) => {}
            outcome @ (Outcome::Node(_) | Outcome::Denied(_) | Outcome::Scavenge(_) | Outcome::Lease(_)) => {
                return Err(unexpected(&outcome));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for is_all in [true, false] {
            assert_eq!(read(is_all, &written(is_all, 71)), Some(71));
            assert_eq!(read(is_all, "x"), None);
        }
        assert_eq!(written(true, 5), "C:5/P:5");
    }

    #[test]
    fn the_same_message_is_parked_under_the_same_id() {
        assert_eq!(id_of(&["a", "b"]), id_of(&["a", "b"]));
        assert_ne!(id_of(&["a", "b"]), id_of(&["a", "c"]));
    }
}
