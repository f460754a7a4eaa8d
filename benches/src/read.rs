//! Reads: the whole log, whole streams, or single events.
//!
//! What is read was written before: by `annals bench append`, whose report names
//! the prefix of its streams, or by `--prepare`.

pub(crate) mod all;
pub(crate) mod request;
mod single;
pub(crate) mod stream;

use std::sync::Arc;

use anyhow::bail;

use crate::append::unary::{self, FILL_CLIENTS};
use crate::length::{Length, rate};
use crate::load::{self, Measured, Worker};
use crate::report::Report;
use crate::sequence::Order;
use crate::streams::Streams;
use crate::target::{Connections, Consistency, Target};
use crate::watch::Watch;
use single::Single;
use stream::Whole;

/// Flags of `annals bench read`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What each read reads.
    #[arg(long, value_enum, default_value_t = What::All)]
    what: What,

    /// Readers, each with one read under way.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,

    /// With all: events that each reader reads, at most. Else: events that each
    /// stream has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,

    /// Streams that are read, with stream and single.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,

    /// What the streams' names begin with: the prefix that `bench append` reported.
    #[arg(long)]
    prefix: Option<String>,

    /// Write the streams first, with 10 events each unless --events says otherwise.
    #[arg(long)]
    prepare: bool,

    /// Bytes of the data of an event that --prepare writes.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(..=16 << 20))]
    bytes: u32,

    /// How fresh each read has to be.
    #[arg(long, value_enum, default_value_t = Consistency::Local)]
    consistency: Consistency,

    /// How positions must follow each other, with all. Deleted streams leave gaps.
    #[arg(long, value_enum, default_value_t = Order::Dense)]
    positions: Order,

    /// Reads a second, of all readers, with stream and single; latency counts from
    /// when each was due. Default: each reader reads again when it has its answer.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,

    #[command(flatten)]
    length: Length,
}

/// What a read reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// The whole log from its start, once for each reader.
    All,
    /// A whole stream, another one each time.
    Stream,
    /// One event of a stream, another one each time.
    Single,
}

/// Events of each stream that is prepared, if nothing else is said.
const PREPARED_EVENTS: u64 = 10;

impl Arguments {
    /// How long it takes; none where the number of events bounds it.
    pub fn length(&self) -> Option<Length> {
        match self.what {
            What::All => None,
            What::Stream | What::Single => Some(self.length),
        }
    }

    fn report(&self) -> Report {
        Report::new("read")
            .with("of", format!("{:?}", self.what).to_lowercase())
            .with("consistency", format!("{:?}", self.consistency).to_lowercase())
            .with("clients", self.clients)
    }
}

/// Reads, and measures.
///
/// # Errors
/// What was read is not what must be there.
pub async fn run(target: &Target, arguments: &Arguments, watch: &Watch) -> anyhow::Result<Report> {
    match arguments.what {
        What::All => {
            let found = all::read(target, arguments, watch).await?;
            Ok(arguments
                .report()
                .with_length(found.elapsed, watch.stop.is_cancelled())
                .with_rate("events", found.events, found.elapsed)
                .with_rate("data_bytes", found.data_bytes, found.elapsed))
        }
        What::Stream => {
            let (streams, events) = streams(target, arguments, watch).await?;
            let reader = |connection| Whole::new(connection, streams.clone(), events);
            let measured = measure(target, arguments, watch, reader).await?;
            Ok(told(arguments, &measured, &streams, watch).with_measured("", "streams", "events", &measured))
        }
        What::Single => {
            let (streams, events) = streams(target, arguments, watch).await?;
            let reader = |connection| Single::new(connection, streams.clone(), events.unwrap_or(1));
            let measured = measure(target, arguments, watch, reader).await?;
            Ok(told(arguments, &measured, &streams, watch)
                .with_rate("reads", measured.requests, measured.elapsed)
                .with_latency("", &measured.latency))
        }
    }
}

fn told(arguments: &Arguments, measured: &Measured, streams: &Streams, watch: &Watch) -> Report {
    arguments
        .report()
        .with("streams_in_all", streams.count())
        .with("prefix", streams.prefix())
        .with("wanted_reads_per_second", arguments.rate)
        .with_length(measured.elapsed, watch.stop.is_cancelled())
}

async fn connect(target: &Target, arguments: &Arguments) -> anyhow::Result<Connections> {
    Ok(target.connect(arguments.clients as usize).await?.with(arguments.consistency))
}

/// The streams that are read, and how many events each has, where that is known.
async fn streams(target: &Target, arguments: &Arguments, watch: &Watch) -> anyhow::Result<(Arc<Streams>, Option<u64>)> {
    let prefix = match &arguments.prefix {
        Some(prefix) => prefix.clone(),
        None if arguments.prepare => Streams::new_prefix(),
        None => bail!("say which streams to read, with the --prefix that bench append reported, or --prepare some"),
    };
    let streams = Streams::new(&prefix, arguments.streams);
    if !arguments.prepare {
        return Ok((streams, arguments.events));
    }
    let events = arguments.events.unwrap_or(PREPARED_EVENTS);
    let connections = target.connect(FILL_CLIENTS).await?;
    unary::fill(&connections, &streams, events, arguments.bytes as usize, None, watch).await?;
    Ok((streams, Some(events)))
}

async fn measure<W: Worker>(
    target: &Target,
    arguments: &Arguments,
    watch: &Watch,
    reader: impl Fn(crate::wire::Connection) -> W,
) -> anyhow::Result<Measured> {
    let connections = connect(target, arguments).await?;
    let readers = (0..arguments.clients as usize).map(|client| reader(connections.of(client)));
    let plan = arguments.length.plan(arguments.rate);
    load::run_until(readers.collect(), plan, watch.counted.clone(), watch.stop.cancelled()).await
}
