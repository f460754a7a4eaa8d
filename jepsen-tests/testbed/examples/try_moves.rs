//! Starts a cluster, makes one move of each kind, and tells what came of it.
//!
//! ```text
//! try_moves BINARY DIRECTORY [--nodes N] [--clocks] [--load PER_SECOND]
//!     [--random SEED SECONDS] [--repeat TIMES] [--set NAME=VALUE]…
//!     [--wrapper "PROGRAM ARGUMENT…"] [FILTER…]
//! ```
//!
//! Filters choose moves by class, or by how their names begin.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals_proto::kurrentdb::protocol::v2::streams::streams_service_client::StreamsServiceClient;
use annals_proto::kurrentdb::protocol::v2::streams::{AppendRecord, AppendRecordsRequest, SchemaFormat, SchemaInfo};
use annals_testbed::nemesis::{
    CLASSES, Changing, Move, Party, Region, Shape, Target, Weather, WrongDisk, heal, perform, plan,
};
use annals_testbed::{Clock, Cut, Options, Testbed};
use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    Testbed::enter_load_namespace()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let binary = PathBuf::from(arguments.next().context("the first argument is the annals program")?);
    let root = PathBuf::from(arguments.next().context("the second argument is a directory")?);
    let (mut nodes, mut fake_clock, mut per_second, mut repeat, mut filters) = (3, false, 0_u32, 1, Vec::new());
    let mut random: Option<(u64, Duration)> = None;
    let mut wrapper: Vec<String> = Vec::new();
    let mut settings = vec![("disk_reserve_bytes".to_owned(), "1048576".to_owned())];
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--nodes" => nodes = arguments.next().context("--nodes has a number")?.parse()?,
            "--clocks" => fake_clock = true,
            "--wrapper" => {
                let text = arguments.next().context("--wrapper has a command")?;
                wrapper = text.split_whitespace().map(String::from).collect();
            }
            "--random" => {
                let mut number = || {
                    arguments.next().context("--random has a seed and seconds")?.parse().map_err(anyhow::Error::from)
                };
                random = Some((number()?, Duration::from_secs(number()?)));
            }
            "--repeat" => repeat = arguments.next().context("--repeat has a number")?.parse()?,
            "--load" => per_second = arguments.next().context("--load has a number")?.parse()?,
            "--set" => {
                let pair = arguments.next().context("--set has NAME=VALUE")?;
                let (name, value) = pair.split_once('=').context("--set has NAME=VALUE")?;
                settings.push((name.into(), value.into()));
            }
            _ => filters.push(argument),
        }
    }
    let began = Instant::now();
    let clock: Clock = Arc::new(move || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let options = Options { nodes, binary, root, settings, env: Vec::new(), clock: clock.clone(), fake_clock };
    let testbed = Testbed::prepare(options).await?;
    for node in testbed.nodes() {
        let mut spec = testbed.spec(node);
        spec.wrapper.clone_from(&wrapper);
        testbed.set_spec(node, spec);
    }
    testbed.start_all().await?;
    println!("ready after {:?}\n{}", began.elapsed(), testbed.describe().await);
    let acknowledged = Arc::new(AtomicU64::new(0));
    for writer in 0..per_second.min(8) {
        let pause = Duration::from_secs(1) * per_second.min(8) / per_second;
        tokio::spawn(write(testbed.clone(), writer, pause, acknowledged.clone()));
    }
    let moves = match random {
        Some((seed, time)) => plan(seed, &CLASSES, nodes, time, 0.0).into_iter().map(|(_, what)| what).collect(),
        None => moves(),
    };
    for what in (0..repeat).flat_map(|_| moves.clone()) {
        let wanted = |filter: &String| what.class() == filter || what.name().starts_with(filter);
        if !filters.is_empty() && !filters.iter().any(wanted) {
            continue;
        }
        let before = testbed.leader().await;
        let acknowledged_before = acknowledged.load(Ordering::Relaxed);
        let fault = perform(&testbed, &what, &clock).await;
        let healed = heal(&testbed).await?;
        println!(
            "{} {}: nodes {:?}, {:?}, lasted {:.3} s, healed after {:.3} s, leader {before:?} -> {:?}, {} acks\n    {}",
            fault.class,
            fault.name,
            fault.nodes,
            fault.installed,
            Duration::from_nanos(fault.end - fault.start).as_secs_f64(),
            healed.as_secs_f64(),
            testbed.leader().await,
            acknowledged.load(Ordering::Relaxed) - acknowledged_before,
            fault.detail
        );
    }
    for exit in testbed.unexpected_exits() {
        println!("UNEXPECTED EXIT of node {}: {:?}", exit.node, exit.state);
    }
    testbed.stop_all().await;
    Ok(())
}

