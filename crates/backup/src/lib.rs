//! Backups of a cluster: what they are made of, where they lie, how they are made,
//! verified and restored.
//!
//! A backup is a stretch of the log, as its records are stored, in immutable files
//! ([`segment`]) that a [`manifest`] lists. The manifest is written last: without it
//! there is no backup, only the beginning of one. A *full* backup begins at the start of
//! the log; an *incremental* one goes on where its parent ended. A [`place`] holds
//! backups side by side.
//!
//! Three things vouch for what is in it: each record's own checksums, each file's
//! SHA-256, and the cluster's chain hash at the end of every file, computed anew from
//! the records. The last one ties a backup to the log that it was taken from: no event
//! is missing, changed or in another order.
//!
//! Reading order: [`manifest`], [`segment`], [`place`]; then what is done with them:
//! [`create`], [`verify`], [`restore`]. Beside them, what leaves or enters a cluster event
//! by event: [`history`], [`line`], [`import`].
#![forbid(unsafe_code)]

pub mod create;
mod error;
pub mod history;
pub mod import;
pub mod line;
pub mod manifest;
pub mod place;
pub mod restore;
pub mod segment;
pub mod verify;

pub use annals_core::{Position, Timestamp, rfc3339};
pub use error::Error;
pub use manifest::{Kind, Manifest};
pub use place::Place;
