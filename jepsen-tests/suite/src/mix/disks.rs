//! The lane of the disks: one after the other loses power, rots, returns errors
//! or is slow.
//!
//! One disk at a time, because a minority of five that is out for other reasons
//! leaves one to spare. What keeps a move from being carried out, a partition
//! for example, makes it indeterminate; whether the cluster survives it is seen
//! when everything is healed, and in the end.

use std::time::Duration;

use annals_checker::history::{Fault, Installed, NodeNumber};
use annals_disks::corruption::{Damage, Part};
use annals_disks::io_error::Attached;
use annals_disks::power_loss::{Filesystem, Volume};
use annals_testbed::{Clock, ProcessState, Testbed};
use anyhow::{Context as _, Result, bail};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use crate::corruption::{self, Damaged};
use crate::harness::{Harness, READY};
use crate::power_loss::{BYTES, blocking, strike};

/// How long a node is given to notice an error.
const NOTICED: Duration = Duration::from_secs(3);

pub(super) struct Disks {
    testbed: Testbed,
    clock: Clock,
    random: StdRng,
    /// Whose power can be cut, and on what it lives.
    volume: Option<(NodeNumber, Volume)>,
    turn: u64,
}

impl Disks {
    /// Gives the last node a volume. Nothing runs yet.
    pub(super) async fn prepare(harness: &Harness) -> Result<Disks> {
        let node = *harness.testbed.nodes().last().context("a cluster has nodes")?;
        let directory = harness.testbed.directory(node);
        let volume = blocking(move || Volume::create(&directory, "volume-0", BYTES, Filesystem::Ext4)).await?;
        let data = volume.data();
        harness.respec(node, |spec| spec.data = data);
        Ok(Disks {
            testbed: harness.testbed.clone(),
            clock: harness.recorder.clock(),
            random: StdRng::seed_from_u64(harness.job.seed),
            volume: Some((node, volume)),
            turn: 0,
        })
    }

    pub(super) async fn discard(&mut self) -> Result<()> {
        match self.volume.take() {
            Some((_, volume)) => blocking(move || volume.discard()).await,
            None => Ok(()),
        }
    }

    /// One disk after the other until then.
    pub(super) async fn suffer_until(&mut self, until: Instant) -> Vec<Fault> {
        let mut done = Vec::new();
        loop {
            tokio::time::sleep(Duration::from_millis(self.random.random_range(1_000..4_000))).await;
            if Instant::now() >= until {
                return done;
            }
            let Some(node) = self.choose() else { continue };
            self.testbed.reserve(node, true);
            let start = (self.clock)();
            let (class, name, result) = self.suffer(node).await;
            self.testbed.reserve(node, false);
            let (installed, detail) = match result {
                Ok(detail) => (Installed::Installed, detail),
                Err(error) => (Installed::Indeterminate, format!("{error:#}")),
            };
            done.push(Fault {
                class: class.into(),
                name,
                nodes: vec![node],
                start,
                end: (self.clock)(),
                installed,
                detail,
            });
        }
    }

    fn choose(&mut self) -> Option<NodeNumber> {
        let is_free = |node: &NodeNumber| {
            matches!(self.testbed.state(*node), ProcessState::Running { .. }) && !self.testbed.is_reserved(*node)
        };
        let nodes: Vec<NodeNumber> = self.testbed.nodes().into_iter().filter(is_free).collect();
        // Whose power can be cut is drawn more often than others.
        let powered = self.volume.as_ref().map(|(node, _)| *node).filter(|node| nodes.contains(node));
        if powered.is_some() && self.random.random_ratio(1, 4) {
            powered
        } else {
            nodes.choose(&mut self.random).copied()
        }
    }

    async fn suffer(&mut self, node: NodeNumber) -> (&'static str, String, Result<String>) {
        self.turn += 1;
        if self.volume.as_ref().is_some_and(|(powered, _)| *powered == node) {
            return ("F5", "power-loss-one".into(), self.lose_power(node).await);
        }
        match self.random.random_range(0..4) {
            0 => ("F8", "error=EIO".into(), self.fail(node).await),
            1 => ("F10", "sync-200ms".into(), self.slow_down(node).await),
            _ => {
                let part = *Part::ALL.choose(&mut self.random).unwrap_or(&Part::Log);
                let damage = *Damage::ALL.choose(&mut self.random).unwrap_or(&Damage::FlipBit);
                match self.rot(node, part, damage).await {
                    Ok((name, detail)) => ("F9", name, Ok(detail)),
                    Err(error) => ("F9", "rot".into(), Err(error)),
                }
            }
        }
    }

    async fn lose_power(&mut self, node: NodeNumber) -> Result<String> {
        let (_, volume) = self.volume.take().context("it has a volume")?;
        let (seed, name) = (self.random.random(), format!("volume-{}", self.turn));
        self.volume = Some((node, strike(&self.testbed, node, volume, seed, name).await?));
        self.restart(node).await
    }

    async fn rot(&mut self, node: NodeNumber, part: Part, damage: Damage) -> Result<(String, String)> {
        self.testbed.terminate(node, Duration::from_secs(10)).await?;
        let Some(damaged) = Damaged::new(&self.testbed, node, part, damage, self.random.random()).await? else {
            self.restart(node).await?;
            bail!("there is no such file to damage");
        };
        let (name, detail) = (damaged.name(), damaged.corruption.to_string());
        let made = corruption::suffer(&self.testbed, node).await?;
        damaged.mend(&self.testbed).await?;
        Ok((name, format!("{made}; {detail}")))
    }

    async fn fail(&self, node: NodeNumber) -> Result<String> {
        self.testbed.expect_exit(node);
        let attached = self.attach(node, "error=EIO").await?;
        let deadline = Instant::now() + NOTICED;
        while matches!(self.testbed.state(node), ProcessState::Running { .. }) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ended = !matches!(self.testbed.state(node), ProcessState::Running { .. });
        detach(attached).await?;
        if !ended {
            self.testbed.kill(node).await?;
        }
        Ok(format!("{}; {}", if ended { "it ended" } else { "it had nothing to sync" }, self.restart(node).await?))
    }

    async fn slow_down(&mut self, node: NodeNumber) -> Result<String> {
        let attached = self.attach(node, "delay_enter=200000").await?;
        tokio::time::sleep(Duration::from_millis(self.random.random_range(2_000..6_000))).await;
        detach(attached).await?;
        Ok(String::new())
    }

    /// Tampers with the syncs of a node.
    async fn attach(&self, node: NodeNumber, fault: &'static str) -> Result<Attached> {
        let ProcessState::Running { pid } = self.testbed.state(node) else { bail!("it does not run") };
        let trace = self.testbed.directory(node).join(format!("tampering-{}.trace", self.turn));
        blocking(move || Attached::to(pid, "fdatasync", fault, &trace)).await
    }

    async fn restart(&self, node: NodeNumber) -> Result<String> {
        self.testbed.start_node(node).await?;
        let took = self.testbed.wait_ready(node, READY).await?;
        Ok(format!("ready after {took:?}"))
    }
}

/// It waits for another process.
async fn detach(attached: Attached) -> Result<()> {
    blocking(move || {
        drop(attached);
        Ok(())
    })
    .await
}
