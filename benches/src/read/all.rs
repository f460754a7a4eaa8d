//! Catching up: each reader reads the log from its start, as one read.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{Arguments, connect, request};
use crate::sequence::Sequence;
use crate::target::Target;
use crate::watch::Watch;
use crate::wire::Connection;

/// Events from one look around to the next.
const LOOK_EVERY: u64 = 1_000;

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) events: u64,
    pub(crate) data_bytes: u64,
    pub(crate) elapsed: Duration,
}

/// Lets all readers read.
///
/// # Errors
/// Positions are not in order, or a read broke.
pub(crate) async fn read(target: &Target, arguments: &Arguments, watch: &Watch) -> anyhow::Result<Found> {
    let connections = connect(target, arguments).await?;
    let begin = Instant::now();
    let mut readers = tokio::task::JoinSet::new();
    for client in 0..arguments.clients as usize {
        let events = arguments.events.unwrap_or(u64::MAX);
        readers.spawn(one(connections.of(client), events, Sequence::anywhere(arguments.positions), watch.clone()));
    }
    let mut found = Found::default();
    while let Some(one) = readers.join_next().await {
        let one = one.context("a reader panicked")??;
        found.events += one.events;
        found.data_bytes += one.data_bytes;
    }
    found.elapsed = begin.elapsed();
    Ok(found)
}

async fn one(mut connection: Connection, events: u64, mut positions: Sequence, watch: Watch) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut answers = connection.read(request::all(events)).await?;
    while let Some(answer) = answers.message().await.map_err(annals_client::Error::from)? {
        let Some(event) = answer.event else { continue };
        let event = event.event.context("an event of the log is not there")?;
        positions.take(event.position).context("positions of the log")?;
        found.events += 1;
        found.data_bytes += event.data.len() as u64;
        if found.events.is_multiple_of(LOOK_EVERY) {
            watch.count(LOOK_EVERY);
            if watch.stop.is_cancelled() {
                break;
            }
        }
    }
    watch.count(found.events % LOOK_EVERY);
    Ok(found)
}
