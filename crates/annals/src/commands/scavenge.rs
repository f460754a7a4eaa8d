//! `annals scavenge`: giving the space of deleted events back.

use std::io::IsTerminal as _;
use std::time::{Duration, UNIX_EPOCH};

use annals_client::Cluster;
use annals_proto::annals::v1::ScavengeReply;
use annals_proto::annals::v1::scavenge_reply::Phase;
use annals_server::time::rfc3339;
use serde_json::json;

use crate::Connection;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// How often it is looked how far a scavenge is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Flags of `annals scavenge`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,

    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
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
    let time = |ticks: u64| rfc3339(UNIX_EPOCH + Duration::from_micros(ticks / 10));
    let at = |ticks: u64| (ticks > 0).then(|| time(ticks));
    if format == Format::Json {
        return output::json(&json!({
            "scavenge": (!reply.scavenge.is_empty()).then_some(&reply.scavenge),
            "phase": phase(reply),
            "point": reply.point,
            "position": reply.cursor,
            "events": reply.events,
            "bytes": reply.bytes,
            "started": at(reply.started),
            "ended": at(reply.ended),
            "node": reply.node,
            "fileBytes": reply.file_bytes,
        }));
    }
    if reply.phase() == Phase::Unspecified {
        return Ok(());
    }
    output::line(&format!("scavenge  {}, {}", reply.scavenge, phase(reply)))?;
    output::line(&format!("position  {}", progress(reply)))?;
    output::line(&format!("reclaimed {} bytes of data and metadata", reply.bytes))?;
    let ended = at(reply.ended).map(|time| format!(", ended {time}")).unwrap_or_default();
    output::line(&format!("started   {}{ended}", at(reply.started).unwrap_or_default()))?;
    output::line(&format!("files     {} bytes of events on node {}", reply.file_bytes, reply.node))
}
