//! UmaDB, where a stream is a tag.
//!
//! An append goes through if no event with the tag comes after the position that
//! the last append to this stream was given: that is an exact expectation.

use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;
use tonic::Streaming;
use tonic::transport::Channel;

use self::rpc::dcb_client::DcbClient;
use self::rpc::{AppendCondition, AppendRequest, HeadRequest, Query, QueryItem, ReadRequest, ReadResponse};
use super::grpc::{MESSAGE_BYTES_MAX, channels, connect};
use super::{Client, EVENT_TYPE, Event, Head, Programs, System};
use crate::place::Place;
use crate::process::{Farewell, Process};
use crate::wait::until;

#[allow(clippy::all, unreachable_pub)]
mod rpc {
    tonic::include_proto!("umadb.v1");
}

pub(crate) struct UmaDb {
    processes: Vec<Process>,
    port: u16,
    _data: TempDir,
}

impl System for UmaDb {
    type Client = UmaDbClient;

    async fn start(programs: &Programs, place: &Place, nodes: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(nodes == 1, "UmaDB has one node");
        let data = place.directory()?;
        let port = place.port()?;
        let mut command = Command::new(&programs.umadb);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--db-path"]).arg(data.path().join("db"));
        let processes = vec![Process::start(command, &data.path().join("log"), Farewell::Kill)?];
        let mut this = Self { processes, port, _data: data };
        until("UmaDB answers", &mut this.processes, async || {
            DcbClient::new(connect(port).await?).head(HeadRequest {}).await?;
            Ok(())
        })
        .await?;
        Ok(this)
    }

    fn processes(&mut self) -> &mut [Process] {
        &mut self.processes
    }

    async fn leader(&mut self) -> anyhow::Result<usize> {
        Ok(0)
    }

    async fn clients(&mut self, _node: usize, count: usize) -> anyhow::Result<Vec<UmaDbClient>> {
        let channels = channels(self.port, count).await?;
        let client = |channel| DcbClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(channels.into_iter().map(|channel| UmaDbClient { dcb: client(channel) }).collect())
    }
}

pub(crate) struct UmaDbClient {
    dcb: DcbClient<Channel>,
}

impl UmaDbClient {
    async fn read(&mut self, query: Option<Query>) -> anyhow::Result<Streaming<ReadResponse>> {
        let request = ReadRequest { query, ..ReadRequest::default() };
        Ok(self.dcb.read(request).await.context("a read failed")?.into_inner())
    }
}

impl Client for UmaDbClient {
    async fn append(&mut self, stream: &str, head: &mut Head, events: &[Event]) -> anyhow::Result<()> {
        let tag = tag(stream);
        let proposed = events.iter().map(|event| rpc::Event {
            event_type: EVENT_TYPE.to_owned(),
            tags: vec![tag.clone()],
            data: event.data.clone(),
            uuid: event.id.to_string(),
        });
        let after = (head.events > 0).then_some(head.last);
        let request = AppendRequest {
            events: proposed.collect(),
            condition: Some(AppendCondition { fail_if_events_match: Some(tagged(&tag)), after }),
        };
        let answer = self.dcb.append(request).await.context("an append failed")?;
        head.advance(events.len(), answer.into_inner().position)
    }

    async fn read_stream(&mut self, stream: &str, events: u64) -> anyhow::Result<()> {
        let answers = self.read(Some(tagged(&tag(stream)))).await?;
        count_events(answers, events).await
    }

    async fn read_all(&mut self, events: u64) -> anyhow::Result<()> {
        let answers = self.read(None).await?;
        count_events(answers, events).await
    }
}

async fn count_events(mut answers: Streaming<ReadResponse>, events: u64) -> anyhow::Result<()> {
    let (mut count, mut last) = (0, 0);
    while let Some(answer) = answers.message().await? {
        for event in answer.events {
            anyhow::ensure!(event.position > last, "position {} came after {last}", event.position);
            anyhow::ensure!(event.event.is_some_and(|event| !event.data.is_empty()), "an event without data");
            last = event.position;
            count += 1;
        }
    }
    anyhow::ensure!(count == events, "{count} events were read, not {events}");
    Ok(())
}

fn tag(stream: &str) -> String {
    format!("stream:{stream}")
}

fn tagged(tag: &str) -> Query {
    Query { items: vec![QueryItem { types: Vec::new(), tags: vec![tag.to_owned()] }] }
}
