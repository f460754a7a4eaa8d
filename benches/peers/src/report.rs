//! The results as Markdown.

use std::fmt::Write as _;

use crate::contestant::Contestant;
use crate::disk::Disk;
use crate::results::{Results, RowResults, Spread, Verdict};
use crate::rows::{Bar, Claim, Figure, ROWS, Row};

/// All figures that a row can have, in the order of the columns.
const FIGURES: [Figure; 6] =
    [Figure::Rate, Figure::P50Ms, Figure::P99Ms, Figure::CpuPerMillion, Figure::WrittenPerByte, Figure::MemoryMb];

/// The whole report.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = preamble(results);
    text.push_str(&bars(results));
    for row in ROWS {
        if let Some(measured) = results.row(row) {
            text.push_str(&details(row, measured));
        }
    }
    text
}

fn preamble(results: &Results) -> String {
    let mut text = format!(
        "{}. {} rounds of {} s after {} s of warm-up; median (lowest–highest).\n\n",
        results.machine, results.rounds, results.seconds, results.warm_up_seconds
    );
    for (contestant, version) in &results.versions {
        let _ = writeln!(text, "- {}: {version}", contestant.title());
    }
    text.push_str("\n| fdatasync of 4 KiB | growing file p50 / p99 | written before p50 / p99 |\n|---|---:|---:|\n");
    let disks = [("before the run", Some(results.disk_before)), ("after it", results.disk_after)];
    for (when, disk) in disks {
        let Some(Disk { growing, written_before }) = disk else { continue };
        let _ = writeln!(
            text,
            "| {when} | {:.2} / {:.2} ms | {:.2} / {:.2} ms |",
            growing.p50_ms, growing.p99_ms, written_before.p50_ms, written_before.p99_ms
        );
    }
    text
}

/// One line for each bar.
fn bars(results: &Results) -> String {
    let mut text =
        "\n## Bars\n\n| row | figure | Annals | Annals ÷ peer | must | goal |\n|---|---|---:|---|---|---|\n".to_owned();
    for row in ROWS {
        let Some(measured) = results.row(row) else { continue };
        for bar in row.bars {
            let own = measured.spread(Contestant::Annals, bar.figure);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.name,
                figure_title(bar.figure, row.unit),
                own.map_or_else(|| "–".to_owned(), |own| number(own.median)),
                ratios(measured, row, bar),
                judged(measured, bar.figure, bar.must),
                judged(measured, bar.figure, bar.goal),
            );
        }
    }
    text
}

fn ratios(measured: &RowResults, row: &Row, bar: &Bar) -> String {
    let others = row.contestants.iter().filter(|contestant| **contestant != Contestant::Annals);
    let ratio =
        |other: &Contestant| measured.ratio(*other, bar.figure).map(|ratio| format!("{} {ratio:.2}", other.title()));
    others.filter_map(ratio).collect::<Vec<_>>().join(", ")
}

fn judged(measured: &RowResults, figure: Figure, claims: &[Claim]) -> String {
    if claims.is_empty() {
        return "–".to_owned();
    }
    let wanted = claims.iter().map(|claim| claim_text(*claim)).collect::<Vec<_>>().join(" and ");
    match measured.verdict(figure, claims) {
        Verdict::Met => format!("{wanted}: **met**"),
        Verdict::Missed => format!("{wanted}: **missed**"),
        Verdict::Open => format!("{wanted}: not measured"),
    }
}

fn claim_text(claim: Claim) -> String {
    match claim {
        Claim::AtLeast(bound) => format!("≥ {}", number(bound)),
        Claim::AtMost(bound) => format!("≤ {}", number(bound)),
        Claim::TimesAtLeast(times, others) => {
            let others = others.iter().map(|other| other.title()).collect::<Vec<_>>().join(" and ");
            format!("≥ {times} × {others}")
        }
        Claim::TimesAtMost(times, other) => format!("≤ {times} × {}", other.title()),
    }
}

/// All figures of all contestants of one row.
fn details(row: &Row, measured: &RowResults) -> String {
    let has = |figure: &Figure| row.contestants.iter().any(|one| measured.spread(*one, *figure).is_some());
    let figures: Vec<Figure> = FIGURES.into_iter().filter(has).collect();
    let mut text = format!("\n## {}\n\n{}.\n\n| system |", row.name, row.title);
    for figure in &figures {
        let _ = write!(text, " {} |", figure_title(*figure, row.unit));
    }
    let _ = write!(text, "\n|---|{}\n", "---:|".repeat(figures.len()));
    for contestant in row.contestants.iter().filter(|one| measured.0.contains_key(one)) {
        let _ = write!(text, "| {} |", contestant.title());
        for figure in &figures {
            let cell = measured.spread(*contestant, *figure).map_or_else(|| "–".to_owned(), spread);
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}

/// What a figure is called, with its unit.
pub(crate) fn figure_title(figure: Figure, unit: &str) -> String {
    match figure {
        Figure::Rate => format!("{unit}/s"),
        Figure::P50Ms => "p50 ms".to_owned(),
        Figure::P99Ms => "p99 ms".to_owned(),
        Figure::CpuPerMillion => format!("server CPU s per million {unit}"),
        Figure::WrittenPerByte => "bytes written per event byte".to_owned(),
        Figure::MemoryMb => "peak MB of a node".to_owned(),
    }
}

fn spread(spread: Spread) -> String {
    if spread.min == spread.max {
        return number(spread.median);
    }
    format!("{} ({}–{})", number(spread.median), number(spread.min), number(spread.max))
}

/// Three digits that count, and thousands told apart.
pub(crate) fn number(value: f64) -> String {
    if value < 100.0 {
        let decimals = if value < 1.0 { 2 } else { usize::from(value < 20.0) };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
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
    fn numbers_read_easily() {
        let written = [0.254, 1.26, 42.4, 812.6, 1_234_567.0].map(number);
        assert_eq!(written, ["0.25", "1.3", "42", "813", "1,234,567"]);
    }
}
