//! The nodes: who leads, what is committed, who has applied what, and what
//! befalls them.

use std::cmp::Reverse;

use annals_checker::history::{Fault, Hash, Installed, Nanos, Outcome, Record, Seen};
use rand::Rng;

use super::clients::{Op, Reply};
use super::rules::{Command, Decision, Log, Stored};
use super::{Action, Bug, MICRO, MILLI, World};

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    /// It runs.
    pub(super) up: bool,
    /// No other node hears it, but clients do.
    pub(super) cut: bool,
    /// What it has applied.
    pub(super) log: Log,
    /// Up to where the committed log is in there.
    pub(super) applied: u64,
    /// Its clock is off by this many units of 100 ns.
    clock: i64,
    /// The ids that it has forgotten lie up to here.
    forgotten: u64,
}

impl Default for Node {
    fn default() -> Self {
        Node { up: true, cut: false, log: Log::default(), applied: 0, clock: 0, forgotten: 0 }
    }
}

impl Node {
    /// Up to where it says it has looked.
    pub(super) fn as_of(&self) -> u64 {
        self.applied.max(self.log.tail())
    }
}

/// What befalls a node, and when.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    class: &'static str,
    name: &'static str,
    start: Nanos,
    end: Nanos,
    /// Filled in when it happens.
    nodes: Vec<usize>,
}

const TROUBLES: [(&str, &str); 11] = [
    ("F1", "kill-leader"),
    ("F1", "kill-follower"),
    ("F2", "pause-leader"),
    ("F3", "isolate-leader"),
    ("F3", "isolate-follower"),
    ("F5", "cut-power-all"),
    ("F6", "crash-at-write"),
    ("F8", "fsync-error"),
    ("F9", "flip-in-log"),
    ("F12", "install-snapshot"),
    ("F13", "clock-jump"),
];

fn needed(bug: Bug) -> Vec<(&'static str, &'static str)> {
    match bug {
        Bug::S1AckBeforeCommit | Bug::S5NoQuorumCheck => vec![("F3", "isolate-leader"), ("F3", "isolate-leader")],
        Bug::S2NoFsyncOnAppend => vec![("F5", "cut-power-all")],
        Bug::S3NoFsyncOnVote => vec![("F1", "kill-leader"), ("F1", "kill-leader")],
        Bug::S7IdsInLeaderMemory => vec![("F1", "kill-leader"); 4],
        Bug::S8IdsNotInSnapshot => {
            let mut both = vec![("F12", "install-snapshot")];
            both.extend([("F1", "kill-leader"); 4]);
            both
        }
        Bug::S10AppliedTwice | Bug::S11PurgedTooEarly => vec![("F6", "crash-at-write")],
        Bug::S12HalfSnapshot | Bug::S17UnorderedApply => vec![("F12", "install-snapshot"), ("F12", "install-snapshot")],
        Bug::S16ClockInApply => vec![("F13", "clock-jump")],
        Bug::S19ShortLogLeads => vec![("F9", "flip-in-log")],
        Bug::S20FsyncErrorIgnored => vec![("F8", "fsync-error"), ("F5", "cut-power-all")],
        Bug::S22EmptyNodeAccepted => vec![("F14", "wipe")],
        Bug::S4LocalReadAsLinearizable
        | Bug::S6ReadIndexAfterRead
        | Bug::S9JudgedBeforePropose
        | Bug::S13GapAfterCatchUp
        | Bug::S14RepeatOnResume
        | Bug::S15SlowConsumer
        | Bug::S18SplitBatch
        | Bug::S21FreshIds
        | Bug::S23CheckpointTooHigh
        | Bug::S24KeyOvertakes
        | Bug::S25ParkedTooEarly => vec![("F1", "kill-leader")],
    }
}