/// Appends to one node after the other, and counts what was acknowledged.
async fn write(testbed: Testbed, writer: u32, pause: Duration, acknowledged: Arc<AtomicU64>) {
    let mut clients = std::collections::BTreeMap::new();
    for turn in 0_usize.. {
        let nodes = testbed.nodes();
        let node = nodes[turn % nodes.len()];
        let client = match clients.get(&node) {
            Some(client) => client,
            None => match tonic::transport::Endpoint::from_shared(format!("http://{}", testbed.address(node))) {
                Ok(endpoint) => {
                    let endpoint = endpoint.connect_timeout(Duration::from_millis(500)).timeout(Duration::from_secs(2));
                    clients.entry(node).or_insert(StreamsServiceClient::new(endpoint.connect_lazy()))
                }
                Err(_) => continue,
            },
        };
        let record = AppendRecord {
            stream: Some(format!("try-{writer}")),
            data: Some(vec![0; 200].into()),
            schema: Some(SchemaInfo {
                name: Some("tried".into()),
                format: Some(SchemaFormat::Bytes.into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = AppendRecordsRequest { records: vec![record], checks: Vec::new() };
        match client.clone().append_records(request).await {
            Ok(_) => drop(acknowledged.fetch_add(1, Ordering::Relaxed)),
            Err(status) if turn == 0 => eprintln!("the first append of writer {writer} failed: {status}"),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
    }
}

fn moves() -> Vec<Move> {
    let s = Duration::from_secs;
    let ms = Duration::from_millis;
    let cut = |shape, how, clients, flapping| Move::Partition { shape, how, time: s(4), clients, flapping };
    let network = |weather, region| Move::Network { weather, region, time: s(4) };
    vec![
        Move::Kill { target: Target::Leader, down: s(3) },
        Move::Kill { target: Target::Follower(1), down: s(0) },
        Move::Kill { target: Target::Minority(0), down: s(1) },
        Move::Kill { target: Target::All, down: s(1) },
        Move::Pause { target: Target::Leader, time: ms(500), until_led: true },
        Move::Pause { target: Target::Follower(0), time: ms(100), until_led: true },
        Move::Pause { target: Target::All, time: s(2), until_led: true },
        cut(Shape::Halves(1), Cut::Drop, false, None),
        cut(Shape::Isolated(Target::Leader), Cut::Drop, false, None),
        cut(Shape::Isolated(Target::Leader), Cut::Reset, true, None),
        cut(Shape::Bridge, Cut::Drop, false, None),
        cut(Shape::Ring, Cut::Drop, false, None),
        cut(Shape::Deaf(Target::Leader), Cut::Drop, false, None),
        cut(Shape::Mute(Target::Leader), Cut::Drop, false, None),
        cut(Shape::Isolated(Target::Leader), Cut::Drop, false, Some(ms(200))),
        network(Weather::Loss(1), Region::All),
        network(Weather::Loss(20), Region::Link(0)),
        network(Weather::Delay { by: ms(50), jitter: ms(10), reorder: false }, Region::All),
        network(Weather::Delay { by: ms(200), jitter: ms(100), reorder: true }, Region::Node(Target::Leader)),
        network(Weather::Bandwidth(1_000_000), Region::Node(Target::Follower(0))),
        Move::Membership(Changing::Transfer),
        Move::Membership(Changing::Replace(0)),
        Move::Membership(Changing::ReplaceLeader),
        Move::Membership(Changing::GrowAndShrink(0)),
        Move::Membership(Changing::OldIdReturns(0)),
        Move::LongOutage { target: Target::Follower(0), time: s(45), kill: None },
        Move::LongOutage { target: Target::Follower(0), time: s(45), kill: Some(Party::Receiver) },
        Move::LongOutage { target: Target::Follower(0), time: s(45), kill: Some(Party::Sender) },
        Move::Clock { target: Target::Leader, by: 365 * 86_400, time: s(3), strobe: None },
        Move::Clock { target: Target::All, by: -3_600, time: s(3), strobe: None },
        Move::Clock { target: Target::Leader, by: 60, time: s(3), strobe: Some(ms(200)) },
        Move::Disk(WrongDisk::Wiped(Target::Follower(0))),
        Move::Disk(WrongDisk::Wiped(Target::Leader)),
        Move::Disk(WrongDisk::Swapped(0)),
        Move::Disk(WrongDisk::Restored { target: Target::Follower(0), age: s(10) }),
        Move::Disk(WrongDisk::Restored { target: Target::Leader, age: s(10) }),
        Move::RollingRestart,
    ]
}
