//! Reads that say what they want to see.

use annals_proto::event_store::client::streams as s;
use futures::stream;
use s::append_resp;
use s::read_req::Options;
use s::read_resp::Content;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::node::*;
use crate::requests::*;

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
