//! Events to append, as cheap as they get.
//!
//! An event's bytes on the wire differ from the last one's only in its id and
//! its data. So everything else is encoded once, into a [`Template`], and each
//! event is that, a fresh random id, and a piece of a pool of random bytes that
//! begins somewhere else every time: data that compresses no better than real
//! data would flatter no storage engine.
//!
//! A *stamp* at the beginning of the data says when the event was sent and which
//! one of its stream it is. Only loads with subscriptions use it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::{AppendReq, BatchAppendReq, append_req, batch_append_req};
use annals_proto::event_store::client::{Uuid as WireUuid, uuid as wire_uuid};
use bytes::{BufMut, Bytes};
use prost::Message as _;
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use uuid::Uuid;

/// Beyond the window in which compression finds repetitions.
const POOL_BYTES: usize = 1 << 20;

/// Characters of an id on the wire.
const ID_BYTES: usize = uuid::fmt::Hyphenated::LENGTH;

const EVENT_TYPE: &str = "Measured";
const CONTENT_TYPE: &str = "application/octet-stream";

/// What all events of a run have in common.
pub(crate) struct Template {
    /// Encoded up to where the data begins, with a hole for the id.
    head: Bytes,
    id_at: usize,
    pool: Bytes,
    data_bytes: usize,
}

impl Template {
    /// Events of unary appends: a message each.
    pub(crate) fn unary(data_bytes: usize) -> Arc<Self> {
        let message = append_req::ProposedMessage {
            id: Some(hole()),
            metadata: metadata(),
            custom_metadata: Bytes::new(),
            data: vec![0; data_bytes].into(),
        };
        let message = AppendReq { content: Some(append_req::Content::ProposedMessage(message)) };
        Self::cut(message.encode_to_vec(), data_bytes)
    }

    /// Events of batch appends: a field each, to be put behind the others.
    pub(crate) fn batch(data_bytes: usize) -> Arc<Self> {
        let message = batch_append_req::ProposedMessage {
            id: Some(hole()),
            metadata: metadata(),
            custom_metadata: Bytes::new(),
            data: vec![0; data_bytes].into(),
        };
        let message = BatchAppendReq { proposed_messages: vec![message], ..BatchAppendReq::default() };
        Self::cut(message.encode_to_vec(), data_bytes)
    }

    fn cut(mut encoded: Vec<u8>, data_bytes: usize) -> Arc<Self> {
        // Fields are written in the order of their numbers: the id before
        // anything that could look like it, the data last.
        let nil = Uuid::nil().to_string();
        let id_at = encoded.windows(ID_BYTES).position(|window| window == nil.as_bytes());
        encoded.truncate(encoded.len() - data_bytes);
        let mut pool = vec![0; POOL_BYTES + data_bytes];
        rand::rng().fill_bytes(&mut pool);
        Arc::new(Template {
            head: encoded.into(),
            id_at: id_at.expect("the id was just encoded"),
            pool: pool.into(),
            data_bytes,
        })
    }
}

fn hole() -> WireUuid {
    WireUuid { value: Some(wire_uuid::Value::String(Uuid::nil().to_string())) }
}

fn metadata() -> Vec<MetadataEntry> {
    vec![MetadataEntry::new("type", EVENT_TYPE), MetadataEntry::new("content-type", CONTENT_TYPE)]
}

/// One event.
pub(crate) struct Event {
    template: Arc<Template>,
    id: Uuid,
    data_at: usize,
    stamp: Option<Stamp>,
}

impl Event {
    /// Writes the event as it travels.
    pub(crate) fn encode(&self, buffer: &mut impl BufMut) {
        let Template { head, id_at, pool, data_bytes } = &*self.template;
        let mut id = [0; ID_BYTES];
        self.id.hyphenated().encode_lower(&mut id);
        buffer.put_slice(&head[..*id_at]);
        buffer.put_slice(&id);
        buffer.put_slice(&head[id_at + ID_BYTES..]);
        let mut data = &pool[self.data_at..self.data_at + data_bytes];
        if let Some(stamp) = self.stamp {
            buffer.put_u64(stamp.sent_nanos);
            buffer.put_u64(stamp.sequence);
            data = &data[Stamp::BYTES..];
        }
        buffer.put_slice(data);
    }
}

/// The events of one append, made as they are sent.
pub(crate) struct Events {
    template: Arc<Template>,
    random: SmallRng,
    left: u64,
    stamp: Option<Stamp>,
}

