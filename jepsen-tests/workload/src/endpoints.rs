//! Where the nodes are, and which of them are worth a call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_checker::history::NodeNumber;
use parking_lot::{Mutex, RwLock};
use rand::Rng;

/// A node that did not answer is mostly left alone for so long: with a third
/// of the calls waiting for a stopped node, nothing would be written any more.
const AVOID: Duration = Duration::from_millis(1_000);

/// Yet of a thousand calls so many go there nevertheless: whatever a node that
/// comes back would do wrong, it does first.
const NEVERTHELESS_PER_MILLE: u32 = 30;

/// The nodes and their addresses. Clones are the same list, which may change
/// during a run.
#[derive(Clone, Default)]
pub struct Endpoints {
    nodes: Arc<RwLock<Vec<(NodeNumber, String)>>>,
    avoided: Arc<Mutex<HashMap<NodeNumber, Instant>>>,
    leader: Arc<Mutex<Option<NodeNumber>>>,
}

impl Endpoints {
    /// These nodes, each with `host:port`.
    pub fn new(nodes: Vec<(NodeNumber, String)>) -> Endpoints {
        let endpoints = Endpoints::default();
        *endpoints.nodes.write() = nodes;
        endpoints
    }

    /// A node is there now, or somewhere else.
    pub fn add(&self, node: NodeNumber, address: String) {
        let mut nodes = self.nodes.write();
        nodes.retain(|(number, _)| *number != node);
        nodes.push((node, address));
    }

    /// A node is not there any more.
    pub fn remove(&self, node: NodeNumber) {
        self.nodes.write().retain(|(number, _)| *number != node);
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<NodeNumber> {
        self.nodes.read().iter().map(|(node, _)| *node).collect()
    }

    /// Where a node is.
    pub fn address(&self, node: NodeNumber) -> Option<String> {
        self.nodes.read().iter().find(|(number, _)| *number == node).map(|(_, address)| address.clone())
    }

    /// Some node, rather not one of those that did not answer lately.
    pub(crate) fn choose(&self, rng: &mut impl Rng) -> Option<NodeNumber> {
        self.choose_other(None, rng)
    }

    /// Some node other than this one, where there is one.
    pub(crate) fn choose_other(&self, than: Option<NodeNumber>, rng: &mut impl Rng) -> Option<NodeNumber> {
        let mut nodes = self.nodes();
        if nodes.len() > 1 {
            nodes.retain(|node| Some(*node) != than);
        }
        // Drawn in any case, so that the choices of a seed do not depend on
        // how the nodes are.
        let nevertheless = rng.random_ratio(NEVERTHELESS_PER_MILLE, 1_000);
        let draw = rng.random_range(0..u32::MAX) as usize;
        if !nevertheless {
            let now = Instant::now();
            let avoided = self.avoided.lock();
            let good = |node: &NodeNumber| avoided.get(node).is_none_or(|until| *until <= now);
            if nodes.iter().any(good) {
                nodes.retain(good);
            }
        }
        if nodes.is_empty() { None } else { Some(nodes[draw % nodes.len()]) }
    }

    /// A node did not answer.
    pub(crate) fn silent(&self, node: NodeNumber) {
        self.avoided.lock().insert(node, Instant::now() + AVOID);
    }

    /// A node answered.
    pub(crate) fn answered(&self, node: NodeNumber) {
        self.avoided.lock().remove(&node);
    }

    /// The node that was last said to lead.
    pub(crate) fn leader(&self) -> Option<NodeNumber> {
        *self.leader.lock()
    }

    /// A node said that the one at this address leads.
    pub(crate) fn leads(&self, address: &str) {
        let node = self.nodes.read().iter().find(|(_, at)| at == address).map(|(node, _)| *node);
        if node.is_some() {
            *self.leader.lock() = node;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_silent_node_is_mostly_avoided_but_not_forgotten() {
        let endpoints = Endpoints::new(vec![(1, "a".to_owned()), (2, "b".to_owned()), (3, "c".to_owned())]);
        let mut rng = StdRng::seed_from_u64(1);
        endpoints.silent(2);
        let chosen = (0..3_000).filter(|_| endpoints.choose(&mut rng) == Some(2)).count();
        assert!((1..300).contains(&chosen), "{chosen}");
        assert!((0..1_000).all(|_| endpoints.choose_other(Some(1), &mut rng) != Some(1)));
        endpoints.remove(1);
        endpoints.remove(3);
        assert_eq!(endpoints.choose_other(Some(2), &mut rng), Some(2), "better than nobody");
    }
}
