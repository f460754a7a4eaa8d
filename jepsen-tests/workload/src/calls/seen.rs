//! An event as it arrives.

use std::collections::HashMap;
use std::sync::Arc;

use annals_checker::history::{EventId, Seen};
use annals_proto::event_store::client::streams::read_resp::ReadEvent;
use annals_proto::event_store::client::uuid::Value;

use crate::payload;

/// The event in a message.
///
/// # Errors
/// What is missing or makes no sense in it.
pub(crate) fn seen(event: ReadEvent) -> Result<Seen, &'static str> {
    if event.link.is_some() {
        return Err("a link, which nobody asked for");
    }
    let event = event.event.ok_or("no event")?;
    let id = match event.id.and_then(|id| id.value).ok_or("an event has no id")? {
        Value::Structured(halves) => {
            u128::from(halves.most_significant_bits.cast_unsigned()) << 64
                | u128::from(halves.least_significant_bits.cast_unsigned())
        }
        Value::String(text) => uuid::Uuid::parse_str(&text).map_err(|_| "an id is no UUID")?.as_u128(),
    };
    let stream = event.stream_identifier.ok_or("an event has no stream")?.stream_name;
    let stream: Arc<str> = std::str::from_utf8(&stream).map_err(|_| "a stream's name is no text")?.into();
    if event.commit_position != event.prepare_position {
        return Err("an event has two positions");
    }
    let text = |metadata: &HashMap<String, String>, key: &str| metadata.get(key).cloned();
    let kind = text(&event.metadata, "type").ok_or("an event has no type")?;
    let created = text(&event.metadata, "created").and_then(|ticks| ticks.parse().ok());
    Ok(Seen {
        position: event.commit_position,
        stream,
        revision: event.stream_revision,
        id: EventId(id),
        digest: payload::seen_digest(&kind, &event.data, &event.custom_metadata),
        created: created.ok_or("an event has no time")?,
        system: kind.starts_with('$'),
    })
}
