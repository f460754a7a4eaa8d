//! Consumer groups of the fake server, and consumers that are not to be relied
//! on.
//!
//! What is durable of a group is its checkpoint and what it has parked; all else
//! is with whoever serves it and gone with that leader. A leader that was
//! replaced may go on for a while with the consumers that it has: it hands out
//! and takes answers, and makes nothing durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals_checker::history::{
    Answer, Answered, Checkpoint, Defined, Group, GroupEnded, GroupSource, GroupStep, Handed, Joined, Left, Parked,
    ParkedMessage, Record, Replay, Seen,
};
use rand::Rng;

use super::{Action, Bug, MICRO, World};

/// What one consumer has at hand at most.
const SLOTS: usize = 4;

/// A group.
#[derive(Debug)]
pub(super) struct Team {
    prefixes: Vec<String>,
    in_order: bool,
    /// Durable: everything up to this position is done.
    checkpoint: u64,
    /// Durable: what is parked, with the positions.
    parked: Vec<(u64, ParkedMessage)>,
    done_before: u64,
    serving: Option<Serving>,
    /// A leader that was replaced and does not know.
    replaced: Option<Serving>,
    consumers: u32,
}

/// What a leader knows of a group, by position.
#[derive(Debug, Default)]
struct Serving {
    term: u64,
    read_to: u64,
    /// Whether it was read from the source, or is delivered again.
    waiting: BTreeMap<u64, Origin>,
    in_flight: BTreeMap<u64, (u32, Origin)>,
    parking: BTreeMap<u64, Origin>,
    consumers: Vec<u32>,
    /// What is below this revision is being delivered again.
    replaying: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Source,
    Replay,
}

impl Serving {
    fn has(&self, position: u64) -> bool {
        self.waiting.contains_key(&position)
            || self.in_flight.contains_key(&position)
            || self.parking.contains_key(&position)
    }

    fn replays(&self) -> bool {
        let in_flight = self.in_flight.values().map(|(_, origin)| origin);
        self.waiting.values().chain(in_flight).chain(self.parking.values()).any(|origin| *origin == Origin::Replay)
    }

    fn lowest(map: impl Iterator<Item = (u64, Origin)>) -> u64 {
        map.filter(|(_, origin)| *origin == Origin::Source).map(|(at, _)| at).min().unwrap_or(u64::MAX)
    }
}

impl World {
    pub(super) fn start_groups(&mut self) {
        for (prefixes, in_order) in [(["a-", "b-"], true), (["b-", "t-"], false)] {
            let prefixes: Vec<String> = prefixes.iter().map(|text| (*text).to_owned()).collect();
            let number = self.teams.len();
            let source = GroupSource::All { prefixes: prefixes.clone() };
            self.tell(number, GroupStep::Defined(Defined { name: format!("g{number}"), source, in_order }));
            self.teams.push(Team {
                prefixes,
                in_order,
                checkpoint: 0,
                parked: Vec::new(),
                done_before: 0,
                serving: None,
                replaced: None,
                consumers: 0,
            });
            self.after(0, Action::Share(number));
        }
    }

    fn tell(&mut self, team: usize, step: GroupStep) {
        self.records.push(Record::Group(Group { group: team as u32, step }));
    }

    fn wall_clock(&self) -> i64 {
        18_000_000_000_000_000 + (self.now / 100) as i64
    }

    /// The events of a group's source after a position.
    fn next_of(&self, team: usize, after: u64, most: usize) -> Vec<u64> {
        let team = &self.teams[team];
        let belongs = |seen: &&Seen| {
            seen.position > after && team.prefixes.iter().any(|prefix| seen.stream.starts_with(prefix.as_str()))
        };
        self.log.events.iter().map(|event| &event.seen).filter(belongs).map(|seen| seen.position).take(most).collect()
    }

    fn stream_of(&self, position: u64) -> Option<Arc<str>> {
        Some(self.log.prefix(position).last()?.seen.stream.clone())
    }

    /// Something happens in a group.
    pub(super) fn share(&mut self, team: usize) {
        let wait = self.micros(20, 200);
        self.after(wait, Action::Share(team));
        let term = self.works().then_some(self.term);
        if self.teams[team].serving.as_ref().is_some_and(|serving| Some(serving.term) != term) {
            let before = self.teams[team].serving.take();
            self.dismiss(team);
            self.teams[team].replaced = before;
            if self.chance(0.5) {
                self.dismiss(team);
            }
        }
        if let Some(term) = term
            && self.teams[team].serving.is_none()
        {
            let read_to = self.teams[team].checkpoint;
            self.teams[team].serving = Some(Serving { term, read_to, ..Serving::default() });
        }
        let replaced = self.teams[team].replaced.is_some() && self.chance(0.3);
        if replaced && self.chance(0.1) {
            return self.dismiss(team);
        }
        let of = &mut self.teams[team];
        let Some(mut serving) = (if replaced { of.replaced.take() } else { of.serving.take() }) else { return };
        self.serve(team, &mut serving, replaced);
        let of = &mut self.teams[team];
        *(if replaced { &mut of.replaced } else { &mut of.serving }) = Some(serving);
    }

