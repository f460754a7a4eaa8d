//! Declaring a metric: it is registered and remembered with the text that
//! explains it, in one step, so that neither can be without the other.

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

/// From 100 µs to about 13 s, each bucket twice the one before: an fsync on a
/// fast disk and a call that runs into its deadline both find one of their own.
pub(super) const SECONDS: [f64; 18] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096, 0.8192,
    1.6384, 3.2768, 6.5536, 13.1072,
];

/// Events of one append.
pub(super) const EVENTS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 10_000.0];

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

/// Registers what it makes, and remembers what it registered.
pub(super) struct Declarator {
    pub(super) registry: Registry,
    pub(super) declarations: Vec<Declaration>,
    pub(super) group: &'static str,
}

impl Declarator {
    pub(super) fn declare<C: Collector + Clone + 'static>(&mut self, kind: &'static str, collector: C) -> C {
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

    pub(super) fn counter(&mut self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("a valid metric");
        self.declare("counter", counter)
    }

    pub(super) fn real_counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::new(name, help).expect("a valid metric");
        self.declare("counter", counter)
    }

    pub(super) fn counters(&mut self, name: &str, labels: &[&str], help: &str) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric");
        self.declare("counter", counters)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("a valid metric");
        self.declare("gauge", gauge)
    }

    pub(super) fn gauges(&mut self, name: &str, labels: &[&str], help: &str) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid metric");
        self.declare("gauge", gauges)
    }

    pub(super) fn real_gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::new(name, help).expect("a valid metric");
        self.declare("gauge", gauge)
    }

    pub(super) fn real_gauges(&mut self, name: &str, labels: &[&str], help: &str) -> GaugeVec {
        let gauges = GaugeVec::new(Opts::new(name, help), labels).expect("a valid metric");
        self.declare("gauge", gauges)
    }

    pub(super) fn histogram(&mut self, name: &str, buckets: &[f64], help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Histogram::with_opts(options).expect("a valid metric");
        self.declare("histogram", histogram)
    }

    pub(super) fn histograms(&mut self, name: &str, labels: &[&str], help: &str) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let histograms = HistogramVec::new(options, labels).expect("a valid metric");
        self.declare("histogram", histograms)
    }
}

impl Declarator {
    /// What the operating system tells of the process (Linux only).
    #[cfg(target_os = "linux")]
    pub(super) fn process(&mut self) {
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
    pub(super) fn process(&mut self) {}
}

/// A number as a gauge takes it. Beyond 2^63 it stands still.
pub(super) fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
