//! How a node begins to take part: everything that needs an identity is started here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use annals_core::{Timestamp, seeded};
use futures::FutureExt;
use openraft::SnapshotPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::StorageHelper;
use tokio::sync::watch;

use super::reads::{ask_leader, ask_quorum};
use super::watching::{until, watch_core, watch_outdated, watch_recovery, watch_removal};
use super::{Node, Running};
use crate::admin::{Actor, Admin, NetworkPeers};
use crate::config::Config;
use crate::error::OpenError;
use crate::forward::Forwarder;
use crate::identity::{self, Identity};
use crate::introduction::{self, Introduction};
use crate::leader_loss;
use crate::ledger::Ledger;
use crate::network::{Dialer, Network};
use crate::proposer::{Proposer, Surroundings};
use crate::read_index::ReadIndex;
use crate::state_machine::StateMachine;
use crate::status::Phase;
use crate::types::{Membership, Raft};

impl Node {
    /// Starts everything that needs an identity.
    pub(super) async fn take_part(&self, identity: Identity) -> Result<(), OpenError> {
        let inner = &self.inner;
        let config = &inner.config;
        let failed = |error: &dyn std::fmt::Display| OpenError::Raft(error.to_string());
        let removed = watch::Sender::new(false);
        let machine = StateMachine::new(
            identity.node,
            inner.store.clone(),
            inner.log.clone(),
            config.observer.clone(),
            removed.clone(),
        )
        .map_err(|error| failed(&error))?;
        machine.bring_snapshot_up_to_date().await.map_err(|error| failed(&error))?;
        let membership = StorageHelper::new(&mut inner.log.clone(), &mut machine.clone()).get_membership().await;
        let membership = membership.map_err(|error| failed(&error))?.effective().membership().clone();
        address_as_known(config, identity.node, &membership)?;
        let introduction = Introduction { identity, channels: inner.channels.clone(), memory: inner.memory.clone() };
        let mut known = BTreeSet::new();
        introduction.to_all(&membership, &mut known).await.map_err(|why| self.refused_as_outdated(why))?;
        let dialer = Dialer {
            identity,
            address: config.address.clone(),
            channels: inner.channels.clone(),
            transfers: inner.transfers.clone(),
            observer: config.observer.clone(),
            removed: removed.clone(),
            outdated: inner.outdated.clone(),
            memory: inner.memory.clone(),
            ledger: Ledger::default(),
        };
        let raft = Raft::new(
            identity.node,
            Arc::new(raft_config(config, identity).map_err(|error| failed(&error))?),
            Network::new(Arc::new(dialer)),
            inner.log.clone(),
            machine.clone(),
        )
        .await
        .map_err(|error| failed(&error))?;

        let (proposer, proposing) = Proposer::new(
            config.append_queue_bytes,
            Surroundings {
                raft: raft.clone(),
                clock: || Timestamp::from(SystemTime::now()),
                observer: config.observer.clone(),
                free_bytes: inner.free_bytes.clone(),
                reserve_bytes: config.disk_reserve_bytes,
                stopping: inner.stopping.clone(),
                #[cfg(feature = "seeded-bugs")]
                mistakes: crate::mistakes::Proposing::new(inner.store.clone(), inner.log.clone(), raft.clone()),
            },
        );
        let (leader_reads, asking_quorum) = ReadIndex::new({
            let raft = raft.clone();
            move || ask_quorum(raft.clone()).boxed()
        });
        let (reads, asking_leader) = ReadIndex::new({
            let (raft, channels, own) = (raft.clone(), inner.channels.clone(), leader_reads.clone());
            move || ask_leader(raft.clone(), channels.clone(), identity, own.clone()).boxed()
        });
        let (admin, administering) = Admin::new(Actor {
            raft: raft.clone(),
            identity,
            proposer: proposer.clone(),
            peers: Arc::new(NetworkPeers { identity, channels: inner.channels.clone() }),
        });
        let forwarder = Arc::new(Forwarder::new(
            identity,
            inner.channels.clone(),
            config.observer.clone(),
            inner.tasks.clone(),
            inner.stopping.clone(),
            config.append_queue_bytes,
        ));
        let (broken_streams, broken) = watch::channel(0);
        let running = Running {
            identity,
            applied: machine.watch_applied(),
            raft: raft.clone(),
            machine,
            proposer,
            leader_reads,
            admin,
            catch_ups: Arc::default(),
            removed: removed.clone(),
            outdated: inner.outdated.clone(),
            broken_streams,
            memory: inner.memory.clone(),
            reads,
            forwarder,
        };
        inner.phase.send_replace(if inner.log.is_pristine() && inner.founders.is_written() {
            Phase::Bootstrapping
        } else {
            Phase::Recovering
        });
        let stop = inner.stopping.clone();
        let tasks = &inner.tasks;
        tasks.spawn(proposing);
        tasks.spawn(until(stop.clone(), asking_quorum));
        tasks.spawn(until(stop.clone(), asking_leader));
        tasks.spawn(until(stop.clone(), administering));
        if inner.running.set(running).is_err() {
            unreachable!("a node begins to take part once");
        }
        tasks.spawn(until(stop.clone(), watch_core(self.clone(), raft.clone())));
        tasks.spawn(until(stop.clone(), watch_recovery(self.clone(), raft.clone())));
        tasks.spawn(until(stop.clone(), watch_removal(self.clone(), removed.subscribe())));
        tasks.spawn(until(stop.clone(), watch_outdated(self.clone())));
        tasks.spawn(until(stop.clone(), leader_loss::run(self.clone(), broken)));
        tasks.spawn(until(stop, introduction::run(self.clone(), introduction, known)));

        // Alone there is nobody to wait for.
        let metrics = raft.metrics().borrow_watched().clone();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        if voters == [identity.node] {
            raft.trigger().elect(false).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Remembers why this data directory must not be used any more.
    pub(super) fn refused_as_outdated(&self, why: String) -> OpenError {
        let path = self.inner.config.data.clone();
        if let Err(error) = identity::mark_outdated(&path, &why) {
            tracing::error!(%error, "that this directory is outdated could not be remembered in it");
        }
        OpenError::Outdated { path, why }
    }
}

/// Refuses to serve a node at another address than the membership knows: its
/// peers and clients would not find it there, and if two nodes' disks were
/// swapped, each would be taken for the other.
fn address_as_known(config: &Config, node: u64, membership: &Membership) -> Result<(), OpenError> {
    let configured = &config.address;
    let Some(known) = membership.get_node(&node).map(|known| &known.address).filter(|known| *known != configured)
    else {
        return Ok(());
    };
    let whose = membership.nodes().find(|(_, member)| member.address == *configured).map(|(id, _)| *id);
    if whose.is_none() && membership.nodes().count() == 1 {
        // Nobody else looks for it there.
        tracing::warn!(%known, %configured, "the only node of this cluster is served at another address than it was made with");
        return Ok(());
    }
    Err(OpenError::OtherAddress {
        node,
        known: known.clone(),
        configured: configured.clone(),
        whose: whose.map(|id| format!(", the address of node {id}")).unwrap_or_default(),
    })
}

pub(crate) fn raft_config(config: &Config, identity: Identity) -> Result<openraft::Config, openraft::ConfigError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: identity.cluster.to_string(),
        heartbeat_interval: millis(config.heartbeat),
        // A follower waits for the leader's lease, which is as long as the
        // longest election timeout, and then for its own timeout. Half of each
        // makes the sum lie where the configuration says.
        election_timeout_min: millis(config.election_min / 2),
        election_timeout_max: millis(config.election_max / 2),
        // Bytes bound what is sent at once, in `limited_get_log_entries`.
        max_payload_entries: 4_096,
        snapshot_policy: SnapshotPolicy::Never,
        // `maintenance` alone decides what is purged.
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // A leader that restarts asks for votes like everybody else.
        enable_leader_restore: Some(false),
        // Never: a log that went back is a broken promise.
        allow_log_reversion: Some(seeded::breaks_promises()),
        ..openraft::Config::default()
    }
    .validate()
}
