use annals_core::Revision;
use annals_proto::event_store::client as old;
use annals_proto::google::rpc;
use annals_proto::kurrent::rpc as kurrent;

use super::v1::trailer;
use super::v2::actual_state;
use super::*;

fn name(text: &str) -> StreamName {
    StreamName::new(text.to_owned()).expect("a valid name")
}

fn violation(stream: &str, expected: Expected, actual: Actual) -> Violation {
    Violation { target: 0, stream: name(stream), expected, actual }
}

fn at(revision: u64) -> Actual {
    Actual::At(Revision::saturating(revision))
}

fn exactly(revision: u64) -> Expected {
    Expected::Exactly(Revision::saturating(revision))
}

fn id() -> EventId {
    EventId::new("00112233-4455-6677-8899-aabbccddeeff".parse().expect("a UUID")).expect("not nil")
}

fn not_leader() -> Failure {
    Failure::NotLeader { node: 2, address: "node-2.example:2113".to_owned() }
}

fn too_large() -> Failure {
    Failure::EventTooLarge { stream: name("s"), id: id(), size: 20, max: 10 }
}

fn deleted(tombstoned: bool) -> Failure {
    Failure::StreamDeleted { stream: name("s"), tombstoned }
}

fn denied() -> Failure {
    Failure::AccessDenied { operation: "streams:write", stream: "$All".to_owned() }
}

fn conflict() -> Failure {
    Failure::Conflict(violation("s", exactly(3), at(7)))
}

/// One of each, so that a table cannot forget one unnoticed.
fn all() -> Vec<Failure> {
    vec![
        Failure::invalid("field", "why"),
        Failure::MissingMetadata,
        Failure::InvalidPosition,
        Failure::MessageTooLarge("large".into()),
        Failure::Received { code: Code::Cancelled, message: "gone".into() },
        too_large(),
        Failure::AppendTooLarge { size: 20, max: 10 },
        Failure::TooManySubscriptions { max: 1, of_caller: false },
        Failure::TooManyCalls { per_second: 1 },
        denied(),
        not_leader(),
        Failure::NotReady,
        Failure::Overloaded,
        Failure::ShuttingDown,
        Failure::DiskFull { free: 5 },
        Failure::TimedOut("why".into()),
        Failure::Behind { wanted: Position::new(9), tail: Position::new(3) },
        conflict(),
        Failure::Inconsistent(vec![violation("s", exactly(3), at(7))]),
        deleted(true),
        deleted(false),
        Failure::SessionTwice(name("s")),
        Failure::SessionEmpty,
        Failure::IndexNotFound("$idx-x".into()),
        Failure::ScavengeNotFound("x".into()),
        Failure::Broken,
    ]
}

/// Code, message and trailers as the table in protocol 2.6 has them.
fn assert_v1(failure: &Failure, code: Code, message: &str, trailers: &[(&str, &str)]) {
    let status = failure.v1();
    assert_eq!((status.code(), status.message()), (code, message), "{failure:?}");
    let mut found: Vec<(String, String)> = Vec::new();
    for entry in status.metadata().iter() {
        if let tonic::metadata::KeyAndValueRef::Ascii(key, value) = entry {
            found.push((key.to_string(), value.to_str().expect("ASCII").to_owned()));
        }
    }
    found.sort();
    let mut expected: Vec<_> = trailers.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    expected.sort();
    assert_eq!(found, expected, "{failure:?}");
    assert!(status.details().is_empty(), "Python trips over rich statuses of v1 calls");
}

