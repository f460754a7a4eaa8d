//! Nodes for tests: each in a runtime of its own, over real sockets, so that
//! dropping the runtime is as sudden as a crash of the process.

#![allow(dead_code, unreachable_pub)]

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use annals_core::{
    Append, Command, Content, Event, EventId, EventType, Expected, Outcome, Position, Properties, StreamName,
};
use annals_raft::{
    AdminError, AdminRequest, AppendError, BarrierError, Config, Node, OpenError, Phase, Role, Route, Status,
};
use annals_store::{Direction, LookLimit, PageLimit};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use uuid::Uuid;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A node that is running.
pub struct Server {
    runtime: Option<Runtime>,
    pub node: Node,
}

impl Server {
    pub fn open(config: Config) -> Result<Server, OpenError> {
        // RUST_LOG=annals_raft=debug shows what the nodes do.
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let address: SocketAddr = config.address.parse().expect("tests use socket addresses");
        let node = runtime.block_on(Node::open(config));
        let node = match node {
            Ok(node) => node,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let mut routes = tonic::service::Routes::builder();
        node.services().add_to(&mut routes, Ok);
        let listener = runtime.block_on(TcpListener::bind(address)).expect("the address is free");
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_routes(routes.routes())
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Server { runtime: Some(runtime), node })
    }

    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("running").block_on(future)
    }

    pub fn status(&self) -> Status {
        self.run(async { self.node.status() })
    }

    pub fn append(&self, stream: &str, count: usize) -> Result<Outcome, AppendError> {
        self.append_as(stream, count, Expected::Any, Route::Forward, Duration::from_secs(10))
    }

    pub fn append_as(
        &self,
        stream: &str,
        count: usize,
        expected: Expected,
        route: Route,
        within: Duration,
    ) -> Result<Outcome, AppendError> {
        self.run(self.node.append(command(stream, count, expected), route, Instant::now() + within))
    }

    pub fn barrier(&self) -> Result<(), BarrierError> {
        self.run(self.node.read_barrier(Instant::now() + Duration::from_secs(10)))
    }

    pub fn administer(&self, request: AdminRequest) -> Result<u64, AdminError> {
        self.run(self.node.administer(request, Instant::now() + PATIENCE))
    }

    pub fn tail(&self) -> u64 {
        self.node.store().tail().get()
    }

    /// All events as (position, stream, id), in order.
    pub fn events(&self) -> Vec<(u64, String, Uuid)> {
        let mut events = Vec::new();
        loop {
            let next = Position::new(events.len() as u64 + 1);
            let page = self
                .node
                .store()
                .read_all(next, Direction::Forward, PageLimit { records: 1_000, bytes: 1 << 20 })
                .expect("readable");
            if page.is_empty() {
                return events;
            }
            events.extend(
                page.iter().map(|record| (record.position().get(), record.stream().to_string(), record.id().uuid())),
            );
        }
    }

    /// Deletes a stream.
    pub fn delete(&self, stream: &str) {
        let stream = StreamName::new(stream.to_owned()).expect("a name");
        self.command(Command::Delete { stream, expected: Expected::Any });
    }

    /// Reclaims everything that is gone, as who leads does it.
    pub fn scavenge(&self) {
        self.command(Command::StartScavenge { id: Uuid::new_v4() });
        let store = self.node.store();
        while let Some(scavenge) = store.scavenge().filter(annals_core::Scavenge::is_running) {
            let limit = LookLimit { records: 50, bytes: 1 << 20 };
            let gone = store.find_gone(&scavenge, limit).expect("readable");
            self.command(Command::Reclaim(gone.step));
        }
    }

    fn command(&self, command: Command) {
        self.run(self.node.append(command, Route::Forward, Instant::now() + PATIENCE)).expect("carried out");
    }

    /// Positions of events that are reclaimed.
    pub fn reclaimed(&self) -> Vec<u64> {
        let store = self.node.store();
        let gone = |at: &u64| store.record(Position::new(*at)).expect("readable").is_none();
        (1..=self.tail()).filter(gone).collect()
    }

    pub fn chain(&self, at: u64) -> String {
        let chain = self.node.store().chain(Position::new(at)).expect("readable");
        chain.expect("the tail is not below").to_string()
    }

    /// Stops as a process that was asked to.
    pub fn stop(mut self) {
        self.run(self.node.shutdown());
        self.runtime.take().expect("running").shutdown_timeout(Duration::from_secs(5));
    }

    /// Stops as a process that was killed, as far as one process can show it:
    /// nothing is handed over and nothing is flushed.
    pub fn kill(mut self) {
        self.runtime.take().expect("running").shutdown_timeout(Duration::from_secs(3));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(3));
        }
    }
}

pub fn event() -> Event {
    Event::new(
        EventId::new(Uuid::new_v4()).expect("not nil"),
        EventType::new("Happened").expect("a type"),
        Content::Json,
        Properties::Opaque,
        Bytes::new(),
        Bytes::from_static(b"{\"n\":1}"),
    )
}

