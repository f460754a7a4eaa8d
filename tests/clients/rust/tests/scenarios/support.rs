//! What the scenarios share: names, events, reading whole, waiting with an end.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use kurrentdb::{
    AppendToStreamOptions, BatchAppendOptions, Client, DeleteStreamOptions, Error, EventData, Position, ReadAllOptions,
    ReadStream, ReadStreamOptions, RecordedEvent, ResolvedEvent, StreamMetadataBuilder, StreamPosition, StreamState,
    Subscription, SubscriptionEvent, TombstoneStreamOptions, WriteResult,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// The revision of a tombstone, and `$tb` of a soft-deleted stream.
pub const MAX_REVISION: u64 = i64::MAX as u64;
/// The server's receive limit for one message of the Streams service.
pub const MESSAGE_MAX: usize = 16_767_216;
/// How long a subscription may take to deliver what is due; only failures use it up.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long nothing must come, where nothing may.
pub const QUIET: Duration = Duration::from_millis(700);

pub fn cluster_url() -> Option<String> {
    std::env::var("ANNALS_CLUSTER_URL").ok().filter(|url| !url.is_empty())
}

pub fn url() -> String {
    std::env::var("ANNALS_URL")
        .ok()
        .filter(|url| !url.is_empty())
        .or_else(cluster_url)
        .expect("set ANNALS_URL, for example kurrentdb://127.0.0.1:2113?tls=false")
}

pub fn connect_to(url: &str) -> Client {
    Client::new(url.parse().expect("a connection string")).expect("a client")
}

pub fn connect() -> Client {
    connect_to(&url())
}

/// A stream name nobody used before.
pub fn fresh() -> String {
    format!("rust-{}", Uuid::new_v4().simple())
}

/// A word without dashes: a category, a type or a correlation nobody used before.
pub fn fresh_word() -> String {
    format!("rust{}", Uuid::new_v4().simple())
}

/// An event and the id it was given.
#[derive(Clone)]
pub struct Event {
    pub id: Uuid,
    pub data: EventData,
}

pub fn event(kind: &str, data: &Value) -> Event {
    let id = Uuid::new_v4();
    Event { id, data: EventData::json(kind, data).expect("JSON").id(id) }
}

pub fn happened() -> Event {
    event("Happened", &json!({}))
}

pub fn events(count: usize) -> Vec<Event> {
    (0..count).map(|n| event("Happened", &json!({ "n": n }))).collect()
}

pub fn binary(kind: &str, data: impl Into<Bytes>) -> Event {
    let id = Uuid::new_v4();
    Event { id, data: EventData::binary(kind, data.into()).id(id) }
}

pub fn link(revision: u64, stream: &str) -> Event {
    binary("$>", format!("{revision}@{stream}"))
}

pub fn data(events: &[Event]) -> Vec<EventData> {
    events.iter().map(|e| e.data.clone()).collect()
}

pub fn ids_of(events: &[Event]) -> Vec<Uuid> {
    events.iter().map(|e| e.id).collect()
}

// --- writing ----------------------------------------------------------------------

pub async fn append(client: &Client, stream: &str, state: StreamState, events: &[Event]) -> Result<WriteResult, Error> {
    let options = AppendToStreamOptions::default().stream_state(state);
    client.append_to_stream(stream, &options, data(events)).await
}

/// Appends without an expectation, which must succeed.
pub async fn add(client: &Client, stream: &str, count: usize) -> Vec<Uuid> {
    let batch = events(count);
    append(client, stream, StreamState::Any, &batch).await.expect("append");
    ids_of(&batch)
}

/// One append over `BatchAppend`. A client of its own each time: it ends with its first error.
pub async fn batch_append(
    client: &Client,
    stream: &str,
    state: StreamState,
    events: &[Event],
) -> Result<(Option<u64>, Option<Position>), Error> {
    let batch = client.batch_append(&BatchAppendOptions::default()).await?;
    let result = batch.append_to_stream(stream, state, data(events)).await?;
    assert_eq!(result.stream_name(), stream);
    Ok((result.current_revision(), result.current_position()))
}

