//! What a process does in a turn to write.

use std::sync::Arc;

use annals_checker::history::{Expected, Outcome, Retention};
use rand::Rng as _;

use crate::board::Class;
use crate::calls::{Batches, Draft, How, Terms, append, delete};
use crate::payload::{self, Event, Generation};
use crate::process::{Process, is_unknown};
use crate::wire::Contact;

/// Acknowledged appends that are remembered, and one of how many is.
const ACKED: usize = 512;
const ACKED_ONE_OF: u32 = 8;

impl Process {
    /// Writes something.
    pub(crate) async fn write(&mut self) {
        match self.rng.random_range(0..1_000) {
            0..350 => self.write_hot().await,
            350..640 => self.write_cold().await,
            640..700 => self.write_race().await,
            700..760 => self.write_pipelined().await,
            760..860 => self.write_many().await,
            860..910 => self.write_bin().await,
            910..940 => self.write_kept().await,
            940..970 => self.write_again().await,
            _ => self.write_twice().await,
        }
    }

    async fn write_hot(&mut self) {
        let (stream, last) = self.shared.board.stream(Class::Hot, &mut self.rng);
        let events = if self.rng.random_ratio(1, 5) { self.rng.random_range(2..=5) } else { 1 };
        let expected = match self.rng.random_range(0..100) {
            0..60 => exactly(last),
            60..85 => Expected::Any,
            85..93 => Expected::Exists,
            _ => self.wrong(last),
        };
        self.write_single(stream, expected, events).await;
    }

    async fn write_cold(&mut self) {
        let (stream, last) = self.shared.board.stream(Class::Cold, &mut self.rng);
        let events = if self.rng.random_ratio(1, 6) { self.rng.random_range(2..=20) } else { 1 };
        let expected = match self.rng.random_range(0..100) {
            0..50 => exactly(last),
            50..85 => Expected::Any,
            85..93 => Expected::Exists,
            _ => self.wrong(last),
        };
        self.write_single(stream, expected, events).await;
    }

    async fn write_race(&mut self) {
        let stream = self.shared.board.race();
        let events = self.rng.random_range(1..=3);
        self.write_single(stream, Expected::NoStream, events).await;
    }

    /// One stream, by any call that can do it.
    async fn write_single(&mut self, stream: Arc<str>, expected: Expected, events: usize) {
        let how = match self.rng.random_range(0..10) {
            0..7 => How::Append,
            7 | 8 => How::Session,
            _ => How::Records,
        };
        let draft = self.draft(stream, expected, events, generation(how));
        self.persist(how, vec![draft]).await;
    }

    /// Several streams at once.
    async fn write_many(&mut self) {
        let how = if self.rng.random() { How::Session } else { How::Records };
        let mut drafts: Vec<Draft> = Vec::new();
        for _ in 0..self.rng.random_range(2..=4) {
            let class = match self.rng.random_range(0..10) {
                0..3 => Class::Hot,
                3..8 => Class::Cold,
                8 => Class::Bin,
                _ => Class::Kept,
            };
            let (stream, last) = self.shared.board.stream(class, &mut self.rng);
            if drafts.iter().any(|draft| draft.stream == stream) {
                continue;
            }
            let expected = match self.rng.random_range(0..100) {
                0..45 => exactly(last),
                45..90 => Expected::Any,
                90..97 => Expected::Exists,
                _ => self.wrong(last),
            };
            let events = self.rng.random_range(1..=3);
            drafts.push(self.draft(stream, expected, events, Generation::V2));
        }
        self.persist(how, drafts).await;
    }

    async fn write_bin(&mut self) {
        let (stream, last) = self.shared.board.stream(Class::Bin, &mut self.rng);
        let expected = match self.rng.random_range(0..10) {
            0..5 => Expected::Any,
            5..7 => Expected::NoStream,
            7..9 => exactly(last),
            _ => Expected::Exists,
        };
        match self.rng.random_range(0..100) {
            0..60 => {
                let events = self.rng.random_range(1..=3);
                self.write_single(stream, expected, events).await;
            }
            60..94 => self.delete(stream, expected, false).await,
            _ => self.delete(stream, expected, true).await,
        }
    }

