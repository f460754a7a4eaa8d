//! Looking at a store offline: whether all of it is what was written.
//!
//! Everything is read, nothing is written, and the node must not be running.
//! Memory is bounded by caches, whatever the store's size: streams and indexes
//! are followed through their lists on disk, never collected.
//!
//! Two passes, which together leave nothing out:
//!
//! - [`lists`]: every head can be read and its runs number its entries densely
//!   and at ascending positions; no run belongs to no list.
//! - [`events`]: every record is intact, at its position, and has an entry at
//!   the right place in its stream and in each index that it belongs to; the
//!   chain hash is computed anew.
//!
//! A list that is dense, has as many entries as records point into it, and each
//! of these at its own number, holds exactly those records. So the passes need
//! not follow the entries back to the records.

mod events;
mod lists;

use std::fmt::Display;
use std::io;
use std::path::Path;

use annals_core::{Position, Timestamp};

use crate::chain::ChainHash;
use crate::database::Database;
use crate::directory::Directory;
use crate::error::Error;
use crate::keys::Column;
use crate::open;
use crate::record::Record;
use crate::standing::{Standing, Totals};
use crate::state::{self, READAHEAD};
use crate::store::Mark;

/// Who is told while a store is verified.
pub trait Audience {
    /// An intact event. Each once, in the order of positions.
    ///
    /// # Errors
    /// Ends the verification.
    fn event(&mut self, record: &Record) -> io::Result<()>;

    /// So much of a task is done. Called often.
    fn progress(&mut self, task: &'static str, done: u64, of: u64);
}

/// What a verification found wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// The first of them, each once, at most [`Problems::TOLD_MAX`].
    pub told: Vec<String>,
    /// How many there are in all.
    pub count: u64,
}

impl Problems {
    /// Problems that are told one by one. One damaged block can make thousands.
    pub const TOLD_MAX: usize = 100;

    /// Adds one. What was told is counted, not told again: one block that
    /// cannot be read is in the way of many.
    pub fn add(&mut self, problem: impl Display) {
        self.count += 1;
        let problem = problem.to_string();
        if self.told.len() < Self::TOLD_MAX && !self.told.contains(&problem) {
            self.told.push(problem);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds an error with its causes.
    pub fn add_error(&mut self, attempted: impl Display, error: &dyn std::error::Error) {
        self.add(format!("{attempted}: {}", with_causes(error)));
    }

    fn add_failure(&mut self, error: &Error) {
        self.add(with_causes(error));
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// What a store holds, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Where in the replicated log it stands; none before the first entry.
    pub mark: Option<Mark>,
    /// The position of the newest event.
    pub tail: Position,
    /// The chain hash there, as stored.
    pub chain: ChainHash,
    /// When the newest event was created.
    pub newest_time: Timestamp,
    /// Streams that have or had events.
    pub streams: u64,
}

impl Verified {
    fn of(standing: &Standing, streams: u64) -> Self {
        let Totals { tail, newest_time, chain, .. } = standing.totals;
        Verified { mark: standing.mark.clone(), tail, chain, newest_time, streams }
    }
}

/// Looks at everything in the current state of a data directory. What is wrong
/// is added to `problems`.
///
/// # Errors
/// Those of the audience. A store that cannot be read is a problem and no error.
pub fn verify(data: &Path, problems: &mut Problems, audience: &mut dyn Audience) -> io::Result<Verified> {
    let nothing = Verified::of(&Standing::new(), 0);
    let directory = Directory::existing(data);
    let Some(database) = open_current(&directory, problems) else { return Ok(nothing) };
    let standing = match state::read_standing(&database) {
        Ok(standing) => standing,
        Err(error) => {
            problems.add_failure(&error);
            return Ok(nothing);
        }
    };
    // Unnamed is only a state to which nothing was ever applied.
    if standing.mark.is_some() && !directory.pointer().exists() {
        problems.add(pointer_is_missing(&directory));
    }
    match state::read_format(&database) {
        Ok(Some(state::FORMAT)) => {}
        Ok(Some(other)) => {
            problems.add(format!("the state has format {other}, this release reads format {}", state::FORMAT));
            return Ok(nothing);
        }
        // A start that was cut short before anything was applied.
        Ok(None) if standing.mark.is_none() => return Ok(nothing),
        Ok(None) => problems.add("the state does not name its format"),
        Err(error) => problems.add_failure(&error),
    }
    let lists = lists::verify(&database, &standing.totals, problems, audience);
    events::verify(&database, &standing.totals, &lists, problems, audience)?;
    Ok(Verified::of(&standing, lists.streams))
}

/// The database of the state that counts; none where there is none, which is a
/// problem unless nothing was ever written.
fn open_current(directory: &Directory, problems: &mut Problems) -> Option<Database> {
    let named = match directory.current() {
        Ok(named) => named,
        Err(error) => {
            problems.add_error("cannot tell which state counts", &error);
            return None;
        }
    };
    let path = match (named, directory.states()) {
        (Some(number), _) => directory.state(number),
        (None, Ok(states)) => match states.as_slice() {
            [] => return None,
            [open::FIRST] => directory.state(open::FIRST),
            _ => {
                problems.add(pointer_is_missing(directory));
                return None;
            }
        },
        (None, Err(failed)) => {
            problems.add_error("cannot list the states", &crate::error::OpenError::from(failed));
            return None;
        }
    };
    if !path.is_dir() {
        problems.add(format!("the current state {} is not there", path.display()));
        return None;
    }
    match Database::open_read_only(&path) {
        Ok(database) => Some(database),
        Err(error) => {
            problems.add_error(format!("cannot open the state in {}", path.display()), &error);
            None
        }
    }
}

fn pointer_is_missing(directory: &Directory) -> String {
    format!("{} is missing: nothing says which state counts", directory.pointer().display())
}

/// How many keys a column has. `None` after a problem.
fn count(database: &Database, column: Column, problems: &mut Problems) -> Option<u64> {
    let mut items = database.scan(column, &[], &END, READAHEAD);
    items.seek_to_first();
    let mut count = 0;
    while items.valid() {
        count += 1;
        items.next();
    }
    match items.status() {
        Ok(()) => Some(count),
        Err(error) => {
            problems.add_error(format!("cannot read the column {}", column.name()), &error);
            None
        }
    }
}

/// Behind every key.
const END: [u8; 17] = [0xff; 17];
