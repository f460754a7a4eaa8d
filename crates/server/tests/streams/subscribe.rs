//! Subscriptions.

use std::time::Duration;

use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::streams as s;
use bytes::Bytes;
use s::append_req;
use s::read_req::Options;
use s::read_resp::Content;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::node::*;
use crate::requests::*;

/// A subscription being read, with an end to waiting.
struct Subscription(Streaming<s::ReadResp>);

impl Subscription {
    async fn open(channel: &Channel, options: Options) -> Self {
        let mut subscription = Subscription(open(channel, subscribing(options)).await.expect("opened"));
        let first = subscription.next().await;
        assert!(
            matches!(&first, Content::Confirmation(confirmation) if !confirmation.subscription_id.is_empty()),
            "{first:?}"
        );
        subscription
    }

    async fn message(&mut self) -> Result<Option<s::ReadResp>, Status> {
        tokio::time::timeout(PATIENCE, self.0.message()).await.expect("something comes in time")
    }

    async fn next(&mut self) -> Content {
        self.message().await.expect("it goes on").expect("it never ends with OK").content.expect("set")
    }

    /// Everything up to and including what this is looking for.
    async fn until(&mut self, found: impl Fn(&Content) -> bool) -> Vec<Content> {
        let mut all = Vec::new();
        loop {
            all.push(self.next().await);
            if found(all.last().expect("pushed")) {
                return all;
            }
        }
    }

    async fn until_caught_up(&mut self) -> Vec<Content> {
        self.until(|answer| matches!(answer, Content::CaughtUp(_))).await
    }

    async fn events(&mut self, count: usize) -> Vec<Content> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next().await {
                event @ Content::Event(_) => all.push(event),
                Content::CaughtUp(_) | Content::Checkpoint(_) => {}
                other => panic!("{other:?}"),
            }
        }
        all
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.0.message()).await.is_err()
    }
}

