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

use annals_bench::load::{Measured, Pace, Plan, Worker, run};

use crate::contestant::Contestant;
use crate::place::Place;
use crate::rows::{Figure, Load, Row};
use crate::system::annals::Annals;
use crate::system::etcd::Etcd;
use crate::system::nats::Nats;
use crate::system::postgres::Postgres;
use crate::system::umadb::UmaDb;
use crate::system::{Programs, System};
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
        let leader = system.leader().await?;
        match load {
            Load::Append { clients, events } => {
                let clients = system.clients(leader, clients).await?;
                let workers = append::appenders(clients, STREAMS, events);
                self.run(&mut system, workers, Pace::Closed).await
            }
            Load::BatchAppend { .. } => anyhow::bail!("only Annals has this call"),
            Load::CatchUp(fill) => {
                append::fill(system.clients(leader, fill.clients).await?, fill).await?;
                let reader = system.clients(leader, 1).await?.remove(0);
                self.catch_up(&mut system, reader, fill.all_events()).await
            }
            Load::Streams { fill, readers } => {
                append::fill(system.clients(leader, fill.clients).await?, fill).await?;
                let readers = read::stream_readers(system.clients(leader, readers).await?, fill);
                self.run(&mut system, readers, Pace::Closed).await
            }
            Load::LinearReads { fill, readers } => {
                append::fill(system.clients(leader, fill.clients).await?, fill).await?;
                let mut clients = Vec::new();
                for follower in (0..nodes).filter(|node| *node != leader) {
                    clients.extend(system.clients(follower, readers / (nodes - 1)).await?);
                }
                let readers = read::event_readers(clients, fill);
                self.run(&mut system, readers, Pace::Closed).await
            }
            Load::Live { clients, rate } => {
                let subscriber = system.clients(leader, 1).await?.remove(0);
                let workers = live::appenders(system.clients(leader, clients).await?, subscriber, STREAMS).await?;
                self.run(&mut system, workers, Pace::Open { rate }).await
            }
            Load::Failover { kills } => failover::measure(&mut system, kills).await,
        }
    }

    /// Runs the workers, and looks at what the servers used for it.
    async fn run<S: System, W: Worker>(&self, system: &mut S, workers: Vec<W>, pace: Pace) -> anyhow::Result<Figures> {
        let counted = Arc::new(AtomicU64::new(0));
        let before = Usage::of(system.processes())?;
        let measured = run(workers, self.plan(pace), counted.clone()).await?;
        let used = Usage::of(system.processes())?.since(before);
        for process in system.processes() {
            process.check()?;
        }
        let mut figures = figures(&measured, used, counted.load(Ordering::Relaxed))?;
        figures.extend(peak_memory_mb(system.processes())?.map(|memory| (Figure::MemoryMb, memory)));
        Ok(figures)
    }

    async fn catch_up<S: System>(&self, system: &mut S, mut reader: S::Client, events: u64) -> anyhow::Result<Figures> {
        use crate::system::Client;
        let before = Usage::of(system.processes())?;
        let begin = Instant::now();
        reader.read_all(events).await?;
        let seconds = begin.elapsed().as_secs_f64();
        let used = Usage::of(system.processes())?.since(before);
        let mut figures = Figures::from([
            (Figure::Rate, events as f64 / seconds),
            (Figure::CpuPerMillion, used.cpu_seconds * 1e6 / events as f64),
        ]);
        figures.extend(peak_memory_mb(system.processes())?.map(|memory| (Figure::MemoryMb, memory)));
        Ok(figures)
    }
}

/// What the servers used counts from the first request to the last, so it is
/// divided by all that was done in this time, warm-up included.
fn figures(measured: &Measured, used: Usage, units: u64) -> anyhow::Result<Figures> {
    anyhow::ensure!(measured.requests > 0, "nothing was answered in the time that counts");
    Ok(Figures::from([
        (Figure::Rate, measured.rate()),
        (Figure::P50Ms, measured.milliseconds(0.5)),
        (Figure::P99Ms, measured.milliseconds(0.99)),
        (Figure::CpuPerMillion, used.cpu_seconds * 1e6 / units as f64),
        (Figure::WrittenPerByte, used.written_bytes as f64 / (units as f64 * EVENT_BYTES as f64)),
    ]))
}
