//! Votes for learners that have caught up.
//!
//! A node that joins is a learner first: a voter that is behind is one that a quorum
//! has to wait for. The leader watches its learners, and one that has been near the end
//! of the log for a while gets a vote, one at a time, as long as there are fewer voters
//! than `voters_max`. A learner that is to take the place of another member does so then,
//! whatever the number. Replicas never get a vote.
//!
//! Which learner is next is a pure function ([`next`]) of what the leader sees; what it
//! has watched is forgotten with its leadership, so that the next leader watches anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::admin::{AdminRequest, LAG};
use crate::node::Node;
use crate::status::{Member, Phase, Role, Status};

/// How often the leader looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a learner must have been near the end of the log.
const STEADY: Duration = Duration::from_secs(2);

/// How long the change may take.
const CHANGE: Duration = Duration::from_secs(10);

/// After one that failed nothing is tried for so long.
const PAUSE: Duration = Duration::from_secs(5);

/// Since when each learner has been near the end of the log.
#[derive(Debug, Default)]
struct Watched(BTreeMap<u64, Instant>);

impl Watched {
    fn see(&mut self, status: &Status, now: Instant) {
        let is_near = |member: &&Member| !member.voter && member.reachable && is_near(status, member);
        let near: Vec<u64> = status.members.iter().filter(is_near).map(|member| member.id).collect();
        self.0.retain(|id, _| near.contains(id));
        for id in near {
            self.0.entry(id).or_insert(now);
        }
    }

    fn is_steady(&self, member: u64, now: Instant) -> bool {
        self.0.get(&member).is_some_and(|since| now.saturating_duration_since(*since) >= STEADY)
    }
}

/// Runs until the node stops.
pub(crate) async fn run(node: Node) {
    let stopping = node.stopping().clone();
    let mut watched = Watched::default();
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopping.cancelled() => return,
        }
        pause = LOOK_EVERY;
        let status = node.status();
        if status.role != Role::Leader || status.phase != Phase::Ready {
            watched = Watched::default();
            continue;
        }
        watched.see(&status, Instant::now());
        let Some(id) = next(&status, &watched, node.config().voters_max, Instant::now()) else { continue };
        let request = AdminRequest::Promote { node: id };
        if let Err(error) = node.administer(request, Instant::now() + CHANGE).await {
            tracing::warn!(node = id, %error, "a learner that has caught up did not get its vote");
            pause = PAUSE;
        }
    }
}

/// The learner that is next, if any.
fn next(status: &Status, watched: &Watched, voters_max: usize, now: Instant) -> Option<u64> {
    let ready = |member: &&Member| !member.voter && watched.is_steady(member.id, now);
    let replaces = |member: &&Member| {
        member.replaces.is_some_and(|old| old != status.node && status.members.iter().any(|other| other.id == old))
    };
    let replacement = status.members.iter().filter(ready).find(replaces);
    if let Some(replacement) = replacement {
        return Some(replacement.id);
    }
    let voters = status.members.iter().filter(|member| member.voter).count();
    // Every voter that is away makes another one dearer: first those that are there
    // must be a majority of the voters that there would be.
    let present = status.members.iter().filter(|member| member.voter && member.reachable).count();
    if voters >= voters_max || present * 2 <= voters {
        return None;
    }
    status.members.iter().filter(ready).find(|member| !member.replica).map(|member| member.id)
}

fn is_near(status: &Status, member: &Member) -> bool {
    member.matched.is_some_and(|matched| matched.saturating_add(LAG) >= status.last_log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn voter(id: u64) -> Member {
        Member { id, voter: true, reachable: true, matched: Some(10_000), ..Member::default() }
    }

    fn learner(id: u64) -> Member {
        Member { voter: false, ..voter(id) }
    }

    fn status(members: Vec<Member>) -> Status {
        Status {
            cluster: Some(Uuid::from_u128(1)),
            node: 1,
            incarnation: Uuid::from_u128(2),
            phase: Phase::Ready,
            role: Role::Leader,
            term: 1,
            leader: Some((1, "a:1".into())),
            members,
            last_log: 10_000,
            committed: 10_000,
            applied: 10_000,
            durable: 0,
            snapshot: 0,
            purged: 0,
            quorum_acked_ago: None,
        }
    }

    /// Who is next after these were seen, each for [`STEADY`] but the last.
    fn after(seen: &[Status], voters_max: usize) -> Option<u64> {
        let mut watched = Watched::default();
        let mut now = Instant::now();
        for status in seen {
            watched.see(status, now);
            now += STEADY;
        }
        now -= STEADY;
        next(seen.last()?, &watched, voters_max, now)
    }

    #[test]
    fn a_learner_that_stayed_near_the_end_gets_a_vote_the_first_one_first() {
        let status = status(vec![voter(1), voter(2), voter(3), learner(4), learner(5)]);
        assert_eq!(after(std::slice::from_ref(&status), 5), None, "not at once");
        assert_eq!(after(&[status.clone(), status], 5), Some(4));
    }

    #[test]
    fn one_that_fell_behind_or_away_is_watched_anew() {
        let good = status(vec![voter(1), voter(2), voter(3), learner(4)]);
        let behind = Member { matched: Some(10_000 - LAG - 1), ..learner(4) };
        let away = Member { reachable: false, ..learner(4) };
        for bad in [behind, away] {
            let bad = status(vec![voter(1), voter(2), voter(3), bad]);
            assert_eq!(after(&[good.clone(), bad.clone()], 5), None);
            assert_eq!(after(&[good.clone(), bad.clone(), good.clone()], 5), None);
            assert_eq!(after(&[bad, good.clone(), good.clone()], 5), Some(4));
        }
        let edge = status(vec![voter(1), Member { matched: Some(10_000 - LAG), ..learner(4) }]);
        assert_eq!(after(&[edge.clone(), edge], 5), Some(4));
    }

    #[test]
    fn there_are_never_more_voters_than_wanted() {
        let status = status(vec![voter(1), voter(2), voter(3), learner(4)]);
        assert_eq!(after(&[status.clone(), status.clone()], 3), None);
        assert_eq!(after(&[status.clone(), status.clone()], 0), None);
        assert_eq!(after(&[status.clone(), status], 4), Some(4));
    }

    #[test]
    fn a_replica_never_gets_a_vote() {
        let replica = Member { replica: true, ..learner(4) };
        let status = status(vec![voter(1), replica, learner(5)]);
        assert_eq!(after(&[status.clone(), status], 5), Some(5));
    }

    #[test]
    fn who_takes_anothers_place_comes_first_and_needs_no_room() {
        let gone = Member { reachable: false, ..voter(3) };
        let substitute = Member { replaces: Some(3), ..learner(6) };
        let status = status(vec![voter(1), voter(2), gone, learner(4), substitute.clone()]);
        assert_eq!(after(&[status.clone(), status], 3), Some(6));
        // Once that is done it is a learner like others.
        let done = self::status(vec![voter(1), voter(2), substitute]);
        assert_eq!(after(&[done.clone(), done], 2), None);
    }

    #[test]
    fn no_vote_is_given_while_half_of_the_voters_are_away() {
        let gone = |id| Member { reachable: false, ..voter(id) };
        let status = status(vec![voter(1), voter(2), gone(3), gone(4), learner(5)]);
        assert_eq!(after(&[status.clone(), status], 5), None);
    }
}
