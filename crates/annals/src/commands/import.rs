//! `annals import`: events from lines of JSON, or from another server.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use annals_backup::Error;
use annals_backup::history::{Reader, Selection};
use annals_backup::import::{Import, Incoming, Placing, Report};
use annals_backup::line::{self, LINE_BYTES_MAX, Traveller};
use annals_client::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::Connection;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};
use crate::progress::Progress;

/// Events that wait between where they come from and where they go.
const AHEAD: usize = 4_096;

/// How often the state of an import is written.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// Flags of `annals import`.
#[derive(clap::Args)]
#[command(after_help = "\
Streams, order, event ids, types, data and metadata are kept. Times are kept as far as
time does not go back: exactly in a cluster that has no events yet. Revisions count from
0 in every stream. Whatever is in the cluster already is not written again, so that an
import can be run again from its beginning; one with --state goes on where it was with
--resume. Afterwards what came out is compared with what went in, event by event, by count
and by a hash over both sides. Exit code 4: they differ.

What a server keeps for itself (streams that begin with $) is left out unless --system is
given; the metadata of a stream comes with it, and $tb is changed where a stream that
began later than at revision 0 now begins there.

Examples:
  annals import --file events.ndjson
  annals import --from 'kurrentdb://admin:changeit@old:2113?tls=false' --state import.json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,

    /// A file with one event per line, as `annals export` writes it; - for standard
    /// input.
    #[arg(long, value_name = "FILE|-", required_unless_present = "from", conflicts_with = "from")]
    file: Option<PathBuf>,

    /// A server that speaks the KurrentDB protocol, as a connection string.
    #[arg(long, value_name = "URL")]
    from: Option<String>,

    /// Only streams whose name begins like this. May be repeated.
    #[arg(long, value_name = "PREFIX")]
    prefix: Vec<String>,

    /// Also the server's own streams, accounts among them.
    #[arg(long)]
    system: bool,

    /// Put events after those that a stream here has already, whatever those are.
    #[arg(long)]
    append: bool,

    /// Keep in this file how far the import is.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// Go on where the state says.
    #[arg(long, requires = "state")]
    resume: bool,

    /// Do not compare afterwards.
    #[arg(long)]
    no_verify: bool,
}

/// How far an import is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Where events come from.
    source: String,
    /// The position there, or the line, up to which they are in.
    after: u64,
    /// How many that were.
    events: u64,
    /// See [`Import::offsets`].
    offsets: HashMap<String, u64>,
}

/// What an import brought in, and what is there of it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Imported {
    /// Events, of this run.
    events: u64,
    /// Streams that they are of.
    streams: u64,
    /// The position of the last one here.
    position: u64,
    /// Whether some were there before, and were not written again.
    some_were_there: bool,
    /// Whether this run went on with an earlier one.
    resumed: bool,
    /// How long it took, in seconds, without the comparison.
    seconds: f64,
    /// Events a second.
    events_per_second: f64,
    /// Over what was sent, 32 hexadecimal digits.
    sent_hash: String,
    /// Events that were found afterwards; null, as all of what was found: nobody looked
    /// (--no-verify).
    found_events: Option<u64>,
    /// Over what was found, 32 hexadecimal digits.
    found_hash: Option<String>,
    /// Whether the events have the times that they came with.
    times_kept: Option<bool>,
    /// Whether what was found is what was sent.
    equal: Option<bool>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let target = arguments.connection.client()?;
    let source = match (&arguments.from, &arguments.file) {
        (Some(url), _) => without_password(url),
        (None, Some(file)) => file.display().to_string(),
        (None, None) => return Err(Failure::usage("say where events come from: --file or --from")),
    };
    let kept = kept(&arguments, &source)?;
    let resumed = kept.after > 0;
    let selection = Selection { stream: None, prefixes: arguments.prefix.clone(), system: arguments.system };
    let (sender, incoming) = mpsc::channel(AHEAD);
    match (&arguments.from, &arguments.file) {
        (Some(url), _) => {
            let client = Client::from_connection_string(url).map_err(Failure::usage)?;
            let after = Some(kept.after).filter(|after| *after > 0);
            tokio::spawn(send_history(Reader::new(client, selection, after), sender));
        }
        (None, Some(file)) => {
            let lines: Box<dyn BufRead + Send> = match file.as_os_str() == "-" {
                true => Box::new(BufReader::with_capacity(1024 * 1024, io::stdin())),
                false => Box::new(BufReader::with_capacity(1024 * 1024, open(file)?)),
            };
            std::thread::spawn(move || send_lines(lines, &selection, kept.after, &sender));
        }
        (None, None) => {}
    }
    let placing = if resumed || arguments.append { Placing::Next } else { Placing::FromTheBeginning };
    let import = Import::new(&target, placing, kept.offsets.clone());
    let mut keeper = Keeper { path: arguments.state.clone(), kept: Kept { source, ..kept }, written: Instant::now() };
    let (before, mut progress) = (keeper.kept.events, Progress::new());
    let report = import.run(incoming, !arguments.no_verify, |import, events, place| {
        keeper.note(import, before + events, place)?;
        progress.say(|seconds| format!("imported {events} events, {:.0} events/s", events as f64 / seconds.max(0.001)));
        Ok(())
    });
    let result = report.await;
    keeper.write()?;
    let report = result?;
    tell(&report, resumed, arguments.connection.format())?;
    match report.is_equal() {
        true => Ok(()),
        false => Err(Failure::new(Code::Conflict, anyhow::anyhow!("what came out is not what went in"))),
    }
}