#[test]
fn v1_statuses_are_those_of_the_protocol() {
    assert_v1(
        &not_leader(),
        Code::NotFound,
        "Leader info available",
        &[("exception", "not-leader"), ("leader-endpoint-host", "node-2.example"), ("leader-endpoint-port", "2113")],
    );
    assert_v1(&Failure::NotReady, Code::Unavailable, "Server Is Not Ready", &[]);
    assert_v1(&Failure::Overloaded, Code::Unavailable, "Server Is Too Busy", &[]);
    assert_v1(&Failure::ShuttingDown, Code::Unavailable, "Server Is Shutting Down", &[]);
    assert_v1(&denied(), Code::PermissionDenied, "Access Denied", &[("exception", "access-denied")]);
    assert_v1(&Failure::TimedOut("x".into()), Code::Aborted, "Operation timed out: x", &[]);
    assert_v1(
        &deleted(true),
        Code::FailedPrecondition,
        "Event stream 's' is deleted.",
        &[("exception", "stream-deleted"), ("stream-name", "s")],
    );
    assert_v1(
        &conflict(),
        Code::FailedPrecondition,
        "Delete failed due to WrongExpectedVersion. Stream: s, Expected version: 3, Actual version: 7",
        &[
            ("exception", "wrong-expected-version"),
            ("stream-name", "s"),
            ("expected-version", "3"),
            ("actual-version", "7"),
        ],
    );
    assert_v1(
        &Failure::AppendTooLarge { size: 20, max: 10 },
        Code::InvalidArgument,
        "The append exceeds the maximum of 10 bytes.",
        &[("exception", "maximum-append-size-exceeded"), ("maximum-append-size", "10")],
    );
    assert_v1(
        &too_large(),
        Code::InvalidArgument,
        "Event 00112233-4455-6677-8899-aabbccddeeff has 20 bytes, more than the maximum of 10.",
        &[
            ("exception", "maximum-append-event-size-exceeded"),
            ("maximum-append-event-size", "10"),
            ("event-id", "00112233-4455-6677-8899-aabbccddeeff"),
            ("proposed-append-event-size", "20"),
        ],
    );
    assert_v1(
        &Failure::MissingMetadata,
        Code::InvalidArgument,
        "Required metadata properties are missing: type,content-type",
        &[("exception", "missing-required-metadata-property"), ("required-metadata-properties", "type,content-type")],
    );
    assert_v1(&Failure::invalid("f", "why"), Code::InvalidArgument, "why", &[]);
    assert_v1(&Failure::InvalidPosition, Code::InvalidArgument, "Trying to read from an invalid position.", &[]);
    assert_v1(
        &Failure::IndexNotFound("$idx-x".into()),
        Code::NotFound,
        "Index '$idx-x' is not found.",
        &[("exception", "index-not-found"), ("index-name", "$idx-x")],
    );
    assert_v1(
        &Failure::ScavengeNotFound("x".into()),
        Code::NotFound,
        "Scavenge 'x' is not running.",
        &[("exception", "scavenge-not-found"), ("scavenge-id", "x")],
    );
    assert_v1(&Failure::Broken, Code::Unknown, "Exception was thrown by handler.", &[]);
}

#[test]
fn a_conflict_names_states_by_their_numbers() {
    for (expected, actual, text) in [
        (Expected::NoStream, at(2), "Expected version: -1, Actual version: 2"),
        (Expected::Any, Actual::NoStream, "Expected version: -2, Actual version: -1"),
        (Expected::Exists, Actual::NoStream, "Expected version: -4, Actual version: -1"),
        (exactly(0), Actual::SoftDeleted(Revision::saturating(5)), "Expected version: 0, Actual version: 5"),
    ] {
        let message = Failure::Conflict(violation("s", expected, actual)).message();
        assert_eq!(message, format!("Delete failed due to WrongExpectedVersion. Stream: s, {text}"));
    }
}

#[test]
fn only_deletions_are_told_apart_from_conflicts() {
    let soft = Actual::SoftDeleted(Revision::FIRST);
    assert_eq!(Failure::refused(violation("s", Expected::Any, Actual::Tombstoned)), deleted(true));
    assert_eq!(Failure::refused(violation("s", Expected::Exists, soft)), deleted(false));
    for (expected, actual) in [(exactly(1), soft), (Expected::Exists, Actual::NoStream), (Expected::NoStream, at(0))] {
        assert!(matches!(Failure::refused(violation("s", expected, actual)), Failure::Conflict(_)));
    }
}

