//! Three nodes: any node answers, and the death of the leader loses and repeats nothing.
//!
//! Runs only with `ANNALS_CLUSTER_URL`; killing needs `ANNALS_KILL_LEADER_CMD` and
//! `ANNALS_RESTART_CMD` as well. This client does not look for another node when its
//! own goes away (it reconnects to the same one), so an application makes a new client,
//! and so do the scenarios.

use std::future::Future;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kurrentdb::operations::{Client as Operations, VNodeState};
use kurrentdb::{Client, Error, StreamPosition, StreamState, SubscribeToStreamOptions};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::*;

/// Killing is for one scenario at a time.
static ALONE: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

fn hosts() -> Option<Vec<String>> {
    let url = cluster_url()?;
    let hosts = url.split("://").nth(1)?.split(['?', '/']).next()?.rsplit('@').next()?;
    Some(hosts.split(',').map(str::to_owned).collect())
}

fn direct(host: &str, preference: &str) -> Client {
    let (url, all) = (cluster_url().expect("set"), hosts().expect("set").join(","));
    connect_to(&format!("{}&nodePreference={preference}", url.replace(&all, host)))
}

fn harness(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|command| !command.is_empty())
}

fn run(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().expect("the harness's command");
    assert!(status.success(), "{command}: {status}");
}

