//! Reads beside the writers.

use std::sync::Arc;

use anyhow::bail;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::load::Worker;
use crate::read::stream;
use crate::streams::Streams;
use crate::target::Consistency;
use crate::wire::Connection;

/// Reads the newest events of streams chosen at random.
pub(super) struct Reader {
    connection: Connection,
    streams: Arc<Streams>,
    events: u64,
    consistency: Consistency,
    random: SmallRng,
}

impl Reader {
    pub(super) fn new(connection: Connection, streams: Arc<Streams>, events: u64, consistency: Consistency) -> Self {
        Reader { connection, streams, events, consistency, random: SmallRng::from_os_rng() }
    }
}

impl Worker for Reader {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let stream = self.random.random_range(0..self.streams.count());
        // Looked at before the read is sent: all of this must be seen.
        let acknowledged = self.streams.acknowledged(stream);
        let from = acknowledged.saturating_sub(self.events);
        let found = stream::read(&mut self.connection, &self.streams, stream, from, u64::MAX).await?;
        if self.consistency.sees_all() && from + found < acknowledged {
            bail!(
                "a read of {} ended before revision {}, but {acknowledged} events were acknowledged before it",
                String::from_utf8_lossy(self.streams.name(stream)),
                from + found
            );
        }
        Ok(found)
    }
}
