//! All subscriptions of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_proto::event_store::client::streams::ReadReq;
use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::Streaming;

use super::To;
use super::subscriber::{Check, Progress, Sees, Subscriber};
use crate::event::{Timeline, nanos};
use crate::read::request;
use crate::streams::Streams;
use crate::target::Target;
use crate::wire::{Answer, Connection};

/// Subscriptions that are being opened at a time.
const OPENING: usize = 64;

/// How long after the last append everything must have been seen.
const SETTLE: Duration = Duration::from_secs(30);
const SETTLE_POLL: Duration = Duration::from_millis(5);

/// Subscriptions, each with a task of its own.
pub(crate) struct Group {
    streams: Arc<Streams>,
    timeline: Timeline,
    counts_from: Arc<AtomicU64>,
    tasks: JoinSet<anyhow::Result<()>>,
    measured: Vec<Arc<Progress>>,
    slow: Vec<Arc<Progress>>,
}

impl Group {
    /// None yet. Nothing counts before [`Group::count_after`].
    pub(crate) fn new(streams: Arc<Streams>, timeline: Timeline) -> Self {
        Group {
            streams,
            timeline,
            counts_from: Arc::new(AtomicU64::new(u64::MAX)),
            tasks: JoinSet::new(),
            measured: Vec::new(),
            slow: Vec::new(),
        }
    }

    /// Opens subscriptions that are measured.
    ///
    /// # Errors
    /// One was refused.
    pub(crate) async fn open(&mut self, target: &Target, to: To, count: usize) -> anyhow::Result<()> {
        for subscriber in self.subscribers(target, to, count, "subscription").await? {
            self.measured.push(subscriber.progress.clone());
            self.tasks.spawn(subscriber.run());
        }
        Ok(())
    }

    /// Opens subscriptions that take one event a second. They have connections
    /// of their own: what they leave lying would stop others on the same one,
    /// and that would be the client's doing.
    ///
    /// # Errors
    /// One was refused.
    pub(crate) async fn open_slow(&mut self, target: &Target, to: To, count: usize) -> anyhow::Result<()> {
        let slow = self.subscribers(target, to, count, "slow subscription").await?;
        // Spread over the second, as strangers are: at once they would be a load of their own.
        let apart = Duration::from_secs(1) / u32::try_from(count.max(1))?;
        for (subscriber, phase) in slow.into_iter().zip((0..).map(|number| apart * number)) {
            self.slow.push(subscriber.progress.clone());
            self.tasks.spawn(subscriber.run_slowly(phase));
        }
        Ok(())
    }

    /// Opens subscriptions to streams that stay empty.
    ///
    /// # Errors
    /// One was refused.
    pub(crate) async fn open_idle(&mut self, target: &Target, count: usize) -> anyhow::Result<()> {
        let requests = (0..count).map(|number| {
            let name = Bytes::from(format!("{}idle-{number}", self.streams.beginning()));
            request::subscribe_stream(&name)
        });
        for (number, mut answers) in confirmed(target, requests.collect()).await?.into_iter().enumerate() {
            self.tasks.spawn(async move {
                while let Some(answer) = answers.message().await.map_err(annals_client::Error::from)? {
                    if answer.event.is_some() {
                        bail!("idle subscription {number} saw an event");
                    }
                }
                bail!("idle subscription {number} ended")
            });
        }
        Ok(())
    }

    async fn subscribers(&self, target: &Target, to: To, count: usize, kind: &str) -> anyhow::Result<Vec<Subscriber>> {
        let sees = |number| match to {
            To::Stream => Sees::One(number % self.streams.count()),
            To::All | To::Filtered => Sees::Every,
        };
        let request = |number| match (to, sees(number)) {
            (_, Sees::One(stream)) => request::subscribe_stream(self.streams.name(stream)),
            (To::Filtered, Sees::Every) => request::subscribe_all(Some(self.streams.beginning())),
            (To::All | To::Stream, Sees::Every) => request::subscribe_all(None),
        };
        let opened = confirmed(target, (0..count).map(request).collect()).await?;
        let subscribers = opened.into_iter().enumerate().map(|(number, answers)| {
            Ok(Subscriber {
                answers,
                progress: Progress::new(format!("{kind} {number}"), sees(number))?,
                check: Check::new(self.streams.clone(), sees(number)),
                timeline: self.timeline,
                counts_from: self.counts_from.clone(),
            })
        });
        subscribers.collect()
    }

    /// From now on events count that are sent after so long.
    pub(crate) fn count_after(&self, warm_up: Duration) {
        self.counts_from.store(self.timeline.nanos().saturating_add(nanos(warm_up)), Ordering::Relaxed);
    }

    /// Returns when a subscription went wrong.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) => anyhow!("a subscription ended"),
            Some(Err(error)) => anyhow::Error::new(error).context("a subscription panicked"),
        }
    }

    /// Waits until every subscription that is measured has seen everything
    /// that was acknowledged.
    ///
    /// # Errors
    /// One went wrong, or has not seen everything in time.
    pub(crate) async fn settle(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let late = |progress: &&Arc<Progress>| progress.seen() < progress.sees.due(&self.streams);
            let Some(late) = self.measured.iter().find(late).cloned() else { return Ok(()) };
            if Instant::now() >= deadline {
                let (seen, due) = (late.seen(), late.sees.due(&self.streams));
                bail!("{} has seen {seen} of {due} events {} s after the last append", late.name, SETTLE.as_secs());
            }
            tokio::select! {
                failure = self.failed() => return Err(failure),
                () = tokio::time::sleep(SETTLE_POLL) => {}
            }
        }
    }

    /// Microseconds from sent to seen, of all events that count.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        let mut sum = Histogram::new(3).expect("3 digits are allowed");
        self.measured.iter().for_each(|progress| progress.add_all_to(&mut sum));
        sum
    }

    /// Who looks at the same, from time to time.
    pub(crate) fn recent(&self) -> Recent {
        Recent(self.measured.clone())
    }

    /// Events that slow subscriptions have taken.
    pub(crate) fn seen_by_slow(&self) -> u64 {
        self.slow.iter().map(|progress| progress.seen()).sum()
    }
}

/// Looks at what the subscriptions of a group have seen lately.
pub(crate) struct Recent(Vec<Arc<Progress>>);

impl Recent {
    /// Microseconds from sent to seen, since the last call.
    pub(crate) fn take(&self) -> Histogram<u64> {
        let mut sum = Histogram::new(3).expect("3 digits are allowed");
        self.0.iter().for_each(|progress| progress.move_recent_to(&mut sum));
        sum
    }
}

/// Opens subscriptions and waits until each is confirmed.
async fn confirmed(target: &Target, requests: Vec<ReadReq>) -> anyhow::Result<Vec<Streaming<Answer>>> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let connections = target.connect(requests.len()).await?;
    let opening = requests.into_iter().enumerate().map(|(number, request)| open(connections.of(number), request));
    stream::iter(opening).buffered(OPENING).try_collect().await
}

async fn open(mut connection: Connection, request: ReadReq) -> anyhow::Result<Streaming<Answer>> {
    let mut answers = connection.read(request).await.context("cannot subscribe")?;
    let first = answers.message().await.map_err(annals_client::Error::from).context("cannot subscribe")?;
    match first.and_then(|answer| answer.confirmation) {
        Some(_) => Ok(answers),
        None => bail!("a subscription does not begin with its confirmation"),
    }
}
