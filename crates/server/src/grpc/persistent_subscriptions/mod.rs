//! `event_store.client.persistent_subscriptions.PersistentSubscriptions`: consumer
//! groups, as all six official clients call them.
//!
//! The node that leads serves them ([`crate::groups`]). Any other hands a call on to
//! it and its answers back, so that a consumer may connect anywhere; one that demands
//! the leader is told who that is ([`relay`]). What a request asks for is worked out in
//! [`parse`], what a group tells of itself in [`info`].

mod info;
mod parse;
mod relay;

use std::future::ready;
use std::sync::Arc;

use annals_core::group::NackAction;
use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::persistent_subscriptions::persistent_subscriptions_server::{
    PersistentSubscriptions, PersistentSubscriptionsServer,
};
use annals_proto::event_store::client::persistent_subscriptions::read_req::nack::Action;
use annals_proto::event_store::client::persistent_subscriptions::{
    CreateReq, CreateResp, DeleteReq, DeleteResp, GetInfoReq, GetInfoResp, ListReq, ListResp, ReadReq, ReadResp,
    ReplayParkedReq, ReplayParkedResp, TruncateParkedReq, TruncateParkedResp, UpdateReq, UpdateResp, read_req,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use self::relay::{Relay, There};
use crate::consistency::refuse_v1;
use crate::context::Context;
use crate::groups::{self, Deliveries, Handle, Leading, Who};
use crate::grpc::streams::ANSWER_BYTES_MAX;
use crate::status::Failure;

/// The service.
pub(crate) fn service(context: Arc<Context>) -> PersistentSubscriptionsServer<Service> {
    let relay = Relay::default();
    PersistentSubscriptionsServer::new(Service { context, relay })
        .max_decoding_message_size(super::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX)
}

pub(crate) struct Service {
    context: Arc<Context>,
    relay: Relay,
}

/// Where a call is carried out.
enum Place {
    Here(Arc<Leading>),
    There(Box<There>),
}

impl Service {
    fn place(&self, headers: &MetadataMap) -> Result<Place, Failure> {
        relay::place(&self.context, &self.relay, headers)
    }

    fn refuse(&self, failure: &Failure) -> Status {
        refuse_v1(&self.context, failure)
    }

    async fn consume(
        &self,
        leading: &Leading,
        headers: &MetadataMap,
        mut requests: Streaming<ReadReq>,
    ) -> Result<BoxStream<'static, Result<ReadResp, Status>>, Failure> {
        let first = requests.message().await.map_err(|status| Failure::received(&status))?;
        let Some(read_req::Content::Options(options)) = first.and_then(|request| request.content) else {
            return Err(Failure::invalid("options", "the first message must hold the options"));
        };
        let (name, slots, ids) = parse::read(options)?;
        let group = leading.group(&name)?;
        let (consumer, deliveries) = group.join(slots, ids, who(headers)).await?;
        let answering = answer(group.clone(), consumer, requests);
        let ended = refuse_v1(&self.context, &Failure::NotReady);
        Ok(delivered(deliveries, ended, tokio::spawn(answering)).boxed())
    }
}

/// Hands on what a consumer says of messages, until it says no more.
async fn answer(group: Handle, consumer: u64, mut requests: Streaming<ReadReq>) {
    while let Ok(Some(request)) = requests.message().await {
        match request.content {
            Some(read_req::Content::Ack(ack)) => {
                group.answer(consumer, parse::ids(&ack.ids), None).await;
            }
            Some(read_req::Content::Nack(nack)) => {
                let action = match Action::try_from(nack.action) {
                    Ok(Action::Park) => NackAction::Park,
                    Ok(Action::Skip) => NackAction::Skip,
                    Ok(Action::Stop) => NackAction::Stop,
                    Ok(Action::Retry | Action::Unknown) | Err(_) => NackAction::Retry,
                };
                group.answer(consumer, parse::ids(&nack.ids), Some((action, nack.reason))).await;
            }
            Some(read_req::Content::Options(_)) | None => {}
        }
    }
    group.leave(consumer).await;
}

/// What is delivered; at the end always a status that is not OK, because some clients
/// do not survive one (protocol 6.4).
fn delivered(
    deliveries: Deliveries,
    ended: Status,
    answering: tokio::task::JoinHandle<()>,
) -> impl stream::Stream<Item = Result<ReadResp, Status>> + Send {
    struct Consuming {
        deliveries: Deliveries,
        answering: tokio::task::JoinHandle<()>,
    }
    impl Drop for Consuming {
        fn drop(&mut self) {
            // Whoever delivers notices that the channel is closed.
            self.answering.abort();
        }
    }
    stream::unfold(Some((Consuming { deliveries, answering }, ended)), |consuming| async move {
        let (mut consuming, ended) = consuming?;
        match consuming.deliveries.recv().await {
            Some(Ok(delivery)) => Some((Ok(delivery), Some((consuming, ended)))),
            Some(Err(status)) => Some((Err(status), None)),
            None => Some((Err(ended), None)),
        }
    })
}

