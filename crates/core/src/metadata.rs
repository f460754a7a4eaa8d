//! A stream's metadata.
//!
//! The newest event of a stream's metastream is its metadata, whole: nothing
//! is merged. JSON that cannot be read, and numbers below 1, count as absent
//! (protocol 5.1).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use memchr::memmem::Finder;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::Revision;
use crate::access::Acl;

/// The keys of the metadata that Annals itself acts on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Whether any metadata event was ever written.
    pub present: bool,
    /// `$maxCount`: the last n events are visible.
    pub max_count: Option<u64>,
    /// `$maxAge`, seconds: older events are hidden when reading.
    pub max_age_seconds: Option<u64>,
    /// `$tb`: revisions below are hidden. [`Revision::TOMBSTONE`] hides all,
    /// which is what a soft delete is.
    pub truncate_before: Option<Revision>,
    /// `$acl`: who may do what. Unlike the numbers, one that cannot be read does not
    /// count as absent: it lets nobody but administrators in.
    pub acl: Option<Arc<Acl>>,
}

impl Metadata {
    /// The metadata that a soft delete writes, byte for byte (protocol 2.7).
    pub const SOFT_DELETE: &[u8] = br#"{"$tb":9223372036854775807}"#;

    /// The metadata in this JSON.
    pub fn parse(json: &[u8]) -> Self {
        let mut metadata = Metadata { present: true, ..Metadata::default() };
        let Ok(Object(fields)) = serde_json::from_slice::<Object>(json) else {
            return metadata;
        };
        for (key, value) in &fields {
            let number = || value.get().parse::<i64>().ok().and_then(|n| u64::try_from(n).ok()).filter(|n| *n >= 1);
            match key.as_str() {
                "$maxCount" => metadata.max_count = number(),
                "$maxAge" => metadata.max_age_seconds = number(),
                "$tb" => metadata.truncate_before = number().and_then(Revision::new),
                "$acl" => metadata.acl = Some(Arc::new(Acl::parse(value.get()))),
                // Anything else is the application's.
                _ => {}
            }
        }
        metadata
    }

    /// Whether the stream is soft-deleted by this metadata.
    pub fn hides_everything(&self) -> bool {
        self.truncate_before == Some(Revision::TOMBSTONE)
    }
}

/// The same metadata JSON with `$tb` set to `before` and every other key kept
/// byte for byte in its order: what undeletes a stream (protocol 5.3). JSON
/// that cannot be read counts as `{}`.
pub fn with_truncate_before(json: &[u8], before: Revision) -> Bytes {
    let Object(fields) = serde_json::from_slice(json).unwrap_or_default();
    let mut out = String::from("{");
    let mut written = false;
    for (key, value) in &fields {
        let quoted = serde_json::to_string(key).expect("a string is always JSON");
        let separator = if out.len() > 1 { "," } else { "" };
        if key == "$tb" {
            if !written {
                out.push_str(&format!("{separator}{quoted}:{before}"));
                written = true;
            }
        } else {
            out.push_str(&format!("{separator}{quoted}:{}", value.get()));
        }
    }
    if !written {
        let separator = if out.len() > 1 { "," } else { "" };
        out.push_str(&format!("{separator}\"$tb\":{before}"));
    }
    out.push('}');
    Bytes::from(out)
}

/// The value of `$correlationId` in an event's JSON metadata, if it is a
/// non-empty string: the key of the `$bc-` index.
pub fn correlation_id(json: &[u8]) -> Option<String> {
    // Most metadata does not have the key; looking for its bytes is cheaper
    // than parsing.
    static KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("$correlationId"));
    KEY.find(json)?;
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(json).ok()?;
    let id: String = serde_json::from_str(fields.get("$correlationId")?.get()).ok()?;
    (!id.is_empty()).then_some(id)
}

/// A JSON object with its keys in their order and its values untouched.
#[derive(Default)]
struct Object(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_delete_metadata_hides_everything() {
        assert!(Metadata::parse(Metadata::SOFT_DELETE).hides_everything());
    }

    #[test]
    fn what_cannot_be_read_counts_as_absent() {
        let absent = Metadata { present: true, ..Metadata::default() };
        for json in
            ["", "no", "[]", "{", r#"{"$maxCount":0}"#, r#"{"$tb":-1}"#, r#"{"$maxAge":"10"}"#, "{\"$maxCount\":1.5}"]
        {
            assert_eq!(Metadata::parse(json.as_bytes()), absent, "{json}");
        }
    }

    #[test]
    fn undeleting_keeps_every_other_key_as_it_was() {
        let json = br#"{"$maxCount": 3, "$tb":9223372036854775807,"x": {"y":1.50}}"#;
        assert_eq!(
            with_truncate_before(json, Revision::saturating(7)),
            r#"{"$maxCount":3,"$tb":7,"x":{"y":1.50}}"#.as_bytes()
        );
        assert_eq!(with_truncate_before(b"junk", Revision::saturating(7)), r#"{"$tb":7}"#.as_bytes());
        assert_eq!(with_truncate_before(b"{\"a\":1}", Revision::saturating(7)), r#"{"a":1,"$tb":7}"#.as_bytes());
    }

    #[test]
    fn a_correlation_id_is_a_string_at_the_top() {
        assert_eq!(correlation_id(br#"{"$correlationId":"a-1"}"#), Some("a-1".into()));
        assert_eq!(correlation_id(br#"{"x":{"$correlationId":"a"}}"#), None);
        assert_eq!(correlation_id(br#"{"$correlationId":7}"#), None);
        assert_eq!(correlation_id(br#"$correlationId"#), None);
    }
}
