//! The indexes: streams that exist without being written.
//!
//! | name | its entries |
//! |---|---|
//! | `$ce-X` | each event of the streams of category X |
//! | `$et-X` | each event of type X, links excepted |
//! | `$bc-X` | each event whose metadata has the `$correlationId` X |
//! | `$streams` | the first event of each stream that is not a system stream |
//!
//! An index is a dense list of positions, kept in the same form as a stream's
//! and written in the same batch as the events; its numbers serve as
//! revisions. What could not be the name of a stream (too long, control
//! characters) has no index, since nobody could ask for it.

use annals_core::StreamName;

use crate::database::Reach;
use crate::error::Error;
use crate::keys::{self, Kind};
use crate::read::{Direction, PageLimit};
use crate::record::Record;
use crate::state::State;

/// Names an index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IndexName {
    /// `$ce-X`
    Category(String),
    /// `$et-X`
    EventType(String),
    /// `$bc-X`
    Correlation(String),
    /// `$streams`
    Streams,
}

/// An entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its dense number in the index, from 0.
    pub revision: u64,
    /// The event that it points to.
    pub record: Record,
}

const CATEGORY: &str = "$ce-";
const EVENT_TYPE: &str = "$et-";
const CORRELATION: &str = "$bc-";
const STREAMS: &str = "$streams";

impl IndexName {
    /// The index that is read under this stream name, if it is one.
    pub fn parse(stream: &StreamName) -> Option<IndexName> {
        let name = stream.as_str();
        if name == STREAMS {
            return Some(IndexName::Streams);
        }
        let after = |prefix: &str| name.strip_prefix(prefix).filter(|rest| !rest.is_empty()).map(str::to_owned);
        after(CATEGORY)
            .map(IndexName::Category)
            .or_else(|| after(EVENT_TYPE).map(IndexName::EventType))
            .or_else(|| after(CORRELATION).map(IndexName::Correlation))
    }

    /// The stream name under which the index is read.
    ///
    /// # Panics
    /// When it was not made by [`IndexName::parse`] and its text cannot be
    /// part of a stream's name.
    pub fn name(&self) -> StreamName {
        let name = match self {
            IndexName::Category(category) => format!("{CATEGORY}{category}"),
            IndexName::EventType(event_type) => format!("{EVENT_TYPE}{event_type}"),
            IndexName::Correlation(id) => format!("{CORRELATION}{id}"),
            IndexName::Streams => STREAMS.to_owned(),
        };
        StreamName::new(name).expect("the name of an index is the name of a stream")
    }

    /// The key of its head.
    pub(crate) fn key(&self) -> Vec<u8> {
        let (kind, name) = match self {
            IndexName::Category(category) => (Kind::Category, category.as_str()),
            IndexName::EventType(event_type) => (Kind::EventType, event_type.as_str()),
            IndexName::Correlation(id) => (Kind::Correlation, id.as_str()),
            IndexName::Streams => (Kind::Streams, ""),
        };
        let mut key = Vec::with_capacity(1 + name.len());
        keys::head(kind, name.as_bytes(), &mut key);
        key
    }
}

impl State {
    /// See [`crate::Store::index_len`].
    pub(crate) fn index_len(&self, index: &IndexName) -> Result<u64, Error> {
        Ok(self.index_head(&index.key(), Reach::Disk)?.map_or(0, |head| head.count))
    }

    /// See [`crate::Store::read_index`].
    pub(crate) fn read_index(
        &self,
        index: &IndexName,
        from: u64,
        direction: Direction,
        limit: PageLimit,
    ) -> Result<Vec<Link>, Error> {
        let Some(head) = self.index_head(&index.key(), Reach::Disk)? else { return Ok(Vec::new()) };
        // An index comes into being with its first entry.
        let last = head.count - 1;
        let (from, to) = match direction {
            Direction::Forward if from > last => return Ok(Vec::new()),
            Direction::Forward => (from, last),
            Direction::Backward => (from.min(last), 0),
        };
        let entries = self.read_list(head.list, from, to, direction, limit, Reach::Disk)?;
        Ok(entries.into_iter().map(|(revision, record)| Link { revision, record }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> StreamName {
        StreamName::new(text).expect("a valid name")
    }

    #[test]
    fn an_index_is_parsed_from_the_name_under_which_it_is_read() {
        for (text, index) in [
            ("$ce-order", IndexName::Category("order".into())),
            ("$et-OrderPlaced", IndexName::EventType("OrderPlaced".into())),
            ("$et-$metadata", IndexName::EventType("$metadata".into())),
            ("$bc-a-b", IndexName::Correlation("a-b".into())),
            ("$streams", IndexName::Streams),
        ] {
            assert_eq!(IndexName::parse(&name(text)), Some(index.clone()));
            assert_eq!(index.name(), name(text));
        }
    }

    #[test]
    fn other_streams_are_no_index() {
        for text in ["order-1", "$ce-", "$ce", "$et", "$streams-1", "$$ce-order", "$category-order", "ce-order"] {
            assert_eq!(IndexName::parse(&name(text)), None, "{text}");
        }
    }
}
