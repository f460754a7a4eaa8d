//! `kurrentdb.protocol.v2.streams.StreamsService`: appends over many streams.
//!
//! Both calls are one atomic command. A session has one request per stream,
//! each with its expectation; records name their streams one by one, and come
//! with checks on these or other streams (protocol 2.9).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use annals_core::limits::{APPEND_STREAMS_MAX, EVENT_BYTES_MAX, MESSAGE_BYTES_MAX};
use annals_core::{
    Append, Appended, Command, Content, Event, EventType, Expected, Outcome, Properties, Refusal, Revision, Role,
    StreamName, Target,
};
use annals_proto::kurrentdb::protocol::v2::streams::consistency_check::Type;
use annals_proto::kurrentdb::protocol::v2::streams::streams_service_server::{StreamsService, StreamsServiceServer};
use annals_proto::kurrentdb::protocol::v2::streams::{
    AppendRecord, AppendRecordsRequest, AppendRecordsResponse, AppendRequest, AppendResponse, AppendSessionResponse,
    ConsistencyCheck, SchemaFormat, StreamRevision,
};
use annals_raft::Route;
use bytes::Bytes;
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use super::streams::budget::Budget;
use super::streams::convert::{self, SCHEMA_FORMAT, SCHEMA_ID};
use super::streams::{
    ANSWER_BYTES_MAX, Gathering, WRITE_TIMEOUT, Writing, append_bytes_max, budget_of, refused, unexpected,
};
use crate::access::Caller;
use crate::consistency;
use crate::context::Context;
use crate::status::Failure;

/// The service, with its limits set.
pub(crate) fn service(context: Arc<Context>) -> StreamsServiceServer<Service> {
    StreamsServiceServer::new(Service { budget: budget_of(&context), context })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX)
}

/// Appends to many streams through one node.
pub(crate) struct Service {
    context: Arc<Context>,
    budget: Budget,
}

#[tonic::async_trait]
impl StreamsService for Service {
    async fn append_session(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<AppendSessionResponse>, Status> {
        let route = consistency::route(request.metadata());
        let mut writing = Writing::new("append_session", self.context.metrics.clone());
        let result = self.session(request, route, &mut writing).await;
        self.answer(result, writing)
    }

    async fn append_records(
        &self,
        request: Request<AppendRecordsRequest>,
    ) -> Result<Response<AppendRecordsResponse>, Status> {
        let route = consistency::route(request.metadata());
        let mut writing = Writing::new("append_records", self.context.metrics.clone());
        let result = self.records(request, route, &mut writing).await;
        self.answer(result, writing)
    }
}

impl Service {
    fn answer<T>(&self, result: Result<T, Failure>, writing: Writing) -> Result<Response<T>, Status> {
        writing.finish(result.as_ref().map_or_else(Failure::label, |_| "ok"));
        result.map(Response::new).map_err(|failure| consistency::refuse_v2(&self.context, &failure))
    }

    async fn session(
        &self,
        request: Request<Streaming<AppendRequest>>,
        route: Route,
        writing: &mut Writing,
    ) -> Result<AppendSessionResponse, Failure> {
        let caller = self.context.caller(&request).await?;
        let patience = self.context.config.request_timeout_max();
        // A client that stops sending in the middle holds memory.
        let received = tokio::time::timeout(patience, self.receive(request.into_inner())).await;
        let (draft, events) = received.map_err(|_| Failure::Received {
            code: Code::DeadlineExceeded,
            message: format!("the session was not received within {} s", patience.as_secs()),
        })??;
        let names: Vec<StreamName> = draft.targets.iter().map(|target| target.stream.clone()).collect();
        let appended = self.append(&caller, draft, events, route, writing).await?;
        // A session tells only the first stream that was not as expected.
        let appended = appended.map_err(refused)?;
        let output = names.iter().zip(&appended.revisions).map(|(stream, revision)| AppendResponse {
            stream: Some(stream.to_string()),
            stream_revision: Some(revision_number(*revision)),
            position: None,
        });
        Ok(AppendSessionResponse { output: output.collect(), position: Some(position_number(&appended)) })
    }

