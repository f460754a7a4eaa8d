//! P12: did the faults happen, was there load while they did, and did the
//! cluster come back in time?
//!
//! A run in which a wanted class of faults did not happen, or in which hardly
//! anything was acknowledged meanwhile, has shown nothing about it: its verdict
//! is *unknown*, not valid. A cluster that comes back too late after its leader
//! was killed *violates* P12.

use std::collections::BTreeMap;

use crate::history::{Fault, Installed, Nanos, Outcome};
use crate::index::Index;
use crate::settings::Settings;
use crate::verdict::{ClassCoverage, Findings, Property, Seconds, Unavailability};

/// A fault that is shorter happened in an instant.
const INSTANT: Nanos = 1_000_000_000;

pub(crate) fn judge(index: &Index<'_>, settings: &Settings, findings: &mut Findings) {
    let mut acks: Vec<(Nanos, Nanos)> = Vec::with_capacity(index.appends.len());
    for append in &index.appends {
        if let (Outcome::Acked { .. }, Some(complete)) = (&append.outcome, append.complete) {
            acks.push((append.invoke, complete));
        }
    }
    judge_classes(index, settings, &acks, findings);
    judge_unavailability(index, settings, &mut acks, findings);
}

fn judge_classes(index: &Index<'_>, settings: &Settings, acks: &[(Nanos, Nanos)], findings: &mut Findings) {
    let mut classes: BTreeMap<String, (ClassCoverage, Windows)> = BTreeMap::new();
    for fault in &index.faults {
        let (covered, windows) = classes.entry(fault.class.clone()).or_default();
        match fault.installed {
            Installed::Installed => {
                covered.installed += 1;
                let is_instant = fault.end.saturating_sub(fault.start) < INSTANT;
                let grace = if is_instant { settings.instant_grace } else { 0 };
                windows.0.push((fault.start, fault.end.saturating_add(grace)));
            }
            Installed::Skipped => covered.skipped += 1,
            Installed::Indeterminate => covered.indeterminate += 1,
        }
    }
    findings.counts.faults = classes.values().map(|(covered, _)| covered.installed).sum();
    let mut completed: Vec<Nanos> = acks.iter().map(|(_, complete)| *complete).collect();
    completed.sort_unstable();
    for (class, (mut covered, windows)) in classes {
        covered.acked = windows.count(&completed);
        findings.coverage.classes.insert(class, covered);
    }
    for class in &settings.required {
        findings.checked(Property::P12, 1);
        let covered = findings.coverage.classes.get(class).cloned().unwrap_or_default();
        let (acked, minimum) = (if class == "F0" { completed.len() as u64 } else { covered.acked }, settings.minimum);
        if class != "F0" && covered.installed == 0 {
            let ClassCoverage { skipped, indeterminate, .. } = covered;
            findings.unknown(format!(
                "not covered: no fault of class {class} happened ({skipped} skipped, {indeterminate} indeterminate)"
            ));
        } else if acked < minimum {
            findings.unknown(format!(
                "not covered: only {acked} appends were acknowledged during faults of class {class}, fewer than {minimum}"
            ));
        }
    }
}

/// When faults were in force.
#[derive(Default)]
struct Windows(Vec<(Nanos, Nanos)>);

impl Windows {
    /// How many of these times lie in any of the windows.
    fn count(mut self, times: &[Nanos]) -> u64 {
        self.0.sort_unstable();
        let mut count = 0;
        let mut counted_to = 0;
        for (start, end) in self.0 {
            let from = times.partition_point(|time| *time < start).max(counted_to);
            let to = times.partition_point(|time| *time <= end).max(from);
            count += to - from;
            counted_to = to;
        }
        count as u64
    }
}

fn is_leader_kill(fault: &Fault) -> bool {
    fault.installed == Installed::Installed && fault.name.starts_with("kill-leader")
}

fn judge_unavailability(index: &Index<'_>, settings: &Settings, acks: &mut [(Nanos, Nanos)], findings: &mut Findings) {
    acks.sort_unstable();
    // For each ack by invocation, the first completion among it and the later.
    let mut first_completion = vec![Nanos::MAX; acks.len()];
    let mut first = Nanos::MAX;
    for (at, (_, complete)) in acks.iter().enumerate().rev() {
        first = first.min(*complete);
        first_completion[at] = first;
    }
    let mut waits = Vec::new();
    for fault in index.faults.iter().filter(|fault| is_leader_kill(fault)) {
        let next = acks.partition_point(|(invoke, _)| *invoke < fault.start);
        match first_completion.get(next) {
            Some(complete) => waits.push(complete - fault.start),
            None => findings.unknown(format!(
                "nothing was acknowledged after the leader was killed at {}, so that nobody knows how long it took",
                Seconds(fault.start)
            )),
        }
    }
    waits.sort_unstable();
    let Some(max) = waits.last().copied() else { return };
    let quantile = |percent: usize| waits[(waits.len() * percent).div_ceil(100).max(1) - 1];
    let (p50, p99) = (quantile(50), quantile(99));
    findings.coverage.unavailability = Unavailability { kills: waits.len() as u64, p50, p99, max, each: waits.clone() };
    findings.checked(Property::P12, waits.len() as u64);
    if let Some(bar) = settings.unavailability_p99_max.filter(|bar| p99 > *bar) {
        findings.violation(Property::P12, None, || {
            format!(
                "after {} kills of the leader 99 of 100 times an append was acknowledged within {}, not within {}",
                waits.len(),
                Seconds(p99),
                Seconds(bar)
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Windows;

    #[test]
    fn what_lies_in_two_windows_counts_once() {
        assert_eq!(Windows(vec![(5, 20), (0, 10)]).count(&[1, 7, 12, 21]), 3);
        assert_eq!(Windows(vec![(0, 10), (2, 3), (11, 11)]).count(&[1, 3, 3, 10, 11]), 5);
        assert_eq!(Windows::default().count(&[1]), 0);
    }
}
