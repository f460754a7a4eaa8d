//! Counted reads of a stream and of `$all`, in both directions, with filters (3.2, 3.6, 3.7).

use kurrentdb::{
    AppendToStreamOptions, EventData, Position, ReadAllOptions, ReadEvent, ReadStreamOptions, StreamMetadataBuilder,
    StreamPosition, StreamState, SubscriptionFilter,
};
use serde_json::json;

use crate::support::*;

const COUNT: u64 = 100;

#[tokio::test]
async fn a_stream_reads_whole_in_both_directions() {
    let client = connect();
    let stream = make_live(&client, COUNT as usize).await;
    let mut wanted = range(0, COUNT);
    assert_eq!(revisions(&read(&client, &stream).await.expect("read")), wanted);
    wanted.reverse();
    assert_eq!(revisions(&read_backwards(&client, &stream).await.expect("read")), wanted);
}

#[tokio::test]
async fn a_limit_is_kept_in_both_directions() {
    let client = connect();
    let stream = make_live(&client, COUNT as usize).await;
    for limit in [0, 1, 31, 32, 33, COUNT, COUNT + 1] {
        let forwards = ReadStreamOptions::default().max_count(limit as usize);
        let found = read_with(&client, &stream, &forwards).await.expect("read");
        assert_eq!(revisions(&found), range(0, limit.min(COUNT)));
        let found = read_with(&client, &stream, &backwards().max_count(limit as usize)).await.expect("read");
        let mut wanted = range(COUNT - limit.min(COUNT), COUNT);
        wanted.reverse();
        assert_eq!(revisions(&found), wanted);
    }
}

#[tokio::test]
async fn a_read_from_the_middle_includes_where_it_starts() {
    let client = connect();
    let stream = make_live(&client, COUNT as usize).await;
    for from in [0, 1, 50, COUNT - 1] {
        let start = StreamPosition::Position(from);
        let forwards = ReadStreamOptions::default().position(start);
        assert_eq!(revisions(&read_with(&client, &stream, &forwards).await.expect("read")), range(from, COUNT));
        let backwards = ReadStreamOptions::default().position(start).backwards();
        let mut wanted = range(0, from + 1);
        wanted.reverse();
        assert_eq!(revisions(&read_with(&client, &stream, &backwards).await.expect("read")), wanted);
    }
}

#[tokio::test]
async fn the_four_odd_places_to_start() {
    let client = connect();
    let stream = make_live(&client, 10).await;
    let read =
        async |options: ReadStreamOptions| revisions(&read_with(&client, &stream, &options).await.expect("read"));
    let options = ReadStreamOptions::default;
    assert_eq!(read(options().position(StreamPosition::End).forwards()).await, range(0, 0));
    assert_eq!(read(options().position(StreamPosition::Start).backwards()).await, [0]);
    assert_eq!(read(options().position(StreamPosition::Position(1000))).await, range(0, 0));
    assert_eq!(read(options().position(StreamPosition::Position(u64::MAX)).backwards()).await.len(), 10);
}

#[tokio::test]
async fn a_missing_stream_is_not_found_and_a_deleted_one_deleted() {
    let client = connect();
    for stream in [fresh(), make_soft_deleted(&client, 3).await] {
        assert!(is_missing(&read(&client, &stream).await));
        assert!(is_missing(&read_backwards(&client, &stream).await));
    }
    let dead = make_tombstoned(&client, 3).await;
    assert!(is_deleted(&read(&client, &dead).await));
    assert!(is_deleted(&read_backwards(&client, &dead).await));
}

#[tokio::test]
async fn a_read_tells_the_last_revision_last() {
    // This client asks for it with `compatibility` 1.
    let client = connect();
    let stream = make_live(&client, 5).await;
    for options in [ReadStreamOptions::default().max_count(2), backwards()] {
        let mut reading = client.read_stream(stream.as_str(), &options).await.expect("read");
        let mut told = Vec::new();
        while let Some(message) = reading.next_read_event().await.expect("read") {
            match message {
                ReadEvent::Event(_) => assert!(told.is_empty(), "it comes last"),
                ReadEvent::LastStreamPosition(revision) => told.push(revision),
                ReadEvent::FirstStreamPosition(_) | ReadEvent::LastAllStreamPosition(_) => {}
            }
        }
        assert_eq!(told, [4]);
    }
}

