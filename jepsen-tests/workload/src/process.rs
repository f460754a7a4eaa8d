//! A logical process: it takes turns, and in each writes or reads something.
//!
//! Which turn it takes, what it does in it and to whom follows from its own
//! random numbers; only what the board knows and how calls go depends on time.
//!
//! After a call whose fate is unknown it goes on under a new number: the call
//! may still be at work, and a process does one thing at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use annals_checker::history::{Current, Expected, NodeNumber, Outcome, ReadOutcome, Reason, Target};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

use crate::board::Board;
use crate::calls::{Answer, Batches, Done, Draft, How, Query, Terms, append};
use crate::wire::{Connections, Wire};
use crate::workload::Pacer;
use crate::{Endpoints, Plan, Recorder};

/// What all processes share.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) endpoints: Endpoints,
    pub(crate) recorder: Recorder,
    pub(crate) board: Board,
    pub(crate) pacer: Pacer,
    pub(crate) numbers: AtomicU32,
    /// Some appends that were acknowledged, to be sent again one day.
    pub(crate) acked: Mutex<Vec<(How, Vec<Draft>)>>,
}

impl Shared {
    /// A number that no process has or had.
    pub(crate) fn number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// What is done in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Write,
    Read,
}

pub(crate) struct Process {
    pub(crate) shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    pub(crate) rng: StdRng,
    /// Under which it calls now.
    pub(crate) number: u32,
    /// Under which it makes a second call at the same time.
    pub(crate) twin: u32,
    tell_deadline: bool,
    pub(crate) connections: Connections,
    pub(crate) batches: Option<(NodeNumber, Batches)>,
}

impl Process {
    pub(crate) fn new(shared: Arc<Shared>, index: u32, stop: watch::Receiver<bool>) -> Process {
        let seed = shared.plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(index));
        let connections = Connections::new(shared.endpoints.clone(), shared.plan.connect_timeout);
        Process {
            stop,
            rng: StdRng::seed_from_u64(seed),
            number: shared.number(),
            twin: shared.number(),
            tell_deadline: index % 2 == 1,
            connections,
            batches: None,
            shared,
        }
    }

    /// Takes turns until told to stop. What is under way is finished.
    pub(crate) async fn run(mut self) {
        let mut stop = self.stop.clone();
        loop {
            let (at, turn) = self.shared.pacer.take(&self.shared.recorder, &mut self.rng);
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            if *self.stop.borrow() {
                return;
            }
            match turn {
                Turn::Write => self.write().await,
                Turn::Read => self.read().await,
            }
        }
    }

    /// Writes; again when the fate of it is unknown; and at times looks for
    /// what was written.
    pub(crate) async fn persist(&mut self, how: How, drafts: Vec<Draft>) {
        let Some(node) = self.shared.endpoints.choose(&mut self.rng) else { return };
        let Some(done) = self.attempt(node, how, &drafts).await else { return };
        match done.outcome {
            Outcome::Acked { position, .. } => {
                let stream = drafts[0].stream.clone();
                self.remember(how, drafts);
                self.look_after(node, position, &stream).await;
            }
            Outcome::Refused { .. } => {}
            Outcome::Unknown { .. } => self.retry(node, how, drafts).await,
        }
    }

    pub(crate) async fn retry(&mut self, first: NodeNumber, how: How, drafts: Vec<Draft>) {
        let mut node = first;
        for _ in 0..self.shared.plan.retries {
            if self.rng.random_ratio(1, 10) || *self.stop.borrow() {
                return; // some stay unknown
            }
            let pause = Duration::from_millis(self.rng.random_range(20..400));
            tokio::time::sleep(pause).await;
            let Some(other) = self.shared.endpoints.choose_other(Some(node), &mut self.rng) else { return };
            node = other;
            let how = match (how, self.rng.random_ratio(1, 3)) {
                (How::Session, true) => How::Records,
                (How::Records, true) => How::Session,
                (how, _) => how,
            };
            match self.attempt(node, how, &drafts).await {
                Some(done) if !is_unknown(&done) => return,
                // Unknown again, or nobody there.
                Some(_) | None => {}
            }
        }
    }

    /// One call; none when there is no connection.
    pub(crate) async fn attempt(&mut self, node: NodeNumber, how: How, drafts: &[Draft]) -> Option<Done> {
        let wire = self.connect(node).await?;
        let mut terms = self.terms();
        terms.requires_leader = self.rng.random_ratio(1, 25);
        let done = append(&wire, &self.shared.recorder, &terms, how, drafts).await;
        self.learn(node, &done, drafts);
        if is_unknown(&done) {
            self.number = self.shared.number();
        }
        Some(done)
    }

    pub(crate) async fn connect(&mut self, node: NodeNumber) -> Option<Wire> {
        match self.connections.to(node).await {
            Ok(wire) => Some(wire),
            Err(_) => {
                self.shared.recorder.count_unreachable();
                None
            }
        }
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms {
            process: self.number,
            timeout: self.shared.plan.timeout,
            tell_deadline: self.tell_deadline,
            requires_leader: false,
        }
    }

    pub(crate) fn learn(&mut self, node: NodeNumber, done: &Done, drafts: &[Draft]) {
        self.connections.note(node, done.contact);
        if let Some(leader) = &done.leader {
            self.shared.endpoints.leads(leader);
        }
        let board = &self.shared.board;
        match &done.outcome {
            Outcome::Acked { position, revisions } => {
                board.saw(*position);
                for (draft, revision) in drafts.iter().zip(revisions) {
                    board.is_beyond(&draft.stream, *revision);
                }
            }
            Outcome::Refused { reason, .. } => match reason {
                Reason::WrongExpectation { stream, current: Some(Current::Revision(last)) } => {
                    board.is_at(stream, Some(*last));
                }
                Reason::WrongExpectation { stream, current: Some(Current::NoStream) } => board.is_at(stream, None),
                // It may be deleted softly only, where it was to exist.
                Reason::Tombstoned { stream } if drafts.iter().any(|draft| draft.expected != Expected::Exists) => {
                    board.ended(stream);
                }
                Reason::Tombstoned { .. } => {}
                Reason::WrongExpectation { current: None, .. } | Reason::Invalid { .. } | Reason::NotTaken { .. } => {}
            },
            Outcome::Unknown { .. } => {}
        }
    }

    pub(crate) fn learn_read(&mut self, node: NodeNumber, query: &Query, answer: &Answer) {
        self.connections.note(node, answer.contact);
        if let Some(leader) = &answer.leader {
            self.shared.endpoints.leads(leader);
        }
        if let Some(as_of) = answer.as_of() {
            self.shared.board.saw(as_of);
        }
        if let (Target::Stream(stream), ReadOutcome::Ok { events, .. }) = (&query.target, &answer.outcome)
            && let Some(last) = events.iter().map(|event| event.revision).max()
        {
            self.shared.board.is_beyond(stream, last);
        }
        if let (Target::Stream(stream), ReadOutcome::Tombstoned { .. }) = (&query.target, &answer.outcome) {
            self.shared.board.ended(stream);
        }
    }
}

pub(crate) fn is_unknown(done: &Done) -> bool {
    matches!(done.outcome, Outcome::Unknown { .. })
}
