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
use annals_core::{Right, StreamName};
use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::persistent_subscriptions::persistent_subscriptions_server::{
    PersistentSubscriptions, PersistentSubscriptionsServer,
};
use annals_proto::event_store::client::persistent_subscriptions::read_req::nack::Action;
use annals_proto::event_store::client::persistent_subscriptions::{
    CreateReq, CreateResp, DeleteReq, DeleteResp, GetInfoReq, GetInfoResp, ListReq, ListResp, ReadReq, ReadResp,
    ReplayParkedReq, ReplayParkedResp, TruncateParkedReq, TruncateParkedResp, UpdateReq, UpdateResp, read_req,
    read_resp,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use self::relay::{Relay, There};
use crate::access::Caller;
use crate::access::audit::Decision;
use crate::consistency::{Stamp, refuse_v1};
use crate::context::Context;
use crate::groups::{self, Deliveries, Handle, Leading, Who};
use crate::grpc::streams::ANSWER_BYTES_MAX;
use crate::limits::{Peer, Seat};
use crate::status::Failure;
use crate::tls::ClientIdentity;

/// The service.
pub(crate) fn service(context: Arc<Context>) -> PersistentSubscriptionsServer<Service> {
    PersistentSubscriptionsServer::new(Service::new(context))
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
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Service { context, relay: Relay::default() }
    }

    fn place(&self, headers: &MetadataMap) -> Result<Place, Failure> {
        relay::place(&self.context, &self.relay, headers, false)
    }

    /// Tells what was administered.
    fn note(&self, caller: &Caller, act: &str, name: &groups::GroupName) {
        self.context.access.audit.administered(caller, act, &name.to_string(), Decision::Allowed);
    }

    fn refuse(&self, failure: &Failure) -> Status {
        refuse_v1(&self.context, failure)
    }

    /// A consumer's place; by address where another node finds out whose it is. A node that hands a call on has counted its caller; where
    /// nodes prove that they are some, nobody else is believed to be one.
    fn seat(&self, request: &Request<Streaming<ReadReq>>, caller: Option<&Caller>) -> Result<Seat, Failure> {
        let may_be_node = match request.extensions().get::<ClientIdentity>() {
            Some(identity) => matches!(identity, ClientIdentity::Node { .. }),
            None => !self.context.config.has_tls(),
        };
        let is_relayed = may_be_node && request.metadata().contains_key(relay::RELAYED);
        if is_relayed {
            return Seat::take(&self.context, None);
        }
        let standing = match caller {
            Some(caller) => self.context.standing(caller, request.extensions()),
            None => Peer::of(request.extensions()).map(|peer| peer.standing().clone()),
        };
        Seat::take(&self.context, standing.as_ref())
    }

    async fn consume(
        &self,
        leading: &Leading,
        caller: Caller,
        headers: &MetadataMap,
        mut requests: Streaming<ReadReq>,
        seat: Seat,
    ) -> Result<BoxStream<'static, Result<ReadResp, Status>>, Failure> {
        let first = requests.message().await.map_err(|status| Failure::received(&status))?;
        let Some(read_req::Content::Options(options)) = first.and_then(|request| request.content) else {
            return Err(Failure::invalid("options", "the first message must hold the options"));
        };
        let (name, slots, ids) = parse::read(options)?;
        let source = StreamName::new(name.source.clone())?;
        self.context.permit(&caller, Right::Read, &source)?;
        let group = leading.group(&name)?;
        let (consumer, deliveries) = group.join(slots, ids, who(&caller, headers)).await?;
        let answering = answer(group.clone(), consumer, requests);
        let ended = refuse_v1(&self.context, &Failure::NotReady);
        let sight = Sight { context: self.context.clone(), caller, source };
        Ok(delivered(deliveries, sight, ended, tokio::spawn(answering), seat).boxed())
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
    sight: Sight,
    ended: Status,
    answering: tokio::task::JoinHandle<()>,
    seat: Seat,
) -> impl stream::Stream<Item = Result<ReadResp, Status>> + Send {
    struct Consuming {
        deliveries: Deliveries,
        sight: Sight,
        answering: tokio::task::JoinHandle<()>,
        #[expect(dead_code, reason = "held for its drop")]
        seat: Seat,
    }
    impl Drop for Consuming {
        fn drop(&mut self) {
            // Whoever delivers notices that the channel is closed.
            self.answering.abort();
        }
    }
    stream::unfold(Some((Consuming { deliveries, sight, answering, seat }, ended)), |consuming| async move {
        let (mut consuming, ended) = consuming?;
        match consuming.deliveries.recv().await {
            Some(Ok(delivery)) => match consuming.sight.of(delivery) {
                Ok(delivery) => Some((Ok(delivery), Some((consuming, ended)))),
                Err(status) => Some((Err(status), None)),
            },
            Some(Err(status)) => Some((Err(status), None)),
            None => Some((Err(ended), None)),
        }
    })
}

