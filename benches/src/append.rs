//! Appends: how many a second, and how long each takes.
//!
//! Each stream belongs to one worker, which has one append under way. So with
//! exact expectations every append names the revision that the last one was
//! answered, and a lost or doubled event is a refusal that ends the run.

pub(crate) mod batch;
pub(crate) mod unary;
pub(crate) mod writer;

use anyhow::bail;

use crate::event::Template;
use crate::length::{Length, rate};
use crate::load::{self, Measured};
use crate::report::Report;
use crate::streams::Streams;
use crate::target::Target;
use crate::watch::Watch;
use unary::Unary;
use writer::Load;

/// Flags of `annals bench append`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How each append travels.
    #[arg(long, value_enum, default_value_t = Mode::Unary)]
    mode: Mode,

    /// Clients, each with one append under way.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,

    /// Appends that a client has under way on its stream, with --mode batch.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_096))]
    in_flight: u32,

    /// Events of one append.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,

    /// Bytes of an event's data, random.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(..=16 << 20))]
    bytes: u32,

    /// Streams in all, shared out among the appends under way: at least one for each.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    streams: u32,

    /// What the streams' names begin with. Default: something new.
    #[arg(long)]
    prefix: Option<String>,

    /// What an append expects of its stream.
    #[arg(long, value_enum, default_value_t = Expect::Exact)]
    expect: Expect,

    /// Appends a second, of all clients; latency counts from when each was due.
    /// Default: each client sends its next one when the last is answered.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,

    #[command(flatten)]
    length: Length,
}

/// How an append travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// A call for each append.
    Unary,
    /// Many appends on one call for each client.
    Batch,
}

/// What an append expects of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Expect {
    /// The revision that the last append was answered.
    Exact,
    /// Nothing.
    Any,
}

impl Arguments {
    /// How long it takes.
    pub fn length(&self) -> Length {
        self.length
    }
}

/// Appends, and measures.
///
/// # Errors
/// An append was not answered as it must be.
pub async fn run(target: &Target, arguments: &Arguments, watch: &Watch) -> anyhow::Result<Report> {
    let in_flight = match arguments.mode {
        Mode::Unary => 1,
        Mode::Batch => arguments.in_flight,
    };
    let workers = arguments.clients.saturating_mul(in_flight);
    let prefix = arguments.prefix.clone().unwrap_or_else(Streams::new_prefix);
    let streams = Streams::new(&prefix, arguments.streams.max(workers));
    let bytes = arguments.bytes as usize;
    let load = Load {
        streams: streams.clone(),
        template: match arguments.mode {
            Mode::Unary => Template::unary(bytes),
            Mode::Batch => Template::batch(bytes),
        },
        events: u64::from(arguments.events),
        expect: arguments.expect,
        timeline: None,
    };
    let measured = match arguments.mode {
        Mode::Unary => unary(target, arguments, &load, watch).await?,
        Mode::Batch => batch(target, arguments, &load, watch).await?,
    };
    Ok(Report::new("append")
        .with("mode", format!("{:?}", arguments.mode).to_lowercase())
        .with("expect", format!("{:?}", arguments.expect).to_lowercase())
        .with("clients", arguments.clients)
        .with("in_flight_per_client", in_flight)
        .with("events_per_request", arguments.events)
        .with("event_bytes", arguments.bytes)
        .with("streams", streams.count())
        .with("prefix", prefix)
        .with("wanted_requests_per_second", arguments.rate)
        .with_length(measured.elapsed, watch.stop.is_cancelled())
        .with_measured("", "requests", "events", &measured))
}

async fn unary(target: &Target, arguments: &Arguments, load: &Load, watch: &Watch) -> anyhow::Result<Measured> {
    let clients = arguments.clients as usize;
    let connections = target.connect(clients).await?;
    let workers = (0..clients).map(|client| Unary::new(connections.of(client), load.writer(client, clients)));
    let plan = arguments.length.plan(arguments.rate);
    load::run_until(workers.collect(), plan, watch.counted.clone(), watch.stop.cancelled()).await
}

async fn batch(target: &Target, arguments: &Arguments, load: &Load, watch: &Watch) -> anyhow::Result<Measured> {
    let clients = arguments.clients as usize;
    let in_flight = arguments.in_flight as usize;
    let connections = target.connect(clients).await?;
    let lanes = (0..clients).flat_map(|client| batch::open(connections.of(client), in_flight)).enumerate();
    let workers = lanes.map(|(number, lane)| lane.worker(load.writer(number, clients * in_flight)));
    let plan = arguments.length.plan(arguments.rate);
    load::run_until(workers.collect(), plan, watch.counted.clone(), watch.stop.cancelled()).await
}

impl Expect {
    /// Checks the revision that was answered to an append of so many events to
    /// a stream that had this many; answers how many it has now.
    ///
    /// # Errors
    /// It is not the revision of the last event.
    fn check(self, before: u64, events: u64, answered: Option<u64>) -> anyhow::Result<u64> {
        let due = before + events - 1;
        match (self, answered) {
            (_, None) => bail!("no revision was answered where {due} was due"),
            (Expect::Exact, Some(revision)) if revision != due => {
                bail!("revision {revision} was answered where {due} was due")
            }
            // Somebody else may have written there too.
            (Expect::Any, Some(revision)) if revision < due => {
                bail!("revision {revision} was answered where {due} was the least")
            }
            (Expect::Exact | Expect::Any, Some(revision)) => Ok(revision + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Expect;

    #[test]
    fn an_answered_revision_is_that_of_the_last_event() {
        assert_eq!(Expect::Exact.check(0, 1, Some(0)).expect("right"), 1);
        assert_eq!(Expect::Exact.check(5, 3, Some(7)).expect("right"), 8);
        assert_eq!(Expect::Any.check(5, 3, Some(9)).expect("somebody else wrote"), 10);
        for (expect, answered) in
            [(Expect::Exact, Some(8)), (Expect::Exact, Some(6)), (Expect::Any, Some(6)), (Expect::Any, None)]
        {
            assert!(expect.check(5, 3, answered).is_err(), "{expect:?} {answered:?}");
        }
    }
}
