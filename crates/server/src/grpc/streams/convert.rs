//! Between the protocol's messages and our words.
//!
//! What comes in is parsed here once; past this file no name, id, type or
//! revision is unvalidated. What goes out fills every oneof that some client
//! unwraps.

use std::borrow::Cow;

use annals_core::limits::EVENT_BYTES_MAX;
use annals_core::{Content, Event, EventId, EventType, Expected, Properties, Revision, StreamName};
use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::{StreamIdentifier, Uuid as WireUuid, uuid as wire_uuid};
use annals_store::Record;
use bytes::Bytes;
use bytestring::ByteString;
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use uuid::Uuid;

use crate::status::Failure;

/// Keys of the metadata that every v1 event has, in both directions; `created`
/// on its way out. .NET throws and Go exits over a missing or odd one (protocol
/// 3.4).
pub(super) const TYPE: &str = "type";
pub(super) const CONTENT_TYPE: &str = "content-type";
pub(super) const CREATED: &str = "created";

const JSON: &str = "application/json";
const BINARY: &str = "application/octet-stream";

/// Properties that v2 events have besides the client's own.
pub(crate) const SCHEMA_NAME: &str = "$schema.name";
pub(crate) const SCHEMA_FORMAT: &str = "$schema.format";
pub(crate) const SCHEMA_ID: &str = "$schema.id";
const PROPERTIES_ERROR: &str = "$propertiesError";

/// How ids are spelled in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Two halves of 64 bits.
    Structured,
    /// 36 characters.
    Text,
}

/// The UUID in a message; clients send either form.
pub(crate) fn uuid(wire: Option<&WireUuid>, field: &str) -> Result<Uuid, Failure> {
    let missing = || Failure::invalid(field, format!("{field} is missing"));
    match wire.and_then(|wire| wire.value.as_ref()).ok_or_else(missing)? {
        wire_uuid::Value::Structured(halves) => Ok(Uuid::from_u64_pair(
            halves.most_significant_bits.cast_unsigned(),
            halves.least_significant_bits.cast_unsigned(),
        )),
        wire_uuid::Value::String(text) => Uuid::parse_str(text)
            .map_err(|_| Failure::invalid(field, format!("{field} is not a UUID: {:?}", shortened(text)))),
    }
}

pub(crate) fn wire_uuid(id: Uuid, form: Ids) -> WireUuid {
    let value = match form {
        Ids::Structured => {
            let (most, least) = id.as_u64_pair();
            wire_uuid::Value::Structured(wire_uuid::Structured {
                most_significant_bits: most.cast_signed(),
                least_significant_bits: least.cast_signed(),
            })
        }
        Ids::Text => wire_uuid::Value::String(id.to_string()),
    };
    WireUuid { value: Some(value) }
}

pub(crate) fn stream(wire: Option<StreamIdentifier>) -> Result<StreamName, Failure> {
    let wire = wire.ok_or_else(|| Failure::invalid("stream_identifier", "the stream's name is missing"))?;
    Ok(StreamName::from_utf8(wire.stream_name)?)
}

/// An expected revision that was sent as a number.
pub(super) fn exactly(revision: u64) -> Result<Expected, Failure> {
    Revision::new(revision).map(Expected::Exactly).ok_or_else(|| {
        Failure::invalid("expected_stream_revision", format!("an expected revision is below 2^63, not {revision}"))
    })
}

pub(super) fn no_expectation() -> Failure {
    Failure::invalid("expected_stream_revision", "the expected revision is missing")
}

/// Makes an expectation of the same-named oneofs of three requests.
macro_rules! expected {
    ($oneof:path, $value:expr) => {{
        use $oneof as Wire;
        match $value {
            Some(Wire::Revision(revision)) => $crate::grpc::streams::convert::exactly(revision),
            Some(Wire::NoStream(_)) => Ok(annals_core::Expected::NoStream),
            Some(Wire::Any(_)) => Ok(annals_core::Expected::Any),
            Some(Wire::StreamExists(_)) => Ok(annals_core::Expected::Exists),
            None => Err($crate::grpc::streams::convert::no_expectation()),
        }
    }};
}
pub(super) use expected;

/// A stream that a client may write.
///
/// # Errors
/// Access denied for streams that are not written but follow from others.
pub(crate) fn writable(stream: StreamName) -> Result<StreamName, Failure> {
    if is_virtual(&stream) {
        return Err(Failure::AccessDenied { operation: "streams:write", stream: stream.to_string() });
    }
    Ok(stream)
}

