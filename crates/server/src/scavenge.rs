//! Scavenging: giving the space of deleted events back.
//!
//! Two tasks. On the node that leads, [`drive`] goes on with a scavenge that runs,
//! whoever started it and wherever it stands: it looks for what is gone
//! ([`annals_store::Store::find_gone`]) and proposes step after step. All that it knows
//! is in the replicated state, so that a new leader goes on where the last step ended;
//! a step of a leader that has been replaced is none. On every node, [`give_back`] has
//! the files written anew behind it.
//!
//! Both hold back for those who append: a step is small, what is looked at and what is
//! written anew per second is bounded (`scavenge_bytes_per_second`, and an eighth of it
//! while there are appends: [`Beside`]). After a step there is a pause at least as long
//! as it took. Files are written anew on one node after another, as far as their clocks
//! agree: an append needs a majority, and so the slowest node is mostly not waited for.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use annals_core::scavenge::Answer;
use annals_core::{Command, Outcome, Position, Scavenge};
use annals_raft::{Phase, Role, Route, Status};
use annals_store::{LookLimit, Store};
use uuid::Uuid;

use crate::blocking::blocking;
use crate::context::{Context, Shared};
use crate::grpc::streams::page::broken;
use crate::grpc::streams::unexpected;
use crate::status::Failure;

/// What is looked at for one step. Where nothing is gone it is this that ends a step.
const LOOK: LookLimit = LookLimit { records: 20_000, bytes: 4 * 1024 * 1024 };

/// How long a step may take to be applied before it is looked where it stands.
const STEP: Duration = Duration::from_secs(10);

/// The pause after a step that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// How long it is one node's turn to give space back: some stretches.
const TURN: Duration = Duration::from_secs(30);

/// While there are appends, this part of what is allowed is used.
const BESIDE_APPENDS: u64 = 8;

/// How often it is looked whether there are appends.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Fewer events than this in that time are none: a node writes some of its own.
const FEW_EVENTS: u64 = 20;

/// How often a log line says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// How much may be done beside what others do now.
struct Beside {
    allowed: u64,
    looked: Instant,
    tail: Position,
    is_busy: bool,
}

impl Beside {
    fn new(context: &Context) -> Beside {
        let allowed = context.config.scavenge_bytes_per_second;
        Beside { allowed, looked: Instant::now(), tail: context.node.store().tail(), is_busy: true }
    }

    /// Bytes of records per second.
    fn pace(&mut self, store: &Store) -> u64 {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            let tail = store.tail();
            self.is_busy = tail.get().saturating_sub(self.tail.get()) >= FEW_EVENTS;
            self.tail = tail;
        }
        if self.is_busy { self.allowed / BESIDE_APPENDS } else { self.allowed }
    }
}

/// The last scavenge, started by whoever.
pub(crate) fn last(context: &Context) -> Option<Scavenge> {
    context.node.store().scavenge()
}

/// Starts a scavenge under this id, unless one runs. The same id again is the same
/// call again.
///
/// # Errors
/// What keeps a command from being carried out.
pub(crate) async fn start(context: &Context, id: Uuid, route: Route) -> Result<Answer, Failure> {
    command(context, Command::StartScavenge { id }, route).await
}

/// Stops the scavenge that runs, or only this one.
///
/// # Errors
/// [`Failure::ScavengeNotFound`] where it does not run; what keeps a command from being
/// carried out.
pub(crate) async fn stop(context: &Context, id: Option<Uuid>, route: Route) -> Result<Scavenge, Failure> {
    match command(context, Command::StopScavenge { id }, route).await? {
        Answer { carried_out: true, last: Some(last) } => Ok(last),
        _ => Err(Failure::ScavengeNotFound(id.map(|id| id.to_string()).unwrap_or_default())),
    }
}

async fn command(context: &Context, command: Command, route: Route) -> Result<Answer, Failure> {
    match context.node.append(command, route, Instant::now() + context.config.request_timeout()).await? {
        Outcome::Scavenge(answer) => Ok(answer),
        outcome @ (Outcome::Appended(_)
        | Outcome::Refused(_)
        | Outcome::Node(_)
        | Outcome::Denied(_)
        | Outcome::Lease(_)) => Err(unexpected(&outcome)),
    }
}

