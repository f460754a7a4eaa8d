//! What is done above a checkpoint.
//!
//! A checkpoint is below all that is not done, and much above it may be: one slow
//! consumer holds it back. What is done there is written beside it, so that the next
//! leader does not deliver it again. It is no more than that: whoever does not know it,
//! or not all of it, delivers more than needed and loses nothing.
//!
//! Written as pairs, `skipped+done`, separated by spaces: after a checkpoint at 9,
//! `2+3 1+1` is 12, 13, 14 and 16.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Places that are remembered; about a megabyte.
const REMEMBERED_MAX: usize = 65_536;

/// Pairs that are written; some ten thousand bytes.
const WRITTEN_MAX: usize = 4_096;

/// Places of the source that are done.
#[derive(Clone, Debug, Default)]
pub(super) struct Done(BTreeSet<u64>);

impl Done {
    /// One more is done.
    pub(super) fn insert(&mut self, at: u64) {
        if self.0.len() < REMEMBERED_MAX {
            self.0.insert(at);
        }
    }

    /// Whether it is.
    pub(super) fn contains(&self, at: u64) -> bool {
        self.0.contains(&at)
    }

    /// What is at this place or below needs no remembering.
    pub(super) fn forget(&mut self, upto: u64) {
        self.0 = self.0.split_off(&upto.saturating_add(1));
    }

    /// What is done above a checkpoint, as it is written.
    pub(super) fn written(&self, checkpoint: u64) -> String {
        let mut text = String::new();
        let mut places = self.0.range(checkpoint.saturating_add(1)..).copied().peekable();
        let mut last = checkpoint;
        for _ in 0..WRITTEN_MAX {
            let Some(first) = places.next() else { break };
            let mut end = first;
            while let Some(next) = places.next_if_eq(&(end + 1)) {
                end = next;
            }
            let space = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{space}{}+{}", first - last - 1, end - first + 1);
            last = end;
        }
        text
    }

    /// What was written beside a checkpoint; as much of it as makes sense.
    pub(super) fn read(checkpoint: u64, text: &str) -> Done {
        let mut done = Done::default();
        let mut last = checkpoint;
        for pair in text.split_whitespace() {
            let numbers =
                pair.split_once('+').and_then(|(skipped, run)| Some((skipped.parse().ok()?, run.parse().ok()?)));
            let Some((skipped, run)) = numbers.filter(|(_, run)| *run <= REMEMBERED_MAX as u64) else { break };
            let first = last.checked_add(skipped).and_then(|before: u64| before.checked_add(1));
            let Some((first, end)) = first.and_then(|first| Some((first, first.checked_add(run)?))) else { break };
            (first..end).for_each(|at| done.insert(at));
            last = end.saturating_sub(1);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(places: &[u64]) -> Done {
        Done(places.iter().copied().collect())
    }

    #[test]
    fn what_is_written_is_read_back() {
        for places in [&[][..], &[12, 13, 14, 16], &[10], &[9, 10, 11], &[u64::MAX - 1]] {
            let written = done(places).written(9);
            assert_eq!(Done::read(9, &written).0, done(places).0.split_off(&10), "{written:?}");
        }
        assert_eq!(done(&[12, 13, 14, 16]).written(9), "2+3 1+1");
    }

    #[test]
    fn nonsense_is_read_as_far_as_it_makes_sense() {
        let read = |text: &str| Done::read(9, text).0.into_iter().collect::<Vec<_>>();
        assert_eq!(read("0+2 nonsense 0+2"), [10, 11]);
        assert_eq!(read("0+1 0+18446744073709551615 0+1"), [10]);
        assert_eq!(read("18446744073709551615+1"), Vec::<u64>::new());
        assert_eq!(read("-1+1"), Vec::<u64>::new());
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered_and_written() {
        let mut many = Done::default();
        (0..200_000).for_each(|at| many.insert(at * 2));
        assert_eq!(many.0.len(), REMEMBERED_MAX);
        assert_eq!(many.written(1).split(' ').count(), WRITTEN_MAX);
        assert!(many.written(1).len() < 32_768);
        many.forget(100);
        assert!(!many.contains(100) && many.contains(102));
    }
}
