//! What a measurement found: named figures, the same for people and programs.
//!
//! The unit ends the name. Latencies are in milliseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::load::Measured;

/// Percentiles that are told, and how they are called.
const QUANTILES: [(f64, &str); 4] = [(0.5, "p50_ms"), (0.9, "p90_ms"), (0.99, "p99_ms"), (0.999, "p999_ms")];

/// Figures in the order in which they are told.
#[derive(Clone, Debug, Default)]
pub struct Report {
    figures: Vec<(String, Value)>,
}

impl Report {
    pub(crate) fn new(what: &str) -> Self {
        Report::default().with("what", what)
    }

    /// One more figure.
    #[must_use]
    pub(crate) fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.figures.push((name.into(), value.into()));
        self
    }

    /// So many in this time, under this name: `events`, `events_per_second`.
    #[must_use]
    pub(crate) fn with_rate(self, name: &str, count: u64, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let rate = if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        self.with(name, count).with(format!("{name}_per_second"), rounded(rate))
    }

    /// The percentiles of what was recorded in microseconds; none of nothing.
    #[must_use]
    pub(crate) fn with_latency(mut self, prefix: &str, latency: &Histogram<u64>) -> Self {
        if latency.is_empty() {
            return self;
        }
        for (quantile, name) in QUANTILES {
            self = self.with(format!("{prefix}{name}"), milliseconds(latency.value_at_quantile(quantile)));
        }
        self.with(format!("{prefix}max_ms"), milliseconds(latency.max()))
    }

    /// Requests with what they did and how long each took.
    #[must_use]
    pub(crate) fn with_measured(self, prefix: &str, requests: &str, units: &str, measured: &Measured) -> Self {
        self.with_rate(&format!("{prefix}{requests}"), measured.requests, measured.elapsed)
            .with_rate(&format!("{prefix}{units}"), measured.units, measured.elapsed)
            .with_latency(prefix, &measured.latency)
    }

    /// How long was measured, and whether that is less than was asked for.
    #[must_use]
    pub(crate) fn with_length(self, elapsed: Duration, interrupted: bool) -> Self {
        self.with("elapsed_seconds", rounded(elapsed.as_secs_f64())).with("interrupted", interrupted)
    }

    /// For programs: one object.
    pub fn json(&self) -> Value {
        Value::Object(self.figures.iter().cloned().collect())
    }

    /// For people: names and values.
    pub fn rows(&self) -> Vec<Vec<String>> {
        self.figures.iter().map(|(name, value)| vec![name.clone(), readable(value)]).collect()
    }
}

/// Microseconds as milliseconds.
pub(crate) fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1_000.0
}

/// To three digits after the point: more would be noise.
fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

fn readable(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_u64() => grouped(&number.to_string()),
        // From here on the fraction says nothing.
        Value::Number(number) => match number.as_f64() {
            Some(float) if float >= 1_000.0 => grouped(&format!("{float:.0}")),
            Some(float) if float >= 100.0 => format!("{float:.1}"),
            Some(_) | None => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Digits in groups of three.
pub(crate) fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_in_order_to_people_and_by_name_to_programs() {
        let mut latency = Histogram::new(3).expect("3 digits");
        latency.record(1_500).expect("in range");
        let report = Report::new("append")
            .with_rate("events", 2_000_000, Duration::from_secs(2))
            .with_latency("", &latency)
            .with_length(Duration::from_millis(2_345), false);
        assert_eq!(report.json()["events_per_second"], 1_000_000.0);
        assert_eq!(report.json()["p50_ms"], 1.5);
        assert_eq!(report.json()["elapsed_seconds"], 2.345);
        assert_eq!(report.rows()[0], ["what", "append"]);
        assert_eq!(report.rows()[1], ["events", "2,000,000"]);
        assert_eq!(report.rows()[2], ["events_per_second", "1,000,000"]);
    }

    #[test]
    fn nothing_has_no_percentiles_and_no_rate() {
        let report = Report::new("append")
            .with_rate("events", 0, Duration::ZERO)
            .with_latency("", &Histogram::new(3).expect("3 digits"));
        assert_eq!(report.json()["events_per_second"], 0.0);
        assert_eq!(report.json().get("p50_ms"), None);
    }
}
