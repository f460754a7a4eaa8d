//! Every expected state against every state of a stream (2.1), over `Append` and `BatchAppend`.

use kurrentdb::{CurrentRevision, Error, StreamState};

use crate::support::*;

const LAST: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Missing,
    MetadataOnly,
    Live,
    SoftDeleted,
    Tombstoned,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Written(u64),
    Conflict(CurrentRevision),
    Deleted,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Append,
    Batch,
}

const EXPECTED: [StreamState; 6] = [
    StreamState::StreamRevision(LAST),
    StreamState::StreamRevision(LAST - 1),
    StreamState::StreamRevision(LAST + 7),
    StreamState::NoStream,
    StreamState::Any,
    StreamState::StreamExists,
];

fn outcome(is: Is, expected: StreamState) -> Then {
    use CurrentRevision::{Current, NoStream};
    use Then::{Conflict, Deleted, Written};

    match (is, expected) {
        (Is::Tombstoned, _) => Deleted,
        (Is::Missing, StreamState::StreamExists) => Conflict(NoStream),
        (Is::Missing | Is::MetadataOnly, StreamState::StreamRevision(_)) => Conflict(NoStream),
        (Is::Missing | Is::MetadataOnly, _) => Written(0),
        (Is::Live, StreamState::NoStream) => Conflict(Current(LAST)),
        (Is::SoftDeleted, StreamState::StreamExists) => Deleted,
        (Is::Live | Is::SoftDeleted, StreamState::StreamRevision(n)) if n != LAST => Conflict(Current(LAST)),
        (Is::Live | Is::SoftDeleted, _) => Written(LAST + 1),
    }
}

async fn check_row(is: Is, way: Way) {
    let client = connect();
    for expected in EXPECTED {
        let cell = format!("{way:?} to {is:?} expecting {expected:?}");
        let stream = match is {
            Is::Missing => fresh(),
            Is::MetadataOnly => make_metadata_only(&client).await,
            Is::Live => make_live(&client, 3).await,
            Is::SoftDeleted => make_soft_deleted(&client, 3).await,
            Is::Tombstoned => make_tombstoned(&client, 3).await,
        };
        let new = happened();
        let one = std::slice::from_ref(&new);
        let wanted = outcome(is, expected);
        match way {
            Way::Append => {
                let result = append(&client, &stream, expected, one).await;
                match wanted {
                    Then::Written(revision) => {
                        let written = result.unwrap_or_else(|e| panic!("{cell}: {e:?}"));
                        assert_eq!(written.next_expected_version, revision, "{cell}");
                        assert_eq!(written.position.commit, written.position.prepare, "{cell}");
                    }
                    Then::Conflict(actual) => match result {
                        Err(Error::WrongExpectedVersion { expected: told, current }) => {
                            assert_eq!((told, current), (expected, actual), "{cell}");
                        }
                        other => panic!("{cell}: {other:?}"),
                    },
                    Then::Deleted => assert!(is_deleted(&result), "{cell}: {result:?}"),
                }
            }
            Way::Batch => {
                let result = batch_append(&client, &stream, expected, one).await;
                match wanted {
                    Then::Written(revision) => {
                        let (at, position) = result.unwrap_or_else(|e| panic!("{cell}: {e:?}"));
                        assert_eq!(at, Some(revision), "{cell}");
                        assert!(position.is_some(), "{cell}");
                    }
                    // All this client keeps of an error entry is its code and its text.
                    Then::Conflict(_) => assert!(is_code(&result, "AlreadyExists"), "{cell}: {result:?}"),
                    Then::Deleted => assert!(is_code(&result, "NotFound"), "{cell}: {result:?}"),
                }
            }
        }
        match (wanted, is) {
            (Then::Written(revision), _) => {
                let last = read_with(&client, &stream, &backwards().max_count(1)).await.expect("read");
                assert_eq!((recorded(&last[0]).id, recorded(&last[0]).revision), (new.id, revision), "{cell}");
            }
            // A refusal means: not applied.
            (_, Is::Live) => assert_eq!(last_revision(&client, &stream).await, Some(LAST), "{cell}"),
            (_, Is::Tombstoned) => assert!(is_deleted(&read(&client, &stream).await), "{cell}"),
            _ => assert_eq!(last_revision(&client, &stream).await, None, "{cell}"),
        }
    }
}

#[tokio::test]
async fn a_stream_that_never_existed() {
    check_row(Is::Missing, Way::Append).await;
    check_row(Is::Missing, Way::Batch).await;
}

#[tokio::test]
async fn a_stream_with_metadata_only() {
    check_row(Is::MetadataOnly, Way::Append).await;
    check_row(Is::MetadataOnly, Way::Batch).await;
}

#[tokio::test]
async fn a_live_stream() {
    check_row(Is::Live, Way::Append).await;
    check_row(Is::Live, Way::Batch).await;
}

#[tokio::test]
async fn a_soft_deleted_stream() {
    check_row(Is::SoftDeleted, Way::Append).await;
    check_row(Is::SoftDeleted, Way::Batch).await;
}

#[tokio::test]
async fn a_tombstoned_stream() {
    check_row(Is::Tombstoned, Way::Append).await;
    check_row(Is::Tombstoned, Way::Batch).await;
}

#[tokio::test]
async fn an_append_of_no_events_is_accepted_checked_and_writes_nothing() {
    let client = connect();
    let (missing, live) = (fresh(), make_live(&client, 2).await);
    append(&client, &missing, StreamState::NoStream, &[]).await.expect("accepted");
    let answer = append(&client, &live, StreamState::StreamRevision(1), &[]).await.expect("accepted");
    assert_eq!(answer.next_expected_version, 1);
    assert_eq!(last_revision(&client, &missing).await, None);
    assert_eq!(last_revision(&client, &live).await, Some(1));

    let refused = append(&client, &missing, StreamState::StreamExists, &[]).await;
    assert!(matches!(refused, Err(Error::WrongExpectedVersion { current: CurrentRevision::NoStream, .. })));
    let refused = append(&client, &live, StreamState::StreamRevision(5), &[]).await;
    assert!(matches!(refused, Err(Error::WrongExpectedVersion { current: CurrentRevision::Current(1), .. })));
}

#[tokio::test]
async fn an_append_of_no_events_undeletes_a_soft_deleted_stream() {
    let client = connect();
    let stream = make_soft_deleted(&client, 3).await;
    append(&client, &stream, StreamState::Any, &[]).await.expect("accepted");
    assert!(read(&client, &stream).await.expect("it exists again").is_empty());
}

#[tokio::test]
async fn a_multi_event_append_is_adjacent_and_answers_with_its_last_event() {
    let client = connect();
    let (stream, batch) = (fresh(), events(50));
    let answer = append(&client, &stream, StreamState::NoStream, &batch).await.expect("append");
    let stored = read(&client, &stream).await.expect("read");
    assert_eq!(ids(&stored), ids_of(&batch));
    assert_eq!(revisions(&stored), range(0, 50));
    assert_eq!(answer.next_expected_version, 49);
    assert_eq!(answer.position, recorded(&stored[49]).position);
    assert!(stored.windows(2).all(|w| recorded(&w[0]).position < recorded(&w[1]).position));
}

#[tokio::test]
async fn the_server_says_who_it_is() {
    let info = connect().server_info().await.expect("server features");
    assert!(info.version().major() >= 26, "a client enables its features by this: {}", info.version());
}
