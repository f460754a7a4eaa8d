//! Operations and monitoring over a real socket: a scavenge takes deleted events from
//! everywhere, can be watched and stopped, and a client can end the process.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use annals_proto::annals::v1::ScavengeStatusRequest;
use annals_proto::annals::v1::cluster_client::ClusterClient;
use annals_proto::annals::v1::scavenge_reply::Phase;
use annals_proto::event_store::client::monitoring::StatsReq;
use annals_proto::event_store::client::monitoring::monitoring_client::MonitoringClient;
use annals_proto::event_store::client::operations::operations_client::OperationsClient;
use annals_proto::event_store::client::operations::scavenge_resp::ScavengeResult;
use annals_proto::event_store::client::operations::{
    ScavengeResp, SetNodePriorityReq, StartScavengeReq, StopScavengeReq, stop_scavenge_req,
};
use annals_proto::event_store::client::streams as s;
use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::streams_client::StreamsClient;
use annals_proto::event_store::client::{Empty, StreamIdentifier, Uuid as WireUuid, uuid::Value};
use annals_server::Config;
use bytes::Bytes;
use futures::stream;
use s::read_req::options as ro;
use s::read_resp::Content;
use s::read_resp::read_event::RecordedEvent;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node on its own thread, which ends when it is asked to.
struct Node {
    channel: Channel,
    thread: JoinHandle<()>,
    stop: CancellationToken,
}

async fn node(name: &str, change: impl FnOnce(&mut Config)) -> Node {
    let data: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("operations-{name}"));
    let _ = std::fs::remove_dir_all(&data);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound").to_string();
    let mut config = Config {
        insecure: true,
        node_address: Some(address.clone()),
        bootstrap: vec![address.clone()],
        data,
        disk_reserve_bytes: 1,
        ..Config::default()
    };
    change(&mut config);
    let stop = CancellationToken::new();
    let token = stop.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            annals_server::run(config, Some(listener), token).await.expect("the node runs");
        });
    });
    let endpoint: Endpoint = format!("http://{address}").parse().expect("an address");
    let channel = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(channel) = endpoint.connect().await
                && append(&channel, "ready", "Ready", &["{}"]).await.is_ok()
            {
                return channel;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    Node { channel: channel.await.expect("the node serves"), thread, stop }
}

impl Node {
    async fn end(self) {
        self.stop.cancel();
        tokio::task::spawn_blocking(|| self.thread.join()).await.expect("joined").expect("it ends well");
    }

    fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    async fn scavenge(&self) -> ScavengeResp {
        self.operations().start_scavenge(StartScavengeReq::default()).await.expect("it starts").into_inner()
    }

    async fn stop_scavenge(&self, id: &str) -> Result<ScavengeResp, Status> {
        let options = Some(stop_scavenge_req::Options { scavenge_id: id.to_owned() });
        Ok(self.operations().stop_scavenge(StopScavengeReq { options }).await?.into_inner())
    }

