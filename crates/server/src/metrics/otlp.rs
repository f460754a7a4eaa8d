//! What is sent to a collector, and what is lost on the way.

use prometheus::{IntCounter, IntCounterVec};

use super::declare::Declarator;
use crate::config::Signal;

/// See the module.
pub(super) struct Otlp {
    sent: IntCounterVec,
    dropped: IntCounterVec,
}

/// The counts of one kind of data. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct OtlpCounts {
    sent: IntCounter,
    no_room: IntCounter,
    failed: IntCounter,
    refused: IntCounter,
}

impl Otlp {
    pub(super) fn declare(d: &mut Declarator) -> Self {
        d.group = "otlp";
        Otlp {
            sent: d.counters(
                "annals_otlp_sent_total",
                &["signal"],
                "Spans, or series of metrics, that an OpenTelemetry collector has taken.",
            ),
            dropped: d.counters(
                "annals_otlp_dropped_total",
                &["signal", "reason"],
                "Spans, or series of metrics, that were not sent (`no_room` in the queue, `failed` calls) or `refused` by the collector.",
            ),
        }
    }

    pub(super) fn of(&self, signal: Signal) -> OtlpCounts {
        let dropped = |reason| self.dropped.with_label_values(&[signal.as_str(), reason]);
        OtlpCounts {
            sent: self.sent.with_label_values(&[signal.as_str()]),
            no_room: dropped("no_room"),
            failed: dropped("failed"),
            refused: dropped("refused"),
        }
    }
}

impl OtlpCounts {
    /// The collector took so many.
    pub(crate) fn sent(&self, many: u64) {
        self.sent.inc_by(many);
    }

    /// One did not fit into the queue.
    pub(crate) fn no_room(&self) {
        self.no_room.inc();
    }

    /// So many could not be sent.
    pub(crate) fn failed(&self, many: u64) {
        self.failed.inc_by(many);
    }

    /// The collector did not want so many.
    pub(crate) fn refused(&self, many: u64) {
        self.refused.inc_by(many);
    }
}
