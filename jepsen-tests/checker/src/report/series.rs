//! What happened in each slice of time.

use crate::history::{Nanos, Outcome, ReadOutcome, Record};

/// A slice of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Slice {
    /// Calls that were done.
    pub(super) done: u64,
    /// Calls that were refused.
    pub(super) refused: u64,
    /// Calls whose fate is unknown, or that failed.
    pub(super) unknown: u64,
    /// How long those took that were done; sorted.
    latencies: Vec<Nanos>,
}

impl Slice {
    /// So many percent were faster; none where nothing was done.
    pub(super) fn percentile(&self, percent: usize) -> Option<Nanos> {
        let last = self.latencies.len().checked_sub(1)?;
        Some(self.latencies[(self.latencies.len() * percent).div_ceil(100).saturating_sub(1).min(last)])
    }
}

/// Slices of the same width from time 0 on.
pub(super) struct Series {
    /// The width of a slice.
    pub(super) width: Nanos,
    /// The slices.
    pub(super) slices: Vec<Slice>,
}

const SECOND: Nanos = 1_000_000_000;
/// More slices than this cannot be told apart in a picture.
const SLICES_MAX: u64 = 240;

impl Series {
    fn new(length: Nanos) -> Self {
        let wanted = length / SLICES_MAX + 1;
        // 1, 2 or 5 times a power of ten; a second where that is fine enough.
        let mut width = 1;
        while width < wanted {
            width = match width.to_string().as_bytes()[0] {
                b'2' => width / 2 * 5,
                _ => width * 2,
            };
        }
        if length >= 15 * SECOND {
            width = width.max(SECOND);
        }
        Series { width, slices: vec![Slice::default(); (length / width + 1) as usize] }
    }

    /// The slice of a time; times after the end count as the end.
    fn slice(&mut self, time: Nanos) -> &mut Slice {
        let last = self.slices.len() - 1;
        &mut self.slices[((time / self.width) as usize).min(last)]
    }

    /// All writes of a run of this length.
    pub(super) fn of_writes(records: &[Record], length: Nanos) -> Self {
        let mut series = Series::new(length);
        for record in records {
            let (invoke, complete, outcome) = match record {
                Record::Append(call) => (call.invoke, call.complete, &call.outcome),
                Record::Delete(call) => (call.invoke, call.complete, &call.outcome),
                _ => continue,
            };
            let slice = series.slice(complete.unwrap_or(invoke));
            match outcome {
                Outcome::Acked { .. } => {
                    slice.done += 1;
                    slice.latencies.extend(complete.map(|complete| complete.saturating_sub(invoke)));
                }
                Outcome::Refused { .. } => slice.refused += 1,
                Outcome::Unknown { .. } => slice.unknown += 1,
            }
        }
        series.sorted()
    }

    /// All reads of a run of this length.
    pub(super) fn of_reads(records: &[Record], length: Nanos) -> Self {
        let mut series = Series::new(length);
        for record in records {
            let Record::Read(read) = record else { continue };
            let slice = series.slice(read.complete.unwrap_or(read.invoke));
            match &read.outcome {
                ReadOutcome::Ok { .. } | ReadOutcome::NoStream { .. } | ReadOutcome::Tombstoned { .. } => {
                    slice.done += 1;
                    slice.latencies.extend(read.complete.map(|complete| complete.saturating_sub(read.invoke)));
                }
                ReadOutcome::Failed { .. } => slice.unknown += 1,
            }
        }
        series.sorted()
    }

    fn sorted(mut self) -> Self {
        self.slices.iter_mut().for_each(|slice| slice.latencies.sort_unstable());
        self
    }

    /// So many a second.
    pub(super) fn rate(&self, count: u64) -> f64 {
        count as f64 * SECOND as f64 / self.width as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_seconds_unless_a_run_is_short_or_long() {
        for (length, width) in
            [(60 * SECOND, SECOND), (200 * SECOND, SECOND), (1_800 * SECOND, 10 * SECOND), (48_000_000, 500_000)]
        {
            assert_eq!(Series::new(length).width, width, "{length}");
        }
    }

    #[test]
    fn percentiles_are_of_what_there_is() {
        let slice = Slice { latencies: (1..=200).collect(), ..Slice::default() };
        assert_eq!(slice.percentile(50), Some(100));
        assert_eq!(slice.percentile(99), Some(198));
        assert_eq!(slice.percentile(100), Some(200));
        assert_eq!(Slice::default().percentile(50), None);
    }
}
