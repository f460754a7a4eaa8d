//! Appends that are one call each: `Append`, `AppendSession`, `AppendRecords`.

use std::sync::Arc;

use annals_checker::history::{Append, Current, Expected, Outcome, Reason, Record};
use annals_proto::event_store::client::streams::append_req::options::ExpectedStreamRevision;
use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::append_req::{Content, Options, ProposedMessage};
use annals_proto::event_store::client::streams::append_resp::success::{CurrentRevisionOption, PositionOption};
use annals_proto::event_store::client::streams::append_resp::wrong_expected_version as wrong;
use annals_proto::event_store::client::streams::{AppendReq, AppendResp, append_resp};
use annals_proto::event_store::client::{Empty, StreamIdentifier, Uuid, uuid};
use annals_proto::kurrentdb::protocol::v2::streams::consistency_check::{StreamStateCheck, Type};
use annals_proto::kurrentdb::protocol::v2::streams::{
    AppendRecord, AppendRecordsRequest, AppendRequest, ConsistencyCheck, SchemaFormat, SchemaInfo,
};
use prost_types::Value;
use prost_types::value::Kind;
use tonic::Status;

use super::{Done, Draft, Terms, outcome};
use crate::Recorder;
use crate::payload::{Event, Metadata, TAG};
use crate::wire::{Contact, Wire};

/// Which call carries an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `Append`, to one stream.
    Append,
    /// `AppendSession`.
    Session,
    /// `AppendRecords`.
    Records,
}

/// Appends, waits for the answer, and records it.
pub async fn append(wire: &Wire, recorder: &Recorder, terms: &Terms, how: How, drafts: &[Draft]) -> Done {
    let writes = drafts.iter().map(Draft::write).collect();
    let invoke = recorder.now();
    let call = async {
        match (how, drafts) {
            (How::Append, [draft]) => single(wire, terms, draft).await,
            (How::Append, _) => unreachable!("an append is for one stream"),
            (How::Session, drafts) => session(wire, terms, drafts).await,
            (How::Records, drafts) => records(wire, terms, drafts).await,
        }
    };
    let done = tokio::time::timeout(terms.timeout, call).await.unwrap_or_else(|_| Done::silent());
    let known = !matches!(done.outcome, Outcome::Unknown { .. });
    let call = match how {
        How::Append => "append",
        How::Session => "append_session",
        How::Records => "append_records",
    };
    recorder.record(Record::Append(Append {
        process: terms.process,
        node: wire.node,
        invoke,
        complete: known.then(|| recorder.now()),
        call: call.to_owned(),
        writes,
        outcome: done.outcome.clone(),
    }));
    done
}

pub(crate) fn identifier(stream: &str) -> Option<StreamIdentifier> {
    Some(StreamIdentifier { stream_name: stream.as_bytes().to_vec().into() })
}

/// Structured or as text, by its lowest bit: the server must take both.
pub(super) fn wire_id(event: &Event) -> Option<Uuid> {
    let id = event.id();
    let value = if id.as_u128() & 1 == 0 {
        let (most, least) = id.as_u64_pair();
        uuid::Value::Structured(uuid::Structured {
            most_significant_bits: most.cast_signed(),
            least_significant_bits: least.cast_signed(),
        })
    } else {
        uuid::Value::String(id.to_string())
    };
    Some(Uuid { value: Some(value) })
}

pub(super) fn v1_metadata(event: &Event) -> Vec<MetadataEntry> {
    let content_type = if event.json { "application/json" } else { "application/octet-stream" };
    vec![MetadataEntry::new("type", event.kind.to_owned()), MetadataEntry::new("content-type", content_type)]
}

/// The metadata of an event for a v1 call.
pub(super) fn v1_custom(event: &Event) -> bytes::Bytes {
    match &event.metadata {
        Metadata::V1(bytes) => bytes.clone(),
        Metadata::V2(_) => unreachable!("an event for a v2 call is in a v1 call"),
    }
}

async fn single(wire: &Wire, terms: &Terms, draft: &Draft) -> Done {
    let expected = match draft.expected {
        Expected::Any => ExpectedStreamRevision::Any(Empty {}),
        Expected::NoStream => ExpectedStreamRevision::NoStream(Empty {}),
        Expected::Exists => ExpectedStreamRevision::StreamExists(Empty {}),
        Expected::Revision(revision) => ExpectedStreamRevision::Revision(revision),
    };
    let options = Options { stream_identifier: identifier(&draft.stream), expected_stream_revision: Some(expected) };
    let mut messages = vec![AppendReq { content: Some(Content::Options(options)) }];
    messages.extend(draft.events.iter().map(|event| AppendReq {
        content: Some(Content::ProposedMessage(ProposedMessage {
            id: wire_id(event),
            metadata: v1_metadata(event),
            custom_metadata: v1_custom(event),
            data: event.data.clone(),
        })),
    }));
    match wire.streams().append(terms.request(tokio_stream::iter(messages))).await {
        Ok(response) => {
            let as_of = outcome::as_of(response.metadata());
            Done {
                outcome: single_answer(response.into_inner(), &draft.stream, as_of),
                contact: Contact::Answered,
                leader: None,
            }
        }
        Err(status) => outcome::v1_write(&status, &draft.stream),
    }
}