pub async fn delete(client: &Client, stream: &str, state: StreamState) -> Result<Position, Error> {
    let options = DeleteStreamOptions::default().stream_state(state);
    client.delete_stream(stream, &options).await.map(|position| position.expect("a position is always told"))
}

pub async fn tombstone(client: &Client, stream: &str, state: StreamState) -> Result<Position, Error> {
    let options = TombstoneStreamOptions::default().stream_state(state);
    client.tombstone_stream(stream, &options).await.map(|position| position.expect("a position is always told"))
}

pub async fn make_live(client: &Client, count: usize) -> String {
    make_live_as(client, count, fresh()).await
}

pub async fn make_live_as(client: &Client, count: usize, stream: String) -> String {
    append(client, &stream, StreamState::NoStream, &events(count)).await.expect("a new stream");
    stream
}

pub async fn make_soft_deleted(client: &Client, count: usize) -> String {
    let stream = make_live(client, count).await;
    delete(client, &stream, StreamState::Any).await.expect("soft delete");
    stream
}

pub async fn make_tombstoned(client: &Client, count: usize) -> String {
    let stream = make_live(client, count).await;
    tombstone(client, &stream, StreamState::Any).await.expect("tombstone");
    stream
}

pub async fn make_metadata_only(client: &Client) -> String {
    let stream = fresh();
    let metadata = StreamMetadataBuilder::new().insert_custom_property("owner", "nobody").build();
    let options = AppendToStreamOptions::default().stream_state(StreamState::NoStream);
    client.set_stream_metadata(stream.as_str(), &options, &metadata).await.expect("metadata");
    stream
}

// --- reading ----------------------------------------------------------------------

pub async fn drain(mut reading: ReadStream) -> Result<Vec<ResolvedEvent>, Error> {
    let mut all = Vec::new();
    while let Some(event) = reading.next().await? {
        all.push(event);
    }
    Ok(all)
}

pub async fn read_with(
    client: &Client,
    stream: &str,
    options: &ReadStreamOptions,
) -> Result<Vec<ResolvedEvent>, Error> {
    drain(client.read_stream(stream, options).await?).await
}

pub async fn read(client: &Client, stream: &str) -> Result<Vec<ResolvedEvent>, Error> {
    read_with(client, stream, &ReadStreamOptions::default()).await
}

pub async fn read_backwards(client: &Client, stream: &str) -> Result<Vec<ResolvedEvent>, Error> {
    read_with(client, stream, &backwards()).await
}

pub async fn read_resolved(client: &Client, stream: &str) -> Result<Vec<ResolvedEvent>, Error> {
    read_with(client, stream, &ReadStreamOptions::default().resolve_link_tos()).await
}

pub async fn read_all(client: &Client, options: &ReadAllOptions) -> Result<Vec<ResolvedEvent>, Error> {
    drain(client.read_all(options).await?).await
}

/// Backwards from the end. (In this client the place to start also sets the direction.)
pub fn backwards() -> ReadStreamOptions {
    ReadStreamOptions::default().position(StreamPosition::End)
}

/// The last revision, or `None` when a reader finds no stream.
pub async fn last_revision(client: &Client, stream: &str) -> Option<u64> {
    match read_with(client, stream, &backwards().max_count(1)).await {
        Ok(found) => found.first().map(|e| recorded(e).revision),
        Err(Error::ResourceNotFound) => None,
        Err(error) => panic!("reading the end of {stream}: {error:?}"),
    }
}

/// The end of the log: everything a scenario writes afterwards comes behind it.
pub async fn end_of_all(client: &Client) -> Position {
    let options = ReadAllOptions::default().position(StreamPosition::End).max_count(1);
    let last = read_all(client, &options).await.expect("the end of $all");
    last.first().map_or_else(Position::start, |e| e.get_original_event().position)
}

/// The event itself: the target, when it was a resolved link.
pub fn recorded(event: &ResolvedEvent) -> &RecordedEvent {
    event.event.as_ref().expect("an event")
}

pub fn ids(events: &[ResolvedEvent]) -> Vec<Uuid> {
    events.iter().map(|e| recorded(e).id).collect()
}

