//! A token bucket that is one number: when it would be full again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const SECOND: u64 = 1_000_000_000;

/// Gives so many tokens a second, and a second's worth of them at once to who
/// has taken none for that long.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Nanoseconds that a token takes to come back. 0: there is no limit.
    price: u64,
    since: Instant,
    /// Nanoseconds after `since` at which it is full.
    full_at: AtomicU64,
}

impl Bucket {
    /// A full one; 0 is one without a limit.
    pub(super) fn new(per_second: u64) -> Self {
        let price = SECOND.checked_div(per_second).map_or(0, |price| price.max(1));
        Bucket { price, since: Instant::now(), full_at: AtomicU64::new(0) }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&self) -> bool {
        if self.price == 0 {
            return true;
        }
        let now = self.now();
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now).saturating_add(self.price);
            // A rate below one a second has a single token.
            (next <= now + SECOND.max(self.price)).then_some(next)
        });
        taken.is_ok()
    }

    /// Whether nothing was taken that has not come back.
    pub(super) fn is_full(&self) -> bool {
        self.price == 0 || self.full_at.load(Ordering::Relaxed) <= self.now()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_gives_a_seconds_worth_at_once_and_then_as_they_come_back() {
        let bucket = Bucket::new(100);
        assert!(bucket.is_full());
        let begun = Instant::now();
        let taken = (0..10_000).filter(|_| bucket.take()).count();
        let came_back = begun.elapsed().as_millis() as usize / 10 + 1;
        assert!((100..=100 + came_back).contains(&taken), "{taken}");
        assert!(!bucket.is_full());
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        while !bucket.take() {
            assert!(Instant::now() < deadline, "tokens come back");
            std::thread::yield_now();
        }
    }

    #[test]
    fn without_a_limit_there_is_always_one() {
        let bucket = Bucket::new(0);
        assert!((0..100_000).all(|_| bucket.take()));
        assert!(bucket.is_full());
    }
}
