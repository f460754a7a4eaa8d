//! The node: what a process needs of replication.
//!
//! The life of an append: [`Node::append`] hands the command to the
//! [`crate::proposer`], here or on the leader ([`crate::forward`]); it becomes
//! part of an entry, which [`crate::log_store`] and [`crate::flusher`] make
//! durable while [`crate::network`] carries it to the peers; when a quorum has
//! it, [`crate::state_machine`] applies it, and the outcome goes back the way
//! the command came.
//!
//! The life of a node: it waits for an identity ([`crate::bootstrap`],
//! [`crate::admin`]), takes part, and stops in the reverse order of its start.
//! Whatever would make it go on half-alive ends the process.

pub(crate) mod beginning;
mod disks;
mod leaving;
pub(crate) mod reads;
mod view;
pub(crate) mod watching;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

#[cfg(feature = "seeded-bugs")]
use annals_core::seeded::{self, Bug};
use annals_core::{Command, Outcome, Position};
use annals_proto::annals::internal::v1 as pb;
use annals_store::Store;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use crate::admin::{self, Admin, AdminRequest};
use crate::bootstrap;
use crate::config::Config;
use crate::departure;
use crate::error::{AdminError, AppendError, BarrierError, OpenError};
use crate::forward::Forwarder;
use crate::founders::Founders;
use crate::identity::{self, Identity};
use crate::join;
use crate::lineage::Lineage;
use crate::log_store::LogStore;
use crate::maintenance;
use crate::network::Channels;
use crate::peer_memory::PeerMemory;
use crate::priority;
use crate::promotion;
use crate::proposer::{Kind, Proposer};
use crate::read_index::ReadIndex;
use crate::recover;
use crate::service::NodeServices;
use crate::snapshot::{CatchUps, Transfers};
use crate::state_machine::StateMachine;
use crate::status::{Phase, Status};
use crate::survey::{self, Survey};
use crate::types::{Metrics, NodeInfo, Raft};
use disks::{Disks, lock};
use view::no_status;
use watching::keep_status;

/// Pause before a command or read is tried again for want of a leader.
const RETRY: Duration = Duration::from_millis(25);

/// How often a node without an identity says that it is called as if it had one.
const TURNED_AWAY_EVERY: Duration = Duration::from_secs(30);

/// A node. Clones share it. It lives until [`Node::shutdown`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// Who may carry out an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The leader, wherever it is.
    Forward,
    /// This node, if it leads; otherwise [`AppendError::NotLeader`].
    LeaderOnly,
}

struct Inner {
    config: Config,
    store: Store,
    log: LogStore,
    incarnation: Uuid,
    identity: OnceLock<Identity>,
    /// Clusters that this directory belonged to before it was recovered.
    former_clusters: Vec<Uuid>,
    founders: Founders,
    memory: PeerMemory,
    survey: Survey,
    /// Why this data directory must not be used any more, once that is known.
    outdated: watch::Sender<Option<String>>,
    /// As whom a cluster has called this node, which has no identity, and when that
    /// was last told in the log.
    turned_away: Mutex<Option<(u64, Instant)>>,
    /// One adoption at a time.
    adoption: Semaphore,
    running: OnceLock<Running>,
    channels: Arc<Channels>,
    transfers: Arc<Transfers>,
    free_bytes: Arc<AtomicU64>,
    durable: AtomicU64,
    priority: AtomicI32,
    priority_changed: Notify,
    phase: watch::Sender<Phase>,
    status: watch::Sender<Status>,
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Held as long as the node is open.
    lock: Mutex<Option<File>>,
}

/// What exists once a node has an identity and takes part.
pub(crate) struct Running {
    pub(crate) identity: Identity,
    pub(crate) raft: Raft,
    pub(crate) machine: StateMachine,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) proposer: Proposer,
    pub(crate) leader_reads: ReadIndex,
    pub(crate) admin: Admin,
    pub(crate) catch_ups: Arc<CatchUps>,
    pub(crate) removed: watch::Sender<bool>,
    pub(crate) outdated: watch::Sender<Option<String>>,
    pub(crate) memory: PeerMemory,
    /// Is told the leader whose stream broke.
    pub(crate) broken_streams: watch::Sender<u64>,
    reads: ReadIndex,
    forwarder: Arc<Forwarder>,
}

