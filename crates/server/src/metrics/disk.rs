//! The log's writes, the disk, and RocksDB, which keeps the state.

use std::path::Path;

use annals_store::Statistics;
use prometheus::{Counter, GaugeVec, Histogram, IntCounter, IntGauge, IntGaugeVec};

use super::declare::{Declarator, SECONDS, gauge};

pub(super) struct Disk {
    pub(super) fsync_duration: Histogram,
    pub(super) append_duration: Histogram,
    pub(super) log_bytes: IntCounter,
    pub(super) log_entries: IntCounter,
    pub(super) flush_duration: Histogram,
    pub(super) free: GaugeVec,
    pub(super) total: GaugeVec,
    pub(super) rocksdb: RocksDb,
}

pub(super) struct RocksDb {
    pub(super) sst_bytes: IntGaugeVec,
    pub(super) memtable_bytes: IntGaugeVec,
    l0_files: IntGaugeVec,
    pub(super) compaction_pending_bytes: IntGaugeVec,
    pub(super) keys: IntGaugeVec,
    pub(super) block_cache_bytes: IntGauge,
    pub(super) block_cache_hits: IntCounter,
    pub(super) block_cache_misses: IntCounter,
    pub(super) write_stall_seconds: Counter,
    pub(super) running_compactions: IntGauge,
    pub(super) running_flushes: IntGauge,
    pub(super) write_stopped: IntGauge,
    pub(super) delayed_write_rate: IntGauge,
    pub(super) background_errors: IntGauge,
    pub(super) corruptions: IntCounter,
    pub(super) ring_bytes: IntGauge,
    pub(super) heads_cached: IntGauge,
    pub(super) ids_remembered: IntGauge,
}

impl Disk {
    pub(super) fn declare(d: &mut Declarator) -> Self {
        d.group = "disk";
        let fsync_duration =
            d.histogram("annals_log_fsync_duration_seconds", &SECONDS, "Seconds of one synced write of the log.");
        let append_duration = d.histogram(
            "annals_log_append_duration_seconds",
            &SECONDS,
            "Seconds from an entry's arrival at the log to its being durable, waiting included.",
        );
        let log_bytes = d.counter("annals_log_bytes_total", "Bytes of entries written to the log.");
        let log_entries = d.counter("annals_log_entries_total", "Entries written to the log.");
        let flush_duration = d.histogram(
            "annals_state_flush_duration_seconds",
            &SECONDS,
            "Seconds to write applied events from memory to the state's files.",
        );
        let free = d.real_gauges(
            "annals_disk_free_bytes",
            &["dir"],
            "Bytes this process may still write to a directory's disk.",
        );
        let total = d.real_gauges("annals_disk_total_bytes", &["dir"], "Bytes of a directory's disk.");
        d.group = "rocksdb";
        let cf = &["cf"];
        let rocksdb = RocksDb {
            sst_bytes: d.gauges("annals_rocksdb_sst_bytes", cf, "Bytes in the state's files, by column family."),
            memtable_bytes: d.gauges("annals_rocksdb_memtable_bytes", cf, "Bytes of the state not yet in files."),
            l0_files: d.gauges(
                "annals_rocksdb_l0_files",
                cf,
                "Files on level 0: many of them slow reads, then writes.",
            ),
            compaction_pending_bytes: d.gauges(
                "annals_rocksdb_compaction_pending_bytes",
                cf,
                "Bytes that compaction has yet to rewrite.",
            ),
            keys: d.gauges("annals_rocksdb_keys", cf, "Keys, estimated."),
            block_cache_bytes: d.gauge("annals_rocksdb_block_cache_bytes", "Bytes in use of the state's block cache."),
            block_cache_hits: d
                .counter("annals_rocksdb_block_cache_hits_total", "Blocks of the state that were found in memory."),
            block_cache_misses: d
                .counter("annals_rocksdb_block_cache_misses_total", "Blocks of the state that were read from files."),
            write_stall_seconds: d.real_counter(
                "annals_rocksdb_write_stall_seconds_total",
                "Seconds for which writes of the state were held back for compaction.",
            ),
            running_compactions: d.gauge("annals_rocksdb_running_compactions", "Compactions running now."),
            running_flushes: d.gauge("annals_rocksdb_running_flushes", "Flushes running now."),
            write_stopped: d.gauge("annals_rocksdb_write_stopped", "1 while RocksDB holds all writes back."),
            delayed_write_rate: d.gauge(
                "annals_rocksdb_delayed_write_bytes_per_second",
                "The rate to which RocksDB slows writes; 0 when it does not.",
            ),
            background_errors: d.gauge(
                "annals_rocksdb_background_errors",
                "Background errors since the start. Anything but 0 is an alarm.",
            ),
            corruptions: d.counter(
                "annals_checksum_failures_total",
                "Times something stored was found not to be what was written. Anything but 0 is an alarm.",
            ),
            ring_bytes: d.gauge("annals_ring_bytes", "Bytes of newest events in memory for live subscriptions."),
            heads_cached: d.gauge("annals_heads_cached", "Heads of streams in memory."),
            ids_remembered: d.gauge("annals_event_ids_remembered", "Event ids by which repeated appends are known."),
        };
        Disk { fsync_duration, append_duration, log_bytes, log_entries, flush_duration, free, total, rocksdb }
    }

    pub(super) fn refresh(&self, data: &Path, statistics: &Statistics) {
        if let Ok(space) = rustix::fs::statvfs(data) {
            let block = space.f_frsize as f64;
            self.free.with_label_values(&["data"]).set(space.f_bavail as f64 * block);
            self.total.with_label_values(&["data"]).set(space.f_blocks as f64 * block);
        }
        self.rocksdb.refresh(statistics);
    }
}

impl RocksDb {
    pub(super) fn refresh(&self, statistics: &Statistics) {
        for column in &statistics.columns {
            let cf = &[column.name];
            self.sst_bytes.with_label_values(cf).set(gauge(column.file_bytes));
            self.memtable_bytes.with_label_values(cf).set(gauge(column.memtable_bytes));
            self.l0_files.with_label_values(cf).set(gauge(column.level0_files));
            self.compaction_pending_bytes.with_label_values(cf).set(gauge(column.pending_compaction_bytes));
            self.keys.with_label_values(cf).set(gauge(column.keys));
        }
        self.block_cache_bytes.set(gauge(statistics.block_cache_bytes));
        // RocksDB counts from its own start: what it has more is added.
        let more = |counter: &IntCounter, now: u64| counter.inc_by(now.saturating_sub(counter.get()));
        more(&self.block_cache_hits, statistics.block_cache_hits);
        more(&self.block_cache_misses, statistics.block_cache_misses);
        let stalled = statistics.write_stall.as_secs_f64() - self.write_stall_seconds.get();
        self.write_stall_seconds.inc_by(stalled.max(0.0));
        self.running_compactions.set(gauge(statistics.running_compactions));
        self.running_flushes.set(gauge(statistics.running_flushes));
        self.write_stopped.set(i64::from(statistics.write_stopped));
        self.delayed_write_rate.set(gauge(statistics.delayed_write_rate));
        self.background_errors.set(gauge(statistics.background_errors));
        more(&self.corruptions, statistics.corruptions);
        self.ring_bytes.set(gauge(statistics.ring_bytes));
        self.heads_cached.set(gauge(statistics.heads_cached));
        self.ids_remembered.set(gauge(statistics.ids_remembered));
    }
}
