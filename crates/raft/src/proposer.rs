//! Proposing commands on the leader.
//!
//! One task gathers the commands that wait into one batch, stamps it with this
//! node's clock and proposes it as one entry. Several entries are in flight at a
//! time, because each takes a disk's and a network's time; but an entry costs
//! every node the same whether it carries one command or fifty, and small ones
//! cost a busy cluster half its rate. So: at once when nothing is in flight,
//! else when a batch is worth an entry or its first command has waited long
//! enough ([`Gathered::is_due`]), on a busy node as long as a commit takes
//! ([`linger`]). The busier and the slower the node, the larger the batches.
//!
//! What a caller learns is exact. A command is *claimed* once, either by this
//! task right before it proposes, or by its caller whose deadline passed; in
//! the second case it was certainly not applied.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_core::{Batch, Command, Outcome, Timestamp};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::storage::RaftStateMachine;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::AppendError;
use crate::observer::Observer;
use crate::state_machine::StateMachine;
use crate::types::{Proposal, Raft, TypeConfig};

/// Bytes of one batch, if it holds more than one command.
const BATCH_BYTES: usize = 1024 * 1024;
/// Commands of one batch.
const BATCH_COMMANDS: usize = 1_024;
/// Batches in flight. Two halve the throughput, eight are enough.
const IN_FLIGHT: usize = 16;
/// Commands, or bytes, that are worth an entry of their own beside others that
/// are in flight.
const WORTH_COMMANDS: usize = 64;
const WORTH_BYTES: usize = 64 * 1024;
/// How long a command waits for others while something is in flight, and the
/// timer's millisecond at most on top. About what a commit takes on a good disk.
const LINGER: Duration = Duration::from_millis(1);
/// With so many commands in flight a node is busy, and those that follow may wait
/// for as long as a commit takes of late: on a slow machine entries would else be
/// small where each costs the most. Fewer would rather have their answer.
const BUSY_COMMANDS: usize = 16;
/// How long that may be at most: one sync that hangs delays no more than this.
const LINGER_MAX: Duration = Duration::from_millis(8);
/// Commands that may wait; bytes are bounded by the budget.
const QUEUE: usize = 65_536;
/// Commands that may wait for memory to be queued. Beyond it they are refused at
/// once: they would wait longer than anybody has patience for.
pub const WAITING_MAX: usize = 4_096;
/// What a command costs beside its bytes.
const OVERHEAD: usize = 256;

/// A handle on the proposer's task.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Waiting>,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
    /// Places for those who wait for a part of the budget.
    places: Arc<Semaphore>,
    #[cfg(feature = "seeded-bugs")]
    mistakes: crate::mistakes::Proposing,
}

struct Waiting {
    command: Bytes,
    kind: Kind,
    claimed: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<Outcome, AppendError>>,
    _permit: OwnedSemaphorePermit,
}

/// Whether a command may be refused for want of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A client's: it adds data.
    Append,
    /// The cluster's own housekeeping: it goes on.
    Housekeeping,
}

impl Kind {
    /// Of a command that came from a client, encoded.
    pub(crate) fn of(command: &[u8]) -> Kind {
        if Command::gives_space(command) { Kind::Housekeeping } else { Kind::Append }
    }
}

/// What the task works with.
pub(crate) struct Surroundings<M: RaftStateMachine<TypeConfig> = StateMachine> {
    pub(crate) raft: Raft<M>,
    /// What entries are stamped with.
    pub(crate) clock: fn() -> Timestamp,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) free_bytes: Arc<AtomicU64>,
    pub(crate) reserve_bytes: u64,
    pub(crate) stopping: CancellationToken,
    #[cfg(feature = "seeded-bugs")]
    pub(crate) mistakes: crate::mistakes::Proposing,
}

impl Proposer {
    /// The handle, and the task to be run.
    pub(crate) fn new<M: RaftStateMachine<TypeConfig>>(
        budget_bytes: usize,
        surroundings: Surroundings<M>,
    ) -> (Proposer, impl Future<Output = ()>) {
        // A command's price is counted in 32 bits.
        let budget_bytes = budget_bytes.min(u32::MAX as usize / 2).min(Semaphore::MAX_PERMITS);
        let (queue, waiting) = mpsc::channel(QUEUE);
        let proposer = Proposer {
            queue,
            budget: Arc::new(Semaphore::new(budget_bytes)),
            budget_bytes,
            places: Arc::new(Semaphore::new(WAITING_MAX)),
            #[cfg(feature = "seeded-bugs")]
            mistakes: surroundings.mistakes.clone(),
        };
        let task = Task {
            waiting,
            gathered: Gathered::default(),
            in_flight: FuturesUnordered::new(),
            commands_in_flight: 0,
            recent_commit: LINGER,
            surroundings,
        };
        (proposer, task.run())
    }

