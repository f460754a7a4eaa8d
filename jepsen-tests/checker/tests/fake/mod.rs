//! A fake server with its clients: a cluster that exists only as a list of
//! events in memory, and the history that clients would have recorded of it.
//!
//! Everything follows from a seed. The correct server keeps every promise and
//! uses every liberty that it has: local reads lag, fates are unknown and
//! decided late, calls are repeated to other nodes, leaders change, nodes
//! restart with less applied than before. A checker that finds fault with it
//! is wrong. With a [`Bug`] the server breaks one promise in the way in which
//! the real server would with the seeded bug of that number.
//!
//! There is one log, and writes are decided on at the moment they are
//! committed to it. Nodes hold a prefix of it. Time is simulated.

// Each file of tests has its own copy of this and uses a part of it.
#![allow(dead_code)]

mod bugs;
mod clients;
mod cluster;
mod ending;
mod groups;
mod rules;
mod subscribers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use annals_checker::history::{Nanos, Record, Run};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub(crate) use bugs::Bug;
use clients::{Call, Process, Reply};
use cluster::{Node, Trouble};
use groups::Team;
use rules::Log;
use subscribers::Subscriber;

const MICRO: Nanos = 1_000;
const MILLI: Nanos = 1_000_000;
/// How long after the last call everything has come to rest.
const REST: Nanos = 25 * MILLI;

/// The history of a run with this seed.
pub(crate) fn history(seed: u64, bug: Option<Bug>) -> Vec<Record> {
    let mut world = World::new(seed, bug);
    world.begin();
    while let Some(Reverse((time, _, action))) = world.queue.pop() {
        if time > world.stop + REST {
            break;
        }
        world.now = time;
        world.act(action);
    }
    world.end();
    world.records
}

/// What may happen. Numbers are indices of calls, nodes and so on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Next(usize),
    Arrive(usize),
    Commit { call: usize, term: u64 },
    CommitRest { call: usize, term: u64 },
    Answer(usize),
    GiveUp(usize),
    Look { call: usize, index: u64 },
    Replicate(usize),
    Load(usize),
    Trouble(usize),
    Heal(usize),
    Elect,
    Deliver(usize),
    Share(usize),
    Compare,
}

struct World {
    random: StdRng,
    seed: u64,
    bug: Option<Bug>,
    now: Nanos,
    /// When clients begin nothing new.
    stop: Nanos,
    queue: BinaryHeap<Reverse<(Nanos, u64, Action)>>,
    queued: u64,
    records: Vec<Record>,

    /// What is committed.
    log: Log,
    /// The positions at which commands end.
    ends: Vec<u64>,
    nodes: Vec<Node>,
    leader: Option<usize>,
    term: u64,
    troubles: Vec<Trouble>,

    processes: Vec<Process>,
    calls: Vec<Call>,
    replies: BTreeMap<usize, Reply>,
    next_id: u128,
    subscribers: Vec<Subscriber>,
    teams: Vec<Team>,
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let stop = random.random_range(if bug.is_some() { 40..80 } else { 10..60 }) * MILLI;
        World {
            random,
            seed,
            bug,
            now: 0,
            stop,
            queue: BinaryHeap::new(),
            queued: 0,
            records: Vec::new(),
            log: Log::default(),
            ends: Vec::new(),
            nodes: (0..3).map(|_| Node::default()).collect(),
            leader: Some(0),
            term: 1,
            troubles: Vec::new(),
            processes: Vec::new(),
            calls: Vec::new(),
            replies: BTreeMap::new(),
            next_id: 1,
            subscribers: Vec::new(),
            teams: Vec::new(),
        }
    }

    fn begin(&mut self) {
        self.records.push(Record::Run(Run {
            scenario: "fake".into(),
            seed: self.seed,
            nodes: 3,
            versions: BTreeMap::from([("fake server".into(), "1".into())]),
            seeded_bug: self.bug.map(|bug| format!("{bug:?}")),
            started: 1_800_000_000,
        }));
        self.plan_troubles();
        self.start_clients();
        self.start_subscribers();
        self.start_groups();
        for node in 0..self.nodes.len() {
            self.after(0, Action::Replicate(node));
        }
        self.after(5 * MILLI, Action::Compare);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Next(process) => self.next(process),
            Action::Arrive(call) => self.arrive(call),
            Action::Commit { call, term } => self.commit(call, term),
            Action::CommitRest { call, term } => self.commit_rest(call, term),
            Action::Answer(call) => self.answer(call),
            Action::GiveUp(call) => self.give_up(call),
            Action::Look { call, index } => self.look(call, index),
            Action::Replicate(node) => self.replicate(node),
            Action::Load(node) => self.load(node),
            Action::Trouble(trouble) => self.trouble(trouble),
            Action::Heal(trouble) => self.heal(trouble),
            Action::Elect => self.elect(),
            Action::Deliver(subscriber) => self.deliver(subscriber),
            Action::Share(team) => self.share(team),
            Action::Compare => self.compare(),
        }
    }

    fn after(&mut self, delay: Nanos, action: Action) {
        self.queued += 1;
        self.queue.push(Reverse((self.now + delay, self.queued, action)));
    }

    /// A time between these numbers of microseconds.
    fn micros(&mut self, from: u64, to: u64) -> Nanos {
        self.random.random_range(from * MICRO..to * MICRO)
    }

    fn chance(&mut self, of: f64) -> bool {
        self.random.random_bool(of)
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}
