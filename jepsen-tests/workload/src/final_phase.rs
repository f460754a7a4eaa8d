//! What is looked at when all faults are over.
//!
//! 1. Wait until all nodes have applied the same and nothing moves.
//! 2. From every node all events, read linearizably, page by page: pages of
//!    an append-only log that follow each other are one read.
//! 3. From every node all events once more, read locally, as soon as it has
//!    applied what the other read saw.
//! 4. From every node chain hashes along the log.
//! 5. Every subscription gets the time to see everything.
//!
//! A node that does not get there is an error: without its part there is no
//! verdict.

use std::time::Duration;

use annals_checker::history::{Direction, Final, Mode, NodeNumber, ReadOutcome, Record, Seen, Source, Target};
use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::Instant;

use crate::calls::{Answer, Query, Terms, query};
use crate::hashes::{self, STEP};
use crate::subscriptions::{belongs, place};
use crate::wire::{Connections, Contact};
use crate::{Endpoints, Recorder, Subscriptions};

/// Events of a page, and of a record.
const PAGE: u64 = 2_000;

/// Hashes that a node is asked for, besides the one at the end: each may cost
/// it some reading.
const HASHES_MAX: u64 = 50;

/// How long nothing may have moved.
const QUIET: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(200);
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct FinalOptions {
    /// Until all nodes have applied the same.
    pub settle: Duration,
    /// Reading one node.
    pub read: Duration,
    /// Until the subscriptions have seen everything.
    pub drain: Duration,
}

impl Default for FinalOptions {
    fn default() -> Self {
        FinalOptions { settle: Duration::from_secs(60), read: Duration::from_secs(120), drain: Duration::from_secs(60) }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalState {
    /// The last position.
    pub tail: u64,
    /// How long it took until all nodes had applied the same.
    pub settled_after: Duration,
    /// Subscriptions that did not see everything in time.
    pub not_drained: usize,
}

/// Reads and records the final state, and ends the subscriptions. All faults
/// must be over and the workload stopped.
///
/// # Errors
/// When some node's final state could not be had in time.
pub async fn final_phase(
    endpoints: &Endpoints,
    recorder: &Recorder,
    subscriptions: Subscriptions,
    options: FinalOptions,
) -> Result<FinalState> {
    let mut reader = Reader {
        connections: Connections::new(endpoints.clone(), CONNECT_TIMEOUT),
        recorder: recorder.clone(),
        ends: subscriptions.targets().iter().map(|target| (target.clone(), None)).collect(),
    };
    let nodes = endpoints.nodes();
    let begun = Instant::now();
    reader.settle(&nodes, begun + options.settle).await?;
    let settled_after = begun.elapsed();
    let mut tail = 0;
    for node in &nodes {
        let deadline = Instant::now() + options.read;
        let read = reader.read(*node, Source::Linearizable, 0, deadline).await;
        tail = tail.max(read.with_context(|| format!("cannot read node {node} linearizably"))?);
    }
    for node in &nodes {
        let deadline = Instant::now() + options.read;
        let read = reader.read(*node, Source::Local, tail, deadline).await;
        read.with_context(|| format!("cannot read node {node} locally"))?;
    }
    let step = (tail / STEP).div_ceil(HASHES_MAX).max(1) * STEP;
    for node in &nodes {
        for position in (1..=tail / step).map(|at| at * step).chain((tail > 0).then_some(tail)) {
            reader.hash(*node, position, Instant::now() + options.settle).await?;
        }
    }
    let places = reader.ends.iter().map(|(_, last)| *last).collect();
    let not_drained = subscriptions.drain(places, options.drain).await;
    Ok(FinalState { tail, settled_after, not_drained })
}

struct Reader {
    connections: Connections,
    recorder: Recorder,
    /// The place of the last event of each subscription.
    ends: Vec<(Target, Option<u64>)>,
}

impl Reader {
    /// Waits until all nodes have applied the same for a while.
    async fn settle(&mut self, nodes: &[NodeNumber], deadline: Instant) -> Result<()> {
        let mut same: Option<(u64, Instant)> = None;
        loop {
            let now = Instant::now();
            match self.tails(nodes).await {
                Ok(tails) if tails.windows(2).all(|pair| pair[0] == pair[1]) => {
                    let tail = tails.first().copied().unwrap_or(0);
                    match same {
                        Some((before, since)) if before == tail && since.elapsed() >= QUIET => return Ok(()),
                        Some((before, _)) if before == tail => {}
                        Some(_) | None => same = Some((tail, now)),
                    }
                }
                Ok(tails) => {
                    ensure!(now < deadline, "the nodes did not get to the same position in time: {tails:?}");
                    same = None;
                }
                Err(error) => {
                    if now >= deadline {
                        return Err(error.context("not all nodes answered in time"));
                    }
                    same = None;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn tails(&mut self, nodes: &[NodeNumber]) -> Result<Vec<u64>> {
        let mut tails = Vec::new();
        for node in nodes {
            let wire = self.connections.to(*node).await?;
            match hashes::status(&wire).await {
                Ok(status) if status.leader == 0 => bail!("node {node} knows no leader"),
                Ok(status) => tails.push(status.tail),
                Err(error) => {
                    self.connections.note(*node, Contact::Broken);
                    return Err(error);
                }
            }
        }
        Ok(tails)
    }

    /// Reads all events of a node and records them; not before it has applied
    /// `upto`. The last position.
    async fn read(&mut self, node: NodeNumber, source: Source, upto: u64, deadline: Instant) -> Result<u64> {
        let mode = match source {
            Source::Linearizable => Mode::Linearizable,
            Source::Local | Source::Offline => Mode::Local,
        };
        let mut next = 1;
        loop {
            let page = Query {
                target: Target::All { prefixes: Vec::new() },
                direction: Direction::Forwards,
                from: Some(next),
                limit: PAGE,
                mode,
            };
            let (events, as_of) = match self.page(node, &page).await {
                Ok(page) => page,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            if as_of < upto {
                ensure!(Instant::now() < deadline, "it is at {as_of} and did not reach {upto} in time");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let complete = (events.len() as u64) < PAGE;
            if source == Source::Linearizable {
                self.note_ends(&events);
            }
            let last = events.last().map_or(next - 1, |event| event.position);
            self.recorder.record(Record::Final(Final { node, source, events, complete }));
            if complete {
                return Ok(last);
            }
            next = last + 1;
        }
    }

    async fn page(&mut self, node: NodeNumber, page: &Query) -> Result<(Vec<Seen>, u64)> {
        let wire = self.connections.to(node).await?;
        let terms = Terms { process: 0, timeout: PAGE_TIMEOUT, tell_deadline: false, requires_leader: false };
        let Answer { outcome, contact, .. } = query(&wire, page, &terms).await;
        self.connections.note(node, contact);
        match outcome {
            ReadOutcome::Ok { events, as_of } => Ok((events, as_of.context("an answer without annals-as-of")?)),
            other => bail!("a read of all events ended with {other:?}"),
        }
    }

    fn note_ends(&mut self, events: &[Seen]) {
        for (target, last) in &mut self.ends {
            let newest = events.iter().rev().find(|event| belongs(target, event));
            *last = (*last).max(newest.map(|event| place(target, event)));
        }
    }

    async fn hash(&mut self, node: NodeNumber, position: u64, deadline: Instant) -> Result<()> {
        loop {
            let told = match self.connections.to(node).await {
                Ok(wire) => hashes::record(&wire, &self.recorder, position).await,
                Err(error) => Err(error),
            };
            match told {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => {
                    self.connections.note(node, Contact::Broken);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}
