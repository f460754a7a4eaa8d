//! Three nodes over real sockets: nothing acknowledged is lost, repeated or
//! reordered, whoever leads.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use annals_core::{Command, Expected, Outcome};
use annals_proto::annals::internal::v1 as pb;
use annals_proto::annals::internal::v1::coordination_client::CoordinationClient;
use annals_raft::{AdminRequest, AppendError, BarrierError, OpenError, Phase, Role, Route};
use support::{Cluster, Server, eventually, position};
use tempfile::TempDir;

#[test]
fn three_empty_nodes_form_one_cluster_and_take_appends_anywhere() {
    let cluster = Cluster::start(3, |_| {});
    for round in 0..5 {
        for place in 0..3 {
            let outcome = cluster.server(place).append("orders-1", 1).expect("appended");
            assert_eq!(position(&outcome), round * 3 + place as u64 + 1);
            // A linearizable read anywhere sees it at once.
            for reader in 0..3 {
                cluster.server(reader).barrier().expect("confirmed");
                assert!(cluster.server(reader).tail() >= position(&outcome));
            }
        }
    }
    cluster.assert_equal();
    let clusters: BTreeSet<_> = cluster.running().map(|server| server.status().cluster).collect();
    assert_eq!(clusters.len(), 1);
    let ids: Vec<_> = cluster.running().map(|server| server.status().node).collect();
    assert_eq!(ids, [1, 2, 3]);
}

#[test]
fn only_the_leader_takes_an_append_that_demands_the_leader() {
    let cluster = Cluster::start(3, |_| {});
    let leader = cluster.await_leader();
    let follower = cluster.a_follower();
    let refused =
        cluster.server(follower).append_as("a-1", 1, Expected::Any, Route::LeaderOnly, Duration::from_secs(5));
    let address = cluster.addresses[leader].clone();
    assert_eq!(refused, Err(AppendError::NotLeader { leader: Some((leader as u64 + 1, address)) }));
    cluster
        .server(leader)
        .append_as("a-1", 1, Expected::Any, Route::LeaderOnly, Duration::from_secs(5))
        .expect("appended");
}

