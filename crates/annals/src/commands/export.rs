//! `annals export`: events as lines of JSON.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use annals_backup::history::{Reader, Selection};
use annals_backup::line::{self, Rolling, Traveller};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Connection;
use crate::failure::Failure;
use crate::output::Format;
use crate::progress::Progress;

/// Flags of `annals export`.
#[derive(clap::Args)]
#[command(after_help = "\
Each event is one line: stream, revision, position, id, type, created, json (whether the
data is said to be JSON), data and metadata; as JSON where that keeps every byte, else in
base64 as dataBase64 and metadataBase64. What the server keeps for itself (streams that
begin with $) is left out unless --system is given; the metadata of a stream goes with it.
At the end standard error tells how many events there were, the last position, and a hash.

An export that was interrupted goes on with --after-position and the position of the last
line; --to then appends to the file.

Examples:
  annals export --to events.ndjson
  annals export --prefix order- --after-position 120000 | gzip > orders.ndjson.gz")]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,

    /// The file to write; standard output by default.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,

    /// Only this stream.
    #[arg(long, value_name = "NAME", conflicts_with = "prefix")]
    stream: Option<String>,

    /// Only streams whose name begins like this. May be repeated.
    #[arg(long, value_name = "PREFIX")]
    prefix: Vec<String>,

    /// Also the server's own streams, accounts among them.
    #[arg(long)]
    system: bool,

    /// Only what comes after this position.
    #[arg(long, value_name = "POSITION")]
    after_position: Option<u64>,
}

/// What an export wrote, on standard error: standard output may be the events'.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Exported {
    /// Events.
    events: u64,
    /// The position of the last one.
    position: u64,
    /// Over all of them, 32 hexadecimal digits.
    hash: String,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.connection.client()?;
    let selection = Selection { stream: arguments.stream, prefixes: arguments.prefix, system: arguments.system };
    let file = match &arguments.to {
        None => None,
        Some(path) => Some(open(path, arguments.after_position.is_some())?),
    };
    let out: Box<dyn Write + Send> = match &file {
        None => Box::new(io::stdout()),
        Some(file) => Box::new(file.try_clone()?),
    };
    let mut out = BufWriter::with_capacity(1024 * 1024, out);
    let mut reader = Reader::new(client, selection, arguments.after_position);
    let (mut progress, mut hash) = (Progress::new(), Rolling::new(true));
    let (mut events, mut last) = (0_u64, arguments.after_position.unwrap_or(0));
    let result = loop {
        let event = match reader.next().await {
            Ok(Some(event)) => event,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let (position, revision) = (event.position, event.revision);
        let event = Traveller::from(event);
        out.write_all(line::encode(&event, Some(position))?.as_bytes())?;
        out.write_all(b"\n")?;
        hash.add(&event, revision);
        (events, last) = (events + 1, position);
        progress.say(|seconds| {
            format!("exported {events} events, to position {last}, {:.0} events/s", events as f64 / seconds.max(0.001))
        });
    };
    // What was read is kept, also where the server failed.
    out.flush()?;
    if let Some(file) = &file {
        file.sync_all()?;
    }
    match arguments.connection.format() {
        Format::Json => {
            let exported = Exported { events, position: last, hash: hash.to_string() };
            eprintln!("{}", serde_json::to_string(&exported).map_err(io::Error::from)?);
        }
        Format::Table => eprintln!("exported {events} events, to position {last}, hash {hash}"),
    }
    Ok(result?)
}

fn open(path: &PathBuf, append: bool) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    if append {
        options.append(true).create(true);
    } else {
        options.write(true).create_new(true);
    }
    options.open(path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => ": it is there already; remove it, or go on with --after-position",
            _ => "",
        };
        Failure::from(anyhow::Error::new(error).context(format!("cannot write {}{hint}", path.display())))
    })
}
