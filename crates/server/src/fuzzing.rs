//! For the fuzz targets (`fuzz/`) alone: from the bytes of a request to our own
//! types, which nobody outside may name. Not an interface. Each takes any bytes
//! and answers what it made of them in words.

use bytes::Bytes;

use crate::groups::Definitions;
use crate::receive::weight::Weigher;
use crate::status::Failure;

pub use crate::grpc::fuzzing::{groups, records};
pub use crate::grpc::streams::fuzzing::{append, batch, delete, read};

/// What was made of a request.
pub(crate) fn told<T>(result: Result<T, Failure>) -> String {
    match result {
        Ok(_) => "accepted".to_owned(),
        // Every generation of clients must be told of every failure.
        Err(failure) => {
            let (v1, v2) = (failure.v1(), failure.v2(true));
            let _ = failure.entry();
            format!("{} {} {}", failure.label(), v1.code() as i32, v2.code() as i32)
        }
    }
}

/// The definitions of consumer groups: what decodes, encodes to the same.
pub fn definitions(bytes: &[u8]) -> String {
    match Definitions::decode(bytes) {
        Ok(definitions) => {
            let again = Definitions::decode(&definitions.encode()).expect("as it was encoded");
            assert_eq!(again, definitions);
            format!("{} groups", definitions.0.len().min(3))
        }
        Err(error) => error.to_string(),
    }
}

/// The weight of a message: the first byte chooses of which call, the second how
/// it is cut.
pub fn weight(bytes: &[u8]) -> String {
    const PATHS: [&str; 4] = [
        "/event_store.client.streams.Streams/BatchAppend",
        "/event_store.client.streams.Streams/Read",
        "/kurrentdb.protocol.v2.streams.StreamsService/AppendRecords",
        "/event_store.client.persistent_subscriptions.PersistentSubscriptions/Create",
    ];
    let [path, cut, message @ ..] = bytes else { return "nothing".to_owned() };
    let path = PATHS[usize::from(*path) % PATHS.len()];
    let weigh = |cut: usize| {
        let mut weigher = Weigher::new(path, message.len()).expect("a method of ours");
        let result = message.chunks(cut).try_for_each(|chunk| weigher.weigh(chunk));
        (result, weigher.weight())
    };
    let (whole, weight) = weigh(message.len().max(1));
    if whole.is_ok() {
        assert_eq!(weigh(usize::from(*cut) + 1), (whole, weight), "however it is cut");
    }
    format!("{whole:?} {}", weight.checked_ilog2().unwrap_or_default())
}

/// The time in a header of a call.
pub fn timeout(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return "no text".to_owned() };
    match crate::consistency::timeout(text) {
        Some(time) => format!("{}", time.as_secs().checked_ilog2().unwrap_or_default()),
        None => "no time".to_owned(),
    }
}

/// A request as it comes in.
pub(crate) fn message<M: prost::Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(Bytes::copy_from_slice(bytes)).ok()
}
