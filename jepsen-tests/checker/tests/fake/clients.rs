//! The clients: what they call, and what comes back.

use std::sync::Arc;

use annals_checker::history::{
    Append, Delete, Digest, Direction, EventId, Expected, Mode, Nanos, Outcome, Proposed, Read, ReadOutcome, Reason,
    Record, Retention, Target, Write,
};
use rand::Rng;

use super::rules::{self, Command, Decision};
use super::{Action, Bug, MILLI, World};

/// When a client waits no longer.
const PATIENCE: Nanos = 12 * MILLI;

/// A logical process.
#[derive(Default)]
pub(super) struct Process {
    /// What it must do next: repeat an unknown write, or one of another's.
    pending: Option<Command>,
    /// The position of its last write.
    token: u64,
    /// It has a call in flight, or its next step is planned.
    busy: bool,
}

/// A call.
pub(super) struct Call {
    process: usize,
    pub(super) node: usize,
    invoke: Nanos,
    pub(super) op: Op,
    /// The record was written.
    settled: bool,
    /// Judged too early, and found allowed.
    judged: bool,
    /// How it travels.
    name: &'static str,
}

/// What is called.
#[derive(Clone)]
pub(super) enum Op {
    Write(Command),
    Read { target: Target, direction: Direction, from: Option<u64>, limit: u64, mode: Mode },
}

/// What comes back.
#[derive(Clone)]
pub(super) enum Reply {
    Write(Outcome),
    Read(ReadOutcome),
}

impl World {
    pub(super) fn start_clients(&mut self) {
        for process in 0..self.random.random_range(4..9) {
            self.processes.push(Process { busy: true, ..Process::default() });
            let wait = self.micros(0, 1_000);
            self.after(wait, Action::Next(process));
        }
    }

    /// A process does its next thing.
    pub(super) fn next(&mut self, process: usize) {
        if self.now >= self.stop {
            self.processes[process].busy = false;
            return;
        }
        let op = match self.processes[process].pending.take() {
            Some(command) => Op::Write(command),
            None if self.chance(0.5) => Op::Write(self.new_command()),
            None => self.new_read(process),
        };
        if let Op::Write(command @ Command::Append(_)) = &op
            && self.chance(0.1)
        {
            // Another process sends the same at the same time.
            let command = command.clone();
            if let Some(other) = self.processes.iter().position(|other| !other.busy) {
                self.processes[other].pending = Some(command);
                self.processes[other].busy = true;
                self.after(0, Action::Next(other));
            } else {
                let other = self.random.random_range(0..self.processes.len());
                if other != process && self.processes[other].pending.is_none() {
                    self.processes[other].pending = Some(command);
                }
            }
        }
        let name = match &op {
            Op::Write(Command::Append(writes)) if writes.len() > 1 => "append_records",
            Op::Write(_) if self.chance(0.3) => "batch_append",
            Op::Write(_) | Op::Read { .. } => "append",
        };
        let node = self.random.random_range(0..3);
        self.calls.push(Call { process, node, invoke: self.now, op, settled: false, judged: false, name });
        let call = self.calls.len() - 1;
        let travel = self.micros(50, 500);
        self.after(travel, Action::Arrive(call));
        self.after(PATIENCE, Action::GiveUp(call));
    }

