//! The one binary: a node, a cluster on this machine, and the command line.
//!
//! Standard output is data, standard error is talk. Exit codes are the same
//! everywhere: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5
//! unavailable, 6 unhealthy.
#![forbid(unsafe_code)]

mod codes;
mod commands;
mod complete;
mod consent;
mod contexts;
mod dev;
#[cfg(test)]
mod documented;
mod duration;
mod events;
mod failure;
mod layers;
mod logging;
mod output;
mod processor;
mod progress;
mod reload;
mod schemas;
mod serve;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use crate::commands::{
    all, backup, bench, certs, cluster, completion, config, context, doctor, explain, export, import, metrics, node,
    psub, reference, scavenge, stream, user, verify, version,
};
use crate::failure::Failure;
use crate::output::Format;

/// Allocation is hot in a server that copies bytes from sockets to disks, and
/// the system's allocator returns memory of short-lived threads badly.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A replicated event log that KurrentDB clients use unchanged.
#[derive(Parser)]
#[command(
    name = "annals",
    version = annals_server::version::VERSION,
    arg_required_else_help = true,
    after_help = "\
Examples:
  annals dev                                              # a node to try things with
  annals stream append orders-1 --type OrderPlaced --data '{\"total\": 42}'"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where `annals dev` listens.
pub(crate) const DEFAULT_URL: &str = "kurrentdb://127.0.0.1:2113?tls=false";

/// Options of every command that talks to a server.
#[derive(clap::Args, Clone)]
pub(crate) struct Connection {
    /// Where the server is, as a connection string. Default: $ANNALS_URL, else the
    /// selected context's server, else kurrentdb://127.0.0.1:2113?tls=false.
    #[arg(long, value_name = "URL", global = true)]
    server: Option<String>,

    /// A server by its name in `annals context ls`. Default: $ANNALS_CONTEXT.
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "server",
          add = ArgValueCandidates::new(complete::contexts))]
    context: Option<String>,

    /// How to print what was found.
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true)]
    output: Format,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node.
    Serve(serve::Arguments),
    /// Run a node, or a cluster, to develop with.
    Dev(dev::Arguments),
    /// Work with streams.
    Stream(stream::Arguments),
    /// Work with the whole log.
    All(all::Arguments),
    /// Work with consumer groups (persistent subscriptions).
    Psub(psub::Arguments),
    /// Work with accounts: who may call, and as what.
    User(user::Arguments),
    /// Operate a cluster.
    Cluster(cluster::Arguments),
    /// Operate one node: logs, and what comes before and after a restart.
    Node(node::Arguments),
    /// Give the space of deleted, truncated and expired events back.
    Scavenge(scavenge::Arguments),
    /// Back a cluster up, and make a new one out of a backup.
    Backup(backup::Arguments),
    /// Write events as lines of JSON.
    Export(export::Arguments),
    /// Bring events in from lines of JSON, or from another server.
    Import(import::Arguments),
    /// Put load on a server or a cluster, and measure it.
    Bench(bench::Arguments),
    /// Make a CA and certificates for a test cluster.
    Certs(certs::Arguments),
    /// Check the files of a node that is stopped, and print what is in them.
    Verify(verify::Arguments),
    /// Look for what is wrong, here and at a server.
    Doctor(doctor::Arguments),
    /// Explain an error code.
    Explain(explain::Arguments),
    /// Give servers names.
    Context(context::Arguments),
    /// Explain the configuration.
    Config(config::Arguments),
    /// Explain the metrics.
    Metrics(metrics::Arguments),
    /// Write what a shell needs to complete commands.
    Completion(completion::Arguments),
    /// Print pages of the documentation that are made from the program.
    #[command(hide = true)]
    Reference(reference::Arguments),
    /// Tell what this is.
    Version(version::Arguments),
}

/// How long tasks may take to end once their work is done.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);

fn main() -> ExitCode {
    complete::answer(Cli::command);
    let cli = Cli::parse();
    if let Some(instructions) = processor::lacks() {
        eprintln!(
            "error: this processor has no {instructions}, which every x86-64 server since 2011 has; annals cannot run on it"
        );
        return ExitCode::FAILURE;
    }
    #[cfg(feature = "seeded-bugs")]
    match annals_server::seeded::choose() {
        Ok(Some(bug)) => eprintln!("annals: SEEDED BUG {bug:?}: this process makes a mistake on purpose"),
        Ok(None) => {}
        Err(unknown) => return Failure::usage(unknown).report(),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli.command));
    // Tasks let go of what they hold before the process ends under them, but a
    // thread that hangs in a read of a disk must not hold it up for ever.
    runtime.shutdown_timeout(LINGER);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Dev(arguments) => dev::run(arguments).await,
        Command::Stream(arguments) => stream::run(arguments).await,
        Command::All(arguments) => all::run(arguments).await,
        Command::Psub(arguments) => psub::run(arguments).await,
        Command::User(arguments) => user::run(arguments).await,
        Command::Cluster(arguments) => cluster::run(arguments).await,
        Command::Node(arguments) => node::run(arguments).await,
        Command::Scavenge(arguments) => scavenge::run(arguments).await,
        Command::Backup(arguments) => backup::run(arguments).await,
        Command::Export(arguments) => export::run(arguments).await,
        Command::Import(arguments) => import::run(arguments).await,
        Command::Bench(arguments) => bench::run(arguments).await,
        Command::Certs(arguments) => certs::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Doctor(arguments) => doctor::run(arguments).await,
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Context(arguments) => context::run(arguments),
        Command::Config(arguments) => config::run(&arguments),
        Command::Metrics(arguments) => metrics::run(&arguments),
        Command::Completion(arguments) => completion::run(&arguments),
        Command::Reference(arguments) => reference::run(&arguments, Cli::command()),
        Command::Version(arguments) => version::run(&arguments),
    }
}
