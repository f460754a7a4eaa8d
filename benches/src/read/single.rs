//! Reading one event.

use std::sync::Arc;

use anyhow::bail;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::stream::read;
use crate::load::Worker;
use crate::streams::Streams;
use crate::wire::Connection;

/// Reads events chosen at random.
pub(crate) struct Single {
    connection: Connection,
    streams: Arc<Streams>,
    /// How many each stream has, at least.
    events: u64,
    random: SmallRng,
}

impl Single {
    pub(crate) fn new(connection: Connection, streams: Arc<Streams>, events: u64) -> Self {
        Single { connection, streams, events, random: SmallRng::from_os_rng() }
    }
}

impl Worker for Single {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let stream = self.random.random_range(0..self.streams.count());
        let revision = self.random.random_range(0..self.events);
        match read(&mut self.connection, &self.streams, stream, revision, 1).await? {
            1 => Ok(1),
            found => {
                let name = String::from_utf8_lossy(self.streams.name(stream)).into_owned();
                bail!("a read of revision {revision} of {name} found {found} events")
            }
        }
    }
}
