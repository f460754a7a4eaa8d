//! Appends, reads and subscriptions at once, for as long as one likes.
//!
//! What is checked is what the kinds of load alone check, and more: a reader
//! knows what was acknowledged before it read, and a read that asks to see
//! everything must show it.

mod interval;
mod reader;

use std::sync::Arc;
use std::time::Duration;

use crate::append::Expect;
use crate::append::unary::{self, FILL_CLIENTS, Unary};
use crate::append::writer::Load;
use crate::event::{Stamp, Template, Timeline};
use crate::length::{Length, rate};
use crate::load;
use crate::report::Report;
use crate::streams::Streams;
use crate::subscribe::To;
use crate::subscribe::group::Group;
use crate::target::{Consistency, Target};
use crate::watch::Watch;
use interval::{Interval, Noted, Talker};
use reader::Reader;

/// Flags of `annals bench mixed`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Clients that append.
    #[arg(long, default_value_t = 16, value_name = "N")]
    appenders: u32,

    /// Clients that read the newest events of streams.
    #[arg(long, default_value_t = 8, value_name = "N")]
    readers: u32,

    /// Subscriptions.
    #[arg(long, default_value_t = 2, value_name = "N")]
    subscriptions: u32,

    /// What they are to.
    #[arg(long, value_enum, default_value_t = To::Filtered)]
    to: To,

    /// Appends a second. Default: each client appends again when it has its answer.
    #[arg(long, value_name = "N", value_parser = rate)]
    append_rate: Option<f64>,

    /// Reads a second. Default: each reader reads again when it has its answer.
    #[arg(long, value_name = "N", value_parser = rate)]
    read_rate: Option<f64>,

    /// Events of one append.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,

    /// Bytes of an event's data: a stamp, the rest random.
    #[arg(long, default_value_t = 256, value_name = "N",
          value_parser = clap::value_parser!(u32).range(Stamp::BYTES as i64..=16 << 20))]
    bytes: u32,

    /// Streams in all: at least one for each client that appends.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,

    /// Events of a stream that a read reads: the newest, at least so many.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    read_events: u64,

    /// How fresh each read has to be.
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    consistency: Consistency,

    /// Seconds from one line about how it goes to the next.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    report: u64,

    #[command(flatten)]
    length: Length,
}

impl Arguments {
    /// How long it takes.
    pub fn length(&self) -> Length {
        self.length
    }
}

/// Does all at once, and measures.
///
/// # Errors
/// Anything was not as it must be.
pub async fn run(target: &Target, arguments: &Arguments, watch: &Watch) -> anyhow::Result<Report> {
    let streams = Streams::new(&Streams::new_prefix(), arguments.streams.max(arguments.appenders));
    let timeline = Timeline::begin();
    let mut group = Group::new(streams.clone(), timeline);
    group.open(target, arguments.to, arguments.subscriptions as usize).await?;
    // A reader finds something in every stream.
    let filling = target.connect(FILL_CLIENTS).await?;
    unary::fill(&filling, &streams, 1, arguments.bytes as usize, Some(timeline), watch).await?;

    let (appends, reads) = (Interval::new(), Interval::new());
    let appenders = appenders(target, arguments, &streams, timeline, &appends).await?;
    let readers = readers(target, arguments, &streams, &reads).await?;
    let talker = Talker { begun: timeline, appends, reads, seen: group.recent(), watch: watch.clone() };
    let (append_plan, read_plan) =
        (arguments.length.plan(arguments.append_rate), arguments.length.plan(arguments.read_rate));
    group.count_after(append_plan.warm_up);
    let (appended, read) = tokio::select! {
        failure = group.failed() => return Err(failure),
        never = talker.run(Duration::from_secs(arguments.report)) => match never {},
        done = async { tokio::try_join!(
            load::run_until(appenders, append_plan, watch.counted.clone(), watch.stop.cancelled()),
            load::run_until(readers, read_plan, Arc::default(), watch.stop.cancelled()),
        ) } => done?,
    };
    group.settle().await?;

    let seen = group.latency();
    Ok(Report::new("mixed")
        .with("appenders", arguments.appenders)
        .with("readers", arguments.readers)
        .with("subscriptions", arguments.subscriptions)
        .with("to", format!("{:?}", arguments.to).to_lowercase())
        .with("consistency", format!("{:?}", arguments.consistency).to_lowercase())
        .with("events_per_request", arguments.events)
        .with("event_bytes", arguments.bytes)
        .with("streams", streams.count())
        .with("wanted_appends_per_second", arguments.append_rate)
        .with("wanted_reads_per_second", arguments.read_rate)
        .with_length(appended.elapsed, watch.stop.is_cancelled())
        .with_measured("append_", "requests", "events", &appended)
        .with_measured("read_", "requests", "events", &read)
        .with_rate("seen_events", seen.len(), appended.elapsed)
        .with_latency("seen_", &seen))
}

async fn appenders(
    target: &Target,
    arguments: &Arguments,
    streams: &Arc<Streams>,
    timeline: Timeline,
    interval: &Arc<Interval>,
) -> anyhow::Result<Vec<Noted<Unary>>> {
    let load = Load {
        streams: streams.clone(),
        template: Template::unary(arguments.bytes as usize),
        events: u64::from(arguments.events),
        expect: Expect::Exact,
        timeline: Some(timeline),
    };
    let clients = arguments.appenders as usize;
    let connections = target.connect(clients).await?;
    let worker = |client| Unary::new(connections.of(client), load.writer(client, clients));
    Ok((0..clients).map(|client| Noted::new(worker(client), interval.clone())).collect())
}

async fn readers(
    target: &Target,
    arguments: &Arguments,
    streams: &Arc<Streams>,
    interval: &Arc<Interval>,
) -> anyhow::Result<Vec<Noted<Reader>>> {
    let clients = arguments.readers as usize;
    let connections = target.connect(clients).await?.with(arguments.consistency);
    let worker =
        |client| Reader::new(connections.of(client), streams.clone(), arguments.read_events, arguments.consistency);
    Ok((0..clients).map(|client| Noted::new(worker(client), interval.clone())).collect())
}