pub fn command(stream: &str, count: usize, expected: Expected) -> Command {
    let stream = StreamName::new(stream.to_owned()).expect("a stream name");
    Command::Append(Append::single(stream, expected, (0..count).map(|_| event()).collect()))
}

pub fn position(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Appended(appended) => appended.position.get(),
        other => panic!("expected an append to be carried out, got {other:?}"),
    }
}

pub fn config(data: &Path, address: &str, bootstrap: &[String]) -> Config {
    let mut config = Config::new(data, address);
    config.bootstrap = bootstrap.to_vec();
    config.heartbeat = Duration::from_millis(150);
    config.election_min = Duration::from_millis(800);
    config.election_max = Duration::from_millis(1_400);
    config.disk_reserve_bytes = 0;
    config
}

/// Addresses that nobody listens on, never given to another test, in the order
/// of their ports. Below the range from which the system takes the ports of
/// outgoing connections: one of those could be in the way of a node that
/// starts again.
pub fn addresses(count: usize) -> Vec<String> {
    const FIRST: u32 = 10_000;
    const RANGE: u32 = 20_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let ports = std::iter::repeat_with(|| start.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % RANGE);
    let addresses = ports.map(|port| format!("127.0.0.1:{}", FIRST + port));
    let free = addresses.filter(|address| std::net::TcpListener::bind(address).is_ok());
    let mut free: Vec<_> = free.take(count).collect();
    free.sort();
    free
}

pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let started = Instant::now();
    while !check() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Several nodes with data directories that outlive them. Node ids are places
/// in the list, from 1.
pub struct Cluster {
    // Dropped before their directories.
    pub servers: Vec<Option<Server>>,
    pub dirs: Vec<TempDir>,
    pub addresses: Vec<String>,
    adjust: fn(&mut Config),
    founders: usize,
}

impl Cluster {
    pub fn start(count: usize, adjust: fn(&mut Config)) -> Cluster {
        let addresses = addresses(count);
        let dirs = (0..count).map(|_| tempfile::tempdir().expect("a directory")).collect();
        let mut cluster =
            Cluster { dirs, addresses, servers: (0..count).map(|_| None).collect(), adjust, founders: count };
        (0..count).for_each(|place| cluster.start_node(place));
        cluster.await_leader();
        eventually("every node is ready", || cluster.running().all(|server| server.status().phase == Phase::Ready));
        cluster
    }

    pub fn config(&self, place: usize) -> Config {
        let bootstrap = if place < self.founders { &self.addresses[..self.founders] } else { &[] };
        let mut config = config(self.dirs[place].path(), &self.addresses[place], bootstrap);
        (self.adjust)(&mut config);
        config
    }

    pub fn start_node(&mut self, place: usize) {
        let started = Instant::now();
        let server = loop {
            match Server::open(self.config(place)) {
                Ok(server) => break server,
                Err(error) if started.elapsed() < PATIENCE && is_in_use(&error) => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => panic!("node {} does not open: {error}", place + 1),
            }
        };
        self.servers[place] = Some(server);
    }

    /// Room for one more node, empty and waiting.
    pub fn add_place(&mut self) -> usize {
        self.dirs.push(tempfile::tempdir().expect("a directory"));
        self.addresses.extend(addresses(1));
        self.servers.push(None);
        let place = self.servers.len() - 1;
        self.start_node(place);
        place
    }

    pub fn running(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().flatten()
    }

    pub fn server(&self, place: usize) -> &Server {
        self.servers[place].as_ref().expect("running")
    }

    /// The place of the node that leads and that a quorum confirms.
    pub fn leader(&self) -> Option<usize> {
        self.servers.iter().position(|server| {
            server.as_ref().is_some_and(|server| {
                let status = server.status();
                status.role == Role::Leader && status.quorum_acked_ago.is_some_and(|ago| ago < Duration::from_secs(1))
            })
        })
    }

    pub fn await_leader(&self) -> usize {
        eventually("a leader", || self.leader().is_some());
        self.leader().expect("seen a moment ago")
    }

    pub fn a_follower(&self) -> usize {
        let leader = self.await_leader();
        (0..self.servers.len())
            .find(|place| *place != leader && self.servers[*place].is_some())
            .expect("another node runs")
    }

    pub fn kill(&mut self, place: usize) {
        self.servers[place].take().expect("running").kill();
    }

    pub fn stop(&mut self, place: usize) {
        self.servers[place].take().expect("running").stop();
    }

    /// Waits until all running nodes hold the same events, and compares them.
    pub fn assert_equal(&self) {
        let tail = self.running().map(Server::tail).max().expect("a node runs");
        eventually("every node has every event", || self.running().all(|server| server.tail() == tail));
        let mut nodes = self.running();
        let first = nodes.next().expect("a node runs");
        let (events, chain) = (first.events(), first.chain(tail));
        for server in nodes {
            assert_eq!(server.events(), events);
            assert_eq!(server.chain(tail), chain);
        }
    }
}

fn is_in_use(error: &OpenError) -> bool {
    matches!(error, OpenError::InUse { .. } | OpenError::Store(annals_store::OpenError::InUse { .. }))
}
