//! The heads and runs that changed last, in memory.
//!
//! An append moves its stream's head and adds runs to its lists, each at
//! another place of the key space. RocksDB's memtable looks for each of these
//! places anew, which costs more than all else that it does for an event. So they
//! gather here, where a head that changes a hundred times is one head and runs
//! that continue each other are one run, and go to the database together and in
//! the order of their keys: they *settle*.
//!
//! # Invariants
//! - What is here is newer than what the database holds, and is asked first.
//! - Nothing is flushed that is not settled ([`crate::state`]): a file never
//!   holds a record without its stream's head and runs.
//! - It is bounded: [`Delta::is_large`] after an entry makes it settle.

use annals_core::StreamName;
use hashbrown::HashMap;

use crate::heads::{IndexHead, StreamHead};
use crate::keys::{self, Kind, ListId};
use crate::runs::Run;

/// Heads and runs that settle together. More would make them cheaper still,
/// but the entry that makes them settle waits for it: some milliseconds.
const CHANGES_MAX: usize = 4_096;

/// See the module. Heads are found by the bytes of their keys.
#[derive(Default)]
pub(crate) struct Delta {
    pub(crate) streams: HashMap<Box<[u8]>, StreamHead>,
    pub(crate) indexes: HashMap<Box<[u8]>, IndexHead>,
    /// Of each list in ascending order, without gaps but where a stream ends.
    runs: HashMap<ListId, Vec<Run>>,
    runs_count: usize,
}

impl Delta {
    /// Takes in the head of a stream as an entry leaves it, and the runs that
    /// the entry adds. `key` is scratch.
    pub(crate) fn add_stream(&mut self, stream: &StreamName, head: StreamHead, runs: &[Run], key: &mut Vec<u8>) {
        self.add_runs(head.list, runs);
        keys::head(Kind::Stream, stream.as_bytes(), key);
        put(&mut self.streams, key, head);
    }

    /// Takes in the head of an index as an entry leaves it, and the runs that
    /// the entry adds.
    pub(crate) fn add_index(&mut self, key: &[u8], head: IndexHead, runs: &[Run]) {
        self.add_runs(head.list, runs);
        put(&mut self.indexes, key, head);
    }

    fn add_runs(&mut self, list: ListId, runs: &[Run]) {
        if runs.is_empty() {
            return;
        }
        let known = self.runs.entry(list).or_default();
        for run in runs {
            match known.last_mut().and_then(|last| last.joined_with(run)) {
                Some(joined) => *known.last_mut().expect("there is a last one") = joined,
                None => {
                    known.push(*run);
                    self.runs_count += 1;
                }
            }
        }
    }

    /// The run that holds this entry of a list, if it is here.
    pub(crate) fn run(&self, list: ListId, number: u64) -> Option<Run> {
        let runs = self.runs.get(&list)?;
        let run = runs.get(runs.partition_point(|run| run.last < number))?;
        run.position_of(number).map(|_| *run)
    }

    /// What is here of a list's runs that hold entries from `low` to `high`,
    /// both inclusive, in ascending order.
    pub(crate) fn runs_between(&self, list: ListId, low: u64, high: u64) -> Vec<Run> {
        let Some(runs) = self.runs.get(&list) else { return Vec::new() };
        let from = runs.partition_point(|run| run.last < low);
        runs[from..].iter().take_while(|run| run.first() <= high).copied().collect()
    }

    /// Whether it should settle.
    pub(crate) fn is_large(&self) -> bool {
        self.runs_count + self.streams.len() + self.indexes.len() >= CHANGES_MAX
    }

    /// Keys and values of the runs, in the order of the keys.
    pub(crate) fn encoded_runs(&self) -> Vec<([u8; 16], [u8; 12])> {
        let mut lists: Vec<(&ListId, &Vec<Run>)> = self.runs.iter().collect();
        lists.sort_unstable_by_key(|(list, _)| **list);
        let of_list = |(list, runs): (&ListId, &Vec<Run>)| {
            let list = *list;
            runs.iter().map(move |run| (keys::run(list, run.last), run.encode())).collect::<Vec<_>>()
        };
        lists.into_iter().flat_map(of_list).collect()
    }

    /// Keys and values of the heads, in the order of the keys.
    pub(crate) fn encoded_heads(&self) -> Vec<(&[u8], Vec<u8>)> {
        let streams = self.streams.iter().map(|(key, head)| {
            let mut value = Vec::new();
            head.encode(&mut value);
            (&**key, value)
        });
        let indexes = self.indexes.iter().map(|(key, head)| {
            let mut value = Vec::new();
            head.encode(&mut value);
            (&**key, value)
        });
        let mut heads: Vec<(&[u8], Vec<u8>)> = streams.chain(indexes).collect();
        heads.sort_unstable_by_key(|(key, _)| *key);
        heads
    }

    /// Lets go of the runs.
    pub(crate) fn clear_runs(&mut self) {
        self.runs.clear();
        self.runs_count = 0;
    }
}

fn put<H>(heads: &mut HashMap<Box<[u8]>, H>, key: &[u8], head: H) {
    match heads.get_mut(key) {
        Some(known) => *known = head,
        None => {
            heads.insert(key.into(), head);
        }
    }
}

#[cfg(test)]
mod tests {
    use annals_core::Position;
    use proptest::prelude::*;

    use super::*;

    fn run(first: u64, position: u64, count: u32) -> Run {
        let after = u64::from(count) - 1;
        Run { last: first + after, last_position: Position::new(position + after), count }
    }

    #[test]
    fn runs_that_continue_each_other_are_one() {
        let mut delta = Delta::default();
        let list = ListId::new(7);
        delta.add_runs(list, &[run(3, 10, 2)]);
        delta.add_runs(list, &[run(5, 12, 1), run(6, 20, 1)]);
        assert_eq!(delta.runs_between(list, 0, 100), [run(3, 10, 3), run(6, 20, 1)]);
        assert_eq!(delta.runs_count, 2);
    }

    proptest! {
        #[test]
        fn an_entry_is_found_where_it_is_and_nowhere_else(
            first in 0..50u64,
            steps in proptest::collection::vec((1..4u32, 0..3u64), 1..20),
            asked in 0..150u64,
        ) {
            let list = ListId::new(1);
            let mut delta = Delta::default();
            let mut expected = std::collections::BTreeMap::new();
            let (mut number, mut position) = (first, first + 1);
            for (count, gap) in steps {
                position += gap;
                delta.add_runs(list, &[run(number, position, count)]);
                for _ in 0..count {
                    expected.insert(number, position);
                    number += 1;
                    position += 1;
                }
            }
            let found = delta.run(list, asked).and_then(|run| run.position_of(asked)).map(Position::get);
            prop_assert_eq!(found, expected.get(&asked).copied());
            prop_assert!(delta.run(ListId::new(2), asked).is_none());

            let high = asked + 5;
            let between = delta.runs_between(list, asked, high);
            for at in asked..=high {
                let found = between.iter().find_map(|run| run.position_of(at)).map(Position::get);
                prop_assert_eq!(found, expected.get(&at).copied());
            }
        }
    }
}
