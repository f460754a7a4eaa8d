//! The handle on a store.
//!
//! It holds the current state and the one writer. Readers take the
//! state as it is and keep it for one call; a catch-up that ends puts another
//! one in its place between calls.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use annals_core::{Batch, Head, Lease, Outcome, Position, Revision, Scavenge, StreamName, Timestamp};
use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::Cache;
use tokio::sync::watch;

use crate::apply::Writer;

use crate::catch_up::{CatchUp, CatchUpError};
use crate::chain::ChainHash;
use crate::database::Reach;
use crate::directory::Directory;
use crate::error::{Error, OpenError};
use crate::index::{IndexName, Link};
use crate::interest::{Interest, Interests};
use crate::keys::{self, Kind};
use crate::moment::Sight;
use crate::options::Options;
use crate::read::{Direction, PageLimit, StreamPage, StreamView};
use crate::reclaim::{GivenBack, Gone, LookLimit};
use crate::record::Record;
use crate::standing::Totals;
use crate::state::State;
use crate::statistics::Statistics;

/// A handle on the store. Clones share it.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) directory: Directory,
    pub(crate) options: Options,
    /// Of blocks, shared by all states: there may be two for a while.
    pub(crate) cache: Cache,
    pub(crate) state: ArcSwap<State>,
    /// Held while an entry is applied, and while another state takes over.
    pub(crate) writer: Mutex<Writer>,
    pub(crate) tail: watch::Sender<Position>,
    pub(crate) scavenge: watch::Sender<Option<Scavenge>>,
    pub(crate) lease: watch::Sender<Option<Lease>>,
    /// Held while space is given back.
    pub(crate) giving_back: Mutex<()>,
    pub(crate) interests: Arc<Interests>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("mark", &self.mark()).field("tail", &self.tail()).finish_non_exhaustive()
    }
}

/// Where in the replicated log the state stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The index of the last applied entry.
    pub index: u64,
    /// What the replicated log wants kept with it. Stored as it is, in the
    /// same write as the entry's effects.
    pub opaque: Bytes,
}

/// A point of the replicated log together with everything that another node
/// needs, besides the records up to `position`, to stand there too.
///
/// The three belong together: a residue of a later point than the mark would
/// make the other node apply the entries between them a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Where in the replicated log.
    pub mark: Mark,
    /// The position of the newest event there.
    pub position: Position,
    /// What cannot be derived from records, for [`CatchUp::finish`]. Opaque.
    pub residue: Bytes,
}

impl Store {
    /// Opens the store in a node's data directory, which it shares with
    /// others: its own are `CURRENT_STATE` and `state-*`.
    ///
    /// # Errors
    /// [`OpenError`]. None is cured by trying again, except `InUse`.
    pub fn open(dir: &Path, options: Options) -> Result<Store, OpenError> {
        crate::open::open(dir, options)
    }

    /// Applies one entry of the replicated log; `None` for one that holds no
    /// commands. One caller at a time. An entry that was applied before
    /// changes nothing and answers no outcomes.
    ///
    /// # Panics
    /// When `mark` leaves out an index, or an invariant of the log is broken.
    ///
    /// # Errors
    /// The caller must stop the process: what is in memory may be ahead of
    /// what is on disk, and every later call fails.
    pub fn apply(&self, mark: Mark, batch: Option<Batch>) -> Result<Vec<Outcome>, Error> {
        let mut writer = self.inner.writer.lock();
        let state = self.state();
        let outcomes = writer.apply(&state, mark, batch)?;
        self.announce(&state);
        Ok(outcomes)
    }