#[test]
fn a_refusal_comes_back_through_a_follower_as_an_outcome() {
    let cluster = Cluster::start(3, |_| {});
    let follower = cluster.server(cluster.a_follower());
    follower.append("orders-1", 1).expect("appended");
    let refused =
        follower.append_as("orders-1", 1, Expected::NoStream, Route::Forward, Duration::from_secs(5)).expect("decided");
    match refused {
        Outcome::Refused(refusal) => assert_eq!(refusal.as_of.get(), 1, "it says when it was decided"),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn appends_go_on_within_seconds_when_the_leader_is_killed_and_nothing_is_lost() {
    // The product's own timing, not the tests'.
    let mut cluster = Cluster::start(3, |config| {
        config.heartbeat = Duration::from_millis(250);
        config.election_min = Duration::from_millis(1_000);
        config.election_max = Duration::from_millis(2_000);
    });
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        for _ in 0..20 {
            acknowledged.push(position(&cluster.server(cluster.a_follower()).append("orders-1", 1).expect("appended")));
        }
        let leader = cluster.await_leader();
        let killed = Instant::now();
        cluster.kill(leader);
        let survivor = cluster.servers.iter().flatten().next().expect("two run");
        acknowledged.push(position(&survivor.append("orders-1", 1).expect("appended")));
        let took = killed.elapsed();
        println!("round {round}: appends went on after {took:?}");
        assert!(took < Duration::from_secs(6), "appends went on only after {took:?}");
        cluster.start_node(leader);
        cluster.await_leader();
    }
    let tail = *acknowledged.last().expect("some");
    eventually("all have all", || cluster.running().all(|server| server.tail() >= tail));
    let expected: Vec<u64> = (1..=acknowledged.len() as u64).collect();
    assert_eq!(acknowledged, expected);
    cluster.assert_equal();
}

#[test]
fn under_load_and_leader_kills_every_acknowledged_event_is_there_once() {
    let mut cluster = Cluster::start(3, |_| {});
    let addresses = cluster.addresses.clone();
    assert_eq!(addresses.len(), 3);
    let stop = AtomicBool::new(false);
    let mut acknowledged: Vec<u64> = Vec::new();
    for _ in 0..3 {
        let leader = cluster.await_leader();
        let others: Vec<&Server> = (0..3).filter(|place| *place != leader).map(|place| cluster.server(place)).collect();
        stop.store(false, Ordering::SeqCst);
        let (stop, positions) = (&stop, std::sync::Mutex::new(Vec::new()));
        let victim = cluster.server(leader);
        std::thread::scope(|scope| {
            for (number, server) in others.iter().enumerate() {
                for client in 0..4 {
                    let positions = &positions;
                    scope.spawn(move || {
                        let stream = format!("load-{number}{client}");
                        while !stop.load(Ordering::SeqCst) {
                            match server.append(&stream, 3) {
                                Ok(outcome) => positions.lock().expect("no panic").push(position(&outcome)),
                                // May or may not be there.
                                Err(AppendError::Unknown(_)) => {}
                                Err(error) => panic!("neither done nor unknown: {error}"),
                            }
                        }
                    });
                }
            }
            std::thread::sleep(Duration::from_millis(500));
            // As sudden as it gets while others still borrow the cluster.
            victim.run(async { victim.node.clone().shutdown().await });
            std::thread::sleep(Duration::from_millis(2_500));
            stop.store(true, Ordering::SeqCst);
        });
        acknowledged.extend(positions.into_inner().expect("no panic"));
        cluster.kill(leader);
        cluster.start_node(leader);
    }
    cluster.await_leader();
    for server in cluster.running() {
        server.barrier().expect("confirmed");
    }
    cluster.assert_equal();
    let events = cluster.server(0).events();
    let unique: BTreeSet<u64> = acknowledged.iter().copied().collect();
    assert_eq!(unique.len(), acknowledged.len(), "no position was given twice");
    assert!(acknowledged.len() > 100, "the load was real: {}", acknowledged.len());
    for last in acknowledged {
        // Three events of one append, contiguous, in one stream.
        let group = &events[last as usize - 3..last as usize];
        assert!(group.iter().all(|(_, stream, _)| *stream == group[0].1), "{group:?}");
    }
    let ids: BTreeSet<_> = events.iter().map(|(_, _, id)| *id).collect();
    assert_eq!(ids.len(), events.len(), "no event is there twice");
}

#[test]
fn without_a_quorum_nothing_is_acknowledged_and_no_read_is_confirmed() {
    let mut cluster = Cluster::start(3, |_| {});
    cluster.server(0).append("a-1", 1).expect("appended");
    let leader = cluster.await_leader();
    for place in (0..3).filter(|place| *place != leader) {
        cluster.kill(place);
    }
    let server = cluster.server(leader);
    let result = server.append_as("a-1", 1, Expected::Any, Route::Forward, Duration::from_secs(3));
    assert!(result.is_err(), "{result:?}");
    std::thread::sleep(Duration::from_secs(2));
    // Once it knows that it lost its quorum, it refuses instead of not knowing.
    let result = server.append_as("a-1", 1, Expected::Any, Route::Forward, Duration::from_secs(1));
    assert!(matches!(result, Err(AppendError::NotReady(_))), "{result:?}");
    let read = server.run(server.node.read_barrier(Instant::now() + Duration::from_secs(2)));
    assert!(matches!(read, Err(BarrierError::NoLeader | BarrierError::TimedOut)), "{read:?}");
}

#[test]
fn a_command_that_was_already_carried_out_is_answered_the_same_again() {
    let cluster = Cluster::start(3, |_| {});
    let command = support::command("orders-1", 2, Expected::Any);
    let deadline = || Instant::now() + Duration::from_secs(10);
    let append = |place: usize, command: Command| {
        let server = cluster.server(place);
        server.run(server.node.append(command, Route::Forward, deadline())).expect("decided")
    };
    let first = append(0, command.clone());
    let again = append(1, command);
    assert_eq!(position(&first), position(&again));
    assert!(matches!(again, Outcome::Appended(appended) if appended.repeated));
}

#[test]
fn leadership_can_be_handed_over_and_a_clean_stop_hands_it_over() {
    let mut cluster = Cluster::start(3, |_| {});
    let leader = cluster.await_leader();
    let to = cluster.a_follower() as u64 + 1;
    let node = cluster.server(cluster.a_follower()).administer(AdminRequest::TransferLeadership { to: Some(to) });
    assert_eq!(node, Ok(to));
    eventually("the other leads", || cluster.leader() == Some(to as usize - 1));
    cluster.server(leader).append("a-1", 1).expect("appended");

    let leader = cluster.await_leader();
    cluster.stop(leader);
    let stopped = Instant::now();
    cluster.server(cluster.a_follower()).append("a-1", 1).expect("appended");
    assert!(
        stopped.elapsed() < Duration::from_millis(900),
        "no election had to be waited for: {:?}",
        stopped.elapsed()
    );
}

#[test]
fn a_follower_that_the_log_no_longer_reaches_catches_up_with_records() {
    let mut cluster = Cluster::start(3, |config| {
        config.log_keep_entries = 10;
        config.flush_entries = 50;
    });
    for _ in 0..20 {
        cluster.server(0).append("before-1", 1).expect("appended");
    }
    let away = cluster.a_follower();
    cluster.kill(away);
    let leader = cluster.await_leader();
    for _ in 0..400 {
        cluster.server(leader).append("meanwhile-1", 2).expect("appended");
    }
    let reached = cluster.server(leader).status().last_log;
    eventually("the log is purged", || {
        // A purge that a dead follower held up is taken up again with the
        // next entries.
        cluster.server(leader).append("meanwhile-2", 1).expect("appended");
        cluster.server(leader).status().purged + 100 > reached
    });

    cluster.start_node(away);
    eventually("it has everything", || cluster.server(away).tail() == cluster.server(leader).tail());
    cluster.assert_equal();
    // And it goes on with the log from there.
    cluster.server(away).append("after-1", 1).expect("appended");
    cluster.assert_equal();
    assert!(cluster.server(away).status().snapshot > 0);

    // What it pulled is its own: also after a crash.
    cluster.kill(away);
    cluster.start_node(away);
    cluster.server(away).barrier().expect("confirmed");
    cluster.assert_equal();
}

#[test]
fn who_was_away_while_events_were_reclaimed_has_reclaimed_them_when_it_is_back() {
    let mut cluster = Cluster::start(3, |config| {
        config.log_keep_entries = 10;
        config.flush_entries = 50;
    });
    for n in 0..60 {
        cluster.server(0).append(if n % 2 == 0 { "drop-1" } else { "keep-1" }, 2).expect("appended");
    }
    let away = cluster.a_follower();
    cluster.kill(away);
    let leader = cluster.await_leader();
    cluster.server(leader).delete("drop-1");
    cluster.server(leader).scavenge();
    for _ in 0..300 {
        cluster.server(leader).append("meanwhile-1", 2).expect("appended");
    }
    let reached = cluster.server(leader).status().last_log;
    eventually("the log is purged", || {
        cluster.server(leader).append("meanwhile-2", 1).expect("appended");
        cluster.server(leader).status().purged + 100 > reached
    });
    cluster.start_node(away);
    eventually("it has everything", || cluster.server(away).tail() == cluster.server(leader).tail());
    cluster.assert_equal();
    let reclaimed = cluster.server(leader).reclaimed();
    assert_eq!(reclaimed.len(), 60);
    assert_eq!(cluster.server(away).reclaimed(), reclaimed);

    // A node that has nothing gets the stubs in place of the events.
    let place = cluster.add_place();
    let address = cluster.addresses[place].clone();
    cluster.server(leader).administer(AdminRequest::AddNode { address, replaces: None }).expect("added");
    eventually("it has everything", || cluster.server(place).tail() == cluster.server(leader).tail());
    assert_eq!(cluster.server(place).reclaimed(), reclaimed);
    assert_eq!(cluster.server(place).node.store().scavenge(), cluster.server(leader).node.store().scavenge());
    cluster.assert_equal();
}

#[test]
fn an_empty_node_is_added_promoted_and_then_decides_with_the_others() {
    let mut cluster = Cluster::start(3, |config| {
        config.log_keep_entries = 10;
        config.flush_entries = 50;
    });
    for _ in 0..300 {
        cluster.server(0).append("before-1", 1).expect("appended");
    }
    let leader = cluster.await_leader();
    eventually("the log is purged", || cluster.server(leader).status().purged > 100);
    let place = cluster.add_place();
    let address = cluster.addresses[place].clone();
    let asked = cluster.a_follower();
    let id = cluster
        .server(asked)
        .administer(AdminRequest::AddNode { address: address.clone(), replaces: None })
        .expect("added");
    assert!(id >= 4, "ids of the first members are not used again: {id}");
    let again = cluster.server(asked).administer(AdminRequest::AddNode { address, replaces: None });
    assert_eq!(again, Ok(id), "adding it again changes nothing");
    eventually("it has everything", || cluster.server(place).tail() == cluster.server(leader).tail());
    assert_eq!(cluster.server(place).status().role, Role::Learner);
    cluster.server(asked).administer(AdminRequest::Promote { node: id }).expect("promoted");
    eventually("it votes", || cluster.server(place).status().role == Role::Follower);

    // Four voters: any three decide.
    let away = cluster.a_follower();
    cluster.kill(away);
    cluster.server(place).append("after-1", 1).expect("appended");
    cluster.start_node(away);
    cluster.assert_equal();
}

#[test]
fn a_removed_node_takes_no_part_any_more_and_its_id_is_gone() {
    let mut cluster = Cluster::start(3, |_| {});
    cluster.server(0).append("a-1", 1).expect("appended");
    let removed = cluster.a_follower();
    let id = removed as u64 + 1;
    let leader = cluster.await_leader();
    cluster.server(leader).administer(AdminRequest::Remove { node: id, force: false }).expect("removed");
    eventually("it knows", || cluster.server(removed).status().phase == annals_raft::Phase::Removed);
    cluster.server(leader).append("a-1", 1).expect("appended");
    assert!(cluster.server(leader).status().members.iter().all(|member| member.id != id));

    // It remembers.
    cluster.stop(removed);
    cluster.start_node(removed);
    assert_eq!(cluster.server(removed).status().phase, annals_raft::Phase::Removed);
    let address = cluster.addresses[removed].clone();
    let refused = cluster.server(leader).administer(AdminRequest::AddNode { address: address.clone(), replaces: None });
    assert!(refused.is_err(), "not with its old data: {refused:?}");

    // With an empty directory it comes back under a new id.
    cluster.stop(removed);
    cluster.dirs[removed] = tempfile::tempdir().expect("a directory");
    cluster.start_node(removed);
    let new = cluster.server(leader).administer(AdminRequest::AddNode { address, replaces: None }).expect("added");
    assert!(new > 3, "{new}");
    eventually("it has everything", || cluster.server(removed).tail() == cluster.server(leader).tail());
}

#[test]
fn the_highest_id_of_the_first_members_is_not_given_again() {
    let mut cluster = Cluster::start(3, |_| {});
    cluster.server(0).append("a-1", 1).expect("appended");
    cluster.server(0).administer(AdminRequest::Remove { node: 3, force: false }).expect("removed");
    let place = cluster.add_place();
    let address = cluster.addresses[place].clone();
    let new = cluster.server(0).administer(AdminRequest::AddNode { address, replaces: None }).expect("added");
    assert!(new > 3, "{new}");
    eventually("it has everything", || cluster.server(place).tail() == cluster.server(0).tail());
    cluster.server(0).administer(AdminRequest::Promote { node: new }).expect("promoted");
    eventually("it votes", || cluster.server(place).status().role != Role::Learner);
}

#[test]
fn a_change_of_the_members_that_was_left_half_done_is_ended_by_whoever_leads() {
    let mut cluster = Cluster::start(3, |_| {});
    cluster.server(0).append("a-1", 1).expect("appended");
    let leader = cluster.await_leader();
    let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    let (away, removed) = (others[0], others[1]);
    // Both the old and the new voters have to agree to the first step, and of
    // the new ones half is away, which the leader has not noticed yet.
    cluster.kill(away);
    let request = AdminRequest::Remove { node: removed as u64 + 1, force: false };
    let server = cluster.server(leader);
    let result = server.run(server.node.administer(request, Instant::now() + Duration::from_millis(1_500)));
    assert!(
        matches!(result, Err(annals_raft::AdminError::Unknown(_) | annals_raft::AdminError::NoLeader)),
        "{result:?}"
    );

    cluster.start_node(away);
    eventually("the change is ended", || {
        cluster.leader().is_some_and(|leader| {
            let members = cluster.server(leader).status().members;
            members.len() == 2 && members.iter().all(|member| member.id != removed as u64 + 1)
        })
    });
    cluster.kill(removed);
    cluster.server(leader).append("a-1", 1).expect("the two decide alone");
}

#[test]
fn a_leader_whose_process_is_gone_is_replaced_before_the_election_timeout() {
    let mut cluster = Cluster::start(3, |config| {
        (config.election_min, config.election_max) = (Duration::from_secs(60), Duration::from_secs(120));
    });
    cluster.server(0).append("a-1", 1).expect("appended");
    let leader = cluster.await_leader();
    cluster.kill(leader);
    eventually("another one leads", || cluster.leader().is_some_and(|now| now != leader));
    let leader = cluster.await_leader();
    cluster.server(leader).append("a-1", 1).expect("appended");
}

#[test]
fn a_node_that_was_removed_while_it_was_away_learns_of_it() {
    let mut cluster = Cluster::start(3, |_| {});
    let removed = cluster.a_follower();
    cluster.kill(removed);
    let leader = cluster.await_leader();
    cluster
        .server(leader)
        .administer(AdminRequest::Remove { node: removed as u64 + 1, force: false })
        .expect("removed");
    let term = cluster.server(leader).status().term;
    cluster.start_node(removed);
    eventually("it knows", || cluster.server(removed).status().phase == annals_raft::Phase::Removed);
    assert_eq!(cluster.server(leader).status().term, term, "it disturbed nobody");
}

#[test]
fn a_node_whose_disk_was_wiped_is_not_listened_to_under_its_old_id() {
    let mut cluster = Cluster::start(3, |_| {});
    for _ in 0..10 {
        cluster.server(0).append("a-1", 1).expect("appended");
    }
    let wiped = cluster.a_follower();
    cluster.kill(wiped);
    cluster.dirs[wiped] = tempfile::tempdir().expect("a directory");
    cluster.start_node(wiped);
    assert_eq!(cluster.server(wiped).status().node, 0, "it has no identity");

    // Even if somebody gives it back its old id: the directory is another one.
    let leader = cluster.await_leader();
    let id = cluster.server(leader).status().cluster.expect("formed");
    let address = cluster.addresses[wiped].clone();
    cluster.server(leader).run(async {
        let mut client = CoordinationClient::connect(format!("http://{address}")).await.expect("it listens");
        let adopt = pb::AdoptRequest {
            cluster: id.as_bytes().to_vec().into(),
            node: wiped as u64 + 1,
            address,
            founders: Vec::new(),
        };
        client.adopt(adopt).await.expect("it is empty, so it believes it");
    });
    assert_eq!(cluster.server(wiped).status().node, wiped as u64 + 1);
    let term = cluster.server(leader).status().term;
    for _ in 0..10 {
        cluster.server(leader).append("a-1", 1).expect("the other two go on");
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.server(wiped).tail(), 0, "nothing reaches it");
    assert_eq!(cluster.server(leader).status().term, term, "and it disturbs nobody");

    // With the leader gone, one of two that remember cannot be outvoted by it.
    cluster.kill(leader);
    let other = (0..3).find(|place| *place != leader && *place != wiped).expect("three nodes");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cluster.leader(), None);
    cluster.start_node(leader);
    cluster.server(other).append("a-1", 1).expect("the two go on");
}

