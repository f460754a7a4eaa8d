//! What the cluster says of itself, and changes of its membership.
//!
//! Every call goes over a connection of its own and is given up soon: what is
//! asked here is asked of nodes that may be paused, cut off or dead.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use annals_checker::history::NodeNumber;
use annals_proto::annals::v1::cluster_client::ClusterClient;
use annals_proto::annals::v1::{
    AddNodeRequest, HashReply, HashRequest, NodeRequest, StatusReply, StatusRequest, TransferLeaderRequest,
};
use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::namespaces::CONTROL_ADDRESS;
use crate::testbed::Testbed;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_millis(500);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(1500);

/// How long a change of the membership may take; the server gives up after 30 s.
const CHANGE: Duration = Duration::from_secs(35);

/// How a change of the membership went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is in force. The id is of the node it was about.
    Done(u64),
    /// It was refused, and is not in force.
    Refused(String),
    /// It may be in force, or come into force later.
    Unknown(String),
}

impl Change {
    /// The id, if the change is in force.
    ///
    /// # Errors
    /// It is not, or nobody knows.
    pub fn done(self) -> Result<u64> {
        match self {
            Change::Done(id) => Ok(id),
            Change::Refused(why) => bail!("refused: {why}"),
            Change::Unknown(why) => bail!("unknown: {why}"),
        }
    }
}

impl Testbed {
    /// What a node says of itself and the cluster.
    ///
    /// # Errors
    /// No answer in a moment.
    pub async fn status(&self, node: NodeNumber) -> Result<StatusReply> {
        let address = self.address(node);
        let asked = async {
            let mut client = ClusterClient::new(connect(&address, ANSWER).await?);
            Ok(client.status(StatusRequest {}).await?.into_inner())
        };
        tokio::time::timeout(ANSWER, asked).await.with_context(|| format!("node {node} did not answer"))?
    }

    /// What all nodes that answer say.
    pub async fn statuses(&self) -> BTreeMap<NodeNumber, StatusReply> {
        let mut asked = JoinSet::new();
        for node in self.nodes() {
            let testbed = self.clone();
            asked.spawn(async move { (node, testbed.status(node).await) });
        }
        let answers = asked.join_all().await;
        answers.into_iter().filter_map(|(node, status)| Some((node, status.ok()?))).collect()
    }

    /// The chain hash of a node's events up to a position; 0: all it has.
    ///
    /// # Errors
    /// No answer, or the node has not come so far.
    pub async fn hash(&self, node: NodeNumber, position: u64) -> Result<HashReply> {
        let mut client = ClusterClient::new(connect(&self.address(node), Duration::from_secs(10)).await?);
        Ok(client.hash(HashRequest { position }).await?.into_inner())
    }

    /// The node that claims to lead, of several the one with the highest term.
    /// A claim is not a proof: a node that was cut off may claim for a while.
    pub async fn leader(&self) -> Option<NodeNumber> {
        leader_of(&self.statuses().await).map(|(node, _)| node)
    }

