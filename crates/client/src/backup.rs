//! Taking the log out of a cluster of Annals, and bringing events into one.

use annals_proto::annals::v1::backup_client::BackupClient;
use annals_proto::annals::v1::{ImportAnswer, ImportBatch, RecordsReply, RecordsRequest, ReportRequest, records_reply};
use futures::stream;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::Deadline;
use crate::{Client, Error};

/// Bytes of one message: a piece of the log, at least one record of the largest size.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What backs a cluster up, and fills one. Any node answers.
#[derive(Clone)]
pub struct Backups {
    client: Client,
}

/// Records on their way.
pub struct Records {
    messages: Streaming<RecordsReply>,
}

/// An import under way: the batches that were sent are answered in order.
pub struct Importing {
    batches: mpsc::Sender<ImportBatch>,
    answers: Streaming<ImportAnswer>,
}

impl Backups {
    pub(crate) fn new(client: Client) -> Self {
        Backups { client }
    }

    /// Begins to take records.
    ///
    /// # Errors
    /// The node cannot be reached, or has another log than the caller believes.
    pub async fn records(&self, request: RecordsRequest) -> Result<Records, Error> {
        let request = || self.client.request(request.clone(), Deadline::None);
        let messages = self.client.call(|channel| async move { service(channel).records(request()).await }).await?;
        Ok(Records { messages })
    }

    /// Says that a backup is complete. Answers the position of the event that tells it.
    ///
    /// # Errors
    /// No leader.
    pub async fn report(&self, report: ReportRequest) -> Result<u64, Error> {
        let request = || self.client.request(report.clone(), Deadline::Default);
        let reply = self.client.call(|channel| async move { service(channel).report(request()).await }).await?;
        Ok(reply.position)
    }

    /// Begins to bring events in. At most `ahead` batches wait to be sent.
    ///
    /// # Errors
    /// The node cannot be reached, or who calls may not.
    pub async fn import(&self, ahead: usize) -> Result<Importing, Error> {
        let (batches, waiting) = mpsc::channel(ahead.max(1));
        let sent = stream::unfold(waiting, |mut waiting| async move { Some((waiting.recv().await?, waiting)) });
        let request = self.client.request(sent, Deadline::None);
        let channel = self.client.channel().await?;
        match service(channel).import(request).await {
            Ok(answers) => Ok(Importing { batches, answers: answers.into_inner() }),
            Err(status) => {
                self.client.lost(&status).await;
                Err(status.into())
            }
        }
    }

    /// Forgets the connection, after it broke off: the next call makes another one.
    pub async fn forget(&self) {
        self.client.forget().await;
    }
}

impl Records {
    /// The next message; none after the last.
    ///
    /// # Errors
    /// The connection broke, or the node stops.
    pub async fn next(&mut self) -> Result<Option<records_reply::Content>, Error> {
        match self.messages.message().await? {
            Some(reply) => reply.content.map(Some).ok_or(Error::Protocol("a message of a backup has no content")),
            None => Ok(None),
        }
    }
}

impl Importing {
    /// Where batches are sent to; dropped, it says that there are no more.
    pub fn split(self) -> (mpsc::Sender<ImportBatch>, Answers) {
        (self.batches, Answers { answers: self.answers })
    }
}

/// What becomes of batches.
pub struct Answers {
    answers: Streaming<ImportAnswer>,
}

impl Answers {
    /// The next answer; none when the node takes no more batches.
    ///
    /// # Errors
    /// A batch was refused, or the connection broke: what was not answered may have been
    /// carried out.
    pub async fn next(&mut self) -> Result<Option<ImportAnswer>, Error> {
        Ok(self.answers.message().await?)
    }
}

fn service(channel: Channel) -> BackupClient<Channel> {
    BackupClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}
