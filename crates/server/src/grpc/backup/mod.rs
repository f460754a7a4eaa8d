//! `annals.v1.Backup`: taking the whole log out of a cluster ([`records`]), saying that
//! this was done, and bringing events in ([`import`]).

mod import;
mod records;

use std::pin::Pin;
use std::sync::Arc;

use annals_proto::annals::v1::backup_server::{Backup, BackupServer};
use annals_proto::annals::v1::{ImportAnswer, ImportBatch, RecordsReply, RecordsRequest, ReportReply, ReportRequest};
use futures::Stream;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use crate::access::Caller;
use crate::access::audit::Decision;
use crate::backup::{self, Completed, KINDS};
use crate::consistency::refuse_v1;
use crate::context::Context;

/// Streams of records, and imports, of one node at the same time: each takes a good
/// part of a disk.
pub(crate) const AT_ONCE: usize = 2;

/// Bytes of a message that is received: one event of the largest size with its
/// surroundings.
pub(crate) const MESSAGE_BYTES_MAX: usize = 17 * 1024 * 1024;

/// Bytes of a backup's id.
const ID_BYTES_MAX: usize = 200;

/// The service.
pub(crate) fn service(context: Arc<Context>) -> BackupServer<Service> {
    let turns = || Arc::new(Semaphore::new(AT_ONCE));
    let service = Service { context, taking: turns(), bringing: turns() };
    BackupServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) struct Service {
    context: Arc<Context>,
    taking: Arc<Semaphore>,
    bringing: Arc<Semaphore>,
}

type Records = Pin<Box<dyn Stream<Item = Result<RecordsReply, Status>> + Send>>;
type Answers = Pin<Box<dyn Stream<Item = Result<ImportAnswer, Status>> + Send>>;

#[tonic::async_trait]
impl Backup for Service {
    type RecordsStream = Records;
    type ImportStream = Answers;

    async fn records(&self, request: Request<RecordsRequest>) -> Result<Response<Records>, Status> {
        let caller = self.operator(&request, "backup:read").await?;
        let turn = turn(&self.taking)?;
        let wanted = records::look_at(&self.context, request.into_inner()).await?;
        self.context.access.audit.administered(&caller, "backup:read", "", Decision::Allowed);
        Ok(Response::new(records::send(self.context.clone(), wanted, turn)))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportReply>, Status> {
        self.operator(&request, "backup:report").await?;
        let ReportRequest { kind, backup, through, bytes, began, ended } = request.into_inner();
        if !KINDS.contains(&kind.as_str()) {
            return Err(Status::invalid_argument("the kind of a backup is full or incremental"));
        }
        if backup.is_empty() || backup.len() > ID_BYTES_MAX || backup.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "a backup's id has 1 to {ID_BYTES_MAX} printable characters"
            )));
        }
        let completed = Completed { kind, backup, through, bytes, began, ended };
        let told = backup::report(&self.context, &completed).await;
        let position = told.map_err(|failure| refuse_v1(&self.context, &failure))?;
        Ok(Response::new(ReportReply { position }))
    }

    async fn import(&self, request: Request<Streaming<ImportBatch>>) -> Result<Response<Answers>, Status> {
        let (headers, extensions, batches) = request.into_parts();
        let caller = self.context.caller_of(&headers, &extensions).await;
        let caller = caller.map_err(|failure| refuse_v1(&self.context, &failure))?;
        let permitted = self.context.permit_admin(&caller, "backup:import");
        permitted.map_err(|failure| refuse_v1(&self.context, &failure))?;
        let turn = turn(&self.bringing)?;
        self.context.access.audit.administered(&caller, "backup:import", "", Decision::Allowed);
        Ok(Response::new(import::take_in(self.context.clone(), batches, turn)))
    }
}

impl Service {
    async fn operator<T>(&self, request: &Request<T>, act: &'static str) -> Result<Caller, Status> {
        let caller = self.context.operator(request, act).await;
        caller.map_err(|failure| refuse_v1(&self.context, &failure))
    }
}

#[allow(clippy::result_large_err)]
fn turn(turns: &Arc<Semaphore>) -> Result<tokio::sync::OwnedSemaphorePermit, Status> {
    turns.clone().try_acquire_owned().map_err(|_| {
        Status::resource_exhausted(format!("{AT_ONCE} of these go on already on this node: try again, or another node"))
    })
}
