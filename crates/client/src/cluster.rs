//! Operating a cluster of Annals.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annals_proto::annals::v1::cluster_client::ClusterClient;
use annals_proto::annals::v1::{
    AddNodeRequest, HashReply, HashRequest, ListStreamsRequest, NodeRequest, ScavengeReply, ScavengeStatusRequest,
    StartScavengeRequest, StatusReply, StatusRequest, StopScavengeRequest, TransferLeaderRequest, list_streams_reply,
};
use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::gossip::gossip_client::GossipClient;
use tonic::transport::Channel;

use crate::client::Deadline;
use crate::{Client, Error};

/// What operates a cluster. Any node answers.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    pub(crate) fn new(client: Client) -> Self {
        Cluster { client }
    }

    /// How the cluster is doing, as the node we are connected to sees it.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub async fn status(&self) -> Result<StatusReply, Error> {
        let request = || self.client.request(StatusRequest {}, Deadline::Default);
        self.client.call(|channel| async move { service(channel).status(request()).await }).await
    }

    /// What time it is for the node that answers. It tells that with who is in the
    /// cluster, for which nobody needs credentials.
    ///
    /// # Errors
    /// The node cannot be reached, or does not tell.
    pub async fn clock(&self) -> Result<SystemTime, Error> {
        let request = || self.client.request(Empty {}, Deadline::Default);
        let told = self.client.call(|channel| async move { GossipClient::new(channel).read(request()).await }).await?;
        let ticks = told.members.first().and_then(|member| u64::try_from(member.time_stamp).ok());
        let ticks = ticks.ok_or(Error::Protocol("gossip names no member"))?;
        Ok(UNIX_EPOCH + Duration::from_micros(ticks / 10))
    }

    /// Adds the empty node that waits at this `host:port`, as a learner.
    /// Answers its id.
    ///
    /// # Errors
    /// No leader, the node cannot be reached, or it is not empty.
    pub async fn add(&self, address: &str) -> Result<u64, Error> {
        self.added(address, 0).await
    }

    /// Adds the empty node that waits at this `host:port`, and has it take the place of
    /// a member that is gone as soon as it has caught up. Answers the id of the new one.
    ///
    /// # Errors
    /// As of [`Cluster::add`]; or the old node is there, with its data.
    pub async fn replace(&self, old: u64, address: &str) -> Result<u64, Error> {
        self.added(address, old).await
    }

    async fn added(&self, address: &str, replaces: u64) -> Result<u64, Error> {
        let message = AddNodeRequest { address: address.to_owned(), replaces };
        let request = || self.client.request(message.clone(), Deadline::Long);
        let reply = self.client.call(|channel| async move { service(channel).add_node(request()).await }).await?;
        Ok(reply.node)
    }

    /// Gives a learner that has caught up a vote.
    ///
    /// # Errors
    /// No leader, no such learner, or it is too far behind.
    pub async fn promote(&self, node: u64) -> Result<u64, Error> {
        let request = || self.client.request(NodeRequest { node, force: false }, Deadline::Long);
        let reply = self.client.call(|channel| async move { service(channel).promote(request()).await }).await?;
        Ok(reply.node)
    }

    /// Takes a node out of the cluster for good; with `force` also if the voters that
    /// are left cannot decide anything before more of them are back.
    ///
    /// # Errors
    /// No leader, or no such node, or without `force` too few would be left.
    pub async fn remove(&self, node: u64, force: bool) -> Result<u64, Error> {
        let request = || self.client.request(NodeRequest { node, force }, Deadline::Long);
        let reply = self.client.call(|channel| async move { service(channel).remove(request()).await }).await?;
        Ok(reply.node)
    }

    /// Hands leadership to this voter, or to the most advanced one. Answers
    /// the new leader's id.
    ///
    /// # Errors
    /// No leader, or the voter cannot take over.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<u64, Error> {
        let message = TransferLeaderRequest { node: to.unwrap_or(0) };
        let request = || self.client.request(message, Deadline::Long);
        let reply =
            self.client.call(|channel| async move { service(channel).transfer_leader(request()).await }).await?;
        Ok(reply.node)
    }

    /// The chain hash of the node we are connected to, up to a position or to
    /// its newest event.
    ///
    /// # Errors
    /// The node has not come to that position.
    pub async fn hash(&self, position: Option<u64>) -> Result<HashReply, Error> {
        let message = HashRequest { position: position.unwrap_or(0) };
        let request = || self.client.request(message, Deadline::Default);
        self.client.call(|channel| async move { service(channel).hash(request()).await }).await
    }

    /// Begins to give the space of deleted events back, unless that is under way.
    ///
    /// # Errors
    /// No leader.
    pub async fn start_scavenge(&self) -> Result<ScavengeReply, Error> {
        let request = || self.client.request(StartScavengeRequest {}, Deadline::Default);
        self.client.call(|channel| async move { service(channel).start_scavenge(request()).await }).await
    }

    /// Stops the scavenge that runs, or only the one with this id.
    ///
    /// # Errors
    /// No leader, or it does not run.
    pub async fn stop_scavenge(&self, id: Option<&str>) -> Result<ScavengeReply, Error> {
        let message = StopScavengeRequest { scavenge: id.unwrap_or_default().to_owned() };
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).stop_scavenge(request()).await }).await
    }

    /// The last scavenge, as the node we are connected to has applied it.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub async fn scavenge_status(&self) -> Result<ScavengeReply, Error> {
        let request = || self.client.request(ScavengeStatusRequest {}, Deadline::Default);
        self.client.call(|channel| async move { service(channel).scavenge_status(request()).await }).await
    }

    /// Streams in byte order of their names, at most `limit`.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub async fn list_streams(
        &self,
        prefix: &str,
        after: &str,
        limit: u32,
        system: bool,
    ) -> Result<Vec<list_streams_reply::Stream>, Error> {
        let message = ListStreamsRequest { prefix: prefix.to_owned(), after: after.to_owned(), limit, system };
        let request = || self.client.request(message.clone(), Deadline::Long);
        let mut replies =
            self.client.call(|channel| async move { service(channel).list_streams(request()).await }).await?;
        let mut streams = Vec::new();
        while let Some(reply) = replies.message().await? {
            streams.extend(reply.streams);
        }
        Ok(streams)
    }
}

fn service(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel)
}
