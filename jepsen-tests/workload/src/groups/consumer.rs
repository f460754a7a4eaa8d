//! A consumer as it is in life: it takes its time, fails at times, forgets to
//! answer, and goes without a word.
//!
//! What it will say of an event, and when, is drawn when the event arrives. It
//! has several at hand at a time. A connection that ends takes with it all that
//! was not answered for: the group must give it to somebody again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use annals_checker::history::{Answer, Answered, GroupSource, GroupStep, Handed, Joined, Left, NodeNumber};
use annals_proto::event_store::client::persistent_subscriptions::read_req::nack::Action;
use annals_proto::event_store::client::persistent_subscriptions::read_req::{self, Ack, Nack, options};
use annals_proto::event_store::client::persistent_subscriptions::{ReadReq, ReadResp, read_resp};
use annals_proto::event_store::client::streams::read_resp::ReadEvent;
use annals_proto::event_store::client::streams::read_resp::read_event::RecordedEvent;
use annals_proto::event_store::client::{Empty, Uuid as WireUuid};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::calls::MESSAGE_TIMEOUT;
use super::{Order, Shared, Sharing};
use crate::calls::{described, identifier, seen};
use crate::wire::Wire;

/// Events that a consumer has at hand at most.
const SLOTS: i32 = 4;

/// The pause after a connection that could not be made.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes under way to a consumer.
const WINDOW: u32 = 64 * 1024;

pub(super) struct Consumer {
    shared: Arc<Shared>,
    group: Arc<Sharing>,
    orders: watch::Receiver<Order>,
    rng: StdRng,
    node: Option<NodeNumber>,
}

/// An event at hand.
struct AtHand {
    due: Instant,
    position: u64,
    id: Option<WireUuid>,
    answer: Answer,
}

/// A connection.
struct Connection {
    /// Its number in the run.
    consumer: u32,
    answers: mpsc::Sender<ReadReq>,
    messages: Streaming<ReadResp>,
    at_hand: Vec<AtHand>,
}

/// Why consuming came to an end.
enum End {
    /// The consumer goes by itself, with or without ending its call in order.
    Goes { in_order: bool },
    /// The server ended it, or it broke.
    Dropped { why: String, ended_ok: bool },
}

impl Consumer {
    pub(super) fn new(
        shared: Arc<Shared>,
        group: Arc<Sharing>,
        place: u32,
        orders: watch::Receiver<Order>,
    ) -> Consumer {
        let number = u64::from(group.number * 100 + place);
        let rng = StdRng::seed_from_u64(shared.plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
        Consumer { shared, group, orders, rng, node: None }
    }

    /// Consumes until it is stopped.
    pub(super) async fn run(mut self) {
        loop {
            let Some(node) = self.shared.endpoints.choose_other(self.node, &mut self.rng) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            self.node = Some(node);
            let Some(mut connection) = self.join(node).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let end = self.consume(&mut connection).await;
            let time = self.shared.recorder.now();
            let consumer = connection.consumer;
            let (why, ended_ok) = match end {
                End::Goes { in_order } => {
                    if in_order {
                        // The end of the requests; the answers would end as well.
                        let Connection { answers, mut messages, .. } = connection;
                        drop(answers);
                        let _ = tokio::time::timeout(PAUSE, messages.message()).await;
                    }
                    (format!("went by itself, {}", if in_order { "in order" } else { "without a word" }), false)
                }
                End::Dropped { why, ended_ok } => (why, ended_ok),
            };
            self.shared.record(self.group.number, GroupStep::Left(Left { consumer, time, why, ended_ok }));
        }
    }

    /// Joins the group at a node, which may hand the call on.
    async fn join(&mut self, node: NodeNumber) -> Option<Connection> {
        let Shared { endpoints, plan, recorder, .. } = &*self.shared;
        let Ok(wire) = Wire::connect(endpoints, node, plan.connect_timeout, Some(WINDOW)).await else {
            endpoints.silent(node);
            return None;
        };
        let stream_option = match self.group.source {
            GroupSource::All { .. } => options::StreamOption::All(Empty {}),
            GroupSource::Stream(_) | GroupSource::Category(_) => {
                options::StreamOption::StreamIdentifier(identifier(&self.group.source_name()).unwrap_or_default())
            }
        };
        let options = read_req::Options {
            group_name: self.group.name.clone(),
            buffer_size: SLOTS,
            uuid_option: None,
            stream_option: Some(stream_option),
        };
        // More places than answers can wait.
        let (answers, requests) = mpsc::channel(64);
        answers.try_send(ReadReq { content: Some(read_req::Content::Options(options)) }).ok()?;
        let invoke = recorder.now();
        let confirmed = async {
            let response = wire.groups().read(ReceiverStream::new(requests)).await?;
            let term = response.metadata().get("annals-term").and_then(|term| term.to_str().ok()?.parse().ok());
            let mut messages = response.into_inner();
            match messages.message().await?.and_then(|message| message.content) {
                Some(read_resp::Content::SubscriptionConfirmation(_)) => Ok((messages, term)),
                _ => Err(Status::internal("the first message is no confirmation")),
            }
        };
        match tokio::time::timeout(plan.timeout, confirmed).await {
            Ok(Ok((messages, term))) => {
                let consumer = self.shared.consumers.fetch_add(1, Ordering::Relaxed);
                let joined = Joined { consumer, node, invoke, time: recorder.now(), term };
                self.shared.record(self.group.number, GroupStep::Joined(joined));
                Some(Connection { consumer, answers, messages, at_hand: Vec::new() })
            }
            Ok(Err(_)) => None,
            Err(_) => {
                endpoints.silent(node);
                None
            }
        }
    }

    async fn consume(&mut self, connection: &mut Connection) -> End {
        let draining = *self.orders.borrow() == Order::Drain;
        let stays = Duration::from_secs_f64(self.rng.random_range(1.0..8.0));
        let goes_at = Instant::now() + stays;
        loop {
            let due = connection.at_hand.iter().map(|at_hand| at_hand.due).min();
            let wake = due.filter(|due| draining || *due < goes_at).unwrap_or(goes_at);
            tokio::select! {
                changed = self.orders.changed(), if !draining => {
                    // All begin anew for the end.
                    if changed.is_err() || *self.orders.borrow() == Order::Drain {
                        return End::Goes { in_order: false };
                    }
                }
                () = tokio::time::sleep_until(wake), if !draining || due.is_some() => {
                    if let Err(end) = self.answer_due(connection).await {
                        return end;
                    }
                    if !draining && Instant::now() >= goes_at {
                        return End::Goes { in_order: self.rng.random() };
                    }
                }
                message = connection.messages.message() => match message {
                    Ok(Some(message)) => {
                        if let Err(why) = self.take(connection, message, draining) {
                            return End::Dropped { why: why.to_owned(), ended_ok: false };
                        }
                    }
                    Ok(None) => return End::Dropped { why: "ended with OK".to_owned(), ended_ok: true },
                    Err(status) => return End::Dropped { why: described(&status), ended_ok: false },
                },
            }
        }
    }

    /// Takes an event, and makes up its mind about it.
    fn take(&mut self, connection: &mut Connection, message: ReadResp, draining: bool) -> Result<(), &'static str> {
        let Some(read_resp::Content::Event(handed)) = message.content else {
            return Err("a message is no event");
        };
        let retries = match handed.count {
            Some(read_resp::read_event::Count::RetryCount(count)) => u32::try_from(count).unwrap_or(u32::MAX),
            Some(read_resp::read_event::Count::NoRetryCount(_)) | None => return Err("an event has no retry count"),
        };
        let named = handed.link.as_ref().or(handed.event.as_ref()).and_then(|original| original.id.clone());
        let event = handed.event.ok_or("a link that leads nowhere")?;
        let event = seen(ReadEvent { event: Some(same(event)), link: None, position: None })?;
        let (position, consumer) = (event.position, connection.consumer);
        let time = self.shared.recorder.now();
        self.shared.record(self.group.number, GroupStep::Handed(Handed { consumer, time, event, retries }));
        let (answer, after) = if draining { (Answer::Ack, Duration::ZERO) } else { self.make_up_its_mind() };
        connection.at_hand.push(AtHand { due: Instant::now() + after, position, id: named, answer });
        Ok(())
    }

