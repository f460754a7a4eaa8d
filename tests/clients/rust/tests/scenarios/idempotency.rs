//! The same event ids again: answered as the first time, never written twice (2.2).

use kurrentdb::{CurrentRevision, Error, StreamState};

use crate::support::*;

#[tokio::test]
async fn a_retry_without_an_exact_expectation_is_answered_as_the_first_time() {
    let client = connect();
    for state in [StreamState::Any, StreamState::StreamExists] {
        let (stream, batch) = (make_live(&client, 2).await, events(4));
        let first = append(&client, &stream, state, &batch).await.expect("append");
        add(&client, &stream, 3).await;
        let again = append(&client, &stream, state, &batch).await.expect("retry");
        assert_eq!(again.next_expected_version, first.next_expected_version);
        assert_eq!(again.position, first.position);
        let batched = batch_append(&client, &stream, state, &batch).await.expect("retry over the other rpc");
        assert_eq!(batched, (Some(first.next_expected_version), Some(first.position)));
        assert_eq!(revisions(&read(&client, &stream).await.expect("read")), range(0, 9));
    }
}

#[tokio::test]
async fn known_ids_followed_by_unknown_ones_are_refused() {
    let client = connect();
    let (stream, batch) = (fresh(), events(2));
    append(&client, &stream, StreamState::Any, &batch).await.expect("append");
    let refused = append(&client, &stream, StreamState::Any, &[batch, events(1)].concat()).await;
    assert!(matches!(refused, Err(Error::WrongExpectedVersion { .. })), "{refused:?}");
    assert_eq!(last_revision(&client, &stream).await, Some(1));
}

#[tokio::test]
async fn an_unknown_id_in_front_makes_it_a_new_append() {
    let client = connect();
    let (stream, known, unknown) = (fresh(), happened(), happened());
    append(&client, &stream, StreamState::Any, std::slice::from_ref(&known)).await.expect("append");
    append(&client, &stream, StreamState::Any, &[unknown.clone(), known.clone()]).await.expect("append");
    assert_eq!(ids(&read(&client, &stream).await.expect("read")), [known.id, unknown.id, known.id]);
}

#[tokio::test]
async fn a_retry_with_an_exact_expectation_is_answered_as_the_first_time_for_ever() {
    let client = connect();
    for (before, state) in [(0, StreamState::NoStream), (3, StreamState::StreamRevision(2))] {
        let stream = fresh();
        add(&client, &stream, before).await;
        let batch = events(4);
        let first = append(&client, &stream, state, &batch).await.expect("append");
        add(&client, &stream, 20).await;
        let again = append(&client, &stream, state, &batch).await.expect("retry");
        assert_eq!((again.next_expected_version, again.position), (first.next_expected_version, first.position));
        let beginning = append(&client, &stream, state, &batch[..2]).await.expect("retry of its beginning");
        assert_eq!(beginning.next_expected_version, before as u64 + 1);
        assert_eq!(last_revision(&client, &stream).await, Some(before as u64 + 23));
    }
}

#[tokio::test]
async fn a_partial_overlap_is_refused() {
    let client = connect();
    let (stream, batch) = (fresh(), events(3));
    append(&client, &stream, StreamState::NoStream, &batch).await.expect("append");
    let requests = [
        [&batch[..], &events(1)].concat(),
        [&batch[..1], &events(1)].concat(),
        [&events(1), &batch[1..]].concat(),
        batch[1..2].to_vec(),
    ];
    for request in requests {
        let refused = append(&client, &stream, StreamState::NoStream, &request).await;
        assert!(
            matches!(refused, Err(Error::WrongExpectedVersion { current: CurrentRevision::Current(2), .. })),
            "{refused:?}"
        );
    }
    assert_eq!(last_revision(&client, &stream).await, Some(2));
}

#[tokio::test]
async fn many_retries_at_once_write_one_event() {
    let client = connect();
    let (stream, new) = (fresh(), happened());
    let retries: Vec<_> = (0..32)
        .map(|_| {
            let (client, stream, new) = (client.clone(), stream.clone(), new.clone());
            tokio::spawn(async move { append(&client, &stream, StreamState::Any, &[new]).await })
        })
        .collect();
    let mut positions = Vec::new();
    for retry in retries {
        positions.push(retry.await.expect("joined").expect("answered").position);
    }
    positions.dedup();
    assert_eq!(positions.len(), 1);
    assert_eq!(ids(&read(&client, &stream).await.expect("read")), [new.id]);
}
