//! Consumer groups, of the node that serves them.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};

use super::declare::{Declarator, gauge};
use crate::groups::{GroupName, Stalls};

/// Consumer groups, of the node that serves them.
pub(super) struct Groups {
    pub(super) lag_events: IntGaugeVec,
    pub(super) lag_seconds: GaugeVec,
    pub(super) waiting: IntGaugeVec,
    pub(super) in_flight: IntGaugeVec,
    pub(super) parked: IntGaugeVec,
    pub(super) oldest_parked_seconds: GaugeVec,
    pub(super) consumers: IntGaugeVec,
    pub(super) last_known: IntGaugeVec,
    pub(super) checkpoint: IntGaugeVec,
    pub(super) delivered: IntCounterVec,
    pub(super) acked: IntCounterVec,
    pub(super) retries: IntCounterVec,
    pub(super) given_up: IntCounterVec,
}

impl Groups {
    pub(super) fn declare(d: &mut Declarator) -> Self {
        const LABELS: [&str; 2] = ["source", "group"];
        d.group = "consumer group";
        Groups {
            lag_events: d.gauges(
                "annals_group_lag_events",
                &LABELS,
                "Revisions or positions of the source behind the last event below which all are finished. \
                 Told by the node that leads, as all of a group.",
            ),
            lag_seconds: d.real_gauges(
                "annals_group_lag_seconds",
                &LABELS,
                "Age of the first event that is loaded and not finished; 0 without one.",
            ),
            waiting: d.gauges("annals_group_waiting", &LABELS, "Messages that wait for a consumer."),
            in_flight: d.gauges("annals_group_in_flight", &LABELS, "Messages that a consumer has not answered."),
            parked: d.gauges("annals_group_parked", &LABELS, "Messages that were given up and not dropped since."),
            oldest_parked_seconds: d.real_gauges(
                "annals_group_oldest_parked_seconds",
                &LABELS,
                "Age of the oldest parked message; 0 without one.",
            ),
            consumers: d.gauges("annals_group_consumers", &LABELS, "Consumers that are connected."),
            last_known: d.gauges(
                "annals_group_source_end",
                &LABELS,
                "The newest revision or position of the source; absent while the source is empty.",
            ),
            checkpoint: d.gauges(
                "annals_group_checkpoint",
                &LABELS,
                "The revision or position from which a new leader would go on; absent before the first checkpoint.",
            ),
            delivered: d.counters(
                "annals_group_delivered_total",
                &LABELS,
                "Messages sent to consumers, since the node that leads serves the group.",
            ),
            acked: d.counters("annals_group_acked_total", &LABELS, "Messages that were acknowledged or skipped."),
            retries: d.counters(
                "annals_group_retries_total",
                &LABELS,
                "Messages sent to consumers once more: not answered in time, or refused.",
            ),
            given_up: d.counters("annals_group_messages_parked_total", &LABELS, "Messages that were parked."),
        }
    }

    pub(super) fn refresh(&self, groups: &[(GroupName, Stalls)]) {
        // A group that is gone, or served elsewhere by now, must not linger.
        let gauges = [
            &self.lag_events,
            &self.waiting,
            &self.in_flight,
            &self.parked,
            &self.consumers,
            &self.last_known,
            &self.checkpoint,
        ];
        gauges.into_iter().for_each(|gauges| gauges.reset());
        let counters = [&self.delivered, &self.acked, &self.retries, &self.given_up];
        counters.into_iter().for_each(|counters| counters.reset());
        self.lag_seconds.reset();
        self.oldest_parked_seconds.reset();
        for (name, stalls) in groups {
            let labels = [name.source.as_str(), name.group.as_str()];
            self.lag_events.with_label_values(&labels).set(gauge(stalls.lag_events));
            self.lag_seconds.with_label_values(&labels).set(stalls.lag.as_secs_f64());
            self.waiting.with_label_values(&labels).set(gauge(stalls.waiting as u64));
            self.in_flight.with_label_values(&labels).set(gauge(stalls.in_flight as u64));
            self.parked.with_label_values(&labels).set(gauge(stalls.parked));
            self.oldest_parked_seconds.with_label_values(&labels).set(stalls.oldest_parked.as_secs_f64());
            self.consumers.with_label_values(&labels).set(gauge(stalls.consumers as u64));
            if let Some(known) = stalls.known {
                self.last_known.with_label_values(&labels).set(gauge(known));
            }
            if let Some(checkpoint) = stalls.checkpoint {
                self.checkpoint.with_label_values(&labels).set(gauge(checkpoint));
            }
            self.delivered.with_label_values(&labels).inc_by(stalls.counts.delivered);
            self.acked.with_label_values(&labels).inc_by(stalls.counts.acked);
            self.retries.with_label_values(&labels).inc_by(stalls.counts.retried);
            self.given_up.with_label_values(&labels).inc_by(stalls.counts.parked);
        }
    }
}
