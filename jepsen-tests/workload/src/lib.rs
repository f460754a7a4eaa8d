//! What clients do to the cluster under test, and the record of what they saw.
//!
//! The way of one append: a [process](mod@process) takes its turn, chooses
//! streams from the shared [`board`] and makes events ([`payload`]); a
//! [call](calls) stamps the clock, speaks the wire and maps the answer to an
//! outcome; the [`Recorder`] writes it down; the board learns from it.
//!
//! Invariants
//! - A call is recorded exactly once, by the function that made it, with the
//!   time before its first byte left and after its answer was parsed.
//! - Nothing is repeated below a process: a retry is a record of its own.
//! - A call that never left, because no connection could be made, is counted
//!   but not recorded: there is nothing that it could tell.
//! - Only the wire is shared with the product: its client is not used here,
//!   and the outcomes follow `docs/consistency.md` alone.

#![forbid(unsafe_code)]

mod access;
mod board;
pub mod calls;
mod endpoints;
mod final_phase;
mod groups;
mod hashes;
pub mod payload;
mod plan;
mod prober;
mod process;
mod reads;
mod recorder;
mod scavenge;
mod subscriptions;
pub mod wire;
mod workload;
mod writes;

pub use access::{ADMIN, AccessLoad, AccessSeen, start_access};
pub use endpoints::Endpoints;
pub use final_phase::{FinalOptions, FinalState, final_phase};
pub use groups::{GroupPlan, Groups};
pub use payload::seen_digest;
pub use plan::Plan;
pub use recorder::{Counts, Recorder};
pub use scavenge::{ScavengeLoad, start_scavenges};
pub use subscriptions::Subscriptions;
pub use workload::{Running, start};
