//! `annals.v1.Maintenance`: maintaining the node that is asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use annals_core::lease::SECONDS_MAX;
use annals_core::{Lease, Timestamp};
use annals_proto::annals::v1::info_reply::Check;
use annals_proto::annals::v1::maintenance_server::{Maintenance, MaintenanceServer};
use annals_proto::annals::v1::{
    DrainProgress, DrainRequest, InfoReply, InfoRequest, MaintenanceLease, ResumeReply, ResumeRequest,
};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::access::audit::Decision;
use crate::consistency::refuse_v1;
use crate::context::Context;
use crate::maintenance::{self, Audience, NotDrained, Patience};
use crate::version;

/// Steps that may wait for the client: a drain has fewer.
const STEPS: usize = 32;

/// The service.
pub(crate) fn service(context: Arc<Context>) -> MaintenanceServer<Service> {
    MaintenanceServer::new(Service { context }).max_decoding_message_size(super::MESSAGE_BYTES_MAX)
}

pub(crate) struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl Maintenance for Service {
    type DrainStream = BoxStream<'static, Result<DrainProgress, Status>>;

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        let caller = self.context.operator(&request, "node:drain").await;
        let caller = caller.map_err(|failure| refuse_v1(&self.context, &failure))?;
        let patience = patience(request.get_ref())?;
        self.context.access.audit.administered(&caller, "node:drain", "", Decision::Allowed);
        let (steps, told) = mpsc::channel(STEPS);
        let (ended, end) = oneshot::channel();
        let context = self.context.clone();
        // It goes on without the client, once there is no way back.
        tokio::spawn(async move {
            let audience = Audience::new(steps);
            let _ = ended.send(maintenance::drain(&context, patience, &audience).await);
        });
        let end = async move {
            match end.await {
                Ok(Ok(())) => None,
                Ok(Err(NotDrained(why))) => Some(Err(Status::unavailable(format!("not drained: {why}")))),
                Err(_) => Some(Err(Status::unavailable("the node stopped before it was drained"))),
            }
        };
        let end = futures::stream::once(end).filter_map(std::future::ready);
        Ok(Response::new(ReceiverStream::new(told).map(Ok).chain(end).boxed()))
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<ResumeReply>, Status> {
        let caller = self.context.operator(&request, "node:resume").await;
        let caller = caller.map_err(|failure| refuse_v1(&self.context, &failure))?;
        let was_drained = maintenance::resume(&self.context).await.ok_or_else(|| {
            Status::failed_precondition("a drain is under way: end the command that waits for it, or resume after it")
        })?;
        self.context.access.audit.administered(&caller, "node:resume", "", Decision::Allowed);
        Ok(Response::new(ResumeReply { node: self.context.node.status().node, was_drained }))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoReply>, Status> {
        let status = self.context.node.status();
        let checks = self.context.health.checks(&status);
        let check = |check: &crate::health::Check| Check {
            name: check.name.to_owned(),
            failure: check.failure.clone().unwrap_or_default(),
        };
        Ok(Response::new(InfoReply {
            cluster: status.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            node: status.node,
            incarnation: status.incarnation.to_string(),
            boot: self.context.node.boot().map(|boot| boot.to_string()).unwrap_or_default(),
            address: self.context.config.own_address(),
            version: version::VERSION.to_owned(),
            phase: status.phase.as_str().to_owned(),
            role: status.role.as_str().to_owned(),
            leader: status.leader.as_ref().map_or(0, |(leader, _)| *leader),
            term: status.term,
            committed_index: status.committed,
            applied_index: status.applied,
            last_log_index: status.last_log,
            tail: self.context.node.store().tail().get(),
            ready: checks.iter().all(|check| check.failure.is_none()),
            drained: self.context.maintenance.is_drained(),
            checks: checks.iter().map(check).collect(),
            lease: self.context.node.held_lease().map(told),
            uptime_seconds: self.context.health.uptime().as_secs(),
        }))
    }
}

/// A lease on the wire.
pub(super) fn told(lease: Lease) -> MaintenanceLease {
    let ticks = Timestamp::ticks;
    MaintenanceLease { node: lease.node, since: ticks(lease.since), until: ticks(lease.until) }
}

#[allow(clippy::result_large_err)]
fn patience(request: &DrainRequest) -> Result<Patience, Status> {
    let timeout = match request.timeout_seconds {
        0 => maintenance::TIMEOUT,
        seconds => Duration::from_secs(u64::from(seconds)),
    };
    if timeout > maintenance::TIMEOUT_MAX {
        let max = maintenance::TIMEOUT_MAX.as_secs();
        return Err(Status::invalid_argument(format!(
            "a drain may take at most {max} s: ask again where that is over"
        )));
    }
    let lease_seconds = match request.lease_seconds {
        0 => maintenance::LEASE_SECONDS,
        seconds if seconds <= SECONDS_MAX => seconds,
        _ => return Err(Status::invalid_argument(format!("the lease is given for at most {SECONDS_MAX} s at a time"))),
    };
    Ok(Patience { until: Instant::now() + timeout, lease_seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_defaults_and_bounds() {
        let asked = |timeout_seconds, lease_seconds| patience(&DrainRequest { timeout_seconds, lease_seconds });
        assert_eq!(asked(0, 0).expect("defaults").lease_seconds, maintenance::LEASE_SECONDS);
        assert_eq!(asked(3_600, SECONDS_MAX).expect("the bounds").lease_seconds, SECONDS_MAX);
        assert!(asked(3_601, 0).is_err());
        assert!(asked(0, SECONDS_MAX + 1).is_err());
    }
}