    async fn receive(&self, mut requests: Streaming<AppendRequest>) -> Result<(Draft, Gathering), Failure> {
        let mut draft = Draft::default();
        let mut events = Gathering::new(append_bytes_max(&self.context));
        // Names are compared without case, here only (protocol 2.9).
        let mut seen = std::collections::HashSet::new();
        while let Some(request) = requests.message().await.map_err(|status| Failure::received(&status))? {
            let stream = writable(request.stream.unwrap_or_default(), "stream")?;
            if !seen.insert(stream.as_str().to_lowercase()) {
                return Err(Failure::SessionTwice(stream));
            }
            let expected = session_expectation(request.expected_revision)?;
            if request.records.is_empty() {
                return Err(Failure::invalid("records", format!("the request for stream '{stream}' has no records")));
            }
            let target = draft.target(stream.clone(), expected, Role::Write)?;
            for (at, record) in request.records.into_iter().enumerate() {
                let (event, size) = event(&stream, record, &format!("records[{at}]"))?;
                draft.of.push(target);
                events.push(&self.budget, event, size).await?;
            }
        }
        if draft.targets.is_empty() {
            return Err(Failure::SessionEmpty);
        }
        Ok((draft, events))
    }

    async fn records(
        &self,
        request: Request<AppendRecordsRequest>,
        route: Route,
        writing: &mut Writing,
    ) -> Result<AppendRecordsResponse, Failure> {
        let caller = self.context.caller(&request).await?;
        let request = request.into_inner();
        if request.records.is_empty() {
            return Err(Failure::invalid("records", "there are no records"));
        }
        let mut draft = Draft::default();
        for (at, check) in request.checks.into_iter().enumerate() {
            let (stream, expected) = parse_check(check, at)?;
            if draft.index.contains_key(&stream) {
                return Err(Failure::invalid(format!("checks[{at}]"), format!("stream '{stream}' is checked twice")));
            }
            draft.target(stream, expected, Role::Check)?;
        }
        let mut events = Gathering::new(append_bytes_max(&self.context));
        let mut written = Vec::new();
        for (at, record) in request.records.into_iter().enumerate() {
            let field = format!("records[{at}]");
            let stream = writable(record.stream.clone().unwrap_or_default(), &format!("{field}.stream"))?;
            let target = draft.write(&stream)?;
            if !written.contains(&target) {
                written.push(target);
            }
            let (event, size) = event(&stream, record, &field)?;
            draft.of.push(target);
            events.push(&self.budget, event, size).await?;
        }
        let names: Vec<StreamName> = draft.targets.iter().map(|target| target.stream.clone()).collect();
        let appended = self
            .append(&caller, draft, events, route, writing)
            .await?
            .map_err(|refusal| Failure::Inconsistent(refusal.violations).decided(refusal.as_of))?;
        let revisions = written.into_iter().map(|target| StreamRevision {
            stream: Some(names[target as usize].to_string()),
            revision: Some(revision_number(appended.revisions.get(target as usize).copied().flatten())),
        });
        Ok(AppendRecordsResponse { revisions: revisions.collect(), position: Some(position_number(&appended)) })
    }

    /// Hands an append to the node. The inner error is a refusal.
    async fn append(
        &self,
        caller: &Caller,
        draft: Draft,
        events: Gathering,
        route: Route,
        writing: &mut Writing,
    ) -> Result<Result<Appended, Refusal>, Failure> {
        let Gathering { events, held, .. } = events;
        writing.count(&events);
        let append = Append { targets: draft.targets, events: draft.of.into_iter().zip(events).collect() };
        let command = Command::Append(append);
        let outcome = self.context.append(caller, command, route, Instant::now() + WRITE_TIMEOUT).await;
        drop(held);
        match outcome? {
            Outcome::Appended(appended) => Ok(Ok(appended)),
            Outcome::Refused(refusal) => Ok(Err(refusal)),
            outcome @ (Outcome::Node(_) | Outcome::Denied(_) | Outcome::Scavenge(_) | Outcome::Lease(_)) => {
                Err(unexpected(&outcome))
            }
        }
    }
}

/// An append while its streams are being collected.
#[derive(Default)]
struct Draft {
    targets: Vec<Target>,
    index: HashMap<StreamName, u32>,
    /// For each event the index of its stream in `targets`.
    of: Vec<u32>,
}

impl Draft {
    fn target(&mut self, stream: StreamName, expected: Expected, role: Role) -> Result<u32, Failure> {
        if self.targets.len() >= APPEND_STREAMS_MAX {
            return Err(Failure::invalid("stream", format!("an append has at most {APPEND_STREAMS_MAX} streams")));
        }
        let index = u32::try_from(self.targets.len()).expect("their number is limited");
        self.index.insert(stream.clone(), index);
        self.targets.push(Target { stream, expected, role });
        Ok(index)
    }