#[test]
fn a_name_that_is_not_ascii_never_fails_a_call() {
    for (text, expected) in [
        ("plain name/with%41", "plain name/with%41"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("100%-ü", "100%25-%C3%BC"),
        ("日本", "%E6%97%A5%E6%9C%AC"),
        ("", ""),
        (" two  spaces ", "%20two  spaces%20"),
        ("  ", "%20%20"),
    ] {
        assert_eq!(trailer(text), expected, "{text}");
    }
    let longest = "ü".repeat(256);
    let status = Failure::StreamDeleted { stream: name(&longest), tombstoned: true }.v1();
    assert_eq!(status.metadata().get("stream-name").expect("set").as_encoded_bytes().len(), 256 * 6);
}

#[test]
fn the_leader_is_named_without_brackets() {
    let status = Failure::NotLeader { node: 1, address: "[::1]:2113".to_owned() }.v1();
    assert_eq!(status.metadata().get("leader-endpoint-host").expect("set"), "::1");
    assert_eq!(status.metadata().get("leader-endpoint-port").expect("set"), "2113");
}

#[test]
fn entries_of_a_batch_have_exactly_one_detail() {
    for failure in all() {
        let Some(entry) = failure.entry() else {
            let ends_the_call =
                matches!(failure, Failure::NotLeader { .. } | Failure::ShuttingDown | Failure::Received { .. });
            assert!(ends_the_call, "{failure:?}");
            continue;
        };
        assert_eq!(entry.details.len(), 1, "{failure:?}");
        assert_ne!(entry.code, 0, "{failure:?}: a failure is not OK");
    }
}

#[test]
fn entries_of_a_batch_are_those_of_the_protocol() {
    for (failure, code, word) in [
        (conflict(), 6, "WrongExpectedVersion"),
        (deleted(true), 5, "StreamDeleted"),
        (deleted(false), 5, "StreamDeleted"),
        (denied(), 7, "AccessDenied"),
        (Failure::TimedOut("x".into()), 4, "Timeout"),
        (Failure::AppendTooLarge { size: 20, max: 10 }, 3, "MaximumAppendSizeExceeded"),
        (too_large(), 3, "MaximumAppendEventSizeExceeded"),
        (Failure::invalid("f", "why"), 3, "BadRequest"),
        (Failure::MissingMetadata, 3, "BadRequest"),
    ] {
        let entry = failure.entry().expect("an entry");
        assert_eq!((entry.code, entry.message.as_str()), (code, word));
        assert_eq!(entry.details[0].type_url, format!("type.googleapis.com/event_store.client.{word}"));
    }
    for failure in [Failure::NotReady, Failure::Overloaded] {
        let entry = failure.entry().expect("an entry");
        assert_eq!((entry.code, entry.details[0].type_url.as_str()), (14, "type.googleapis.com/google.protobuf.Empty"));
    }
}

#[test]
fn the_detail_of_a_batch_conflict_names_both_sides() {
    let entry = conflict().entry().expect("an entry");
    let detail = old::WrongExpectedVersion::decode(entry.details[0].value.as_slice()).expect("the detail");
    assert_eq!(
        detail,
        old::WrongExpectedVersion {
            current_stream_revision_option: Some(
                old::wrong_expected_version::CurrentStreamRevisionOption::CurrentStreamRevision(7)
            ),
            expected_stream_position_option: Some(
                old::wrong_expected_version::ExpectedStreamPositionOption::ExpectedStreamPosition(3)
            ),
        }
    );
}

fn rich(failure: &Failure) -> (Status, rpc::Status) {
    let status = failure.v2(false);
    let rich = rpc::Status::decode(status.details()).expect("a rich status");
    (status, rich)
}

#[test]
fn a_rich_status_repeats_code_and_message_and_begins_with_its_reason() {
    for failure in all() {
        let (status, rich) = rich(&failure);
        assert_eq!((rich.code, rich.message.as_str()), (status.code() as i32, status.message()), "{failure:?}");
        assert_eq!(rich.details[0].type_url, "type.googleapis.com/google.rpc.ErrorInfo");
        assert!(rich.details.len() <= 2, "{failure:?}: Node reads the last");
    }
}

#[test]
fn v2_statuses_are_those_of_the_protocol() {
    let errors = "kurrentdb.protocol.v2.streams.errors";
    let s = |name: &str| Some(format!("{errors}.{name}ErrorDetails"));
    let plain = |name: &str| Some(name.to_owned());
    let inconsistent = Failure::Inconsistent(vec![violation("s", exactly(3), at(7))]);
    for (failure, reason, domain, code, detail) in [
        (denied(), "ACCESS_DENIED", "server", 7, plain("kurrent.rpc.AccessDeniedErrorDetails")),
        (Failure::invalid("f", "w"), "BAD_REQUEST", "server", 3, plain("google.rpc.BadRequest")),
        (not_leader(), "NOT_LEADER_NODE", "server", 9, plain("kurrent.rpc.NotLeaderNodeErrorDetails")),
        (Failure::TimedOut("x".into()), "OPERATION_TIMEOUT", "server", 4, plain("google.rpc.RetryInfo")),
        (Failure::NotReady, "SERVER_NOT_READY", "server", 14, plain("google.rpc.RetryInfo")),
        (Failure::Overloaded, "SERVER_OVERLOADED", "server", 14, plain("google.rpc.RetryInfo")),
        (Failure::ShuttingDown, "SERVER_SHUTTING_DOWN", "server", 14, plain("google.rpc.RetryInfo")),
        (Failure::Broken, "SERVER_MALFUNCTION", "server", 13, None),
        (deleted(false), "STREAM_DELETED", "streams", 9, s("StreamDeleted")),
        (deleted(true), "STREAM_TOMBSTONED", "streams", 9, s("StreamTombstoned")),
        (conflict(), "STREAM_REVISION_CONFLICT", "streams", 9, s("StreamRevisionConflict")),
        (too_large(), "APPEND_RECORD_SIZE_EXCEEDED", "streams", 3, s("AppendRecordSizeExceeded")),
        (
            Failure::AppendTooLarge { size: 2, max: 1 },
            "APPEND_TRANSACTION_SIZE_EXCEEDED",
            "streams",
            10,
            s("AppendTransactionSizeExceeded"),
        ),
        (
            Failure::SessionTwice(name("s")),
            "STREAM_ALREADY_IN_APPEND_SESSION",
            "streams",
            10,
            s("StreamAlreadyInAppendSession"),
        ),
        (Failure::SessionEmpty, "APPEND_SESSION_NO_REQUESTS", "streams", 9, None),
        (inconsistent, "APPEND_CONSISTENCY_VIOLATION", "streams", 9, s("AppendConsistencyViolation")),
    ] {
        let (_, rich) = rich(&failure);
        let info = rpc::ErrorInfo::decode(rich.details[0].value.as_slice()).expect("ErrorInfo");
        assert_eq!((info.reason.as_str(), info.domain.as_str(), rich.code), (reason, domain, code));
        let told = rich.details.get(1).map(|detail| detail.type_url.clone());
        assert_eq!(told, detail.map(|name| format!("type.googleapis.com/{name}")), "{reason}");
    }
}

#[test]
fn a_v2_call_to_the_wrong_node_has_the_trailers_of_v1_too() {
    let (status, rich) = rich(&not_leader());
    assert_eq!(status.metadata().get("exception").expect("set"), "not-leader");
    assert_eq!(status.metadata().get("leader-endpoint-host").expect("set"), "node-2.example");
    assert_eq!(status.metadata().get("leader-endpoint-port").expect("set"), "2113");
    let detail = kurrent::NotLeaderNodeErrorDetails::decode(rich.details[1].value.as_slice()).expect("the detail");
    let leader = detail.current_leader.expect("named");
    assert_eq!((leader.host.as_str(), leader.port, leader.node_id.as_deref()), ("node-2.example", 2113, Some("2")));
}

#[test]
fn violations_tell_numbers_that_java_knows_wherever_they_explain_enough() {
    let soft = Actual::SoftDeleted(Revision::saturating(4));
    for (expected, actual, state) in [
        (exactly(3), at(7), 7),
        (Expected::NoStream, at(7), 7),
        (Expected::Exists, Actual::NoStream, -1),
        (Expected::Exists, soft, -5),
        (exactly(3), soft, 4),
        (Expected::Any, Actual::Tombstoned, -6),
        (Expected::SoftDeleted, at(2), 2),
    ] {
        assert_eq!(actual_state(expected, actual), state, "{expected:?} {actual:?}");
    }
}

#[test]
fn only_an_unknown_append_is_told_as_a_timeout() {
    assert!(matches!(Failure::from(AppendError::Unknown("x".into())), Failure::TimedOut(_)));
    for error in [
        AppendError::NotLeader { leader: None },
        AppendError::NotLeader { leader: Some((1, "a:1".into())) },
        AppendError::Overloaded,
        AppendError::NotReady("x".into()),
        AppendError::ShuttingDown,
        AppendError::DiskFull { free: 1 },
        AppendError::TooLarge { bytes: 2, max: 1 },
    ] {
        let failure = Failure::from(error);
        assert!(!matches!(failure, Failure::TimedOut(_)), "{failure:?}");
        let told = [failure.v1().code(), failure.v2(true).code()];
        assert!(!told.contains(&Code::DeadlineExceeded), "{failure:?}");
    }
    assert_eq!(Failure::from(AppendError::NotLeader { leader: None }), Failure::NotReady);
}

#[test]
fn what_was_not_received_is_the_clients_own_doing() {
    assert!(matches!(Failure::received(&Status::out_of_range("x")), Failure::MessageTooLarge(_)));
    assert!(matches!(Failure::received(&Status::internal("x")), Failure::Invalid { .. }));
    assert_eq!(Failure::received(&Status::cancelled("x")).v1().code(), Code::Cancelled);
}
