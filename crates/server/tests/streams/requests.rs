//! What is sent, and what is looked at in the answers.

use std::sync::atomic::{AtomicU64, Ordering};

use annals_proto::event_store::client as v1;
use annals_proto::event_store::client::streams as s;
use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::streams_client::StreamsClient;
use annals_proto::event_store::client::{Empty, StreamIdentifier, uuid::Value as UuidValue};
use bytes::Bytes;
use futures::stream;
use s::read_req::{Options, options as ro};
use s::read_resp::Content;
use s::{append_req, append_resp};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

/// A name nobody used before, of the category `prefix`.
pub(crate) fn fresh(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A word nobody used before.
pub(crate) fn word(prefix: &str) -> String {
    fresh(prefix).replace('-', "x")
}

pub(crate) use append_req::options::ExpectedStreamRevision;
#[allow(non_upper_case_globals)]
pub(crate) const Any: ExpectedStreamRevision = ExpectedStreamRevision::Any(Empty {});
#[allow(non_upper_case_globals)]
pub(crate) const NoStream: ExpectedStreamRevision = ExpectedStreamRevision::NoStream(Empty {});
#[allow(non_upper_case_globals)]
pub(crate) const Exists: ExpectedStreamRevision = ExpectedStreamRevision::StreamExists(Empty {});

pub(crate) fn identifier(stream: &str) -> Option<StreamIdentifier> {
    Some(StreamIdentifier { stream_name: Bytes::copy_from_slice(stream.as_bytes()) })
}

pub(crate) fn text_id(text: &str) -> Option<v1::Uuid> {
    Some(v1::Uuid { value: Some(UuidValue::String(text.to_owned())) })
}

pub(crate) fn labels(event_type: &str, content_type: &str) -> Vec<MetadataEntry> {
    [("type", event_type), ("content-type", content_type)]
        .map(|(key, value)| MetadataEntry::new(key, value.to_owned()))
        .into()
}

pub(crate) fn event(event_type: &str) -> append_req::ProposedMessage {
    append_req::ProposedMessage {
        id: text_id(&Uuid::new_v4().to_string()),
        metadata: labels(event_type, "application/json"),
        custom_metadata: Bytes::new(),
        data: Bytes::from_static(b"{}"),
    }
}

pub(crate) fn events(count: usize) -> Vec<append_req::ProposedMessage> {
    (0..count).map(|_| event("Happened")).collect()
}

pub(crate) fn link(revision: u64, stream: &str) -> append_req::ProposedMessage {
    append_req::ProposedMessage {
        metadata: labels("$>", "application/octet-stream"),
        data: Bytes::from(format!("{revision}@{stream}")),
        ..event("$>")
    }
}

pub(crate) fn metadata_event(json: &'static str) -> append_req::ProposedMessage {
    append_req::ProposedMessage { data: Bytes::from_static(json.as_bytes()), ..event("$metadata") }
}

pub(crate) fn append_options(stream: &str, expected: ExpectedStreamRevision) -> s::AppendReq {
    let options =
        append_req::Options { stream_identifier: identifier(stream), expected_stream_revision: Some(expected) };
    s::AppendReq { content: Some(append_req::Content::Options(options)) }
}

pub(crate) fn frame(event: append_req::ProposedMessage) -> s::AppendReq {
    s::AppendReq { content: Some(append_req::Content::ProposedMessage(event)) }
}

pub(crate) fn streams(channel: &Channel) -> StreamsClient<Channel> {
    StreamsClient::new(channel.clone()).max_decoding_message_size(17 * 1024 * 1024)
}

pub(crate) async fn append_frames(channel: &Channel, frames: Vec<s::AppendReq>) -> Result<append_resp::Result, Status> {
    let answer = streams(channel).append(stream::iter(frames)).await?.into_inner();
    Ok(answer.result.expect("a result is always set"))
}

pub(crate) async fn append(
    channel: &Channel,
    stream: &str,
    expected: ExpectedStreamRevision,
    events: &[append_req::ProposedMessage],
) -> Result<append_resp::Result, Status> {
    let options = append_options(stream, expected);
    append_frames(channel, std::iter::once(options).chain(events.iter().cloned().map(frame)).collect()).await
}

pub(crate) async fn must_append(channel: &Channel, stream: &str, events: &[append_req::ProposedMessage]) -> u64 {
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

pub(crate) async fn delete(channel: &Channel, stream: &str) -> Result<u64, Status> {
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

pub(crate) async fn tombstone(channel: &Channel, stream: &str) -> Result<u64, Status> {
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

pub(crate) fn options(source: ro::StreamOption) -> Options {
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

pub(crate) use ro::all_options::AllOption;
pub(crate) use ro::stream_options::RevisionOption;

pub(crate) fn of_stream(stream: &str, from: RevisionOption) -> ro::StreamOption {
    ro::StreamOption::Stream(ro::StreamOptions { stream_identifier: identifier(stream), revision_option: Some(from) })
}

pub(crate) fn of_all(from: AllOption) -> ro::StreamOption {
    ro::StreamOption::All(ro::AllOptions { all_option: Some(from) })
}

pub(crate) fn at(position: u64) -> AllOption {
    AllOption::Position(ro::Position { commit_position: position, prepare_position: position })
}

pub(crate) fn forwards(stream: &str) -> Options {
    options(of_stream(stream, RevisionOption::Start(Empty {})))
}

pub(crate) fn backwards(stream: &str) -> Options {
    Options { read_direction: 1, ..options(of_stream(stream, RevisionOption::End(Empty {}))) }
}

pub(crate) fn from_revision(stream: &str, revision: u64) -> Options {
    options(of_stream(stream, RevisionOption::Revision(revision)))
}

pub(crate) fn limited(options: Options, count: u64) -> Options {
    Options { count_option: Some(ro::CountOption::Count(count)), ..options }
}

pub(crate) fn compatible(options: Options) -> Options {
    Options { control_option: Some(ro::ControlOption { compatibility: 1 }), ..options }
}

pub(crate) fn resolving(options: Options) -> Options {
    Options { resolve_links: true, ..options }
}

pub(crate) fn subscribing(options: Options) -> Options {
    Options { count_option: Some(ro::CountOption::Subscription(ro::SubscriptionOptions {})), ..options }
}

pub(crate) fn filtered(options: Options, filter: ro::FilterOptions) -> Options {
    Options { filter_option: Some(ro::FilterOption::Filter(filter)), ..options }
}

pub(crate) fn by_prefix(prefix: &str) -> ro::FilterOptions {
    let expression = ro::filter_options::Expression { regex: String::new(), prefix: vec![prefix.to_owned()] };
    ro::FilterOptions {
        filter: Some(ro::filter_options::Filter::StreamIdentifier(expression)),
        window: Some(ro::filter_options::Window::Max(10)),
        checkpoint_interval_multiplier: 1,
    }
}

pub(crate) fn by_type(regex: &str) -> ro::FilterOptions {
    let expression = ro::filter_options::Expression { regex: regex.to_owned(), prefix: vec![] };
    ro::FilterOptions { filter: Some(ro::filter_options::Filter::EventType(expression)), ..by_prefix("") }
}

pub(crate) async fn open(channel: &Channel, options: Options) -> Result<Streaming<s::ReadResp>, Status> {
    Ok(streams(channel).read(s::ReadReq { options: Some(options) }).await?.into_inner())
}

pub(crate) async fn read(channel: &Channel, options: Options) -> Result<Vec<Content>, Status> {
    let mut answers = open(channel, options).await?;
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer.content.expect("a content is always set"));
    }
    Ok(all)
}

type Event = s::read_resp::ReadEvent;

pub(crate) fn events_of(answers: &[Content]) -> Vec<&Event> {
    let mut events = Vec::new();
    for answer in answers {
        if let Content::Event(event) = answer {
            events.push(event);
        }
    }
    events
}

/// The record a client counts by: the link if there is one.
pub(crate) fn original(event: &Event) -> &s::read_resp::read_event::RecordedEvent {
    event.link.as_ref().or(event.event.as_ref()).expect("an event or a link")
}

pub(crate) fn revisions(answers: &[Content]) -> Vec<u64> {
    events_of(answers).into_iter().map(|event| original(event).stream_revision).collect()
}

pub(crate) fn positions(answers: &[Content]) -> Vec<u64> {
    events_of(answers).into_iter().map(|event| original(event).commit_position).collect()
}

pub(crate) fn id_of(event: &append_req::ProposedMessage) -> String {
    match event.id.as_ref().and_then(|id| id.value.clone()) {
        Some(UuidValue::String(text)) => text,
        other => panic!("not a text: {other:?}"),
    }
}

pub(crate) fn ids(answers: &[Content]) -> Vec<String> {
    let id = |event: &Event| match original(event).id.as_ref().and_then(|id| id.value.clone()) {
        Some(UuidValue::String(text)) => text,
        other => panic!("not a text: {other:?}"),
    };
    events_of(answers).into_iter().map(id).collect()
}

pub(crate) fn trailer<'a>(status: &'a Status, name: &str) -> Option<&'a str> {
    status.metadata().get(name).map(|value| value.to_str().expect("ASCII"))
}

pub(crate) fn assert_stream_deleted(status: &Status, stream: &str) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(status.message(), format!("Event stream '{stream}' is deleted."));
    assert_eq!(trailer(status, "exception"), Some("stream-deleted"));
    assert_eq!(trailer(status, "stream-name"), Some(stream));
}

pub(crate) fn assert_denied(status: &Status) {
    assert_eq!(
        (status.code(), trailer(status, "exception")),
        (Code::PermissionDenied, Some("access-denied")),
        "{status}"
    );
}
