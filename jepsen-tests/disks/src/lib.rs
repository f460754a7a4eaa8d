//! What can befall the disk under a node: power loss, lost syncs, errors, no
//! space, rot.
//!
//! | module | fault | how |
//! |---|---|---|
//! | [`power_loss`] | F5 | a volume over a log of block writes, from which every state that a power cut could leave is rebuilt |
//! | [`crash_points`] | F6 | the process is killed at its N-th system call |
//! | [`full_disk`] | F7 | a small volume that is filled and freed |
//! | [`io_error`], [`device_error`] | F8, F10 | system calls, or a whole device, that fail, lie or are slow |
//! | [`corruption`] | F9 | bits, pages and ends of files change |
//!
//! [`node`] runs a single node on such a disk, [`image`] says what a node makes
//! of one. All calls block, need root, and undo what they did when their value
//! is dropped; what a killed process leaves behind is undone by the next one
//! that uses this crate ([`leftovers`]).
//!
//! Killing a process alone never loses what it wrote, because the page cache
//! stays. Only [`power_loss`] can find a sync that is missing.
#![forbid(unsafe_code)]

pub mod tools;

pub mod leftovers;

pub mod block_log;
pub mod power_loss;

pub mod full_disk;

pub mod device_error;
pub mod io_error;

pub mod corruption;

pub mod ledger;
pub mod node;

pub mod image;

pub mod crash_points;
pub mod power_cut;
pub mod rot;
