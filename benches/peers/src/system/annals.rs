//! Annals, through the first-generation API of the official clients.
//!
//! Of what is read only the fields that are looked at are decoded, as the clients
//! of PostgreSQL and NATS do: a map of strings for every event would cost more
//! than the server has to do for it.

use std::process::Command;
use std::time::Duration;

use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::read_req::Options;
use annals_proto::event_store::client::streams::read_req::options::{
    AllOptions, CountOption, FilterOption, StreamOption, StreamOptions, SubscriptionOptions, UuidOption, all_options,
    stream_options, uuid_option,
};
use annals_proto::event_store::client::streams::streams_client::StreamsClient;
use annals_proto::event_store::client::streams::{AppendReq, ReadReq, append_req, append_resp};
use annals_proto::event_store::client::{Empty, StreamIdentifier, Uuid, uuid};
use anyhow::{Context, bail};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::grpc::{MESSAGE_BYTES_MAX, channels};
use super::{EVENT_TYPE, Event, Head, Programs, System};
use crate::place::Place;
use crate::process::{Farewell, Process};
use crate::wait::until;

pub(crate) struct Annals {
    // Before its data, so that no process outlives it.
    processes: Vec<Process>,
    ports: Vec<u16>,
    _data: TempDir,
}

impl System for Annals {
    type Client = AnnalsClient;

    async fn start(programs: &Programs, place: &Place, nodes: usize) -> anyhow::Result<Self> {
        let data = place.directory()?;
        let ports = place.ports(nodes)?;
        let list: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut processes = Vec::with_capacity(nodes);
        for address in &list {
            let mut command = Command::new(&programs.annals);
            command.arg("serve").args([
                "--insecure",
                "--listen",
                address,
                "--bootstrap",
                &list.join(","),
                "--log",
                "warn",
            ]);
            command.arg("--data").arg(data.path().join(address));
            let log = data.path().join(format!("{address}.log"));
            processes.push(Process::start(command, &log, Farewell::Kill)?);
        }
        let mut this = Self { processes, ports, _data: data };
        for node in 0..nodes {
            let port = this.ports[node];
            until("Annals is ready", &mut this.processes, async || {
                let (status, _) = get(port, "/readyz").await?;
                anyhow::ensure!(status == 200, "status {status}");
                Ok(())
            })
            .await?;
        }
        Ok(this)
    }

    fn processes(&mut self) -> &mut [Process] {
        &mut self.processes
    }

    async fn leader(&mut self) -> anyhow::Result<usize> {
        let ports = self.ports.clone();
        until("Annals has a leader", &mut self.processes, async || {
            let mut found = None;
            // A node that was just replaced may still tell the old story, so all must agree.
            for port in &ports {
                let one = told_leader(*port).await?;
                anyhow::ensure!(found.is_none_or(|other| other == one), "two nodes name two leaders");
                found = Some(one);
            }
            ports.iter().position(|port| Some(*port) == found).context("the leader is none of the nodes")
        })
        .await
    }

    async fn clients(&mut self, node: usize, count: usize) -> anyhow::Result<Vec<AnnalsClient>> {
        let channels = channels(self.ports[node], count).await?;
        Ok(channels.into_iter().map(AnnalsClient::new).collect())
    }
}

async fn told_leader(port: u16) -> anyhow::Result<u16> {
    let (_, body) = get(port, "/gossip").await?;
    let told: serde_json::Value = serde_json::from_str(&body)?;
    let members = told["members"].as_array().context("no members in the gossip")?;
    let leader = members.iter().find(|member| member["state"] == "Leader").context("no leader in the gossip")?;
    let port = leader["httpEndPointPort"].as_u64().context("a leader without a port")?;
    Ok(u16::try_from(port)?)
}

/// Status and body of one HTTP request.
async fn get(port: u16, path: &str) -> anyhow::Result<(u16, String)> {
    let answer = tokio::time::timeout(Duration::from_secs(2), async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    })
    .await??;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status in the answer")?.parse()?;
    Ok((status, body.to_owned()))
}

pub(crate) struct AnnalsClient {
    streams: StreamsClient<Channel>,
    reads: Grpc<Channel>,
}

impl AnnalsClient {
    fn new(channel: Channel) -> Self {
        Self {
            streams: StreamsClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            reads: Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
        }
    }

