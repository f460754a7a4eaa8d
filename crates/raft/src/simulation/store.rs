//! The event store, simulated: the real rules, records and chain hashes over
//! maps in memory.
//!
//! What is durable is a state after some whole entry, as of the last flush; a
//! crash goes back to it, and everything but the records is built again from
//! them. A catch-up fills a second state and takes the first one's place.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use annals_core::decide::{Heads, decide};
use annals_core::scavenge::Facts;
use annals_core::{
    Batch, EventId, Head, Lease, Metadata, Outcome, Position, Revision, Scavenge, StreamName, Timestamp,
};
use annals_store::{ChainHash, Durable, Mark, PageLimit, Record};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::disk::{StateImage, Totals};
use super::plan::Mutation;
use super::random::Random;
use super::world::World;
use crate::event_store::{CatchUp, EventStore};

/// A handle on the store of one node. Clones share it.
#[derive(Clone)]
pub(crate) struct SimulatedStore {
    shared: Arc<Shared>,
}

struct Shared {
    host: u64,
    world: Arc<World>,
    state: Mutex<State>,
    random: Mutex<Random>,
}

/// What was applied.
#[derive(Clone, Default)]
struct State {
    mark: Option<Mark>,
    records: Vec<Record>,
    totals: Totals,
    streams: BTreeMap<StreamName, Stream>,
    remembered: BTreeMap<(StreamName, EventId), Position>,
}

#[derive(Clone, Default)]
struct Stream {
    head: Head,
    positions: Vec<Position>,
    tombstone: Option<Position>,
}

impl State {
    fn of(image: &StateImage) -> State {
        let mut state = State::default();
        for record in &image.records {
            state.add(record.clone());
        }
        assert_eq!(state.totals.chain, image.totals.chain, "a flushed state has the hash that it had");
        state.totals = image.totals;
        state.mark = image.mark.clone();
        state
    }

    fn tail(&self) -> Position {
        Position::new(self.records.len() as u64)
    }

    fn record(&self, at: Position) -> &Record {
        &self.records[usize::try_from(at.get() - 1).expect("as many as are in memory")]
    }

    fn add(&mut self, record: Record) {
        let name = record.stream_name();
        let stream = self.streams.entry(name.clone()).or_default();
        if record.revision() == Revision::TOMBSTONE {
            stream.head.tombstoned = true;
            stream.tombstone = Some(record.position());
        } else {
            stream.head.last = Some(record.revision());
            stream.positions.push(record.position());
        }
        if let Some(described) = name.described() {
            self.streams.entry(described).or_default().head.metadata = Metadata::parse(&record.data());
        }
        self.remembered.insert((name, record.id()), record.position());
        self.totals.chain = self.totals.chain.then(&record);
        self.totals.time = record.created();
        self.records.push(record);
    }

    fn image(&self) -> StateImage {
        StateImage { mark: self.mark.clone(), records: self.records.clone(), totals: self.totals }
    }
}

impl Heads for State {
    type Error = Infallible;

    fn tail(&self) -> Position {
        self.tail()
    }

    fn head(&self, stream: &StreamName) -> Result<Head, Infallible> {
        Ok(self.streams.get(stream).map(|stream| stream.head.clone()).unwrap_or_default())
    }

    fn event_at(&self, stream: &StreamName, revision: Revision) -> Result<Option<(EventId, Position)>, Infallible> {
        let Some(stream) = self.streams.get(stream) else { return Ok(None) };
        let position = if revision == Revision::TOMBSTONE {
            stream.tombstone
        } else {
            usize::try_from(revision.get()).ok().and_then(|index| stream.positions.get(index)).copied()
        };
        Ok(position.map(|position| (self.record(position).id(), position)))
    }

    fn remembered(&self, stream: &StreamName, id: EventId) -> Result<Option<(Revision, Position)>, Infallible> {
        // No simulation is as long as the window.
        let position = self.remembered.get(&(stream.clone(), id)).copied();
        Ok(position.map(|position| (self.record(position).revision(), position)))
    }

    fn newest_data(&self, stream: &StreamName) -> Result<Bytes, Infallible> {
        let last = self.streams.get(stream).and_then(|stream| stream.positions.last());
        Ok(last.map_or_else(Bytes::new, |position| self.record(*position).data()))
    }

    fn last_node(&self) -> u64 {
        self.totals.last_node
    }

    // Nobody scavenges and nobody is maintained here: the store's own tests look into that.

    fn time(&self) -> Timestamp {
        self.totals.time
    }

    fn scavenge(&self) -> Option<Scavenge> {
        None
    }

