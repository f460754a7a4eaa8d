//! Replication: the Raft log, its flusher, the network and the node.
//!
//! The only crate that knows how nodes agree. It keeps a replicated log of
//! opaque batches, applies them to the event store, and offers a [`Node`]:
//! append, read barrier, status, membership.
//!
//! Reading order: what a node is (`node`) and who it is (`identity`,
//! `bootstrap`, `admin`); how entries become durable (`log_store`, `entries`,
//! `flusher`, `witness`, `codec`); how they travel and are applied (`network`,
//! `service`, `state_machine`, `snapshot`, `maintenance`); what an append and
//! a read go through (`proposer`, `forward`, `read_index`).
#![forbid(unsafe_code)]

mod admin;
mod bootstrap;
mod codec;
mod config;
mod entries;
mod error;
mod flusher;
mod forward;
mod identity;
mod log_store;
mod maintenance;
mod network;
mod node;
mod observer;
mod proposer;
mod read_index;
mod service;
mod snapshot;
mod state_machine;
mod status;
mod types;
mod witness;

pub use admin::AdminRequest;
pub use config::{Config, InvalidConfig};
pub use error::{AdminError, AppendError, BarrierError, OpenError};
pub use node::{Node, Route};
pub use observer::Observer;
pub use service::NodeServices;
pub use status::{Member, Phase, Role, Status};
