//! How long nobody takes appends after the leader was killed.
//!
//! Several clients on every node that lives try again and again, each with its
//! own patience, so that one that hangs does not hold up the others. What counts
//! is from the kill to the first acknowledgement of an attempt that began after
//! it. Each attempt writes a stream of its own, since nobody knows what became
//! of those that failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_bench::load::{Pace, Plan, Worker, run};
use anyhow::Context;
use hdrhistogram::Histogram;

use super::Figures;
use super::append::Events;
use crate::rows::Figure;
use crate::system::{Client, Head, System};

/// On each node.
const CLIENTS: usize = 8;
/// After an attempt of one client was refused.
const PAUSE: Duration = Duration::from_millis(40);
/// With one attempt.
const PATIENCE: Duration = Duration::from_secs(1);
const GIVE_UP: Duration = Duration::from_secs(60);

/// The light load before each kill, which also lets a restarted node catch up.
const LIGHT: Plan =
    Plan { warm_up: Duration::from_secs(1), measure: Duration::from_secs(1), pace: Pace::Open { rate: 100.0 } };

pub(super) async fn measure<S: System>(system: &mut S, kills: usize) -> anyhow::Result<Figures> {
    let mut latency = Histogram::<u64>::new(3)?;
    let attempts = Arc::new(AtomicU64::new(0));
    for _ in 0..kills {
        let leader = system.leader().await?;
        let light = fresh(system.clients(leader, CLIENTS).await?, &attempts);
        run(light, LIGHT, Arc::default()).await?;

        let mut survivors = Vec::new();
        for node in (0..system.processes().len()).filter(|node| *node != leader) {
            survivors.extend(fresh(system.clients(node, CLIENTS).await?, &attempts));
        }
        let begin = Instant::now();
        system.processes()[leader].kill()?;
        tokio::time::timeout(GIVE_UP, first_acknowledged(survivors)).await.context("no append was taken again")??;
        latency.record(u64::try_from(begin.elapsed().as_micros())?.max(1))?;
        system.processes()[leader].restart()?;
    }
    let milliseconds = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(Figures::from([(Figure::P50Ms, milliseconds(0.5)), (Figure::P99Ms, milliseconds(0.99))]))
}

/// Returns when any client had an append acknowledged.
async fn first_acknowledged<C: Client>(clients: Vec<Fresh<C>>) -> anyhow::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for (turn, client) in clients.into_iter().enumerate() {
        // Spread out, so that they do not all ask in the same moment.
        let offset = PAUSE * u32::try_from(turn % CLIENTS)? / u32::try_from(CLIENTS)?;
        tasks.spawn(try_until_acknowledged(client, offset));
    }
    tasks.join_next().await.context("no node lives")?.context("a client panicked")
}

async fn try_until_acknowledged<C: Client>(mut client: Fresh<C>, offset: Duration) {
    tokio::time::sleep(offset).await;
    while !matches!(tokio::time::timeout(PATIENCE, client.request()).await, Ok(Ok(_))) {
        tokio::time::sleep(PAUSE).await;
    }
}

/// A client that appends each event to a stream of its own.
struct Fresh<C> {
    client: C,
    events: Events,
    attempts: Arc<AtomicU64>,
}

fn fresh<C: Client>(clients: Vec<C>, attempts: &Arc<AtomicU64>) -> Vec<Fresh<C>> {
    let one = |client| Fresh { client, events: Events::new(), attempts: attempts.clone() };
    clients.into_iter().map(one).collect()
}

impl<C: Client> Worker for Fresh<C> {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let stream = format!("attempt-{}", self.attempts.fetch_add(1, Ordering::Relaxed));
        self.client.append(&stream, &mut Head::default(), &[self.events.next()]).await?;
        Ok(1)
    }
}
