//! Calls of a collector: one at a time, each with a deadline, tried again a few times where
//! the collector was merely not there.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::settings::{Destination, Unusable};
use crate::config::Signal;
use crate::metrics::{Metrics, OtlpCounts};

/// Times that something is sent at most.
const TRIES: u32 = 3;

/// How long the second try waits; the third twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// Sends one kind of data to its collector.
pub(super) struct Exporter {
    signal: Signal,
    destination: Destination,
    channel: Channel,
    counts: OtlpCounts,
    /// Whether the last call failed: only changes are worth a line.
    failing: bool,
}

impl Exporter {
    /// Connects when there is something to send.
    pub(super) fn new(signal: Signal, destination: &Destination, metrics: &Metrics) -> Result<Self, Unusable> {
        let refused = || Unusable::Endpoint(destination.named_by.clone());
        let mut endpoint = Endpoint::from_shared(destination.endpoint.clone())
            .map_err(|_| refused())?
            .connect_timeout(destination.timeout);
        if destination.endpoint.starts_with("https:") {
            let tls = ClientTlsConfig::new();
            let tls = match &destination.certificate {
                Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                None => tls.with_native_roots(),
            };
            endpoint = endpoint.tls_config(tls).map_err(|_| refused())?;
        }
        let channel = endpoint.connect_lazy();
        Ok(Exporter { signal, destination: destination.clone(), channel, counts: metrics.otlp(signal), failing: false })
    }

    pub(super) fn counts(&self) -> &OtlpCounts {
        &self.counts
    }

    /// Sends so many spans. They are gone afterwards, sent or not.
    pub(super) async fn traces(&mut self, request: ExportTraceServiceRequest, spans: u64) {
        let mut client = TraceServiceClient::new(self.channel.clone());
        if self.destination.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let call = |request| {
            let mut client = client.clone();
            async move { Ok(client.export(request).await?.into_inner().partial_success.map_or(0, |it| it.rejected_spans)) }
        };
        let answer = self.with_patience(call, &request).await;
        self.settle(answer, spans);
    }

    /// Sends so many series.
    pub(super) async fn metrics(&mut self, request: ExportMetricsServiceRequest, series: u64) {
        let mut client = MetricsServiceClient::new(self.channel.clone());
        if self.destination.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let call = |request| {
            let mut client = client.clone();
            async move {
                Ok(client.export(request).await?.into_inner().partial_success.map_or(0, |it| it.rejected_data_points))
            }
        };
        let answer = self.with_patience(call, &request).await;
        self.settle(answer, series);
    }

    /// Calls, again where that may help. Answers how many the collector refused.
    async fn with_patience<R: Clone, F>(&self, call: impl Fn(Request<R>) -> F, message: &R) -> Result<i64, Status>
    where
        F: Future<Output = Result<i64, Status>>,
    {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let mut request = Request::new(message.clone());
            *request.metadata_mut() = self.destination.headers.clone();
            let answer = tokio::time::timeout(self.destination.timeout, call(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            match answer {
                Err(status) if attempt < TRIES && may_pass(status.code()) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                answer => return answer,
            }
        }
        Err(Status::unavailable("never tried"))
    }

    fn settle(&mut self, answer: Result<i64, Status>, sent: u64) {
        let (signal, collector) = (self.signal.as_str(), &self.destination.endpoint);
        match answer {
            Ok(refused) => {
                let refused = u64::try_from(refused).unwrap_or(0).min(sent);
                self.counts.sent(sent - refused);
                self.counts.refused(refused);
                if std::mem::replace(&mut self.failing, false) {
                    tracing::info!(signal, collector, "the collector takes what is sent again");
                }
            }
            Err(status) => {
                self.counts.failed(sent);
                if !std::mem::replace(&mut self.failing, true) {
                    // Not what the collector says: it may repeat what it was sent.
                    let code = status.code().description();
                    tracing::warn!(signal, collector, code, "the collector takes nothing: what is for it is dropped");
                }
            }
        }
    }
}

/// Whether the same may work a moment later (OTLP specification, failures).
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}