/// Copies a data directory, as an operator does who keeps one for later.
fn copy_of(from: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(copy.path()).status();
    assert!(copied.expect("cp runs").success());
    copy
}

/// That the node at this place ends as one that runs on an outdated copy,
/// without having been ready, and that its directory says so from then on.
fn assert_outdated(cluster: &mut Cluster, place: usize) {
    let server = cluster.server(place);
    let mut watched = server.node.watch_status();
    let (mut was_ready, mut why) = (false, None);
    eventually("it knows", || {
        was_ready |= watched.borrow_and_update().phase == Phase::Ready;
        why = server.run(async { tokio::time::timeout(Duration::ZERO, server.node.outdated()).await.ok() });
        why.is_some()
    });
    assert!(!was_ready, "it was never ready");
    let why = why.expect("seen a moment ago");
    assert!(why.contains(&format!("remove node {} from the cluster", place + 1)), "{why}");
    eventually("it takes no part", || server.status().phase == Phase::Outdated);
    cluster.stop(place);
    assert_refused_as_outdated(cluster, place);
}

/// That the node at this place does not even start.
fn assert_refused_as_outdated(cluster: &Cluster, place: usize) {
    let refused = Server::open(cluster.config(place)).err().expect("the directory is refused");
    assert!(matches!(refused, OpenError::Outdated { .. }), "{refused}");
    let way_back = format!("remove node {} from the cluster", place + 1);
    assert!(refused.to_string().contains(&way_back), "{refused}");
}

