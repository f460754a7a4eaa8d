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
//! - It is bounded: [`Delta::has_many_runs`] and [`Delta::has_many_heads`] after
//!   an entry make it settle. Runs may settle before the heads that lead to them.

use annals_core::StreamName;
use hashbrown::HashMap;
use rocksdb::WriteBatch;

use crate::database::Columns;
use crate::heads::{IndexHead, StreamHead};
use crate::keys::{self, Kind, ListId};
use crate::runs::Run;

/// Runs that settle together. More would be little cheaper, and the entry that
/// makes them settle waits for it: about a millisecond.
const RUNS_MAX: usize = 1_024;

/// Heads, at most. Those of busy streams change all the time: the longer they
/// stay, the fewer are written.
const HEADS_MAX: usize = 8_192;

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

    /// Whether its runs should settle.
    pub(crate) fn has_many_runs(&self) -> bool {
        self.runs_count >= RUNS_MAX
    }

    /// Whether all of it should settle.
    pub(crate) fn has_many_heads(&self) -> bool {
        self.streams.len() + self.indexes.len() >= HEADS_MAX
    }

    /// Puts the runs into a batch in the order of their keys: RocksDB looks for
    /// the place of each from that of the one before.
    pub(crate) fn put_runs(&self, columns: &Columns<'_>, batch: &mut WriteBatch) {
        let mut lists: Vec<(&ListId, &Vec<Run>)> = self.runs.iter().collect();
        lists.sort_unstable_by_key(|(list, _)| **list);
        for (list, runs) in lists {
            for run in runs {
                batch.put_cf(columns.runs, keys::run(*list, run.last), run.encode());
            }
        }
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
