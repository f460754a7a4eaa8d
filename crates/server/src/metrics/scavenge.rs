//! The last scavenge, as this node has applied it.

use annals_core::Timestamp;
use annals_store::Store;
use prometheus::{Gauge, IntGauge};

use super::declare::{Declarator, gauge};

/// The last scavenge, as this node has applied it.
pub(super) struct Scavenges {
    pub(super) running: IntGauge,
    pub(super) point: IntGauge,
    pub(super) position: IntGauge,
    pub(super) events: IntGauge,
    pub(super) bytes: IntGauge,
    pub(super) to_give_back: IntGauge,
    pub(super) started: Gauge,
    pub(super) last_success: Gauge,
}

impl Scavenges {
    pub(super) fn declare(d: &mut Declarator) -> Self {
        d.group = "scavenge";
        Scavenges {
            running: d.gauge("annals_scavenge_running", "1 while a scavenge goes on, else 0."),
            point: d.gauge("annals_scavenge_point", "The position up to which the last scavenge looks."),
            position: d.gauge("annals_scavenge_position", "The position up to which it has looked."),
            events: d.gauge("annals_scavenge_reclaimed_events", "Events that it has reclaimed."),
            bytes: d.gauge(
                "annals_scavenge_reclaimed_bytes",
                "Bytes of metadata and data that these events had. Files shrink by about that, compressed, soon after.",
            ),
            to_give_back: d.gauge(
                "annals_scavenge_positions_to_give_back",
                "Positions it has looked at whose files this node has still to write anew; 0 once the space of all that was reclaimed is given back here.",
            ),
            started: d.real_gauge(
                "annals_scavenge_started_timestamp_seconds",
                "When the last scavenge was started, in Unix seconds; 0 if there was none.",
            ),
            last_success: d.real_gauge(
                "annals_scavenge_last_success_timestamp_seconds",
                "When the last scavenge was complete, in Unix seconds; 0 if it is not, or there was none.",
            ),
        }
    }

    pub(super) fn refresh(&self, store: &Store) {
        let Some(last) = store.scavenge() else { return };
        // What cannot be read is told where it stops something, not here.
        if let Ok(positions) = store.to_give_back() {
            self.to_give_back.set(gauge(positions));
        }
        let seconds = |time: Timestamp| time.ticks() as f64 / Timestamp::TICKS_PER_SECOND as f64;
        self.running.set(i64::from(last.is_running()));
        self.point.set(gauge(last.point.get()));
        self.position.set(gauge(last.cursor.get()));
        self.events.set(gauge(last.events));
        self.bytes.set(gauge(last.bytes));
        self.started.set(seconds(last.started));
        let completed = last.ended.filter(|_| last.phase == annals_core::scavenge::Phase::Completed);
        self.last_success.set(completed.map_or(0.0, seconds));
    }
}
