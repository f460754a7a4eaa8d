//! The HTTP side of the port, and the router of everything that arrives.
//!
//! Calls of the streams' services go to them directly ([`App`]): they are most
//! of what arrives, and each layer of a router costs a call its boxes and
//! copies, for one append of one event some 5 % of the node's work. All else
//! goes through the router.
//!
//! JSON is shaped as the protocol's clients, container health checks and
//! scripts expect it (protocol 8.1). What no service and no route takes is
//! answered in the language it was asked in: a gRPC call with UNIMPLEMENTED,
//! anything else with JSON.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tonic::metadata::MetadataMap;
use tower::{Service as _, ServiceExt as _};
use tower_http::cors::{Any, CorsLayer};

use crate::calls::{self, Call};
use crate::context::Context;
use crate::grpc::{self, streams};
use crate::limits::Peer;
use crate::members::{self, Told};
use crate::metrics::open_metrics;
use crate::receive::Receiving;
use crate::statistics::statistics;
use crate::status::Failure;
use crate::time::rfc3339;
use crate::tls::ClientIdentity;
use crate::version;

type Shared = State<Arc<Context>>;

/// Everything that this node answers.
#[derive(Clone)]
pub(crate) struct App {
    streams: streams::Server,
    context: Arc<Context>,
    router: Router,
}

impl App {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        let streams = streams::service(context.clone());
        App { router: router(context, streams.clone()), context: context.clone(), streams }
    }

    /// The same for one connection, whose other end may have proved who it is.
    pub(crate) fn to(&self, peer: Peer, identity: Option<ClientIdentity>) -> Connected {
        Connected { app: self.clone(), peer, identity }
    }
}

/// Everything that this node answers, over one connection.
pub(crate) struct Connected {
    app: App,
    peer: Peer,
    /// Who is at the other end, if it proved that.
    identity: Option<ClientIdentity>,
}

impl hyper::service::Service<Request<Incoming>> for Connected {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        let App { streams, context, router } = &self.app;
        let peer = self.peer.begin();
        let is_grpc = calls::is_grpc(request.headers());
        let path = request.uri().path();
        if !peer.standing().may_call() {
            return Answering::at_once(calls::too_many(context, is_grpc.then_some(path)));
        }
        let until = calls::given_up_at(&context.config, path, request.headers());
        let call = (is_grpc && path.starts_with(STREAMS))
            .then(|| Call::begin(context, path, request.headers()).over(peer.clone()));
        request.extensions_mut().insert(peer);
        if let Some(identity) = &self.identity {
            request.extensions_mut().insert(identity.clone());
        }
        let (parts, body) = request.into_parts();
        let body = context.reception.of(&parts.uri, body);
        let request = Request::from_parts(parts, body);
        let answer = match call {
            Some(call) => Answer::Called(streams.clone().call(request), Some(call)),
            None => Answer::Routed(router.clone().oneshot(request.map(Body::new)).boxed(), is_grpc),
        };
        Answering { answer, until, patience: None }
    }
}

/// What all methods of the streams' service begin with.
const STREAMS: &str = "/event_store.client.streams.Streams/";

/// An answer that is being made. It begins in time, or the request is given up.
pub(crate) struct Answering {
    answer: Answer,
    until: Option<tokio::time::Instant>,
    /// Set when the answer is first waited for: most are there at once.
    patience: Option<Pin<Box<tokio::time::Sleep>>>,
}

enum Answer {
    Called(<streams::Server as tower::Service<Request<Receiving>>>::Future, Option<Call>),
    Routed(BoxFuture<'static, Result<Response, Infallible>>, bool),
    Made(Option<Response>),
}

impl Answering {
    fn at_once(response: Response) -> Self {
        Answering { answer: Answer::Made(Some(response)), until: None, patience: None }
    }
}

impl Future for Answering {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let Answering { answer, until, patience } = self.get_mut();
        if let Poll::Ready(response) = answer.poll(cx) {
            return Poll::Ready(response);
        }
        let Some(until) = *until else { return Poll::Pending };
        let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Ok(answer.give_up()))
    }
}

const ONCE: &str = "not polled again once it has answered";

impl Answer {
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Response, Infallible>> {
        match self {
            Answer::Made(response) => Poll::Ready(Ok(response.take().expect(ONCE))),
            Answer::Routed(answer, _) => answer.as_mut().poll(cx),
            Answer::Called(answer, call) => {
                if let Some(call) = call {
                    call.enter();
                }
                let response = ready!(answer.poll_unpin(cx))?;
                Poll::Ready(Ok(call.take().expect(ONCE).answered(response)))
            }
        }
    }

    fn give_up(&mut self) -> Response {
        match self {
            Answer::Called(_, call) => call.take().expect(ONCE).answered(calls::late()),
            // What routes it counts it, as cancelled.
            Answer::Routed(_, true) => calls::late(),
            Answer::Routed(_, false) | Answer::Made(_) => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "the request took too long")
            }
        }
    }
}

