//! `annals stream`: one stream.

mod append;

use annals_client::{Client, Cursor, Direction, Error, Expected, Item, ReadOptions, Resolved, Source};
use annals_proto::annals::v1::list_streams_reply::Stream;
use clap_complete::engine::ArgValueCompleter;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use self::append::{Append, append};
use crate::commands::{At, cursor, follow, print};
use crate::complete;
use crate::consent::Consent;
use crate::events::{Events, Numbering};
use crate::failure::{Code, Failure};
use crate::output::{self, Format, Time};

/// Streams asked for at a time.
const LIST_PAGE: u32 = 1_000;

/// Flags of `annals stream`.
pub(crate) type Arguments = At<Command>;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Append one event, or many from standard input.
    #[command(after_help = "\
Without --type, standard input holds one JSON object per line:
  {\"type\": \"OrderPlaced\", \"data\": {…}, \"metadata\": {…}, \"id\": \"…\"}
of which only the type is needed.

Examples:
  annals stream append orders-1 --type OrderPlaced --data '{\"total\": 42}'
  annals stream append orders-1 --expect no-stream < events.ndjson")]
    Append(Append),
    /// Print the events of a stream.
    #[command(after_help = "\
Examples:
  annals stream read orders-1
  annals stream read '$ce-orders' --resolve-links --backwards --limit 10 -o json")]
    Read(Read),
    /// Print the events of a stream as they come.
    #[command(after_help = "\
Examples:
  annals stream tail orders-1
  annals stream tail '$ce-orders' --resolve-links --from start -o json")]
    Tail {
        /// The stream.
        #[arg(add = ArgValueCompleter::new(complete::streams))]
        stream: String,
        /// Where to begin: start, end, or after a revision.
        #[arg(long, value_parser = cursor, default_value = "end")]
        from: Cursor,
        /// Follow links to the events they point to.
        #[arg(long)]
        resolve_links: bool,
        /// Stop after this many events.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// List streams in the order of their names.
    #[command(after_help = "\
Examples:
  annals stream ls
  annals stream ls --prefix orders- --limit 20 -o json")]
    Ls {
        /// Only names that begin like this.
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only names after this one.
        #[arg(long, default_value = "", value_name = "STREAM")]
        after: String,
        /// At most this many.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Also streams that begin with $.
        #[arg(long)]
        system: bool,
    },
    /// What is known of a stream.
    #[command(after_help = "\
Examples:
  annals stream info orders-1
  annals stream info orders-1 -o json")]
    Info {
        /// The stream.
        #[arg(add = ArgValueCompleter::new(complete::streams))]
        stream: String,
    },
    /// Hide all events of a stream. It can be written again.
    #[command(after_help = "\
Examples:
  annals stream delete orders-1
  annals stream delete orders-1 --expect 41 --yes")]
    Delete {
        /// The stream.
        #[arg(add = ArgValueCompleter::new(complete::streams))]
        stream: String,
        /// The state it must be in: any, no-stream, exists, or its last revision.
        #[arg(long, value_parser = expected, default_value = "any")]
        expect: Expected,
        #[command(flatten)]
        consent: Consent,
    },
    /// End a stream for ever. It can never be written again.
    #[command(after_help = "\
Examples:
  annals stream tombstone orders-1
  annals stream tombstone orders-1 --expect 41 --yes")]
    Tombstone {
        /// The stream.
        #[arg(add = ArgValueCompleter::new(complete::streams))]
        stream: String,
        /// The state it must be in: any, no-stream, exists, or its last revision.
        #[arg(long, value_parser = expected, default_value = "any")]
        expect: Expected,
        #[command(flatten)]
        consent: Consent,
    },
    /// The metadata of a stream.
    Meta {
        #[command(subcommand)]
        command: Meta,
    },
}

#[derive(clap::Args)]
pub(crate) struct Read {
    /// The stream.
    #[arg(add = ArgValueCompleter::new(complete::streams))]
    stream: String,
    /// Where to begin: start, end, or a revision (inclusive).
    #[arg(long, value_parser = cursor)]
    from: Option<Cursor>,
    /// Newest first.
    #[arg(long)]
    backwards: bool,
    /// At most this many events.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Follow links to the events they point to.
    #[arg(long)]
    resolve_links: bool,
}

#[derive(clap::Subcommand)]
pub(crate) enum Meta {
    /// Print it.
    #[command(after_help = "\
Examples:
  annals stream meta get orders-1
  annals stream meta get orders-1 -o json")]
    Get {
        /// The stream.
        #[arg(add = ArgValueCompleter::new(complete::streams))]
        stream: String,
    },
    /// Set it, whole: what is not given is gone.
    #[command(after_help = "\
$maxAge, $maxCount and $tb hide events, and the next scavenge takes those for good: a
stream that has events is asked about before one of these is changed.

Examples:
  annals stream meta set orders-1 '{\"$maxCount\": 100}' --yes
  annals stream meta set orders-1 '{\"$maxAge\": 86400, \"owner\": \"shop\"}'")]
    Set {
        /// The stream.
        #[arg(add = ArgValueCompleter::new(complete::streams))]
        stream: String,
        /// The metadata.
        json: String,
        /// The state the metastream must be in: any, no-stream, exists, or its last revision.
        #[arg(long, value_parser = expected, default_value = "any")]
        expect: Expected,
        #[command(flatten)]
        consent: Consent,
    },
}

/// `any`, `no-stream`, `exists` or a revision.
fn expected(text: &str) -> Result<Expected, String> {
    match text {
        "any" => Ok(Expected::Any),
        "no-stream" => Ok(Expected::NoStream),
        "exists" => Ok(Expected::Exists),
        revision => {
            revision.parse().map(Expected::Exactly).map_err(|_| "write any, no-stream, exists or a revision".to_owned())
        }
    }
}

/// What was written.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Written {
    /// The stream.
    stream: String,
    /// The place of the last event in the stream; null where nothing is in it after
    /// this, as when it was deleted.
    revision: Option<u64>,
    /// The place of the last event in the whole log; null: the server did not tell.
    position: Option<u64>,
    /// Events that were written.
    events: usize,
}