    /// The target of a stream that is written: one that is checked already, or
    /// a new one in any state. New ones follow the checks in the order of
    /// their first record, which is how violations are numbered.
    fn write(&mut self, stream: &StreamName) -> Result<u32, Failure> {
        match self.index.get(stream) {
            Some(index) => {
                self.targets[*index as usize].role = Role::Write;
                Ok(*index)
            }
            None => self.target(stream.clone(), Expected::Any, Role::Write),
        }
    }
}

fn session_expectation(expected: Option<i64>) -> Result<Expected, Failure> {
    match expected {
        None | Some(-2) => Ok(Expected::Any),
        Some(-1) => Ok(Expected::NoStream),
        Some(-4) => Ok(Expected::Exists),
        Some(number) => exactly(number).ok_or_else(|| {
            Failure::invalid(
                "expected_revision",
                format!("{number} is no expected revision: -1, -2, -4 or one from 0 on"),
            )
        }),
    }
}

fn parse_check(check: ConsistencyCheck, at: usize) -> Result<(StreamName, Expected), Failure> {
    let Some(Type::StreamState(check)) = check.r#type else {
        return Err(Failure::invalid(format!("checks[{at}]"), "the check is of no known type"));
    };
    let field = format!("checks[{at}].expected_state");
    let expected = match check.expected_state {
        Some(-1) => Expected::NoStream,
        Some(-4) => Expected::Exists,
        Some(-5) => Expected::SoftDeleted,
        Some(-6) => Expected::Tombstoned,
        // The Python client does not send a 0, whatever the contract says of
        // presence: without a state the check is for revision 0, the strictest.
        None => Expected::Exactly(Revision::FIRST),
        Some(number) => exactly(number).ok_or_else(|| {
            let why = format!("{number} is no state to check for: -1, -4, -5, -6 or a revision from 0 on");
            Failure::invalid(field, why)
        })?,
    };
    Ok((stream(check.stream.unwrap_or_default(), &format!("checks[{at}].stream"))?, expected))
}

fn exactly(number: i64) -> Option<Expected> {
    u64::try_from(number).ok().and_then(Revision::new).map(Expected::Exactly)
}

fn stream(name: String, field: &str) -> Result<StreamName, Failure> {
    StreamName::new(name).map_err(|invalid| Failure::invalid(field, invalid.to_string()))
}

fn writable(name: String, field: &str) -> Result<StreamName, Failure> {
    convert::writable(stream(name, field)?)
}

/// The event in a record, and its size as the protocol counts it.
fn event(stream: &StreamName, record: AppendRecord, field: &str) -> Result<(Event, usize), Failure> {
    let id = match record.record_id {
        Some(text) => {
            let field = format!("{field}.record_id");
            let id =
                Uuid::parse_str(&text).map_err(|_| Failure::invalid(field.clone(), "the record id is not a UUID"))?;
            convert::event_id(id, &field)?
        }
        // Without an id of its own a record cannot be recognised when it comes again.
        None => convert::event_id(Uuid::new_v4(), field)?,
    };
    let schema = record.schema.ok_or_else(|| Failure::invalid(format!("{field}.schema"), "the schema is missing"))?;
    let format_field = format!("{field}.schema.format");
    let (content, format) = match schema.format.map(SchemaFormat::try_from) {
        Some(Ok(SchemaFormat::Json)) => (Content::Json, None),
        Some(Ok(SchemaFormat::Protobuf)) => (Content::Binary, Some("Protobuf")),
        Some(Ok(SchemaFormat::Avro)) => (Content::Binary, Some("Avro")),
        Some(Ok(SchemaFormat::Bytes)) => (Content::Binary, Some("Bytes")),
        Some(Ok(SchemaFormat::Unspecified) | Err(_)) | None => {
            return Err(Failure::invalid(format_field, "the schema's format is missing or unknown"));
        }
    };
    let name = schema.name.unwrap_or_default();
    let name_field = format!("{field}.schema.name");
    if name.is_empty() || !name.chars().all(is_name_character) {
        let why = "a schema name has letters, digits and _ . $ : - only, and at least one of them";
        return Err(Failure::invalid(name_field, why));
    }
    let schema_id = match schema.id {
        Some(text) if Uuid::parse_str(&text).is_err() => {
            return Err(Failure::invalid(format!("{field}.schema.id"), "the schema's id is not a UUID"));
        }
        id => id,
    };
    let properties = properties(record.properties, format, schema_id, field)?;
    let data = record.data.unwrap_or_default();
    let size = data.len() + properties.len() + name.len();
    if size > EVENT_BYTES_MAX {
        return Err(Failure::EventTooLarge { stream: stream.clone(), id, size, max: EVENT_BYTES_MAX });
    }
    let event_type = EventType::new(name).map_err(|invalid| Failure::invalid(name_field, invalid.to_string()))?;
    Ok((Event::new(id, event_type, content, Properties::Struct, properties, data), size))
}

