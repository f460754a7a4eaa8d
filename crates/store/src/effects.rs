//! What an event does to the state.
//!
//! The one place that turns a record into writes: its own, its stream's head
//! and run, the metadata it may hold, its entries in the indexes, the chain.
//! Apply and catch-up both come through here, which is why a node that caught
//! up cannot be told from one that applied.
//!
//! Records and what lies beside them go into a write batch; heads and runs, read
//! once and changed in memory, go into the [`Delta`]. What follows from the log alone must come out the
//! same on every node, so nothing here may depend on how events are grouped
//! (runs excepted, see [`crate::runs`]) or on the order of a hash map.

use annals_core::limits::STREAM_NAME_BYTES_MAX;
use annals_core::{
    EventType, Head, Lease, Metadata, Position, Properties, Revision, Scavenge, StreamName, Timestamp, metadata,
};
use hashbrown::HashMap;
use rocksdb::WriteBatch;

use crate::chain::ChainHash;
use crate::correlation;
use crate::database::{Columns, Reach};
use crate::delta::Delta;
use crate::error::Error;
use crate::heads::{IndexHead, StreamHead};
use crate::interest::Interests;
use crate::keys::{self, Kind, ListId};
use crate::record::Record;
use crate::runs::Run;
use crate::standing::Totals;
use crate::state::State;

/// What some events do, not written yet.
pub(crate) struct Effects<'s> {
    state: &'s State,
    /// How far what is looked up may be.
    reach: Reach,
    columns: Columns<'s>,
    batch: WriteBatch,
    totals: Totals,
    records: Vec<Record>,
    /// What is left of events of earlier entries.
    stubs: Vec<Record>,
    lists: Lists,
    /// Scratch for keys.
    key: Vec<u8>,
}

/// Heads and runs as the events leave them.
#[derive(Default)]
pub(crate) struct Lists {
    streams: HashMap<StreamName, StreamSlot>,
    indexes: HashMap<Vec<u8>, IndexSlot>,
}

/// A stream as the events leave it.
struct StreamSlot {
    /// None as long as the stream was never touched.
    list: Option<ListId>,
    head: Head,
    changed: bool,
    runs: Vec<Run>,
}

/// An index as the events leave it.
struct IndexSlot {
    head: IndexHead,
    runs: Vec<Run>,
}

/// What some events do, ready to be written.
pub(crate) struct Sealed {
    pub(crate) batch: WriteBatch,
    pub(crate) lists: Lists,
    pub(crate) records: Vec<Record>,
    pub(crate) stubs: Vec<Record>,
    pub(crate) totals: Totals,
}

impl<'s> Effects<'s> {
    /// Nothing yet, on top of this state.
    pub(crate) fn new(state: &'s State) -> Self {
        Self::within(state, Reach::Disk)
    }

    /// Nothing yet, on top of what of this state is within reach. After an error they are
    /// of no use.
    pub(crate) fn within(state: &'s State, reach: Reach) -> Self {
        Effects {
            state,
            reach,
            columns: state.database.columns(),
            batch: WriteBatch::default(),
            totals: state.totals(),
            records: Vec::new(),
            stubs: Vec::new(),
            lists: Lists::default(),
            key: Vec::new(),
        }
    }

    /// The position of the newest event.
    pub(crate) fn tail(&self) -> Position {
        self.totals.tail
    }

    pub(crate) fn newest_time(&self) -> Timestamp {
        self.totals.newest_time
    }

    /// The events that were added after a position, which is that of one of them or of the
    /// last one before them.
    pub(crate) fn added_after(&self, position: Position) -> &[Record] {
        let before = self.totals.tail.get() - self.records.len() as u64;
        let known = position.get().checked_sub(before).and_then(|known| usize::try_from(known).ok());
        &self.records[known.expect("none is left out")..]
    }

    pub(crate) fn last_node(&self) -> u64 {
        self.totals.last_node
    }

    pub(crate) fn take_node(&mut self, id: u64) {
        self.totals.last_node = id;
    }

    pub(crate) fn scavenge(&self) -> Option<Scavenge> {
        self.totals.scavenge
    }

    pub(crate) fn set_scavenge(&mut self, scavenge: Option<Scavenge>) {
        self.totals.scavenge = scavenge;
    }

    pub(crate) fn lease(&self) -> Option<Lease> {
        self.totals.lease
    }

    pub(crate) fn set_lease(&mut self, lease: Option<Lease>) {
        self.totals.lease = lease;
    }

