//! Events that were recorded elsewhere.
//!
//! Each batch is one command ([`annals_core::import`]), and the next one is proposed
//! when the one before is decided: the order in which batches come is that of their
//! positions, whatever happens to the leader in between. While one is on its way to a
//! quorum, the next ones are received and checked.

use std::sync::Arc;
use std::time::Instant;

use annals_core::import::EVENTS_MAX;
use annals_core::{
    Command, Content, Event, EventId, EventType, Import, Imported, Outcome, Properties, Refusal, Revision, StreamName,
    Timestamp, limits,
};
use annals_proto::annals::v1::import_batch;
use annals_proto::annals::v1::{ImportAnswer, ImportBatch};
use annals_raft::Route;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::Answers;
use crate::consistency::refuse_v1;
use crate::context::Context;
use crate::grpc::streams::convert::writable;
use crate::grpc::streams::unexpected;
use crate::status::Failure;

/// Batches that are received while one is being decided.
const AHEAD: usize = 2;

/// Takes in batch after batch, as long as somebody sends them.
pub(super) fn take_in(context: Arc<Context>, batches: Streaming<ImportBatch>, turn: OwnedSemaphorePermit) -> Answers {
    let (checked, waiting) = mpsc::channel(AHEAD);
    let (answers, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(receive(context.clone(), batches, checked));
    tokio::spawn(async move {
        let _turn = turn;
        decide_all(&context, waiting, &answers).await;
    });
    Box::pin(ReceiverStream::new(receiver))
}

type Checked = Result<(u64, Import), Status>;

async fn receive(context: Arc<Context>, mut batches: Streaming<ImportBatch>, checked: mpsc::Sender<Checked>) {
    loop {
        let batch = tokio::select! {
            batch = batches.message() => batch,
            () = checked.closed() => return,
            () = context.stopping.cancelled() => Err(refuse_v1(&context, &Failure::ShuttingDown)),
        };
        let read = match batch {
            Ok(None) => return,
            Ok(Some(batch)) => read(&context, batch),
            Err(status) => Err(status),
        };
        let failed = read.is_err();
        if checked.send(read).await.is_err() || failed {
            return;
        }
    }
}

async fn decide_all(
    context: &Context,
    mut waiting: mpsc::Receiver<Checked>,
    answers: &mpsc::Sender<Result<ImportAnswer, Status>>,
) {
    while let Some(checked) = waiting.recv().await {
        let answer = match checked {
            Ok((sequence, import)) => decide(context, sequence, import).await,
            Err(status) => Err(status),
        };
        let failed = answer.is_err();
        if answers.send(answer).await.is_err() || failed {
            return;
        }
    }
}

async fn decide(context: &Context, sequence: u64, import: Import) -> Result<ImportAnswer, Status> {
    let deadline = Instant::now() + context.config.request_timeout();
    let outcome = context.node.append(Command::Import(import), Route::Forward, deadline).await;
    match outcome.map_err(|error| refuse_v1(context, &Failure::from(error)))? {
        Outcome::Appended(appended) => Ok(ImportAnswer {
            sequence,
            position: appended.position.get(),
            revisions: appended.revisions.iter().map(|revision| revision.map_or(0, Revision::get)).collect(),
            repeated_some: appended.repeated,
        }),
        Outcome::Refused(refusal) => Err(refused(&refusal)),
        outcome @ (Outcome::Node(_) | Outcome::Denied(_) | Outcome::Scavenge(_) | Outcome::Lease(_)) => {
            Err(refuse_v1(context, &unexpected(&outcome)))
        }
    }
}

fn refused(refusal: &Refusal) -> Status {
    let Some(first) = refusal.violations.first() else {
        return Status::failed_precondition("the events do not fit what is here");
    };
    Status::failed_precondition(format!(
        "stream \"{}\" holds other events already (expected {:?}, found {:?}): import into streams that are not \
         there yet, or append to what is there",
        first.stream, first.expected, first.actual
    ))
}

#[allow(clippy::result_large_err)]
fn read(context: &Context, batch: ImportBatch) -> Checked {
    let count = batch.events.len();
    if count == 0 || count > EVENTS_MAX {
        return Err(Status::invalid_argument(format!("a batch has 1 to {EVENTS_MAX} events, this one has {count}")));
    }
    let bytes: usize = batch.events.iter().map(|event| event.data.len() + event.metadata.len()).sum();
    if bytes as u64 > context.config.append_bytes_max {
        return Err(Status::invalid_argument(format!(
            "a batch has at most {} bytes (`append_bytes_max`), this one has {bytes}",
            context.config.append_bytes_max
        )));
    }
    let events = batch.events.into_iter().map(imported).collect::<Result<_, _>>()?;
    Ok((batch.sequence, Import { events }))
}

#[allow(clippy::result_large_err)]
fn imported(event: import_batch::Event) -> Result<Imported, Status> {
    let shown: String = event.stream.chars().take(100).collect();
    let invalid = |why: &str| Status::invalid_argument(format!("an event of stream \"{shown}\": {why}"));
    let stream = StreamName::new(event.stream.clone()).map_err(|error| invalid(&error.to_string()))?;
    // As of an append.
    let stream = writable(stream).map_err(|_| invalid("it follows from others, and is not written"))?;
    let event_type = EventType::new(event.r#type).map_err(|error| invalid(&error.to_string()))?;
    let id = Uuid::from_slice(&event.id).ok().and_then(EventId::new).ok_or_else(|| invalid("its id is no UUID"))?;
    let revision = match (event.tombstone, event.revision) {
        (true, _) => Some(Revision::TOMBSTONE),
        (false, None) => None,
        (false, Some(number)) => {
            let revision = Revision::new(number).filter(|revision| *revision < Revision::TOMBSTONE);
            Some(revision.ok_or_else(|| invalid("its revision is out of bounds"))?)
        }
    };
    let content = if event.json { Content::Json } else { Content::Binary };
    let size = event_type.as_str().len() + event.metadata.len() + event.data.len();
    if size > limits::EVENT_BYTES_MAX {
        return Err(invalid(&format!("it has {size} bytes, at most {} are possible", limits::EVENT_BYTES_MAX)));
    }
    let created = Timestamp::from_ticks(event.created);
    let event = Event::new(id, event_type, content, Properties::Opaque, event.metadata, event.data);
    Ok(Imported { stream, revision, created, event })
}
