//! Waiting for a cluster, and saying how it goes.

use std::time::{Duration, Instant};

use annals_client::Cluster;
use annals_proto::annals::v1::StatusReply;

use crate::failure::{Code, Failure};

/// How often a cluster is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Says each state once, on standard error, for as long as there is time.
pub(super) struct Progress {
    deadline: Instant,
    said: String,
}

impl Progress {
    pub(super) fn new(timeout: Duration) -> Self {
        Progress { deadline: Instant::now() + timeout, said: String::new() }
    }

    /// Says how it stands, and pauses until the next look.
    ///
    /// # Errors
    /// There is no time left.
    pub(super) async fn wait(&mut self, state: String) -> Result<(), Failure> {
        if state != self.said {
            eprintln!("{state}");
            self.said = state;
        }
        if Instant::now() >= self.deadline {
            let error = anyhow::anyhow!("not within --timeout: {}; the command can be given again", self.said);
            return Err(Failure::new(Code::Unavailable, error));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }

    /// The cluster as a node sees it that knows a leader. A node that is going, or an
    /// election, is waited for.
    pub(super) async fn status(&mut self, cluster: &Cluster) -> Result<StatusReply, Failure> {
        loop {
            let state = match cluster.status().await {
                Ok(status) if status.leader != 0 => return Ok(status),
                Ok(_) => "no leader is known".to_owned(),
                Err(error) if Code::of(&error) == Code::Unavailable => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            self.wait(state).await?;
        }
    }
}
