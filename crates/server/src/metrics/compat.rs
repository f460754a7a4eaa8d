//! The names under which KurrentDB and EventStoreDB tell of themselves, for the
//! dashboards of those who come from there (option `metrics_compat`).
//!
//! Nothing is counted twice: what is told here is made of our own metrics when
//! somebody scrapes. Where both mean the same the number is the same; positions are
//! those of Annals, which count events and not bytes. What has no counterpart here is
//! not told, rather than told wrongly: docs/monitoring.md lists it.
//!
//! The older product's names begin with `eventstore_`, its counters do not end in
//! `_total`, and its `statuses` is a counter.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use parking_lot::Mutex;
use prometheus::proto::{Metric, MetricFamily};

use super::recent::{RANGE, RecentMax};
use crate::config::MetricsCompat;
use crate::context::Context;
use crate::members;

/// What must be remembered between scrapes.
pub(super) struct Compat {
    /// When something most recently had a status, in Unix seconds.
    statuses: Mutex<BTreeMap<(&'static str, String), u64>>,
    /// Processor seconds at the last scrape, and when that was.
    processor: Mutex<Option<(f64, f64)>>,
    pub(super) flush_seconds: RecentMax,
    pub(super) flush_bytes: RecentMax,
    pub(super) queueing_seconds: RecentMax,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Series of one name.
struct Family<'a> {
    /// Without prefix, and without `_total`.
    name: &'static str,
    kind: &'static str,
    /// What comes after the name: nothing, or `_bucket` and the like.
    samples: Vec<(&'static str, Labels<'a>, f64)>,
}

impl<'a> Family<'a> {
    fn new(kind: &'static str, name: &'static str) -> Self {
        Family { name, kind, samples: Vec::new() }
    }

    fn with(mut self, labels: &[(&'static str, &'a str)], value: f64) -> Self {
        self.samples.push(("", labels.to_vec(), value));
        self
    }
}

/// Our own metrics, by name.
struct Own<'a>(BTreeMap<&'a str, &'a MetricFamily>);

impl<'a> Own<'a> {
    fn of(&self, name: &str) -> &'a [Metric] {
        self.0.get(name).map_or(&[], |family| family.get_metric())
    }

    /// The sum over all series of which the labels please.
    fn sum_where(&self, name: &str, pleases: impl Fn(&dyn Fn(&str) -> &'a str) -> bool) -> f64 {
        let pleased = |metric: &&'a Metric| pleases(&|label| label_of(metric, label));
        self.of(name).iter().filter(pleased).map(value).sum()
    }

    fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, |_| true)
    }
}

fn label_of<'a>(metric: &'a Metric, name: &str) -> &'a str {
    metric.get_label().iter().find(|label| label.name() == name).map_or("", |label| label.value())
}

fn value(metric: &Metric) -> f64 {
    // A metric is one of them; the others are absent and 0.
    metric.get_counter().get_value() + metric.get_gauge().get_value()
}

impl Compat {
    pub(super) fn new() -> Self {
        Compat {
            statuses: Mutex::default(),
            processor: Mutex::default(),
            flush_seconds: RecentMax::new(),
            flush_bytes: RecentMax::new(),
            queueing_seconds: RecentMax::new(),
        }
    }

    /// Adds everything under the names of each product that is asked for.
    pub(super) fn render(&self, context: &Context, own: &[MetricFamily], text: &mut Vec<u8>) {
        if context.config.metrics_compat.is_empty() {
            return;
        }
        let own = Own(own.iter().map(|family| (family.name(), family)).collect());
        let process = Process::now(&context.config.data);
        let (statuses, processor) = (self.statuses(context), self.processor(&own));
        let mut families = vec![statuses_family(&statuses), Family::new("gauge", "proc_cpu").with(&[], processor)];
        families.extend(log(&own));
        families.extend(calls(&own));
        families.extend(groups(&own));
        families.extend(process.families(&own));
        families.push(
            Family::new("gauge", "writer_flush_duration_max_seconds")
                .with(&[("range", RANGE)], self.flush_seconds.get()),
        );
        families.push(Family::new("gauge", "writer_flush_size_max").with(&[("range", RANGE)], self.flush_bytes.get()));
        families.push(
            Family::new("gauge", "queue_queueing_duration_max_seconds")
                .with(&[("name", "StorageWriter"), ("range", RANGE)], self.queueing_seconds.get()),
        );
        let mut out = String::with_capacity(16 * 1024);
        for product in &context.config.metrics_compat {
            families
                .iter()
                .filter(|family| !family.samples.is_empty())
                .for_each(|family| write(family, *product, &mut out));
        }
        text.extend_from_slice(out.as_bytes());
    }

