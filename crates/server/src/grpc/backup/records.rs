//! The records of a stretch of the log, as they are stored.
//!
//! Read page by page and sent no faster than `backup_bytes_per_second`, so that those
//! who append and read keep most of the disk. Nothing is in memory but two pages. What
//! is reclaimed meanwhile is sent as it is found, whole or as its stub: the chain hash
//! is the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::Position;
use annals_proto::annals::v1::records_reply::{Begin, Chunk, Content, End, Scavenge};
use annals_proto::annals::v1::{RecordsReply, RecordsRequest};
use annals_store::{Direction, PageLimit, Store};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Records;
use crate::blocking::blocking;
use crate::consistency::refuse_v1;
use crate::context::Context;
use crate::grpc::streams::page::broken;
use crate::status::Failure;

/// Records and bytes of one message.
const CHUNK: PageLimit = PageLimit { records: 10_000, bytes: 1024 * 1024 };

/// What is to be sent.
pub(super) struct Wanted {
    begin: Begin,
    after: Position,
    through: Position,
    bytes_per_second: u64,
}

/// Whether this node can send what is asked for.
pub(super) async fn look_at(context: &Context, request: RecordsRequest) -> Result<Wanted, Status> {
    if !request.as_applied {
        let reached = context.node.read_barrier(Instant::now() + context.config.request_timeout()).await;
        reached.map_err(|error| refuse_v1(context, &Failure::from(error)))?;
    }
    let store = context.node.store().clone();
    let status = context.node.status();
    let Some(cluster) = status.cluster else {
        return Err(Status::unavailable("this node belongs to no cluster yet"));
    };
    let tail = store.tail();
    let after = Position::new(request.after);
    let through = Some(Position::new(request.through)).filter(|through| *through > Position::START).unwrap_or(tail);
    if after > tail {
        return Err(Status::failed_precondition(format!(
            "this node's newest event is at {tail}, before {after}: it lags, or the log was restored to an earlier \
             point since; then begin with a full backup"
        )));
    }
    if through > tail || through < after {
        return Err(Status::out_of_range(format!(
            "there is nothing from {after} to {through}: the log ends at {tail}"
        )));
    }
    if !request.after_hash.is_empty() {
        let hash = chain_hash(context, &store, after).await?;
        if hash != request.after_hash {
            return Err(Status::failed_precondition(format!(
                "at position {after} the chain hash is {hash} here and {} there: this is another log, begin with a \
                 full backup",
                request.after_hash.chars().take(32).collect::<String>()
            )));
        }
    }
    let scavenge = store.scavenge().map(|last| Scavenge {
        id: last.id.to_string(),
        cursor: last.cursor.get(),
        events: last.events,
        commands: last.commands,
    });
    let most = context.config.backup_bytes_per_second;
    let bytes_per_second = Some(request.bytes_per_second).filter(|rate| *rate > 0).unwrap_or(most).min(most);
    let begin = Begin { cluster: cluster.to_string(), node: status.node, through: through.get(), scavenge };
    Ok(Wanted { begin, after, through, bytes_per_second })
}

/// Sends it, as long as somebody takes it.
pub(super) fn send(context: Arc<Context>, wanted: Wanted, turn: OwnedSemaphorePermit) -> Records {
    let (replies, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _turn = turn;
        let last = match send_all(&context, wanted, &replies).await {
            Ok(()) => return,
            Err(status) => status,
        };
        let _ = replies.send(Err(last)).await;
    });
    Box::pin(ReceiverStream::new(receiver))
}

type Replies = mpsc::Sender<Result<RecordsReply, Status>>;

async fn send_all(context: &Context, wanted: Wanted, replies: &Replies) -> Result<(), Status> {
    let store = context.node.store().clone();
    let Wanted { begin, after, through, bytes_per_second } = wanted;
    tell(context, replies, Content::Begin(begin)).await?;
    let (mut due, mut next) = (tokio::time::Instant::now(), after.next());
    while next <= through {
        // Time that passed unused, as while nobody took anything, is not made up for.
        due = due.max(tokio::time::Instant::now());
        let reader = store.clone();
        let page = blocking(move || reader.read_all(next, Direction::Forward, CHUNK)).await;
        let page = page.map_err(|error| refuse_v1(context, &broken(&error)))?;
        let records: Vec<_> = page.into_iter().take_while(|record| record.position() <= through).collect();
        let Some(last) = records.last() else {
            return Err(Status::internal(format!("there is no record {next}; see this node's log")));
        };
        next = last.position().next();
        let sent: usize = records.iter().map(|record| record.encoded().len()).sum();
        due += Duration::from_secs_f64(sent as f64 / bytes_per_second as f64);
        let records = records.iter().map(|record| record.encoded().clone()).collect();
        tell(context, replies, Content::Chunk(Chunk { records })).await?;
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = context.stopping.cancelled() => return Err(refuse_v1(context, &Failure::ShuttingDown)),
        }
    }
    let hash = chain_hash(context, &store, through).await?;
    tell(context, replies, Content::End(End { through: through.get(), hash })).await
}

/// Sends one message. Who takes nothing for long is given up.
async fn tell(context: &Context, replies: &Replies, content: Content) -> Result<(), Status> {
    let patience = Duration::from_millis(context.config.stall_timeout_ms);
    let sent = tokio::select! {
        sent = tokio::time::timeout(patience, replies.send(Ok(RecordsReply { content: Some(content) }))) => sent,
        () = context.stopping.cancelled() => return Err(refuse_v1(context, &Failure::ShuttingDown)),
    };
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled("nobody reads this any more")),
        Err(_) => Err(Status::aborted("nothing was taken for too long; go on from what has come")),
    }
}

async fn chain_hash(context: &Context, store: &Store, at: Position) -> Result<String, Status> {
    let store = store.clone();
    let hash = blocking(move || store.chain(at)).await.map_err(|error| refuse_v1(context, &broken(&error)))?;
    hash.map(|hash| hash.to_string()).ok_or_else(|| Status::out_of_range(format!("there is no event at {at}")))
}
