//! For the fuzz targets (`fuzz/`) alone: decoders that nobody outside may name.
//! Not an interface. Each takes any bytes, asserts what must hold of them, and
//! answers what it made of them in words.

use annals_core::decide::Placed;
use annals_core::{Content, Event, EventId, EventType, Position, Properties, Revision, StreamName, Timestamp};
use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::heads::{IndexHead, StreamHead};
use crate::keys::{Column, Key};
use crate::record::{self, Header, Record};
use crate::runs::Run;
use crate::standing::{Standing, Totals};

/// A key of any column: what decodes, encodes to the same bytes.
pub fn key(bytes: &[u8]) -> String {
    let Some((column, bytes)) = bytes.split_first() else { return "nothing".to_owned() };
    let column = Column::ALL[usize::from(*column) % Column::ALL.len()];
    match Key::decode(column, bytes) {
        Some(key) => {
            assert_eq!(key.encode(), bytes, "{key:?}");
            assert_eq!(key.column().name(), column.name());
            format!("{} {}", column.name(), bytes.len().min(20))
        }
        None => format!("no key of {}", column.name()),
    }
}

/// A record as it was written, also one whose checksums are right by design.
pub fn record(bytes: &[u8]) -> String {
    let as_it_came = look_at_record(bytes);
    let mended = record::mended(bytes);
    format!("{as_it_came}, mended {}", look_at_record(&mended))
}

fn look_at_record(bytes: &[u8]) -> String {
    let header = Header::read(bytes).map(|header| (header.position, header.stream.len()));
    let own = Record::from_slice(bytes).is_ok();
    match Record::from_bytes(Bytes::copy_from_slice(bytes)) {
        Ok(record) => {
            assert!(own, "who believes a peer believes its own disk");
            assert!(header.is_ok(), "its header is read without the rest");
            assert_eq!(record.encoded().as_ref(), bytes);
            assert_eq!(record.stream_name().as_str(), record.stream());
            let parts = record.event_type_slice().len() + record.metadata_slice().len() + record.data_slice().len();
            assert!(parts + record.stream_slice().len() < bytes.len());
            let _ = (record.id(), record.revision(), record.created(), record.content(), record.properties());
            "a record".to_owned()
        }
        Err(corruption) => format!("{corruption}, header {}", header.is_ok()),
    }
}

/// The small values: runs, heads, what the state comes to.
pub fn value(bytes: &[u8]) -> String {
    let Some((kind, bytes)) = bytes.split_first() else { return "nothing".to_owned() };
    let mut again = Vec::new();
    let told = match kind % 4 {
        0 => Run::decode(u64::MAX / 2, bytes).map(|run| {
            again.extend(run.encode());
            let _ = run.position_of(run.first());
            format!("a run of {}", run.count.min(3))
        }),
        1 => StreamHead::decode(bytes).map(|head| {
            head.encode(&mut again);
            "a stream's head".to_owned()
        }),
        2 => IndexHead::decode(bytes).map(|head| {
            head.encode(&mut again);
            "an index's head".to_owned()
        }),
        _ => Standing::decode(bytes).map(|_| {
            again.extend_from_slice(bytes);
            format!("a standing, residue {}", Totals::from_residue(bytes).is_some())
        }),
    };
    match told {
        Ok(told) => {
            assert_eq!(again, bytes, "{told}");
            told
        }
        Err(corruption) => format!("{}: {corruption}", kind % 4),
    }
}

/// Bytes that decode, for a corpus.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let mut samples = Vec::new();
    let keys = [
        (0, Key::Format),
        (1, Key::Record(Position::new(7))),
        (2, Key::Head(crate::keys::Kind::Stream, "orders-1".into())),
        (4, Key::Chain(Position::new(1_000))),
    ];
    for (column, key) in keys {
        samples.push(("key", [vec![column], key.encode()].concat()));
    }
    let run = Run { last: 9, last_position: Position::new(100), count: 10 };
    samples.push(("value", [vec![0], run.encode().to_vec()].concat()));
    let placed = Placed {
        stream: StreamName::new("orders-1").expect("a name"),
        revision: Revision::FIRST,
        position: Position::new(7),
        event: Event::new(
            EventId::new(Uuid::from_u128(7)).expect("not nil"),
            EventType::new("OrderPlaced").expect("a type"),
            Content::Json,
            Properties::Opaque,
            Bytes::from_static(b"{}"),
            Bytes::from_static(b"{\"total\":42}"),
        ),
    };
    let record = Record::encode(&placed, Timestamp::from_ticks(99), &mut BytesMut::new());
    samples.push(("record", record.encoded().to_vec()));
    samples
}