    fn new_command(&mut self) -> Command {
        match self.random.random_range(0..100) {
            0..4 => {
                let stream: Arc<str> = format!("d-{}", self.random.random_range(0..2)).into();
                let expected = self.expected(&stream);
                Command::Delete { stream, expected, hard: false }
            }
            4..5 => {
                let stream: Arc<str> = format!("t-{}", self.random.random_range(0..3)).into();
                let expected = self.expected(&stream);
                Command::Delete { stream, expected, hard: true }
            }
            5..9 => {
                let of = ["r-0", "d-0", "t-0"][self.random.random_range(0..3)];
                let sets = Retention {
                    max_count: self.chance(0.5).then(|| self.random.random_range(1..6)),
                    truncate_before: self.chance(0.5).then(|| self.random.random_range(1..8)),
                };
                let mut write = self.new_write(format!("$${of}").into(), 1);
                write.events[0].sets = Some(sets);
                Command::Append(vec![write])
            }
            9..25 => {
                let mut streams = ["a-0", "a-1", "b-0", "r-0", "d-0", "t-0"];
                let first = self.random.random_range(0..streams.len());
                streams.swap(0, first);
                let second = self.random.random_range(1..streams.len());
                streams.swap(1, second);
                let count = self.random.random_range(1..4);
                Command::Append(streams[..2].iter().map(|stream| self.new_write((*stream).into(), count)).collect())
            }
            _ => {
                const STREAMS: [&str; 10] = ["a-0", "a-0", "a-1", "b-0", "b-1", "r-0", "d-0", "d-1", "t-0", "t-1"];
                let stream = STREAMS[self.random.random_range(0..STREAMS.len())];
                let count = if self.chance(0.6) { 1 } else { self.random.random_range(2..5) };
                Command::Append(vec![self.new_write(stream.into(), count)])
            }
        }
    }

    fn new_write(&mut self, stream: Arc<str>, count: usize) -> Write {
        let expected = self.expected(&stream);
        let events = (0..count).map(|_| self.new_event()).collect();
        Write { stream, expected, events }
    }

    fn new_event(&mut self) -> Proposed {
        self.next_id += 1;
        let id = EventId(self.next_id << 32 | u128::from(self.random.random::<u16>()));
        Proposed { id, digest: Digest(self.random.random()), sets: None }
    }

    fn expected(&mut self, stream: &str) -> Expected {
        match self.random.random_range(0..10) {
            0..4 => Expected::Any,
            4..8 => match self.log.last(stream) {
                Some(last) if self.chance(0.8) => Expected::Revision(last),
                Some(last) => Expected::Revision((last + 1).saturating_sub(self.random.random_range(0..3))),
                None => Expected::NoStream,
            },
            8 => Expected::NoStream,
            _ => Expected::Exists,
        }
    }

    fn new_read(&mut self, process: usize) -> Op {
        const STREAMS: [&str; 12] =
            ["a-0", "a-1", "b-0", "b-1", "r-0", "r-0", "d-0", "d-1", "t-0", "t-1", "$$d-0", "$$r-0"];
        let target = match self.random.random_range(0..4) {
            0 => Target::All { prefixes: Vec::new() },
            1 => Target::All { prefixes: vec!["a-".into(), "$$".into()] },
            _ => Target::Stream(STREAMS[self.random.random_range(0..STREAMS.len())].into()),
        };
        let longest = if matches!(target, Target::All { .. }) { self.log.tail() + 5 } else { 12 };
        let mode = match self.random.random_range(0..10) {
            0..5 => Mode::Linearizable,
            5..7 => Mode::AtLeast(self.processes[process].token),
            _ => Mode::Local,
        };
        Op::Read {
            target,
            direction: if self.chance(0.7) { Direction::Forwards } else { Direction::Backwards },
            from: self.chance(0.4).then(|| self.random.random_range(0..longest)),
            limit: if self.chance(0.4) { self.random.random_range(1..10) } else { 100_000 },
            mode,
        }
    }

    /// A call reaches its node.
    pub(super) fn arrive(&mut self, call: usize) {
        let node = self.calls[call].node;
        if !self.nodes[node].up {
            return self.reply_unknown(call, "connection refused");
        }
        match self.calls[call].op.clone() {
            Op::Write(command) => self.arrive_write(call, node, &command),
            Op::Read { mode, .. } => self.arrive_read(call, node, mode),
        }
    }

