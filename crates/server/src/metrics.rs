//! Everything that is counted, declared in one place with the text that
//! explains it.
//!
//! `annals metrics list` prints the declarations, so that a metric without a
//! help text or outside this file cannot exist. Labels have bounded values
//! only: never the name of a stream, never anything a client can make up.
//!
//! Counters and histograms are fed where things happen (handlers, the
//! [`Observer`] that replication calls, the gRPC layer). Gauges that mirror
//! the node's state are read from it when somebody scrapes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annals_core::{Scavenge, Timestamp};
use annals_raft::{Node, Observer, Role};
use annals_store::Statistics;
use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::groups::{GroupName, Stalls};
use crate::version;

/// From 100 µs to about 13 s, each bucket twice the one before: an fsync on a
/// fast disk and a call that runs into its deadline both find one of their own.
const SECONDS: [f64; 18] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096, 0.8192,
    1.6384, 3.2768, 6.5536, 13.1072,
];

/// Events of one append.
const EVENTS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 10_000.0];

/// A metric as `annals metrics list` tells it.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// The part of the system it belongs to.
    pub group: &'static str,
    /// Its full name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: Vec<String>,
    /// What it says, with its unit.
    pub help: String,
}

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
    scavenge: ScavengeGauges,

    grpc_handled: IntCounterVec,
    grpc_seconds: HistogramVec,
    grpc_inflight: IntGaugeVec,
}

/// The certificates of the node.
struct Tls {
    expiry: IntGaugeVec,
    reloads: IntCounterVec,
    handshakes_failed: IntCounterVec,
}

/// Consumer groups, of the node that serves them.
struct Groups {
    lag_events: IntGaugeVec,
    lag_seconds: GaugeVec,
    waiting: IntGaugeVec,
    in_flight: IntGaugeVec,
    parked: IntGaugeVec,
    oldest_parked_seconds: GaugeVec,
    consumers: IntGaugeVec,
}

struct Raft {
    is_leader: IntGauge,
    has_leader: IntGauge,
    term: IntGauge,
    leader_changes: IntCounter,
    elections: IntCounter,
    proposals: IntCounter,
    proposals_failed: IntCounter,
    proposals_pending: IntGauge,
    commit_index: IntGauge,
    applied_index: IntGauge,
    last_log_index: IntGauge,
    durable_index: IntGauge,
    snapshot_index: IntGauge,
    purged_index: IntGauge,
    position: IntGauge,
    voters: IntGauge,
    learners: IntGauge,
    quorum_acked_seconds: Gauge,
    peer_match_index: IntGaugeVec,
    peer_reachable: IntGaugeVec,
    peer_round_trip: HistogramVec,
    peer_failures: IntCounterVec,
    commit_duration: Histogram,
    apply_duration: Histogram,
    events_applied: IntCounter,
    entry_commands: Histogram,
    catch_ups: IntCounterVec,
    peers_outdated: IntCounterVec,
}

struct Disk {
    fsync_duration: Histogram,
    append_duration: Histogram,
    log_bytes: IntCounter,
    log_entries: IntCounter,
    flush_duration: Histogram,
    free: GaugeVec,
    total: GaugeVec,
    rocksdb: RocksDb,
}

/// The last scavenge, as this node has applied it.
struct ScavengeGauges {
    running: IntGauge,
    point: IntGauge,
    position: IntGauge,
    events: IntGauge,
    bytes: IntGauge,
    started: Gauge,
    last_success: Gauge,
}

struct RocksDb {
    sst_bytes: IntGaugeVec,
    memtable_bytes: IntGaugeVec,
    l0_files: IntGaugeVec,
    compaction_pending_bytes: IntGaugeVec,
    keys: IntGaugeVec,
    block_cache_bytes: IntGauge,
    block_cache_hits: IntCounter,
    block_cache_misses: IntCounter,
    write_stall_seconds: Counter,
    running_compactions: IntGauge,
    running_flushes: IntGauge,
    write_stopped: IntGauge,
    delayed_write_rate: IntGauge,
    background_errors: IntGauge,
    ring_bytes: IntGauge,
    heads_cached: IntGauge,
    ids_remembered: IntGauge,
}

/// Registers what it makes, and remembers what it registered.
struct Declarator {
    registry: Registry,
    declarations: Vec<Declaration>,
    group: &'static str,
}

