//! Runs of short lists in memory, so that a stream that is read again is found
//! without an iterator over RocksDB: making and placing one costs more than all
//! else that a read of a few events does in the store.
//!
//! A list only grows at its end, and where an entry is never changes. So what
//! was read once stays true, and no write has to look in here: what is known
//! may end too early, and then the rest is read.
//!
//! What is known of a list always begins with its first entry. Two generations
//! as in [`crate::heads::HeadsCache`], bounded by what they hold.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::database::{Database, Reach};
use crate::error::Error;
use crate::keys::{Key, ListId};
use crate::record::Corruption;
use crate::runs::Run;

/// Lists are remembered up to this entry: what lies further back in long ones
/// is mostly read in long stretches, of which an iterator is the least cost.
const ENTRIES_MAX: u64 = 64;

/// Runs of one generation, some 3 MiB. A list counts as two more.
const RUNS_MAX: usize = 128 * 1024;

#[derive(Default)]
pub(crate) struct KnownRuns(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<ListId, Arc<[Run]>>,
    old: HashMap<ListId, Arc<[Run]>>,
    /// Of the young one.
    runs: usize,
}

impl KnownRuns {
    /// The runs of a list from its first entry to this one at least, which the
    /// caller knows to exist; none where that is too many to be remembered.
    pub(crate) fn up_to(
        &self,
        number: u64,
        database: &Database,
        list: ListId,
        reach: Reach,
    ) -> Result<Option<Arc<[Run]>>, Error> {
        if number >= ENTRIES_MAX {
            return Ok(None);
        }
        let known = self.0.lock().get(list);
        let next = known.as_deref().and_then(<[Run]>::last).map_or(0, |run| run.last + 1);
        if next > number {
            return Ok(known);
        }
        let mut runs = known.as_deref().unwrap_or_default().to_vec();
        let mut iterator = database.runs(list, reach);
        let mut found = iterator.seek(next)?;
        let mut next = next;
        while next <= number {
            let run = found.filter(|run| run.position_of(next).is_some());
            let run = run.ok_or_else(|| Error::corrupt(Key::Run(list, next), Corruption::Missing))?;
            runs.push(run);
            next = run.last + 1;
            if next <= number {
                found = iterator.next()?;
            }
        }
        let runs: Arc<[Run]> = runs.into();
        self.0.lock().insert(list, runs.clone());
        Ok(Some(runs))
    }
}

impl Generations {
    fn get(&mut self, list: ListId) -> Option<Arc<[Run]>> {
        if let Some(runs) = self.young.get(&list) {
            return Some(runs.clone());
        }
        let runs = self.old.remove(&list)?;
        self.insert(list, runs.clone());
        Some(runs)
    }

    fn insert(&mut self, list: ListId, runs: Arc<[Run]>) {
        if self.runs >= RUNS_MAX {
            self.old = std::mem::take(&mut self.young);
            self.runs = 0;
        }
        self.runs += runs.len() + 2;
        if let Some(replaced) = self.young.insert(list, runs) {
            self.runs -= replaced.len() + 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use annals_core::Position;

    use super::*;

    #[test]
    fn what_is_used_stays_and_what_is_kept_is_bounded() {
        let mut generations = Generations::default();
        let run = Run { last: 0, last_position: Position::new(1), count: 1 };
        let runs: Arc<[Run]> = vec![run; 100].into();
        let used = ListId::new(0);
        generations.insert(used, runs.clone());
        for number in 1..10_000 {
            generations.insert(ListId::new(number), runs.clone());
            assert!(generations.get(used).is_some());
            assert!((generations.young.len() + generations.old.len()) * runs.len() <= 2 * (RUNS_MAX + 102));
        }
        assert!(generations.get(ListId::new(1)).is_none());
    }

    #[test]
    fn a_list_that_grew_is_counted_once() {
        let mut generations = Generations::default();
        let run = Run { last: 0, last_position: Position::new(1), count: 1 };
        for len in 1..=10 {
            generations.insert(ListId::new(7), vec![run; len].into());
            assert_eq!(generations.runs, len + 2);
        }
    }
}
