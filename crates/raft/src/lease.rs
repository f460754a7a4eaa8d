//! Whose turn it is to be restarted: the leader's part.
//!
//! That one node at a time has the maintenance lease is decided when commands are
//! applied ([`annals_core::lease`]). What no entry can know is how the voters are doing
//! now, and only the leader knows that; so it judges before it proposes:
//!
//! - all voters but the one that is to be restarted answer and have (nearly) all of the
//!   log, so that a quorum is left however long the restart takes;
//! - no change of the voters is half done.
//!
//! It is a judgement and no promise: a voter may go down a moment later. The lease
//! keeps only *asked for* restarts from coming together.

use std::time::{Duration, Instant};

use annals_core::lease::{Acquire, Answer};
use annals_core::{Command, Lease, Outcome, Timestamp};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::RaftStateMachine;
use uuid::Uuid;

use crate::admin::{Actor, AdminRequest};
use crate::error::{AdminError, AppendError};
use crate::node::{Node, Route};
use crate::proposer::Kind;
use crate::status::{Role, Status};
use crate::types::TypeConfig;

/// Entries that a voter may lag behind while another one is restarted.
const LAG: u64 = 1_000;

/// What the leader knows of a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Voter {
    id: u64,
    /// Whether it was heard of lately.
    present: bool,
    /// Entries that it is not known to have.
    behind: u64,
}

/// Why `node` must not be restarted now, if there is a reason.
fn objection(node: u64, voters: &[Voter]) -> Option<String> {
    voters.iter().filter(|voter| voter.id != node).find_map(|voter| match voter {
        Voter { id, present: false, .. } => {
            Some(format!("node {id}, a voter, does not answer: without it and node {node} fewer voters would be left"))
        }
        Voter { id, behind, .. } if *behind > LAG => {
            Some(format!("node {id}, a voter, is {behind} entries behind: it has to catch up first"))
        }
        Voter { .. } => None,
    })
}

impl<M: RaftStateMachine<TypeConfig>> Actor<M> {
    /// Has the lease given to a node, or prolonged.
    ///
    /// # Errors
    /// [`AdminError::Refused`]: another node has it, or this is no time for a restart.
    pub(crate) async fn acquire_lease(&self, wish: Acquire, deadline: Instant) -> Result<u64, AdminError> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let members: Vec<u64> = metrics.membership_config.nodes().map(|(id, _)| *id).collect();
        if !members.contains(&wish.node) {
            return Err(AdminError::NotFound(format!("node {} is no member of this cluster", wish.node)));
        }
        if metrics.membership_config.get_joint_config().len() > 1 {
            return Err(AdminError::Refused("a change of the voters is under way".into()));
        }
        let last = metrics.last_log_index.unwrap_or(0);
        let voters: Vec<Voter> = metrics
            .membership_config
            .voter_ids()
            .map(|id| {
                let own = id == self.identity.node;
                let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).and_then(Option::as_ref);
                let behind = matched.map_or(last, |matched| last.saturating_sub(matched.index()));
                Voter { id, present: self.is_present(&metrics, id), behind: if own { 0 } else { behind } }
            })
            .collect();
        if let Some(why) = objection(wish.node, &voters) {
            return Err(AdminError::Refused(why));
        }
        let answer = self.about_lease(&Command::AcquireLease(wish), deadline).await?;
        let answer = match answer.lease.filter(|lease| !answer.carried_out && !members.contains(&lease.node)) {
            // Nobody will give it back in the stead of a node that is gone.
            Some(Lease { node, boot, .. }) => {
                self.about_lease(&Command::ReleaseLease { node, boot }, deadline).await?;
                self.about_lease(&Command::AcquireLease(wish), deadline).await?
            }
            None => answer,
        };
        match answer.lease.filter(|_| !answer.carried_out) {
            None => Ok(wish.node),
            Some(lease) => Err(AdminError::Refused(format!("node {} has the maintenance lease", lease.node))),
        }
    }

    async fn about_lease(&self, command: &Command, deadline: Instant) -> Result<Answer, AdminError> {
        match self.proposer.append(command.encode(), Kind::Housekeeping, deadline).await {
            Ok(Outcome::Lease(answer)) => Ok(answer),
            Ok(other) => Err(AdminError::Unknown(format!("the lease was asked for, {other:?} was answered"))),
            Err(AppendError::NotLeader { .. }) => Err(AdminError::NoLeader),
            Err(error) => Err(AdminError::Unknown(error.to_string())),
        }
    }
}

impl Node {
    /// Names this start of the node; none before it has an identity.
    pub fn boot(&self) -> Option<Uuid> {
        self.identity()?.lineage.newest().map(|boot| boot.name())
    }

    /// Takes the maintenance lease for this node, or prolongs it: until `seconds` later
    /// by the time of whoever leads, or until it is given back. Asks once.
    ///
    /// # Errors
    /// [`AdminError::Refused`] says who has it, or what forbids a restart now;
    /// [`AdminError::NotFound`]: this node is no member. After any other it may be had
    /// all the same: ask again, or give it back.
    pub async fn acquire_lease(&self, seconds: u32, deadline: Instant) -> Result<(), AdminError> {
        let (Some(identity), Some(boot)) = (self.identity(), self.boot()) else {
            return Err(AdminError::NotFound("this node belongs to no cluster".into()));
        };
        let wish = Acquire { node: identity.node, boot, seconds };
        self.administer(AdminRequest::AcquireLease(wish), deadline).await.map(|_| ())
    }

