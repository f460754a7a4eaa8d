//! Appends.

use annals_proto::event_store::client as v1;
use annals_proto::event_store::client::streams as s;
use annals_proto::event_store::client::{Empty, StreamIdentifier};
use bytes::Bytes;
use s::read_resp::Content;
use s::{append_req, append_resp};
use tonic::Code;

use crate::node::*;
use crate::requests::*;

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
