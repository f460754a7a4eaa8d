//! What all gRPC calls have in common, whatever their service: they are
//! counted and, where that is wanted, traced, and a request that is no gRPC call is told so.
//!
//! The status of a call travels in its trailers, after the body; so the body
//! is wrapped, and a call whose body is dropped before its trailers were seen
//! counts as cancelled.
//!
//! [`observe`] does this for what goes through the router, [`Call`] for what
//! does not ([`crate::http::App`]).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use hyper::body::{Frame, SizeHint};
use prost::Message as _;
use tonic::{Code, Status};

use crate::config::Config;
use crate::consistency;
use crate::context::Context;
use crate::grpc::streams::WRITE_TIMEOUT;
use crate::http::problem;
use crate::limits::Peer;
use crate::metrics::{Counted, Metrics};
use crate::status::Failure;
use crate::{tasks, telemetry};

const CONTENT_TYPE: &str = "application/grpc";
const STATUS: &str = "grpc-status";

/// What the paths of calls between nodes begin with.
const BETWEEN_NODES: &str = "/annals.internal.";

/// What a call gets beyond its deadline to end by itself.
const GRACE: Duration = Duration::from_millis(250);

/// Whether this is a gRPC call, by its content type.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        // `application/grpc+proto` and parameters are gRPC, `application/grpc-web` is not.
        value.strip_prefix(CONTENT_TYPE).is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'+' | b';')))
    })
}

/// Counts a call, and answers requests to gRPC paths that are no calls.
pub(crate) async fn observe(State(context): State<Arc<Context>>, request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        if !is_grpc_path(request.uri().path()) {
            return next.run(request).await;
        }
        return not_a_call(request.method());
    }
    let mut call = Call::begin(&context, request.uri().path(), request.headers());
    call.enter();
    if let Some(peer) = Peer::of(request.extensions()) {
        call = call.over(peer.clone());
    }
    call.answered(next.run(request).await)
}

fn not_a_call(method: &Method) -> Response {
    if method == Method::POST {
        problem(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "this path is a gRPC method: the content type must be application/grpc",
        )
    } else {
        let mut response =
            problem(StatusCode::METHOD_NOT_ALLOWED, "this path is a gRPC method: call it with a gRPC client");
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("POST"));
        response
    }
}

/// The answer to a call that no service takes.
pub(crate) fn unimplemented(path: &str) -> Response {
    status_alone(Status::unimplemented(format!("this server has no method {}", shortened(path))))
}

/// When a request is given up whose answer has not begun. What nodes ask of each
/// other has times of its own.
pub(crate) fn given_up_at(config: &Config, path: &str, headers: &HeaderMap) -> Option<tokio::time::Instant> {
    if path.starts_with(BETWEEN_NODES) {
        return None;
    }
    // Later than what a handler itself says when its time is up: it knows more.
    let longest = config.request_timeout_max() + WRITE_TIMEOUT + GRACE;
    let own = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(consistency::timeout);
    let patience = own.map_or(longest, |own| own.saturating_add(GRACE).min(longest));
    Some(tokio::time::Instant::now() + patience)
}

/// The answer to a call that was given up. What it asked for may be done or not.
pub(crate) fn late() -> Response {
    status_alone(Status::deadline_exceeded("the call was not answered before its deadline"))
}

/// The answer to a caller that calls too often, of a call if it has a path.
pub(crate) fn too_many(context: &Context, path: Option<&str>) -> Response {
    let failure = Failure::TooManyCalls { per_second: context.config.calls_per_second_max };
    match path {
        // Not traced: whoever calls too often must not be able to fill traces as well.
        Some(path) => Call::counted(&context.metrics, path).answered(status_alone(failure.v1())),
        None => problem(StatusCode::TOO_MANY_REQUESTS, &failure.message()),
    }
}

fn status_alone(status: Status) -> Response {
    let (parts, ()) = status.into_http::<()>().into_parts();
    (parts, Body::empty()).into_response()
}

/// `/package.Service/Method`.
fn is_grpc_path(path: &str) -> bool {
    methods().contains_key(path)
}

/// A client's text for use in an answer: enough of it to be recognised.
fn shortened(text: &str) -> &str {
    match text.char_indices().nth(128) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Service and method of a path, `unknown` for those that are not ours: a
/// label must not be what a client can make up.
fn known(path: &str) -> (&'static str, &'static str) {
    methods().get(path).map_or(("unknown", "unknown"), |(service, method)| (service.as_str(), method.as_str()))
}

/// Every method of our contracts by its path.
fn methods() -> &'static HashMap<String, (String, String)> {
    static METHODS: OnceLock<HashMap<String, (String, String)>> = OnceLock::new();
    METHODS.get_or_init(|| {
        let files = prost_types::FileDescriptorSet::decode(annals_proto::FILE_DESCRIPTOR_SET)
            .expect("the descriptors were made by our own build");
        let mut methods = HashMap::new();
        for file in files.file {
            for service in &file.service {
                let full = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    methods.insert(format!("/{full}/{}", method.name()), (full.clone(), method.name().to_owned()));
                }
            }
        }
        methods
    })
}

/// A call that is running. Counted once, when it is dropped.
pub(crate) struct Call {
    metrics: Metrics,
    service: &'static str,
    method: &'static str,
    started: Instant,
    code: Option<Code>,
    #[expect(dead_code, reason = "held for its drop")]
    inflight: Counted,
    /// Keeps the connection from being idle.
    peer: Option<Peer>,
    /// Set where traces are made and this call is sampled.
    span: Option<opentelemetry::Context>,
}

impl Call {
    pub(crate) fn begin(context: &Context, path: &str, headers: &HeaderMap) -> Self {
        let mut call = Call::counted(&context.metrics, path);
        // Nodes speak to each other many times a second, and about nobody's call alone.
        if let Some(tracing) = &context.tracing
            && !path.starts_with(BETWEEN_NODES)
        {
            call.span = tracing.call(call.service, call.method, headers);
        }
        call
    }

    /// A call without a span.
    fn counted(metrics: &Metrics, path: &str) -> Self {
        let (service, method) = known(path);
        let (metrics, inflight) = (metrics.clone(), metrics.call(service, method));
        Call { inflight, metrics, service, method, started: Instant::now(), code: None, peer: None, span: None }
    }

    /// From now on this task works for this call.
    pub(crate) fn enter(&self) {
        if let Some(span) = &self.span {
            tasks::enter(span);
        }
    }

    /// The same, over a connection that is in use until it ends.
    pub(crate) fn over(mut self, peer: Peer) -> Self {
        self.peer = Some(peer);
        self
    }

    /// The answer, whose body counts the call when it ends.
    pub(crate) fn answered<B>(mut self, response: Response<B>) -> Response
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        self.note(response.headers());
        response.map(|body| Body::new(Watched { body, call: self }))
    }

    fn note(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(STATUS) {
            self.code = Some(Code::from_bytes(status.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Nobody waited for the status: the client went away.
        let code = self.code.unwrap_or(Code::Cancelled);
        self.metrics.call_finished(self.service, self.method, code_name(code), self.started.elapsed());
        if let Some(span) = &self.span {
            telemetry::end_call(span, code);
        }
    }
}

struct Watched<B> {
    body: B,
    call: Call,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            this.call.note(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The names that gRPC's own metrics use.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_methods_become_labels() {
        assert_eq!(
            known("/event_store.client.streams.Streams/Append"),
            ("event_store.client.streams.Streams", "Append")
        );
        assert_eq!(known("/evil.Service/Made-up"), ("unknown", "unknown"));
    }

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, header::HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
