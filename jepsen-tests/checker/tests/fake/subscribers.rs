//! The subscriptions: they follow a node's log and change nodes.

use annals_checker::history::{CaughtUp, Closed, Delivered, Dropped, Opened, Record, Seen, Subscription, Target};
use rand::Rng;

use super::rules::selects;
use super::{Action, Bug, World};

/// A subscription.
pub(super) struct Subscriber {
    target: Target,
    pub(super) node: usize,
    connection: u32,
    connected: bool,
    /// The position or revision of the last event that arrived.
    cursor: Option<u64>,
    caught_up: bool,
    /// With a bug: leave out the next event, repeat the last one.
    skip: bool,
    repeat: bool,
}

impl World {
    pub(super) fn start_subscribers(&mut self) {
        let targets = [
            Target::All { prefixes: Vec::new() },
            Target::All { prefixes: vec!["a-".into(), "t-".into()] },
            Target::Stream("a-0".into()),
            Target::Stream("b-0".into()),
        ];
        for (number, target) in targets.into_iter().enumerate() {
            let after = self.chance(0.3).then(|| self.random.random_range(1..10));
            self.records.push(Record::Subscription(Subscription {
                subscription: number as u32,
                target: target.clone(),
                after,
            }));
            self.subscribers.push(Subscriber {
                target,
                node: self.random.random_range(0..3),
                connection: 0,
                connected: false,
                cursor: after,
                caught_up: false,
                skip: false,
                repeat: false,
            });
            let wait = self.micros(0, 10_000);
            self.after(wait, Action::Deliver(number));
        }
    }

    fn open(&mut self, number: usize) {
        let time = self.now;
        let resumed = self.subscribers[number].connection > 0;
        let repeat = resumed && self.has(Bug::S14RepeatOnResume);
        let subscriber = &mut self.subscribers[number];
        subscriber.connected = true;
        subscriber.caught_up = false;
        subscriber.repeat = repeat;
        self.records.push(Record::Opened(Opened {
            subscription: number as u32,
            connection: subscriber.connection,
            node: subscriber.node as u32 + 1,
            time,
            after: subscriber.cursor,
        }));
    }

    pub(super) fn drop_connection(&mut self, number: usize, why: &str) {
        let node = self.random.random_range(0..3);
        let subscriber = &mut self.subscribers[number];
        if !subscriber.connected {
            subscriber.node = node;
            return;
        }
        self.records.push(Record::Dropped(Dropped {
            subscription: number as u32,
            connection: subscriber.connection,
            time: self.now,
            why: why.into(),
            ended_ok: false,
        }));
        subscriber.connected = false;
        subscriber.connection += 1;
        subscriber.node = node;
    }

    /// Something happens on a subscription.
    pub(super) fn deliver(&mut self, number: usize) {
        let wait = self.micros(300, 4_000);
        self.after(wait, Action::Deliver(number));
        if !self.nodes[self.subscribers[number].node].up {
            return self.drop_connection(number, "connection refused");
        }
        if !self.subscribers[number].connected {
            return self.open(number);
        }
        if self.chance(0.06) {
            return self.drop_connection(number, "restarted by the test");
        }
        self.deliver_some(number);
    }

    fn place(target: &Target, seen: &Seen) -> u64 {
        match target {
            Target::All { .. } => seen.position,
            Target::Stream(_) => seen.revision,
        }
    }

    /// Delivers, or tells that there is nothing; says whether it did either.
    fn deliver_some(&mut self, number: usize) -> bool {
        let Subscriber { target, node, cursor, connection, repeat, .. } = &self.subscribers[number];
        let (target, node, connection, cursor) = (target.clone(), *node, *connection, *cursor);
        let inclusive = *repeat;
        let after_cursor = |seen: &&Seen| {
            let place = Self::place(&target, seen);
            cursor.is_none_or(|cursor| place > cursor || inclusive && place == cursor)
        };
        let most = self.random.random_range(1..12);
        let events = self.nodes[node].log.events.iter().filter(|event| selects(&target, event));
        let mut waiting: Vec<Seen> = events.map(|event| &event.seen).filter(after_cursor).take(most).cloned().collect();
        let subscription = number as u32;
        if waiting.is_empty() {
            if self.subscribers[number].caught_up {
                return false;
            }
            let upto = match target {
                // It may lie before the wanted start.
                Target::All { .. } => Some(self.nodes[node].as_of().max(cursor.unwrap_or(0))),
                Target::Stream(_) => cursor,
            };
            let skip = self.has(Bug::S13GapAfterCatchUp) && self.chance(0.5);
            self.subscribers[number].caught_up = true;
            self.subscribers[number].skip = skip;
            self.records.push(Record::CaughtUp(CaughtUp { subscription, connection, time: self.now, upto }));
            return true;
        }
        if self.has(Bug::S15SlowConsumer) && waiting.len() > 4 {
            waiting.remove(1);
        }
        let last = waiting.last().map(|seen| Self::place(&target, seen));
        let subscriber = &mut self.subscribers[number];
        subscriber.cursor = last;
        subscriber.repeat = false;
        if std::mem::take(&mut subscriber.skip) {
            waiting.remove(0);
        }
        if !waiting.is_empty() {
            self.records.push(Record::Delivered(Delivered {
                subscription,
                connection,
                time: self.now,
                events: waiting,
            }));
        }
        true
    }

    /// Everything that is left arrives, and the subscriptions end.
    pub(super) fn drain(&mut self) {
        for number in 0..self.subscribers.len() {
            self.now += 1_000;
            if !self.subscribers[number].connected {
                self.open(number);
            }
            while self.deliver_some(number) {
                self.now += 1_000;
            }
            self.records.push(Record::Closed(Closed { subscription: number as u32, time: self.now, drained: true }));
        }
    }
}