/// A stream that a client may delete.
///
/// # Errors
/// As [`writable`], and for metastreams (protocol 5.1).
pub(super) fn deletable(stream: StreamName) -> Result<StreamName, Failure> {
    if stream.is_metastream() || is_virtual(&stream) {
        return Err(Failure::AccessDenied { operation: "streams:delete", stream: stream.to_string() });
    }
    Ok(stream)
}

fn is_virtual(stream: &StreamName) -> bool {
    const PREFIXES: [&str; 5] = ["$ce-", "$et-", "$bc-", "$mem-", "$idx-"];
    let name = stream.as_str();
    name == "$all" || name == "$streams" || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// An event of a v1 append, and its size as the protocol counts it.
pub(super) fn proposed(
    stream: &StreamName,
    id: Option<&WireUuid>,
    metadata: Vec<MetadataEntry>,
    custom_metadata: Bytes,
    data: Bytes,
) -> Result<(Event, usize), Failure> {
    let id = event_id(uuid(id, "id")?, "id")?;
    let (event_type, content_type) = labels(metadata)?;
    // The type counts twice its UTF-16 length (protocol 2.4).
    let size = data.len() + custom_metadata.len() + 2 * event_type.encode_utf16().count();
    if size > EVENT_BYTES_MAX {
        return Err(Failure::EventTooLarge { stream: stream.clone(), id, size, max: EVENT_BYTES_MAX });
    }
    let content = if content_type == JSON { Content::Json } else { Content::Binary };
    let event_type = EventType::new(event_type)?;
    Ok((Event::new(id, event_type, content, Properties::Opaque, custom_metadata, data), size))
}

/// The type and the content type among an event's metadata.
fn labels(metadata: Vec<MetadataEntry>) -> Result<(ByteString, ByteString), Failure> {
    let (mut event_type, mut content_type) = (None, None);
    for MetadataEntry { key, value } in metadata {
        let (Ok(key), Ok(value)) = (ByteString::try_from(key), ByteString::try_from(value)) else {
            return Err(Failure::invalid("metadata", "an event's metadata are not UTF-8"));
        };
        match &*key {
            TYPE => event_type = Some(value),
            CONTENT_TYPE => content_type = Some(value),
            // Clients send no others, and none would be kept (protocol 2.4).
            _ => {}
        }
    }
    event_type.zip(content_type).ok_or(Failure::MissingMetadata)
}

pub(crate) fn event_id(id: Uuid, field: &str) -> Result<EventId, Failure> {
    EventId::new(id).ok_or_else(|| Failure::invalid(field, "an event id must not be the nil UUID"))
}

/// The event's metadata as a client reads it, whichever way they were written.
pub(crate) fn custom_metadata(record: &Record) -> Cow<'_, [u8]> {
    match record.properties() {
        Properties::Opaque => Cow::Borrowed(record.metadata_slice()),
        Properties::Struct => Cow::Owned(properties_as_json(&record.metadata(), record.event_type(), record.content())),
    }
}

/// The value of [`CONTENT_TYPE`].
pub(super) fn content_type(content: Content) -> &'static str {
    match content {
        Content::Json => JSON,
        Content::Binary => BINARY,
    }
}

/// The target of a link: `revision@stream`. The stream's name may hold `@`.
pub(crate) fn link_target(data: &[u8]) -> Option<(Revision, StreamName)> {
    let text = std::str::from_utf8(data).ok()?;
    let (revision, stream) = text.split_once('@')?;
    Some((Revision::new(revision.parse().ok()?)?, StreamName::new(stream.to_owned()).ok()?))
}

/// The properties of a v2 event as v1 clients see them (protocol 2.9).
fn properties_as_json(properties: &Bytes, event_type: &str, content: Content) -> Vec<u8> {
    let decoded = Struct::decode(properties.clone()).map_err(|error| error.to_string());
    let rendered = decoded.and_then(|properties| {
        let fields = properties.fields.into_iter().map(|(key, value)| Ok((key, as_json(value)?)));
        fields.collect::<Result<serde_json::Map<_, _>, &str>>().map_err(str::to_owned)
    });
    let mut json =
        rendered.unwrap_or_else(|why| serde_json::Map::from_iter([(PROPERTIES_ERROR.to_owned(), why.into())]));
    json.insert(SCHEMA_NAME.to_owned(), event_type.into());
    match content {
        Content::Json => {
            json.insert(SCHEMA_FORMAT.to_owned(), "Json".into());
        }
        // Stored as a property when the event was written.
        Content::Binary => {}
    }
    serde_json::to_vec(&json).expect("a JSON value with text keys can be written")
}

