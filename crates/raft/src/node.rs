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

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use annals_core::seeded::{self, Bug};
use annals_core::{Command, Outcome, Position, Timestamp};
use annals_proto::annals::internal::v1 as pb;
use annals_store::Store;
use futures::FutureExt;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, LinearizableReadError, RaftError};
use openraft::storage::{RaftStateMachine, StorageHelper};
use openraft::{ReadPolicy, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use crate::admin::{self, Actor, Admin, AdminRequest, NetworkPeers};
use crate::bootstrap;
use crate::config::Config;
use crate::departure;
use crate::error::{AdminError, AppendError, BarrierError, OpenError};
use crate::forward::Forwarder;
use crate::founders::Founders;
use crate::identity::{self, Identity};
use crate::introduction::{self, Introduction};
use crate::join;
use crate::ledger::Ledger;
use crate::lineage::Lineage;
use crate::log_store::LogStore;
use crate::maintenance;
use crate::network::{Channels, Dialer, Network};
use crate::peer_memory::PeerMemory;
use crate::priority;
use crate::promotion;
use crate::proposer::{Kind, Proposer, Surroundings};
use crate::read_index::ReadIndex;
use crate::recover;
use crate::restore;
use crate::service::NodeServices;
use crate::snapshot::{CatchUps, Transfers};
use crate::state_machine::StateMachine;
use crate::status::{Member, Phase, Role, Status};
use crate::survey::{self, Survey};
use crate::types::{Membership, Metrics, NodeInfo, Raft, TypeConfig, index_of};
use crate::witness::Witness;

/// How long an open waits for another process to let go of the directory: a
/// restart may overlap with the end of the one before.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Pause before a command or read is tried again for want of a leader.
const RETRY: Duration = Duration::from_millis(25);

/// How long the leader may take to confirm that it leads.
const READ_INDEX: Duration = Duration::from_secs(2);

/// How often a status is made even if nothing is known to have changed.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// How long leadership may take to be handed over at shutdown.
const HAND_OVER: Duration = Duration::from_secs(2);

/// How long a replica may take to leave the cluster at shutdown.
const LEAVE: Duration = Duration::from_secs(3);

/// How long what was proposed may take to be answered at shutdown.
const DRAIN: Duration = Duration::from_secs(1);

/// How often a node without an identity says that it is called as if it had one.
const TURNED_AWAY_EVERY: Duration = Duration::from_secs(30);

/// A peer that was heard of within this time counts as reachable.
const REACHABLE: Duration = Duration::from_secs(3);

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
    /// Whether it is being looked into whether the leader is gone.
    pub(crate) looking: AtomicBool,
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

    /// Stops: hands leadership over if it leads (within 2 s), takes no more
    /// part, flushes the state and lets go of the disks. Later calls fail.
    pub async fn shutdown(&self) {
        if self.inner.stopping.is_cancelled() {
            return;
        }
        self.leave().await;
        self.inner.phase.send_replace(Phase::ShuttingDown);
        self.publish_status();
        if let Some(running) = self.running() {
            self.hand_over(running).await;
            // What is under way gets its outcome, if it comes soon.
            let _ = tokio::time::timeout(DRAIN, running.proposer.drained()).await;
        }
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        if let Some(running) = self.running()
            && let Err(error) = running.raft.shutdown().await
        {
            tracing::warn!(%error, "replication did not stop cleanly");
        }
        if tokio::time::timeout(Duration::from_secs(5), self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        let store = self.inner.store.clone();
        match tokio::task::spawn_blocking(move || store.close()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the state could not be flushed; it will be applied again from the log")
            }
            Err(error) => tracing::error!(%error, "the state could not be flushed"),
        }
        self.inner.log.close().await;
        self.inner.phase.send_replace(Phase::Stopped);
        self.publish_status();
        drop(self.inner.lock.lock().take());
    }

    /// Leaves the cluster, if this node is one that comes and goes.
    async fn leave(&self) {
        let config = &self.inner.config;
        let status = self.status();
        let is_replica = status.members.iter().any(|member| member.id == status.node && member.replica);
        if !config.leave_on_shutdown || !is_replica || status.phase == Phase::Removed {
            return;
        }
        if let Err(error) = departure::announce(&config.data) {
            tracing::error!(%error, "this replica stays in its cluster: that it leaves could not be written down");
            return;
        }
        let request = AdminRequest::Remove { node: status.node, force: false };
        match self.administer(request, Instant::now() + LEAVE).await {
            Ok(_) => tracing::info!("this replica has left its cluster"),
            Err(error) => tracing::warn!(%error, "this replica could not leave its cluster"),
        }
    }

    async fn hand_over(&self, running: &Running) {
        let metrics = running.metrics();
        if metrics.state != ServerState::Leader {
            return;
        }
        let voters = metrics.membership_config.voter_ids().collect();
        let Some(to) = admin::most_advanced(&metrics, running.identity.node, &voters) else { return };
        if running.raft.trigger().transfer_leader(to).await.is_err() {
            return;
        }
        let mut changes = running.raft.server_metrics();
        let handed_over = async {
            while changes.borrow_watched().current_leader == Some(running.identity.node) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(HAND_OVER, handed_over).await.is_err() {
            tracing::warn!(to, "leadership was not taken over in time");
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

    /// Starts everything that needs an identity.
    async fn take_part(&self, identity: Identity) -> Result<(), OpenError> {
        let inner = &self.inner;
        let config = &inner.config;
        let failed = |error: &dyn std::fmt::Display| OpenError::Raft(error.to_string());
        let removed = watch::Sender::new(false);
        let machine = StateMachine::new(
            identity.node,
            inner.store.clone(),
            inner.log.clone(),
            config.observer.clone(),
            removed.clone(),
        )
        .map_err(|error| failed(&error))?;
        machine.bring_snapshot_up_to_date().await.map_err(|error| failed(&error))?;
        let membership = StorageHelper::new(&mut inner.log.clone(), &mut machine.clone()).get_membership().await;
        let membership = membership.map_err(|error| failed(&error))?.effective().membership().clone();
        address_as_known(config, identity.node, &membership)?;
        let introduction = Introduction { identity, channels: inner.channels.clone(), memory: inner.memory.clone() };
        let mut known = BTreeSet::new();
        introduction.to_all(&membership, &mut known).await.map_err(|why| self.refused_as_outdated(why))?;
        let dialer = Dialer {
            identity,
            address: config.address.clone(),
            channels: inner.channels.clone(),
            transfers: inner.transfers.clone(),
            observer: config.observer.clone(),
            removed: removed.clone(),
            outdated: inner.outdated.clone(),
            memory: inner.memory.clone(),
            ledger: Ledger::default(),
        };
        let raft = Raft::new(
            identity.node,
            Arc::new(raft_config(config, identity).map_err(|error| failed(&error))?),
            Network::new(Arc::new(dialer)),
            inner.log.clone(),
            machine.clone(),
        )
        .await
        .map_err(|error| failed(&error))?;

        let (proposer, proposing) = Proposer::new(
            config.append_queue_bytes,
            Surroundings {
                raft: raft.clone(),
                clock: || Timestamp::from(SystemTime::now()),
                observer: config.observer.clone(),
                free_bytes: inner.free_bytes.clone(),
                reserve_bytes: config.disk_reserve_bytes,
                stopping: inner.stopping.clone(),
                #[cfg(feature = "seeded-bugs")]
                mistakes: crate::mistakes::Proposing::new(inner.store.clone(), inner.log.clone(), raft.clone()),
            },
        );
        let (leader_reads, asking_quorum) = ReadIndex::new({
            let raft = raft.clone();
            move || ask_quorum(raft.clone()).boxed()
        });
        let (reads, asking_leader) = ReadIndex::new({
            let (raft, channels, own) = (raft.clone(), inner.channels.clone(), leader_reads.clone());
            move || ask_leader(raft.clone(), channels.clone(), identity, own.clone()).boxed()
        });
        let (admin, administering) = Admin::new(Actor {
            raft: raft.clone(),
            identity,
            proposer: proposer.clone(),
            peers: Arc::new(NetworkPeers { identity, channels: inner.channels.clone() }),
        });
        let forwarder = Arc::new(Forwarder::new(
            identity,
            inner.channels.clone(),
            config.observer.clone(),
            inner.tasks.clone(),
            inner.stopping.clone(),
            config.append_queue_bytes,
        ));
        let running = Running {
            identity,
            applied: machine.watch_applied(),
            raft: raft.clone(),
            machine,
            proposer,
            leader_reads,
            admin,
            catch_ups: Arc::default(),
            removed: removed.clone(),
            outdated: inner.outdated.clone(),
            looking: AtomicBool::new(false),
            memory: inner.memory.clone(),
            reads,
            forwarder,
        };
        inner.phase.send_replace(if inner.log.is_pristine() && inner.founders.is_written() {
            Phase::Bootstrapping
        } else {
            Phase::Recovering
        });
        let stop = inner.stopping.clone();
        let tasks = &inner.tasks;
        tasks.spawn(proposing);
        tasks.spawn(until(stop.clone(), asking_quorum));
        tasks.spawn(until(stop.clone(), asking_leader));
        tasks.spawn(until(stop.clone(), administering));
        if inner.running.set(running).is_err() {
            unreachable!("a node begins to take part once");
        }
        tasks.spawn(until(stop.clone(), watch_core(self.clone(), raft.clone())));
        tasks.spawn(until(stop.clone(), watch_recovery(self.clone(), raft.clone())));
        tasks.spawn(until(stop.clone(), watch_removal(self.clone(), removed.subscribe())));
        tasks.spawn(until(stop.clone(), watch_outdated(self.clone())));
        tasks.spawn(until(stop, introduction::run(self.clone(), introduction, known)));

        // Alone there is nobody to wait for.
        let metrics = raft.metrics().borrow_watched().clone();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        if voters == [identity.node] {
            raft.trigger().elect(false).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Remembers why this data directory must not be used any more.
    fn refused_as_outdated(&self, why: String) -> OpenError {
        let path = self.inner.config.data.clone();
        if let Err(error) = identity::mark_outdated(&path, &why) {
            tracing::error!(%error, "that this directory is outdated could not be remembered in it");
        }
        OpenError::Outdated { path, why }
    }

    fn publish_status(&self) {
        let status = self.make_status();
        self.inner.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    fn make_status(&self) -> Status {
        let inner = &self.inner;
        let phase = *inner.phase.borrow();
        let identity = self.identity();
        let mut status = no_status(inner.incarnation);
        status.phase = phase;
        status.cluster = identity.map(|identity| identity.cluster);
        status.node = identity.map_or(0, |identity| identity.node);
        status.durable = self.durable().saturating_sub(1);
        let Some(running) = inner.running.get() else { return status };
        let metrics = running.metrics();
        let takes_part = !matches!(phase, Phase::Removed | Phase::Outdated | Phase::Stopped);
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        status.role = match metrics.state {
            ServerState::Leader if takes_part => Role::Leader,
            ServerState::Follower if takes_part => Role::Follower,
            ServerState::Candidate if takes_part => Role::Candidate,
            ServerState::Leader
            | ServerState::Follower
            | ServerState::Candidate
            | ServerState::Learner
            | ServerState::Shutdown => Role::Learner,
        };
        status.term = metrics.current_term;
        status.leader = metrics
            .current_leader
            .filter(|_| takes_part)
            .and_then(|leader| metrics.membership_config.get_node(&leader).map(|node| (leader, node.address.clone())));
        let leads = status.role == Role::Leader;
        status.members = metrics
            .membership_config
            .nodes()
            .map(|(id, node)| {
                let matched = if !leads {
                    None
                } else if *id == running.identity.node {
                    metrics.last_log_index
                } else {
                    let matched = metrics.replication.as_ref().and_then(|all| all.get(id)).and_then(Option::as_ref);
                    matched.map(|matched| matched.index())
                };
                let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(id)).and_then(Option::as_ref);
                let reachable = *id == running.identity.node
                    || heard.is_some_and(|heard| heard.elapsed() < REACHABLE)
                    || (!leads && metrics.current_leader == Some(*id));
                let mut member = Member {
                    id: *id,
                    address: node.address.clone(),
                    voter: voters.contains(id),
                    matched,
                    reachable,
                    name: node.called().to_owned(),
                    replica: node.replica,
                    replaces: Some(node.replaces).filter(|old| metrics.membership_config.get_node(old).is_some()),
                    version: None,
                    applied: None,
                };
                if *id == running.identity.node {
                    member.version = Some(inner.config.version.clone()).filter(|version| !version.is_empty());
                    member.applied = Some(running.applied.borrow().saturating_sub(1));
                } else {
                    inner.survey.complete(&mut member);
                }
                member
            })
            .collect();
        status.last_log = metrics.last_log_index.unwrap_or(0);
        status.committed = index_of(metrics.cluster_committed.as_ref()).max(index_of(metrics.local_committed.as_ref()));
        status.applied = running.applied.borrow().saturating_sub(1);
        status.snapshot = index_of(metrics.snapshot.as_ref());
        status.purged = index_of(metrics.purged.as_ref());
        status.quorum_acked_ago = metrics.last_quorum_acked.map(|acked| acked.elapsed()).filter(|_| leads);
        status
    }
}

impl Running {
    /// A copy: a borrow would hold up the consensus library's core.
    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }
}

fn no_status(incarnation: Uuid) -> Status {
    Status {
        cluster: None,
        node: 0,
        incarnation,
        phase: Phase::Waiting,
        role: Role::Learner,
        term: 0,
        leader: None,
        members: Vec::new(),
        last_log: 0,
        committed: 0,
        applied: 0,
        durable: 0,
        snapshot: 0,
        purged: 0,
        quorum_acked_ago: None,
    }
}

// ------------------------------------------------------------- opening -----

/// What lies on disk.
struct Disks {
    /// With this start in it, durably.
    identity: Option<Identity>,
    memory: PeerMemory,
    store: Store,
    log: LogStore,
}

impl Disks {
    fn open(config: &Config) -> Result<Disks, OpenError> {
        let data = &config.data;
        let damaged = |why: &str| OpenError::Damaged { path: data.clone(), why: why.to_owned() };
        let io = |action: &'static str| move |source| OpenError::Io { action, path: data.clone(), source };
        if restore::is_unfinished(data) {
            return Err(damaged("a restore into it was not finished: run `annals backup restore` again"));
        }
        let identity = Identity::load(data)?;
        let node = identity.map_or(0, |identity| identity.node);
        let witness = match Witness::open(data).map_err(io("read the witness in"))? {
            Some(witness) => witness,
            // The witness is made before the identity, so it was there.
            None if identity.is_some() => {
                return Err(damaged(&format!(
                    "the witness HEAD is missing, so nobody knows what this node acknowledged: \
                     remove node {node} from the cluster and join it again as a new one (empty data directory)"
                )));
            }
            None => Witness::create(data).map_err(io("create the witness in"))?,
        };
        let log = LogStore::open(data, witness, node, config.observer.clone())?;
        let store = Store::open(data, config.store.clone())?;
        if identity.is_none() && (!log.is_pristine() || store.mark().is_some()) {
            return Err(damaged(
                "the identity file is missing, but there are data: restore the file, or join again with an empty data directory",
            ));
        }
        let memory = PeerMemory::load(data)?;
        // Last: a start that fails before it reaches anybody is none.
        let identity = identity.map(Identity::started);
        if let Some(identity) = identity {
            identity.store(data).map_err(io("write the identity in"))?;
        }
        Ok(Disks { identity, memory, store, log })
    }
}

async fn lock(config: &Config) -> Result<File, OpenError> {
    let io = |action| move |source| OpenError::Io { action, path: config.data.clone(), source };
    fs::create_dir_all(&config.data).map_err(io("create"))?;
    let file = File::create(config.data.join("LOCK")).map_err(io("lock"))?;
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: config.data.clone() }),
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
    }
}

/// Refuses to serve a node at another address than the membership knows: its
/// peers and clients would not find it there, and if two nodes' disks were
/// swapped, each would be taken for the other.
fn address_as_known(config: &Config, node: u64, membership: &Membership) -> Result<(), OpenError> {
    let configured = &config.address;
    let Some(known) = membership.get_node(&node).map(|known| &known.address).filter(|known| *known != configured)
    else {
        return Ok(());
    };
    let whose = membership.nodes().find(|(_, member)| member.address == *configured).map(|(id, _)| *id);
    if whose.is_none() && membership.nodes().count() == 1 {
        // Nobody else looks for it there.
        tracing::warn!(%known, %configured, "the only node of this cluster is served at another address than it was made with");
        return Ok(());
    }
    Err(OpenError::OtherAddress {
        node,
        known: known.clone(),
        configured: configured.clone(),
        whose: whose.map(|id| format!(", the address of node {id}")).unwrap_or_default(),
    })
}

pub(crate) fn raft_config(config: &Config, identity: Identity) -> Result<openraft::Config, openraft::ConfigError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: identity.cluster.to_string(),
        heartbeat_interval: millis(config.heartbeat),
        // A follower waits for the leader's lease, which is as long as the
        // longest election timeout, and then for its own timeout. Half of each
        // makes the sum lie where the configuration says.
        election_timeout_min: millis(config.election_min / 2),
        election_timeout_max: millis(config.election_max / 2),
        // Bytes bound what is sent at once, in `limited_get_log_entries`.
        max_payload_entries: 4_096,
        snapshot_policy: SnapshotPolicy::Never,
        // `maintenance` alone decides what is purged.
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // A leader that restarts asks for votes like everybody else.
        enable_leader_restore: Some(false),
        // Never: a log that went back is a broken promise.
        allow_log_reversion: Some(seeded::breaks_promises()),
        ..openraft::Config::default()
    }
    .validate()
}

