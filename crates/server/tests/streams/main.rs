//! The streams services over a real socket: what clients send that makes no
//! sense, and the edges of reads and subscriptions.
//!
//! One node serves most tests; each uses names that nobody else uses. Whatever
//! a test sends, the node must go on serving: each hostile test ends with
//! [`node::assert_serving`].

mod append;
mod append_records;
mod batch_append;
mod broken_off;
mod consistency;
mod delete;
mod node;
mod read;
mod requests;
mod subscribe;