#[test]
fn an_older_copy_of_a_nodes_own_disk_is_refused_by_all_and_the_leader_goes_on() {
    let mut cluster = Cluster::start(3, |_| {});
    let victim = cluster.a_follower();
    for _ in 0..20 {
        cluster.server(0).append("a-1", 1).expect("appended");
    }
    cluster.stop(victim);
    let copy = copy_of(cluster.dirs[victim].path());
    cluster.start_node(victim);
    for _ in 0..200 {
        cluster.server(victim).append("a-1", 1).expect("appended");
    }
    cluster.assert_equal();
    cluster.kill(victim);
    cluster.dirs[victim] = copy;
    // Nobody has its acknowledgements in memory any more, only its boot on disk.
    for place in (0..3).filter(|place| *place != victim) {
        cluster.stop(place);
        cluster.start_node(place);
    }
    let leader = cluster.await_leader();
    assert_refused_as_outdated(&cluster, victim);
    assert_refused_as_outdated(&cluster, victim);
    assert_eq!(cluster.leader(), Some(leader), "nothing happened to the others");
    cluster.server(leader).append("a-1", 1).expect("the two go on");

    // The way back that the message names.
    cluster.server(leader).administer(AdminRequest::Remove { node: victim as u64 + 1, force: false }).expect("removed");
    cluster.dirs[victim] = tempfile::tempdir().expect("a directory");
    cluster.start_node(victim);
    let address = cluster.addresses[victim].clone();
    cluster.server(leader).administer(AdminRequest::AddNode { address, replaces: None }).expect("added");
    cluster.assert_equal();
}

