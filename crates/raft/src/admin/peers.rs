//! What a change of the membership asks of other nodes, members or not.

use std::sync::Arc;

use annals_proto::annals::internal::v1 as pb;
use futures::future::BoxFuture;
use tonic::{Response, Status};

use crate::identity::Identity;
use crate::network::Channels;
use crate::types::NodeInfo;

/// What is asked of nodes that may be members or not.
pub(crate) trait Peers: Send + Sync {
    /// Who is there.
    fn probe<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<pb::ProbeReply, Status>>;
    /// Gives an empty node its identity.
    fn adopt<'a>(
        &'a self,
        address: &'a str,
        request: pb::AdoptRequest,
    ) -> BoxFuture<'a, Result<pb::AdoptReply, Status>>;
    /// Tells a node that it was removed.
    fn retire<'a>(&'a self, node: u64, info: &'a NodeInfo) -> BoxFuture<'a, Result<(), Status>>;
}

/// Peers that are reached through the network.
pub(crate) struct NetworkPeers {
    pub(crate) identity: Identity,
    pub(crate) channels: Arc<Channels>,
}

impl Peers for NetworkPeers {
    fn probe<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<pb::ProbeReply, Status>> {
        Box::pin(async move {
            let mut client = self.channels.coordination(address)?;
            client.probe(pb::ProbeRequest {}).await.map(Response::into_inner)
        })
    }

    fn adopt<'a>(
        &'a self,
        address: &'a str,
        request: pb::AdoptRequest,
    ) -> BoxFuture<'a, Result<pb::AdoptReply, Status>> {
        Box::pin(async move {
            let mut client = self.channels.coordination(address)?;
            client.adopt(request).await.map(Response::into_inner)
        })
    }

    fn retire<'a>(&'a self, node: u64, info: &'a NodeInfo) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let mut client = self.channels.coordination(&info.address)?;
            client.retire(self.identity.sign(node, info, pb::RetireRequest::default())).await.map(|_| ())
        })
    }
}
