//! One node alone: what it acknowledged is there after any restart.

mod support;

use std::time::Duration;

use annals_core::{Expected, Outcome};
use annals_raft::{OpenError, Phase, Role, Route};
use support::{Cluster, Server, addresses, config, eventually, position};

#[test]
fn what_was_appended_is_there_after_a_clean_restart() {
    let mut cluster = Cluster::start(1, |_| {});
    for n in 1..=20 {
        let outcome = cluster.server(0).append("orders-1", 2).expect("appended");
        assert_eq!(position(&outcome), n * 2);
    }
    let before = cluster.server(0).events();
    cluster.stop(0);

    cluster.start_node(0);
    cluster.await_leader();
    cluster.server(0).barrier().expect("linearizable");
    assert_eq!(cluster.server(0).events(), before);
    assert_eq!(position(&cluster.server(0).append("orders-1", 1).expect("appended")), 41);
}

#[test]
fn what_was_appended_is_there_after_a_crash() {
    let mut cluster = Cluster::start(1, |_| {});
    for _ in 0..3 {
        for _ in 0..20 {
            cluster.server(0).append("orders-1", 1).expect("appended");
        }
        let before = cluster.server(0).events();
        cluster.kill(0);
        cluster.start_node(0);
        cluster.await_leader();
        cluster.server(0).barrier().expect("linearizable");
        assert_eq!(cluster.server(0).events(), before);
    }
}

#[test]
fn a_refusal_is_an_outcome_and_changes_nothing() {
    let cluster = Cluster::start(1, |_| {});
    let server = cluster.server(0);
    server.append("orders-1", 1).expect("appended");
    let refused = server
        .append_as("orders-1", 1, Expected::NoStream, Route::LeaderOnly, Duration::from_secs(5))
        .expect("decided");
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
    assert_eq!(server.tail(), 1);
}

#[test]
fn many_appends_at_once_all_get_their_own_outcome() {
    let cluster = Cluster::start(1, |_| {});
    let server = cluster.server(0);
    let mut positions: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    (0..50)
                        .map(|_| position(&server.append(&format!("stream-{thread}"), 1).expect("appended")))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    positions.sort_unstable();
    assert_eq!(positions, (1..=400).collect::<Vec<_>>());
}

#[test]
fn a_node_that_is_open_cannot_be_opened_twice() {
    let cluster = Cluster::start(1, |_| {});
    let second = config(cluster.dirs[0].path(), &addresses(1)[0], &[]);
    assert!(matches!(Server::open(second), Err(OpenError::InUse { .. })));
}

#[test]
fn a_node_without_identity_waits_and_takes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::open(config(dir.path(), &addresses(1)[0], &[])).expect("opens");
    assert_eq!(server.status().phase, Phase::Waiting);
    let refused = server.append_as("a-1", 1, Expected::Any, Route::Forward, Duration::from_millis(200));
    assert!(refused.is_err(), "{refused:?}");
    server.stop();
}

#[test]
fn a_full_disk_refuses_appends_and_says_how_much_is_left() {
    let cluster = Cluster::start(1, |config| config.disk_reserve_bytes = u64::MAX);
    let refused = cluster.server(0).append("a-1", 1);
    assert!(matches!(refused, Err(annals_raft::AppendError::DiskFull { free }) if free > 0), "{refused:?}");
    assert_eq!(cluster.server(0).tail(), 0);
}

#[test]
fn the_log_is_purged_behind_what_is_flushed_and_the_node_still_restarts() {
    let mut cluster = Cluster::start(1, |config| {
        config.log_keep_entries = 10;
        config.flush_entries = 50;
    });
    for _ in 0..300 {
        cluster.server(0).append("orders-1", 1).expect("appended");
    }
    eventually("most of the log is purged", || cluster.server(0).status().purged > 200);
    let status = cluster.server(0).status();
    assert!(status.purged <= status.durable && status.purged <= status.snapshot, "{status:?}");
    let before = cluster.server(0).events();
    cluster.kill(0);
    cluster.start_node(0);
    cluster.await_leader();
    cluster.server(0).barrier().expect("linearizable");
    assert_eq!(cluster.server(0).events(), before);
}

#[test]
fn a_log_from_an_older_copy_of_the_disk_is_refused() {
    let mut cluster = Cluster::start(1, |_| {});
    cluster.server(0).append("a-1", 1).expect("appended");
    cluster.stop(0);
    let log = cluster.dirs[0].path().join("log");
    let kept = tempfile::tempdir().expect("a directory");
    copy(&log, kept.path());
    cluster.start_node(0);
    cluster.await_leader();
    cluster.server(0).append("a-1", 1).expect("appended");
    cluster.stop(0);
    std::fs::remove_dir_all(&log).expect("removed");
    copy(kept.path(), &log);
    let refused = Server::open(cluster.config(0)).err().expect("refused");
    assert!(matches!(refused, OpenError::LogBehindWitness { node: 1, .. }), "{refused}");
}

#[test]
fn a_missing_witness_or_identity_is_refused() {
    let mut cluster = Cluster::start(1, |_| {});
    cluster.server(0).append("a-1", 1).expect("appended");
    assert_eq!(cluster.server(0).status().role, Role::Leader);
    cluster.stop(0);
    let data = cluster.dirs[0].path().to_owned();
    std::fs::rename(data.join("HEAD"), data.join("HEAD.away")).expect("renamed");
    let refused = Server::open(cluster.config(0)).err().expect("refused");
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    std::fs::rename(data.join("HEAD.away"), data.join("HEAD")).expect("renamed");
    std::fs::remove_file(data.join("identity")).expect("removed");
    let refused = Server::open(cluster.config(0)).err().expect("refused");
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("created");
    for item in std::fs::read_dir(from).expect("readable") {
        let item = item.expect("readable");
        std::fs::copy(item.path(), to.join(item.file_name())).expect("copied");
    }
}
