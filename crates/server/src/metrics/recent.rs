//! The largest of the latest values, for who looks only now and then.
//!
//! Time is cut into pieces of four seconds. What is told is the largest value of
//! the present piece and the four before it, so of the last 16 to 20 seconds: who
//! looks every 15 seconds sees every peak, at most twice.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What [`RecentMax`] looks at, in the words of the label that goes with it.
pub(super) const RANGE: &str = "16-20 seconds";

const PIECE: Duration = Duration::from_secs(4);
const PIECES: usize = 5;

/// See the module's documentation.
pub(super) struct RecentMax {
    begun: Instant,
    pieces: Mutex<[(u64, f64); PIECES]>,
}

impl RecentMax {
    pub(super) fn new() -> Self {
        RecentMax { begun: Instant::now(), pieces: Mutex::new([(0, 0.0); PIECES]) }
    }

    /// One more value.
    pub(super) fn observe(&self, value: f64) {
        self.observe_at(value, self.now());
    }

    /// The largest of the latest values, 0 where there was none.
    pub(super) fn get(&self) -> f64 {
        self.get_at(self.now())
    }

    /// The number of the present piece.
    fn now(&self) -> u64 {
        self.begun.elapsed().as_secs() / PIECE.as_secs()
    }

    fn observe_at(&self, value: f64, now: u64) {
        let mut pieces = self.pieces.lock();
        let Some(piece) = pieces.get_mut(now as usize % PIECES) else { return };
        *piece = if piece.0 == now { (now, piece.1.max(value)) } else { (now, value) };
    }

    fn get_at(&self, now: u64) -> f64 {
        let oldest = now.saturating_sub(PIECES as u64 - 1);
        let pieces = self.pieces.lock();
        pieces.iter().filter(|(piece, _)| *piece >= oldest).fold(0.0, |most, (_, value)| most.max(*value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_seen_for_a_while_and_then_forgotten() {
        let recent = RecentMax::new();
        assert_eq!(recent.get_at(0), 0.0);
        recent.observe_at(3.0, 1);
        recent.observe_at(9.0, 1);
        recent.observe_at(4.0, 3);
        assert_eq!(recent.get_at(1), 9.0);
        assert_eq!(recent.get_at(5), 9.0);
        assert_eq!(recent.get_at(6), 4.0);
        recent.observe_at(1.0, 6);
        assert_eq!(recent.get_at(8), 1.0);
        assert_eq!(recent.get_at(11), 0.0);
    }
}