    async fn write_kept(&mut self) {
        let (stream, last) = self.shared.board.stream(Class::Kept, &mut self.rng);
        if self.rng.random_ratio(7, 10) {
            let events = self.rng.random_range(1..=5);
            let expected = if self.rng.random() { Expected::Any } else { exactly(last) };
            return self.write_single(stream, expected, events).await;
        }
        let max_count = self.rng.random_bool(0.6).then(|| self.rng.random_range(1..=20));
        let around = last.unwrap_or(0);
        let truncate_before =
            self.rng.random_bool(0.5).then(|| self.rng.random_range(around.saturating_sub(10)..=around + 2).max(1));
        let id = payload::fresh_id(&mut self.rng);
        let event = Event::sets(id, Retention { max_count, truncate_before });
        let stream = payload::metastream(&stream);
        self.persist(How::Append, vec![Draft { stream, expected: Expected::Any, events: vec![event] }]).await;
    }

    /// What was acknowledged some time ago, perhaps by a leader that is none
    /// any more: the answer must be the same.
    async fn write_again(&mut self) {
        let draw = self.rng.random_range(0..ACKED);
        let chosen = {
            let acked = self.shared.acked.lock();
            acked.get(draw % acked.len().max(1)).cloned()
        };
        let Some((how, drafts)) = chosen else { return };
        let Some(node) = self.shared.endpoints.choose(&mut self.rng) else { return };
        self.attempt(node, how, &drafts).await;
    }

    /// Remembers an append that was acknowledged.
    pub(crate) fn remember(&mut self, how: How, drafts: Vec<Draft>) {
        if self.rng.random_ratio(1, ACKED_ONE_OF) {
            let mut acked = self.shared.acked.lock();
            if acked.len() == ACKED {
                let at = self.rng.random_range(0..ACKED);
                acked[at] = (how, drafts);
            } else {
                acked.push((how, drafts));
            }
        }
    }

    /// The same events to two nodes at once.
    async fn write_twice(&mut self) {
        let class = if self.rng.random() { Class::Hot } else { Class::Cold };
        let (stream, last) = self.shared.board.stream(class, &mut self.rng);
        let expected = if self.rng.random() { Expected::Any } else { exactly(last) };
        let how = if self.rng.random() { How::Append } else { How::Session };
        let events = self.rng.random_range(1..=3);
        let drafts = [self.draft(stream, expected, events, generation(how))];

        let Some(one) = self.shared.endpoints.choose(&mut self.rng) else { return };
        let Some(other) = self.shared.endpoints.choose_other(Some(one), &mut self.rng) else { return };
        let (Some(first), Some(second)) = (self.connect(one).await, self.connect(other).await) else { return };
        let terms = self.terms();
        let twin = Terms { process: self.twin, ..terms };
        let recorder = self.shared.recorder.clone();
        let (done, twin_done) = tokio::join!(
            append(&first, &recorder, &terms, how, &drafts),
            append(&second, &recorder, &twin, how, &drafts),
        );
        self.learn(one, &done, &drafts);
        self.learn(other, &twin_done, &drafts);
        if is_unknown(&done) {
            self.number = self.shared.number();
        }
        if is_unknown(&twin_done) {
            self.twin = self.shared.number();
        }
    }

