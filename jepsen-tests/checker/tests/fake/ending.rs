//! The end of a run: everything is caught up, compared and read.

use annals_checker::history::{Final, Record, Seen, Source};

use super::{MILLI, REST, World};

impl World {
    pub(super) fn end(&mut self) {
        self.now = self.stop + REST + MILLI;
        for node in 0..3 {
            self.catch_up(node, self.log.tail());
        }
        self.drain();
        self.drain_groups();
        for node in 0..3 {
            self.now += MILLI;
            let position = self.nodes[node].as_of();
            self.hash(node, position);
            for source in [Source::Linearizable, Source::Local, Source::Offline] {
                self.tell_final(node, source);
            }
        }
    }

    fn tell_final(&mut self, node: usize, source: Source) {
        let events: Vec<Seen> = self.nodes[node].log.events.iter().map(|event| event.seen.clone()).collect();
        let mut parts: Vec<Vec<Seen>> = events.chunks(48).map(<[Seen]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let last = parts.len() - 1;
        for (index, events) in parts.into_iter().enumerate() {
            let complete = index == last;
            self.records.push(Record::Final(Final { node: node as u32 + 1, source, events, complete }));
        }
    }
}
