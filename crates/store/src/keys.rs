//! Every key of the store.
//!
//! | column | key | value |
//! |---|---|---|
//! | `meta` | `format` | format version |
//! | `meta` | `standing` | what the state comes to, see [`crate::standing`] |
//! | `meta` | `scavenge` | the last scavenge, if there was one, see [`annals_core::scavenge`] |
//! | `meta` | `lease` | the maintenance lease, if it was ever given, see [`annals_core::lease`] |
//! | `meta` | `given back` | up to where this node has given space back, see [`crate::reclaim`] |
//! | `records` | position | the record |
//! | `heads` | kind ‖ name | the head of a list, see [`crate::heads`] |
//! | `runs` | list ‖ last number | where a stretch of a list is, see [`crate::runs`] |
//! | `chain` | position | the chain hash there |
//! | `times` | second since 1970 | position of the first event created in it |
//!
//! Numbers are big-endian, so that the order of keys is the order of what
//! they name. A name is always the last part of its key and needs no length.

use std::fmt;

use annals_core::Position;
use bytes::Bytes;

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Column {
    Meta,
    Records,
    Heads,
    Runs,
    Chain,
    Times,
}

impl Column {
    pub(crate) const ALL: [Column; 6] =
        [Column::Meta, Column::Records, Column::Heads, Column::Runs, Column::Chain, Column::Times];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Column::Meta => "meta",
            Column::Records => "records",
            Column::Heads => "heads",
            Column::Runs => "runs",
            Column::Chain => "chain",
            Column::Times => "times",
        }
    }
}

/// The number by which the runs of a list are found. Dense from 0 in the
/// order in which lists come into being, the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListId(u64);

impl ListId {
    pub(crate) const fn new(number: u64) -> Self {
        ListId(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The list that comes into being after this one.
    pub(crate) fn next(self) -> Self {
        ListId(self.0.checked_add(1).expect("2^64 lists are out of reach"))
    }
}

/// What kind of list a head belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The index of all streams. Its name is empty.
    Streams,
    /// The index of a correlation id.
    Correlation,
    /// The index of a category.
    Category,
    /// A stream.
    Stream,
    /// The index of an event type.
    EventType,
}

impl Kind {
    /// The byte with which the keys of its heads begin. In the order of the
    /// variants, so that keys and kinds sort alike.
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Kind::Streams => b'a',
            Kind::Correlation => b'b',
            Kind::Category => b'c',
            Kind::Stream => b's',
            Kind::EventType => b't',
        }
    }

    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            b'a' => Kind::Streams,
            b'b' => Kind::Correlation,
            b'c' => Kind::Category,
            b's' => Kind::Stream,
            b't' => Kind::EventType,
            _ => return None,
        })
    }
}

/// Names something that is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The format version of the state.
    Format,
    /// Up to where this node has given the space of what is reclaimed back. The only
    /// thing here that is not the same on every node.
    GivenBack,
    /// The maintenance lease.
    Lease,
    /// The last scavenge.
    Scavenge,
    /// What the state comes to.
    Standing,
    /// A record.
    Record(Position),
    /// The head of a list.
    Head(Kind, Bytes),
    /// A stretch of a list, named by the number of its last entry.
    Run(ListId, u64),
    /// A saved chain hash.
    Chain(Position),
    /// The first event created in a second since 1970.
    Time(u64),
}