    /// Proposes a command and waits for its outcome.
    pub(crate) async fn append(&self, command: Bytes, kind: Kind, deadline: Instant) -> Result<Outcome, AppendError> {
        #[cfg(feature = "seeded-bugs")]
        if let Some(result) = self.mistakes.append(self, &command, kind, deadline).await {
            return result;
        }
        self.propose(command, kind, deadline).await
    }

    pub(crate) async fn propose(&self, command: Bytes, kind: Kind, deadline: Instant) -> Result<Outcome, AppendError> {
        let price = command.len() + OVERHEAD;
        if price > self.budget_bytes {
            return Err(AppendError::TooLarge { bytes: command.len(), max: self.budget_bytes - OVERHEAD });
        }
        let price = u32::try_from(price).expect("the budget is below 2^31");
        let deadline = deadline.into();
        // Memory is taken before the command is queued: pressure reaches the
        // client instead of this process. Mostly there is some, and no timer
        // to be set; nobody who waits is overtaken, because what is given back
        // is theirs before it is free.
        let permit = match self.budget.clone().try_acquire_many_owned(price) {
            Ok(permit) => permit,
            Err(_) => {
                let _place = match kind {
                    Kind::Append => Some(self.places.try_acquire().map_err(|_| AppendError::Overloaded)?),
                    Kind::Housekeeping => None,
                };
                tokio::time::timeout_at(deadline, self.budget.clone().acquire_many_owned(price))
                    .await
                    .map_err(|_| AppendError::Overloaded)?
                    .expect("the budget is never closed")
            }
        };
        let (reply, mut outcome) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let waiting = Waiting { command, kind, claimed: claimed.clone(), reply, _permit: permit };
        match self.queue.try_send(waiting) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(AppendError::ShuttingDown),
            Err(TrySendError::Full(waiting)) => {
                match tokio::time::timeout_at(deadline, self.queue.send(waiting)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(AppendError::ShuttingDown),
                    Err(_) => return Err(AppendError::Overloaded),
                }
            }
        }
        match tokio::time::timeout_at(deadline, &mut outcome).await {
            Ok(Ok(outcome)) => outcome,
            // The task is gone. What it had not claimed it never will.
            Ok(Err(_)) if !claimed.swap(true, Ordering::AcqRel) => Err(AppendError::ShuttingDown),
            Ok(Err(_)) => Err(AppendError::Unknown("the node went down".into())),
            Err(_) if !claimed.swap(true, Ordering::AcqRel) => Err(AppendError::Overloaded),
            Err(_) => Err(AppendError::Unknown("it was not committed before the deadline".into())),
        }
    }
}

impl Proposer {
    /// Returns when no command waits or is in flight.
    pub(crate) async fn drained(&self) {
        let all = u32::try_from(self.budget_bytes).expect("the budget is below 2^31");
        let _ = self.budget.acquire_many(all).await;
    }
}

pub(crate) type Reply = oneshot::Sender<Result<Outcome, AppendError>>;
type Proposed = (Result<ClientWriteResult<TypeConfig>, ()>, Vec<(Reply, OwnedSemaphorePermit)>, Instant);

struct Task<M: RaftStateMachine<TypeConfig>> {
    waiting: mpsc::Receiver<Waiting>,
    gathered: Gathered,
    in_flight: FuturesUnordered<BoxFuture<'static, Proposed>>,
    commands_in_flight: usize,
    /// A mean that forgets.
    recent_commit: Duration,
    surroundings: Surroundings<M>,
}