/// What a consumer may see of a group, which sees everything.
struct Sight {
    context: Arc<Context>,
    caller: Caller,
    source: StreamName,
}

impl Sight {
    /// A delivery as the consumer may see it now: a link to a stream that it may not
    /// read is one that leads nowhere.
    fn of(&self, mut delivery: ReadResp) -> Result<ReadResp, Status> {
        if let Caller::Trusted = self.caller {
            return Ok(delivery);
        }
        let looked = self.context.permit(&self.caller, Right::Read, &self.source).and_then(|()| {
            let Some(read_resp::Content::Event(event)) = &mut delivery.content else { return Ok(()) };
            let (Some(_), Some(target)) = (&event.link, &event.event) else { return Ok(()) };
            let name = target.stream_identifier.as_ref().map(|stream| stream.stream_name.clone()).unwrap_or_default();
            let stream = StreamName::from_utf8(name)?;
            if !self.context.eyes(&self.caller)?.see(self.context.node.store(), &stream)? {
                event.event = None;
            }
            Ok(())
        });
        looked.map(|()| delivery).map_err(|failure| refuse_v1(&self.context, &failure))
    }
}

fn who(caller: &Caller, headers: &MetadataMap) -> Who {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    Who { user: caller.name().to_owned(), connection: text("connection-name") }
}

/// For the fuzz targets alone: every call. The first byte chooses which.
pub(crate) fn fuzzed(bytes: &[u8]) -> String {
    use crate::fuzzing::{message, told};
    let Some((kind, bytes)) = bytes.split_first() else { return "nothing".to_owned() };
    let told = match kind % 8 {
        0 => message(bytes).map(|request| told(parse::create(request))),
        1 => message(bytes).map(|request| told(parse::update(request))),
        2 => message(bytes).map(|request| told(parse::delete(request))),
        3 => message(bytes).map(|request| told(parse::get_info(request))),
        4 => message(bytes).map(|request| told(parse::replay(request))),
        5 => message(bytes).map(|request| told(parse::truncate(request))),
        6 => message(bytes).map(|request| told(parse::list(request))),
        _ => message::<ReadReq>(bytes).map(|request| match request.content {
            Some(read_req::Content::Options(options)) => told(parse::read(options)),
            Some(read_req::Content::Ack(ack)) => format!("{} ids", parse::ids(&ack.ids).len().min(3)),
            Some(read_req::Content::Nack(nack)) => format!("{} ids", parse::ids(&nack.ids).len().min(3)),
            None => "nothing".to_owned(),
        }),
    };
    told.unwrap_or_else(|| "no message".to_owned())
}

/// Carries a call out here, or hands it on.
macro_rules! carry_out {
    ($service:ident, $request:ident, $method:ident, $act:literal, $leading:ident, $caller:ident => $here:expr) => {{
        match $service.place($request.metadata()).map_err(|failure| $service.refuse(&failure))? {
            Place::There(mut there) => there.client.$method(relay::request($request)).await.map_err(relay::told),
            Place::Here($leading) => {
                let result: Result<_, Failure> = async {
                    let $caller = $service.context.caller(&$request).await?;
                    $service.context.permit_operator(&$caller, $act)?;
                    $here
                }
                .await;
                result.map(Response::new).map_err(|failure| $service.refuse(&failure))
            }
        }
    }};
}

#[tonic::async_trait]
impl PersistentSubscriptions for Service {
    type ReadStream = BoxStream<'static, Result<ReadResp, Status>>;

    async fn create(&self, request: Request<CreateReq>) -> Result<Response<CreateResp>, Status> {
        carry_out!(self, request, create, "subscriptions:create", leading, caller => {
            let asked = parse::create(request.into_inner())?;
            let definition = asked.settle(&self.context).await?;
            let name = definition.name.clone();
            leading.create(&self.context, definition).await?;
            self.note(&caller, "subscriptions:create", &name);
            Ok(CreateResp {})
        })
    }