    /// As [`Store::apply`], but never waits, neither for the disk nor for anybody else:
    /// none where it would have to, and nothing has changed then. None too for an entry of
    /// more than one command, and for a step of a scavenge.
    ///
    /// # Panics
    /// As [`Store::apply`].
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn apply_at_hand(&self, mark: Mark, batch: Batch) -> Result<Option<Vec<Outcome>>, Error> {
        let Some(mut writer) = self.inner.writer.try_lock() else { return Ok(None) };
        let state = self.state();
        let outcomes = writer.apply_at_hand(&state, mark, batch)?;
        if outcomes.is_some() {
            self.announce(&state);
        }
        Ok(outcomes)
    }

    /// Tells those who watch what an entry has changed.
    fn announce(&self, state: &State) {
        self.inner.tail.send_if_modified(|tail| std::mem::replace(tail, state.tail()) != state.tail());
        let Totals { scavenge, lease, .. } = state.totals();
        self.inner.scavenge.send_if_modified(|last| std::mem::replace(last, scavenge) != scavenge);
        self.inner.lease.send_if_modified(|last| std::mem::replace(last, lease) != lease);
    }

    /// Where in the replicated log the state stands; none before the first
    /// entry.
    pub fn mark(&self) -> Option<Mark> {
        self.state().mark()
    }

    /// Where it would stand after a crash now.
    ///
    /// # Errors
    /// [`Error`].
    pub fn durable_mark(&self) -> Result<Option<Mark>, Error> {
        Ok(self.state().durable_standing()?.mark)
    }

    /// As [`Store::durable_mark`], with what another node needs to get there:
    /// what a snapshot is made of.
    ///
    /// # Errors
    /// [`Error`].
    pub fn durable(&self) -> Result<Option<Durable>, Error> {
        let standing = self.state().durable_standing()?;
        Ok(standing.mark.map(|mark| Durable {
            mark,
            position: standing.totals.tail,
            residue: standing.totals.residue(),
        }))
    }

    /// Makes everything applied durable; answers what is.
    ///
    /// # Errors
    /// [`Error`]. The caller must stop the process.
    pub fn flush(&self) -> Result<Option<Mark>, Error> {
        let (state, mark) = {
            let _writer = self.inner.writer.lock();
            let state = self.state();
            state.begin_flush()?;
            let mark = state.mark();
            (state, mark)
        };
        if let Some(mark) = mark
            && !state.wait_durable(&mark)?
        {
            // Once more, and this one says why not. Nothing may be applied
            // meanwhile: what is flushed has to be settled.
            let _writer = self.inner.writer.lock();
            state.flush()?;
        }
        Ok(state.durable_standing()?.mark)
    }

    /// Makes everything applied durable and ends the store's own threads: a
    /// process that exits under a running compaction is aborted by it. What is
    /// applied can still be read; what is applied after it is in memory only.
    ///
    /// # Errors
    /// [`Error`]: some of it is not durable, and is applied again at the next
    /// start. The threads have ended all the same.
    pub fn close(&self) -> Result<Option<Mark>, Error> {
        // RocksDB flushes what it has when its threads end: an entry that came
        // between that and our flush would be on the disk without what has only
        // gathered in memory of it.
        let _writer = self.inner.writer.lock();
        let state = self.state();
        let flushed = state.flush();
        state.database.end_background_work();
        flushed?;
        Ok(state.durable_standing()?.mark)
    }

    /// The position of the newest event.
    pub fn tail(&self) -> Position {
        self.state().tail()
    }

    /// Tells each move of the tail, once per applied entry, after its events
    /// can be read.
    pub fn watch_tail(&self) -> watch::Receiver<Position> {
        self.inner.tail.subscribe()
    }

    /// The last scavenge that was started.
    pub fn scavenge(&self) -> Option<Scavenge> {
        *self.inner.scavenge.borrow()
    }

    /// Tells each change of [`Store::scavenge`].
    pub fn watch_scavenge(&self) -> watch::Receiver<Option<Scavenge>> {
        self.inner.scavenge.subscribe()
    }

    /// The maintenance lease, as it was given last.
    pub fn lease(&self) -> Option<Lease> {
        *self.inner.lease.borrow()
    }

