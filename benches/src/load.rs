//! The one loop that measures every system.
//!
//! A [`Worker`] is one client with one request under way. In a *closed* loop it
//! sends its next request when the last one is answered. In an *open* loop
//! requests fall due at a fixed rate, whoever is free takes the next one, and
//! latency counts from when it was due: a stall is charged to every request that
//! had to wait for it (no coordinated omission).
//!
//! Annals and every system it is compared with run through this file, so that
//! they are measured alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How late a timer may be that was set in time: tokio's are precise to a
/// millisecond, which is more than a fast answer takes. What is later than this
/// was held up by something and is charged in full.
const TIMER_LATE_MAX: Duration = Duration::from_millis(2);

/// One client: one request at a time, over and over.
pub trait Worker: Send + 'static {
    /// Sends one request and waits for its answer; checks the answer.
    ///
    /// Returns how much was done: events, streams, reads.
    ///
    /// # Errors
    /// Anything that is not the right answer. It ends the measurement.
    fn request(&mut self) -> impl Future<Output = anyhow::Result<u64>> + Send;
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// The next one when the last is answered.
    Closed,
    /// So many a second, of all workers together.
    Open {
        /// Requests a second.
        rate: f64,
    },
}

/// How long, and at what pace.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Before anything counts.
    pub warm_up: Duration,
    /// What counts: requests that are sent (or fall due) in it.
    pub measure: Duration,
    /// Closed or open.
    pub pace: Pace,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Requests that were answered.
    pub requests: u64,
    /// What they did, in the workers' unit.
    pub units: u64,
    /// From the first that counts to the last answer.
    pub elapsed: Duration,
    /// Of each request, in microseconds.
    pub latency: Histogram<u64>,
}

impl Measured {
    /// Units a second.
    pub fn rate(&self) -> f64 {
        self.units as f64 / self.elapsed.as_secs_f64()
    }

    /// Latency at this quantile (0 to 1), in milliseconds.
    pub fn milliseconds(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Lets the workers run by the plan. `counted` goes up by every unit as it is
/// done, warm-up included, for whoever shows progress.
///
/// # Errors
/// The first error of a worker; the others are stopped.
pub async fn run<W: Worker>(workers: Vec<W>, plan: Plan, counted: Arc<AtomicU64>) -> anyhow::Result<Measured> {
    run_until(workers, plan, counted, std::future::pending()).await
}

/// As [`run`], but no request is sent any more after `stop`. What is under way
/// then is waited for: what was measured so far is whole.
///
/// # Errors
/// As [`run`].
pub async fn run_until<W: Worker>(
    workers: Vec<W>,
    plan: Plan,
    counted: Arc<AtomicU64>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Measured> {
    let start = Instant::now();
    let stopped = CancellationToken::new();
    let clock = Clock { start, begin: start + plan.warm_up, end: start + plan.warm_up + plan.measure };
    let due = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for worker in workers {
        tasks.spawn(work(worker, plan.pace, clock, due.clone(), counted.clone(), stopped.clone()));
    }
    let mut all = Measured { requests: 0, units: 0, elapsed: plan.measure, latency: Histogram::new(3)? };
    tokio::pin!(stop);
    loop {
        let one = tokio::select! {
            one = tasks.join_next() => one,
            () = &mut stop, if !stopped.is_cancelled() => {
                stopped.cancel();
                all.elapsed = plan.measure.min(clock.begin.elapsed());
                continue;
            }
        };
        let Some(one) = one else { return Ok(all) };
        let one = one.context("a client panicked")??;
        all.requests += one.requests;
        all.units += one.units;
        all.elapsed = all.elapsed.max(one.elapsed);
        all.latency.add(one.latency)?;
    }
}

#[derive(Clone, Copy)]
struct Clock {
    start: Instant,
    begin: Instant,
    end: Instant,
}

async fn work<W: Worker>(
    mut worker: W,
    pace: Pace,
    clock: Clock,
    due: Arc<AtomicU64>,
    counted: Arc<AtomicU64>,
    stopped: CancellationToken,
) -> anyhow::Result<Measured> {
    let mut own = Measured { requests: 0, units: 0, elapsed: Duration::ZERO, latency: Histogram::new(3)? };
    loop {
        let from = match pace {
            Pace::Closed => Instant::now(),
            Pace::Open { rate } => {
                let turn = due.fetch_add(1, Ordering::Relaxed);
                let at = clock.start + Duration::from_secs_f64(turn as f64 / rate);
                let in_time = Instant::now() <= at;
                tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = stopped.cancelled() => return Ok(own),
                }
                let woken = Instant::now();
                // Nobody but our timer kept this request waiting.
                if in_time && woken - at <= TIMER_LATE_MAX { woken } else { at }
            }
        };
        if from >= clock.end || stopped.is_cancelled() {
            return Ok(own);
        }
        let units = worker.request().await?;
        counted.fetch_add(units, Ordering::Relaxed);
        if from >= clock.begin {
            own.requests += 1;
            own.units += units;
            own.elapsed = clock.begin.elapsed();
            own.latency.record(u64::try_from(from.elapsed().as_micros())?.max(1))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers after 1 ms, but the third request after 200 ms.
    struct Stalls(u64);

    impl Worker for Stalls {
        async fn request(&mut self) -> anyhow::Result<u64> {
            self.0 += 1;
            tokio::time::sleep(Duration::from_millis(if self.0 == 3 { 200 } else { 1 })).await;
            Ok(1)
        }
    }

    async fn measure(pace: Pace) -> Measured {
        let plan = Plan { warm_up: Duration::ZERO, measure: Duration::from_millis(500), pace };
        run(vec![Stalls(0)], plan, Arc::default()).await.expect("no error")
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_charges_a_stall_to_all_that_waited() {
        let closed = measure(Pace::Closed).await;
        assert!(closed.milliseconds(0.9) < 10.0, "one stall among hundreds");
        let open = measure(Pace::Open { rate: 100.0 }).await;
        assert_eq!(open.requests, 50);
        assert!(open.milliseconds(0.9) > 100.0, "{}", open.milliseconds(0.9));
    }

    struct Fails;

    impl Worker for Fails {
        async fn request(&mut self) -> anyhow::Result<u64> {
            anyhow::bail!("a wrong answer")
        }
    }

    #[tokio::test]
    async fn a_wrong_answer_ends_the_measurement() {
        let plan = Plan { warm_up: Duration::ZERO, measure: Duration::from_secs(60), pace: Pace::Closed };
        assert!(run(vec![Fails], plan, Arc::default()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_measured_before_a_stop_is_told() {
        for pace in [Pace::Closed, Pace::Open { rate: 1_000.0 }] {
            let plan = Plan { warm_up: Duration::ZERO, measure: Duration::from_secs(60), pace };
            let stop = tokio::time::sleep(Duration::from_secs(1));
            let measured = run_until(vec![Stalls(0), Stalls(0)], plan, Arc::default(), stop).await.expect("no error");
            assert!((500..2_000).contains(&measured.requests), "{}", measured.requests);
            assert!(measured.elapsed < Duration::from_secs(2), "{:?}", measured.elapsed);
        }
    }
}