impl Node {
    /// Opens the data directory, checks that it is complete and this node's
    /// own, and takes part if it has an identity. Otherwise it waits, or forms
    /// a cluster with the nodes of its bootstrap list.
    ///
    /// It does not listen by itself: mount [`Node::services`] on a listener at
    /// the configured address.
    ///
    /// # Errors
    /// [`OpenError`]. [`OpenError::InUse`] passes by itself when the other
    /// process ends; the others need somebody to look.
    pub async fn open(config: Config) -> Result<Node, OpenError> {
        config.validate()?;
        let lock = lock(&config).await?;
        departure::begin_anew(&config)?;
        let opening = config.clone();
        let disks = tokio::task::spawn_blocking(move || Disks::open(&opening))
            .await
            .map_err(|error| OpenError::Raft(error.to_string()))??;
        let founders = Founders::load(&config.data, disks.identity.is_some(), &config.bootstrap)?;
        let phase = if founders.list().is_empty() { Phase::Waiting } else { Phase::Bootstrapping };
        let incarnation = disks.identity.map_or_else(Uuid::new_v4, |identity| identity.incarnation);
        let removed = identity::was_removed(&config.data);
        if let Some(why) = identity::was_outdated(&config.data) {
            return Err(OpenError::Outdated { path: config.data, why });
        }
        let former_clusters = recover::former_clusters(&config.data).map_err(|source| OpenError::Io {
            action: "read what was recovered in",
            path: config.data.clone(),
            source,
        })?;
        let node = Node {
            inner: Arc::new(Inner {
                store: disks.store,
                log: disks.log,
                incarnation,
                former_clusters,
                identity: disks.identity.map_or_else(OnceLock::new, OnceLock::from),
                founders,
                memory: disks.memory,
                survey: Survey::default(),
                outdated: watch::Sender::new(None),
                turned_away: Mutex::new(None),
                adoption: Semaphore::new(1),
                running: OnceLock::new(),
                channels: Arc::new(Channels::new(config.connect.clone())),
                transfers: Arc::default(),
                free_bytes: Arc::new(AtomicU64::new(u64::MAX)),
                durable: AtomicU64::new(0),
                priority: AtomicI32::new(config.priority),
                priority_changed: Notify::new(),
                phase: watch::Sender::new(if removed { Phase::Removed } else { phase }),
                status: watch::Sender::new(no_status(incarnation)),
                stopping: CancellationToken::new(),
                tasks: TaskTracker::new(),
                lock: Mutex::new(Some(lock)),
                config,
            }),
        };
        maintenance::measure_disk(&node);
        match node.identity() {
            Some(_) if removed => {
                tracing::warn!("this node was removed from its cluster: it takes no part any more");
            }
            Some(identity) => {
                if let Err(refusal) = node.take_part(identity).await {
                    node.shutdown().await;
                    return Err(refusal);
                }
            }
            None if node.config().bootstrap.is_empty() && node.config().seeds.is_none() => tracing::info!(
                address = node.config().address,
                "this node belongs to no cluster yet and waits to be added (annals cluster add)"
            ),
            None => {}
        }
        node.publish_status();
        node.inner.tasks.spawn(maintenance::run(node.clone()));
        node.inner.tasks.spawn(keep_status(node.clone()));
        node.inner.tasks.spawn(priority::run(node.clone()));
        node.inner.tasks.spawn(promotion::run(node.clone()));
        node.inner.tasks.spawn(survey::run(node.clone()));
        if node.config().seeds.is_some() && !removed {
            node.inner.tasks.spawn(join::run(node.clone()));
        }
        if !node.config().bootstrap.is_empty() && !removed {
            node.inner.tasks.spawn(bootstrap::run(node.clone()));
            #[cfg(feature = "seeded-bugs")]
            node.inner.tasks.spawn(crate::mistakes::take_old_identity(node.clone()));
        }
        Ok(node)
    }

    /// The services that peers call. Mount them once.
    pub fn services(&self) -> NodeServices {
        NodeServices::new(self.clone())
    }

