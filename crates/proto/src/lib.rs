//! What Annals says on the wire: messages, clients and server traits, generated
//! from the files under `proto/`.
//!
//! A module path is a protobuf package:
//!
//! | Module | Contents |
//! |---|---|
//! | `event_store::client` | shared types of the first-generation API |
//! | `event_store::client::{streams, persistent_subscriptions, projections, users, operations, gossip, server_features, monitoring}` | its services |
//! | `kurrentdb::protocol::v2::streams` | second-generation appends, with their `errors` |
//! | `kurrent::rpc` | errors common to second-generation calls |
//! | `google::rpc` | the rich error model |
//! | `annals::v1` | administration of an Annals cluster |
//! | `annals::internal::v1` | what nodes say to each other, and what they store |
//!
//! All but the last two are the contract of the official KurrentDB clients. It is
//! not ours to change, and `tests/contract.rs` holds every field of it in place.
//!
//! Things to know when using the generated types:
//!
//! - `bytes` fields are [`prost::bytes::Bytes`], so a payload is passed on, not copied.
//! - `google.protobuf.Empty` becomes `()`, other well-known types come from
//!   [`prost_types`]; `event_store.client.Empty` is a message of its own.
//! - The metadata of an event in an append is a list of entries, as it is on the wire: a key
//!   may come twice, and then the last one counts.
//! - An unset oneof or message is `None`. Whether that is allowed is decided where
//!   a request is parsed, not here: this crate has no rules.

#![forbid(unsafe_code)]

use prost::bytes::Bytes;

use event_store::client::streams::append_req::proposed_message::MetadataEntry;
pub use generated::*;

/// All files of `proto/` with their imports, as a serialised
/// `google.protobuf.FileDescriptorSet` without comments. For gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

// Docs come from the comments in proto/, which explain what needs explaining
// rather than every field; shape and names come from the contract.
#[allow(missing_docs, clippy::all, rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

impl MetadataEntry {
    /// An entry of these two texts.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        MetadataEntry { key: key.into(), value: value.into() }
    }
}
