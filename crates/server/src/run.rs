//! Starts a node in order and stops it in reverse.
//!
//! # The life of an append
//!
//! 1. [`crate::listener`] takes the connection, `grpc/streams/append.rs`
//!    reads the frames under a byte budget and parses them once into an
//!    [`annals_core::Command`]. From here on nothing is unvalidated.
//! 2. [`Node::append`] gives it to the leader's proposer, which drains what
//!    waits into one batch, stamps its time and proposes it as one log entry.
//!    On a follower the command goes to the leader and comes back as an
//!    outcome.
//! 3. The log's flusher writes and syncs the entry, on the leader and on its
//!    peers at the same time. A quorum makes it committed.
//! 4. Each node applies it: `annals_core::decide` over the heads of the
//!    streams, then one write batch in `annals_store`. The tail moves once.
//! 5. Every waiting request gets its [`annals_core::Outcome`], and
//!    `status.rs` makes of it what the client reads. Subscribers wake.
//!
//! # Stopping
//!
//! The maintenance lease, if it can be had at once, so that nobody else is restarted
//! meanwhile → not ready any more → subscriptions end with UNAVAILABLE, so that clients
//! go elsewhere → leadership is handed over and the log closed, while the
//! listener still answers peers → no new connections, running calls end →
//! what is left at the deadline is cut off.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use annals_raft::{Connect, Node, OpenError};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::local_token::LocalToken;
use crate::access::{self, Access, FirstAdmin};
use crate::config::{Config, Invalid};
use crate::context::Context;
use crate::groups::{self, Groups};
use crate::grpc::streams::room::Room;
use crate::grpc::streams::stalls::Stalls;
use crate::health::{self, Health};
use crate::leaving::Leaving;
use crate::limits::Callers;
use crate::logs::Logs;
use crate::maintenance::{self, Maintenance};
use crate::metrics::Metrics;
use crate::receive::Reception;
use crate::telemetry::{Prepared, Telemetry};
use crate::tls::{self, LoadError, Tls};
use crate::{http, listener, memory, scavenge, seeds, version};

/// Election timeouts without a leader after which a node is not ready.
const LEADERLESS_ELECTIONS: u32 = 10;

/// How long clients may take to take in that their call has ended, at a stop.
pub(crate) const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// Why a node could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The data directory cannot be served.
    #[error("cannot open the data directory {data}")]
    Open {
        /// The directory.
        data: String,
        /// Why not, and the way back.
        #[source]
        source: OpenError,
    },
    /// The first administrator's password cannot be had.
    #[error("cannot read `admin_password_file` {file}")]
    AdminPassword {
        /// The file.
        file: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] LoadError),
    /// The token for local use cannot be left in the data directory.
    #[error("cannot write the token for local use in {data}")]
    LocalToken {
        /// The directory.
        data: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A peer showed that the node runs on an outdated copy of its disk.
    #[error("{0}")]
    Outdated(String),
}

/// A node that serves.
pub struct Server {
    context: Arc<Context>,
    address: SocketAddr,
    listening: JoinHandle<()>,
    ticking: JoinHandle<()>,
    grouping: JoinHandle<()>,
    auditing: JoinHandle<()>,
    reloading: Option<JoinHandle<()>>,
    scavenging: JoinHandle<((), ())>,
    maintaining: JoinHandle<()>,
    telemetry: Telemetry,
    stop_listening: CancellationToken,
    cut: CancellationToken,
}

/// Serves until `stop` is cancelled or a client asks the node to shut down, then
/// stops gracefully. With a `listener`
/// its address replaces the configured one.
///
/// # Errors
/// [`RunError`]: nothing was served; or [`RunError::Outdated`].
pub async fn run(config: Config, listener: Option<TcpListener>, stop: CancellationToken) -> Result<(), RunError> {
    let server = Server::start(config, listener).await?;
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = server.shutdown_asked() => Ok(()),
        failure = server.failed() => Err(failure),
    };
    server.stop().await;
    result
}

impl Server {
    /// Starts a node; returns when it listens, which is before it is ready.
    ///
    /// # Errors
    /// [`RunError`]: nothing is left running.
    pub async fn start(config: Config, listener: Option<TcpListener>) -> Result<Server, RunError> {
        Server::start_with(config, listener, Logs::default()).await
    }

