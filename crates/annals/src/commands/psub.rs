//! `annals psub`: consumer groups, which the protocol calls persistent subscriptions.

use std::time::Duration;

use annals_client::{Client, Cursor, Direction, Group, Item, NewGroup, ReadOptions, Resolved, Source};
use annals_proto::event_store::client::persistent_subscriptions::SubscriptionInfo;
use annals_proto::event_store::client::persistent_subscriptions::subscription_info::ConnectionInfo;
use clap_complete::engine::ArgValueCandidates;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::commands::{At, cursor};
use crate::complete;
use crate::consent::Consent;
use crate::failure::{Code, Failure};
use crate::output::{self, Format, Time};

/// Flags of `annals psub`.
pub(crate) type Arguments = At<Command>;

/// Which group.
#[derive(clap::Args)]
pub(crate) struct Which {
    /// The stream or index that feeds the group, $all for everything.
    #[arg(value_name = "SOURCE", add = ArgValueCandidates::new(complete::sources))]
    source: String,
    /// The group.
    #[arg(add = ArgValueCandidates::new(complete::groups))]
    group: String,
}

impl Which {
    fn group(&self) -> Group {
        Group { source: self.source.clone(), name: self.group.clone() }
    }
}

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Define a group.
    #[command(after_help = "\
Examples:
  annals psub create orders-1 mailer
  annals psub create '$ce-orders' billing --resolve-links --strategy Pinned
  annals psub create '$all' audit --filter-stream orders- --from end")]
    Create {
        #[command(flatten)]
        which: Which,
        /// With which event it begins: start, end, a revision or a position.
        #[arg(long, value_parser = cursor, default_value = "start")]
        from: Cursor,
        /// Who gets an event: RoundRobin, DispatchToSingle, Pinned or PinnedByCorrelation.
        #[arg(long, default_value = "RoundRobin")]
        strategy: String,
        /// Deliver what links lead to.
        #[arg(long)]
        resolve_links: bool,
        /// Park an event that failed and was retried so often.
        #[arg(long, value_name = "N", default_value_t = 10)]
        max_retries: u32,
        /// Retry an event that was not answered for so many seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        timeout: u64,
        /// At most so many consumers at a time; 0 for any number.
        #[arg(long, value_name = "N", default_value_t = 0)]
        max_consumers: u32,
        /// Of $all, only streams whose name begins like this. May be repeated.
        #[arg(long, value_name = "PREFIX")]
        filter_stream: Vec<String>,
    },
    /// List groups and how they do.
    #[command(after_help = "\
Examples:
  annals psub ls
  annals psub ls orders-1 -o json")]
    Ls {
        /// Only groups that this stream, index or $all feeds.
        #[arg(add = ArgValueCandidates::new(complete::sources))]
        source: Option<String>,
    },
    /// How a group and its consumers do.
    #[command(after_help = "\
Examples:
  annals psub info orders-1 mailer
  annals psub info '$all' audit -o json")]
    Info {
        #[command(flatten)]
        which: Which,
    },
    /// Remove a group with its checkpoint and its parked events. The source stays.
    #[command(after_help = "\
Examples:
  annals psub delete orders-1 mailer
  annals psub delete orders-1 mailer --yes")]
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        consent: Consent,
    },
    /// Print the parked events of a group, with the reasons.
    #[command(after_help = "\
Examples:
  annals psub parked orders-1 mailer
  annals psub parked orders-1 mailer --limit 1 -o json")]
    Parked {
        #[command(flatten)]
        which: Which,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
    },
    /// Deliver parked events again, the oldest first.
    #[command(after_help = "\
Examples:
  annals psub replay orders-1 mailer
  annals psub replay orders-1 mailer --count 1")]
    Replay {
        #[command(flatten)]
        which: Which,
        /// Only so many, the oldest. Default: all.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Drop parked events, the oldest first. They stay in their streams.
    #[command(after_help = "\
Examples:
  annals psub drop-parked orders-1 mailer --count 1
  annals psub drop-parked orders-1 mailer --yes")]
    DropParked {
        #[command(flatten)]
        which: Which,
        /// Only so many, the oldest. Default: all.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        consent: Consent,
    },
}

/// A group that was changed.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changed {
    /// The stream or index that feeds it, $all for everything.
    source: String,
    /// Its name.
    group: String,
}

/// An event that consumers could not deal with.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Parked {
    /// Its place among the parked events of the group.
    revision: u64,
    /// Why it is parked; may be empty.
    reason: String,
    /// When it was parked, where that is told.
    added: Option<Time>,
    /// The stream of the event; null, as all of the event: it is gone.
    stream: Option<String>,
    /// Its place in that stream.
    stream_revision: Option<u64>,
    /// What it is called.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Its id.
    id: Option<Uuid>,
}

