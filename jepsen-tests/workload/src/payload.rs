//! Events: made from their ids, and known again by their digests.
//!
//! Type, data and metadata all follow from the id, so that an event can be
//! sent twice without keeping it, and so that bytes of one event in another
//! cannot look right by accident.
//!
//! What v2 calls properties is read back as JSON that names the schema as
//! well. The digest is taken over the properties alone; everything else of
//! that JSON is in the type.

use std::sync::Arc;

use annals_checker::history::{Digest, EventId, Proposed, Retention};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

/// The property of a v2 event.
pub(crate) const TAG: &str = "tag";

const TYPES: [&str; 4] = ["Placed", "Paid", "Shipped", "Noted"];

/// An event to be sent.
#[derive(Clone, Debug)]
pub struct Event {
    /// What the history says of it.
    pub proposed: Proposed,
    /// Its type.
    pub kind: &'static str,
    /// Its data.
    pub data: Bytes,
    /// Its metadata.
    pub metadata: Metadata,
    /// Whether its data is JSON.
    pub json: bool,
}

/// The metadata of an event, by the generation of calls that can carry it.
#[derive(Clone, Debug)]
pub enum Metadata {
    /// Bytes.
    V1(Bytes),
    /// The value of the property `tag`.
    V2(String),
}

/// Which calls an event is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// `Append` and `BatchAppend`.
    V1,
    /// `AppendSession` and `AppendRecords`.
    V2,
}

impl Event {
    /// The event with this id.
    pub fn new(id: Uuid, generation: Generation, bytes: usize) -> Event {
        let mut rng = StdRng::seed_from_u64(id.as_u128() as u64 ^ (id.as_u128() >> 64) as u64);
        let kind = TYPES[rng.random_range(0..TYPES.len())];
        let mut data = vec![0; bytes];
        rng.fill_bytes(&mut data);
        let (metadata, hashed) = match generation {
            Generation::V1 => {
                let mut metadata = [0; 16];
                rng.fill_bytes(&mut metadata);
                // Not `{`: else it might be taken for properties.
                metadata[0] = b'm';
                (Metadata::V1(Bytes::copy_from_slice(&metadata)), metadata.to_vec())
            }
            Generation::V2 => {
                let tag = format!("{:016x}", rng.random::<u64>());
                let hashed = serde_json::json!({ TAG: tag }).to_string().into_bytes();
                (Metadata::V2(tag), hashed)
            }
        };
        let digest = digest(kind, &data, &hashed);
        let proposed = Proposed { id: EventId(id.as_u128()), digest, sets: None };
        Event { proposed, kind, data: data.into(), metadata, json: false }
    }

    /// The event that sets a stream's metadata.
    pub fn sets(id: Uuid, retention: Retention) -> Event {
        let mut keys = serde_json::Map::new();
        if let Some(count) = retention.max_count {
            keys.insert("$maxCount".to_owned(), count.into());
        }
        if let Some(revision) = retention.truncate_before {
            keys.insert("$tb".to_owned(), revision.into());
        }
        let data = serde_json::Value::Object(keys).to_string().into_bytes();
        let kind = "$metadata";
        let digest = digest(kind, &data, &[]);
        let proposed = Proposed { id: EventId(id.as_u128()), digest, sets: Some(retention) };
        Event { proposed, kind, data: data.into(), metadata: Metadata::V1(Bytes::new()), json: true }
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        Uuid::from_u128(self.proposed.id.0)
    }
}

/// A fresh id.
pub(crate) fn fresh_id(rng: &mut StdRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}

/// The digest of an event as it was read: over its type, data and metadata as
/// the server gave them.
pub fn seen_digest(kind: &str, data: &[u8], metadata: &[u8]) -> Digest {
    if metadata.first() == Some(&b'{')
        && let Ok(serde_json::Value::Object(mut keys)) = serde_json::from_slice(metadata)
        && keys.remove("$schema.name").is_some()
    {
        keys.remove("$schema.format");
        return digest(kind, data, serde_json::Value::Object(keys).to_string().as_bytes());
    }
    digest(kind, data, metadata)
}

fn digest(kind: &str, data: &[u8], metadata: &[u8]) -> Digest {
    let mut whole = Vec::with_capacity(kind.len() + data.len() + metadata.len() + 16);
    for part in [kind.as_bytes(), data, metadata] {
        // With its length, so that nothing can move from one to the next.
        whole.extend_from_slice(&(part.len() as u64).to_le_bytes());
        whole.extend_from_slice(part);
    }
    Digest(xxh3_64(&whole))
}

/// The stream that holds the metadata of a stream.
pub(crate) fn metastream(stream: &str) -> Arc<str> {
    format!("$${stream}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_follows_from_its_id() {
        let id = Uuid::from_u128(7 << 70 | 5);
        for generation in [Generation::V1, Generation::V2] {
            let (once, again) = (Event::new(id, generation, 256), Event::new(id, generation, 256));
            assert_eq!(once.proposed, again.proposed);
            assert_eq!(once.data, again.data);
            assert_eq!(once.data.len(), 256);
        }
    }

    #[test]
    fn an_event_of_either_generation_is_known_again() {
        let id = Uuid::from_u128(99);
        let event = Event::new(id, Generation::V1, 10);
        let Metadata::V1(metadata) = &event.metadata else { panic!("of the first generation") };
        assert_eq!(seen_digest(event.kind, &event.data, metadata), event.proposed.digest);

        let event = Event::new(id, Generation::V2, 10);
        let Metadata::V2(tag) = &event.metadata else { panic!("of the second generation") };
        let read = format!(r#"{{"{TAG}":"{tag}","$schema.name":"{}","$schema.format":"Bytes"}}"#, event.kind);
        assert_eq!(seen_digest(event.kind, &event.data, read.as_bytes()), event.proposed.digest);
        let other = format!(r#"{{"{TAG}":"x","$schema.name":"{}","$schema.format":"Bytes"}}"#, event.kind);
        assert_ne!(seen_digest(event.kind, &event.data, other.as_bytes()), event.proposed.digest);
    }

    #[test]
    fn a_digest_tells_where_one_part_ends() {
        assert_ne!(digest("a", b"bc", b""), digest("a", b"b", b"c"));
        assert_ne!(digest("ab", b"c", b""), digest("a", b"bc", b""));
    }
}
