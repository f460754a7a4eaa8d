//! Whether this process lives, and whether it may be sent work.
//!
//! *Live* means that the process's own tasks make progress; it never depends
//! on a leader, a quorum or lag, because a restart cures none of these.
//! *Ready* means that a client sent here is served: not stopping, recovered,
//! and a leader known now or a moment ago. The moment is what keeps an
//! election from emptying every load balancer at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_raft::{Phase, Status};

/// Progress not seen for this long means that the process hangs.
const TICK_AGE_MAX: Duration = Duration::from_secs(30);

/// How often [`Health::tick`] is to be called.
pub(crate) const TICK: Duration = Duration::from_millis(500);

/// What is known of the health of this process.
pub struct Health {
    started: Instant,
    /// Milliseconds after `started`.
    ticked: AtomicU64,
    /// Milliseconds after `started` when a leader was last known, plus one; 0: never.
    led: AtomicU64,
    stopping: AtomicBool,
    drained: AtomicBool,
    leaderless_max: Duration,
}

/// One of the things that readiness needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name in `/readyz/NAME`.
    pub name: &'static str,
    /// Why it fails; none when it holds.
    pub failure: Option<String>,
}

impl Health {
    /// Alive as of now. A node without a leader for longer than
    /// `leaderless_max` is not ready.
    pub fn new(leaderless_max: Duration) -> Self {
        Health {
            started: Instant::now(),
            ticked: AtomicU64::new(0),
            led: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            leaderless_max,
        }
    }

    /// Notes that tasks make progress, and whether a leader is known.
    pub fn tick(&self, status: &Status) {
        let now = self.now();
        self.ticked.store(now, Ordering::Relaxed);
        if status.leader.is_some() {
            self.led.store(now + 1, Ordering::Relaxed);
        }
    }

    /// From now on this node is not ready: it is about to stop.
    pub fn drain(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// From now on this node is not ready, because it is drained, or that is over.
    pub fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Relaxed);
    }

    /// Whether clients are to go elsewhere: the node is about to stop, or drained.
    pub fn is_draining(&self) -> bool {
        self.stopping.load(Ordering::Relaxed) || self.drained.load(Ordering::Relaxed)
    }

    /// How long the process runs.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether the process makes progress.
    pub fn is_live(&self) -> bool {
        self.now().saturating_sub(self.ticked.load(Ordering::Relaxed)) < millis(TICK_AGE_MAX)
    }

    /// Whether this node may be sent work.
    pub fn is_ready(&self, status: &Status) -> bool {
        self.checks(status).iter().all(|check| check.failure.is_none())
    }

    /// What readiness needs, one by one.
    pub fn checks(&self, status: &Status) -> Vec<Check> {
        let stopping = self.stopping.load(Ordering::Relaxed).then(|| "this node is about to stop".to_owned());
        let drained = self.drained.load(Ordering::Relaxed);
        let draining = drained.then(|| "this node is drained: restart it, or `annals node resume`".to_owned());
        let recovered = match status.phase {
            Phase::Ready => None,
            phase @ (Phase::Waiting
            | Phase::Bootstrapping
            | Phase::Recovering
            | Phase::Removed
            | Phase::Outdated
            | Phase::ShuttingDown
            | Phase::Stopped) => Some(format!("this node is {}", phase.as_str())),
        };
        vec![
            Check { name: "serving", failure: stopping },
            Check { name: "draining", failure: draining },
            Check { name: "recovered", failure: recovered },
            Check { name: "leader", failure: self.leaderless(status) },
        ]
    }

    fn leaderless(&self, status: &Status) -> Option<String> {
        if status.leader.is_some() {
            return None;
        }
        match self.led.load(Ordering::Relaxed) {
            0 => Some("no leader has been known since the start".to_owned()),
            led => {
                let ago = Duration::from_millis(self.now().saturating_sub(led - 1));
                (ago > self.leaderless_max).then(|| format!("no leader has been known for {} s", ago.as_secs()))
            }
        }
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
