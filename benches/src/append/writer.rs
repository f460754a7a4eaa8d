//! What one worker appends: to its own streams in turn, each append following
//! the last one.

use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::Expect;
use crate::event::{Events, Stamp, Template, Timeline};
use crate::streams::Streams;

/// What all writers of a run have in common.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) streams: Arc<Streams>,
    pub(crate) template: Arc<Template>,
    /// Of one append.
    pub(crate) events: u64,
    pub(crate) expect: Expect,
    /// When given, events are stamped.
    pub(crate) timeline: Option<Timeline>,
}

impl Load {
    /// A writer, by its number among so many. There is a stream for each.
    pub(crate) fn writer(&self, number: usize, of: usize) -> Writer {
        Writer { load: self.clone(), at: number, first: number, step: of, random: SmallRng::from_os_rng() }
    }
}

/// Knows what its next append is.
pub(crate) struct Writer {
    load: Load,
    at: usize,
    first: usize,
    step: usize,
    random: SmallRng,
}

/// One append that is to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) stream: usize,
    /// Events that the stream has.
    before: u64,
    events: u64,
}

/// The state that an append expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Any,
    NoStream,
    Revision(u64),
}

impl Writer {
    /// The next append.
    pub(crate) fn turn(&mut self) -> Turn {
        let stream = self.at;
        self.at += self.step;
        if self.at >= self.load.streams.count() {
            self.at = self.first;
        }
        self.turn_to(stream, self.load.events)
    }

    /// An append of so many events to this stream, which is the writer's own.
    pub(crate) fn turn_to(&self, stream: usize, events: u64) -> Turn {
        Turn { stream, before: self.load.streams.acknowledged(stream), events }
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.load.streams
    }

    pub(crate) fn expected(&self, turn: Turn) -> Expected {
        match (self.load.expect, turn.before.checked_sub(1)) {
            (Expect::Any, _) => Expected::Any,
            (Expect::Exact, None) => Expected::NoStream,
            (Expect::Exact, Some(revision)) => Expected::Revision(revision),
        }
    }

    /// The events of an append that is sent now.
    pub(crate) fn events(&mut self, turn: Turn) -> Events {
        let stamp = |timeline: Timeline| Stamp { sent_nanos: timeline.nanos(), sequence: turn.before };
        let stamp = self.load.timeline.map(stamp);
        Events::new(self.load.template.clone(), &mut self.random, turn.events, stamp)
    }

    /// Checks the revision that was answered. Answers how many events there
    /// are more.
    ///
    /// # Errors
    /// It is not the one that was due.
    pub(crate) fn answered(&self, turn: Turn, revision: Option<u64>) -> anyhow::Result<u64> {
        let now = self.load.expect.check(turn.before, turn.events, revision)?;
        self.load.streams.acknowledge(turn.stream, now);
        Ok(turn.events)
    }

    /// The stream's name, for people.
    pub(crate) fn name(&self, turn: Turn) -> String {
        String::from_utf8_lossy(self.load.streams.name(turn.stream)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_goes_round_its_own_streams_and_follows_what_was_answered() {
        let load = Load {
            streams: Streams::new("s", 5),
            template: Template::unary(1),
            events: 2,
            expect: Expect::Exact,
            timeline: None,
        };
        let mut writer = load.writer(1, 2);
        let mut rounds = Vec::new();
        for _ in 0..4 {
            let turn = writer.turn();
            rounds.push((turn.stream, writer.expected(turn)));
            let revision = turn.before + 1;
            assert_eq!(writer.answered(turn, Some(revision)).expect("as due"), 2);
        }
        let (new, second) = (Expected::NoStream, Expected::Revision(1));
        assert_eq!(rounds, [(1, new), (3, new), (1, second), (3, second)]);
        let turn = writer.turn();
        assert!(writer.answered(turn, Some(4)).is_err(), "one event too few");
        assert_eq!(load.streams.acknowledged_in_all(), 8);
    }
}
