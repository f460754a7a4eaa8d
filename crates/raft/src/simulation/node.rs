//! One run of one simulated node: what [`crate::node`] puts together in a real
//! process, put together over a simulated disk and network.
//!
//! The parts are the real ones: the consensus library and its configuration,
//! the state machine, proposer, read index, admin actor, the receiver of
//! catch-ups, the bounds of a purge, the rules of admission.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use annals_core::{Batch, Command, Outcome, Timestamp};
use annals_proto::annals::internal::v1 as pb;
use bytes::Bytes;
use futures::FutureExt;
use openraft::ServerState;
use openraft::async_runtime::watch::{Watch, WatchReceiver, WatchSender};
use openraft::impls::ProgressResponder;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::log::SimulatedLog;
use super::network::{Dialer, Network, REFUSED, SimulatedPeers, address, call, host_at};
use super::oracle::Opening;
use super::plan::Mutation;
use super::random::Random;
use super::runtime::Process;
use super::store::{SimulatedStore, View};
use super::watch::{OrderedWatch, Receiver as WatchedBy};
use super::world::World;
use crate::admin::{Actor, Admin, AdminRequest};
use crate::config::Config;
use crate::error::{AdminError, AppendError, BarrierError};
use crate::event_store::EventStore;
use crate::forward::read_answer;
use crate::identity::Identity;
use crate::ledger::Ledger;
use crate::maintenance::{Bounds, purge};
use crate::node::beginning::raft_config;
use crate::node::reads::ask_quorum;
use crate::proposer::{Kind, Proposer, Surroundings};
use crate::read_index::ReadIndex;
use crate::snapshot::{CatchUps, Transfers};
use crate::state_machine::StateMachine;
use crate::types::{Metrics, NodeInfo, Proposal, index_of};

/// Pause before something is tried again for want of a leader.
const RETRY: Duration = Duration::from_millis(25);

/// How long the leader may take to confirm that it leads.
const READ_INDEX: Duration = Duration::from_secs(2);

type Machine = StateMachine<SimulatedStore, SimulatedLog>;
type Raft = crate::types::Raft<Machine>;

/// See the module.
pub(crate) struct SimulatedNode {
    pub(crate) host: u64,
    pub(crate) process: Arc<Process>,
    pub(super) world: Arc<World>,
    run: u64,
    pub(super) incarnation: Uuid,
    pub(super) identity: OnceLock<Identity>,
    pub(super) running: OnceLock<Running>,
    removed: AtomicBool,
    pub(super) adoption: tokio::sync::Mutex<()>,
    random: Mutex<Random>,
}

/// What exists once a node has an identity and takes part.
pub(crate) struct Running {
    pub(crate) raft: Raft,
    pub(crate) log: SimulatedLog,
    pub(crate) store: SimulatedStore,
    applied: WatchedBy<u64>,
    proposer: Proposer,
    pub(super) leader_reads: ReadIndex,
    reads: ReadIndex,
    admin: Admin,
    pub(super) catch_ups: Arc<CatchUps>,
    transfers: Arc<Transfers>,
    pub(super) removed: watch::Sender<bool>,
}

impl SimulatedNode {
    pub(crate) fn new(world: &Arc<World>, host: u64, run: u64) -> Arc<SimulatedNode> {
        let disk = world.disk(host);
        let disk = disk.lock();
        let mut random = Random::new(world.seed).fork(1_000 * host + run);
        let process = Process::new(random.fork(random.clone().next()), world.plan.work);
        random.next();
        let identity = disk.identity.map_or_else(OnceLock::new, OnceLock::from);
        Arc::new(SimulatedNode {
            host,
            process,
            world: world.clone(),
            run,
            incarnation: disk.incarnation,
            identity,
            running: OnceLock::new(),
            removed: AtomicBool::new(disk.removed),
            adoption: tokio::sync::Mutex::new(()),
            random: Mutex::new(random),
        })
    }

    /// Takes part, if it has an identity.
    pub(crate) fn begin(self: &Arc<Self>) {
        let Some(identity) = self.identity() else { return };
        if self.removed.load(Ordering::Relaxed) {
            return;
        }
        let node = self.clone();
        self.process.spawn(async move {
            if let Err(why) = node.take_part(identity).await {
                node.world.oracle().fail("start", format!("node {} does not start: {why}", identity.node));
            }
        });
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        self.identity.get().copied()
    }

