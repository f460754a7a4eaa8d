//! Noticing at once that the leader's process is gone.
//!
//! A process that dies takes its connections with it, and from then on its
//! machine refuses new ones: a follower can know within milliseconds what the
//! election timeout would tell it a second later. So a follower whose stream of
//! the leader ends looks whether the leader's address still takes connections.
//! If it refuses, the follower asks the other voters to look too; and if a
//! majority of the voters, itself among them, is refused, it begins an election.
//!
//! Invariants
//! - Only *when* an election begins is decided here. Who can win it follows from
//!   terms and logs as ever, so a wrong conclusion costs a change of leaders and
//!   nothing else. Such an election does not wait for the rest of the leader's
//!   lease, on which no read depends ([`crate::read_index`]).
//! - Silence proves nothing: of a partition, a paused process or a machine
//!   without power nobody is refused, and the election timeout decides. Nor does
//!   what one node alone sees: a follower that is cut off reaches no majority.
//! - The voters that notice stand in line, [`STEP`] apart, so that they do not
//!   split the votes; whose log is longest comes first, for it can win.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use annals_proto::annals::internal::v1 as pb;
use futures::future::join_all;
use futures::stream::Stream;
use openraft::raft::TransferLeaderRequest;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::node::{Node, Running};
use crate::types::{Membership, Metrics, NodeInfo};

/// Between two voters: longer than an election takes.
const STEP: Duration = Duration::from_millis(60);

/// How long a look may take: a refusal comes at once or not at all.
const LOOK: Duration = Duration::from_millis(200);

/// Before each look at an address that still took a connection: a process that
/// is being ended closes its sockets one after the other. Few, because each look
/// is a connection that a living leader has to take.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(10),
    Duration::from_millis(150),
    Duration::from_millis(500),
];

/// So many of them for another voter that asks, and does not wait for more.
const PAUSES_ASKED: usize = 3;

/// How long another voter may take for its looks.
const ANSWER: Duration = Duration::from_millis(400);

/// The requests of a leader's stream, which tells when it ends as no heartbeat does:
/// a heartbeat is a stream of one request, which ends in order.
///
/// Who reads it may let go of it before its end, and that tells too: with the
/// connection goes whoever waits for the answers, and a request that had still arrived
/// is then the last one to be read.
pub(crate) struct Requests<S> {
    requests: S,
    received: u64,
    was_heartbeat: bool,
    leader: u64,
    broken: watch::Sender<u64>,
}

impl<S> Requests<S> {
    /// Tells `broken` the leader.
    pub(crate) fn new(requests: S, leader: u64, broken: watch::Sender<u64>) -> Self {
        Requests { requests, received: 0, was_heartbeat: false, leader, broken }
    }
}

impl<T, E, S: Stream<Item = Result<T, E>> + Unpin> Stream for Requests<S> {
    type Item = Result<T, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.requests).poll_next(context));
        match &next {
            Some(Ok(_)) => self.received += 1,
            // Told when this is let go of, which an error leads to at once.
            Some(Err(_)) => {}
            None => self.was_heartbeat = self.received <= 1,
        }
        Poll::Ready(next)
    }
}

impl<S> Drop for Requests<S> {
    fn drop(&mut self) {
        if !self.was_heartbeat {
            self.broken.send_replace(self.leader);
        }
    }
}

/// Looks whether a leader is gone whenever its stream was told to be broken: once for
/// all that are told during a look, as a leader that goes takes several with it. Runs
/// until it is dropped.
pub(crate) async fn run(node: Node, mut broken: watch::Receiver<u64>) {
    while broken.changed().await.is_ok() {
        let leader = *broken.borrow_and_update();
        let Some(running) = node.running() else { return };
        replace_if_gone(&node, running, leader).await;
    }
}

async fn replace_if_gone(node: &Node, running: &Running, leader: u64) {
    let before = running.metrics();
    let own = running.identity.node;
    let membership = before.membership_config.membership().clone();
    let votes = |id: u64| membership.voter_ids().any(|voter| voter == id);
    if before.current_leader != Some(leader) || !votes(own) || !is_gone(running, leader, &PAUSES).await {
        return;
    }
    let others = membership.nodes().filter(|(id, _)| **id != own && **id != leader && votes(**id));
    let asked = others.map(|(id, info)| async { Some((ask(node, running, *id, info, leader).await?, *id)) });
    let mut refused: Vec<(Reverse<u64>, u64)> = join_all(asked).await.into_iter().flatten().collect();
    refused.push((log_end(&before), own));
    if !is_quorum(&membership, &refused.iter().map(|(_, id)| *id).collect()) {
        return;
    }
    refused.sort_unstable();
    let place = refused.iter().take_while(|(_, id)| *id != own).count();
    tokio::time::sleep(STEP * u32::try_from(place).unwrap_or(u32::MAX)).await;
    let now = running.metrics();
    if now.current_leader != Some(leader) || now.vote != before.vote {
        return;
    }
    tracing::info!(leader, "the leader's process is gone: asking for votes");
    let _ = running.raft.handle_transfer_leader(TransferLeaderRequest::new(now.vote, own, None)).await;
}

