//! For the fuzz targets alone: requests of the streams' services.

use std::time::SystemTime;

use annals_core::{Append, Command, StreamName};
use annals_proto::event_store::client::streams::append_req::Content;
use annals_proto::event_store::client::streams::{AppendReq, BatchAppendReq, ReadReq, TombstoneReq};

use super::query::Query;
use super::{append, batch_append, convert, delete};
use crate::access::Eyes;
use crate::fuzzing::{message, told};

/// `Read`.
pub fn read(bytes: &[u8]) -> String {
    match message::<ReadReq>(bytes) {
        Some(request) => told(Query::parse(request, Eyes::ALL)),
        None => "no message".to_owned(),
    }
}

/// `Append`: options or an event, whichever it is. An event becomes a command, which
/// decodes as it was.
pub fn append(bytes: &[u8]) -> String {
    let Some(request) = message::<AppendReq>(bytes) else { return "no message".to_owned() };
    match request.content {
        Some(Content::Options(options)) => told(append::parse(options)),
        Some(Content::ProposedMessage(event)) => {
            let stream = StreamName::new("fuzzed-1").expect("a name");
            let id = event.id.as_ref();
            let proposed = convert::proposed(&stream, id, event.metadata, event.custom_metadata, event.data);
            if let Ok((event, _)) = &proposed {
                let append = Append::single(stream, annals_core::Expected::Any, vec![event.clone()]);
                let command = Command::Append(append);
                assert_eq!(Command::decode(command.encode()), Ok(command));
            }
            told(proposed)
        }
        None => "nothing".to_owned(),
    }
}

/// `BatchAppend`.
pub fn batch(bytes: &[u8]) -> String {
    let Some(request) = message::<BatchAppendReq>(bytes) else { return "no message".to_owned() };
    let id = told(convert::uuid(request.correlation_id.as_ref(), "correlation_id"));
    let options = request.options.map(|options| {
        let patience = batch_append::patience(options.deadline_option.as_ref(), SystemTime::now());
        assert!(patience <= super::WRITE_TIMEOUT);
        told(convert::stream(options.stream_identifier).and_then(convert::writable))
    });
    let stream = StreamName::new("fuzzed-1").expect("a name");
    let events = request.proposed_messages.into_iter().map(|event| {
        told(convert::proposed(&stream, event.id.as_ref(), event.metadata, event.custom_metadata, event.data))
    });
    format!("{id} {options:?} {:?}", events.last())
}

/// `Tombstone`, of which `Delete` is a copy.
pub fn delete(bytes: &[u8]) -> String {
    match message::<TombstoneReq>(bytes).map(|request| request.options) {
        Some(Some(options)) => told(delete::parse_tombstone(options)),
        Some(None) => "nothing".to_owned(),
        None => "no message".to_owned(),
    }
}
