//! `annals scavenge`: giving the space of deleted events back.

use std::io::IsTerminal as _;
use std::time::Duration;

use annals_client::Cluster;
use annals_proto::annals::v1::ScavengeReply;
use annals_proto::annals::v1::scavenge_reply::Phase;
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::At;
use crate::failure::{Code, Failure};
use crate::output::{self, Format, Time};

/// How often it is looked how far a scavenge is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Flags of `annals scavenge`.
pub(crate) type Arguments = At<Command>;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Start a scavenge of the whole cluster, unless one runs.
    #[command(after_help = "\
What goes for good: events of deleted streams, events that $maxCount or $tb hide, and
those older than $maxAge, as of now. They leave the whole log and all indexes at once;
the files shrink soon after.

Examples:
  annals scavenge start
  annals scavenge start --wait")]
    Start {
        /// Return when it has ended.
        #[arg(long)]
        wait: bool,
    },
    /// Tell how far the last scavenge is, as the node that answers sees it.
    #[command(after_help = "\
Examples:
  annals scavenge status
  annals scavenge status --wait -o json")]
    Status {
        /// Return when it has ended.
        #[arg(long)]
        wait: bool,
    },
    /// Stop the scavenge that runs, where it is. What was reclaimed stays so.
    #[command(after_help = "\
Examples:
  annals scavenge stop
  annals scavenge stop 0f6d5b52-3b1c-4b62-9a53-7d5f3f1f4a10")]
    Stop {
        /// Only the one with this id.
        id: Option<String>,
    },
}

/// The last scavenge, as the node that answers knows it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Scavenge {
    /// Its id; null: there never was one.
    scavenge: Option<String>,
    /// How it stands; none: there never was one.
    #[schemars(extend("enum" = ["none", "running", "completed", "stopped"]))]
    phase: &'static str,
    /// It looks at events up to this position.
    point: u64,
    /// It has looked at events up to this position.
    position: u64,
    /// Events that it has reclaimed.
    events: u64,
    /// Bytes of data and metadata that those had.
    bytes: u64,
    /// When it began.
    started: Option<Time>,
    /// When it ended; null: it has not yet.
    ended: Option<Time>,
    /// Who answers.
    node: u64,
    /// Bytes of the files with events on that node.
    file_bytes: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let cluster = arguments.connection.client()?.cluster();
    let format = arguments.connection.format();
    let (reply, wait) = match arguments.command {
        Command::Start { wait } => {
            let reply = cluster.start_scavenge().await?;
            if !reply.carried_out {
                eprintln!("a scavenge runs already");
            }
            (reply, wait)
        }
        Command::Status { wait } => (cluster.scavenge_status().await?, wait),
        Command::Stop { id } => (cluster.stop_scavenge(id.as_deref()).await?, false),
    };
    let reply = if wait { ended(&cluster, reply).await? } else { reply };
    tell(&reply, format)?;
    match reply.phase() {
        Phase::Unspecified => Err(Failure::new(Code::NotFound, anyhow::anyhow!("there never was a scavenge"))),
        Phase::Running | Phase::Completed | Phase::Stopped => Ok(()),
    }
}

/// Waits until the scavenge has ended on the node that answers. A node that cannot be
/// reached meanwhile is asked again: the scavenge goes on without it.
async fn ended(cluster: &Cluster, first: ScavengeReply) -> Result<ScavengeReply, Failure> {
    let mut last = first;
    while last.phase() == Phase::Running {
        tokio::time::sleep(LOOK_EVERY).await;
        match cluster.scavenge_status().await {
            Ok(reply) if reply.scavenge == last.scavenge => last = reply,
            // A node that has not applied the start yet knows an earlier one.
            Ok(reply) if reply.started <= last.started => {}
            Ok(reply) => return Ok(reply),
            Err(error) => eprintln!("warning: {error}"),
        }
        if std::io::stderr().is_terminal() {
            eprintln!("{}", progress(&last));
        }
    }
    Ok(last)
}

fn progress(reply: &ScavengeReply) -> String {
    let percent = reply.cursor.saturating_mul(100).checked_div(reply.point).unwrap_or(100);
    format!("{} of {} ({percent} %), {} events reclaimed", reply.cursor, reply.point, reply.events)
}

fn phase(reply: &ScavengeReply) -> &'static str {
    match reply.phase() {
        Phase::Unspecified => "none",
        Phase::Running => "running",
        Phase::Completed => "completed",
        Phase::Stopped => "stopped",
    }
}

fn tell(reply: &ScavengeReply, format: Format) -> std::io::Result<()> {
    if format == Format::Json {
        return output::json(&Scavenge {
            scavenge: (!reply.scavenge.is_empty()).then(|| reply.scavenge.clone()),
            phase: phase(reply),
            point: reply.point,
            position: reply.cursor,
            events: reply.events,
            bytes: reply.bytes,
            started: Time::unless_never(reply.started),
            ended: Time::unless_never(reply.ended),
            node: reply.node,
            file_bytes: reply.file_bytes,
        });
    }
    if reply.phase() == Phase::Unspecified {
        return Ok(());
    }
    output::line(&format!("scavenge  {}, {}", reply.scavenge, phase(reply)))?;
    output::line(&format!("position  {}", progress(reply)))?;
    output::line(&format!("reclaimed {} bytes of data and metadata", reply.bytes))?;
    let ended = Time::unless_never(reply.ended).map(|time| format!(", ended {time}")).unwrap_or_default();
    output::line(&format!("started   {}{ended}", Time::of_ticks(reply.started)))?;
    output::line(&format!("files     {} bytes of events on node {}", reply.file_bytes, reply.node))
}
