//! What replication tells is counted here, where it happens.

use std::time::Duration;

use annals_raft::Observer;

use super::Metrics;

impl Observer for Metrics {
    fn log_synced(&self, took: Duration, bytes: usize, entries: usize) {
        self.0.disk.fsync_duration.observe(took.as_secs_f64());
        self.0.compat.flush_seconds.observe(took.as_secs_f64());
        self.0.compat.flush_bytes.observe(bytes as f64);
        self.0.disk.log_bytes.inc_by(bytes as u64);
        self.0.disk.log_entries.inc_by(entries as u64);
    }

    fn log_appended(&self, took: Duration) {
        self.0.disk.append_duration.observe(took.as_secs_f64());
        self.0.compat.queueing_seconds.observe(took.as_secs_f64());
    }

    fn committed(&self, took: Duration) {
        self.0.raft.proposals.inc();
        self.0.raft.commit_duration.observe(took.as_secs_f64());
    }

    fn applied(&self, took: Duration, events: usize) {
        self.0.raft.apply_duration.observe(took.as_secs_f64());
        self.0.raft.events_applied.inc_by(events as u64);
    }

    fn proposal_failed(&self) {
        self.0.raft.proposals_failed.inc();
    }

    fn peer_call_failed(&self, peer: u64) {
        self.0.raft.peer_failures.with_label_values(&[&peer.to_string()]).inc();
    }

    fn peer_outdated(&self, peer: u64) {
        self.0.raft.peers_outdated.with_label_values(&[&peer.to_string()]).inc();
    }

    fn peer_round_trip(&self, peer: u64, took: Duration) {
        self.0.raft.peer_round_trip.with_label_values(&[&peer.to_string()]).observe(took.as_secs_f64());
    }

    fn election_started(&self) {
        self.0.raft.elections.inc();
    }

    fn leader_changed(&self) {
        self.0.raft.leader_changes.inc();
    }

    fn proposed(&self, commands: usize, _bytes: usize) {
        self.0.raft.entry_commands.observe(commands as f64);
        self.0.raft.proposals_pending.inc();
    }

    fn settled(&self) {
        self.0.raft.proposals_pending.dec();
    }

    fn state_flushed(&self, took: Duration) {
        self.0.disk.flush_duration.observe(took.as_secs_f64());
    }

    fn catch_up_sent(&self, peer: u64, succeeded: bool) {
        let result = if succeeded { "ok" } else { "failed" };
        self.0.raft.catch_ups.with_label_values(&[peer.to_string().as_str(), result]).inc();
    }
}
