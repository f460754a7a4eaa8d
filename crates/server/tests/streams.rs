//! The streams services over a real socket: what clients send that makes no
//! sense, and the edges of reads and subscriptions.
//!
//! One node serves most tests; each uses names that nobody else uses. Whatever
//! a test sends, the node must go on serving: each hostile test ends with
//! [`assert_serving`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annals_proto::event_store::client as v1;
use annals_proto::event_store::client::streams as s;
use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::streams_client::StreamsClient;
use annals_proto::event_store::client::{Empty, StreamIdentifier, uuid::Value as UuidValue};
use annals_proto::google::rpc;
use annals_proto::kurrentdb::protocol::v2::streams as v2;
use annals_proto::kurrentdb::protocol::v2::streams::errors as v2_errors;
use annals_proto::kurrentdb::protocol::v2::streams::streams_service_client::StreamsServiceClient;
use annals_server::Config;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use prost::Message as _;
use s::read_req::{Options, options as ro};
use s::read_resp::Content;
use s::{append_req, append_resp, batch_append_req, batch_append_resp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use uuid::Uuid;

const APPEND_BYTES_MAX: u64 = 20 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

// --- the node ---------------------------------------------------------------

/// A node on its own thread, because each test has its own runtime.
struct Node {
    address: String,
    stop: CancellationToken,
}

fn start(name: &str) -> Node {
    let data: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("streams-{name}"));
    let _ = std::fs::remove_dir_all(&data);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("bound").to_string();
    let config = Config {
        insecure: true,
        node_address: Some(address.clone()),
        bootstrap: vec![address.clone()],
        data,
        append_bytes_max: APPEND_BYTES_MAX,
        disk_reserve_bytes: 1,
        // What a read waits for the position it wants.
        request_timeout_ms: 2_000,
        ..Config::default()
    };
    let stop = CancellationToken::new();
    let token = stop.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            annals_server::run(config, Some(listener), token).await.expect("the node runs");
        });
    });
    Node { address, stop }
}

async fn shared() -> Channel {
    static NODE: OnceLock<Node> = OnceLock::new();
    connect(&NODE.get_or_init(|| start("shared")).address).await
}

/// A connection to a node that takes appends.
async fn connect(address: &str) -> Channel {
    let endpoint: Endpoint = format!("http://{address}").parse().expect("an address");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let attempt = async {
            let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
            append(&channel, &fresh("warm-up"), Any, &[event("Ready")]).await?;
            Ok::<_, Status>(channel)
        };
        match attempt.await {
            Ok(channel) => return channel,
            Err(status) if tokio::time::Instant::now() > deadline => panic!("the node does not serve: {status}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn assert_serving(channel: &Channel) {
    let stream = fresh("canary");
    append(channel, &stream, NoStream, &[event("Canary")]).await.expect("the node takes appends");
    assert_eq!(revisions(&read(channel, forwards(&stream)).await.expect("the node reads")), [0]);
}

// --- what is sent -----------------------------------------------------------

/// A name nobody used before, of the category `prefix`.
fn fresh(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A word nobody used before.
fn word(prefix: &str) -> String {
    fresh(prefix).replace('-', "x")
}

use append_req::options::ExpectedStreamRevision;
#[allow(non_upper_case_globals)]
const Any: ExpectedStreamRevision = ExpectedStreamRevision::Any(Empty {});
#[allow(non_upper_case_globals)]
const NoStream: ExpectedStreamRevision = ExpectedStreamRevision::NoStream(Empty {});
#[allow(non_upper_case_globals)]
const Exists: ExpectedStreamRevision = ExpectedStreamRevision::StreamExists(Empty {});

fn identifier(stream: &str) -> Option<StreamIdentifier> {
    Some(StreamIdentifier { stream_name: Bytes::copy_from_slice(stream.as_bytes()) })
}

fn text_id(text: &str) -> Option<v1::Uuid> {
    Some(v1::Uuid { value: Some(UuidValue::String(text.to_owned())) })
}

fn labels(event_type: &str, content_type: &str) -> Vec<MetadataEntry> {
    [("type", event_type), ("content-type", content_type)]
        .map(|(key, value)| MetadataEntry::new(key, value.to_owned()))
        .into()
}

fn event(event_type: &str) -> append_req::ProposedMessage {
    append_req::ProposedMessage {
        id: text_id(&Uuid::new_v4().to_string()),
        metadata: labels(event_type, "application/json"),
        custom_metadata: Bytes::new(),
        data: Bytes::from_static(b"{}"),
    }
}

fn events(count: usize) -> Vec<append_req::ProposedMessage> {
    (0..count).map(|_| event("Happened")).collect()
}

fn link(revision: u64, stream: &str) -> append_req::ProposedMessage {
    append_req::ProposedMessage {
        metadata: labels("$>", "application/octet-stream"),
        data: Bytes::from(format!("{revision}@{stream}")),
        ..event("$>")
    }
}

fn metadata_event(json: &'static str) -> append_req::ProposedMessage {
    append_req::ProposedMessage { data: Bytes::from_static(json.as_bytes()), ..event("$metadata") }
}

fn append_options(stream: &str, expected: ExpectedStreamRevision) -> s::AppendReq {
    let options =
        append_req::Options { stream_identifier: identifier(stream), expected_stream_revision: Some(expected) };
    s::AppendReq { content: Some(append_req::Content::Options(options)) }
}

fn frame(event: append_req::ProposedMessage) -> s::AppendReq {
    s::AppendReq { content: Some(append_req::Content::ProposedMessage(event)) }
}

fn streams(channel: &Channel) -> StreamsClient<Channel> {
    StreamsClient::new(channel.clone()).max_decoding_message_size(17 * 1024 * 1024)
}

async fn append_frames(channel: &Channel, frames: Vec<s::AppendReq>) -> Result<append_resp::Result, Status> {
    let answer = streams(channel).append(stream::iter(frames)).await?.into_inner();
    Ok(answer.result.expect("a result is always set"))
}

async fn append(
    channel: &Channel,
    stream: &str,
    expected: ExpectedStreamRevision,
    events: &[append_req::ProposedMessage],
) -> Result<append_resp::Result, Status> {
    let options = append_options(stream, expected);
    append_frames(channel, std::iter::once(options).chain(events.iter().cloned().map(frame)).collect()).await
}

async fn must_append(channel: &Channel, stream: &str, events: &[append_req::ProposedMessage]) -> u64 {
    match append(channel, stream, Any, events).await {
        Ok(append_resp::Result::Success(success)) => match success.position_option {
            Some(append_resp::success::PositionOption::Position(position)) => {
                assert_eq!(position.commit_position, position.prepare_position);
                position.commit_position
            }
            other => panic!("no position: {other:?}"),
        },
        other => panic!("not appended: {other:?}"),
    }
}

async fn delete(channel: &Channel, stream: &str) -> Result<u64, Status> {
    let options = s::delete_req::Options {
        stream_identifier: identifier(stream),
        expected_stream_revision: Some(s::delete_req::options::ExpectedStreamRevision::Any(Empty {})),
    };
    let answer = streams(channel).delete(s::DeleteReq { options: Some(options) }).await?.into_inner();
    match answer.position_option {
        Some(s::delete_resp::PositionOption::Position(position)) => Ok(position.commit_position),
        other => panic!("Go and .NET need the position: {other:?}"),
    }
}

async fn tombstone(channel: &Channel, stream: &str) -> Result<u64, Status> {
    let options = s::tombstone_req::Options {
        stream_identifier: identifier(stream),
        expected_stream_revision: Some(s::tombstone_req::options::ExpectedStreamRevision::Any(Empty {})),
    };
    let answer = streams(channel).tombstone(s::TombstoneReq { options: Some(options) }).await?.into_inner();
    match answer.position_option {
        Some(s::tombstone_resp::PositionOption::Position(position)) => Ok(position.commit_position),
        other => panic!("Go and .NET need the position: {other:?}"),
    }
}

fn options(source: ro::StreamOption) -> Options {
    Options {
        read_direction: 0,
        resolve_links: false,
        uuid_option: Some(ro::UuidOption { content: Some(ro::uuid_option::Content::String(Empty {})) }),
        control_option: None,
        stream_option: Some(source),
        count_option: Some(ro::CountOption::Count(u64::MAX)),
        filter_option: Some(ro::FilterOption::NoFilter(Empty {})),
    }
}

use ro::all_options::AllOption;
use ro::stream_options::RevisionOption;

fn of_stream(stream: &str, from: RevisionOption) -> ro::StreamOption {
    ro::StreamOption::Stream(ro::StreamOptions { stream_identifier: identifier(stream), revision_option: Some(from) })
}

fn of_all(from: AllOption) -> ro::StreamOption {
    ro::StreamOption::All(ro::AllOptions { all_option: Some(from) })
}

fn at(position: u64) -> AllOption {
    AllOption::Position(ro::Position { commit_position: position, prepare_position: position })
}

fn forwards(stream: &str) -> Options {
    options(of_stream(stream, RevisionOption::Start(Empty {})))
}

fn backwards(stream: &str) -> Options {
    Options { read_direction: 1, ..options(of_stream(stream, RevisionOption::End(Empty {}))) }
}

fn from_revision(stream: &str, revision: u64) -> Options {
    options(of_stream(stream, RevisionOption::Revision(revision)))
}

fn limited(options: Options, count: u64) -> Options {
    Options { count_option: Some(ro::CountOption::Count(count)), ..options }
}

fn compatible(options: Options) -> Options {
    Options { control_option: Some(ro::ControlOption { compatibility: 1 }), ..options }
}

fn resolving(options: Options) -> Options {
    Options { resolve_links: true, ..options }
}

fn subscribing(options: Options) -> Options {
    Options { count_option: Some(ro::CountOption::Subscription(ro::SubscriptionOptions {})), ..options }
}

fn filtered(options: Options, filter: ro::FilterOptions) -> Options {
    Options { filter_option: Some(ro::FilterOption::Filter(filter)), ..options }
}

fn by_prefix(prefix: &str) -> ro::FilterOptions {
    let expression = ro::filter_options::Expression { regex: String::new(), prefix: vec![prefix.to_owned()] };
    ro::FilterOptions {
        filter: Some(ro::filter_options::Filter::StreamIdentifier(expression)),
        window: Some(ro::filter_options::Window::Max(10)),
        checkpoint_interval_multiplier: 1,
    }
}

fn by_type(regex: &str) -> ro::FilterOptions {
    let expression = ro::filter_options::Expression { regex: regex.to_owned(), prefix: vec![] };
    ro::FilterOptions { filter: Some(ro::filter_options::Filter::EventType(expression)), ..by_prefix("") }
}

async fn open(channel: &Channel, options: Options) -> Result<Streaming<s::ReadResp>, Status> {
    Ok(streams(channel).read(s::ReadReq { options: Some(options) }).await?.into_inner())
}

async fn read(channel: &Channel, options: Options) -> Result<Vec<Content>, Status> {
    let mut answers = open(channel, options).await?;
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer.content.expect("a content is always set"));
    }
    Ok(all)
}

type Event = s::read_resp::ReadEvent;

fn events_of(answers: &[Content]) -> Vec<&Event> {
    let mut events = Vec::new();
    for answer in answers {
        if let Content::Event(event) = answer {
            events.push(event);
        }
    }
    events
}

/// The record a client counts by: the link if there is one.
fn original(event: &Event) -> &s::read_resp::read_event::RecordedEvent {
    event.link.as_ref().or(event.event.as_ref()).expect("an event or a link")
}

fn revisions(answers: &[Content]) -> Vec<u64> {
    events_of(answers).into_iter().map(|event| original(event).stream_revision).collect()
}

fn positions(answers: &[Content]) -> Vec<u64> {
    events_of(answers).into_iter().map(|event| original(event).commit_position).collect()
}

fn id_of(event: &append_req::ProposedMessage) -> String {
    match event.id.as_ref().and_then(|id| id.value.clone()) {
        Some(UuidValue::String(text)) => text,
        other => panic!("not a text: {other:?}"),
    }
}

fn ids(answers: &[Content]) -> Vec<String> {
    let id = |event: &Event| match original(event).id.as_ref().and_then(|id| id.value.clone()) {
        Some(UuidValue::String(text)) => text,
        other => panic!("not a text: {other:?}"),
    };
    events_of(answers).into_iter().map(id).collect()
}

fn trailer<'a>(status: &'a Status, name: &str) -> Option<&'a str> {
    status.metadata().get(name).map(|value| value.to_str().expect("ASCII"))
}

