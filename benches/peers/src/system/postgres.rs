//! PostgreSQL: a table of events, and a table with the head of each stream.
//!
//! An append is one statement: it moves the head from the expected revision and
//! inserts the events if that went through. Two nodes are a primary and a
//! synchronous standby, which has the commit on its disk before the primary
//! answers.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tempfile::TempDir;
use tokio_postgres::{NoTls, Statement};
use uuid::Uuid;

use super::{Client, EVENT_TYPE, Event, Head, Programs, System};
use crate::place::Place;
use crate::process::{Farewell, Process, output};
use crate::wait::until;

const SCHEMA: &str = "
    create table heads (stream text primary key, revision bigint not null);
    create table events (
        position bigserial primary key, stream text not null, revision bigint not null, id uuid not null,
        type text not null, data bytea not null, meta bytea not null, unique (stream, revision));";

/// What is not left at its default, for both nodes.
const SETTINGS: [&str; 9] = [
    "shared_buffers=512MB",
    "max_connections=300",
    "wal_level=replica",
    "synchronous_commit=on",
    "max_wal_size=8GB",
    "min_wal_size=1GB",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "logging_collector=off",
];

/// Events of one answer in a catch-up read: about 1.5 MB.
const PAGE: i64 = 5_000;

/// How long a subscriber that found nothing new waits before it looks again.
const POLL: Duration = Duration::from_millis(1);

pub(crate) struct Postgres {
    // The standby comes last, and is ended last.
    processes: Vec<Process>,
    ports: Vec<u16>,
    _data: TempDir,
}

impl System for Postgres {
    type Client = PostgresClient;

    async fn start(programs: &Programs, place: &Place, nodes: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(nodes <= 2, "PostgreSQL is a primary and at most one standby");
        let directory = place.directory()?;
        let installed = Installed::new(&programs.postgres, directory.path())?;
        let ports = place.ports(nodes)?;
        let primary = directory.path().join("primary");
        let initdb = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--pgdata"];
        output(installed.command("initdb").args(initdb).arg(&primary))?;
        // Named without a standby there, commits would wait for ever.
        let standby_names = if nodes == 2 { "synchronous_standby_names=standby" } else { "synchronous_standby_names=" };
        let process = installed.serve(&primary, ports[0], standby_names)?;
        let mut this = Self { processes: vec![process], ports, _data: directory };
        let ports = this.ports.clone();
        until("PostgreSQL answers", &mut this.processes, async || connect(ports[0]).await).await?;
        if let Some(port) = ports.get(1) {
            this.add_standby(&installed, *port).await?;
        }
        connect(ports[0]).await?.batch_execute(SCHEMA).await?;
        Ok(this)
    }

    fn processes(&mut self) -> &mut [Process] {
        &mut self.processes
    }

    async fn leader(&mut self) -> anyhow::Result<usize> {
        Ok(0)
    }

    async fn clients(&mut self, node: usize, count: usize) -> anyhow::Result<Vec<PostgresClient>> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(PostgresClient::new(self.ports[node]).await?);
        }
        Ok(clients)
    }
}

impl Postgres {
    async fn add_standby(&mut self, installed: &Installed, port: u16) -> anyhow::Result<()> {
        let standby = installed.directory.join("standby");
        let primary = self.ports[0].to_string();
        let backup = ["-h", "127.0.0.1", "-p", &primary, "-U", "postgres", "-X", "stream", "-c", "fast", "-R", "-D"];
        output(installed.command("pg_basebackup").args(backup).arg(&standby))?;
        let source = format!("primary_conninfo=host=127.0.0.1 port={primary} user=postgres application_name=standby");
        self.processes.push(installed.serve(&standby, port, &source)?);
        let primary = self.ports[0];
        until("the standby is synchronous", &mut self.processes, async || {
            let state = "select sync_state from pg_stat_replication";
            let row = connect(primary).await?.query_one(state, &[]).await?;
            let state: String = row.get(0);
            anyhow::ensure!(state == "sync", "it is {state}");
            Ok(())
        })
        .await
    }
}

/// The programs, and the user they run as: PostgreSQL refuses to be root.
struct Installed {
    programs: PathBuf,
    directory: PathBuf,
    user: Option<(u32, u32)>,
}

impl Installed {
    fn new(programs: &Path, directory: &Path) -> anyhow::Result<Self> {
        let root = rustix::process::geteuid().is_root();
        let user = if root { Some(user("postgres").context("no user postgres to run as")?) } else { None };
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(directory, Some(uid), Some(gid))?;
        }
        Ok(Self { programs: programs.to_owned(), directory: directory.to_owned(), user })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(&self.directory);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn serve(&self, data: &Path, port: u16, setting: &str) -> anyhow::Result<Process> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(data).args(["-p", &port.to_string(), "-c", setting]);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        Process::start(command, &data.with_extension("log"), Farewell::AskParent)
    }
}