    async fn update(&self, request: Request<UpdateReq>) -> Result<Response<UpdateResp>, Status> {
        carry_out!(self, request, update, "subscriptions:update", leading, caller => {
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
            self.note(&caller, "subscriptions:update", &name);
            Ok(UpdateResp {})
        })
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        carry_out!(self, request, delete, "subscriptions:delete", leading, caller => {
            let name = parse::delete(request.into_inner())?;
            leading.delete(&self.context, &name).await?;
            self.note(&caller, "subscriptions:delete", &name);
            Ok(DeleteResp {})
        })
    }

    async fn read(&self, request: Request<Streaming<ReadReq>>) -> Result<Response<Self::ReadStream>, Status> {
        let place = relay::place(&self.context, &self.relay, request.metadata(), true);
        match place.map_err(|failure| self.refuse(&failure))? {
            Place::Here(leading) => {
                let consumed = async {
                    let caller = self.context.caller(&request).await?;
                    let seat = self.seat(&request, Some(&caller))?;
                    let (headers, _, requests) = request.into_parts();
                    self.consume(&leading, caller, &headers, requests, seat).await
                };
                let consumed = consumed.await;
                // Who serves a consumer, also through other nodes.
                let stamp = Stamp::now(&self.context).serving(leading.term());
                consumed.map(|answers| stamp.answer(answers)).map_err(|failure| self.refuse(&failure))
            }
            Place::There(mut there) => {
                let seat = self.seat(&request, None).map_err(|failure| self.refuse(&failure))?;
                let (headers, extensions, requests) = request.into_parts();
                // A client that ends badly ends the call at the leader too.
                let requests =
                    requests.take_while(|request| ready(request.is_ok())).filter_map(|request| ready(request.ok()));
                let request = relay::request(Request::from_parts(headers, extensions, requests));
                let answers = there.client.read(request).await.map_err(relay::told)?;
                let held = (seat, there.line);
                let leaving = self.context.leaving.token();
                let context = self.context.clone();
                Ok(answers.map(|answers| {
                    let told = answers.map(move |answer| {
                        let _until_the_end = &held;
                        answer.map_err(relay::told)
                    });
                    let gone = leaving.clone();
                    let end =
                        async move { gone.is_cancelled().then(|| Err(refuse_v1(&context, &Failure::ShuttingDown))) };
                    let end = stream::once(end).filter_map(ready);
                    told.take_until(leaving.cancelled_owned()).chain(end).boxed()
                }))
            }
        }
    }

    async fn get_info(&self, request: Request<GetInfoReq>) -> Result<Response<GetInfoResp>, Status> {
        carry_out!(self, request, get_info, "subscriptions:statistics", leading, _caller => {
            let name = parse::get_info(request.into_inner())?;
            let told = leading.group(&name)?.info().await?;
            Ok(GetInfoResp { subscription_info: Some(info::told(&told)) })
        })
    }

    async fn replay_parked(&self, request: Request<ReplayParkedReq>) -> Result<Response<ReplayParkedResp>, Status> {
        carry_out!(self, request, replay_parked, "subscriptions:replayParked", leading, caller => {
            let (name, before) = parse::replay(request.into_inner())?;
            leading.group(&name)?.replay(before).await?;
            self.note(&caller, "subscriptions:replayParked", &name);
            Ok(ReplayParkedResp {})
        })
    }

    async fn truncate_parked(
        &self,
        request: Request<TruncateParkedReq>,
    ) -> Result<Response<TruncateParkedResp>, Status> {
        carry_out!(self, request, truncate_parked, "subscriptions:truncateParked", leading, caller => {
            let (name, before) = parse::truncate(request.into_inner())?;
            leading.group(&name)?.truncate(before).await?;
            self.note(&caller, "subscriptions:truncateParked", &name);
            Ok(TruncateParkedResp {})
        })
    }

    async fn list(&self, request: Request<ListReq>) -> Result<Response<ListResp>, Status> {
        carry_out!(self, request, list, "subscriptions:statistics", leading, _caller => {
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
        carry_out!(self, request, restart_subsystem, "subscriptions:restart", leading, caller => {
            leading.restart(&self.context).await;
            self.context.access.audit.administered(&caller, "subscriptions:restart", "", Decision::Allowed);
            Ok(Empty {})
        })
    }
}
