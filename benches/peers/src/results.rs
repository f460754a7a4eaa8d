//! What was measured, and what it says about the bars.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::contestant::Contestant;
use crate::disk::Disk;
use crate::measure::Figures;
use crate::rows::{Claim, Figure, Row};

/// Everything of one run, as it goes into `results.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: String,
    pub(crate) versions: BTreeMap<Contestant, String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) warm_up_seconds: u64,
    pub(crate) disk_before: Disk,
    pub(crate) disk_after: Option<Disk>,
    /// By the row's name.
    pub(crate) rows: BTreeMap<&'static str, RowResults>,
}

/// The figures of each round, in order.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RowResults(pub(crate) BTreeMap<Contestant, Vec<Figures>>);

/// One figure over all rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Whether the claims of a bar hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// No claims, or who they speak of did not take part.
    Open,
}

impl RowResults {
    pub(crate) fn add(&mut self, contestant: Contestant, figures: Figures) {
        self.0.entry(contestant).or_default().push(figures);
    }

    /// None if it was not measured.
    pub(crate) fn spread(&self, contestant: Contestant, figure: Figure) -> Option<Spread> {
        let rounds = self.0.get(&contestant)?;
        let mut values: Vec<f64> = rounds.iter().filter_map(|figures| figures.get(&figure).copied()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max })
    }

    /// Annals' median divided by this contestant's.
    pub(crate) fn ratio(&self, contestant: Contestant, figure: Figure) -> Option<f64> {
        let own = self.spread(Contestant::Annals, figure)?.median;
        Some(own / self.spread(contestant, figure)?.median)
    }

    /// Whether all these claims hold for Annals, by the medians.
    pub(crate) fn verdict(&self, figure: Figure, claims: &[Claim]) -> Verdict {
        let answers: Option<Vec<bool>> = claims.iter().map(|claim| self.holds(figure, *claim)).collect();
        match answers {
            Some(answers) if answers.is_empty() => Verdict::Open,
            Some(answers) if answers.iter().all(|holds| *holds) => Verdict::Met,
            Some(_) => Verdict::Missed,
            None => Verdict::Open,
        }
    }

    fn holds(&self, figure: Figure, claim: Claim) -> Option<bool> {
        let median = |contestant| self.spread(contestant, figure).map(|spread| spread.median);
        let own = median(Contestant::Annals)?;
        Some(match claim {
            Claim::AtLeast(bound) => own >= bound,
            Claim::AtMost(bound) => own <= bound,
            Claim::TimesAtLeast(times, others) => {
                let others: Option<Vec<f64>> = others.iter().map(|other| median(*other)).collect();
                own >= times * others?.into_iter().fold(0.0, f64::max)
            }
            Claim::TimesAtMost(times, other) => own <= times * median(other)?,
        })
    }
}

impl Results {
    pub(crate) fn row(&self, row: &Row) -> Option<&RowResults> {
        self.rows.get(row.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> RowResults {
        let mut results = RowResults::default();
        for (contestant, rates) in [(Contestant::Annals, [30.0, 10.0, 20.0]), (Contestant::Etcd, [5.0, 6.0, 4.0])] {
            for rate in rates {
                results.add(contestant, Figures::from([(Figure::Rate, rate)]));
            }
        }
        results
    }

    #[test]
    fn the_median_and_the_ratio_do_not_depend_on_the_order_of_rounds() {
        let spread = results().spread(Contestant::Annals, Figure::Rate).expect("measured");
        assert_eq!((spread.median, spread.min, spread.max), (20.0, 10.0, 30.0));
        assert_eq!(results().ratio(Contestant::Etcd, Figure::Rate), Some(4.0));
    }

    #[test]
    fn a_bar_is_met_missed_or_open() {
        let verdict = |claims: &[Claim]| results().verdict(Figure::Rate, claims);
        assert_eq!(verdict(&[Claim::TimesAtLeast(4.0, &[Contestant::Etcd]), Claim::AtLeast(20.0)]), Verdict::Met);
        assert_eq!(verdict(&[Claim::TimesAtLeast(4.0, &[Contestant::Etcd]), Claim::AtLeast(21.0)]), Verdict::Missed);
        assert_eq!(verdict(&[Claim::TimesAtMost(4.0, Contestant::Nats)]), Verdict::Open, "NATS was not there");
        assert_eq!(verdict(&[]), Verdict::Open);
    }
}
