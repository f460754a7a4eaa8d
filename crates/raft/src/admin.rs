//! Changes of the membership.
//!
//! One actor on each node carries them out, one at a time, if that node leads;
//! every other node passes them on to it. Each step can be repeated, so that a
//! request whose fate is unknown is simply asked again:
//!
//! - *Add*: the node at the address must be empty; it takes a new id from the
//!   log, is given its identity, and becomes a learner. It may be one that takes the
//!   place of a member that is gone; that is written into the membership with it, so
//!   that whoever leads by then carries it out.
//! - *Promote*: a learner that is caught up gets a vote, or the place it was added
//!   for: out with the old member and in with the new one is one change.
//! - *Remove*: the node loses vote and membership and is told so. Its id never
//!   comes back.
//! - *Transfer*: leadership goes to another voter.
//! - *Lease*: a node may be restarted, one at a time ([`crate::lease`]).
//!
//! A change of the voters takes two entries: a joint membership, in which both
//! the old and the new voters decide, and the new one alone. Whoever leads takes
//! the second step if the one who took the first did not live, or wait, to do
//! it: otherwise the cluster would need machines for good that were to go.

mod message;
mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::lease::Acquire;
use annals_core::{Command, Outcome};
use annals_proto::annals::internal::v1 as pb;
use openraft::ChangeMembers;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::storage::RaftStateMachine;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

pub(crate) use self::message::{read_reply, read_request, write_reply, write_request};
pub(crate) use self::peers::{NetworkPeers, Peers};
use crate::error::{AdminError, AppendError};
use crate::identity::Identity;
use crate::proposer::{Kind, Proposer};
use crate::state_machine::StateMachine;
use crate::types::{Membership, Metrics, NodeInfo, Raft, TypeConfig};

/// Requests that may wait.
const QUEUE: usize = 16;

/// Entries that a learner may lag behind and still count as caught up. It
/// will have them long before its vote is asked for.
pub(crate) const LAG: u64 = 1_000;

/// How long another node may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// How often a leader looks whether a change was left half done.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long it may then take.
const SECOND_STEP: Duration = Duration::from_secs(10);

/// A voter that was heard of within this time counts as there.
const PRESENT: Duration = Duration::from_secs(3);

/// An administrative request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminRequest {
    /// Adopt the empty node at this `host:port` as a learner.
    AddNode {
        /// Where it listens.
        address: String,
        /// The member whose place it takes, and possibly its address, as soon as it
        /// has caught up: one that cannot be reached, or has lost its disk.
        replaces: Option<u64>,
    },
    /// Give a learner that is caught up a vote.
    Promote {
        /// The learner.
        node: u64,
    },
    /// Take a node out of the cluster. Its id is never used again.
    Remove {
        /// The node.
        node: u64,
        /// Also if the voters that are left cannot decide anything before more of
        /// them are back. The cluster then takes no appends until they are.
        force: bool,
    },
    /// Hand leadership over.
    TransferLeadership {
        /// To this voter, or to the most advanced one.
        to: Option<u64>,
    },
    /// Give the maintenance lease to a node, or prolong it.
    AcquireLease(Acquire),
}

/// A handle on the admin actor.
#[derive(Clone)]
pub(crate) struct Admin {
    requests: mpsc::Sender<Job>,
}

struct Job {
    request: AdminRequest,
    deadline: Instant,
    reply: oneshot::Sender<Result<u64, AdminError>>,
}

/// What the actor works with.
pub(crate) struct Actor<M: RaftStateMachine<TypeConfig> = StateMachine> {
    pub(crate) raft: Raft<M>,
    pub(crate) identity: Identity,
    pub(crate) proposer: Proposer,
    pub(crate) peers: Arc<dyn Peers>,
}

