//! OpenMetrics 1.0, the text that Prometheus prefers, for who asks for it.
//!
//! The same series under the same names as in the classic text. What is different: the
//! family of a counter is named without `_total`, units are said, and `# EOF` at the end
//! shows that nothing was cut off. Bounds of buckets are written as in the classic text,
//! so that no series changes its name with the format.

use std::fmt::{self, Write as _};

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

/// The content type of what is written here.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a list of media types (`Accept`) asks for OpenMetrics before other text.
///
/// A type with the weight 0 is not wanted; of two that are wanted the heavier one is, and
/// of two that weigh the same OpenMetrics.
pub(crate) fn is_wanted(accept: &str) -> bool {
    let weight_of = |wanted: fn(&str) -> bool| {
        let parts = accept.split(',').filter_map(|each| {
            let mut parameters = each.split(';').map(str::trim);
            wanted(parameters.next()?).then(|| {
                let weight = parameters.find_map(|parameter| parameter.strip_prefix("q="));
                weight.map_or(1.0, |weight| weight.trim().parse::<f64>().unwrap_or(0.0))
            })
        });
        parts.fold(0.0, f64::max)
    };
    let open = weight_of(|media| media.eq_ignore_ascii_case("application/openmetrics-text"));
    let classic = weight_of(|media| media.eq_ignore_ascii_case("text/plain"));
    open > 0.0 && open >= classic
}

/// All families, and the end.
pub(super) fn encode(gathered: &[MetricFamily]) -> Vec<u8> {
    let mut text = String::with_capacity(64 * 1024);
    for each in gathered {
        // A text takes whatever is written to it.
        let _ = family(each, &mut text);
    }
    text.push_str("# EOF\n");
    text.into_bytes()
}

fn family(family: &MetricFamily, out: &mut String) -> fmt::Result {
    let name = family.name();
    let (base, kind) = match family.get_field_type() {
        MetricType::COUNTER => match name.strip_suffix("_total") {
            Some(base) => (base, "counter"),
            // Not a counter as it is understood here.
            None => (name, "unknown"),
        },
        MetricType::GAUGE => (name, "gauge"),
        MetricType::HISTOGRAM => (name, "histogram"),
        // None of these is declared.
        MetricType::SUMMARY | MetricType::UNTYPED => return Ok(()),
    };
    writeln!(out, "# TYPE {base} {kind}")?;
    if let Some(unit) = ["seconds", "bytes", "ratio"].into_iter().find(|unit| base.ends_with(&format!("_{unit}"))) {
        writeln!(out, "# UNIT {base} {unit}")?;
    }
    write!(out, "# HELP {base} ")?;
    escaped(family.help(), out);
    out.push('\n');
    for series in family.get_metric() {
        let own = series.get_label();
        match family.get_field_type() {
            MetricType::COUNTER => sample(out, name, "", own, None, series.get_counter().get_value())?,
            MetricType::GAUGE => sample(out, name, "", own, None, series.get_gauge().get_value())?,
            MetricType::HISTOGRAM => {
                let histogram = series.get_histogram();
                let count = histogram.get_sample_count();
                for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
                    let bound = bucket.upper_bound().to_string();
                    sample(out, name, "_bucket", own, Some(&bound), bucket.cumulative_count() as f64)?;
                }
                sample(out, name, "_bucket", own, Some("+Inf"), count as f64)?;
                sample(out, name, "_count", own, None, count as f64)?;
                sample(out, name, "_sum", own, None, histogram.get_sample_sum())?;
            }
            MetricType::SUMMARY | MetricType::UNTYPED => {}
        }
    }
    Ok(())
}

fn sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    bound: Option<&str>,
    value: f64,
) -> fmt::Result {
    write!(out, "{name}{suffix}")?;
    let labels = labels.iter().map(|label| (label.name(), label.value())).chain(bound.map(|bound| ("le", bound)));
    let mut before = '{';
    for (label, text) in labels {
        write!(out, "{before}{label}=\"")?;
        escaped(text, out);
        out.push('"');
        before = ',';
    }
    if before == ',' {
        out.push('}');
    }
    if value.is_infinite() {
        writeln!(out, " {}Inf", if value > 0.0 { '+' } else { '-' })
    } else {
        writeln!(out, " {value}")
    }
}

fn escaped(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            character => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

    use super::*;
    use crate::Metrics;

    #[test]
    fn who_asks_for_it_gets_it_and_nobody_else() {
        // What Prometheus sends.
        let scrape = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, expected) in [
            (scrape, true),
            ("application/openmetrics-text", true),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.2", false),
            ("application/openmetrics-text;q=0", false),
            ("text/plain", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(is_wanted(accept), expected, "{accept}");
        }
    }

    #[test]
    fn counters_gauges_and_texts_are_written_as_specified() {
        let registry = Registry::new();
        let counters = IntCounterVec::new(Opts::new("a_bytes_total", "It is \"so\"\\."), &["of"]).expect("valid");
        counters.with_label_values(&["a\"b\\c\nd"]).inc_by(7);
        registry.register(Box::new(counters)).expect("once");
        registry.register(Box::new(IntGauge::new("b_info", "One.").expect("valid"))).expect("once");
        let text = String::from_utf8(encode(&registry.gather())).expect("text");
        let expected = "# TYPE a_bytes counter\n# UNIT a_bytes bytes\n# HELP a_bytes It is \\\"so\\\"\\\\.\n\
                        a_bytes_total{of=\"a\\\"b\\\\c\\nd\"} 7\n\
                        # TYPE b_info gauge\n# HELP b_info One.\nb_info 0\n# EOF\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn both_texts_tell_the_same_series() {
        let metrics = Metrics::new();
        metrics.append_finished("append", "ok", Duration::from_millis(3), 7, 700);
        let series = |text: Vec<u8>| {
            let text = String::from_utf8(text).expect("text");
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            // What the process tells of itself changes between two looks.
            lines.filter(|line| !line.starts_with("process_")).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let gathered = metrics.0.registry.gather();
        let (classic, open) = (series(super::super::encode(&gathered)), series(encode(&gathered)));
        assert!(classic.len() > 100);
        assert_eq!(classic, open);
    }

    #[test]
    fn no_family_has_the_name_of_another_or_of_its_samples() {
        let gathered = Metrics::new();
        let names: Vec<_> =
            gathered.declarations().iter().map(|each| each.name.trim_end_matches("_total").to_owned()).collect();
        let all: BTreeSet<_> = names.iter().cloned().collect();
        assert_eq!(all.len(), names.len());
        for suffix in ["_bucket", "_count", "_sum", "_created", "_total"] {
            assert!(names.iter().all(|name| !all.contains(&format!("{name}{suffix}"))), "{suffix}");
        }
    }
}