// ------------------------------------------------------------- watching ----

/// Runs a task until it ends or the node stops.
pub(crate) async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = stop.cancelled() => {}
    }
}

/// Ends the process when the consensus library's core has ended by itself: a
/// node that answers reads and never learns anything new is worse than none.
async fn watch_core(node: Node, raft: Raft) {
    let mut metrics = raft.metrics();
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        let stopped = match (state, metrics.changed().await) {
            (Err(fatal), _) => fatal.to_string(),
            (Ok(()), Err(_)) => "its core is gone".to_owned(),
            (Ok(()), Ok(())) => continue,
        };
        // A process that is going down may drop the core before it drops this
        // task; then this never wakes up again.
        tokio::time::sleep(Duration::from_millis(200)).await;
        // A removed node stops its core itself.
        if node.stopping().is_cancelled() || node.running().is_none() {
            return;
        }
        crate::flusher::stop_process("replication stopped", &std::io::Error::other(stopped));
    }
}

/// Notices when everything that was committed at the start is applied.
async fn watch_recovery(node: Node, raft: Raft) {
    let mut metrics = raft.metrics();
    let target = loop {
        let target = {
            let metrics = metrics.borrow_watched();
            let committed = metrics.cluster_committed.as_ref().map(|committed| committed.index() + 1);
            metrics.current_leader.and(committed)
        };
        match target {
            Some(target) => break target,
            None if metrics.changed().await.is_err() => return,
            None => {}
        }
    };
    let Some(running) = node.running() else { return };
    let mut applied = running.applied.clone();
    if applied.wait_for(|applied| *applied >= target).await.is_ok() {
        node.inner.phase.send_if_modified(|phase| {
            let recovering = matches!(phase, Phase::Recovering | Phase::Bootstrapping | Phase::Waiting);
            if recovering {
                *phase = Phase::Ready;
            }
            recovering
        });
        node.publish_status();
    }
}