    /// The same for a process whose log can be read and changed from afar.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_with(mut config: Config, listener: Option<TcpListener>, logs: Logs) -> Result<Server, RunError> {
        // Before the disks are touched: a port in use is the most common
        // mistake and must not leave a half-opened node.
        let listener = match listener {
            Some(listener) => listener,
            None => {
                config.validate()?;
                let listen = TcpListener::bind(config.listen).await;
                listen.map_err(|source| RunError::Listen { address: config.listen, source })?
            }
        };
        let address = listener.local_addr().map_err(|source| RunError::Listen { address: config.listen, source })?;
        config.listen = address;
        config.validate()?;

        memory::tell(&config);
        let first_admin = first_admin(&config)?;
        let metrics = Metrics::new();
        let telemetry = Prepared::new(&config, &metrics).map_err(Invalid::from)?;
        let tls = Tls::open(&config, &metrics)?;
        let peers = tls::peers(&config, tls.as_ref());
        let node = open(&config, peers.clone(), metrics.clone()).await?;
        if let Err(refusal) = config.validate_members(&node.status()) {
            node.shutdown().await;
            return Err(refusal.into());
        }
        if config.is_open_to_others() {
            let why = if config.asks_who() {
                "no TLS; passwords and events travel in clear text, and whoever reaches this address may call as a node"
            } else {
                "no TLS and no authentication; whoever reaches this address may read and write everything"
            };
            tracing::warn!(listen = %config.listen, "INSECURE: {why}");
        }
        let local_token = match LocalToken::leave(&config.data) {
            Ok(token) => token,
            Err(source) => {
                node.shutdown().await;
                return Err(RunError::LocalToken { data: config.data.display().to_string(), source });
            }
        };
        let stopping = CancellationToken::new();
        let context = Arc::new(Context {
            node,
            metrics,
            tracing: telemetry.as_ref().and_then(Prepared::tracing),
            logs,
            peers,
            health: Health::new(Duration::from_millis(config.election_max_ms) * LEADERLESS_ELECTIONS),
            shutdown_asked: CancellationToken::new(),
            leaving: Leaving::new(&stopping),
            maintenance: Maintenance::default(),
            stopping,
            stopped: CancellationToken::new(),
            access: Access::new(config.asks_who(), local_token),
            groups: Groups::default(),
            callers: Callers::new(&config),
            subscriptions: Arc::new(Semaphore::new(config.subscriptions_max.min(Semaphore::MAX_PERMITS))),
            room: Room::new(config.pages_bytes_max),
            stalls: Stalls::new(Duration::from_millis(config.stall_timeout_ms)),
            reception: Reception::new(config.receive_bytes_max),
            config: config.clone(),
        });
        context.health.tick(&context.node.status());
        let telemetry = telemetry.map(|prepared| prepared.start(&context)).unwrap_or_default();

