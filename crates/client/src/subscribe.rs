//! A subscription that goes on when a node fails.

use std::time::Duration;

use crate::error::Kind;
use crate::read::{Cursor, Item, Source};
use crate::{Client, Error, Reading};

/// Pause before it is tried again, doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Attempts to go on before the error is told: with the pauses about half a
/// minute, longer than an election or a restart takes.
const ATTEMPTS_MAX: u32 = 15;

/// Events from somewhere on, without an end. Delivers each event once and in
/// order over any number of failures, as long as this value lives.
pub struct Subscription {
    client: Client,
    /// Where to go on: after what was delivered.
    source: Source,
    reading: Reading,
}

impl Subscription {
    pub(crate) async fn open(client: Client, source: Source) -> Result<Self, Error> {
        let reading = client.subscribe_once(&source).await?;
        Ok(Subscription { client, source, reading })
    }

    /// The next item.
    ///
    /// # Errors
    /// The stream was deleted for ever, or no node could be found for about
    /// half a minute.
    pub async fn next(&mut self) -> Result<Item, Error> {
        loop {
            match self.reading.next().await {
                Ok(Some(item)) => {
                    self.advance(&item);
                    return Ok(item);
                }
                // The protocol has no end of a subscription.
                Ok(None) => self.resume(Error::Protocol("the subscription ended")).await?,
                Err(error) if error.kind() == Kind::Unavailable || is_broken(&error) => self.resume(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    fn advance(&mut self, item: &Item) {
        match (&mut self.source, item) {
            (Source::Stream { from, .. }, Item::Event(event)) => {
                if let Some(original) = event.original() {
                    *from = Cursor::At(original.revision);
                }
            }
            (Source::All { from, .. }, Item::Event(event)) => {
                if let Some(original) = event.original() {
                    *from = Cursor::At(original.position);
                }
            }
            (Source::All { from, .. }, Item::Checkpoint(position)) => *from = Cursor::At(*position),
            (Source::Stream { .. }, Item::Checkpoint(_)) | (_, Item::Confirmed | Item::CaughtUp) => {}
        }
    }

    async fn resume(&mut self, mut cause: Error) -> Result<(), Error> {
        let mut pause = PAUSE_FIRST;
        for _ in 0..ATTEMPTS_MAX {
            self.client.forget().await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            match self.client.subscribe_once(&self.source).await {
                Ok(reading) => {
                    self.reading = reading;
                    return Ok(());
                }
                Err(error) => cause = error,
            }
        }
        Err(cause)
    }
}

/// A connection that breaks in the middle of a message comes as one of these.
fn is_broken(error: &Error) -> bool {
    match error {
        Error::Status(status) => matches!(status.code(), tonic::Code::Unknown | tonic::Code::Internal),
        _ => false,
    }
}
