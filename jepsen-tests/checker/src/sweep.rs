//! Can all this have happened in an order that real time allows?
//!
//! Every operation gets a *key*: its place along the log. Appends have theirs
//! from the witness; a read or a refusal may sit in any of a set of gaps. What
//! completed before another was invoked must have no greater key.
//!
//! Operations are taken in the order of their invocation. The *floor* is the
//! greatest key among those that completed before. An append must lie above
//! it. A read takes the least gap that is allowed and not below it; where there
//! is none, no order exists: the least keys are the least solution of "not
//! below any predecessor in real time", so that taking them never spoils what
//! comes later. The greedy is therefore complete, not a heuristic.
//!
//! Keys: the gap after position g has 2g. A batch that ends at position p has
//! 2p - 1, between the gap before it and the gap after it; gaps inside a batch
//! are not taken by anyone.

use crate::gaps;
use crate::history::Nanos;

/// An operation to be placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation<R> {
    /// When it was invoked.
    pub(crate) invoke: Nanos,
    /// When it completed; the end of time if nobody knows.
    pub(crate) complete: Nanos,
    /// Where it may be.
    pub(crate) place: Place,
    /// What it is.
    pub(crate) what: R,
}

/// Where an operation may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// A batch that ends at this position.
    Batch(u64),
    /// A gap among the sweep's gaps from one index to another.
    Gaps(usize, usize),
}

/// An operation that cannot be placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Misplaced<R> {
    /// Which one.
    pub(crate) what: R,
    /// What lies too high and completed before.
    pub(crate) after: R,
    /// The gap that the operation must not be below.
    pub(crate) floor: u64,
}

/// All operations of one sweep.
pub(crate) struct Sweep<R> {
    operations: Vec<Operation<R>>,
    gaps: Vec<(u64, u64)>,
}

impl<R: Copy> Sweep<R> {
    pub(crate) fn new() -> Self {
        Sweep { operations: Vec::new(), gaps: Vec::new() }
    }

    /// Adds a batch that ends at this position.
    pub(crate) fn batch(&mut self, invoke: Nanos, complete: Nanos, last: u64, what: R) {
        self.operations.push(Operation { invoke, complete, place: Place::Batch(last), what });
    }

    /// Adds a read or a refusal that may sit in these gaps.
    pub(crate) fn gap(&mut self, invoke: Nanos, complete: Nanos, gaps: &[(u64, u64)], what: R) {
        let from = self.gaps.len();
        self.gaps.extend_from_slice(gaps);
        let place = Place::Gaps(from, self.gaps.len());
        self.operations.push(Operation { invoke, complete, place, what });
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.operations.len()
    }

    /// The operations that cannot be placed. `boundary` is the least gap at or
    /// after one that is not inside a batch.
    pub(crate) fn run(&self, boundary: impl Fn(u64) -> u64) -> Vec<Misplaced<R>> {
        let operations = &self.operations;
        let mut by_invoke: Vec<usize> = (0..operations.len()).collect();
        by_invoke.sort_unstable_by_key(|at| operations[*at].invoke);
        let mut by_complete: Vec<usize> = (0..operations.len()).collect();
        by_complete.sort_unstable_by_key(|at| operations[*at].complete);
        let mut completed = by_complete.into_iter().peekable();
        let mut keys: Vec<Option<u64>> = vec![None; operations.len()];
        let mut floor: (u64, Option<usize>) = (0, None);
        let mut misplaced = Vec::new();
        for at in by_invoke {
            let operation = &operations[at];
            // Who completed earlier was invoked earlier, and has its key.
            while let Some(before) = completed.next_if(|before| operations[*before].complete < operation.invoke) {
                if let Some(key) = keys[before].filter(|key| *key > floor.0) {
                    floor = (key, Some(before));
                }
            }
            let key = match operation.place {
                Place::Batch(last) => Some(2 * last - 1).filter(|key| *key > floor.0),
                Place::Gaps(from, to) => {
                    gaps::least(&self.gaps[from..to], floor.0.div_ceil(2), &boundary).map(|gap| 2 * gap)
                }
            };
            keys[at] = key;
            if let (None, (key, Some(after))) = (key, floor) {
                let floor = key.div_ceil(2);
                misplaced.push(Misplaced { what: operation.what, after: operations[after].what, floor });
            }
        }
        misplaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sweep: &Sweep<&'static str>) -> Vec<(&'static str, &'static str)> {
        sweep.run(|gap| gap).iter().map(|misplaced| (misplaced.what, misplaced.after)).collect()
    }

    #[test]
    fn a_read_may_sit_on_either_side_of_what_overlaps_it() {
        for gap in [0, 1] {
            let mut sweep = Sweep::new();
            sweep.batch(0, 10, 1, "append");
            sweep.gap(5, 20, &[(gap, gap)], "read");
            assert_eq!(run(&sweep), []);
        }
    }

    #[test]
    fn a_read_after_an_append_must_show_it() {
        let mut sweep = Sweep::new();
        sweep.batch(0, 10, 1, "append");
        sweep.gap(11, 20, &[(0, 0)], "read");
        assert_eq!(run(&sweep), [("read", "append")]);
    }

    #[test]
    fn an_append_after_a_read_that_saw_more_is_misplaced() {
        let mut sweep = Sweep::new();
        sweep.gap(0, 10, &[(1, 1)], "read");
        sweep.batch(11, 20, 1, "append");
        assert_eq!(run(&sweep), [("append", "read")]);
    }

    #[test]
    fn calls_that_touch_at_one_instant_are_concurrent() {
        let mut sweep = Sweep::new();
        sweep.batch(0, 10, 1, "append");
        sweep.gap(10, 20, &[(0, 0)], "read");
        assert_eq!(run(&sweep), []);
    }

    #[test]
    fn what_a_read_saw_binds_the_reads_after_it() {
        let mut sweep = Sweep::new();
        sweep.batch(0, Nanos::MAX, 1, "unknown append");
        sweep.gap(1, 2, &[(1, 1)], "new");
        sweep.gap(3, 4, &[(0, 0)], "old");
        assert_eq!(run(&sweep), [("old", "new")]);
    }

    #[test]
    fn a_read_takes_the_least_of_several_gaps() {
        let mut sweep = Sweep::new();
        sweep.batch(0, Nanos::MAX, 1, "first");
        sweep.batch(0, Nanos::MAX, 2, "second");
        sweep.gap(1, 2, &[(0, 0), (2, 2)], "either");
        sweep.gap(3, 4, &[(1, 1)], "middle");
        assert_eq!(run(&sweep), []);
        sweep.gap(5, 6, &[(0, 0), (2, 2)], "either again");
        sweep.gap(7, 8, &[(1, 1)], "too late");
        assert_eq!(run(&sweep), [("too late", "either again")]);
    }

    #[test]
    fn nobody_reads_inside_a_batch() {
        let mut sweep = Sweep::new();
        sweep.batch(0, 10, 2, "both");
        sweep.gap(11, 12, &[(1, 1)], "half");
        let inside = |gap| if gap == 1 { 2 } else { gap };
        assert_eq!(sweep.run(inside).len(), 1);
    }
}