/// What another voter is answered that asks about this leader.
pub(crate) async fn look(running: &Running, leader: u64) -> pb::LostLeaderReply {
    let refused = is_gone(running, leader, &PAUSES[..PAUSES_ASKED]).await;
    pb::LostLeaderReply { refused, last_log_index: running.metrics().last_log_index.unwrap_or(0) }
}

/// Whether this node follows this leader, and is refused by its address.
async fn is_gone(running: &Running, leader: u64, pauses: &[Duration]) -> bool {
    let metrics = running.metrics();
    let Some(info) = metrics.membership_config.get_node(&leader) else { return false };
    if metrics.current_leader != Some(leader) || leader == running.identity.node {
        return false;
    }
    refuses(&info.address, pauses).await
}

/// The longest log first.
fn log_end(metrics: &Metrics) -> Reverse<u64> {
    Reverse(metrics.last_log_index.unwrap_or(0))
}

async fn refuses(address: &str, pauses: &[Duration]) -> bool {
    for pause in pauses {
        tokio::time::sleep(*pause).await;
        match tokio::time::timeout(LOOK, TcpStream::connect(address)).await {
            Ok(Err(error)) => return error.kind() == io::ErrorKind::ConnectionRefused,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
    false
}

/// The end of another voter's log, if it is refused too.
async fn ask(node: &Node, running: &Running, id: u64, info: &NodeInfo, leader: u64) -> Option<Reverse<u64>> {
    let mut client = node.channels().coordination(&info.address).ok()?;
    let request = running.identity.sign(id, info, pb::LostLeaderRequest { leader });
    let answer = tokio::time::timeout(ANSWER, client.lost_leader(request)).await.ok()?.ok()?.into_inner();
    answer.refused.then_some(Reverse(answer.last_log_index))
}

/// Whether these are a majority of the voters, in each configuration that has
/// to agree.
fn is_quorum(membership: &Membership, these: &BTreeSet<u64>) -> bool {
    membership.get_joint_config().iter().all(|voters| voters.intersection(these).count() > voters.len() / 2)
}

#[cfg(test)]
mod tests {
    use futures::stream::{self, StreamExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Whether a stream of these requests tells that it is broken, of which so many
    /// are read before it is let go of.
    async fn tells(requests: Vec<Result<(), ()>>, read: usize) -> bool {
        let (broken, told) = (watch::Sender::new(0), |broken: &watch::Sender<u64>| *broken.borrow() == 7);
        let mut requests = Requests::new(stream::iter(requests), 7, broken.clone());
        for _ in 0..read {
            requests.next().await;
            assert!(!told(&broken), "there is more to read");
        }
        drop(requests);
        told(&broken)
    }

    #[tokio::test]
    async fn a_heartbeat_that_ends_is_no_reason_to_look() {
        assert!(!tells(vec![Ok(())], 2).await, "a heartbeat");
        assert!(tells(vec![Err(())], 1).await, "one that did not arrive");
        assert!(tells(vec![Ok(()), Err(())], 2).await, "a heartbeat that broke");
        assert!(tells(vec![Ok(()), Ok(())], 3).await, "entries came, and no more will");
    }

    #[tokio::test]
    async fn a_stream_that_is_let_go_of_before_its_end_is_broken() {
        assert!(tells(vec![Ok(()), Ok(())], 2).await, "nobody waits for the answer to the last one");
    }

    #[tokio::test]
    async fn an_address_refuses_once_nobody_listens_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        assert!(!refuses(&address, &PAUSES[..PAUSES_ASKED]).await);
        drop(listener);
        assert!(refuses(&address, &PAUSES[..PAUSES_ASKED]).await);
    }

    #[tokio::test]
    async fn what_cannot_be_reached_for_other_reasons_does_not_refuse() {
        assert!(!refuses("no address", &PAUSES).await);
        assert!(!refuses("255.255.255.255:1", &PAUSES).await);
    }

    #[test]
    fn both_halves_of_a_joint_membership_have_to_agree() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
        let nodes = (1..=5).map(|id| (id, NodeInfo::default())).collect::<std::collections::BTreeMap<_, _>>();
        let joint = Membership::new(vec![set(&[1, 2, 3]), set(&[3, 4, 5])], nodes).expect("all are known");
        assert!(is_quorum(&joint, &set(&[2, 3, 4])));
        assert!(!is_quorum(&joint, &set(&[1, 2, 4])));
        assert!(!is_quorum(&joint, &set(&[])));
    }
}
