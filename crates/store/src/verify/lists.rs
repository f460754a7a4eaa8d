//! Every head and its list.

use annals_core::{Metadata, Position, Revision, StreamName};
use bytes::Bytes;

use super::{Audience, END, Problems, count};
use crate::database::{Database, Reach};
use crate::error::Error;
use crate::heads::{IndexHead, StreamHead};
use crate::keys::{self, Column, Key, Kind, ListId};
use crate::runs;
use crate::standing::Totals;
use crate::state::{READAHEAD, record_at};

/// What all lists come to.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Streams that have or had events.
    pub(super) streams: u64,
    /// Entries of all lists of a kind: streams, and indexes by kind.
    pub(super) entries: Entries,
    runs: u64,
    /// Which list ids were seen, one bit each.
    seen: Vec<u64>,
}

/// Entries by kind of list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries([u64; 5]);

impl Entries {
    pub(super) const KINDS: [Kind; 5] =
        [Kind::Streams, Kind::Correlation, Kind::Category, Kind::Stream, Kind::EventType];

    pub(super) fn add(&mut self, kind: Kind, count: u64) {
        self.0[kind as usize] += count;
    }

    pub(super) fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }
}

/// Verifies all lists.
pub(super) fn verify(
    database: &Database,
    totals: &Totals,
    problems: &mut Problems,
    audience: &mut dyn Audience,
) -> Lists {
    let mut lists = Lists::default();
    let mut heads = database.scan(Column::Heads, &[], &END, READAHEAD);
    heads.seek_to_first();
    let mut done = 0;
    while let Some((key, value)) = heads.item() {
        if let Err(error) = lists.head(database, totals, key, value, problems) {
            problems.add_failure(&error);
        }
        done += 1;
        audience.progress("streams and indexes", done, totals.next_list.get().max(done));
        heads.next();
    }
    if let Err(error) = heads.status() {
        problems.add_error("cannot read all heads of streams and indexes", &error);
        return lists;
    }
    let unseen =
        totals.next_list.get().saturating_sub(lists.seen.iter().map(|word| u64::from(word.count_ones())).sum());
    if unseen > 0 {
        problems.add(format!("{unseen} of {} lists belong to no stream and no index", totals.next_list.get()));
    }
    if let Some(runs) = count(database, Column::Runs, problems)
        && runs != lists.runs
    {
        problems.add(format!("there are {runs} runs, but the lists have {}", lists.runs));
    }
    lists
}

impl Lists {
    fn head(
        &mut self,
        database: &Database,
        totals: &Totals,
        key: &[u8],
        value: &[u8],
        problems: &mut Problems,
    ) -> Result<(), Error> {
        let Some(name @ Key::Head(kind, _)) = Key::decode(Column::Heads, key) else {
            problems.add(format!("the key {key:?} of a head is malformed"));
            return Ok(());
        };
        let corrupt = |source| Error::Corrupt { key: name.clone(), source };
        let (list, entries, tombstoned) = match kind {
            Kind::Stream => {
                let head = StreamHead::decode(value).map_err(corrupt)?;
                self.streams += u64::from(head.head.last.is_some() || head.head.tombstoned);
                verify_metadata(database, &name, &head, problems)?;
                (head.list, head.head.last.map_or(0, |last| last.get() + 1), head.head.tombstoned)
            }
            Kind::Streams | Kind::Correlation | Kind::Category | Kind::EventType => {
                let head = IndexHead::decode(value).map_err(corrupt)?;
                (head.list, head.count, false)
            }
        };
        self.entries.add(kind, entries + u64::from(tombstoned));
        if list >= totals.next_list {
            problems.add(format!("{name} has list {}, but the next new one is {}", list.get(), totals.next_list.get()));
        } else if !self.is_new(list) {
            problems.add(format!("{name} shares list {} with another one", list.get()));
        }
        self.runs(database, totals, &name, list, entries, tombstoned, problems)
    }

    /// Whether no other head named this list.
    fn is_new(&mut self, list: ListId) -> bool {
        let word = usize::try_from(list.get() / 64).expect("lists fit into memory");
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let bit = 1 << (list.get() % 64);
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }

    /// Whether runs number the entries densely, at ascending positions.
    #[expect(clippy::too_many_arguments, reason = "what a head says, taken apart once")]
    fn runs(
        &mut self,
        database: &Database,
        totals: &Totals,
        name: &Key,
        list: ListId,
        entries: u64,
        tombstoned: bool,
        problems: &mut Problems,
    ) -> Result<(), Error> {
        let mut runs = database.runs(list, Reach::Disk);
        let mut next = runs.seek(0)?;
        let (mut numbered, mut ended, mut position) = (0, false, Position::START);
        while let Some(run) = next {
            self.runs += 1;
            let back = u64::from(run.count) - 1;
            if run.last == Revision::TOMBSTONE.get() && run.count == 1 {
                ended = true;
            } else if run.last - back != numbered {
                problems.add(format!("{name}: a run begins at number {}, not at {numbered}", run.last - back));
                numbered = run.last + 1;
            } else {
                numbered = run.last + 1;
            }
            if run.last_position.get() - back <= position.get() || run.last_position > totals.tail {
                problems.add(format!(
                    "{name}: the run that ends at number {} and position {} follows position {position} of {}",
                    run.last, run.last_position, totals.tail
                ));
            }
            position = run.last_position;
            next = runs.next()?;
        }
        if numbered != entries {
            problems.add(format!("{name} says that there are {entries} entries, its runs have {numbered}"));
        }
        if ended != tombstoned {
            problems.add(format!("{name}: the tombstone is in {} only", if ended { "its runs" } else { "its head" }));
        }
        Ok(())
    }
}

/// Whether a stream's head holds what its metastream says last.
fn verify_metadata(database: &Database, name: &Key, head: &StreamHead, problems: &mut Problems) -> Result<(), Error> {
    let Key::Head(_, bytes) = name else { return Ok(()) };
    let Ok(stream) = StreamName::from_utf8(Bytes::clone(bytes)) else {
        problems.add(format!("{name}: that is no stream's name"));
        return Ok(());
    };
    let mut key = Vec::new();
    keys::head(Kind::Stream, stream.metastream().as_bytes(), &mut key);
    let mut metadata = Metadata::default();
    if let Some(value) = database.get(Column::Heads, &key)? {
        let metastream = StreamHead::decode(&value).map_err(|source| Error::Corrupt {
            key: Key::Head(Kind::Stream, stream.metastream().as_bytes().clone()),
            source,
        })?;
        if let Some(last) = metastream.head.last {
            let position = runs::position_of(database, metastream.list, last.get(), Reach::Disk)?;
            let record = database.get(Column::Records, &keys::number(position.get()))?;
            metadata = Metadata::parse(record_at(position, record.as_deref())?.data_slice());
        }
    }
    if metadata != head.head.metadata {
        problems.add(format!("{name} holds {:?}, its metastream says {metadata:?}", head.head.metadata));
    }
    Ok(())
}
