//! Replication: the Raft log, its flusher, the network and the node.
//!
//! The only crate that knows how nodes agree. It keeps a replicated log of
//! opaque batches, applies them to the event store, and offers a [`Node`]:
//! append, read barrier, status, membership.
//!
//! Reading order: what a node is (`node`) and who it is (`identity`, `lineage`,
//! `peer_memory`, `introduction`, `join`, `founders`, `bootstrap`, `admin`,
//! `promotion`, `survey`); how entries become
//! durable (`log_store`, `entries`, `flusher`, `segments`, `witness`, `codec`); how they
//! travel and are applied (`transport`, `network`, `ledger`, `service`, `state_machine`,
//! `snapshot`, `maintenance`); how a dead leader is noticed (`leader_loss`), who
//! should lead (`priority`) and who may be restarted (`lease`); what
//! an append and a read go through (`proposer`, `forward`, `read_index`); how a
//! stopped node's directory is looked at ([`verify`]), gone on with when the others are
//! lost ([`recover`]), and a new one made of a backup ([`restore`]).
#![forbid(unsafe_code)]

#[cfg(all(feature = "simulation", feature = "seeded-bugs"))]
compile_error!("simulation makes its own mistakes (`simulation::Mutation`): not together with seeded-bugs");

mod admin;
mod blocking;
mod bootstrap;
mod codec;
mod config;
mod departure;
mod entries;
mod error;
mod event_store;
mod flusher;
mod forward;
mod founders;
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod introduction;
mod join;
mod leader_loss;
mod lease;
mod ledger;
mod lineage;
mod log_store;
mod maintenance;
#[doc(hidden)]
pub mod micro;
#[cfg(feature = "seeded-bugs")]
mod mistakes;
mod network;
mod node;
mod observer;
mod peer_memory;
mod priority;
mod promotion;
mod proposer;
mod read_index;
pub mod recover;
pub mod restore;
mod runtime;
mod segments;
mod service;
#[cfg(feature = "simulation")]
pub mod simulation;
mod snapshot;
mod state_machine;
mod status;
mod survey;
mod transport;
mod types;
pub mod verify;
mod witness;

pub use admin::AdminRequest;
pub use config::{Config, InvalidConfig};
pub use error::{AdminError, AppendError, BarrierError, OpenError};
pub use join::{Resolved, Seeds};
pub use network::MESSAGE_BYTES_MAX;
pub use node::{Node, Route};
pub use observer::Observer;
pub use proposer::WAITING_MAX as APPENDS_WAITING_MAX;
pub use service::FORWARDED as FORWARDED_MAX;
pub use service::NodeServices;
pub use status::{Member, Phase, Role, Status};
pub use transport::{ClearText, Connect, NodeNames};
