//! Draining a node: getting it out of everybody's way before it is restarted.
//!
//! ```text
//! serving ── drain: lease held ──> draining ── handed over, flushed ──> drained
//!    ^                                │                                    │
//!    └────────── resume, or a restart, which gives the lease back ────────┘
//! ```
//!
//! 1. *Lease*: one node of the cluster at a time ([`annals_core::lease`]). Where another
//!    has it, or a voter is not well, the drain waits, until its time is over: that is
//!    what makes restarts come one after the other.
//! 2. *Nobody stays*: not ready any more, subscriptions end with UNAVAILABLE and new ones
//!    are refused, consumer groups write their last checkpoints. Appends and reads are
//!    still served: clients that have not noticed lose nothing.
//! 3. *Leadership* goes to the best other voter.
//! 4. *Flush*: what is applied needs no log at the next start.
//!
//! The node goes on to follow and to vote all the while. It keeps its lease alive as long
//! as it is drained, and leads no more than it must.
//!
//! Everything can be repeated. A drain that gives up before it has the lease has changed
//! nothing; one whose client goes away later goes on, since the node is to be restarted.
//!
//! Whether a node has a lease that it does not need is looked at all the time, not only
//! at the start ([`keep`]): a command of the process before may come late.

use std::time::{Duration, Instant};

use annals_core::Lease;
use annals_proto::annals::v1::DrainProgress;
use annals_proto::annals::v1::drain_progress::Step;
use annals_raft::{AdminError, Phase, Role, Status};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::context::{Context, Shared};

/// How long all of a drain may take where nobody says.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(80);

/// The longest that somebody may say.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// For how long the lease is taken where nobody says: a restart takes less.
pub(crate) const LEASE_SECONDS: u32 = 300;

/// How often the lease is asked for again.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// How long the leader may take to answer that.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a node that stops anyway tries to have the lease.
const ANSWER_AT_STOP: Duration = Duration::from_secs(1);

/// How long whoever asked for a drain may take to take in what it is told.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// How long a resumption waits for a drain that is under way.
const RESUME: Duration = Duration::from_secs(5);

/// How often it is looked at what [`keep`] keeps.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a node stands to its maintenance.
#[derive(Default)]
pub(crate) struct Maintenance {
    /// One drain or resumption at a time.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Default)]
enum State {
    /// It serves, and needs no lease.
    #[default]
    Serving,
    /// It has the lease, or tries to.
    Draining,
    /// It is drained.
    Drained { priority: i32, lease_seconds: u32, prolong_at: Instant },
}

/// What a drain may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) until: Instant,
    pub(crate) lease_seconds: u32,
}

/// Why a node is not drained. For people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotDrained(pub(crate) String);

/// Whom a drain tells its steps.
pub(crate) struct Audience {
    begun: Instant,
    steps: mpsc::Sender<DrainProgress>,
}

impl Audience {
    pub(crate) fn new(steps: mpsc::Sender<DrainProgress>) -> Self {
        Audience { begun: Instant::now(), steps }
    }

    async fn tell(&self, step: Step, text: impl Into<String>) {
        let text = text.into();
        tracing::info!(step = step.as_str_name(), "drain: {text}");
        let elapsed_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Nobody may listen any more; and who takes nothing must not hold up a drain that
        // keeps others waiting.
        let progress = DrainProgress { step: step.into(), text, elapsed_ms };
        let _ = self.steps.send_timeout(progress, TAKEN_WITHIN).await;
    }

    fn is_gone(&self) -> bool {
        self.steps.is_closed()
    }
}

impl Maintenance {
    /// Whether the node is drained, or about to be.
    pub(crate) fn is_drained(&self) -> bool {
        matches!(*self.state.lock(), State::Drained { .. })
    }

    fn set(&self, state: State) {
        *self.state.lock() = state;
    }
}