    /// For calls that no other client makes.
    pub(crate) fn into_inner(self) -> StreamsClient<Channel> {
        self.streams
    }

    async fn read<E>(&mut self, options: Options, linearizable: bool) -> anyhow::Result<Streaming<Answer<E>>>
    where
        E: Part + 'static,
    {
        let mut request = tonic::Request::new(ReadReq { options: Some(options) });
        if linearizable {
            request.metadata_mut().insert("annals-consistency", MetadataValue::from_static("linearizable"));
        }
        self.reads.ready().await.context("the connection broke")?;
        let path = PathAndQuery::from_static("/event_store.client.streams.Streams/Read");
        let codec = ProstCodec::<ReadReq, Answer<E>>::default();
        Ok(self.reads.server_streaming(request, path, codec).await.context("a read failed")?.into_inner())
    }
}

impl super::Client for AnnalsClient {
    async fn append(&mut self, stream: &str, head: &mut Head, events: &[Event]) -> anyhow::Result<()> {
        use append_resp::success::CurrentRevisionOption;
        let request = append_request(stream, *head, events);
        let answer = self.streams.append(tokio_stream::iter(request)).await.context("an append failed")?;
        let Some(append_resp::Result::Success(success)) = answer.into_inner().result else {
            bail!("an append to {stream} at {head:?} was refused");
        };
        let due = head.events + events.len() as u64;
        if success.current_revision_option != Some(CurrentRevisionOption::CurrentRevision(due - 1)) {
            bail!("{:?} was answered where revision {} was due", success.current_revision_option, due - 1);
        }
        head.advance(events.len(), due)
    }

    async fn read_stream(&mut self, stream: &str, events: u64) -> anyhow::Result<()> {
        let mut answers = self.read::<OfStream>(stream_options(stream, 0, events + 1), false).await?;
        let mut next = 0;
        while let Some(event) = next_event(&mut answers).await? {
            if event.stream_revision != next || event.data.is_empty() {
                bail!("revision {} of {stream} came where {next} was due", event.stream_revision);
            }
            next += 1;
        }
        anyhow::ensure!(next == events, "{stream} has {next} events, not {events}");
        Ok(())
    }

    async fn read_all(&mut self, events: u64) -> anyhow::Result<()> {
        let mut answers = self.read::<OfAll>(all_options(CountOption::Count(u64::from(u32::MAX))), false).await?;
        let (mut count, mut last) = (0, None);
        while let Some(event) = next_event(&mut answers).await? {
            if last.is_some_and(|last| event.commit_position <= last) {
                bail!("position {} came after {last:?}", event.commit_position);
            }
            last = Some(event.commit_position);
            count += u64::from(is_ours(&event));
        }
        anyhow::ensure!(count == events, "{count} events were read, not {events}");
        Ok(())
    }

    async fn read_linearizable(&mut self, stream: &str, revision: u64) -> anyhow::Result<()> {
        let mut answers = self.read::<OfStream>(stream_options(stream, revision, 1), true).await?;
        let event = next_event(&mut answers).await?.context("no event was answered")?;
        anyhow::ensure!(event.stream_revision == revision, "revision {} for {revision}", event.stream_revision);
        // To its end: an answer that is dropped early is reset, and a connection with many resets is closed.
        anyhow::ensure!(next_event(&mut answers).await?.is_none(), "two events for one");
        Ok(())
    }

    async fn subscribe(mut self) -> anyhow::Result<BoxStream<'static, anyhow::Result<Bytes>>> {
        let subscription = CountOption::Subscription(SubscriptionOptions {});
        let mut answers = self.read::<OfAll>(all_options(subscription), false).await?;
        let first = answers.message().await?.unwrap_or_default();
        anyhow::ensure!(first.confirmation.is_some(), "{first:?} for a confirmation");
        let events = answers.filter_map(async |answer| match answer {
            Err(status) => Some(Err(status.into())),
            Ok(answer) => answer.event.and_then(|event| event.event).filter(is_ours).map(|event| Ok(event.data)),
        });
        Ok(events.boxed())
    }
}

/// Annals writes events of its own, in streams whose names begin with `$`.
fn is_ours(event: &OfAll) -> bool {
    event.stream.as_ref().is_some_and(|stream| !stream.name.starts_with(b"$"))
}