/// User and group id, from the list of local users.
fn user(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> =
        users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

async fn connect(port: u16) -> anyhow::Result<tokio_postgres::Client> {
    let address = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await?;
    // Ends with the client; what goes wrong on it is the answer of the next query.
    tokio::spawn(connection);
    Ok(client)
}

pub(crate) struct PostgresClient {
    client: tokio_postgres::Client,
    statements: Statements,
}

struct Statements {
    /// The first event, and the first events, of a stream.
    create_one: Statement,
    create_many: Statement,
    /// Further ones.
    extend_one: Statement,
    extend_many: Statement,
    read_stream: Statement,
    read_all: Statement,
}

impl PostgresClient {
    async fn new(port: u16) -> anyhow::Result<Self> {
        let client = connect(port).await?;
        let statements = Statements {
            create_one: client.prepare(&append(CREATE, ONE)).await?,
            create_many: client.prepare(&append(CREATE, MANY)).await?,
            extend_one: client.prepare(&append(EXTEND, ONE)).await?,
            extend_many: client.prepare(&append(EXTEND, MANY)).await?,
            read_stream: client
                .prepare("select revision, id, type, data, meta from events where stream = $1 order by revision")
                .await?,
            read_all: client
                .prepare(
                    "select position, stream, revision, id, type, data, meta from events
                     where position > $1 order by position limit $2",
                )
                .await?,
        };
        Ok(Self { client, statements })
    }
}

/// Parameters of an append: the stream, its revision before (-1 for none) and
/// after, the type, the ids, the data.
const CREATE: &str = "
    insert into heads (stream, revision) select $1::text, $3::bigint where $2::bigint = -1
    on conflict do nothing returning revision";
const EXTEND: &str =
    "update heads set revision = $3::bigint where stream = $1::text and revision = $2::bigint returning revision";
const ONE: &str = "select $1, $2 + 1, $5::uuid, $4::text, $6::bytea, ''::bytea from head";
const MANY: &str = "
    select $1, $2 + turn, id, $4::text, data, ''::bytea
    from head, unnest($5::uuid[], $6::bytea[]) with ordinality as new (id, data, turn) order by turn";

fn append(head: &str, events: &str) -> String {
    format!(
        "with head as ({head}), added as (
             insert into events (stream, revision, id, type, data, meta) {events} returning position)
         select max(position), count(*) from added"
    )
}

impl Client for PostgresClient {
    async fn append(&mut self, stream: &str, head: &mut Head, events: &[Event]) -> anyhow::Result<()> {
        let before = i64::try_from(head.events)? - 1;
        let after = before + i64::try_from(events.len())?;
        let new = head.events == 0;
        let row = if let [event] = events {
            let statement = if new { &self.statements.create_one } else { &self.statements.extend_one };
            let data = event.data.as_ref();
            self.client.query_one(statement, &[&stream, &before, &after, &EVENT_TYPE, &event.id, &data]).await?
        } else {
            let statement = if new { &self.statements.create_many } else { &self.statements.extend_many };
            let (ids, data): (Vec<Uuid>, Vec<&[u8]>) =
                events.iter().map(|event| (event.id, event.data.as_ref())).unzip();
            self.client.query_one(statement, &[&stream, &before, &after, &EVENT_TYPE, &ids, &data]).await?
        };
        let (position, count): (Option<i64>, i64) = (row.get(0), row.get(1));
        let Some(position) = position.filter(|_| usize::try_from(count) == Ok(events.len())) else {
            bail!("an append to {stream} at {head:?} was refused");
        };
        head.advance(events.len(), u64::try_from(position)?)
    }

    async fn read_stream(&mut self, stream: &str, events: u64) -> anyhow::Result<()> {
        let rows = self.client.query(&self.statements.read_stream, &[&stream]).await?;
        for (due, row) in (0..).zip(&rows) {
            let (revision, data): (i64, &[u8]) = (row.get(0), row.get(3));
            anyhow::ensure!(revision == due && !data.is_empty(), "revision {revision} came where {due} was due");
        }
        anyhow::ensure!(rows.len() as u64 == events, "{stream} has {} events, not {events}", rows.len());
        Ok(())
    }

    async fn read_all(&mut self, events: u64) -> anyhow::Result<()> {
        let (mut count, mut last) = (0, 0);
        loop {
            let rows = self.client.query(&self.statements.read_all, &[&last, &PAGE]).await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let (position, data): (i64, &[u8]) = (row.get(0), row.get(5));
                anyhow::ensure!(position > last && !data.is_empty(), "position {position} came after {last}");
                last = position;
                count += 1;
            }
        }
        anyhow::ensure!(count == events, "{count} events were read, not {events}");
        Ok(())
    }

    async fn subscribe(self) -> anyhow::Result<BoxStream<'static, anyhow::Result<Bytes>>> {
        let poll = Poll { client: self, complete: 0, beyond: BTreeSet::new() };
        let pages = futures::stream::try_unfold(poll, async |mut poll| {
            let page = poll.next().await?;
            anyhow::Ok(Some((futures::stream::iter(page.into_iter().map(anyhow::Ok)), poll)))
        });
        Ok(Box::pin(pages.try_flatten()))
    }
}

/// A subscriber that asks for what is new. Positions are given out before
/// commits, so that one may become visible after a higher one: it asks again
/// from the first gap, and remembers what it has seen beyond.
struct Poll {
    client: PostgresClient,
    /// Everything up to here was seen.
    complete: i64,
    beyond: BTreeSet<i64>,
}

impl Poll {
    async fn next(&mut self) -> anyhow::Result<Vec<Bytes>> {
        loop {
            let rows = self.client.client.query(&self.client.statements.read_all, &[&self.complete, &PAGE]).await?;
            let mut new = Vec::new();
            for row in &rows {
                if self.beyond.insert(row.get(0)) {
                    new.push(Bytes::copy_from_slice(row.get(5)));
                }
            }
            while self.beyond.remove(&(self.complete + 1)) {
                self.complete += 1;
            }
            if !new.is_empty() {
                return Ok(new);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
