//! The last complete backups, as the log tells of them.

use annals_core::Revision;
use annals_store::Store;
use parking_lot::Mutex;
use prometheus::{GaugeVec, IntGaugeVec};

use super::declare::{Declarator, gauge};
use crate::backup::{self, KINDS};

/// See the module. Every label is one of [`KINDS`].
pub(super) struct BackupGauges {
    last_success: GaugeVec,
    bytes: IntGaugeVec,
    position: IntGaugeVec,
    /// The newest event that was looked at.
    seen: Mutex<Option<Revision>>,
}

impl BackupGauges {
    pub(super) fn declare(d: &mut Declarator) -> Self {
        d.group = "backup";
        let gauges = BackupGauges {
            last_success: d.real_gauges(
                "annals_backup_last_success_timestamp_seconds",
                &["kind"],
                "When the last complete backup of the cluster ended, in Unix seconds; 0 if there was none.",
            ),
            bytes: d.gauges("annals_backup_last_bytes", &["kind"], "Bytes of the files of that backup."),
            position: d.gauges("annals_backup_last_position", &["kind"], "The position of the last event in it."),
            seen: Mutex::new(None),
        };
        for kind in KINDS {
            gauges.last_success.with_label_values(&[kind]).set(0.0);
            gauges.bytes.with_label_values(&[kind]).set(0);
            gauges.position.with_label_values(&[kind]).set(0);
        }
        gauges
    }

    pub(super) fn refresh(&self, store: &Store) {
        let Some(newest) = backup::newest(store, &mut self.seen.lock()) else { return };
        for kind in KINDS {
            let Some(last) = newest.iter().find(|completed| completed.kind == kind) else { continue };
            self.last_success.with_label_values(&[kind]).set(last.ended_seconds());
            self.bytes.with_label_values(&[kind]).set(gauge(last.bytes));
            self.position.with_label_values(&[kind]).set(gauge(last.through));
        }
    }
}
