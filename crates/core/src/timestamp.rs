//! When an event was created.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 100-nanosecond ticks since 1970-01-01T00:00:00Z, the protocol's own unit
/// (protocol 3.4). Stamped by the leader; never goes back along positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Ticks in one second.
    pub const TICKS_PER_SECOND: u64 = 10_000_000;

    /// The time with this number of ticks.
    pub const fn from_ticks(ticks: u64) -> Self {
        Timestamp(ticks)
    }

    /// Its ticks.
    pub const fn ticks(self) -> u64 {
        self.0
    }

    /// This many seconds later, at the latest at the end of what can be told.
    pub const fn plus_seconds(self, seconds: u64) -> Self {
        Timestamp(self.0.saturating_add(seconds.saturating_mul(Self::TICKS_PER_SECOND)))
    }

    /// This many seconds earlier, not before 1970.
    pub const fn minus_seconds(self, seconds: u64) -> Self {
        Timestamp(self.0.saturating_sub(seconds.saturating_mul(Self::TICKS_PER_SECOND)))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_secs() * Self::TICKS_PER_SECOND + u64::from(since.subsec_nanos()) / 100)
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let seconds = time.0 / Timestamp::TICKS_PER_SECOND;
        let nanos = (time.0 % Timestamp::TICKS_PER_SECOND) * 100;
        UNIX_EPOCH + Duration::new(seconds, u32::try_from(nanos).expect("below one second"))
    }
}