/// A stream in a list.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    /// Its name.
    stream: String,
    /// The revision of its last event; null: it has none.
    last_revision: Option<u64>,
    /// How it stands: ended is for ever.
    #[schemars(extend("enum" = ["live", "deleted", "ended"]))]
    state: &'static str,
}

/// What is known of a stream.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Described {
    /// Its name.
    stream: String,
    /// How it stands: ended is for ever.
    #[schemars(extend("enum" = ["live", "deleted", "ended"]))]
    state: &'static str,
    /// The revision of its last event, visible or not; null: it has none.
    last_revision: Option<u64>,
    /// The revision of the first event that readers see; null, as the other properties of
    /// what readers see: there is none.
    first_visible_revision: Option<u64>,
    /// When that was written.
    first_created: Option<Time>,
    /// When the last event that readers see was written.
    last_created: Option<Time>,
    /// The place of that in the whole log.
    last_position: Option<u64>,
    /// Its metadata; null: it has none.
    metadata: Option<Metadata>,
}

/// The metadata of a stream: what the server knows begins with $, the rest is yours.
pub(crate) type Metadata = Map<String, Value>;

/// Metadata as an object.
fn object(json: &str) -> Result<Metadata, Failure> {
    serde_json::from_str(json).map_err(|error| {
        Failure::new(Code::Failed, anyhow::anyhow!("the metadata is no JSON object ({error}): {json}"))
    })
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.connection.client()?;
    let format = arguments.connection.format();
    match arguments.command {
        Command::Append(command) => append(&client, command, format).await,
        Command::Read(command) => read(&client, command, format).await,
        Command::Tail { stream, from, resolve_links, limit } => {
            let source = Source::Stream { name: stream, from, resolve_links };
            follow(&client, source, Events::new(format, Numbering::Revision), limit).await
        }
        Command::Ls { prefix, after, limit, system } => ls(&client, &prefix, after, limit, system, format).await,
        Command::Info { stream } => info(&client, &stream, format).await,
        Command::Delete { stream, expect, consent } => {
            consent.ask(&format!("this hides all events of the stream {stream}"), &stream)?;
            let deleted = client.delete(&stream, expect).await?;
            written(&stream, "deleted", None, deleted.position, 0, format)
        }
        Command::Tombstone { stream, expect, consent } => {
            consent.ask(&format!("this ends the stream {stream} for ever"), &stream)?;
            let ended = client.tombstone(&stream, expect).await?;
            written(&stream, "ended for ever", None, ended.position, 0, format)
        }
        Command::Meta { command: Meta::Get { stream } } => match client.metadata(&stream).await? {
            Some((_, json)) => {
                let json = String::from_utf8_lossy(&json);
                match format {
                    Format::Json => Ok(output::json(&object(&json)?)?),
                    Format::Table => Ok(output::line(&json)?),
                }
            }
            None => Err(Failure::new(Code::NotFound, anyhow::anyhow!("stream \"{stream}\" has no metadata"))),
        },
        Command::Meta { command: Meta::Set { stream, json, expect, consent } } => {
            let metadata = serde_json::from_str::<Metadata>(&json)
                .map_err(|error| Failure::usage(format!("metadata must be a JSON object: {error}")))?;
            if let Some(key) = hiding(&client, &stream, &metadata).await? {
                consent.ask(&format!("this changes {key} of the stream {stream}, which may hide events"), &stream)?;
            }
            let done = client.set_metadata(&stream, expect, json).await?;
            written(&stream, "metadata set", done.revision, done.position, 1, format)
        }
    }
}

