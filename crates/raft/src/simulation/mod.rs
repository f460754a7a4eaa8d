//! The whole cluster in one thread, decided by one number.
//!
//! A seed decides everything: the size of the cluster, how patient it is, how
//! slow its disks and links are, what its clients ask for, which machine is
//! cut off, paused or killed, and when. Time is virtual: a run of twenty
//! seconds takes some hundredths of one. The same seed gives the same run, to
//! the microsecond, so that what was found once can be looked at again.
//!
//! ```text
//! cargo run -p annals-raft --features simulation --example simulate -- --seed 42 --trace
//! ```
//!
//! # What is real
//! The consensus library with the configuration of `crate::node`, the rules
//! of `annals-core`, records and chain hashes of `annals-store`; the state
//! machine, the proposer and its batches, the read index, the admin actor, the
//! receiver and sender of catch-ups, the pipeline of appends, the bounds of a
//! purge, who is admitted by which identity, and every encoding.
//!
//! # What is simulated
//! Time and scheduling (`runtime`, `watch`), disks (`disk`, `log`,
//! `store`), the network (`network`, `world`), and what `crate::Node`
//! puts together (`node`, `serve`).
//!
//! # The life of a run
//! The first members begin their log. Clients (`clients`), faults and
//! operators (`nemesis`) do what they do for some ten seconds, while the
//! `oracle` looks at everything that happens. Then all links are healed, all
//! machines run, and within a bounded time there must be one leader, every
//! member must carry out an append and answer a linearizable read, and all
//! must stand at the same entry with the same chain hash.
//!
//! # What it leaves out
//! RocksDB, the flusher's thread, the witness, tonic and bytes on a wire, and
//! the server above replication. Those are tested for real.

mod clients;
mod counts;
mod disk;
mod log;
mod nemesis;
mod network;
mod node;
mod oracle;
mod plan;
mod random;
pub(crate) mod runtime;
mod serve;
mod store;
mod watch;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use annals_core::Timestamp;
use tokio::time::Instant;

use self::clients::Known;
pub use self::counts::{Counts, Violation};
use self::nemesis::Pending;
use self::network::address;
pub use self::plan::Mutation;
use self::runtime::Process;
use self::world::World;
use crate::event_store::EventStore;
use crate::identity::Identity;
use crate::lineage::Lineage;
use crate::types::NodeInfo;

/// How long a cluster may take to be whole once nothing is wrong any more.
const RECOVERY: Duration = Duration::from_secs(60);

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A mistake to be made on purpose.
    pub mutation: Option<Mutation>,
    /// Whether to print all that happens.
    pub trace: bool,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// What did not hold, if anything.
    pub violation: Option<Violation>,
    /// A hash over everything that happened.
    pub trace: u64,
    /// How much that was.
    pub events: u64,
    /// The virtual time that passed.
    pub elapsed: Duration,
    /// What happened, counted.
    pub counts: Counts,
}

impl Verdict {
    /// The command that repeats the run.
    pub fn rerun(&self) -> String {
        rerun(self.seed)
    }
}

fn rerun(seed: u64) -> String {
    format!("cargo run -p annals-raft --features simulation --example simulate -- --seed {seed} --trace")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.violation {
            None => write!(f, "seed {} holds ({} events, trace {:016x})", self.seed, self.events, self.trace),
            Some(violation) => write!(f, "seed {} FAILS: {violation}; again: {}", self.seed, self.rerun()),
        }
    }
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Verdict {
    catch_panics();
    SEED.set(Some(seed));
    PANIC.set(None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output can always be made");
    let verdict = runtime.block_on(async {
        BEGAN.set(Some(Instant::now()));
        let world = World::new(seed, options.mutation, options.trace);
        let finished = drive(&world);
        tokio::pin!(finished);
        // The first violation ends it, wherever it is noticed.
        let step = Duration::from_millis(5);
        loop {
            tokio::select! {
                biased;
                () = &mut finished => break,
                () = tokio::time::sleep(step) => {}
            }
            if PANIC.with_borrow(Option::is_some) || world.oracle().violation().is_some() {
                break;
            }
        }
        match PANIC.take() {
            Some(panic) if is_known(&panic) => world.oracle().counts.abandoned += 1,
            Some(panic) => world.oracle().fail("panic", panic),
            None => {}
        }
        let (trace, events) = world.trace();
        let oracle = world.oracle();
        let violation = oracle.violation().cloned();
        let counts = oracle.counts;
        drop(oracle);
        world.tear_down();
        Verdict { seed, violation, trace, events, elapsed: world.elapsed(), counts }
    });
    drop(runtime);
    BEGAN.set(None);
    SEED.set(None);
    verdict
}

async fn drive(world: &Arc<World>) {
    begin(world).await;
    let until = Instant::now() + world.plan.faults;
    let known = Arc::new(Known::default());
    let pending = Arc::new(Pending::default());
    let mut clients = Vec::new();
    for number in 0..world.plan.clients {
        clients.push(tokio::spawn(clients::client(world.clone(), number, known.clone(), until)));
    }
    tokio::spawn(nemesis::faults(world.clone(), until));
    let operators =
        world.plan.membership.then(|| tokio::spawn(nemesis::operators(world.clone(), pending.clone(), until)));
    tokio::time::sleep_until(until).await;
    if let Some(operators) = operators {
        let _ = operators.await;
    }
    // Faults that are under way end by themselves within seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    for client in clients {
        let _ = client.await;
    }
    recover(world, &known, &pending).await;
}

