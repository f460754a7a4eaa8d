//! `Monitoring`: numbers about the node that is asked, again and again.

use std::sync::Arc;
use std::time::Duration;

use annals_proto::event_store::client::monitoring::monitoring_server::{Monitoring, MonitoringServer};
use annals_proto::event_store::client::monitoring::{StatsReq, StatsResp};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use serde_json::Value;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::{Request, Response, Status};

use crate::consistency::refuse_v1;
use crate::context::Context;
use crate::statistics::statistics;
use crate::status::Failure;

/// Of what a client may ask for as a period. Numbers do not change faster, and a
/// client that asks for 0 must not keep a processor busy.
const PERIOD_MIN: Duration = Duration::from_millis(100);
const PERIOD_MAX: Duration = Duration::from_secs(24 * 3600);

/// The service.
pub(crate) fn service(context: Arc<Context>) -> MonitoringServer<Service> {
    MonitoringServer::new(Service { context }).max_decoding_message_size(super::MESSAGE_BYTES_MAX)
}

pub(crate) struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl Monitoring for Service {
    type StatsStream = BoxStream<'static, Result<StatsResp, Status>>;

    /// The first numbers at once, the next ones every period. There is no
    /// metadata about them to add, whatever the request says.
    async fn stats(&self, request: Request<StatsReq>) -> Result<Response<Self::StatsStream>, Status> {
        let caller = self.context.known(&request, "node:statistics").await;
        caller.map_err(|failure| refuse_v1(&self.context, &failure))?;
        let asked = Duration::from_millis(request.into_inner().refresh_time_period_in_ms);
        let mut period = interval(asked.clamp(PERIOD_MIN, PERIOD_MAX));
        // A slow client gets what is true when it reads, not what it missed.
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Response::new(told(self.context.clone(), period).boxed()))
    }
}

/// Ends, never with OK, when clients are to go elsewhere.
fn told(context: Arc<Context>, period: Interval) -> impl futures::Stream<Item = Result<StatsResp, Status>> + Send {
    let leaving = context.leaving.token();
    stream::unfold(Some((context, period, leaving)), |asking| async move {
        let (context, mut period, leaving) = asking?;
        tokio::select! {
            () = leaving.cancelled() => Some((Err(refuse_v1(&context, &Failure::ShuttingDown)), None)),
            _ = period.tick() => {
                let stats = statistics(&context).into_iter().map(|(name, value)| (name, text(value))).collect();
                Some((Ok(StatsResp { stats }), Some((context, period, leaving))))
            }
        }
    })
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
