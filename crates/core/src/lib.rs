//! The words of an event log and the rules that decide its appends.
//!
//! Everything here is a pure function of its arguments: no I/O, no async, no
//! clock, no randomness. That is what makes replicas agree: each node runs
//! [`decide::decide`] over the same commands in the same order and comes to
//! the same events.
//!
//! Reading order: the words ([`position`], [`revision`], [`stream_name`],
//! [`event`]), what is asked ([`command`], [`expected`]), what is known
//! ([`head`], [`metadata`]), how times are written ([`rfc3339`]), who may ask it ([`access`]), what is answered
//! ([`outcome`]), and the heart that ties them together, [`decide`]; then what goes
//! for good ([`scavenge`]), what comes from elsewhere ([`import`]), and whose turn it is
//! to be restarted ([`lease`]).
#![forbid(unsafe_code)]

pub mod access;
pub mod command;
pub mod decide;
pub mod event;
pub mod expected;
pub mod filter;
pub mod group;
pub mod head;
pub mod import;
pub mod lease;
pub mod limits;
pub mod metadata;
pub mod outcome;
pub mod position;
pub mod revision;
pub mod rfc3339;
pub mod scavenge;
pub mod seeded;
pub mod stream_name;
pub mod timestamp;
mod wire;

pub use access::{Acl, Denied, Principal, Right};
pub use command::{Append, Batch, Command, Role, Target};
pub use event::{Content, Event, EventId, EventType, Properties};
pub use expected::Expected;
pub use head::{Head, State};
pub use import::{Import, Imported};
pub use lease::Lease;
pub use metadata::Metadata;
pub use outcome::{Actual, Appended, Outcome, Refusal, Violation};
pub use position::Position;
pub use revision::Revision;
pub use scavenge::{Reclaim, Scavenge};
pub use stream_name::StreamName;
pub use timestamp::Timestamp;
pub use wire::DecodeError;
