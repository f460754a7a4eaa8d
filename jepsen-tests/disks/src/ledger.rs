//! What one node was given and what it acknowledged, compared with what it
//! holds.

use std::collections::HashMap;

use uuid::Uuid;

use crate::node::Event;

/// An event that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub id: Uuid,
    /// Its stream.
    pub stream: String,
    /// Its data.
    pub data: Vec<u8>,
    /// The position that was acknowledged, if it was.
    pub acked: Option<u64>,
}

/// All that was sent, in its order, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    sent: Vec<Sent>,
}

impl Ledger {
    /// A new event of this many bytes; it is not known yet what became of it.
    pub fn next(&mut self, bytes: usize) -> Sent {
        let number = self.sent.len();
        let mut data = format!("event {number} ").into_bytes();
        // Not compressible, so that files grow as events do.
        let mut state = number as u64 + 1;
        while data.len() < bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            data.extend_from_slice(&(state >> 32).to_le_bytes()[..4]);
        }
        let sent = Sent { id: Uuid::new_v4(), stream: format!("stream-{}", number % 5), data, acked: None };
        self.sent.push(sent.clone());
        sent
    }

    /// The last event was acknowledged at this position.
    pub fn acked(&mut self, position: u64) {
        if let Some(last) = self.sent.last_mut() {
            last.acked = Some(position);
        }
    }

    /// This one was acknowledged at this position.
    pub fn acked_one(&mut self, id: Uuid, position: u64) {
        if let Some(sent) = self.sent.iter_mut().rfind(|sent| sent.id == id) {
            sent.acked = Some(position);
        }
    }

    /// How many were acknowledged.
    pub fn acks(&self) -> usize {
        self.sent.iter().filter(|sent| sent.acked.is_some()).count()
    }

    /// The events that were acknowledged, for who reads them one by one.
    pub fn events(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter()
    }

    /// What is wrong with these events, read from the beginning to the end, and
    /// which property it breaks; empty when nothing is.
    pub fn verify(&self, events: &[Event]) -> Vec<String> {
        self.verify_first(self.acks(), events)
    }

    /// The same, when only the first `acks` acknowledgements had been given:
    /// everything later may be there or not.
    pub fn verify_first(&self, acks: usize, events: &[Event]) -> Vec<String> {
        let mut wrong = Vec::new();
        let sent: HashMap<Uuid, &Sent> = self.sent.iter().map(|sent| (sent.id, sent)).collect();
        let mut seen = HashMap::new();
        let mut revisions: HashMap<&str, u64> = HashMap::new();
        for (event, position) in events.iter().zip(1..) {
            if event.position != position {
                wrong.push(format!("P4, position {} where {position} is due", event.position));
            }
            let revision = revisions.entry(&event.stream).and_modify(|revision| *revision += 1).or_insert(0);
            if event.revision != *revision {
                wrong.push(format!("P4, {} has revision {} where {revision} is due", event.stream, event.revision));
            }
            if let Some(before) = seen.insert(event.id, event.position) {
                wrong.push(format!("P5, event {} at {before} and at {}", event.id, event.position));
            }
            match sent.get(&event.id) {
                None => wrong.push(format!("P2, position {} holds an event that was never sent", event.position)),
                Some(sent) if sent.stream != event.stream || sent.data != event.data => {
                    wrong.push(format!("P2, position {} does not hold what was sent", event.position));
                }
                Some(_) => {}
            }
        }
        let acked = self.sent.iter().filter_map(|sent| Some((sent.id, sent.acked?))).take(acks);
        let lost: Vec<_> = acked.filter(|(id, position)| seen.get(id) != Some(position)).collect();
        if let Some((_, first)) = lost.first() {
            let count = lost.len();
            wrong.push(format!("P3, {count} of {acks} acknowledged events lost or moved, the first at {first}"));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> (Ledger, Vec<Event>) {
        let mut ledger = Ledger::default();
        let mut events = Vec::new();
        for position in 1..=4 {
            let sent = ledger.next(20);
            ledger.acked(position);
            events.push(Event { position, stream: sent.stream, revision: 0, id: sent.id, data: sent.data });
        }
        (ledger, events)
    }

    #[test]
    fn everything_acknowledged_and_nothing_else_is_right() {
        let (mut ledger, events) = ledger();
        assert!(ledger.verify(&events).is_empty());
        ledger.next(20);
        assert!(ledger.verify(&events).is_empty(), "one more whose fate is not known");
    }

    #[test]
    fn a_loss_is_seen_unless_it_was_not_acknowledged_yet() {
        let (ledger, events) = ledger();
        assert!(ledger.verify(&events[..3])[0].contains("1 of 4 acknowledged"));
        assert!(ledger.verify_first(3, &events[..3]).is_empty());
    }

    #[test]
    fn other_data_a_double_and_a_gap_are_seen() {
        let (ledger, events) = ledger();
        let mut other = events.clone();
        other[1].data[3] ^= 1;
        assert!(ledger.verify(&other)[0].contains("position 2 does not hold"));
        let mut gap = events.clone();
        gap.remove(1);
        assert!(!ledger.verify(&gap).is_empty());
        let mut double = events.clone();
        double.push(Event { position: 5, revision: 1, ..events[0].clone() });
        assert!(ledger.verify(&double)[0].contains("at 1 and at 5"));
    }
}
