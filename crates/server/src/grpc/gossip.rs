//! `event_store.client.gossip.Gossip`: how clients find the nodes.

use std::sync::Arc;

use annals_proto::event_store::client::gossip::gossip_server::{Gossip, GossipServer};
use annals_proto::event_store::client::gossip::{ClusterInfo, EndPoint, MemberInfo};
use annals_proto::event_store::client::{Empty, Uuid, uuid};
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::members::{self, Told};

/// The service.
pub(crate) fn service(context: Arc<Context>) -> GossipServer<Service> {
    GossipServer::new(Service { context }).max_decoding_message_size(super::MESSAGE_BYTES_MAX)
}

pub(crate) struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl Gossip for Service {
    async fn read(&self, _: Request<Empty>) -> Result<Response<ClusterInfo>, Status> {
        let members = members::told(&self.context).into_iter().map(member).collect();
        Ok(Response::new(ClusterInfo { members }))
    }
}

fn member(told: Told) -> MemberInfo {
    let (high, low) = told.instance.as_u64_pair();
    let structured =
        uuid::Structured { most_significant_bits: high.cast_signed(), least_significant_bits: low.cast_signed() };
    MemberInfo {
        instance_id: Some(Uuid { value: Some(uuid::Value::Structured(structured)) }),
        time_stamp: i64::try_from(told.seen.ticks()).unwrap_or(i64::MAX),
        state: told.state.into(),
        is_alive: told.alive,
        http_end_point: Some(EndPoint { address: told.host, port: u32::from(told.port) }),
    }
}
