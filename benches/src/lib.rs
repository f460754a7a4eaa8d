//! Load for Annals through its wire protocol, and the loop that measures other
//! systems alike.
//!
//! `annals bench` is the command; this is what it does. One measurement, step
//! by step:
//!
//! 1. [`target`] opens connections: one for every 16 clients, so that the
//!    figures are those of applications and not of one HTTP/2 connection;
//! 2. a module for each kind of load ([`append`], [`read`], [`subscribe`],
//!    [`mixed`]) makes workers, each one client with one request under way;
//! 3. [`load`] lets them run, closed or open, and measures;
//! 4. every answer is checked ([`sequence`], `streams`): a wrong one ends the
//!    run, because the speed of a wrong answer is worth nothing;
//! 5. the [`report`] has the figures, for people and for programs.
//!
//! The generator shares the machine with the servers it measures, so it is
//! sparing: events are copied from templates into the connection's buffer and
//! of an answer only what is checked is decoded (`wire`).
#![forbid(unsafe_code)]

pub mod append;
mod event;
pub mod length;
pub mod load;
pub mod mixed;
pub mod read;
pub mod report;
pub mod sequence;
mod streams;
pub mod subscribe;
pub mod target;
pub mod watch;
mod wire;
