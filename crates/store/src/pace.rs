//! How fast files are written anew while space is given back.
//!
//! A compaction that somebody asked for takes what it can get of the processor and of
//! the disk, for seconds. RocksDB's own limit of its writing holds for flushes too, and
//! appends would wait for those. So the compaction is slowed down where it asks what to
//! keep: [`Paced`] is shown every record, keeps each, and sleeps whenever more bytes
//! came by than are allowed. Compactions that RocksDB chooses by itself are not slowed
//! down: those who append may be waiting for them.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

/// Bytes of records per second that may be written anew; without a limit at first.
#[derive(Debug)]
pub(crate) struct Pace(AtomicU64);

impl Default for Pace {
    fn default() -> Self {
        Pace(AtomicU64::new(u64::MAX))
    }
}

impl Pace {
    /// Changes it, also for what is being written now.
    pub(crate) fn set(&self, bytes_per_second: u64) {
        self.0.store(bytes_per_second.max(1), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes a [`Paced`] for each compaction.
pub(crate) struct Pacing(pub(crate) Arc<Pace>);

const NAME: &CStr = c"annals.pace";

impl CompactionFilterFactory for Pacing {
    type Filter = Paced;

    fn create(&mut self, context: CompactionFilterContext) -> Paced {
        let pace = context.is_manual_compaction.then(|| self.0.clone());
        Paced { pace, since: Instant::now(), bytes: 0 }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// Sees the records of one compaction go by.
pub(crate) struct Paced {
    /// None for a compaction that is not slowed down.
    pace: Option<Arc<Pace>>,
    since: Instant,
    /// Seen since then.
    bytes: u64,
}

/// The clock is read once in as many bytes.
const LOOK_BYTES: u64 = 128 * 1024;

/// The longest sleep: what changes the pace or ends the process waits no longer.
const SLEEP_MAX: Duration = Duration::from_millis(100);

impl CompactionFilter for Paced {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> CompactionDecision {
        if let Some(pace) = &self.pace {
            self.bytes += (key.len() + value.len()) as u64;
            if self.bytes >= LOOK_BYTES {
                let now = Instant::now();
                let ahead = ahead(self.bytes, pace.get(), now.saturating_duration_since(self.since));
                if !ahead.is_zero() {
                    std::thread::sleep(ahead);
                }
                // Nothing is saved up, and nothing is owed: an event of 16 MiB at 64
                // KiB per second would owe minutes.
                self.since = Instant::now();
                self.bytes = 0;
            }
        }
        CompactionDecision::Keep
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// How much too early it is for so many bytes at this pace, no more than is slept at once.
fn ahead(bytes: u64, per_second: u64, elapsed: Duration) -> Duration {
    // Both are small next to what an f64 holds exactly, or are no limit anyway.
    Duration::from_secs_f64(bytes as f64 / per_second as f64).saturating_sub(elapsed).min(SLEEP_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn what_is_too_early_is_slept_up_to_a_bound() {
        assert_eq!(ahead(MIB, 16 * MIB, Duration::ZERO), Duration::from_micros(62_500));
        assert_eq!(ahead(MIB, 16 * MIB, Duration::from_micros(60_000)), Duration::from_micros(2_500));
        assert_eq!(ahead(MIB, 16 * MIB, Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(ahead(16 * MIB, 1, Duration::ZERO), SLEEP_MAX);
        assert_eq!(ahead(16 * MIB, u64::MAX, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn every_record_is_kept_and_only_what_was_asked_for_is_slowed_down() {
        let pace = Arc::new(Pace::default());
        pace.set(0);
        for is_manual_compaction in [false, true] {
            let context = CompactionFilterContext { is_full_compaction: false, is_manual_compaction };
            let mut paced = Pacing(pace.clone()).create(context);
            assert_eq!(paced.pace.is_some(), is_manual_compaction);
            for _ in 0..3 {
                assert!(matches!(paced.filter(6, b"key", &[0; 60_000]), CompactionDecision::Keep));
            }
        }
    }
}