    /// Leaves only the stub of an event up to [`Effects::tail`].
    pub(crate) fn reclaim(&mut self, record: &Record) {
        if record.is_reclaimed() {
            return;
        }
        let position = record.position();
        let stub = record.stub(correlation_of(record).as_deref().filter(|id| can_be_asked_for(id)));
        self.batch.put_cf(self.columns.records, keys::number(position.get()), stub.encoded());
        let first = self.totals.tail.get() - self.records.len() as u64 + 1;
        match position.get().checked_sub(first).and_then(|index| usize::try_from(index).ok()) {
            Some(index) => self.records[index] = stub,
            None => self.stubs.push(stub),
        }
    }

    /// The head of a stream.
    pub(crate) fn head(&mut self, stream: &StreamName) -> Result<&Head, Error> {
        self.stream(stream).map(|slot| &slot.head)
    }

    /// Where the event at a revision is, if there is one.
    pub(crate) fn position_of(&mut self, stream: &StreamName, revision: Revision) -> Result<Option<Position>, Error> {
        let (state, reach) = (self.state, self.reach);
        let slot = self.stream(stream)?;
        let exists =
            if revision == Revision::TOMBSTONE { slot.head.tombstoned } else { Some(revision) <= slot.head.last };
        let Some(list) = slot.list.filter(|_| exists) else { return Ok(None) };
        // Few: an append to a stream is one run.
        if let Some(position) = slot.runs.iter().find_map(|run| run.position_of(revision.get())) {
            return Ok(Some(position));
        }
        state.position_of(list, revision.get(), reach).map(Some)
    }

    /// The record at a position up to [`Effects::tail`].
    pub(crate) fn record(&self, at: Position) -> Result<Record, Error> {
        let first = self.totals.tail.get() - self.records.len() as u64 + 1;
        match at.get().checked_sub(first) {
            Some(index) => Ok(self.records[usize::try_from(index).expect("as many as are in memory")].clone()),
            None => self.state.record(at, self.reach),
        }
    }

    /// Adds the event that follows. `stream` is the record's.
    ///
    /// # Panics
    /// When it does not follow: the decision was wrong, or the state is.
    pub(crate) fn add(&mut self, record: Record, stream: StreamName) -> Result<(), Error> {
        let position = record.position();
        assert_eq!(position, self.totals.tail.next(), "positions are dense");
        assert!(
            record.created() >= self.totals.newest_time,
            "event {position} was created at {:?}, before {:?}",
            record.created(),
            self.totals.newest_time
        );
        self.add_to_stream(&record, &stream)?;
        if let Some(described) = stream.described() {
            let slot = self.touched(&described)?;
            slot.head.metadata = Metadata::parse(record.data_slice());
        }
        self.add_to_indexes(&record, &stream)?;

        let second = record.created().ticks() / Timestamp::TICKS_PER_SECOND;
        let newest_second = self.totals.newest_time.ticks() / Timestamp::TICKS_PER_SECOND;
        if second > newest_second || self.totals.tail == Position::START {
            self.batch.put_cf(self.columns.times, keys::number(second), keys::number(position.get()));
        }
        self.totals.chain = self.totals.chain.then(&record);
        if ChainHash::is_saved_at(position) {
            self.batch.put_cf(self.columns.chain, keys::number(position.get()), self.totals.chain.to_bytes());
        }
        self.batch.put_cf(self.columns.records, keys::number(position.get()), record.encoded());
        self.totals.tail = position;
        self.totals.newest_time = record.created();
        self.records.push(record);
        Ok(())
    }

    fn add_to_stream(&mut self, record: &Record, stream: &StreamName) -> Result<(), Error> {
        let revision = record.revision();
        let slot = self.touched(stream)?;
        if revision == Revision::TOMBSTONE {
            assert!(!slot.head.tombstoned, "stream {stream} is ended once");
            slot.head.tombstoned = true;
        } else {
            assert_eq!(revision, Revision::after(slot.head.last), "revisions of {stream} are dense");
            slot.head.last = Some(revision);
        }
        Run::extend(&mut slot.runs, revision.get(), record.position());
        Ok(())
    }

    fn add_to_indexes(&mut self, record: &Record, stream: &StreamName) -> Result<(), Error> {
        indexes_of(record, stream, |kind, name| self.add_to_index(kind, name, record.position()))
    }

