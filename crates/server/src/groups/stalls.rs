//! Whether a group gets on, in numbers for those who watch it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annals_core::Timestamp;
use annals_core::group::Counts;
use annals_store::Store;

use super::definition::GroupName;
use super::journal;
use crate::status::Failure;

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
    /// The newest place of the source; none while it is empty.
    pub(crate) known: Option<u64>,
    /// The place up to which a new leader would know all to be finished.
    pub(crate) checkpoint: Option<u64>,
    /// What happened since this node serves it.
    pub(crate) counts: Counts,
}

/// What is found in the store from time to time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looked {
    /// The newest place of the source.
    pub(super) known: Option<u64>,
    /// Parked messages.
    pub(super) parked: u64,
    /// The age of the first of them.
    pub(super) oldest: Duration,
}

impl Looked {
    /// What there is of a group now. Blocking.
    pub(super) fn now(store: &Store, name: &GroupName) -> Result<Looked, Failure> {
        let (parked, oldest) = journal::oldest_parked(store, name)?;
        Ok(Looked { known: super::end(store, name)?, parked, oldest })
    }
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
