//! `annals backup`: making, listing, verifying and restoring backups.

use std::path::PathBuf;

use annals_backup::create::{self, Wanted};
use annals_backup::place::State;
use annals_backup::restore::{self, Until};
use annals_backup::{Error, Kind, Manifest, Place, Position, rfc3339, verify};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::Connection;
use crate::commands::At;
use crate::failure::{Code, Failure};
use crate::output::{self, Format, Time};
use crate::progress::Progress;

/// Flags of `annals backup`.
pub(crate) type Arguments = At<Command>;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Back a cluster up while it is being written.
    #[command(after_help = "\
A backup holds everything that was acknowledged before it began, and whatever came
until then; it is there once its manifest is. Places: a directory, or
s3://BUCKET/PREFIX with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for
other stores than Amazon's, AWS_ENDPOINT in the environment.

Examples:
  annals backup create --to /var/backups/annals
  annals backup create --to s3://backups/annals --incremental --resume")]
    Create {
        /// Where to put it: a directory or s3://BUCKET/PREFIX.
        #[arg(long, value_name = "PLACE")]
        to: String,
        /// Only what came after the newest complete backup of this cluster there.
        #[arg(long)]
        incremental: bool,
        /// Go on with a backup that was interrupted, if there is one.
        #[arg(long)]
        resume: bool,
        /// At most so many bytes of events per second. The node's own limit holds too.
        #[arg(long, value_name = "BYTES", default_value_t = 0)]
        rate: u64,
        /// Take what the node has, also where no majority answers: some of what was
        /// acknowledged may be missing.
        #[arg(long)]
        without_quorum: bool,
    },
    /// List the backups of a place.
    #[command(after_help = "\
Examples:
  annals backup ls --from /var/backups/annals
  annals backup ls --from s3://backups/annals -o json")]
    Ls {
        /// Where they lie.
        #[arg(long, value_name = "PLACE")]
        from: String,
    },
    /// Read a backup, with all that it goes on from, and check every byte.
    #[command(after_help = "\
Checked are the hash of every file, the checksums of every event, that no position is
missing, and the cluster's chain hash at the end of every file, computed anew from the
first event of the full backup on. Exit code 4: something is wrong.

Examples:
  annals backup verify --from /var/backups/annals
  annals backup verify --from s3://backups/annals --backup 20260101T030000Z-full-a1b2c3")]
    Verify {
        /// Where it lies.
        #[arg(long, value_name = "PLACE")]
        from: String,
        /// Its id; the newest complete one by default.
        #[arg(long, value_name = "ID")]
        backup: Option<String>,
    },
    /// Make the data directory of a new cluster out of a backup.
    #[command(after_help = "\
The directory becomes that of the only node of a new cluster; start it with
`annals serve`, and add other nodes as usual. The restored cluster has an identity of its
own: nodes of the old one and of this one never take each other for peers.

Examples:
  annals backup restore --from /var/backups/annals --data /var/lib/annals
  annals backup restore --from s3://backups/annals --data /var/lib/annals \\
      --to-time 2026-01-01T12:00:00Z --node-address annals-0.example:2113")]
    Restore {
        /// Where the backup lies.
        #[arg(long, value_name = "PLACE")]
        from: String,
        /// Its id; the newest complete one by default.
        #[arg(long, value_name = "ID")]
        backup: Option<String>,
        /// The data directory to make: empty, or not there.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Only events up to this position.
        #[arg(long, value_name = "POSITION", conflicts_with = "to_time")]
        to_position: Option<u64>,
        /// Only events that were created up to this time (RFC 3339).
        #[arg(long, value_name = "TIME")]
        to_time: Option<String>,
        /// The host:port by which clients and peers will reach the node.
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2113")]
        node_address: String,
    },
}

/// A line of a list of backups.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "its schema is what it is for; each kind is printed as such")]
pub(crate) enum Listed {
    /// A backup.
    Told(Box<Told>),
    /// A backup that cannot be read.
    Unreadable(Unreadable),
}

/// A backup.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told {
    /// Its id.
    backup: String,
    /// Whether it is complete, or was interrupted.
    #[schemars(extend("enum" = ["complete", "incomplete"]))]
    state: &'static str,
    /// Whether it begins at the start of the log, or where another one ends.
    #[schemars(extend("enum" = ["full", "incremental"]))]
    kind: &'static str,
    /// The backup that it goes on from; null: it is full.
    parent: Option<String>,
    /// The cluster that it is of.
    cluster: String,
    /// When it was begun.
    began: Time,
    /// When it was complete.
    ended: Time,
    /// It has the events after this position.
    after: u64,
    /// It has the events up to this position, which is one of them.
    through: u64,
    /// Over all events of the cluster up to there, 32 hexadecimal digits.
    hash: String,
    /// When its last event was written; null: there is none.
    last_event: Option<Time>,
    /// Events in it.
    events: u64,
    /// Bytes of their records.
    record_bytes: u64,
    /// Bytes of its files.
    file_bytes: u64,
    /// How many files it has.
    files: usize,
    /// How far the log was reclaimed when it was begun; null: it never was.
    reclaimed: Option<Reclaimed>,
}

