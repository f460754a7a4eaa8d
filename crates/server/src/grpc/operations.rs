//! `Operations`: what an operator asks of a node with an official client.
//!
//! Shutdown, resignation and priority are about the node that is asked. Everything
//! else is about the cluster, and answered alike by every node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::operations::operations_server::{Operations, OperationsServer};
use annals_proto::event_store::client::operations::scavenge_resp::ScavengeResult;
use annals_proto::event_store::client::operations::{
    ScavengeResp, SetNodePriorityReq, StartScavengeReq, StopScavengeReq,
};
use annals_proto::event_store::client::persistent_subscriptions::persistent_subscriptions_server::PersistentSubscriptions as _;
use annals_raft::{AdminRequest, Role};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{cluster, persistent_subscriptions};
use crate::access::Caller;
use crate::access::audit::Decision;
use crate::consistency::{self, refuse_v1};
use crate::context::Context;
use crate::grpc::streams::convert::shortened;
use crate::scavenge;
use crate::status::Failure;

/// How long another voter may take to take over.
const HAND_OVER: Duration = Duration::from_secs(10);

/// The service.
pub(crate) fn service(context: Arc<Context>) -> OperationsServer<Service> {
    let groups = persistent_subscriptions::Service::new(context.clone());
    OperationsServer::new(Service { context, groups }).max_decoding_message_size(super::MESSAGE_BYTES_MAX)
}

pub(crate) struct Service {
    context: Arc<Context>,
    groups: persistent_subscriptions::Service,
}

impl Service {
    /// Who asks; only who operates the cluster may.
    async fn operator<T>(&self, request: &Request<T>, act: &'static str) -> Result<Caller, Status> {
        let caller = self.context.operator(request, act).await;
        caller.map_err(|failure| refuse_v1(&self.context, &failure))
    }

    fn note(&self, caller: &Caller, act: &'static str, on: &str) {
        self.context.access.audit.administered(caller, act, on, Decision::Allowed);
    }
}

#[tonic::async_trait]
impl Operations for Service {
    /// Threads and the chunk to start from are another server's: a scavenge here is one
    /// pass over the log, and its pace is a setting.
    async fn start_scavenge(&self, request: Request<StartScavengeReq>) -> Result<Response<ScavengeResp>, Status> {
        let caller = self.operator(&request, "operations:startScavenge").await?;
        let route = consistency::route(request.metadata());
        let id = Uuid::new_v4();
        let started = scavenge::start(&self.context, id, route).await;
        let answer = started.map_err(|failure| refuse_v1(&self.context, &failure))?;
        self.note(&caller, "operations:startScavenge", &id.to_string());
        let result = if answer.carried_out { ScavengeResult::Started } else { ScavengeResult::InProgress };
        let scavenge_id = answer.last.map_or(id, |last| last.id).to_string();
        Ok(Response::new(ScavengeResp { scavenge_id, scavenge_result: result.into() }))
    }

    async fn stop_scavenge(&self, request: Request<StopScavengeReq>) -> Result<Response<ScavengeResp>, Status> {
        let caller = self.operator(&request, "operations:stopScavenge").await?;
        let route = consistency::route(request.metadata());
        let asked = request.into_inner().options.unwrap_or_default().scavenge_id;
        let stopped = match scavenge_id(&asked) {
            Ok(id) => scavenge::stop(&self.context, id, route).await,
            Err(failure) => Err(failure),
        };
        let scavenge = stopped.map_err(|failure| refuse_v1(&self.context, &failure))?;
        self.note(&caller, "operations:stopScavenge", &scavenge.id.to_string());
        let scavenge_result = ScavengeResult::Stopped.into();
        Ok(Response::new(ScavengeResp { scavenge_id: scavenge.id.to_string(), scavenge_result }))
    }

    /// Answers before the process stops, as SIGTERM makes it stop.
    async fn shutdown(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        let caller = self.operator(&request, "operations:shutdown").await?;
        self.note(&caller, "operations:shutdown", &self.context.config.own_address());
        tracing::info!("asked to shut down by a client");
        self.context.shutdown_asked.cancel();
        Ok(Response::new(Empty {}))
    }

    /// There is nothing to merge: indexes are kept in order as they are written.
    async fn merge_indexes(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.operator(&request, "operations:mergeIndexes").await?;
        Ok(Response::new(Empty {}))
    }

    /// Returns when another node leads. A node that does not lead has nothing to
    /// resign from.
    async fn resign_node(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        let caller = self.operator(&request, "operations:resignNode").await?;
        if self.context.node.status().role == Role::Leader {
            let request = AdminRequest::TransferLeadership { to: None };
            let resigned = self.context.node.administer(request, Instant::now() + HAND_OVER).await;
            resigned.map_err(|error| cluster::refused(&error))?;
            self.note(&caller, "operations:resignNode", &self.context.config.own_address());
        }
        Ok(Response::new(Empty {}))
    }

    /// Until the process ends; what holds from the start is `node_priority`.
    async fn set_node_priority(&self, request: Request<SetNodePriorityReq>) -> Result<Response<Empty>, Status> {
        let caller = self.operator(&request, "operations:setNodePriority").await?;
        let priority = request.into_inner().priority;
        self.context.node.set_priority(priority);
        self.note(&caller, "operations:setNodePriority", &priority.to_string());
        Ok(Response::new(Empty {}))
    }

    /// The same as the persistent subscriptions' own `RestartSubsystem`.
    async fn restart_persistent_subscriptions(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.groups.restart_subsystem(request).await
    }
}

/// The scavenge that is meant; none for the one that runs, whichever it is.
pub(super) fn scavenge_id(text: &str) -> Result<Option<Uuid>, Failure> {
    if matches!(text, "" | "current") {
        return Ok(None);
    }
    Uuid::try_parse(text).map(Some).map_err(|_| Failure::ScavengeNotFound(shortened(text).to_owned()))
}
