//! A client as applications are: it sends an event again, to the next node, until it is
//! acknowledged or nobody would wait any longer.
//!
//! The usual load notes every refusal and goes on, since all of them are to be judged.
//! What that cannot say is whether anything failed *for good*: that is counted here.
//! An append names the revision before it, so that one whose answer was lost is not
//! written twice when it is sent again.

use std::time::Duration;

use annals_checker::history::{Expected, Outcome, Reason};
use annals_workload::calls::{Draft, How, Terms, append};
use annals_workload::payload::{Event, Generation};
use annals_workload::wire::{Contact, Wire};
use annals_workload::{Endpoints, Recorder};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

/// As long as the official clients wait for a call of theirs, three times.
const PATIENCE: Duration = Duration::from_secs(30);

const TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
const EVENT_BYTES: usize = 256;

/// Numbers of processes that no other part of the load has.
const FIRST_NUMBER: u32 = 1_000_000;

/// How it fared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fared {
    /// Events that were acknowledged in the end.
    pub(crate) acknowledged: u64,
    /// Events that were not, however often they were sent.
    pub(crate) failed: u64,
    /// Times that one had to be sent again.
    pub(crate) again: u64,
    /// The longest that one took, milliseconds.
    pub(crate) longest_ms: u128,
}

pub(crate) struct Patient {
    endpoints: Endpoints,
    recorder: Recorder,
    wire: Option<Wire>,
    /// Whom to try next; counts on for ever.
    turn: usize,
    /// A process that does not know what became of its call makes no other one.
    process: u32,
    last: Option<u64>,
    fared: Fared,
}

impl Patient {
    pub(crate) fn new(endpoints: Endpoints, recorder: Recorder) -> Self {
        let process = FIRST_NUMBER;
        Patient { endpoints, recorder, wire: None, turn: 0, process, last: None, fared: Fared::default() }
    }

    /// Appends one event after the other until it is told to stop.
    pub(crate) async fn run(mut self, stop: watch::Receiver<bool>) -> Fared {
        while !*stop.borrow() {
            let begun = Instant::now();
            if self.persist(begun + PATIENCE).await {
                self.fared.acknowledged += 1;
            } else {
                self.fared.failed += 1;
                // What became of it nobody knows: the stream goes on as it is now.
                return self.fared;
            }
            self.fared.longest_ms = self.fared.longest_ms.max(begun.elapsed().as_millis());
            tokio::time::sleep(PAUSE).await;
        }
        self.fared
    }

    async fn persist(&mut self, deadline: Instant) -> bool {
        let expected = self.last.map_or(Expected::NoStream, Expected::Revision);
        let event = Event::new(Uuid::new_v4(), Generation::V1, EVENT_BYTES);
        let drafts = [Draft { stream: "patient".into(), expected, events: vec![event] }];
        while Instant::now() < deadline {
            match self.attempt(&drafts).await {
                Some(Outcome::Acked { revisions, .. }) => {
                    self.last = revisions.last().copied();
                    return true;
                }
                Some(Outcome::Refused { reason: Reason::NotTaken { .. }, .. }) | None => {}
                Some(Outcome::Unknown { .. }) => self.process += 1,
                Some(Outcome::Refused { .. }) => return false,
            }
            self.fared.again += 1;
            tokio::time::sleep(PAUSE).await;
        }
        false
    }

    /// One call; none where there was no connection.
    async fn attempt(&mut self, drafts: &[Draft]) -> Option<Outcome> {
        let wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.connect().await?,
        };
        let terms = Terms { process: self.process, timeout: TIMEOUT, tell_deadline: true, requires_leader: false };
        let done = append(&wire, &self.recorder, &terms, How::Append, drafts).await;
        // A node that answers no appends is no node for this one.
        if matches!(done.contact, Contact::Answered) && matches!(done.outcome, Outcome::Acked { .. }) {
            self.wire = Some(wire);
        }
        Some(done.outcome)
    }

    async fn connect(&mut self) -> Option<Wire> {
        let nodes = self.endpoints.nodes();
        self.turn += 1;
        let node = *nodes.get(self.turn.checked_rem(nodes.len())?)?;
        Wire::connect(&self.endpoints, node, CONNECT_TIMEOUT, None).await.ok()
    }
}
