//! What every handler of a request needs, made once in [`crate::run`].

use std::sync::Arc;

use annals_raft::Node;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::groups::Groups;
use crate::health::Health;
use crate::metrics::Metrics;

/// The parts of the process that requests use. Shared, never changed.
pub struct Context {
    /// The replicated log and the events of this node.
    pub node: Node,
    /// The configuration, validated.
    pub config: Config,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Whether this node may be sent work.
    pub health: Health,
    /// The consumer groups that it serves.
    pub(crate) groups: Groups,
    /// Cancelled when the process is about to stop: whoever streams ends with
    /// UNAVAILABLE, so that clients go to another node.
    pub stopping: CancellationToken,
}

/// How a [`Context`] is passed around.
pub type Shared = Arc<Context>;
