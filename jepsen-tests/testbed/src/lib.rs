//! The cluster under test, and what is done to it.
//!
//! Every node is a real process in a network namespace of its own; whoever
//! calls them sits in one more. Nothing routes out of these namespaces, so a
//! fault reaches exactly the nodes it is meant for, and a run needs no
//! address of the machine.
//!
//! ```text
//!   an<pid>-load        an<pid>-n1       an<pid>-n2       an<pid>-n3
//!   198.18.0.2, .3      198.18.0.11      198.18.0.12      198.18.0.13
//!        │                   │                │                │
//!        └───────────────────┴── bridge in an<pid>-br ─────────┘
//! ```
//!
//! Clients call from `.2`; the test bed itself calls from `.3`, which no fault
//! of the network touches: a nemesis that could not see what it did would have
//! to guess.
//!
//! Read in this order: [`namespaces`], [`network`], [`process`], [`testbed`],
//! [`cluster`], [`nemesis`].
//!
//! Deliberately left out: faults of disks, which live in `annals-disks`, and
//! every judgement about a run, which is the checker's.

#![forbid(unsafe_code)]

pub mod namespaces;
pub mod network;

pub mod clock;
pub mod cluster;
mod delay;
pub mod nemesis;
pub mod process;
pub mod testbed;

use std::sync::Arc;

pub use annals_checker::history::{Fault, Installed, Nanos, NodeNumber};

pub use crate::network::{Cut, Partition};
pub use crate::process::ProcessState;
pub use crate::testbed::{NodeSpec, Options, Testbed};

/// Tells the time of the run: nanoseconds since it began.
pub type Clock = Arc<dyn Fn() -> Nanos + Send + Sync>;
