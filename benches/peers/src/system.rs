//! What a system must be able to do to be measured.
//!
//! A [`System`] is a running cluster. Its [`Client`]s say the same few things to
//! every system, and check every answer; what is sent and when is decided in
//! `measure`, once for all.

pub(crate) mod annals;
pub(crate) mod etcd;
mod grpc;
pub(crate) mod nats;
pub(crate) mod postgres;
pub(crate) mod umadb;

use std::future::Future;
use std::path::PathBuf;

use anyhow::bail;
use bytes::Bytes;
use futures::stream::BoxStream;
use uuid::Uuid;

use crate::place::Place;
use crate::process::Process;

/// The type of every event, where a system has such a thing.
pub(crate) const EVENT_TYPE: &str = "Measured";

/// How many clients share one connection, where a protocol can share: the
/// figures are those of an application and not of one connection.
pub(crate) const CLIENTS_PER_CONNECTION: usize = 16;

/// The programs of all systems.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) annals: PathBuf,
    pub(crate) etcd: PathBuf,
    pub(crate) nats: PathBuf,
    /// The directory with `initdb`, `postgres` and `pg_basebackup`.
    pub(crate) postgres: PathBuf,
    pub(crate) umadb: PathBuf,
}

/// One event on its way in.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: Uuid,
    pub(crate) data: Bytes,
}

/// A stream as its only writer knows it: what the next append expects.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    /// Events in it; the last one's revision is one less.
    pub(crate) events: u64,
    /// What the system itself calls the last append: NATS's sequence, UmaDB's
    /// position, etcd's revision. Zero while there is none.
    pub(crate) last: u64,
}

impl Head {
    /// The head after an append of `events` that the system calls `last`.
    ///
    /// # Errors
    /// When `last` does not come after what was there.
    pub(crate) fn advance(&mut self, events: usize, last: u64) -> anyhow::Result<()> {
        if last <= self.last {
            bail!("{last} was answered after {}", self.last);
        }
        *self = Self { events: self.events + events as u64, last };
        Ok(())
    }
}

/// A cluster that runs. Dropping it ends it and removes its data.
pub(crate) trait System: Sized {
    type Client: Client;

    /// Starts a fresh cluster and waits until it takes appends.
    async fn start(programs: &Programs, place: &Place, nodes: usize) -> anyhow::Result<Self>;

    fn processes(&mut self) -> &mut [Process];

    /// The number of the node that leads, as it says itself.
    async fn leader(&mut self) -> anyhow::Result<usize>;

    /// Clients of one node.
    async fn clients(&mut self, node: usize, count: usize) -> anyhow::Result<Vec<Self::Client>>;
}

/// One client with one request under way. Every answer is checked, and a wrong
/// one is an error.
pub(crate) trait Client: Send + 'static {
    /// Appends to `stream`, which must be exactly at `head`; durable, by the
    /// system's own word, when this returns.
    fn append(
        &mut self,
        stream: &str,
        head: &mut Head,
        events: &[Event],
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Reads one stream that holds this many events.
    fn read_stream(&mut self, stream: &str, events: u64) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Reads this many events, from the first one of all.
    fn read_all(&mut self, events: u64) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Reads one event so that everything acknowledged before is seen.
    fn read_linearizable(&mut self, _stream: &str, _revision: u64) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { bail!("no linearizable read of this system is modelled") }
    }

    /// The data of every event from now on, as it becomes visible.
    fn subscribe(self) -> impl Future<Output = anyhow::Result<BoxStream<'static, anyhow::Result<Bytes>>>> + Send
    where
        Self: Sized,
    {
        async { bail!("no subscription to this system is modelled") }
    }
}
