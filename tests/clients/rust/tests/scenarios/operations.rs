//! Operations and monitoring, as this client has them: scavenges, numbers, priorities.
//! It has no call for a scavenge's progress; what is gone tells.

use std::time::Duration;

use kurrentdb::operations::{Client as Operations, OperationalOptions, ScavengeStatus, StatsOptions};
use kurrentdb::{AppendToStreamOptions, ReadStreamOptions, StreamPosition};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::support::*;

/// One scavenge at a time is one for all scenarios.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn operations() -> Operations {
    Operations::from(connect())
}

/// Entries of an index, whatever they lead to.
async fn entries_in(index: &str) -> usize {
    let options = ReadStreamOptions::default().position(StreamPosition::Start).resolve_link_tos();
    let mut read = connect().read_stream(index, &options).await.expect("it reads");
    let mut entries = 0;
    while let Ok(Some(event)) = read.next().await {
        entries += usize::from(event.link.is_some());
    }
    entries
}

async fn types_in(stream: &str) -> Vec<String> {
    let options = ReadStreamOptions::default().position(StreamPosition::Start).resolve_link_tos();
    let mut read = connect().read_stream(stream, &options).await.expect("it reads");
    let mut types = Vec::new();
    while let Ok(Some(event)) = read.next().await {
        types.extend(event.event.map(|event| event.event_type));
    }
    types
}

#[tokio::test]
async fn a_scavenge_takes_deleted_events_from_their_index() {
    let _alone = ALONE.lock().await;
    let client = connect();
    let (category, kind) = (fresh_word(), fresh_word());
    let stream = format!("{category}-1");
    for n in 0..20 {
        let event = event(&kind, &json!({ "n": n }));
        client
            .append_to_stream(stream.as_str(), &AppendToStreamOptions::default(), event.data)
            .await
            .expect("appended");
    }
    client.delete_stream(stream.as_str(), &Default::default()).await.expect("deleted");
    let index = format!("$et-{kind}");
    assert_eq!((entries_in(&index).await, types_in(&index).await.len()), (20, 0), "until then, links to nothing");

    let operations = operations();
    let deadline = Instant::now() + PATIENCE;
    let started = loop {
        // Another suite's may be under way.
        let started = operations.start_scavenge(1, 0, &OperationalOptions::default()).await.expect("answered");
        if started.status() == ScavengeStatus::Started {
            break started;
        }
        assert_eq!(started.status(), ScavengeStatus::InProgress);
        assert!(Instant::now() < deadline, "a scavenge that was under way does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // It tells of itself as events.
    let told = format!("$scavenges-{}", started.id());
    let told = async {
        loop {
            let types = types_in(&told).await;
            if types.len() == 2 {
                return types;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let told = timeout(PATIENCE, told).await.expect("it ends");
    assert_eq!(told, ["$scavengeStarted", "$scavengeCompleted"]);
    assert_eq!(entries_in(&index).await, 0);
    let all = types_in("$scavenges").await;
    assert!(all.len() >= 2 && all.iter().all(|kind| kind.starts_with("$scavenge")), "{all:?}");
    let stopped = operations.stop_scavenge(started.id(), &OperationalOptions::default()).await;
    assert!(stopped.is_err(), "it has ended: {stopped:?}");
}

#[tokio::test]
async fn numbers_come_as_often_as_they_are_asked_for() {
    let options = StatsOptions::default().refresh_time(Duration::from_millis(200));
    let mut stats = operations().stats(&options).await.expect("answered");
    for _ in 0..3 {
        let numbers = timeout(PATIENCE, stats.next()).await.expect("in time").expect("numbers").0;
        assert!(numbers["proc-mem"].parse::<u64>().expect("a number") > 0, "{numbers:?}");
        assert!(numbers.contains_key("es-checkpoint"), "{numbers:?}");
    }
}

#[tokio::test]
async fn what_is_about_the_node_is_answered() {
    let operations = operations();
    let options = OperationalOptions::default();
    operations.set_node_priority(0, &options).await.expect("set");
    // Not the restart of subscriptions: other scenarios have some.
    operations.merge_indexes(&options).await.expect("nothing to do");
}
