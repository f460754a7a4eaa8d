//! For the micro-benchmarks (`benches/micro`) alone: what every event goes
//! through on its way in and out, which nobody outside may name. Not an
//! interface.

use annals_core::{Event, StreamName};
use annals_proto::event_store::client::streams::append_req::ProposedMessage;
use annals_proto::event_store::client::streams::{ReadResp, append_req};
use annals_store::{Record, Store};
use prost::Message as _;

use super::convert::{self, Ids};
use super::page::Page;
use super::query::Style;

/// An event as a client sends it.
pub fn proposed(stream: &StreamName, message: ProposedMessage) -> Option<Event> {
    let append_req::ProposedMessage { id, metadata, custom_metadata, data } = message;
    convert::proposed(stream, id.as_ref(), metadata, custom_metadata, data).ok().map(|(event, _)| event)
}

/// The answers that carry these records, one page.
pub fn answers(store: &Store, records: &[Record]) -> Vec<ReadResp> {
    let mut page = Page::new(store, Style { resolve_links: false, ids: Ids::Text }, None);
    for record in records {
        page.event(record).expect("nothing is looked up");
    }
    page.answers
}

/// The bytes of such answers, as the connection gets them.
pub fn encoded(answers: &[ReadResp], out: &mut Vec<u8>) {
    for answer in answers {
        answer.encode(out).expect("a vector takes every byte");
    }
}
