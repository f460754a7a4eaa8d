//! What all processes know of the streams.
//!
//! | class | names | what happens to them |
//! |---|---|---|
//! | hot | `hot-0` | all processes append with exact revisions |
//! | cold | `order-3.7`, `cart-…`, `user-…`, `audit-…` | written now and then; after 200 events the next one takes its place |
//! | bin | `bin-2.1` | deleted, begun anew, ended for ever |
//! | kept | `kept-0.4` | their retention changes |
//! | race | `race-17` | several processes begin it at once |
//!
//! Knowledge is allowed to be wrong: a revision that another process has
//! moved meanwhile is exactly the conflict that is wanted.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::Plan;

/// Revision after which a stream is left for the next one, so that it can
/// still be read as a whole.
const LAST_REVISION: u64 = 200;

/// Processes that begin the same stream.
const RACERS: u32 = 4;

/// Streams that were left and are still read at times.
const REMEMBERED: usize = 64;

const COLD: [&str; 4] = ["order", "cart", "user", "audit"];

/// The classes of streams that a slot can be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Hot,
    Cold,
    Bin,
    Kept,
}

pub(crate) struct Board {
    inner: Mutex<Inner>,
    tail: AtomicU64,
}

struct Inner {
    slots: Vec<Slot>,
    by_name: HashMap<Arc<str>, usize>,
    race: u32,
    left: VecDeque<Arc<str>>,
}

struct Slot {
    class: Class,
    base: String,
    generation: u32,
    name: Arc<str>,
    last: Option<u64>,
}

impl Board {
    pub(crate) fn new(plan: &Plan) -> Board {
        let mut slots = Vec::new();
        let mut add = |class, count: u32, base: &dyn Fn(u32) -> String| {
            for at in 0..count {
                let base = base(at);
                let name = if class == Class::Hot { base.as_str().into() } else { format!("{base}.0").into() };
                slots.push(Slot { class, base, generation: 0, name, last: None });
            }
        };
        add(Class::Hot, plan.hot_streams.max(1), &hot);
        add(Class::Cold, plan.streams.max(4), &|at| format!("{}-{at}", COLD[at as usize % COLD.len()]));
        add(Class::Bin, plan.deleted_streams.max(1), &|at| format!("bin-{at}"));
        add(Class::Kept, plan.retained_streams.max(1), &|at| format!("kept-{at}"));
        let by_name = slots.iter().enumerate().map(|(at, slot)| (slot.name.clone(), at)).collect();
        let inner = Inner { slots, by_name, race: 0, left: VecDeque::new() };
        Board { inner: Mutex::new(inner), tail: AtomicU64::new(0) }
    }

    /// Some stream of this class, with its last revision as far as known.
    pub(crate) fn stream(&self, class: Class, rng: &mut StdRng) -> (Arc<str>, Option<u64>) {
        let inner = self.inner.lock();
        let count = inner.slots.iter().filter(|slot| slot.class == class).count();
        let chosen = rng.random_range(0..count);
        let slot = inner.slots.iter().filter(|slot| slot.class == class).nth(chosen).expect("it was counted");
        (slot.name.clone(), slot.last)
    }

    /// A stream that others begin at the same time.
    pub(crate) fn race(&self) -> Arc<str> {
        let mut inner = self.inner.lock();
        inner.race += 1;
        let name: Arc<str> = format!("race-{}", inner.race / RACERS).into();
        if inner.race.is_multiple_of(RACERS) {
            inner.leave(name.clone());
        }
        name
    }

    /// A stream that was left, or none yet.
    pub(crate) fn left(&self, rng: &mut StdRng) -> Option<Arc<str>> {
        let draw = rng.random_range(0..REMEMBERED);
        let inner = self.inner.lock();
        if inner.left.is_empty() { None } else { Some(inner.left[draw % inner.left.len()].clone()) }
    }

    /// A stream's last revision is this.
    pub(crate) fn is_at(&self, stream: &str, last: Option<u64>) {
        let mut inner = self.inner.lock();
        let Some(at) = inner.by_name.get(stream).copied() else { return };
        inner.slots[at].last = last;
        let full = inner.slots[at].class != Class::Hot && last.is_some_and(|last| last >= LAST_REVISION);
        if full {
            inner.next_generation(at);
        }
    }

    /// A stream's last revision is this, or a later one.
    pub(crate) fn is_beyond(&self, stream: &str, last: u64) {
        let known = {
            let inner = self.inner.lock();
            inner.by_name.get(stream).map(|at| inner.slots[*at].last)
        };
        if known.is_some_and(|known| known.is_none_or(|known| known < last)) {
            self.is_at(stream, Some(last));
        }
    }

    /// A stream has ended for ever.
    pub(crate) fn ended(&self, stream: &str) {
        let mut inner = self.inner.lock();
        if let Some(at) = inner.by_name.get(stream).copied() {
            inner.next_generation(at);
        }
    }

    /// The greatest position that anybody saw.
    pub(crate) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Relaxed)
    }

    /// Somebody saw this position.
    pub(crate) fn saw(&self, position: u64) {
        self.tail.fetch_max(position, Ordering::Relaxed);
    }
}

impl Inner {
    fn next_generation(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.generation += 1;
        slot.last = None;
        let name: Arc<str> = format!("{}.{}", slot.base, slot.generation).into();
        let old = std::mem::replace(&mut slot.name, name.clone());
        self.by_name.remove(&old);
        self.by_name.insert(name, at);
        self.leave(old);
    }

    fn leave(&mut self, stream: Arc<str>) {
        if self.left.len() == REMEMBERED {
            self.left.pop_front();
        }
        self.left.push_back(stream);
    }
}

/// The name of a hot stream.
pub(crate) fn hot(number: u32) -> String {
    format!("hot-{number}")
}

/// Prefixes of the classes, for filters.
pub(crate) const PREFIXES: [&str; 8] = ["order-", "cart-", "user-", "audit-", "hot-", "bin-", "kept-", "race-"];

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_full_stream_is_left_for_the_next_one() {
        let board = Board::new(&Plan { streams: 4, ..Plan::default() });
        let mut rng = StdRng::seed_from_u64(3);
        let (stream, last) = board.stream(Class::Cold, &mut rng);
        assert_eq!(last, None);
        board.is_at(&stream, Some(7));
        board.is_beyond(&stream, 5);
        assert_eq!(last_of(&board, &stream), Some(Some(7)));
        board.is_beyond(&stream, LAST_REVISION);
        assert_eq!(last_of(&board, &stream), None);
        assert_eq!(board.left(&mut rng), Some(stream));
    }

    fn last_of(board: &Board, stream: &str) -> Option<Option<u64>> {
        let inner = board.inner.lock();
        inner.by_name.get(stream).map(|at| inner.slots[*at].last)
    }

    #[test]
    fn a_race_has_some_processes_and_then_another_one_begins() {
        let board = Board::new(&Plan::default());
        let names: Vec<_> = (0..8).map(|_| board.race()).collect();
        assert_eq!(names.iter().filter(|name| &***name == "race-1").count(), 4);
    }
}