fn who(headers: &MetadataMap) -> Who {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    Who { user: String::new(), connection: text("connection-name") }
}

/// Carries a call out here, or hands it on.
macro_rules! carry_out {
    ($service:ident, $request:ident, $method:ident, $leading:ident => $here:expr) => {{
        match $service.place($request.metadata()).map_err(|failure| $service.refuse(&failure))? {
            Place::There(mut there) => there.client.$method(relay::request($request)).await.map_err(relay::told),
            Place::Here($leading) => {
                let result: Result<_, Failure> = async { $here }.await;
                result.map(Response::new).map_err(|failure| $service.refuse(&failure))
            }
        }
    }};
}

#[tonic::async_trait]
impl PersistentSubscriptions for Service {
    type ReadStream = BoxStream<'static, Result<ReadResp, Status>>;

    async fn create(&self, request: Request<CreateReq>) -> Result<Response<CreateResp>, Status> {
        carry_out!(self, request, create, leading => {
            let asked = parse::create(request.into_inner())?;
            let definition = asked.settle(&self.context).await?;
            leading.create(&self.context, definition).await?;
            Ok(CreateResp {})
        })
    }

    async fn update(&self, request: Request<UpdateReq>) -> Result<Response<UpdateResp>, Status> {
        carry_out!(self, request, update, leading => {
            let asked = parse::update(request.into_inner())?;
            // A group that is not there is told before its new start is looked at.
            leading.group(&asked.name)?;
            let definition = asked.settle(&self.context).await?;
            let name = definition.name.clone();
            leading
                .update(&self.context, &name, |before| {
                    // Its filter stays what it was (protocol 6.2).
                    let (selection, incarnation) = (before.selection.clone(), before.incarnation);
                    Ok(groups::Definition { selection, incarnation, ..definition })
                })
                .await?;
            Ok(UpdateResp {})
        })
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        carry_out!(self, request, delete, leading => {
            let name = parse::delete(request.into_inner())?;
            leading.delete(&self.context, &name).await?;
            Ok(DeleteResp {})
        })
    }

    async fn read(&self, request: Request<Streaming<ReadReq>>) -> Result<Response<Self::ReadStream>, Status> {
        match self.place(request.metadata()).map_err(|failure| self.refuse(&failure))? {
            Place::Here(leading) => {
                let (headers, _, requests) = request.into_parts();
                let consumed = self.consume(&leading, &headers, requests).await;
                consumed.map(Response::new).map_err(|failure| self.refuse(&failure))
            }
            Place::There(mut there) => {
                let (headers, extensions, requests) = request.into_parts();
                // A client that ends badly ends the call at the leader too.
                let requests =
                    requests.take_while(|request| ready(request.is_ok())).filter_map(|request| ready(request.ok()));
                let request = relay::request(Request::from_parts(headers, extensions, requests));
                let answers = there.client.read(request).await.map_err(relay::told)?;
                Ok(answers.map(|answers| answers.map(|answer| answer.map_err(relay::told)).boxed()))
            }
        }
    }

    async fn get_info(&self, request: Request<GetInfoReq>) -> Result<Response<GetInfoResp>, Status> {
        carry_out!(self, request, get_info, leading => {
            let name = parse::get_info(request.into_inner())?;
            let told = leading.group(&name)?.info().await?;
            Ok(GetInfoResp { subscription_info: Some(info::told(&told)) })
        })
    }

    async fn replay_parked(&self, request: Request<ReplayParkedReq>) -> Result<Response<ReplayParkedResp>, Status> {
        carry_out!(self, request, replay_parked, leading => {
            let (name, before) = parse::replay(request.into_inner())?;
            leading.group(&name)?.replay(before).await?;
            Ok(ReplayParkedResp {})
        })
    }

    async fn truncate_parked(
        &self,
        request: Request<TruncateParkedReq>,
    ) -> Result<Response<TruncateParkedResp>, Status> {
        carry_out!(self, request, truncate_parked, leading => {
            let (name, before) = parse::truncate(request.into_inner())?;
            leading.group(&name)?.truncate(before).await?;
            Ok(TruncateParkedResp {})
        })
    }

    async fn list(&self, request: Request<ListReq>) -> Result<Response<ListResp>, Status> {
        carry_out!(self, request, list, leading => {
            let source = parse::list(request.into_inner())?;
            let mut subscriptions = Vec::new();
            for (name, group) in leading.all() {
                if source.as_ref().is_none_or(|source| *source == name.source) {
                    subscriptions.push(info::told(&group.info().await?));
                }
            }
            if let Some(source) = source.filter(|_| subscriptions.is_empty()) {
                return Err(Failure::GroupNotFound(groups::GroupName { source, group: String::new() }));
            }
            Ok(ListResp { subscriptions })
        })
    }

    async fn restart_subsystem(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        carry_out!(self, request, restart_subsystem, leading => {
            leading.restart(&self.context).await;
            Ok(Empty {})
        })
    }
}
