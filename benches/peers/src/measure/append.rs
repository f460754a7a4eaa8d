//! Appends with exact expectations, each stream written by one client.

use annals_bench::load::Worker;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use uuid::Uuid;

use super::EVENT_BYTES;
use crate::rows::Fill;
use crate::system::{Client, Event, Head};

/// A client that appends to its own streams in turn.
pub(super) struct Appender<C> {
    client: C,
    streams: Vec<(String, Head)>,
    turn: usize,
    events: Events,
    /// Of one append.
    count: usize,
}

/// One appender for each client; the streams are shared out among them.
pub(super) fn appenders<C: Client>(clients: Vec<C>, streams: usize, events: usize) -> Vec<Appender<C>> {
    let count = clients.len();
    let appender = |(number, client)| Appender {
        client,
        streams: (number..streams.max(count)).step_by(count).map(|stream| (name(stream), Head::default())).collect(),
        turn: 0,
        events: Events::new(),
        count: events,
    };
    clients.into_iter().enumerate().map(appender).collect()
}

impl<C: Client> Appender<C> {
    /// Appends these events to the stream whose turn it is.
    pub(super) async fn append(&mut self, events: &[Event]) -> anyhow::Result<()> {
        let slot = self.turn % self.streams.len();
        self.turn += 1;
        let (name, head) = &mut self.streams[slot];
        self.client.append(name, head, events).await
    }

    pub(super) fn next_event(&mut self) -> Event {
        self.events.next()
    }
}

impl<C: Client> Worker for Appender<C> {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let events: Vec<Event> = (0..self.count).map(|_| self.events.next()).collect();
        self.append(&events).await?;
        Ok(events.len() as u64)
    }
}

/// Writes what a read needs to find.
pub(super) async fn fill<C: Client>(clients: Vec<C>, fill: Fill) -> anyhow::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for mut appender in appenders(clients, fill.streams, fill.events) {
        tasks.spawn(async move {
            for _ in 0..fill.appends * appender.streams.len() {
                appender.request().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// What the stream of this number is called, in every system.
pub(super) fn name(stream: usize) -> String {
    format!("stream-{stream}")
}

/// New events. Their data is random, each time anew: what a system compresses
/// would otherwise depend on how often it sees the same bytes.
pub(super) struct Events {
    random: SmallRng,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { random: SmallRng::from_os_rng() }
    }

    pub(super) fn next(&mut self) -> Event {
        let mut data = vec![0; EVENT_BYTES];
        self.random.fill_bytes(&mut data);
        Event { id: Uuid::now_v7(), data: Bytes::from(data) }
    }
}