#[test]
fn a_copy_made_while_the_node_ran_is_noticed_by_the_leader_which_goes_on() {
    let mut cluster = Cluster::start(3, |_| {});
    let victim = cluster.a_follower();
    for _ in 0..20 {
        cluster.server(0).append("a-1", 1).expect("appended");
    }
    cluster.assert_equal();
    // As a snapshot of the volume: it knows of the boot that goes on.
    let copy = copy_of(cluster.dirs[victim].path());
    for _ in 0..200 {
        cluster.server(victim).append("a-1", 1).expect("appended");
    }
    cluster.assert_equal();
    let leader = cluster.await_leader();
    cluster.kill(victim);
    cluster.dirs[victim] = copy;
    cluster.start_node(victim);
    assert_outdated(&mut cluster, victim);
    assert_eq!(cluster.leader(), Some(leader), "the leader goes on to lead");
    cluster.server(leader).append("a-1", 1).expect("the two go on");
}

#[test]
fn a_copy_that_first_finds_nobody_is_refused_by_those_who_come_back() {
    let mut cluster = Cluster::start(3, |_| {});
    cluster.server(0).append("a-1", 1).expect("appended");
    cluster.stop(0);
    let copy = copy_of(cluster.dirs[0].path());
    cluster.start_node(0);
    for _ in 0..20 {
        cluster.server(0).append("a-1", 1).expect("appended");
    }
    cluster.assert_equal();
    (0..3).for_each(|place| cluster.kill(place));
    cluster.dirs[0] = copy;
    cluster.start_node(0);
    cluster.start_node(1);
    cluster.start_node(2);
    assert_outdated(&mut cluster, 0);
    cluster.await_leader();
    cluster.server(1).append("a-1", 1).expect("the two go on");
    assert_eq!(cluster.server(1).tail(), 22);
}

