//! Spans between their end and the collector.
//!
//! A span that ends is put into a bounded queue, or dropped and counted: its call goes on
//! at once. One task takes them out, some hundred at a time.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::export::Exporter;
use super::settings::Settings;
use crate::metrics::OtlpCounts;

/// The end at which spans are put in.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: OtlpCounts,
}

/// The end at which they are taken out and sent.
pub(super) struct Sending {
    spans: mpsc::Receiver<SpanData>,
    exporter: Exporter,
    resource: ResourceAttributesWithSchema,
    batch: usize,
    delay: Duration,
}

pub(super) fn new(settings: &Settings, exporter: Exporter) -> (Queue, Sending) {
    let (put, taken) = mpsc::channel(settings.queue);
    let queue = Queue { spans: put, counts: exporter.counts().clone() };
    let resource = ResourceAttributesWithSchema::from(&settings.resource);
    let sending = Sending { spans: taken, exporter, resource, batch: settings.batch, delay: settings.delay };
    (queue, sending)
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.counts.no_room();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        // The task that sends is stopped by who started it.
        Ok(())
    }
}

impl Sending {
    /// Sends until it is told to stop, and then what is left.
    pub(super) async fn run(mut self, stopped: CancellationToken) {
        let mut batch = Vec::with_capacity(self.batch);
        while let Some(first) = self.next(&stopped).await {
            batch.push(first);
            let due = tokio::time::Instant::now() + self.delay;
            while batch.len() < self.batch {
                tokio::select! {
                    biased; // what is there goes along, also at the end
                    Some(span) = self.spans.recv() => batch.push(span),
                    () = stopped.cancelled() => break,
                    () = tokio::time::sleep_until(due) => break,
                }
            }
            let sent = batch.len() as u64;
            let resource_spans = group_spans_by_resource_and_scope(std::mem::take(&mut batch), &self.resource);
            self.exporter.traces(ExportTraceServiceRequest { resource_spans }, sent).await;
        }
    }

    /// The next span; none when told to stop and none is left.
    async fn next(&mut self, stopped: &CancellationToken) -> Option<SpanData> {
        tokio::select! {
            biased; // as above
            span = self.spans.recv() => span,
            () = stopped.cancelled() => None,
        }
    }
}
