//! Going on with what one stopped node has, when a quorum is lost. The command line
//! reaches the replication's part through here.

use std::time::SystemTime;

use annals_core::Timestamp;
pub use annals_raft::recover::{EVENT_TYPE, RecoverError, Recovered, Recovery, STREAM, Survivor};

/// What is written is stamped with this.
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
