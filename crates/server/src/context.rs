//! What every handler of a request needs, made once in [`crate::run`].

use std::sync::Arc;

use annals_raft::{Connect, Node};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::config::Config;
use crate::groups::Groups;
use crate::grpc::streams::room::Room;
use crate::grpc::streams::stalls::Stalls;
use crate::health::Health;
use crate::leaving::Leaving;
use crate::limits::Callers;
use crate::logs::Logs;
use crate::maintenance::Maintenance;
use crate::metrics::Metrics;
use crate::receive::Reception;
use crate::telemetry::Tracing;

/// The parts of the process that requests use. Shared, never changed.
pub struct Context {
    /// The replicated log and the events of this node.
    pub node: Node,
    /// The configuration, validated.
    pub config: Config,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Makes spans of calls, if traces are sent.
    pub(crate) tracing: Option<Tracing>,
    /// What this process logs.
    pub logs: Logs,
    /// How other nodes are connected to.
    pub(crate) peers: Arc<dyn Connect>,
    /// Whether this node may be sent work.
    pub health: Health,
    /// Who calls, and what they may do.
    pub(crate) access: Access,
    /// The consumer groups that it serves.
    pub(crate) groups: Groups,
    /// Who has taken how much of this node.
    pub(crate) callers: Callers,
    /// Places of subscriptions on this node.
    pub(crate) subscriptions: Arc<Semaphore>,
    /// Memory for messages that are coming in.
    pub(crate) reception: Reception,
    /// Memory for pages that wait to be taken.
    pub(crate) room: Room,
    /// Who is being sent something.
    pub(crate) stalls: Stalls,
    /// Whether clients that stay are to go elsewhere.
    pub(crate) leaving: Leaving,
    /// Whether this node is drained.
    pub(crate) maintenance: Maintenance,
    /// Cancelled when a client asks the process to stop.
    pub shutdown_asked: CancellationToken,
    /// Cancelled when the process is about to stop.
    pub stopping: CancellationToken,
    /// Cancelled when it has stopped serving, for who tells of that to others.
    pub(crate) stopped: CancellationToken,
}

/// How a [`Context`] is passed around.
pub type Shared = Arc<Context>;
