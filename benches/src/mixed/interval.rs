//! How it goes while it runs: a line from time to time.
//!
//! Latency here counts from when a request was sent, also in an open loop: the
//! lines show when something happened, the report at the end says how much.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::event::Timeline;
use crate::load::Worker;
use crate::report::{grouped, milliseconds};
use crate::subscribe::group::Recent;
use crate::watch::Watch;

/// Requests since somebody last looked, in microseconds.
pub(super) struct Interval(Mutex<Histogram<u64>>);

impl Interval {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Interval(Mutex::new(Histogram::new(3).expect("3 digits are allowed"))))
    }

    fn record(&self, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        self.histogram().record(microseconds).expect("the histogram grows as it must");
    }

    fn take(&self) -> Histogram<u64> {
        let mut histogram = self.histogram();
        let taken = histogram.clone();
        histogram.reset();
        taken
    }

    fn histogram(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        // Who panicked while recording ends the run by that.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker whose requests are noted.
pub(super) struct Noted<W> {
    worker: W,
    interval: Arc<Interval>,
}

impl<W> Noted<W> {
    pub(super) fn new(worker: W, interval: Arc<Interval>) -> Self {
        Noted { worker, interval }
    }
}

impl<W: Worker> Worker for Noted<W> {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let sent = Instant::now();
        let units = self.worker.request().await?;
        self.interval.record(sent.elapsed());
        Ok(units)
    }
}

/// Says how it goes.
pub(super) struct Talker {
    pub(super) begun: Timeline,
    pub(super) appends: Arc<Interval>,
    pub(super) reads: Arc<Interval>,
    pub(super) seen: Recent,
    pub(super) watch: Watch,
}

impl Talker {
    pub(super) async fn run(&self, every: Duration) -> Infallible {
        loop {
            tokio::time::sleep(every).await;
            let line = format!(
                "{:>6} s   appends {}   reads {}   seen {}",
                self.begun.nanos() / 1_000_000_000,
                told(&self.appends.take(), every),
                told(&self.reads.take(), every),
                told(&self.seen.take(), every)
            );
            (self.watch.say)(&line);
        }
    }
}

/// `1,234/s p50 1.20 p99 5.03 ms`
fn told(latency: &Histogram<u64>, every: Duration) -> String {
    let rate = format!("{:.0}", latency.len() as f64 / every.as_secs_f64());
    let quantile = |quantile| milliseconds(latency.value_at_quantile(quantile));
    format!("{}/s p50 {:.2} p99 {:.2} ms", grouped(&rate), quantile(0.5), quantile(0.99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_of_its_own_interval_only() {
        let interval = Interval::new();
        (0..2_000).for_each(|_| interval.record(Duration::from_millis(15)));
        assert_eq!(told(&interval.take(), Duration::from_secs(1)), "2,000/s p50 15.01 p99 15.01 ms");
        assert_eq!(told(&interval.take(), Duration::from_secs(1)), "0/s p50 0.00 p99 0.00 ms");
    }
}
