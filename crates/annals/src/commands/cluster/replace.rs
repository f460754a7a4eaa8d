//! `annals cluster replace`: a new node in the place of one that is gone.
//!
//! The cluster carries it out by itself once the new node is added: the intention is
//! part of the membership. This command only asks for it and tells how it goes, so that
//! nothing is left half done when it is interrupted.

use annals_client::Cluster;
use annals_proto::annals::v1::StatusReply;
use schemars::JsonSchema;
use serde::Serialize;

use super::progress::Progress;
use super::{names, status::lag};
use crate::consent::Consent;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// A node that has the place of another one.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Replaced {
    /// The new node's id.
    node: u64,
    /// The old one's.
    replaced: u64,
}

pub(super) async fn run(
    cluster: &Cluster,
    old: &str,
    with: &str,
    consent: &Consent,
    mut progress: Progress,
    format: Format,
) -> Result<(), Failure> {
    let before = progress.status(cluster).await?;
    let old = names::node(&before, old)?.clone();
    let what = format!("this gives {} (node {}) up for good, with what is on its disk", old.name, old.id);
    consent.ask(&what, &old.name)?;
    let new = loop {
        match cluster.replace(old.id, with).await {
            Ok(new) => break new,
            // The new node may only just be starting.
            Err(error) if Code::of(&error) == Code::Unavailable => progress.wait(error.to_string()).await?,
            Err(error) => return Err(error.into()),
        }
    };
    loop {
        let now = progress.status(cluster).await?;
        if !now.nodes.iter().any(|node| node.id == old.id) {
            break;
        }
        progress.wait(state(&now, new, old.id)).await?;
    }
    match format {
        Format::Table => output::line(&format!("node {new} at {with} has the place of {} (node {})", old.name, old.id)),
        Format::Json => output::json(&Replaced { node: new, replaced: old.id }),
    }?;
    Ok(())
}

fn state(status: &StatusReply, new: u64, old: u64) -> String {
    let learner = status.nodes.iter().find(|node| node.id == new);
    match learner.and_then(|node| lag(status, node)) {
        Some(0..=1_000) => format!("node {new} has caught up and is about to take the place of node {old}"),
        Some(behind) => format!("node {new} is {behind} entries behind"),
        None => format!("node {new} is catching up"),
    }
}
