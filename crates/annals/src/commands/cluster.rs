//! `annals cluster`: operating a cluster.

pub(crate) mod hash;
mod names;
mod progress;
pub(crate) mod replace;
pub(crate) mod scale;
pub(crate) mod status;

use std::time::Duration;

use annals_client::Cluster;
use clap_complete::engine::ArgValueCandidates;
use schemars::JsonSchema;
use serde::Serialize;

use self::progress::Progress;
use crate::commands::At;
use crate::complete;
use crate::consent::{self, Consent};
use crate::duration::time;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// Flags of `annals cluster`.
pub(crate) type Arguments = At<Command>;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Who is in the cluster and how it is doing, as the node that answers sees it.
    #[command(after_help = "\
Examples:
  annals cluster status
  annals cluster status --server 'kurrentdb://127.0.0.1:2114?tls=false' -o json")]
    Status,
    /// Add an empty node that waits to be added. Nodes with --join do that by themselves.
    #[command(after_help = "\
Start the node with an empty data directory and without --bootstrap. It follows without
a vote until it has caught up; then it gets one, unless there are `voters_max` already.

Examples:
  annals cluster add 127.0.0.1:2116
  annals cluster add node-4.example:2113 -o json")]
    Add {
        /// Where the node listens.
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Give a learner that has caught up a vote now.
    #[command(after_help = "\
Examples:
  annals cluster promote annals-3
  annals cluster promote 4")]
    Promote {
        /// The learner, by its name or id.
        #[arg(value_name = "NAME|ID", add = ArgValueCandidates::new(complete::nodes))]
        node: String,
    },
    /// Take a node out of the cluster for good. Its id is never used again.
    #[command(after_help = "\
Refused when the voters that are left could not decide anything. --force does it all the
same; the cluster then takes no appends until enough of them are back.

Examples:
  annals cluster remove annals-4
  annals cluster remove 2 --yes
  annals cluster remove annals-2 --force")]
    Remove {
        /// The node, by its name or id.
        #[arg(value_name = "NAME|ID", add = ArgValueCandidates::new(complete::nodes))]
        node: String,
        #[command(flatten)]
        consent: Consent,
        /// Also if those that are left cannot decide anything. Asks for the node's name.
        #[arg(long)]
        force: bool,
        /// The answer to that question, where there is nobody to ask.
        #[arg(long, value_name = "NAME", requires = "force")]
        confirm: Option<String>,
    },
    /// Put a new node into the place of one that is gone or has lost its disk.
    #[command(after_help = "\
Start the new node with an empty data directory, at the same address as the old one or
at another. It catches up, and then takes the place of the old one in one change. The
old one must not answer any more, or answer with another data directory.

Examples:
  annals cluster replace annals-2 --with annals-2.annals-headless.default.svc:2113
  annals cluster replace 2 --with node-4.example:2113 --timeout 1h --yes")]
    Replace {
        /// The node that is gone, by its name or id.
        #[arg(value_name = "NAME|ID", add = ArgValueCandidates::new(complete::nodes))]
        node: String,
        /// Where the new one listens.
        #[arg(long, value_name = "HOST:PORT")]
        with: String,
        /// How long to wait for it.
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time)]
        timeout: Duration,
        #[command(flatten)]
        consent: Consent,
    },
    /// Make the cluster smaller, or wait until it is larger. Replicas do not count.
    #[command(after_help = "\
Down: the nodes with the highest names leave one by one, each only when the others can
decide without it. Up: says how to start more nodes, and waits until they vote.

Examples:
  annals cluster scale 3 --yes && kubectl scale statefulset annals --replicas=3
  kubectl scale statefulset annals --replicas=5 && annals cluster scale 5")]
    Scale {
        /// How many nodes there are to be.
        #[arg(value_name = "N")]
        nodes: usize,
        #[command(flatten)]
        consent: Consent,
        /// Do not wait for new nodes.
        #[arg(long)]
        no_wait: bool,
        /// How long it may take in all.
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time)]
        timeout: Duration,
    },
    /// Hand leadership over.
    #[command(after_help = "\
