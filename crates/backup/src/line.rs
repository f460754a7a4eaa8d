//! An event as one line of JSON, and the hash over many of them.
//!
//! ```json
//! {"stream":"order-1","revision":0,"position":7,"id":"…","type":"OrderPlaced",
//!  "created":"2024-02-29T12:34:56.1234567Z","json":true,"data":{"total":42},"metadata":{…}}
//! ```
//!
//! Data and metadata are there as JSON where that keeps every byte of them, else as
//! `dataBase64` and `metadataBase64`; what is empty is left out. Read back, they are the
//! bytes that they were. To import, `stream`, `id` and `type` are enough.

use annals_core::{Timestamp, rfc3339};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::error::Error;
use crate::history::{TOMBSTONE, TOMBSTONE_TYPE};

/// Bytes of one line: an event of the largest size in base64.
pub const LINE_BYTES_MAX: usize = 48 * 1024 * 1024;

/// An event that leaves one server for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traveller {
    /// Its stream.
    pub stream: String,
    /// Its place there, where it comes from; none if that is not known.
    pub revision: Option<u64>,
    /// Its id.
    pub id: Uuid,
    /// What it is called.
    pub event_type: String,
    /// Whether the data is said to be JSON.
    pub json: bool,
    /// When it was recorded.
    pub created: Option<Timestamp>,
    /// Metadata.
    pub metadata: Bytes,
    /// Data.
    pub data: Bytes,
}

impl Traveller {
    /// Whether it ends its stream for ever.
    pub fn is_tombstone(&self) -> bool {
        self.revision == Some(TOMBSTONE) && self.event_type == TOMBSTONE_TYPE
    }

    /// Bytes that it takes, about.
    pub fn size(&self) -> usize {
        100 + self.stream.len() + self.event_type.len() + self.metadata.len() + self.data.len()
    }
}

impl From<annals_client::Recorded> for Traveller {
    fn from(event: annals_client::Recorded) -> Self {
        Traveller {
            json: event.is_json(),
            created: Some(Timestamp::from(event.created)),
            stream: event.stream,
            revision: Some(event.revision),
            id: event.id,
            event_type: event.event_type,
            metadata: event.metadata,
            data: event.data,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Form<'a> {
    stream: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    id: Uuid,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(default = "yes")]
    json: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(rename = "dataBase64", default, skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(rename = "metadataBase64", default, skip_serializing_if = "Option::is_none")]
    metadata_base64: Option<String>,
}

fn yes() -> bool {
    true
}

/// One line without its end.
///
/// # Errors
/// Never, for an event that was read.
pub fn encode(event: &Traveller, position: Option<u64>) -> Result<String, Error> {
    let (data, data_base64) = payload(&event.data, event.json);
    let (metadata, metadata_base64) = payload(&event.metadata, true);
    let form = Form {
        stream: event.stream.clone(),
        revision: event.revision,
        position,
        id: event.id,
        event_type: event.event_type.clone(),
        created: event.created.map(rfc3339::exact),
        json: event.json,
        data,
        data_base64,
        metadata,
        metadata_base64,
    };
    serde_json::to_string(&form).map_err(|error| Error::Invalid(error.to_string()))
}

/// The event in a line.
///
/// # Errors
/// [`Error::Invalid`] says what is wrong with it.
pub fn decode(line: &str) -> Result<Traveller, Error> {
    let form: Form<'_> = serde_json::from_str(line).map_err(|error| Error::Invalid(error.to_string()))?;
    let created = form.created.map(|text| {
        rfc3339::parse(&text).ok_or_else(|| Error::Invalid(format!("created is \"{text}\", which is no RFC 3339 time")))
    });
    Ok(Traveller {
        stream: form.stream,
        revision: form.revision,
        id: form.id,
        event_type: form.event_type,
        json: form.json,
        created: created.transpose()?,
        metadata: bytes("metadata", form.metadata, form.metadata_base64)?,
        data: bytes("data", form.data, form.data_base64)?,
    })
}

/// As JSON where that keeps every byte, else in base64.
fn payload(bytes: &[u8], json: bool) -> (Option<&RawValue>, Option<String>) {
    if bytes.is_empty() {
        return (None, None);
    }
    match serde_json::from_slice::<&RawValue>(bytes) {
        // A line break would end the line, and blanks around it would be lost. `null`
        // would be taken for nothing.
        Ok(value)
            if json && value.get().len() == bytes.len() && !value.get().contains(['\n', '\r']) && bytes != b"null" =>
        {
            (Some(value), None)
        }
        Ok(_) | Err(_) => (None, Some(base64::encode(bytes))),
    }
}

fn bytes(what: &str, value: Option<&RawValue>, base64: Option<String>) -> Result<Bytes, Error> {
    match (value, base64) {
        (Some(_), Some(_)) => Err(Error::Invalid(format!("it has {what} and {what}Base64: give one of them"))),
        (Some(value), None) => Ok(Bytes::copy_from_slice(value.get().as_bytes())),
        (None, Some(text)) => {
            base64::decode(&text).ok_or_else(|| Error::Invalid(format!("{what}Base64 is no base64"))).map(Bytes::from)
        }
        (None, None) => Ok(Bytes::new()),
    }
}

/// Standard base64 with padding.
mod base64 {
    use ::base64::Engine as _;
    use ::base64::engine::general_purpose::STANDARD;