    /// Waits until the scavenge that runs has ended: how, and what it reclaimed.
    async fn ended(&self) -> (Phase, u64) {
        let mut cluster = ClusterClient::new(self.channel.clone());
        let ended = async {
            loop {
                let reply = cluster.scavenge_status(ScavengeStatusRequest {}).await.expect("it answers").into_inner();
                if reply.phase() != Phase::Running {
                    return (reply.phase(), reply.events);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends")
    }

    async fn read(&self, source: ro::StreamOption, change: impl FnOnce(&mut s::read_req::Options)) -> Vec<Read> {
        let mut options = s::read_req::Options {
            read_direction: 0,
            resolve_links: false,
            uuid_option: Some(ro::UuidOption { content: Some(ro::uuid_option::Content::String(Empty {})) }),
            control_option: None,
            stream_option: Some(source),
            count_option: Some(ro::CountOption::Count(u64::MAX)),
            filter_option: Some(ro::FilterOption::NoFilter(Empty {})),
        };
        change(&mut options);
        let request = s::ReadReq { options: Some(options) };
        let mut client = StreamsClient::new(self.channel.clone());
        let mut answers = client.read(request).await.expect("it reads").into_inner();
        let mut events = Vec::new();
        while let Some(answer) = answers.message().await.expect("it goes on") {
            if let Some(Content::Event(event)) = answer.content {
                events.push((event.event, event.link));
            }
        }
        events
    }

    async fn types(&self, source: ro::StreamOption) -> Vec<String> {
        let read = self.read(source, |_| {}).await;
        read.into_iter().filter_map(|(event, _)| event).map(|event| event.metadata["type"].clone()).collect()
    }
}

type Read = (Option<RecordedEvent>, Option<RecordedEvent>);

fn identifier(stream: &str) -> Option<StreamIdentifier> {
    Some(StreamIdentifier { stream_name: Bytes::copy_from_slice(stream.as_bytes()) })
}

fn stream(name: &str) -> ro::StreamOption {
    let from = ro::stream_options::RevisionOption::Start(Empty {});
    ro::StreamOption::Stream(ro::StreamOptions { stream_identifier: identifier(name), revision_option: Some(from) })
}

fn all() -> ro::StreamOption {
    ro::StreamOption::All(ro::AllOptions { all_option: Some(ro::all_options::AllOption::Start(Empty {})) })
}

async fn append(channel: &Channel, stream: &str, event_type: &str, data: &[&str]) -> Result<(), Status> {
    use s::append_req::{self, options::ExpectedStreamRevision};
    let options = append_req::Options {
        stream_identifier: identifier(stream),
        expected_stream_revision: Some(ExpectedStreamRevision::Any(Empty {})),
    };
    let mut frames = vec![append_req::Content::Options(options)];
    frames.extend(data.iter().map(|data| {
        append_req::Content::ProposedMessage(append_req::ProposedMessage {
            id: Some(WireUuid { value: Some(Value::String(uuid::Uuid::new_v4().to_string())) }),
            metadata: vec![
                MetadataEntry::new("type", event_type.to_owned()),
                MetadataEntry::new("content-type", "application/json"),
            ],
            custom_metadata: Bytes::from_static(br#"{"$correlationId":"x1"}"#),
            data: Bytes::copy_from_slice(data.as_bytes()),
        })
    }));
    let frames = frames.into_iter().map(|content| s::AppendReq { content: Some(content) });
    StreamsClient::new(channel.clone()).append(stream::iter(frames.collect::<Vec<_>>())).await?;
    Ok(())
}

async fn delete(channel: &Channel, stream: &str) {
    let options = s::delete_req::Options {
        stream_identifier: identifier(stream),
        expected_stream_revision: Some(s::delete_req::options::ExpectedStreamRevision::Any(Empty {})),
    };
    StreamsClient::new(channel.clone()).delete(s::DeleteReq { options: Some(options) }).await.expect("deleted");
}

#[tokio::test]
async fn deleted_events_are_gone_from_everywhere() {
    let node = node("gone", |_| {}).await;
    let channel = node.channel.clone();
    append(&channel, "drop-1", "Dropped", &["{}"; 3_000]).await.expect("appended");
    append(&channel, "keep-1", "Kept", &["{}", "{}"]).await.expect("appended");
    append(&channel, "links", "$>", &["2999@drop-1", "1@keep-1"]).await.expect("appended");
    append(&channel, "cut-1", "Cut", &["{}"; 5]).await.expect("appended");
    append(&channel, "$$cut-1", "$metadata", &[r#"{"$maxCount":2}"#]).await.expect("appended");
    delete(&channel, "drop-1").await;
    assert!(node.types(all()).await.iter().filter(|kind| *kind == "Dropped").count() == 3_000, "until it is scavenged");

    let started = node.scavenge().await;
    assert_eq!(started.scavenge_result(), ScavengeResult::Started);
    assert_eq!(node.ended().await, (Phase::Completed, 3_003));

    let types = node.types(all()).await;
    let count = |wanted: &str| types.iter().filter(|kind| *kind == wanted).count();
    assert_eq!((count("Dropped"), count("Kept"), count("Cut")), (0, 2, 2));
    assert_eq!(node.types(stream("$et-Dropped")).await, Vec::<String>::new());
    assert_eq!(node.types(stream("$ce-drop")).await, Vec::<String>::new());
    assert_eq!(node.read(stream("$ce-keep"), |_| {}).await.len(), 2);
    let correlated = node.read(stream("$bc-x1"), |options| options.resolve_links = true).await;
    assert!(correlated.iter().all(|(event, _)| event.as_ref().is_none_or(|e| e.metadata["type"] != "Dropped")));
    // One event is found behind thousands that are gone, in each direction.
    for direction in [0, 1] {
        let one = node.read(all(), |options| {
            options.read_direction = direction;
            options.count_option = Some(ro::CountOption::Count(1));
            if direction == 1 {
                let end = ro::all_options::AllOption::End(Empty {});
                options.stream_option = Some(ro::StreamOption::All(ro::AllOptions { all_option: Some(end) }));
            }
        });
        assert_eq!(one.await.len(), 1);
    }
    // What was written as a link stays, and leads to nothing.
    let links = node.read(stream("links"), |options| options.resolve_links = true).await;
    let led: Vec<bool> = links.iter().map(|(event, link)| event.is_some() && link.is_some()).collect();
    assert_eq!(led, [false, true]);
    // A hidden event that metadata would show again does not come back.
    append(&channel, "$$cut-1", "$metadata", &["{}"]).await.expect("appended");
    let cut = node.read(stream("cut-1"), |_| {}).await;
    let revisions: Vec<u64> = cut.iter().filter_map(|(event, _)| event.as_ref()).map(|e| e.stream_revision).collect();
    assert_eq!(revisions, [3, 4]);
    // It tells of itself.
    let told = node.read(stream("$scavenges"), |options| options.resolve_links = true).await;
    let told: Vec<_> = told.into_iter().filter_map(|(event, _)| event).collect();
    let types: Vec<_> = told.iter().map(|event| event.metadata["type"].as_str()).collect();
    assert_eq!(types, ["$scavengeStarted", "$scavengeCompleted"]);
    assert!(String::from_utf8_lossy(&told[1].data).contains(&started.scavenge_id));
    node.end().await;
}

#[tokio::test]
async fn a_scavenge_can_be_stopped_and_runs_once_at_a_time() {
    let slow = |config: &mut Config| config.scavenge_bytes_per_second = 64 * 1024;
    let node = node("stopped", slow).await;
    let large = "\"".to_owned() + &"x".repeat(500_000) + "\"";
    for _ in 0..4 {
        append(&node.channel, "drop-1", "Dropped", &[&large]).await.expect("appended");
    }
    delete(&node.channel, "drop-1").await;
    let first = node.scavenge().await;
    assert_eq!(first.scavenge_result(), ScavengeResult::Started);
    let second = node.scavenge().await;
    assert_eq!((second.scavenge_result(), &second.scavenge_id), (ScavengeResult::InProgress, &first.scavenge_id));

    let status = node.stop_scavenge("no such").await.expect_err("there is none");
    assert_eq!(status.code(), Code::NotFound);
    let trailer = |name: &str| status.metadata().get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(trailer("exception").as_deref(), Some("scavenge-not-found"));
    assert_eq!(trailer("scavenge-id").as_deref(), Some("no such"));

    let stopped = node.stop_scavenge(&first.scavenge_id).await.expect("it runs");
    assert_eq!(stopped.scavenge_result(), ScavengeResult::Stopped);
    assert_eq!(node.ended().await.0, Phase::Stopped);
    assert_eq!(node.stop_scavenge("").await.expect_err("it has ended").code(), Code::NotFound);
    node.end().await;
}

#[tokio::test]
async fn numbers_come_every_period() {
    let node = node("stats", |_| {}).await;
    let request = StatsReq { use_metadata: false, refresh_time_period_in_ms: 0 };
    let mut stats = MonitoringClient::new(node.channel.clone()).stats(request).await.expect("it answers").into_inner();
    for _ in 0..3 {
        let numbers = stats.message().await.expect("it goes on").expect("it never ends well").stats;
        assert!(numbers["proc-mem"].parse::<u64>().expect("a number") > 0);
        assert_eq!(numbers["es-node-state"], "Leader");
    }
    node.stop.cancel();
    let end = loop {
        match stats.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    node.end().await;
}

#[tokio::test]
async fn a_client_ends_the_process_and_nothing_is_lost() {
    let node = node("shutdown", |_| {}).await;
    let mut operations = node.operations();
    operations.set_node_priority(SetNodePriorityReq { priority: 7 }).await.expect("set");
    operations.merge_indexes(Empty {}).await.expect("there is nothing to do");
    operations.restart_persistent_subscriptions(Empty {}).await.expect("there is nothing to do");
    let alone = operations.resign_node(Empty {}).await.expect_err("nobody else could lead");
    assert_eq!(alone.code(), Code::FailedPrecondition);
    operations.shutdown(Empty {}).await.expect("answered before it stops");
    tokio::task::spawn_blocking(|| node.thread.join()).await.expect("joined").expect("it ends well");
}
