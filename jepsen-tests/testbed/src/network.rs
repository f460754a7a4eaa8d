//! What is wrong with the network between the nodes.
//!
//! Several faults can be in force at once, so each is a layer that is laid on
//! and lifted by its token. The rules of every namespace are computed from all
//! layers and replaced as a whole, in one step per namespace: no packet ever
//! meets half a rule set, and lifting one fault cannot forget another.
//!
//! Rules stand where packets arrive, in `INPUT`: a cut from 1 to 2 is a rule of
//! node 2 about packets from node 1. The address of the test bed itself is let
//! through first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use annals_checker::history::NodeNumber;
use anyhow::Result;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::delay::Delays;
use crate::namespaces::{self, CONTROL_ADDRESS, LOAD_ADDRESS};

/// How packets are kept from arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// They vanish.
    Drop,
    /// The sender is told that the connection is gone.
    Reset,
}

/// Who cannot reach whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Packets from the first do not arrive at the second.
    pub cuts: BTreeSet<(NodeNumber, NodeNumber)>,
    /// Nodes that no client reaches either.
    pub without_clients: BTreeSet<NodeNumber>,
    /// How.
    pub how: Cut,
}

/// Where a fault of the network is felt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// By what arrives at one node from another, and back.
    Link(NodeNumber, NodeNumber),
    /// By all that arrives at a node, clients' packets included.
    Node(NodeNumber),
    /// By all that arrives anywhere.
    All,
}

/// A fault of the network, in force from laying it on until lifting it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Packets do not arrive.
    Partition(Partition),
    /// Packets are lost by chance.
    Loss {
        /// Which.
        extent: Extent,
        /// Of a hundred.
        percent: u32,
    },
    /// Packets arrive late.
    Delay {
        /// Which.
        extent: Extent,
        /// How late.
        by: Duration,
        /// And how much more or less.
        jitter: Duration,
        /// Whether a packet may overtake another.
        reorder: bool,
    },
    /// All that goes to a node shares this.
    Bandwidth {
        /// The node.
        node: NodeNumber,
        /// Bits per second.
        bits: u64,
    },
}

/// A layer that was laid on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u64);

/// The network of one test bed.
pub struct Network {
    state: Mutex<State>,
    delays: Delays,
}

#[derive(Default)]
struct State {
    nodes: BTreeSet<NodeNumber>,
    layers: BTreeMap<Token, Layer>,
    laid: u64,
    /// What is in force, so that only what changes is touched.
    rules: BTreeMap<NodeNumber, String>,
    rates: BTreeMap<NodeNumber, u64>,
}

impl Partition {
    /// Both directions between every node of one group and every node of
    /// another.
    pub fn between(groups: &[Vec<NodeNumber>], how: Cut) -> Partition {
        let mut cuts = BTreeSet::new();
        for (at, group) in groups.iter().enumerate() {
            for (other_at, other) in groups.iter().enumerate() {
                if at != other_at {
                    cuts.extend(group.iter().flat_map(|from| other.iter().map(move |to| (*from, *to))));
                }
            }
        }
        Partition { cuts, without_clients: BTreeSet::new(), how }
    }

    /// One node against all others.
    pub fn isolate(node: NodeNumber, nodes: &[NodeNumber], how: Cut) -> Partition {
        let others = nodes.iter().copied().filter(|other| *other != node).collect();
        Partition::between(&[vec![node], others], how)
    }

    /// Nothing arrives at the node from the others; what it says is heard.
    pub fn deaf(node: NodeNumber, nodes: &[NodeNumber], how: Cut) -> Partition {
        let cuts = nodes.iter().filter(|other| **other != node).map(|other| (*other, node)).collect();
        Partition { cuts, without_clients: BTreeSet::new(), how }
    }

    /// Nothing that the node says arrives at the others; it hears them.
    pub fn mute(node: NodeNumber, nodes: &[NodeNumber], how: Cut) -> Partition {
        let cuts = nodes.iter().filter(|other| **other != node).map(|other| (node, *other)).collect();
        Partition { cuts, without_clients: BTreeSet::new(), how }
    }

    /// Two halves that do not see each other, and one node that sees both: the
    /// one in the middle of the list.
    pub fn bridge(nodes: &[NodeNumber], how: Cut) -> Partition {
        let middle = nodes.len() / 2;
        let (left, right) = (nodes[..middle].to_vec(), nodes.get(middle + 1..).unwrap_or_default().to_vec());
        Partition::between(&[left, right], how)
    }

    /// Everyone sees its two neighbours only, so that with five nodes every
    /// node sees a majority, and no two the same.
    pub fn ring(nodes: &[NodeNumber], how: Cut) -> Partition {
        let n = nodes.len();
        let mut cuts = BTreeSet::new();
        for from in 0..n {
            for to in 0..n {
                let distance = (from + n - to) % n;
                if distance > 1 && distance < n - 1 {
                    cuts.insert((nodes[from], nodes[to]));
                }
            }
        }
        Partition { cuts, without_clients: BTreeSet::new(), how }
    }
}

