//! Links, and the built-in indexes that read as streams of links (3.4, 5.2).

use kurrentdb::{AppendToStreamOptions, SubscribeToStreamOptions};
use kurrentdb::{
    Client, EventData, ReadStreamOptions, ResolvedEvent, StreamMetadataBuilder, StreamPosition, StreamState,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::*;

fn text(event: &kurrentdb::RecordedEvent) -> &str {
    std::str::from_utf8(&event.data).expect("UTF-8")
}

/// What `is_resolved` cannot say: a link is there, and its target or not.
fn target(event: &ResolvedEvent) -> Option<(&str, u64)> {
    event.event.as_ref().map(|e| (e.stream_id(), e.revision))
}

#[tokio::test]
async fn a_link_is_delivered_resolved_with_both_places_or_as_it_is() {
    let client = connect();
    let (goal, links) = (make_live(&client, 3).await, fresh());
    append(&client, &links, StreamState::NoStream, &[link(2, &goal), link(0, &goal)]).await.expect("links");

    let plain = read(&client, &links).await.expect("read");
    assert!(plain.iter().all(|e| e.link.is_none() && recorded(e).event_type == "$>" && !recorded(e).is_json));
    assert_eq!(text(recorded(&plain[0])), format!("2@{goal}"));

    let resolved = read_resolved(&client, &links).await.expect("read");
    assert_eq!(resolved.iter().map(target).collect::<Vec<_>>(), [Some((goal.as_str(), 2)), Some((goal.as_str(), 0))]);
    for (n, (link, seen)) in plain.iter().zip(&resolved).enumerate() {
        let original = seen.get_original_event();
        assert_eq!((original.id, original.revision), (recorded(link).id, n as u64));
        assert_eq!(seen.get_original_stream_id(), links);
        assert_eq!(seen.commit_position, Some(original.position.commit), "the place of the link counts");
        assert!(recorded(seen).position < original.position, "the target keeps its own place");
    }
}

#[tokio::test]
async fn a_link_whose_target_is_gone_has_a_link_and_no_event() {
    let client = connect();
    let live = make_live(&client, 3).await;
    let (deleted, dead) = (make_soft_deleted(&client, 3).await, make_tombstoned(&client, 3).await);
    let cut = make_live(&client, 3).await;
    let metadata = StreamMetadataBuilder::new().truncate_before(2).build();
    client.set_stream_metadata(cut.as_str(), &AppendToStreamOptions::default(), &metadata).await.expect("metadata");
    let links = fresh();
    let written = [link(0, &deleted), link(0, &dead), link(1, &cut), link(9, &live), link(0, &fresh()), link(1, &live)];
    append(&client, &links, StreamState::NoStream, &written).await.expect("links");
    let resolved = read_resolved(&client, &links).await.expect("read");
    assert_eq!(resolved.iter().map(|e| e.get_original_event().id).collect::<Vec<_>>(), ids_of(&written));
    let found: Vec<_> = resolved.iter().map(target).collect();
    assert_eq!(found, [None, None, None, None, None, Some((live.as_str(), 1))]);
}

struct Indexed {
    word: String,
    order: Vec<(String, u64, Uuid)>,
}

impl Indexed {
    async fn new(client: &Client, count: usize) -> Self {
        let mut indexed = Self { word: fresh_word(), order: Vec::new() };
        for _ in 0..count {
            indexed.append(client).await;
        }
        indexed
    }

    /// One event that belongs to the category, the type and the correlation `word`.
    async fn append(&mut self, client: &Client) {
        let (n, id) = (self.order.len() as u64, Uuid::new_v4());
        let stream = format!("{}-{}", self.word, n % 3);
        let data = EventData::json(&self.word, &json!({ "n": n })).expect("JSON").id(id);
        let data = data.metadata_as_json(&json!({ "$correlationId": self.word })).expect("JSON");
        client.append_to_stream(stream.as_str(), &AppendToStreamOptions::default(), data).await.expect("append");
        self.order.push((stream, n / 3, id));
    }

    fn targets(&self) -> Vec<Option<(&str, u64)>> {
        self.order.iter().map(|(stream, revision, _)| Some((stream.as_str(), *revision))).collect()
    }
}

#[tokio::test]
async fn a_category_a_type_and_a_correlation_are_streams_of_links() {
    let client = connect();
    let indexed = Indexed::new(&client, 45).await;
    for prefix in ["$ce-", "$et-", "$bc-"] {
        let name = format!("{prefix}{}", indexed.word);
        let plain = read(&client, &name).await.expect("read");
        let links: Vec<_> = indexed.order.iter().map(|(stream, revision, _)| format!("{revision}@{stream}")).collect();
        assert_eq!(plain.iter().map(|e| text(recorded(e))).collect::<Vec<_>>(), links);
        assert_eq!(revisions(&plain), range(0, 45));
        assert!(plain.iter().all(|e| recorded(e).event_type == "$>" && recorded(e).stream_id() == name));

        let resolved = read_resolved(&client, &name).await.expect("read");
        assert_eq!(resolved.iter().map(target).collect::<Vec<_>>(), indexed.targets());
        let own: Vec<_> = resolved.iter().map(|e| e.get_original_event().revision).collect();
        assert_eq!(own, range(0, 45));

        let options =
            ReadStreamOptions::default().position(StreamPosition::Position(20)).max_count(2).resolve_link_tos();
        let middle = read_with(&client, &name, &options).await.expect("read");
        assert_eq!(middle.iter().map(target).collect::<Vec<_>>(), indexed.targets()[20..22]);
        let last = read_with(&client, &name, &backwards().max_count(1).resolve_link_tos()).await.expect("read");
        assert_eq!(target(&last[0]), indexed.targets()[44]);

        assert!(is_missing(&read(&client, &format!("{prefix}{}", fresh_word())).await));
        assert!(append(&client, &name, StreamState::Any, &events(1)).await.is_err(), "{name} is read only");
        assert!(delete(&client, &name, StreamState::Any).await.is_err());
        assert!(tombstone(&client, &name, StreamState::Any).await.is_err());
        assert_eq!(last_revision(&client, &name).await, Some(44));
    }
}

#[tokio::test]
async fn streams_links_to_the_first_event_of_each_stream() {
    let client = connect();
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(make_live(&client, 2).await);
    }
    let newest = read_with(&client, "$streams", &backwards().max_count(200).resolve_link_tos()).await.expect("read");
    let mine: Vec<_> = newest.iter().filter_map(target).filter(|(s, _)| made.iter().any(|m| m == s)).collect();
    made.reverse();
    assert_eq!(mine, made.iter().map(|s| (s.as_str(), 0)).collect::<Vec<_>>());
}

#[tokio::test]
async fn indexes_can_be_subscribed_to() {
    let client = connect();
    let mut indexed = Indexed::new(&client, 10).await;
    let mut subscribers = Vec::new();
    for prefix in ["$ce-", "$et-", "$bc-"] {
        let name = format!("{prefix}{}", indexed.word);
        for (start, skipped) in
            [(StreamPosition::Start, 0), (StreamPosition::Position(4), 5), (StreamPosition::End, 10)]
        {
            let options = SubscribeToStreamOptions::default().start_from(start).resolve_link_tos();
            let mut subscriber = Subscriber::new(client.subscribe_to_stream(name.as_str(), &options).await);
            subscriber.until_caught_up().await;
            subscribers.push((subscriber, skipped));
        }
    }
    for _ in 0..4 {
        indexed.append(&client).await;
    }
    for (subscriber, skipped) in &mut subscribers {
        let seen = subscriber.until_events(14 - *skipped).await;
        assert_eq!(seen.iter().map(target).collect::<Vec<_>>(), indexed.targets()[*skipped..]);
    }
}