fn is_name_character(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '$' | ':' | '-')
}

/// The properties as they are stored, with what the schema adds to them.
fn properties(
    own: HashMap<String, Value>,
    format: Option<&str>,
    schema_id: Option<String>,
    field: &str,
) -> Result<Bytes, Failure> {
    let field = format!("{field}.properties");
    // Sorted, so that the same record has the same bytes each time.
    let mut fields: BTreeMap<String, Value> = own.into_iter().collect();
    for (key, value) in &fields {
        if key.is_empty() {
            return Err(Failure::invalid(field, "a property's name must not be empty"));
        }
        if value.kind.is_none() {
            return Err(Failure::invalid(field, format!("the property {key:?} has no value")));
        }
    }
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    if let Some(format) = format {
        fields.insert(SCHEMA_FORMAT.to_owned(), text(format));
    }
    if let Some(id) = schema_id {
        fields.insert(SCHEMA_ID.to_owned(), text(&id));
    }
    Ok(Bytes::from(Struct { fields }.encode_to_vec()))
}

fn revision_number(revision: Option<Revision>) -> i64 {
    revision.map_or(-1, |revision| i64::try_from(revision.get()).expect("a revision is at most 2^63 - 1"))
}

fn position_number(appended: &Appended) -> i64 {
    i64::try_from(appended.position.get()).expect("2^63 events are out of reach")
}

/// For the fuzz targets alone: `AppendRecords`, or a request of `AppendSession`.
pub(crate) fn fuzzed(bytes: &[u8]) -> String {
    use crate::fuzzing::{message, told};
    let Some((kind, bytes)) = bytes.split_first() else { return "nothing".to_owned() };
    let stream = StreamName::new("fuzzed-1").expect("a name");
    let events = |records: Vec<AppendRecord>| {
        records.into_iter().map(|record| told(event(&stream, record, "records[0]"))).last()
    };
    if kind % 2 == 0 {
        let Some(request) = message::<AppendRecordsRequest>(bytes) else { return "no message".to_owned() };
        let mut draft = Draft::default();
        let checks = request.checks.into_iter().map(|check| {
            let parsed = parse_check(check, 0);
            told(parsed.and_then(|(stream, expected)| draft.target(stream, expected, Role::Check)))
        });
        format!("{:?} {:?}", checks.last(), events(request.records))
    } else {
        let Some(request) = message::<AppendRequest>(bytes) else { return "no message".to_owned() };
        let stream = told(writable(request.stream.unwrap_or_default(), "stream"));
        format!("{stream} {} {:?}", told(session_expectation(request.expected_revision)), events(request.records))
    }
}

#[cfg(test)]
mod tests {
    use annals_proto::kurrentdb::protocol::v2::streams::SchemaInfo;
    use annals_proto::kurrentdb::protocol::v2::streams::consistency_check::StreamStateCheck;

    use super::*;

    fn name() -> StreamName {
        StreamName::new("s").expect("a valid name")
    }

    fn record() -> AppendRecord {
        AppendRecord {
            record_id: Some("00112233-4455-6677-8899-aabbccddeeff".into()),
            properties: HashMap::new(),
            schema: Some(SchemaInfo { format: Some(SchemaFormat::Json as i32), name: Some("Type".into()), id: None }),
            data: Some(Bytes::from_static(b"{}")),
            stream: None,
        }
    }

    fn with_schema(change: impl FnOnce(&mut SchemaInfo)) -> AppendRecord {
        let mut record = record();
        change(record.schema.as_mut().expect("set above"));
        record
    }

