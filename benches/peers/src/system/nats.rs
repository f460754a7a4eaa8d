//! NATS JetStream: one JetStream stream, with a subject for each stream of events.
//!
//! An append is a publish that names the last sequence of its subject. This
//! version takes one message per publish: many events in one request are many
//! publishes under way at once. Only the first of them can carry an expectation,
//! since the sequence it will be given is not known to the next.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType, Stream};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tempfile::TempDir;

use super::{CLIENTS_PER_CONNECTION, Client, Event, Head, Programs, System};
use crate::place::Place;
use crate::process::{Farewell, Process};
use crate::wait::until;

const STREAM: &str = "events";

pub(crate) struct Nats {
    processes: Vec<Process>,
    ports: Vec<u16>,
    _data: TempDir,
}

impl System for Nats {
    type Client = NatsClient;

    async fn start(programs: &Programs, place: &Place, nodes: usize) -> anyhow::Result<Self> {
        let data = place.directory()?;
        let ports = place.ports(nodes)?;
        let peers: Vec<String> = place.ports(nodes)?.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut processes = Vec::with_capacity(nodes);
        for (node, (port, peer)) in ports.iter().zip(&peers).enumerate() {
            let mut command = Command::new(&programs.nats);
            command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-n", &format!("n{node}"), "-js", "-sd"]);
            command.arg(data.path().join(format!("n{node}")));
            if nodes > 1 {
                command.args(["--cluster_name", "c", "--cluster", peer, "--routes", &peers.join(",")]);
            }
            processes.push(Process::start(command, &data.path().join(format!("n{node}.log")), Farewell::Kill)?);
        }
        let mut this = Self { processes, ports, _data: data };
        let port = this.ports[0];
        until("JetStream has a stream", &mut this.processes, async || {
            jetstream(port).await?.get_or_create_stream(config(nodes)).await?;
            Ok(())
        })
        .await?;
        this.leader().await?;
        Ok(this)
    }

    fn processes(&mut self) -> &mut [Process] {
        &mut self.processes
    }

    async fn leader(&mut self) -> anyhow::Result<usize> {
        let ports = self.ports.clone();
        if ports.len() == 1 {
            return Ok(0);
        }
        until("the JetStream stream has a leader and all replicas", &mut self.processes, async || {
            let info = jetstream(ports[0]).await?.get_stream_no_info(STREAM).await?.get_info().await?;
            let cluster = info.cluster.context("no cluster in the stream's info")?;
            anyhow::ensure!(
                cluster.replicas.len() + 1 == ports.len() && cluster.replicas.iter().all(|replica| replica.current),
                "replicas are not current: {:?}",
                cluster.replicas
            );
            let name = cluster.leader.context("no leader")?;
            (0..ports.len()).find(|node| format!("n{node}") == name).context("the leader is none of the nodes")
        })
        .await
    }

    async fn clients(&mut self, node: usize, count: usize) -> anyhow::Result<Vec<NatsClient>> {
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            let context = jetstream(self.ports[node]).await?;
            let events = context.get_stream_no_info(STREAM).await?;
            let share = CLIENTS_PER_CONNECTION.min(count - clients.len());
            clients.extend((0..share).map(|_| NatsClient { context: context.clone(), events: events.clone() }));
        }
        Ok(clients)
    }
}

fn config(nodes: usize) -> Config {
    Config {
        name: STREAM.to_owned(),
        subjects: vec![format!("{STREAM}.>")],
        storage: StorageType::File,
        num_replicas: nodes,
        allow_direct: true,
        ..Config::default()
    }
}

async fn jetstream(port: u16) -> anyhow::Result<Context> {
    let client = async_nats::ConnectOptions::new()
        // Requests that wait fill a queue of this many; it must not be the limit.
        .client_capacity(16_384)
        .connect(format!("nats://127.0.0.1:{port}"))
        .await?;
    let builder = ContextBuilder::new().timeout(Duration::from_secs(10)).ack_timeout(Duration::from_secs(30));
    Ok(builder.max_ack_inflight(16_384).backpressure_on_inflight(true).build(client))
}

pub(crate) struct NatsClient {
    context: Context,
    events: Stream<()>,
}

impl NatsClient {
    /// The messages of a new ordered consumer, which has no acknowledgements.
    async fn consume(&self, deliver_policy: DeliverPolicy) -> anyhow::Result<push::Ordered> {
        let config = push::OrderedConfig {
            deliver_subject: self.context.client().new_inbox(),
            deliver_policy,
            ..push::OrderedConfig::default()
        };
        let consumer = self.events.create_consumer(config).await.context("no consumer")?;
        Ok(consumer.messages().await?)
    }
}

impl Client for NatsClient {
    async fn append(&mut self, stream: &str, head: &mut Head, events: &[Event]) -> anyhow::Result<()> {
        let subject = subject(stream);
        let mut acknowledgements = Vec::with_capacity(events.len());
        for (turn, event) in events.iter().enumerate() {
            let mut message = PublishMessage::build().payload(event.data.clone());
            if turn == 0 {
                message = message.expected_last_subject_sequence(head.last);
            }
            acknowledgements.push(self.context.send_publish(subject.clone(), message).await?);
        }
        for acknowledgement in acknowledgements {
            let acknowledged = acknowledgement.await.context("a publish failed")?;
            if acknowledged.duplicate {
                bail!("an append to {stream} was taken for a duplicate");
            }
            head.advance(1, acknowledged.sequence)?;
        }
        Ok(())
    }

    async fn read_stream(&mut self, stream: &str, events: u64) -> anyhow::Result<()> {
        // Message by message: a consumer for each read is half as fast in this version.
        let subject = subject(stream);
        let end = self.events.direct_get_last_for_subject(subject.clone()).await?.sequence;
        let (mut count, mut last) = (0, 0);
        while last < end {
            let message = self.events.direct_get_next_for_subject(subject.clone(), Some(last + 1)).await?;
            anyhow::ensure!(message.sequence > last, "sequence {} came after {last}", message.sequence);
            anyhow::ensure!(!message.payload.is_empty(), "a message without a payload");
            last = message.sequence;
            count += 1;
        }
        anyhow::ensure!(count == events, "{stream} has {count} events, not {events}");
        Ok(())
    }

    async fn read_all(&mut self, events: u64) -> anyhow::Result<()> {
        let mut messages = self.consume(DeliverPolicy::All).await?;
        let (mut pending, mut last) = (events, 0);
        while pending > 0 {
            let message = messages.next().await.context("the consumer ended")??;
            let info = message.info().map_err(anyhow::Error::from_boxed)?;
            anyhow::ensure!(info.stream_sequence > last, "sequence {} came after {last}", info.stream_sequence);
            anyhow::ensure!(!message.payload.is_empty(), "a message without a payload");
            last = info.stream_sequence;
            pending -= 1;
            anyhow::ensure!(pending > 0 || info.pending == 0, "more than {events} messages");
        }
        Ok(())
    }

    async fn subscribe(self) -> anyhow::Result<BoxStream<'static, anyhow::Result<Bytes>>> {
        let messages = self.consume(DeliverPolicy::New).await?;
        Ok(messages.map(|message| Ok(message?.payload.clone())).boxed())
    }
}

fn subject(stream: &str) -> String {
    format!("{STREAM}.{stream}")
}