impl Declarator {
    fn declare<C: Collector + Clone + 'static>(&mut self, kind: &'static str, collector: C) -> C {
        for desc in collector.desc() {
            self.declarations.push(Declaration {
                group: self.group,
                name: desc.fq_name.clone(),
                kind,
                labels: desc.variable_labels.clone(),
                help: desc.help.clone(),
            });
        }
        self.registry.register(Box::new(collector.clone())).expect("each metric is declared once");
        collector
    }

    fn counter(&mut self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("a valid metric");
        self.declare("counter", counter)
    }

    fn real_counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::new(name, help).expect("a valid metric");
        self.declare("counter", counter)
    }

    fn counters(&mut self, name: &str, labels: &[&str], help: &str) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric");
        self.declare("counter", counters)
    }

    fn gauge(&mut self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("a valid metric");
        self.declare("gauge", gauge)
    }

    fn gauges(&mut self, name: &str, labels: &[&str], help: &str) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid metric");
        self.declare("gauge", gauges)
    }

    fn real_gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::new(name, help).expect("a valid metric");
        self.declare("gauge", gauge)
    }

    fn real_gauges(&mut self, name: &str, labels: &[&str], help: &str) -> GaugeVec {
        let gauges = GaugeVec::new(Opts::new(name, help), labels).expect("a valid metric");
        self.declare("gauge", gauges)
    }

    fn histogram(&mut self, name: &str, buckets: &[f64], help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Histogram::with_opts(options).expect("a valid metric");
        self.declare("histogram", histogram)
    }

    fn histograms(&mut self, name: &str, labels: &[&str], help: &str) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let histograms = HistogramVec::new(options, labels).expect("a valid metric");
        self.declare("histogram", histograms)
    }
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
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
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
        let scavenge = ScavengeGauges::declare(&mut d);

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

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(64 * 1024);
        TextEncoder::new()
            .encode(&self.0.registry.gather(), &mut text)
            .expect("declared metrics encode, and memory takes them");
        text
    }

    /// Reads what mirrors the node's state. Reads files of the store: to be
    /// called where blocking is allowed.
    pub(crate) fn refresh(&self, node: &Node, groups: &[(GroupName, Stalls)], data: &Path, ready: bool) {
        let inner = &self.0;
        let status = node.status();
        inner.ready.set(i64::from(ready));
        inner.node_info.reset();
        let address =
            status.members.iter().find(|member| member.id == status.node).map_or("", |member| &member.address);
        inner
            .node_info
            .with_label_values(&[&status.node.to_string(), status.role.as_str(), status.phase.as_str(), address])
            .set(1);
        inner.groups.refresh(groups);
        inner.raft.refresh(&status);
        inner.raft.position.set(gauge(node.store().tail().get()));
        inner.disk.refresh(data, &node.store().statistics());
        inner.scavenge.refresh(node.store().scavenge());
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

impl Declarator {
    /// What the operating system tells of the process (Linux only).
    #[cfg(target_os = "linux")]
    fn process(&mut self) {
        let collector = prometheus::process_collector::ProcessCollector::for_self();
        for desc in collector.desc() {
            let kind = if desc.fq_name.ends_with("_total") { "counter" } else { "gauge" };
            self.declarations.push(Declaration {
                group: self.group,
                name: desc.fq_name.clone(),
                kind,
                labels: Vec::new(),
                help: desc.help.clone(),
            });
        }
        self.registry.register(Box::new(collector)).expect("each metric is declared once");
    }

    #[cfg(not(target_os = "linux"))]
    fn process(&mut self) {}
}

/// A file with certificates, as a label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TlsFile {
    /// The node's own.
    Certificate,
    /// Of those who issue.
    Ca,
}

impl TlsFile {
    fn as_str(self) -> &'static str {
        match self {
            TlsFile::Certificate => "certificate",
            TlsFile::Ca => "ca",
        }
    }
}

impl Tls {
    fn declare(d: &mut Declarator) -> Self {
        d.group = "tls";
        Tls {
            expiry: d.gauges(
                "annals_tls_certificate_expiry_timestamp_seconds",
                &["file"],
                "When the certificate in use ends, in Unix seconds: the node's own (`certificate`), and of those in \
                 `tls_ca` the one that ends first (`ca`).",
            ),
            reloads: d.counters(
                "annals_tls_reloads_total",
                &["result"],
                "Times changed files were found: `ok` when they were taken into use, `refused` when they cannot be \
                 used and those before stayed.",
            ),
            handshakes_failed: d.counters(
                "annals_tls_handshakes_failed_total",
                &["reason"],
                "Connections that ended before they carried a request: `clear_text` on a port that speaks TLS, \
                 `timeout`, `silent` after the handshake, `failed` for all else, certificates above all.",
            ),
        }
    }
}

impl Groups {
    fn declare(d: &mut Declarator) -> Self {
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
        }
    }

    fn refresh(&self, groups: &[(GroupName, Stalls)]) {
        let counts = [&self.lag_events, &self.waiting, &self.in_flight, &self.parked, &self.consumers];
        counts.into_iter().for_each(|gauges| gauges.reset());
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
        }
    }
}

