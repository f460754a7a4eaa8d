//! Everything that is counted, declared in one place with the text that
//! explains it.
//!
//! `annals metrics list` prints the declarations, so that a metric without a
//! help text or outside these files cannot exist. Labels have bounded values
//! only: never the name of a stream, never anything a client can make up.
//!
//! Counters and histograms are fed where things happen (handlers, the
//! [`observer`] that replication calls, the gRPC layer). Gauges that mirror
//! the node's state are read from it when somebody scrapes.

mod backups;
mod compat;
mod declare;
mod disk;
mod groups;
mod observer;
pub(crate) mod open_metrics;
mod operation;
mod otlp;
mod raft;
mod recent;
mod scavenge;
mod tls;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder as _, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use self::backups::BackupGauges;
use self::compat::Compat;
pub use self::declare::Declaration;
use self::declare::{Declarator, EVENTS, gauge};
use self::disk::Disk;
use self::groups::Groups;
use self::operation::Operation;
use self::otlp::Otlp;
pub(crate) use self::otlp::OtlpCounts;
use self::raft::Raft;
use self::scavenge::Scavenges;
use self::tls::Tls;
pub(crate) use self::tls::TlsFile;
use crate::config::Signal;
use crate::context::Context;
use crate::version;

/// All metrics of one node. Cloning shares them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    declarations: Vec<Declaration>,

    node_info: IntGaugeVec,
    ready: IntGauge,
    connections: IntGauge,
    connections_refused: IntCounter,
    tls: Tls,

    append_requests: IntCounterVec,
    append_duration: HistogramVec,
    append_batch_events: Histogram,
    events_appended: IntCounter,
    bytes_appended: IntCounter,

    read_requests: IntCounterVec,
    read_duration: HistogramVec,
    events_read: IntCounter,

    subscriptions_active: IntGaugeVec,
    subscriptions: IntCounterVec,
    subscription_slow: IntCounter,
    readers_given_up: IntCounter,

    groups: Groups,
    raft: Raft,
    disk: Disk,
    scavenge: Scavenges,
    operation: Operation,
    backups: BackupGauges,
    otlp: Otlp,
    lease_held: IntGauge,
    compat: Compat,

    grpc_handled: IntCounterVec,
    grpc_seconds: HistogramVec,
    grpc_inflight: IntGaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut d = Declarator { registry: Registry::new(), declarations: Vec::new(), group: "build" };

        let build_info =
            d.gauges("annals_build_info", &["version", "commit", "rustc"], "Always 1; the labels say what is running.");
        build_info.with_label_values(&[version::VERSION, version::COMMIT, version::RUSTC]).set(1);

        d.group = "node";
        let node_info = d.gauges(
            "annals_node_info",
            &["node", "role", "phase", "address"],
            "Always 1; the labels say which node this is and what it is doing.",
        );
        let started = d.real_gauge("annals_start_timestamp_seconds", "When the process started, in Unix seconds.");
        started.set(now());
        let ready = d.gauge("annals_ready", "1 when this node may be sent work, as /readyz says.");
        let connections = d.gauge("annals_connections", "Open connections, of clients and peers.");
        let connections_refused = d.counter(
            "annals_connections_refused_total",
            "Connections refused because `connections_max` or `connections_per_address_max` were open already.",
        );
        d.process();
        let tls = Tls::declare(&mut d);

        d.group = "append";
        let append_requests = d.counters(
            "annals_append_requests_total",
            &["api", "result"],
            "Appends, deletions and tombstones answered, by the answer.",
        );
        let append_duration = d.histograms(
            "annals_append_duration_seconds",
            &["api"],
            "Seconds from the parsed request to its answer, replication included.",
        );
        let append_batch_events =
            d.histogram("annals_append_batch_events", &EVENTS, "Events of one successful append.");
        let events_appended =
            d.counter("annals_events_appended_total", "Events that clients appended through this node.");
        let bytes_appended = d.counter(
            "annals_bytes_appended_total",
            "Bytes (type, metadata, data) of the events that clients appended through this node.",
        );

        d.group = "read";
        let read_requests =
            d.counters("annals_read_requests_total", &["api", "result"], "Counted reads ended, by how.");
        let read_duration = d.histograms(
            "annals_read_duration_seconds",
            &["api"],
            "Seconds from the parsed request to the last event handed to the connection.",
        );
        let events_read =
            d.counter("annals_events_read_total", "Events sent to clients, by reads and by subscriptions.");

        d.group = "subscription";
        let subscriptions_active =
            d.gauges("annals_subscriptions_active", &["kind"], "Subscriptions that are open on this node.");
        let subscriptions =
            d.counters("annals_subscriptions_total", &["kind"], "Subscriptions that were opened on this node.");
        let subscription_slow = d.counter(
            "annals_subscription_slow_total",
            "Times a live subscription fell more than a page behind and was caught up from the log.",
        );
        let readers_given_up = d.counter(
            "annals_readers_given_up_total",
            "Reads and subscriptions ended because their client took nothing for `stall_timeout_ms`.",
        );

        let groups = Groups::declare(&mut d);
        let raft = Raft::declare(&mut d);
        let disk = Disk::declare(&mut d);
        let scavenge = Scavenges::declare(&mut d);
        let operation = Operation::declare(&mut d);
        let backups = BackupGauges::declare(&mut d);
        let otlp = Otlp::declare(&mut d);
        d.group = "maintenance";
        let lease_held = d.gauge(
            "annals_maintenance_lease_held",
            "1 on the node that has the cluster's maintenance lease: it is drained, or being restarted. Else 0.",
        );

        d.group = "grpc";
        let grpc_handled = d.counters(
            "grpc_server_handled_total",
            &["grpc_service", "grpc_method", "grpc_code"],
            "Calls that ended, by their status. Calls to unknown methods count as `unknown`.",
        );
        let grpc_seconds = d.histograms(
            "grpc_server_handling_seconds",
            &["grpc_service", "grpc_method"],
            "Seconds from a call's headers to its status. Subscriptions last as long as they are open.",
        );
        let grpc_inflight =
            d.gauges("annals_grpc_inflight", &["grpc_service", "grpc_method"], "Calls that have begun and not ended.");

        Metrics(Arc::new(Inner {
            registry: d.registry,
            declarations: d.declarations,
            node_info,
            ready,
            connections,
            connections_refused,
            tls,
            append_requests,
            append_duration,
            append_batch_events,
            events_appended,
            bytes_appended,
            read_requests,
            read_duration,
            events_read,
            subscriptions_active,
            subscriptions,
            subscription_slow,
            readers_given_up,
            groups,
            raft,
            disk,
            scavenge,
            operation,
            backups,
            otlp,
            lease_held,
            compat: Compat::new(),
            grpc_handled,
            grpc_seconds,
            grpc_inflight,
        }))
    }

    /// What there is, in the order of declaration.
    pub fn declarations(&self) -> &[Declaration] {
        &self.0.declarations
    }

    /// The declarations as a Markdown table.
    pub fn markdown(&self) -> String {
        let mut table = String::from("| group | metric | type | labels | meaning |\n|---|---|---|---|---|\n");
        for Declaration { group, name, kind, labels, help } in self.declarations() {
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            table.push_str(&format!("| {group} | `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
        }
        table
    }

    /// Everything in Prometheus' text format, as it was last refreshed.
    pub fn render(&self) -> Vec<u8> {
        encode(&self.0.registry.gather())
    }

    /// Everything as it is now, also under the names of other products if the node is
    /// configured so. Reads files: to be called where blocking is allowed.
    pub(crate) fn scrape(&self, context: &Context) -> Vec<u8> {
        let gathered = self.gather(context);
        let mut text = encode(&gathered);
        self.0.compat.render(context, &gathered, &mut text);
        text
    }

    /// The same as OpenMetrics, without the names of other products: those are no
    /// OpenMetrics.
    pub(crate) fn scrape_open(&self, context: &Context) -> Vec<u8> {
        open_metrics::encode(&self.gather(context))
    }

    /// Everything as it is now, under its own names. As [`Metrics::scrape`].
    pub(crate) fn gather(&self, context: &Context) -> Vec<MetricFamily> {
        self.refresh(context, context.health.is_ready(&context.node.status()));
        self.0.registry.gather()
    }

    /// Counts what is sent to a collector.
    pub(crate) fn otlp(&self, signal: Signal) -> OtlpCounts {
        self.0.otlp.of(signal)
    }

    /// Reads what mirrors the node's state.
    fn refresh(&self, context: &Context, ready: bool) {
        let (inner, node) = (&self.0, &context.node);
        let status = node.status();
        inner.ready.set(i64::from(ready));
        inner.node_info.reset();
        let address =
            status.members.iter().find(|member| member.id == status.node).map_or("", |member| &member.address);
        inner
            .node_info
            .with_label_values(&[&status.node.to_string(), status.role.as_str(), status.phase.as_str(), address])
            .set(1);
        inner.groups.refresh(&context.groups.stalls());
        inner.raft.refresh(&status);
        inner.raft.position.set(gauge(node.store().tail().get()));
        inner.disk.refresh(&context.config.data, &node.store().statistics());
        inner.scavenge.refresh(node.store());
        inner.operation.refresh(&context.logs);
        inner.backups.refresh(node.store());
        inner.lease_held.set(i64::from(node.held_lease().is_some_and(|lease| lease.node == status.node)));
    }

    /// An append, deletion or tombstone was answered. `result` is one of a
    /// fixed set, such as `ok`, `wrong_expected_version`, `not_leader`.
    pub fn append_finished(
        &self,
        api: &'static str,
        result: &'static str,
        took: Duration,
        events: usize,
        bytes: usize,
    ) {
        let inner = &self.0;
        inner.append_requests.with_label_values(&[api, result]).inc();
        inner.append_duration.with_label_values(&[api]).observe(took.as_secs_f64());
        if result == "ok" {
            inner.append_batch_events.observe(events as f64);
            inner.events_appended.inc_by(events as u64);
            inner.bytes_appended.inc_by(bytes as u64);
        }
    }

    /// A counted read ended.
    pub fn read_finished(&self, api: &'static str, result: &'static str, took: Duration, events: usize) {
        let inner = &self.0;
        inner.read_requests.with_label_values(&[api, result]).inc();
        inner.read_duration.with_label_values(&[api]).observe(took.as_secs_f64());
        inner.events_read.inc_by(events as u64);
    }

    /// A subscription sent this many events.
    pub fn events_sent(&self, events: usize) {
        self.0.events_read.inc_by(events as u64);
    }

    /// A live subscription has more to catch up on than one page.
    pub fn subscription_fell_behind(&self) {
        self.0.subscription_slow.inc();
    }

    /// A subscription begins. It counts as open until the guard is dropped.
    pub fn subscription(&self, kind: &'static str) -> Counted {
        self.0.subscriptions.with_label_values(&[kind]).inc();
        Counted::new(self.0.subscriptions_active.with_label_values(&[kind]))
    }

    /// Subscriptions of all kinds that are open now.
    pub fn subscriptions_open(&self) -> usize {
        let families = self.0.subscriptions_active.collect();
        let open: f64 =
            families.iter().flat_map(|family| family.get_metric()).map(|metric| metric.get_gauge().get_value()).sum();
        open as usize
    }

    /// So many readers were ended because they read nothing.
    pub(crate) fn readers_given_up(&self, readers: usize) {
        self.0.readers_given_up.inc_by(readers as u64);
    }

    /// A connection is open until the guard is dropped.
    pub(crate) fn connection(&self) -> Counted {
        Counted::new(self.0.connections.clone())
    }

    /// A connection was refused.
    pub(crate) fn connection_refused(&self) {
        self.0.connections_refused.inc();
    }

    /// The first of a file's certificates ends at this Unix second.
    pub(crate) fn tls_expires(&self, file: TlsFile, at: i64) {
        self.0.tls.expiry.with_label_values(&[file.as_str()]).set(at);
    }

    /// Changed certificates were taken into use, or could not be.
    pub(crate) fn tls_reloaded(&self, taken: bool) {
        self.0.tls.reloads.with_label_values(&[if taken { "ok" } else { "refused" }]).inc();
    }

    /// A connection did not come to carry requests. `reason` is one of a fixed set.
    pub(crate) fn tls_handshake_failed(&self, reason: &'static str) {
        self.0.tls.handshakes_failed.with_label_values(&[reason]).inc();
    }

    /// The configuration was read again, and is usable or not.
    pub fn config_reloaded(&self, usable: bool) {
        self.0.operation.reloaded(usable);
    }

    /// A call is running until the guard is dropped.
    pub(crate) fn call(&self, service: &str, method: &str) -> Counted {
        Counted::new(self.0.grpc_inflight.with_label_values(&[service, method]))
    }

    /// A call ended with this status.
    pub(crate) fn call_finished(&self, service: &str, method: &str, code: &str, took: Duration) {
        self.0.grpc_handled.with_label_values(&[service, method, code]).inc();
        self.0.grpc_seconds.with_label_values(&[service, method]).observe(took.as_secs_f64());
    }
}

/// Something that is counted in a gauge for as long as this lives.
#[must_use = "what is counted ends when this is dropped"]
pub struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn encode(gathered: &[MetricFamily]) -> Vec<u8> {
    let mut text = Vec::with_capacity(64 * 1024);
    TextEncoder::new().encode(gathered, &mut text).expect("declared metrics encode, and memory takes them");
    text
}

/// Unix seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_declared_with_a_sentence_and_a_sound_name() {
        let metrics = Metrics::new();
        for declaration in metrics.declarations() {
            let Declaration { name, kind, help, .. } = declaration;
            assert!(help.len() > 10 && help.ends_with('.'), "{name}: {help}");
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(["annals_", "grpc_", "process_"].iter().any(|prefix| name.starts_with(prefix)), "{name}");
        }
    }

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::new();
        metrics.append_finished("append", "ok", Duration::from_millis(3), 7, 700);
        metrics.append_finished("append", "not_leader", Duration::from_millis(1), 7, 700);
        let guard = metrics.subscription("stream");
        let text = String::from_utf8(metrics.render()).expect("text");
        assert!(text.contains("annals_events_appended_total 7\n"), "a refused append appends nothing\n{text}");
        assert!(text.contains("annals_append_requests_total{api=\"append\",result=\"not_leader\"} 1\n"));
        assert_eq!(metrics.subscriptions_open(), 1);
        drop(guard);
        assert_eq!(metrics.subscriptions_open(), 0);
    }

    #[test]
    fn the_table_has_a_row_for_each_metric() {
        let metrics = Metrics::new();
        assert_eq!(metrics.markdown().lines().count(), metrics.declarations().len() + 2);
    }
}
