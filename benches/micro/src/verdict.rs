//! What a count says beside its baseline.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// By how many percent of its baseline a count may differ before it is told.
/// Counts repeat to within a fraction of that, see README.md; the rest is room
/// for small changes that are worth it.
pub(crate) const TOLERANCE_PERCENT: u64 = 5;

/// A benchmark, before and now.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) before: Option<u64>,
    pub(crate) now: Option<u64>,
    pub(crate) verdict: Verdict,
}

/// What is to be thought of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Within the tolerance.
    Same,
    /// Fewer instructions.
    Better,
    /// More.
    Worse,
    /// It was not run.
    Missing,
    /// It has no baseline.
    New,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Same => "same",
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Missing => "missing",
            Verdict::New => "new",
        })
    }
}

impl Row {
    fn new(name: &str, before: Option<u64>, now: Option<u64>) -> Self {
        let verdict = match (before, now) {
            (Some(before), Some(now)) => {
                let room = before * TOLERANCE_PERCENT / 100;
                if now > before + room {
                    Verdict::Worse
                } else if now + room < before {
                    Verdict::Better
                } else {
                    Verdict::Same
                }
            }
            (Some(_), None) => Verdict::Missing,
            (None, _) => Verdict::New,
        };
        Row { name: name.to_owned(), before, now, verdict }
    }

    /// By which share of the baseline it changed, where there are both.
    #[allow(clippy::cast_precision_loss, reason = "a share of numbers far below 2^53")]
    pub(crate) fn change(&self) -> Option<f64> {
        Some(self.now? as f64 / self.before? as f64 - 1.0)
    }
}

/// Each benchmark of either side.
pub(crate) fn compare(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<Row> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    names.into_iter().map(|name| Row::new(name, before.get(name).copied(), now.get(name).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tolerance_is_on_both_sides() {
        for (now, verdict) in [(94, Verdict::Better), (95, Verdict::Same), (105, Verdict::Same), (106, Verdict::Worse)]
        {
            assert_eq!(Row::new("a", Some(100), Some(now)).verdict, verdict, "{now}");
        }
    }

    #[test]
    fn what_is_on_one_side_only_is_told() {
        let side = |name: &str| BTreeMap::from([(name.to_owned(), 1)]);
        let verdicts: Vec<_> = compare(&side("a"), &side("b")).iter().map(|row| row.verdict).collect();
        assert_eq!(verdicts, [Verdict::Missing, Verdict::New]);
    }
}
