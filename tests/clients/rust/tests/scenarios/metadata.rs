//! Stream metadata and what it hides (5.1, 3.7).
//!
//! This client writes `$maxAge` in milliseconds where the server counts seconds, so
//! that key is left to the other suites.

use kurrentdb::{
    Acl, AppendToStreamOptions, Client, Error, StreamAclBuilder, StreamMetadata, StreamMetadataBuilder,
    StreamMetadataResult, StreamState,
};

use crate::support::*;

async fn set(client: &Client, stream: &str, metadata: &StreamMetadata) {
    client.set_stream_metadata(stream, &AppendToStreamOptions::default(), metadata).await.expect("metadata");
}

async fn get(client: &Client, stream: &str) -> (StreamMetadata, u64) {
    match client.get_stream_metadata(stream, &backwards().max_count(1)).await.expect("an answer") {
        StreamMetadataResult::Success(found) => (found.metadata().clone(), found.version()),
        other => panic!("metadata of {stream}: {other:?}"),
    }
}

#[tokio::test]
async fn metadata_is_kept_with_acl_and_custom_keys_and_replaced_as_a_whole() {
    let client = connect();
    let stream = make_live(&client, 3).await;
    let none = client.get_stream_metadata(stream.as_str(), &backwards().max_count(1)).await.expect("an answer");
    assert!(none.is_not_found());
    let acl = StreamAclBuilder::new().add_read_roles("$all").add_write_roles("ops").add_write_roles("admin").build();
    let rich = StreamMetadataBuilder::new()
        .max_count(10)
        .truncate_before(1)
        .acl(Acl::Stream(acl))
        .insert_custom_property("größe", vec![1, 2])
        .build();
    set(&client, &stream, &rich).await;
    assert_eq!(get(&client, &stream).await, (rich, 0));
    let plain = StreamMetadataBuilder::new().max_count(2).build();
    set(&client, &stream, &plain).await;
    assert_eq!(get(&client, &stream).await, (plain, 1));
    let shown = read(&client, &format!("$${stream}")).await.expect("read");
    assert_eq!(revisions(&shown), [1], "a metastream shows its newest event only");
}

#[tokio::test]
async fn the_expected_revision_of_metadata_is_that_of_the_metadata() {
    let client = connect();
    let stream = make_live(&client, 5).await;
    let metadata = StreamMetadataBuilder::new().max_count(3).build();
    for (state, accepted) in [
        (StreamState::NoStream, true),
        (StreamState::StreamRevision(4), false),
        (StreamState::NoStream, false),
        (StreamState::StreamRevision(0), true),
    ] {
        let options = AppendToStreamOptions::default().stream_state(state);
        let result = client.set_stream_metadata(stream.as_str(), &options, &metadata).await;
        assert_eq!(result.is_ok(), accepted, "{state:?}: {result:?}");
        assert!(accepted || matches!(result, Err(Error::WrongExpectedVersion { .. })));
    }
}

#[tokio::test]
async fn count_and_truncation_hide_and_the_stricter_holds() {
    let client = connect();
    let stream = make_live(&client, 20).await;
    let shown = async || revisions(&read(&client, &stream).await.expect("read"));
    set(&client, &stream, &StreamMetadataBuilder::new().max_count(5).build()).await;
    assert_eq!(shown().await, range(15, 20));
    set(&client, &stream, &StreamMetadataBuilder::new().truncate_before(18).build()).await;
    assert_eq!(shown().await, [18, 19]);
    set(&client, &stream, &StreamMetadataBuilder::new().truncate_before(12).max_count(4).build()).await;
    assert_eq!(shown().await, range(16, 20));
    set(&client, &stream, &StreamMetadataBuilder::new().truncate_before(30).build()).await;
    assert_eq!(shown().await, range(0, 0), "beyond the end: empty, not missing");
    set(&client, &stream, &StreamMetadata::default()).await;
    assert_eq!(shown().await, range(0, 20));
}

#[tokio::test]
async fn deletion_and_return_are_written_in_the_metadata() {
    let client = connect();
    let stream = make_soft_deleted(&client, 3).await;
    assert_eq!(get(&client, &stream).await, (StreamMetadataBuilder::new().truncate_before(MAX_REVISION).build(), 0));
    add(&client, &stream, 1).await;
    assert_eq!(get(&client, &stream).await, (StreamMetadataBuilder::new().truncate_before(3).build(), 1));
    delete(&client, &stream, StreamState::Any).await.expect("soft delete");
    set(&client, &stream, &StreamMetadataBuilder::new().max_count(7).build()).await;
    let undeleted = StreamMetadataBuilder::new().max_count(7).truncate_before(4).build();
    assert_eq!(get(&client, &stream).await, (undeleted, 4), "the client's event and the server's");
    assert!(read(&client, &stream).await.expect("it exists").is_empty());
}
