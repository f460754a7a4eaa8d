//! Traces and metrics for an OpenTelemetry collector, by OTLP over gRPC (option `otlp`).
//!
//! Spans are made by the OpenTelemetry SDK ([`spans`]) and wait in a bounded queue for the
//! task that sends them ([`queue`]). Metrics are those of `/metrics`, read as often as they
//! are sent ([`metrics`]). Where to is settled once, at the start ([`settings`]).
//!
//! - Off unless configured. Then a call costs one look at an `Option`.
//! - Nothing here waits or fails on the way of a call: what does not fit into the queue, or
//!   cannot be sent, is dropped and counted (`annals_otlp_dropped_total`).
//! - No payloads, names of streams, credentials or headers of calls in what is sent, and no
//!   headers for the collector in what is logged.

mod export;
mod metrics;
mod queue;
mod settings;
mod spans;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use self::export::Exporter;
use self::queue::Sending;
use self::settings::Settings;
pub use self::settings::Unusable;
pub(crate) use self::spans::{Tracing, end_call};
use crate::config::{Config, Signal};
use crate::context::Context;
use crate::metrics::Metrics;
use crate::tasks;

/// How long a stop waits for what is still to be sent.
const FLUSH: Duration = Duration::from_secs(2);

/// The trace of the call on whose task this is asked, if it is recorded: 32 hexadecimal
/// digits.
pub fn trace_id() -> Option<String> {
    tasks::span(spans::trace_id)
}

/// What is to be sent, before the node is there.
pub(crate) struct Prepared {
    settings: Settings,
    traces: Option<(Tracing, Sending)>,
    metrics: Option<Exporter>,
}

impl Prepared {
    /// Reads configuration and environment; sends nothing yet.
    ///
    /// # Errors
    /// [`Unusable`]: something is to be sent, and could never be.
    pub(crate) fn new(config: &Config, counted: &Metrics) -> Result<Option<Prepared>, Unusable> {
        let environment = |name: &str| std::env::var(name).ok();
        let Some(settings) = Settings::read(config, &environment)? else { return Ok(None) };
        let traces = match settings.destination(Signal::Traces) {
            Some(destination) => {
                let exporter = Exporter::new(Signal::Traces, destination, counted)?;
                let (queue, sending) = queue::new(&settings, exporter);
                Some((Tracing::new(&settings, config, queue), sending))
            }
            None => None,
        };
        let metrics = settings.destination(Signal::Metrics);
        let metrics = metrics.map(|destination| Exporter::new(Signal::Metrics, destination, counted)).transpose()?;
        Ok(Some(Prepared { settings, traces, metrics }))
    }

    /// What makes spans, if they are sent.
    pub(crate) fn tracing(&self) -> Option<Tracing> {
        self.traces.as_ref().map(|(tracing, _)| tracing.clone())
    }

    /// Sends from now on.
    pub(crate) fn start(self, context: &Arc<Context>) -> Telemetry {
        let mut tasks = Vec::new();
        if let Some((_, sending)) = self.traces {
            tasks.push(tokio::spawn(sending.run(context.stopped.clone())));
        }
        if let Some(exporter) = self.metrics {
            tasks.push(tokio::spawn(metrics::run(context.clone(), self.settings, exporter)));
        }
        Telemetry { tasks }
    }
}

/// What sends, while a node runs.
#[derive(Default)]
pub(crate) struct Telemetry {
    tasks: Vec<JoinHandle<()>>,
}

impl Telemetry {
    /// Waits a moment for what is still to be sent; [`Context::stopped`] is cancelled by now.
    pub(crate) async fn stop(self) {
        let deadline = tokio::time::Instant::now() + FLUSH;
        for mut task in self.tasks {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}