#[test]
fn a_disk_that_comes_back_in_time_is_listened_to_again() {
    let mut cluster = Cluster::start(3, |_| {});
    let victim = cluster.a_follower();
    cluster.stop(victim);
    let copy = copy_of(cluster.dirs[victim].path());
    cluster.start_node(victim);
    cluster.server(victim).append("a-1", 1).expect("appended");
    cluster.stop(victim);
    let right = std::mem::replace(&mut cluster.dirs[victim], copy);
    assert_refused_as_outdated(&cluster, victim);
    cluster.dirs[victim] = right;
    cluster.start_node(victim);
    eventually("it is ready", || cluster.server(victim).status().phase == Phase::Ready);
    cluster.server(victim).append("a-1", 1).expect("appended");
}

#[test]
fn nodes_that_all_start_again_at_once_accept_each_other() {
    let mut cluster = Cluster::start(3, |_| {});
    for round in 0..3 {
        for place in 0..3 {
            if round == 0 { cluster.stop(place) } else { cluster.kill(place) }
        }
        (0..3).for_each(|place| cluster.start_node(place));
        cluster.await_leader();
        cluster.server(0).append("a-1", 1).expect("appended");
        eventually("all are ready", || cluster.running().all(|server| server.status().phase == Phase::Ready));
    }
}