    /// What the node is, and its index and scavenge: each with the time at which it
    /// most recently was that.
    fn statuses(&self, context: &Context) -> BTreeMap<(&'static str, String), u64> {
        let scavenging = context.node.store().scavenge().is_some_and(|last| last.is_running());
        let now = [
            ("Node", members::own_state(context).as_str_name()),
            ("Index", if context.health.is_ready(&context.node.status()) { "Idle" } else { "Initializing" }),
            ("Scavenge", if scavenging { "Chunk Execution" } else { "Idle" }),
        ];
        let mut statuses = self.statuses.lock();
        for (name, status) in now {
            statuses.insert((name, status.to_owned()), super::now() as u64);
        }
        statuses.clone()
    }

    /// Cores in use since the last scrape.
    fn processor(&self, own: &Own<'_>) -> f64 {
        let now = (own.sum("process_cpu_seconds_total"), super::now());
        let before = self.processor.lock().replace(now);
        before.map_or(0.0, |before| ((now.0 - before.0) / (now.1 - before.1).max(0.001)).max(0.0))
    }
}

fn statuses_family<'a>(statuses: &'a BTreeMap<(&'static str, String), u64>) -> Family<'a> {
    statuses.iter().fold(Family::new("gauge", "statuses"), |family, ((name, status), at)| {
        family.with(&[("name", name), ("status", status)], *at as f64)
    })
}

/// The log, and what is read and written.
fn log<'a>(own: &Own<'a>) -> Vec<Family<'a>> {
    let checkpoint = |name| [("name", name), ("read", "non-flushed")];
    let position = own.sum("annals_position");
    let cache = |kind| [("cache", "chunk"), ("kind", kind)];
    vec![
        // All events of a node are in its log, its indexes and confirmed at once.
        ["writer", "chaser", "index", "replication"]
            .into_iter()
            .fold(Family::new("gauge", "checkpoints"), |family, name| family.with(&checkpoint(name), position)),
        Family::new("counter", "elections_count").with(&[], own.sum("annals_raft_leader_changes_total")),
        Family::new("counter", "io_events")
            .with(&[("activity", "read")], own.sum("annals_events_read_total"))
            .with(&[("activity", "written")], own.sum("annals_events_applied_total")),
        Family::new("counter", "cache_hits_misses")
            .with(&cache("hits"), own.sum("annals_rocksdb_block_cache_hits_total"))
            .with(&cache("misses"), own.sum("annals_rocksdb_block_cache_misses_total")),
        Family::new("gauge", "cache_resources_bytes").with(&cache("size"), own.sum("annals_rocksdb_block_cache_bytes")),
        Family::new("gauge", "cache_resources_entries")
            .with(&[("cache", "LastEventNumber"), ("kind", "count")], own.sum("annals_heads_cached")),
    ]
}

/// Calls of clients; what nodes say to each other is no call there.
fn calls<'a>(own: &Own<'a>) -> Vec<Family<'a>> {
    let handled = |pleases: &dyn Fn(&str) -> bool| {
        own.sum_where("grpc_server_handled_total", |label| {
            !label("grpc_service").starts_with("annals.internal.") && pleases(label("grpc_code"))
        })
    };
    let current = own.sum_where("annals_grpc_inflight", |label| !label("grpc_service").starts_with("annals.internal."));
    let mut durations = Family::new("histogram", "grpc_method_duration_seconds");
    for (activity, name) in [("append", "annals_append_duration_seconds"), ("read", "annals_read_duration_seconds")] {
        histogram(&mut durations, &[("activity", activity), ("status", "successful")], own.of(name));
    }
    vec![
        Family::new("gauge", "current_incoming_grpc_calls").with(&[], current),
        Family::new("counter", "incoming_grpc_calls")
            .with(&[("kind", "total")], handled(&|_| true) + current)
            .with(&[("kind", "failed")], handled(&|code| code != "OK"))
            .with(&[("kind", "unimplemented")], handled(&|code| code == "Unimplemented"))
            .with(&[("kind", "deadline-exceeded")], handled(&|code| code == "DeadlineExceeded")),
        durations,
        Family::new("gauge", "kestrel_connections").with(&[], own.sum("annals_connections")),
    ]
}

