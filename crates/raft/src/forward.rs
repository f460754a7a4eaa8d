//! Carrying commands to the leader.
//!
//! A node that does not lead sends a client's command to the leader over one
//! long-lived stream and hands the outcome back. Two rules keep the answer
//! exact:
//!
//! - Nothing is put on a stream before the leader's side has opened it. What
//!   waits for a stream that never opens was certainly not applied.
//! - What was put on a stream that breaks is unknown, and is never sent again
//!   by this node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::Outcome;
use annals_proto::annals::internal::v1 as pb;
use annals_proto::annals::internal::v1::forward_reply::Result as Answer;
use annals_proto::annals::internal::v1::not_proposed::Reason;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

use crate::error::AppendError;
use crate::identity::Identity;
use crate::network::Channels;
use crate::node::watching::until;
use crate::observer::Observer;
use crate::types::NodeInfo;

/// Commands that wait for one leader's stream.
const QUEUE: usize = 4_096;
/// How long a stream may take to open.
const OPEN: Duration = Duration::from_secs(1);

type Reply = oneshot::Sender<Result<Outcome, AppendError>>;

struct Job {
    command: Bytes,
    deadline: Instant,
    reply: Reply,
}

/// Streams to leaders, of which there is mostly one.
pub(crate) struct Forwarder {
    identity: Identity,
    channels: Arc<Channels>,
    observer: Arc<dyn Observer>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    links: Mutex<HashMap<u64, mpsc::Sender<Job>>>,
    /// Bytes of commands on their way, as on the leader.
    budget: Arc<Semaphore>,
    budget_bytes: usize,
}

impl Forwarder {
    pub(crate) fn new(
        identity: Identity,
        channels: Arc<Channels>,
        observer: Arc<dyn Observer>,
        tasks: TaskTracker,
        stopping: CancellationToken,
        budget_bytes: usize,
    ) -> Self {
        let budget_bytes = budget_bytes.min(u32::MAX as usize / 2);
        let budget = Arc::new(Semaphore::new(budget_bytes));
        Forwarder { identity, channels, observer, tasks, stopping, links: Mutex::default(), budget, budget_bytes }
    }

    /// Has the leader carry out a command.
    pub(crate) async fn forward(
        &self,
        leader: u64,
        node: &NodeInfo,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Outcome, AppendError> {
        if command.len() > self.budget_bytes {
            return Err(AppendError::TooLarge { bytes: command.len(), max: self.budget_bytes });
        }
        let price = u32::try_from(command.len()).expect("the budget is below 2^31");
        let _permit = tokio::time::timeout_at(deadline.into(), self.budget.acquire_many(price))
            .await
            .map_err(|_| AppendError::Overloaded)?
            .expect("the budget is never closed");
        let (reply, outcome) = oneshot::channel();
        let job = Job { command, deadline, reply };
        match tokio::time::timeout_at(deadline.into(), self.link(leader, node).send(job)).await {
            Ok(Ok(())) => {}
            // The stream ended before the command was put on it.
            Ok(Err(_)) => return Err(AppendError::NotLeader { leader: None }),
            Err(_) => return Err(AppendError::Overloaded),
        }
        match tokio::time::timeout_at(deadline.into(), outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(AppendError::Unknown("the way to the leader broke".into())),
            Err(_) => Err(AppendError::Unknown("the leader did not answer before the deadline".into())),
        }
    }

    fn link(&self, leader: u64, node: &NodeInfo) -> mpsc::Sender<Job> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&leader)
            && !link.is_closed()
        {
            return link.clone();
        }
        let (sender, jobs) = mpsc::channel(QUEUE);
        let link = Link {
            identity: self.identity,
            channels: self.channels.clone(),
            observer: self.observer.clone(),
            leader,
            node: node.clone(),
        };
        // What is on its way when the node stops is unknown to its callers.
        self.tasks.spawn(until(self.stopping.clone(), link.run(jobs)));
        links.insert(leader, sender.clone());
        sender
    }
}

struct Link {
    identity: Identity,
    channels: Arc<Channels>,
    observer: Arc<dyn Observer>,
    leader: u64,
    node: NodeInfo,
}

impl Link {
    async fn run(self, mut jobs: mpsc::Receiver<Job>) {
        let mut pending: HashMap<u64, Reply> = HashMap::new();
        let end = match self.open().await {
            Ok((requests, answers)) => serve(requests, answers, &mut jobs, &mut pending).await,
            Err(status) => status,
        };
        self.observer.peer_call_failed(self.leader);
        tracing::debug!(leader = self.leader, %end, "the stream to the leader ended");
        for (_, reply) in pending {
            self.observer.proposal_failed();
            let _ = reply.send(Err(AppendError::Unknown(format!("the way to the leader broke: {end}"))));
        }
        jobs.close();
        while let Some(job) = jobs.recv().await {
            let _ = job.reply.send(Err(AppendError::NotLeader { leader: None }));
        }
    }