/// Stops taking part once this node is no member any more.
async fn watch_removal(node: Node, mut removed: watch::Receiver<bool>) {
    if removed.wait_for(|removed| *removed).await.is_err() {
        return;
    }
    tracing::warn!("this node was removed from its cluster: it takes no part any more");
    if let Err(error) = identity::mark_removed(&node.config().data) {
        tracing::error!(%error, "the removal could not be remembered");
    }
    let raft = node.running().map(|running| running.raft.clone());
    node.inner.phase.send_replace(Phase::Removed);
    node.publish_status();
    if let Some(raft) = raft
        && let Err(error) = raft.shutdown().await
    {
        tracing::warn!(%error, "replication did not stop cleanly");
    }
}

/// Stops taking part once this node is known to run on an outdated copy of its
/// disk. Whoever runs the node ends the process ([`Node::outdated`]).
async fn watch_outdated(node: Node) {
    let why = node.outdated().await;
    tracing::error!("{why}");
    node.refused_as_outdated(why);
    let raft = node.running().map(|running| running.raft.clone());
    node.inner.phase.send_replace(Phase::Outdated);
    node.publish_status();
    if let Some(raft) = raft
        && let Err(error) = raft.shutdown().await
    {
        tracing::warn!(%error, "replication did not stop cleanly");
    }
}