impl Network {
    /// A network without nodes.
    pub(crate) fn new() -> Network {
        Network { state: Mutex::default(), delays: Delays::default() }
    }

    /// A node came.
    pub(crate) fn add(&self, node: NodeNumber) -> Result<()> {
        let mut state = self.state.lock();
        state.nodes.insert(node);
        self.apply(&mut state)
    }

    /// A node goes.
    pub(crate) fn remove(&self, node: NodeNumber) {
        let mut state = self.state.lock();
        state.nodes.remove(&node);
        state.rules.remove(&node);
        state.rates.remove(&node);
        self.delays.stop(node);
    }

    /// Puts a fault into force, beside those that are.
    ///
    /// # Errors
    /// A tool failed. The fault is not in force then, as far as that could be
    /// achieved.
    pub fn lay(&self, layer: Layer) -> Result<Token> {
        let mut state = self.state.lock();
        state.laid += 1;
        let token = Token(state.laid);
        state.layers.insert(token, layer);
        if let Err(error) = self.apply(&mut state) {
            state.layers.remove(&token);
            let _ = self.apply(&mut state);
            return Err(error);
        }
        Ok(token)
    }

    /// Takes a fault back. One that is not in force is fine.
    ///
    /// # Errors
    /// A tool failed; [`Network::heal`] tries again.
    pub fn lift(&self, token: Token) -> Result<()> {
        let mut state = self.state.lock();
        if state.layers.remove(&token).is_none() {
            return Ok(());
        }
        self.apply(&mut state)
    }

    /// Takes all faults back.
    ///
    /// # Errors
    /// A tool failed.
    pub fn heal(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.layers.clear();
        self.apply(&mut state)
    }

    fn apply(&self, state: &mut State) -> Result<()> {
        let layers: Vec<&Layer> = state.layers.values().collect();
        let mut wanted = BTreeMap::new();
        for node in &state.nodes {
            wanted.insert(*node, (rules(*node, &layers), rate(*node, &layers)));
            // A queue without a reader lets packets pass, so the order of
            // these two steps loses nothing.
            self.delays.set(*node, &layers)?;
        }
        let changed: Vec<_> = wanted.iter().filter(|(node, (rules, _))| state.rules.get(node) != Some(rules)).collect();
        // All namespaces at once: a partition should begin everywhere together.
        let results: Vec<(NodeNumber, Result<()>)> = std::thread::scope(|scope| {
            let tasks: Vec<_> = changed
                .iter()
                .map(|(node, (rules, _))| {
                    let work = || namespaces::replace_rules(&namespaces::node(**node), rules);
                    (**node, scope.spawn(work))
                })
                .collect();
            let join = |task: std::thread::ScopedJoinHandle<'_, Result<()>>| {
                task.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread that set rules panicked")))
            };
            tasks.into_iter().map(|(node, task)| (node, join(task))).collect()
        });
        for (node, result) in results {
            result?;
            state.rules.insert(node, wanted[&node].0.clone());
        }
        for (node, (_, rate)) in wanted {
            if state.rates.get(&node).copied() != rate {
                set_rate(node, rate)?;
                match rate {
                    Some(rate) => state.rates.insert(node, rate),
                    None => state.rates.remove(&node),
                };
            }
        }
        Ok(())
    }
}

