//! `annals stream append`: one event, or many from standard input.

use std::io::IsTerminal as _;

use annals_client::{Client, Error, Expected, NewEvent};
use anyhow::Context as _;
use bytes::Bytes;
use clap_complete::engine::ArgValueCompleter;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use uuid::Uuid;

use super::{expected, written};
use crate::complete;
use crate::failure::Failure;
use crate::output::Format;

/// Events of one append when many come from standard input.
const BATCH_EVENTS: usize = 500;
/// Bytes of the same.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

#[derive(clap::Args)]
pub(crate) struct Append {
    /// The stream.
    #[arg(add = ArgValueCompleter::new(complete::streams))]
    stream: String,
    /// The event's type.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// The event's data: JSON, @FILE, or - for standard input.
    #[arg(long, value_name = "JSON|@FILE|-", requires = "event_type", allow_hyphen_values = true)]
    data: Option<String>,
    /// The event's metadata: JSON, or @FILE.
    #[arg(long, value_name = "JSON|@FILE", requires = "event_type")]
    metadata: Option<String>,
    /// The event's id. The same id again is not written again.
    #[arg(long, value_name = "UUID", requires = "event_type")]
    id: Option<Uuid>,
    /// The data is not JSON.
    #[arg(long, requires = "event_type")]
    binary: bool,
    /// The state the stream must be in: any, no-stream, exists, or its last revision.
    #[arg(long, value_parser = expected, default_value = "any")]
    expect: Expected,
}

pub(super) async fn append(client: &Client, command: Append, format: Format) -> Result<(), Failure> {
    let Some(event_type) = command.event_type else {
        return append_lines(client, &command.stream, command.expect, format).await;
    };
    let data = match command.data.as_deref() {
        None => Vec::new(),
        Some(data) => payload(data).await?,
    };
    let json = !command.binary && !data.is_empty();
    if json {
        serde_json::from_slice::<&RawValue>(&data).map_err(|error| {
            Failure::usage(format!("the data is not JSON ({error}); say --binary if it need not be"))
        })?;
    }
    let mut event = NewEvent::new(event_type, json, data);
    if let Some(id) = command.id {
        event.id = id;
    }
    if let Some(metadata) = &command.metadata {
        event.metadata = payload(metadata).await?.into();
    }
    let done = client.append(&command.stream, command.expect, vec![event]).await?;
    written(&command.stream, "1 event", done.revision, done.position, 1, format)
}

async fn payload(text: &str) -> Result<Vec<u8>, Failure> {
    if text == "-" {
        let mut bytes = Vec::new();
        tokio::io::stdin().read_to_end(&mut bytes).await?;
        return Ok(bytes);
    }
    match text.strip_prefix('@') {
        Some(file) => Ok(tokio::fs::read(file).await.with_context(|| format!("cannot read {file}"))?),
        None => Ok(text.as_bytes().to_vec()),
    }
}

/// An event as a line of standard input.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    event_type: String,
    data: Option<Box<RawValue>>,
    metadata: Option<Box<RawValue>>,
    id: Option<Uuid>,
}

async fn append_lines(client: &Client, stream: &str, expect: Expected, format: Format) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::usage("give --type and --data, or events on standard input: one JSON object per line"));
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut appender = Appender { client, stream, expect, batch: Vec::new(), bytes: 0, written: 0, last: None };
    let mut number = 0u64;
    while let Some(line) = lines.next_line().await? {
        number += 1;
        if line.trim().is_empty() {
            continue;
        }
        let line: Line =
            serde_json::from_str(&line).map_err(|error| Failure::usage(format!("line {number}: {error}")))?;
        let bytes = |value: Option<Box<RawValue>>| {
            value.map_or_else(Bytes::new, |value| Bytes::from(value.get().as_bytes().to_vec()))
        };
        let data = bytes(line.data);
        let mut event = NewEvent::new(line.event_type, !data.is_empty(), data);
        event.metadata = bytes(line.metadata);
        event.id = line.id.unwrap_or(event.id);
        appender.push(event).await.map_err(|failure| appender.told(failure))?;
    }
    appender.flush().await.map_err(|failure| appender.told(failure))?;
    let (revision, position) = appender.last.map_or((None, None), |done| (done.revision, done.position));
    written(stream, &format!("{} events", appender.written), revision, position, appender.written, format)
}

/// Gathers events and appends them together.
struct Appender<'a> {
    client: &'a Client,
    stream: &'a str,
    expect: Expected,
    batch: Vec<NewEvent>,
    bytes: usize,
    written: usize,
    last: Option<annals_client::Appended>,
}

impl Appender<'_> {
    async fn push(&mut self, event: NewEvent) -> Result<(), Error> {
        self.bytes += event.data.len() + event.metadata.len();
        self.batch.push(event);
        if self.batch.len() >= BATCH_EVENTS || self.bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let events = batch.len();
        let done = self.client.append(self.stream, self.expect, batch).await?;
        self.written += events;
        // A condition on the first append holds for all of them together.
        self.expect = match (self.expect, done.revision) {
            (Expected::NoStream | Expected::Exactly(_), Some(revision)) => Expected::Exactly(revision),
            (expect, _) => expect,
        };
        self.last = Some(done);
        Ok(())
    }

    fn told(&self, error: Error) -> Failure {
        if self.written > 0 {
            eprintln!("{} events were appended before this failed", self.written);
        }
        error.into()
    }
}
