//! What a process does in a turn to read, and reads after its own writes.

use std::sync::Arc;

use annals_checker::history::{Direction, Mode, NodeNumber, ReadOutcome, Target};
use rand::Rng as _;

use crate::board::{Class, PREFIXES};
use crate::calls::{Query, Terms};
use crate::process::Process;

/// Events of a page of a read.
const PAGE: u64 = 50;

/// Events of a stream that is read as a whole; streams are left before.
const WHOLE: u64 = 256;

impl Process {
    /// After an own write: sometimes another node must show it, be it because
    /// of its position or because the read is linearizable.
    pub(crate) async fn look_after(&mut self, node: NodeNumber, position: u64, stream: &Arc<str>) {
        let mode = match self.rng.random_range(0..100) {
            0..15 => Mode::AtLeast(position),
            15..27 => Mode::Linearizable,
            _ => return,
        };
        let Some(other) = self.shared.endpoints.choose_other(Some(node), &mut self.rng) else { return };
        let backwards = self.rng.random_ratio(2, 3);
        let query = if backwards {
            let target = Target::Stream(stream.clone());
            Query { target, direction: Direction::Backwards, from: None, limit: 10, mode }
        } else {
            let from = Some(position.saturating_sub(5).max(1));
            Query {
                target: Target::All { prefixes: Vec::new() },
                direction: Direction::Forwards,
                from,
                limit: 20,
                mode,
            }
        };
        self.ask(other, &query, false).await;
    }

    /// Reads something.
    pub(crate) async fn read(&mut self) {
        let (target, direction, from, limit) = self.what_to_read();
        let leader = self.shared.endpoints.leader();
        let (mode, requires_leader) = match self.rng.random_range(0..100) {
            0..20 => (Mode::Linearizable, false),
            20..35 => (Mode::Linearizable, true),
            35..55 => (Mode::AtLeast(self.shared.board.tail()), false),
            _ => (Mode::Local, false),
        };
        let chosen = self.shared.endpoints.choose(&mut self.rng);
        let node = match leader {
            Some(leader) if requires_leader && self.rng.random_ratio(4, 5) => Some(leader),
            _ => chosen,
        };
        let Some(node) = node else { return };
        self.ask(node, &Query { target, direction, from, limit, mode }, requires_leader).await;
    }

    fn what_to_read(&mut self) -> (Target, Direction, Option<u64>, u64) {
        use Direction::{Backwards, Forwards};
        let roll = self.rng.random_range(0..100);
        let limit = self.rng.random_range(1..=PAGE);
        let tail = self.shared.board.tail();
        let all = || Target::All { prefixes: Vec::new() };
        let near = tail.saturating_sub(self.rng.random_range(0..2 * PAGE)).max(1);
        let anywhere = self.rng.random_range(1..=tail.max(1));
        let left = self.shared.board.left(&mut self.rng);
        let class = match roll {
            0..25 => Class::Hot,
            25..60 => Class::Cold,
            60..67 => Class::Bin,
            _ => Class::Kept,
        };
        let (stream, last) = self.shared.board.stream(class, &mut self.rng);
        let within = self.rng.random_range(0..=last.unwrap_or(0) + 1);
        match roll {
            0..15 => (Target::Stream(stream), Backwards, None, limit),
            15..20 => (Target::Stream(stream), Backwards, Some(within), limit),
            20..25 => (Target::Stream(stream), Forwards, Some(within), limit),
            25..33 => (Target::Stream(stream), Forwards, None, WHOLE),
            33..38 => (Target::Stream(left.unwrap_or(stream)), Forwards, None, WHOLE),
            38..50 => (Target::Stream(stream), Backwards, None, limit),
            50..60 => (Target::Stream(stream), Forwards, Some(within), limit),
            60..72 if self.rng.random() => (Target::Stream(stream), Forwards, None, WHOLE),
            60..72 => (Target::Stream(stream), Backwards, None, limit),
            72..82 => (all(), Forwards, Some(near), limit),
            82..87 => (all(), Backwards, None, limit),
            87..91 => (all(), Forwards, Some(anywhere), limit),
            91..94 => (all(), Backwards, Some(anywhere), limit),
            _ => {
                let first = self.rng.random_range(0..PREFIXES.len());
                let count = self.rng.random_range(1..=3);
                let prefixes = PREFIXES.iter().cycle().skip(first).take(count).map(|prefix| (*prefix).to_owned());
                let from = if self.rng.random_ratio(3, 4) { near } else { anywhere };
                (Target::All { prefixes: prefixes.collect() }, Forwards, Some(from), limit.min(20))
            }
        }
    }

    async fn ask(&mut self, node: NodeNumber, query: &Query, requires_leader: bool) {
        let Some(wire) = self.connect(node).await else { return };
        let terms = Terms { requires_leader, ..self.terms() };
        let answer = query.read(&wire, &self.shared.recorder, &terms).await;
        self.learn_read(node, query, &answer);
        if matches!(answer.outcome, ReadOutcome::Failed { .. }) {
            self.number = self.shared.number();
        }
    }
}
