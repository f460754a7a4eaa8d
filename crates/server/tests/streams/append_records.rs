//! The second generation of appends.

use std::collections::HashMap;

use annals_proto::event_store::client::streams as s;
use annals_proto::google::rpc;
use annals_proto::kurrentdb::protocol::v2::streams as v2;
use annals_proto::kurrentdb::protocol::v2::streams::errors as v2_errors;
use annals_proto::kurrentdb::protocol::v2::streams::streams_service_client::StreamsServiceClient;
use bytes::Bytes;
use futures::stream;
use prost::Message as _;
use s::read_resp::Content;
use tonic::transport::Channel;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::node::*;
use crate::requests::*;

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