/// A group and how it does.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Described {
    /// The stream or index that feeds it, $all for everything.
    source: String,
    /// Its name.
    group: String,
    /// Live, Behind or NotReady, possibly with additions.
    status: String,
    /// Who gets an event: RoundRobin, DispatchToSingle, Pinned or PinnedByCorrelation.
    strategy: String,
    /// Where it began: a revision, a position as C:1/P:1, or -1 for new events only.
    from: String,
    /// Up to there all events are dealt with, in the same form; empty: none yet.
    checkpoint: String,
    /// The newest event that there is for it, in the same form; empty: none.
    newest: String,
    /// Events in memory that wait for a consumer.
    waiting: i32,
    /// Of those, events that are retried.
    retried: i32,
    /// Events that consumers have and have not answered.
    in_flight: i32,
    /// Parked events.
    parked: i64,
    /// Events delivered a second, on average.
    per_second: i32,
    /// Who consumes.
    consumers: Vec<Consumer>,
}

/// A consumer of a group.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Consumer {
    /// The name of its connection.
    name: String,
    /// Who it is; may be empty.
    user: String,
    /// Events that it has and has not answered.
    in_flight: i32,
    /// Events that it could take besides.
    free: i32,
    /// Events that it was given so far.
    delivered: i64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.connection.client()?;
    let groups = client.groups();
    let format = arguments.connection.format();
    match arguments.command {
        Command::Create {
            which,
            from,
            strategy,
            resolve_links,
            max_retries,
            timeout,
            max_consumers,
            filter_stream,
        } => {
            if which.source != "$all" && !filter_stream.is_empty() {
                return Err(Failure::usage("--filter-stream is for groups on $all"));
            }
            let new = NewGroup {
                from,
                strategy,
                resolve_links,
                max_retries,
                message_timeout: Duration::from_secs(timeout),
                max_consumers,
                stream_prefixes: filter_stream,
            };
            groups.create(&which.group(), &new).await?;
            done(&which, "is defined", format)?;
        }
        Command::Ls { source } => list(&groups.list(source.as_deref()).await?, format)?,
        Command::Info { which } => info(&groups.info(&which.group()).await?, format)?,
        Command::Delete { which, consent } => {
            let what = "with its checkpoint and its parked events";
            consent.ask(&format!("this deletes the group {} on {} {what}", which.group, which.source), &which.group)?;
            groups.delete(&which.group()).await?;
            done(&which, "is deleted", format)?;
        }
        Command::Parked { which, limit } => {
            for event in parked(&client, &which.group(), limit).await? {
                print_parked(&event, format)?;
            }
        }
        Command::Replay { which, count } => {
            let before = oldest(&client, &which.group(), count).await?;
            groups.replay(&which.group(), before).await?;
            done(&which, "replays", format)?;
        }
        Command::DropParked { which, count, consent } => {
            let these = count.map_or_else(|| "all".to_owned(), |count| format!("the oldest {count}"));
            let what = format!("this drops {these} of the parked events of {} on {}", which.group, which.source);
            consent.ask(&what, &which.group)?;
            let before = oldest(&client, &which.group(), count).await?;
            groups.drop_parked(&which.group(), before).await?;
            done(&which, "has dropped them", format)?;
        }
    }
    Ok(())
}

fn done(which: &Which, what: &str, format: Format) -> std::io::Result<()> {
    match format {
        Format::Table => output::line(&format!("group {} on {} {what}", which.group, which.source)),
        Format::Json => output::json(&Changed { source: which.source.clone(), group: which.group.clone() }),
    }
}