/// Tells what a write did.
fn written(
    stream: &str,
    what: &str,
    revision: Option<u64>,
    position: Option<u64>,
    events: usize,
    format: Format,
) -> Result<(), Failure> {
    match format {
        Format::Json => {
            output::json(&Written { stream: stream.to_owned(), revision, position, events })?;
        }
        Format::Table => {
            let revision = revision.map(|revision| format!(", revision {revision}")).unwrap_or_default();
            let position = position.map(|position| format!(", position {position}")).unwrap_or_default();
            output::line(&format!("{stream}: {what}{revision}{position}"))?;
        }
    }
    Ok(())
}

async fn read(client: &Client, command: Read, format: Format) -> Result<(), Failure> {
    let (direction, default) =
        if command.backwards { (Direction::Backwards, Cursor::End) } else { (Direction::Forwards, Cursor::Start) };
    let source = Source::Stream {
        name: command.stream,
        from: command.from.unwrap_or(default),
        resolve_links: command.resolve_links,
    };
    let options = ReadOptions { source, direction, count: command.limit.unwrap_or(u64::MAX) };
    print(client.read(options).await?, Events::new(format, Numbering::Revision)).await
}

async fn ls(
    client: &Client,
    prefix: &str,
    mut after: String,
    limit: Option<u64>,
    system: bool,
    format: Format,
) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut rows = Vec::new();
    while left > 0 {
        let page = u32::try_from(left).unwrap_or(LIST_PAGE).min(LIST_PAGE);
        let streams = client.cluster().list_streams(prefix, &after, page, system).await?;
        let Some(last) = streams.last() else { break };
        after.clone_from(&last.name);
        left -= streams.len() as u64;
        let full = streams.len() == page as usize;
        for stream in streams {
            let state = state(&stream);
            match format {
                Format::Json => {
                    output::json(&Listed { stream: stream.name, last_revision: stream.last_revision, state })?;
                }
                Format::Table => rows.push(vec![
                    stream.name,
                    stream.last_revision.map_or_else(|| "-".to_owned(), |revision| revision.to_string()),
                    state.to_owned(),
                ]),
            }
        }
        if !full {
            break;
        }
    }
    if format == Format::Table {
        output::table(&["STREAM", "LAST REVISION", "STATE"], rows)?;
    }
    Ok(())
}

