//! `annals node`: one node, mostly before and after it is restarted.

mod local;
pub(crate) mod recover;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use annals_client::Maintenance;
use annals_proto::annals::v1::drain_progress::Step;
use annals_proto::annals::v1::{DrainProgress, InfoReply, MaintenanceLease};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Connection;
use crate::commands::{At, logs};
use crate::duration::time;
use crate::failure::{Code, Failure};
use crate::output::{self, Format, Time};

/// Flags of `annals node`.
pub(crate) type Arguments = At<Command>;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Get a node out of everybody's way before it is restarted.
    #[command(after_help = "\
The node takes the cluster's maintenance lease and waits for it while another
node has it, or while a voter is down or behind: restarts come one after the
other, whoever asks for them. Then it is not ready any more, its subscriptions
go elsewhere, and so does leadership. It follows and votes on. The lease is
given back when the node is ready after its restart, or by `annals node resume`.

Exit code 0: drained, or no member of a cluster; 5: not drained in time.

Examples:
  annals node drain --server 'kurrentdb://node-2.example:2113'
  annals node drain --local --timeout 80s")]
    Drain {
        #[command(flatten)]
        local: Local,

        /// How long all of it may take, as 80s or 10m.
        #[arg(long, value_name = "TIME", default_value = "80s", value_parser = time)]
        timeout: Duration,

        /// How long a node that does not come back keeps others waiting. Default: 5m.
        #[arg(long, value_name = "TIME", value_parser = time)]
        lease: Option<Duration>,
    },
    /// Take a drain back: the node serves as before.
    #[command(after_help = "\
Examples:
  annals node resume --server 'kurrentdb://node-2.example:2113'
  annals node resume --local")]
    Resume {
        #[command(flatten)]
        local: Local,
    },
    /// Whether a node is ready, check by check. Exit code 6 if it is not.
    #[command(after_help = "\
Examples:
  annals node check
  annals node check --local -o json")]
    Check {
        #[command(flatten)]
        local: Local,
    },
    /// Who a node is, and how it is doing.
    #[command(after_help = "\
Examples:
  annals node info
  annals node info --local -o json")]
    Info {
        #[command(flatten)]
        local: Local,
    },
    #[command(flatten)]
    Logs(logs::Command),
    /// Go on with what one stopped node has, when most of the cluster is lost for good.
    Recover(recover::Arguments),
}

/// How the node on this machine is found.
#[derive(clap::Args)]
pub(crate) struct Local {
    /// The node that is configured here, in the environment and in files, over loopback,
    /// with the token that it leaves in its data directory.
    #[arg(long)]
    local: bool,

    /// With --local: its TOML file with options; several are read in their order.
    #[arg(long, value_name = "FILE", env = "ANNALS_CONFIG", hide_env_values = true)]
    config: Vec<PathBuf>,

    /// With --local: its data directory.
    #[arg(long, value_name = "DIR", requires = "local")]
    data: Option<PathBuf>,

    /// With --local: where it listens.
    #[arg(long, value_name = "IP:PORT", requires = "local")]
    listen: Option<String>,
}

/// Whose turn it is to be maintained.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lease {
    /// The node.
    node: u64,
    /// Since when.
    since: Time,
    /// Until when others wait for it.
    until: Time,
}

/// A step of a drain.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Drained {
    /// What is reached; the last one is drained or notAMember.
    #[schemars(extend("enum" = [
        "waiting", "leaseHeld", "notAccepting", "leadershipHandedOver", "flushed", "drained", "notAMember", "unknown"
    ]))]
    step: &'static str,
    /// The same for people.
    text: String,
    /// Milliseconds since the drain began.
    elapsed_ms: u64,
}

/// A drain that was taken back.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resumed {
    /// The node.
    node: u64,
    /// Whether it was drained.
    was_drained: bool,
}

