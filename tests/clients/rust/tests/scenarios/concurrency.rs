//! Many writers at once: dense revisions, nothing lost, nothing twice.

use kurrentdb::{BatchAppendOptions, CurrentRevision, Error, StreamState};

use crate::support::*;

const WRITERS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_writers_with_exact_expectations_leave_a_dense_stream() {
    const EACH: usize = 6;
    let stream = fresh();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let stream = stream.clone();
            tokio::spawn(async move {
                let client = connect(); // a connection each
                let (mut written, mut expected) = (Vec::new(), StreamState::NoStream);
                while written.len() < EACH {
                    let new = happened();
                    match append(&client, &stream, expected, std::slice::from_ref(&new)).await {
                        Ok(answer) => {
                            written.push(new.id);
                            expected = StreamState::StreamRevision(answer.next_expected_version);
                        }
                        // Somebody was faster: try behind them.
                        Err(Error::WrongExpectedVersion { current: CurrentRevision::Current(n), .. }) => {
                            expected = StreamState::StreamRevision(n);
                        }
                        Err(error) => panic!("writer: {error:?}"),
                    }
                }
                written
            })
        })
        .collect();
    let mut written = Vec::new();
    for writer in writers {
        written.push(writer.await.expect("joined"));
    }
    let stored = read(&connect(), &stream).await.expect("read");
    assert_eq!(revisions(&stored), range(0, (WRITERS * EACH) as u64));
    let stored = ids(&stored);
    for mine in &written {
        let kept: Vec<_> = stored.iter().filter(|id| mine.contains(id)).copied().collect();
        assert_eq!(&kept, mine, "each writer's order holds, and nothing is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sixteen_writers_of_one_revision_exactly_one_wins() {
    let client = connect();
    let stream = make_live(&client, 1).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (client, stream) = (client.clone(), stream.clone());
            tokio::spawn(async move { append(&client, &stream, StreamState::StreamRevision(0), &events(3)).await })
        })
        .collect();
    let mut won = 0;
    for writer in writers {
        match writer.await.expect("joined") {
            Ok(answer) => {
                assert_eq!(answer.next_expected_version, 3);
                won += 1;
            }
            Err(Error::WrongExpectedVersion { current, .. }) => assert_eq!(current, CurrentRevision::Current(3)),
            Err(error) => panic!("writer: {error:?}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(last_revision(&client, &stream).await, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_batches_in_flight_over_one_call_are_each_answered_once() {
    let client = connect();
    let batch = std::sync::Arc::new(client.batch_append(&BatchAppendOptions::default()).await.expect("a batch client"));
    let streams: Vec<_> = (0..20).map(|_| fresh()).collect();
    let appends: Vec<_> = (0..400)
        .map(|n| {
            let (batch, stream) = (batch.clone(), streams[n % 20].clone());
            tokio::spawn(async move {
                let result =
                    batch.append_to_stream(&stream, StreamState::Any, data(&events(1))).await.expect("answered");
                assert_eq!(result.stream_name(), stream);
                result.current_position().expect("a position").commit
            })
        })
        .collect();
    let mut positions = std::collections::BTreeSet::new();
    for append in appends {
        positions.insert(append.await.expect("joined"));
    }
    assert_eq!(positions.len(), 400);
    for stream in &streams {
        assert_eq!(revisions(&read(&client, stream).await.expect("read")), range(0, 20));
    }
}