fn state(stream: &Stream) -> &'static str {
    match (stream.tombstoned, stream.soft_deleted) {
        (true, _) => "ended",
        (false, true) => "deleted",
        (false, false) => "live",
    }
}

async fn info(client: &Client, stream: &str, format: Format) -> Result<(), Failure> {
    let listed = client.cluster().list_streams(stream, "", 1, stream.starts_with('$')).await?;
    let Some(head) = listed.into_iter().find(|listed| listed.name == stream) else {
        return Err(Error::StreamNotFound(stream.to_owned()).into());
    };
    let first = end(client, stream, Direction::Forwards).await?;
    let last = end(client, stream, Direction::Backwards).await?;
    let metadata = if head.tombstoned { None } else { client.metadata(stream).await? };
    let metadata = metadata.map(|(_, json)| String::from_utf8_lossy(&json).into_owned());
    let place = |event: &Option<Resolved>| event.as_ref().and_then(|event| event.original().cloned());
    let (first, last) = (place(&first), place(&last));
    if format == Format::Json {
        output::json(&Described {
            stream: stream.to_owned(),
            state: state(&head),
            last_revision: head.last_revision,
            first_visible_revision: first.as_ref().map(|event| event.revision),
            first_created: first.as_ref().map(|event| event.created.into()),
            last_created: last.as_ref().map(|event| event.created.into()),
            last_position: last.as_ref().map(|event| event.position),
            metadata: metadata.as_deref().map(object).transpose()?,
        })?;
        return Ok(());
    }
    output::line(&format!("stream    {stream}"))?;
    output::line(&format!("state     {}", state(&head)))?;
    if let Some(revision) = head.last_revision {
        output::line(&format!("last      revision {revision}"))?;
    }
    if let (Some(first), Some(last)) = (first, last) {
        let count = last.revision - first.revision + 1;
        let events = if count == 1 { "event" } else { "events" };
        output::line(&format!("visible   {count} {events}, revisions {} to {}", first.revision, last.revision))?;
        output::line(&format!("written   {} to {}", Time::from(first.created), Time::from(last.created)))?;
    }
    if let Some(json) = metadata {
        output::line(&format!("metadata  {json}"))?;
    }
    Ok(())
}

/// The first event that a reader sees in this direction.
async fn end(client: &Client, stream: &str, direction: Direction) -> Result<Option<Resolved>, Failure> {
    let from = match direction {
        Direction::Forwards => Cursor::Start,
        Direction::Backwards => Cursor::End,
    };
    let source = Source::Stream { name: stream.to_owned(), from, resolve_links: false };
    let first = async {
        let mut reading = client.read(ReadOptions { source, direction, count: 1 }).await?;
        while let Some(item) = reading.next().await? {
            if let Item::Event(event) = item {
                return Ok(Some(*event));
            }
        }
        Ok(None)
    };
    match first.await {
        Ok(event) => Ok(event),
        Err(Error::StreamNotFound(_) | Error::StreamDeleted(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What of the new metadata may hide events that readers see now.
async fn hiding(client: &Client, stream: &str, new: &Metadata) -> Result<Option<&'static str>, Failure> {
    const HIDE: [&str; 3] = ["$maxAge", "$maxCount", "$tb"];
    if !HIDE.iter().any(|key| new.contains_key(*key)) || end(client, stream, Direction::Forwards).await?.is_none() {
        return Ok(None);
    }
    let before = match client.metadata(stream).await? {
        Some((_, json)) => serde_json::from_slice(&json).unwrap_or_default(),
        None => Metadata::new(),
    };
    Ok(HIDE.into_iter().find(|key| new.contains_key(*key) && new.get(*key) != before.get(*key)))
}