    fn lease(&self) -> Option<Lease> {
        None
    }

    fn event(&self, at: Position) -> Result<Facts, Infallible> {
        let record = self.record(at);
        let bytes = record.metadata_slice().len() + record.data_slice().len();
        Ok(Facts {
            stream: record.stream_name(),
            revision: record.revision(),
            created: record.created(),
            bytes: bytes as u64,
        })
    }
}

/// A state as a reader finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) tail: Position,
    pub(crate) chain: ChainHash,
}

impl SimulatedStore {
    /// The store that is on the disk of a host.
    pub(crate) fn open(world: &Arc<World>, host: u64, random: Random) -> SimulatedStore {
        let disk = world.disk(host);
        let mut state = State::of(&disk.lock().state);
        if world.mutation == Some(Mutation::IdsForgottenAtRestart) {
            state.remembered.clear();
        }
        let shared = Shared { host, world: world.clone(), state: Mutex::new(state), random: Mutex::new(random) };
        SimulatedStore { shared: Arc::new(shared) }
    }

    /// What a reader sees now.
    pub(crate) fn view(&self) -> View {
        let state = self.shared.state.lock();
        View { tail: state.tail(), chain: state.totals.chain }
    }

    /// The mark that would be left by a crash.
    pub(crate) fn durable_mark(&self) -> Option<Mark> {
        self.shared.world.disk(self.shared.host).lock().state.mark.clone()
    }

    /// What would become of a command now.
    pub(crate) fn predict(&self, command: &annals_core::Command) -> Outcome {
        let Ok(decision) = decide(&*self.shared.state.lock(), command);
        decision.outcome
    }

    fn make_durable(&self) {
        let Shared { host, world, state, .. } = &*self.shared;
        let image = state.lock().image();
        let mark = image.mark.clone();
        world.disk(*host).lock().state = image;
        if let Some(mark) = mark {
            world.oracle().flushed(*host, &mark);
        }
    }
}

impl EventStore for SimulatedStore {
    type CatchUp = SimulatedCatchUp;
    type Error = Infallible;

    fn apply(&self, mark: Mark, batch: Option<Batch>) -> Result<Vec<Outcome>, Infallible> {
        let Shared { host, world, state, random } = &*self.shared;
        let mut outcomes = Vec::new();
        let mut made = Vec::new();
        let (chain, last_node) = {
            let mut state = state.lock();
            match &state.mark {
                Some(applied) if mark.index <= applied.index => return Ok(Vec::new()),
                Some(applied) => assert_eq!(mark.index, applied.index + 1, "entries are applied without a gap"),
                None => assert_eq!(mark.index, 0, "the first entry comes first"),
            }
            for (stamped, command) in batch
                .into_iter()
                .flat_map(|batch| batch.commands.into_iter().map(move |command| (batch.stamped, command)))
            {
                let stamped = match world.mutation {
                    Some(Mutation::ClockInApply) => super::clock(),
                    _ => stamped,
                };
                let created: Timestamp = stamped.max(state.totals.time);
                let Ok(decision) = decide(&*state, &command);
                if let Outcome::Node(id) = decision.outcome {
                    state.totals.last_node = id;
                }
                for placed in decision.events {
                    let record = Record::encode(&placed, created, &mut BytesMut::new());
                    state.add(record.clone());
                    made.push((record, state.totals.chain));
                }
                outcomes.push(decision.outcome);
            }
            state.mark = Some(mark.clone());
            (state.totals.chain, state.totals.last_node)
        };
        world.oracle().applied(*host, &mark, &made, chain, last_node, &outcomes);
        let (flush, torn) = {
            let mut random = random.lock();
            let flush = random.chance(world.plan.flush);
            (flush, world.mutation == Some(Mutation::DataBeforeMark) && random.chance(100))
        };
        if flush {
            self.make_durable();
        }
        if torn {
            let before = self.durable_mark();
            self.make_durable();
            world.disk(*host).lock().state.mark = before;
        }
        Ok(outcomes)
    }

    /// Sometimes, and by the log alone: a run must be the same each time.
    fn apply_at_hand(&self, mark: Mark, batch: Batch) -> Result<Option<Vec<Outcome>>, Infallible> {
        let is_at_hand = mark.index.is_multiple_of(2) && batch.commands.len() == 1;
        is_at_hand.then(|| self.apply(mark, Some(batch))).transpose()
    }

    fn mark(&self) -> Option<Mark> {
        self.shared.state.lock().mark.clone()
    }