fn kept(arguments: &Arguments, source: &str) -> Result<Kept, Failure> {
    let Some(path) = &arguments.state else { return Ok(Kept::default()) };
    let text = match fs::read_to_string(path) {
        Ok(text) if arguments.resume => text,
        Ok(_) => {
            return Err(Failure::usage(format!(
                "{} tells of an import already: go on with --resume, or remove it",
                path.display()
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(error.into()),
    };
    let kept: Kept = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{} is no state of an import: {error}", path.display())))?;
    if kept.source != source {
        return Err(Failure::usage(format!(
            "{} is the state of an import from {}, not from {source}",
            path.display(),
            kept.source
        )));
    }
    Ok(kept)
}

/// A connection string as it may be kept.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound { Code::NotFound } else { Code::Failed };
        Failure::new(code, anyhow::Error::new(error).context(format!("cannot read {}", path.display())))
    })
}

async fn send_history(mut reader: Reader, sender: mpsc::Sender<Result<Incoming, Error>>) {
    loop {
        let next = match reader.next().await {
            Ok(Some(event)) => Ok(Incoming { place: event.position, event: Traveller::from(event) }),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let failed = next.is_err();
        if sender.send(next).await.is_err() || failed {
            return;
        }
    }
}

/// Sends the events of lines after `after`. Blocks.
fn send_lines(
    mut lines: Box<dyn BufRead + Send>,
    selection: &Selection,
    after: u64,
    sender: &mpsc::Sender<Result<Incoming, Error>>,
) {
    let mut number = 0;
    let mut line = Vec::new();
    loop {
        number += 1;
        let next = match read_line(&mut *lines, &mut line) {
            Ok(false) => return,
            Ok(true) if number <= after || line.iter().all(u8::is_ascii_whitespace) => continue,
            Ok(true) => std::str::from_utf8(&line)
                .map_err(|_| Error::Invalid("it is not UTF-8".into()))
                .and_then(line::decode)
                .map(|event| Incoming { event, place: number }),
            Err(error) => Err(Error::Invalid(error.to_string())),
        };
        let next = match next {
            Ok(incoming) if !selection.includes(&incoming.event.stream) => continue,
            Ok(incoming) => Ok(incoming),
            Err(error) => Err(Error::Invalid(format!("line {number}: {error}"))),
        };
        let failed = next.is_err();
        if sender.blocking_send(next).is_err() || failed {
            return;
        }
    }
}

/// Reads a line, no more of it than one may have; false at the end.
fn read_line(lines: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let most = LINE_BYTES_MAX as u64 + 1;
    io::Read::take(&mut *lines, most).read_until(b'\n', line)?;
    if line.len() as u64 == most {
        return Err(io::Error::other(format!("it has more than {LINE_BYTES_MAX} bytes")));
    }
    Ok(!line.is_empty())
}

/// Keeps how far an import is.
struct Keeper {
    path: Option<PathBuf>,
    kept: Kept,
    written: Instant,
}

impl Keeper {
    fn note(&mut self, import: &Import<'_>, events: u64, place: u64) -> Result<(), Error> {
        self.kept.events = events;
        self.kept.after = place;
        if self.path.is_some() && self.kept.offsets.len() != import.offsets().len() {
            self.kept.offsets = import.offsets().clone();
        }
        if self.path.is_some() && self.written.elapsed() >= KEEP_EVERY {
            self.kept.offsets = import.offsets().clone();
            self.write().map_err(|error| Error::Invalid(format!("the state cannot be written: {error}")))?;
            self.written = Instant::now();
        }
        Ok(())
    }

    fn write(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&self.kept)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    }
}

fn tell(report: &Report, resumed: bool, format: Format) -> io::Result<()> {
    let seconds = report.took.as_secs_f64();
    let rate = report.events as f64 / seconds.max(0.001);
    let found = report.found.as_ref();
    if format == Format::Json {
        return output::json(&Imported {
            events: report.events,
            streams: report.streams,
            position: report.position,
            some_were_there: report.repeated_some,
            resumed,
            seconds,
            events_per_second: rate.round(),
            sent_hash: report.sent.to_string(),
            found_events: found.map(|found| found.events),
            found_hash: found.map(|found| found.hash.to_string()),
            times_kept: found.map(|found| found.times_kept),
            equal: found.map(|_| report.is_equal()),
        });
    }
    let these = if resumed { "since it was resumed" } else { "in all" };
    output::line(&format!("events   {} of {} streams, {these}", report.events, report.streams))?;
    output::line(&format!("took     {seconds:.1} s, {rate:.0} events/s"))?;
    output::line(&format!("sent     {}", report.sent))?;
    if let Some(found) = found {
        output::line(&format!("found    {} ({} events)", found.hash, found.events))?;
        output::line(if found.times_kept { "times    kept" } else { "times    not all kept" })?;
        output::line(if report.is_equal() { "equal    yes" } else { "equal    NO" })?;
    }
    Ok(())
}
