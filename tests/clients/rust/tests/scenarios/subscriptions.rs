//! Catch-up subscriptions: nothing missed, nothing repeated, in order (3.2, 3.5, 3.6).

use std::time::Duration;

use kurrentdb::{
    AppendToStreamOptions, Client, Error, Position, StreamMetadataBuilder, StreamPosition, StreamState,
    SubscribeToAllOptions, SubscribeToStreamOptions, SubscriptionFilter,
};
use serde_json::json;

use crate::support::*;

async fn subscribe(client: &Client, stream: &str, start: StreamPosition<u64>) -> Subscriber {
    let options = SubscribeToStreamOptions::default().start_from(start);
    Subscriber::new(client.subscribe_to_stream(stream, &options).await)
}

async fn subscribe_all(client: &Client, options: SubscribeToAllOptions) -> Subscriber {
    Subscriber::new(client.subscribe_to_all(&options).await)
}

fn behind(position: Position) -> SubscribeToAllOptions {
    SubscribeToAllOptions::default().position(StreamPosition::Position(position))
}

#[tokio::test]
async fn from_the_start_everything_comes_then_caught_up_then_what_is_new() {
    let client = connect();
    let stream = make_live(&client, 100).await;
    let mut subscriber = subscribe(&client, &stream, StreamPosition::Start).await;
    assert_eq!(subscriber.until_caught_up().await.stream_revision, Some(99));
    assert!(subscriber.confirmed.as_deref().is_some_and(|id| !id.is_empty()));
    assert_eq!(revisions(&subscriber.events), range(0, 100));
    add(&client, &stream, 3).await;
    assert_eq!(revisions(subscriber.until_events(103).await), range(0, 103));
}

#[tokio::test]
async fn from_the_middle_zero_the_end_and_the_future_what_is_behind_comes() {
    let client = connect();
    for (start, wanted) in [
        (StreamPosition::Position(6), range(7, 15)),
        (StreamPosition::Position(0), range(1, 15)),
        (StreamPosition::End, range(10, 15)),
        (StreamPosition::Position(12), range(13, 15)),
    ] {
        let stream = make_live(&client, 10).await;
        let mut subscriber = subscribe(&client, &stream, start).await;
        subscriber.until_caught_up().await;
        add(&client, &stream, 5).await;
        assert_eq!(revisions(subscriber.until_events(wanted.len()).await), wanted, "{start:?}");
    }
}

#[tokio::test]
async fn a_missing_stream_is_waited_for_and_a_soft_deleted_one_looks_empty() {
    let client = connect();
    for (stream, first) in [(fresh(), 0), (make_soft_deleted(&client, 3).await, 3)] {
        let mut subscriber = subscribe(&client, &stream, StreamPosition::Start).await;
        subscriber.until_caught_up().await;
        subscriber.stays_quiet().await;
        add(&client, &stream, 2).await;
        assert_eq!(revisions(subscriber.until_events(2).await), range(first, first + 2));
    }
}

#[tokio::test]
async fn a_tombstone_is_delivered_and_ends_the_subscription() {
    let client = connect();
    let stream = make_live(&client, 2).await;
    let mut subscriber = subscribe(&client, &stream, StreamPosition::Start).await;
    subscriber.until_caught_up().await;
    tombstone(&client, &stream, StreamState::Any).await.expect("tombstone");
    let error = subscriber.until_error().await;
    assert!(matches!(error, Error::ResourceDeleted), "{error:?}");
    assert_eq!(revisions(&subscriber.events), [0, 1, MAX_REVISION]);
    assert_eq!(recorded(&subscriber.events[2]).event_type, "$streamDeleted");

    let mut late = subscribe(&client, &stream, StreamPosition::Start).await;
    let error = late.until_error().await;
    assert!(matches!(error, Error::ResourceDeleted), "{error:?}");
}

