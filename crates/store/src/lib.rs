//! The event store on RocksDB.
//!
//! Knows no Raft: it is handed one entry of the replicated log after another
//! and answers what became of each command. Everything is blocking but the
//! watch on the tail.
//!
//! Reading order: the handle ([`store`]); what is stored (`keys`, [`record`],
//! [`chain`], `runs`, `heads`, `standing`) and where (`delta`, `database`,
//! `directory`, `state`, `open`); how it comes about (`effects`, `remembered`, `apply`,
//! [`catch_up`]) and what becomes of what is deleted ([`reclaim`]); how it is read (`tail`, [`read`], `moment`, [`index`],
//! `streams`, `interest`); how a directory is looked at offline ([`verify`]).
//!
//! # Invariants
//! - Positions are dense from 1, revisions of a stream and numbers of an index
//!   dense from 0. Asserted when written; a gap found when reading is
//!   corruption.
//! - A state is always that after some whole entry of the replicated log,
//!   also after a crash.
//! - What a state answers is a function of the entries applied to it: the same
//!   on a node that applied them, re-applied them after a crash, or caught up.
#![forbid(unsafe_code)]

mod apply;
pub mod catch_up;
pub mod chain;
mod correlation;
mod database;
mod delta;
mod directory;
mod effects;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
mod heads;
pub mod index;
mod interest;
mod keys;
mod known_runs;
mod moment;
mod open;
pub mod options;
mod pace;
pub mod read;
pub mod reclaim;
pub mod record;
mod remembered;
mod runs;
mod standing;
mod state;
pub mod statistics;
pub mod store;
mod streams;
mod tail;
pub mod verify;

#[cfg(feature = "seeded-bugs")]
pub use apply::Shadow;
pub use catch_up::{CatchUp, CatchUpError};
pub use chain::ChainHash;
pub use error::{Error, OpenError};
pub use index::{IndexName, Link};
pub use interest::Interest;
pub use keys::{Key, Kind, ListId};
pub use moment::Sight;
pub use options::Options;
pub use read::{Direction, PageLimit, StreamPage, StreamView};
pub use reclaim::{GivenBack, Gone, LookLimit};
pub use record::{Corruption, Record};
pub use statistics::{ColumnStatistics, Statistics};
pub use store::{Durable, Mark, Store};
