//! Reading parts of streams and whole ones.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::request;
use crate::load::Worker;
use crate::sequence::Sequence;
use crate::streams::Streams;
use crate::wire::Connection;

/// Reads at most so many events of a stream from this revision on; answers how
/// many there were.
///
/// # Errors
/// Revisions are missing or come twice, or the read broke.
pub(crate) async fn read(
    connection: &mut Connection,
    streams: &Streams,
    stream: usize,
    from: u64,
    count: u64,
) -> anyhow::Result<u64> {
    let name = streams.name(stream);
    let describe = || format!("a read of {}", String::from_utf8_lossy(name));
    let mut revisions = Sequence::dense_from(from);
    let mut answers = connection.read(request::stream(name, from, count)).await.with_context(describe)?;
    while let Some(answer) = answers.message().await.map_err(annals_client::Error::from).with_context(describe)? {
        if answer.stream_not_found.is_some() {
            bail!("{}: there is no such stream", describe());
        }
        let Some(event) = answer.event else { continue };
        let event = event.event.with_context(describe)?;
        if event.stream() != name.as_ref() {
            bail!("{}: an event of {} came", describe(), String::from_utf8_lossy(event.stream()));
        }
        revisions.take(event.revision).with_context(describe)?;
    }
    Ok(revisions.next() - from)
}

/// Reads whole streams, chosen at random.
pub(crate) struct Whole {
    connection: Connection,
    streams: Arc<Streams>,
    /// How many each has, where that is known.
    events: Option<u64>,
    random: SmallRng,
}

impl Whole {
    pub(crate) fn new(connection: Connection, streams: Arc<Streams>, events: Option<u64>) -> Self {
        Whole { connection, streams, events, random: SmallRng::from_os_rng() }
    }
}

impl Worker for Whole {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let stream = self.random.random_range(0..self.streams.count());
        let found = read(&mut self.connection, &self.streams, stream, 0, u64::MAX).await?;
        let name = || String::from_utf8_lossy(self.streams.name(stream)).into_owned();
        match self.events {
            Some(events) if events != found => bail!("{} has {found} events where {events} were written", name()),
            None if found == 0 => bail!("{} has no events", name()),
            Some(_) | None => Ok(found),
        }
    }
}