fn router(context: &Arc<Context>, streams: streams::Server) -> Router {
    // Whoever can reach the port may read these from a browser's page.
    let cors = CorsLayer::new().allow_origin(Any).allow_methods([Method::GET, Method::OPTIONS]).allow_headers(Any);
    let pages = Router::new()
        .route("/", get(root))
        .route("/info", get(info))
        .route("/ping", get(ping))
        .route("/gossip", get(gossip))
        .route("/health/live", get(health_live))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/readyz/{check}", get(readyz_check))
        .route("/metrics", get(metrics))
        .route("/stats", get(stats))
        .route("/stats/replication", get(empty_list))
        .route("/stats/tcp", get(empty_list))
        .route("/stats/{*path}", get(stats_part))
        .layer(cors)
        .with_state(context.clone());
    pages
        .merge(grpc::routes(context, streams))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(context.clone(), calls::observe))
}

/// An error as JSON.
pub(crate) fn problem(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "status": status.as_u16(), "error": text }))).into_response()
}

async fn unknown(request: Request) -> Response {
    if calls::is_grpc(request.headers()) {
        calls::unimplemented(request.uri().path())
    } else {
        problem(StatusCode::NOT_FOUND, &format!("there is nothing at {}", request.uri().path()))
    }
}

async fn wrong_method(request: Request) -> Response {
    if calls::is_grpc(request.headers()) {
        calls::unimplemented(request.uri().path())
    } else {
        problem(StatusCode::METHOD_NOT_ALLOWED, &format!("{} is not possible here", request.method()))
    }
}

async fn root(State(context): Shared) -> String {
    let url = context.config.url();
    format!(
        "Annals {}: a replicated event log.\n\n\
         Connect with a KurrentDB client:  {url}\n\
         Or with the command line:         annals stream ls --server '{url}'\n\n\
         /info  /gossip  /readyz  /livez  /metrics  /stats\n",
        version::VERSION
    )
}

async fn ping() -> Json<Value> {
    Json(json!({ "text": "Ping request successfully handled" }))
}

async fn info(State(context): Shared) -> Json<Value> {
    let state = members::own_state(&context).as_str_name().to_lowercase();
    Json(json!({
        "dbVersion": version::PROTOCOL,
        "esVersion": version::PROTOCOL,
        "annalsVersion": version::VERSION,
        "commit": version::COMMIT,
        "state": state,
        "features": { "projections": false, "userManagement": true, "atomPub": false },
        "authentication": { "type": if context.access.is_required() { "basic" } else { "insecure" }, "properties": {} },
    }))
}

async fn gossip(State(context): Shared) -> Json<Value> {
    let (ip, port) = members::split(&context.config.own_address());
    let status = context.node.status();
    let position = context.node.store().tail().get();
    let member = |told: Told| {
        json!({
            "instanceId": told.instance,
            "timeStamp": rfc3339(told.seen.into()),
            "state": told.state.as_str_name(),
            "isAlive": told.alive,
            "internalTcpIp": told.host,
            "internalTcpPort": 0,
            "internalSecureTcpPort": 0,
            "externalTcpIp": told.host,
            "externalTcpPort": 0,
            "externalSecureTcpPort": 0,
            "internalHttpEndPointIp": told.host,
            "internalHttpEndPointPort": told.port,
            "httpEndPointIp": told.host,
            "httpEndPointPort": told.port,
            // Known of this node alone; the others get the same numbers
            // because clients expect some.
            "lastCommitPosition": position,
            "writerCheckpoint": position,
            "chaserCheckpoint": position,
            "epochPosition": 0,
            "epochNumber": status.term,
            "epochId": uuid::Uuid::nil(),
            "nodePriority": if told.own { context.node.priority() } else { 0 },
            "isReadOnlyReplica": told.state.as_str_name() == "ReadOnlyReplica",
            "esVersion": version::PROTOCOL,
        })
    };
    let members: Vec<_> = members::told(&context).into_iter().map(member).collect();
    Json(json!({ "members": members, "serverIp": ip, "serverPort": port }))
}

#[derive(Deserialize)]
struct LiveQuery {
    #[serde(rename = "liveCode")]
    live_code: Option<u16>,
}

/// What existing container health checks ask: despite its name, readiness.
async fn health_live(State(context): Shared, Query(query): Query<LiveQuery>) -> StatusCode {
    if context.health.is_ready(&context.node.status()) {
        query.live_code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::NO_CONTENT)
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn livez(State(context): Shared) -> (StatusCode, &'static str) {
    if context.health.is_live() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "tasks of this process make no progress\n")
    }
}

#[derive(Deserialize)]
struct ReadyQuery {
    exclude: Option<String>,
}