#[tokio::test]
async fn a_subscription_lives_through_a_soft_delete_and_sees_no_truncated_events() {
    let client = connect();
    let stream = make_live(&client, 10).await;
    let metadata = StreamMetadataBuilder::new().max_count(3).build();
    client.set_stream_metadata(stream.as_str(), &AppendToStreamOptions::default(), &metadata).await.expect("metadata");
    let mut subscriber = subscribe(&client, &stream, StreamPosition::Start).await;
    subscriber.until_caught_up().await;
    assert_eq!(revisions(&subscriber.events), [7, 8, 9]);
    delete(&client, &stream, StreamState::Any).await.expect("soft delete");
    add(&client, &stream, 2).await;
    assert_eq!(revisions(subscriber.until_events(5).await), [7, 8, 9, 10, 11]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_repeated_where_catching_up_turns_into_live() {
    let client = connect();
    let stream = fresh();
    let writer = tokio::spawn({
        let (client, stream) = (client.clone(), stream.clone());
        async move {
            let mut written = Vec::new();
            while written.len() < 2000 {
                written.extend(add(&client, &stream, 10).await);
            }
            written
        }
    });
    let mut subscribers = Vec::new();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        subscribers.push(subscribe(&client, &stream, StreamPosition::Start).await);
    }
    let written = writer.await.expect("written");
    for subscriber in &mut subscribers {
        assert_eq!(ids(subscriber.until_events(written.len()).await), written);
    }
}

#[tokio::test]
async fn all_from_the_start_a_position_and_the_end() {
    let client = connect();
    let before = end_of_all(&client).await;
    let old = add(&client, &fresh(), 2).await;

    let mut start = subscribe_all(&client, SubscribeToAllOptions::default()).await;
    let first = recorded(&start.until_events(1).await[0]).position;
    assert!(first.commit > 0, "position 0 is never a visible event");

    let mut middle = subscribe_all(&client, behind(before)).await;
    let caught_up = middle.until_caught_up().await;
    assert!(caught_up.position.expect("a position") > before);
    let mut end = subscribe_all(&client, SubscribeToAllOptions::default().position(StreamPosition::End)).await;
    end.until_caught_up().await;

    let new = add(&client, &fresh(), 3).await;
    let both = [old.clone(), new.clone()].concat();
    for (subscriber, wanted) in [(&mut middle, &both), (&mut end, &new)] {
        let last = new[2];
        subscriber.until(move |s| s.events.iter().any(|e| recorded(e).id == last), "the new events").await;
        let mine: Vec<_> = ids(&subscriber.events).into_iter().filter(|id| both.contains(id)).collect();
        assert_eq!(&mine, wanted);
    }
}

#[tokio::test]
async fn filtered_subscriptions_deliver_matches_from_history_and_live() {
    let client = connect();
    let filters: [fn(&str) -> SubscriptionFilter; 4] = [
        |word| SubscriptionFilter::on_event_type().regex(format!("^{word}$")),
        |word| SubscriptionFilter::on_event_type().add_prefix(word),
        |word| SubscriptionFilter::on_stream_name().regex(format!("^{word}-")),
        |word| SubscriptionFilter::on_event_type().regex(format!("^(?!(\\$.+$|Noise$)){word}")),
    ];
    for filter in filters {
        let (before, word) = (end_of_all(&client).await, fresh_word());
        let mut wanted = Vec::new();
        let mix = async |wanted: &mut Vec<_>| {
            for n in 0..5 {
                let new = event(&word, &json!({ "n": n }));
                append(&client, &format!("{word}-1"), StreamState::Any, std::slice::from_ref(&new))
                    .await
                    .expect("append");
                add(&client, &fresh(), 1).await;
                wanted.push(new.id);
            }
        };
        mix(&mut wanted).await;
        let mut subscriber = subscribe_all(&client, behind(before).filter(filter(&word))).await;
        subscriber.until_caught_up().await;
        assert_eq!(ids(&subscriber.events), wanted);
        mix(&mut wanted).await;
        assert_eq!(ids(subscriber.until_events(10).await), wanted);
    }
}

#[tokio::test]
async fn checkpoints_come_while_nothing_matches_and_can_be_resumed_at() {
    let client = connect();
    let (before, word) = (end_of_all(&client).await, fresh_word());
    let filter = || SubscriptionFilter::on_event_type().add_prefix(&word).max(10);
    add(&client, &fresh(), 200).await;
    let mut subscriber = subscribe_all(&client, behind(before).filter(filter())).await;
    subscriber.until_caught_up().await;
    let caught_up = subscriber.checkpoints.len();
    assert!(caught_up >= 20, "one every ten examined events, saw {caught_up}");
    add(&client, &fresh(), 100).await;
    subscriber.until(|s| s.checkpoints.len() >= caught_up + 5, "checkpoints while live").await;
    assert!(subscriber.checkpoints[0] > before);
    assert!(subscriber.checkpoints.windows(2).all(|w| w[0] < w[1]), "they advance and are not repeated");
    assert!(subscriber.events.is_empty());

    let at = *subscriber.checkpoints.last().expect("one");
    let new = event(&word, &json!({}));
    append(&client, &fresh(), StreamState::Any, std::slice::from_ref(&new)).await.expect("append");
    let mut resumed = subscribe_all(&client, behind(at).filter(filter())).await;
    assert_eq!(ids(resumed.until_events(1).await), [new.id]);
    assert_eq!(ids(subscriber.until_events(1).await), [new.id]);
}