    /// What runs here, none before it has an identity or after it was removed.
    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.get().filter(|_| !self.removed.load(Ordering::Relaxed))
    }

    pub(crate) fn metrics(&self) -> Option<Metrics> {
        self.running().map(|running| running.raft.metrics().borrow_watched().clone())
    }

    fn config(&self) -> Config {
        let plan = &self.world.plan;
        Config {
            heartbeat: plan.heartbeat,
            election_min: plan.election_min,
            election_max: plan.election_max,
            ..Config::new("", address(self.host))
        }
    }

    pub(super) async fn take_part(self: &Arc<Self>, identity: Identity) -> Result<(), String> {
        let world = &self.world;
        let fork = |name| self.random.lock().fork(name);
        let log = SimulatedLog::open(world, self.host, fork(1)).map_err(|error| error.to_string())?;
        let store = SimulatedStore::open(world, self.host, fork(2));
        let durable = store.durable_mark();
        world.oracle().opened(
            self.host,
            Opening {
                node: identity.node,
                run: self.run,
                vote: log.vote(),
                entries: &log.entries(),
                purged: log.purged().checked_sub(1),
                durable: durable.as_ref(),
                committed: log.committed(),
            },
        );
        self.process.spawn(log.clone().flush());

        let removed = watch::Sender::new(false);
        let observer: Arc<()> = Arc::new(());
        let machine = Machine::new(identity.node, store.clone(), log.clone(), observer.clone(), removed.clone())
            .map_err(|error| error.to_string())?;
        if world.mutation != Some(Mutation::SnapshotBehindState) {
            machine.bring_snapshot_up_to_date().await.map_err(|error| error.to_string())?;
        }
        let transfers = Arc::<Transfers>::default();
        let dialer = Arc::new(Dialer {
            world: world.clone(),
            host: self.host,
            identity,
            transfers: transfers.clone(),
            removed: removed.clone(),
            ledger: Ledger::default(),
        });
        let mut config = raft_config(&self.config(), identity).map_err(|error| error.to_string())?;
        config.max_payload_entries = world.plan.payload;
        if world.mutation.is_some_and(Mutation::breaks_promises) {
            // The net under these mistakes is taken away with them.
            config.allow_log_reversion = Some(true);
        }
        let raft = Raft::new(identity.node, Arc::new(config), Network(dialer.clone()), log.clone(), machine.clone())
            .await
            .map_err(|error| error.to_string())?;

        let (proposer, proposing) = Proposer::new(
            64 * 1024,
            Surroundings {
                raft: raft.clone(),
                clock: super::clock,
                observer,
                free_bytes: Arc::new(AtomicU64::new(u64::MAX)),
                reserve_bytes: 0,
                stopping: CancellationToken::new(),
            },
        );
        let (leader_reads, asking_quorum) = ReadIndex::new({
            let (raft, mutation) = (raft.clone(), world.mutation);
            move || match mutation {
                Some(Mutation::ReadsWithoutQuorum) => ask_nobody(raft.clone()).boxed(),
                _ => ask_quorum(raft.clone()).boxed(),
            }
        });
        let (reads, asking_leader) = ReadIndex::new({
            let (dialer, raft, own) = (dialer.clone(), raft.clone(), leader_reads.clone());
            move || ask_leader(dialer.clone(), raft.clone(), own.clone()).boxed()
        });
        let (admin, administering) = Admin::new(Actor {
            raft: raft.clone(),
            identity,
            proposer: proposer.clone(),
            peers: Arc::new(SimulatedPeers(dialer)),
        });
        // One receiver of tokio's watch, so that their order cannot matter.
        let (told, applied) = OrderedWatch::channel(*machine.watch_applied().borrow());
        let mut progress = machine.watch_applied();
        self.process.spawn(async move {
            while progress.changed().await.is_ok() {
                let now = *progress.borrow_and_update();
                told.send_if_modified(|before| std::mem::replace(before, now) != now);
            }
        });
        self.process.spawn(proposing);
        self.process.spawn(asking_quorum);
        self.process.spawn(asking_leader);
        self.process.spawn(administering);
        let running = Running {
            raft: raft.clone(),
            log,
            store,
            applied,
            proposer,
            leader_reads,
            reads,
            admin,
            catch_ups: Arc::default(),
            transfers,
            removed: removed.clone(),
        };
        if self.running.set(running).is_err() {
            return Err("it takes part already".into());
        }
        self.process.spawn(watch_metrics(self.clone(), raft.clone()));
        self.process.spawn(watch_removal(self.clone(), removed.subscribe(), raft.clone()));
        self.process.spawn(look_after_log(self.clone()));

        // Alone there is nobody to wait for.
        let metrics = raft.metrics().borrow_watched().clone();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        if voters == [identity.node] {
            raft.trigger().elect(false).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

// What clients ask.
impl SimulatedNode {
    /// The leader that is known, with what the membership says of it.
    pub(crate) fn leader(&self) -> Option<(u64, NodeInfo)> {
        let metrics = self.running()?.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        let node = metrics.membership_config.get_node(&leader)?.clone();
        Some((leader, node))
    }

    /// As [`crate::Node::append`].
    pub(crate) async fn append(&self, command: Bytes, deadline: Instant) -> Result<Outcome, AppendError> {
        loop {
            let leader = self.leader();
            let error = match (self.running(), &leader) {
                (None, _) => AppendError::NotReady("it takes no part in a cluster".into()),
                (Some(running), Some((id, _))) if self.identity().is_some_and(|me| me.node == *id) => {
                    match self.append_here(running, command.clone(), deadline).await {
                        Err(error @ AppendError::NotLeader { .. }) => error,
                        result => return result,
                    }
                }
                (Some(_), Some((id, node))) => match self.forward(*id, node, command.clone(), deadline).await {
                    Err(error @ AppendError::NotLeader { .. }) => error,
                    result => return result,
                },
                (Some(_), None) => AppendError::NotReady("no leader is known".into()),
            };
            // Certainly not applied, so it may be tried again.
            if Instant::now() + RETRY >= deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    pub(super) async fn append_here(
        &self,
        running: &Running,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Outcome, AppendError> {
        if self.world.mutation == Some(Mutation::AckBeforeCommit)
            && let Ok(decoded) = Command::decode(command.clone())
            && running.raft.metrics().borrow_watched().state == ServerState::Leader
        {
            let outcome = running.store.predict(&decoded);
            let proposal = Proposal::new(Batch::encode(super::clock(), &[command]));
            let (responder, _) = ProgressResponder::complete_only();
            let _ = running.raft.client_write_ff(proposal, Some(responder)).await;
            return Ok(outcome);
        }
        running.proposer.append(command, Kind::Append, deadline.into_std()).await
    }

    /// As [`crate::forward`]: what was sent and not answered is unknown.
    async fn forward(
        &self,
        leader: u64,
        node: &NodeInfo,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Outcome, AppendError> {
        let Some(identity) = self.identity() else { return Err(AppendError::NotLeader { leader: None }) };
        let headers = identity.sign(leader, node, ()).into_parts().0;
        let request = pb::ForwardRequest { id: 1, command, timeout_ms: 0 };
        let carried_out = call(&self.world, self.host, &node.address, "forward", move |leader| {
            Box::pin(async move { leader.serve_forward(&headers, request, deadline).await })
        });
        match tokio::time::timeout_at(deadline, carried_out).await {
            Ok(Ok(reply)) => {
                let reply = pb::ForwardReply::decode(reply).map_err(|error| AppendError::Unknown(error.to_string()))?;
                read_answer(reply.result)
            }
            // The stream was never opened.
            Ok(Err(status)) if status.message() == REFUSED || status.code() == tonic::Code::FailedPrecondition => {
                Err(AppendError::NotLeader { leader: None })
            }
            Ok(Err(status)) => Err(AppendError::Unknown(status.to_string())),
            Err(_) => Err(AppendError::Unknown("the leader did not answer before the deadline".into())),
        }
    }

    /// As [`crate::Node::read_barrier`], and what is seen after it.
    pub(crate) async fn read(&self, linearizable: bool, deadline: Instant) -> Result<View, BarrierError> {
        let linearizable = linearizable && self.world.mutation != Some(Mutation::LocalReads);
        loop {
            let running = self.running().ok_or(BarrierError::NoLeader)?;
            if !linearizable {
                return Ok(running.store.view());
            }
            match tokio::time::timeout_at(deadline, running.reads.get()).await {
                Ok(Ok(target)) => {
                    let mut applied = running.applied.clone();
                    let reached = applied.wait_until_ge(&target);
                    return match tokio::time::timeout_at(deadline, reached).await {
                        Ok(Ok(_)) => Ok(running.store.view()),
                        Ok(Err(_)) => Err(BarrierError::ShuttingDown),
                        Err(_) => Err(BarrierError::TimedOut),
                    };
                }
                Ok(Err(BarrierError::ShuttingDown)) => return Err(BarrierError::ShuttingDown),
                Ok(Err(_)) => {}
                Err(_) => return Err(BarrierError::TimedOut),
            }
            if Instant::now() + RETRY >= deadline {
                return Err(BarrierError::NoLeader);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Carries a change of the membership out, if this node leads.
    pub(crate) async fn administer(&self, request: AdminRequest, deadline: Instant) -> Result<u64, AdminError> {
        let running = self.running().ok_or(AdminError::NoLeader)?;
        running.admin.carry_out(request, deadline.into_std()).await
    }

    /// Begins the log with these voters.
    pub(crate) async fn initialize(&self, members: std::collections::BTreeMap<u64, NodeInfo>) -> Result<(), String> {
        let running = self.running().ok_or("it takes no part")?;
        running.raft.initialize(members).await.map_err(|error| error.to_string())
    }
}

// --------------------------------------------------------------- watching --

/// Tells the oracle who leads, and that replication has not stopped.
async fn watch_metrics(node: Arc<SimulatedNode>, raft: Raft) {
    let mut metrics = raft.metrics();
    let mut told = None;
    loop {
        let now = metrics.borrow_watched().clone();
        if let Err(fatal) = &now.running_state
            && node.running().is_some()
        {
            node.world.oracle().fail("start", format!("replication stopped on h{}: {fatal}", node.host));
            return;
        }
        let lengths =
            [now.purged.as_ref(), now.snapshot.as_ref(), now.last_applied.as_ref(), now.local_committed.as_ref()]
                .map(|log_id| log_id.map(|log_id| log_id.index()));
        let last = now.last_log_index;
        if lengths.is_sorted() && lengths[3] <= last {
        } else {
            let what = format!("h{}: purged, snapshot, applied, committed {lengths:?}, last {last:?}", node.host);
            node.world.oracle().fail("order of marks", what);
        }
        let state = (now.state, now.vote);
        if told != Some(state) {
            told = Some(state);
            node.world.note(format_args!("h{} is {:?} in {}", node.host, now.state, now.vote));
            if now.state == ServerState::Leader && now.vote.committed {
                node.world.oracle().leads(node.host, &now.vote);
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_removal(node: Arc<SimulatedNode>, mut removed: watch::Receiver<bool>, raft: Raft) {
    if removed.wait_for(|removed| *removed).await.is_err() {
        return;
    }
    node.world.note(format_args!("h{} was removed", node.host));
    node.world.disk(node.host).lock().removed = true;
    node.removed.store(true, Ordering::Relaxed);
    let _ = raft.shutdown().await;
}

/// As [`crate::maintenance`], more often and keeping less.
async fn look_after_log(node: Arc<SimulatedNode>) {
    let plan = &node.world.plan;
    loop {
        tokio::time::sleep(plan.maintenance).await;
        let Some(running) = node.running() else { return };
        let applied = *running.applied.borrow_watched();
        let durable = || running.store.durable_mark().map_or(0, |mark| mark.index + 1);
        if applied.saturating_sub(durable()) >= plan.flush_entries {
            let Ok(_) = running.store.flush();
        }
        let bounds = Bounds {
            purged: running.log.purged(),
            older: applied.saturating_sub(plan.keep),
            durable: if node.world.mutation == Some(Mutation::PurgeBeforeDurable) { applied } else { durable() },
            transfer: running.transfers.limit(),
        };
        let Some(upto) = bounds.purge_upto(1) else { continue };
        let _ = purge(&running.raft, upto).await;
    }
}

// ------------------------------------------------------------------ reads --

/// The same, asked of whoever leads. As in [`crate::node`].
async fn ask_leader(dialer: Arc<Dialer>, raft: Raft, own: ReadIndex) -> Result<u64, BarrierError> {
    let (leader, node) = {
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader.ok_or(BarrierError::NoLeader)?;
        let node = metrics.membership_config.get_node(&leader).cloned().ok_or(BarrierError::NoLeader)?;
        (leader, node)
    };
    if leader == dialer.identity.node {
        return own.get().await;
    }
    let headers = dialer.identity.sign(leader, &node, ()).into_parts().0;
    let asked = call(&dialer.world, dialer.host, &node.address, "read index", move |leader| {
        Box::pin(async move { leader.serve_read_index(&headers).await })
    });
    match tokio::time::timeout(READ_INDEX, asked).await {
        Ok(Ok(applied)) => Ok(applied),
        Ok(Err(_)) | Err(_) => Err(BarrierError::NoLeader),
    }
}

/// What a leader that is sure of itself would answer.
async fn ask_nobody(raft: Raft) -> Result<u64, BarrierError> {
    let metrics = raft.metrics().borrow_watched().clone();
    if metrics.state != ServerState::Leader {
        return Err(BarrierError::NoLeader);
    }
    Ok(index_of(metrics.local_committed.as_ref()) + 1)
}

/// The wall clock, as the proposer asks for it.
pub(crate) fn clock_at(elapsed: Duration, skew: i64) -> Timestamp {
    const BEGINNING: u64 = 16_000_000_000_000_000;
    let ticks = BEGINNING + u64::try_from(elapsed.as_nanos() / 100).unwrap_or(u64::MAX / 2);
    Timestamp::from_ticks(ticks.saturating_add_signed(skew))
}

/// The machine of a member.
pub(crate) fn host_of(node: &NodeInfo) -> u64 {
    host_at(&node.address).unwrap_or(0)
}
