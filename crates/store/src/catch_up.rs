//! Catch-up: taking over another node's records when the replicated log no
//! longer reaches back to where this node stands.
//!
//! The records are ingested into a second state, which begins as a copy of the
//! current one (its files are linked, not copied) and is filled through the
//! same effects as if the events had been applied. Nothing of it is in
//! memory but the chunk at hand. The current state is served all the while,
//! until [`CatchUp::finish`] has made the second one durable and the pointer
//! file names it. A crash before that leaves the old state and a directory
//! that the next start removes; a crash after it, the new one.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use annals_core::seeded::{self, Bug};
use annals_core::{Position, Revision, StreamName};
use bytes::Bytes;

use crate::apply::Writer;
use crate::chain::ChainHash;
use crate::directory::Failed;
use crate::effects::Effects;
use crate::error::{Error, OpenError};
use crate::record::{Corruption, Record};
use crate::remembered::Remembered;
use crate::standing::Totals;
use crate::state::State;
use crate::store::{Inner, Mark, Store};

/// A second state in the making. Dropped unfinished, it leaves nothing behind.
pub struct CatchUp {
    store: Arc<Inner>,
    number: u64,
    state: Arc<State>,
    taken_over: bool,
}

/// A catch-up cannot go on. The state that is being served is untouched.
#[derive(Debug, thiserror::Error)]
pub enum CatchUpError {
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// A file or directory operation failed.
    #[error("cannot {attempted} {}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The second state cannot be made.
    #[error("cannot make a second state")]
    Open(#[from] OpenError),
    /// What was pulled is not a record.
    #[error("what was pulled for position {position} is not its record")]
    Record {
        /// The position whose turn it was.
        position: Position,
        /// What is wrong with it.
        #[source]
        source: Corruption,
    },
    /// A record does not follow from those before it.
    #[error("the record at position {position} does not follow: {reason}")]
    DoesNotFollow {
        /// Its position.
        position: Position,
        /// In what way.
        reason: &'static str,
    },
    /// The residue is not one.
    #[error("the residue cannot be read")]
    Residue,
    /// The other node's log is at another place than what was pulled.
    #[error("pulled up to position {found}, but the mark belongs to position {expected}")]
    Position {
        /// Where the mark belongs.
        expected: Position,
        /// The last position that was ingested.
        found: Position,
    },
    /// The other node's log is another one.
    #[error("at position {position} the chain hash is {found} here and {expected} there: the logs differ")]
    Diverged {
        /// The last position that was ingested.
        position: Position,
        /// The other node's hash.
        expected: ChainHash,
        /// The hash of what is here.
        found: ChainHash,
    },
    /// The state has been applied further than the mark meanwhile: taking the
    /// catch-up over would go back. Nothing is lost; go on with the log.
    #[error("the state stands at log index {applied}, not behind {mark}")]
    Outdated {
        /// The index of the mark.
        mark: u64,
        /// What has been applied.
        applied: u64,
    },
}

impl fmt::Debug for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatchUp").field("position", &self.position()).finish_non_exhaustive()
    }
}

impl From<Failed> for CatchUpError {
    fn from(Failed { attempted, path, source }: Failed) -> Self {
        CatchUpError::Io { attempted, path, source }
    }
}

impl CatchUp {
    pub(crate) fn begin(store: Arc<Inner>) -> Result<CatchUp, CatchUpError> {
        let number = store.directory.states()?.last().map_or(1, |last| last + 1);
        let path = store.directory.state(number);
        #[cfg(feature = "seeded-bugs")]
        if seeded::is(Bug::S12) {
            return CatchUp::begin_in_place(store, number, path);
        }
        // Most of it before the writer has to wait.
        Store { inner: Arc::clone(&store) }.flush()?;
        {
            // The copy flushes what it finds: no part of an entry may be there.
            let _writer = store.writer.lock();
            let current = store.state.load_full();
            current.settle()?;
            current.database.copy_to(&path)?;
        }
        let state = State::open(path, &store.options, &store.cache, &store.interests)?;
        Ok(CatchUp { store, number, state: Arc::new(state), taken_over: false })
    }

    /// S12: an empty state that is served from now on, and filled.
    #[cfg(feature = "seeded-bugs")]
    fn begin_in_place(store: Arc<Inner>, number: u64, path: PathBuf) -> Result<CatchUp, CatchUpError> {
        let state = Arc::new(State::open(path, &store.options, &store.cache, &store.interests)?);
        let _writer = store.writer.lock();
        store.directory.point_to(number)?;
        store.state.swap(Arc::clone(&state)).home.retire();
        drop(_writer);
        Ok(CatchUp { store, number, state, taken_over: true })
    }

    /// The last position that it holds: what comes after it is to be pulled.
    pub fn position(&self) -> Position {
        self.state.tail()
    }

    /// The chain hash there.
    pub fn chain(&self) -> ChainHash {
        self.state.totals().chain
    }

    /// Takes in records that follow [`CatchUp::position`], each as
    /// [`crate::Record::encoded`] on the other node, verified here. All of
    /// them are held in memory at once.
    ///
    /// # Errors
    /// After any of them the catch-up is to be dropped.
    pub fn ingest(&mut self, records: Vec<Bytes>) -> Result<(), CatchUpError> {
        let mut effects = Effects::new(&self.state);
        for bytes in records {
            let position = effects.tail().next();
            let record = Record::from_bytes(bytes).map_err(|source| CatchUpError::Record { position, source })?;
            let stream = verify_follows(&mut effects, &record)?;
            effects.add(record, stream)?;
        }
        self.state.commit(effects.seal(), None)?;
        Ok(())
    }

