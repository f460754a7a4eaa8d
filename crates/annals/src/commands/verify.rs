//! `annals verify`: whether a stopped node's files are what was written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use annals_server::verify::{self, Audience, Record, Verification, VerifyError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// How often it is said how far a long verification is.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Bytes that are gathered before they are written to the dump.
const DUMP_BUFFER: usize = 1024 * 1024;

/// Flags of `annals verify`.
#[derive(clap::Args)]
#[command(after_help = "\
The node must be stopped. Nothing is written to its directory. Exit code 0: all
is as it was written; 4: there are problems; 3: there is no such directory; 1:
it could not be looked at, because a node is running on it for example.

What is verified: the node's identity; the log, entry by entry, and whether it
reaches as far as the node acknowledged; every event with its checksums, its
place in the log, in its stream and in all indexes; the hash over all events,
computed anew; and whether log and state fit each other.

With --dump every intact event is one line of JSON, in the order of positions:
position, stream, revision, id, type, created (units of 100 ns since 1970),
json (whether the data is said to be JSON), data and metadata (base64, as a
client reads them); of an event that was reclaimed what is left of it, with
\"reclaimed\": true. With --dump - the result goes to standard error.

Examples:
  annals verify --data /var/lib/annals
  annals verify --data /var/lib/annals -o json | jq .problems
  annals verify --data /var/lib/annals --dump - | jq -r .stream | sort | uniq -c")]
pub(crate) struct Arguments {
    /// The node's data directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Write all events to this file, or to standard output.
    #[arg(long, value_name = "FILE|-")]
    dump: Option<PathBuf>,

    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let to_stdout = arguments.dump.as_ref().is_some_and(|dump| dump.as_os_str() == "-");
    let dump: Option<Box<dyn Write>> = match &arguments.dump {
        None => None,
        Some(_) if to_stdout => Some(Box::new(io::stdout().lock())),
        Some(file) => Some(Box::new(create(file)?)),
    };
    let mut reader =
        Reader { dump: dump.map(|dump| BufWriter::with_capacity(DUMP_BUFFER, dump)), said: Instant::now() };
    let found = verify::verify(&arguments.data, &mut reader).map_err(|error| match error {
        VerifyError::NotThere { .. } => Failure::new(Code::NotFound, error),
        VerifyError::Audience(source) => Failure::from(source),
        VerifyError::InUse { .. } | VerifyError::Lock { .. } => Failure::new(Code::Failed, error),
    })?;
    if let Some(mut dump) = reader.dump {
        dump.flush()?;
    }
    let text = match arguments.output {
        Format::Json => serde_json::to_string(&Verified::from(&found)).map_err(io::Error::from)?,
        Format::Table => table(&found),
    };
    if to_stdout {
        writeln!(io::stderr(), "{text}")?
    } else {
        output::line(&text)?
    };
    match found.problems.count {
        0 => Ok(()),
        1 => Err(Failure::new(Code::Conflict, anyhow::anyhow!("there is 1 problem"))),
        count => Err(Failure::new(Code::Conflict, anyhow::anyhow!("there are {count} problems"))),
    }
}

/// A file that was not there: what is there is not overwritten.
fn create(path: &Path) -> Result<File, Failure> {
    File::create_new(path).map_err(|error| {
        let (code, hint) = match error.kind() {
            io::ErrorKind::AlreadyExists => (Code::Conflict, ": it is there already; remove it, or name another file"),
            _ => (Code::Failed, ""),
        };
        Failure::new(code, anyhow::Error::new(error).context(format!("cannot write {}{hint}", path.display())))
    })
}

/// Who is told while the files are read.
struct Reader {
    dump: Option<BufWriter<Box<dyn Write>>>,
    said: Instant,
}