/// Whether a node is ready.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Readiness {
    /// Whether all checks hold.
    ready: bool,
    /// Each check by its name: ok, or what is not.
    checks: BTreeMap<String, String>,
}

/// A node, as it sees itself.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Info {
    /// The id of its cluster; empty: it has joined none yet.
    cluster: String,
    /// Its id; 0: it has none yet.
    node: u64,
    /// The name of its data directory, made when the directory was.
    incarnation: String,
    /// The name of this start of it.
    boot: String,
    /// Where clients and peers reach it, HOST:PORT.
    address: String,
    /// The release that it runs.
    version: String,
    /// What its process is at, as starting or serving.
    phase: String,
    /// What it is in the cluster, as leader or follower.
    role: String,
    /// The node that leads; null: none is known.
    leader: Option<u64>,
    /// Raft's term.
    term: u64,
    /// The index of the last entry known to be on a majority of the voters.
    committed_index: u64,
    /// The index of the last entry that it has applied.
    applied_index: u64,
    /// The index of the last entry of its log.
    last_log_index: u64,
    /// The position of the newest event that it has applied; 0: none.
    tail: u64,
    /// Whether all checks hold.
    ready: bool,
    /// Whether it is drained.
    drained: bool,
    /// Each check by its name: ok, or what is not.
    checks: BTreeMap<String, String>,
    /// Whose turn it is to be maintained; null: nobody's.
    lease: Option<Lease>,
    /// Seconds since it was started.
    uptime_seconds: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { connection, command } = arguments;
    let format = connection.format();
    match command {
        Command::Drain { local, timeout, lease } => {
            drain(&maintenance(&connection, &local)?, timeout, lease, format).await
        }
        Command::Resume { local } => resume(&maintenance(&connection, &local)?, format).await,
        Command::Check { local } => check(&maintenance(&connection, &local)?, format).await,
        Command::Info { local } => Ok(info(&maintenance(&connection, &local)?.info().await?, format)?),
        Command::Logs(command) => logs::run(command, &connection.client()?.logs(), format).await,
        Command::Recover(arguments) => recover::run(&arguments, format),
    }
}

fn maintenance(connection: &Connection, local: &Local) -> Result<Maintenance, Failure> {
    if local.local {
        return Ok(local::client(local)?.maintenance());
    }
    if connection.settings()?.discover {
        return Err(Failure::usage(
            "name one node with --server, without +discover: it is that node which is maintained",
        ));
    }
    Ok(connection.client()?.maintenance())
}

async fn drain(
    maintenance: &Maintenance,
    timeout: Duration,
    lease: Option<Duration>,
    format: Format,
) -> Result<(), Failure> {
    let mut told = Ok(());
    maintenance
        .drain(timeout, lease, |step| {
            if told.is_ok() {
                told = tell(step, format);
            }
        })
        .await?;
    Ok(told?)
}

fn tell(step: &DrainProgress, format: Format) -> std::io::Result<()> {
    let seconds = step.elapsed_ms as f64 / 1_000.0;
    match format {
        Format::Table => output::line(&format!("{seconds:7.1} s  {}", step.text)),
        Format::Json => {
            output::json(&Drained { step: name(step.step()), text: step.text.clone(), elapsed_ms: step.elapsed_ms })
        }
    }
}

fn name(step: Step) -> &'static str {
    match step {
        Step::Unspecified => "unknown",
        Step::Waiting => "waiting",
        Step::LeaseHeld => "leaseHeld",
        Step::NotAccepting => "notAccepting",
        Step::LeadershipHandedOver => "leadershipHandedOver",
        Step::Flushed => "flushed",
        Step::Drained => "drained",
        Step::NotAMember => "notAMember",
    }
}

async fn resume(maintenance: &Maintenance, format: Format) -> Result<(), Failure> {
    let reply = maintenance.resume().await?;
    match format {
        Format::Json => output::json(&Resumed { node: reply.node, was_drained: reply.was_drained })?,
        Format::Table if reply.was_drained => output::line(&format!("node {} serves again", reply.node))?,
        Format::Table => output::line(&format!("node {} was not drained", reply.node))?,
    }
    Ok(())
}

