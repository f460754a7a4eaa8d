//! P14 of scavenges: what is hidden goes for good, and nothing else ever does.
//!
//! The usual history has a log that only grows. Here events leave it, so it is told in
//! records of its own, of streams that have one writer each who knows what became of
//! everything. Judged are
//!
//! - every view of the log or of an index: it shows what was written, in order, once;
//! - every event that was there and is not any more: it was hidden at some moment
//!   between, and a scavenge had been asked for;
//! - every event that is gone: it never comes back, on whatever node;
//! - every event that was hidden before a scavenge began, and all the while until that
//!   was complete: no view after that has it;
//! - the files of all nodes: they are the same, and what they hold as reclaimed is what
//!   the last view lacks.
//!
//! Invariants of a history
//! - Deeds at one stream follow each other: one begins when the one before is complete.
//! - So do views, and so do scavenges. Views are linearizable, or read from a node that
//!   has applied all there is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::history::{Digest, EventId, Nanos, NodeNumber};

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// An event was acknowledged.
    Written {
        /// What was written, and where.
        event: Shown,
        /// When the append had been acknowledged.
        complete: Nanos,
    },
    /// From now on the events of a stream are hidden below a revision, and no others.
    Hidden {
        /// Which stream.
        stream: Arc<str>,
        /// Exclusive. 0: everything is shown again.
        below: u64,
        /// Before it was first sent.
        invoke: Nanos,
        /// When it had been acknowledged.
        complete: Nanos,
    },
    /// A scavenge.
    Scavenge {
        /// Before it was first asked for.
        invoke: Nanos,
        /// When it was known to have come to its end; none for one that was stopped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        complete: Option<Nanos>,
    },
    /// All events of the streams in question were read.
    View {
        /// From which node.
        node: NodeNumber,
        /// For people: `$all`, or an index.
        what: String,
        /// Before it was asked for.
        invoke: Nanos,
        /// When the last event had come.
        complete: Nanos,
        /// What came.
        events: Vec<Shown>,
    },
    /// What the files of a stopped node hold.
    Files {
        /// Which node.
        node: NodeNumber,
        /// Of everything in them.
        digest: Digest,
        /// The positions of what is reclaimed.
        reclaimed: Vec<u64>,
    },
}

/// An event as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Its place in the log.
    pub position: u64,
    /// Its stream.
    pub stream: Arc<str>,
    /// Its place there.
    pub revision: u64,
    /// Its id, and the digest of its type, data and metadata. None for an entry of an
    /// index, which says where an event is and not what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<(EventId, Digest)>,
}

impl Shown {
    /// Whether this may be a sighting of that event.
    fn is_of(&self, event: &Shown) -> bool {
        let same_place =
            (self.position, &self.stream, self.revision) == (event.position, &event.stream, event.revision);
        same_place && self.content.is_none_or(|content| event.content == Some(content))
    }
}

/// What a history shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Everything that is wrong, in words.
    pub wrong: Vec<String>,
    /// Events that were written.
    pub written: usize,
    /// Events that are gone at the end.
    pub gone: usize,
    /// Events that had been hidden, were shown again before anything took them, and are
    /// there at the end.
    pub restored: usize,
    /// Scavenges that came to their end.
    pub scavenges: usize,
    /// Views.
    pub views: usize,
}

/// Texts that are kept of one view: a broken node can be wrong in every event.
const TEXTS_KEPT: usize = 3;

/// A change of what is hidden in a stream.
struct Deed {
    below: u64,
    invoke: Nanos,
    complete: Nanos,
}

/// An event, and what has been seen of it.
struct Known<'h> {
    event: &'h Shown,
    /// It was there at this time or later.
    there: Nanos,
    /// It is in the log before this.
    written: Nanos,
    /// No view that begins later may have it.
    gone_by: Nanos,
    is_gone: bool,
}

/// Judges a history.
pub fn judge(records: &[Record]) -> Judgement {
    let history = History::new(records);
    let mut known = history.known(records);
    let mut judgement = Judgement { written: known.len(), ..Judgement::default() };
    judgement.scavenges = history.scavenges.iter().filter(|(_, complete)| complete.is_some()).count();
    let mut before = 0;
    for record in records {
        let Record::View { node, what, invoke, complete, events } = record else { continue };
        judgement.views += 1;
        let mut wrong = shown(events, &known);
        if *invoke < before {
            wrong.push("it was begun before the one before was complete: nothing can be said".to_owned());
        }
        before = *complete;
        wrong.extend(history.compare(events, *invoke, *complete, &mut known));
        let more = wrong.len().saturating_sub(TEXTS_KEPT);
        wrong.truncate(TEXTS_KEPT);
        if more > 0 {
            wrong.push(format!("and {more} more"));
        }
        let place = format!("{what} of node {node} at {:.3} s", std::time::Duration::from_nanos(*invoke).as_secs_f64());
        judgement.wrong.extend(wrong.into_iter().map(|wrong| format!("P14: {place}: {wrong}")));
    }
    judgement.gone = known.values().filter(|known| known.is_gone).count();
    judgement.restored = known.values().filter(|known| !known.is_gone && history.was_restored(known.event)).count();
    judgement.wrong.extend(files(records, &known));
    judgement
}