    pub(super) fn encode(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
        STANDARD.decode(text).ok()
    }
}

/// A hash over events in their order, one after the other: SHA-256 of the hash before
/// and of the event. `times` says whether it includes when they were created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rolling {
    state: [u8; 32],
    times: bool,
}

impl Rolling {
    /// Over nothing yet.
    pub fn new(times: bool) -> Rolling {
        Rolling { state: [0; 32], times }
    }

    /// Goes on with an event that has this revision where it is now.
    pub fn add(&mut self, event: &Traveller, revision: u64) {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        digest.update(&self.state);
        for part in [event.stream.as_bytes(), event.event_type.as_bytes(), &event.metadata, &event.data] {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.update(event.id.as_bytes());
        digest.update(&revision.to_le_bytes());
        digest.update(&[u8::from(event.json)]);
        if self.times {
            digest.update(&event.created.map_or(u64::MAX, Timestamp::ticks).to_le_bytes());
        }
        self.state.copy_from_slice(digest.finish().as_ref());
    }
}

impl std::fmt::Display for Rolling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(json: bool, metadata: &[u8], data: &[u8]) -> Traveller {
        Traveller {
            stream: "order-\"1".into(),
            revision: Some(3),
            id: Uuid::from_u128(5),
            event_type: "T".into(),
            json,
            created: Some(Timestamp::from_ticks(17_000_000_001_234_567)),
            metadata: Bytes::copy_from_slice(metadata),
            data: Bytes::copy_from_slice(data),
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let cases: [&[u8]; 9] = [
            b"",
            b"{}",
            b" {}",
            b"{\n}",
            b"null",
            b"{\"a\": 1.50}",
            b"no json",
            b"\x00\xff",
            "\"\u{2028}ä\"".as_bytes(),
        ];
        for (data, metadata) in cases.iter().flat_map(|data| cases.iter().map(move |metadata| (data, metadata))) {
            for json in [true, false] {
                let event = event(json, metadata, data);
                let line = encode(&event, Some(9)).expect("a line");
                assert!(!line.contains(['\n', '\r']));
                assert_eq!(decode(&line).expect("readable"), event, "{line}");
            }
        }
        assert!(encode(&event(true, b"", b"{\"a\": 1.50}"), None).expect("a line").contains("\"data\":{\"a\": 1.50}"));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(data: Vec<u8>, metadata: Vec<u8>, json: bool) {
            let event = event(json, &metadata, &data);
            prop_assert_eq!(decode(&encode(&event, None).expect("a line")).expect("readable"), event);
        }
    }

    #[test]
    fn little_is_enough_and_nonsense_is_refused() {
        let id = "00000000-0000-0000-0000-000000000005";
        let least = decode(&format!(r#"{{"stream":"a","id":"{id}","type":"T"}}"#)).expect("enough");
        assert_eq!((least.json, least.created, least.data.len()), (true, None, 0));
        for line in [
            "",
            "[]",
            r#"{"stream":"a","type":"T"}"#,
            &format!(r#"{{"stream":"a","id":"{id}","type":"T","created":"soon"}}"#),
            &format!(r#"{{"stream":"a","id":"{id}","type":"T","dataBase64":"%"}}"#),
            &format!(r#"{{"stream":"a","id":"{id}","type":"T","data":1,"dataBase64":""}}"#),
        ] {
            assert!(matches!(decode(line), Err(Error::Invalid(_))), "{line}");
        }
    }

    #[test]
    fn the_hash_tells_order_and_content_and_times_only_where_asked() {
        let (first, second) = (event(true, b"", b"1"), event(true, b"", b"2"));
        let hash = |events: &[&Traveller], times| {
            let mut rolling = Rolling::new(times);
            events.iter().zip(0..).for_each(|(event, revision)| rolling.add(event, revision));
            rolling
        };
        assert_eq!(hash(&[&first, &second], false), hash(&[&first, &second], false));
        assert_ne!(hash(&[&first, &second], false), hash(&[&second, &first], false));
        assert_ne!(hash(&[&first], false), hash(&[&event(false, b"", b"1")], false));
        assert_ne!(hash(&[&event(true, b"1", b"")], false), hash(&[&event(true, b"", b"1")], false));
        let later = Traveller { created: None, ..first.clone() };
        assert_eq!(hash(&[&first], false), hash(&[&later], false));
        assert_ne!(hash(&[&first], true), hash(&[&later], true));
    }
}
