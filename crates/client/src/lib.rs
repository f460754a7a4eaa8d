//! A Rust client: connection strings as the official KurrentDB clients write
//! them, appending, reading and subscribing, and what Annals adds to operate
//! a cluster.
//!
//! It speaks the public protocol, so that everything but
//! [`Client::cluster`] and [`Client::backups`] works against any server that speaks it too.
#![forbid(unsafe_code)]

mod backup;
mod channel;
mod client;
mod cluster;
pub mod connection_string;
pub mod error;
mod error_code;
pub mod event;
mod groups;
mod logs;
mod maintenance;
mod read;
mod subscribe;
mod users;

pub use backup::{Answers, Backups, Importing, Records};
pub use client::{Appended, Client, Deleted};
pub use cluster::Cluster;
pub use connection_string::{Credentials, Host, InvalidConnectionString, NodePreference, Settings};
pub use error::{Error, Kind};
pub use event::{Expected, NewEvent, Recorded, Resolved};
pub use groups::{Group, Groups, NewGroup};
pub use logs::{LogLines, Logs};
pub use maintenance::Maintenance;
pub use read::{Cursor, Direction, Filter, Item, ReadOptions, Reading, Source};
pub use subscribe::Subscription;
pub use users::{User, Users};
