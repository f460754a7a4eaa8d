//! The wire of the official clients: an event on its way in, and out.
#![allow(missing_docs, reason = "the macros make public items of what they are given")]

mod fixtures;

use std::hint::black_box;

use annals_core::decide::Placed;
use annals_core::{Event, Position, Revision, Timestamp};
use annals_proto::event_store::client::streams::AppendReq;
use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::append_req::{Content, ProposedMessage};
use annals_proto::event_store::client::{Uuid, uuid as wire_uuid};
use annals_server::micro;
use annals_store::{Options, Record, Store};
use bytes::{Bytes, BytesMut};
use gungraun::{library_benchmark, library_benchmark_group, main};
use prost::Message as _;
use tempfile::TempDir;

use crate::fixtures::{event, stream};

/// Messages as they come out of the connection.
fn messages(count: u64) -> Vec<Bytes> {
    let message = |number| {
        let event = event(number);
        let message = ProposedMessage {
            id: Some(Uuid { value: Some(wire_uuid::Value::String(event.id().to_string())) }),
            metadata: vec![
                MetadataEntry::new("type", event.event_type().to_string()),
                MetadataEntry::new("content-type", "application/json"),
            ],
            custom_metadata: event.metadata().clone(),
            data: event.data().clone(),
        };
        Bytes::from(AppendReq { content: Some(Content::ProposedMessage(message)) }.encode_to_vec())
    };
    (0..count).map(message).collect()
}

#[library_benchmark]
#[bench::one_size(messages(100))]
fn receives_100_events(messages: Vec<Bytes>) -> Vec<Event> {
    let stream = stream(0);
    let receive = |message: Bytes| {
        let request = AppendReq::decode(black_box(message)).expect("valid");
        let Some(Content::ProposedMessage(message)) = request.content else { panic!("not an event") };
        micro::proposed(&stream, message).expect("valid")
    };
    messages.into_iter().map(receive).collect()
}

/// A store that is asked for nothing, and records as it would answer them.
fn page(count: u64) -> (Store, TempDir, Vec<Record>) {
    let dir = TempDir::new().expect("a directory");
    let store = Store::open(dir.path(), Options::default()).expect("a new store");
    let mut arena = BytesMut::new();
    let record = |number| {
        let placed = Placed {
            stream: stream(number % 250),
            revision: Revision::saturating(number / 250),
            position: Position::new(number + 1),
            event: event(number),
        };
        Record::encode(&placed, Timestamp::from_ticks(17_500_000_000_000_000), &mut arena)
    };
    let records = (0..count).map(record).collect();
    (store, dir, records)
}

#[library_benchmark]
#[bench::one_size(page(1_000))]
fn answers_1000_records(
    (store, dir, records): (Store, TempDir, Vec<Record>),
) -> (Bytes, (Store, TempDir, Vec<Record>)) {
    (micro::answers(&store, black_box(&records)), (store, dir, records))
}

library_benchmark_group!(name = server, benchmarks = [receives_100_events, answers_1000_records]);
main!(config = crate::fixtures::config(), library_benchmark_groups = [server]);