    fn arrive_write(&mut self, call: usize, node: usize, command: &Command) {
        if self.nodes[node].cut {
            if self.has(Bug::S1AckBeforeCommit) {
                let reply = self.decide_alone(node, command);
                self.reply(call, reply);
            } else if self.chance(0.7) {
                self.reply_unknown(call, "the leader lost its quorum");
            }
            // Otherwise the deadline decides.
            return;
        }
        if self.leader != Some(node) && self.chance(if self.leader.is_none() { 0.5 } else { 0.05 }) {
            let why = "not the leader".into();
            let outcome = Outcome::Refused { reason: Reason::NotTaken { why }, as_of: None };
            return self.reply(call, Reply::Write(outcome));
        }
        if self.has(Bug::S9JudgedBeforePropose) {
            self.calls[call].judged = self.allowed(command);
        }
        let wait = self.micros(200, 3_000);
        self.after(wait, Action::Commit { call, term: self.term });
    }

    fn arrive_read(&mut self, call: usize, node: usize, mode: Mode) {
        let wait = self.micros(50, 1_500);
        match mode {
            Mode::Local => self.after(wait / 4, Action::Look { call, index: 0 }),
            Mode::AtLeast(position) if self.nodes[node].applied >= position => {
                self.after(wait / 4, Action::Look { call, index: position });
            }
            Mode::AtLeast(position) => {
                if !self.nodes[node].cut {
                    self.after(wait, Action::Look { call, index: position });
                }
            }
            Mode::Linearizable => {
                let stale = match self.bug {
                    Some(Bug::S4LocalReadAsLinearizable) => self.leader != Some(node),
                    Some(Bug::S5NoQuorumCheck) => self.nodes[node].cut,
                    Some(Bug::S6ReadIndexAfterRead) => self.leader == Some(node),
                    _ => false,
                };
                if stale {
                    self.after(wait / 4, Action::Look { call, index: 0 });
                } else if self.works() && !self.nodes[node].cut {
                    self.after(wait, Action::Look { call, index: self.log.tail() });
                } else if self.chance(0.5) {
                    self.reply_unknown(call, "no leader");
                }
            }
        }
    }

    /// The node looks at its log, as soon as it reaches to the index.
    pub(super) fn look(&mut self, call: usize, index: u64) {
        let node = self.calls[call].node;
        if !self.nodes[node].up || self.calls[call].settled {
            return;
        }
        if self.nodes[node].applied < index {
            if self.nodes[node].cut || self.log.tail() < index {
                return;
            }
            self.catch_up(node, index);
        }
        let Op::Read { target, direction, from, limit, .. } = self.calls[call].op.clone() else { return };
        let as_of = self.nodes[node].as_of();
        let outcome = rules::read(&self.nodes[node].log.events, &target, direction, from, limit, Some(as_of));
        self.reply(call, Reply::Read(outcome));
    }

    /// The time has come to commit a write.
    pub(super) fn commit(&mut self, call: usize, term: u64) {
        let Op::Write(command) = self.calls[call].op.clone() else { return };
        if !self.works() {
            // Whether the next leader has it is open.
            if self.chance(0.5) {
                let wait = self.micros(500, 8_000);
                self.after(wait, Action::Commit { call, term: 0 });
            }
            return;
        }
        if term != self.term && term != 0 && self.chance(0.5) {
            return;
        }
        if self.has(Bug::S18SplitBatch) && self.divisible(call) && self.allowed(&command) {
            let Command::Append(mut writes) = command else { return };
            writes.truncate(1);
            let half = writes[0].events.len().div_ceil(2);
            writes[0].events.truncate(half);
            self.decide(&Command::Append(writes), true);
            let wait = self.micros(200, 2_000);
            return self.after(wait, Action::CommitRest { call, term });
        }
        if self.has(Bug::S21FreshIds) && self.chance(0.2) {
            // The answer of the first attempt is lost, the client's library
            // hides that and tries again.
            self.decide(&command, false);
            let again = self.with_fresh_ids(&command);
            return self.decide_and_reply(call, &again, term);
        }
        self.decide_and_reply(call, &command, term);
    }

