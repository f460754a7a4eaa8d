//! What the state holds at one moment of the log.
//!
//! While entries are applied, two looks at the state may see two different
//! moments: a tail, and a head that is newer. Who says "this is the stream up
//! to position P" needs both from one. The standing and the delta are one such
//! moment. What is not in the delta has settled before, and is as it was at that
//! moment unless the delta settles while it is looked up; then, which is rare,
//! it is looked at again.

use annals_core::{Head, Position, StreamName, Timestamp};

use crate::database::Reach;
use crate::error::Error;
use crate::heads::StreamHead;
use crate::index::IndexName;
use crate::keys::{self, Kind};
use crate::read::StreamView;
use crate::state::State;

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

impl State {
    /// See [`crate::Store::see`].
    pub(crate) fn see(&self, stream: &StreamName, now: Timestamp) -> Result<Sight, Error> {
        let key = key_of(stream);
        let described_key = stream.described().map(|described| key_of(&described));
        loop {
            let (moment, (head, described)) = self.moment(|delta| {
                let newest = |key: &Vec<u8>| delta.streams.get(&key[..]).cloned();
                (newest(&key), described_key.as_ref().map(newest))
            });
            let head = self.head_or_settled(head, &key)?;
            let described = match (described, &described_key) {
                (Some(newest), Some(key)) => Some(self.head_or_settled(newest, key)?),
                _ => None,
            };
            if !self.has_settled_since(&moment) {
                let view = StreamView::new(stream, head, now.max(moment.totals.newest_time));
                return Ok(Sight { as_of: moment.totals.tail, view, described });
            }
        }
    }

    fn head_or_settled(&self, newest: Option<StreamHead>, key: &[u8]) -> Result<Head, Error> {
        let known = match newest {
            Some(newest) => Some(newest),
            None => self.settled_stream(key, Reach::Disk)?,
        };
        Ok(known.map_or_else(Head::default, |known| known.head))
    }

    /// See [`crate::Store::see_at_hand`].
    pub(crate) fn see_at_hand(&self, stream: &StreamName, now: Timestamp) -> Option<Sight> {
        let key = key_of(stream);
        let described_key = stream.described().map(|described| key_of(&described));
        let (moment, (head, described)) = self.moment(|delta| {
            let newest = |key: &Vec<u8>| delta.streams.get(&key[..]).cloned();
            (newest(&key), described_key.as_ref().map(newest))
        });
        let head = head.or_else(|| self.streams.get(&key))?.head;
        let described = match (described, &described_key) {
            (Some(newest), Some(key)) => Some(newest.or_else(|| self.streams.get(key))?.head),
            _ => None,
        };
        let view = StreamView::new(stream, head, now.max(moment.totals.newest_time));
        let sight = Sight { as_of: moment.totals.tail, view, described };
        (!self.has_settled_since(&moment)).then_some(sight)
    }

    /// See [`crate::Store::see_index`].
    pub(crate) fn see_index(&self, index: &IndexName) -> Result<(Position, u64), Error> {
        let key = index.key();
        loop {
            let (moment, newest) = self.moment(|delta| delta.indexes.get(&key[..]).copied());
            let known = match newest {
                Some(newest) => Some(newest),
                None => self.settled_index(&key, Reach::Disk)?,
            };
            if !self.has_settled_since(&moment) {
                return Ok((moment.totals.tail, known.map_or(0, |head| head.count)));
            }
        }
    }
}

fn key_of(stream: &StreamName) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + stream.as_bytes().len());
    keys::head(Kind::Stream, stream.as_bytes(), &mut key);
    key
}
