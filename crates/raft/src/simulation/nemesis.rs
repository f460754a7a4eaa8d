//! What goes wrong, and what operators do meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::network::address;
use super::node::host_of;
use super::plan::Mutation;
use super::random::Random;
use super::world::World;
use crate::admin::AdminRequest;
use crate::error::AdminError;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    PowerLoss,
    Pause,
    Isolate,
    Split,
    OneWay,
    Bridge,
    /// One falls behind, another restarts, the leader is cut off: the quorum
    /// that is left is not the one that acknowledged.
    Squeeze,
    SlowLinks,
    SlowDisk,
    ClockSkew,
    Election,
}

/// Makes faults until the time is over. What it broke may still be broken.
pub(crate) async fn faults(world: Arc<World>, until: Instant) {
    let mut random = Random::new(world.seed).fork(30_000);
    let plan = &world.plan;
    let mut kinds = vec![Fault::SlowDisk, Fault::Election];
    let mut add = |wanted: bool, faults: &[Fault]| {
        if wanted {
            kinds.extend(faults);
        }
    };
    add(plan.kills, &[Fault::Kill, Fault::Kill, Fault::Kill]);
    add(plan.power_losses, &[Fault::PowerLoss]);
    add(plan.pauses, &[Fault::Pause, Fault::Pause]);
    add(
        plan.partitions,
        &[Fault::Isolate, Fault::Isolate, Fault::Split, Fault::OneWay, Fault::Bridge, Fault::SlowLinks],
    );
    add(plan.partitions && plan.kills, &[Fault::Squeeze]);
    add(plan.skew, &[Fault::ClockSkew]);
    loop {
        tokio::time::sleep(random.duration(plan.fault_pause.clone())).await;
        if Instant::now() >= until {
            return;
        }
        let fault = *random.pick(&kinds);
        let world = world.clone();
        let random = random.fork(random.clone().next());
        tokio::spawn(async move { make(&world, fault, random).await });
    }
}

async fn make(world: &Arc<World>, fault: Fault, mut random: Random) {
    let hosts = world.hosts();
    let victim = victim(world, &mut random);
    world.note(format_args!("{fault:?} of h{victim}"));
    let others = || hosts.iter().copied().filter(move |host| *host != victim);
    match fault {
        Fault::Kill => {
            world.kill(victim, &mut random);
            tokio::time::sleep(random.duration(0..3_000)).await;
            restart(world, victim, &mut random);
        }
        Fault::PowerLoss => {
            hosts.iter().for_each(|host| world.kill(*host, &mut random));
            tokio::time::sleep(random.duration(0..1_000)).await;
            for host in hosts {
                tokio::time::sleep(random.duration(0..300)).await;
                restart(world, host, &mut random);
            }
        }
        Fault::Pause => {
            let Some(node) = world.node(victim) else { return };
            world.oracle().counts.pauses += 1;
            node.process.pause();
            let longest = *random.pick(&[200, 1_000, 4_000]);
            tokio::time::sleep(random.duration(20..longest)).await;
            world.note(format_args!("h{victim} goes on"));
            node.process.resume();
        }
        Fault::Isolate => {
            world.cut(others().flat_map(|other| [(victim, other), (other, victim)]));
            heal_later(world, &mut random).await;
        }
        Fault::Split => {
            let mut shuffled = hosts.clone();
            random.shuffle(&mut shuffled);
            let (one, two) = shuffled.split_at(shuffled.len() / 2);
            world.cut(one.iter().flat_map(|a| two.iter().flat_map(|b| [(*a, *b), (*b, *a)])));
            heal_later(world, &mut random).await;
        }
        Fault::OneWay => {
            let deaf = random.chance(500);
            world.cut(others().map(|other| if deaf { (other, victim) } else { (victim, other) }));
            heal_later(world, &mut random).await;
        }
        Fault::Bridge => {
            // Two halves that only the victim can reach.
            let mut rest: Vec<u64> = others().collect();
            random.shuffle(&mut rest);
            let (one, two) = rest.split_at(rest.len() / 2);
            world.cut(one.iter().flat_map(|a| two.iter().flat_map(|b| [(*a, *b), (*b, *a)])));
            heal_later(world, &mut random).await;
        }
        Fault::Squeeze => squeeze(world, &mut random).await,
        Fault::SlowLinks => {
            world.slow_down(others().flat_map(|other| [(victim, other), (other, victim)]));
            heal_later(world, &mut random).await;
        }
        Fault::SlowDisk => {
            world.set_slowness(victim, random.within(5..50) as u32);
            tokio::time::sleep(random.duration(200..3_000)).await;
            world.set_slowness(victim, 1);
        }
        Fault::ClockSkew => {
            let seconds = random.within(0..7_200) as i64 - 3_600;
            world.set_clock_skew(victim, seconds * 10_000_000);
        }
        Fault::Election => {
            if let Some(node) = world.node(victim) {
                let process = node.process.clone();
                process.spawn(async move {
                    if let Some(running) = node.running() {
                        let _ = running.raft.trigger().elect(random.chance(500)).await;
                    }
                });
            }
        }
    }
}