async fn readyz(State(context): Shared, Query(query): Query<ReadyQuery>, headers: HeaderMap) -> Response {
    let checks = context.health.checks(&context.node.status());
    let excluded = |name: &str| query.exclude.as_deref().is_some_and(|list| list.split(',').any(|each| each == name));
    let failed = checks.iter().any(|check| check.failure.is_some() && !excluded(check.name));
    let status = if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    if accepts_json(&headers) {
        let checks: Map<String, Value> = checks
            .into_iter()
            .map(|check| (check.name.to_owned(), check.failure.map_or(json!("ok"), Value::String)))
            .collect();
        return (status, Json(json!({ "ready": !failed, "checks": checks }))).into_response();
    }
    let mut text = String::new();
    for check in &checks {
        match &check.failure {
            _ if excluded(check.name) => text.push_str(&format!("[ ]{} excluded\n", check.name)),
            None => text.push_str(&format!("[+]{} ok\n", check.name)),
            Some(failure) => text.push_str(&format!("[-]{} failed: {failure}\n", check.name)),
        }
    }
    text.push_str(if failed { "not ready\n" } else { "ready\n" });
    (status, text).into_response()
}

async fn readyz_check(State(context): Shared, Path(name): Path<String>) -> Response {
    let checks = context.health.checks(&context.node.status());
    match checks.into_iter().find(|check| check.name == name).map(|check| check.failure) {
        None => problem(StatusCode::NOT_FOUND, &format!("there is no check named {name}")),
        Some(None) => (StatusCode::OK, "ok\n").into_response(),
        Some(Some(failure)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")).into_response(),
    }
}

fn accepts_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"))
}

async fn metrics(State(context): Shared, headers: HeaderMap) -> Response {
    // Names of other products are told only in the classic text, to all who are configured
    // to want them.
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let open = context.config.metrics_compat.is_empty() && accept.is_some_and(open_metrics::is_wanted);
    let rendered = tokio::task::spawn_blocking(move || match open {
        true => context.metrics.scrape_open(&context),
        false => context.metrics.scrape(&context),
    });
    match rendered.await {
        Ok(text) => {
            let kind = if open { open_metrics::CONTENT_TYPE } else { "text/plain; version=0.0.4; charset=utf-8" };
            ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
        }
        // Only while the runtime shuts down.
        Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "this node is stopping"),
    }
}

async fn empty_list() -> Json<Value> {
    Json(json!([]))
}

#[derive(Deserialize)]
struct StatsQuery {
    group: Option<bool>,
}

/// Refuses who has no account, where callers must say who they are.
async fn known(context: &Context, headers: HeaderMap, extensions: &Extensions) -> Result<(), Response> {
    let caller = context.caller_of(&MetadataMap::from_headers(headers), extensions).await;
    match caller.and_then(|caller| context.permit_known(&caller, "node:statistics")) {
        Ok(()) => Ok(()),
        Err(Failure::AccessDenied { .. } | Failure::Unauthenticated) => {
            let mut refusal = problem(StatusCode::UNAUTHORIZED, "this needs the name and password of an account");
            let basic = HeaderValue::from_static("Basic realm=\"annals\"");
            refusal.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
            Err(refusal)
        }
        Err(failure) => Err(problem(StatusCode::SERVICE_UNAVAILABLE, &failure.message())),
    }
}

async fn stats(
    State(context): Shared,
    Query(query): Query<StatsQuery>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = known(&context, headers, &extensions).await {
        return refusal;
    }
    let flat = statistics(&context);
    Json(if query.group.unwrap_or(true) { nested(&flat) } else { Value::Object(flat) }).into_response()
}

async fn stats_part(
    State(context): Shared,
    Path(path): Path<String>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = known(&context, headers, &extensions).await {
        return refusal;
    }
    let pointer = format!("/{}", path.trim_matches('/'));
    match nested(&statistics(&context)).pointer(&pointer) {
        Some(part) => Json(part).into_response(),
        None => problem(StatusCode::NOT_FOUND, &format!("there are no statistics at {path}")),
    }
}

/// The names split at `-` into objects.
fn nested(flat: &Map<String, Value>) -> Value {
    let mut root = Map::new();
    for (name, value) in flat {
        let mut object = &mut root;
        let mut parts = name.split('-').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                object.insert(part.to_owned(), value.clone());
                break;
            }
            let inner = object.entry(part.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inner) = inner else { break };
            object = inner;
        }
    }
    Value::Object(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_statistics_nest_at_each_hyphen() {
        let mut flat = Map::new();
        flat.insert("a-b-c".to_owned(), json!(1));
        flat.insert("a-b-d".to_owned(), json!(2));
        flat.insert("e".to_owned(), json!(3));
        assert_eq!(nested(&flat), json!({ "a": { "b": { "c": 1, "d": 2 } }, "e": 3 }));
    }
}
