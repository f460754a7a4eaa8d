//! Measures Annals through its wire protocol.
//!
//! Closed loop: each client sends its next request when the last one is
//! answered, over a connection of its own for every 16 clients, so that the
//! figures are those of an application and not of one HTTP/2 connection.
//! Every append carries an exact expected revision, so a lost or doubled
//! event would show as a refusal and end the run.
//!
//! `benches/run` starts the servers and calls this for each row of the table.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use annals_proto::event_store::client::streams::streams_client::StreamsClient;
use annals_proto::event_store::client::streams::{AppendReq, ReadReq, append_req, append_resp, read_req, read_resp};
use annals_proto::event_store::client::{Empty, StreamIdentifier, Uuid, uuid};
use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use hdrhistogram::Histogram;
use tonic::transport::{Channel, Endpoint};

/// Load and latency of an Annals server or cluster.
#[derive(Parser)]
struct Arguments {
    /// Addresses of the nodes; clients are spread over them.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2113")]
    servers: Vec<String>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Appends in a closed loop; prints one line of JSON.
    Append {
        /// Clients, each with one request under way.
        #[arg(long, default_value_t = 64)]
        clients: usize,
        /// Events of one request.
        #[arg(long, default_value_t = 1)]
        events: usize,
        /// Bytes of an event's data.
        #[arg(long, default_value_t = 256)]
        bytes: usize,
        /// Streams in all, shared out among the clients.
        #[arg(long, default_value_t = 1_000)]
        streams: usize,
        /// Seconds that count.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Seconds before that, which do not.
        #[arg(long, default_value_t = 2)]
        warm_up: u64,
    },
    /// Reads `$all` from the start with one consumer; prints one line of JSON.
    CatchUp {
        /// Events to read at the most.
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.what {
        What::Append { clients, events, bytes, streams, seconds, warm_up } => {
            let load = Load { clients, events, bytes, streams: streams.max(clients), seconds, warm_up };
            append(&arguments.servers, load).await
        }
        What::CatchUp { events } => catch_up(&arguments.servers[0], events).await,
    }
}

#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    events: usize,
    bytes: usize,
    streams: usize,
    seconds: u64,
    warm_up: u64,
}

async fn connect(server: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(server.to_owned())?.tcp_nodelay(true).initial_stream_window_size(4 << 20);
    endpoint.connect().await.with_context(|| format!("cannot connect to {server}"))
}

async fn append(servers: &[String], load: Load) -> anyhow::Result<()> {
    let run = rand::random::<u32>();
    let begin = Instant::now() + Duration::from_secs(load.warm_up);
    let end = begin + Duration::from_secs(load.seconds);
    let mut tasks = Vec::with_capacity(load.clients);
    let mut channels = Vec::new();
    for client in 0..load.clients {
        if client % 16 == 0 {
            channels.push(connect(&servers[(client / 16) % servers.len()]).await?);
        }
        let channel = channels.last().expect("pushed for the first client").clone();
        tasks.push(tokio::spawn(append_client(channel, run, client, load, begin, end)));
    }
    let mut latency = Histogram::<u64>::new(3)?;
    for task in tasks {
        latency.add(task.await??)?;
    }
    let requests = latency.len();
    let rate = requests as f64 / load.seconds as f64;
    let milliseconds = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    println!(
        "{}",
        serde_json::json!({
            "what": "append", "nodes": servers.len(), "clients": load.clients, "events_per_request": load.events,
            "event_bytes": load.bytes, "seconds": load.seconds, "requests": requests,
            "requests_per_second": rate.round(), "events_per_second": (rate * load.events as f64).round(),
            "p50_ms": milliseconds(0.5), "p90_ms": milliseconds(0.9), "p99_ms": milliseconds(0.99),
            "p999_ms": milliseconds(0.999), "max_ms": latency.max() as f64 / 1_000.0,
        })
    );
    Ok(())
}

