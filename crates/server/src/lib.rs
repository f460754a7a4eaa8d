//! The process around a node: configuration, one listener, gRPC services,
//! HTTP, metrics and health.
//!
//! Begin with [`run`], which starts everything in order and tells the life of
//! an append.
#![forbid(unsafe_code)]

mod access;
mod backup;
mod blocking;
mod calls;
pub mod config;
mod consistency;
pub mod context;
mod error_code;
#[doc(hidden)]
pub mod fuzzing;
mod gather;
mod groups;
mod grpc;
pub mod health;
mod http;
mod leaving;
pub mod limits;
mod listener;
pub mod logs;
mod maintenance;
mod members;
pub mod memory;
pub mod metrics;
mod receive;
pub mod recover;
pub mod run;
mod scavenge;
mod seeds;
mod statistics;
mod status;
mod tasks;
pub mod telemetry;
pub mod time;
pub mod tls;
pub mod verify;
pub mod version;

pub use access::local_token::read as read_local_token;
#[cfg(feature = "seeded-bugs")]
pub use annals_core::seeded;
pub use config::Config;
pub use context::Context;
#[doc(hidden)]
pub use grpc::streams::micro;
pub use logs::Logs;
pub use metrics::Metrics;
pub use run::{RunError, Server, run};
