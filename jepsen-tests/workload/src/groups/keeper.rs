//! Whoever looks after a group: has what is parked delivered again, restarts it,
//! and reads what it writes, from the log and as the leader, not by asking the
//! group.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annals_checker::history::{
    Checkpoint, Direction, GroupSource, GroupStep, NodeNumber, Parked, ParkedMessage, Replay, Target,
};
use annals_proto::event_store::client::streams::read_resp::read_event::RecordedEvent;
use anyhow::{Context as _, Result, bail};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::calls::{self, Page};
use super::{Order, Shared, Sharing};
use crate::wire::Wire;

/// The pause between two looks at a checkpoint.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// Events of a page.
const PAGE: u64 = 1_000;

const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Keeper {
    shared: Arc<Shared>,
    group: Arc<Sharing>,
}

/// The wall clock, in units of 100 ns since 1970.
fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos() / 100).unwrap_or(i64::MAX)
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, group: Arc<Sharing>) -> Keeper {
        Keeper { shared, group }
    }

    /// Records the group's checkpoint again and again.
    pub(super) async fn watch_checkpoint(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Without a leader there is nothing to be seen.
            let _ = self.checkpoint().await;
        }
    }

    /// The place of the newest checkpoint, which is recorded.
    async fn checkpoint(&self) -> Result<Option<u64>> {
        let stream = Target::Stream(self.group.own_stream("checkpoint").into());
        let page = self.read(&stream, Direction::Backwards, None, 1).await?;
        let Some(newest) = page.events.first() else { return Ok(None) };
        let text: String = serde_json::from_slice(&newest.data).context("a checkpoint is no JSON text")?;
        let place = match self.group.source {
            GroupSource::All { .. } => text.strip_prefix("C:").and_then(|text| text.split_once("/P:")).map(|two| two.0),
            GroupSource::Stream(_) | GroupSource::Category(_) => Some(&*text),
        };
        let place = place.and_then(|place| place.parse().ok()).with_context(|| format!("{text} is no checkpoint"))?;
        let time = self.shared.recorder.now();
        let step = GroupStep::Checkpoint(Checkpoint { time, term: page.term, place });
        self.shared.record(self.group.number, step);
        Ok(Some(place))
    }

    /// Reads as whoever leads.
    async fn read(&self, target: &Target, direction: Direction, from: Option<u64>, limit: u64) -> Result<Page> {
        let mut last = None;
        let mut nodes: Vec<NodeNumber> = self.shared.endpoints.nodes();
        // The one that led last is probably the one.
        if let Some(leader) = self.shared.endpoints.leader() {
            nodes.sort_by_key(|node| *node != leader);
        }
        for node in nodes {
            match calls::read_as_leader(&self.shared, node, target, direction, from, limit).await {
                Ok(page) => return Ok(page),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("there is no node")))
    }

    /// Returns when the checkpoint is at the end of the source: the last place
    /// there, if there is any.
    pub(super) async fn drained(&self, deadline: Instant) -> Result<Option<u64>> {
        let end = loop {
            match self.end().await {
                Ok(end) => break end,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        let Some(end) = end else { return Ok(None) };
        loop {
            let at = self.checkpoint().await;
            match at {
                Ok(Some(at)) if at >= end => return Ok(Some(end)),
                Ok(at) if Instant::now() >= deadline => bail!("its checkpoint is {at:?}, its source ends at {end}"),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// The last place of the source.
    async fn end(&self) -> Result<Option<u64>> {
        let target = match &self.group.source {
            GroupSource::All { prefixes } => Target::All { prefixes: prefixes.clone() },
            GroupSource::Stream(_) | GroupSource::Category(_) => Target::Stream(self.group.source_name().into()),
        };
        let page = self.read(&target, Direction::Backwards, None, 1).await?;
        Ok(page.events.first().map(|event| match self.group.source {
            GroupSource::All { .. } => event.commit_position,
            GroupSource::Stream(_) | GroupSource::Category(_) => event.stream_revision,
        }))
    }

    /// All that was ever parked, by group: also what cannot be read from its stream
    /// any more. The whole log is read for it, because filters hide the streams of
    /// groups on everything.
    pub(super) async fn parked(
        shared: &Arc<Shared>,
        groups: &[Arc<Sharing>],
        deadline: Instant,
    ) -> Result<Vec<Parked>> {
        let Some(first) = groups.first() else { return Ok(Vec::new()) };
        let keeper = Keeper::new(shared.clone(), first.clone());
        let streams: Vec<String> = groups.iter().map(|group| group.own_stream("parked")).collect();
        let of = |name: &[u8]| streams.iter().position(|stream| stream.as_bytes() == name);
        let mut all = vec![Parked::default(); groups.len()];
        let mut from = 0;
        loop {
            let everything = Target::All { prefixes: Vec::new() };
            let page = match keeper.read(&everything, Direction::Forwards, Some(from), PAGE).await {
                Ok(page) => page,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            for event in &page.events {
                let name = event.stream_identifier.as_ref().map_or(&[][..], |name| &name.stream_name);
                if let Some(group) = of(name) {
                    all[group].messages.push(message(event)?);
                } else if let Some(group) = name.strip_prefix(b"$$").and_then(of) {
                    let set: serde_json::Value = serde_json::from_slice(&event.data).context("metadata")?;
                    all[group].done_before = set.get("$tb").and_then(serde_json::Value::as_u64).unwrap_or(0);
                }
            }
            match page.events.last() {
                Some(last) if page.events.len() as u64 == PAGE => from = last.commit_position + 1,
                Some(_) | None => return Ok(all),
            }
        }
    }

    /// Has parked events delivered again, and all groups restarted, until the end.
    pub(super) async fn replay_and_restart(
        shared: Arc<Shared>,
        groups: Vec<Arc<Sharing>>,
        mut orders: watch::Receiver<Order>,
    ) {
        let mut rng = StdRng::seed_from_u64(shared.plan.seed ^ 0x7265_706c_6179);
        let mut turn = 0_usize;
        let every = |rng: &mut StdRng, pause: Duration| Instant::now() + pause.mul_f64(rng.random_range(0.5..1.5));
        let mut replay_at = every(&mut rng, shared.plan.replay_every);
        let mut restart_at = every(&mut rng, shared.plan.restart_every);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(replay_at.min(restart_at)) => {}
                _ = orders.wait_for(|order| *order == Order::Drain) => return,
            }
            let restarts = restart_at <= replay_at;
            if restarts {
                restart_at = every(&mut rng, shared.plan.restart_every);
            } else {
                replay_at = every(&mut rng, shared.plan.replay_every);
            }
            let Some(node) = shared.endpoints.choose(&mut rng) else { continue };
            let Ok(wire) = Wire::connect(&shared.endpoints, node, shared.plan.connect_timeout, None).await else {
                continue;
            };
            if restarts {
                // Whether it was done is seen by the consumers who are sent away.
                let _ = tokio::time::timeout(shared.plan.timeout, calls::restart(&wire)).await;
                continue;
            }
            let group = &groups[turn % groups.len()];
            turn += 1;
            let (time, asked) = (shared.recorder.now(), wall_clock());
            let answer = tokio::time::timeout(shared.plan.timeout, calls::replay(&wire, group)).await;
            // A refusal from the server's end may still be one that came too late.
            let answered = matches!(answer, Ok(Ok(()))).then(wall_clock);
            shared.record(group.number, GroupStep::Replay(Replay { time, asked, answered }));
        }
    }
}

fn message(event: &RecordedEvent) -> Result<ParkedMessage> {
    let link = std::str::from_utf8(&event.data).context("a parked message is no text")?;
    let (of, stream) = link.split_once('@').with_context(|| format!("{link} is no link"))?;
    let created = event.metadata.get("created").and_then(|ticks| ticks.parse().ok());
    Ok(ParkedMessage {
        revision: event.stream_revision,
        created: created.context("a parked message has no time")?,
        stream: stream.into(),
        of: of.parse().with_context(|| format!("{link} is no link"))?,
    })
}
