//! What `/metrics` tells, as OTLP has it: the same names, labels and numbers.
//!
//! Counters and histograms are cumulative since the start of the process.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use prometheus::proto::{Metric as Series, MetricFamily, MetricType};

use super::export::Exporter;
use super::settings::Settings;
use crate::context::Context;
use crate::version;

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// Sends them as often as configured, and once more at the end.
pub(super) async fn run(context: Arc<Context>, settings: Settings, mut exporter: Exporter) {
    let started = nanoseconds();
    let resource = ResourceAttributesWithSchema::from(&settings.resource).attributes.0;
    loop {
        let over = tokio::select! {
            () = context.stopped.cancelled() => true,
            () = tokio::time::sleep(settings.interval) => false,
        };
        let read = context.clone();
        // It reads files.
        let Ok(gathered) = tokio::task::spawn_blocking(move || read.metrics.gather(&read)).await else { return };
        let series = gathered.iter().map(|family| family.get_metric().len() as u64).sum();
        exporter.metrics(request(&gathered, &resource, started, nanoseconds()), series).await;
        if over {
            return;
        }
    }
}

fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn request(gathered: &[MetricFamily], resource: &[KeyValue], started: u64, now: u64) -> ExportMetricsServiceRequest {
    let scope = InstrumentationScope {
        name: "annals".to_owned(),
        version: version::VERSION.to_owned(),
        ..InstrumentationScope::default()
    };
    let metrics = gathered.iter().filter_map(|family| metric(family, started, now)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, schema_url: String::new() }];
    let resource = Resource { attributes: resource.to_vec(), ..Resource::default() };
    let told = ResourceMetrics { resource: Some(resource), scope_metrics, schema_url: String::new() };
    ExportMetricsServiceRequest { resource_metrics: vec![told] }
}

fn metric(family: &MetricFamily, started: u64, now: u64) -> Option<Metric> {
    let series = family.get_metric().iter();
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: series.map(|series| point(series, series.get_counter().get_value(), started, now)).collect(),
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        }),
        MetricType::GAUGE => Data::Gauge(Gauge {
            // A gauge began at no time.
            data_points: series.map(|series| point(series, series.get_gauge().get_value(), 0, now)).collect(),
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: series.map(|series| histogram(series, started, now)).collect(),
            aggregation_temporality: CUMULATIVE,
        }),
        // None of these is declared.
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    };
    Some(Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

/// The unit that the name ends with, as UCUM writes it.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("ratio") => "1",
        _ => "",
    }
}

fn point(series: &Series, value: f64, started: u64, now: u64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: labels(series),
        start_time_unix_nano: started,
        time_unix_nano: now,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn histogram(series: &Series, started: u64, now: u64) -> HistogramDataPoint {
    let histogram = series.get_histogram();
    let count = histogram.get_sample_count();
    let finite = || histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    // There each bucket holds those below it as well, here only its own; the last one
    // is without a bound.
    let upto = finite().map(|bucket| bucket.cumulative_count()).chain([count]);
    let bucket_counts = upto
        .scan(0, |before, upto| {
            let own = upto.saturating_sub(*before);
            *before = upto;
            Some(own)
        })
        .collect();
    HistogramDataPoint {
        attributes: labels(series),
        start_time_unix_nano: started,
        time_unix_nano: now,
        count,
        sum: Some(histogram.get_sample_sum()),
        bucket_counts,
        explicit_bounds: finite().map(|bucket| bucket.upper_bound()).collect(),
        ..HistogramDataPoint::default()
    }
}

fn labels(series: &Series) -> Vec<KeyValue> {
    let text = |text: &str| AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) };
    let labels = series.get_label().iter();
    labels
        .map(|label| KeyValue { key: label.name().to_owned(), value: Some(text(label.value())), ..KeyValue::default() })
        .collect()
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, IntCounter, Registry};

    use super::*;

    #[test]
    fn buckets_hold_their_own_and_the_last_has_no_bound() {
        let registry = Registry::new();
        let options = HistogramOpts::new("h_seconds", "help").buckets(vec![1.0, 2.0]);
        let histogram = prometheus::Histogram::with_opts(options).expect("valid");
        registry.register(Box::new(histogram.clone())).expect("once");
        for seconds in [0.5, 1.5, 1.5, 9.0] {
            histogram.observe(seconds);
        }
        let told = registry.gather().first().and_then(|family| metric(family, 1, 2)).expect("a metric");
        let Some(Data::Histogram(Histogram { data_points, aggregation_temporality })) = told.data else {
            panic!("{told:?}")
        };
        assert_eq!((told.name.as_str(), told.unit.as_str(), aggregation_temporality), ("h_seconds", "s", CUMULATIVE));
        assert_eq!(data_points[0].explicit_bounds, [1.0, 2.0]);
        assert_eq!(data_points[0].bucket_counts, [1, 2, 1]);
        assert_eq!((data_points[0].count, data_points[0].sum), (4, Some(12.5)));
    }

    #[test]
    fn a_counter_is_a_sum_since_the_start() {
        let registry = Registry::new();
        let counter = IntCounter::new("x_bytes_total", "help").expect("valid");
        registry.register(Box::new(counter.clone())).expect("once");
        counter.inc_by(7);
        let told = registry.gather().first().and_then(|family| metric(family, 1, 2)).expect("a metric");
        let Some(Data::Sum(sum)) = told.data else { panic!("{told:?}") };
        assert!(sum.is_monotonic && told.unit == "By");
        assert_eq!(sum.data_points[0].start_time_unix_nano, 1);
        assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsDouble(7.0)));
    }
}