impl World {
    /// Chooses what will happen, one after the other.
    pub(super) fn plan_troubles(&mut self) {
        let kinds = match self.bug {
            Some(bug) => needed(bug),
            None => {
                let count = self.random.random_range(0..4);
                (0..count).map(|_| TROUBLES[self.random.random_range(0..TROUBLES.len())]).collect()
            }
        };
        let mut start = 4 * MILLI;
        for (class, name) in kinds {
            start += self.micros(0, 5_000);
            // A bug needs its time to show.
            let (least, most) = match self.bug {
                Some(Bug::S1AckBeforeCommit | Bug::S5NoQuorumCheck) => (8_000, 14_000),
                _ => (1_000, 9_000),
            };
            let end = start + self.micros(least, most);
            self.after(start, Action::Trouble(self.troubles.len()));
            self.after(end, Action::Heal(self.troubles.len()));
            self.troubles.push(Trouble { class, name, start, end, nodes: Vec::new() });
            start = end + 2 * MILLI;
        }
    }

    pub(super) fn trouble(&mut self, index: usize) {
        let leader = self.leader.unwrap_or(0);
        let follower = (leader + self.random.random_range(1..3)) % 3;
        let (name, mut nodes) = match self.troubles[index].name {
            name @ ("kill-leader" | "pause-leader" | "isolate-leader") => (name, vec![leader]),
            name @ ("cut-power-all" | "clock-jump") => (name, vec![0, 1, 2]),
            name => (name, vec![follower]),
        };
        if name == "clock-jump" && self.chance(0.5) {
            nodes = vec![leader];
        }
        for &node in &nodes {
            match name {
                "isolate-leader" | "isolate-follower" => self.nodes[node].cut = true,
                "clock-jump" => self.nodes[node].clock = self.random.random_range(-10_000_000..10_000_000),
                _ => self.nodes[node].up = false,
            }
        }
        self.troubles[index].nodes = nodes;
        if name == "clock-jump" {
            return;
        }
        for subscriber in 0..self.subscribers.len() {
            if !self.nodes[self.subscribers[subscriber].node].up {
                self.drop_connection(subscriber, "connection reset");
            }
        }
        if self.nodes[leader].cut || !self.nodes[leader].up {
            self.lose_leader(leader);
        }
    }

    fn lose_leader(&mut self, leader: usize) {
        self.leader = None;
        self.term += 1;
        if self.has(Bug::S3NoFsyncOnVote)
            && let Some(keep) = self.end_before_last(1)
        {
            // The old leader keeps what is forgotten elsewhere.
            self.catch_up(leader, self.log.tail());
            self.truncate(keep, Some(leader));
        }
        let wait = self.micros(1_000, 5_000);
        self.after(wait, Action::Elect);
    }

    pub(super) fn elect(&mut self) {
        let able = |node: &usize| self.nodes[*node].up && !self.nodes[*node].cut;
        let mut able: Vec<usize> = (0..3).filter(able).collect();
        if able.len() < 2 {
            let wait = self.micros(500, 1_000);
            return self.after(wait, Action::Elect);
        }
        if self.leader.is_some() {
            return;
        }
        able.sort_by_key(|node| Reverse(self.nodes[*node].forgotten));
        let leader =
            if self.has(Bug::S8IdsNotInSnapshot) { able[0] } else { able[self.random.random_range(0..able.len())] };
        self.leader = Some(leader);
        self.log.forgotten = match self.bug {
            Some(Bug::S7IdsInLeaderMemory) => self.log.tail(),
            // It lagged behind once more and was sent another one.
            Some(Bug::S8IdsNotInSnapshot) if self.nodes[leader].forgotten > 0 => self.log.tail(),
            _ => 0,
        };
    }

    pub(super) fn heal(&mut self, index: usize) {
        let Trouble { class, name, start, end, nodes } = self.troubles[index].clone();
        for &node in &nodes {
            // One that only stood still has all that it had.
            let came_back = !self.nodes[node].up && class != "F2";
            self.nodes[node].up = true;
            self.nodes[node].cut = false;
            if name == "clock-jump" {
                self.nodes[node].clock = 0;
            }
            if name == "install-snapshot" {
                self.install(node);
            } else if came_back {
                self.restart(node);
            }
        }
        let lost = matches!(
            (self.bug, name),
            (Some(Bug::S2NoFsyncOnAppend | Bug::S20FsyncErrorIgnored), "cut-power-all")
                | (Some(Bug::S19ShortLogLeads), "flip-in-log")
                | (Some(Bug::S22EmptyNodeAccepted), "wipe")
        );
        if lost {
            let commands = self.random.random_range(2..5);
            if let Some(keep) = self.end_before_last(commands) {
                self.truncate(keep, None);
            }
        }
        self.records.push(Record::Fault(Fault {
            class: class.into(),
            name: name.into(),
            nodes: nodes.iter().map(|node| *node as u32 + 1).collect(),
            start,
            end,
            installed: Installed::Installed,
            detail: String::new(),
        }));
    }