/// Drains this node.
///
/// # Errors
/// [`NotDrained`]: it serves on; or, where that says so, it could not hand leadership
/// over and takes no subscriptions any more.
pub(crate) async fn drain(context: &Context, patience: Patience, audience: &Audience) -> Result<(), NotDrained> {
    let maintenance = &context.maintenance;
    let turn = tokio::time::timeout_at(patience.until.into(), maintenance.turn.lock()).await;
    let Ok(_turn) = turn else { return Err(NotDrained("another drain is under way".into())) };
    if maintenance.is_drained() {
        audience.tell(Step::Drained, "this node is drained already").await;
        return Ok(());
    }
    if let Some(why) = is_no_member(&context.node.status()) {
        audience.tell(Step::NotAMember, format!("there is nothing to drain: {why}")).await;
        return Ok(());
    }
    maintenance.set(State::Draining);
    match lease(context, patience, audience).await {
        Ok(true) => {}
        Ok(false) => {
            maintenance.set(State::Serving);
            audience.tell(Step::NotAMember, "there is nothing to drain: this node is no member of its cluster").await;
            return Ok(());
        }
        Err(why) => {
            maintenance.set(State::Serving);
            return Err(why);
        }
    }
    // Before anything else: who leads hands over to a higher priority, and back.
    let priority = context.node.priority();
    context.node.set_priority(i32::MIN);
    let Patience { lease_seconds, .. } = patience;
    let prolong_at = Instant::now() + lease_life(lease_seconds) / 3;
    maintenance.set(State::Drained { priority, lease_seconds, prolong_at });
    context.health.set_drained(true);
    context.leaving.begin();
    audience.tell(Step::NotAccepting, "not ready any more; subscriptions are told to go elsewhere").await;
    context.groups.settled().await;
    hand_over(context, patience, audience).await?;
    let store = context.node.store().clone();
    match tokio::task::spawn_blocking(move || store.flush()).await {
        Ok(Ok(_)) => audience.tell(Step::Flushed, "everything that is applied is on the disk").await,
        // Not what a drain is for: the log has it.
        Ok(Err(error)) => tracing::warn!(%error, "the state could not be flushed; the next start applies it again"),
        Err(_) => {}
    }
    audience.tell(Step::Drained, "drained: this node can be restarted").await;
    Ok(())
}