fn caught_up_at(answer: &Content) -> (Option<i64>, Option<u64>) {
    match answer {
        Content::CaughtUp(caught_up) => {
            assert!(caught_up.timestamp.is_some());
            (caught_up.stream_revision, caught_up.position.map(|position| position.commit_position))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_subscription_is_confirmed_catches_up_and_goes_on() {
    let channel = shared().await;
    let stream = fresh("subscribed");
    must_append(&channel, &stream, &events(5)).await;
    for (start, behind, last) in [
        (RevisionOption::Start(Empty {}), vec![0, 1, 2, 3, 4], Some(4)),
        (RevisionOption::Revision(0), vec![1, 2, 3, 4], Some(4)),
        (RevisionOption::Revision(3), vec![4], Some(4)),
        (RevisionOption::Revision(4), vec![], Some(4)),
        (RevisionOption::End(Empty {}), vec![], Some(4)),
        (RevisionOption::Revision(u64::MAX), vec![], Some(4)),
        (RevisionOption::Revision(6), vec![], Some(6)),
    ] {
        let mut subscription = Subscription::open(&channel, options(of_stream(&stream, start))).await;
        let caught_up = subscription.until_caught_up().await;
        assert_eq!(revisions(&caught_up), behind, "{start:?}");
        assert_eq!(caught_up_at(caught_up.last().expect("one")), (last, None), "{start:?}");
        assert!(subscription.is_silent().await);
    }
    let mut from_start = Subscription::open(&channel, forwards(&stream)).await;
    let mut from_future = Subscription::open(&channel, from_revision(&stream, 6)).await;
    from_start.until_caught_up().await;
    from_future.until_caught_up().await;
    must_append(&channel, &stream, &events(2)).await;
    must_append(&channel, &stream, &events(2)).await;
    assert_eq!(revisions(&from_start.events(4).await), [5, 6, 7, 8]);
    assert_eq!(revisions(&from_future.events(2).await), [7, 8]);
    assert!(from_start.is_silent().await);
}

#[tokio::test]
async fn a_missing_stream_is_waited_for() {
    let channel = shared().await;
    let stream = fresh("awaited");
    let mut subscription = Subscription::open(&channel, forwards(&stream)).await;
    assert_eq!(caught_up_at(&subscription.next().await), (None, None));
    must_append(&channel, &fresh("other"), &events(1)).await;
    assert!(subscription.is_silent().await);
    must_append(&channel, &stream, &events(1)).await;
    assert_eq!(revisions(&subscription.events(1).await), [0]);
}

#[tokio::test]
async fn a_tombstone_is_the_last_event_and_no_ok() {
    let channel = shared().await;
    let stream = fresh("ending");
    must_append(&channel, &stream, &events(1)).await;
    let mut live = Subscription::open(&channel, forwards(&stream)).await;
    live.until_caught_up().await;
    must_append(&channel, &stream, &events(2)).await;
    tombstone(&channel, &stream).await.expect("ended");
    let last = live
        .until(|answer| matches!(answer, Content::Event(event) if original(event).metadata["type"] == "$streamDeleted"))
        .await;
    assert_eq!(revisions(&last), [1, 2, i64::MAX as u64], "what came before is not lost");
    assert_stream_deleted(&live.message().await.expect_err("it ended"), &stream);
}

#[tokio::test]
async fn truncation_hides_the_past_from_a_subscription_but_nothing_new() {
    let channel = shared().await;
    let stream = fresh("one");
    must_append(&channel, &stream, &events(5)).await;
    must_append(&channel, &format!("$${stream}"), &[metadata_event(r#"{"$maxCount":1}"#)]).await;
    let mut subscription = Subscription::open(&channel, forwards(&stream)).await;
    assert_eq!(revisions(&subscription.until_caught_up().await), [4]);
    must_append(&channel, &stream, &events(20)).await;
    assert_eq!(revisions(&subscription.events(20).await), (5..25).collect::<Vec<_>>());
    delete(&channel, &stream).await.expect("deleted");
    assert!(subscription.is_silent().await, "a soft delete is nothing special");
    must_append(&channel, &stream, &events(1)).await;
    assert_eq!(revisions(&subscription.events(1).await), [25]);
}

#[tokio::test]
async fn a_filtered_subscription_tells_its_progress_also_where_nothing_matches() {
    let channel = shared().await;
    let start = must_append(&channel, &fresh("noise"), &events(1)).await;
    must_append(&channel, &fresh("noise"), &events(105)).await;
    let nothing = by_prefix(&word("nothing"));
    let mut subscription = Subscription::open(&channel, filtered(options(of_all(at(start))), nothing)).await;
    let caught_up = subscription.until_caught_up().await;
    let checkpoints: Vec<u64> = caught_up
        .iter()
        .filter_map(|answer| match answer {
            Content::Checkpoint(checkpoint) => {
                assert_eq!(checkpoint.commit_position, checkpoint.prepare_position);
                assert!(checkpoint.timestamp.is_some());
                Some(checkpoint.commit_position)
            }
            _ => None,
        })
        .collect();
    assert!(checkpoints.len() >= 10, "one each ten events: {checkpoints:?}");
    assert_eq!(&checkpoints[..10], (1..=10).map(|n| start + 10 * n).collect::<Vec<_>>());
    assert!(checkpoints.is_sorted_by(|a, b| a < b), "none is repeated: {checkpoints:?}");
    let at_end = caught_up_at(caught_up.last().expect("one"));
    assert_eq!(at_end, (None, checkpoints.last().copied()), "and one when it becomes live");

    let position = must_append(&channel, &fresh("noise"), &events(1)).await;
    let idle =
        subscription.until(|answer| matches!(answer, Content::Checkpoint(c) if c.commit_position >= position)).await;
    assert!(
        idle.iter().all(|answer| matches!(answer, Content::Checkpoint(_))),
        "fewer than an interval, told when idle"
    );
}

#[tokio::test]
async fn a_selection_by_an_index_can_be_subscribed_to() {
    let channel = shared().await;
    let category = word("watched");
    let first = must_append(&channel, &format!("{category}-a"), &events(2)).await;
    let index = by_prefix(&format!("$idx-ce-{category}"));
    let mut subscription =
        Subscription::open(&channel, filtered(options(of_all(AllOption::Start(Empty {}))), index)).await;
    let caught_up = subscription.until_caught_up().await;
    assert_eq!(positions(&caught_up), [first - 1, first]);
    must_append(&channel, &fresh("noise"), &events(3)).await;
    let second = must_append(&channel, &format!("{category}-b"), &events(1)).await;
    assert_eq!(positions(&subscription.events(1).await), [second]);
}

#[tokio::test]
async fn an_index_can_be_subscribed_to() {
    let channel = shared().await;
    let category = word("followed");
    let index = format!("$ce-{category}");
    let mut plain = Subscription::open(&channel, forwards(&index)).await;
    let mut resolved = Subscription::open(&channel, resolving(forwards(&index))).await;
    plain.until_caught_up().await;
    resolved.until_caught_up().await;
    for n in 0..5 {
        must_append(&channel, &format!("{category}-{n}"), &events(2)).await;
    }
    assert_eq!(revisions(&plain.events(10).await), (0..10).collect::<Vec<_>>());
    let resolved = resolved.events(10).await;
    assert!(events_of(&resolved).iter().all(|event| event.event.is_some() && event.link.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_repeated_while_others_write() {
    let channel = shared().await;
    let stream = fresh("busy");
    let start = must_append(&channel, &stream, &events(1)).await;
    let writing = {
        let (channel, stream) = (channel.clone(), stream.clone());
        tokio::spawn(async move {
            for _ in 0..300 {
                must_append(&channel, &stream, &events(7)).await;
            }
        })
    };
    let mut readers = Vec::new();
    for n in 0..8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (channel, stream) = (channel.clone(), stream.clone());
        readers.push(tokio::spawn(async move {
            let source = match n % 4 {
                0 => forwards(&stream),
                1 => filtered(options(of_all(at(start - 1))), by_prefix(&stream)),
                2 => options(of_all(at(start - 1))),
                _ => resolving(forwards(&stream)),
            };
            let mut subscription = Subscription::open(&channel, source).await;
            let mut seen = Vec::new();
            while seen.len() < 2101 {
                if let Content::Event(event) = subscription.next().await
                    && original(&event).stream_identifier == identifier(&stream)
                {
                    seen.push(original(&event).stream_revision);
                }
            }
            assert_eq!(seen, (0..2101).collect::<Vec<_>>(), "reader {n}");
        }));
    }
    writing.await.expect("written");
    for reader in readers {
        reader.await.expect("complete");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let channel = shared().await;
    let stream = fresh("stalled");
    let large = || append_req::ProposedMessage { data: Bytes::from(vec![1; 1 << 20]), ..event("T") };
    for _ in 0..3 {
        must_append(&channel, &stream, &(0..10).map(|_| large()).collect::<Vec<_>>()).await;
    }
    // On its own connection, so that only its own flow control is exhausted.
    let node = shared().await;
    let mut stalled = open(&node, subscribing(forwards(&stream))).await.expect("opened");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_serving(&channel).await;
    let mut count = 0;
    while count < 30 {
        if let Some(Content::Event(_)) = stalled.message().await.expect("it goes on").expect("no end").content {
            count += 1;
        }
    }
}

#[tokio::test]
async fn a_node_that_stops_ends_subscriptions_with_unavailable() {
    let node = start("stopping");
    let channel = connect(&node.address).await;
    let stream = fresh("stopped");
    must_append(&channel, &stream, &events(2)).await;
    let all = options(of_all(AllOption::Start(Empty {})));
    let mut subscriptions = vec![
        Subscription::open(&channel, forwards(&stream)).await,
        Subscription::open(&channel, all.clone()).await,
        Subscription::open(&channel, filtered(all, by_prefix("x"))).await,
        Subscription::open(&channel, forwards("$ce-stopped")).await,
    ];
    for subscription in &mut subscriptions {
        subscription.until_caught_up().await;
    }
    let (_sender, receiver) = mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut batches = streams(&channel).batch_append(requests).await.expect("opened").into_inner();
    node.stop.cancel();
    for subscription in &mut subscriptions {
        let status = loop {
            match subscription.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a subscription never ends with OK"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    let status = batches.message().await.expect_err("the call is ended");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}