#[tokio::test]
async fn an_event_comes_back_as_it_was_written() {
    let client = connect();
    let stream = fresh();
    let json = EventData::json("Größe geändert", &json!({"ä": ["ö", 1.5]})).expect("JSON");
    let json = json.metadata_as_json(&json!({"by": "test"})).expect("JSON");
    let raw: Vec<u8> = (0..=255).collect();
    let bytes = EventData::binary("Imaged", raw.clone().into()).metadata(vec![0, 255].into());
    client
        .append_to_stream(stream.as_str(), &AppendToStreamOptions::default(), vec![json, bytes])
        .await
        .expect("append");
    let stored = read(&client, &stream).await.expect("read");
    let (first, second) = (recorded(&stored[0]), recorded(&stored[1]));
    assert_eq!(
        (first.event_type.as_str(), first.is_json, first.stream_id()),
        ("Größe geändert", true, stream.as_str())
    );
    assert_eq!(first.as_json::<serde_json::Value>().expect("JSON"), json!({"ä": ["ö", 1.5]}));
    assert_eq!(&first.custom_metadata[..], br#"{"by":"test"}"#);
    assert_eq!((second.event_type.as_str(), second.is_json), ("Imaged", false));
    assert_eq!((&second.data[..], &second.custom_metadata[..]), (&raw[..], &[0u8, 255][..]));
    assert!(first.metadata.contains_key("created"));
    assert_eq!(stored[0].commit_position, Some(first.position.commit));
}

#[tokio::test]
async fn all_reads_in_the_order_of_positions_in_both_directions() {
    let client = connect();
    let before = end_of_all(&client).await;
    let mut written = Vec::new();
    for n in 0..30 {
        written.extend(add(&client, &format!("{}-{n}", fresh_word()), 2).await);
    }
    let all = read_all(&client, &from(before)).await.expect("read");
    assert!(all.windows(2).all(|w| recorded(&w[0]).position < recorded(&w[1]).position));
    assert_eq!(only(&ids(&all), &written), written);

    let options = ReadAllOptions::default().position(StreamPosition::End).max_count(all.len() + 1000);
    let back = read_all(&client, &options).await.expect("read");
    let reversed: Vec<_> = written.iter().rev().copied().collect();
    assert_eq!(only(&ids(&back), &written), reversed);

    // Inclusive forwards, exclusive backwards.
    let middle = all.iter().find(|e| recorded(e).id == written[20]).expect("there");
    let next = read_all(&client, &from(recorded(middle).position).max_count(1)).await.expect("read");
    assert_eq!(recorded(&next[0]).id, written[20]);
    let previous = read_all(&client, &from(recorded(middle).position).backwards().max_count(1)).await.expect("read");
    assert!(recorded(&previous[0]).position < recorded(middle).position);
}

#[tokio::test]
async fn filters_hold_on_types_and_names_by_regex_and_prefix() {
    let client = connect();
    let (before, word) = (end_of_all(&client).await, fresh_word());
    let mut written = Vec::new();
    for n in 0..60 {
        let new = event(&format!("{word}Type{}", n % 3), &json!({ "n": n }));
        append(&client, &format!("{word}{}-1", ["a", "b"][n % 2]), StreamState::Any, std::slice::from_ref(&new))
            .await
            .expect("append");
        written.push(new.id);
    }
    let keep = |wanted: &dyn Fn(usize) -> bool| -> Vec<_> {
        written.iter().enumerate().filter(|(n, _)| wanted(*n)).map(|(_, id)| *id).collect()
    };
    let (types, names) = (SubscriptionFilter::on_event_type, SubscriptionFilter::on_stream_name);
    let cases: [(SubscriptionFilter, Vec<_>); 7] = [
        (types().regex(format!("^{word}Type[02]$")), keep(&|n| n % 3 != 1)),
        (types().regex(format!("{}Type1", &word[4..])), keep(&|n| n % 3 == 1)),
        (types().add_prefix("Nothing").add_prefix(format!("{word}Type1")), keep(&|n| n % 3 == 1)),
        (types().regex(format!("^(?!(\\$.+$|.*Type2$)){word}")), keep(&|n| n % 3 != 2)),
        (names().regex(format!("^{word}b-\\d$")), keep(&|n| n % 2 == 1)),
        (names().add_prefix(format!("{word}a")).add_prefix(format!("{word}b")).max(7), keep(&|_| true)),
        (types().add_prefix(fresh_word()), vec![]),
    ];
    for (filter, wanted) in cases {
        let shown = format!("{filter:?}");
        let found = read_all(&client, &from(before).filter(filter.clone())).await.expect("read");
        assert_eq!(ids(&found), wanted, "{shown}");
        let found = read_all(&client, &from(before).filter(filter).max_count(5)).await.expect("read");
        assert_eq!(ids(&found), wanted[..wanted.len().min(5)], "{shown}");
    }
}

#[tokio::test]
async fn system_events_are_there_for_those_who_do_not_exclude_them() {
    let client = connect();
    let before = end_of_all(&client).await;
    let stream = make_live(&client, 1).await;
    let metadata = StreamMetadataBuilder::new().insert_custom_property("a", 1).build();
    client.set_stream_metadata(stream.as_str(), &AppendToStreamOptions::default(), &metadata).await.expect("metadata");
    let is_ours = |stream_id: &str| stream_id == format!("$${stream}");
    let all = read_all(&client, &from(before)).await.expect("read");
    assert!(all.iter().any(|e| is_ours(recorded(e).stream_id())));
    let filter = SubscriptionFilter::on_event_type().exclude_system_events();
    let filtered = read_all(&client, &from(before).filter(filter)).await.expect("read");
    assert!(!filtered.is_empty() && filtered.iter().all(|e| !recorded(e).event_type.starts_with('$')));
}

fn from(position: Position) -> ReadAllOptions {
    ReadAllOptions::default().position(StreamPosition::Position(position))
}

fn only<T: Copy + PartialEq>(all: &[T], kept: &[T]) -> Vec<T> {
    all.iter().copied().filter(|x| kept.contains(x)).collect()
}