    #[test]
    fn what_a_record_lacks_is_named_by_its_field() {
        for (broken, field) in [
            (AppendRecord { record_id: Some(Uuid::nil().to_string()), ..record() }, "r.record_id"),
            (AppendRecord { record_id: Some("x".into()), ..record() }, "r.record_id"),
            (AppendRecord { record_id: Some(String::new()), ..record() }, "r.record_id"),
            (AppendRecord { schema: None, ..record() }, "r.schema"),
            (with_schema(|schema| schema.format = None), "r.schema.format"),
            (with_schema(|schema| schema.format = Some(0)), "r.schema.format"),
            (with_schema(|schema| schema.format = Some(77)), "r.schema.format"),
            (with_schema(|schema| schema.name = None), "r.schema.name"),
            (with_schema(|schema| schema.name = Some("has a space".into())), "r.schema.name"),
            (with_schema(|schema| schema.name = Some("x".repeat(2000))), "r.schema.name"),
            (with_schema(|schema| schema.id = Some("x".into())), "r.schema.id"),
            (AppendRecord { properties: [(String::new(), Value { kind: None })].into(), ..record() }, "r.properties"),
            (AppendRecord { properties: [("a".into(), Value { kind: None })].into(), ..record() }, "r.properties"),
        ] {
            match event(&name(), broken, "r") {
                Err(Failure::Invalid { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    #[test]
    fn letters_of_any_script_make_a_schema_name() {
        for text in ["Größe", "注文", "a.b:c-d_e$f", "$metadata", "1"] {
            assert!(event(&name(), with_schema(|schema| schema.name = Some(text.into())), "r").is_ok(), "{text}");
        }
    }

    #[test]
    fn a_record_without_an_id_gets_one_and_without_data_is_empty() {
        let record = AppendRecord { record_id: None, data: None, ..record() };
        let (one, size) = event(&name(), record.clone(), "r").expect("valid");
        let (two, _) = event(&name(), record, "r").expect("valid");
        assert_ne!(one.id(), two.id());
        assert_eq!(size, "Type".len());
    }

    #[test]
    fn the_schema_adds_its_properties() {
        let id = "00112233-4455-6677-8899-aabbccddeeff";
        let record = with_schema(|schema| {
            schema.format = Some(SchemaFormat::Avro as i32);
            schema.id = Some(id.into());
        });
        let (event, size) = event(&name(), record, "r").expect("valid");
        assert_eq!(event.content(), Content::Binary);
        assert_eq!(event.properties(), Properties::Struct);
        assert_eq!(size, 2 + 4 + event.metadata().len());
        let fields = Struct::decode(event.metadata().clone()).expect("a struct").fields;
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        assert_eq!(fields, [("$schema.format".to_owned(), text("Avro")), ("$schema.id".to_owned(), text(id))].into());
    }

    #[test]
    fn expectations_are_the_numbers_of_the_protocol() {
        for (number, expected) in [
            (None, Some(Expected::Any)),
            (Some(-2), Some(Expected::Any)),
            (Some(-1), Some(Expected::NoStream)),
            (Some(-4), Some(Expected::Exists)),
            (Some(0), Some(Expected::Exactly(Revision::FIRST))),
            (Some(-3), None),
            (Some(-5), None),
            (Some(i64::MIN), None),
        ] {
            assert_eq!(session_expectation(number).ok(), expected, "{number:?}");
        }
        let check = |state| {
            let check = StreamStateCheck { stream: Some("s".into()), expected_state: state };
            parse_check(ConsistencyCheck { r#type: Some(Type::StreamState(check)) }, 0)
                .ok()
                .map(|(_, expected)| expected)
        };
        for (number, expected) in [
            (None, Some(Expected::Exactly(Revision::FIRST))),
            (Some(-2), None),
            (Some(-3), None),
            (Some(-1), Some(Expected::NoStream)),
            (Some(-4), Some(Expected::Exists)),
            (Some(-5), Some(Expected::SoftDeleted)),
            (Some(-6), Some(Expected::Tombstoned)),
            (Some(3), Some(Expected::Exactly(Revision::saturating(3)))),
        ] {
            assert_eq!(check(number), expected, "{number:?}");
        }
        assert!(parse_check(ConsistencyCheck { r#type: None }, 0).is_err());
    }

    #[test]
    fn written_streams_without_a_check_follow_the_checks() {
        let stream = |text: &str| StreamName::new(text.to_owned()).expect("a valid name");
        let mut draft = Draft::default();
        draft.target(stream("a"), Expected::NoStream, Role::Check).expect("few");
        draft.target(stream("b"), Expected::Exists, Role::Check).expect("few");
        for (text, index) in [("c", 2), ("b", 1), ("c", 2), ("d", 3)] {
            assert_eq!(draft.write(&stream(text)), Ok(index));
        }
        let roles: Vec<_> = draft.targets.iter().map(|target| (target.role, target.expected)).collect();
        assert_eq!(
            roles,
            [
                (Role::Check, Expected::NoStream),
                (Role::Write, Expected::Exists),
                (Role::Write, Expected::Any),
                (Role::Write, Expected::Any),
            ]
        );
    }
}