    fn make_up_its_mind(&mut self) -> (Answer, Duration) {
        let soon = Duration::from_micros(self.rng.random_range(0..40_000));
        match self.rng.random_range(0..1_000) {
            // Too late, or never if the connection ends before.
            0..8 => (Answer::Ack, MESSAGE_TIMEOUT.mul_f64(self.rng.random_range(0.8..1.5))),
            8..40 => (Answer::Retry, soon),
            40..60 => (Answer::Park, soon),
            60..80 => (Answer::Skip, soon),
            80..300 => (Answer::Ack, Duration::ZERO),
            _ => (Answer::Ack, soon),
        }
    }

    /// Sends the answers that are due.
    async fn answer_due(&mut self, connection: &mut Connection) -> Result<(), End> {
        let now = Instant::now();
        let (due, later) = connection.at_hand.drain(..).partition(|at_hand| at_hand.due <= now);
        connection.at_hand = later;
        for AtHand { position, id, answer, .. } in due {
            let ids: Vec<WireUuid> = id.into_iter().collect();
            let nack = |action: Action| {
                let reason = "drawn".to_owned();
                read_req::Content::Nack(Nack { ids: ids.clone(), action: action.into(), reason, ..Nack::default() })
            };
            let content = match answer {
                Answer::Ack => read_req::Content::Ack(Ack { ids: ids.clone(), ..Ack::default() }),
                Answer::Skip => nack(Action::Skip),
                Answer::Park => nack(Action::Park),
                Answer::Retry => nack(Action::Retry),
            };
            let (consumer, time) = (connection.consumer, self.shared.recorder.now());
            let answered = Answered { consumer, time, position, answer };
            self.shared.record(self.group.number, GroupStep::Answered(answered));
            let sent = connection.answers.send_timeout(ReadReq { content: Some(content) }, self.shared.plan.timeout);
            if sent.await.is_err() {
                return Err(End::Dropped { why: "no answer can be sent".to_owned(), ended_ok: false });
            }
        }
        Ok(())
    }
}

/// The event as the streams' service has it.
fn same(event: read_resp::read_event::RecordedEvent) -> RecordedEvent {
    let read_resp::read_event::RecordedEvent {
        id,
        stream_identifier,
        stream_revision,
        prepare_position,
        commit_position,
        metadata,
        custom_metadata,
        data,
    } = event;
    RecordedEvent {
        id,
        stream_identifier,
        stream_revision,
        prepare_position,
        commit_position,
        metadata,
        custom_metadata,
        data,
    }
}
