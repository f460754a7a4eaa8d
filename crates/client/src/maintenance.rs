//! Maintaining the node that we are connected to.

use std::time::Duration;

use annals_proto::annals::v1::maintenance_client::MaintenanceClient;
use annals_proto::annals::v1::{DrainProgress, DrainRequest, InfoReply, InfoRequest, ResumeReply, ResumeRequest};
use tonic::transport::Channel;

use crate::client::Deadline;
use crate::{Client, Error};

/// What maintains one node: the one we are connected to.
#[derive(Clone)]
pub struct Maintenance {
    client: Client,
}

impl Maintenance {
    pub(crate) fn new(client: Client) -> Self {
        Maintenance { client }
    }

    /// Prepares the node to be restarted, within `timeout`. `told` hears of each step.
    /// Its lease lasts for `lease` if the node does not come back; none for the default.
    ///
    /// # Errors
    /// The node could not be reached, or is not drained: the error says why.
    pub async fn drain(
        &self,
        timeout: Duration,
        lease: Option<Duration>,
        mut told: impl FnMut(&DrainProgress),
    ) -> Result<(), Error> {
        let seconds = |time: Duration| u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX);
        let message = DrainRequest { timeout_seconds: seconds(timeout), lease_seconds: lease.map_or(0, seconds) };
        let request = || self.client.request(message, Deadline::None);
        let mut steps = self.client.call(|channel| async move { service(channel).drain(request()).await }).await?;
        while let Some(step) = steps.message().await? {
            told(&step);
        }
        Ok(())
    }

    /// Takes a drain back.
    ///
    /// # Errors
    /// The node could not be reached.
    pub async fn resume(&self) -> Result<ResumeReply, Error> {
        let request = || self.client.request(ResumeRequest {}, Deadline::Long);
        self.client.call(|channel| async move { service(channel).resume(request()).await }).await
    }

    /// How the node is doing.
    ///
    /// # Errors
    /// The node could not be reached.
    pub async fn info(&self) -> Result<InfoReply, Error> {
        let request = || self.client.request(InfoRequest {}, Deadline::Default);
        self.client.call(|channel| async move { service(channel).info(request()).await }).await
    }
}

fn service(channel: Channel) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(channel)
}
