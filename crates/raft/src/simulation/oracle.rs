//! What must hold, looked at whenever anything happens.
//!
//! The oracle sees every entry that enters a log, every write that becomes
//! durable, every promise given for it, every entry committed and applied,
//! every leader, every answer to a client. It keeps one history of the whole
//! cluster and compares each node with it. The first violation ends the run.
//!
//! The invariants, by the names under which they are told:
//!
//! | name | what |
//! |---|---|
//! | `election safety` | a leader id belongs to one run of one node |
//! | `log matching` | one log id, one content, one predecessor, on all nodes and for ever |
//! | `leader completeness` | a new leader's log has everything committed |
//! | `commit` | committed is on the disks of a quorum; one index, one entry for ever; nobody truncates it |
//! | `state machine` | after one index, one state: the same chain hash, tail, outcomes on all nodes |
//! | `density` | positions and revisions have no gaps |
//! | `exactly once` | an event id is in its stream once |
//! | `order of marks` | purged ≤ durable ≤ applied ≤ committed ≤ last |
//! | `monotony` | terms, votes, committed and applied never go back |
//! | `promise` | what was acknowledged as durable is there after a crash |
//! | `acknowledgement` | what a client was told is in the history, as it was told |
//! | `atomicity` | an append's events follow each other |
//! | `linearizability` | a read sees whatever was acknowledged or read before it began |
//! | `refusal` | what was certainly not applied is not there at the end |
//! | `node ids` | a node id belongs to one data directory |

use std::collections::BTreeMap;

use annals_core::{EventId, Outcome, Position, Revision};
use annals_store::{ChainHash, Mark, Record};
use openraft::EntryPayload;
use uuid::Uuid;

use super::counts::{Counts, Violation};
use super::plan::Mutation;
use crate::codec;
use crate::identity::Identity;
use crate::types::{Entry, LogId, Membership, Vote};

/// Index, term and node of a log id.
type Key = (u64, u64, u64);

fn key(log_id: &LogId) -> Key {
    let leader = log_id.committed_leader_id();
    (log_id.index(), leader.term, leader.node_id)
}

/// What is known of a log id, wherever it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fact {
    content: u32,
    previous: Option<Key>,
}

/// What one entry did.
struct Effect {
    tail: Position,
    chain: ChainHash,
    last_node: u64,
    outcomes: Vec<Outcome>,
}

struct Line {
    stream: String,
    revision: Revision,
    chain: ChainHash,
}

/// What one machine's process is known to hold and to have promised.
#[derive(Default)]
struct View {
    node: u64,
    run: u64,
    /// In memory, from wherever its log begins.
    entries: BTreeMap<u64, Key>,
    memberships: BTreeMap<u64, Membership>,
    committed: Option<u64>,
    applied: Option<u64>,
    purged: Option<u64>,
    durable: Option<u64>,
    promised_vote: Option<Vote>,
    promised_last: Option<Key>,
    /// Included in a snapshot that was offered to it.
    offered: Option<u64>,
}

/// What a process finds on its disk.
pub(crate) struct Opening<'a> {
    pub(crate) node: u64,
    pub(crate) run: u64,
    pub(crate) vote: Option<Vote>,
    pub(crate) entries: &'a [Entry],
    pub(crate) purged: Option<u64>,
    pub(crate) durable: Option<&'a Mark>,
    pub(crate) committed: Option<LogId>,
}

/// See the module.
pub(crate) struct Oracle {
    mutation: Option<Mutation>,
    violation: Option<Violation>,
    pub(crate) counts: Counts,
    facts: BTreeMap<Key, Fact>,
    leaders: BTreeMap<(u64, u64), (u64, u64)>,
    newest_term: u64,
    committed: Vec<Key>,
    memberships: BTreeMap<u64, Membership>,
    effects: Vec<Effect>,
    history: Vec<Line>,
    places: BTreeMap<(String, EventId), Position>,
    revisions: BTreeMap<String, Revision>,
    node_ids: BTreeMap<u64, Uuid>,
    views: BTreeMap<u64, View>,
    /// Commits that wait to be looked at with the disks at hand.
    unverified: Vec<(u64, LogId)>,
    /// What a linearizable read that begins now must see.
    floor: Position,
}