/// Gives the first members their identities, starts everything and begins the
/// log.
async fn begin(world: &Arc<World>) {
    let mut members = BTreeMap::new();
    for host in 1..=world.plan.nodes {
        let disk = world.disk(host);
        let mut disk = disk.lock();
        let incarnation = disk.incarnation;
        let identity = Identity { cluster: world.cluster, node: host, incarnation, lineage: Lineage::default() };
        world.oracle().adopted(&identity);
        disk.identity = Some(identity);
        members.insert(
            host,
            NodeInfo { address: address(host), incarnation: *incarnation.as_bytes(), ..NodeInfo::default() },
        );
    }
    for host in world.hosts() {
        world.start(host);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let node = world.node(1).expect("it was just started");
    let (reply, begun) = tokio::sync::oneshot::channel();
    node.process.clone().spawn(async move {
        let _ = reply.send(node.initialize(members).await);
    });
    if let Ok(Err(why)) = begun.await {
        world.oracle().fail("start", format!("the log cannot begin: {why}"));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Heals everything and waits until the cluster is whole.
async fn recover(world: &Arc<World>, known: &Known, pending: &Pending) {
    world.note(format_args!("everything is healed"));
    world.calm_links();
    for host in world.hosts() {
        world.set_slowness(host, 1);
        if let Some(node) = world.node(host) {
            node.process.resume();
        }
        world.start(host);
    }
    let deadline = Instant::now() + RECOVERY;
    let mut attempt = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        attempt += 1;
        let missing = match is_whole(world, known, pending, attempt).await {
            Ok(()) => break,
            Err(missing) => missing,
        };
        if world.oracle().violation().is_some() {
            return;
        }
        if Instant::now() >= deadline {
            world.oracle().fail("liveness", format!("{RECOVERY:?} after the last fault {missing}"));
            return;
        }
    }
    let summary = world.oracle().summary();
    world.note(format_args!("whole: {summary}"));
}

async fn is_whole(world: &Arc<World>, known: &Known, pending: &Pending, attempt: u64) -> Result<(), String> {
    if !pending.settle(world).await {
        return Err("an administrative request is still open".into());
    }
    let (leader, members) = nemesis::leader(world).ok_or("there is no leader")?;
    for (id, (host, _)) in &members {
        if !clients::must_append(world, known, *host, attempt).await {
            return Err(format!("node {id} carries out no append"));
        }
        if !clients::must_read(world, *host).await {
            return Err(format!("node {id} answers no linearizable read"));
        }
    }
    // Whoever is behind has a moment to come closer.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut standings = Vec::new();
    for (id, (host, _)) in &members {
        let node = world.node(*host).ok_or_else(|| format!("node {id} does not run"))?;
        let running = node.running().ok_or_else(|| format!("node {id} takes no part"))?;
        let metrics = node.metrics().ok_or_else(|| format!("node {id} takes no part"))?;
        if metrics.membership_config.get_joint_config().len() > 1 {
            return Err(format!("node {id} is in the middle of a change of the membership"));
        }
        standings.push((running.store.mark().map(|mark| mark.index), running.store.view()));
    }
    match standings.windows(2).find(|pair| pair[0] != pair[1]) {
        None => Ok(()),
        Some(pair) => Err(format!("led by h{leader}, the members stand at {:?} and {:?}", pair[0], pair[1])),
    }
}

/// The wall clock of the machine whose task is being polled.
pub(crate) fn clock() -> Timestamp {
    let elapsed = BEGAN.get().map(|began| began.elapsed()).unwrap_or_default();
    node::clock_at(elapsed, Process::current().map_or(0, |process| process.clock_skew()))
}

/// How long the blocking work that begins now takes; none outside a
/// simulation, where it is not this module's to say.
pub(crate) fn duration_of_blocking_work() -> Option<Duration> {
    let process = Process::current()?;
    let longest = u64::try_from(process.work.as_micros()).unwrap_or(u64::MAX - 1);
    Some(Duration::from_micros(process.random(|random| random.within(0..longest + 1))))
}

/// Whether the process that is about to end is a simulated one.
pub(crate) fn is_running() -> bool {
    SEED.get().is_some()
}

/// Whether a panic is one of those that are understood and not ours: the run
/// is then abandoned, and says nothing.
fn is_known(panic: &str) -> bool {
    // openraft 0.10.0-alpha.37, `membership_state::truncate`. A snapshot that
    // is installed over a log that conflicts with it takes back everything
    // that this node does not *know* to be committed, and that may include a
    // membership which in fact is. Nothing is lost: the snapshot includes it,
    // and a quorum has it without this node (looked at in
    // `World::verify_truncation`). Release builds have no such assertion.
    panic.contains("committed log should never be truncated")
}

/// A panic anywhere in a run is a violation, and says how to see it again
/// even where it ends the process.
fn catch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match SEED.get() {
            Some(seed) => {
                let what = panic.to_string();
                let known = if is_known(&what) { " (known)" } else { "" };
                eprintln!("seed {seed} PANICS{known}: {what}; again: {}", rerun(seed));
                PANIC.with(|first| first.borrow_mut().get_or_insert(what).len());
            }
            None => before(panic),
        }));
    });
}