pub fn revisions(events: &[ResolvedEvent]) -> Vec<u64> {
    events.iter().map(|e| recorded(e).revision).collect()
}

pub fn range(from: u64, to: u64) -> Vec<u64> {
    (from..to).collect()
}

// --- refusals ----------------------------------------------------------------------

/// The client gives no details for most errors of deletes and batches, but keeps code and text.
pub fn is_code<T: Debug>(result: &Result<T, Error>, wanted: &str) -> bool {
    matches!(result, Err(Error::Grpc { code, .. }) if format!("{code:?}") == wanted)
}

pub fn is_deleted<T: Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::ResourceDeleted))
}

pub fn is_missing<T: Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::ResourceNotFound))
}

// --- subscriptions -------------------------------------------------------------------

/// A subscription that remembers what it has seen and never waits for ever.
///
/// It is drained by a task of its own: this client's `next_subscription_event` must not
/// be cancelled (it would drop the call and silently subscribe anew), so a timeout can
/// only be put on what comes out of the task.
pub struct Subscriber {
    messages: mpsc::UnboundedReceiver<Result<SubscriptionEvent, Error>>,
    task: JoinHandle<()>,
    pub confirmed: Option<String>,
    pub events: Vec<ResolvedEvent>,
    pub caught_up: Vec<kurrentdb::CaughtUp>,
    pub checkpoints: Vec<Position>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscriber {
    pub fn new(mut subscription: Subscription) -> Self {
        let (sender, messages) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let message = subscription.next_subscription_event().await;
                let ended = message.is_err();
                if sender.send(message).is_err() || ended {
                    return;
                }
            }
        });
        let (events, caught_up, checkpoints) = (Vec::new(), Vec::new(), Vec::new());
        Self { messages, task, confirmed: None, events, caught_up, checkpoints }
    }

    /// Takes one message, or tells that none came in time.
    async fn step(&mut self, patience: Duration) -> Result<(), Option<Error>> {
        match tokio::time::timeout(patience, self.messages.recv()).await {
            Err(_) | Ok(None) => Err(None),
            Ok(Some(Err(error))) => Err(Some(error)),
            Ok(Some(Ok(message))) => {
                match message {
                    SubscriptionEvent::Confirmed(id) => {
                        assert!(self.events.is_empty() && self.caught_up.is_empty(), "the confirmation comes first");
                        self.confirmed = Some(id);
                    }
                    SubscriptionEvent::EventAppeared(event) => self.events.push(event),
                    SubscriptionEvent::Checkpoint(position) => self.checkpoints.push(position),
                    SubscriptionEvent::CaughtUp(info) => self.caught_up.push(info.expect("caught up tells the time")),
                    other => panic!("a subscription must not carry {other:?}"),
                }
                Ok(())
            }
        }
    }

    pub async fn until(&mut self, what: impl Fn(&Self) -> bool, describe: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !what(self) {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if let Err(error) = self.step(left).await {
                panic!("waited for {describe}; error {error:?}; saw {} events", self.events.len());
            }
        }
    }

    pub async fn until_events(&mut self, count: usize) -> &[ResolvedEvent] {
        self.until(|s| s.events.len() >= count, &format!("{count} events")).await;
        &self.events
    }

    pub async fn until_caught_up(&mut self) -> &kurrentdb::CaughtUp {
        self.until(|s| !s.caught_up.is_empty(), "caught up").await;
        &self.caught_up[0]
    }

    pub async fn until_error(&mut self) -> Error {
        loop {
            match self.step(PATIENCE).await {
                Ok(()) => {}
                Err(Some(error)) => return error,
                Err(None) => panic!("the subscription should have ended; saw {} events", self.events.len()),
            }
        }
    }

    /// Nothing but progress may come for a while.
    pub async fn stays_quiet(&mut self) {
        let before = self.events.len();
        let deadline = tokio::time::Instant::now() + QUIET;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            match self.step(left).await {
                Ok(()) => assert_eq!(self.events.len(), before, "an event came where none may"),
                Err(None) => return,
                Err(Some(error)) => panic!("the subscription ended: {error:?}"),
            }
        }
    }
}