fn assert_stream_deleted(status: &Status, stream: &str) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(status.message(), format!("Event stream '{stream}' is deleted."));
    assert_eq!(trailer(status, "exception"), Some("stream-deleted"));
    assert_eq!(trailer(status, "stream-name"), Some(stream));
}

fn assert_denied(status: &Status) {
    assert_eq!(
        (status.code(), trailer(status, "exception")),
        (Code::PermissionDenied, Some("access-denied")),
        "{status}"
    );
}

// --- appends ----------------------------------------------------------------

#[tokio::test]
async fn an_append_that_makes_no_sense_is_an_invalid_argument() {
    let channel = shared().await;
    let stream = fresh("bad");
    let unset = s::AppendReq { content: None };
    let with = |change: &dyn Fn(&mut append_req::Options)| {
        let mut options =
            append_req::Options { stream_identifier: identifier(&stream), expected_stream_revision: Some(Any) };
        change(&mut options);
        s::AppendReq { content: Some(append_req::Content::Options(options)) }
    };
    let good = append_options(&stream, Any);
    let bad_id = |id| frame(append_req::ProposedMessage { id, ..event("T") });
    let cases: Vec<(&str, Vec<s::AppendReq>)> = vec![
        ("nothing at all", vec![]),
        ("an event first", vec![frame(event("T"))]),
        ("an empty message first", vec![unset.clone()]),
        ("no stream", vec![with(&|options| options.stream_identifier = None)]),
        ("no expectation", vec![with(&|options| options.expected_stream_revision = None)]),
        ("an empty name", vec![with(&|options| options.stream_identifier = identifier(""))]),
        ("the metastream of the empty name", vec![with(&|options| options.stream_identifier = identifier("$$"))]),
        ("a control character", vec![with(&|options| options.stream_identifier = identifier("a\0b"))]),
        ("a name of 513 bytes", vec![with(&|options| options.stream_identifier = identifier(&"x".repeat(513)))]),
        ("a name of a megabyte", vec![with(&|options| options.stream_identifier = identifier(&"x".repeat(1 << 20)))]),
        (
            "a name that is not UTF-8",
            vec![with(&|options| {
                options.stream_identifier = Some(StreamIdentifier { stream_name: Bytes::from_static(b"\xff\xfe") });
            })],
        ),
        (
            "an expected revision of 64 bits",
            vec![with(&|options| options.expected_stream_revision = Some(ExpectedStreamRevision::Revision(1 << 63)))],
        ),
        ("options twice", vec![good.clone(), good.clone()]),
        ("an empty message", vec![good.clone(), unset]),
        ("no id", vec![good.clone(), bad_id(None)]),
        ("an id of no form", vec![good.clone(), bad_id(Some(v1::Uuid { value: None }))]),
        ("an id that is none", vec![good.clone(), bad_id(text_id("not-a-uuid"))]),
        ("the nil id", vec![good.clone(), bad_id(text_id("00000000-0000-0000-0000-000000000000"))]),
        ("an empty type", vec![good.clone(), frame(event(""))]),
        ("a type of 2000 bytes", vec![good.clone(), frame(event(&"x".repeat(2000)))]),
    ];
    for (what, frames) in cases {
        let status = append_frames(&channel, frames).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        assert!(status.metadata().contains_key("annals-as-of"), "{what}: a refusal says where the node stands");
    }
    for missing in ["type", "content-type"] {
        let mut event = event("T");
        event.metadata.retain(|entry| entry.key != missing);
        let status = append(&channel, &stream, Any, &[event]).await.expect_err("metadata is missing");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(trailer(&status, "exception"), Some("missing-required-metadata-property"));
        assert_eq!(trailer(&status, "required-metadata-properties"), Some("type,content-type"));
    }
    let found = read(&channel, forwards(&stream)).await.expect("readable");
    assert!(matches!(found.as_slice(), [Content::StreamNotFound(_)]), "nothing was written: {found:?}");
    assert_serving(&channel).await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_the_node_goes_on() {
    let channel = shared().await;
    let stream = fresh("large");
    let sized = |bytes: usize| append_req::ProposedMessage { data: Bytes::from(vec![7; bytes]), ..event("T") };

    let status = append(&channel, &stream, Any, &[sized(17 * 1024 * 1024)]).await.expect_err("above the message limit");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");

    let status =
        append(&channel, &stream, Any, &[sized(12 << 20), sized(12 << 20)]).await.expect_err("above the append limit");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(trailer(&status, "exception"), Some("maximum-append-size-exceeded"));
    assert_eq!(trailer(&status, "maximum-append-size"), Some(APPEND_BYTES_MAX.to_string().as_str()));

    must_append(&channel, &stream, &[sized(12 << 20), sized(5 << 20)]).await;
    let back = read(&channel, forwards(&stream)).await.expect("large events are read back");
    let sizes: Vec<_> = events_of(&back).iter().map(|event| original(event).data.len()).collect();
    assert_eq!(sizes, [12 << 20, 5 << 20]);
    assert_serving(&channel).await;
}

#[tokio::test]
async fn an_append_tells_revision_and_position_and_a_repetition_the_same() {
    let channel = shared().await;
    let stream = fresh("append");
    let three = events(3);
    let first = append(&channel, &stream, NoStream, &three).await.expect("appended");
    let append_resp::Result::Success(success) = &first else { panic!("{first:?}") };
    assert_eq!(success.current_revision_option, Some(append_resp::success::CurrentRevisionOption::CurrentRevision(2)));
    for expected in [NoStream, Any, Exists] {
        assert_eq!(append(&channel, &stream, expected, &three).await.expect("answered"), first, "{expected:?}");
    }
    assert_eq!(revisions(&read(&channel, forwards(&stream)).await.expect("readable")), [0, 1, 2]);

    let conflict =
        append(&channel, &stream, ExpectedStreamRevision::Revision(7), &events(1)).await.expect("a normal answer");
    let append_resp::Result::WrongExpectedVersion(wrong) = conflict else { panic!("{conflict:?}") };
    assert_eq!(
        wrong.current_revision_option,
        Some(append_resp::wrong_expected_version::CurrentRevisionOption::CurrentRevision(2))
    );
}

#[tokio::test]
async fn an_append_without_events_checks_and_answers() {
    let channel = shared().await;
    let stream = fresh("empty");
    let answer = append(&channel, &stream, NoStream, &[]).await.expect("legal");
    let append_resp::Result::Success(success) = answer else { panic!("{answer:?}") };
    assert_eq!(success.current_revision_option, Some(append_resp::success::CurrentRevisionOption::NoStream(Empty {})));
    assert!(
        matches!(success.position_option, Some(append_resp::success::PositionOption::Position(_))),
        "Rust unwraps it"
    );
    let answer = append(&channel, &stream, Exists, &[]).await.expect("legal");
    assert!(matches!(answer, append_resp::Result::WrongExpectedVersion(_)));
}

#[tokio::test]
async fn streams_that_follow_from_others_are_not_written_or_deleted() {
    let channel = shared().await;
    for stream in ["$all", "$streams", "$ce-x", "$et-x", "$bc-x", "$mem-gossip", "$idx-all"] {
        assert_denied(&append(&channel, stream, Any, &events(1)).await.expect_err(stream));
        assert_denied(&delete(&channel, stream).await.expect_err(stream));
        assert_denied(&tombstone(&channel, stream).await.expect_err(stream));
    }
    assert_denied(&delete(&channel, "$$x").await.expect_err("a metastream"));
    assert_denied(&tombstone(&channel, "$$x").await.expect_err("a metastream"));
    assert_serving(&channel).await;
}

// --- deletion ---------------------------------------------------------------

#[tokio::test]
async fn a_deletion_that_makes_no_sense_is_an_invalid_argument() {
    let channel = shared().await;
    let any = Some(s::delete_req::options::ExpectedStreamRevision::Any(Empty {}));
    for options in [
        None,
        Some(s::delete_req::Options { stream_identifier: None, expected_stream_revision: any }),
        Some(s::delete_req::Options { stream_identifier: identifier(""), expected_stream_revision: any }),
        Some(s::delete_req::Options { stream_identifier: identifier("a"), expected_stream_revision: None }),
    ] {
        let status = streams(&channel).delete(s::DeleteReq { options: options.clone() }).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{options:?}");
    }
    let status = streams(&channel).tombstone(s::TombstoneReq { options: None }).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_serving(&channel).await;
}

#[tokio::test]
async fn a_deletion_that_finds_another_state_names_both() {
    let channel = shared().await;
    let missing = fresh("größe");
    let status = delete(&channel, &missing).await.expect_err("it never existed");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(trailer(&status, "exception"), Some("wrong-expected-version"));
    assert_eq!(trailer(&status, "expected-version"), Some("-2"));
    assert_eq!(trailer(&status, "actual-version"), Some("-1"));
    assert_eq!(
        status.message(),
        format!(
            "Delete failed due to WrongExpectedVersion. Stream: {missing}, Expected version: -2, Actual version: -1"
        )
    );
    let encoded = trailer(&status, "stream-name").expect("set");
    assert!(encoded.starts_with("gr%C3%B6%C3%9Fe-"), "{encoded}");
}

#[tokio::test]
async fn a_tombstone_ends_a_stream_for_every_call() {
    let channel = shared().await;
    let stream = fresh("dead");
    must_append(&channel, &stream, &events(2)).await;
    tombstone(&channel, &stream).await.expect("ended");
    for read_of in [forwards(&stream), backwards(&stream), limited(forwards(&stream), 0)] {
        assert_stream_deleted(&read(&channel, read_of).await.expect_err("it is dead"), &stream);
    }
    assert_stream_deleted(&append(&channel, &stream, Any, &events(1)).await.expect_err("it is dead"), &stream);
    assert_stream_deleted(&delete(&channel, &stream).await.expect_err("it is dead"), &stream);
    assert_stream_deleted(&tombstone(&channel, &stream).await.expect_err("it is dead"), &stream);
    assert_stream_deleted(&open(&channel, subscribing(forwards(&stream))).await.expect_err("it is dead"), &stream);
    let metastream = format!("$${stream}");
    assert_stream_deleted(&read(&channel, forwards(&metastream)).await.expect_err("it is dead too"), &metastream);
}

// --- batch append -----------------------------------------------------------

fn batch(id: &str, stream: &str, count: usize, is_final: bool) -> s::BatchAppendReq {
    let proposed = |event: append_req::ProposedMessage| batch_append_req::ProposedMessage {
        id: event.id,
        metadata: event.metadata,
        custom_metadata: event.custom_metadata,
        data: event.data,
    };
    s::BatchAppendReq {
        correlation_id: text_id(id),
        options: Some(batch_append_req::Options {
            stream_identifier: identifier(stream),
            expected_stream_position: Some(batch_append_req::options::ExpectedStreamPosition::Any(())),
            deadline_option: None,
        }),
        proposed_messages: events(count).into_iter().map(proposed).collect(),
        is_final,
    }
}

/// The answers by their correlation id; each must come once.
async fn batches(
    channel: &Channel,
    requests: Vec<s::BatchAppendReq>,
) -> Result<HashMap<String, s::BatchAppendResp>, Status> {
    let mut answers = streams(channel).batch_append(stream::iter(requests)).await?.into_inner();
    let mut found = HashMap::new();
    while let Some(answer) = answers.message().await? {
        let Some(UuidValue::String(id)) = answer.correlation_id.clone().and_then(|id| id.value) else {
            panic!("the correlation id comes back as it was sent: {answer:?}")
        };
        assert!(answer.stream_identifier.is_some(), "Rust unwraps it");
        assert!(found.insert(id, answer).is_none(), "each id is answered once");
    }
    Ok(found)
}

fn number(n: u128) -> String {
    Uuid::from_u128(n + 1).to_string()
}

fn entry(answer: &s::BatchAppendResp) -> (i32, &str, &str) {
    match &answer.result {
        Some(batch_append_resp::Result::Error(error)) => {
            assert_eq!(error.details.len(), 1, "clients declare one detail");
            (error.code, &error.message, error.details[0].type_url.rsplit('.').next().expect("a name"))
        }
        other => panic!("not an error: {other:?}"),
    }
}

#[tokio::test]
async fn every_batch_is_answered_once_and_in_order_written() {
    let channel = shared().await;
    let stream = fresh("batch");
    let requests: Vec<_> = (0..500).map(|n| batch(&number(n), &stream, 3, true)).collect();
    let sent: Vec<String> = requests
        .iter()
        .flat_map(|request| &request.proposed_messages)
        .map(|event| match event.id.as_ref().and_then(|id| id.value.clone()) {
            Some(UuidValue::String(text)) => text,
            other => panic!("{other:?}"),
        })
        .collect();
    let answers = batches(&channel, requests).await.expect("ended with OK");
    assert_eq!(answers.len(), 500);
    for answer in answers.values() {
        let Some(batch_append_resp::Result::Success(success)) = &answer.result else { panic!("{answer:?}") };
        assert!(success.current_revision_option.is_some() && success.position_option.is_some());
        assert_eq!(answer.expected_stream_position, None);
    }
    let stored = read(&channel, forwards(&stream)).await.expect("readable");
    assert_eq!(ids(&stored), sent, "what one client sends over one call is written in that order");
}

#[tokio::test]
async fn pieces_with_one_id_are_one_append() {
    let channel = shared().await;
    let stream = fresh("pieces");
    let piece = |id: &str, is_final| s::BatchAppendReq { options: None, ..batch(id, &stream, 2, is_final) };
    let requests = vec![
        batch(&number(0), &stream, 2, false),
        batch(&number(1), &stream, 1, true),
        piece(&number(0), false),
        piece(&number(7), true), // never begun: ignored
        piece(&number(0), true),
        piece(&number(0), true), // answered already: ignored
    ];
    let answers = batches(&channel, requests).await.expect("ended with OK");
    assert_eq!(answers.len(), 2);
    assert_eq!(read(&channel, forwards(&stream)).await.expect("readable").len(), 7);
}

#[tokio::test]
async fn a_batch_that_makes_no_sense_is_answered_beside_the_others() {
    let channel = shared().await;
    let stream = fresh("mixed");
    let change = |n: u128, change: &dyn Fn(&mut s::BatchAppendReq)| {
        let mut request = batch(&number(n), &stream, 1, true);
        change(&mut request);
        request
    };
    let option = |request: &mut s::BatchAppendReq, change: &dyn Fn(&mut batch_append_req::Options)| {
        change(request.options.as_mut().expect("set"));
    };
    let requests = vec![
        change(0, &|_| {}),
        change(1, &|r| option(r, &|o| o.stream_identifier = identifier("a\nb"))),
        change(2, &|r| option(r, &|o| o.stream_identifier = None)),
        change(3, &|r| option(r, &|o| o.expected_stream_position = None)),
        change(4, &|r| r.proposed_messages[0].id = text_id("x")),
        change(5, &|r| r.proposed_messages[0].metadata.clear()),
        change(6, &|r| option(r, &|o| o.stream_identifier = identifier("$all"))),
        change(7, &|r| {
            option(r, &|o| {
                let gone = prost_types::Duration { seconds: i64::MIN, nanos: i32::MIN };
                o.deadline_option = Some(batch_append_req::options::DeadlineOption::Deadline(gone));
            });
        }),
        change(8, &|r| {
            option(r, &|o| {
                let far = prost_types::Timestamp { seconds: i64::MAX, nanos: i32::MAX };
                o.deadline_option = Some(batch_append_req::options::DeadlineOption::Deadline21100(far));
            });
        }),
        change(9, &|r| {
            option(r, &|o| {
                o.expected_stream_position =
                    Some(batch_append_req::options::ExpectedStreamPosition::StreamPosition(77));
            });
        }),
        change(10, &|r| r.is_final = false),
    ];
    let answers = batches(&channel, requests).await.expect("ended with OK");
    assert_eq!(answers.len(), 11);
    let answer = |n| &answers[&number(n)];
    for n in [0, 8] {
        assert!(matches!(answer(n).result, Some(batch_append_resp::Result::Success(_))), "{n}: {:?}", answer(n));
    }
    for n in [1, 2, 3, 4, 5, 10] {
        assert_eq!(entry(answer(n)), (3, "BadRequest", "BadRequest"), "{n}");
    }
    assert_eq!(entry(answer(6)), (7, "AccessDenied", "AccessDenied"));
    assert_eq!(entry(answer(7)), (4, "Timeout", "Timeout"));
    assert_eq!(entry(answer(9)), (6, "WrongExpectedVersion", "WrongExpectedVersion"));
    assert_serving(&channel).await;
}

#[tokio::test]
async fn a_batch_without_an_id_ends_the_call() {
    let channel = shared().await;
    for id in [None, Some(v1::Uuid { value: None }), text_id("x")] {
        let request = s::BatchAppendReq { correlation_id: id, ..batch("", "s", 1, true) };
        assert_eq!(batches(&channel, vec![request]).await.expect_err("nobody to answer").code(), Code::InvalidArgument);
    }
    assert_serving(&channel).await;
}

#[tokio::test]
async fn a_batch_that_does_not_become_final_times_out() {
    let channel = shared().await;
    let (sender, receiver) = mpsc::channel(8);
    let mut request = batch(&number(0), &fresh("late"), 1, false);
    let soon = prost_types::Duration { seconds: 0, nanos: 100_000_000 };
    request.options.as_mut().expect("set").deadline_option =
        Some(batch_append_req::options::DeadlineOption::Deadline(soon));
    sender.send(request).await.expect("open");
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = streams(&channel).batch_append(requests).await.expect("opened").into_inner();
    let answer =
        tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time").expect("an answer").expect("one");
    assert_eq!(entry(&answer), (4, "Timeout", "Timeout"));
    // The call lives on.
    sender.send(batch(&number(1), &fresh("later"), 1, true)).await.expect("open");
    let answer =
        tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time").expect("an answer").expect("one");
    assert!(matches!(answer.result, Some(batch_append_resp::Result::Success(_))));
    drop(sender);
    assert_eq!(answers.message().await.expect("OK"), None);
}

// --- reads that make no sense -----------------------------------------------

#[tokio::test]
async fn a_read_that_makes_no_sense_is_an_invalid_argument() {
    let channel = shared().await;
    let stream = fresh("read");
    must_append(&channel, &stream, &events(1)).await;
    let good = forwards(&stream);
    let all = options(of_all(AllOption::Start(Empty {})));
    let place = |commit, prepare| {
        options(of_all(AllOption::Position(ro::Position { commit_position: commit, prepare_position: prepare })))
    };
    let unset = |stream_option| Options { stream_option, ..good.clone() };
    let cases = [
        ("no source", unset(None)),
        (
            "no name",
            unset(Some(ro::StreamOption::Stream(ro::StreamOptions {
                stream_identifier: None,
                revision_option: Some(RevisionOption::Start(Empty {})),
            }))),
        ),
        (
            "no start in a stream",
            unset(Some(ro::StreamOption::Stream(ro::StreamOptions {
                stream_identifier: identifier(&stream),
                revision_option: None,
            }))),
        ),
        ("no start in the log", unset(Some(ro::StreamOption::All(ro::AllOptions { all_option: None })))),
        ("no count", Options { count_option: None, ..good.clone() }),
        ("no filter option", Options { filter_option: None, ..good.clone() }),
        ("no form of ids", Options { uuid_option: None, ..good.clone() }),
        ("an unknown direction", Options { read_direction: 5, ..good.clone() }),
        ("a negative direction", Options { read_direction: i32::MIN, ..good.clone() }),
        ("an empty name", forwards("")),
        ("a name with a NUL", forwards("a\0")),
        ("a name of a megabyte", forwards(&"x".repeat(1 << 20))),
        ("a revision of 64 bits", from_revision(&stream, 1 << 63)),
        ("a revision below the end", from_revision(&stream, u64::MAX - 1)),
        ("a commit position below the prepare position", place(1, 2)),
        ("a position of 64 bits", place(1 << 63, 1 << 63)),
        ("a position below the end", place(u64::MAX - 1, u64::MAX - 1)),
        ("a filter on a stream", filtered(good.clone(), by_prefix("a"))),
        ("a subscription backwards", Options { read_direction: 1, ..subscribing(good.clone()) }),
        ("a subscription to the log backwards", Options { read_direction: 1, ..subscribing(all.clone()) }),
        ("a filter on nothing", filtered(all.clone(), ro::FilterOptions { filter: None, ..by_prefix("a") })),
        ("a filter without a window", filtered(all.clone(), ro::FilterOptions { window: None, ..by_prefix("a") })),
        ("a regular expression that is none", filtered(all.clone(), by_type("(unclosed"))),
        ("a regular expression of 100 KB", filtered(all.clone(), by_type(&"a".repeat(100_000)))),
        ("a regular expression that explodes in size", filtered(all.clone(), by_type("((((a{100}){100}){100}){100}"))),
        (
            "an index and more",
            filtered(all.clone(), {
                let mut filter = by_prefix("$idx-all");
                if let Some(ro::filter_options::Filter::StreamIdentifier(expression)) = &mut filter.filter {
                    expression.prefix.push("a".to_owned());
                }
                filter
            }),
        ),
        (
            "a checkpoint interval of 0",
            filtered(
                subscribing(all.clone()),
                ro::FilterOptions { checkpoint_interval_multiplier: 0, ..by_prefix("a") },
            ),
        ),
    ];
    for (what, options) in cases {
        let status = read(&channel, options).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        assert!(status.metadata().contains_key("annals-as-of"), "{what}");
    }
    let status = streams(&channel).read(s::ReadReq { options: None }).await.expect_err("no options");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_serving(&channel).await;
}

#[tokio::test]
async fn an_expression_that_explodes_ends_the_read_and_nothing_else() {
    let channel = shared().await;
    must_append(&channel, &fresh("x"), &[event(&"a".repeat(500))]).await;
    let filter = by_type(r"^(?=((a+)+)+$)\1b(?!c)");
    let all = options(of_all(AllOption::Start(Empty {})));
    if let Err(status) = read(&channel, filtered(all, filter)).await {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert_serving(&channel).await;
}

// --- counted reads ----------------------------------------------------------

#[tokio::test]
async fn a_stream_is_read_from_every_place_in_both_directions() {
    let channel = shared().await;
    let stream = fresh("places");
    must_append(&channel, &stream, &events(10)).await;
    let all: Vec<u64> = (0..10).collect();
    let down = |from: u64| -> Vec<u64> { (0..=from).rev().collect() };
    let back = |from: RevisionOption| Options { read_direction: 1, ..options(of_stream(&stream, from)) };
    for (what, options, expected) in [
        ("all", forwards(&stream), all.clone()),
        ("backwards", backwards(&stream), down(9)),
        ("from 4", from_revision(&stream, 4), (4..10).collect()),
        ("from 4 backwards", back(RevisionOption::Revision(4)), down(4)),
        ("from the start backwards", back(RevisionOption::Start(Empty {})), vec![0]),
        ("from beyond the end", from_revision(&stream, 10), vec![]),
        ("from far beyond the end", from_revision(&stream, i64::MAX as u64), vec![]),
        ("from beyond the end backwards", back(RevisionOption::Revision(1000)), down(9)),
        ("from the end", options(of_stream(&stream, RevisionOption::End(Empty {}))), vec![]),
        ("the largest number", from_revision(&stream, u64::MAX), vec![]),
        ("the largest number backwards", back(RevisionOption::Revision(u64::MAX)), down(9)),
        ("none", limited(forwards(&stream), 0), vec![]),
        ("one", limited(forwards(&stream), 1), vec![0]),
        ("three backwards", limited(backwards(&stream), 3), vec![9, 8, 7]),
    ] {
        let answers = read(&channel, options.clone()).await.expect(what);
        assert_eq!(revisions(&answers), expected, "{what}");
        assert_eq!(answers.len(), expected.len(), "{what}: nothing but events for a client that announced nothing");
        let answers = read(&channel, compatible(options)).await.expect(what);
        assert_eq!(answers.last(), Some(&Content::LastStreamPosition(9)), "{what}");
        assert_eq!(answers.len(), expected.len() + 1, "{what}");
    }
}

#[tokio::test]
async fn many_pages_are_one_read() {
    let channel = shared().await;
    let stream = fresh("pages");
    for _ in 0..5 {
        must_append(&channel, &stream, &events(500)).await;
    }
    let all: Vec<u64> = (0..2500).collect();
    assert_eq!(revisions(&read(&channel, forwards(&stream)).await.expect("readable")), all);
    let down: Vec<u64> = (0..2500).rev().collect();
    assert_eq!(revisions(&read(&channel, backwards(&stream)).await.expect("readable")), down);
    assert_eq!(revisions(&read(&channel, limited(forwards(&stream), 1001)).await.expect("readable")), all[..1001]);

    let large = fresh("large-pages");
    let megabyte = || append_req::ProposedMessage { data: Bytes::from(vec![1; 1 << 20]), ..event("T") };
    must_append(&channel, &large, &(0..10).map(|_| megabyte()).collect::<Vec<_>>()).await;
    assert_eq!(revisions(&read(&channel, forwards(&large)).await.expect("readable")), (0..10).collect::<Vec<_>>());
    let links: Vec<_> = (0..10).map(|n| link(n, &large)).collect();
    let links_to = fresh("large-links");
    must_append(&channel, &links_to, &links).await;
    let resolved = read(&channel, resolving(forwards(&links_to))).await.expect("readable");
    assert_eq!(revisions(&resolved), (0..10).collect::<Vec<_>>(), "small links to large events are paged too");
    assert!(
        events_of(&resolved).iter().all(|event| event.event.as_ref().is_some_and(|event| event.data.len() == 1 << 20))
    );
}

#[tokio::test]
async fn a_missing_or_deleted_stream_is_one_message() {
    let channel = shared().await;
    let (missing, deleted, described) = (fresh("missing"), fresh("deleted"), fresh("described"));
    must_append(&channel, &deleted, &events(3)).await;
    delete(&channel, &deleted).await.expect("deleted");
    must_append(&channel, &format!("$${described}"), &[metadata_event(r#"{"$maxCount":1}"#)]).await;
    for stream in [&missing, &deleted, &described, "$ce-nobodys", "$mem-gossip"] {
        for options in [
            forwards(stream),
            backwards(stream),
            compatible(forwards(stream)),
            from_revision(stream, 7),
            limited(forwards(stream), 0),
        ] {
            let answers = read(&channel, options).await.expect("OK");
            let [Content::StreamNotFound(found)] = answers.as_slice() else { panic!("{stream}: {answers:?}") };
            assert_eq!(found.stream_identifier, identifier(stream));
        }
    }
    must_append(&channel, &deleted, &events(2)).await;
    assert_eq!(revisions(&read(&channel, forwards(&deleted)).await.expect("readable")), [3, 4], "it comes back");
}

#[tokio::test]
async fn truncation_hides_and_tells_compatible_clients_where_to_go_on() {
    let channel = shared().await;
    let stream = fresh("truncated");
    let metastream = format!("$${stream}");
    must_append(&channel, &stream, &events(100)).await;
    must_append(&channel, &metastream, &[metadata_event(r#"{"$maxCount":10}"#)]).await;
    assert_eq!(revisions(&read(&channel, forwards(&stream)).await.expect("readable")), (90..100).collect::<Vec<_>>());
    assert_eq!(revisions(&read(&channel, limited(from_revision(&stream, 5), 2)).await.expect("readable")), [90, 91]);

    let answers = read(&channel, compatible(forwards(&stream))).await.expect("readable");
    assert_eq!(answers.first(), Some(&Content::FirstStreamPosition(90)));
    assert_eq!(answers.last(), Some(&Content::LastStreamPosition(99)));
    let answers = read(&channel, compatible(from_revision(&stream, 80))).await.expect("readable");
    assert!(matches!(answers.first(), Some(Content::Event(_))), "the first page reaches what is visible");
    let answers = read(&channel, compatible(limited(from_revision(&stream, 80), 5))).await.expect("readable");
    assert_eq!(answers.first(), Some(&Content::FirstStreamPosition(90)), "the first page is no larger than the count");
    let answers = read(&channel, compatible(backwards(&stream))).await.expect("readable");
    assert!(matches!(answers.first(), Some(Content::Event(_))));

    must_append(&channel, &metastream, &[metadata_event(r#"{"$tb":500}"#)]).await;
    assert_eq!(read(&channel, forwards(&stream)).await.expect("it exists and is empty"), []);
    assert_eq!(read(&channel, compatible(forwards(&stream))).await.expect("empty"), [Content::LastStreamPosition(99)]);
    assert_eq!(
        revisions(&read(&channel, forwards(&metastream)).await.expect("readable")),
        [1],
        "the newest metadata only"
    );
    assert_eq!(revisions(&read(&channel, backwards(&metastream)).await.expect("readable")), [1]);
}

#[tokio::test]
async fn an_event_comes_back_with_everything_that_clients_insist_on() {
    let channel = shared().await;
    let stream = fresh("exact");
    let sent =
        append_req::ProposedMessage { custom_metadata: Bytes::from_static(b"\x00meta"), ..event("Größe geändert") };
    let position = must_append(&channel, &stream, std::slice::from_ref(&sent)).await;
    let answers = read(&channel, forwards(&stream)).await.expect("readable");
    let event = events_of(&answers)[0];
    assert_eq!(event.position, Some(s::read_resp::read_event::Position::CommitPosition(position)));
    assert!(event.link.is_none());
    let recorded = event.event.as_ref().expect("set");
    assert_eq!((recorded.commit_position, recorded.prepare_position), (position, position));
    assert_eq!((&recorded.id, &recorded.data), (&sent.id, &sent.data));
    assert_eq!(recorded.custom_metadata, sent.custom_metadata);
    assert_eq!(recorded.stream_identifier, identifier(&stream));
    let mut keys: Vec<_> = recorded.metadata.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["content-type", "created", "type"]);
    assert_eq!(
        (recorded.metadata["type"].as_str(), recorded.metadata["content-type"].as_str()),
        ("Größe geändert", "application/json")
    );
    let ticks: u64 = recorded.metadata["created"].parse().expect("Go exits otherwise");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(ticks / 10_000_000 <= now && ticks / 10_000_000 + 60 > now, "ticks of 100 ns since 1970: {ticks}");

    for content in [None, Some(ro::uuid_option::Content::Structured(Empty {}))] {
        let options = Options { uuid_option: Some(ro::UuidOption { content }), ..forwards(&stream) };
        let answers = read(&channel, options).await.expect("readable");
        let recorded = original(events_of(&answers)[0]).id.clone().and_then(|id| id.value).expect("set");
        let UuidValue::Structured(halves) = recorded else { panic!("structured ids were asked for") };
        let id = Uuid::from_u64_pair(halves.most_significant_bits as u64, halves.least_significant_bits as u64);
        assert_eq!(id.to_string(), id_of(&sent));
    }
}

#[tokio::test]
async fn the_log_is_read_inclusively_forwards_and_exclusively_backwards() {
    let channel = shared().await;
    let (a, b) = (fresh("all"), fresh("all"));
    let first = must_append(&channel, &a, &events(1)).await;
    for n in 0..10 {
        must_append(&channel, if n % 2 == 0 { &b } else { &a }, &events(1)).await;
    }
    let forwards = positions(&read(&channel, limited(options(of_all(at(first))), 5)).await.expect("readable"));
    assert_eq!(forwards, (first..first + 5).collect::<Vec<_>>(), "positions are dense");
    let back = |from| Options { read_direction: 1, ..limited(options(of_all(from)), 3) };
    assert_eq!(
        positions(&read(&channel, back(at(first + 5))).await.expect("readable")),
        [first + 4, first + 3, first + 2]
    );
    assert_eq!(positions(&read(&channel, back(at(1))).await.expect("readable")), [] as [u64; 0]);
    assert_eq!(positions(&read(&channel, back(AllOption::Start(Empty {}))).await.expect("readable")), [] as [u64; 0]);
    let newest = positions(&read(&channel, back(at(u64::MAX))).await.expect("readable"));
    assert!(newest[0] >= first + 10);
    let from_start = limited(options(of_all(AllOption::Start(Empty {}))), 1);
    assert_eq!(positions(&read(&channel, from_start.clone()).await.expect("readable")), [1]);
    assert_eq!(positions(&read(&channel, limited(options(of_all(at(0))), 1)).await.expect("readable")), [1]);
    let answers = read(&channel, compatible(from_start)).await.expect("readable");
    assert_eq!(answers.len(), 1, "the log has no last stream position");
    for beyond in [options(of_all(at(1 << 40))), options(of_all(AllOption::End(Empty {})))] {
        assert_eq!(read(&channel, beyond).await.expect("nothing"), []);
    }
}

#[tokio::test]
async fn a_filtered_read_counts_matches() {
    let channel = shared().await;
    let (category, event_type) = (word("cat"), word("Type"));
    let mut first = None;
    for n in 0..40 {
        let position = must_append(&channel, &format!("{category}-{n}"), &[event(&event_type), event("Noise")]).await;
        first.get_or_insert(position - 1);
    }
    let from = || options(of_all(at(first.expect("set"))));
    let by_category = read(&channel, filtered(from(), by_prefix(&format!("{category}-")))).await.expect("readable");
    assert_eq!(by_category.len(), 80);
    let matches = read(&channel, filtered(from(), by_type(&format!("^{event_type}$")))).await.expect("readable");
    assert_eq!(matches.len(), 40);
    let five = read(&channel, filtered(limited(from(), 5), by_type(&event_type))).await.expect("readable");
    assert_eq!(five, matches[..5]);
    let back = Options { read_direction: 1, ..limited(options(of_all(AllOption::End(Empty {}))), 5) };
    let mut back = read(&channel, filtered(back, by_type(&event_type))).await.expect("readable");
    back.reverse();
    assert_eq!(back, matches[35..]);
    assert_eq!(read(&channel, filtered(from(), by_type(&word("Nothing")))).await.expect("readable"), []);
    let zero = ro::FilterOptions { checkpoint_interval_multiplier: 0, ..by_type(&event_type) };
    assert_eq!(read(&channel, filtered(from(), zero)).await.expect(".NET sends 0").len(), 40);
}

#[tokio::test]
async fn links_lead_to_what_is_visible_and_to_nothing_else() {
    let channel = shared().await;
    let [live, deleted, dead, cut] = ["live", "deleted", "dead", "cut"].map(fresh);
    for stream in [&live, &deleted, &dead, &cut] {
        must_append(&channel, stream, &events(3)).await;
    }
    delete(&channel, &deleted).await.expect("deleted");
    tombstone(&channel, &dead).await.expect("ended");
    must_append(&channel, &format!("$${cut}"), &[metadata_event(r#"{"$tb":2}"#)]).await;
    let links = fresh("links");
    let nonsense = append_req::ProposedMessage { data: Bytes::from_static(b"\xffnonsense"), ..link(0, "x") };
    let written = [
        link(1, &live),
        link(0, &deleted),
        link(0, &dead),
        link(i64::MAX as u64, &dead),
        link(1, &cut),
        link(2, &cut),
        link(7, &live),
        link(0, &fresh("nowhere")),
        nonsense,
    ];
    must_append(&channel, &links, &written).await;
    let answers = read(&channel, resolving(forwards(&links))).await.expect("readable");
    let resolved: Vec<bool> = events_of(&answers).iter().map(|event| event.event.is_some()).collect();
    assert_eq!(resolved, [true, false, false, false, false, true, false, false, false]);
    for (n, event) in events_of(&answers).into_iter().enumerate() {
        let link = event.link.as_ref().expect("the link is always there");
        assert_eq!((link.stream_revision, link.metadata["type"].as_str()), (n as u64, "$>"));
        assert_eq!(event.position, Some(s::read_resp::read_event::Position::CommitPosition(link.commit_position)));
        if let Some(target) = &event.event {
            assert!(target.commit_position < link.commit_position, "each has its own place");
        }
    }
    let plain = read(&channel, forwards(&links)).await.expect("readable");
    assert!(events_of(&plain).iter().all(|event| event.link.is_none() && event.event.is_some()));
}

#[tokio::test]
async fn an_index_is_a_stream_of_links() {
    let channel = shared().await;
    let category = word("category");
    let (a, b) = (format!("{category}-a"), format!("{category}-b"));
    must_append(&channel, &a, &events(2)).await;
    must_append(&channel, &b, &events(1)).await;
    let last = must_append(&channel, &a, &events(1)).await;
    let index = format!("$ce-{category}");

    let plain = read(&channel, compatible(forwards(&index))).await.expect("readable");
    assert_eq!(plain.last(), Some(&Content::LastStreamPosition(3)));
    assert_eq!(revisions(&plain), [0, 1, 2, 3]);
    let data: Vec<_> = events_of(&plain).iter().map(|event| original(event).data.clone()).collect();
    assert_eq!(data, [format!("0@{a}"), format!("1@{a}"), format!("0@{b}"), format!("2@{a}")]);
    for event in events_of(&plain) {
        assert_eq!(original(event).stream_identifier, identifier(&index));
        assert_eq!(
            (original(event).metadata["type"].as_str(), original(event).metadata["content-type"].as_str()),
            ("$>", "application/octet-stream")
        );
    }
    let again = read(&channel, forwards(&index)).await.expect("readable");
    assert_eq!(ids(&again), ids(&plain), "links that nobody wrote have the same id each time");
    assert_eq!(original(events_of(&plain)[3]).commit_position, last, "they stand where their target stands");

    let resolved = read(&channel, resolving(forwards(&index))).await.expect("readable");
    let targets: Vec<_> = events_of(&resolved)
        .iter()
        .map(|event| event.event.as_ref().expect("resolved").stream_identifier.clone())
        .collect();
    assert_eq!(targets, [identifier(&a), identifier(&a), identifier(&b), identifier(&a)]);
    assert_eq!(ids(&resolved), ids(&plain), "resolved or not, it is the same link");

    assert_eq!(revisions(&read(&channel, backwards(&index)).await.expect("readable")), [3, 2, 1, 0]);
    assert_eq!(revisions(&read(&channel, limited(from_revision(&index, 1), 2)).await.expect("readable")), [1, 2]);
    assert_eq!(revisions(&read(&channel, from_revision(&index, 4)).await.expect("readable")), [] as [u64; 0]);

    delete(&channel, &a).await.expect("deleted");
    let resolved = read(&channel, resolving(forwards(&index))).await.expect("readable");
    let visible: Vec<bool> = events_of(&resolved).iter().map(|event| event.event.is_some()).collect();
    assert_eq!(visible, [false, false, true, false], "the links stay");
}

#[tokio::test]
async fn an_index_is_read_as_a_selection_of_the_log() {
    let channel = shared().await;
    let category = word("selected");
    let mut wanted = Vec::new();
    for n in 0..5 {
        wanted.push(must_append(&channel, &format!("{category}-{n}"), &events(1)).await);
        must_append(&channel, &fresh("noise"), &events(1)).await;
    }
    let all = |from| options(of_all(from));
    let index = || by_prefix(&format!("$idx-ce-{category}"));
    let answers = read(&channel, filtered(all(AllOption::Start(Empty {})), index())).await.expect("readable");
    assert_eq!(positions(&answers), wanted);
    assert!(events_of(&answers).iter().all(|event| event.link.is_none()), "the events themselves");
    let answers = read(&channel, filtered(all(at(wanted[2])), index())).await.expect("readable");
    assert_eq!(positions(&answers), wanted[2..]);
    let answers = read(&channel, filtered(all(at(wanted[2] - 1)), index())).await.expect("readable");
    assert_eq!(positions(&answers), wanted[2..]);
    let back = Options { read_direction: 1, ..all(at(wanted[2])) };
    assert_eq!(positions(&read(&channel, filtered(back, index())).await.expect("readable")), [wanted[1], wanted[0]]);
    for unknown in [format!("$idx-ce-{}", word("nobodys")), "$idx-user-x".to_owned(), "$idx-".to_owned()] {
        let status =
            read(&channel, filtered(all(AllOption::Start(Empty {})), by_prefix(&unknown))).await.expect_err("unknown");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(
            (trailer(&status, "exception"), trailer(&status, "index-name")),
            (Some("index-not-found"), Some(unknown.as_str()))
        );
    }
    let from = limited(all(at(wanted[0])), 3);
    assert_eq!(read(&channel, filtered(from, by_prefix("$idx-all"))).await.expect("readable").len(), 3);
}

// --- consistency ------------------------------------------------------------

async fn read_with(
    channel: &Channel,
    options: Options,
    headers: &[(&'static str, String)],
) -> Result<tonic::Response<Streaming<s::ReadResp>>, Status> {
    let mut request = Request::new(s::ReadReq { options: Some(options) });
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().expect("ASCII"));
    }
    streams(channel).read(request).await
}

#[tokio::test]
async fn a_read_says_where_the_node_stands() {
    let channel = shared().await;
    let stream = fresh("as-of");
    let position = must_append(&channel, &stream, &events(1)).await;
    for headers in [
        vec![],
        vec![("requires-leader", "True".to_owned())],
        vec![("annals-consistency", "linearizable".to_owned())],
        vec![("annals-consistency", "local".to_owned()), ("annals-min-position", position.to_string())],
    ] {
        let answer = read_with(&channel, forwards(&stream), &headers).await.expect("readable");
        let number = |name| -> u64 {
            answer.metadata().get(name).expect(name).to_str().expect("ASCII").parse().expect("a number")
        };
        assert!(number("annals-as-of") >= position, "{headers:?}");
        assert!(number("annals-node") > 0 && number("annals-term") > 0);
    }
}

#[tokio::test]
async fn a_read_of_a_stream_or_an_index_shows_nothing_beyond_the_position_that_it_names() {
    let channel = shared().await;
    let category = word("asof");
    let stream = format!("{category}-1");
    let stop = CancellationToken::new();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (channel, stream, stop) = (channel.clone(), stream.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    must_append(&channel, &stream, &events(1)).await;
                }
            })
        })
        .collect();
    let mut looked_at = 0;
    while looked_at < 300 {
        for options in [limited(backwards(&stream), 3), limited(backwards(&format!("$ce-{category}")), 3)] {
            let answer = read_with(&channel, options, &[]).await.expect("readable");
            let as_of = as_of(answer.metadata());
            let mut answers = answer.into_inner();
            while let Some(answer) = answers.message().await.expect("readable") {
                if let Some(Content::Event(event)) = answer.content {
                    let position = event.position.expect("a position");
                    let s::read_resp::read_event::Position::CommitPosition(position) = position else {
                        panic!("no position")
                    };
                    assert!(position <= as_of, "{position} is beyond {as_of}");
                    looked_at += 1;
                }
            }
        }
    }
    stop.cancel();
    for writer in writers {
        writer.await.expect("it appends");
    }
}

#[tokio::test]
async fn a_refusal_by_the_log_says_as_of_when_it_was_decided() {
    let node = start("as-of-refusals");
    let channel = connect(&node.address).await;
    let stream = fresh("refused");
    let first = must_append(&channel, &stream, &events(1)).await;

    // A normal answer in v1, and still a refusal.
    let frames = vec![append_options(&stream, NoStream), frame(event("Happened"))];
    let answer = streams(&channel).append(stream::iter(frames)).await.expect("answered");
    assert_eq!(as_of(answer.metadata()), first);
    let answer = answer.into_inner().result;
    assert!(matches!(answer, Some(append_resp::Result::WrongExpectedVersion(_))), "{answer:?}");

    let ended = tombstone(&channel, &stream).await.expect("carried out");
    let refused = append(&channel, &stream, Any, &events(1)).await.expect_err("deleted");
    assert_eq!(as_of(refused.metadata()), ended);
    let refused = delete(&channel, &stream).await.expect_err("deleted");
    assert_eq!(as_of(refused.metadata()), ended);
    let refused = read(&channel, forwards(&stream)).await.expect_err("deleted");
    assert_eq!(as_of(refused.metadata()), ended);
    node.stop.cancel();
}

fn as_of(metadata: &tonic::metadata::MetadataMap) -> u64 {
    let value = metadata.get("annals-as-of").expect("it says as of when");
    value.to_str().expect("ASCII").parse().expect("a number")
}

#[tokio::test]
async fn a_position_that_is_not_reached_is_waited_for_and_then_refused() {
    let channel = shared().await;
    let stream = fresh("min");
    let position = must_append(&channel, &stream, &events(1)).await;
    let far = [("annals-min-position", (position + 1_000_000).to_string())];
    let status = read_with(&channel, forwards(&stream), &far).await.expect_err("not reached");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    for (name, value) in
        [("annals-consistency", "strong"), ("annals-min-position", "soon"), ("annals-min-position", "-1")]
    {
        let status = read_with(&channel, forwards(&stream), &[(name, value.to_owned())]).await.expect_err("no sense");
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {value}");
    }
    assert_serving(&channel).await;
}

// --- subscriptions ----------------------------------------------------------

/// A subscription being read, with an end to waiting.
struct Subscription(Streaming<s::ReadResp>);

impl Subscription {
    async fn open(channel: &Channel, options: Options) -> Self {
        let mut subscription = Subscription(open(channel, subscribing(options)).await.expect("opened"));
        let first = subscription.next().await;
        assert!(
            matches!(&first, Content::Confirmation(confirmation) if !confirmation.subscription_id.is_empty()),
            "{first:?}"
        );
        subscription
    }

    async fn message(&mut self) -> Result<Option<s::ReadResp>, Status> {
        tokio::time::timeout(PATIENCE, self.0.message()).await.expect("something comes in time")
    }

    async fn next(&mut self) -> Content {
        self.message().await.expect("it goes on").expect("it never ends with OK").content.expect("set")
    }

    /// Everything up to and including what this is looking for.
    async fn until(&mut self, found: impl Fn(&Content) -> bool) -> Vec<Content> {
        let mut all = Vec::new();
        loop {
            all.push(self.next().await);
            if found(all.last().expect("pushed")) {
                return all;
            }
        }
    }

    async fn until_caught_up(&mut self) -> Vec<Content> {
        self.until(|answer| matches!(answer, Content::CaughtUp(_))).await
    }

    async fn events(&mut self, count: usize) -> Vec<Content> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next().await {
                event @ Content::Event(_) => all.push(event),
                Content::CaughtUp(_) | Content::Checkpoint(_) => {}
                other => panic!("{other:?}"),
            }
        }
        all
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.0.message()).await.is_err()
    }
}

fn caught_up_at(answer: &Content) -> (Option<i64>, Option<u64>) {
    match answer {
        Content::CaughtUp(caught_up) => {
            assert!(caught_up.timestamp.is_some());
            (caught_up.stream_revision, caught_up.position.map(|position| position.commit_position))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_subscription_is_confirmed_catches_up_and_goes_on() {
    let channel = shared().await;
    let stream = fresh("subscribed");
    must_append(&channel, &stream, &events(5)).await;
    for (start, behind, last) in [
        (RevisionOption::Start(Empty {}), vec![0, 1, 2, 3, 4], Some(4)),
        (RevisionOption::Revision(0), vec![1, 2, 3, 4], Some(4)),
        (RevisionOption::Revision(3), vec![4], Some(4)),
        (RevisionOption::Revision(4), vec![], Some(4)),
        (RevisionOption::End(Empty {}), vec![], Some(4)),
        (RevisionOption::Revision(u64::MAX), vec![], Some(4)),
        (RevisionOption::Revision(6), vec![], Some(6)),
    ] {
        let mut subscription = Subscription::open(&channel, options(of_stream(&stream, start))).await;
        let caught_up = subscription.until_caught_up().await;
        assert_eq!(revisions(&caught_up), behind, "{start:?}");
        assert_eq!(caught_up_at(caught_up.last().expect("one")), (last, None), "{start:?}");
        assert!(subscription.is_silent().await);
    }
    let mut from_start = Subscription::open(&channel, forwards(&stream)).await;
    let mut from_future = Subscription::open(&channel, from_revision(&stream, 6)).await;
    from_start.until_caught_up().await;
    from_future.until_caught_up().await;
    must_append(&channel, &stream, &events(2)).await;
    must_append(&channel, &stream, &events(2)).await;
    assert_eq!(revisions(&from_start.events(4).await), [5, 6, 7, 8]);
    assert_eq!(revisions(&from_future.events(2).await), [7, 8]);
    assert!(from_start.is_silent().await);
}

#[tokio::test]
async fn a_missing_stream_is_waited_for() {
    let channel = shared().await;
    let stream = fresh("awaited");
    let mut subscription = Subscription::open(&channel, forwards(&stream)).await;
    assert_eq!(caught_up_at(&subscription.next().await), (None, None));
    must_append(&channel, &fresh("other"), &events(1)).await;
    assert!(subscription.is_silent().await);
    must_append(&channel, &stream, &events(1)).await;
    assert_eq!(revisions(&subscription.events(1).await), [0]);
}

#[tokio::test]
async fn a_tombstone_is_the_last_event_and_no_ok() {
    let channel = shared().await;
    let stream = fresh("ending");
    must_append(&channel, &stream, &events(1)).await;
    let mut live = Subscription::open(&channel, forwards(&stream)).await;
    live.until_caught_up().await;
    must_append(&channel, &stream, &events(2)).await;
    tombstone(&channel, &stream).await.expect("ended");
    let last = live
        .until(|answer| matches!(answer, Content::Event(event) if original(event).metadata["type"] == "$streamDeleted"))
        .await;
    assert_eq!(revisions(&last), [1, 2, i64::MAX as u64], "what came before is not lost");
    assert_stream_deleted(&live.message().await.expect_err("it ended"), &stream);
}

#[tokio::test]
async fn truncation_hides_the_past_from_a_subscription_but_nothing_new() {
    let channel = shared().await;
    let stream = fresh("one");
    must_append(&channel, &stream, &events(5)).await;
    must_append(&channel, &format!("$${stream}"), &[metadata_event(r#"{"$maxCount":1}"#)]).await;
    let mut subscription = Subscription::open(&channel, forwards(&stream)).await;
    assert_eq!(revisions(&subscription.until_caught_up().await), [4]);
    must_append(&channel, &stream, &events(20)).await;
    assert_eq!(revisions(&subscription.events(20).await), (5..25).collect::<Vec<_>>());
    delete(&channel, &stream).await.expect("deleted");
    assert!(subscription.is_silent().await, "a soft delete is nothing special");
    must_append(&channel, &stream, &events(1)).await;
    assert_eq!(revisions(&subscription.events(1).await), [25]);
}

#[tokio::test]
async fn a_filtered_subscription_tells_its_progress_also_where_nothing_matches() {
    let channel = shared().await;
    let start = must_append(&channel, &fresh("noise"), &events(1)).await;
    must_append(&channel, &fresh("noise"), &events(105)).await;
    let nothing = by_prefix(&word("nothing"));
    let mut subscription = Subscription::open(&channel, filtered(options(of_all(at(start))), nothing)).await;
    let caught_up = subscription.until_caught_up().await;
    let checkpoints: Vec<u64> = caught_up
        .iter()
        .filter_map(|answer| match answer {
            Content::Checkpoint(checkpoint) => {
                assert_eq!(checkpoint.commit_position, checkpoint.prepare_position);
                assert!(checkpoint.timestamp.is_some());
                Some(checkpoint.commit_position)
            }
            _ => None,
        })
        .collect();
    assert!(checkpoints.len() >= 10, "one each ten events: {checkpoints:?}");
    assert_eq!(&checkpoints[..10], (1..=10).map(|n| start + 10 * n).collect::<Vec<_>>());
    assert!(checkpoints.is_sorted_by(|a, b| a < b), "none is repeated: {checkpoints:?}");
    let at_end = caught_up_at(caught_up.last().expect("one"));
    assert_eq!(at_end, (None, checkpoints.last().copied()), "and one when it becomes live");

    let position = must_append(&channel, &fresh("noise"), &events(1)).await;
    let idle =
        subscription.until(|answer| matches!(answer, Content::Checkpoint(c) if c.commit_position >= position)).await;
    assert!(
        idle.iter().all(|answer| matches!(answer, Content::Checkpoint(_))),
        "fewer than an interval, told when idle"
    );
}

#[tokio::test]
async fn a_selection_by_an_index_can_be_subscribed_to() {
    let channel = shared().await;
    let category = word("watched");
    let first = must_append(&channel, &format!("{category}-a"), &events(2)).await;
    let index = by_prefix(&format!("$idx-ce-{category}"));
    let mut subscription =
        Subscription::open(&channel, filtered(options(of_all(AllOption::Start(Empty {}))), index)).await;
    let caught_up = subscription.until_caught_up().await;
    assert_eq!(positions(&caught_up), [first - 1, first]);
    must_append(&channel, &fresh("noise"), &events(3)).await;
    let second = must_append(&channel, &format!("{category}-b"), &events(1)).await;
    assert_eq!(positions(&subscription.events(1).await), [second]);
}

#[tokio::test]
async fn an_index_can_be_subscribed_to() {
    let channel = shared().await;
    let category = word("followed");
    let index = format!("$ce-{category}");
    let mut plain = Subscription::open(&channel, forwards(&index)).await;
    let mut resolved = Subscription::open(&channel, resolving(forwards(&index))).await;
    plain.until_caught_up().await;
    resolved.until_caught_up().await;
    for n in 0..5 {
        must_append(&channel, &format!("{category}-{n}"), &events(2)).await;
    }
    assert_eq!(revisions(&plain.events(10).await), (0..10).collect::<Vec<_>>());
    let resolved = resolved.events(10).await;
    assert!(events_of(&resolved).iter().all(|event| event.event.is_some() && event.link.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_repeated_while_others_write() {
    let channel = shared().await;
    let stream = fresh("busy");
    let start = must_append(&channel, &stream, &events(1)).await;
    let writing = {
        let (channel, stream) = (channel.clone(), stream.clone());
        tokio::spawn(async move {
            for _ in 0..300 {
                must_append(&channel, &stream, &events(7)).await;
            }
        })
    };
    let mut readers = Vec::new();
    for n in 0..8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (channel, stream) = (channel.clone(), stream.clone());
        readers.push(tokio::spawn(async move {
            let source = match n % 4 {
                0 => forwards(&stream),
                1 => filtered(options(of_all(at(start - 1))), by_prefix(&stream)),
                2 => options(of_all(at(start - 1))),
                _ => resolving(forwards(&stream)),
            };
            let mut subscription = Subscription::open(&channel, source).await;
            let mut seen = Vec::new();
            while seen.len() < 2101 {
                if let Content::Event(event) = subscription.next().await
                    && original(&event).stream_identifier == identifier(&stream)
                {
                    seen.push(original(&event).stream_revision);
                }
            }
            assert_eq!(seen, (0..2101).collect::<Vec<_>>(), "reader {n}");
        }));
    }
    writing.await.expect("written");
    for reader in readers {
        reader.await.expect("complete");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let channel = shared().await;
    let stream = fresh("stalled");
    let large = || append_req::ProposedMessage { data: Bytes::from(vec![1; 1 << 20]), ..event("T") };
    for _ in 0..3 {
        must_append(&channel, &stream, &(0..10).map(|_| large()).collect::<Vec<_>>()).await;
    }
    // On its own connection, so that only its own flow control is exhausted.
    let node = shared().await;
    let mut stalled = open(&node, subscribing(forwards(&stream))).await.expect("opened");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_serving(&channel).await;
    let mut count = 0;
    while count < 30 {
        if let Some(Content::Event(_)) = stalled.message().await.expect("it goes on").expect("no end").content {
            count += 1;
        }
    }
}

#[tokio::test]
async fn a_node_that_stops_ends_subscriptions_with_unavailable() {
    let node = start("stopping");
    let channel = connect(&node.address).await;
    let stream = fresh("stopped");
    must_append(&channel, &stream, &events(2)).await;
    let all = options(of_all(AllOption::Start(Empty {})));
    let mut subscriptions = vec![
        Subscription::open(&channel, forwards(&stream)).await,
        Subscription::open(&channel, all.clone()).await,
        Subscription::open(&channel, filtered(all, by_prefix("x"))).await,
        Subscription::open(&channel, forwards("$ce-stopped")).await,
    ];
    for subscription in &mut subscriptions {
        subscription.until_caught_up().await;
    }
    let (_sender, receiver) = mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut batches = streams(&channel).batch_append(requests).await.expect("opened").into_inner();
    node.stop.cancel();
    for subscription in &mut subscriptions {
        let status = loop {
            match subscription.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a subscription never ends with OK"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    let status = batches.message().await.expect_err("the call is ended");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

// --- second generation ------------------------------------------------------

fn records(channel: &Channel) -> StreamsServiceClient<Channel> {
    StreamsServiceClient::new(channel.clone())
}

fn record(stream: &str) -> v2::AppendRecord {
    v2::AppendRecord {
        record_id: Some(Uuid::new_v4().to_string()),
        properties: HashMap::new(),
        schema: Some(v2::SchemaInfo { format: Some(v2::SchemaFormat::Json as i32), name: Some("T".into()), id: None }),
        data: Some(Bytes::from_static(b"{}")),
        stream: Some(stream.to_owned()),
    }
}

fn check(stream: &str, state: i64) -> v2::ConsistencyCheck {
    let check =
        v2::consistency_check::StreamStateCheck { stream: Some(stream.to_owned()), expected_state: Some(state) };
    v2::ConsistencyCheck { r#type: Some(v2::consistency_check::Type::StreamState(check)) }
}

fn request(stream: &str, count: usize, expected_revision: Option<i64>) -> v2::AppendRequest {
    v2::AppendRequest {
        stream: Some(stream.to_owned()),
        records: (0..count).map(|_| record("")).collect(),
        expected_revision,
    }
}

/// Reason and specific detail of a rich status, which must agree with the plain one.
fn reason(status: &Status) -> (String, Option<prost_types::Any>) {
    let rich = rpc::Status::decode(status.details()).expect("a rich status");
    assert_eq!((rich.code, rich.message.as_str()), (status.code() as i32, status.message()));
    let info = rpc::ErrorInfo::decode(rich.details[0].value.as_slice()).expect("ErrorInfo first");
    (info.reason, rich.details.get(1).cloned())
}

async fn session(channel: &Channel, requests: Vec<v2::AppendRequest>) -> Result<v2::AppendSessionResponse, Status> {
    Ok(records(channel).append_session(stream::iter(requests)).await?.into_inner())
}

async fn append_records(
    channel: &Channel,
    records_: Vec<v2::AppendRecord>,
    checks: Vec<v2::ConsistencyCheck>,
) -> Result<v2::AppendRecordsResponse, Status> {
    Ok(records(channel).append_records(v2::AppendRecordsRequest { records: records_, checks }).await?.into_inner())
}

#[tokio::test]
async fn a_session_is_one_append_to_many_streams() {
    let channel = shared().await;
    let [a, b, c] = ["session", "session", "session"].map(fresh);
    must_append(&channel, &b, &events(2)).await;
    let requests = vec![request(&a, 2, Some(-1)), request(&b, 1, Some(1)), request(&c, 3, None)];
    let first = session(&channel, requests.clone()).await.expect("appended");
    let output: Vec<_> =
        first.output.iter().map(|one| (one.stream.as_deref(), one.stream_revision, one.position)).collect();
    assert_eq!(
        output,
        [(Some(a.as_str()), Some(1), None), (Some(b.as_str()), Some(2), None), (Some(c.as_str()), Some(2), None)]
    );
    assert_eq!(session(&channel, requests).await.expect("repeated"), first);
    let stored = positions(&read(&channel, forwards(&c)).await.expect("readable"));
    assert_eq!(first.position, stored.last().map(|position| i64::try_from(*position).expect("small")));

    let status =
        session(&channel, vec![request(&a, 1, Some(1)), request(&b, 1, Some(0))]).await.expect_err("a conflict");
    let (name, detail) = reason(&status);
    assert_eq!((status.code(), name.as_str()), (Code::FailedPrecondition, "STREAM_REVISION_CONFLICT"));
    let detail =
        v2_errors::StreamRevisionConflictErrorDetails::decode(detail.expect("set").value.as_slice()).expect("it");
    assert_eq!((detail.stream, detail.expected_revision, detail.actual_revision), (Some(b.clone()), Some(0), Some(2)));
    assert_eq!(revisions(&read(&channel, forwards(&a)).await.expect("readable")), [0, 1], "nothing was written");
}

#[tokio::test]
async fn a_session_that_makes_no_sense_says_what_is_wrong() {
    let channel = shared().await;
    let a = fresh("Session");
    let dead = fresh("dead");
    tombstone(&channel, &dead).await.expect("ended");
    let change = |change: &dyn Fn(&mut v2::AppendRequest)| {
        let mut request = request(&a, 1, None);
        change(&mut request);
        vec![request]
    };
    for (what, requests, code, expected) in [
        ("nothing", vec![], Code::FailedPrecondition, "APPEND_SESSION_NO_REQUESTS"),
        ("no stream", change(&|r| r.stream = None), Code::InvalidArgument, "BAD_REQUEST"),
        ("no records", change(&|r| r.records.clear()), Code::InvalidArgument, "BAD_REQUEST"),
        ("no schema", change(&|r| r.records[0].schema = None), Code::InvalidArgument, "BAD_REQUEST"),
        (
            "a nil id",
            change(&|r| r.records[0].record_id = Some(Uuid::nil().to_string())),
            Code::InvalidArgument,
            "BAD_REQUEST",
        ),
        ("a state for checks", change(&|r| r.expected_revision = Some(-5)), Code::InvalidArgument, "BAD_REQUEST"),
        ("the least number", change(&|r| r.expected_revision = Some(i64::MIN)), Code::InvalidArgument, "BAD_REQUEST"),
        (
            "a stream twice",
            vec![request(&a, 1, None), request(&a.to_lowercase(), 1, None)],
            Code::Aborted,
            "STREAM_ALREADY_IN_APPEND_SESSION",
        ),
        ("an index", change(&|r| r.stream = Some("$ce-a".into())), Code::PermissionDenied, "ACCESS_DENIED"),
        (
            "a dead stream",
            vec![request(&a, 1, None), request(&dead, 1, None)],
            Code::FailedPrecondition,
            "STREAM_TOMBSTONED",
        ),
    ] {
        let status = session(&channel, requests).await.expect_err(what);
        assert_eq!((status.code(), reason(&status).0.as_str()), (code, expected), "{what}: {status}");
        assert!(status.metadata().contains_key("annals-as-of"), "{what}");
    }
    let found = read(&channel, forwards(&a)).await.expect("readable");
    assert!(matches!(found.as_slice(), [Content::StreamNotFound(_)]), "nothing was written");
    let large = || v2::AppendRecord { data: Some(Bytes::from(vec![1; 12 << 20])), ..record("") };
    let requests =
        ["x", "y"].map(|name| v2::AppendRequest { records: vec![large()], ..request(&fresh(name), 0, None) });
    let status = session(&channel, requests.to_vec()).await.expect_err("too large");
    assert_eq!((status.code(), reason(&status).0.as_str()), (Code::Aborted, "APPEND_TRANSACTION_SIZE_EXCEEDED"));
    assert_serving(&channel).await;
}

#[tokio::test]
async fn records_are_refused_with_every_violation() {
    let channel = shared().await;
    let [written, live, missing, dead] = ["written", "live", "missing", "dead"].map(fresh);
    must_append(&channel, &live, &events(2)).await;
    tombstone(&channel, &dead).await.expect("ended");
    let checks = vec![check(&written, -1), check(&live, 0), check(&missing, -4)];
    let status = append_records(&channel, vec![record(&written), record(&dead)], checks).await.expect_err("refused");
    let (name, detail) = reason(&status);
    assert_eq!((status.code(), name.as_str()), (Code::FailedPrecondition, "APPEND_CONSISTENCY_VIOLATION"));
    let detail =
        v2_errors::AppendConsistencyViolationErrorDetails::decode(detail.expect("set").value.as_slice()).expect("it");
    let told: Vec<_> = detail
        .violations
        .iter()
        .map(|violation| {
            let Some(v2_errors::consistency_violation::Type::StreamState(state)) = &violation.r#type else {
                panic!("unset")
            };
            (violation.check_index, state.stream.clone(), state.expected_state, state.actual_state)
        })
        .collect();
    assert_eq!(
        told,
        [
            (Some(1), Some(live.clone()), Some(0), Some(1)),
            (Some(2), Some(missing), Some(-4), Some(-1)),
            (Some(3), Some(dead.clone()), Some(-2), Some(-6)),
        ]
    );
    let answer = append_records(
        &channel,
        vec![record(&written), record(&live), record(&written)],
        vec![check(&dead, -6), check(&live, 1)],
    )
    .await
    .expect("appended");
    let revisions: Vec<_> = answer.revisions.iter().map(|one| (one.stream.as_deref(), one.revision)).collect();
    assert_eq!(
        revisions,
        [(Some(written.as_str()), Some(1)), (Some(live.as_str()), Some(2))],
        "in order of first appearance"
    );
}

#[tokio::test]
async fn records_that_make_no_sense_say_what_is_wrong() {
    let channel = shared().await;
    let a = fresh("records");
    let no_type = v2::ConsistencyCheck { r#type: None };
    let many: Vec<_> = (0..1001).map(|n| check(&format!("{a}-{n}"), -1)).collect();
    for (what, records_, checks) in [
        ("nothing", vec![], vec![]),
        ("checks only", vec![], vec![check(&a, -1)]),
        ("no stream", vec![v2::AppendRecord { stream: None, ..record("") }], vec![]),
        ("an empty stream", vec![record("")], vec![]),
        ("any state", vec![record(&a)], vec![check(&a, -2)]),
        ("a check of no type", vec![record(&a)], vec![no_type]),
        ("a stream checked twice", vec![record(&a)], vec![check(&a, -1), check(&a, -1)]),
        ("too many streams", vec![record(&a)], many),
    ] {
        let status = append_records(&channel, records_, checks).await.expect_err(what);
        assert_eq!(
            (status.code(), reason(&status).0.as_str()),
            (Code::InvalidArgument, "BAD_REQUEST"),
            "{what}: {status}"
        );
    }
    assert_serving(&channel).await;
}

#[tokio::test]
async fn properties_are_read_as_json_metadata() {
    let channel = shared().await;
    let stream = fresh("properties");
    let number = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(7.0)) };
    let json = v2::AppendRecord { properties: [("n".to_owned(), number)].into(), ..record(&stream) };
    let mut binary = record(&stream);
    binary.schema.as_mut().expect("set").format = Some(v2::SchemaFormat::Protobuf as i32);
    append_records(&channel, vec![json, binary], vec![]).await.expect("appended");
    let answers = read(&channel, forwards(&stream)).await.expect("readable");
    let metadata = |n: usize| -> serde_json::Value {
        serde_json::from_slice(&original(events_of(&answers)[n]).custom_metadata).expect("JSON")
    };
    assert_eq!(metadata(0), serde_json::json!({"n": 7, "$schema.name": "T", "$schema.format": "Json"}));
    assert_eq!(metadata(1), serde_json::json!({"$schema.name": "T", "$schema.format": "Protobuf"}));
    assert_eq!(original(events_of(&answers)[0]).metadata["content-type"], "application/json");
    assert_eq!(original(events_of(&answers)[1]).metadata["content-type"], "application/octet-stream");
}

// --- calls that are broken off ----------------------------------------------

#[tokio::test]
async fn calls_that_are_given_up_leave_nothing_behind() {
    let channel = shared().await;
    let stream = fresh("given-up");
    must_append(&channel, &stream, &events(100)).await;
    for _ in 0..200 {
        drop(open(&channel, forwards(&stream)).await.expect("opened"));
        drop(open(&channel, subscribing(forwards(&stream))).await.expect("opened"));
    }
    // Appends of which only the half ever comes.
    for _ in 0..20 {
        let half = stream::iter([append_options(&fresh("half"), Any), frame(event("T"))]).chain(forever());
        let mut client = streams(&channel);
        let call = client.append(half);
        assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err(), "it waits for the rest");
    }
    assert_serving(&channel).await;
}

fn forever() -> impl Stream<Item = s::AppendReq> + Send + 'static {
    stream::pending()
}
