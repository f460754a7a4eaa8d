//! Soft delete, coming back, and the tombstone that nothing comes back from (2.7, 5.3).

use kurrentdb::{
    AppendToStreamOptions, ReadAllOptions, StreamMetadataBuilder, StreamMetadataResult, StreamPosition, StreamState,
    SubscriptionFilter,
};

use crate::support::*;

const MATCHING: [StreamState; 3] = [StreamState::StreamRevision(2), StreamState::Any, StreamState::StreamExists];
const WRONG: [StreamState; 3] = [StreamState::StreamRevision(1), StreamState::StreamRevision(9), StreamState::NoStream];

#[tokio::test]
async fn a_live_stream_is_soft_deleted_and_comes_back_behind_its_old_end() {
    let client = connect();
    for (expected, returning) in
        MATCHING.into_iter().zip([StreamState::StreamRevision(2), StreamState::Any, StreamState::NoStream])
    {
        let stream = make_live(&client, 3).await;
        let position = delete(&client, &stream, expected).await.expect("soft delete");
        assert!(position.commit > 0 && position.commit == position.prepare);
        assert!(is_missing(&read(&client, &stream).await));
        let batch = events(2);
        let written = append(&client, &stream, returning, &batch).await.expect("comes back");
        assert_eq!(written.next_expected_version, 4);
        let stored = read(&client, &stream).await.expect("read");
        assert_eq!((ids(&stored), revisions(&stored)), (ids_of(&batch), vec![3, 4]));
        assert_eq!(revisions(&read_backwards(&client, &stream).await.expect("read")), [4, 3]);
    }
}

#[tokio::test]
async fn a_live_stream_is_tombstoned_for_ever() {
    let client = connect();
    for expected in MATCHING {
        let stream = make_live(&client, 3).await;
        tombstone(&client, &stream, expected).await.expect("tombstone");
        assert!(is_deleted(&read(&client, &stream).await));
        assert!(is_deleted(&append(&client, &stream, StreamState::Any, &events(1)).await));
        assert!(is_code(&batch_append(&client, &stream, StreamState::Any, &events(1)).await, "NotFound"));
        assert!(is_deleted(&delete(&client, &stream, StreamState::Any).await));
        assert!(is_deleted(&tombstone(&client, &stream, StreamState::Any).await));
        let metadata = StreamMetadataBuilder::new().max_count(1).build();
        let late = client.set_stream_metadata(stream.as_str(), &AppendToStreamOptions::default(), &metadata).await;
        assert!(is_deleted(&late), "{late:?}");
        // The client says it in one way or the other, by whether the error comes before the headers.
        let read = client.get_stream_metadata(stream.as_str(), &backwards().max_count(1)).await;
        assert!(is_deleted(&read) || read.as_ref().is_ok_and(StreamMetadataResult::is_deleted), "{read:?}");
    }
}

#[tokio::test]
async fn a_wrong_expectation_deletes_nothing_and_says_why() {
    let client = connect();
    for expected in WRONG {
        let stream = make_live(&client, 3).await;
        for result in [delete(&client, &stream, expected).await, tombstone(&client, &stream, expected).await] {
            assert!(is_code(&result, "FailedPrecondition"), "{result:?}");
            let text = format!("{:?}", result.expect_err("refused"));
            assert!(text.contains("Actual version: 2") && text.contains(&stream), "{text}");
        }
        assert_eq!(last_revision(&client, &stream).await, Some(2));
    }
}

#[tokio::test]
async fn a_stream_that_never_existed_cannot_be_soft_deleted_but_tombstoned() {
    let client = connect();
    for expected in [StreamState::Any, StreamState::NoStream, StreamState::StreamExists, StreamState::StreamRevision(0)]
    {
        let result = delete(&client, &fresh(), expected).await;
        assert!(is_code(&result, "FailedPrecondition"), "{expected:?}: {result:?}");
    }
    for expected in [StreamState::Any, StreamState::NoStream] {
        let stream = fresh();
        tombstone(&client, &stream, expected).await.expect("tombstone");
        assert!(is_deleted(&read(&client, &stream).await));
    }
    let result = tombstone(&client, &fresh(), StreamState::StreamRevision(0)).await;
    assert!(is_code(&result, "FailedPrecondition"), "{result:?}");
}

#[tokio::test]
async fn a_soft_deleted_stream_can_be_deleted_again_and_tombstoned() {
    let client = connect();
    let stream = make_soft_deleted(&client, 3).await;
    delete(&client, &stream, StreamState::Any).await.expect("again");
    assert!(is_deleted(&delete(&client, &stream, StreamState::StreamExists).await));
    tombstone(&client, &stream, StreamState::Any).await.expect("tombstone");
    assert!(is_deleted(&read(&client, &stream).await));
}

#[tokio::test]
async fn all_shows_what_is_gone_and_the_tombstone() {
    let client = connect();
    let before = end_of_all(&client).await;
    let stream = make_live(&client, 2).await;
    tombstone(&client, &stream, StreamState::Any).await.expect("tombstone");
    let options = ReadAllOptions::default()
        .position(StreamPosition::Position(before))
        .filter(SubscriptionFilter::on_stream_name().add_prefix(&stream));
    let seen = read_all(&client, &options).await.expect("read");
    let types: Vec<_> = seen.iter().map(|e| recorded(e).event_type.as_str()).collect();
    assert_eq!(types, ["Happened", "Happened", "$streamDeleted"]);
    assert_eq!(recorded(&seen[2]).revision, MAX_REVISION);
}