/// How far a log was reclaimed.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reclaimed {
    /// The id of the last scavenge.
    scavenge: String,
    /// It had looked at events up to this position.
    position: u64,
    /// Events that it had reclaimed.
    events: u64,
}

/// A backup that cannot be read.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unreadable {
    /// Its id.
    backup: String,
    /// That it cannot be read.
    #[schemars(extend("enum" = ["unreadable"]))]
    state: &'static str,
    /// Why.
    problem: String,
}

/// What was verified; that it was printed says that nothing is wrong.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verified {
    /// The backups that were read, the full one first.
    backups: Vec<String>,
    /// The position that they lead to.
    position: u64,
    /// Over all events up to there, 32 hexadecimal digits.
    hash: String,
    /// Files that were read.
    files: u64,
    /// Bytes of these files.
    file_bytes: u64,
    /// Events of which a scavenge has left nothing but the place.
    reclaimed: u64,
}

/// A data directory that was made out of a backup.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Restored {
    /// The id of the new cluster.
    cluster: Uuid,
    /// The id of its only node.
    node: u64,
    /// Where clients and peers will reach that, HOST:PORT.
    address: String,
    /// The directory.
    data: PathBuf,
    /// The position of the last event; 0: none.
    position: u64,
    /// Over all events up to there, 32 hexadecimal digits.
    hash: String,
    /// When the last event was written; null: there is none.
    created: Option<Time>,
    /// The backups that were read, the full one first.
    backups: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let format = arguments.connection.format();
    match arguments.command {
        Command::Create { to, incremental, resume, rate, without_quorum } => {
            let kind = if incremental { Kind::Incremental } else { Kind::Full };
            let wanted = Wanted { kind, resume, bytes_per_second: rate, as_applied: without_quorum };
            create(&arguments.connection, &Place::open(&to)?, wanted, format).await
        }
        Command::Ls { from } => list(&Place::open(&from)?, format).await,
        Command::Verify { from, backup } => check(&Place::open(&from)?, backup.as_deref(), format).await,
        Command::Restore { from, backup, data, to_position, to_time, node_address } => {
            let until = match (to_position, to_time) {
                (Some(position), _) => Until::Position(Position::new(position)),
                (None, Some(text)) => Until::Time(rfc3339::parse(&text).ok_or_else(|| {
                    Failure::usage(format!("\"{text}\" is no time: write it as 2026-01-01T12:00:00Z"))
                })?),
                (None, None) => Until::End,
            };
            let port = node_address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return Err(Failure::usage(format!("\"{node_address}\" is not host:port")));
            }
            let place = Place::open(&from)?;
            let line = place.lineage(backup.as_deref()).await?;
            let mut progress = Progress::new();
            let end = line.last().map_or(0, |manifest| manifest.through);
            let told = |position| progress.say(|seconds| rate_of("restored", position, end, seconds));
            let done = restore::restore(&place, &line, &data, &node_address, until, told).await?;
            let (cluster, position) = (done.restored.cluster, done.restored.position);
            if format == Format::Json {
                return Ok(output::json(&Restored {
                    cluster,
                    node: 1,
                    address: node_address,
                    data,
                    position: position.get(),
                    hash: done.restored.chain_hash.to_string(),
                    created: (position > Position::START).then(|| Time::of_text(rfc3339::exact(done.reached.created))),
                    backups: done.backups,
                })?);
            }
            output::line(&format!("cluster  {cluster} (new), node 1 at {node_address}"))?;
            output::line(&format!("events   {position}, the last of {}", rfc3339::exact(done.reached.created)))?;
            output::line(&format!("hash     {}, as in the backup", done.restored.chain_hash))?;
            Ok(output::line(&format!("start    annals serve --data {} --node-address {node_address}", data.display()))?)
        }
    }
}

async fn create(connection: &Connection, place: &Place, wanted: Wanted, format: Format) -> Result<(), Failure> {
    let client = connection.client()?;
    let mut progress = Progress::new();
    let manifest = create::create(&client, place, wanted, |far| {
        progress.say(|seconds| {
            let rate = far.bytes as f64 / seconds.max(0.001) / 1e6;
            format!("backed up to position {} of {}, {rate:.1} MB/s", far.position, far.through)
        });
    });
    let manifest = manifest.await?;
    if let Err(error) = create::report(&client, &manifest).await {
        eprintln!("warning: the backup is complete, but the cluster could not be told: {error}");
    }
    match format {
        Format::Json => Ok(output::json(&Told::from(&manifest))?),
        Format::Table => {
            output::line(&format!("backup   {}", place.name(&manifest.id)))?;
            output::line(&format!("events   {} to {} ({})", manifest.after + 1, manifest.through, manifest.events))?;
            output::line(&format!("bytes    {} in {} files", manifest.file_bytes, manifest.segments.len()))?;
            Ok(output::line(&format!("hash     {}", manifest.through_hash))?)
        }
    }
}