#[test]
fn a_node_on_the_disk_of_another_member_does_not_start() {
    let mut cluster = Cluster::start(3, |_| {});
    cluster.server(0).append("a-1", 1).expect("appended");
    cluster.assert_equal();
    cluster.stop(1);
    cluster.stop(2);
    cluster.dirs.swap(1, 2);
    for place in [1, 2] {
        let refused = Server::open(cluster.config(place)).err().expect("another node's disk").to_string();
        let other = 3 - place + 1;
        assert!(refused.contains(&format!("the address of node {}", place + 1)), "{refused}");
        assert!(refused.contains(&format!("node {other} at ")), "{refused}");
    }
    cluster.dirs.swap(1, 2);
    cluster.start_node(1);
    cluster.start_node(2);
    cluster.server(1).append("a-1", 1).expect("each has its own again");
}

#[test]
fn the_last_voter_cannot_be_removed_and_unknown_nodes_are_not_found() {
    let cluster = Cluster::start(1, |_| {});
    let server = cluster.server(0);
    assert!(matches!(
        server.administer(AdminRequest::Remove { node: 1, force: false }),
        Err(annals_raft::AdminError::Refused(_))
    ));
    assert!(matches!(server.administer(AdminRequest::Promote { node: 9 }), Err(annals_raft::AdminError::NotFound(_))));
}