async fn append_client(
    channel: Channel,
    run: u32,
    client: usize,
    load: Load,
    begin: Instant,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut streams = StreamsClient::new(channel);
    let own: Vec<usize> = (client..load.streams).step_by(load.clients).collect();
    let mut revisions: Vec<Option<u64>> = vec![None; own.len()];
    let data: Bytes = (0..load.bytes).map(|_| rand::random::<u8>()).collect::<Vec<u8>>().into();
    let mut latency = Histogram::<u64>::new(3)?;
    let mut turn = 0;
    loop {
        let slot = turn % own.len();
        turn += 1;
        let name = format!("bench{run}-{}", own[slot]);
        let expected = match revisions[slot] {
            Some(revision) => append_req::options::ExpectedStreamRevision::Revision(revision),
            None => append_req::options::ExpectedStreamRevision::NoStream(Empty {}),
        };
        let mut frames = Vec::with_capacity(load.events + 1);
        frames.push(AppendReq {
            content: Some(append_req::Content::Options(append_req::Options {
                stream_identifier: Some(StreamIdentifier { stream_name: Bytes::from(name) }),
                expected_stream_revision: Some(expected),
            })),
        });
        frames.extend((0..load.events).map(|_| {
            AppendReq {
                content: Some(append_req::Content::ProposedMessage(append_req::ProposedMessage {
                    id: Some(Uuid { value: Some(uuid::Value::String(::uuid::Uuid::now_v7().to_string())) }),
                    metadata: [("type", "Measured"), ("content-type", "application/octet-stream")]
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .into(),
                    custom_metadata: Bytes::new(),
                    data: data.clone(),
                })),
            }
        }));
        let sent = Instant::now();
        if sent >= end {
            return Ok(latency);
        }
        let answer = streams.append(tokio_stream::iter(frames)).await.context("append failed")?;
        let took = sent.elapsed();
        match answer.into_inner().result {
            Some(append_resp::Result::Success(success)) => match success.current_revision_option {
                Some(append_resp::success::CurrentRevisionOption::CurrentRevision(revision)) => {
                    let expected = revisions[slot].map_or(0, |last| last + 1) + load.events as u64 - 1;
                    if revision != expected {
                        bail!("revision {revision} was answered where {expected} was due");
                    }
                    revisions[slot] = Some(revision);
                }
                other => bail!("no revision was answered: {other:?}"),
            },
            other => bail!("refused: {other:?}"),
        }
        if sent >= begin {
            latency.record(u64::try_from(took.as_micros())?.max(1))?;
        }
    }
}

async fn catch_up(server: &str, events: u64) -> anyhow::Result<()> {
    let mut streams = StreamsClient::new(connect(server).await?).max_decoding_message_size(17 << 20);
    let options = read_req::Options {
        stream_option: Some(read_req::options::StreamOption::All(read_req::options::AllOptions {
            all_option: Some(read_req::options::all_options::AllOption::Start(Empty {})),
        })),
        count_option: Some(read_req::options::CountOption::Count(events)),
        filter_option: Some(read_req::options::FilterOption::NoFilter(Empty {})),
        uuid_option: Some(read_req::options::UuidOption {
            content: Some(read_req::options::uuid_option::Content::Structured(Empty {})),
        }),
        ..read_req::Options::default()
    };
    let begin = Instant::now();
    let mut answers = streams.read(ReadReq { options: Some(options) }).await?.into_inner();
    let (mut count, mut bytes, mut last) = (0u64, 0usize, 0u64);
    while let Some(answer) = answers.message().await? {
        if let Some(read_resp::Content::Event(event)) = answer.content {
            let event = event.event.context("an event without its record")?;
            if event.commit_position <= last {
                bail!("position {} follows {last}", event.commit_position);
            }
            last = event.commit_position;
            count += 1;
            bytes += event.data.len();
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{}",
        serde_json::json!({
            "what": "catch-up", "events": count, "data_bytes": bytes, "seconds": seconds,
            "events_per_second": (count as f64 / seconds).round(),
        })
    );
    Ok(())
}
