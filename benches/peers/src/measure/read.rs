//! Reads of what was written before.

use annals_bench::load::Worker;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::append::name;
use crate::rows::Fill;
use crate::system::Client;

/// Picks a stream at random and reads it.
pub(super) struct StreamReader<C> {
    client: C,
    fill: Fill,
    random: SmallRng,
}

pub(super) fn stream_readers<C: Client>(clients: Vec<C>, fill: Fill) -> Vec<StreamReader<C>> {
    clients.into_iter().map(|client| StreamReader { client, fill, random: SmallRng::from_os_rng() }).collect()
}

impl<C: Client> Worker for StreamReader<C> {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let stream = name(self.random.random_range(0..self.fill.streams));
        self.client.read_stream(&stream, self.fill.stream_events()).await?;
        Ok(1)
    }
}

/// Picks an event at random and reads it, linearizably.
pub(super) struct EventReader<C> {
    client: C,
    fill: Fill,
    random: SmallRng,
}

pub(super) fn event_readers<C: Client>(clients: Vec<C>, fill: Fill) -> Vec<EventReader<C>> {
    clients.into_iter().map(|client| EventReader { client, fill, random: SmallRng::from_os_rng() }).collect()
}

impl<C: Client> Worker for EventReader<C> {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let stream = name(self.random.random_range(0..self.fill.streams));
        let revision = self.random.random_range(0..self.fill.stream_events());
        self.client.read_linearizable(&stream, revision).await?;
        Ok(1)
    }
}
