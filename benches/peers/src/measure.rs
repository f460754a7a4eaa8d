//! One load on one fresh cluster.
//!
//! Everything that sends requests is a [`Worker`] of the one loop that Annals'
//! own benchmark uses, so that what is measured differs in the system only.
//! Clients talk to the node that leads: that is the best case of every system.

mod append;
mod batch;
mod failover;
mod live;
mod read;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_bench::load::{Pace, Plan, Worker, run};

use crate::contestant::Contestant;
use crate::place::Place;
use crate::rows::{Figure, Load, Row};
use crate::system::annals::Annals;
use crate::system::etcd::Etcd;
use crate::system::nats::Nats;
use crate::system::postgres::Postgres;
use crate::system::umadb::UmaDb;
use crate::system::{Client as _, Programs, System};
use crate::usage::{Usage, peak_memory_mb};

/// Streams that appends go to.
const STREAMS: usize = 1_000;

/// Bytes of an event's data.
pub(crate) const EVENT_BYTES: usize = 256;

pub(crate) type Figures = BTreeMap<Figure, f64>;

/// What every measurement is given.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) place: &'a Place,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

impl Setup<'_> {
    fn plan(&self, pace: Pace) -> Plan {
        Plan { warm_up: self.warm_up, measure: self.measure, pace }
    }

    /// Measures one row for one contestant, once.
    ///
    /// # Errors
    /// Whatever goes wrong: a server that does not start, a wrong answer.
    pub(crate) async fn measure(&self, row: &Row, contestant: Contestant) -> anyhow::Result<Figures> {
        match contestant {
            Contestant::Annals => match row.load {
                Load::BatchAppend { streams, in_flight } => self.batches(row.nodes, streams, in_flight).await,
                load => self.on::<Annals>(row.nodes, load).await,
            },
            Contestant::AnnalsUnary => self.on::<Annals>(row.nodes, Load::Append { clients: 64, events: 1 }).await,
            Contestant::Etcd => self.on::<Etcd>(row.nodes, row.load).await,
            Contestant::Nats => self.on::<Nats>(row.nodes, row.load).await,
            Contestant::Postgres => self.on::<Postgres>(1, row.load).await,
            Contestant::PostgresStandby => self.on::<Postgres>(2, row.load).await,
            Contestant::UmaDb => self.on::<UmaDb>(1, row.load).await,
        }
    }

    async fn on<S: System>(&self, nodes: usize, load: Load) -> anyhow::Result<Figures> {
        let mut system = S::start(self.programs, self.place, nodes).await?;
        match load {
            Load::Append { clients, events } => {
                let workers = append::appenders(leaders(&mut system, clients).await?, STREAMS, events);
                self.appends(&mut system, workers, Pace::Closed).await
            }
            Load::BatchAppend { .. } => anyhow::bail!("only Annals has this call"),
            Load::CatchUp(fill) => {
                append::fill(leaders(&mut system, fill.clients).await?, fill).await?;
                let reader = leaders(&mut system, 1).await?.remove(0);
                self.catch_up(&mut system, reader, fill.all_events()).await
            }
            Load::Streams { fill, readers } => {
                append::fill(leaders(&mut system, fill.clients).await?, fill).await?;
                let readers = read::stream_readers(leaders(&mut system, readers).await?, fill);
                self.reads(&mut system, readers).await
            }
            Load::LinearReads { fill, readers } => {
                append::fill(leaders(&mut system, fill.clients).await?, fill).await?;
                let readers = read::event_readers(followers(&mut system, readers).await?, fill);
                self.reads(&mut system, readers).await
            }
            Load::Live { clients, rate } => {
                let subscriber = leaders(&mut system, 1).await?.remove(0);
                let workers = live::appenders(leaders(&mut system, clients).await?, subscriber, STREAMS).await?;
                self.appends(&mut system, workers, Pace::Open { rate }).await
            }
            Load::Failover { kills } => failover::measure(&mut system, kills).await,
        }
    }

    /// Measures workers that append: their units are events.
    async fn appends<S: System, W: Worker>(
        &self,
        system: &mut S,
        workers: Vec<W>,
        pace: Pace,
    ) -> anyhow::Result<Figures> {
        let (mut figures, used, units) = self.run(system, workers, pace).await?;
        let written = used.written_bytes as f64 / (units as f64 * EVENT_BYTES as f64);
        figures.insert(Figure::WrittenPerByte, written);
        Ok(figures)
    }

    async fn reads<S: System, W: Worker>(&self, system: &mut S, workers: Vec<W>) -> anyhow::Result<Figures> {
        Ok(self.run(system, workers, Pace::Closed).await?.0)
    }

    /// Runs the workers. What the servers used counts from the first request to
    /// the last, so it is told with all units that were done in this time,
    /// warm-up included.
    async fn run<S: System, W: Worker>(
        &self,
        system: &mut S,
        workers: Vec<W>,
        pace: Pace,
    ) -> anyhow::Result<(Figures, Usage, u64)> {
        let counted = Arc::new(AtomicU64::new(0));
        let before = Usage::of(system.processes())?;
        let measured = run(workers, self.plan(pace), counted.clone()).await?;
        let used = Usage::of(system.processes())?.since(before);
        anyhow::ensure!(measured.requests > 0, "nothing was answered in the time that counts");
        let units = counted.load(Ordering::Relaxed);
        let mut figures = Figures::from([
            (Figure::Rate, measured.rate()),
            (Figure::P50Ms, measured.milliseconds(0.5)),
            (Figure::P99Ms, measured.milliseconds(0.99)),
        ]);
        figures.extend(servers(system, used, units)?);
        Ok((figures, used, units))
    }

    async fn catch_up<S: System>(&self, system: &mut S, mut reader: S::Client, events: u64) -> anyhow::Result<Figures> {
        let before = Usage::of(system.processes())?;
        let begin = Instant::now();
        reader.read_all(events).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let used = Usage::of(system.processes())?.since(before);
        let mut figures = Figures::from([(Figure::Rate, events as f64 / seconds)]);
        figures.extend(servers(system, used, events)?);
        Ok(figures)
    }
}

/// Clients of the node that leads now.
async fn leaders<S: System>(system: &mut S, clients: usize) -> anyhow::Result<Vec<S::Client>> {
    let leader = system.leader().await?;
    system.clients(leader, clients).await
}

/// Clients of the nodes that do not lead, shared out evenly.
async fn followers<S: System>(system: &mut S, clients: usize) -> anyhow::Result<Vec<S::Client>> {
    let leader = system.leader().await?;
    let nodes = system.processes().len();
    let mut all = Vec::with_capacity(clients);
    for follower in (0..nodes).filter(|node| *node != leader) {
        all.extend(system.clients(follower, clients / (nodes - 1)).await?);
    }
    Ok(all)
}

/// What doing so many units took of the servers, which must all be alive.
fn servers<S: System>(system: &mut S, used: Usage, units: u64) -> anyhow::Result<Figures> {
    for process in system.processes() {
        process.check()?;
    }
    let mut figures = Figures::from([(Figure::CpuPerMillion, used.cpu_seconds * 1e6 / units as f64)]);
    figures.extend(peak_memory_mb(system.processes())?.map(|memory| (Figure::MemoryMb, memory)));
    Ok(figures)
}
