//! For the micro-benchmarks (`benches/micro`) alone: what every event goes
//! through on its way in and out, which nobody outside may name. Not an
//! interface.

use annals_core::{Event, StreamName};
use annals_proto::event_store::client::streams::append_req;
use annals_proto::event_store::client::streams::append_req::ProposedMessage;
use annals_store::{Record, Store};
use bytes::Bytes;

use super::convert::{self, Ids};
use super::page::Page;
use super::query::Style;
use crate::access::Eyes;

/// An event as a client sends it.
pub fn proposed(stream: &StreamName, message: ProposedMessage) -> Option<Event> {
    let append_req::ProposedMessage { id, metadata, custom_metadata, data } = message;
    convert::proposed(stream, id.as_ref(), metadata, custom_metadata, data).ok().map(|(event, _)| event)
}

/// The bytes of the answers that carry these records, one page, as the
/// connection gets them.
pub fn answers(store: &Store, records: &[Record]) -> Bytes {
    let mut page = Page::new(store, Style { resolve_links: false, ids: Ids::Text, eyes: Eyes::ALL }, None);
    page.expect(records);
    for record in records {
        page.event(record).expect("nothing is looked up");
    }
    page.frames.into_bytes()
}