    /// Tells each change of [`Store::lease`].
    pub fn watch_lease(&self) -> watch::Receiver<Option<Lease>> {
        self.inner.lease.subscribe()
    }

    /// Looks on from where a scavenge stands for what is gone: the next step of it.
    /// Reads the log from the disk, at most to the scavenge's point.
    ///
    /// # Errors
    /// [`Error`].
    pub fn find_gone(&self, scavenge: &Scavenge, limit: LookLimit) -> Result<Gone, Error> {
        self.state().find_gone(scavenge, limit)
    }

    /// Gives the space of reclaimed events back, on this node, for the next stretch of
    /// the log that a scavenge has passed; none where nothing is to be done now. Takes
    /// a second or two of a processor and of the disk, or longer at a
    /// [pace](Store::pace_rewriting). One caller at a time; another one waits.
    ///
    /// # Errors
    /// [`Error`].
    pub fn give_back(&self) -> Result<Option<GivenBack>, Error> {
        let _turn = self.inner.giving_back.lock();
        let Some((from, through, is_last)) = self.state().next_stretch()? else { return Ok(None) };
        self.flush()?;
        let state = self.state();
        let before = state.record_file_bytes();
        state.compact_stretch(from, through)?;
        Ok(Some(GivenBack { from, through, before, after: state.record_file_bytes(), is_last }))
    }

    /// How many positions [`Store::give_back`] still has before it; zero once the space of
    /// all that the last scavenge reclaimed so far is given back.
    ///
    /// # Errors
    /// [`Error`].
    pub fn to_give_back(&self) -> Result<u64, Error> {
        self.state().to_give_back()
    }

    /// How many bytes of records [`Store::give_back`] writes per second from now on, at
    /// most, also where it is at it; without a limit at first, and again after a
    /// snapshot was installed.
    pub fn pace_rewriting(&self, bytes_per_second: u64) {
        self.state().database.pace().set(bytes_per_second);
    }

    /// Announces an interest in a stream. It wakes after events of the stream, its
    /// tombstone or its metadata can be read, and may wake without any.
    pub fn watch_stream(&self, stream: &StreamName) -> Interest {
        let mut key = Vec::with_capacity(1 + stream.as_bytes().len());
        keys::head(Kind::Stream, stream.as_bytes(), &mut key);
        self.inner.interests.announce(&key)
    }

    /// Announces an interest in an index, as [`Store::watch_stream`].
    pub fn watch_index(&self, index: &IndexName) -> Interest {
        self.inner.interests.announce(&index.key())
    }

    /// When the newest event was created.
    pub fn newest_time(&self) -> Timestamp {
        self.state().totals().newest_time
    }

    /// The head of a stream; the default one where it was never touched.
    ///
    /// # Errors
    /// [`Error`].
    pub fn head(&self, stream: &StreamName) -> Result<Head, Error> {
        self.state().head(stream.as_str())
    }

    /// The chain hash at a position; none beyond the tail.
    ///
    /// # Errors
    /// [`Error`].
    pub fn chain(&self, at: Position) -> Result<Option<ChainHash>, Error> {
        self.state().chain(at)
    }

    /// The record at a position, if there is one that is not reclaimed.
    ///
    /// # Errors
    /// [`Error`].
    pub fn record(&self, at: Position) -> Result<Option<Record>, Error> {
        let state = self.state();
        if at == Position::START || at > state.tail() {
            return Ok(None);
        }
        Ok(Some(state.record(at, Reach::Disk)?).filter(|record| !record.is_reclaimed()))
    }

    /// The record at a revision, also where the stream's metadata hides it; none once
    /// it is reclaimed.
    ///
    /// # Errors
    /// [`Error`].
    pub fn record_at(&self, stream: &StreamName, revision: Revision) -> Result<Option<Record>, Error> {
        Ok(self.state().record_at(stream, revision)?.filter(|record| !record.is_reclaimed()))
    }