    /// The event store, for reads. Reads at once are *local*: make them
    /// linearizable with [`Node::read_barrier`] first.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Has a command decided and, if it is accepted, made durable on a quorum
    /// and applied on the leader. On return with `Ok` the outcome is final.
    ///
    /// Dropping the future does not withdraw a command that was proposed.
    ///
    /// # Errors
    /// [`AppendError`]: everything but `Unknown` was certainly not applied.
    pub async fn append(&self, command: Command, route: Route, deadline: Instant) -> Result<Outcome, AppendError> {
        let command = command.encode();
        #[cfg(feature = "seeded-bugs")]
        let mut command = command;
        let mut tried_before = false;
        loop {
            if self.is_stopping() {
                return Err(AppendError::ShuttingDown);
            }
            let leader = self.leader();
            let error = match (self.running(), &leader) {
                (None, _) => AppendError::NotReady("it takes no part in a cluster".into()),
                (Some(running), Some((id, _))) if *id == running.identity.node => {
                    match running.proposer.append(command.clone(), Kind::of(&command), deadline).await {
                        Err(error @ AppendError::NotLeader { .. }) => error,
                        #[cfg(feature = "seeded-bugs")]
                        Err(error @ AppendError::Unknown(_)) if seeded::is(Bug::S21) => {
                            command = crate::mistakes::with_fresh_ids(&command);
                            error
                        }
                        // Not the queue was too long, but the search for a leader.
                        Err(AppendError::Overloaded) if tried_before => AppendError::NotLeader { leader: None },
                        result => return result,
                    }
                }
                (Some(_), _) if route == Route::LeaderOnly => {
                    AppendError::NotLeader { leader: leader.map(|(id, node)| (id, node.address)) }
                }
                (Some(running), Some((id, node))) => {
                    match running.forwarder.forward(*id, node, command.clone(), deadline).await {
                        Err(error @ AppendError::NotLeader { .. }) => error,
                        #[cfg(feature = "seeded-bugs")]
                        Err(error @ AppendError::Unknown(_)) if seeded::is(Bug::S21) => {
                            command = crate::mistakes::with_fresh_ids(&command);
                            error
                        }
                        Err(AppendError::Overloaded) if tried_before => AppendError::NotLeader { leader: None },
                        result => return result,
                    }
                }
                (Some(_), None) => AppendError::NotReady("no leader is known".into()),
            };
            if route == Route::LeaderOnly {
                return Err(error);
            }
            // Certainly not applied, so it may be tried again.
            if Instant::now() + RETRY >= deadline {
                return Err(match error {
                    AppendError::NotLeader { .. } => AppendError::NotReady("no leader could take it".into()),
                    other => other,
                });
            }
            tried_before = true;
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.inner.stopping.cancelled() => {}
            }
        }
    }

    /// On return, [`Node::store`] shows everything that was acknowledged by
    /// any node before the call, on whatever node this is.
    ///
    /// # Errors
    /// [`BarrierError`]: the store must not be read as linearizable.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), BarrierError> {
        loop {
            let Some(running) = self.running() else { return Err(BarrierError::NoLeader) };
            let error = match tokio::time::timeout_at(deadline.into(), running.reads.get()).await {
                Ok(Ok(applied)) => return self.wait_applied(running, applied, deadline).await,
                Ok(Err(error @ BarrierError::ShuttingDown)) => return Err(error),
                Ok(Err(BarrierError::NoLeader | BarrierError::NotLeader { .. } | BarrierError::TimedOut)) => {
                    BarrierError::NoLeader
                }
                Err(_) => return Err(BarrierError::TimedOut),
            };
            if Instant::now() + RETRY >= deadline {
                return Err(error);
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.inner.stopping.cancelled() => return Err(BarrierError::ShuttingDown),
            }
        }
    }

    async fn wait_applied(&self, running: &Running, applied: u64, deadline: Instant) -> Result<(), BarrierError> {
        let mut progress = running.applied.clone();
        tokio::select! {
            reached = progress.wait_for(|now| *now >= applied) => reached.map(|_| ()).map_err(|_| BarrierError::ShuttingDown),
            () = tokio::time::sleep_until(deadline.into()) => Err(BarrierError::TimedOut),
            () = self.inner.stopping.cancelled() => Err(BarrierError::ShuttingDown),
        }
    }

    /// On return, [`Node::store`] shows the event at `at_least`.
    ///
    /// # Errors
    /// [`BarrierError::TimedOut`] or [`BarrierError::ShuttingDown`].
    pub async fn wait_for(&self, at_least: Position, deadline: Instant) -> Result<(), BarrierError> {
        let mut tail = self.inner.store.watch_tail();
        tokio::select! {
            reached = tail.wait_for(|tail| *tail >= at_least) => reached.map(|_| ()).map_err(|_| BarrierError::ShuttingDown),
            () = tokio::time::sleep_until(deadline.into()) => Err(BarrierError::TimedOut),
            () = self.inner.stopping.cancelled() => Err(BarrierError::ShuttingDown),
        }
    }

    /// How much this node should lead: a leader hands over to a voter with a higher
    /// number.
    pub fn priority(&self) -> i32 {
        self.inner.priority.load(Ordering::Relaxed)
    }

    /// Sets [`Node::priority`] until the process ends. If this node leads, it looks
    /// at once who should lead instead.
    pub fn set_priority(&self, priority: i32) {
        self.inner.priority.store(priority, Ordering::Relaxed);
        self.inner.priority_changed.notify_one();
        tracing::info!(priority, "the priority of this node is set");
    }

    /// Why this node must not go on, once that is known: it runs on an outdated
    /// copy of its disk. It takes no part any more, and the process is to end.
    pub async fn outdated(&self) -> String {
        let mut outdated = self.inner.outdated.subscribe();
        let why = outdated.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            // Dropped together with the node: there is nothing to wait for.
            None => std::future::pending().await,
        }
    }

    /// How the node is doing, now.
    pub fn status(&self) -> Status {
        self.make_status()
    }

    /// How the node is doing, each time it changes in a way that matters
    /// (phase, role, leader, members), and about twice a second.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// Carries out a change of the membership, from any node. Answers the id
    /// of the node it was about.
    ///
    /// # Errors
    /// [`AdminError`]. Every request can be repeated.
    pub async fn administer(&self, request: AdminRequest, deadline: Instant) -> Result<u64, AdminError> {
        loop {
            if self.inner.stopping.is_cancelled() {
                return Err(AdminError::ShuttingDown);
            }
            let result = match (self.running(), self.leader()) {
                (Some(running), Some((id, _))) if id == running.identity.node => {
                    running.admin.carry_out(request.clone(), deadline).await
                }
                (Some(running), Some((id, node))) => self.administer_at(running, id, &node, &request, deadline).await,
                (None, _) | (_, None) => Err(AdminError::NoLeader),
            };
            match result {
                Err(AdminError::NoLeader) if Instant::now() + RETRY * 4 < deadline => {
                    tokio::time::sleep(RETRY * 4).await;
                }
                result => return result,
            }
        }
    }

    async fn administer_at(
        &self,
        running: &Running,
        leader: u64,
        node: &NodeInfo,
        request: &AdminRequest,
        deadline: Instant,
    ) -> Result<u64, AdminError> {
        let Ok(mut client) = self.inner.channels.coordination(&node.address) else { return Err(AdminError::NoLeader) };
        let left = deadline.saturating_duration_since(Instant::now());
        let message = running.identity.sign(leader, node, admin::write_request(request, left));
        match tokio::time::timeout(left, client.administer(message)).await {
            Ok(Ok(reply)) => admin::read_reply(reply.into_inner()),
            // Refused before anything was done.
            Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => Err(AdminError::NoLeader),
            Ok(Err(status)) => Err(AdminError::Unknown(status.message().to_owned())),
            Err(_) => Err(AdminError::Unknown("the leader did not answer before the deadline".into())),
        }
    }
}

