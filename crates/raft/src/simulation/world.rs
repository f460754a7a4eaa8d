//! The machines, what lies on their disks, and what lies between them.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;

use super::disk::{Disk, Write};
use super::node::SimulatedNode;
use super::oracle::Oracle;
use super::plan::{Mutation, Plan};
use super::random::Random;
use crate::types::Membership;

/// Everything that there is in one simulation.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) cluster: Uuid,
    began: Instant,
    oracle: Mutex<Oracle>,
    machines: Mutex<BTreeMap<u64, Machine>>,
    links: Mutex<Links>,
    /// Told when links are healed.
    healed: Notify,
    trace: Mutex<Trace>,
}

/// A machine: its disk, and the node that runs on it.
struct Machine {
    disk: Arc<Mutex<Disk>>,
    /// A [`SimulatedNode`], which knows of the world it is in: the compiler
    /// would otherwise turn in circles.
    node: Option<Arc<dyn Any + Send + Sync>>,
    runs: u64,
    /// How many times slower than planned its disk is.
    slowness: u32,
    clock_skew: i64,
}

/// What lies between machines.
struct Links {
    random: Random,
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
    slow: BTreeSet<(u64, u64)>,
    /// Nothing breaks by itself any more.
    calm: bool,
}

/// All that happened, as one number, and in words if somebody reads them.
struct Trace {
    hash: u64,
    line: String,
    print: bool,
    events: u64,
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.print {
            self.line.push_str(text);
        }
        Ok(())
    }
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>, print: bool) -> Arc<World> {
        let plan = Plan::of(seed);
        let random = Random::new(seed).fork(2);
        let mut uuids = random.fork(3);
        let mut uuid = || Uuid::from_u128(u128::from(uuids.next()) << 64 | u128::from(uuids.next() | 1));
        let machines = (1..=plan.nodes + plan.spares)
            .map(|host| {
                let disk = Disk { incarnation: uuid(), ..Disk::default() };
                let disk = Arc::new(Mutex::new(disk));
                (host, Machine { disk, node: None, runs: 0, slowness: 1, clock_skew: 0 })
            })
            .collect();
        let world = World {
            seed,
            mutation,
            cluster: uuid(),
            began: Instant::now(),
            oracle: Mutex::new(Oracle::new(mutation)),
            machines: Mutex::new(machines),
            links: Mutex::new(Links { random, cut: BTreeSet::new(), slow: BTreeSet::new(), calm: false }),
            healed: Notify::new(),
            trace: Mutex::new(Trace { hash: 0xcbf2_9ce4_8422_2325, line: String::new(), print, events: 0 }),
            plan,
        };
        Arc::new(world)
    }

    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock()
    }

    /// Virtual time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Adds to the trace: what differs here differs between two runs.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let micros = self.elapsed().as_micros();
        let mut trace = self.trace.lock();
        trace.events += 1;
        let _ = fmt::write(&mut *trace, format_args!("{micros:>9} {what}\n"));
        if trace.print {
            eprint!("{}", trace.line);
            trace.line.clear();
        }
    }

    /// The hash over all that was noted, and how much that was.
    pub(crate) fn trace(&self) -> (u64, u64) {
        let trace = self.trace.lock();
        (trace.hash, trace.events)
    }

    // ---------------------------------------------------------- machines --

    pub(crate) fn hosts(&self) -> Vec<u64> {
        self.machines.lock().keys().copied().collect()
    }

    pub(crate) fn disk(&self, host: u64) -> Arc<Mutex<Disk>> {
        self.machines.lock()[&host].disk.clone()
    }

    /// The node that runs on a machine.
    pub(crate) fn node(&self, host: u64) -> Option<Arc<SimulatedNode>> {
        downcast(self.machines.lock()[&host].node.clone())
    }

    pub(crate) fn slowness(&self, host: u64) -> u32 {
        self.machines.lock()[&host].slowness
    }

    pub(crate) fn set_slowness(&self, host: u64, times: u32) {
        self.machines.lock().get_mut(&host).expect("a machine").slowness = times;
    }

    pub(crate) fn set_clock_skew(&self, host: u64, ticks: i64) {
        let mut machines = self.machines.lock();
        let machine = machines.get_mut(&host).expect("a machine");
        machine.clock_skew = ticks;
        if let Some(node) = downcast(machine.node.clone()) {
            node.process.set_clock_skew(ticks);
        }
    }

    /// Starts the node of a machine, if none runs there.
    pub(crate) fn start(self: &Arc<Self>, host: u64) {
        let run = {
            let mut machines = self.machines.lock();
            let machine = machines.get_mut(&host).expect("a machine");
            if machine.node.is_some() {
                return;
            }
            machine.runs += 1;
            machine.runs
        };
        self.note(format_args!("h{host} starts its run {run}"));
        let node = SimulatedNode::new(self, host, run);
        {
            let mut machines = self.machines.lock();
            let machine = machines.get_mut(&host).expect("a machine");
            node.process.set_clock_skew(machine.clock_skew);
            machine.node = Some(node.clone());
        }
        node.begin();
    }

    /// Ends the node of a machine in the middle of whatever it does. Of what
    /// it had not yet written some prefix stays.
    pub(crate) fn kill(&self, host: u64, random: &mut Random) {
        let node = self.machines.lock().get_mut(&host).expect("a machine").node.take();
        let Some(node) = downcast(node) else { return };
        node.process.kill();
        let unwritten = node.running().map(|running| running.log.unwritten()).unwrap_or_default();
        let kept = random.within(0..unwritten.len() as u64 + 1) as usize;
        // A lie about a sync is about the power: nothing of it stays.
        let kept = if self.mutation == Some(Mutation::AppendNotSynced) { 0 } else { kept };
        self.note(format_args!("h{host} is killed, {kept} of {} waiting writes stay", unwritten.len()));
        for write in unwritten.into_iter().take(kept) {
            self.write(host, write);
        }
        self.oracle().counts.kills += 1;
    }

    /// Makes a write to the log of a machine durable.
    pub(crate) fn write(&self, host: u64, write: Write) {
        self.disk(host).lock().log.write(write);
    }

    /// Empties the disk of a machine. Its directory is another one then.
    pub(crate) fn wipe(&self, host: u64, random: &mut Random) {
        self.note(format_args!("h{host} is wiped"));
        let incarnation = Uuid::from_u128(u128::from(random.next()) << 64 | 1);
        *self.disk(host).lock() = Disk { incarnation, ..Disk::default() };
    }

    /// Empties the disk of a machine, but not the file that says who it is.
    pub(crate) fn wipe_all_but_identity(&self, host: u64) {
        self.note(format_args!("h{host} loses its data and keeps its identity"));
        let disk = self.disk(host);
        let mut disk = disk.lock();
        *disk = Disk { incarnation: disk.incarnation, identity: disk.identity, ..Disk::default() };
    }

    /// Ends everything, so that nothing keeps anything alive.
    pub(crate) fn tear_down(&self) {
        let nodes: Vec<_> =
            self.machines.lock().values_mut().filter_map(|machine| downcast(machine.node.take())).collect();
        nodes.iter().for_each(|node| node.process.kill());
    }

    /// Whether what was committed just now is on the disks of a quorum.
    pub(crate) fn verify_commits(&self) {
        let unverified = self.oracle().take_unverified();
        if self.mutation.is_some_and(Mutation::breaks_promises) {
            // What is to be found is the harm.
            return;
        }
        for (log_id, memberships) in unverified {
            let index = log_id.index();
            let held = memberships
                .iter()
                .any(|membership| self.is_held(membership, |host| self.disk(host).lock().holds(&log_id)));
            if !held && !memberships.is_empty() {
                let holders: Vec<u64> =
                    self.hosts().into_iter().filter(|host| self.disk(*host).lock().holds(&log_id)).collect();
                self.oracle().fail(
                    "commit",
                    format!("entry {index} is committed, but only the machines {holders:?} hold it: no quorum of {memberships:?}"),
                );
            }
        }
    }

    /// Whether a committed entry that a machine takes back is on the disks of
    /// a quorum without it.
    pub(crate) fn verify_truncation(&self, host: u64, index: u64) {
        let memberships = self.oracle().quorums();
        let Some(log_id) = self.oracle().committed_at(index) else { return };
        let holds = |other: u64| other != host && self.disk(other).lock().holds(&log_id);
        // Whoever is elected needs a majority of the first set, also in the
        // middle of a change: it must not be possible without a holder.
        let is_safe = memberships.iter().filter_map(|membership| membership.get_joint_config().first()).any(|voters| {
            let without = voters.iter().filter(|node| !self.oracle().host_of(**node).is_some_and(&holds)).count();
            without * 2 <= voters.len()
        });
        if !is_safe {
            let holders: Vec<u64> = self.hosts().into_iter().filter(|other| holds(*other)).collect();
            let what = format!(
                "h{host} takes the committed entry {log_id} back; without it only {holders:?} have it: no quorum of {memberships:?}"
            );
            self.oracle().fail("commit", what);
        }
    }

    fn is_held(&self, membership: &Membership, holds: impl Fn(u64) -> bool) -> bool {
        membership.get_joint_config().iter().all(|voters| {
            let hosts: Vec<u64> = {
                let oracle = self.oracle();
                voters.iter().filter_map(|node| oracle.host_of(*node)).collect()
            };
            let holders = hosts.into_iter().filter(|host| holds(*host)).count();
            holders * 2 > voters.len()
        })
    }

    // ------------------------------------------------------------- links --

    pub(crate) fn cut(&self, links: impl IntoIterator<Item = (u64, u64)>) {
        self.links.lock().cut.extend(links);
    }

    pub(crate) fn slow_down(&self, links: impl IntoIterator<Item = (u64, u64)>) {
        self.links.lock().slow.extend(links);
    }

    /// All links are as they were.
    pub(crate) fn heal_links(&self) {
        let mut links = self.links.lock();
        links.cut.clear();
        links.slow.clear();
        drop(links);
        self.healed.notify_waiters();
    }

    /// From now on links are as good as they can be.
    pub(crate) fn calm_links(&self) {
        self.links.lock().calm = true;
        self.heal_links();
    }

    pub(crate) fn random<T>(&self, ask: impl FnOnce(&mut Random) -> T) -> T {
        ask(&mut self.links.lock().random)
    }

    /// When a message that is sent now arrives, if nothing is in its way.
    pub(crate) fn arrival(&self, from: u64, to: u64) -> Instant {
        let plan = &self.plan;
        let mut links = self.links.lock();
        let slow = links.slow.contains(&(from, to)) || links.random.chance(plan.straggler);
        let takes = links.random.duration(plan.delay.clone());
        Instant::now() + if slow { takes * 10 + Duration::from_millis(1) } else { takes }
    }

    /// Returns when a message has arrived that would arrive at `at`.
    ///
    /// # Errors
    /// The connection broke with the message on its way: it never arrives.
    pub(crate) async fn travel(&self, from: u64, to: u64, at: Instant) -> Result<(), Status> {
        tokio::time::sleep_until(at).await;
        let (patience, reset) = {
            let mut links = self.links.lock();
            let calm = links.calm;
            (links.random.duration(200..6_000), links.random.chance(self.plan.reset) && !calm)
        };
        if from == to {
            return Ok(());
        }
        if reset {
            return Err(Status::unavailable("the connection broke"));
        }
        let patience = Instant::now() + patience;
        loop {
            let healed = self.healed.notified();
            if !self.links.lock().cut.contains(&(from, to)) {
                return Ok(());
            }
            if tokio::time::timeout_at(patience, healed).await.is_err() {
                return Err(Status::unavailable("the connection broke"));
            }
        }
    }
}

fn downcast(node: Option<Arc<dyn Any + Send + Sync>>) -> Option<Arc<SimulatedNode>> {
    node.map(|node| node.downcast().expect("nothing else is kept there"))
}
