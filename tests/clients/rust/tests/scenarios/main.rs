//! Annals under the official Rust client, `kurrentdb` 1.2.0.
//!
//! `ANNALS_URL` names the server, for example `kurrentdb://127.0.0.1:2113?tls=false`;
//! `ANNALS_CLUSTER_URL` names all nodes and switches the scenarios of `cluster` on.
//! Stream names are new in every scenario, so the suite runs again and again on one
//! server, whatever `$all` already holds.
//!
//! This client unwraps almost everything a server may leave out, so that a missing
//! oneof shows here as a panic. It has no v2 writes.

mod support;

mod cluster;
mod concurrency;
mod deletion;
mod expected_state;
mod groups;
mod idempotency;
mod links_and_indexes;
mod metadata;
mod names;
mod operations;
mod payloads;
mod reading;
mod subscriptions;
mod users;