Examples:
  annals cluster transfer-leader
  annals cluster transfer-leader --to annals-0")]
    TransferLeader {
        /// To this node, by its name or id. Default: the most advanced other voter.
        #[arg(long, value_name = "NAME|ID", add = ArgValueCandidates::new(complete::nodes))]
        to: Option<String>,
    },
    /// Compare the events of all nodes by a hash over all of them. Exit code 4 if they differ.
    #[command(after_help = "\
Examples:
  annals cluster hash
  annals cluster hash --position 100000 -o json")]
    Hash {
        /// Up to this position. Default: the newest one that all nodes have.
        #[arg(long, value_name = "POSITION")]
        position: Option<u64>,
    },
}

/// A node that was added, promoted, removed, or leads now.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changed {
    /// Its id.
    node: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = arguments.connection.client()?;
    let cluster = client.cluster();
    let format = arguments.connection.format();
    match arguments.command {
        Command::Status => status::print(&cluster.status().await?, format)?,
        Command::Add { address } => done(cluster.add(&address).await?, "added as a learner", format)?,
        Command::Promote { node } => {
            let node = named(&cluster, &node).await?;
            done(cluster.promote(node).await?, "votes", format)?;
        }
        Command::Remove { node, consent, force, confirm } => {
            let node = to_remove(&cluster, &node, &consent, force, confirm.as_deref()).await?;
            done(cluster.remove(node, force).await?, "removed", format)?;
        }
        Command::Replace { node, with, timeout, consent } => {
            replace::run(&cluster, &node, &with, &consent, Progress::new(timeout), format).await?;
        }
        Command::Scale { nodes, consent, no_wait, timeout } => {
            let wanted = scale::Wanted { nodes, consent, no_wait };
            scale::run(&cluster, wanted, Progress::new(timeout), format).await?;
        }
        Command::TransferLeader { to } => {
            let to = match to {
                Some(to) => Some(named(&cluster, &to).await?),
                None => None,
            };
            done(cluster.transfer_leader(to).await?, "leads", format)?;
        }
        Command::Hash { position } => {
            hash::run(&arguments.connection.settings()?, &cluster, position, format).await?;
        }
    }
    Ok(())
}

/// The id of a node that is named by it or otherwise.
async fn named(cluster: &Cluster, node: &str) -> Result<u64, Failure> {
    match node.parse() {
        Ok(id) => Ok(id),
        Err(_) => names::id(&cluster.status().await?, node),
    }
}

/// The id of a node that is to be removed, after whoever asks has confirmed it.
async fn to_remove(
    cluster: &Cluster,
    node: &str,
    consent: &Consent,
    force: bool,
    answer: Option<&str>,
) -> Result<u64, Failure> {
    let status = cluster.status().await?;
    if !force {
        let id = names::id(&status, node)?;
        let name =
            status.nodes.iter().find(|node| node.id == id).map_or_else(|| id.to_string(), |node| node.name.clone());
        consent.ask(&format!("this removes {name} (node {id}) from the cluster for good"), &name)?;
        return Ok(id);
    }
    let node = names::node(&status, node)?;
    match answer {
        Some(answer) if answer == node.name => {}
        Some(_) => return Err(Failure::new(Code::Failed, anyhow::anyhow!("not confirmed: the name is {}", node.name))),
        None => {
            let what = format!(
                "without {} (node {}) the cluster may take no appends until more of the other nodes are back",
                node.name, node.id
            );
            consent::ask(&what, &node.name, &format!("--confirm {}", node.name))?;
        }
    }
    Ok(node.id)
}

fn done(node: u64, what: &str, format: Format) -> std::io::Result<()> {
    match format {
        Format::Table => output::line(&format!("node {node} {what}")),
        Format::Json => output::json(&Changed { node }),
    }
}
