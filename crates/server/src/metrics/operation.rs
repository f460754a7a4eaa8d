//! What an operator does to a node while it runs, and what it says in its log.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge};

use super::declare::Declarator;

/// The configuration as it was last read, and the lines that were logged.
pub(super) struct Operation {
    reload_succeeded: IntGauge,
    reload_at: Gauge,
    log_lines: IntCounterVec,
    log_lines_left_out: IntCounter,
    log_level_temporary: IntGauge,
}

impl Operation {
    pub(super) fn declare(d: &mut Declarator) -> Self {
        d.group = "operation";
        let operation = Operation {
            reload_succeeded: d.gauge(
                "annals_config_last_reload_success",
                "1 when the configuration was usable as it was last read, at the start or on SIGHUP, else 0.",
            ),
            reload_at: d.real_gauge(
                "annals_config_last_reload_success_timestamp_seconds",
                "When a usable configuration was last read, in Unix seconds.",
            ),
            log_lines: d.counters("annals_log_lines_total", &["level"], "Lines that were logged."),
            log_lines_left_out: d.counter(
                "annals_log_lines_left_out_total",
                "Lines that were not logged because of `log_lines_per_second_max`.",
            ),
            log_level_temporary: d
                .gauge("annals_log_level_temporary", "1 while a log level holds that was set for a time, else 0."),
        };
        for level in ["error", "warn"] {
            // Whoever watches for the first one needs the zero before it.
            operation.log_lines.with_label_values(&[level]).reset();
        }
        operation.reloaded(true);
        operation
    }

    /// The configuration was read again.
    pub(super) fn reloaded(&self, usable: bool) {
        self.reload_succeeded.set(i64::from(usable));
        if usable {
            self.reload_at.set(super::now());
        }
    }

    /// Takes over what the log has counted.
    pub(super) fn refresh(&self, logs: &crate::logs::Logs) {
        for (level, lines) in logs.counted() {
            let counter = self.log_lines.with_label_values(&[level]);
            counter.inc_by(lines.saturating_sub(counter.get()));
        }
        self.log_lines_left_out.inc_by(logs.left_out().saturating_sub(self.log_lines_left_out.get()));
        self.log_level_temporary.set(i64::from(logs.level().until.is_some()));
    }
}
