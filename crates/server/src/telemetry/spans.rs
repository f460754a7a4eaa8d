//! Spans of calls, named and described as OpenTelemetry's conventions for RPC have it.
//!
//! A call that is sampled has a span from its headers to its status. It is left with the
//! task of the call ([`crate::tasks`]), where the steps inside find their parent, log lines
//! their `trace_id` and histograms their exemplars, without anything being handed down.

use std::borrow::Cow;

use annals_core::Outcome;
use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tonic::Code;

use super::queue::Queue;
use super::settings::Settings;
use crate::config::Config;
use crate::{tasks, version};

/// Bytes of a `tracestate` that are taken over: as many as the standard asks for. It is
/// kept for as long as its span waits.
const TRACE_STATE_BYTES_MAX: usize = 512;

/// Makes spans. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Tracing {
    tracer: SdkTracer,
    /// Where this node is reached.
    address: Vec<KeyValue>,
}

impl Tracing {
    pub(super) fn new(settings: &Settings, config: &Config, queue: Queue) -> Self {
        let provider = SdkTracerProvider::builder()
            .with_sampler(settings.sampler.clone())
            .with_resource(settings.resource.clone())
            .with_span_processor(queue)
            .build();
        let scope = InstrumentationScope::builder("annals").with_version(version::VERSION).build();
        let own = config.own_address();
        let (host, port) = own.rsplit_once(':').unwrap_or((own.as_str(), ""));
        let mut address = vec![KeyValue::new("server.address", host.to_owned())];
        if let Ok(port) = port.parse::<i64>() {
            address.push(KeyValue::new("server.port", port));
        }
        Tracing { tracer: provider.tracer_with_scope(scope), address }
    }

    /// The span of a call, if it is sampled; a child of what its `traceparent` names.
    pub(crate) fn call(&self, service: &'static str, method: &'static str, headers: &HeaderMap) -> Option<Context> {
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let mut attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", service),
            KeyValue::new("rpc.method", method),
        ];
        attributes.extend_from_slice(&self.address);
        let span = self
            .tracer
            .span_builder(format!("{service}/{method}"))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
            .start_with_context(&self.tracer, &parent);
        recorded(Context::new().with_span(span))
    }

    /// A step inside the call of this task, if that has a span.
    pub(crate) fn inner(&self, name: &'static str) -> Option<Inner> {
        tasks::span(|parent| {
            let span = self.tracer.span_builder(Cow::Borrowed(name)).start_with_context(&self.tracer, parent);
            recorded(Context::new().with_span(span)).map(Inner)
        })
    }
}

fn recorded(span: Context) -> Option<Context> {
    let is_recording = span.span().is_recording();
    is_recording.then_some(span)
}

/// See [`super::trace_id`].
pub(super) fn trace_id(span: &Context) -> Option<String> {
    Some(span.span().span_context().trace_id().to_string())
}

/// Ends the span of a call.
pub(crate) fn end_call(span: &Context, code: Code) {
    let span = span.span();
    span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(code as i32)));
    // Which of them are the server's fault is for the conventions to say.
    let is_fault = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    if is_fault {
        span.set_status(Status::error(""));
    }
    span.end();
}

/// A step inside a call. One that is dropped before its end was given up.
pub(crate) struct Inner(Context);

impl Inner {
    /// The step is over, with this outcome of a command.
    pub(crate) fn proposed<E>(self, outcome: &Result<Outcome, E>) {
        let result = match outcome {
            Ok(Outcome::Refused(_)) => "refused",
            Ok(Outcome::Denied(_)) => "denied",
            Ok(_) => "applied",
            Err(_) => "failed",
        };
        let span = self.0.span();
        span.set_attribute(KeyValue::new("annals.result", result));
        if outcome.is_err() {
            span.set_status(Status::error(""));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.0.span().end();
    }
}

/// The headers of a call, as far as they say to which trace it belongs.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key)?.to_str().ok()?;
        (value.len() <= TRACE_STATE_BYTES_MAX).then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}
