//! The consumers of a group: the channels on which they get messages, and how each
//! of them does.
//!
//! A consumer's channel has as many places as the consumer has slots, so that sending
//! never waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use annals_core::group::{ConsumerId, Group};
use annals_proto::event_store::client::persistent_subscriptions::ReadResp;
use annals_proto::event_store::client::persistent_subscriptions::read_resp::{Content, SubscriptionConfirmation};
use tokio::sync::mpsc;
use tonic::Status;

use super::handle::{ConsumerInfo, Deliveries, Who};
use super::measured::{Rate, Times};
use super::source::{self, Loaded};
use crate::grpc::streams::convert::Ids;

/// All of a group.
pub(super) struct Consumers {
    all: BTreeMap<ConsumerId, Consumer>,
    next: ConsumerId,
    /// Whether it is measured how long each takes.
    measures: bool,
}

struct Consumer {
    deliveries: mpsc::Sender<Result<ReadResp, Status>>,
    ids: Ids,
    who: Who,
    delivered: u64,
    rate: Rate,
    times: Option<Box<Times>>,
}

impl Consumers {
    /// None yet.
    pub(super) fn new(measures: bool) -> Consumers {
        Consumers { all: BTreeMap::new(), next: 1, measures }
    }

    /// The number of the next one to be added.
    pub(super) fn next(&self) -> ConsumerId {
        self.next
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Adds one; its channel begins with the confirmation.
    pub(super) fn add(&mut self, slots: usize, ids: Ids, who: Who, group: String) -> (ConsumerId, Deliveries) {
        let consumer = self.next;
        self.next += 1;
        // One more for the confirmation, one for the end.
        let (deliveries, delivered) = mpsc::channel(slots + 2);
        let confirmation = SubscriptionConfirmation { subscription_id: group };
        let _ = deliveries.try_send(Ok(ReadResp { content: Some(Content::SubscriptionConfirmation(confirmation)) }));
        let times = self.measures.then(Box::default);
        let rate = Rate::new(Instant::now());
        self.all.insert(consumer, Consumer { deliveries, ids, who, delivered: 0, rate, times });
        (consumer, delivered)
    }

    /// One is gone.
    pub(super) fn remove(&mut self, consumer: ConsumerId) {
        self.all.remove(&consumer);
    }

    /// Those whose clients are gone.
    pub(super) fn gone(&self) -> Vec<ConsumerId> {
        self.all.iter().filter(|(_, consumer)| consumer.deliveries.is_closed()).map(|(id, _)| *id).collect()
    }

    /// Sends a message, which was delivered in vain so often. Who is gone gets nothing.
    pub(super) fn send(&mut self, to: ConsumerId, loaded: &Loaded, retries: u32) {
        if let Some(consumer) = self.all.get_mut(&to) {
            consumer.delivered += 1;
            // There is room for as many as the consumer has slots; who is gone leaves.
            let _ = consumer.deliveries.try_send(Ok(source::delivered(loaded, retries, consumer.ids)));
        }
    }

    /// One has answered for a message after this time.
    pub(super) fn answered(&mut self, by: ConsumerId, after: Option<Duration>) {
        if let (Some(after), Some(consumer)) = (after, self.all.get_mut(&by))
            && let Some(times) = &mut consumer.times
        {
            times.record(after);
        }
    }

    /// Whether the times of answers are wanted.
    pub(super) fn measures(&self) -> bool {
        self.measures
    }

    /// Counts what happened since the last time.
    pub(super) fn measure(&mut self, now: Instant) {
        for consumer in self.all.values_mut() {
            consumer.rate.measure(consumer.delivered, now);
        }
    }

    /// What each tells of itself.
    pub(super) fn told(&self, group: &Group) -> Vec<ConsumerInfo> {
        let told = |(id, consumer): (&ConsumerId, &Consumer)| {
            let (free, in_flight) = group.slots(*id).unwrap_or_default();
            ConsumerInfo {
                who: consumer.who.clone(),
                free,
                in_flight,
                delivered: consumer.delivered,
                per_second: consumer.rate.per_second(),
                in_last: consumer.rate.in_last(),
                measured: consumer.times.as_ref().map(|times| times.told()).unwrap_or_default(),
            }
        };
        self.all.iter().map(told).collect()
    }

    /// Tells all why it ends.
    pub(super) fn dismiss(&self, why: impl Fn() -> Status) {
        for consumer in self.all.values() {
            let _ = consumer.deliveries.try_send(Err(why()));
        }
    }
}
