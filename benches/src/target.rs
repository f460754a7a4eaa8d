//! Who is measured: the server or cluster, and the connections to it.

use annals_client::{Client, Error, Settings};
use tonic::metadata::MetadataValue;

pub use crate::wire::Connection;

/// Clients that share a connection. More of them would measure one HTTP/2
/// connection, fewer would be a connection for each client, which no
/// application makes.
const CLIENTS_PER_CONNECTION: usize = 16;

const REQUIRES_LEADER: &str = "requires-leader";
const CONSISTENCY: &str = "annals-consistency";

/// A server or a cluster.
#[derive(Clone)]
pub struct Target {
    settings: Settings,
    spread: bool,
}

/// How fresh a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Consistency {
    /// Everything acknowledged before the read is seen, on any node.
    Linearizable,
    /// What the node has.
    Local,
    /// Only the leader answers, and as if linearizable.
    Leader,
}

impl Target {
    /// The node that the connection string leads to or, with `spread`, every
    /// host that it names, each getting its share of the connections.
    pub fn new(settings: Settings, spread: bool) -> Self {
        Target { settings, spread }
    }

    /// Connections for so many clients.
    ///
    /// # Errors
    /// A node cannot be reached.
    pub async fn connect(&self, clients: usize) -> Result<Connections, Error> {
        let nodes = self.nodes();
        let count = clients.div_ceil(CLIENTS_PER_CONNECTION).max(nodes.len().min(clients)).max(1);
        let mut connections = Vec::with_capacity(count);
        for settings in nodes.iter().cycle().take(count) {
            let client = Client::new(settings.clone());
            let mut headers = client.headers().clone();
            if self.spread {
                headers.remove(REQUIRES_LEADER);
            }
            connections.push(Connection::new(client.channel().await?, headers));
        }
        Ok(Connections(connections))
    }

    /// How to find each node that is wanted.
    fn nodes(&self) -> Vec<Settings> {
        if !self.spread {
            return vec![self.settings.clone()];
        }
        let one = |host: &_| Settings { hosts: vec![Clone::clone(host)], discover: false, ..self.settings.clone() };
        self.settings.hosts.iter().map(one).collect()
    }
}

/// Connections that clients share.
pub struct Connections(Vec<Connection>);

impl Connections {
    /// The connection of a client, by its number.
    pub(crate) fn of(&self, client: usize) -> Connection {
        self.0[client % self.0.len()].clone()
    }

    /// From now on reads ask for this.
    #[must_use]
    pub(crate) fn with(mut self, consistency: Consistency) -> Self {
        for headers in self.0.iter_mut().map(Connection::headers_mut) {
            headers.remove(REQUIRES_LEADER);
            match consistency {
                Consistency::Linearizable => {
                    headers.insert(CONSISTENCY, MetadataValue::from_static("linearizable"));
                }
                Consistency::Local => {}
                Consistency::Leader => {
                    headers.insert(REQUIRES_LEADER, MetadataValue::from_static("true"));
                }
            }
        }
        self
    }
}

impl Consistency {
    /// Whether everything acknowledged before must be seen.
    pub(crate) fn sees_all(self) -> bool {
        match self {
            Consistency::Linearizable | Consistency::Leader => true,
            Consistency::Local => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_means_every_host_without_looking_for_the_leader() {
        let settings: Settings = "kurrentdb://a:1,b:2?tls=false".parse().expect("valid");
        let found = Target::new(settings.clone(), false).nodes();
        assert_eq!((found.len(), found[0].discover), (1, true));
        let spread = Target::new(settings, true).nodes();
        let hosts: Vec<_> = spread.iter().map(|settings| settings.hosts[0].to_string()).collect();
        assert_eq!(hosts, ["a:1", "b:2"]);
        assert!(spread.iter().all(|settings| !settings.discover));
    }
}