/// The rules of a node, in the format of `iptables-restore`.
fn rules(node: NodeNumber, layers: &[&Layer]) -> String {
    let mut text = String::from("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    text.push_str(&format!("-A INPUT -s {CONTROL_ADDRESS} -j ACCEPT\n-A INPUT -i lo -j ACCEPT\n"));
    for layer in layers {
        if let Layer::Partition(partition) = layer {
            for (from, to) in &partition.cuts {
                if *to == node {
                    text.push_str(&cut(&namespaces::ip(*from), partition.how));
                }
            }
            if partition.without_clients.contains(&node) {
                text.push_str(&cut(LOAD_ADDRESS, partition.how));
                // Else a subscription would still be told what arrives here.
                text.push_str(&format!("-A OUTPUT -d {LOAD_ADDRESS} -p tcp ! --tcp-flags RST RST -j DROP\n"));
            }
        }
    }
    for layer in layers {
        if let Layer::Loss { extent, percent } = layer {
            for source in sources(node, *extent) {
                let p = f64::from(*percent) / 100.0;
                text.push_str(&format!("-A INPUT{source} -m statistic --mode random --probability {p} -j DROP\n"));
            }
        }
    }
    // At most one queue per packet; the queue's reader knows which delays meet.
    let delayed: BTreeSet<String> = layers
        .iter()
        .filter_map(|layer| match layer {
            Layer::Delay { extent, .. } => Some(sources(node, *extent)),
            Layer::Partition(_) | Layer::Loss { .. } | Layer::Bandwidth { .. } => None,
        })
        .flatten()
        .collect();
    for source in delayed {
        text.push_str(&format!("-A INPUT{source} -j NFQUEUE --queue-num 0 --queue-bypass\n"));
    }
    text.push_str("COMMIT\n");
    text
}

fn cut(from: &str, how: Cut) -> String {
    match how {
        Cut::Drop => format!("-A INPUT -s {from} -j DROP\n"),
        // What is not TCP has no connection that could be reset.
        Cut::Reset => {
            format!("-A INPUT -s {from} -p tcp -j REJECT --reject-with tcp-reset\n-A INPUT -s {from} -j DROP\n")
        }
    }
}

/// Matches of the packets that arrive at a node within an extent.
fn sources(node: NodeNumber, extent: Extent) -> Vec<String> {
    match extent {
        Extent::Link(one, other) if one == node => vec![format!(" -s {}", namespaces::ip(other))],
        Extent::Link(one, other) if other == node => vec![format!(" -s {}", namespaces::ip(one))],
        Extent::Node(one) if one == node => vec![String::new()],
        Extent::All => vec![String::new()],
        Extent::Link(..) | Extent::Node(_) => Vec::new(),
    }
}

/// Whether packets that arrive at a node from an address are within an extent.
pub(crate) fn covers(extent: Extent, node: NodeNumber, from: &str) -> bool {
    sources(node, extent).iter().any(|source| source.is_empty() || source.strip_prefix(" -s ") == Some(from))
}

fn rate(node: NodeNumber, layers: &[&Layer]) -> Option<u64> {
    let rates = layers.iter().filter_map(|layer| match layer {
        Layer::Bandwidth { node: slow, bits } if *slow == node => Some(*bits),
        Layer::Bandwidth { .. } | Layer::Partition(_) | Layer::Loss { .. } | Layer::Delay { .. } => None,
    });
    rates.min()
}

/// Limits what the bridge sends to a node, the test bed's own calls included.
fn set_rate(node: NodeNumber, rate: Option<u64>) -> Result<()> {
    let port = namespaces::bridge_port(node);
    let line = match rate {
        // The queue holds what arrives within 400 ms; the rest is lost, as at
        // a real bottleneck.
        Some(bits) => format!("qdisc replace dev {port} root tbf rate {bits}bit burst 16kb latency 400ms\n"),
        None => format!("qdisc del dev {port} root\n"),
    };
    namespaces::tc_batch(&namespaces::bridge(), &line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(partition: &Partition) -> Vec<(u32, u32)> {
        partition.cuts.iter().copied().collect()
    }

    #[test]
    fn an_isolated_node_neither_hears_nor_is_heard() {
        assert_eq!(cuts(&Partition::isolate(2, &[1, 2, 3], Cut::Drop)), [(1, 2), (2, 1), (2, 3), (3, 2)]);
        assert_eq!(cuts(&Partition::deaf(2, &[1, 2, 3], Cut::Drop)), [(1, 2), (3, 2)]);
        assert_eq!(cuts(&Partition::mute(2, &[1, 2, 3], Cut::Drop)), [(2, 1), (2, 3)]);
    }

    #[test]
    fn a_bridge_leaves_one_node_that_sees_all() {
        assert_eq!(cuts(&Partition::bridge(&[1, 2, 3], Cut::Drop)), [(1, 3), (3, 1)]);
        let five = Partition::bridge(&[1, 2, 3, 4, 5], Cut::Drop);
        assert!(five.cuts.iter().all(|(from, to)| *from != 3 && *to != 3));
        assert_eq!(five.cuts.len(), 8);
    }

    #[test]
    fn in_a_ring_of_five_every_node_sees_two_others() {
        let ring = Partition::ring(&[1, 2, 3, 4, 5], Cut::Drop);
        for node in 1..=5 {
            assert_eq!(ring.cuts.iter().filter(|(from, _)| *from == node).count(), 2);
        }
        assert!(Partition::ring(&[1, 2, 3], Cut::Drop).cuts.is_empty());
    }

    #[test]
    fn rules_let_the_test_bed_through_and_combine_layers() {
        let partition = Layer::Partition(Partition::isolate(1, &[1, 2], Cut::Reset));
        let loss = Layer::Loss { extent: Extent::Node(2), percent: 5 };
        let delay = Layer::Delay {
            extent: Extent::Link(2, 3),
            by: Duration::from_millis(50),
            jitter: Duration::ZERO,
            reorder: false,
        };
        assert_eq!(
            rules(2, &[&loss, &partition, &delay]),
            "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
             -A INPUT -s 198.18.0.3 -j ACCEPT\n\
             -A INPUT -i lo -j ACCEPT\n\
             -A INPUT -s 198.18.0.11 -p tcp -j REJECT --reject-with tcp-reset\n\
             -A INPUT -s 198.18.0.11 -j DROP\n\
             -A INPUT -m statistic --mode random --probability 0.05 -j DROP\n\
             -A INPUT -s 198.18.0.13 -j NFQUEUE --queue-num 0 --queue-bypass\n\
             COMMIT\n"
        );
        assert!(covers(Extent::Link(2, 3), 2, "198.18.0.13") && !covers(Extent::Link(2, 3), 2, "198.18.0.11"));
    }
}
