//! What nodes say about themselves: how far they are, and the chain hash of
//! their events.

use std::sync::Arc;
use std::time::Duration;

use annals_checker::history::{Hash, NodeNumber, Record};
use annals_proto::annals::v1::{HashRequest, StatusReply, StatusRequest};
use anyhow::{Context as _, Result};
use tokio::sync::watch;

use crate::Recorder;
use crate::process::Shared;
use crate::wire::{Connections, Wire};

/// Hashes are compared at multiples of this position.
pub(crate) const STEP: u64 = 1_000;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Compares all nodes again and again until told to stop, each time at the
/// last multiple of [`STEP`] that all who answer have reached.
pub(crate) async fn run(shared: Arc<Shared>, every: Duration, mut stop: watch::Receiver<bool>) {
    let mut connections = Connections::new(shared.endpoints.clone(), shared.plan.connect_timeout);
    let mut compared = 0;
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(every) => {}
        }
        let mut reached: Vec<(Wire, u64)> = Vec::new();
        for node in shared.endpoints.nodes() {
            let Ok(wire) = connections.to(node).await else { continue };
            match status(&wire).await {
                Ok(status) => reached.push((wire, status.tail)),
                Err(_) => connections.note(node, crate::wire::Contact::Broken),
            }
        }
        let Some(smallest) = reached.iter().map(|(_, tail)| *tail).min() else { continue };
        let position = smallest / STEP * STEP;
        if position <= compared {
            continue;
        }
        for (wire, _) in &reached {
            // Who cannot tell now is asked at the end.
            let _ = record(wire, &shared.recorder, position).await;
        }
        if reached.len() == shared.endpoints.nodes().len() {
            compared = position;
        }
    }
}

/// How far a node is.
///
/// # Errors
/// When it does not say so in time.
pub(crate) async fn status(wire: &Wire) -> Result<StatusReply> {
    let mut client = wire.cluster();
    let answer = tokio::time::timeout(TIMEOUT, client.status(StatusRequest {})).await;
    let node = wire.node;
    Ok(answer.with_context(|| format!("no status from node {node} in time"))??.into_inner())
}

/// Asks a node for its hash at a position, and records it.
///
/// # Errors
/// When it does not say so in time.
pub(crate) async fn record(wire: &Wire, recorder: &Recorder, position: u64) -> Result<()> {
    let node: NodeNumber = wire.node;
    let mut client = wire.cluster();
    let answer = tokio::time::timeout(TIMEOUT, client.hash(HashRequest { position })).await;
    let answer = answer.with_context(|| format!("no hash from node {node} in time"))??.into_inner();
    anyhow::ensure!(answer.position == position, "node {node} tells the hash of another position");
    recorder.record(Record::Hash(Hash { node, time: recorder.now(), position, hash: answer.hash }));
    Ok(())
}
