//! Faults of the network.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use annals_checker::history::NodeNumber;
use anyhow::{Context as _, Result};

use super::{Outcome, Region, Shape, Target, Weather, wait_leader, who_leads};
use crate::network::{Cut, Extent, Layer, Partition};
use crate::testbed::Testbed;

/// F3.
pub(super) async fn partition(
    testbed: &Testbed,
    shape: Shape,
    how: Cut,
    time: Duration,
    clients: bool,
    flapping: Option<Duration>,
) -> Result<Outcome> {
    let (mut partition, nodes) = draw(testbed, shape, how).await?;
    if partition.cuts.is_empty() {
        return Ok(Outcome::skipped("with so few nodes it cuts nobody off"));
    }
    if clients {
        partition.without_clients = nodes.iter().copied().collect();
    }
    let before = who_leads(testbed).await;
    let start = testbed.now();
    let end = Instant::now() + time;
    let mut detail = vec![format!("before, {before}")];
    match flapping {
        None => {
            let begin = Instant::now();
            let token = testbed.partition(&partition)?;
            detail.push(format!("in force after {:?}", begin.elapsed()));
            tokio::time::sleep_until(end.into()).await;
            detail.push(format!("in the end, {}", who_leads(testbed).await));
            testbed.network().lift(token)?;
        }
        Some(period) => {
            let (mut times, mut slowest) = (0, Duration::ZERO);
            let mut next = Instant::now();
            while next < end {
                let begin = Instant::now();
                let token = testbed.partition(&partition)?;
                slowest = slowest.max(begin.elapsed());
                tokio::time::sleep_until((next + period / 2).into()).await;
                testbed.network().lift(token)?;
                next += period;
                tokio::time::sleep_until(next.into()).await;
                times += 1;
            }
            detail.push(format!("{times} times, the slowest in force after {slowest:?}"));
        }
    }
    Ok(Outcome::installed(nodes, detail.join("; ")).since(start))
}

/// The cuts of a shape, and the nodes that are worse off.
async fn draw(testbed: &Testbed, shape: Shape, how: Cut) -> Result<(Partition, Vec<NodeNumber>)> {
    let nodes = testbed.nodes();
    let one = async |target: Target| -> Result<NodeNumber> {
        target.resolve(testbed).await?.first().copied().context("there is no such node")
    };
    Ok(match shape {
        Shape::Halves(drawn) => {
            let few = Target::Minority(drawn).resolve(testbed).await?;
            let set: BTreeSet<_> = few.iter().copied().collect();
            let many = nodes.into_iter().filter(|node| !set.contains(node)).collect();
            (Partition::between(&[few.clone(), many], how), few)
        }
        Shape::Isolated(target) => {
            let node = one(target).await?;
            (Partition::isolate(node, &nodes, how), vec![node])
        }
        Shape::Bridge => (Partition::bridge(&nodes, how), nodes),
        Shape::Ring => (Partition::ring(&nodes, how), nodes),
        Shape::Deaf(target) => {
            let node = one(target).await?;
            (Partition::deaf(node, &nodes, how), vec![node])
        }
        Shape::Mute(target) => {
            let node = one(target).await?;
            (Partition::mute(node, &nodes, how), vec![node])
        }
    })
}

/// F4.
pub(super) async fn weather(testbed: &Testbed, weather: Weather, region: Region, time: Duration) -> Result<Outcome> {
    let extents = match region {
        Region::All => vec![Extent::All],
        Region::Node(target) => target.resolve(testbed).await?.into_iter().map(Extent::Node).collect(),
        Region::Link(drawn) => {
            let leader = wait_leader(testbed).await?;
            let other = Target::Follower(drawn).resolve(testbed).await?;
            other.into_iter().map(|other| Extent::Link(leader, other)).collect()
        }
    };
    let before = who_leads(testbed).await;
    let mut nodes = BTreeSet::new();
    for extent in &extents {
        match extent {
            Extent::Link(one, other) => nodes.extend([*one, *other]),
            Extent::Node(node) => nodes.extend([*node]),
            Extent::All => nodes.extend(testbed.nodes()),
        }
    }
    let mut layers: Vec<Layer> = Vec::new();
    for extent in extents {
        match weather {
            Weather::Loss(percent) => layers.push(Layer::Loss { extent, percent }),
            Weather::Delay { by, jitter, reorder } => layers.push(Layer::Delay { extent, by, jitter, reorder }),
            // A link has two ends; what is slow is the way to the second.
            Weather::Bandwidth(bits) => match extent {
                Extent::Link(_, node) | Extent::Node(node) => layers.push(Layer::Bandwidth { node, bits }),
                Extent::All => {
                    layers.extend(testbed.nodes().into_iter().map(|node| Layer::Bandwidth { node, bits }));
                }
            },
        }
    }
    let start = testbed.now();
    let mut tokens = Vec::new();
    let mut laid = Ok(());
    for layer in layers {
        match testbed.network().lay(layer) {
            Ok(token) => tokens.push(token),
            Err(error) => {
                laid = Err(error);
                break;
            }
        }
    }
    if laid.is_ok() {
        tokio::time::sleep(time).await;
    }
    let after = who_leads(testbed).await;
    for token in tokens {
        testbed.network().lift(token)?;
    }
    laid?;
    Ok(Outcome::installed(nodes.into_iter().collect(), format!("before, {before}; in the end, {after}")).since(start))
}
