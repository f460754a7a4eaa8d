//! Deletion.

use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::streams as s;
use tonic::Code;

use crate::node::*;
use crate::requests::*;

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