fn single_answer(answer: AppendResp, stream: &Arc<str>, as_of: Option<u64>) -> Outcome {
    match answer.result {
        Some(append_resp::Result::Success(success)) => {
            match (success.position_option, success.current_revision_option) {
                (Some(PositionOption::Position(position)), Some(CurrentRevisionOption::CurrentRevision(revision)))
                    if position.commit_position == position.prepare_position =>
                {
                    Outcome::Acked { position: position.commit_position, revisions: vec![revision] }
                }
                (position, revision) => nonsense(format!("a success with {position:?} and {revision:?}")),
            }
        }
        Some(append_resp::Result::WrongExpectedVersion(wrong)) => {
            let current = match wrong.current_revision_option {
                Some(wrong::CurrentRevisionOption::CurrentRevision(revision)) => Some(Current::Revision(revision)),
                Some(wrong::CurrentRevisionOption::CurrentNoStream(_)) => Some(Current::NoStream),
                None => None,
            };
            Outcome::Refused { reason: Reason::WrongExpectation { stream: stream.clone(), current }, as_of }
        }
        None => nonsense("no result".to_owned()),
    }
}

/// An answer outside of the contract: whether anything was done, it does not
/// tell.
fn nonsense(what: String) -> Outcome {
    Outcome::Unknown { why: format!("the answer makes no sense: {what}") }
}

fn record(event: &Event, stream: Option<&str>) -> AppendRecord {
    let tag = match &event.metadata {
        Metadata::V2(tag) => tag.clone(),
        Metadata::V1(_) => unreachable!("an event for a v1 call is in a v2 call"),
    };
    AppendRecord {
        record_id: Some(event.id().to_string()),
        properties: [(TAG.to_owned(), Value { kind: Some(Kind::StringValue(tag)) })].into(),
        schema: Some(SchemaInfo {
            format: Some(SchemaFormat::Bytes.into()),
            name: Some(event.kind.to_owned()),
            id: None,
        }),
        data: Some(event.data.clone()),
        stream: stream.map(str::to_owned),
    }
}

/// The number of an expectation; none for any.
fn number(expected: Expected) -> Option<i64> {
    match expected {
        Expected::Any => None,
        Expected::NoStream => Some(-1),
        Expected::Exists => Some(-4),
        Expected::Revision(revision) => Some(i64::try_from(revision).unwrap_or(i64::MAX)),
    }
}

async fn session(wire: &Wire, terms: &Terms, drafts: &[Draft]) -> Done {
    let requests: Vec<AppendRequest> = drafts
        .iter()
        .map(|draft| AppendRequest {
            stream: Some(draft.stream.to_string()),
            records: draft.events.iter().map(|event| record(event, None)).collect(),
            expected_revision: number(draft.expected),
        })
        .collect();
    let answer = wire.streams_v2().append_session(terms.request(tokio_stream::iter(requests))).await;
    v2_done(
        drafts,
        answer.map(|response| {
            let answer = response.into_inner();
            let revisions = answer.output.into_iter().map(|one| (one.stream, one.stream_revision)).collect();
            (answer.position, revisions)
        }),
    )
}

async fn records(wire: &Wire, terms: &Terms, drafts: &[Draft]) -> Done {
    let records = drafts.iter().flat_map(|draft| draft.events.iter().map(|event| record(event, Some(&draft.stream))));
    let checks = drafts.iter().filter_map(|draft| {
        let check =
            StreamStateCheck { stream: Some(draft.stream.to_string()), expected_state: Some(number(draft.expected)?) };
        Some(ConsistencyCheck { r#type: Some(Type::StreamState(check)) })
    });
    let request = AppendRecordsRequest { records: records.collect(), checks: checks.collect() };
    let answer = wire.streams_v2().append_records(terms.request(request)).await;
    v2_done(
        drafts,
        answer.map(|response| {
            let answer = response.into_inner();
            (answer.position, answer.revisions.into_iter().map(|one| (one.stream, one.revision)).collect())
        }),
    )
}

/// The position of a v2 answer, and its streams with their revisions.
type V2Answer = (Option<i64>, Vec<(Option<String>, Option<i64>)>);

fn v2_done(drafts: &[Draft], answer: Result<V2Answer, Status>) -> Done {
    match answer {
        Ok((position, revisions)) => {
            let right = revisions.len() == drafts.len()
                && revisions.iter().zip(drafts).all(|((stream, _), draft)| stream.as_deref() == Some(&draft.stream));
            let numbers: Option<Vec<u64>> =
                revisions.iter().map(|(_, revision)| revision.and_then(|number| u64::try_from(number).ok())).collect();
            let outcome = match (position.and_then(|number| u64::try_from(number).ok()), numbers) {
                (Some(position), Some(revisions)) if right => Outcome::Acked { position, revisions },
                (position, _) => nonsense(format!("a success at {position:?} with {revisions:?}")),
            };
            Done { outcome, contact: Contact::Answered, leader: None }
        }
        Err(status) => outcome::v2_write(&status, drafts),
    }
}
