//! Looking at a stopped node's data directory. The command line reaches the
//! replication's and the store's parts through here; the server adds how an
//! event looks to a client.

use std::borrow::Cow;

pub use annals_raft::verify::{Audience, Owner, Problems, Verification, VerifyError, verify};
pub use annals_store::Record;

/// The metadata of an event as clients read them: those of an `AppendSession`
/// are kept as protobuf and read as JSON.
pub fn metadata_as_read(record: &Record) -> Cow<'_, [u8]> {
    crate::grpc::streams::convert::custom_metadata(record)
}