async fn check(maintenance: &Maintenance, format: Format) -> Result<(), Failure> {
    let unhealthy = |error: anyhow::Error| Failure::new(Code::Unhealthy, error);
    let info = maintenance.info().await.map_err(|error| unhealthy(error.into()))?;
    match format {
        Format::Json => output::json(&Readiness { ready: info.ready, checks: checks(&info) })?,
        Format::Table => {
            for check in &info.checks {
                match check.failure.as_str() {
                    "" => output::line(&format!("[+]{} ok", check.name))?,
                    failure => output::line(&format!("[-]{} failed: {failure}", check.name))?,
                }
            }
        }
    }
    if info.ready { Ok(()) } else { Err(unhealthy(anyhow::anyhow!("node {} is not ready", info.node))) }
}

/// `ok`, or what is not.
fn checks(info: &InfoReply) -> BTreeMap<String, String> {
    let check = |failure: &str| if failure.is_empty() { "ok".to_owned() } else { failure.to_owned() };
    info.checks.iter().map(|each| (each.name.clone(), check(&each.failure))).collect()
}

fn info(info: &InfoReply, format: Format) -> std::io::Result<()> {
    if format == Format::Json {
        return output::json(&Info {
            cluster: info.cluster.clone(),
            node: info.node,
            incarnation: info.incarnation.clone(),
            boot: info.boot.clone(),
            address: info.address.clone(),
            version: info.version.clone(),
            phase: info.phase.clone(),
            role: info.role.clone(),
            leader: (info.leader != 0).then_some(info.leader),
            term: info.term,
            committed_index: info.committed_index,
            applied_index: info.applied_index,
            last_log_index: info.last_log_index,
            tail: info.tail,
            ready: info.ready,
            drained: info.drained,
            checks: checks(info),
            lease: info.lease.as_ref().map(Lease::from),
            uptime_seconds: info.uptime_seconds,
        });
    }
    let none = |text: &str, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text.to_owned() };
    let leader = if info.leader == 0 { "none".to_owned() } else { format!("node {}", info.leader) };
    let failed = info.checks.iter().filter(|check| !check.failure.is_empty());
    let failed: Vec<_> = failed.map(|check| format!("{} ({})", check.name, check.failure)).collect();
    let ready = if info.ready { "yes".to_owned() } else { format!("no: {}", failed.join("; ")) };
    let lease = info.lease.as_ref().map_or_else(|| "nobody has it".to_owned(), lease_text);
    for (name, value) in [
        ("node", format!("{}, {} ({})", info.node, info.role, info.phase)),
        ("address", info.address.clone()),
        ("cluster", none(&info.cluster, "none: this node waits to be added")),
        ("directory", info.incarnation.clone()),
        ("started", format!("{} s ago, as {}", info.uptime_seconds, none(&info.boot, "nobody yet"))),
        ("version", info.version.clone()),
        ("leader", format!("{leader}, term {}", info.term)),
        ("log", format!("{} committed {} applied {}", info.last_log_index, info.committed_index, info.applied_index)),
        ("newest event", info.tail.to_string()),
        ("ready", ready),
        ("drained", if info.drained { "yes" } else { "no" }.to_owned()),
        ("maintenance", lease),
    ] {
        output::line(&format!("{name:13} {value}"))?;
    }
    Ok(())
}

/// Who has the maintenance lease, for people.
pub(crate) fn lease_text(lease: &MaintenanceLease) -> String {
    format!("node {} has the lease until {}", lease.node, Time::of_ticks(lease.until))
}

impl From<&MaintenanceLease> for Lease {
    fn from(lease: &MaintenanceLease) -> Self {
        Lease { node: lease.node, since: Time::of_ticks(lease.since), until: Time::of_ticks(lease.until) }
    }
}