impl Audience for Reader {
    fn event(&mut self, record: &Record) -> io::Result<()> {
        let Some(dump) = &mut self.dump else { return Ok(()) };
        let mut line = json!({
            "position": record.position().get(),
            "stream": record.stream(),
            "revision": record.revision().get(),
            "id": record.id().uuid(),
            "type": record.event_type(),
            "created": record.created().ticks(),
            "json": record.is_json(),
            "data": BASE64.encode(record.data()),
            "metadata": BASE64.encode(verify::metadata_as_read(record)),
        });
        if record.is_reclaimed() {
            line["reclaimed"] = json!(true);
        }
        serde_json::to_writer(&mut *dump, &line)?;
        dump.write_all(b"\n")
    }

    fn progress(&mut self, task: &'static str, done: u64, of: u64) {
        if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            eprintln!("verifying {task}: {done} of {of}");
        }
    }
}

/// What is in the files of a stopped node, and what is wrong with them.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verified {
    /// Its cluster; null, as node and incarnation: the directory belongs to no node yet.
    cluster: Option<Uuid>,
    /// Its id.
    node: Option<u64>,
    /// The name of the directory, made when the directory was.
    incarnation: Option<Uuid>,
    /// The position of the newest event; 0: none.
    tail: u64,
    /// Over all events up to there, 32 hexadecimal digits.
    chain_hash: String,
    /// Streams that have or had events.
    streams: u64,
    /// The last entry in the state.
    applied_index: Option<u64>,
    /// The first entry in the log; null: the log is empty.
    first_log_index: Option<u64>,
    /// The last entry in the log.
    last_log_index: Option<u64>,
    /// The last entry known here to be on a majority of the voters.
    committed_index: Option<u64>,
    /// The last entry that the log had and does not need any more.
    purged_index: Option<u64>,
    /// The last entry that is known to be acknowledged.
    witnessed_index: Option<u64>,
    /// The term of the node's vote.
    term: Option<u64>,
    /// What is worth knowing and not wrong.
    notes: Vec<String>,
    /// What is wrong; of very many only the first.
    problems: Vec<String>,
    /// How many problems there are in all.
    problem_count: u64,
}

impl From<&Verification> for Verified {
    fn from(found: &Verification) -> Self {
        Verified {
            cluster: found.owner.map(|owner| owner.cluster),
            node: found.owner.map(|owner| owner.node),
            incarnation: found.owner.map(|owner| owner.incarnation),
            tail: found.tail,
            chain_hash: found.chain_hash.to_string(),
            streams: found.streams,
            applied_index: found.applied_index,
            first_log_index: found.log.map(|(first, _)| first),
            last_log_index: found.log.map(|(_, last)| last),
            committed_index: found.committed_index,
            purged_index: found.purged_index,
            witnessed_index: found.witnessed_index,
            term: found.term,
            notes: found.notes.clone(),
            problems: found.problems.told.clone(),
            problem_count: found.problems.count,
        }
    }
}

fn table(found: &Verification) -> String {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let owner = match found.owner {
        Some(owner) => format!("{} of cluster {}", owner.node, owner.cluster),
        None => "- (the directory belongs to no node yet)".to_owned(),
    };
    let log = match found.log {
        Some((first, last)) => format!("{first} to {last}"),
        None => "none".to_owned(),
    };
    let mut lines = vec![
        format!("node              {owner}"),
        format!("newest event      {}", found.tail),
        format!("streams           {}", found.streams),
        format!("chain hash        {}", found.chain_hash),
        format!("applied entry     {}", number(found.applied_index)),
        format!("log entries       {log}"),
        format!("acknowledged      {} (at least)", number(found.witnessed_index)),
        format!("vote of term      {}", number(found.term)),
    ];
    lines.extend(found.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(found.problems.told.iter().map(|problem| format!("PROBLEM: {problem}")));
    let untold = found.problems.count - found.problems.told.len() as u64;
    if untold > 0 {
        lines.push(format!("and {untold} more problems"));
    }
    if found.problems.is_empty() {
        lines.push("everything is as it was written".to_owned());
    }
    lines.join("\n")
}
