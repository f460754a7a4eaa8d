//! What the cluster knows of its backups.
//!
//! Backups are made from outside ([`crate::grpc::backup`]); whoever makes one says so
//! when it is complete. That becomes an event of `$backups`, and so every node can tell
//! when the last one was, also after a restart.

use std::time::Instant;

use annals_core::{
    Append, Command, Content, Event, EventId, EventType, Expected, Outcome, Properties, Revision, StreamName, Timestamp,
};
use annals_raft::Route;
use annals_store::{Direction, PageLimit, Store};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::context::Context;
use crate::grpc::streams::unexpected;
use crate::status::Failure;

/// Where complete backups are told.
const STREAM: &str = "$backups";
const COMPLETED: &str = "$backup-completed";

/// How far back the last backup of each kind is looked for.
const LOOK_BACK: PageLimit = PageLimit { records: 1_000, bytes: 1024 * 1024 };

/// The kinds of backups.
pub(crate) const KINDS: [&str; 2] = ["full", "incremental"];

/// A complete backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Completed {
    /// One of [`KINDS`].
    pub(crate) kind: String,
    /// Its id.
    pub(crate) backup: String,
    /// The last position in it.
    pub(crate) through: u64,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// Ticks.
    pub(crate) began: u64,
    /// Ticks.
    pub(crate) ended: u64,
}

impl Completed {
    /// When it ended, in Unix seconds.
    pub(crate) fn ended_seconds(&self) -> f64 {
        self.ended as f64 / Timestamp::TICKS_PER_SECOND as f64
    }
}

fn stream() -> StreamName {
    StreamName::new(STREAM).expect("our own names are valid")
}

/// Tells of a backup, for ever. Answers the position of the event.
///
/// # Errors
/// What keeps an append from being carried out.
pub(crate) async fn report(context: &Context, completed: &Completed) -> Result<u64, Failure> {
    let data = serde_json::to_vec(completed).map_err(|error| Failure::broken("writing of a backup", &error))?;
    let event = Event::new(
        EventId::new(Uuid::new_v4()).expect("a random id is not nil"),
        EventType::new(COMPLETED).expect("our own types are valid"),
        Content::Json,
        Properties::Opaque,
        Bytes::new(),
        data.into(),
    );
    let command = Command::Append(Append::single(stream(), Expected::Any, vec![event]));
    let deadline = Instant::now() + context.config.request_timeout();
    match context.node.append(command, Route::Forward, deadline).await? {
        Outcome::Appended(appended) => Ok(appended.position.get()),
        outcome @ (Outcome::Refused(_)
        | Outcome::Node(_)
        | Outcome::Denied(_)
        | Outcome::Scavenge(_)
        | Outcome::Lease(_)) => Err(unexpected(&outcome)),
    }
}

/// The newest complete backups, newest first; none where nothing has changed since
/// `seen`. Reads the store: to be called where blocking is allowed.
pub(crate) fn newest(store: &Store, seen: &mut Option<Revision>) -> Option<Vec<Completed>> {
    let stream = stream();
    let last = store.head(&stream).ok()?.last?;
    if *seen == Some(last) {
        return None;
    }
    let view = store.view(&stream, Timestamp::default()).ok()?;
    let page = store.read_stream(&view, last, Direction::Backward, LOOK_BACK).ok()?;
    *seen = Some(last);
    let data = page.records.iter().filter(|record| !record.is_reclaimed()).map(|record| record.data());
    Some(data.filter_map(|data| serde_json::from_slice(&data).ok()).collect())
}