impl Raft {
    fn declare(d: &mut Declarator) -> Self {
        d.group = "raft";
        Raft {
            is_leader: d.gauge("annals_raft_is_leader", "1 on the leader, else 0."),
            has_leader: d.gauge("annals_raft_has_leader", "1 when this node knows a leader, else 0."),
            term: d.gauge("annals_raft_term", "The current term."),
            leader_changes: d.counter("annals_raft_leader_changes_total", "How often this node saw a new leader."),
            elections: d.counter("annals_raft_elections_total", "Elections for which this node stood."),
            proposals: d.counter("annals_raft_proposals_total", "Entries this node proposed that were applied."),
            proposals_failed: d.counter(
                "annals_raft_proposals_failed_total",
                "Entries this node proposed without learning their fate.",
            ),
            proposals_pending: d
                .gauge("annals_raft_proposals_pending", "Entries this node proposed that are not applied yet."),
            commit_index: d.gauge("annals_raft_commit_index", "The newest entry known to be on a quorum."),
            applied_index: d.gauge("annals_raft_applied_index", "The newest entry applied to the events."),
            last_log_index: d.gauge("annals_raft_last_log_index", "The newest entry of this node's log."),
            durable_index: d.gauge(
                "annals_raft_durable_index",
                "The newest entry whose effect is in the state's files; later ones are applied again after a crash.",
            ),
            snapshot_index: d.gauge("annals_raft_snapshot_index", "The entry at which peers can be caught up."),
            purged_index: d.gauge("annals_raft_purged_index", "The newest entry removed from the log."),
            position: d.gauge("annals_position", "The position of the newest event on this node."),
            voters: d.gauge("annals_raft_voters", "Voting members."),
            learners: d.gauge("annals_raft_learners", "Members without a vote."),
            quorum_acked_seconds: d.real_gauge(
                "annals_raft_quorum_acked_seconds",
                "On the leader: seconds since a quorum last acknowledged it. On others 0.",
            ),
            peer_match_index: d.gauges(
                "annals_raft_peer_match_index",
                &["peer"],
                "On the leader: the newest entry a peer is known to hold.",
            ),
            peer_reachable: d.gauges("annals_raft_peer_reachable", &["peer"], "1 when the last call to a peer worked."),
            peer_round_trip: d.histograms(
                "annals_raft_peer_rtt_seconds",
                &["peer"],
                "Seconds from sending entries to a peer to its answer, its fsync included.",
            ),
            peer_failures: d.counters(
                "annals_raft_peer_send_failures_total",
                &["peer"],
                "Calls to a peer that failed.",
            ),
            commit_duration: d.histogram(
                "annals_raft_commit_duration_seconds",
                &SECONDS,
                "Seconds from proposing an entry to its outcome.",
            ),
            apply_duration: d.histogram("annals_raft_apply_duration_seconds", &SECONDS, "Seconds to apply one entry."),
            events_applied: d.counter("annals_events_applied_total", "Events written to this node's state."),
            entry_commands: d.histogram(
                "annals_raft_entry_commands",
                &EVENTS,
                "Appends that were proposed together as one entry.",
            ),
            catch_ups: d.counters(
                "annals_raft_catch_ups_total",
                &["peer", "result"],
                "Transfers of missing events to a peer that was behind the log, by how they ended.",
            ),
            peers_outdated: d.counters(
                "annals_raft_peers_outdated_total",
                &["peer"],
                "Times a peer was found to lack what it had acknowledged, or to run on an outdated copy of its disk; at most one in ten seconds.",
            ),
        }
    }

    fn refresh(&self, status: &annals_raft::Status) {
        self.is_leader.set(i64::from(status.role == Role::Leader));
        self.has_leader.set(i64::from(status.leader.is_some()));
        self.term.set(gauge(status.term));
        self.commit_index.set(gauge(status.committed));
        self.applied_index.set(gauge(status.applied));
        self.last_log_index.set(gauge(status.last_log));
        self.durable_index.set(gauge(status.durable));
        self.snapshot_index.set(gauge(status.snapshot));
        self.purged_index.set(gauge(status.purged));
        let voters = status.members.iter().filter(|member| member.voter).count();
        self.voters.set(gauge(voters as u64));
        self.learners.set(gauge((status.members.len() - voters) as u64));
        self.quorum_acked_seconds.set(status.quorum_acked_ago.unwrap_or_default().as_secs_f64());
        // A peer that was removed must not linger with its last value.
        self.peer_match_index.reset();
        self.peer_reachable.reset();
        for member in status.members.iter().filter(|member| member.id != status.node) {
            let peer = member.id.to_string();
            if let Some(matched) = member.matched {
                self.peer_match_index.with_label_values(&[&peer]).set(gauge(matched));
            }
            self.peer_reachable.with_label_values(&[&peer]).set(i64::from(member.reachable));
        }
    }
}