    /// A node that ran before applies the end of its log anew; until it has,
    /// it shows less than it did.
    fn restart(&mut self, node: usize) {
        let ends: Vec<u64> = self.ends.iter().copied().filter(|end| *end <= self.nodes[node].applied).collect();
        match self.bug {
            Some(Bug::S10AppliedTwice) => {
                let upto = ends.last().copied().unwrap_or(0);
                let from = ends.iter().rev().nth(1).copied().unwrap_or(0);
                let again: Vec<Stored> =
                    self.log.events.iter().filter(|e| (from + 1..=upto).contains(&e.seen.position)).cloned().collect();
                self.apply(node, again);
            }
            Some(Bug::S11PurgedTooEarly) => {
                let gone = ends.len().min(3);
                let upto = if gone == 0 { 0 } else { ends[gone - 1] };
                self.nodes[node].log.events.retain(|event| event.seen.position > upto);
            }
            _ => {
                let back = self.random.random_range(0..3);
                let upto = ends.iter().rev().nth(back).copied().unwrap_or(0);
                let kept = self.nodes[node].log.prefix(upto).len();
                self.nodes[node].log.events.truncate(kept);
                self.nodes[node].applied = upto;
            }
        }
    }

    /// A node gets all that is committed at once.
    fn install(&mut self, node: usize) {
        self.nodes[node].forgotten = self.log.tail();
        if self.has(Bug::S12HalfSnapshot) {
            let half = self.log.events.len() / 2;
            self.nodes[node].log.events = self.log.events[..half].to_vec();
            self.nodes[node].applied = self.log.tail();
            if self.chance(0.7) {
                self.after(4 * MILLI, Action::Load(node));
            }
        } else {
            self.catch_up(node, self.log.tail());
        }
    }

    /// The second half of a snapshot that should have come at once.
    pub(super) fn load(&mut self, node: usize) {
        self.nodes[node].log.events = self.log.prefix(self.nodes[node].applied).to_vec();
    }

    /// Whether somebody can commit.
    pub(super) fn works(&self) -> bool {
        self.leader.is_some() && self.nodes.iter().filter(|node| node.up && !node.cut).count() >= 2
    }

    /// The time that the leader gives, never before the last one.
    pub(super) fn created(&self, leader: Option<usize>) -> i64 {
        let clock = leader.map_or(0, |leader| self.nodes[leader].clock);
        let now = 18_000_000_000_000_000 + (self.now / 100) as i64 + clock;
        self.log.events.last().map_or(now, |event| now.max(event.seen.created))
    }

    /// Whether the command was allowed when it was looked at too early.
    pub(super) fn allowed(&self, command: &Command) -> bool {
        matches!(self.log.decide(command, 0), Decision::Done { events, .. } if !events.is_empty())
    }

    /// Decides on a command and commits what comes of it.
    pub(super) fn decide(&mut self, command: &Command, judged: bool) -> Decision {
        let created = self.created(self.leader);
        let decision = match command {
            Command::Append(writes) if judged => self.log.place(writes, created),
            _ => self.log.decide(command, created),
        };
        if let Decision::Done { events, .. } = &decision
            && !events.is_empty()
        {
            self.log.events.extend(events.iter().cloned());
            self.ends.push(self.log.tail());
        }
        decision
    }

    /// A leader that nobody follows answers all the same.
    pub(super) fn decide_alone(&self, node: usize, command: &Command) -> Reply {
        match self.nodes[node].log.decide(command, self.created(Some(node))) {
            Decision::Done { position, revisions, .. } => Reply::Write(Outcome::Acked { position, revisions }),
            Decision::Refused(reason) => {
                Reply::Write(Outcome::Refused { reason, as_of: Some(self.nodes[node].as_of()) })
            }
        }
    }