impl<M: RaftStateMachine<TypeConfig>> Task<M> {
    async fn run(mut self) {
        let stopping = self.surroundings.stopping.clone();
        loop {
            self.gather();
            debug_assert!(!self.in_flight.is_empty() || self.commands_in_flight == 0, "each is taken off again");
            let has_room = self.in_flight.len() < IN_FLIGHT;
            let linger = linger(self.commands_in_flight, self.recent_commit);
            if has_room && self.gathered.is_due(!self.in_flight.is_empty(), linger) {
                self.propose_gathered().await;
                continue;
            }
            let lingers = self.gathered.since.filter(|_| has_room).map(|since| since + linger);
            tokio::select! {
                // Outcomes first: each makes room.
                biased;
                Some((result, replies, started)) = self.in_flight.next() => self.answer(result, replies, started),
                () = stopping.cancelled() => break,
                waiting = self.waiting.recv(), if !self.gathered.is_full() => match waiting {
                    Some(waiting) => self.gathered.push(waiting),
                    None => break,
                },
                () = passed(lingers) => {}
            }
        }
        self.waiting.close();
        for waiting in std::mem::take(&mut self.gathered).commands {
            refuse(waiting, AppendError::ShuttingDown);
        }
        while let Some(waiting) = self.waiting.recv().await {
            refuse(waiting, AppendError::ShuttingDown);
        }
        while let Some((result, replies, started)) = self.in_flight.next().await {
            self.answer(result, replies, started);
        }
    }

    /// Takes what waits, up to a batch.
    fn gather(&mut self) {
        while !self.gathered.is_full() {
            let Ok(waiting) = self.waiting.try_recv() else { break };
            self.gathered.push(waiting);
        }
    }

    async fn propose_gathered(&mut self) {
        let (batch, bytes) = self.gathered.take();
        let free = self.surroundings.free_bytes.load(Ordering::Relaxed);
        let full = free < self.surroundings.reserve_bytes;
        let mut commands = Vec::with_capacity(batch.len());
        let mut replies = Vec::with_capacity(batch.len());
        for waiting in batch {
            if full && waiting.kind == Kind::Append {
                refuse(waiting, AppendError::DiskFull { free });
            } else if !waiting.claimed.swap(true, Ordering::AcqRel) {
                commands.push(waiting.command);
                replies.push((waiting.reply, waiting._permit));
            }
        }
        if commands.is_empty() {
            return;
        }
        self.surroundings.observer.proposed(commands.len(), bytes);
        let proposal = Proposal::new(Batch::encode((self.surroundings.clock)(), &commands));
        let started = Instant::now();
        #[cfg(feature = "seeded-bugs")]
        let foreseen = self.surroundings.mistakes.foresee(&proposal.batch, self.in_flight.is_empty());
        let (responder, outcome) = ProgressResponder::complete_only();
        if self.surroundings.raft.client_write_ff(proposal, Some(responder)).await.is_err() {
            self.surroundings.observer.settled();
            for (reply, _) in replies {
                let _ = reply.send(Err(AppendError::ShuttingDown));
            }
            return;
        }
        #[cfg(feature = "seeded-bugs")]
        let replies = self.surroundings.mistakes.answer_early(foreseen, replies);
        self.commands_in_flight += replies.len();
        self.in_flight.push(Box::pin(async move { (outcome.await.map_err(|_| ()), replies, started) }));
    }

    fn answer(
        &mut self,
        result: Result<ClientWriteResult<TypeConfig>, ()>,
        replies: Vec<(Reply, OwnedSemaphorePermit)>,
        started: Instant,
    ) {
        self.commands_in_flight -= replies.len();
        let observer = &self.surroundings.observer;
        observer.settled();
        #[cfg(feature = "seeded-bugs")]
        if replies.is_empty() {
            return self.surroundings.mistakes.settled_early(&result);
        }
        let error = match result {
            Ok(Ok(written)) => {
                let took = started.elapsed();
                observer.committed(took);
                self.recent_commit = (self.recent_commit * 7 + took) / 8;
                let outcomes = written.data.0;
                assert_eq!(outcomes.len(), replies.len(), "one outcome for each command of a batch");
                for ((reply, _), outcome) in replies.into_iter().zip(outcomes) {
                    // A caller that gave up has been told that it is unknown.
                    let _ = reply.send(Ok(outcome));
                }
                return;
            }
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                AppendError::NotLeader { leader: forward.leader_id.zip(forward.leader_node.map(|node| node.address)) }
            }
            Ok(Err(ClientWriteError::PreconditionFailed(error))) => AppendError::NotReady(error.to_string()),
            Ok(Err(error @ (ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::ChangeMembershipError(_)))) => {
                AppendError::Unknown(error.to_string())
            }
            Err(()) => AppendError::Unknown("the node stopped taking part before it was committed".into()),
        };
        for (reply, _) in replies {
            if matches!(error, AppendError::Unknown(_)) {
                observer.proposal_failed();
            }
            let _ = reply.send(Err(error.clone()));
        }
    }
}

/// Commands on their way into the next batch.
#[derive(Default)]
struct Gathered {
    commands: VecDeque<Waiting>,
    bytes: usize,
    /// Since when the first of them waits.
    since: Option<tokio::time::Instant>,
}

