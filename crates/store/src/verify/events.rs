//! Every record, and its place in each list that it belongs to.

use std::io;

use annals_core::{Position, Revision, StreamName, Timestamp};
use bytes::Bytes;

use super::lists::{Entries, Lists};
use super::{Audience, END, Problems, count};
use crate::chain::ChainHash;
use crate::database::{Database, Reach, reading};
use crate::effects::indexes_of;
use crate::error::Error;
use crate::heads::{HeadsCache, IndexHead, StreamHead};
use crate::keys::{self, Column, Key, Kind, ListId};
use crate::record::{Corruption, Record};
use crate::runs::{self, Run};
use crate::standing::Totals;
use crate::state::READAHEAD;

/// Lists that are followed without being looked up.
const FOLLOWED_MAX: usize = 200_000;

/// Positions in a row that cannot be read before the rest is given up: each
/// costs a read of the disk, and more of them tell nothing new.
const UNREADABLE_MAX: u64 = 1_000;

/// How a list is followed.
#[derive(Clone, Copy)]
enum Cursor {
    At(Place),
    /// Not any more: it is wrong, and that was told.
    Told,
}

/// What is wrong with a list.
enum Wrong {
    Unreadable(Error),
    /// In words, after its name.
    Differs(String),
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        Wrong::Unreadable(error)
    }
}

/// Where a list stands between two of its entries.
#[derive(Clone, Copy)]
struct Place {
    list: ListId,
    /// The number of the entry that comes next.
    next: u64,
    /// The run that was looked up last.
    run: Option<Run>,
}

struct Walk<'d> {
    database: &'d Database,
    cursors: HeadsCache<Cursor>,
    entries: Entries,
    newest_time: Timestamp,
    /// Seconds in which an event was created.
    seconds: u64,
    /// None after something that could not be read, up to the next hash that is
    /// saved.
    chain: Option<ChainHash>,
    key: Vec<u8>,
}

/// Verifies all records.
pub(super) fn verify(
    database: &Database,
    totals: &Totals,
    lists: &Lists,
    problems: &mut Problems,
    audience: &mut dyn Audience,
) -> io::Result<()> {
    let mut walk = Walk {
        database,
        cursors: HeadsCache::new(FOLLOWED_MAX),
        entries: Entries::default(),
        newest_time: Timestamp::default(),
        seconds: 0,
        chain: Some(ChainHash::START),
        key: Vec::new(),
    };
    let complete = walk.records(totals, problems, audience)?;
    if !complete {
        // What follows would only repeat that records are missing.
        return Ok(());
    }
    for kind in Entries::KINDS {
        let (listed, found) = (lists.entries.of(kind), walk.entries.of(kind));
        if listed != found {
            problems.add(format!("lists of kind {kind:?} have {listed} entries, the events make {found}"));
        }
    }
    if walk.newest_time != totals.newest_time {
        problems.add(format!(
            "the newest event was created at {:?}, the state says {:?}",
            walk.newest_time, totals.newest_time
        ));
    }
    if let Some(chain) = walk.chain.filter(|chain| *chain != totals.chain) {
        problems.add(format!("the chain hash of all events is {chain}, the state says {}", totals.chain));
    }
    for (column, expected) in
        [(Column::Times, walk.seconds), (Column::Chain, totals.tail.get() / crate::chain::SAVED_EVERY)]
    {
        if let Some(found) = count(database, column, problems)
            && found != expected
        {
            problems.add(format!("the column {} has {found} entries instead of {expected}", column.name()));
        }
    }
    Ok(())
}

