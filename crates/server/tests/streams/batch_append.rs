//! Batch append.

use std::collections::HashMap;

use annals_proto::event_store::client as v1;
use annals_proto::event_store::client::streams as s;
use annals_proto::event_store::client::uuid::Value as UuidValue;
use futures::stream;
use s::{append_req, batch_append_req, batch_append_resp};
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::node::*;
use crate::requests::*;

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
