//! `annals dev`: a node or a small cluster on this machine, with nothing to
//! configure.
//!
//! One node runs in this process. Several are processes of their own, so that
//! one can be killed and looked at; each holds the reading end of a pipe from
//! this process and stops when it closes, so that none outlives it, however
//! it ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use annals_server::config::LogFormat;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::failure::{Code, Failure};
use crate::layers::Sources;
use crate::serve::{self, NodeArguments, Stop};

/// How long the nodes of a cluster may take to stop before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Flags of `annals dev`.
#[derive(clap::Args)]
#[command(after_help = "\
Listens on 127.0.0.1 only, without TLS and without authentication.

Examples:
  annals dev                              # one node, its data gone when it stops
  annals dev --nodes 3 --data ./cluster   # three nodes on ports 2113, 2114 and 2115")]
pub(crate) struct Arguments {
    #[command(flatten)]
    node: NodeArguments,

    /// Where data is kept. Default: a temporary directory, removed at the end.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// How many nodes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,

    /// The port of the first node; others follow it.
    #[arg(long, default_value_t = 2113, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Runs until a signal.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    // Held until the end: dropping it removes what is in it.
    let (data, _temporary) = match &arguments.data {
        Some(data) => (std::path::absolute(data)?, None),
        None => {
            let temporary = tempfile::Builder::new().prefix("annals-dev-").tempdir()?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    if arguments.nodes == 1 { one(&arguments, data).await } else { several(&arguments, &data).await }
}

async fn one(arguments: &Arguments, data: PathBuf) -> Result<(), Failure> {
    let address = SocketAddr::from(([127, 0, 0, 1], arguments.port)).to_string();
    let mut flags = arguments.node.flags()?;
    flags.set("listen", address.clone());
    flags.set("bootstrap", vec![address]);
    flags.set("data", data.display().to_string());
    // Samples name admin:changeit, or nobody.
    flags.set("insecure", true);
    let sources = Sources { flags, ..Sources::default() };
    let config = sources.config()?;
    let banner = config.log_format == LogFormat::Text;
    serve::node(config, sources, banner, false).await
}

/// A node that runs as a process of its own.
struct Node {
    number: u16,
    command: String,
    /// Open for as long as the node shall run. Taken out of the child,
    /// because waiting for a child closes what it still holds.
    pipe: Option<ChildStdin>,
    child: Child,
}

async fn several(arguments: &Arguments, data: &Path) -> Result<(), Failure> {
    let last = arguments.port.checked_add(arguments.nodes - 1);
    let ports = arguments.port..=last.ok_or_else(|| Failure::usage("the ports end at 65535"))?;
    let addresses: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    let stop = Stop::new()?;
    let mut nodes = Vec::new();
    for (number, address) in (1..).zip(&addresses) {
        nodes.push(spawn(arguments, number, address, &addresses.join(","), data)?);
    }
    introduce(&nodes, &addresses, data);
    let ended = tokio::select! {
        () = stop.wait(false) => None,
        () = all_ended(&mut nodes) => Some(()),
    };
    for node in &mut nodes {
        // Closes the pipe: the node stops gracefully.
        drop(node.pipe.take());
    }
    if tokio::time::timeout(STOP_TIMEOUT, join(&mut nodes)).await.is_err() {
        eprintln!("nodes did not stop in time, killing them");
        for node in &mut nodes {
            // One that ended just now is no error.
            let _ = node.child.kill().await;
        }
    }
    match ended {
        None => Ok(()),
        Some(()) => Err(Failure::new(Code::Failed, anyhow::anyhow!("all nodes have ended"))),
    }
}

fn spawn(arguments: &Arguments, number: u16, address: &str, all: &str, data: &Path) -> Result<Node, Failure> {
    let program = std::env::current_exe()?;
    let data = data.join(format!("node-{number}"));
    let data = data.display().to_string();
    let mut flags: Vec<&str> = vec!["serve", "--insecure", "--listen", address, "--bootstrap", all, "--data", &data];
    if let Some(log) = &arguments.node.log {
        flags.extend(["--log", log]);
    }
    if let Some(format) = &arguments.node.log_format {
        flags.extend(["--log-format", format]);
    }
    for pair in &arguments.node.set {
        flags.extend(["--set", pair]);
    }
    let mut child = Command::new(&program)
        .args(&flags)
        .arg("--until-stdin-ends")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C goes to this process alone, which then stops the nodes.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("node-{number} | {line}");
            }
        });
    }
    let quoted: Vec<_> = flags.iter().map(|flag| flag.replace(' ', "\\ ")).collect();
    let command = format!("{} {}", program.display(), quoted.join(" "));
    Ok(Node { number, command, pipe: child.stdin.take(), child })
}

fn introduce(nodes: &[Node], addresses: &[String], data: &Path) {
    let hosts = addresses.join(",");
    eprintln!("\n  A cluster of {} nodes, its data in {}\n", nodes.len(), data.display());
    for (node, address) in nodes.iter().zip(addresses) {
        let pid = node.child.id().map(|pid| pid.to_string()).unwrap_or_default();
        eprintln!("  node {}     http://{address}   pid {pid}", node.number);
    }
    eprintln!(
        "\n  clients    kurrentdb://{hosts}?tls=false\
         \n  try        annals cluster status{}\
         \n             kill -9 one of the pids, and append on\
         \n  stop       Ctrl-C\n",
        serve::server_flag(&format!("kurrentdb://{}?tls=false", addresses[0]))
    );
}

/// Says when a node ends. Returns when none is left.
async fn all_ended(nodes: &mut [Node]) {
    let watch = nodes.iter_mut().map(|node| async {
        let status = node.child.wait().await;
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        eprintln!("node-{} | ended ({how}); start it again with:\n  {}", node.number, node.command);
    });
    futures::future::join_all(watch).await;
}

async fn join(nodes: &mut [Node]) {
    for node in nodes {
        // Nothing to do about a child that cannot be waited for.
        let _ = node.child.wait().await;
    }
}
