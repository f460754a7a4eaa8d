//! Stream names with `/`, `@`, spaces and letters beyond ASCII, in success and in every error.

use kurrentdb::{
    AppendToStreamOptions, Error, ReadAllOptions, StreamMetadataBuilder, StreamPosition, StreamState,
    SubscribeToStreamOptions, SubscriptionFilter,
};
use uuid::Uuid;

use crate::support::*;

fn names() -> Vec<String> {
    let id = || Uuid::new_v4().to_string();
    vec![
        format!("orders/2026/07/{}", id()),
        format!("a@b@{}", id()),
        format!(" two  spaces and a tail {} ", id()),
        format!("größe-{}", id()),
        format!("заказ-注文-{}", id()),
        format!("🚀-{}", id()),
        format!("100%25+{}&x=y", id()),
        format!("{}{}", "x".repeat(400), id()),
    ]
}

#[tokio::test]
async fn awkward_names_work_in_success() {
    let client = connect();
    for name in names() {
        let before = end_of_all(&client).await;
        append(&client, &name, StreamState::NoStream, &events(2)).await.expect("append");
        batch_append(&client, &name, StreamState::StreamRevision(1), &events(1)).await.expect("batch append");
        let stored = read(&client, &name).await.expect("read");
        assert!(stored.iter().all(|e| recorded(e).stream_id() == name), "{name}");
        assert_eq!(revisions(&stored), range(0, 3));
        let options = ReadAllOptions::default()
            .position(StreamPosition::Position(before))
            .filter(SubscriptionFilter::on_stream_name().add_prefix(&name));
        assert_eq!(ids(&read_all(&client, &options).await.expect("read")), ids(&stored), "{name}");
        let links = format!("{name}-links");
        append(&client, &links, StreamState::Any, &[link(1, &name)]).await.expect("link");
        let resolved = read_resolved(&client, &links).await.expect("read");
        assert_eq!((recorded(&resolved[0]).stream_id(), recorded(&resolved[0]).revision), (name.as_str(), 1));
        let options = SubscribeToStreamOptions::default().start_from(StreamPosition::Start);
        let mut subscriber = Subscriber::new(client.subscribe_to_stream(name.as_str(), &options).await);
        assert_eq!(ids(subscriber.until_events(3).await), ids(&stored));
        let metadata = StreamMetadataBuilder::new().max_count(1).build();
        client
            .set_stream_metadata(name.as_str(), &AppendToStreamOptions::default(), &metadata)
            .await
            .expect("metadata");
        assert_eq!(revisions(&read(&client, &name).await.expect("read")), [2]);
        delete(&client, &name, StreamState::StreamRevision(2)).await.expect("soft delete");
        add(&client, &name, 1).await;
        tombstone(&client, &name, StreamState::StreamRevision(3)).await.expect("tombstone");
    }
}

#[tokio::test]
async fn awkward_names_work_in_every_error() {
    let client = connect();
    for name in names() {
        assert!(is_missing(&read(&client, &name).await), "{name}");
        let absent = delete(&client, &name, StreamState::Any).await;
        assert!(is_code(&absent, "FailedPrecondition"), "{name}: {absent:?}");

        make_live_as(&client, 2, name.clone()).await;
        let seven = StreamState::StreamRevision(7);
        let conflict = append(&client, &name, seven, &events(1)).await;
        assert!(matches!(conflict, Err(Error::WrongExpectedVersion { .. })), "{name}: {conflict:?}");
        let conflict = batch_append(&client, &name, seven, &events(1)).await;
        assert!(is_code(&conflict, "AlreadyExists"), "{name}: {conflict:?}");
        for conflict in [delete(&client, &name, seven).await, tombstone(&client, &name, seven).await] {
            assert!(is_code(&conflict, "FailedPrecondition"), "{name}: {conflict:?}");
            let Err(Error::Grpc { message, .. }) = conflict else { unreachable!("checked above") };
            assert!(message.contains(&format!("Stream: {name},")), "{message}");
        }

        delete(&client, &name, StreamState::Any).await.expect("soft delete");
        assert!(is_missing(&read(&client, &name).await), "{name}");
        let exists = StreamState::StreamExists;
        assert!(is_deleted(&append(&client, &name, exists, &events(1)).await), "{name}");
        assert!(is_code(&batch_append(&client, &name, exists, &events(1)).await, "NotFound"), "{name}");
        assert!(is_deleted(&delete(&client, &name, exists).await), "{name}");

        tombstone(&client, &name, StreamState::Any).await.expect("tombstone");
        assert!(is_deleted(&read(&client, &name).await), "{name}");
        assert!(is_deleted(&append(&client, &name, StreamState::Any, &events(1)).await), "{name}");
        assert!(is_code(&batch_append(&client, &name, StreamState::Any, &events(1)).await, "NotFound"), "{name}");
        assert!(is_deleted(&delete(&client, &name, StreamState::Any).await), "{name}");
        let options = SubscribeToStreamOptions::default();
        let mut subscriber = Subscriber::new(client.subscribe_to_stream(name.as_str(), &options).await);
        assert!(matches!(subscriber.until_error().await, Error::ResourceDeleted), "{name}");
    }
}