    /// A page of the whole log. As all pages it holds the stubs of what was reclaimed
    /// too ([`Record::is_reclaimed`]): they say how far it reaches, and are nobody's to
    /// see. `from` is inclusive either way; beyond the
    /// tail a backward read begins at the tail. Empty at the end.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read_all(&self, from: Position, direction: Direction, limit: PageLimit) -> Result<Vec<Record>, Error> {
        self.state().read_all(from, direction, limit)
    }

    /// What of a stream can be seen at a time. `now` is the reader's clock; if
    /// it is behind the newest event, that event's time counts.
    ///
    /// # Errors
    /// [`Error`].
    pub fn view(&self, stream: &StreamName, now: Timestamp) -> Result<StreamView, Error> {
        self.state().view(stream, now)
    }

    /// As [`Store::view`], with the moment of the log at which it was so: all
    /// events of the stream up to `as_of` have been taken into account, and
    /// none after it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn see(&self, stream: &StreamName, now: Timestamp) -> Result<Sight, Error> {
        self.state().see(stream, now)
    }

    /// As [`Store::see`], but never waits, neither for the disk nor for an
    /// entry that is being applied: none where it would have to.
    pub fn see_at_hand(&self, stream: &StreamName, now: Timestamp) -> Option<Sight> {
        self.state().see_at_hand(stream, now)
    }

    /// A page of what a view shows. `from` is inclusive either way.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read_stream(
        &self,
        view: &StreamView,
        from: Revision,
        direction: Direction,
        limit: PageLimit,
    ) -> Result<StreamPage, Error> {
        self.state().read_stream(view, from, direction, limit)
    }

    /// As [`Store::read_stream`], but never waits for the disk: none where it
    /// would have to.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read_stream_at_hand(
        &self,
        view: &StreamView,
        from: Revision,
        direction: Direction,
        limit: PageLimit,
    ) -> Result<Option<StreamPage>, Error> {
        self.state().read_stream_at_hand(view, from, direction, limit)
    }

    /// How many entries an index has.
    ///
    /// # Errors
    /// [`Error`].
    pub fn index_len(&self, index: &IndexName) -> Result<u64, Error> {
        self.state().index_len(index)
    }

    /// As [`Store::index_len`], with the moment of the log at which it was so.
    ///
    /// # Errors
    /// [`Error`].
    pub fn see_index(&self, index: &IndexName) -> Result<(Position, u64), Error> {
        self.state().see_index(index)
    }

    /// A page of an index. `from` is inclusive either way; beyond the end a
    /// backward read begins at the end.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read_index(
        &self,
        index: &IndexName,
        from: u64,
        direction: Direction,
        limit: PageLimit,
    ) -> Result<Vec<Link>, Error> {
        self.state().read_index(index, from, direction, limit)
    }

    /// Streams that were ever written, or given metadata, in byte order of
    /// their names: those that begin with `prefix` and come after `after`, at
    /// most `limit`, system streams only on request.
    ///
    /// # Errors
    /// [`Error`].
    pub fn list_streams(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
        system: bool,
    ) -> Result<Vec<(StreamName, Head)>, Error> {
        let state = {
            let _writer = self.inner.writer.lock();
            let state = self.state();
            state.settle()?;
            state
        };
        state.list_streams(prefix, after, limit, system)
    }

    /// Begins to take over another node's records, beside the state that goes
    /// on being served.
    ///
    /// # Errors
    /// [`CatchUpError`].
    pub fn begin_catch_up(&self) -> Result<CatchUp, CatchUpError> {
        CatchUp::begin(Arc::clone(&self.inner))
    }

    /// Numbers for metrics.
    pub fn statistics(&self) -> Statistics {
        self.state().statistics(&self.inner)
    }

    fn state(&self) -> Arc<State> {
        self.inner.state.load_full()
    }
}