    /// The end of the log without its last commands.
    fn end_before_last(&self, commands: usize) -> Option<u64> {
        (self.ends.len() > commands).then(|| self.ends[self.ends.len() - 1 - commands])
    }

    /// What must not happen: the log becomes shorter.
    fn truncate(&mut self, keep: u64, except: Option<usize>) {
        let kept = self.log.prefix(keep).len();
        self.log.events.truncate(kept);
        self.ends.retain(|end| *end <= keep);
        for index in (0..3).filter(|index| Some(*index) != except) {
            let node = &mut self.nodes[index];
            let kept = node.log.prefix(keep).len();
            node.log.events.truncate(kept);
            node.applied = node.applied.min(keep);
        }
    }

    /// Applies a little, now and then.
    pub(super) fn replicate(&mut self, node: usize) {
        if self.nodes[node].up && !self.nodes[node].cut {
            let ahead: Vec<u64> = self.ends.iter().copied().filter(|end| *end > self.nodes[node].applied).collect();
            if !ahead.is_empty() {
                let upto = ahead[self.random.random_range(0..ahead.len())];
                self.catch_up(node, upto);
            }
        }
        let prompt = self.leader == Some(node) && !self.has(Bug::S6ReadIndexAfterRead);
        let wait = if prompt { self.micros(100, 1_000) } else { self.micros(200, 4_000) };
        self.after(wait, Action::Replicate(node));
    }

    /// Applies what is committed up to a position.
    pub(super) fn catch_up(&mut self, node: usize, upto: u64) {
        while self.nodes[node].applied < upto {
            let applied = self.nodes[node].applied;
            let end = self.ends.iter().copied().find(|end| *end > applied).unwrap_or(upto);
            let command: Vec<Stored> = self
                .log
                .events
                .iter()
                .filter(|event| (applied + 1..=end).contains(&event.seen.position))
                .cloned()
                .collect();
            self.apply(node, command);
            self.nodes[node].applied = end;
        }
    }

    fn apply(&mut self, node: usize, mut command: Vec<Stored>) {
        if self.has(Bug::S17UnorderedApply) && node != 0 {
            let places: Vec<u64> = command.iter().map(|event| event.seen.position).collect();
            command.sort_by(|a, b| b.seen.stream.cmp(&a.seen.stream));
            for (event, position) in command.iter_mut().zip(places) {
                event.seen.position = position;
            }
        }
        for mut event in command {
            if self.has(Bug::S16ClockInApply) {
                event.seen.created += self.nodes[node].clock + node as i64;
            }
            let log = &mut self.nodes[node].log;
            if self.bug == Some(Bug::S10AppliedTwice) && event.seen.revision != super::rules::TOMBSTONE {
                event.seen.position = log.tail() + 1;
                event.seen.revision = log.last(&event.seen.stream).map_or(0, |last| last + 1);
            }
            log.events.push(event);
        }
    }

    /// Every node tells its hashes now and then.
    pub(super) fn compare(&mut self) {
        for node in 0..3 {
            if self.nodes[node].up {
                let position = self.nodes[node].as_of() / 8 * 8;
                self.hash(node, position);
            }
        }
        self.after(10 * MILLI + 7 * MICRO, Action::Compare);
    }

    pub(super) fn hash(&mut self, node: usize, position: u64) {
        let chain = self.nodes[node].log.prefix(position).iter().fold(0xcbf2_9ce4_8422_2325, |hash, event| {
            let Seen { position, stream, revision, id, digest, created, system } = &event.seen;
            let text = format!("{position} {stream} {revision} {id} {digest} {created} {system}");
            text.bytes().fold(hash, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        });
        self.records.push(Record::Hash(Hash {
            node: node as u32 + 1,
            time: self.now,
            position,
            hash: format!("{chain:016x}"),
        }));
    }

    /// Whether this is an append of several events.
    pub(super) fn divisible(&self, call: usize) -> bool {
        let Op::Write(Command::Append(writes)) = &self.calls[call].op else { return false };
        writes.iter().map(|write| write.events.len()).sum::<usize>() > 1
    }
}