    /// Waits until a node claims to lead in a term above this one.
    pub async fn wait_leader_above(&self, term: u64, timeout: Duration) -> Option<(NodeNumber, u64)> {
        // Each node is asked on its own, so that one that is paused does not
        // hold up what another says.
        let mut asked = JoinSet::new();
        for node in self.nodes() {
            let testbed = self.clone();
            asked.spawn(async move {
                loop {
                    if let Ok(status) = testbed.status(node).await
                        && claims(&status)
                        && status.term > term
                    {
                        return (node, status.term);
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
        // The others are given up with the set.
        tokio::time::timeout(timeout, asked.join_next()).await.ok()??.ok()
    }

    /// The id that the cluster gave a node, as far as any node knows it.
    pub async fn id(&self, node: NodeNumber) -> Option<u64> {
        let address = self.address(node);
        let statuses = self.statuses().await;
        if let Some(status) = statuses.get(&node)
            && status.node != 0
        {
            return Some(status.node);
        }
        let mut told = statuses.values().collect::<Vec<_>>();
        told.sort_by_key(|status| status.committed_index);
        told.iter()
            .rev()
            .find_map(|status| status.nodes.iter().find(|each| each.address == address).map(|each| each.id))
    }

    /// Makes a node, starts it empty, and has the cluster add it as a learner.
    /// Its number is new, whatever becomes of the addition.
    ///
    /// # Errors
    /// The node could not even be started.
    pub async fn add_node_change(&self) -> Result<(NodeNumber, Change)> {
        let node = self.make_node()?;
        self.start_node(node).await?;
        self.wait_listening(node, Duration::from_secs(20)).await?;
        Ok((node, self.ask_to_add(node).await))
    }

    /// Has the cluster add a node that listens already.
    pub async fn ask_to_add(&self, node: NodeNumber) -> Change {
        let address = self.address(node);
        self.change(|mut client| {
            let address = address.clone();
            async move { client.add_node(AddNodeRequest { address, replaces: 0 }).await }
        })
        .await
    }

    /// Adds a node as a learner, and waits until it is ready.
    ///
    /// # Errors
    /// It was not added, or not in time.
    pub async fn add_node(&self) -> Result<NodeNumber> {
        let (node, change) = self.add_node_change().await?;
        change.done().with_context(|| format!("node {node} was not added"))?;
        self.wait_ready(node, Duration::from_secs(30)).await?;
        Ok(node)
    }

    /// Gives a learner a vote.
    pub async fn promote(&self, id: u64) -> Change {
        self.change(|mut client| async move { client.promote(NodeRequest { node: id, force: false }).await }).await
    }

    /// Takes a node out of the cluster. The process and the directory stay.
    pub async fn remove(&self, id: u64) -> Change {
        self.change(|mut client| async move { client.remove(NodeRequest { node: id, force: false }).await }).await
    }

    /// Hands leadership to a node; 0: to any.
    pub async fn transfer_leader(&self, id: u64) -> Change {
        self.change(|mut client| async move { client.transfer_leader(TransferLeaderRequest { node: id }).await }).await
    }

    /// Asks the leader, or whoever answers, for a change.
    async fn change<F, R>(&self, call: F) -> Change
    where
        F: Fn(ClusterClient<Channel>) -> R,
        R: Future<Output = Result<tonic::Response<annals_proto::annals::v1::NodeReply>, tonic::Status>>,
    {
        let statuses = self.statuses().await;
        let Some(node) = leader_of(&statuses).map(|(node, _)| node).or_else(|| statuses.keys().next().copied()) else {
            return Change::Refused("no node answers".into());
        };
        let client = match connect(&self.address(node), CHANGE).await {
            Ok(channel) => ClusterClient::new(channel),
            Err(error) => return Change::Refused(format!("{error:#}")),
        };
        match tokio::time::timeout(CHANGE, call(client)).await {
            Ok(Ok(reply)) => Change::Done(reply.into_inner().node),
            Ok(Err(status)) => match status.code() {
                Code::FailedPrecondition | Code::InvalidArgument | Code::NotFound => {
                    Change::Refused(status.message().to_owned())
                }
                code => Change::Unknown(format!("{code:?}: {}", status.message())),
            },
            Err(_) => Change::Unknown(format!("no answer within {CHANGE:?}")),
        }
    }

    /// Whether a node's HTTP page answers 200.
    pub(crate) async fn page_is_ok(&self, node: NodeNumber, page: &str) -> bool {
        let address = self.address(node);
        let asked = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(control()?, 0))?;
            let mut stream = socket.connect(address.parse()?).await?;
            let request = format!("GET {page} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).await?;
            anyhow::Ok(&head == b"HTTP/1.1 200")
        };
        matches!(tokio::time::timeout(ANSWER, asked).await, Ok(Ok(true)))
    }
}

/// Of several statuses, the claim to lead with the highest term: who, and the
/// term.
pub fn leader_of(statuses: &BTreeMap<NodeNumber, StatusReply>) -> Option<(NodeNumber, u64)> {
    statuses
        .iter()
        .filter(|(_, status)| claims(status))
        .max_by_key(|(_, status)| status.term)
        .map(|(node, status)| (*node, status.term))
}

/// Whether a node says that it leads.
pub fn claims(status: &StatusReply) -> bool {
    status.leader != 0 && status.leader == status.node
}

/// A status in one line, for people.
pub fn line(node: NodeNumber, status: &StatusReply) -> String {
    let members: Vec<String> =
        status.nodes.iter().map(|each| format!("{}{}", each.id, if each.voter { "" } else { "(learner)" })).collect();
    format!(
        "node {node} is {} in term {}, leader {}, members [{}], applied {}, committed {}, last {}, durable {}, purged {}, tail {}",
        status.node,
        status.term,
        status.leader,
        members.join(" "),
        status.applied_index,
        status.committed_index,
        status.last_log_index,
        status.durable_index,
        status.purged_index,
        status.tail
    )
}

fn control() -> Result<IpAddr> {
    CONTROL_ADDRESS.parse().context("the address of the test bed")
}

async fn connect(address: &str, timeout: Duration) -> Result<Channel> {
    Endpoint::from_shared(format!("http://{address}"))?
        .local_address(Some(control()?))
        .connect_timeout(CONNECT)
        .timeout(timeout)
        .connect()
        .await
        .with_context(|| format!("could not connect to {address}"))
}
