//! `annals node recover`: going on with one node's disk when a quorum is lost.

use std::path::PathBuf;

use annals_server::recover::{self, RecoverError, Recovery, Survivor};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::consent;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// What is to be typed.
const WORDS: &str = "lose data";

/// Flags of `annals node recover`.
#[derive(clap::Args)]
#[command(after_help = "\
Only when most voters are lost for good: with a quorum left, remove the lost
nodes instead (annals cluster remove). Stop all nodes that are left, and take
the disk with the highest last log entry.

The node keeps all events that it has, and will be the only member of a cluster
with a new name. Entries that only the lost nodes had are lost, also those that
they had acknowledged. Other nodes of the old cluster are refused from then on:
empty their directories and add them anew (annals cluster add).

Examples:
  annals node recover --data /var/lib/annals --unsafe-new-membership node-1.example:2113
  annals node recover --data /var/lib/annals --unsafe-new-membership node-1.example:2113 --yes-lose-data")]
pub(crate) struct Arguments {
    /// The stopped node's data directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// The members from now on: the `node_address` of this node, and no other.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
    unsafe_new_membership: Vec<String>,

    /// Do not ask.
    #[arg(long)]
    yes_lose_data: bool,
}

/// A node that goes on alone.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    /// The cluster that it was in.
    former_cluster: Uuid,
    /// The cluster of which it is the only member now.
    cluster: Uuid,
    /// Its id.
    node: u64,
    /// Its address, HOST:PORT.
    address: String,
    /// The members of the old cluster that it knew of.
    former_members: Vec<Member>,
    /// Raft's term before.
    former_term: u64,
    /// Raft's term now.
    term: u64,
    /// The last entry that its log had.
    last_log_index: u64,
    /// The last entry that it knew to be on a majority of the voters.
    committed_index_known: u64,
    /// The last entry that it had applied.
    applied_index: u64,
    /// The last entry that it had acknowledged itself, where its log ends before that:
    /// those between are lost.
    acknowledged_beyond: Option<u64>,
    /// The position of its newest event before; 0: none.
    tail: u64,
    /// The entry that ends the old cluster.
    recovered_at_index: u64,
}

/// A member of the old cluster.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Member {
    /// Its id.
    id: u64,
    /// Its address, HOST:PORT.
    address: String,
    /// Whether it voted.
    voter: bool,
}

pub(super) fn run(arguments: &Arguments, format: Format) -> Result<(), Failure> {
    let address = address(&arguments.unsafe_new_membership)?;
    let recovery = Recovery::look(&arguments.data).map_err(refused)?;
    let survivor = recovery.survivor().clone();
    if format == Format::Table {
        describe(&survivor)?;
    }
    if !arguments.yes_lose_data {
        consent::ask("this cannot be taken back", WORDS, "--yes-lose-data")?;
    }
    let recovered = recovery.carry_out(address, recover::now()).map_err(refused)?;
    if format == Format::Json {
        let member =
            |(id, address, voter): &(u64, String, bool)| Member { id: *id, address: address.clone(), voter: *voter };
        return Ok(output::json(&Outcome {
            former_cluster: survivor.cluster,
            cluster: recovered.cluster,
            node: recovered.node,
            address: address.to_owned(),
            former_members: survivor.members.iter().map(member).collect(),
            former_term: survivor.term,
            term: recovered.term,
            last_log_index: survivor.last_log,
            committed_index_known: survivor.committed,
            applied_index: survivor.applied,
            acknowledged_beyond: survivor.acknowledged_beyond,
            tail: survivor.tail,
            recovered_at_index: recovered.index,
        })?);
    }
    output::line(&format!(
        "\ndone: node {} is the only member of cluster {}, from entry {} on\n\
         next: start it at {address}, then empty the other nodes' directories, start them, and `annals cluster add` each",
        recovered.node, recovered.cluster, recovered.index
    ))?;
    Ok(())
}

/// The one address that there may be.
fn address(members: &[String]) -> Result<&str, Failure> {
    let [address] = members else {
        return Err(Failure::usage(
            "name this node alone: two disks of a cluster that lost its quorum may differ, and only one can be gone on \
             with. The other nodes are added anew, with empty directories",
        ));
    };
    let sound = |host: &str| {
        !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']'))
    };
    match address.rsplit_once(':') {
        Some((host, port)) if sound(host) && port.parse::<u16>().is_ok_and(|port| port != 0) => Ok(address),
        _ => Err(Failure::usage(format!("\"{address}\" is not host:port"))),
    }
}

fn describe(survivor: &Survivor) -> std::io::Result<()> {
    let Survivor { cluster, node, members, term, last_log, applied, committed, tail, acknowledged_beyond } = survivor;
    output::line(&format!("cluster          {cluster}"))?;
    output::line(&format!("this node        {node}"))?;
    for (id, address, votes) in members {
        let what = if *votes { "voter" } else { "learner" };
        let fate = if id == node { "goes on" } else { "is given up" };
        output::line(&format!("member           node {id} at {address}, {what}: {fate}"))?;
    }
    output::line(&format!("term             {term}"))?;
    output::line(&format!("last log entry   {last_log}"))?;
    output::line(&format!("known committed  {committed}"))?;
    output::line(&format!("applied          {applied}, newest event {tail}"))?;
    output::line("")?;
    if last_log > committed {
        output::line(&format!(
            "kept  entries {} to {last_log}, of which it is not known here whether they were acknowledged",
            committed + 1
        ))?;
    }
    output::line(&format!(
        "LOST  whatever the other nodes acknowledged beyond entry {last_log}: this disk cannot tell whether there is any"
    ))?;
    if let Some(acknowledged) = acknowledged_beyond {
        output::line(&format!(
            "LOST  entries {} to {acknowledged}, which this node had acknowledged itself and has no more: look for a better disk",
            last_log + 1
        ))?;
    }
    Ok(())
}

fn refused(error: RecoverError) -> Failure {
    let code = match &error {
        RecoverError::NotThere { .. } => Code::NotFound,
        RecoverError::Unusable { .. } => Code::Conflict,
        RecoverError::InUse { .. } | RecoverError::Io { .. } | RecoverError::Identity(_) | RecoverError::Store(_) => {
            Code::Failed
        }
    };
    Failure::new(code, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_named() {
        let of = |members: &[&str]| {
            let members: Vec<String> = members.iter().map(|member| (*member).to_owned()).collect();
            address(&members).map(str::to_owned).ok()
        };
        assert_eq!(of(&["a.example:2113"]).as_deref(), Some("a.example:2113"));
        assert_eq!(of(&["[::1]:2113"]).as_deref(), Some("[::1]:2113"));
        for members in [&["a:1", "b:1"][..], &["a"], &["a:0"], &[":1"], &["a\":1"], &[""]] {
            assert_eq!(of(members), None, "{members:?}");
        }
    }
}
