//! What commands print: tables for people, JSON for programs.

use std::io::{self, Write};

use annals_client::{Recorded, Resolved};
use annals_server::time::rfc3339;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// How to print what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: one object, or one object per line.
    Json,
}

/// Prints one line of JSON.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    line(&value.to_string())
}

/// Prints one line.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints text that is lines already.
pub(crate) fn bytes(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

/// Prints a table.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table.add_rows(rows);
    let text = table.to_string();
    let trimmed: Vec<_> = text.lines().map(|line| line.trim_end().trim_start_matches(' ')).collect();
    line(&trimmed.join("\n"))
}

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
            Format::Json => line(&event_json(resolved)),
            Format::Table => {
                if !self.headed {
                    self.headed = true;
                    line(match self.numbering {
                        Numbering::Revision => "REVISION  CREATED                      TYPE                      DATA",
                        Numbering::Position => {
                            "POSITION  CREATED                      STREAM                    TYPE                      DATA"
                        }
                    })?;
                }
                line(&self.row(resolved))
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

/// An event as one line of JSON. JSON data and metadata are embedded byte for
/// byte as far as JSON allows, anything else in base64 under another key.
fn event_json(resolved: &Resolved) -> String {
    let mut object = match &resolved.event {
        Some(event) => recorded(event),
        None => String::from("{\"event\":null"),
    };
    if let Some(link) = &resolved.link {
        object.push_str(&format!(",\"link\":{}}}", recorded(link)));
    }
    object.push('}');
    object
}

/// Without the closing brace.
fn recorded(event: &Recorded) -> String {
    let head = json!({
        "stream": event.stream,
        "revision": event.revision,
        "position": event.position,
        "id": event.id,
        "type": event.event_type,
        "created": rfc3339(event.created),
        "contentType": event.content_type,
    });
    let mut object = head.to_string();
    object.pop();
    object.push_str(&payload("data", &event.data, event.is_json()));
    if !event.metadata.is_empty() {
        object.push_str(&payload("metadata", &event.metadata, true));
    }
    object
}

fn payload(key: &str, bytes: &[u8], json: bool) -> String {
    match serde_json::from_slice::<&RawValue>(bytes) {
        // A line is one event: line breaks inside must go.
        Ok(value) if json && !value.get().contains(['\n', '\r']) => format!(",\"{key}\":{}", value.get()),
        Ok(value) if json => match serde_json::from_str::<Value>(value.get()) {
            Ok(value) => format!(",\"{key}\":{value}"),
            Err(_) => format!(",\"{key}Base64\":\"{}\"", BASE64.encode(bytes)),
        },
        Ok(_) | Err(_) => format!(",\"{key}Base64\":\"{}\"", BASE64.encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

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
