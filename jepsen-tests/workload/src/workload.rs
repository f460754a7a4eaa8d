//! Starting and stopping all that runs.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::board::Board;
use crate::process::{Process, Shared, Turn};
use crate::recorder::Counts;
use crate::{Endpoints, Plan, Recorder, Subscriptions, hashes, prober};

/// Turns that were due so long ago are not made up for.
const LATE_MAX: Duration = Duration::from_secs(1);

/// A turn is at most so many calls one after the other once it is time to
/// stop: a write, a repetition that had begun, a look at what was written.
const CALLS_OF_A_TURN: u32 = 3;

/// Added to what calls may take, for a busy machine.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A workload under way. Dropped, it stops at once.
pub struct Running {
    recorder: Recorder,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    subscriptions: Subscriptions,
    patience: Duration,
}

/// Starts a workload.
pub fn start(plan: Plan, endpoints: Endpoints, recorder: Recorder) -> Running {
    let (stop, stopped) = watch::channel(false);
    let subscriptions = Subscriptions::start(&plan, &endpoints, &recorder);
    let patience = (plan.timeout + plan.connect_timeout) * CALLS_OF_A_TURN + STOP_GRACE;
    let (processes, probe_every, hash_every) = (plan.processes, plan.probe_every, plan.hash_every);
    let shared = Arc::new(Shared {
        board: Board::new(&plan),
        pacer: Pacer::new(plan.appends_per_second, plan.reads_per_second),
        numbers: AtomicU32::new(plan.first_number),
        acked: Mutex::default(),
        plan,
        endpoints,
        recorder: recorder.clone(),
    });
    let mut tasks = JoinSet::new();
    for index in 0..processes {
        tasks.spawn(Process::new(shared.clone(), index, stopped.clone()).run());
    }
    if let Some(every) = probe_every {
        tasks.spawn(prober::run(shared.clone(), every, stopped.clone()));
    }
    if let Some(every) = hash_every {
        tasks.spawn(hashes::run(shared, every, stopped));
    }
    Running { recorder, stop, tasks, subscriptions, patience }
}

impl Running {
    /// How often what happened, so far.
    pub fn counts(&self) -> Counts {
        self.recorder.counts()
    }

    /// Makes no more calls, waits for those under way as long as they may
    /// take, and hands over the subscriptions, which go on.
    ///
    /// Calls that are cut off because they took longer are not in the
    /// history; none should be.
    pub async fn stop(mut self) -> Subscriptions {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(self.patience, all).await;
        self.subscriptions
    }
}

/// Gives out turns at an even rate, whoever takes them.
///
/// The load is open: it does not wait for answers. Who is stuck in a call
/// takes no turn, and the others take its share.
pub(crate) struct Pacer {
    next: Mutex<Instant>,
    gap: Duration,
    write_ratio: f64,
}

impl Pacer {
    fn new(writes: f64, reads: f64) -> Pacer {
        let all = (writes + reads).max(0.001);
        Pacer {
            next: Mutex::new(Instant::now()),
            gap: Duration::from_secs_f64(1.0 / all),
            write_ratio: (writes / all).clamp(0.0, 1.0),
        }
    }

    /// The next turn: when, and for what.
    pub(crate) fn take(&self, recorder: &Recorder, rng: &mut StdRng) -> (Instant, Turn) {
        let jitter = rng.random_range(0.5..1.5);
        let turn = if rng.random_bool(self.write_ratio) { Turn::Write } else { Turn::Read };
        let now = Instant::now();
        let mut next = self.next.lock();
        let late = now.saturating_duration_since(*next);
        if late > LATE_MAX {
            recorder.count_shed((late.as_nanos() / self.gap.as_nanos().max(1)) as u64);
            *next = now;
        }
        let at = *next;
        *next += self.gap.mul_f64(jitter);
        (at, turn)
    }
}
