//! Subscriptions: how soon after it was sent an event is seen.
//!
//! Every event says in its data when it was sent and which one of its stream it
//! is. Each subscription is opened before the first append and must then see
//! every event of its streams once and in order; at the end it is waited for
//! until it has seen everything that was acknowledged.
//!
//! Beside these there may be slow ones, which take one event a second and let
//! the rest wait in the server and on the way, and idle ones, to streams in
//! which nothing happens. Neither should cost the others anything.

pub(crate) mod group;
mod subscriber;

use crate::append::Expect;
use crate::append::unary::Unary;
use crate::append::writer::Load;
use crate::event::{Stamp, Template, Timeline};
use crate::length::{Length, rate};
use crate::load;
use crate::report::Report;
use crate::streams::Streams;
use crate::target::Target;
use crate::watch::Watch;
use group::Group;

/// Flags of `annals bench subscribe`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Subscriptions that are measured.
    #[arg(long, default_value_t = 1, value_name = "N")]
    subscriptions: u32,

    /// What they are to.
    #[arg(long, value_enum, default_value_t = To::All)]
    to: To,

    /// Subscriptions beside them that take one event a second.
    #[arg(long, default_value_t = 0, value_name = "N")]
    slow: u32,

    /// Subscriptions beside them to streams that stay empty.
    #[arg(long, default_value_t = 0, value_name = "N")]
    idle: u32,

    /// Appends a second.
    #[arg(long, default_value_t = 1_000.0, value_name = "N", value_parser = rate)]
    rate: f64,

    /// Clients that append.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,

    /// Events of one append.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,

    /// Bytes of an event's data: a stamp, the rest random.
    #[arg(long, default_value_t = 256, value_name = "N",
          value_parser = clap::value_parser!(u32).range(Stamp::BYTES as i64..=16 << 20))]
    bytes: u32,

    /// Streams in all: at least one for each client that appends.
    #[arg(long, default_value_t = 16, value_name = "N")]
    streams: u32,

    #[command(flatten)]
    length: Length,
}

/// What a subscription is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum To {
    /// One stream each, in turn.
    Stream,
    /// The whole log.
    All,
    /// The whole log, only the streams that are appended to.
    Filtered,
}

impl Arguments {
    /// How long it takes.
    pub fn length(&self) -> Length {
        self.length
    }
}

/// Subscribes, appends, and measures.
///
/// # Errors
/// A subscription missed an event or saw one twice, or an append was not
/// answered as it must be.
pub async fn run(target: &Target, arguments: &Arguments, watch: &Watch) -> anyhow::Result<Report> {
    let streams = Streams::new(&Streams::new_prefix(), arguments.streams.max(arguments.clients));
    let timeline = Timeline::begin();
    let mut group = Group::new(streams.clone(), timeline);
    group.open(target, arguments.to, arguments.subscriptions as usize).await?;
    group.open_slow(target, arguments.to, arguments.slow as usize).await?;
    group.open_idle(target, arguments.idle as usize).await?;

    let load = Load {
        streams: streams.clone(),
        template: Template::unary(arguments.bytes as usize),
        events: u64::from(arguments.events),
        expect: Expect::Exact,
        timeline: Some(timeline),
    };
    let clients = arguments.clients as usize;
    let connections = target.connect(clients).await?;
    let workers = (0..clients).map(|client| Unary::new(connections.of(client), load.writer(client, clients)));
    let plan = arguments.length.plan(Some(arguments.rate));
    group.count_after(plan.warm_up);
    let appending = load::run_until(workers.collect(), plan, watch.counted.clone(), watch.stop.cancelled());
    let appended = tokio::select! {
        failure = group.failed() => return Err(failure),
        appended = appending => appended?,
    };
    group.settle().await?;

    let seen = group.latency();
    Ok(Report::new("subscribe")
        .with("to", format!("{:?}", arguments.to).to_lowercase())
        .with("subscriptions", arguments.subscriptions)
        .with("slow_subscriptions", arguments.slow)
        .with("idle_subscriptions", arguments.idle)
        .with("clients", arguments.clients)
        .with("events_per_request", arguments.events)
        .with("event_bytes", arguments.bytes)
        .with("streams", streams.count())
        .with("wanted_requests_per_second", arguments.rate)
        .with_length(appended.elapsed, watch.stop.is_cancelled())
        .with_measured("append_", "requests", "events", &appended)
        .with_rate("seen_events", seen.len(), appended.elapsed)
        .with_latency("seen_", &seen)
        .with("slow_seen_events", group.seen_by_slow()))
}