    /// Several appends in one call, none waiting for the other.
    async fn write_pipelined(&mut self) {
        let count = self.rng.random_range(2..=5);
        let mut drafts = Vec::new();
        let class = if self.rng.random_ratio(1, 4) { Class::Hot } else { Class::Cold };
        let (mut stream, mut last) = self.shared.board.stream(class, &mut self.rng);
        for at in 0..count {
            if self.rng.random_ratio(1, 2) {
                (stream, last) = self.shared.board.stream(Class::Cold, &mut self.rng);
            }
            let events = if self.rng.random_ratio(1, 4) { self.rng.random_range(2..=20) } else { 1 };
            // Exact revisions that count on the appends before.
            let expected = if self.rng.random_ratio(2, 3) { exactly(last) } else { Expected::Any };
            let draft = self.draft(stream.clone(), expected, events, Generation::V1);
            last = Some(last.map_or(events as u64 - 1, |last| last + events as u64));
            let process = if at == 0 { self.number } else { self.shared.number() };
            drafts.push((process, draft));
        }
        let terms = self.terms();
        let (node, batches) = match self.batches.take() {
            Some((node, batches)) if self.rng.random_ratio(9, 10) => (node, batches),
            _ => {
                let Some(node) = self.shared.endpoints.choose(&mut self.rng) else { return };
                let Some(wire) = self.connect(node).await else { return };
                match Batches::open(&wire, &terms).await {
                    Ok(batches) => (node, batches),
                    Err(_) => {
                        self.shared.recorder.count_unreachable();
                        return self.connections.note(node, Contact::Broken);
                    }
                }
            }
        };
        let recorder = self.shared.recorder.clone();
        let (done, batches) = batches.append(&recorder, &terms, &drafts).await;
        self.batches = batches.map(|batches| (node, batches));
        for ((_, draft), done) in drafts.into_iter().zip(done) {
            let drafts = [draft];
            self.learn(node, &done, &drafts);
            if is_unknown(&done) {
                self.number = self.shared.number();
                let [draft] = drafts;
                self.retry(node, How::Append, vec![draft]).await;
            }
        }
    }

    async fn delete(&mut self, stream: Arc<str>, expected: Expected, hard: bool) {
        let Some(node) = self.shared.endpoints.choose(&mut self.rng) else { return };
        let Some(wire) = self.connect(node).await else { return };
        let terms = self.terms();
        let done = delete(&wire, &self.shared.recorder, &terms, &stream, expected, hard).await;
        let draft = Draft { stream: stream.clone(), expected, events: Vec::new() };
        self.learn(node, &done, &[draft]);
        match &done.outcome {
            Outcome::Acked { position, .. } => {
                self.shared.board.saw(*position);
                if hard {
                    self.shared.board.ended(&stream);
                }
                self.look_after(node, *position, &stream).await;
            }
            Outcome::Refused { .. } => {}
            Outcome::Unknown { .. } => self.number = self.shared.number(),
        }
    }

    fn draft(&mut self, stream: Arc<str>, expected: Expected, events: usize, generation: Generation) -> Draft {
        let bytes = self.shared.plan.event_bytes;
        let events = (0..events).map(|_| {
            // Some are much larger, so that pages end by bytes as well.
            let bytes = if self.rng.random_ratio(1, 200) { bytes * 32 } else { bytes };
            Event::new(payload::fresh_id(&mut self.rng), generation, bytes)
        });
        Draft { stream, expected, events: events.collect() }
    }

    /// An expectation that is probably wrong.
    fn wrong(&mut self, last: Option<u64>) -> Expected {
        match (last, self.rng.random_range(0..3)) {
            (Some(last), 0) if last > 0 => Expected::Revision(last - 1),
            (Some(_), 1) => Expected::NoStream,
            (Some(last), _) => Expected::Revision(last + 3),
            (None, 0) => Expected::Exists,
            (None, _) => Expected::Revision(self.rng.random_range(0..5)),
        }
    }
}

fn exactly(last: Option<u64>) -> Expected {
    last.map_or(Expected::NoStream, Expected::Revision)
}

fn generation(how: How) -> Generation {
    match how {
        How::Append => Generation::V1,
        How::Session | How::Records => Generation::V2,
    }
}
