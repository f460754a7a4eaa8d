//! `event_store.client.streams.Streams`: what all six official clients speak.
//!
//! One file per family of calls. Each parses its request ([`convert`],
//! [`query`]), calls the node, and converts the answer; what goes wrong is a
//! [`Failure`] that [`crate::status`] alone turns into a status.
//!
//! Reads and subscriptions share one page builder ([`page`]). A page is filled
//! with answers as they travel ([`frames`]) and becomes the body of the call as
//! it is ([`body`]). Both kinds of reads are pulled by the connection's flow
//! control, page by page: a reader that does not read costs a page or two of
//! memory and nothing else.

mod append;
mod batch_append;
mod body;
pub(crate) mod budget;
pub(crate) mod convert;
mod delete;
pub(crate) mod feed;
mod frames;
pub(crate) mod fuzzing;
pub mod micro;
pub(crate) mod page;
pub(crate) mod query;
pub(crate) mod read;
pub(crate) mod room;
mod selection;
pub(crate) mod stalls;
mod start;
pub(crate) mod subscribe;

use std::sync::Arc;

use annals_core::Right;
use annals_core::limits::MESSAGE_BYTES_MAX;
use annals_core::seeded::{self, Bug};
use annals_proto::event_store::client::streams::streams_server::{Streams, StreamsServer};
use annals_proto::event_store::client::streams::{
    AppendReq, AppendResp, BatchAppendReq, BatchAppendResp, DeleteReq, DeleteResp, ReadReq, ReadResp, TombstoneReq,
    TombstoneResp,
};
use futures::stream::{self, BoxStream};
use tonic::{Request, Response, Status, Streaming};

pub(crate) use self::append::{Gathering, WRITE_TIMEOUT, Writing, refused, unexpected};
pub(crate) use self::batch_append::{GATHERING_MAX, IN_FLIGHT_MAX};
use self::body::{Handed, HandsOver, Pages};
use self::budget::Budget;
use self::query::{Amount, Query};
use crate::consistency::{self, Stamp, Wanted};
use crate::context::Context;
use crate::limits::Seat;
use crate::status::Failure;

/// Bytes of one answer: what all clients accept (protocol 1.0).
pub(crate) const ANSWER_BYTES_MAX: usize = 17 * 1024 * 1024;

/// Bytes of appends that may be received at a time, in appends of the largest
/// size: a few of those must not keep all others out.
pub(crate) const APPENDS_RECEIVED_AT_ONCE: usize = 4;

/// The service as it is called.
pub(crate) type Server = HandsOver<StreamsServer<Service>>;

/// The service, with its limits set.
pub(crate) fn service(context: Arc<Context>) -> Server {
    let service = StreamsServer::new(Service::new(context))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    HandsOver(service)
}

/// Serves streams from one node.
#[derive(Clone)]
pub(crate) struct Service {
    context: Arc<Context>,
    budget: Budget,
}

impl Service {
    fn new(context: Arc<Context>) -> Self {
        let budget = budget_of(&context);
        Service { context, budget }
    }

    fn append_bytes_max(&self) -> usize {
        append_bytes_max(&self.context)
    }

    fn answer<T>(&self, result: Result<T, Failure>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|failure| consistency::refuse_v1(&self.context, &failure))
    }

    async fn open_read(&self, request: Request<ReadReq>) -> Result<(Stamp, Pages), Failure> {
        let wanted = Wanted::from_headers(request.metadata())?;
        let caller = self.context.caller(&request).await?;
        let standing = self.context.standing(&caller, request.extensions());
        let query = Query::parse(request.into_inner(), self.context.eyes(&caller)?)?;
        let guarded = query.source.guarded();
        let stamp = match seeded::is(Bug::S6) {
            false => wanted.reach(&self.context).await?,
            true => Stamp::now(&self.context),
        };
        self.context.permit(&caller, Right::Read, &guarded)?;
        let opened = match query.amount {
            Amount::Count { direction, count } => {
                read::open(&self.context, stamp, query.source, query.style, direction, count, query.compatibility)
                    .await?
            }
            Amount::Subscription => {
                let seat = Seat::take(&self.context, standing.as_ref())?;
                let watched = subscribe::Watched { caller: caller.clone(), stream: guarded.clone() };
                (stamp, subscribe::open(&self.context, watched, query.source, query.style, seat).await?)
            }
        };
        // Again, now that it is settled what is shown: a right that was taken away
        // before that is not there any more.
        self.context.permit(&caller, Right::Read, &guarded)?;
        if seeded::is(Bug::S6) {
            wanted.reach(&self.context).await?;
        }
        Ok(opened)
    }
}

/// The most one append may have, by configuration.
pub(crate) fn append_bytes_max(context: &Context) -> usize {
    usize::try_from(context.config.append_bytes_max).unwrap_or(usize::MAX)
}

/// Memory for the appends that a service receives.
pub(crate) fn budget_of(context: &Context) -> Budget {
    Budget::new(append_bytes_max(context).saturating_mul(APPENDS_RECEIVED_AT_ONCE), WRITE_TIMEOUT)
}

#[tonic::async_trait]
impl Streams for Service {
    /// Its messages are handed over as bytes.
    type ReadStream = stream::Empty<Result<ReadResp, Status>>;
    type BatchAppendStream = BoxStream<'static, Result<BatchAppendResp, Status>>;

    async fn read(&self, request: Request<ReadReq>) -> Result<Response<Self::ReadStream>, Status> {
        let opened = self.open_read(request).await;
        let (stamp, pages) = opened.map_err(|failure| consistency::refuse_v1(&self.context, &failure))?;
        let mut response = stamp.answer(stream::empty());
        response.extensions_mut().insert(Handed::new(self.context.stalls.line(pages)));
        Ok(response)
    }

    async fn append(&self, request: Request<Streaming<AppendReq>>) -> Result<Response<AppendResp>, Status> {
        append::append(self, request).await.map_err(|failure| consistency::refuse_v1(&self.context, &failure))
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        self.answer(delete::delete(self, request).await)
    }

    async fn tombstone(&self, request: Request<TombstoneReq>) -> Result<Response<TombstoneResp>, Status> {
        self.answer(delete::tombstone(self, request).await)
    }

    async fn batch_append(
        &self,
        request: Request<Streaming<BatchAppendReq>>,
    ) -> Result<Response<Self::BatchAppendStream>, Status> {
        self.answer(batch_append::open(self, request).await)
    }
}