// What the other modules of this crate need of the node.
impl Node {
    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn founders(&self) -> &Founders {
        &self.inner.founders
    }

    pub(crate) fn survey(&self) -> &Survey {
        &self.inner.survey
    }

    pub(crate) fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.inner.phase.subscribe()
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.inner.phase.borrow()
    }

    /// As whom a cluster has called this node while it had no identity.
    pub(crate) fn called_as(&self) -> Option<u64> {
        self.inner.turned_away.lock().map(|(node, _)| node).filter(|_| self.identity().is_none())
    }

    pub(crate) fn log(&self) -> &LogStore {
        &self.inner.log
    }

    pub(crate) fn channels(&self) -> &Arc<Channels> {
        &self.inner.channels
    }

    pub(crate) fn transfers(&self) -> &Arc<Transfers> {
        &self.inner.transfers
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.inner.stopping
    }

    pub(crate) fn free_bytes(&self) -> &AtomicU64 {
        &self.inner.free_bytes
    }

    pub(crate) async fn priority_changed(&self) {
        self.inner.priority_changed.notified().await;
    }

    /// How many entries survive a crash without the log, as last looked up.
    pub(crate) fn durable(&self) -> u64 {
        self.inner.durable.load(Ordering::Relaxed)
    }

    pub(crate) fn note_durable(&self, entries: u64) {
        self.inner.durable.store(entries, Ordering::Relaxed);
    }

    pub(crate) fn former_clusters(&self) -> &[Uuid] {
        &self.inner.former_clusters
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        self.inner.identity.get().copied()
    }

    /// What runs here, none before this node has an identity or after it was
    /// removed.
    pub(crate) fn running(&self) -> Option<&Running> {
        match *self.inner.phase.borrow() {
            Phase::Removed | Phase::Outdated | Phase::Stopped => None,
            Phase::Waiting | Phase::Bootstrapping | Phase::Recovering | Phase::Ready | Phase::ShuttingDown => {
                self.inner.running.get()
            }
        }
    }

    /// Somebody calls although nothing runs here. A node without an identity
    /// says what it waits for: its disk may have been emptied or lost.
    pub(crate) fn turned_away(&self, headers: &MetadataMap) {
        let Some(node) = identity::addressee(headers).filter(|_| self.identity().is_none()) else { return };
        let mut last = self.inner.turned_away.lock();
        if last.is_some_and(|(_, told)| told.elapsed() < TURNED_AWAY_EVERY) {
            return;
        }
        *last = Some((node, Instant::now()));
        tracing::warn!(
            "a cluster calls this node as its node {node}, but the data directory {} is empty: \
             if its disk was lost, let this one take its place as a new node \
             (annals cluster replace {node} --with {}); otherwise give it its data directory",
            self.inner.config.data.display(),
            self.inner.config.address
        );
    }

    pub(crate) fn probe(&self) -> pb::ProbeReply {
        let config = &self.inner.config;
        let identity = self.identity();
        let applied = self.running().map_or(0, |running| running.applied.borrow().saturating_sub(1));
        pb::ProbeReply {
            has_identity: identity.is_some(),
            cluster: identity.map(|identity| identity.cluster.as_bytes().to_vec()).unwrap_or_default().into(),
            node: identity.map_or(0, |identity| identity.node),
            bootstrap: self.inner.founders.list(),
            initialized: !self.inner.log.is_pristine(),
            incarnation: self.inner.incarnation.as_bytes().to_vec().into(),
            priority: self.priority(),
            address: config.address.clone(),
            name: config.name.clone(),
            replica: config.replica,
            expect: u32::try_from(config.expect).unwrap_or(u32::MAX),
            version: config.version.clone(),
            applied,
        }
    }

    /// Takes an identity and begins to take part, as one of the `founders` of a
    /// cluster or, where these are none, as a new node of one that exists. Does
    /// nothing where it has this very identity already. Answers this directory's
    /// incarnation.
    ///
    /// # Errors
    /// A sentence that says why this node keeps what it has.
    pub(crate) async fn adopt(
        &self,
        cluster: Uuid,
        node: u64,
        address: &str,
        founders: &[String],
    ) -> Result<Uuid, String> {
        let _permit = self.inner.adoption.acquire().await.map_err(|_| "the node is shutting down".to_owned())?;
        if let Some(identity) = self.identity() {
            return if (identity.cluster, identity.node) == (cluster, node) {
                Ok(identity.incarnation)
            } else {
                Err(format!("this is node {} of cluster {}", identity.node, identity.cluster))
            };
        }
        if address != self.inner.config.address {
            return Err(format!("this node's address is {}, not {address}", self.inner.config.address));
        }
        if node == 0 {
            return Err("0 is no node id".into());
        }
        let lineage = Lineage::default();
        let identity = Identity { cluster, node, incarnation: self.inner.incarnation, lineage }.started();
        let (own, founders) = (self.clone(), founders.to_vec());
        let write = move || {
            let data = &own.inner.config.data;
            if !founders.is_empty() {
                own.inner.founders.freeze(data, &founders)?;
            }
            identity.store(data).map_err(|error| format!("the identity could not be written: {error}"))
        };
        tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string())??;
        if self.inner.identity.set(identity).is_err() {
            unreachable!("one adoption at a time, and there was no identity before");
        }
        tracing::info!(%cluster, node, "this node has an identity now");
        self.take_part(identity).await.map_err(|error| error.to_string())?;
        self.publish_status();
        Ok(identity.incarnation)
    }

    /// Whether this node's log has begun.
    pub(crate) async fn is_initialized(&self) -> bool {
        match self.running() {
            Some(running) => running.raft.is_initialized().await.unwrap_or(false),
            None => false,
        }
    }

    /// Whether this node's log holds anything.
    pub(crate) fn has_begun(&self) -> bool {
        !self.inner.log.is_pristine()
    }

    /// Begins the log with these voters.
    pub(crate) async fn initialize(&self, members: BTreeMap<u64, NodeInfo>) -> Result<(), String> {
        let running = self.running().ok_or("this node has no identity")?;
        match running.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn is_stopping(&self) -> bool {
        self.inner.stopping.is_cancelled() || *self.inner.phase.borrow() == Phase::ShuttingDown
    }

    /// The leader that is known, with what the membership says of it.
    fn leader(&self) -> Option<(u64, NodeInfo)> {
        let metrics = self.running()?.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let node = metrics.membership_config.get_node(&leader)?.clone();
        Some((leader, node))
    }
}

impl Running {
    /// A copy: a borrow would hold up the consensus library's core.
    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }
}
