//! The charts: how many, and how fast, over time.

use std::fmt::Write as _;

use super::chart::{Chart, Scale};
use super::series::{Series, Slice};
use super::time::{Span, run_length};
use crate::history::{Fault, Nanos, Record};

/// Throughput and latency of writes and of reads.
pub(super) fn section(page: &mut String, records: &[Record]) {
    let length = run_length(records);
    if length == 0 {
        return;
    }
    let mut faults: Vec<&Fault> = records
        .iter()
        .filter_map(|record| match record {
            Record::Fault(fault) => Some(fault),
            _ => None,
        })
        .collect();
    faults.sort_by_key(|fault| fault.start);
    page.push_str("<section>\n<h2>Over time</h2>\n");
    if !faults.is_empty() {
        page.push_str(
            "<p class=\"soft\">Shaded: faults in force, named by class above the plot. Point at one for details.</p>\n",
        );
    }
    let writes = Series::of_writes(records, length);
    let reads = Series::of_reads(records, length);
    let outcomes = [("done", "acknowledged"), ("refused", "refused"), ("unknown", "fate unknown")];
    let answers = [("done", "answered"), ("unknown", "failed")];
    let percentiles = [("p50", "p50"), ("p99", "p99"), ("max", "max")];
    let draw = |kind: Kind, label, series| kind(label, series, &faults, length);
    figure(page, "Appends per second", &outcomes, &draw(throughput, "appends per second", &writes));
    figure(page, "Latency of acknowledged appends", &percentiles, &draw(latency, "latency of appends", &writes));
    figure(page, "Reads per second", &answers, &draw(throughput, "reads per second", &reads));
    figure(page, "Latency of answered reads", &percentiles, &draw(latency, "latency of reads", &reads));
    let _ = writeln!(page, "<p class=\"soft\">One point stands for {}.</p>\n</section>", Span(writes.width));
}

type Count = fn(&Slice) -> u64;
type Kind = fn(&str, &Series, &[&Fault], Nanos) -> String;

fn figure(page: &mut String, title: &str, legend: &[(&str, &str)], chart: &str) {
    let _ = write!(page, "<figure>\n<figcaption><strong>{title}</strong><span class=\"legend\">");
    for (class, name) in legend {
        let _ = write!(page, "<span><i class=\"{class}\"></i>{name}</span>");
    }
    let _ = write!(page, "</span></figcaption>\n{chart}</figure>\n");
}

fn throughput(label: &str, series: &Series, faults: &[&Fault], length: Nanos) -> String {
    let all = |slice: &Slice| series.rate(slice.done + slice.refused + slice.unknown);
    let most = series.slices.iter().map(all).fold(1.0, f64::max);
    let mut chart = Chart::new(label, length, Scale::up_to(most));
    chart.windows(faults);
    chart.axes(|value| if value >= 10_000.0 { format!("{}k", value / 1_000.0) } else { format!("{value}") });
    // One on the other: what is unknown stands on top, where it is seen.
    let layers: [(&str, Count); 3] = [
        ("unknown", |slice| slice.done + slice.refused + slice.unknown),
        ("refused", |slice| slice.done + slice.refused),
        ("done", |slice| slice.done),
    ];
    for (class, count) in layers {
        let mut path = format!("M{:.1} {:.1}", chart.x(0.0), chart.y(0.0));
        for (index, slice) in series.slices.iter().enumerate() {
            let (from, to) = bounds(series, index);
            let y = chart.y(series.rate(count(slice)));
            let _ = write!(path, "L{:.1} {y:.1}L{:.1} {y:.1}", chart.x(from), chart.x(to));
        }
        let _ = write!(path, "L{:.1} {:.1}Z", chart.x(length as f64), chart.y(0.0));
        chart.push(&format!("<path class=\"area {class}\" d=\"{path}\"/>"));
    }
    for (index, slice) in series.slices.iter().enumerate() {
        let (from, to) = bounds(series, index);
        let Slice { done, refused, unknown, .. } = slice;
        let text = format!("at {}: {done} done, {refused} refused, {unknown} unknown or failed", Span(from as u64));
        chart.hint(from, to, &text);
    }
    chart.finish()
}

fn latency(label: &str, series: &Series, faults: &[&Fault], length: Nanos) -> String {
    let fastest = series.slices.iter().filter_map(|slice| slice.percentile(50)).min().unwrap_or(1_000_000);
    let slowest = series.slices.iter().filter_map(|slice| slice.percentile(100)).max().unwrap_or(10_000_000);
    let mut chart = Chart::new(label, length, Scale::decades(fastest as f64, slowest as f64));
    chart.windows(faults);
    chart.axes(|value| Span(value as u64).to_string());
    for (class, percent) in [("max", 100), ("p99", 99), ("p50", 50)] {
        line(&mut chart, series, class, percent);
    }
    for (index, slice) in series.slices.iter().enumerate() {
        let (from, to) = bounds(series, index);
        let number = |percent| slice.percentile(percent).map_or("none".into(), |nanos| Span(nanos).to_string());
        let (p50, p99, max) = (number(50), number(99), number(100));
        chart.hint(from, to, &format!("at {}: p50 {p50}, p99 {p99}, max {max}", Span(from as u64)));
    }
    chart.finish()
}

/// A line that is broken where there is nothing to show; a value alone
/// becomes a dot.
fn line(chart: &mut Chart, series: &Series, class: &str, percent: usize) {
    let mut path = String::new();
    let mut drawing = false;
    for (index, slice) in series.slices.iter().enumerate() {
        let Some(nanos) = slice.percentile(percent) else {
            drawing = false;
            continue;
        };
        let (from, to) = bounds(series, index);
        let (x, y) = (chart.x((from + to) / 2.0), chart.y(nanos as f64));
        // A point of no length is drawn as a dot, thanks to round ends.
        let _ = if drawing { write!(path, "L{x:.1} {y:.1}") } else { write!(path, "M{x:.1} {y:.1}h0") };
        drawing = true;
    }
    if !path.is_empty() {
        chart.push(&format!("<path class=\"line {class}\" d=\"{path}\"/>"));
    }
}

fn bounds(series: &Series, index: usize) -> (f64, f64) {
    let width = series.width as f64;
    (index as f64 * width, (index + 1) as f64 * width)
}