    pub(super) fn commit_rest(&mut self, call: usize, term: u64) {
        let Op::Write(Command::Append(mut writes)) = self.calls[call].op.clone() else { return };
        if !self.works() || term != self.term {
            return;
        }
        let half = writes[0].events.len().div_ceil(2);
        writes[0].events.drain(..half);
        let Decision::Done { position, revisions, .. } = self.decide(&Command::Append(writes), true) else { return };
        self.reply(call, Reply::Write(Outcome::Acked { position, revisions }));
    }

    fn decide_and_reply(&mut self, call: usize, command: &Command, term: u64) {
        let as_of = self.log.tail();
        let judged = self.calls[call].judged;
        let outcome = match self.decide(command, judged) {
            Decision::Done { position, revisions, .. } => Outcome::Acked { position, revisions },
            Decision::Refused(reason) => Outcome::Refused { reason, as_of: self.chance(0.8).then_some(as_of) },
        };
        // The node that waits for it knows only its own leader's answers.
        if term == self.term && !self.chance(0.04) {
            self.reply(call, Reply::Write(outcome));
        }
    }

    fn with_fresh_ids(&mut self, command: &Command) -> Command {
        let mut command = command.clone();
        if let Command::Append(writes) = &mut command {
            for write in writes {
                write.expected = Expected::Any;
                for event in &mut write.events {
                    event.id = self.new_event().id;
                }
            }
        }
        command
    }

    /// The node answers; the answer arrives unless the node is gone by then.
    fn reply(&mut self, call: usize, reply: Reply) {
        if !self.nodes[self.calls[call].node].up {
            return;
        }
        self.replies.insert(call, reply);
        let travel = self.micros(50, 500);
        self.after(travel, Action::Answer(call));
    }

    pub(super) fn answer(&mut self, call: usize) {
        if self.calls[call].settled {
            return;
        }
        if let Some(reply) = self.replies.remove(&call) {
            self.settle(call, reply, true);
        }
    }

    pub(super) fn give_up(&mut self, call: usize) {
        if !self.calls[call].settled {
            self.reply_unknown(call, "deadline exceeded");
        }
    }

    fn reply_unknown(&mut self, call: usize, why: &str) {
        let why = why.to_owned();
        let reply = match &self.calls[call].op {
            Op::Write(_) => Reply::Write(Outcome::Unknown { why }),
            Op::Read { .. } => Reply::Read(ReadOutcome::Failed { why }),
        };
        self.settle(call, reply, false);
    }

    /// The call is over for its process.
    fn settle(&mut self, index: usize, reply: Reply, known: bool) {
        let now = self.now;
        let call = &mut self.calls[index];
        call.settled = true;
        let process = call.process;
        let (number, node, invoke, name) = (process as u32, call.node as u32 + 1, call.invoke, call.name);
        let complete = known.then_some(now);
        let op = call.op.clone();
        if let Reply::Write(Outcome::Acked { position, .. }) = &reply {
            self.processes[process].token = *position;
        }
        if let (Reply::Write(Outcome::Unknown { .. }), Op::Write(command)) = (&reply, &op)
            && self.processes[process].pending.is_none()
            && self.chance(0.75)
        {
            self.processes[process].pending = Some(command.clone());
        }
        self.records.push(match (op, reply) {
            (Op::Write(Command::Append(writes)), Reply::Write(outcome)) => {
                let call = name.into();
                Record::Append(Append { process: number, node, invoke, complete, call, writes, outcome })
            }
            (Op::Write(Command::Delete { stream, expected, hard }), Reply::Write(outcome)) => {
                Record::Delete(Delete { process: number, node, invoke, complete, stream, expected, hard, outcome })
            }
            (Op::Read { target, direction, from, limit, mode }, Reply::Read(outcome)) => Record::Read(Read {
                process: number,
                node,
                invoke,
                complete,
                target,
                direction,
                from,
                limit,
                mode,
                outcome,
            }),
            (Op::Write(_), Reply::Read(_)) | (Op::Read { .. }, Reply::Write(_)) => {
                unreachable!("a reply answers its call")
            }
        });
        let wait = self.micros(1, 2_000);
        self.after(wait, Action::Next(process));
    }
}