/// Takes the lease; false where this node is no member any more.
async fn lease(context: &Context, patience: Patience, audience: &Audience) -> Result<bool, NotDrained> {
    let mut told = String::new();
    loop {
        let deadline = patience.until.min(Instant::now() + ANSWER);
        let why = match context.node.acquire_lease(patience.lease_seconds, deadline).await {
            Ok(()) => break,
            Err(AdminError::NotFound(_)) => return Ok(false),
            Err(AdminError::ShuttingDown) => return Err(NotDrained("this node is stopping".into())),
            Err(
                error @ (AdminError::Refused(_)
                | AdminError::NoLeader
                | AdminError::Unreachable(_)
                | AdminError::Unknown(_)),
            ) => error.to_string(),
        };
        if audience.is_gone() {
            return Err(NotDrained("nobody waits for it any more".into()));
        }
        if Instant::now() + ASK_EVERY >= patience.until {
            return Err(NotDrained(format!(
                "the time is over, and this node serves on: {why}. Try again later, or see who holds things up with \
                 `annals cluster status`"
            )));
        }
        if why != told {
            audience.tell(Step::Waiting, format!("waiting for the maintenance lease: {why}")).await;
            told = why;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    let seconds = patience.lease_seconds;
    audience.tell(Step::LeaseHeld, format!("has the maintenance lease, for {seconds} s at a time")).await;
    Ok(true)
}

async fn hand_over(context: &Context, patience: Patience, audience: &Audience) -> Result<(), NotDrained> {
    loop {
        let status = context.node.status();
        if status.role != Role::Leader {
            let text = match &status.leader {
                Some((node, _)) => format!("node {node} leads"),
                None => "this node does not lead".to_owned(),
            };
            audience.tell(Step::LeadershipHandedOver, text).await;
            return Ok(());
        }
        if status.members.iter().filter(|member| member.voter).count() <= 1 {
            let text = "this node is the only voter, and leads on: while it is down nothing is served";
            audience.tell(Step::LeadershipHandedOver, text).await;
            return Ok(());
        }
        let why = match context.node.hand_leadership_over(patience.until).await {
            Ok(Some(_)) => continue,
            Ok(None) => "no other voter answers".to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() + ASK_EVERY >= patience.until {
            return Err(NotDrained(format!(
                "leadership could not be handed over: {why}. This node takes no subscriptions and leads on: restart it \
                 all the same, or `annals node resume`"
            )));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Takes a drain back. Whether there was one; none while one is still under way.
pub(crate) async fn resume(context: &Context) -> Option<bool> {
    let _turn = tokio::time::timeout(RESUME, context.maintenance.turn.lock()).await.ok()?;
    let State::Drained { priority, .. } = *context.maintenance.state.lock() else { return Some(false) };
    context.node.set_priority(priority);
    context.leaving.end();
    context.health.set_drained(false);
    // The lease goes back in `keep`.
    context.maintenance.set(State::Serving);
    tracing::info!("resumed: this node serves as before its drain");
    Some(true)
}

/// Before the process stops: has the lease if that is possible at once, so that nobody
/// is restarted meanwhile. A stop waits for nobody's turn.
pub(crate) async fn before_stop(context: &Context) {
    let status = context.node.status();
    let is_alone = status.members.len() <= 1;
    if context.maintenance.is_drained() || is_alone || status.phase != Phase::Ready {
        return;
    }
    context.maintenance.set(State::Draining);
    match context.node.acquire_lease(LEASE_SECONDS, Instant::now() + ANSWER_AT_STOP).await {
        Ok(()) => tracing::info!("has the maintenance lease until this node is back"),
        Err(error) => tracing::info!(%error, "stopping without the maintenance lease"),
    }
}

/// Gives back what this node does not need, and keeps what it needs. Runs until the
/// process stops.
pub(crate) async fn keep(context: Shared) {
    let mut leases = context.node.store().watch_lease();
    // What could not be given back, as somebody else had it by then.
    let mut refused: Option<Lease> = None;
    loop {
        tokio::select! {
            () = context.stopping.cancelled() => return,
            changed = leases.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let state = *context.maintenance.state.lock();
        match state {
            State::Draining => {}
            State::Serving => {
                let lease = own_lease(&context).filter(|lease| refused != Some(*lease));
                let Some(lease) = lease.filter(|_| context.health.is_ready(&context.node.status())) else { continue };
                match context.node.release_lease(&lease, Instant::now() + ANSWER).await {
                    Ok(true) => tracing::info!("this node is ready, and has given the maintenance lease back"),
                    Ok(false) => refused = Some(lease),
                    Err(error) => tracing::warn!(%error, "the maintenance lease is not given back yet"),
                }
            }
            State::Drained { priority, lease_seconds, prolong_at } => {
                if Instant::now() >= prolong_at {
                    prolong(&context, priority, lease_seconds).await;
                }
                if context.node.status().role == Role::Leader
                    && let Err(error) = context.node.hand_leadership_over(Instant::now() + ANSWER).await
                {
                    tracing::warn!(%error, "this node is drained, but still leads");
                }
            }
        }
    }
}

async fn prolong(context: &Context, priority: i32, lease_seconds: u32) {
    let wait = match context.node.prolong_lease(lease_seconds, Instant::now() + ANSWER).await {
        Ok(true) => lease_life(lease_seconds) / 3,
        Ok(false) => {
            tracing::warn!("this node is drained, but another one has the maintenance lease");
            ANSWER
        }
        Err(error) => {
            tracing::warn!(%error, "the maintenance lease could not be prolonged yet");
            ANSWER
        }
    };
    let mut state = context.maintenance.state.lock();
    // Unless it was resumed meanwhile; then the lease is given back.
    if matches!(*state, State::Drained { .. }) {
        *state = State::Drained { priority, lease_seconds, prolong_at: Instant::now() + wait };
    }
}

/// The lease, if this node has it.
pub(crate) fn own_lease(context: &Context) -> Option<Lease> {
    let node = context.node.status().node;
    context.node.held_lease().filter(|lease| lease.node == node)
}

fn lease_life(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

/// Why there is nothing to be drained.
fn is_no_member(status: &Status) -> Option<&'static str> {
    match status.phase {
        Phase::Removed => Some("this node was removed from its cluster"),
        Phase::Waiting | Phase::Bootstrapping => Some("this node belongs to no cluster yet"),
        Phase::Outdated => Some("this node takes no part any more"),
        Phase::ShuttingDown | Phase::Stopped => Some("this node is stopping"),
        Phase::Recovering | Phase::Ready => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With time that passes by itself: without a bound it would never end.
    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_what_a_drain_tells_does_not_hold_it_up() {
        let (steps, mut told) = mpsc::channel(1);
        let audience = Audience::new(steps);
        for step in ["one", "two", "three"] {
            audience.tell(Step::Waiting, step).await;
        }
        assert!(!audience.is_gone(), "it may come back");
        // What did not fit is not told any more; what comes next is.
        assert_eq!(told.recv().await.expect("told").text, "one");
        audience.tell(Step::Drained, "four").await;
        assert_eq!(told.recv().await.expect("told").text, "four");
    }
}