impl Admin {
    /// The handle, and the task to be run.
    pub(crate) fn new<M: RaftStateMachine<TypeConfig>>(actor: Actor<M>) -> (Admin, impl Future<Output = ()>) {
        let (requests, mut jobs) = mpsc::channel::<Job>(QUEUE);
        let task = async move {
            let mut told = String::new();
            loop {
                let job = tokio::select! {
                    // In this order, so that a simulation can be repeated.
                    biased;
                    job = jobs.recv() => job,
                    () = tokio::time::sleep(LOOK_EVERY) => {
                        actor.take_second_step().await;
                        continue;
                    }
                };
                let Some(job) = job else { return };
                // A caller that has gone does not stop what has begun.
                let result = actor.carry_out(&job.request, job.deadline).await;
                match &result {
                    Ok(node) => tracing::info!(request = ?job.request, node, "carried out"),
                    Err(error) => {
                        // A node that wants to join asks again and again.
                        let failure = format!("{:?}: {error}", job.request);
                        if failure == told {
                            tracing::debug!(request = ?job.request, %error, "not carried out");
                        } else {
                            tracing::warn!(request = ?job.request, %error, "not carried out");
                        }
                        told = failure;
                    }
                }
                let _ = job.reply.send(result);
            }
        };
        (Admin { requests }, task)
    }

    /// Carries a request out, if this node leads.
    pub(crate) async fn carry_out(&self, request: AdminRequest, deadline: Instant) -> Result<u64, AdminError> {
        let (reply, result) = oneshot::channel();
        let job = Job { request, deadline, reply };
        match tokio::time::timeout_at(deadline.into(), self.requests.send(job)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(AdminError::ShuttingDown),
            Err(_) => return Err(AdminError::Refused("another administrative request is under way".into())),
        }
        match tokio::time::timeout_at(deadline.into(), result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(AdminError::Unknown("the node went down".into())),
            Err(_) => Err(AdminError::Unknown("it was not finished before the deadline".into())),
        }
    }
}

impl<M: RaftStateMachine<TypeConfig>> Actor<M> {
    async fn carry_out(&self, request: &AdminRequest, deadline: Instant) -> Result<u64, AdminError> {
        if self.metrics().current_leader != Some(self.identity.node) {
            return Err(AdminError::NoLeader);
        }
        match request {
            AdminRequest::AddNode { address, replaces } => self.add(address, *replaces, deadline).await,
            AdminRequest::Promote { node } => self.promote(*node, deadline).await,
            AdminRequest::Remove { node, force } => self.remove(*node, *force, deadline).await,
            AdminRequest::TransferLeadership { to } => self.transfer(*to, deadline).await,
            AdminRequest::AcquireLease(wish) => self.acquire_lease(*wish, deadline).await,
        }
    }

