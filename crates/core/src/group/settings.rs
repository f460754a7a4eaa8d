//! How a group is to be served.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which consumer gets a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// The first that joined, until its slots are used; then the next.
    DispatchToSingle,
    /// The next one with a free slot.
    #[default]
    RoundRobin,
    /// The one that its stream belongs to.
    Pinned,
    /// The one that its `$correlationId` belongs to, or its stream without one.
    PinnedByCorrelation,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 4] =
        [Strategy::DispatchToSingle, Strategy::RoundRobin, Strategy::Pinned, Strategy::PinnedByCorrelation];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::DispatchToSingle => "DispatchToSingle",
            Strategy::RoundRobin => "RoundRobin",
            Strategy::Pinned => "Pinned",
            Strategy::PinnedByCorrelation => "PinnedByCorrelation",
        }
    }

    /// The strategy of this name.
    pub fn from_name(name: &str) -> Option<Strategy> {
        Strategy::ALL.into_iter().find(|strategy| strategy.name() == name)
    }

    /// Whether the order of each key is kept.
    pub fn is_pinned(self) -> bool {
        matches!(self, Strategy::Pinned | Strategy::PinnedByCorrelation)
    }
}

/// How a group is to be served. The defaults are those of the official clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Deliver what links lead to.
    pub resolve_links: bool,
    /// Measure how long consumers take.
    pub extra_statistics: bool,
    /// After this time without an answer a message is retried.
    pub message_timeout: Duration,
    /// A message that failed and was retried so often is parked.
    pub max_retries: u32,
    /// A checkpoint is written after this time if at least `min_checkpoint` messages
    /// are finished; never by time if `None`.
    pub checkpoint_after: Option<Duration>,
    /// See `checkpoint_after`.
    pub min_checkpoint: u64,
    /// A checkpoint is written when so many messages are finished.
    pub max_checkpoint: u64,
    /// Consumers at a time; any number if `None`.
    pub max_consumers: Option<usize>,
    /// Kept for clients that ask; new events go through the one buffer.
    pub live_buffer: usize,
    /// Messages that are read at once; fewer than `history_buffer`.
    pub read_batch: usize,
    /// Messages that wait at most.
    pub history_buffer: usize,
    /// Who gets a message.
    pub strategy: Strategy,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            resolve_links: false,
            extra_statistics: false,
            message_timeout: Duration::from_secs(30),
            max_retries: 10,
            checkpoint_after: Some(Duration::from_secs(2)),
            min_checkpoint: 10,
            max_checkpoint: 1_000,
            max_consumers: None,
            live_buffer: 500,
            read_batch: 20,
            history_buffer: 500,
            strategy: Strategy::default(),
        }
    }
}

/// Messages that a group may have waiting: each costs some hundred bytes.
const HISTORY_BUFFER_MAX: usize = 100_000;

/// Why settings cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// A batch has to fit into the buffer.
    #[error("read_batch_size {batch} must be below history_buffer_size {buffer}")]
    Batch {
        /// The batch.
        batch: usize,
        /// The buffer.
        buffer: usize,
    },
    /// Nothing would ever be read.
    #[error("read_batch_size must be above 0")]
    NoBatch,
    /// Too much memory.
    #[error("history_buffer_size {0} is above the limit of {HISTORY_BUFFER_MAX}")]
    Buffer(usize),
    /// The one is meant to be the smaller.
    #[error("min_checkpoint_count {min} is above max_checkpoint_count {max}")]
    Checkpoints {
        /// The smaller.
        min: u64,
        /// The larger.
        max: u64,
    },
}

impl Settings {
    /// Refuses what cannot be served.
    ///
    /// # Errors
    /// Says which setting.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        if self.read_batch == 0 {
            return Err(InvalidSettings::NoBatch);
        }
        if self.read_batch >= self.history_buffer {
            return Err(InvalidSettings::Batch { batch: self.read_batch, buffer: self.history_buffer });
        }
        if self.history_buffer > HISTORY_BUFFER_MAX {
            return Err(InvalidSettings::Buffer(self.history_buffer));
        }
        if self.min_checkpoint > self.max_checkpoint {
            return Err(InvalidSettings::Checkpoints { min: self.min_checkpoint, max: self.max_checkpoint });
        }
        Ok(())
    }
}
