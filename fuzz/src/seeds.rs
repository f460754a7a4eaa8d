//! What real encodings look like: what the corpora begin with.

use annals_core::{
    Actual, Append, Appended, Batch, Command, Content, Denied, Event, EventId, EventType, Expected, Outcome, Position,
    Principal, Properties, Refusal, Revision, Right, StreamName, Timestamp, Violation,
};
use annals_proto::event_store::client as v1;
use annals_proto::event_store::client::persistent_subscriptions as groups;
use annals_proto::event_store::client::streams::{self as wire, append_req, batch_append_req, read_req};
use annals_proto::kurrentdb::protocol::v2::streams as v2;
use bytes::Bytes;
use prost::Message as _;

/// Inputs by the name of their target.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = annals_store::fuzzing::samples();
    seeds.extend(annals_raft::fuzzing::samples());
    seeds.extend(of_the_log());
    seeds.extend(of_clients());
    seeds.extend(of_people());
    seeds
}

fn name() -> StreamName {
    StreamName::new("orders-1").expect("a name")
}

fn of_the_log() -> Vec<(&'static str, Vec<u8>)> {
    let event = Event::new(
        EventId::new(uuid(7)).expect("not nil"),
        EventType::new("OrderPlaced").expect("a type"),
        Content::Json,
        Properties::Opaque,
        Bytes::from_static(b"{\"$correlationId\":\"c\"}"),
        Bytes::from_static(b"{\"total\":42}"),
    );
    let append = Command::Append(Append::single(name(), Expected::Exactly(Revision::FIRST), vec![event]));
    let delete = Command::Delete { stream: name(), expected: Expected::Any };
    let principal =
        Principal { name: "alice".to_owned(), groups: vec!["$ops".to_owned()], account: Some(Revision::FIRST) };
    let on_behalf = Command::For { principal, command: Box::new(delete.clone()) };
    let denied = Denied::Right { as_of: Position::new(7), stream: name(), right: Right::Write };
    let commands = [append.encode(), delete.encode()];
    let violation =
        Violation { target: 0, stream: name(), expected: Expected::NoStream, actual: Actual::At(Revision::FIRST) };
    let refused = Outcome::Refused(Refusal { as_of: Position::new(7), violations: vec![violation] });
    let appended =
        Appended { position: Position::new(7), revisions: vec![Some(Revision::FIRST), None], repeated: false };
    vec![
        ("command", commands[0].to_vec()),
        ("command", commands[1].to_vec()),
        ("command", Command::Tombstone { stream: name(), expected: Expected::NoStream }.encode().to_vec()),
        ("command", on_behalf.encode().to_vec()),
        ("command", Command::StartScavenge { id: uuid(7) }.encode().to_vec()),
        ("command", Command::StopScavenge { id: Some(uuid(7)) }.encode().to_vec()),
        ("batch-of-commands", Batch::encode(Timestamp::from_ticks(99), &commands).to_vec()),
        ("outcome", refused.encode().to_vec()),
        ("outcome", Outcome::Denied(denied).encode().to_vec()),
        ("outcome", Outcome::Appended(appended).encode().to_vec()),
        ("metadata", br#"{"$maxCount":5,"$maxAge":60,"$tb":7,"$acl":{"$r":"$all"},"own":[1,"x"]}"#.to_vec()),
        ("metadata", br#"{"$tb":9223372036854775807}"#.to_vec()),
        ("metadata", br#"{"$correlationId":"a","$causationId":"b"}"#.to_vec()),
        ("stream-name", b"orders-1".to_vec()),
        ("stream-name", b"$$orders-1".to_vec()),
        ("stream-name", "Größe/注文@7".as_bytes().to_vec()),
    ]
}

fn uuid(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

fn wire_uuid() -> Option<v1::Uuid> {
    Some(v1::Uuid { value: Some(v1::uuid::Value::String("00112233-4455-6677-8899-aabbccddeeff".to_owned())) })
}

fn identifier() -> Option<v1::StreamIdentifier> {
    Some(v1::StreamIdentifier { stream_name: Bytes::from_static(b"orders-1") })
}

fn of_clients() -> Vec<(&'static str, Vec<u8>)> {
    let metadata = || {
        [("type", "OrderPlaced"), ("content-type", "application/json")]
            .map(|(key, value)| append_req::proposed_message::MetadataEntry::new(key, value))
            .into()
    };
    let options = append_req::Options {
        stream_identifier: identifier(),
        expected_stream_revision: Some(append_req::options::ExpectedStreamRevision::Revision(7)),
    };
    let event = append_req::ProposedMessage {
        id: wire_uuid(),
        metadata: metadata(),
        custom_metadata: Bytes::from_static(b"{}"),
        data: Bytes::from_static(b"{\"total\":42}"),
    };
    let append = |content| wire::AppendReq { content: Some(content) }.encode_to_vec();
    let batch = wire::BatchAppendReq {
        correlation_id: wire_uuid(),
        options: Some(batch_append_req::Options {
            stream_identifier: identifier(),
            deadline_option: Some(batch_append_req::options::DeadlineOption::Deadline(duration(10))),
            expected_stream_position: Some(batch_append_req::options::ExpectedStreamPosition::StreamPosition(7)),
        }),
        proposed_messages: vec![batch_append_req::ProposedMessage {
            id: wire_uuid(),
            metadata: metadata(),
            custom_metadata: Bytes::new(),
            data: Bytes::from_static(b"{}"),
        }],
        is_final: true,
    };
    let tombstone = wire::TombstoneReq {
        options: Some(wire::tombstone_req::Options {
            stream_identifier: identifier(),
            expected_stream_revision: Some(wire::tombstone_req::options::ExpectedStreamRevision::Revision(7)),
        }),
    };
    let mut seeds = vec![
        ("append", append(append_req::Content::Options(options))),
        ("append", append(append_req::Content::ProposedMessage(event))),
        ("batch-append", batch.encode_to_vec()),
        ("weight", [vec![0, 3], batch.encode_to_vec()].concat()),
        ("delete", tombstone.encode_to_vec()),
        ("timeout", b"10S".to_vec()),
        ("timeout", b"2562047H".to_vec()),
        ("filter", b"\0^(?!(\\$.+$|PersistentConfig\\d+$|Result$))\norders-1".to_vec()),
        ("filter", b"\0(a+)+(?<!b)$\naaaaaaaaaaaaaaaaaaaa".to_vec()),
        ("filter", b"\x01order-,customer-\norder-7".to_vec()),
    ];
    seeds.extend(reads());
    seeds.extend(records());
    seeds.extend(of_groups());
    seeds
}

fn duration(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 5 }
}

fn reads() -> Vec<(&'static str, Vec<u8>)> {
    use read_req::options::{
        AllOptions, ControlOption, CountOption, FilterOption, FilterOptions, Position, StreamOption, StreamOptions,
        SubscriptionOptions, UuidOption, all_options, filter_options, stream_options,
    };
    let stream = StreamOption::Stream(StreamOptions {
        stream_identifier: identifier(),
        revision_option: Some(stream_options::RevisionOption::Revision(7)),
    });
    let all = StreamOption::All(AllOptions {
        all_option: Some(all_options::AllOption::Position(Position { commit_position: 7, prepare_position: 7 })),
    });
    let filter = FilterOptions {
        filter: Some(filter_options::Filter::EventType(filter_options::Expression {
            regex: "^[^\\$].*".to_owned(),
            prefix: vec!["$idx-ce-orders".to_owned()],
        })),
        window: Some(filter_options::Window::Max(32)),
        checkpoint_interval_multiplier: 1,
    };
    let request = |stream, count, filter| {
        let options = read_req::Options {
            read_direction: 0,
            resolve_links: true,
            uuid_option: Some(UuidOption { content: None }),
            control_option: Some(ControlOption { compatibility: 1 }),
            stream_option: Some(stream),
            count_option: Some(count),
            filter_option: Some(filter),
        };
        wire::ReadReq { options: Some(options) }.encode_to_vec()
    };
    let counted = request(stream, CountOption::Count(10), FilterOption::NoFilter(v1::Empty {}));
    let subscribed = request(all, CountOption::Subscription(SubscriptionOptions {}), FilterOption::Filter(filter));
    vec![("weight", [vec![1, 1], subscribed.clone()].concat()), ("read", counted), ("read", subscribed)]
}

fn records() -> Vec<(&'static str, Vec<u8>)> {
    let record = v2::AppendRecord {
        record_id: Some("00112233-4455-6677-8899-aabbccddeeff".to_owned()),
        properties: [("p".to_owned(), prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(1.0)) })]
            .into(),
        schema: Some(v2::SchemaInfo { format: Some(1), name: Some("OrderPlaced".to_owned()), id: None }),
        data: Some(Bytes::from_static(b"{}")),
        stream: Some("orders-1".to_owned()),
    };
    let check =
        v2::consistency_check::StreamStateCheck { stream: Some("orders-2".to_owned()), expected_state: Some(-4) };
    let check = v2::ConsistencyCheck { r#type: Some(v2::consistency_check::Type::StreamState(check)) };
    let session = v2::AppendRequest {
        stream: Some("orders-1".to_owned()),
        expected_revision: Some(7),
        records: vec![record.clone()],
    };
    let records = v2::AppendRecordsRequest { records: vec![record], checks: vec![check] }.encode_to_vec();
    vec![
        ("weight", [vec![2, 0], records.clone()].concat()),
        ("records", [vec![0], records].concat()),
        ("records", [vec![1], session.encode_to_vec()].concat()),
    ]
}

fn of_groups() -> Vec<(&'static str, Vec<u8>)> {
    use groups::{create_req, read_req};
    let settings = create_req::Settings {
        resolve_links: true,
        max_retry_count: 10,
        min_checkpoint_count: 10,
        max_checkpoint_count: 1_000,
        live_buffer_size: 500,
        read_batch_size: 20,
        history_buffer_size: 500,
        message_timeout: Some(create_req::settings::MessageTimeout::MessageTimeoutMs(30_000)),
        checkpoint_after: Some(create_req::settings::CheckpointAfter::CheckpointAfterMs(2_000)),
        consumer_strategy: "Pinned".to_owned(),
        ..create_req::Settings::default()
    };
    let stream = create_req::StreamOptions {
        stream_identifier: identifier(),
        revision_option: Some(create_req::stream_options::RevisionOption::Revision(7)),
    };
    let create = groups::CreateReq {
        options: Some(create_req::Options {
            stream_option: Some(create_req::options::StreamOption::Stream(stream)),
            stream_identifier: None,
            group_name: "group".to_owned(),
            settings: Some(settings),
        }),
    }
    .encode_to_vec();
    let delete = groups::DeleteReq {
        options: Some(groups::delete_req::Options {
            group_name: "group".to_owned(),
            stream_option: Some(groups::delete_req::options::StreamOption::StreamIdentifier(
                identifier().expect("one"),
            )),
        }),
    };
    let ack = read_req::Ack { id: Bytes::from_static(b"x"), ids: vec![wire_uuid().expect("one")] };
    let ack = groups::ReadReq { content: Some(read_req::Content::Ack(ack)) };
    let with = |kind: u8, message: Vec<u8>| ("groups", [vec![kind], message].concat());
    vec![
        ("weight", [vec![3, 0], create.clone()].concat()),
        with(0, create.clone()),
        with(1, create),
        with(2, delete.encode_to_vec()),
        with(7, ack.encode_to_vec()),
        (
            "definitions",
            br#"{"version":1,"entries":[{"source":"orders","group":"g","incarnation":"00112233-4455-6677-8899-aabbccddeeff","after":7,"fromEnd":false,"selection":{"byStream":true,"prefixes":["a"]},"settings":{"resolveLinkTos":false,"extraStatistics":false,"messageTimeoutMs":30000,"maxRetryCount":10,"checkpointAfterMs":2000,"minCheckpointCount":10,"maxCheckpointCount":1000,"maxSubscriberCount":0,"liveBufferSize":500,"readBatchSize":20,"historyBufferSize":500,"consumerStrategy":"RoundRobin"}}]}"#
                .to_vec(),
        ),
    ]
}

fn of_people() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "configuration",
            b"listen = \"127.0.0.1:2113\"\nbootstrap = [\"127.0.0.1:2113\"]\nheartbeat_ms = 100\nlog_format = \"json\"\n"
                .to_vec(),
        ),
        ("configuration", b"append_bytes_max = 18446744073709551615\ninsecure = true\n[nested]\na = [1, {}]\n".to_vec()),
        ("connection-string", b"kurrentdb+discover://user:p%40ss@a.example:2113,b:2114?tls=true&maxDiscoverAttempts=3".to_vec()),
        ("connection-string", b"esdb://127.0.0.1?tls=false&nodePreference=follower&keepAliveInterval=-1".to_vec()),
        ("connection-string", b"kurrent://[::1]:7?connectionName=x%20y&defaultDeadline=5000".to_vec()),
    ]
}