async fn list(place: &Place, format: Format) -> Result<(), Failure> {
    let found = place.backups().await?;
    if format == Format::Json {
        for one in &found {
            match &one.state {
                State::Complete(manifest) => output::json(&Told::from(manifest))?,
                State::Incomplete(manifest) => output::json(&Told { state: "incomplete", ..Told::from(manifest) })?,
                State::Unreadable(error) => {
                    let problem = error.to_string();
                    output::json(&Unreadable { backup: one.id.clone(), state: "unreadable", problem })?;
                }
            }
        }
        return Ok(());
    }
    let rows = found.iter().map(|one| match &one.state {
        State::Complete(manifest) => row(manifest, "complete"),
        State::Incomplete(manifest) => row(manifest, "incomplete"),
        State::Unreadable(error) => vec![one.id.clone(), format!("unreadable: {error}")],
    });
    Ok(output::table(
        &["BACKUP", "STATE", "AFTER", "THROUGH", "EVENTS", "BYTES", "LAST EVENT", "PARENT"],
        rows.collect(),
    )?)
}

fn row(manifest: &Manifest, state: &str) -> Vec<String> {
    vec![
        manifest.id.clone(),
        state.to_owned(),
        manifest.after.to_string(),
        manifest.through.to_string(),
        manifest.events.to_string(),
        manifest.file_bytes.to_string(),
        last_event(manifest).unwrap_or_default(),
        manifest.parent.clone().unwrap_or_default(),
    ]
}

fn last_event(manifest: &Manifest) -> Option<String> {
    let ticks = manifest.through_created;
    (ticks > 0).then(|| rfc3339::exact(annals_backup::Timestamp::from_ticks(ticks)))
}

impl From<&Manifest> for Told {
    fn from(manifest: &Manifest) -> Self {
        Told {
            backup: manifest.id.clone(),
            state: "complete",
            kind: manifest.kind.as_str(),
            parent: manifest.parent.clone(),
            cluster: manifest.cluster.clone(),
            began: Time::of_text(manifest.began.clone()),
            ended: Time::of_text(manifest.ended.clone()),
            after: manifest.after,
            through: manifest.through,
            hash: manifest.through_hash.clone(),
            last_event: last_event(manifest).map(Time::of_text),
            events: manifest.events,
            record_bytes: manifest.record_bytes,
            file_bytes: manifest.file_bytes,
            files: manifest.segments.len(),
            reclaimed: manifest.reclaimed.as_ref().map(|reclaimed| Reclaimed {
                scavenge: reclaimed.scavenge.clone(),
                position: reclaimed.position,
                events: reclaimed.events,
            }),
        }
    }
}

async fn check(place: &Place, backup: Option<&str>, format: Format) -> Result<(), Failure> {
    let line = place.lineage(backup).await?;
    let mut progress = Progress::new();
    let end = line.last().map_or(0, |manifest| manifest.through);
    let told = |position| progress.say(|seconds| rate_of("verified", position, end, seconds));
    let verified = verify::verify(place, &line, told).await?;
    if format == Format::Json {
        return Ok(output::json(&Verified {
            backups: verified.backups,
            position: verified.reached.position.get(),
            hash: verified.reached.hash.to_string(),
            files: verified.files,
            file_bytes: verified.file_bytes,
            reclaimed: verified.reclaimed,
        })?);
    }
    output::line(&format!("backups  {}", verified.backups.join(", ")))?;
    output::line(&format!("events   {}, of which {} are reclaimed", verified.reached.position, verified.reclaimed))?;
    output::line(&format!("files    {}, {} bytes", verified.files, verified.file_bytes))?;
    output::line(&format!("hash     {}", verified.reached.hash))?;
    Ok(output::line("everything is as it was written")?)
}

fn rate_of(what: &str, position: u64, end: u64, seconds: f64) -> String {
    format!("{what} to position {position} of {end}, {:.0} events/s", position as f64 / seconds.max(0.001))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NotFound(_) => Code::NotFound,
            Error::Invalid(_) => Code::Usage,
            Error::Damaged { .. } | Error::Record { .. } | Error::Diverged { .. } => Code::Conflict,
            Error::Cluster(error) => Code::of(error),
            Error::Place { .. } | Error::Restore(_) | Error::Cancelled => Code::Failed,
        };
        Failure::new(code, error)
    }
}