impl Disk {
    fn declare(d: &mut Declarator) -> Self {
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
            ring_bytes: d.gauge("annals_ring_bytes", "Bytes of newest events in memory for live subscriptions."),
            heads_cached: d.gauge("annals_heads_cached", "Heads of streams in memory."),
            ids_remembered: d.gauge("annals_event_ids_remembered", "Event ids by which repeated appends are known."),
        };
        Disk { fsync_duration, append_duration, log_bytes, log_entries, flush_duration, free, total, rocksdb }
    }

    fn refresh(&self, data: &Path, statistics: &Statistics) {
        if let Ok(space) = rustix::fs::statvfs(data) {
            let block = space.f_frsize as f64;
            self.free.with_label_values(&["data"]).set(space.f_bavail as f64 * block);
            self.total.with_label_values(&["data"]).set(space.f_blocks as f64 * block);
        }
        self.rocksdb.refresh(statistics);
    }
}

impl ScavengeGauges {
    fn declare(d: &mut Declarator) -> Self {
        d.group = "scavenge";
        ScavengeGauges {
            running: d.gauge("annals_scavenge_running", "1 while a scavenge goes on, else 0."),
            point: d.gauge("annals_scavenge_point", "The position up to which the last scavenge looks."),
            position: d.gauge("annals_scavenge_position", "The position up to which it has looked."),
            events: d.gauge("annals_scavenge_reclaimed_events", "Events that it has reclaimed."),
            bytes: d.gauge(
                "annals_scavenge_reclaimed_bytes",
                "Bytes of metadata and data that these events had. Files shrink by about that, compressed, soon after.",
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

    fn refresh(&self, last: Option<Scavenge>) {
        let Some(last) = last else { return };
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

impl RocksDb {
    fn refresh(&self, statistics: &Statistics) {
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
        self.ring_bytes.set(gauge(statistics.ring_bytes));
        self.heads_cached.set(gauge(statistics.heads_cached));
        self.ids_remembered.set(gauge(statistics.ids_remembered));
    }
}

impl Observer for Metrics {
    fn log_synced(&self, took: Duration, bytes: usize, entries: usize) {
        self.0.disk.fsync_duration.observe(took.as_secs_f64());
        self.0.disk.log_bytes.inc_by(bytes as u64);
        self.0.disk.log_entries.inc_by(entries as u64);
    }

    fn log_appended(&self, took: Duration) {
        self.0.disk.append_duration.observe(took.as_secs_f64());
    }

    fn committed(&self, took: Duration) {
        self.0.raft.proposals.inc();
        self.0.raft.commit_duration.observe(took.as_secs_f64());
    }

    fn applied(&self, took: Duration, events: usize) {
        self.0.raft.apply_duration.observe(took.as_secs_f64());
        self.0.raft.events_applied.inc_by(events as u64);
    }

    fn proposal_failed(&self) {
        self.0.raft.proposals_failed.inc();
    }

    fn peer_call_failed(&self, peer: u64) {
        self.0.raft.peer_failures.with_label_values(&[&peer.to_string()]).inc();
    }

    fn peer_outdated(&self, peer: u64) {
        self.0.raft.peers_outdated.with_label_values(&[&peer.to_string()]).inc();
    }

    fn peer_round_trip(&self, peer: u64, took: Duration) {
        self.0.raft.peer_round_trip.with_label_values(&[&peer.to_string()]).observe(took.as_secs_f64());
    }

    fn election_started(&self) {
        self.0.raft.elections.inc();
    }

    fn leader_changed(&self) {
        self.0.raft.leader_changes.inc();
    }

    fn proposed(&self, commands: usize, _bytes: usize) {
        self.0.raft.entry_commands.observe(commands as f64);
        self.0.raft.proposals_pending.inc();
    }

    fn settled(&self) {
        self.0.raft.proposals_pending.dec();
    }

    fn state_flushed(&self, took: Duration) {
        self.0.disk.flush_duration.observe(took.as_secs_f64());
    }

    fn catch_up_sent(&self, peer: u64, succeeded: bool) {
        let result = if succeeded { "ok" } else { "failed" };
        self.0.raft.catch_ups.with_label_values(&[peer.to_string().as_str(), result]).inc();
    }
}

/// A number as a gauge takes it. Beyond 2^63 it stands still.
fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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