impl Gathered {
    fn push(&mut self, waiting: Waiting) {
        self.since.get_or_insert_with(tokio::time::Instant::now);
        self.bytes += waiting.command.len();
        self.commands.push_back(waiting);
    }

    fn is_full(&self) -> bool {
        self.commands.len() >= BATCH_COMMANDS || self.bytes >= BATCH_BYTES
    }

    /// Whether this is to be proposed now, alone or beside others in flight.
    fn is_due(&self, beside_others: bool, linger: Duration) -> bool {
        let Some(since) = self.since else { return false };
        let is_worth_an_entry = self.commands.len() >= WORTH_COMMANDS || self.bytes >= WORTH_BYTES;
        !beside_others || is_worth_an_entry || since.elapsed() >= linger
    }

    /// The next batch, and its bytes. What does not fit waits on.
    fn take(&mut self) -> (Vec<Waiting>, usize) {
        let mut batch = Vec::with_capacity(self.commands.len());
        let mut bytes = 0;
        while let Some(next) = self.commands.front() {
            if !batch.is_empty() && bytes + next.command.len() > BATCH_BYTES {
                break;
            }
            bytes += next.command.len();
            batch.extend(self.commands.pop_front());
        }
        self.bytes -= bytes;
        if self.commands.is_empty() {
            self.since = None;
        }
        (batch, bytes)
    }
}

/// How long a command waits for others, beside what is in flight.
fn linger(commands_in_flight: usize, commit: Duration) -> Duration {
    if commands_in_flight < BUSY_COMMANDS { LINGER } else { commit.clamp(LINGER, LINGER_MAX) }
}

/// Returns at this moment; never, if there is none.
async fn passed(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn refuse(waiting: Waiting, error: AppendError) {
    if !waiting.claimed.swap(true, Ordering::AcqRel) {
        let _ = waiting.reply.send(Err(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(sizes: impl IntoIterator<Item = usize>) -> Gathered {
        let budget = Arc::new(Semaphore::new(1_000_000));
        let mut gathered = Gathered::default();
        for size in sizes {
            gathered.push(Waiting {
                command: vec![0; size].into(),
                kind: Kind::Append,
                claimed: Arc::default(),
                reply: oneshot::channel().0,
                _permit: budget.clone().try_acquire_owned().expect("a permit is free"),
            });
        }
        gathered
    }

    fn sizes(batch: &[Waiting]) -> Vec<usize> {
        batch.iter().map(|waiting| waiting.command.len()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_waits_only_beside_others_and_never_long() {
        assert!(!gathered([]).is_due(false, LINGER));
        let one = gathered([100]);
        assert!(one.is_due(false, LINGER));
        assert!(!one.is_due(true, LINGER));
        tokio::time::advance(LINGER).await;
        assert!(one.is_due(true, LINGER));
    }

    #[test]
    fn a_busy_node_waits_as_long_as_a_commit_takes_within_bounds() {
        let took = Duration::from_millis(3);
        assert_eq!(linger(BUSY_COMMANDS - 1, took), LINGER);
        assert_eq!(linger(BUSY_COMMANDS, took), took);
        assert_eq!(linger(BUSY_COMMANDS, Duration::from_secs(5)), LINGER_MAX);
        assert_eq!(linger(BUSY_COMMANDS, Duration::from_micros(200)), LINGER);
    }

    #[tokio::test]
    async fn enough_commands_or_bytes_do_not_wait() {
        assert!(gathered([100; WORTH_COMMANDS]).is_due(true, LINGER));
        assert!(!gathered([100; WORTH_COMMANDS - 1]).is_due(true, LINGER));
        assert!(gathered([WORTH_BYTES]).is_due(true, LINGER));
    }

    #[tokio::test]
    async fn what_does_not_fit_into_a_batch_waits_on_and_a_large_command_goes_alone() {
        let mut gathered = gathered([BATCH_BYTES - 1, 2, 2 * BATCH_BYTES]);
        let (batch, bytes) = gathered.take();
        assert_eq!((sizes(&batch), bytes), (vec![BATCH_BYTES - 1], BATCH_BYTES - 1));
        let (batch, _) = gathered.take();
        assert_eq!(sizes(&batch), [2]);
        assert!(gathered.since.is_some(), "it waits on");
        let (batch, _) = gathered.take();
        assert_eq!(sizes(&batch), [2 * BATCH_BYTES]);
        assert_eq!((gathered.bytes, gathered.since), (0, None));
    }
}