    /// Ends who was replaced: the consumers notice.
    fn dismiss(&mut self, team: usize) {
        let ended = self.teams[team].replaced.take();
        for consumer in ended.map(|serving| serving.consumers).unwrap_or_default() {
            self.left(team, consumer);
        }
    }

    fn left(&mut self, team: usize, consumer: u32) {
        let time = self.now;
        self.tell(team, GroupStep::Left(Left { consumer, time, why: "ended".into(), ended_ok: false }));
    }

    fn serve(&mut self, team: usize, serving: &mut Serving, replaced: bool) {
        match self.random.random_range(0..100) {
            0..8 if serving.consumers.len() < 3 => self.join(team, serving),
            8..10 => {
                if let Some(gone) = self.one_of(&serving.consumers) {
                    self.leave(team, serving, gone);
                }
            }
            10..25 if !replaced => {
                for at in self.next_of(team, serving.read_to, 4) {
                    serving.waiting.insert(at, Origin::Source);
                    serving.read_to = at;
                }
            }
            25..60 => self.hand_out(team, serving),
            60..85 => self.answer_one(team, serving),
            85..90 if !replaced => self.park_all(team, serving),
            90..98 if !replaced => self.write_checkpoint(team, serving),
            98 if !replaced => self.replay(team, serving),
            _ => {}
        }
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.random.random_range(0..of.len())]) }
    }

    fn join(&mut self, team: usize, serving: &mut Serving) {
        let consumer = self.teams[team].consumers;
        self.teams[team].consumers += 1;
        serving.consumers.push(consumer);
        let (invoke, time) = (self.now, self.now + MICRO);
        self.tell(team, GroupStep::Joined(Joined { consumer, node: 1, invoke, time, term: Some(serving.term) }));
    }

    fn leave(&mut self, team: usize, serving: &mut Serving, gone: u32) {
        serving.consumers.retain(|consumer| *consumer != gone);
        let had: Vec<u64> = serving.in_flight.iter().filter(|(_, (who, _))| *who == gone).map(|(at, _)| *at).collect();
        for at in had {
            if let Some((_, origin)) = serving.in_flight.remove(&at) {
                serving.waiting.insert(at, origin);
            }
        }
        self.left(team, gone);
    }

    fn hand_out(&mut self, team: usize, serving: &mut Serving) {
        let with_room = |consumer: &u32| serving.in_flight.values().filter(|(who, _)| who == consumer).count() < SLOTS;
        let free: Vec<u32> = serving.consumers.iter().copied().filter(with_room).collect();
        let Some(consumer) = self.one_of(&free) else { return };
        let mut busy: Vec<Arc<str>> = Vec::new();
        if self.teams[team].in_order && !self.has(Bug::S24KeyOvertakes) {
            busy.extend(serving.in_flight.keys().chain(serving.parking.keys()).filter_map(|at| self.stream_of(*at)));
        }
        let may_go = |at: &u64| self.stream_of(*at).is_some_and(|stream| !busy.contains(&stream));
        let Some(at) = serving.waiting.keys().copied().find(may_go) else { return };
        let Some(event) = self.log.prefix(at).last().map(|stored| stored.seen.clone()) else { return };
        let Some(origin) = serving.waiting.remove(&at) else { return };
        serving.in_flight.insert(at, (consumer, origin));
        let time = self.now;
        self.tell(team, GroupStep::Handed(Handed { consumer, time, event, retries: 0 }));
    }

    fn answer_one(&mut self, team: usize, serving: &mut Serving) {
        let in_flight: Vec<u64> = serving.in_flight.keys().copied().collect();
        let Some(position) = self.one_of(&in_flight) else { return };
        let answer = match self.random.random_range(0..20) {
            0 | 1 => Answer::Park,
            2 => Answer::Retry,
            3 => Answer::Skip,
            _ => Answer::Ack,
        };
        self.answer_for(team, serving, position, answer);
    }

    fn answer_for(&mut self, team: usize, serving: &mut Serving, position: u64, answer: Answer) {
        let Some((consumer, origin)) = serving.in_flight.get(&position).copied() else { return };
        let time = self.now;
        self.tell(team, GroupStep::Answered(Answered { consumer, time, position, answer }));
        if self.chance(0.03) {
            // It does not arrive, because the connection breaks.
            return self.leave(team, serving, consumer);
        }
        serving.in_flight.remove(&position);
        match answer {
            Answer::Ack | Answer::Skip => {}
            Answer::Retry => _ = serving.waiting.insert(position, origin),
            Answer::Park => _ = serving.parking.insert(position, origin),
        }
        if answer == Answer::Park && self.has(Bug::S25ParkedTooEarly) && self.chance(0.5) {
            // It counts as parked, and will never be written.
            serving.parking.remove(&position);
        }
    }

    fn park_all(&mut self, team: usize, serving: &mut Serving) {
        for (position, _) in std::mem::take(&mut serving.parking) {
            let Some(seen) = self.log.prefix(position).last().map(|stored| stored.seen.clone()) else { continue };
            let created = self.wall_clock();
            let parked = &mut self.teams[team].parked;
            // One that the leader before had parked already is not parked again.
            let again = serving.replaying.is_some() || !parked.iter().any(|(at, _)| *at == position);
            if again {
                let revision = parked.len() as u64;
                let message = ParkedMessage { revision, created, stream: seen.stream, of: seen.revision };
                parked.push((position, message));
            }
        }
        if serving.replaying.is_some() && !serving.replays() {
            self.teams[team].done_before = serving.replaying.take().unwrap_or(0);
        }
    }

    fn write_checkpoint(&mut self, team: usize, serving: &mut Serving) {
        let waiting = serving.waiting.iter().chain(&serving.parking).map(|(at, origin)| (*at, *origin));
        let mut lowest = Serving::lowest(waiting);
        if !self.has(Bug::S23CheckpointTooHigh) {
            let in_flight = serving.in_flight.iter().map(|(at, (_, origin))| (*at, *origin));
            lowest = lowest.min(Serving::lowest(in_flight));
        }
        let place = serving.read_to.min(lowest - 1);
        if place > self.teams[team].checkpoint {
            self.teams[team].checkpoint = place;
        }
        if self.chance(0.5) && self.teams[team].checkpoint > 0 {
            let (time, place) = (self.now, self.teams[team].checkpoint);
            self.tell(team, GroupStep::Checkpoint(Checkpoint { time, term: serving.term, place }));
        }
    }

    /// What is parked comes again.
    fn replay(&mut self, team: usize, serving: &mut Serving) {
        let Team { parked, done_before, .. } = &self.teams[team];
        let mut positions: Vec<u64> =
            parked.iter().filter(|(_, message)| message.revision >= *done_before).map(|(at, _)| *at).collect();
        positions.dedup();
        let end = parked.len() as u64;
        // What is here has one place for each event: none that is open, or still to come
        // from the source because the checkpoint is below it.
        let is_open = |at: &u64| *at > serving.read_to || serving.has(*at);
        if positions.is_empty() || serving.replaying.is_some() || positions.iter().any(is_open) {
            return;
        }
        serving.waiting.extend(positions.into_iter().map(|at| (at, Origin::Replay)));
        serving.replaying = Some(end);
        let asked = self.wall_clock();
        let time = self.now;
        self.tell(team, GroupStep::Replay(Replay { time, asked, answered: Some(asked) }));
    }

    /// Everything that is left is acked by a new consumer.
    pub(super) fn drain_groups(&mut self) {
        for team in 0..self.teams.len() {
            self.dismiss(team);
            let term = self.term;
            let mut serving =
                self.teams[team].serving.take().filter(|serving| serving.term == term).unwrap_or_else(|| {
                    let read_to = self.teams[team].checkpoint;
                    Serving { term, read_to, ..Serving::default() }
                });
            for gone in serving.consumers.clone() {
                self.leave(team, &mut serving, gone);
            }
            for at in self.next_of(team, serving.read_to, usize::MAX) {
                serving.waiting.insert(at, Origin::Source);
                serving.read_to = at;
            }
            loop {
                self.now += 2 * MICRO;
                if serving.consumers.is_empty() {
                    self.join(team, &mut serving);
                }
                self.now += 2 * MICRO;
                self.hand_out(team, &mut serving);
                self.now += 2 * MICRO;
                self.park_all(team, &mut serving);
                match serving.in_flight.keys().next().copied() {
                    Some(at) => self.answer_for(team, &mut serving, at, Answer::Ack),
                    None if serving.waiting.is_empty() => break,
                    None => {}
                }
            }
            self.park_all(team, &mut serving);
            let time = self.now;
            let upto = Some(serving.read_to).filter(|at| *at > 0);
            self.tell(team, GroupStep::Ended(GroupEnded { time, drained: true, upto }));
            let Team { parked, done_before, .. } = &self.teams[team];
            let messages = parked.iter().map(|(_, message)| message.clone()).collect();
            let parked = Parked { messages, done_before: *done_before };
            self.tell(team, GroupStep::Parked(parked));
        }
    }
}
