//! Compares counted instructions with the baseline.
//!
//! `benches/micro/run` hands over what the benchmarks printed. A count that is
//! [`verdict::TOLERANCE_PERCENT`] above its baseline is a failure; so is a
//! benchmark that is missing on either side, and a baseline that was made with
//! other tools, because a check that quietly compares nothing cannot fail.
#![forbid(unsafe_code)]

mod baseline;
mod counts;
mod verdict;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};

use crate::baseline::Baseline;
use crate::verdict::{Row, Verdict};

/// Compares what the benchmarks print, read from the standard input, with the baseline.
#[derive(Parser)]
struct Arguments {
    /// The baseline's file.
    #[arg(long)]
    baseline: PathBuf,
    /// Makes what was counted the baseline.
    #[arg(long)]
    update: bool,
    /// A tool that the counts depend on, and its version.
    #[arg(long, value_name = "TOOL=VERSION", value_parser = tool)]
    built_with: Vec<(String, String)>,
}

fn tool(text: &str) -> Result<(String, String), String> {
    let (tool, version) = text.split_once('=').ok_or("it has no =")?;
    Ok((tool.to_owned(), version.to_owned()))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut printed = String::new();
    std::io::stdin().read_to_string(&mut printed).context("read what the benchmarks printed")?;
    let now = Baseline {
        built_with: BTreeMap::from_iter(arguments.built_with),
        instructions: counts::parse(&printed).context("understand what the benchmarks printed")?,
    };
    let path = &arguments.baseline;
    if arguments.update {
        now.save(path).with_context(|| format!("write {}", path.display()))?;
        println!("{} benchmarks are the baseline now", now.instructions.len());
        return Ok(ExitCode::SUCCESS);
    }
    let baseline = Baseline::load(path).with_context(|| format!("read {}", path.display()))?;
    let rows = verdict::compare(&baseline.instructions, &now.instructions);
    println!("{}", table(&rows));
    let failures = failures(&baseline, &now, &rows);
    for failure in &failures {
        eprintln!("{failure}");
    }
    if rows.iter().any(|row| row.verdict == Verdict::Better) {
        println!("better than the baseline: make it the new one, or the gain can be lost unnoticed");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn failures(baseline: &Baseline, now: &Baseline, rows: &[Row]) -> Vec<String> {
    let mut failures = baseline.other_tools(now);
    if !failures.is_empty() {
        failures.push("counts made with other tools cannot be compared: see README.md beside the baseline".to_owned());
        return failures;
    }
    failures.extend(rows.iter().filter_map(|row| match row.verdict {
        Verdict::Same | Verdict::Better => None,
        Verdict::Worse => Some(format!("{} takes more instructions than it may", row.name)),
        Verdict::Missing => Some(format!("{} is in the baseline and was not run", row.name)),
        Verdict::New => Some(format!("{} has no baseline", row.name)),
    }));
    failures
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(["benchmark", "baseline", "now", "change"]);
    for row in rows {
        let count = |count: Option<u64>| count.map_or_else(String::new, grouped);
        let change = row.change().map_or_else(|| row.verdict.to_string(), |change| format!("{:+.2} %", change * 100.0));
        table.add_row([row.name.clone(), count(row.before), count(row.now), change]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(rustc: &str, counts: &[(&str, u64)]) -> Baseline {
        Baseline {
            built_with: BTreeMap::from([("rustc".to_owned(), rustc.to_owned())]),
            instructions: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        }
    }

    fn failures_of(before: &Baseline, now: &Baseline) -> Vec<String> {
        failures(before, now, &verdict::compare(&before.instructions, &now.instructions))
    }

    #[test]
    fn counts_within_the_tolerance_pass() {
        let before = baseline("1.95", &[("a", 100), ("b", 200)]);
        assert!(failures_of(&before, &baseline("1.95", &[("a", 105), ("b", 20)])).is_empty());
    }

    #[test]
    fn a_worse_a_missing_and_a_new_benchmark_each_fail() {
        let before = baseline("1.95", &[("a", 100), ("b", 200)]);
        let failures = failures_of(&before, &baseline("1.95", &[("a", 106), ("c", 1)]));
        assert_eq!(failures.len(), 3, "{failures:?}");
    }

    #[test]
    fn other_tools_fail_whatever_was_counted() {
        let before = baseline("1.95", &[("a", 100)]);
        assert!(!failures_of(&before, &baseline("1.96", &[("a", 100)])).is_empty());
    }

    #[test]
    fn thousands_are_told_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
