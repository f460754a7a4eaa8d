//! Consumer groups whose consumers are not to be relied on.
//!
//! Groups of every strategy share streams, a category and filtered parts of
//! everything. Each has some consumers that answer late, not at all, or with
//! any of the answers that there are, and that go without a word. Beside them
//! somebody has parked events delivered again and restarts the groups, and
//! reads every group's checkpoint, as the log tells it ([`keeper`]).
//!
//! At the end all consumers begin anew and ack all they get until every group's
//! checkpoint is at the end of its source; then what is parked is read.

mod calls;
mod consumer;
mod keeper;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use annals_checker::history::{Defined, Group, GroupEnded, GroupSource, GroupStep, Record};
use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::consumer::Consumer;
use self::keeper::Keeper;
use crate::{Endpoints, Recorder};

/// What is done to groups.
#[derive(Clone, Copy, Debug)]
pub struct GroupPlan {
    /// Everything random follows from it.
    pub seed: u64,
    /// Consumers of each group.
    pub consumers: u32,
    /// How long a call is waited for.
    pub timeout: Duration,
    /// How long a connection is waited for.
    pub connect_timeout: Duration,
    /// The pause between two replays of what a group has parked, on average.
    pub replay_every: Duration,
    /// The pause between two restarts of all groups, on average.
    pub restart_every: Duration,
}

impl Default for GroupPlan {
    fn default() -> Self {
        GroupPlan {
            seed: 1,
            consumers: 3,
            timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            replay_every: Duration::from_secs(3),
            restart_every: Duration::from_secs(12),
        }
    }
}

/// How long a group may take to be made.
const MAKING: Duration = Duration::from_secs(20);

/// A group that takes part.
#[derive(Debug)]
struct Sharing {
    number: u32,
    name: String,
    source: GroupSource,
    strategy: &'static str,
}

impl Sharing {
    /// The name of its source.
    fn source_name(&self) -> String {
        match &self.source {
            GroupSource::All { .. } => "$all".to_owned(),
            GroupSource::Stream(stream) => stream.to_string(),
            GroupSource::Category(category) => format!("$ce-{category}"),
        }
    }

    /// A stream that it writes to: `checkpoint` or `parked`.
    fn own_stream(&self, kind: &str) -> String {
        format!("$persistentsubscription-{}::{}-{kind}", self.source_name(), self.name)
    }

    fn in_order(&self) -> bool {
        self.strategy.starts_with("Pinned")
    }
}

/// The groups that take part: every strategy and every kind of source.
fn all() -> Vec<Arc<Sharing>> {
    let prefixes =
        |texts: &[&str]| GroupSource::All { prefixes: texts.iter().map(|text| (*text).to_owned()).collect() };
    let kinds = [
        ("single", GroupSource::Stream(crate::board::hot(0).into()), "DispatchToSingle"),
        ("turns", GroupSource::Category("order".into()), "RoundRobin"),
        ("pinned", GroupSource::Category("order".into()), "Pinned"),
        ("correlated", GroupSource::Category("cart".into()), "PinnedByCorrelation"),
        ("filtered", prefixes(&["user-", "audit-"]), "RoundRobin"),
        ("filtered-pinned", prefixes(&["cart-", "audit-"]), "Pinned"),
    ];
    let numbered = (0..).zip(kinds);
    numbered
        .map(|(number, (name, source, strategy))| Arc::new(Sharing { number, name: name.to_owned(), source, strategy }))
        .collect()
}

/// What consumers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// As they like.
    Run,
    /// To ack everything.
    Drain,
}

/// What all of a run's groups share.
struct Shared {
    plan: GroupPlan,
    endpoints: Endpoints,
    recorder: Recorder,
    /// The number of the next consumer.
    consumers: AtomicU32,
}

impl Shared {
    fn record(&self, group: u32, step: GroupStep) {
        self.recorder.record(Record::Group(Group { group, step }));
    }
}

/// Groups with their consumers. Dropped, they stop at once.
pub struct Groups {
    shared: Arc<Shared>,
    groups: Vec<Arc<Sharing>>,
    order: watch::Sender<Order>,
    consumers: JoinSet<()>,
    watching: JoinSet<()>,
    moving: JoinSet<()>,
}

impl Groups {
    /// Makes the groups, before there is any event for them, and lets their
    /// consumers begin.
    ///
    /// # Errors
    /// One could not be made.
    pub async fn start(plan: GroupPlan, endpoints: &Endpoints, recorder: &Recorder) -> Result<Groups> {
        let (endpoints, recorder) = (endpoints.clone(), recorder.clone());
        let shared = Arc::new(Shared { plan, endpoints, recorder, consumers: AtomicU32::new(0) });
        let groups = all();
        let (order, orders) = watch::channel(Order::Run);
        let (mut consumers, mut watching, mut moving) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        for group in &groups {
            let deadline = Instant::now() + MAKING;
            while let Err(error) = calls::make(&shared, group).await {
                anyhow::ensure!(Instant::now() < deadline, "the group {} could not be made: {error:#}", group.name);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let (name, source, in_order) = (group.name.clone(), group.source.clone(), group.in_order());
            shared.record(group.number, GroupStep::Defined(Defined { name, source, in_order }));
        }
        for group in &groups {
            for place in 0..plan.consumers {
                consumers.spawn(Consumer::new(shared.clone(), group.clone(), place, orders.clone()).run());
            }
            watching.spawn(Keeper::new(shared.clone(), group.clone()).watch_checkpoint());
        }
        moving.spawn(Keeper::replay_and_restart(shared.clone(), groups.clone(), orders));
        Ok(Groups { shared, groups, order, consumers, watching, moving })
    }

    /// Lets the consumers ack all that is left, ends the groups and reads what
    /// they have parked. All faults must be over, and nobody may append.
    ///
    /// The names of groups that did not get to the end of their sources in time.
    ///
    /// # Errors
    /// What is parked could not be read.
    pub async fn drain(mut self, timeout: Duration) -> Result<Vec<String>> {
        self.watching.shutdown().await;
        self.order.send_replace(Order::Drain);
        // A call that is under way is finished and recorded.
        while self.moving.join_next().await.is_some() {}
        let deadline = Instant::now() + timeout;
        let mut left = Vec::new();
        for group in &self.groups {
            let keeper = Keeper::new(self.shared.clone(), group.clone());
            let drained = keeper.drained(deadline).await;
            let time = self.shared.recorder.now();
            let (drained, upto) = match drained {
                Ok(upto) => (true, upto),
                Err(error) => {
                    left.push(format!("{} ({error:#})", group.name));
                    (false, None)
                }
            };
            self.shared.record(group.number, GroupStep::Ended(GroupEnded { time, drained, upto }));
        }
        self.consumers.shutdown().await;
        let deadline = deadline.max(Instant::now()) + self.shared.plan.timeout;
        let parked = Keeper::parked(&self.shared, &self.groups, deadline).await;
        for (group, parked) in self.groups.iter().zip(parked.context("cannot read what the groups have parked")?) {
            self.shared.record(group.number, GroupStep::Parked(parked));
        }
        Ok(left)
    }
}