/// What can be said of the events of a view by themselves.
fn shown(events: &[Shown], known: &BTreeMap<u64, Known<'_>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last = 0;
    for event in events {
        if event.position <= last {
            wrong.push(format!("position {} comes after {last}", event.position));
        }
        last = event.position;
        match known.get(&event.position) {
            Some(known) if event.is_of(known.event) => {}
            Some(known) => wrong.push(format!("{event:?} is not what was written there: {:?}", known.event)),
            None => wrong.push(format!("{event:?} was never written")),
        }
    }
    wrong
}

/// What the files say, compared with each other and with the last view.
fn files(records: &[Record], known: &BTreeMap<u64, Known<'_>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut first: Option<(NodeNumber, Digest)> = None;
    for record in records {
        let Record::Files { node, digest, reclaimed } = record else { continue };
        match first {
            None => first = Some((*node, *digest)),
            Some((other, same)) if same != *digest => {
                wrong.push(format!("P14: what the files of nodes {other} and {node} hold differs"));
            }
            Some(_) => {}
        }
        let reclaimed: BTreeSet<u64> = reclaimed.iter().copied().collect();
        let differs = known.iter().filter(|(position, known)| reclaimed.contains(position) != known.is_gone);
        let positions: Vec<u64> = differs.map(|(position, _)| *position).collect();
        if !positions.is_empty() {
            let some = &positions[..positions.len().min(TEXTS_KEPT)];
            wrong.push(format!(
                "P14: the files of node {node} hold as reclaimed what is shown, or the other way round: {} events, at \
                 {some:?}",
                positions.len()
            ));
        }
    }
    wrong
}

struct History {
    deeds: HashMap<Arc<str>, Vec<Deed>>,
    scavenges: Vec<(Nanos, Option<Nanos>)>,
}

impl History {
    fn new(records: &[Record]) -> History {
        let mut history = History { deeds: HashMap::new(), scavenges: Vec::new() };
        for record in records {
            match record {
                Record::Hidden { stream, below, invoke, complete } => {
                    let deed = Deed { below: *below, invoke: *invoke, complete: *complete };
                    history.deeds.entry(stream.clone()).or_default().push(deed);
                }
                Record::Scavenge { invoke, complete } => history.scavenges.push((*invoke, *complete)),
                Record::Written { .. } | Record::View { .. } | Record::Files { .. } => {}
            }
        }
        for deeds in history.deeds.values_mut() {
            deeds.sort_by_key(|deed| deed.invoke);
        }
        history
    }

    fn known<'h>(&self, records: &'h [Record]) -> BTreeMap<u64, Known<'h>> {
        let mut known = BTreeMap::new();
        for record in records {
            let Record::Written { event, complete } = record else { continue };
            let takes = |(invoke, end): &(Nanos, Option<Nanos>)| {
                let end = (*end)?;
                (complete <= invoke && self.is_hidden_throughout(event, *invoke, end)).then_some(end)
            };
            let gone_by = self.scavenges.iter().filter_map(takes).min().unwrap_or(Nanos::MAX);
            let seen = Known { event, there: *complete, written: *complete, gone_by, is_gone: false };
            known.insert(event.position, seen);
        }
        known
    }

    /// Compares a view with what was seen before, and learns from it.
    fn compare(
        &self,
        events: &[Shown],
        invoke: Nanos,
        complete: Nanos,
        known: &mut BTreeMap<u64, Known<'_>>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let has: BTreeSet<u64> = events.iter().map(|event| event.position).collect();
        for (position, known) in known.iter_mut() {
            let Known { event, there, written, gone_by, is_gone } = known;
            if has.contains(position) {
                if *is_gone {
                    wrong.push(format!("{event:?} is back"));
                } else if *gone_by <= invoke {
                    wrong.push(format!("{event:?} is there, after a scavenge that had to take it"));
                }
                *there = (*there).max(invoke);
            } else if *written <= invoke && !*is_gone {
                if !self.was_hidden(event, *there, complete) {
                    wrong.push(format!("{event:?} is gone, and nothing had hidden it"));
                } else if !self.scavenges.iter().any(|(asked, _)| *asked <= complete) {
                    wrong.push(format!("{event:?} is gone, and nobody had asked for a scavenge"));
                }
                *is_gone = true;
            }
        }
        wrong
    }

    /// Whether an event may have been hidden at some moment of this time.
    fn was_hidden(&self, event: &Shown, from: Nanos, to: Nanos) -> bool {
        let deeds = self.deeds.get(&event.stream).map_or(&[][..], Vec::as_slice);
        let ends = deeds.iter().skip(1).map(|next| next.complete).chain([Nanos::MAX]);
        deeds.iter().zip(ends).any(|(deed, end)| event.revision < deed.below && deed.invoke <= to && end >= from)
    }

    /// Whether an event was hidden at every moment of this time.
    fn is_hidden_throughout(&self, event: &Shown, from: Nanos, to: Nanos) -> bool {
        let deeds = self.deeds.get(&event.stream).map_or(&[][..], Vec::as_slice);
        let done = deeds.iter().take_while(|deed| deed.complete <= from).count();
        let Some(in_force) = done.checked_sub(1) else { return false };
        deeds[in_force..].iter().take_while(|deed| deed.invoke <= to).all(|deed| event.revision < deed.below)
    }

    /// Whether an event was hidden once and is not any more.
    fn was_restored(&self, event: &Shown) -> bool {
        let deeds = self.deeds.get(&event.stream).map_or(&[][..], Vec::as_slice);
        deeds.iter().any(|deed| event.revision < deed.below)
            && deeds.last().is_some_and(|deed| event.revision >= deed.below)
    }
}
