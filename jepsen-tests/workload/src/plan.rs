//! How much of what is done.

use std::time::Duration;

/// What a workload does. What exactly follows from the seed; when, from the
/// answers.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything random follows from it.
    pub seed: u64,
    /// The number of its first process and of its first subscription. Two
    /// workloads of one history must not share any.
    pub first_number: u32,
    /// Logical processes; each does one thing after the other.
    pub processes: u32,
    /// Turns to write. Some of them are several appends.
    pub appends_per_second: f64,
    /// Turns to read, besides reads of own writes and the probers'.
    pub reads_per_second: f64,
    /// Subscriptions that run all the time.
    pub subscriptions: u32,
    /// Streams that all processes fight for.
    pub hot_streams: u32,
    /// Streams that live for some 200 events, at a time.
    pub streams: u32,
    /// Streams that are deleted and begun anew, at a time.
    pub deleted_streams: u32,
    /// Streams whose retention changes, at a time.
    pub retained_streams: u32,
    /// Bytes of data of an event.
    pub event_bytes: usize,
    /// How long a call is waited for.
    pub timeout: Duration,
    /// How long a connection is waited for.
    pub connect_timeout: Duration,
    /// How often an append of unknown fate is sent again, at most.
    pub retries: u32,
    /// The pause between two linearizable reads of a prober; none without
    /// probers.
    pub probe_every: Option<Duration>,
    /// How long a prober waits for an answer.
    pub probe_timeout: Duration,
    /// The pause between two comparisons of all nodes; none without them.
    pub hash_every: Option<Duration>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            seed: 1,
            first_number: 0,
            processes: 16,
            appends_per_second: 500.0,
            reads_per_second: 500.0,
            subscriptions: 8,
            hot_streams: 3,
            streams: 48,
            deleted_streams: 6,
            retained_streams: 4,
            event_bytes: 256,
            timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            retries: 5,
            probe_every: Some(Duration::from_millis(20)),
            probe_timeout: Duration::from_millis(200),
            hash_every: Some(Duration::from_secs(5)),
        }
    }
}