impl Walk<'_> {
    /// Goes through all records; whether all could be read.
    fn records(&mut self, totals: &Totals, problems: &mut Problems, audience: &mut dyn Audience) -> io::Result<bool> {
        let tail = totals.tail;
        let mut records = self.database.scan(Column::Records, &[], &END, READAHEAD);
        records.seek_to_first();
        let mut next = Position::START.next();
        let (mut beyond, mut unreadable, mut complete) = (0, 0, true);
        loop {
            let Some((key, value)) = records.item() else {
                let Err(error) = records.status() else { break };
                complete = false;
                self.chain = None;
                if unreadable == 0 {
                    problems.add_failure(&reading(error));
                }
                unreadable += 1;
                problems.add(format!("{} cannot be read", Key::Record(next)));
                if unreadable >= UNREADABLE_MAX || next >= tail {
                    problems.add(format!("events from position {next} on were not looked at"));
                    return Ok(false);
                }
                next = next.next();
                records.seek(keys::number(next.get()));
                continue;
            };
            let Some(Key::Record(at)) = Key::decode(Column::Records, key) else {
                problems.add(format!("the key {key:?} of a record is malformed"));
                records.next();
                continue;
            };
            if at > tail {
                beyond += 1;
                records.next();
                continue;
            }
            unreadable = 0;
            if at != next {
                complete = false;
                self.chain = None;
                problems.add(format!("there are no events from position {next} to {}", at.get() - 1));
            }
            next = at.next();
            match self.record(at, value, problems) {
                Ok(record) => audience.event(&record)?,
                Err(error) => {
                    complete = false;
                    self.chain = None;
                    problems.add_failure(&error);
                }
            }
            if ChainHash::is_saved_at(at)
                && let Err(error) = self.saved_chain(at, problems)
            {
                problems.add_failure(&error);
            }
            audience.progress("events", at.get(), tail.get());
            records.next();
        }
        if next <= tail {
            complete = false;
            problems.add(format!("there are no events from position {next} to {tail}, where the log ends"));
        }
        if beyond > 0 {
            problems.add(format!("{beyond} events lie behind position {tail}, where the log ends"));
        }
        Ok(complete)
    }

    /// The record in these bytes, once its place is verified.
    fn record(&mut self, at: Position, value: &[u8], problems: &mut Problems) -> Result<Record, Error> {
        let corrupt = |source| Error::Corrupt { key: Key::Record(at), source };
        let record = Record::from_slice(value).map_err(corrupt)?;
        if record.position() != at {
            return Err(corrupt(Corruption::Misplaced { found: record.position() }));
        }
        let stream = StreamName::from_utf8(Bytes::copy_from_slice(record.stream().as_bytes()))
            .map_err(|_| corrupt(Corruption::Invalid("its stream's name is no stream name")))?;
        self.chain = self.chain.map(|chain| chain.then(&record));
        if let Err(error) = self.time(&record, problems) {
            problems.add_failure(&error);
        }
        self.entry(Kind::Stream, stream.as_str(), at, Some(record.revision()), problems);
        indexes_of(&record, &stream, |kind, name| {
            self.entry(kind, name, at, None, problems);
            Ok(())
        })?;
        Ok(record)
    }

    /// Looks whether the record is the list's next entry, or the one with this
    /// number. A list is complained of once: what comes after a wrong entry is
    /// mostly wrong too.
    fn entry(&mut self, kind: Kind, name: &str, at: Position, revision: Option<Revision>, problems: &mut Problems) {
        self.entries.add(kind, 1);
        keys::head(kind, name.as_bytes(), &mut self.key);
        let cursor = match self.follow(kind, at, revision) {
            Ok(cursor) => cursor,
            Err(wrong) => {
                match wrong {
                    Wrong::Unreadable(error) => problems.add_failure(&error),
                    Wrong::Differs(what) => {
                        let head = Key::Head(kind, Bytes::copy_from_slice(name.as_bytes()));
                        problems.add(format!("{head} {what}, though the event at position {at} belongs to it"));
                    }
                }
                Cursor::Told
            }
        };
        self.cursors.insert(std::iter::once((self.key.as_slice().into(), cursor)));
    }

    /// How the list whose key is in `self.key` is followed from here on.
    fn follow(&self, kind: Kind, at: Position, revision: Option<Revision>) -> Result<Cursor, Wrong> {
        let mut place = match self.cursors.get(&self.key) {
            Some(Cursor::Told) => return Ok(Cursor::Told),
            Some(Cursor::At(place)) => place,
            None => self.look_up(kind, at)?.ok_or_else(|| Wrong::Differs("is not there".to_owned()))?,
        };
        let number = revision.map_or(place.next, Revision::get);
        if place.run.and_then(|run| run.position_of(number)).is_none() {
            place.run = self.database.runs(place.list, Reach::Disk).seek(number)?;
        }
        let found = place.run.and_then(|run| run.position_of(number));
        if found == Some(at) {
            // After a tombstone nothing comes.
            return Ok(Cursor::At(Place { next: number.saturating_add(1), ..place }));
        }
        let found = found.map_or("nothing".to_owned(), |found| format!("position {found}"));
        Err(Wrong::Differs(format!("has {found} as number {number}")))
    }

    /// Where a list stands before its entry at this position. The key is in
    /// `self.key`.
    fn look_up(&self, kind: Kind, at: Position) -> Result<Option<Place>, Error> {
        let Some(value) = self.database.get(Column::Heads, &self.key)? else { return Ok(None) };
        // What cannot be decoded was told of when the lists were verified.
        let (list, count) = match kind {
            Kind::Stream => match StreamHead::decode(&value) {
                // A record says its revision.
                Ok(head) => (head.list, 0),
                Err(_) => return Ok(None),
            },
            Kind::Streams | Kind::Correlation | Kind::Category | Kind::EventType => match IndexHead::decode(&value) {
                Ok(head) => (head.list, head.count),
                Err(_) => return Ok(None),
            },
        };
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if runs::position_of(self.database, list, middle, Reach::Disk)? < at {
                low = middle + 1
            } else {
                high = middle
            }
        }
        Ok(Some(Place { list, next: low, run: None }))
    }

    fn time(&mut self, record: &Record, problems: &mut Problems) -> Result<(), Error> {
        let (at, created) = (record.position(), record.created());
        if created < self.newest_time {
            problems.add(format!("event {at} was created at {created:?}, before {:?}", self.newest_time));
        }
        let second = created.ticks() / Timestamp::TICKS_PER_SECOND;
        if self.seconds == 0 || second > self.newest_time.ticks() / Timestamp::TICKS_PER_SECOND {
            self.seconds += 1;
            let found = self.database.get(Column::Times, &keys::number(second))?;
            if found.as_deref() != Some(&keys::number(at.get())[..]) {
                problems.add(format!("{} is not position {at}", Key::Time(second)));
            }
        }
        self.newest_time = created;
        Ok(())
    }

    /// Compares the chain hash with the one that was saved; takes it over where
    /// there is none to compare.
    fn saved_chain(&mut self, at: Position, problems: &mut Problems) -> Result<(), Error> {
        let corrupt = |source| Error::Corrupt { key: Key::Chain(at), source };
        let saved = self.database.get(Column::Chain, &keys::number(at.get()))?;
        let saved = saved.ok_or(Corruption::Missing).map_err(corrupt)?;
        let saved: [u8; 16] =
            (*saved).try_into().map_err(|_| corrupt(Corruption::Length { expected: 16, found: saved.len() }))?;
        let saved = ChainHash::from_bytes(saved);
        if let Some(chain) = self.chain.filter(|chain| *chain != saved) {
            problems.add(format!("the chain hash of the events up to position {at} is {chain}, saved is {saved}"));
        }
        // Further differences are to be found, not this one again.
        self.chain = Some(saved);
        Ok(())
    }
}