async fn squeeze(world: &Arc<World>, random: &mut Random) {
    let Some((leader, members)) = leader(world) else { return };
    let around = |host: u64| {
        let hosts = world.hosts();
        hosts.into_iter().filter(move |other| *other != host).flat_map(move |other| [(host, other), (other, host)])
    };
    let mut followers: Vec<u64> =
        members.values().filter(|(host, voter)| *voter && *host != leader).map(|(host, _)| *host).collect();
    random.shuffle(&mut followers);
    let [behind, restarted, ..] = followers[..] else { return };
    world.cut(around(behind));
    tokio::time::sleep(random.duration(200..1_500)).await;
    world.kill(restarted, random);
    world.heal_links();
    world.cut(around(leader));
    tokio::time::sleep(random.duration(0..500)).await;
    restart(world, restarted, random);
    heal_later(world, random).await;
}

async fn heal_later(world: &Arc<World>, random: &mut Random) {
    world.oracle().counts.partitions += 1;
    let longest = *random.pick(&[400, 2_000, 5_000]);
    tokio::time::sleep(random.duration(100..longest)).await;
    world.note(format_args!("links are healed"));
    world.heal_links();
}

fn restart(world: &Arc<World>, host: u64, random: &mut Random) {
    if world.mutation == Some(Mutation::IdentityReused) && random.chance(500) {
        world.wipe_all_but_identity(host);
    }
    world.start(host);
}

/// The leader's machine half of the time, any member's otherwise.
fn victim(world: &World, random: &mut Random) -> u64 {
    let leader = leader(world).map(|(host, _)| host);
    match leader {
        Some(leader) if random.chance(500) => leader,
        _ => *random.pick(&world.hosts()),
    }
}

/// Members by node id: the machine, and whether it votes.
pub(crate) type Members = BTreeMap<u64, (u64, bool)>;

/// The machine of the newest leader and the members it knows.
pub(crate) fn leader(world: &World) -> Option<(u64, Members)> {
    let newest = world
        .hosts()
        .into_iter()
        .filter_map(|host| Some((host, world.node(host)?.metrics()?)))
        .filter(|(_, metrics)| metrics.state == openraft::ServerState::Leader)
        .max_by_key(|(_, metrics)| metrics.current_term)?;
    let (host, metrics) = newest;
    let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
    let members =
        metrics.membership_config.nodes().map(|(id, node)| (*id, (host_of(node), voters.contains(id)))).collect();
    Some((host, members))
}

/// What the operators asked for and do not know to be done.
#[derive(Default)]
pub(crate) struct Pending(Mutex<Option<AdminRequest>>);

impl Pending {
    /// Asks again until it is done or refused. Answers whether nothing is
    /// open any more.
    pub(crate) async fn settle(&self, world: &Arc<World>) -> bool {
        let half_done = leader(world).and_then(|(host, _)| {
            let metrics = world.node(host)?.metrics()?;
            let configs = metrics.membership_config.get_joint_config().clone();
            if configs.len() > 1 { configs.last()?.first().copied() } else { None }
        });
        let asked = self.0.lock().clone();
        // Whoever looks at the membership sees that a change is half done, and
        // asks for something that is true at its end.
        let Some(request) = asked.or(half_done.map(|node| AdminRequest::Promote { node })) else { return true };
        let result = administer(world, request).await;
        let open = is_open(world, &result);
        if !open {
            *self.0.lock() = None;
        }
        !open
    }
}

