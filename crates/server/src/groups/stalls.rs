//! Whether a group gets on, in numbers for those who watch it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annals_core::Timestamp;

/// How far behind a group is, and what waits in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stalls {
    /// Places of the source behind the first unfinished one.
    pub(crate) lag_events: u64,
    /// Age of the first unfinished event; zero where all are finished.
    pub(crate) lag: Duration,
    /// Messages that wait for a consumer.
    pub(crate) waiting: usize,
    /// Messages that a consumer has not answered.
    pub(crate) in_flight: usize,
    /// Messages that were given up.
    pub(crate) parked: u64,
    /// Age of the first of them; zero where there is none.
    pub(crate) oldest_parked: Duration,
    /// Consumers.
    pub(crate) consumers: usize,
}

/// How long ago this was.
pub(crate) fn age(then: Timestamp) -> Duration {
    let now = Timestamp::from(SystemTime::now());
    // Ticks of 100 ns.
    Duration::from_nanos(now.ticks().saturating_sub(then.ticks()).saturating_mul(100))
}

/// How long ago an event was made whose time is told in ticks, as clients get it.
pub(crate) fn age_of_ticks(created: Option<&String>) -> Duration {
    let ticks: Option<u64> = created.and_then(|ticks| ticks.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let created = ticks.map(|ticks| Duration::from_nanos(ticks.saturating_mul(100)));
    created.map_or(Duration::ZERO, |created| now.saturating_sub(created))
}