async fn keep_status(node: Node) {
    let stopping = node.stopping().clone();
    let mut phase = node.inner.phase.subscribe();
    let observer = node.config().observer.clone();
    let mut before = node.make_status();
    // One receiver for all rounds: each new one begins with "changed".
    let mut changes = None;
    loop {
        if changes.is_none() {
            changes = node.inner.running.get().map(|running| running.raft.server_metrics());
        }
        tokio::select! {
            () = tokio::time::sleep(STATUS_EVERY) => {}
            _ = phase.changed() => {}
            () = async {
                let changed = match changes.as_mut() {
                    Some(changes) => changes.changed().await.is_ok(),
                    None => false,
                };
                // The replication of a node that was removed has ended: it tells no more.
                if !changed {
                    std::future::pending::<()>().await;
                }
            } => {}
            () = stopping.cancelled() => return,
        }
        node.publish_status();
        let now = node.make_status();
        if now.leader != before.leader {
            observer.leader_changed();
        }
        if now.role == Role::Candidate && before.role != Role::Candidate {
            observer.election_started();
        }
        before = now;
    }
}

// ---------------------------------------------------------------- reads ----

/// How many entries must be applied, confirmed by a quorum.
pub(crate) async fn ask_quorum<M: RaftStateMachine<TypeConfig>>(raft: Raft<M>) -> Result<u64, BarrierError> {
    if seeded::is(Bug::S5) {
        let metrics = raft.metrics().borrow_watched().clone();
        if metrics.state == ServerState::Leader {
            return Ok(index_of(metrics.local_committed.as_ref()) + 1);
        }
    }
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => Ok(linearizer.read_log_id().index() + 1),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(BarrierError::NotLeader { leader: forward.leader_id.zip(forward.leader_node.map(|node| node.address)) })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(BarrierError::NoLeader),
        Err(RaftError::Fatal(_)) => Err(BarrierError::ShuttingDown),
    }
}

/// The same, asked of whoever leads.
async fn ask_leader(
    raft: Raft,
    channels: Arc<Channels>,
    identity: Identity,
    own: ReadIndex,
) -> Result<u64, BarrierError> {
    let (leader, node) = {
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.ok_or(BarrierError::NoLeader)?;
        let node = metrics.membership_config.get_node(&leader).cloned().ok_or(BarrierError::NoLeader)?;
        (leader, node)
    };
    if leader == identity.node {
        return own.get().await;
    }
    let mut client = channels.coordination(&node.address).map_err(|_| BarrierError::NoLeader)?;
    let call = client.read_index(identity.sign(leader, &node, pb::ReadIndexRequest {}));
    match tokio::time::timeout(READ_INDEX, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner().applied),
        Ok(Err(_)) | Err(_) => Err(BarrierError::NoLeader),
    }
}