    /// Prolongs the lease of this node, whatever else there is: it is being maintained
    /// already. Whether it has it from now on.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn prolong_lease(&self, seconds: u32, deadline: Instant) -> Result<bool, AppendError> {
        let (Some(identity), Some(boot)) = (self.identity(), self.boot()) else { return Ok(false) };
        let command = Command::AcquireLease(Acquire { node: identity.node, boot, seconds });
        match self.append(command, Route::Forward, deadline).await? {
            Outcome::Lease(answer) => Ok(answer.carried_out),
            other => Err(AppendError::Unknown(format!("the lease was asked for, {other:?} was answered"))),
        }
    }

    /// Gives a lease back that this node has, also one of an earlier start. Whether it
    /// still had it then.
    ///
    /// # Errors
    /// [`AppendError`]: it is kept, or not known to be given back.
    pub async fn release_lease(&self, lease: &Lease, deadline: Instant) -> Result<bool, AppendError> {
        let command = Command::ReleaseLease { node: lease.node, boot: lease.boot };
        match self.append(command, Route::Forward, deadline).await? {
            Outcome::Lease(answer) => Ok(answer.carried_out),
            other => Err(AppendError::Unknown(format!("the lease was given back, {other:?} was answered"))),
        }
    }

    /// The lease, if a node has it by this machine's clock: to be shown, not to be
    /// decided by.
    pub fn held_lease(&self) -> Option<Lease> {
        self.store().lease().filter(|lease| lease.is_held(Timestamp::from(std::time::SystemTime::now())))
    }

    /// Hands leadership to the best other voter, if this node leads. Whom it went to.
    ///
    /// # Errors
    /// [`AdminError`]: this node may still lead.
    pub async fn hand_leadership_over(&self, deadline: Instant) -> Result<Option<u64>, AdminError> {
        let status = self.status();
        if status.role != Role::Leader {
            return Ok(None);
        }
        let Some(to) = successor(&status) else { return Ok(None) };
        let request = AdminRequest::TransferLeadership { to: Some(to) };
        // A transfer is one message: it may get lost, and is then asked for again.
        let patience = deadline.min(Instant::now() + Duration::from_secs(5));
        self.administer(request, patience).await.map(Some)
    }
}

/// The voter that should lead in the stead of the node whose status this is: of those
/// that answer the one that has most of the log.
fn successor(status: &Status) -> Option<u64> {
    let others = status.members.iter().filter(|member| member.voter && member.reachable && member.id != status.node);
    others.max_by_key(|member| (member.matched, std::cmp::Reverse(member.id))).map(|member| member.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Member, Phase};

    fn voter(id: u64) -> Voter {
        Voter { id, present: true, behind: 0 }
    }

    #[test]
    fn a_restart_waits_for_voters_that_are_gone_or_behind() {
        let away = |id| Voter { present: false, ..voter(id) };
        let behind = |id, behind| Voter { behind, ..voter(id) };
        assert_eq!(objection(1, &[voter(1), voter(2), voter(3)]), None);
        assert_eq!(objection(1, &[voter(1)]), None, "who is alone harms nobody else");
        assert!(objection(1, &[voter(1), away(2), voter(3)]).is_some_and(|why| why.contains("node 2")));
        assert!(objection(1, &[voter(1), voter(2), behind(3, LAG + 1)]).is_some_and(|why| why.contains("node 3")));
        assert_eq!(objection(1, &[voter(1), voter(2), behind(3, LAG)]), None);
        assert_eq!(objection(3, &[voter(1), voter(2), away(3)]), None, "its own state does not matter");
    }

    #[test]
    fn the_voter_with_most_of_the_log_succeeds_among_those_that_answer() {
        let member = |id, voter, matched, reachable| Member { id, voter, matched, reachable, ..Member::default() };
        let status = |members| Status {
            cluster: None,
            node: 1,
            incarnation: Uuid::nil(),
            phase: Phase::Ready,
            role: Role::Leader,
            term: 1,
            leader: None,
            members,
            last_log: 9,
            committed: 9,
            applied: 9,
            durable: 0,
            snapshot: 0,
            purged: 0,
            quorum_acked_ago: None,
        };
        let own = member(1, true, Some(9), true);
        let of = |others: &[Member]| successor(&status([std::slice::from_ref(&own), others].concat()));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[member(2, true, Some(8), true), member(3, true, Some(9), true)]), Some(3));
        assert_eq!(of(&[member(2, true, Some(8), true), member(3, true, Some(9), false)]), Some(2));
        assert_eq!(of(&[member(2, false, Some(9), true)]), None, "a learner cannot lead");
        assert_eq!(of(&[member(2, true, Some(9), true), member(3, true, Some(9), true)]), Some(2));
    }
}