impl Key {
    /// Where it is stored.
    pub(crate) fn column(&self) -> Column {
        match self {
            Key::Format | Key::Standing | Key::Scavenge | Key::Lease | Key::GivenBack => Column::Meta,
            Key::Record(_) => Column::Records,
            Key::Head(..) => Column::Heads,
            Key::Run(..) => Column::Runs,
            Key::Chain(_) => Column::Chain,
            Key::Time(_) => Column::Times,
        }
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Key::Format => b"format".to_vec(),
            Key::Standing => b"standing".to_vec(),
            Key::Scavenge => b"scavenge".to_vec(),
            Key::Lease => b"lease".to_vec(),
            Key::GivenBack => b"given back".to_vec(),
            Key::Record(position) | Key::Chain(position) => number(position.get()).to_vec(),
            Key::Head(kind, name) => {
                let mut out = Vec::with_capacity(1 + name.len());
                head(*kind, name, &mut out);
                out
            }
            Key::Run(list, last) => run(*list, *last).to_vec(),
            Key::Time(second) => number(*second).to_vec(),
        }
    }

    /// The key with these bytes in that column, if it is one.
    pub(crate) fn decode(column: Column, bytes: &[u8]) -> Option<Key> {
        let single = || Some(u64::from_be_bytes(bytes.try_into().ok()?));
        Some(match column {
            Column::Meta if bytes == b"format" => Key::Format,
            Column::Meta if bytes == b"standing" => Key::Standing,
            Column::Meta if bytes == b"scavenge" => Key::Scavenge,
            Column::Meta if bytes == b"lease" => Key::Lease,
            Column::Meta if bytes == b"given back" => Key::GivenBack,
            Column::Meta => return None,
            Column::Records => Key::Record(Position::new(single()?)),
            Column::Heads => {
                let (kind, name) = bytes.split_first()?;
                Key::Head(Kind::of(*kind)?, Bytes::copy_from_slice(name))
            }
            Column::Runs => {
                let (list, last) = bytes.split_at_checked(8)?;
                let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
                Key::Run(ListId::new(number(list)?), number(last)?)
            }
            Column::Chain => Key::Chain(Position::new(single()?)),
            Column::Times => Key::Time(single()?),
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Format => f.write_str("the format version"),
            Key::Standing => f.write_str("the state's standing"),
            Key::Scavenge => f.write_str("the state of the last scavenge"),
            Key::Lease => f.write_str("the maintenance lease"),
            Key::GivenBack => f.write_str("the mark of how much space was given back"),
            Key::Record(position) => write!(f, "the record at position {position}"),
            Key::Head(kind, name) => {
                let name = String::from_utf8_lossy(name);
                match kind {
                    Kind::Streams => f.write_str("the head of the index of streams"),
                    Kind::Correlation => write!(f, "the head of the index of correlation id {name:?}"),
                    Kind::Category => write!(f, "the head of the index of category {name:?}"),
                    Kind::Stream => write!(f, "the head of stream {name:?}"),
                    Kind::EventType => write!(f, "the head of the index of type {name:?}"),
                }
            }
            Key::Run(list, number) => write!(f, "the run of list {} with number {number}", list.get()),
            Key::Chain(position) => write!(f, "the chain hash at position {position}"),
            Key::Time(second) => write!(f, "the first event of second {second}"),
        }
    }
}

// The hot paths encode without making a `Key`.

/// The bytes of a key that is one number.
pub(crate) fn number(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The bytes of [`Key::Run`].
pub(crate) fn run(list: ListId, last: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&list.get().to_be_bytes());
    out[8..].copy_from_slice(&last.to_be_bytes());
    out
}

/// Puts the bytes of [`Key::Head`] in place of what is in `out`.
pub(crate) fn head(kind: Kind, name: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(kind.byte());
    out.extend_from_slice(name);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_key() -> impl Strategy<Value = Key> {
        let kind = prop_oneof![
            Just(Kind::Streams),
            Just(Kind::Correlation),
            Just(Kind::Category),
            Just(Kind::Stream),
            Just(Kind::EventType)
        ];
        // Short names over few letters: neighbours and prefixes are what an
        // encoding gets wrong.
        let name = prop_oneof!["[ab-]{0,3}".prop_map(Bytes::from), any::<Vec<u8>>().prop_map(Bytes::from)];
        prop_oneof![
            Just(Key::Format),
            Just(Key::GivenBack),
            Just(Key::Lease),
            Just(Key::Scavenge),
            Just(Key::Standing),
            any::<u64>().prop_map(|p| Key::Record(Position::new(p))),
            (kind, name).prop_map(|(kind, name)| Key::Head(kind, name)),
            (0..3u64, any::<u64>()).prop_map(|(list, last)| Key::Run(ListId::new(list), last)),
            any::<u64>().prop_map(|p| Key::Chain(Position::new(p))),
            any::<u64>().prop_map(Key::Time),
        ]
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(key in any_key()) {
            prop_assert_eq!(Key::decode(key.column(), &key.encode()), Some(key));
        }

        #[test]
        fn keys_of_a_column_sort_as_what_they_name(a in any_key(), b in any_key()) {
            if a.column() == b.column() {
                prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
            }
        }
    }

    #[test]
    fn what_is_no_key_is_not_read_as_one() {
        assert_eq!(Key::decode(Column::Records, b"short"), None);
        assert_eq!(Key::decode(Column::Runs, &[0; 15]), None);
        assert_eq!(Key::decode(Column::Runs, &[0; 17]), None);
        assert_eq!(Key::decode(Column::Heads, b""), None);
        assert_eq!(Key::decode(Column::Heads, b"xname"), None);
        assert_eq!(Key::decode(Column::Meta, b"other"), None);
    }
}
