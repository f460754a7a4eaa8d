//! Events as commands print them, one by one as they come.

use std::io;

use annals_client::{Recorded, Resolved};
use annals_server::time::rfc3339;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use crate::output::{self, Format, Time};

/// Which number of an event comes first in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbering {
    /// Its revision; the stream is known.
    Revision,
    /// Its position, and then its stream.
    Position,
}

/// Prints events one by one, as they come.
pub(crate) struct Events {
    format: Format,
    numbering: Numbering,
    headed: bool,
}

impl Events {
    pub(crate) fn new(format: Format, numbering: Numbering) -> Self {
        Events { format, numbering, headed: false }
    }

    /// Prints an event.
    pub(crate) fn print(&mut self, resolved: &Resolved) -> io::Result<()> {
        match self.format {
            Format::Json => output::json(&Line::of(resolved)?),
            Format::Table => {
                if !self.headed {
                    self.headed = true;
                    output::line(match self.numbering {
                        Numbering::Revision => "REVISION  CREATED                      TYPE                      DATA",
                        Numbering::Position => {
                            "POSITION  CREATED                      STREAM                    TYPE                      DATA"
                        }
                    })?;
                }
                output::line(&self.row(resolved))
            }
        }
    }

    fn row(&self, resolved: &Resolved) -> String {
        let Some(place) = resolved.original() else { return "(nothing)".to_owned() };
        let number = match self.numbering {
            Numbering::Revision => place.revision,
            Numbering::Position => place.position,
        };
        let Some(event) = &resolved.event else {
            return format!(
                "{number:>8}  {}  the event that {} links to is gone",
                rfc3339(place.created),
                place.stream
            );
        };
        let stream = match self.numbering {
            Numbering::Revision => String::new(),
            Numbering::Position => format!("{:<24}  ", event.stream),
        };
        format!("{number:>8}  {}  {stream}{:<24}  {}", rfc3339(event.created), event.event_type, data(event))
    }
}

fn data(event: &Recorded) -> String {
    match std::str::from_utf8(&event.data) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text.replace(['\n', '\r'], " "),
        Ok(_) | Err(_) => format!("({} bytes)", event.data.len()),
    }
}

/// What a read delivers, as one line.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Line {
    /// An event.
    Found(Box<Event>),
    /// A link to an event that is gone.
    Gone(Gone),
}

/// An event.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{ "required": ["data"] }, { "required": ["dataBase64"] }]))]
pub(crate) struct Event {
    /// Its stream.
    stream: String,
    /// Its place in the stream; the first event has 0.
    revision: u64,
    /// Its place in the whole log; the first event has 1.
    position: u64,
    /// Its id.
    id: Uuid,
    /// What it is called.
    #[serde(rename = "type")]
    event_type: String,
    /// When it was written.
    created: Time,
    /// What the data is said to be, as application/json.
    content_type: String,
    /// The data, where it is JSON: any value.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    /// The data in base64, where it is not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    /// The metadata, where there is some and it is JSON: any value.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    /// The metadata in base64, where there is some and it is not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_base64: Option<String>,
    /// The link that led to the event, where links are followed and there was one. A
    /// link has no link itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<Box<Event>>,
}

/// A link to an event that is gone.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Gone {
    /// There is none any more.
    event: (),
    /// The link.
    link: Box<Event>,
}

impl Line {
    fn of(resolved: &Resolved) -> io::Result<Line> {
        let link = resolved.link.as_ref().map(|link| Event::of(link).map(Box::new)).transpose()?;
        match (&resolved.event, link) {
            (Some(event), link) => Ok(Line::Found(Box::new(Event { link, ..Event::of(event)? }))),
            (None, Some(link)) => Ok(Line::Gone(Gone { event: (), link })),
            (None, None) => Err(io::Error::new(io::ErrorKind::InvalidData, "the server sent an event that is empty")),
        }
    }
}

impl Event {
    fn of(event: &Recorded) -> io::Result<Event> {
        let (data, data_base64) = payload(&event.data, event.is_json())?;
        let (metadata, metadata_base64) =
            if event.metadata.is_empty() { (None, None) } else { payload(&event.metadata, true)? };
        Ok(Event {
            stream: event.stream.clone(),
            revision: event.revision,
            position: event.position,
            id: event.id,
            event_type: event.event_type.clone(),
            created: event.created.into(),
            content_type: event.content_type.clone(),
            data,
            data_base64,
            metadata,
            metadata_base64,
            link: None,
        })
    }
}

/// JSON byte for byte, as far as a line allows, or else base64.
fn payload(bytes: &[u8], json: bool) -> io::Result<(Option<Box<RawValue>>, Option<String>)> {
    let base64 = || Ok((None, Some(BASE64.encode(bytes))));
    match serde_json::from_slice::<&RawValue>(bytes) {
        // A line is one event: line breaks inside must go.
        Ok(value) if json && value.get().contains(['\n', '\r']) => match serde_json::from_str::<Value>(value.get()) {
            Ok(value) => Ok((Some(to_raw_value(&value)?), None)),
            Err(_) => base64(),
        },
        Ok(value) if json => Ok((Some(value.to_owned()), None)),
        Ok(_) | Err(_) => base64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::UNIX_EPOCH;

    fn event_json(resolved: &Resolved) -> String {
        serde_json::to_string(&Line::of(resolved).expect("an event")).expect("JSON")
    }

    fn event(content_type: &str, data: &'static [u8]) -> Recorded {
        Recorded {
            stream: "s\"1".to_owned(),
            revision: 3,
            position: 4,
            id: uuid::Uuid::from_u128(5),
            event_type: "T".to_owned(),
            created: UNIX_EPOCH,
            content_type: content_type.to_owned(),
            metadata: bytes::Bytes::new(),
            data: bytes::Bytes::from_static(data),
        }
    }

    #[test]
    fn every_event_is_one_line_of_valid_json() {
        let cases: [(&str, &[u8], &str, Value); 4] = [
            ("application/json", br#"{"a": 1.50}"#, "data", json!({"a": 1.5})),
            ("application/json", b"{\n\"a\":1}", "data", json!({"a": 1})),
            ("application/json", b"no json", "dataBase64", json!("bm8ganNvbg==")),
            ("application/octet-stream", b"\x00\xff", "dataBase64", json!("AP8=")),
        ];
        for (content_type, data, key, expected) in cases {
            let link = Some(event("application/octet-stream", b"0@x"));
            let text = event_json(&Resolved { event: Some(event(content_type, data)), link });
            assert!(!text.contains('\n'));
            let value: Value = serde_json::from_str(&text).expect("valid");
            assert_eq!(value[key], expected);
            assert_eq!(value["link"]["position"], 4);
        }
        let gone = event_json(&Resolved { event: None, link: Some(event("", b"")) });
        assert!(serde_json::from_str::<Value>(&gone).expect("valid")["event"].is_null());
    }
}