    async fn open(&self) -> Result<(mpsc::Sender<pb::ForwardRequest>, Streaming<pb::ForwardReply>), Status> {
        let (requests, outgoing) = mpsc::channel(64);
        let mut client = self.channels.coordination(&self.node.address)?;
        let call = client.forward(self.identity.sign(self.leader, &self.node, ReceiverStream::new(outgoing)));
        let answers = tokio::time::timeout(OPEN, call)
            .await
            .map_err(|_| Status::deadline_exceeded("the leader did not open the stream"))??;
        Ok((requests, answers.into_inner()))
    }
}

/// Sends jobs and hands out answers until the stream ends; says why it did.
async fn serve(
    requests: mpsc::Sender<pb::ForwardRequest>,
    mut answers: Streaming<pb::ForwardReply>,
    jobs: &mut mpsc::Receiver<Job>,
    pending: &mut HashMap<u64, Reply>,
) -> Status {
    let mut id = 0;
    let mut next: Option<Job> = None;
    let end = loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    if let Some(reply) = pending.remove(&answer.id) {
                        let _ = reply.send(read_answer(answer.result));
                    }
                }
                Ok(None) => break Status::unavailable("the leader closed the stream"),
                Err(status) => break status,
            },
            job = jobs.recv(), if next.is_none() => match job {
                Some(job) => next = Some(job),
                None => break Status::cancelled("nobody forwards any more"),
            },
            permit = requests.reserve(), if next.is_some() => {
                let Ok(permit) = permit else { break Status::unavailable("the stream is closed") };
                let job = next.take().expect("checked by the branch");
                let left = job.deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let _ = job.reply.send(Err(AppendError::Overloaded));
                    continue;
                }
                id += 1;
                pending.insert(id, job.reply);
                let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
                permit.send(pb::ForwardRequest { id, command: job.command, timeout_ms });
            }
        }
    };
    if let Some(job) = next {
        // Never put on the stream.
        let _ = job.reply.send(Err(AppendError::NotLeader { leader: None }));
    }
    end
}

pub(crate) fn read_answer(answer: Option<Answer>) -> Result<Outcome, AppendError> {
    match answer {
        Some(Answer::Outcome(bytes)) => Outcome::decode(bytes)
            .map_err(|error| AppendError::Unknown(format!("the leader's answer could not be read: {error}"))),
        Some(Answer::NotProposed(refusal)) => Err(match refusal.reason() {
            Reason::NotLeader => AppendError::NotLeader { leader: None },
            Reason::Overloaded => AppendError::Overloaded,
            Reason::NotReady | Reason::Invalid => AppendError::NotReady(refusal.message),
            // The leader goes down, not this node: another one will follow.
            Reason::ShuttingDown => AppendError::NotLeader { leader: None },
            Reason::DiskFull => AppendError::DiskFull { free: refusal.bytes },
            Reason::TooLarge => AppendError::TooLarge {
                bytes: usize::try_from(refusal.bytes).unwrap_or(usize::MAX),
                max: usize::try_from(refusal.bytes_max).unwrap_or(usize::MAX),
            },
        }),
        Some(Answer::Unknown(why)) => Err(AppendError::Unknown(why)),
        None => Err(AppendError::Unknown("the leader sent an empty answer".into())),
    }
}

/// What the leader answers.
pub(crate) fn write_answer(id: u64, result: Result<Outcome, AppendError>) -> pb::ForwardReply {
    let refusal = |reason: Reason, message: String, bytes: u64, bytes_max: u64| {
        Answer::NotProposed(pb::NotProposed { reason: reason.into(), message, bytes, bytes_max })
    };
    let answer = match result {
        Ok(outcome) => Answer::Outcome(outcome.encode()),
        Err(AppendError::NotLeader { .. }) => refusal(Reason::NotLeader, String::new(), 0, 0),
        Err(AppendError::Overloaded) => refusal(Reason::Overloaded, String::new(), 0, 0),
        Err(AppendError::NotReady(why)) => refusal(Reason::NotReady, why, 0, 0),
        Err(AppendError::ShuttingDown) => refusal(Reason::ShuttingDown, String::new(), 0, 0),
        Err(AppendError::DiskFull { free }) => refusal(Reason::DiskFull, String::new(), free, 0),
        Err(AppendError::TooLarge { bytes, max }) => refusal(Reason::TooLarge, String::new(), bytes as u64, max as u64),
        Err(AppendError::Unknown(why)) => Answer::Unknown(why),
    };
    pb::ForwardReply { id, result: Some(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_way_and_only_unknown_is_unknown() {
        let errors = [
            AppendError::Overloaded,
            AppendError::NotReady("x".into()),
            AppendError::DiskFull { free: 7 },
            AppendError::TooLarge { bytes: 9, max: 8 },
            AppendError::Unknown("y".into()),
        ];
        for error in errors {
            assert_eq!(read_answer(write_answer(1, Err(error.clone())).result), Err(error));
        }
        for error in [AppendError::ShuttingDown, AppendError::NotLeader { leader: Some((1, "a:1".into())) }] {
            assert_eq!(read_answer(write_answer(1, Err(error)).result), Err(AppendError::NotLeader { leader: None }));
        }
        assert_eq!(read_answer(write_answer(1, Ok(Outcome::Node(3))).result), Ok(Outcome::Node(3)));
    }
}