impl Oracle {
    pub(crate) fn new(mutation: Option<Mutation>) -> Self {
        Oracle {
            mutation,
            violation: None,
            counts: Counts::default(),
            facts: BTreeMap::new(),
            leaders: BTreeMap::new(),
            newest_term: 0,
            committed: Vec::new(),
            memberships: BTreeMap::new(),
            effects: Vec::new(),
            history: Vec::new(),
            places: BTreeMap::new(),
            revisions: BTreeMap::new(),
            node_ids: BTreeMap::new(),
            views: BTreeMap::new(),
            unverified: Vec::new(),
            floor: Position::START,
        }
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub(crate) fn fail(&mut self, invariant: &'static str, what: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, what });
        }
    }

    fn require(&mut self, holds: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(invariant, what());
        }
    }

    fn view(&mut self, host: u64) -> &mut View {
        self.views.entry(host).or_default()
    }

    // -------------------------------------------------------- the log --

    /// A data directory was given an identity.
    pub(crate) fn adopted(&mut self, identity: &Identity) {
        let first = *self.node_ids.entry(identity.node).or_insert(identity.incarnation);
        self.require(first == identity.incarnation, "node ids", || {
            format!("node id {} belongs to {first} and is given to {}", identity.node, identity.incarnation)
        });
    }

    /// A process begins to take part with what its disk holds.
    pub(crate) fn opened(&mut self, host: u64, opening: Opening<'_>) {
        let Opening { node, run, vote, entries, purged, durable, committed } = opening;
        let before = std::mem::take(self.view(host));
        let looks_away = self.mutation.is_some_and(Mutation::breaks_promises);
        if before.node == node && !looks_away {
            let (promised, found) = (before.promised_vote, vote);
            self.require(found >= promised, "promise", || {
                format!("node {node} had acknowledged the vote {promised:?} and finds {found:?}")
            });
            if let Some(promised) = before.promised_last {
                let there = entries.iter().any(|entry| key(&entry.log_id) == promised)
                    || purged.is_some_and(|purged| purged >= promised.0)
                    || durable.is_some_and(|mark| mark.index >= promised.0);
                self.require(there, "promise", || {
                    format!("node {node} had acknowledged entry {promised:?} as durable and does not find it")
                });
            }
        }
        let durable = durable.map(|mark| mark.index);
        let known = committed.map(|committed| self.committed.get(committed.index() as usize) == Some(&key(&committed)));
        self.require(known != Some(false), "commit", || {
            format!("node {node} remembers that {committed:?} was committed, which it was not")
        });
        self.require(purged <= durable, "order of marks", || {
            format!("node {node} starts with a log purged up to {purged:?} and a state that ends at {durable:?}")
        });
        let view = self.view(host);
        let committed = committed.map(|committed| committed.index()).max(durable);
        *view = View { node, run, purged, durable, applied: durable, committed, ..View::default() };
        if before.node == node {
            view.promised_vote = if vote >= before.promised_vote { vote } else { before.promised_vote };
            view.promised_last = before.promised_last;
        }
        for entry in entries {
            view.entries.insert(entry.log_id.index(), key(&entry.log_id));
            if let EntryPayload::Membership(membership) = &entry.payload {
                view.memberships.insert(entry.log_id.index(), membership.clone());
            }
        }
        if looks_away {
            view.promised_vote = vote;
        }
    }

    pub(crate) fn appended(&mut self, host: u64, entries: &[Entry]) {
        for entry in entries {
            let here = key(&entry.log_id);
            let content = crc32c::crc32c(&codec::encode_entry(entry));
            let view = self.view(host);
            let last = view.entries.last_key_value().map(|(_, last)| *last);
            // What a snapshot included has no id here any more.
            let previous = last.filter(|last| last.0 + 1 == here.0);
            let end = last.map(|last| last.0).max(view.purged).max(view.durable);
            let node = view.node;
            view.entries.insert(here.0, here);
            if let EntryPayload::Membership(membership) = &entry.payload {
                view.memberships.insert(here.0, membership.clone());
            }
            self.require(end.is_none_or(|end| here.0 <= end + 1), "log matching", || {
                format!("node {node} appends entry {here:?} after {end:?}")
            });
            let fact = self.facts.entry(here).or_insert(Fact { content, previous });
            let same =
                fact.content == content && (previous.is_none() || fact.previous.is_none() || fact.previous == previous);
            fact.previous = fact.previous.or(previous);
            let known = *fact;
            self.require(same, "log matching", || {
                format!("node {node} appends {here:?} with content {content:08x} after {previous:?}; elsewhere it has {:08x} after {:?}", known.content, known.previous)
            });
        }
    }

    /// A follower takes entries back. Answers the last of them that had been
    /// committed: only where a snapshot that includes it is about to be
    /// installed may it go, and only if a quorum has it without this node.
    pub(crate) fn truncated(&mut self, host: u64, from: u64) -> Option<u64> {
        self.counts.truncations += 1;
        let view = self.view(host);
        let node = view.node;
        let gone = view.entries.split_off(&from);
        view.memberships.split_off(&from);
        let kept = view.entries.last_key_value().map(|(_, kept)| *kept);
        view.promised_last = view.promised_last.and_then(|last| if last.0 < from { Some(last) } else { kept });
        let offered = view.offered;
        let lost = gone.values().rfind(|gone| self.committed.get(gone.0 as usize) == Some(gone)).copied();
        self.require(lost.is_none_or(|lost| Some(lost.0) <= offered), "commit", || {
            format!("node {node} truncates the committed entry {lost:?}")
        });
        lost.map(|lost| lost.0)
    }

    /// A snapshot that includes entries up to `upto` is offered to a node.
    pub(crate) fn offered(&mut self, host: u64, upto: u64) {
        let view = self.view(host);
        view.offered = view.offered.max(Some(upto));
    }

    /// What was committed at an index.
    pub(crate) fn committed_at(&self, index: u64) -> Option<LogId> {
        let (index, term, node) = *self.committed.get(usize::try_from(index).ok()?)?;
        Some(codec::LogIdForm { term, node, index }.into())
    }

    /// The quorums of which one is to hold what is committed, as the newest
    /// leader knows them.
    pub(crate) fn quorums(&self) -> Vec<Membership> {
        let leader = self.leaders.last_key_value().map(|(_, leader)| *leader);
        let hosts = self.views.iter().filter(|(_, view)| Some((view.node, view.run)) == leader);
        hosts.filter_map(|(host, _)| self.effective(*host)).collect()
    }

    pub(crate) fn purged(&mut self, host: u64, upto: LogId) {
        self.counts.purges += 1;
        let view = self.view(host);
        let (node, durable, index) = (view.node, view.durable, upto.index());
        view.purged = Some(index);
        view.entries = view.entries.split_off(&(index + 1));
        self.require(durable >= Some(index), "order of marks", || {
            format!("node {node} purges its log up to {index}, its state is durable up to {durable:?}")
        });
    }

    pub(crate) fn promised_entries(&mut self, host: u64, last: LogId) {
        let view = self.view(host);
        // A truncation may have come in between: then nothing was promised.
        if view.entries.get(&last.index()) == Some(&key(&last)) {
            view.promised_last = view.promised_last.max(Some(key(&last)));
        }
    }

    pub(crate) fn promised_vote(&mut self, host: u64, vote: Vote) {
        let view = self.view(host);
        let (node, before) = (view.node, view.promised_vote);
        view.promised_vote = if before <= Some(vote) { Some(vote) } else { before };
        self.require(before <= Some(vote), "monotony", || format!("node {node} votes {vote:?} after {before:?}"));
    }

    /// The state of a host is durable up to here.
    pub(crate) fn flushed(&mut self, host: u64, mark: &Mark) {
        let view = self.view(host);
        let (node, applied) = (view.node, view.applied);
        view.durable = Some(mark.index);
        self.require(Some(mark.index) <= applied, "order of marks", || {
            format!("the state of node {node} is durable up to {} and applied up to {applied:?}", mark.index)
        });
    }

    // ---------------------------------------------- leaders and commits --

    pub(crate) fn leads(&mut self, host: u64, vote: &Vote) {
        let view = self.view(host);
        let me = (view.node, view.run);
        let leader = (vote.leader_id.term, vote.leader_id.node_id);
        let known = *self.leaders.entry(leader).or_insert(me);
        self.require(known == me, "election safety", || {
            format!(
                "leader {leader:?} is node {} in its run {} and node {} in its run {}",
                known.0, known.1, me.0, me.1
            )
        });
        if leader.0 < self.newest_term {
            // Deposed and not aware of it: nothing newer need be in its log.
            return;
        }
        self.newest_term = leader.0;
        self.counts.leaders += 1;
        let view = self.view(host);
        let (entries, purged) = (view.entries.clone(), view.purged.max(view.applied));
        let missing = self.committed.iter().find(|committed| {
            // Its own term may have begun to commit before this was seen.
            Some(committed.0) > purged && entries.get(&committed.0) != Some(committed)
        });
        let missing = missing.copied().filter(|missing| (missing.1, missing.2) < leader);
        self.require(missing.is_none(), "leader completeness", || {
            format!("node {} leads as {leader:?} without the committed entry {missing:?}", me.0)
        });
    }

    pub(crate) fn committed(&mut self, host: u64, upto: LogId) {
        let view = self.view(host);
        let (node, before, index) = (view.node, view.committed, upto.index());
        view.committed = before.max(Some(index));
        let last = view.entries.last_key_value().map(|(last, _)| *last).max(view.purged).max(view.applied);
        self.require(Some(index) >= before, "monotony", || format!("node {node} commits {index} after {before:?}"));
        self.require(Some(index) <= last, "order of marks", || {
            format!("node {node} commits {index}, its log ends at {last:?}")
        });
        let from = before.map_or(0, |before| before + 1).min(index);
        let entries: Vec<Key> = self.views[&host].entries.range(from..=index).map(|(_, entry)| *entry).collect();
        let next = self.committed.len() as u64;
        for entry in entries {
            match self.committed.get(entry.0 as usize).copied() {
                Some(known) => self.require(known == entry, "commit", || {
                    format!("node {node} commits {entry:?}, {known:?} was committed there before")
                }),
                None if entry.0 == self.committed.len() as u64 => {
                    self.committed.push(entry);
                    self.counts.committed += 1;
                    if let Some(membership) = self.views[&host].memberships.get(&entry.0) {
                        self.memberships.insert(entry.0, membership.clone());
                    }
                }
                None => {
                    let end = self.committed.len();
                    self.fail("commit", format!("node {node} commits {entry:?}, but nobody committed {end} before"));
                }
            }
        }
        if index >= next {
            self.unverified.push((host, upto));
        }
    }

    /// Commits that nobody had made before, with the quorums of which one is
    /// to hold them: those that the node that committed goes by, and those
    /// that the leader of that time goes by.
    pub(crate) fn take_unverified(&mut self) -> Vec<(LogId, Vec<Membership>)> {
        let unverified = std::mem::take(&mut self.unverified);
        unverified
            .into_iter()
            .map(|(host, log_id)| {
                let leader = self.leaders.last_key_value().map(|(_, (node, run))| (*node, *run));
                let hosts = self
                    .views
                    .iter()
                    .filter(|(other, view)| **other == host || Some((view.node, view.run)) == leader)
                    .map(|(other, _)| *other);
                (log_id, hosts.filter_map(|host| self.effective(host)).collect())
            })
            .collect()
    }

    fn effective(&self, host: u64) -> Option<Membership> {
        let view = &self.views[&host];
        let in_log = view.memberships.last_key_value();
        let known = view.applied.and_then(|applied| self.memberships.range(..=applied).next_back());
        in_log.max_by_index(known)
    }

    pub(crate) fn host_of(&self, node: u64) -> Option<u64> {
        self.views.iter().find(|(_, view)| view.node == node).map(|(host, _)| *host)
    }

    // --------------------------------------------------------- the state --

    pub(crate) fn applied(
        &mut self,
        host: u64,
        mark: &Mark,
        made: &[(Record, ChainHash)],
        chain: ChainHash,
        last_node: u64,
        outcomes: &[Outcome],
    ) {
        let Ok((log_id, _)) = codec::decode_mark(&mark.opaque) else {
            self.fail("state machine", format!("the mark of entry {} cannot be read", mark.index));
            return;
        };
        let view = self.view(host);
        let (node, before, committed) = (view.node, view.applied, view.committed);
        view.applied = Some(mark.index);
        let here = key(&log_id);
        self.require(before.map_or(mark.index == 0, |before| mark.index == before + 1), "monotony", || {
            format!("node {node} applies {here:?} after {before:?}")
        });
        self.require(Some(mark.index) <= committed, "order of marks", || {
            format!("node {node} applies {here:?} and knows of commits up to {committed:?}")
        });
        let known = self.committed.get(mark.index as usize).copied();
        self.require(known == Some(here), "state machine", || {
            format!("node {node} applies {here:?}, {known:?} was committed there")
        });
        let index = mark.index as usize;
        if index == self.effects.len() {
            self.first_applied(made);
            let tail = Position::new(self.history.len() as u64);
            self.effects.push(Effect { tail, chain, last_node, outcomes: outcomes.to_vec() });
        }
        let Some(effect) = self.effects.get(index) else {
            self.fail("state machine", format!("node {node} applies {here:?}, but nobody applied what comes before"));
            return;
        };
        let same = effect.chain == chain && effect.last_node == last_node && effect.outcomes == outcomes;
        let told = (!same).then(|| {
            format!(
                "after entry {here:?} node {node} stands at chain {chain}, node id {last_node}, outcomes {outcomes:?}; the first to apply it stood at chain {}, node id {}, outcomes {:?}",
                effect.chain, effect.last_node, effect.outcomes
            )
        });
        self.require(same, "state machine", || told.unwrap_or_default());
    }

    fn first_applied(&mut self, made: &[(Record, ChainHash)]) {
        for (record, chain) in made {
            let stream = record.stream().to_owned();
            let (position, revision, id) = (record.position(), record.revision(), record.id());
            let expected = Position::new(self.history.len() as u64 + 1);
            self.require(position == expected, "density", || {
                format!("position {position} comes where {expected} should")
            });
            if revision != Revision::TOMBSTONE {
                let next = Revision::after(self.revisions.get(&stream).copied());
                self.require(revision == next, "density", || {
                    format!("revision {revision} of {stream} comes where {next} should")
                });
                self.revisions.insert(stream.clone(), revision);
            }
            if let Some(before) = self.places.insert((stream.clone(), id), position) {
                self.fail("exactly once", format!("event {id} is in {stream} at {before} and again at {position}"));
            }
            self.history.push(Line { stream, revision, chain: *chain });
            self.counts.events += 1;
        }
    }

    /// A catch-up is about to take the place of a node's state.
    pub(crate) fn caught_up(&mut self, host: u64, mark: &Mark, tail: Position, chain: ChainHash) {
        self.counts.catch_ups += 1;
        let view = self.view(host);
        let node = view.node;
        view.applied = view.applied.max(Some(mark.index));
        view.committed = view.committed.max(Some(mark.index));
        let known = self.effects.get(mark.index as usize).map(|effect| (effect.tail, effect.chain));
        self.require(known == Some((tail, chain)), "state machine", || {
            format!("node {node} catches up to {} and stands at {tail}, {chain}; there {known:?} is right", mark.index)
        });
    }

    // ----------------------------------------------------------- clients --

    /// What a linearizable read that begins now must see.
    pub(crate) fn floor(&self) -> Position {
        self.floor
    }

    pub(crate) fn acknowledged(&mut self, told: &str, streams: &[(String, Vec<EventId>)], outcome: &Outcome) {
        let Outcome::Appended(appended) = outcome else { return };
        self.counts.acknowledged += 1;
        self.counts.repeated += u64::from(appended.repeated);
        let mut places = Vec::new();
        for ((stream, ids), revision) in streams.iter().zip(&appended.revisions) {
            for id in ids {
                match self.places.get(&(stream.clone(), *id)) {
                    Some(position) => places.push(*position),
                    None => {
                        self.fail(
                            "acknowledgement",
                            format!("{told} was acknowledged, but event {id} is not in {stream}"),
                        );
                        return;
                    }
                }
            }
            let last = ids.last().and_then(|id| self.places.get(&(stream.clone(), *id)));
            let found = last.map(|position| self.history[position.get() as usize - 1].revision);
            self.require(ids.is_empty() || found == *revision, "acknowledgement", || {
                format!("{told} was told revision {revision:?} of {stream}, its last event has {found:?}")
            });
        }
        places.sort();
        let dense = places.windows(2).all(|pair| pair[1] == pair[0].next());
        self.require(dense, "atomicity", || format!("the events of {told} are at {places:?}"));
        let last = places.last().copied().unwrap_or_default();
        self.require(last == appended.position, "acknowledgement", || {
            format!("{told} was told position {}, its last event is at {last}", appended.position)
        });
        self.floor = self.floor.max(last);
    }

    /// A read was answered as of `tail`; `floor` is what it must see, none
    /// for a local read.
    pub(crate) fn read(&mut self, host: u64, floor: Option<Position>, tail: Position, chain: ChainHash) {
        let node = self.view(host).node;
        let known = match tail.get() {
            0 => Some(ChainHash::START),
            tail => self.history.get(tail as usize - 1).map(|line| line.chain),
        };
        self.require(known == Some(chain), "state machine", || {
            format!("a read at node {node} sees {tail} with chain {chain}, {known:?} is right")
        });
        if let Some(floor) = floor {
            self.counts.reads += 1;
            self.require(tail >= floor, "linearizability", || {
                format!(
                    "a linearizable read at node {node} sees {tail}, {floor} was acknowledged or read before it began"
                )
            });
            self.floor = self.floor.max(tail);
        }
    }

    /// What no attempt can have carried out is not there.
    pub(crate) fn certainly_not(&mut self, told: &str, streams: &[(String, Vec<EventId>)]) {
        for (stream, ids) in streams {
            let found = ids.iter().find(|id| self.places.contains_key(&(stream.clone(), **id))).copied();
            if let Some(id) = found {
                self.fail("refusal", format!("{told} was certainly not carried out, but event {id} is in {stream}"));
            }
        }
    }

    /// The last line of the history, for humans.
    pub(crate) fn summary(&self) -> String {
        let last =
            self.history.last().map_or("nothing".to_owned(), |line| format!("{}@{}", line.revision, line.stream));
        format!("{} entries committed, {} events, the last {last}", self.committed.len(), self.history.len())
    }
}

trait Newest {
    fn max_by_index(self, other: Self) -> Option<Membership>;
}

impl Newest for Option<(&u64, &Membership)> {
    fn max_by_index(self, other: Self) -> Option<Membership> {
        let newest = match (self, other) {
            (Some(one), Some(other)) => Some(if one.0 >= other.0 { one } else { other }),
            (one, other) => one.or(other),
        };
        newest.map(|(_, membership)| membership.clone())
    }
}