        if context.access.is_required() {
            tokio::spawn(access::mint(context.clone(), first_admin));
        }
        let stop_listening = CancellationToken::new();
        let cut = CancellationToken::new();
        let server = listener::Server {
            app: http::App::new(&context),
            context: context.clone(),
            tls: tls.clone(),
            stop: stop_listening.clone(),
            cut: cut.clone(),
        };
        Ok(Server {
            listening: tokio::spawn(server.serve(listener)),
            ticking: tokio::spawn(tick(context.clone())),
            grouping: tokio::spawn(groups::run(context.clone())),
            auditing: tokio::spawn(access::audit::run(context.clone())),
            reloading: tls.map(|tls| tokio::spawn(tls.reload(context.stopping.clone()))),
            scavenging: tokio::spawn(futures::future::join(
                scavenge::drive(context.clone()),
                scavenge::give_back(context.clone()),
            )),
            maintaining: tokio::spawn(maintenance::keep(context.clone())),
            telemetry,
            context,
            address,
            stop_listening,
            cut,
        })
    }

    /// What the handlers of requests use.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns when a client has asked the node to shut down, which is then up to
    /// the caller.
    pub async fn shutdown_asked(&self) {
        self.context.shutdown_asked.cancelled().await;
    }

    /// Why this server must stop although nobody asked it to, once there is a
    /// reason. Mostly there never is.
    pub async fn failed(&self) -> RunError {
        RunError::Outdated(self.context.node.outdated().await)
    }

    /// Stops gracefully, within `shutdown_timeout_ms`.
    pub async fn stop(self) {
        let timeout = self.context.config.shutdown_timeout();
        let deadline = tokio::time::Instant::now() + timeout;
        tracing::info!("stopping");
        maintenance::before_stop(&self.context).await;
        self.context.health.drain();
        self.context.stopping.cancel();
        // Their last checkpoints need a node that still appends.
        let _ = tokio::time::timeout_at(deadline, self.grouping).await;
        let _ = tokio::time::timeout_at(deadline, self.auditing).await;
        let _ = tokio::time::timeout_at(deadline, self.scavenging).await;
        let _ = tokio::time::timeout_at(deadline, self.maintaining).await;
        // The listener still answers: handing leadership over needs peers.
        if tokio::time::timeout_at(deadline, self.context.node.shutdown()).await.is_err() {
            tracing::warn!(?timeout, "the node did not stop in time; it will recover at the next start");
        }
        self.stop_listening.cancel();
        let mut listening = self.listening;
        // Every call has its answer now. What is left are clients that do not take it, and
        // they know where they were: a slow reader is no reason to be away for longer.
        let taken = deadline.min(tokio::time::Instant::now() + TAKEN_WITHIN);
        if tokio::time::timeout_at(taken, &mut listening).await.is_err() {
            tracing::warn!("cutting off calls whose clients did not take their end in time");
            self.cut.cancel();
            // Now nothing waits any more, so that this ends at once.
            let _ = listening.await;
        }
        self.context.access.local_token.take_away();
        self.ticking.abort();
        if let Some(reloading) = self.reloading {
            reloading.abort();
        }
        self.context.stopped.cancel();
        self.telemetry.stop().await;
        tracing::info!("stopped");
    }
}

fn first_admin(config: &Config) -> Result<FirstAdmin, RunError> {
    let file = config.admin_password_file.as_deref();
    FirstAdmin::read(file).map_err(|source| RunError::AdminPassword {
        file: file.map(|file| file.display().to_string()).unwrap_or_default(),
        source,
    })
}

async fn open(config: &Config, connect: Arc<dyn Connect>, metrics: Metrics) -> Result<Node, RunError> {
    let node = annals_raft::Config {
        bootstrap: config.bootstrap.clone(),
        seeds: seeds::of(config),
        expect: config.bootstrap_expect as usize,
        name: config.own_name(),
        replica: config.replica,
        leave_on_shutdown: config.leave_on_shutdown,
        voters_max: config.voters_max as usize,
        version: version::VERSION.to_owned(),
        store: annals_store::Options {
            memtable_bytes: bytes(config.memtable_bytes),
            block_cache_bytes: bytes(config.block_cache_bytes),
            ring_bytes: bytes(config.ring_bytes),
        },
        heartbeat: Duration::from_millis(config.heartbeat_ms),
        election_min: Duration::from_millis(config.election_min_ms),
        election_max: Duration::from_millis(config.election_max_ms),
        append_queue_bytes: bytes(config.append_queue_bytes),
        log_keep_bytes: config.log_keep_bytes,
        catch_up_bytes_per_second: config.catch_up_bytes_per_second,
        log_keep_entries: config.log_keep_entries,
        disk_reserve_bytes: config.disk_reserve_bytes,
        connect,
        priority: config.node_priority,
        observer: Arc::new(metrics),
        ..annals_raft::Config::new(&config.data, config.own_address())
    };
    Node::open(node).await.map_err(|source| RunError::Open { data: config.data.display().to_string(), source })
}

/// Tells health that the runtime still runs tasks, and ends who does not read.
async fn tick(context: Arc<Context>) {
    let mut interval = tokio::time::interval(health::TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        context.health.tick(&context.node.status());
        let given_up = context.stalls.sweep();
        if given_up > 0 {
            context.metrics.readers_given_up(given_up);
            tracing::info!(given_up, "readers took nothing for too long and were ended");
        }
    }
}

fn bytes(configured: u64) -> usize {
    usize::try_from(configured).unwrap_or(usize::MAX)
}