/// The leader and the followers, once one node names a full house. Over HTTP, as this client does it.
async fn leader_and_followers(hosts: &[String]) -> (String, Vec<String>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = String::new();
    while Instant::now() < deadline {
        for host in hosts {
            let gossip = Operations::from(direct(host, "follower")).read_gossip().await;
            last = format!("{gossip:?}");
            let Ok(members) = gossip else { continue };
            let named = |state: VNodeState| -> Vec<String> {
                let in_state = members.iter().filter(|m| m.is_alive && m.state == state);
                in_state.map(|m| format!("{}:{}", m.http_end_point.host, m.http_end_point.port)).collect()
            };
            let (leaders, followers) = (named(VNodeState::Leader), named(VNodeState::Follower));
            if leaders.len() == 1 && followers.len() == hosts.len() - 1 {
                return (leaders[0].clone(), followers);
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("no healthy cluster; last answer: {last}");
}

/// Repeats an action with a new client each time until it succeeds; its events keep their ids.
async fn retrying<T, F, Fut>(url: &str, action: F) -> T
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match tokio::time::timeout(Duration::from_secs(10), action(connect_to(url))).await {
            Ok(Ok(done)) => return done,
            other => assert!(Instant::now() < deadline, "did not succeed: {:?}", other.map(|r| r.err())),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_cluster_is_discovered_written_and_read() {
    let Some(hosts) = hosts() else { return };
    let _shared = ALONE.read().await;
    let (leader, _) = leader_and_followers(&hosts).await;
    let client = connect_to(&cluster_url().expect("set"));
    let chosen = Operations::from(client.clone()).current_selected_node().await.expect("a node");
    assert_eq!(format!("{}:{}", chosen.host, chosen.port), leader);
    let stream = make_live(&client, 3).await;
    assert_eq!(revisions(&read(&client, &stream).await.expect("read")), range(0, 3));
}

#[tokio::test]
async fn a_follower_takes_writes_that_do_not_demand_the_leader() {
    let Some(hosts) = hosts() else { return };
    let _shared = ALONE.read().await;
    let (_, followers) = leader_and_followers(&hosts).await;
    let leader = connect_to(&cluster_url().expect("set"));
    for follower in followers {
        let client = direct(&follower, "follower");
        let (stream, batch) = (fresh(), events(3));
        let first = append(&client, &stream, StreamState::NoStream, &batch).await.expect("forwarded");
        let again = append(&client, &stream, StreamState::NoStream, &batch).await.expect("forwarded again");
        assert_eq!((again.next_expected_version, again.position), (first.next_expected_version, first.position));
        assert_eq!(ids(&read(&leader, &stream).await.expect("at once on the leader")), ids_of(&batch));
        let conflict = append(&client, &stream, StreamState::StreamRevision(9), &events(1)).await;
        assert!(matches!(conflict, Err(Error::WrongExpectedVersion { .. })), "{conflict:?}");
        batch_append(&client, &stream, StreamState::StreamRevision(2), &events(2)).await.expect("forwarded batch");
        delete(&client, &stream, StreamState::StreamRevision(4)).await.expect("forwarded delete");
        assert!(is_missing(&read(&leader, &stream).await));
        tombstone(&client, &stream, StreamState::Any).await.expect("forwarded tombstone");
    }
}

#[tokio::test]
async fn a_follower_says_where_the_leader_is_and_the_client_goes_there() {
    let Some(hosts) = hosts() else { return };
    let _shared = ALONE.read().await;
    let (leader, followers) = leader_and_followers(&hosts).await;
    let stream = make_live(&connect_to(&cluster_url().expect("set")), 1).await;
    let client = direct(&followers[0], "leader"); // demands the leader in every call
    for attempt in ["write", "read", "delete"] {
        let client = if attempt == "write" { client.clone() } else { direct(&followers[0], "leader") };
        let refused = match attempt {
            "write" => append(&client, &fresh(), StreamState::Any, &events(1)).await.map(|_| ()),
            "read" => read(&client, &stream).await.map(|_| ()),
            _ => delete(&client, &stream, StreamState::Any).await.map(|_| ()),
        };
        let Err(Error::NotLeaderException(told)) = refused else { panic!("{attempt}: {refused:?}") };
        assert_eq!(format!("{}:{}", told.host, told.port), leader);
    }
    assert_eq!(add(&client, &fresh(), 1).await.len(), 1, "it has moved to the leader");
}

#[tokio::test]
async fn every_node_serves_reads_indexes_and_subscriptions() {
    let Some(hosts) = hosts() else { return };
    let _shared = ALONE.read().await;
    leader_and_followers(&hosts).await;
    let (word, batch) = (fresh_word(), events(30));
    let stream = format!("{word}-1");
    append(&connect_to(&cluster_url().expect("set")), &stream, StreamState::NoStream, &batch).await.expect("append");
    for host in &hosts {
        let client = direct(host, "follower");
        // Waits for the node to have it all; a local read may lag.
        let options = SubscribeToStreamOptions::default().start_from(StreamPosition::Start);
        let mut subscriber = Subscriber::new(client.subscribe_to_stream(stream.as_str(), &options).await);
        assert_eq!(ids(subscriber.until_events(30).await), ids_of(&batch));
        assert_eq!(ids(&read(&client, &stream).await.expect("read")), ids_of(&batch));
        assert_eq!(ids(&read_resolved(&client, &format!("$ce-{word}")).await.expect("read")), ids_of(&batch));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_leader_loses_nothing_and_repeats_nothing() {
    let (Some(hosts), Some(kill), Some(restart)) =
        (hosts(), harness("ANNALS_KILL_LEADER_CMD"), harness("ANNALS_RESTART_CMD"))
    else {
        return;
    };
    let _alone = ALONE.write().await;
    leader_and_followers(&hosts).await;
    let (url, stream) = (cluster_url().expect("set"), fresh());
    let written: Arc<Mutex<Vec<Uuid>>> = Arc::default();
    let seen: Arc<Mutex<Vec<(Uuid, u64)>>> = Arc::default();

    let writer = tokio::spawn({
        let (url, stream, written) = (url.clone(), stream.clone(), written.clone());
        async move {
            let mut client = connect_to(&url);
            loop {
                let batch = events(3);
                let count = written.lock().expect("unpoisoned").len() as u64;
                let state = if count == 0 { StreamState::NoStream } else { StreamState::StreamRevision(count - 1) };
                while append(&client, &stream, state, &batch).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    client = connect_to(&url);
                }
                written.lock().expect("unpoisoned").extend(ids_of(&batch));
            }
        }
    });
    let reader = tokio::spawn({
        let (url, stream, seen) = (url.clone(), stream.clone(), seen.clone());
        async move {
            loop {
                let last = seen.lock().expect("unpoisoned").last().map(|(_, revision)| *revision);
                let start = last.map_or(StreamPosition::Start, StreamPosition::Position);
                let options = SubscribeToStreamOptions::default().start_from(start);
                let mut subscription = connect_to(&url).subscribe_to_stream(stream.as_str(), &options).await;
                while let Ok(event) = subscription.next().await {
                    seen.lock().expect("unpoisoned").push((recorded(&event).id, recorded(&event).revision));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let until = async |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < deadline, "waited for {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let count = || written.lock().expect("unpoisoned").len();

    until("the first events", &|| count() >= 60).await;
    let mark = count();
    run(&kill);
    until("events without the old leader", &|| count() >= mark + 60).await;
    run(&restart);
    let mark = count();
    until("events with the old leader back", &|| count() >= mark + 60).await;
    writer.abort();
    // The last append may have been under way: read what is there, and find all that was acknowledged.
    assert!(writer.await.expect_err("aborted").is_cancelled(), "the writer must not have failed");
    leader_and_followers(&hosts).await;
    let acknowledged = written.lock().expect("unpoisoned").clone();
    let stored = retrying(&url, |client| {
        let stream = stream.clone();
        async move { read(&client, &stream).await }
    })
    .await;
    assert_eq!(ids(&stored)[..acknowledged.len()], acknowledged);
    assert!(stored.len() - acknowledged.len() <= 3, "at most the append under way is there besides");
    assert_eq!(revisions(&stored), range(0, stored.len() as u64));

    let wanted: Vec<_> = stored.iter().map(|e| (recorded(e).id, recorded(e).revision)).collect();
    until("the subscriber", &|| seen.lock().expect("unpoisoned").len() >= wanted.len()).await;
    reader.abort();
    assert_eq!(*seen.lock().expect("unpoisoned"), wanted);
}