/// Parked messages: links, each as it is.
async fn parked(client: &Client, group: &Group, limit: u64) -> Result<Vec<Resolved>, Failure> {
    let source = Source::Stream { name: group.parked(), from: Cursor::Start, resolve_links: true };
    let options = ReadOptions { source, direction: Direction::Forwards, count: limit };
    let mut reading = match client.read(options).await {
        Ok(reading) => reading,
        Err(annals_client::Error::StreamNotFound(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut events = Vec::new();
    loop {
        match reading.next().await {
            Ok(Some(Item::Event(event))) => events.push(*event),
            Ok(Some(Item::Confirmed | Item::CaughtUp | Item::Checkpoint(_))) => {}
            Ok(None) | Err(annals_client::Error::StreamNotFound(_)) => return Ok(events),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The revision behind so many of the oldest parked messages.
async fn oldest(client: &Client, group: &Group, count: Option<u64>) -> Result<Option<u64>, Failure> {
    let Some(count) = count else { return Ok(None) };
    let messages = parked(client, group, count).await?;
    match messages.last().and_then(Resolved::original) {
        Some(last) => Ok(Some(last.revision + 1)),
        None => Err(Failure::new(Code::NotFound, anyhow::anyhow!("the group has no parked events"))),
    }
}

fn print_parked(resolved: &Resolved, format: Format) -> std::io::Result<()> {
    let Some(link) = resolved.original() else { return Ok(()) };
    let told: serde_json::Value = serde_json::from_slice(&link.metadata).unwrap_or_default();
    let event = resolved.event.as_ref().filter(|_| resolved.link.is_some());
    let reason = told["reason"].as_str().unwrap_or_default();
    if format == Format::Json {
        return output::json(&Parked {
            revision: link.revision,
            reason: reason.to_owned(),
            added: told["added"].as_str().map(|added| Time::of_text(added.to_owned())),
            stream: event.map(|event| event.stream.clone()),
            stream_revision: event.map(|event| event.revision),
            event_type: event.map(|event| event.event_type.clone()),
            id: event.map(|event| event.id),
        });
    }
    let event = event.map_or_else(
        || "an event that is gone".to_owned(),
        |event| format!("{}@{} {} {}", event.revision, event.stream, event.event_type, event.id),
    );
    output::line(&format!("{}  {event}  {}", link.revision, reason.replace('\n', " ")))
}

fn list(all: &[SubscriptionInfo], format: Format) -> std::io::Result<()> {
    if format == Format::Json {
        return all.iter().try_for_each(|info| output::json(&described(info)));
    }
    let row = |info: &SubscriptionInfo| {
        vec![
            info.event_source.clone(),
            info.group_name.clone(),
            info.status.clone(),
            info.connections.len().to_string(),
            info.total_in_flight_messages.to_string(),
            info.parked_message_count.to_string(),
            or_none(&info.last_checkpointed_event_position),
            or_none(&info.last_known_event_position),
        ]
    };
    let header = ["SOURCE", "GROUP", "STATUS", "CONSUMERS", "IN FLIGHT", "PARKED", "CHECKPOINT", "NEWEST"];
    output::table(&header, all.iter().map(row).collect())
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { text.to_owned() }
}

fn info(info: &SubscriptionInfo, format: Format) -> std::io::Result<()> {
    if format == Format::Json {
        return output::json(&described(info));
    }
    output::line(&format!("group       {} on {}, {}", info.group_name, info.event_source, info.status))?;
    output::line(&format!(
        "serves      {}, from {}{}, {} s for an answer, parked after {} retries",
        info.named_consumer_strategy,
        info.start_from,
        if info.resolve_link_tos { ", links resolved" } else { "" },
        info.message_timeout_milliseconds / 1_000,
        info.max_retry_count
    ))?;
    output::line(&format!(
        "checkpoint  {} of {}",
        or_none(&info.last_checkpointed_event_position),
        or_none(&info.last_known_event_position)
    ))?;
    output::line(&format!(
        "events      {} wait, {} of them retried, {} in flight, {} parked; {} a second\n",
        info.read_buffer_count,
        info.retry_buffer_count,
        info.total_in_flight_messages,
        info.parked_message_count,
        info.average_per_second
    ))?;
    let row = |consumer: &ConnectionInfo| {
        vec![
            consumer.connection_name.clone(),
            consumer.username.clone(),
            consumer.in_flight_messages.to_string(),
            consumer.available_slots.to_string(),
            consumer.total_items.to_string(),
        ]
    };
    output::table(&["CONSUMER", "USER", "IN FLIGHT", "FREE", "DELIVERED"], info.connections.iter().map(row).collect())
}

fn described(info: &SubscriptionInfo) -> Described {
    let consumer = |consumer: &ConnectionInfo| Consumer {
        name: consumer.connection_name.clone(),
        user: consumer.username.clone(),
        in_flight: consumer.in_flight_messages,
        free: consumer.available_slots,
        delivered: consumer.total_items,
    };
    Described {
        source: info.event_source.clone(),
        group: info.group_name.clone(),
        status: info.status.clone(),
        strategy: info.named_consumer_strategy.clone(),
        from: info.start_from.clone(),
        checkpoint: info.last_checkpointed_event_position.clone(),
        newest: info.last_known_event_position.clone(),
        waiting: info.read_buffer_count,
        retried: info.retry_buffer_count,
        in_flight: info.total_in_flight_messages,
        parked: info.parked_message_count,
        per_second: info.average_per_second,
        consumers: info.connections.iter().map(consumer).collect(),
    }
}