/// Goes on with a scavenge whenever this node leads and one runs. Runs until the
/// process stops.
pub(crate) async fn drive(context: Shared) {
    let mut status = context.node.watch_status();
    let mut last = context.node.store().watch_scavenge();
    let mut said = Instant::now();
    let mut beside = Beside::new(&context);
    loop {
        let leads = {
            let status = status.borrow_and_update();
            status.phase == Phase::Ready && status.role == Role::Leader
        };
        let running = last.borrow_and_update().filter(Scavenge::is_running);
        let Some(scavenge) = running.filter(|_| leads) else {
            tokio::select! {
                () = context.stopping.cancelled() => return,
                changed = status.changed() => if changed.is_err() { return },
                changed = last.changed() => if changed.is_err() { return },
            }
            continue;
        };
        if scavenge.cursor.get() == 0 || said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let Scavenge { id, cursor, point, events, bytes, .. } = scavenge;
            tracing::info!(%id, at = %cursor, of = %point, events, bytes, "scavenging");
        }
        let pause = match step(&context, &scavenge, beside.pace(context.node.store())).await {
            Ok(pause) => pause,
            Err(failure) => {
                tracing::warn!(id = %scavenge.id, failure = failure.message(), "a step of a scavenge failed");
                AGAIN
            }
        };
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One step at this pace, in bytes per second; how long to wait before the next one.
async fn step(context: &Shared, scavenge: &Scavenge, rate: u64) -> Result<Duration, Failure> {
    let begun = Instant::now();
    let (store, at) = (context.node.store().clone(), *scavenge);
    // Not more at once than is allowed in a quarter of a second.
    let bytes = usize::try_from(rate / 4).unwrap_or(usize::MAX).clamp(64 * 1024, LOOK.bytes);
    let gone = blocking(move || store.find_gone(&at, LookLimit { bytes, ..LOOK })).await;
    let gone = gone.map_err(|error| broken(&error))?;
    let due = Duration::from_secs_f64(gone.bytes as f64 / rate as f64);
    let answer = context.node.append(Command::Reclaim(gone.step), Route::LeaderOnly, begun + STEP).await?;
    let Outcome::Scavenge(answer) = answer else { return Err(unexpected(&answer)) };
    if let Some(ended) = answer.last.filter(|last| answer.carried_out && !last.is_running()) {
        let Scavenge { id, events, bytes, point, .. } = ended;
        tracing::info!(%id, events, bytes, %point, "a scavenge is complete");
    }
    let took = begun.elapsed();
    Ok(due.saturating_sub(took).max(took))
}

/// Gives the space of what is reclaimed back, on this node, behind a scavenge. Runs
/// until the process stops.
pub(crate) async fn give_back(context: Shared) {
    let mut last = context.node.store().watch_scavenge();
    let mut beside = Beside::new(&context);
    loop {
        let wait = until_turn(&context.node.status());
        if !wait.is_zero() {
            tokio::select! {
                () = context.stopping.cancelled() => return,
                () = tokio::time::sleep(wait) => continue,
            }
        }
        // What changes meanwhile is seen after it.
        last.borrow_and_update();
        let store = context.node.store().clone();
        let mut giving = tokio::task::spawn_blocking(move || store.give_back());
        let given = loop {
            let store = context.node.store();
            store.pace_rewriting(beside.pace(store));
            tokio::select! {
                given = &mut giving => break given,
                () = context.stopping.cancelled() => {
                    // At its pace a stretch takes longer than a stop may.
                    store.pace_rewriting(u64::MAX);
                    break giving.await;
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        };
        let pause = match given {
            Ok(Ok(Some(given))) => {
                tracing::info!(
                    from = %given.from, through = %given.through, before = given.before, after = given.after,
                    complete = given.is_last,
                    "gave space of reclaimed events back"
                );
                AGAIN
            }
            Ok(Ok(None)) => {
                tokio::select! {
                    () = context.stopping.cancelled() => return,
                    changed = last.changed() => if changed.is_err() { return },
                }
                // Steps come many a second; a stretch takes many of them.
                AGAIN
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the space of reclaimed events is not given back; trying again later");
                SAY_EVERY
            }
            // The runtime is going down.
            Err(_) => return,
        };
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// How long until it is this node's turn; zero while it is. Turns go round among the
/// members by the clock. Clocks that disagree cost some latency and nothing else.
fn until_turn(status: &Status) -> Duration {
    let members = status.members.len().max(1) as u64;
    let Some(own) = status.members.iter().position(|member| member.id == status.node) else { return Duration::ZERO };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    turn_begins(now, own as u64, members)
}

fn turn_begins(now: Duration, own: u64, members: u64) -> Duration {
    let turns = now.as_secs() / TURN.as_secs();
    let to_come = (own + members - turns % members) % members;
    if to_come == 0 {
        return Duration::ZERO;
    }
    let into = now.saturating_sub(Duration::from_secs(turns * TURN.as_secs()));
    Duration::from_secs(to_come * TURN.as_secs()).saturating_sub(into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_nodes_turn_at_a_time_and_each_ones_in_time() {
        for millis in (1_790_000_000_000..1_790_000_100_000).step_by(700) {
            let now = Duration::from_millis(millis);
            let waits: Vec<Duration> = (0..3).map(|own| turn_begins(now, own, 3)).collect();
            assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count(), 1, "{waits:?}");
            assert!(waits.iter().all(|wait| *wait <= TURN * 2), "{waits:?}");
            for own in 0..3 {
                let then = now + turn_begins(now, own, 3);
                assert!(turn_begins(then, own, 3).is_zero(), "node {own} after {:?}", turn_begins(now, own, 3));
            }
            assert!(turn_begins(now, 0, 1).is_zero(), "who is alone need not wait");
        }
    }
}
