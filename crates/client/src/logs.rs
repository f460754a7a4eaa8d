//! What a node logs.

use std::time::Duration;

use annals_proto::annals::v1::logs_client::LogsClient;
use annals_proto::annals::v1::{LogLevelReply, LogLevelRequest, LogLine, LogLinesRequest};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::Deadline;
use crate::{Client, Error};

/// The log of the node that we are connected to.
#[derive(Clone)]
pub struct Logs {
    client: Client,
}

impl Logs {
    pub(crate) fn new(client: Client) -> Self {
        Logs { client }
    }

    /// How much it logs.
    ///
    /// # Errors
    /// The node cannot be reached, or the caller may not ask.
    pub async fn level(&self) -> Result<LogLevelReply, Error> {
        self.ask(LogLevelRequest::default()).await
    }

    /// Has it log a level or directives, for a time (whole seconds, a day at most) or
    /// until its next restart or reload.
    ///
    /// # Errors
    /// The directives cannot be used, the node cannot be reached, or the caller may not.
    pub async fn set_level(&self, directives: &str, time: Option<Duration>) -> Result<LogLevelReply, Error> {
        let for_seconds = time.map_or(0, |time| time.as_secs());
        self.ask(LogLevelRequest { directives: directives.to_owned(), for_seconds, reset: false }).await
    }

    /// Has it log as configured.
    ///
    /// # Errors
    /// The node cannot be reached, or the caller may not.
    pub async fn reset_level(&self) -> Result<LogLevelReply, Error> {
        self.ask(LogLevelRequest { reset: true, ..LogLevelRequest::default() }).await
    }

    /// The last lines that it keeps, all of them for 0, and those that follow if asked
    /// for: of a level and of graver ones, or of all if it is empty.
    ///
    /// # Errors
    /// There is no such level, the node cannot be reached, or the caller may not ask.
    pub async fn lines(&self, last: u32, level: &str, follow: bool) -> Result<LogLines, Error> {
        let deadline = || if follow { Deadline::None } else { Deadline::Long };
        let message = LogLinesRequest { last, follow, level: level.to_owned() };
        let request = || self.client.request(message.clone(), deadline());
        let lines = self.client.call(|channel| async move { service(channel).lines(request()).await }).await?;
        Ok(LogLines { lines })
    }

    async fn ask(&self, message: LogLevelRequest) -> Result<LogLevelReply, Error> {
        let request = || self.client.request(message.clone(), Deadline::Default);
        self.client.call(|channel| async move { service(channel).level(request()).await }).await
    }
}

/// Lines as they come.
pub struct LogLines {
    lines: Streaming<LogLine>,
}

impl LogLines {
    /// The next one; none after the last that was asked for.
    ///
    /// # Errors
    /// The connection is lost, or the node stops.
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        Ok(self.lines.message().await?)
    }
}

fn service(channel: Channel) -> LogsClient<Channel> {
    LogsClient::new(channel)
}
