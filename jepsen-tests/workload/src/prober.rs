//! Probers: to every node linearizable reads in a tight loop.
//!
//! A leader that was stopped while others elected a new one is wrong about
//! itself for some milliseconds after it goes on. Whoever wants to catch it
//! with an old answer must have a question waiting there at that moment, and
//! one that was asked long after the writes that the answer would miss:
//! hence short time-outs, and always the next question.
//!
//! Only answers are recorded. A prober's failures are no evidence of anything
//! and would be most of the history.

use std::sync::Arc;
use std::time::Duration;

use annals_checker::history::{Direction, Mode, NodeNumber, ReadOutcome, Target};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::board;
use crate::calls::{Query, Terms, query};
use crate::process::Shared;
use crate::wire::Connections;

/// How often new nodes are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A node that says that it does not lead is asked less often for a while.
const NOT_LEADER_PAUSE: Duration = Duration::from_millis(100);

/// Keeps two probers on every node until told to stop: one that asks the
/// node, and one that asks it only if it leads.
pub(crate) async fn run(shared: Arc<Shared>, every: Duration, mut stop: watch::Receiver<bool>) {
    let mut probers = JoinSet::new();
    let mut probed: Vec<NodeNumber> = Vec::new();
    loop {
        for node in shared.endpoints.nodes() {
            if !probed.contains(&node) {
                probed.push(node);
                probers.spawn(probe(shared.clone(), node, false, every, stop.clone()));
                probers.spawn(probe(shared.clone(), node, true, every, stop.clone()));
            }
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    while probers.join_next().await.is_some() {}
}

async fn probe(
    shared: Arc<Shared>,
    node: NodeNumber,
    requires_leader: bool,
    every: Duration,
    stop: watch::Receiver<bool>,
) {
    let mut connections = Connections::impatient(shared.endpoints.clone(), shared.plan.probe_timeout);
    let terms =
        Terms { process: shared.number(), timeout: shared.plan.probe_timeout, tell_deadline: false, requires_leader };
    let newest = Query {
        target: Target::Stream(board::hot(0).into()),
        direction: Direction::Backwards,
        from: None,
        limit: 1,
        mode: Mode::Linearizable,
    };
    while !*stop.borrow() {
        let mut pause = every;
        if shared.endpoints.address(node).is_none() {
            pause = LOOK_EVERY; // removed; it may come back
        } else if let Ok(wire) = connections.to(node).await {
            let invoke = shared.recorder.now();
            let answer = query(&wire, &newest, &terms).await;
            connections.note(node, answer.contact);
            if let ReadOutcome::Failed { .. } = &answer.outcome {
                shared.recorder.count_read_failed();
                if answer.leader.is_some() {
                    pause = pause.max(NOT_LEADER_PAUSE);
                }
            } else {
                shared.recorder.record(newest.record(&wire, &shared.recorder, &terms, invoke, &answer));
            }
        }
        tokio::time::sleep(pause).await;
    }
}