async fn next_event<E: Part>(answers: &mut Streaming<Answer<E>>) -> anyhow::Result<Option<E>> {
    while let Some(answer) = answers.message().await? {
        anyhow::ensure!(answer.stream_not_found.is_none(), "a stream was not found");
        if let Some(event) = answer.event {
            return Ok(Some(event.event.context("an event without its record")?));
        }
    }
    Ok(None)
}

/// What of an event is decoded.
trait Part: Message + Default + std::fmt::Debug {}

impl Part for OfStream {}
impl Part for OfAll {}

/// `ReadResp` as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer<E: Part> {
    #[prost(message, optional, tag = "1")]
    event: Option<Resolved<E>>,
    #[prost(message, optional, tag = "2")]
    confirmation: Option<Anything>,
    #[prost(message, optional, tag = "4")]
    stream_not_found: Option<Anything>,
}

/// `ReadEvent` without its link: links are never followed here.
#[derive(Clone, PartialEq, prost::Message)]
struct Resolved<E: Part> {
    #[prost(message, optional, tag = "1")]
    event: Option<E>,
}

/// `RecordedEvent` where one stream is read.
#[derive(Clone, PartialEq, prost::Message)]
struct OfStream {
    #[prost(uint64, tag = "3")]
    stream_revision: u64,
    #[prost(bytes = "bytes", tag = "8")]
    data: Bytes,
}

/// `RecordedEvent` where all are read.
#[derive(Clone, PartialEq, prost::Message)]
struct OfAll {
    #[prost(message, optional, tag = "2")]
    stream: Option<Name>,
    #[prost(uint64, tag = "5")]
    commit_position: u64,
    #[prost(bytes = "bytes", tag = "8")]
    data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Name {
    #[prost(bytes = "bytes", tag = "3")]
    name: Bytes,
}

/// That it is there is all that counts.
#[derive(Clone, PartialEq, prost::Message)]
struct Anything {}

fn stream_options(stream: &str, revision: u64, count: u64) -> Options {
    Options {
        stream_option: Some(StreamOption::Stream(StreamOptions {
            stream_identifier: Some(identifier(stream)),
            revision_option: Some(stream_options::RevisionOption::Revision(revision)),
        })),
        count_option: Some(CountOption::Count(count)),
        ..unfiltered()
    }
}

fn all_options(count: CountOption) -> Options {
    Options {
        stream_option: Some(StreamOption::All(AllOptions {
            all_option: Some(all_options::AllOption::Start(Empty {})),
        })),
        count_option: Some(count),
        ..unfiltered()
    }
}

fn unfiltered() -> Options {
    Options {
        filter_option: Some(FilterOption::NoFilter(Empty {})),
        uuid_option: Some(UuidOption { content: Some(uuid_option::Content::Structured(Empty {})) }),
        ..Options::default()
    }
}

fn append_request(stream: &str, head: Head, events: &[Event]) -> Vec<AppendReq> {
    use append_req::options::ExpectedStreamRevision;
    let expected = match head.events {
        0 => ExpectedStreamRevision::NoStream(Empty {}),
        events => ExpectedStreamRevision::Revision(events - 1),
    };
    let options = append_req::Content::Options(append_req::Options {
        stream_identifier: Some(identifier(stream)),
        expected_stream_revision: Some(expected),
    });
    let messages = events.iter().map(|event| {
        append_req::Content::ProposedMessage(append_req::ProposedMessage {
            id: Some(id(event)),
            metadata: metadata(),
            custom_metadata: Bytes::new(),
            data: event.data.clone(),
        })
    });
    std::iter::once(options).chain(messages).map(|content| AppendReq { content: Some(content) }).collect()
}

pub(crate) fn identifier(stream: &str) -> StreamIdentifier {
    StreamIdentifier { stream_name: Bytes::copy_from_slice(stream.as_bytes()) }
}

pub(crate) fn id(event: &Event) -> Uuid {
    Uuid { value: Some(uuid::Value::String(event.id.to_string())) }
}

pub(crate) fn metadata() -> Vec<MetadataEntry> {
    vec![MetadataEntry::new("type", EVENT_TYPE), MetadataEntry::new("content-type", "application/octet-stream")]
}
