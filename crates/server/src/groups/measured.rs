//! How fast messages go, and how long consumers take for them.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Times above this count as it: an hour.
const LONGEST_MS: u64 = 3_600_000;

/// A count that is looked at about every second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    since: Instant,
    counted: u64,
    per_second: u64,
    in_last: u64,
}

impl Rate {
    /// Nothing was counted before.
    pub(super) fn new(now: Instant) -> Rate {
        Rate { since: now, counted: 0, per_second: 0, in_last: 0 }
    }

    /// The count is this now.
    pub(super) fn measure(&mut self, count: u64, now: Instant) {
        let in_last = count.saturating_sub(self.counted);
        let seconds = now.saturating_duration_since(self.since).as_secs_f64().max(0.001);
        *self = Rate { since: now, counted: count, per_second: (in_last as f64 / seconds) as u64, in_last };
    }

    /// When it was last looked at.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// How much came in a second, as of the last look.
    pub(super) fn per_second(&self) -> u64 {
        self.per_second
    }

    /// How much came between the last two looks.
    pub(super) fn in_last(&self) -> u64 {
        self.in_last
    }
}

/// From the delivery of a message to its answer, in milliseconds, to 1 % or better.
#[derive(Debug)]
pub(super) struct Times(Histogram<u32>);

impl Default for Times {
    fn default() -> Self {
        Times(Histogram::new_with_max(LONGEST_MS, 2).expect("an hour to two digits is a histogram"))
    }
}

impl Times {
    /// One more.
    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_millis()).unwrap_or(LONGEST_MS));
    }

    /// What is told of them, under the names that clients know.
    pub(super) fn told(&self) -> Vec<(&'static str, u64)> {
        let at = |quantile: f64| self.0.value_at_quantile(quantile);
        vec![
            ("Mean", self.0.mean().round() as u64),
            ("Median", at(0.5)),
            ("Fastest", self.0.min()),
            ("Quintile 1", at(0.2)),
            ("Quintile 2", at(0.4)),
            ("Quintile 3", at(0.6)),
            ("Quintile 4", at(0.8)),
            ("Quintile 5", at(1.0)),
            ("90%", at(0.9)),
            ("95%", at(0.95)),
            ("99%", at(0.99)),
            ("99.5%", at(0.995)),
            ("99.9%", at(0.999)),
            ("Highest", self.0.max()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_since_the_last_look() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        rate.measure(300, start + Duration::from_secs(2));
        assert_eq!((rate.per_second(), rate.in_last()), (150, 300));
        rate.measure(300, start + Duration::from_secs(3));
        assert_eq!((rate.per_second(), rate.in_last()), (0, 0));
    }

    #[test]
    fn times_are_told_by_the_names_that_clients_know() {
        let mut times = Times::default();
        (1..=100).for_each(|ms| times.record(Duration::from_millis(ms)));
        times.record(Duration::from_secs(86_400 * 365));
        let told: std::collections::HashMap<&str, u64> = times.told().into_iter().collect();
        assert_eq!((told["Fastest"], told["Median"], told["Quintile 1"]), (1, 51, 21));
        assert!(told["90%"] >= 90 && told["90%"] <= 92, "{told:?}");
        assert!(told["Highest"] >= LONGEST_MS, "what is longer counts as the longest: {told:?}");
        assert_eq!(told.len(), 14);
    }
}
