//! What a group can be asked while it is served, and by whom.

use annals_core::EventId;
use annals_core::group::{ConsumerId, NackAction};
use annals_proto::event_store::client::persistent_subscriptions::ReadResp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::definition::Definition;
use super::runner;
use super::stalls::Stalls;
use crate::context::Shared;
use crate::grpc::streams::convert::Ids;
use crate::status::Failure;

/// Messages that may wait for the task.
const QUEUE: usize = 1_024;

/// Slots that a consumer may have.
const SLOTS_MAX: usize = 10_000;

/// The other end of a consumer.
pub(crate) type Deliveries = mpsc::Receiver<Result<ReadResp, Status>>;

/// What a group can be asked.
pub(super) enum Ask {
    Join {
        slots: usize,
        ids: Ids,
        who: Who,
        reply: oneshot::Sender<Result<(ConsumerId, Deliveries), Failure>>,
    },
    Leave(ConsumerId),
    Answer {
        consumer: ConsumerId,
        ids: Vec<EventId>,
        nack: Option<(NackAction, String)>,
    },
    Info(oneshot::Sender<Info>),
    Replay {
        before: Option<u64>,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Truncate {
        before: Option<u64>,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// Write the checkpoint, tell consumers, end.
    Close {
        why: Failure,
        reply: oneshot::Sender<()>,
    },
}

/// Who consumes, for whoever asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    /// The user's name.
    pub(crate) user: String,
    /// What the client calls its connection.
    pub(crate) connection: String,
}

/// A consumer, for whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerInfo {
    pub(crate) who: Who,
    pub(crate) free: usize,
    pub(crate) in_flight: usize,
    pub(crate) delivered: u64,
    /// Deliveries a second, and in the last measured one.
    pub(crate) per_second: u64,
    pub(crate) in_last: u64,
    /// How long it takes for a message, in milliseconds, by name; none unless the
    /// group measures it.
    pub(crate) measured: Vec<(&'static str, u64)>,
}

/// How a group does.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub(crate) definition: Definition,
    pub(crate) live: bool,
    pub(crate) replaying: bool,
    pub(crate) delivered: u64,
    /// Deliveries a second, and in the last measured one.
    pub(crate) per_second: u64,
    pub(crate) in_last: u64,
    pub(crate) checkpoint: Option<u64>,
    pub(crate) known: Option<u64>,
    pub(crate) waiting: usize,
    pub(crate) retried: usize,
    pub(crate) in_flight: usize,
    pub(crate) parked: u64,
    pub(crate) consumers: Vec<ConsumerInfo>,
}

/// A handle on a group that is served.
#[derive(Clone)]
pub(crate) struct Handle {
    asks: mpsc::Sender<Ask>,
    stalls: watch::Receiver<Stalls>,
}

impl Handle {
    /// Begins to serve a group on this node, which leads.
    pub(crate) fn start(context: Shared, definition: Definition, stop: CancellationToken) -> Handle {
        let (asks, asked) = mpsc::channel(QUEUE);
        let (told, stalls) = watch::channel(Stalls::default());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = runner::keep_serving(context, definition, asked, told) => {}
            }
        });
        Handle { asks, stalls }
    }

    /// Whether it gets on, as of a second ago at most.
    pub(crate) fn stalls(&self) -> Stalls {
        *self.stalls.borrow()
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Failure::NotReady)?;
        answer.await.map_err(|_| Failure::NotReady)
    }

    /// A consumer joins.
    pub(crate) async fn join(&self, slots: usize, ids: Ids, who: Who) -> Result<(ConsumerId, Deliveries), Failure> {
        let slots = slots.clamp(1, SLOTS_MAX);
        self.ask(|reply| Ask::Join { slots, ids, who, reply }).await?
    }

    /// A consumer is gone.
    pub(crate) async fn leave(&self, consumer: ConsumerId) {
        let _ = self.asks.send(Ask::Leave(consumer)).await;
    }

    /// A consumer answers for messages: acked where nothing is said.
    pub(crate) async fn answer(&self, consumer: ConsumerId, ids: Vec<EventId>, nack: Option<(NackAction, String)>) {
        let _ = self.asks.send(Ask::Answer { consumer, ids, nack }).await;
    }

    /// How it does.
    pub(crate) async fn info(&self) -> Result<Info, Failure> {
        self.ask(Ask::Info).await
    }

    /// Delivers parked messages again, those before a revision.
    pub(crate) async fn replay(&self, before: Option<u64>) -> Result<(), Failure> {
        self.ask(|reply| Ask::Replay { before, reply }).await?
    }

    /// Drops parked messages, those before a revision.
    pub(crate) async fn truncate(&self, before: Option<u64>) -> Result<(), Failure> {
        self.ask(|reply| Ask::Truncate { before, reply }).await?
    }

    /// Ends it: consumers are told why.
    pub(crate) async fn close(&self, why: Failure) {
        let _ = self.ask(|reply| Ask::Close { why, reply }).await;
    }
}
