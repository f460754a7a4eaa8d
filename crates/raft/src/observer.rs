//! What happens inside a node, told to whoever measures it.

use std::time::Duration;

/// Told what happens, at once and on the thread where it happens: an
/// implementation counts and returns, it never waits. Every method does
/// nothing unless implemented.
#[allow(unused_variables)]
pub trait Observer: Send + Sync + 'static {
    /// The flusher wrote and synced a group of entries.
    fn log_synced(&self, took: Duration, bytes: usize, entries: usize) {}
    /// Entries became durable in this node's log, counted from when they were
    /// handed to it.
    fn log_appended(&self, took: Duration) {}
    /// A batch of commands came back with its outcomes, counted from when it
    /// was proposed. On leaders only.
    fn committed(&self, took: Duration) {}
    /// A batch was applied to the state.
    fn applied(&self, took: Duration, events: usize) {}
    /// A command was proposed and its fate is unknown.
    fn proposal_failed(&self) {}
    /// Commands were proposed as one entry.
    fn proposed(&self, commands: usize, bytes: usize) {}
    /// What became of a proposed entry is known, or will never be.
    fn settled(&self) {}
    /// A call to a peer failed.
    fn peer_call_failed(&self, peer: u64) {}
    /// A peer was found to run on an outdated copy of its disk, or to have lost
    /// what it had acknowledged.
    fn peer_outdated(&self, peer: u64) {}
    /// A peer answered a call.
    fn peer_round_trip(&self, peer: u64, took: Duration) {}
    /// This node began to ask for votes.
    fn election_started(&self) {}
    /// This node learnt of another leader, or of none.
    fn leader_changed(&self) {}
    /// Applied state was flushed to disk.
    fn state_flushed(&self, took: Duration) {}
    /// A transfer of missing records to a peer ended.
    fn catch_up_sent(&self, peer: u64, succeeded: bool) {}
}

impl Observer for () {}