impl Events {
    /// So many events. The first has this stamp, the others follow it.
    pub(crate) fn new(template: Arc<Template>, random: &mut SmallRng, count: u64, stamp: Option<Stamp>) -> Self {
        Events { template, random: SmallRng::from_rng(random), left: count, stamp }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.left = self.left.checked_sub(1)?;
        let stamp = self.stamp;
        if let Some(stamp) = &mut self.stamp {
            stamp.sequence += 1;
        }
        Some(Event {
            template: self.template.clone(),
            id: uuid::Builder::from_random_bytes(self.random.random()).into_uuid(),
            data_at: self.random.random_range(0..POOL_BYTES),
            stamp,
        })
    }
}

/// What an event says of itself at the beginning of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Since the origin of the run's clock.
    pub(crate) sent_nanos: u64,
    /// Which event of its stream it is, from 0.
    pub(crate) sequence: u64,
}

impl Stamp {
    /// The least size of data that can have one.
    pub(crate) const BYTES: usize = 16;

    /// The stamp of this data; none where it has none.
    pub(crate) fn read(data: &[u8]) -> Option<Stamp> {
        let (sent, rest) = data.split_first_chunk()?;
        let (sequence, _) = rest.split_first_chunk()?;
        Some(Stamp { sent_nanos: u64::from_be_bytes(*sent), sequence: u64::from_be_bytes(*sequence) })
    }
}

/// The clock of a run with stamps. Sender and receiver are one process, so it
/// is the monotonic one: no step of the wall clock shows as latency.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline(Instant);

impl Timeline {
    pub(crate) fn begin() -> Self {
        Timeline(Instant::now())
    }

    /// Since the origin.
    pub(crate) fn nanos(self) -> u64 {
        nanos(self.0.elapsed())
    }
}

/// As a number; it would take 584 years to be wrong.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn events(template: Arc<Template>, count: u64, stamp: Option<Stamp>) -> Vec<Vec<u8>> {
        let mut random = SmallRng::seed_from_u64(1);
        let events = Events::new(template, &mut random, count, stamp);
        let encoded = events.map(|event| {
            let mut buffer = Vec::new();
            event.encode(&mut buffer);
            buffer
        });
        encoded.collect()
    }

    #[test]
    fn a_template_makes_what_the_contract_says() {
        for bytes in [0, 1, 256, 100_000] {
            let mut ids = HashSet::new();
            for encoded in events(Template::unary(bytes), 3, None) {
                let message = AppendReq::decode(encoded.as_slice()).expect("as in the contract");
                let Some(append_req::Content::ProposedMessage(event)) = message.content else { panic!("an event") };
                assert_eq!((event.data.len(), event.metadata), (bytes, metadata()));
                let Some(wire_uuid::Value::String(id)) = event.id.and_then(|id| id.value) else { panic!("an id") };
                let id = Uuid::parse_str(&id).expect("a UUID");
                assert_eq!(id.get_version_num(), 4);
                ids.insert(id);
            }
            assert_eq!(ids.len(), 3, "each event has its own id");
        }
    }

    #[test]
    fn events_of_a_batch_are_put_one_behind_the_other() {
        let encoded = events(Template::batch(64), 5, None).concat();
        let message = BatchAppendReq::decode(encoded.as_slice()).expect("as in the contract");
        assert_eq!(message.proposed_messages.len(), 5);
        let ids: HashSet<_> = message.proposed_messages.iter().map(|event| format!("{:?}", event.id)).collect();
        assert_eq!(ids.len(), 5);
        assert!(message.proposed_messages.iter().all(|event| event.data.len() == 64 && event.metadata == metadata()));
    }

    #[test]
    fn stamps_count_up_and_are_read_back() {
        let first = Stamp { sent_nanos: 123, sequence: 7 };
        let encoded = events(Template::unary(20), 2, Some(first));
        let stamps = encoded.iter().map(|encoded| {
            let message = AppendReq::decode(encoded.as_slice()).expect("as in the contract");
            let Some(append_req::Content::ProposedMessage(event)) = message.content else { panic!("an event") };
            assert_eq!(event.data.len(), 20);
            Stamp::read(&event.data).expect("a stamp")
        });
        assert_eq!(stamps.collect::<Vec<_>>(), [first, Stamp { sequence: 8, ..first }]);
        assert_eq!(Stamp::read(&[0; 15]), None);
    }
}
