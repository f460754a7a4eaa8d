//! What the state holds at one moment of the log.
//!
//! While entries are applied, two looks at the state may see two different
//! moments: a tail, and a head that is newer. Who says "this is the stream up
//! to position P" needs both from one. An entry is one write, its standing
//! among it, so a snapshot of the database is such a moment; the caches, which
//! follow the database one after the other, are not. A moment is told only once
//! they have followed: who reads on from there looks into them.

use annals_core::{Head, Position, StreamName, Timestamp};
use rocksdb::Snapshot;

use crate::database::reading;
use crate::error::Error;
use crate::heads::{IndexHead, StreamHead};
use crate::index::IndexName;
use crate::keys::{self, Key, Kind};
use crate::read::StreamView;
use crate::standing::Totals;
use crate::state::{State, corrupt_head, decode_standing};

/// A stream as it could be seen at one moment of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The newest event of all at that moment.
    pub as_of: Position,
    /// What of the stream could be seen.
    pub view: StreamView,
    /// The head of the stream that this one describes, where it is a
    /// metastream.
    pub described: Option<Head>,
}

/// See the module.
struct Moment<'s> {
    state: &'s State,
    snapshot: Snapshot<'s>,
    totals: Totals,
}

impl<'s> Moment<'s> {
    fn of(state: &'s State) -> Result<Moment<'s>, Error> {
        let snapshot = state.database.snapshot();
        let totals = {
            let meta = state.database.columns().meta;
            let standing = snapshot.get_pinned_cf(meta, Key::Standing.encode()).map_err(reading)?;
            decode_standing(standing.as_deref())?.totals
        };
        // Nothing between the write and the new tail can fail or wait.
        while state.tail() < totals.tail {
            std::thread::yield_now();
        }
        Ok(Moment { state, snapshot, totals })
    }

    fn head(&self, stream: &StreamName) -> Result<Head, Error> {
        let mut key = Vec::with_capacity(1 + stream.as_str().len());
        keys::head(Kind::Stream, stream.as_str().as_bytes(), &mut key);
        let bytes = self.snapshot.get_pinned_cf(self.state.database.columns().heads, &key).map_err(reading)?;
        let Some(bytes) = bytes else { return Ok(Head::default()) };
        StreamHead::decode(&bytes).map(|known| known.head).map_err(|source| corrupt_head(&key, source))
    }

    fn index_len(&self, index: &IndexName) -> Result<u64, Error> {
        let key = index.key();
        let bytes = self.snapshot.get_pinned_cf(self.state.database.columns().heads, &key).map_err(reading)?;
        let Some(bytes) = bytes else { return Ok(0) };
        IndexHead::decode(&bytes).map(|head| head.count).map_err(|source| corrupt_head(&key, source))
    }
}

impl State {
    /// See [`crate::Store::see`].
    pub(crate) fn see(&self, stream: &StreamName, now: Timestamp) -> Result<Sight, Error> {
        let moment = Moment::of(self)?;
        let view = StreamView::new(stream, moment.head(stream)?, now.max(moment.totals.newest_time));
        let described = stream.described().map(|described| moment.head(&described)).transpose()?;
        Ok(Sight { as_of: moment.totals.tail, view, described })
    }

    /// See [`crate::Store::see_index`].
    pub(crate) fn see_index(&self, index: &IndexName) -> Result<(Position, u64), Error> {
        let moment = Moment::of(self)?;
        Ok((moment.totals.tail, moment.index_len(index)?))
    }
}