    async fn add(&self, address: &str, replaces: Option<u64>, deadline: Instant) -> Result<u64, AdminError> {
        let probe = self.probe(address).await?;
        let metrics = self.metrics();
        let members: BTreeMap<u64, NodeInfo> =
            metrics.membership_config.nodes().map(|(id, node)| (*id, node.clone())).collect();
        let mut there = members.iter().filter(|(_, node)| node.address == address);
        if probe.replica && !probe.has_identity && replaces.is_none() {
            let is_former = |(id, node): &(&u64, &NodeInfo)| {
                node.replica && node.incarnation[..] != probe.incarnation[..] && !is_voter(&metrics, **id)
            };
            if let Some((former, _)) = there.clone().find(is_former) {
                // Nothing that it acknowledged ever counted; it may have left, or lost its disk.
                tracing::info!(former, address, "a replica is back, with nothing: its former place is taken back");
                self.remove(*former, false, deadline).await?;
                return Box::pin(self.add(address, None, deadline)).await;
            }
        }
        if let Some((id, node)) = there.clone().find(|(_, node)| node.incarnation[..] == probe.incarnation[..]) {
            let Some(old) = replaces.filter(|old| node.replaces != *old) else { return Ok(*id) };
            return self.add_intention(*id, node, old, &metrics, deadline).await;
        }
        if let Some((id, node)) = there.find(|(id, _)| replaces != Some(**id)) {
            return Err(AdminError::Refused(format!(
                "node {id} has the address {address} with another data directory: if that is lost, say so with \
                 `annals cluster replace {} --with {address}`; otherwise give the node its data directory",
                handle(*id, node, &members)
            )));
        }
        if let Some(old) = replaces {
            self.may_replace(old, address, probe.replica, &metrics)?;
        }
        let node = if probe.has_identity {
            // An earlier attempt may have stopped between adoption and
            // membership. A node that ever took part is another matter.
            if probe.cluster[..] != self.identity.cluster.as_bytes()[..] {
                return Err(AdminError::Refused(format!("the node at {address} belongs to another cluster")));
            }
            if probe.initialized {
                return Err(AdminError::Refused(format!(
                    "the node at {address} was node {} of this cluster: empty its data directory first",
                    probe.node
                )));
            }
            probe.node
        } else {
            let above = members.keys().copied().max().unwrap_or(0);
            let command = Command::AllocateNode { above }.encode();
            match self.proposer.append(command, Kind::Housekeeping, deadline).await {
                Ok(Outcome::Node(id)) => id,
                Ok(other) => return Err(AdminError::Unknown(format!("an id was asked for, {other:?} was answered"))),
                Err(AppendError::NotLeader { .. }) => return Err(AdminError::NoLeader),
                // An id that is allocated and not used is simply skipped.
                Err(error) => return Err(AdminError::Unreachable(format!("no node id could be allocated: {error}"))),
            }
        };
        let adopt = pb::AdoptRequest {
            cluster: self.identity.cluster.as_bytes().to_vec().into(),
            node,
            address: address.to_owned(),
            founders: Vec::new(),
        };
        let reply = match tokio::time::timeout(ANSWER, self.peers.adopt(address, adopt)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
                return Err(AdminError::Refused(status.message().to_owned()));
            }
            Ok(Err(status)) => return Err(unreachable(status)),
            Err(_) => return Err(AdminError::Unreachable(format!("the node at {address} did not answer"))),
        };
        let incarnation = reply.incarnation[..]
            .try_into()
            .map_err(|_| AdminError::Refused(format!("the node at {address} sent an unreadable incarnation")))?;
        let info = NodeInfo {
            address: address.to_owned(),
            incarnation,
            name: probe.name,
            replica: probe.replica,
            replaces: replaces.unwrap_or(0),
        };
        let added = self.raft.add_learner(node, info, false);
        self.written(tokio::time::timeout_at(deadline.into(), added).await)?;
        Ok(node)
    }

    /// Says of a node that has joined already that it takes the place of another one.
    async fn add_intention(
        &self,
        id: u64,
        node: &NodeInfo,
        old: u64,
        metrics: &Metrics,
        deadline: Instant,
    ) -> Result<u64, AdminError> {
        if id == old || metrics.membership_config.voter_ids().any(|voter| voter == id) {
            return Err(AdminError::Refused(format!(
                "node {id} at {} has a place of its own already: take out the one that is to go \
                 (`annals cluster remove`)",
                node.address
            )));
        }
        self.may_replace(old, &node.address, node.replica, metrics)?;
        // Address and incarnation, by which others know it, stay as they are.
        let info = NodeInfo { replaces: old, ..node.clone() };
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, info)])), deadline).await?;
        Ok(id)
    }

    /// Whether a new node may take the place of an old one.
    fn may_replace(&self, old: u64, address: &str, replica: bool, metrics: &Metrics) -> Result<(), AdminError> {
        let membership = metrics.membership_config.membership();
        let Some(info) = membership.get_node(&old) else {
            return Err(AdminError::NotFound(format!("there is no node {old}")));
        };
        // Another data directory at its address: the old one is not coming back.
        let is_gone = old != self.identity.node && (info.address == address || !self.is_present(metrics, old));
        if !is_gone {
            return Err(AdminError::Refused(format!(
                "node {old} is there, with its data: stop it first if another node is to take its place, or add the \
                 other one and then remove node {old}"
            )));
        }
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        if !voters.contains(&old) {
            return Ok(());
        }
        if replica {
            return Err(AdminError::Refused(format!(
                "the node at {address} is a replica, which never votes, and node {old} does"
            )));
        }
        let others = voters.iter().filter(|id| **id != old && self.is_present(metrics, **id)).count();
        if (others + 1) * 2 <= voters.len() {
            return Err(AdminError::Refused(format!(
                "of the {} voters only {others} can be reached: they and a new one could not decide anything",
                voters.len()
            )));
        }
        Ok(())
    }

    async fn promote(&self, node: u64, deadline: Instant) -> Result<u64, AdminError> {
        let replaces = loop {
            let metrics = self.metrics();
            let membership = metrics.membership_config.membership();
            let Some(info) = membership.get_node(&node) else {
                return Err(AdminError::NotFound(format!("there is no node {node}")));
            };
            let replaces = Some(info.replaces).filter(|old| membership.get_node(old).is_some());
            if info.replica && replaces.is_none() {
                return Err(AdminError::Refused(format!("node {node} is a replica, which never votes")));
            }
            if membership.voter_ids().any(|id| id == node) && !is_joint(&metrics) {
                return Ok(node);
            }
            let last = metrics.last_log_index.unwrap_or(0);
            let matched =
                metrics.replication.as_ref().and_then(|replication| replication.get(&node)).cloned().flatten();
            match matched {
                Some(matched) if matched.index() + LAG >= last => break replaces,
                _ if tokio::time::Instant::now() + Duration::from_millis(100) >= deadline.into() => {
                    let behind = matched.map_or(last, |matched| last.saturating_sub(matched.index()));
                    return Err(AdminError::Refused(format!(
                        "node {node} is still {behind} entries behind: wait until it has caught up"
                    )));
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        match replaces {
            Some(old) => self.take_place(node, old, deadline).await?,
            None => self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node])), deadline).await?,
        }
        Ok(node)
    }

    /// Puts a learner that has caught up into the place of another member.
    async fn take_place(&self, node: u64, old: u64, deadline: Instant) -> Result<(), AdminError> {
        if old == self.identity.node {
            return Err(AdminError::Refused(format!(
                "node {old}, whose place node {node} was to take, is back and leads: remove the one that is to go"
            )));
        }
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        let Some(info) = membership.get_node(&old).cloned() else { return Ok(()) };
        self.use_up(old, membership, deadline).await?;
        let mut voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters.remove(&old) {
            // Neither more voters nor fewer at any time, and no moment in which the
            // old one counts without the new one.
            voters.insert(node);
            self.change(ChangeMembers::ReplaceAllVoters(voters), deadline).await?;
        } else {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([old])), deadline).await?;
        }
        tracing::info!(node, old, "took the place of another node");
        self.retire(old, &info).await;
        Ok(())
    }

    async fn remove(&self, node: u64, force: bool, deadline: Instant) -> Result<u64, AdminError> {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership().clone();
        let Some(info) = membership.get_node(&node).cloned() else {
            return Err(AdminError::NotFound(format!("there is no node {node}")));
        };
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters.contains(&node) {
            let left: BTreeSet<u64> = voters.iter().copied().filter(|id| *id != node).collect();
            if left.is_empty() {
                return Err(AdminError::Refused(format!("node {node} is the only voter")));
            }
            let present = left.iter().filter(|id| self.is_present(&metrics, **id)).count();
            if present * 2 <= left.len() && !force {
                return Err(AdminError::Refused(format!(
                    "of the {} voters that would be left only {present} can be reached: they could not decide anything",
                    left.len()
                )));
            }
            if node == self.identity.node {
                // The one that goes must not be the one that decides.
                self.transfer(None, deadline).await?;
                return Err(AdminError::NoLeader);
            }
            self.use_up(node, &membership, deadline).await?;
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node])), deadline).await?;
        } else {
            self.use_up(node, &membership, deadline).await?;
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node])), deadline).await?;
        }
        self.retire(node, &info).await;
        Ok(node)
    }

    /// Makes sure that the id of a node that is about to go is never given
    /// again. The log knows of the ids that came out of it, and `add` of those
    /// that are members; the first members' ids did not come out of the log.
    async fn use_up(&self, node: u64, membership: &Membership, deadline: Instant) -> Result<(), AdminError> {
        if membership.nodes().any(|(id, _)| *id > node) {
            return Ok(());
        }
        let command = Command::AllocateNode { above: node - 1 }.encode();
        match self.proposer.append(command, Kind::Housekeeping, deadline).await {
            Ok(_) => Ok(()),
            Err(AppendError::NotLeader { .. }) => Err(AdminError::NoLeader),
            // The membership is as it was.
            Err(error) => Err(AdminError::Unreachable(format!("id {node} could not be used up: {error}"))),
        }
    }

    /// Tells a node that it was removed. Nothing depends on it: a node that
    /// was away is told when it asks for votes.
    async fn retire(&self, node: u64, info: &NodeInfo) {
        match tokio::time::timeout(ANSWER, self.peers.retire(node, info)).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => tracing::info!(node, %status, "the removed node could not be told"),
            Err(_) => tracing::info!(node, "the removed node could not be told: it did not answer"),
        }
    }

    async fn transfer(&self, to: Option<u64>, deadline: Instant) -> Result<u64, AdminError> {
        let metrics = self.metrics();
        let me = self.identity.node;
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let to = match to {
            Some(to) if to == me => return Ok(me),
            Some(to) if !voters.contains(&to) => return Err(AdminError::NotFound(format!("there is no voter {to}"))),
            Some(to) => to,
            None => most_advanced(&metrics, me, &voters)
                .ok_or_else(|| AdminError::Refused("there is no other voter that could take over".into()))?,
        };
        self.raft.trigger().transfer_leader(to).await.map_err(|_| AdminError::ShuttingDown)?;
        let mut changes = self.raft.server_metrics();
        loop {
            let leader = changes.borrow_watched().current_leader;
            if leader.is_some_and(|leader| leader != me) {
                return Ok(to);
            }
            match tokio::time::timeout_at(deadline.into(), changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(AdminError::ShuttingDown),
                Err(_) => return Err(AdminError::Unknown(format!("node {to} has not taken over before the deadline"))),
            }
        }
    }

    pub(crate) fn is_present(&self, metrics: &Metrics, node: u64) -> bool {
        node == self.identity.node
            || metrics
                .heartbeat
                .as_ref()
                .and_then(|heartbeat| heartbeat.get(&node).cloned().flatten())
                .is_some_and(|heard| heard.elapsed() < PRESENT)
    }

    async fn probe(&self, address: &str) -> Result<pb::ProbeReply, AdminError> {
        match tokio::time::timeout(ANSWER, self.peers.probe(address)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(status)) => Err(unreachable(status)),
            Err(_) => Err(AdminError::Unreachable(format!("the node at {address} did not answer"))),
        }
    }

    async fn change(&self, change: ChangeMembers<u64, NodeInfo>, deadline: Instant) -> Result<(), AdminError> {
        let changed = self.raft.change_membership(change, false);
        self.written(tokio::time::timeout_at(deadline.into(), changed).await)
    }

    /// Ends a change of the voters that was left half done.
    async fn take_second_step(&self) {
        let metrics = self.metrics();
        let is_committed = metrics.committed_membership_config.log_id() == metrics.membership_config.log_id();
        if metrics.current_leader != Some(self.identity.node) || !is_joint(&metrics) || !is_committed {
            return;
        }
        tracing::info!(membership = %metrics.membership_config, "ending a change of the members that was left half done");
        // From a joint membership every change leads to the new voters alone.
        let nothing_more = ChangeMembers::AddVoterIds(BTreeSet::new());
        if let Err(error) = self.change(nothing_more, Instant::now() + SECOND_STEP).await {
            tracing::warn!(%error, "the change of the members is still half done");
        }
    }

    fn written<T>(
        &self,
        result: Result<Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>, tokio::time::error::Elapsed>,
    ) -> Result<(), AdminError> {
        match result {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(AdminError::NoLeader),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(AdminError::Refused(error.to_string()))
            }
            Ok(Err(RaftError::APIError(
                error @ (ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_)),
            ))) => Err(AdminError::Unknown(error.to_string())),
            Ok(Err(RaftError::Fatal(_))) => Err(AdminError::ShuttingDown),
            Err(_) => Err(AdminError::Unknown("the change was not committed before the deadline".into())),
        }
    }

    fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }
}

/// What a member is called on the command line: its name, or its id where others have
/// the same name.
fn handle(id: u64, node: &NodeInfo, members: &BTreeMap<u64, NodeInfo>) -> String {
    let is_only = members.values().filter(|other| other.called() == node.called()).count() == 1;
    if is_only { node.called().to_owned() } else { id.to_string() }
}

fn is_voter(metrics: &Metrics, node: u64) -> bool {
    metrics.membership_config.voter_ids().any(|voter| voter == node)
}

fn is_joint(metrics: &Metrics) -> bool {
    metrics.membership_config.get_joint_config().len() > 1
}

/// The other voter whose log reaches furthest.
pub(crate) fn most_advanced(metrics: &Metrics, me: u64, voters: &BTreeSet<u64>) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    voters
        .iter()
        .copied()
        .filter(|id| *id != me)
        .filter_map(|id| Some((replication.get(&id)?.as_ref()?.index(), id)))
        .max()
        .map(|(_, id)| id)
}

fn unreachable(status: Status) -> AdminError {
    AdminError::Unreachable(status.message().to_owned())
}