    fn add_to_index(&mut self, kind: Kind, name: &str, position: Position) -> Result<(), Error> {
        keys::head(kind, name.as_bytes(), &mut self.key);
        let slot = match self.lists.indexes.entry_ref(self.key.as_slice()) {
            hashbrown::hash_map::EntryRef::Occupied(entry) => entry.into_mut(),
            hashbrown::hash_map::EntryRef::Vacant(entry) => {
                let head = match self.state.index_head(&self.key, self.reach)? {
                    Some(head) => head,
                    None => IndexHead { list: take_list(&mut self.totals), count: 0 },
                };
                entry.insert(IndexSlot { head, runs: Vec::new() })
            }
        };
        Run::extend(&mut slot.runs, slot.head.count, position);
        slot.head.count += 1;
        Ok(())
    }

    fn stream(&mut self, stream: &StreamName) -> Result<&mut StreamSlot, Error> {
        match self.lists.streams.entry_ref(stream) {
            hashbrown::hash_map::EntryRef::Occupied(entry) => Ok(entry.into_mut()),
            hashbrown::hash_map::EntryRef::Vacant(entry) => {
                let (list, head) = match self.state.stream_head(stream.as_str(), &mut self.key, self.reach)? {
                    Some(StreamHead { list, head }) => (Some(list), head),
                    None => (None, Head::default()),
                };
                Ok(entry.insert(StreamSlot { list, head, changed: false, runs: Vec::new() }))
            }
        }
    }

    /// A stream that is about to change.
    fn touched(&mut self, stream: &StreamName) -> Result<&mut StreamSlot, Error> {
        // Looked up before the counter is borrowed, and again after.
        self.stream(stream)?;
        let slot = self.lists.streams.get_mut(stream).expect("looked up above");
        slot.changed = true;
        slot.list.get_or_insert_with(|| take_list(&mut self.totals));
        Ok(slot)
    }

    /// All of it, to be committed.
    pub(crate) fn seal(self) -> Sealed {
        let Effects { batch, totals, records, stubs, lists, .. } = self;
        Sealed { batch, lists, records, stubs, totals }
    }
}

impl Lists {
    /// Moves all of it, and wakes those who are interested in it.
    pub(crate) fn add_to(self, delta: &mut Delta, interests: &Interests) {
        let mut key = Vec::new();
        for (stream, StreamSlot { list, head, changed, runs }) in self.streams {
            if let Some(list) = list.filter(|_| changed) {
                delta.add_stream(&stream, StreamHead { list, head }, &runs, &mut key);
                interests.wake(&key);
            }
        }
        for (key, IndexSlot { head, runs }) in self.indexes {
            delta.add_index(&key, head, &runs);
            interests.wake(&key);
        }
    }
}

fn take_list(totals: &mut Totals) -> ListId {
    let list = totals.next_list;
    totals.next_list = list.next();
    list
}

/// Calls `with` for each index that has an entry of this record, in the order in
/// which they come into being. `stream` is the record's.
pub(crate) fn indexes_of(
    record: &Record,
    stream: &StreamName,
    mut with: impl FnMut(Kind, &str) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut with = |kind, name: &str| if can_be_asked_for(name) { with(kind, name) } else { Ok(()) };
    if let Some(category) = stream.category() {
        with(Kind::Category, category)?;
    }
    if record.event_type() != EventType::LINK {
        with(Kind::EventType, record.event_type())?;
    }
    if let Some(correlation) = correlation_of(record) {
        with(Kind::Correlation, &correlation)?;
    }
    if record.revision() == Revision::FIRST && !stream.is_system() {
        with(Kind::Streams, "")?;
    }
    Ok(())
}

/// The correlation id in the event's metadata, or what a stub keeps of it.
fn correlation_of(record: &Record) -> Option<String> {
    if record.is_reclaimed() {
        return record.stub_correlation().map(str::to_owned);
    }
    match record.properties() {
        Properties::Opaque => metadata::correlation_id(record.metadata_slice()),
        Properties::Struct => correlation::in_struct(record.metadata_slice()),
    }
}

/// Whether a stream name can be made of it. An index that nobody can name is
/// not kept; neither is one whose name is a client's megabyte.
fn can_be_asked_for(name: &str) -> bool {
    /// Of `$ce-`, `$et-` and `$bc-`.
    const PREFIX: usize = 4;
    name.len() + PREFIX <= STREAM_NAME_BYTES_MAX && !name.chars().any(char::is_control)
}