    /// Whether events up to [`CatchUp::position`] have been reclaimed on the node whose
    /// `residue` this is, and are whole here. Their stubs are to be pulled as well
    /// ([`CatchUp::reclaim`]).
    ///
    /// # Errors
    /// [`CatchUpError::Residue`].
    pub fn lacks_stubs(&self, residue: &[u8]) -> Result<bool, CatchUpError> {
        let there = Totals::from_residue(residue).ok_or(CatchUpError::Residue)?;
        Ok(self.state.totals().reclaims() != there.reclaims() && self.position() > Position::START)
    }

    /// Takes in stubs of events up to [`CatchUp::position`]. There may be more of them
    /// than at the mark that is caught up to: what reclaims them here is then still to
    /// be applied, and decides as if they were whole.
    ///
    /// # Errors
    /// After any of them the catch-up is to be dropped.
    pub fn reclaim(&mut self, stubs: Vec<Bytes>) -> Result<(), CatchUpError> {
        let mut effects = Effects::new(&self.state);
        for bytes in stubs {
            let position = self.position();
            let stub = Record::from_bytes(bytes).map_err(|source| CatchUpError::Record { position, source })?;
            let position = stub.position();
            let does_not_follow = |reason| CatchUpError::DoesNotFollow { position, reason };
            if !stub.is_reclaimed() || position == Position::START || position > self.position() {
                return Err(does_not_follow("it is no stub of an event that is here"));
            }
            let record = effects.record(position)?;
            if !record.is_same_event(&stub) {
                return Err(does_not_follow("the event is another one here"));
            }
            effects.reclaim(&record);
        }
        self.state.commit(effects.seal(), None)?;
        Ok(())
    }

    /// Makes this the store's state: durable, and seen by every reader.
    ///
    /// `mark` and `residue` come from one [`crate::Store::durable`] of the
    /// other node, whose position must be the one pulled up to. Whoever reads
    /// meanwhile goes on with the state that is replaced.
    ///
    /// # Errors
    /// The state that was served goes on being served.
    pub fn finish(mut self, mark: Mark, residue: &[u8]) -> Result<(), CatchUpError> {
        let expected = Totals::from_residue(residue).ok_or(CatchUpError::Residue)?;
        self.verify_same(&expected)?;
        let mut effects = Effects::new(&self.state);
        effects.take_node(expected.last_node);
        effects.set_scavenge(expected.scavenge);
        effects.set_lease(expected.lease);
        let index = mark.index;
        self.state.commit(effects.seal(), Some(mark))?;
        self.state.settle()?;
        self.state.database.flush()?;
        let remembered = match seeded::is(Bug::S8) {
            false => self.state.read_remembered()?,
            true => Remembered::after(self.state.tail()),
        };

        // From here on nothing is applied to the state that is replaced.
        let mut writer = self.store.writer.lock();
        let current = self.store.state.load_full();
        // Under S12 this is the state that is served already.
        let replaced = current.mark().filter(|_| !seeded::is(Bug::S12));
        if let Some(applied) = replaced.filter(|applied| applied.index >= index) {
            return Err(CatchUpError::Outdated { mark: index, applied: applied.index });
        }
        self.store.directory.point_to(self.number)?;
        self.taken_over = true;
        *writer = Writer::new(remembered);
        self.store.state.store(Arc::clone(&self.state));
        if !seeded::is(Bug::S12) {
            current.home.retire();
        }
        drop(writer);
        self.store.tail.send_replace(self.state.tail());
        self.store.scavenge.send_replace(self.state.totals().scavenge);
        self.store.lease.send_replace(self.state.totals().lease);
        self.store.interests.wake_all();
        Ok(())
    }

    /// As [`CatchUp::finish`] for records that are all there is of a log, as of a
    /// backup: what does not follow from them is as in a log that begins. No node id was
    /// ever taken, and there never was a scavenge; stubs stay what they are.
    ///
    /// # Errors
    /// As [`CatchUp::finish`].
    pub fn finish_alone(self, mark: Mark) -> Result<(), CatchUpError> {
        let residue = self.state.totals().residue();
        self.finish(mark, &residue)
    }

    /// Whether the records have led to where the other node is.
    fn verify_same(&self, expected: &Totals) -> Result<(), CatchUpError> {
        let found = self.state.totals();
        if found.tail != expected.tail {
            return Err(CatchUpError::Position { expected: expected.tail, found: found.tail });
        }
        let same = found.chain == expected.chain
            && found.newest_time == expected.newest_time
            && found.next_list == expected.next_list;
        if !same {
            return Err(CatchUpError::Diverged { position: found.tail, expected: expected.chain, found: found.chain });
        }
        Ok(())
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        if !self.taken_over {
            self.state.home.retire();
        }
    }
}

/// What [`Effects::add`] asserts of our own decisions is here asked of bytes
/// that came over the network.
fn verify_follows(effects: &mut Effects<'_>, record: &Record) -> Result<StreamName, CatchUpError> {
    let position = record.position();
    let does_not_follow = |reason| CatchUpError::DoesNotFollow { position, reason };
    if position != effects.tail().next() {
        return Err(does_not_follow("it is not the next position"));
    }
    if record.created() < effects.newest_time() {
        return Err(does_not_follow("it was created before the event that precedes it"));
    }
    let stream = StreamName::from_utf8(Bytes::copy_from_slice(record.stream().as_bytes()))
        .map_err(|_| does_not_follow("its stream's name is no stream name"))?;
    let head = effects.head(&stream)?;
    let follows = if record.revision() == Revision::TOMBSTONE {
        !head.tombstoned
    } else {
        record.revision() == Revision::after(head.last)
    };
    if !follows {
        return Err(does_not_follow("it is not the next revision of its stream"));
    }
    Ok(stream)
}