/// The protobuf JSON mapping of a value.
fn as_json(value: Value) -> Result<serde_json::Value, &'static str> {
    /// Above this not every integer has a double of its own.
    const INTEGERS: f64 = 9_007_199_254_740_992.0;
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(yes)) => yes.into(),
        Some(Kind::StringValue(text)) => text.into(),
        #[allow(clippy::cast_possible_truncation, reason = "it is a whole number within the bounds")]
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < INTEGERS => (number as i64).into(),
        Some(Kind::NumberValue(number)) => {
            serde_json::Number::from_f64(number).ok_or("a number that JSON does not have")?.into()
        }
        Some(Kind::ListValue(list)) => list.values.into_iter().map(as_json).collect::<Result<Vec<_>, _>>()?.into(),
        Some(Kind::StructValue(fields)) => {
            let fields = fields.fields.into_iter().map(|(key, value)| Ok((key, as_json(value)?)));
            serde_json::Value::Object(fields.collect::<Result<_, &str>>()?)
        }
    })
}

/// A client's text for use in an answer: enough of it to be recognised.
pub(crate) fn shortened(text: &str) -> &str {
    match text.char_indices().nth(64) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> StreamName {
        StreamName::new(text.to_owned()).expect("a valid name")
    }

    fn metadata(pairs: &[(&str, &str)]) -> Vec<MetadataEntry> {
        pairs.iter().map(|(key, value)| MetadataEntry::new((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn propose(id: Uuid, pairs: &[(&str, &str)], data: &'static [u8]) -> Result<(Event, usize), Failure> {
        let id = wire_uuid(id, Ids::Text);
        proposed(&name("s"), Some(&id), metadata(pairs), Bytes::from_static(b"m"), Bytes::from_static(data))
    }

    #[test]
    fn both_forms_of_an_id_name_the_same_id() {
        let id: Uuid = "00112233-4455-6677-8899-aabbccddeeff".parse().expect("valid");
        for form in [Ids::Structured, Ids::Text] {
            assert_eq!(uuid(Some(&wire_uuid(id, form)), "id"), Ok(id));
        }
        let structured = wire_uuid(id, Ids::Structured).value.expect("set");
        assert_eq!(
            structured,
            wire_uuid::Value::Structured(wire_uuid::Structured {
                most_significant_bits: 0x0011_2233_4455_6677,
                least_significant_bits: 0x8899_aabb_ccdd_eeff_u64.cast_signed(),
            })
        );
    }

    #[test]
    fn an_id_that_is_none_is_refused() {
        let text = |text: &str| WireUuid { value: Some(wire_uuid::Value::String(text.to_owned())) };
        for wire in [None, Some(WireUuid { value: None }), Some(text("")), Some(text(&"x".repeat(1 << 20)))] {
            let refused = uuid(wire.as_ref(), "id").expect_err("not an id");
            assert!(refused.message().len() < 200, "a client's megabyte is not sent back to it");
        }
        assert!(matches!(
            propose(Uuid::nil(), &[(TYPE, "T"), (CONTENT_TYPE, JSON)], b""),
            Err(Failure::Invalid { .. })
        ));
    }

    #[test]
    fn only_the_exact_content_type_makes_an_event_json() {
        let id = Uuid::from_u128(1);
        for (content_type, content) in [
            (JSON, Content::Json),
            (BINARY, Content::Binary),
            ("application/json; charset=utf-8", Content::Binary),
            ("", Content::Binary),
        ] {
            let (event, _) = propose(id, &[(TYPE, "T"), (CONTENT_TYPE, content_type)], b"x").expect("valid");
            assert_eq!(event.content(), content, "{content_type}");
        }
        for missing in [&[(TYPE, "T")][..], &[(CONTENT_TYPE, JSON)], &[]] {
            assert_eq!(propose(id, missing, b""), Err(Failure::MissingMetadata));
        }
    }

    #[test]
    fn metadata_are_texts_and_the_last_of_a_key_counts() {
        let id = Uuid::from_u128(1);
        let (event, _) =
            propose(id, &[(TYPE, "A"), (CONTENT_TYPE, JSON), ("x", "y"), (TYPE, "B")], b"").expect("valid");
        assert_eq!(event.event_type().as_str(), "B");
        for (key, value) in [(&b"type"[..], &b"\xff"[..]), (b"\xff", b"T")] {
            let mut metadata = metadata(&[(TYPE, "T"), (CONTENT_TYPE, JSON)]);
            metadata.push(MetadataEntry::new(key, value));
            let refused = proposed(&name("s"), Some(&wire_uuid(id, Ids::Text)), metadata, Bytes::new(), Bytes::new());
            assert!(matches!(refused, Err(Failure::Invalid { .. })), "{key:?}");
        }
    }

    #[test]
    fn the_type_counts_twice_its_length() {
        let (_, size) = propose(Uuid::from_u128(1), &[(TYPE, "Äü😀"), (CONTENT_TYPE, JSON)], b"123").expect("valid");
        assert_eq!(size, 3 + 1 + 2 * 4);
    }

    #[test]
    fn a_link_names_a_revision_and_a_stream() {
        assert_eq!(link_target(b"7@a@b"), Some((Revision::saturating(7), name("a@b"))));
        for nonsense in [&b"a@b"[..], b"7", b"7@", b"-1@a", b"@a", b"\xff@a", b"9223372036854775808@a", b""] {
            assert_eq!(link_target(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn streams_that_follow_from_others_cannot_be_written() {
        for text in ["$all", "$streams", "$ce-a", "$et-a", "$bc-a", "$mem-gossip", "$idx-all", "$ce-"] {
            assert!(matches!(writable(name(text)), Err(Failure::AccessDenied { .. })), "{text}");
            assert!(matches!(deletable(name(text)), Err(Failure::AccessDenied { .. })), "{text}");
        }
        for text in ["a", "$settings", "$$a", "$$$all", "$category-a"] {
            assert_eq!(writable(name(text)), Ok(name(text)));
        }
        assert!(matches!(deletable(name("$$a")), Err(Failure::AccessDenied { .. })), "a metastream cannot be deleted");
    }

    #[test]
    fn properties_of_every_type_become_json() {
        let value = |kind| Value { kind: Some(kind) };
        let nested = Struct { fields: [("b".to_owned(), value(Kind::BoolValue(true)))].into() };
        let list =
            prost_types::ListValue { values: vec![value(Kind::NumberValue(1.0)), value(Kind::NumberValue(2.5))] };
        let fields = [
            ("text".to_owned(), value(Kind::StringValue("é".into()))),
            ("null".to_owned(), value(Kind::NullValue(0))),
            ("list".to_owned(), value(Kind::ListValue(list))),
            ("struct".to_owned(), value(Kind::StructValue(nested))),
        ];
        let bytes = Bytes::from(Struct { fields: fields.into() }.encode_to_vec());
        let json: serde_json::Value =
            serde_json::from_slice(&properties_as_json(&bytes, "T", Content::Json)).expect("valid JSON");
        let expected = serde_json::json!({
            "text": "é", "null": null, "list": [1, 2.5], "struct": {"b": true}, "$schema.name": "T", "$schema.format": "Json",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn properties_that_cannot_be_rendered_say_so() {
        let infinite = Value { kind: Some(Kind::NumberValue(f64::INFINITY)) };
        let fields = Struct { fields: [("x".to_owned(), infinite)].into() };
        for bytes in [Bytes::from(fields.encode_to_vec()), Bytes::from_static(b"\xff\xff")] {
            let json: serde_json::Value =
                serde_json::from_slice(&properties_as_json(&bytes, "T", Content::Binary)).expect("valid JSON");
            assert!(json[PROPERTIES_ERROR].is_string(), "{json}");
            assert_eq!(json[SCHEMA_NAME], "T");
            assert!(json.get("x").is_none());
        }
    }

    #[test]
    fn an_expected_revision_has_63_bits() {
        assert_eq!(exactly(5), Ok(Expected::Exactly(Revision::saturating(5))));
        assert!(exactly(1 << 63).is_err());
        assert!(exactly(u64::MAX).is_err());
    }
}