/// Adds up histograms of the same buckets.
fn histogram<'a>(family: &mut Family<'a>, labels: &[(&'static str, &'a str)], metrics: &'a [Metric]) {
    let Some(first) = metrics.first() else { return };
    for (index, bucket) in first.get_histogram().get_bucket().iter().enumerate() {
        let counts = metrics.iter().filter_map(|metric| metric.get_histogram().get_bucket().get(index));
        let count: u64 = counts.map(prometheus::proto::Bucket::cumulative_count).sum();
        family.samples.push(("_bucket", with_bound(labels, bound(bucket.upper_bound())), count as f64));
    }
    let count: u64 = metrics.iter().map(|metric| metric.get_histogram().get_sample_count()).sum();
    let sum: f64 = metrics.iter().map(|metric| metric.get_histogram().get_sample_sum()).sum();
    family.samples.push(("_bucket", with_bound(labels, "+Inf"), count as f64));
    family.samples.push(("_sum", labels.to_vec(), sum));
    family.samples.push(("_count", labels.to_vec(), count as f64));
}

fn with_bound<'a>(labels: &[(&'static str, &'a str)], bound: &'a str) -> Labels<'a> {
    labels.iter().copied().chain([("le", bound)]).collect()
}

/// Bounds of buckets are few and always the same: each is written once.
fn bound(bound: f64) -> &'static str {
    static BOUNDS: std::sync::LazyLock<Vec<(f64, String)>> =
        std::sync::LazyLock::new(|| super::declare::SECONDS.iter().map(|bound| (*bound, bound.to_string())).collect());
    BOUNDS.iter().find(|(known, _)| *known == bound).map_or("", |(_, text)| text.as_str())
}

/// Whether a name is told of a group with this source.
type Of = fn(&str) -> bool;

/// Consumer groups. Where a group stands is told by other names for `$all`.
fn groups<'a>(own: &Own<'a>) -> Vec<Family<'a>> {
    const OF_ALL: Of = |source| source == "$all";
    const OF_STREAMS: Of = |source| source != "$all";
    const OF_ANY: Of = |_| true;
    let families = [
        ("gauge", "persistent_sub_connections", "annals_group_consumers", OF_ANY),
        ("gauge", "persistent_sub_parked_messages", "annals_group_parked", OF_ANY),
        ("gauge", "persistent_sub_in_flight_messages", "annals_group_in_flight", OF_ANY),
        ("gauge", "persistent_sub_oldest_parked_message_seconds", "annals_group_oldest_parked_seconds", OF_ANY),
        ("counter", "persistent_sub_items_processed", "annals_group_delivered_total", OF_ANY),
        ("gauge", "persistent_sub_last_known_event_number", "annals_group_source_end", OF_STREAMS),
        ("gauge", "persistent_sub_last_known_event_commit_position", "annals_group_source_end", OF_ALL),
        ("gauge", "persistent_sub_checkpointed_event_number", "annals_group_checkpoint", OF_STREAMS),
        ("gauge", "persistent_sub_checkpointed_event_commit_position", "annals_group_checkpoint", OF_ALL),
    ];
    let family = |(kind, name, from, of): (&'static str, &'static str, &str, Of)| {
        let told = own.of(from).iter().filter(|metric| of(label_of(metric, "source")));
        told.fold(Family::new(kind, name), |family, metric| {
            let labels = [("event_stream_id", label_of(metric, "source")), ("group_name", label_of(metric, "group"))];
            family.with(&labels, value(metric))
        })
    };
    families.into_iter().map(family).collect()
}

/// What the kernel tells of the process and the machine, as texts for labels and numbers.
struct Process {
    pid: String,
    disk: String,
    load: Vec<(&'static str, f64)>,
    memory: [f64; 2],
    /// Bytes and operations, read and written.
    io: [f64; 4],
}

impl Process {
    fn now(data: &std::path::Path) -> Process {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let number = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
        };
        let (memory, io) = (read("/proc/meminfo"), read("/proc/self/io"));
        let load = read("/proc/loadavg");
        Process {
            pid: std::process::id().to_string(),
            disk: data.display().to_string(),
            load: ["1m", "5m", "15m"]
                .into_iter()
                .zip(load.split_whitespace().filter_map(|number| number.parse().ok()))
                .collect(),
            memory: ["MemAvailable:", "MemTotal:"].map(|key| number(&memory, key) * 1024.0),
            io: ["read_bytes:", "write_bytes:", "syscr:", "syscw:"].map(|key| number(&io, key)),
        }
    }

