//! Payloads of every kind, up to the limit of a message and of an append (1.0, 2.4).

use bytes::Bytes;
use kurrentdb::StreamState;

use crate::support::*;

/// What a message carries besides the data of one event, rounded up.
const ENVELOPE: usize = 1_000;

/// Bytes that do not compress and tell a shifted copy from a true one.
fn noise(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

#[tokio::test]
async fn every_byte_value_and_no_bytes_at_all_survive() {
    let client = connect();
    let every: Vec<u8> = (0..=255).collect();
    let stream = fresh();
    append(&client, &stream, StreamState::NoStream, &[binary("Every", every.clone()), binary("None", Bytes::new())])
        .await
        .expect("append");
    let stored = read(&client, &stream).await.expect("read");
    assert_eq!(&recorded(&stored[0]).data[..], &every[..]);
    assert!(recorded(&stored[1]).data.is_empty() && recorded(&stored[1]).custom_metadata.is_empty());
}

#[tokio::test]
async fn an_event_just_below_the_message_limit_is_stored_and_read_back() {
    let client = connect();
    let (stream, data) = (fresh(), noise(MESSAGE_MAX - ENVELOPE, 1));
    append(&client, &stream, StreamState::NoStream, &[binary("Blob", data.clone())]).await.expect("append");
    let stored = read(&client, &stream).await.expect("read");
    assert!(recorded(&stored[0]).data == data, "the bytes differ");
    let batched = fresh();
    batch_append(&client, &batched, StreamState::NoStream, &[binary("Blob", data.clone())])
        .await
        .expect("batch append");
    assert!(recorded(&read(&client, &batched).await.expect("read")[0]).data == data, "the bytes differ");
}

#[tokio::test]
async fn an_event_above_the_message_limit_is_refused_and_the_client_stays_usable() {
    let client = connect();
    let (stream, huge) = (fresh(), binary("Blob", noise(MESSAGE_MAX + 1, 2)));
    let refused = append(&client, &stream, StreamState::NoStream, std::slice::from_ref(&huge)).await;
    assert!(is_code(&refused, "ResourceExhausted"), "{refused:?}");
    let refused = batch_append(&client, &stream, StreamState::NoStream, &[huge]).await;
    assert!(is_code(&refused, "ResourceExhausted"), "{refused:?}");
    assert_eq!(last_revision(&client, &stream).await, None);
    let small = add(&client, &stream, 1).await;
    assert_eq!(ids(&read(&client, &stream).await.expect("read")), small);
}

#[tokio::test]
async fn one_append_may_be_larger_than_one_message() {
    let client = connect();
    let stream = fresh();
    let batch: Vec<_> = (0..6).map(|n| binary("Blob", noise(5_000_000, n + 3))).collect();
    append(&client, &stream, StreamState::NoStream, &batch).await.expect("thirty megabytes");
    let stored = read(&client, &stream).await.expect("read");
    assert_eq!(ids(&stored), ids_of(&batch));
    assert!(stored.iter().enumerate().all(|(n, e)| recorded(e).data == noise(5_000_000, n as u64 + 3)));
    let mut back = ids(&read_backwards(&client, &stream).await.expect("read"));
    back.reverse();
    assert_eq!(back, ids_of(&batch));
}

#[tokio::test]
async fn an_append_of_many_small_events_is_one_append() {
    let client = connect();
    let (stream, batch) = (fresh(), events(10_000));
    let answer = append(&client, &stream, StreamState::NoStream, &batch).await.expect("append");
    assert_eq!(answer.next_expected_version, 9_999);
    assert_eq!(ids(&read(&client, &stream).await.expect("read")), ids_of(&batch));
}
