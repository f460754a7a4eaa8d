//! Consumer groups: everybody gets something, nobody forgets anything (6).

use std::time::Duration;

use kurrentdb::{
    Client, DeletePersistentSubscriptionOptions, Error, GetPersistentSubscriptionInfoOptions, NakAction,
    PersistentSubscription, PersistentSubscriptionEvent, PersistentSubscriptionOptions, ReplayParkedMessagesOptions,
    StreamPosition, SubscribeToPersistentSubscriptionOptions,
};

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> PersistentSubscriptionOptions {
    PersistentSubscriptionOptions::default()
        .start_from(StreamPosition::Start)
        .checkpoint_after(Duration::from_millis(200))
        .checkpoint_lower_bound(1)
}

async fn consume(client: &Client, stream: &str, group: &str) -> PersistentSubscription {
    let options = SubscribeToPersistentSubscriptionOptions::default();
    client.subscribe_to_persistent_subscription(stream, group, &options).await.expect("consumes")
}

/// The next event, its revision and how often it failed.
async fn next(subscription: &mut PersistentSubscription) -> (kurrentdb::ResolvedEvent, u64, usize) {
    loop {
        let event = tokio::time::timeout(PATIENCE, subscription.next_subscription_event()).await;
        match event.expect("in time").expect("an event") {
            PersistentSubscriptionEvent::EventAppeared { retry_count, event } => {
                let revision = event.get_original_event().revision;
                return (event, revision, retry_count);
            }
            PersistentSubscriptionEvent::Confirmed(id) => assert!(id.contains("::"), "{id}"),
        }
    }
}

async fn until_parked(client: &Client, stream: &str, group: &str, count: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let options = GetPersistentSubscriptionInfoOptions::default();
        let info = client.get_persistent_subscription_info(stream, group, &options).await.expect("info");
        assert_eq!((info.event_source.as_str(), info.group_name.as_str()), (stream, group));
        if info.stats.parked_message_count == count {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{} parked, not {count}", info.stats.parked_message_count);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn events_are_acked_retried_parked_and_replayed() {
    let client = connect();
    let (stream, group) = (make_live(&client, 10).await, fresh());
    client.create_persistent_subscription(stream.as_str(), &group, &options().max_retry_count(1)).await.expect("made");
    let mut subscription = consume(&client, &stream, &group).await;
    for expected in 0..9 {
        let (event, revision, retries) = next(&mut subscription).await;
        assert_eq!((revision, retries), (expected, 0));
        subscription.ack(&event).await.expect("acked");
    }
    for retries in 0..2 {
        let (event, revision, failed) = next(&mut subscription).await;
        assert_eq!((revision, failed), (9, retries));
        subscription.nack(&event, NakAction::Retry, "no").await.expect("nacked");
    }
    until_parked(&client, &stream, &group, 1).await;
    let replay = ReplayParkedMessagesOptions::default();
    client.replay_parked_messages(stream.as_str(), &group, &replay).await.expect("replays");
    let (event, revision, retries) = next(&mut subscription).await;
    assert_eq!((revision, retries), (9, 0));
    subscription.ack(&event).await.expect("acked");
    until_parked(&client, &stream, &group, 0).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_group_is_told() {
    let client = connect();
    let (stream, group) = (make_live(&client, 1).await, fresh());
    let consume = SubscribeToPersistentSubscriptionOptions::default();
    let missing = client.subscribe_to_persistent_subscription(stream.as_str(), &group, &consume).await;
    assert!(matches!(missing.map(|_| ()), Err(Error::ResourceNotFound)));
    client.create_persistent_subscription(stream.as_str(), &group, &options()).await.expect("made");
    let again = client.create_persistent_subscription(stream.as_str(), &group, &options()).await;
    assert!(matches!(again, Err(Error::ResourceAlreadyExists)), "{again:?}");
    let delete = DeletePersistentSubscriptionOptions::default();
    client.delete_persistent_subscription(stream.as_str(), &group, &delete).await.expect("deleted");
    let gone = client.delete_persistent_subscription(stream.as_str(), &group, &delete).await;
    assert!(matches!(gone, Err(Error::ResourceNotFound)), "{gone:?}");
}