    fn families<'a>(&'a self, own: &Own<'a>) -> Vec<Family<'a>> {
        let [free, total] = self.memory;
        let [read_bytes, written_bytes, reads, writes] = self.io;
        let disk_total = own.sum("annals_disk_total_bytes");
        let disk = |kind| [("disk", self.disk.as_str()), ("kind", kind)];
        let activity = |name, read, written| {
            Family::new("counter", name).with(&[("activity", "read")], read).with(&[("activity", "written")], written)
        };
        let up = super::now() - own.sum("annals_start_timestamp_seconds");
        vec![
            Family::new("counter", "proc_up_time_seconds").with(&[("pid", &self.pid)], up),
            Family::new("gauge", "proc_thread_count").with(&[], own.sum("process_threads")),
            Family::new("gauge", "proc_mem_bytes")
                .with(&[("kind", "working-set")], own.sum("process_resident_memory_bytes"))
                .with(&[("kind", "virtual-bytes")], own.sum("process_virtual_memory_bytes")),
            activity("disk_io_bytes", read_bytes, written_bytes),
            activity("disk_io_operations", reads, writes),
            self.load.iter().fold(Family::new("gauge", "sys_load_avg"), |family, (period, load)| {
                family.with(&[("period", period)], *load)
            }),
            Family::new("gauge", "sys_mem_bytes").with(&[("kind", "free")], free).with(&[("kind", "total")], total),
            Family::new("gauge", "sys_disk_bytes")
                .with(&disk("used"), disk_total - own.sum("annals_disk_free_bytes"))
                .with(&disk("total"), disk_total),
        ]
    }
}

/// What a name means is told by those whose it is, and in docs/monitoring.md.
const HELP: &str = "A name of another product, for its dashboards.";

fn write(family: &Family<'_>, product: MetricsCompat, out: &mut String) {
    let (name, kind) = match (product, family.kind, family.name) {
        (MetricsCompat::Kurrentdb, "counter", name) => (format!("kurrentdb_{name}_total"), "counter"),
        (MetricsCompat::Kurrentdb, kind, name) => (format!("kurrentdb_{name}"), kind),
        (MetricsCompat::Eventstore, _, "statuses") => ("eventstore_statuses".to_owned(), "counter"),
        (MetricsCompat::Eventstore, kind, "proc_up_time_seconds") => ("eventstore_proc_up_time".to_owned(), kind),
        (MetricsCompat::Eventstore, kind, name) => (format!("eventstore_{name}"), kind),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {HELP}");
    let _ = writeln!(out, "# TYPE {name} {kind}");
    for (suffix, labels, value) in &family.samples {
        let _ = write!(out, "{name}{suffix}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(out, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, escaped(text));
        }
        let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_product_has_its_way_of_naming() {
        let written = |family: &Family<'_>, product| {
            let mut out = String::new();
            write(family, product, &mut out);
            out
        };
        let counter = Family::new("counter", "io_events").with(&[("activity", "a \"b\"\\")], 3.0);
        assert_eq!(
            written(&counter, MetricsCompat::Kurrentdb),
            format!(
                "# HELP kurrentdb_io_events_total {HELP}\n# TYPE kurrentdb_io_events_total counter\n\
                 kurrentdb_io_events_total{{activity=\"a \\\"b\\\"\\\\\"}} 3\n"
            )
        );
        assert!(written(&counter, MetricsCompat::Eventstore).contains("\n# TYPE eventstore_io_events counter\n"));
        let statuses = Family::new("gauge", "statuses").with(&[], 1.0);
        let old = written(&statuses, MetricsCompat::Eventstore);
        assert!(old.ends_with("# TYPE eventstore_statuses counter\neventstore_statuses 1\n"), "{old}");
        assert!(written(&statuses, MetricsCompat::Kurrentdb).contains("\n# TYPE kurrentdb_statuses gauge\n"));
    }
}