/// Whether it has to be asked again: nobody knows, or it was begun and not
/// finished.
fn is_open(world: &World, result: &Result<u64, AdminError>) -> bool {
    match result {
        Err(AdminError::Unknown(_) | AdminError::NoLeader | AdminError::ShuttingDown) => true,
        Err(_) => leader(world).is_none_or(|(host, _)| {
            let metrics = world.node(host).and_then(|node| node.metrics());
            metrics.is_none_or(|metrics| metrics.membership_config.get_joint_config().len() > 1)
        }),
        Ok(_) => false,
    }
}

/// Operators who change the membership until the time is over.
pub(crate) async fn operators(world: Arc<World>, pending: Arc<Pending>, until: Instant) {
    let mut random = Random::new(world.seed).fork(40_000);
    while Instant::now() < until {
        tokio::time::sleep(random.duration(100..1_500)).await;
        if !pending.settle(&world).await {
            continue;
        }
        let Some((_, members)) = leader(&world) else { continue };
        let Some(request) = next_request(&world, &mut random, &members) else { continue };
        if !matches!(request, AdminRequest::TransferLeadership { .. }) {
            *pending.0.lock() = Some(request.clone());
        }
        let result = administer(&world, request.clone()).await;
        if !is_open(&world, &result) {
            *pending.0.lock() = None;
        }
    }
}

fn next_request(world: &Arc<World>, random: &mut Random, members: &Members) -> Option<AdminRequest> {
    let voters: Vec<u64> = members.iter().filter(|(_, (_, voter))| *voter).map(|(id, _)| *id).collect();
    let learners: Vec<u64> = members.iter().filter(|(_, (_, voter))| !*voter).map(|(id, _)| *id).collect();
    let taken: Vec<u64> = members.values().map(|(host, _)| *host).collect();
    let free: Vec<u64> = world.hosts().into_iter().filter(|host| !taken.contains(host)).collect();
    match random.within(0..10) {
        0..=1 => Some(AdminRequest::TransferLeadership {
            to: random
                .chance(500)
                .then(|| voters.get(random.within(0..voters.len() as u64) as usize).copied())
                .flatten(),
        }),
        2..=5 if !learners.is_empty() => Some(AdminRequest::Promote { node: *random.pick(&learners) }),
        6..=7 if voters.len() as u64 >= world.plan.nodes && voters.len() > 2 => {
            Some(AdminRequest::Remove { node: *random.pick(&voters), force: false })
        }
        8 if !learners.is_empty() => Some(AdminRequest::Remove { node: *random.pick(&learners), force: false }),
        _ if !free.is_empty() => {
            let host = *random.pick(&free);
            // A machine whose node was removed comes back empty.
            if world.disk(host).lock().removed {
                world.kill(host, random);
                world.wipe(host, random);
            }
            world.start(host);
            Some(AdminRequest::AddNode { address: address(host), replaces: None })
        }
        _ => None,
    }
}

/// Asks the leader, whoever that is.
async fn administer(world: &Arc<World>, request: AdminRequest) -> Result<u64, AdminError> {
    let Some((host, _)) = leader(world) else { return Err(AdminError::NoLeader) };
    let Some(node) = world.node(host) else { return Err(AdminError::NoLeader) };
    let deadline = Instant::now() + Duration::from_secs(5);
    let (asked, (reply, answer)) = (request.clone(), tokio::sync::oneshot::channel());
    node.process.clone().spawn(async move {
        let _ = reply.send(node.administer(asked, deadline).await);
    });
    let limit = deadline + Duration::from_secs(1);
    let result = match tokio::time::timeout_at(limit, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(AdminError::Unknown("the connection broke".into())),
    };
    world.note(format_args!("operators ask h{host} for {request:?}: {result:?}"));
    if result.is_ok() {
        world.oracle().counts.changes += 1;
    }
    result
}
