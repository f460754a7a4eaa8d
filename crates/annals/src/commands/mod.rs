//! The commands, one file for each noun.

pub(crate) mod all;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod cluster;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod node;
pub(crate) mod psub;
pub(crate) mod reference;
pub(crate) mod scavenge;
pub(crate) mod stream;
pub(crate) mod user;
pub(crate) mod verify;
pub(crate) mod version;

use annals_client::{Client, Cursor, Host, Item, Reading, Settings, Source};

use crate::contexts::Contexts;
use crate::events::Events;
use crate::failure::Failure;
use crate::output::Format;
use crate::{Connection, DEFAULT_URL};

/// A noun whose commands talk to a server.
#[derive(clap::Args)]
pub(crate) struct At<C: clap::Subcommand> {
    #[command(flatten)]
    pub(crate) connection: Connection,

    #[command(subcommand)]
    pub(crate) command: C,
}

impl Connection {
    /// A client for the server that was named.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.settings()?))
    }

    /// The connection string, read.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let settings = self.named()?;
        if !settings.ignored.is_empty() {
            eprintln!("warning: the connection string's {} mean nothing here", settings.ignored.join(", "));
        }
        Ok(settings)
    }

    /// The server: by flag, by variable, by the selected context, or this machine.
    pub(crate) fn named(&self) -> Result<Settings, Failure> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let server = self.server.clone().or_else(|| variable("ANNALS_URL").filter(|_| self.context.is_none()));
        if let Some(server) = server {
            return server.parse().map_err(Failure::usage);
        }
        let named = self.context.clone().or_else(|| variable("ANNALS_CONTEXT"));
        let contexts = match Contexts::path() {
            Ok(path) => Contexts::load(&path)?,
            // Nobody's home: nobody's contexts.
            Err(_) if named.is_none() => Contexts::default(),
            Err(failure) => return Err(failure),
        };
        match named.or_else(|| contexts.selected.clone()) {
            Some(name) => contexts.get(&name)?.settings(),
            None => DEFAULT_URL.parse().map_err(Failure::usage),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.output
    }
}

/// Where a member says that it is reached, `HOST:PORT`.
pub(crate) fn host(address: &str) -> Host {
    let (name, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let port = port.parse().unwrap_or(annals_client::connection_string::DEFAULT_PORT);
    Host { name: name.trim_matches(['[', ']']).to_owned(), port }
}

/// A client for one member alone, which otherwise connects as these settings say.
pub(crate) fn alone(settings: &Settings, address: &str) -> Client {
    Client::new(Settings { hosts: vec![host(address)], discover: false, ..settings.clone() })
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
