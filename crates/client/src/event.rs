//! Events, as they are written and as they are read.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annals_proto::event_store::client::streams::read_resp;
use annals_proto::event_store::client::uuid::Value;
use bytes::Bytes;
use uuid::Uuid;

use crate::Error;

/// The content type of JSON.
pub const JSON: &str = "application/json";
/// The content type of anything else.
pub const BINARY: &str = "application/octet-stream";

/// An event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Its id. Appending the same id again to the same stream is answered as
    /// the first time, so that a retry keeps it.
    pub id: Uuid,
    /// What it is called.
    pub event_type: String,
    /// Whether the data is JSON.
    pub json: bool,
    /// Metadata, opaque.
    pub metadata: Bytes,
    /// Data.
    pub data: Bytes,
}

impl NewEvent {
    /// An event with a new id that sorts by time (UUID version 7).
    pub fn new(event_type: impl Into<String>, json: bool, data: impl Into<Bytes>) -> Self {
        NewEvent { id: Uuid::now_v7(), event_type: event_type.into(), json, metadata: Bytes::new(), data: data.into() }
    }
}

/// The state a stream must be in for a write to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No condition.
    Any,
    /// It has no event.
    NoStream,
    /// It has events.
    Exists,
    /// Its last event has this revision.
    Exactly(u64),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Any => f.write_str("any state"),
            Expected::NoStream => f.write_str("no stream"),
            Expected::Exists => f.write_str("an existing stream"),
            Expected::Exactly(revision) => write!(f, "revision {revision}"),
        }
    }
}

/// An event as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its stream.
    pub stream: String,
    /// Its place there.
    pub revision: u64,
    /// Its place in the log.
    pub position: u64,
    /// Its id.
    pub id: Uuid,
    /// What it is called.
    pub event_type: String,
    /// When it was written.
    pub created: SystemTime,
    /// The content type of the data.
    pub content_type: String,
    /// Metadata.
    pub metadata: Bytes,
    /// Data.
    pub data: Bytes,
}

/// An event with the link through which it was found, if there was one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The event, or the target of the link; none if the target is gone.
    pub event: Option<Recorded>,
    /// The link.
    pub link: Option<Recorded>,
}

impl Resolved {
    /// Where the reader is: the link if there is one, else the event.
    pub fn original(&self) -> Option<&Recorded> {
        self.link.as_ref().or(self.event.as_ref())
    }
}

impl Recorded {
    /// Whether the data is said to be JSON.
    pub fn is_json(&self) -> bool {
        self.content_type == JSON
    }

    pub(crate) fn read(event: read_resp::read_event::RecordedEvent) -> Result<Self, Error> {
        let id = match event.id.and_then(|id| id.value) {
            Some(Value::String(text)) => {
                Uuid::parse_str(&text).map_err(|_| Error::Protocol("an event id is no UUID"))?
            }
            Some(Value::Structured(id)) => {
                Uuid::from_u64_pair(id.most_significant_bits.cast_unsigned(), id.least_significant_bits.cast_unsigned())
            }
            None => return Err(Error::Protocol("an event has no id")),
        };
        let stream = event.stream_identifier.ok_or(Error::Protocol("an event has no stream"))?.stream_name;
        Ok(Recorded {
            stream: String::from_utf8_lossy(&stream).into_owned(),
            revision: event.stream_revision,
            position: event.commit_position,
            id,
            created: created(&event.metadata)?,
            event_type: event.metadata.get("type").cloned().unwrap_or_default(),
            content_type: event.metadata.get("content-type").cloned().unwrap_or_default(),
            metadata: event.custom_metadata,
            data: event.data,
        })
    }
}

/// Ticks of 100 ns since 1970, as text.
fn created(metadata: &HashMap<String, String>) -> Result<SystemTime, Error> {
    let ticks: u64 =
        metadata.get("created").and_then(|text| text.parse().ok()).ok_or(Error::Protocol("an event has no time"))?;
    Ok(UNIX_EPOCH + Duration::from_nanos(ticks.saturating_mul(100)))
}
