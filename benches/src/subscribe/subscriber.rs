//! One subscription: what it must see, and what it has seen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use tokio::time::MissedTickBehavior;
use tonic::Streaming;

use crate::event::{Stamp, Timeline};
use crate::sequence::{Order, Sequence};
use crate::streams::Streams;
use crate::wire::{Answer, Recorded};

/// Which of the streams a subscription sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sees {
    /// Only this one.
    One(usize),
    /// All of them.
    Every,
}

impl Sees {
    /// How many events it must have seen by now.
    pub(super) fn due(self, streams: &Streams) -> u64 {
        match self {
            Sees::One(stream) => streams.acknowledged(stream),
            Sees::Every => streams.acknowledged_in_all(),
        }
    }
}

/// How far a subscription is: its task writes it, others look.
pub(super) struct Progress {
    /// For people.
    pub(super) name: String,
    pub(super) sees: Sees,
    seen: AtomicU64,
    latency: Mutex<Latency>,
}

/// Microseconds from sent to seen.
struct Latency {
    /// Of all events that count.
    all: Histogram<u64>,
    /// Of those since somebody last looked.
    recent: Histogram<u64>,
}

impl Progress {
    pub(super) fn new(name: String, sees: Sees) -> anyhow::Result<Arc<Self>> {
        let latency = Latency { all: Histogram::new(3)?, recent: Histogram::new(3)? };
        Ok(Arc::new(Progress { name, sees, seen: AtomicU64::new(0), latency: Mutex::new(latency) }))
    }

    /// Events so far, those before the measurement too.
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Adds the latencies of all events to these.
    pub(super) fn add_all_to(&self, sum: &mut Histogram<u64>) {
        *sum += &self.latency().all;
    }

    /// Adds the latencies since this was last called to these.
    pub(super) fn move_recent_to(&self, sum: &mut Histogram<u64>) {
        let mut latency = self.latency();
        *sum += &latency.recent;
        latency.recent.reset();
    }

    fn latency(&self) -> std::sync::MutexGuard<'_, Latency> {
        // Who panicked while recording ends the run by that.
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription that was confirmed.
pub(super) struct Subscriber {
    pub(super) answers: Streaming<Answer>,
    pub(super) progress: Arc<Progress>,
    pub(super) check: Check,
    pub(super) timeline: Timeline,
    /// Events that were sent before do not count. Shared: it is set when the
    /// measurement begins.
    pub(super) counts_from: Arc<AtomicU64>,
}

impl Subscriber {
    /// Sees events until something is wrong: a subscription has no end.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        loop {
            self.see().await.with_context(|| self.progress.name.clone())?;
        }
    }

    /// The same, but takes one event a second, the first one after `phase`.
    pub(super) async fn run_slowly(mut self, phase: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(phase).await;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        // Who waited for an event takes no more of them for that.
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            self.see().await.with_context(|| self.progress.name.clone())?;
        }
    }

    /// Sees the next event of ours.
    async fn see(&mut self) -> anyhow::Result<()> {
        loop {
            let answer = self.answers.message().await.map_err(annals_client::Error::from)?;
            let Some(event) = answer.context("the subscription ended")?.event else { continue };
            let event = event.event.context("an event is not there")?;
            if let Some(stamp) = self.check.take(&event)? {
                return self.record(stamp);
            }
        }
    }

    fn record(&self, stamp: Stamp) -> anyhow::Result<()> {
        if stamp.sent_nanos >= self.counts_from.load(Ordering::Relaxed) {
            let microseconds = self.timeline.nanos().saturating_sub(stamp.sent_nanos) / 1_000;
            let mut latency = self.progress.latency();
            latency.all.record(microseconds.max(1))?;
            latency.recent.record(microseconds.max(1))?;
        }
        self.progress.seen.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What a subscription must see: of each stream every event, once, in order.
pub(super) struct Check {
    streams: Arc<Streams>,
    sees: Sees,
    revisions: Vec<Sequence>,
    positions: Sequence,
}

impl Check {
    pub(super) fn new(streams: Arc<Streams>, sees: Sees) -> Self {
        let revisions = vec![Sequence::dense_from(0); streams.count()];
        Check { streams, sees, revisions, positions: Sequence::anywhere(Order::Strict) }
    }

    /// Takes the next event. Answers its stamp; none for an event of somebody
    /// else, which the whole log has too.
    ///
    /// # Errors
    /// An event is missing, came twice, or is not the one that was appended.
    fn take(&mut self, event: &Recorded) -> anyhow::Result<Option<Stamp>> {
        self.positions.take(event.position).context("positions")?;
        let stream = match (self.streams.find(event.stream()), self.sees) {
            (Some(stream), Sees::Every) => stream,
            (Some(stream), Sees::One(only)) if stream == only => stream,
            (None, Sees::Every) => return Ok(None),
            (Some(_) | None, Sees::One(_)) => {
                bail!("an event of {} came", String::from_utf8_lossy(event.stream()))
            }
        };
        let name = || format!("revisions of {}", String::from_utf8_lossy(self.streams.name(stream)));
        self.revisions[stream].take(event.revision).with_context(name)?;
        let stamp = Stamp::read(&event.data).with_context(name)?;
        if stamp.sequence != event.revision {
            bail!("{}: {} has the data of {}", name(), event.revision, stamp.sequence);
        }
        Ok(Some(stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(stream: &str, revision: u64, position: u64, sequence: u64) -> Recorded {
        let data = [0, sequence].map(u64::to_be_bytes).concat();
        Recorded::new(stream, revision, position, data)
    }

    fn check(sees: Sees) -> Check {
        Check::new(Streams::new("s", 3), sees)
    }

    #[test]
    fn all_events_of_all_streams_in_order_are_right() {
        let mut check = check(Sees::Every);
        for (stream, revision, position) in [("s-0", 0, 5), ("s-1", 0, 6), ("s-0", 1, 8), ("s-1", 1, 9)] {
            let stamp = check.take(&event(stream, revision, position, revision)).expect("right");
            assert_eq!(stamp.map(|stamp| stamp.sequence), Some(revision));
        }
        assert_eq!(check.take(&event("other", 0, 10, 0)).expect("somebody else's"), None);
    }

    #[test]
    fn what_is_missed_doubled_or_foreign_is_told() {
        let wrong = [
            (event("s-0", 1, 6, 1), "1 came where 0 was due: 1 missing"),
            (event("s-1", 0, 6, 0), "0 came where 1 was due: events came twice or out of order"),
            (event("s-1", 1, 5, 1), "5 came where 6 was due: events came twice or out of order"),
            (event("s-1", 1, 6, 3), "revisions of s-1: 1 has the data of 3"),
        ];
        for (next, told) in wrong {
            let mut check = check(Sees::Every);
            check.take(&event("s-1", 0, 5, 0)).expect("right");
            let error = check.take(&next).expect_err("wrong");
            assert!(format!("{error:#}").contains(told), "{error:#}");
        }
        assert!(check(Sees::One(1)).take(&event("s-2", 0, 1, 0)).is_err());
        assert!(check(Sees::One(1)).take(&event("s-1", 0, 1, 0)).is_ok());
    }
}