    fn durable(&self) -> Result<Option<Durable>, Infallible> {
        let disk = self.shared.world.disk(self.shared.host);
        let disk = disk.lock();
        let in_memory;
        let image = match self.shared.world.mutation {
            Some(Mutation::PurgeBeforeDurable) => {
                in_memory = self.shared.state.lock().image();
                &in_memory
            }
            _ => &disk.state,
        };
        Ok(image.mark.clone().map(|mark| Durable {
            mark,
            position: Position::new(image.records.len() as u64),
            residue: residue(&image.totals),
        }))
    }

    fn flush(&self) -> Result<Option<Mark>, Infallible> {
        self.make_durable();
        Ok(self.durable_mark())
    }

    fn read_forward(&self, from: Position, limit: PageLimit) -> Result<Vec<Record>, Infallible> {
        let state = self.shared.state.lock();
        let skip = usize::try_from(from.get().saturating_sub(1)).expect("as many as are in memory");
        let count = limit.records.min(self.shared.world.plan.chunk);
        Ok(state.records.iter().skip(skip).take(count).cloned().collect())
    }

    fn begin_catch_up(&self) -> Result<SimulatedCatchUp, CatchUpError> {
        let mut state = self.shared.state.lock().clone();
        if self.shared.world.mutation == Some(Mutation::IdsForgottenAtCatchUp) {
            state.remembered.clear();
        }
        Ok(SimulatedCatchUp { store: self.clone(), state })
    }
}

fn residue(totals: &Totals) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(&totals.chain.to_bytes());
    out.put_u64_le(totals.time.ticks());
    out.put_u64_le(totals.last_node);
    out.freeze()
}

fn from_residue(mut bytes: &[u8]) -> Option<Totals> {
    if bytes.len() != 32 {
        return None;
    }
    let mut chain = [0; 16];
    bytes.copy_to_slice(&mut chain);
    Some(Totals {
        chain: ChainHash::from_bytes(chain),
        time: Timestamp::from_ticks(bytes.get_u64_le()),
        last_node: bytes.get_u64_le(),
    })
}

/// A second state in the making.
pub(crate) struct SimulatedCatchUp {
    store: SimulatedStore,
    state: State,
}

/// The catch-up is to be dropped.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CatchUpError {
    #[error("what was pulled is no record")]
    Record,
    #[error("the record at position {0} does not follow")]
    DoesNotFollow(Position),
    #[error("the residue cannot be read")]
    Residue,
    #[error("the state stands at log index {applied}, not behind {mark}")]
    Outdated { applied: u64, mark: u64 },
}

impl CatchUp for SimulatedCatchUp {
    type Error = CatchUpError;

    fn position(&self) -> Position {
        self.state.tail()
    }

    fn lacks_stubs(&self, _: &[u8]) -> Result<bool, CatchUpError> {
        Ok(false)
    }

    fn reclaim(&mut self, _: Vec<Bytes>) -> Result<(), CatchUpError> {
        Ok(())
    }

    fn ingest(&mut self, records: Vec<Bytes>) -> Result<(), CatchUpError> {
        for bytes in records {
            let record = Record::from_bytes(bytes).map_err(|_| CatchUpError::Record)?;
            if record.position() != self.state.tail().next() {
                return Err(CatchUpError::DoesNotFollow(record.position()));
            }
            let forget = self.store.shared.world.mutation == Some(Mutation::IdsForgottenAtCatchUp);
            let key = (record.stream_name(), record.id());
            self.state.add(record);
            if forget {
                self.state.remembered.remove(&key);
            }
        }
        Ok(())
    }

    fn finish(mut self, mark: Mark, bytes: &[u8]) -> Result<(), CatchUpError> {
        let Shared { host, world, state, .. } = &*self.store.shared;
        let totals = from_residue(bytes).ok_or(CatchUpError::Residue)?;
        world.oracle().caught_up(*host, &mark, self.state.tail(), self.state.totals.chain);
        let last_node = match world.mutation {
            Some(Mutation::ResidueForgotten) => self.state.totals.last_node,
            _ => totals.last_node,
        };
        self.state.totals = Totals { last_node, ..totals };
        self.state.mark = Some(mark.clone());
        {
            let mut current = state.lock();
            if let Some(applied) = current.mark.as_ref().filter(|applied| applied.index >= mark.index) {
                return Err(CatchUpError::Outdated { applied: applied.index, mark: mark.index });
            }
            world.disk(*host).lock().state = self.state.image();
            *current = self.state;
        }
        world.oracle().flushed(*host, &mark);
        Ok(())
    }
}
