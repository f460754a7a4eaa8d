//! The commands, one file for each noun.

pub(crate) mod all;
pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod metrics;
pub(crate) mod psub;
pub(crate) mod scavenge;
pub(crate) mod stream;
pub(crate) mod user;
pub(crate) mod verify;
pub(crate) mod version;

use std::io::IsTerminal as _;

use annals_client::{Client, Cursor, Item, Reading, Settings, Source};

use crate::failure::{Code, Failure};
use crate::output::Events;
use crate::{Connection, output::Format};

impl Connection {
    /// A client for the server that was named.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.settings()?))
    }

    /// The connection string, read.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let settings: Settings = self.server.parse().map_err(Failure::usage)?;
        if !settings.ignored.is_empty() {
            eprintln!("warning: the connection string's {} mean nothing here", settings.ignored.join(", "));
        }
        Ok(settings)
    }

    pub(crate) fn format(&self) -> Format {
        self.output
    }
}

/// Asks whoever sits there; nobody there is a no.
pub(crate) fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("say --yes: there is nobody to ask"));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Code::Failed, anyhow::anyhow!("not confirmed"))),
    }
}

/// `start`, `end` or a number.
pub(crate) fn cursor(text: &str) -> Result<Cursor, String> {
    match text {
        "start" => Ok(Cursor::Start),
        "end" => Ok(Cursor::End),
        number => number.parse().map(Cursor::At).map_err(|_| "write start, end or a number".to_owned()),
    }
}

/// Prints what a read delivers.
async fn print(mut reading: Reading, mut events: Events) -> Result<(), Failure> {
    while let Some(item) = reading.next().await? {
        match item {
            Item::Event(event) => events.print(&event)?,
            Item::Confirmed | Item::CaughtUp | Item::Checkpoint(_) => {}
        }
    }
    Ok(())
}

/// Prints what a subscription delivers, up to `limit` events.
async fn follow(client: &Client, source: Source, mut events: Events, limit: Option<u64>) -> Result<(), Failure> {
    let mut subscription = client.subscribe(source).await?;
    let mut left = limit;
    while left != Some(0) {
        match subscription.next().await? {
            Item::Event(event) => {
                events.print(&event)?;
                left = left.map(|left| left - 1);
            }
            Item::Confirmed | Item::CaughtUp | Item::Checkpoint(_) => {}
        }
    }
    Ok(())
}
