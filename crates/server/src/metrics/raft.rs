//! Replication: the log's marks, the members, and what the leader knows of them.

use annals_raft::{Role, Status};
use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::declare::{Declarator, EVENTS, SECONDS, gauge};

pub(super) struct Raft {
    pub(super) is_leader: IntGauge,
    pub(super) has_leader: IntGauge,
    pub(super) term: IntGauge,
    pub(super) leader_changes: IntCounter,
    pub(super) elections: IntCounter,
    pub(super) proposals: IntCounter,
    pub(super) proposals_failed: IntCounter,
    pub(super) proposals_pending: IntGauge,
    pub(super) commit_index: IntGauge,
    pub(super) applied_index: IntGauge,
    pub(super) last_log_index: IntGauge,
    pub(super) durable_index: IntGauge,
    pub(super) snapshot_index: IntGauge,
    pub(super) purged_index: IntGauge,
    pub(super) position: IntGauge,
    pub(super) voters: IntGauge,
    pub(super) learners: IntGauge,
    pub(super) quorum_acked_seconds: Gauge,
    pub(super) peer_match_index: IntGaugeVec,
    pub(super) peer_reachable: IntGaugeVec,
    pub(super) peer_round_trip: HistogramVec,
    pub(super) peer_failures: IntCounterVec,
    pub(super) commit_duration: Histogram,
    pub(super) apply_duration: Histogram,
    pub(super) events_applied: IntCounter,
    pub(super) entry_commands: Histogram,
    pub(super) catch_ups: IntCounterVec,
    pub(super) peers_outdated: IntCounterVec,
}

impl Raft {
    pub(super) fn declare(d: &mut Declarator) -> Self {
        d.group = "raft";
        Raft {
            is_leader: d.gauge("annals_raft_is_leader", "1 on the leader, else 0."),
            has_leader: d.gauge("annals_raft_has_leader", "1 when this node knows a leader, else 0."),
            term: d.gauge("annals_raft_term", "The current term."),
            leader_changes: d.counter("annals_raft_leader_changes_total", "How often this node saw a new leader."),
            elections: d.counter("annals_raft_elections_total", "Elections for which this node stood."),
            proposals: d.counter("annals_raft_proposals_total", "Entries this node proposed that were applied."),
            proposals_failed: d.counter(
                "annals_raft_proposals_failed_total",
                "Entries this node proposed without learning their fate.",
            ),
            proposals_pending: d
                .gauge("annals_raft_proposals_pending", "Entries this node proposed that are not applied yet."),
            commit_index: d.gauge("annals_raft_commit_index", "The newest entry known to be on a quorum."),
            applied_index: d.gauge("annals_raft_applied_index", "The newest entry applied to the events."),
            last_log_index: d.gauge("annals_raft_last_log_index", "The newest entry of this node's log."),
            durable_index: d.gauge(
                "annals_raft_durable_index",
                "The newest entry whose effect is in the state's files; later ones are applied again after a crash.",
            ),
            snapshot_index: d.gauge("annals_raft_snapshot_index", "The entry at which peers can be caught up."),
            purged_index: d.gauge("annals_raft_purged_index", "The newest entry removed from the log."),
            position: d.gauge("annals_position", "The position of the newest event on this node."),
            voters: d.gauge("annals_raft_voters", "Voting members."),
            learners: d.gauge("annals_raft_learners", "Members without a vote."),
            quorum_acked_seconds: d.real_gauge(
                "annals_raft_quorum_acked_seconds",
                "On the leader: seconds since a quorum last acknowledged it. On others 0.",
            ),
            peer_match_index: d.gauges(
                "annals_raft_peer_match_index",
                &["peer"],
                "On the leader: the newest entry a peer is known to hold.",
            ),
            peer_reachable: d.gauges("annals_raft_peer_reachable", &["peer"], "1 when the last call to a peer worked."),
            peer_round_trip: d.histograms(
                "annals_raft_peer_rtt_seconds",
                &["peer"],
                "Seconds from sending entries to a peer to its answer, its fsync included.",
            ),
            peer_failures: d.counters(
                "annals_raft_peer_send_failures_total",
                &["peer"],
                "Calls to a peer that failed.",
            ),
            commit_duration: d.histogram(
                "annals_raft_commit_duration_seconds",
                &SECONDS,
                "Seconds from proposing an entry to its outcome.",
            ),
            apply_duration: d.histogram("annals_raft_apply_duration_seconds", &SECONDS, "Seconds to apply one entry."),
            events_applied: d.counter("annals_events_applied_total", "Events written to this node's state."),
            entry_commands: d.histogram(
                "annals_raft_entry_commands",
                &EVENTS,
                "Appends that were proposed together as one entry.",
            ),
            catch_ups: d.counters(
                "annals_raft_catch_ups_total",
                &["peer", "result"],
                "Transfers of missing events to a peer that was behind the log, by how they ended.",
            ),
            peers_outdated: d.counters(
                "annals_raft_peers_outdated_total",
                &["peer"],
                "Times a peer was found to lack what it had acknowledged, or to run on an outdated copy of its disk; at most one in ten seconds.",
            ),
        }
    }

    pub(super) fn refresh(&self, status: &Status) {
        self.is_leader.set(i64::from(status.role == Role::Leader));
        self.has_leader.set(i64::from(status.leader.is_some()));
        self.term.set(gauge(status.term));
        self.commit_index.set(gauge(status.committed));
        self.applied_index.set(gauge(status.applied));
        self.last_log_index.set(gauge(status.last_log));
        self.durable_index.set(gauge(status.durable));
        self.snapshot_index.set(gauge(status.snapshot));
        self.purged_index.set(gauge(status.purged));
        let voters = status.members.iter().filter(|member| member.voter).count();
        self.voters.set(gauge(voters as u64));
        self.learners.set(gauge((status.members.len() - voters) as u64));
        self.quorum_acked_seconds.set(status.quorum_acked_ago.unwrap_or_default().as_secs_f64());
        // A peer that was removed must not linger with its last value.
        self.peer_match_index.reset();
        self.peer_reachable.reset();
        for member in status.members.iter().filter(|member| member.id != status.node) {
            let peer = member.id.to_string();
            if let Some(matched) = member.matched {
                self.peer_match_index.with_label_values(&[&peer]).set(gauge(matched));
            }
            self.peer_reachable.with_label_values(&[&peer]).set(i64::from(member.reachable));
        }
    }
}
