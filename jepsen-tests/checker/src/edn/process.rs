//! Process numbers by Jepsen's rules.

use std::collections::HashMap;

use super::operations::End;
use crate::history::{Nanos, Record};

/// Gives out process numbers.
pub(super) struct Processes {
    /// By the number in the history: the number now, and until when it is
    /// taken; for ever after an operation of unknown fate.
    taken: HashMap<u32, (u64, Option<Nanos>)>,
    next: u64,
}

impl Processes {
    /// New numbers follow those of the history.
    pub(super) fn new(records: &[Record]) -> Self {
        let number = |record: &Record| match record {
            Record::Append(call) => Some(call.process),
            Record::Delete(call) => Some(call.process),
            Record::Read(call) => Some(call.process),
            _ => None,
        };
        let next = records.iter().filter_map(number).max().map_or(0, |most| u64::from(most) + 1);
        Processes { taken: HashMap::new(), next }
    }

    /// A number that nobody else has.
    pub(super) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The number for an operation of this process. To be called in the order
    /// in which operations begin.
    pub(super) fn number(&mut self, process: u32, invoke: Nanos, complete: Option<Nanos>, end: End) -> u64 {
        let until = if end == End::Info { None } else { complete };
        let free = match self.taken.get(&process) {
            None => Some(u64::from(process)),
            Some((number, Some(until))) if *until < invoke => Some(*number),
            Some(_) => None,
        };
        let number = free.unwrap_or_else(|| self.fresh());
        self.taken.insert(process, (number, until));
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_a_new_number_after_an_unknown_fate() {
        let mut processes = Processes { taken: HashMap::new(), next: 10 };
        assert_eq!(processes.number(3, 0, Some(5), End::Ok), 3);
        assert_eq!(processes.number(3, 6, None, End::Info), 3);
        assert_eq!(processes.number(3, 20, Some(25), End::Ok), 10);
        assert_eq!(processes.number(3, 30, Some(35), End::Ok), 10);
    }

    #[test]
    fn what_overlaps_gets_another_number() {
        let mut processes = Processes { taken: HashMap::new(), next: 10 };
        assert_eq!(processes.number(3, 0, Some(5), End::Ok), 3);
        assert_eq!(processes.number(3, 5, Some(7), End::Ok), 10);
    }
}
