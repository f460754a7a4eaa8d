//! A server, its cluster, and what waits in it, as seen from here.

use std::time::Duration;

use annals_client::{Client, Host, Settings};
use annals_proto::annals::v1::{Node, StatusReply};

use super::clocks::{self, Clock};
use super::{Check, Finding, certificates, names};
use crate::commands::{alone, host};

/// Between two looks: long enough for a second election where there are many.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Entries by which a member may be behind while it is written to.
const LAG_MAX: u64 = 10_000;

const SERVER: Check = Check { name: "server", code: "ANN-3001" };
const VERSIONS: Check = Check { name: "versions", code: "ANN-3005" };
const LAG: Check = Check { name: "lag", code: "ANN-3007" };
const GROUPS: Check = Check { name: "groups", code: "ANN-3008" };

pub(super) async fn look(settings: &Settings) -> Vec<Finding> {
    // Before anything is asked: these say why nothing answers.
    let mut findings = names::look(&settings.hosts).await;
    findings.extend(certificates::look(settings, &settings.hosts).await);
    let client = Client::new(settings.clone());
    let cluster = client.cluster();
    let status = match cluster.status().await {
        Ok(status) => status,
        Err(error) => {
            let advice = error.code().map_or("look at the node's log", |code| match code {
                "ANN-2006" => "give credentials: annals explain ANN-2006",
                "ANN-2005" => "use an account in $ops or $admins",
                _ => "is it running, and is this its address? annals explain ANN-2001",
            });
            findings.push(Finding::fail(SERVER, error.to_string(), advice));
            return findings;
        }
    };
    findings.push(Finding::pass(SERVER, format!("node {} answers, annals {}", status.node, status.version)));
    findings.push(leader(&status));
    findings.push(voters(&status));
    let mut told: Vec<Host> = status.nodes.iter().map(|node| host(&node.address)).collect();
    told.retain(|host| !settings.hosts.contains(host));
    findings.extend(names::look(&told).await);
    findings.extend(certificates::of_hosts(settings, &told).await);
    let members = members(settings, &status).await;
    findings.extend(reachable(&members));
    findings.extend(versions(&members));
    let clocks: Vec<(u64, Clock)> = members.iter().filter_map(|member| Some((member.node.id, member.clock?))).collect();
    findings.extend(clocks::compare(&clocks));
    tokio::time::sleep(LOOK_AGAIN).await;
    if let Ok(later) = cluster.status().await {
        findings.push(stable(&status, &later));
        findings.extend(lag(&members, &later));
    }
    match client.groups().list(None).await {
        Ok(groups) => findings.push(parked(
            groups
                .iter()
                .map(|group| (format!("{}::{}", group.event_source, group.group_name), group.parked_message_count)),
        )),
        Err(error) => {
            findings.push(Finding::warn(GROUPS, error.to_string(), "ask the leader, with rights to see them"))
        }
    }
    findings
}

fn leader(status: &StatusReply) -> Finding {
    const CHECK: Check = Check { name: "leader", code: "ANN-3002" };
    match status.leader {
        0 => Finding::fail(
            CHECK,
            format!("none, in term {}", status.term),
            "is a quorum of voters up, and do they reach each other?",
        ),
        leader => Finding::pass(CHECK, format!("node {leader}, term {}", status.term)),
    }
}

fn voters(status: &StatusReply) -> Finding {
    const CHECK: Check = Check { name: "voters", code: "ANN-3003" };
    let voters = status.nodes.iter().filter(|node| node.voter).count();
    let found = format!("{voters} of {} members", status.nodes.len());
    match voters {
        1 => Finding::warn(
            CHECK,
            found,
            "one node: its disk is all there is; add two (docs/lifecycle.md) or keep backups",
        ),
        voters if voters % 2 == 0 => {
            Finding::warn(CHECK, found, "an even number stands no more failures than one less")
        }
        _ => Finding::pass(CHECK, found),
    }
}

/// A member, and what it says when it is asked at the address that it tells clients.
struct Member {
    node: Node,
    answer: Result<StatusReply, String>,
    clock: Option<Clock>,
}

async fn members(settings: &Settings, status: &StatusReply) -> Vec<Member> {
    let asked = status.nodes.iter().map(|node| async {
        let cluster = alone(settings, &node.address).cluster();
        let answer = cluster.status().await.map_err(|error| error.to_string());
        let clock = if answer.is_ok() { Clock::of(&cluster).await } else { None };
        Member { node: node.clone(), answer, clock }
    });
    futures::future::join_all(asked).await
}

fn reachable(members: &[Member]) -> Vec<Finding> {
    const CHECK: Check = Check { name: "member", code: "ANN-3004" };
    let found = |member: &Member| match &member.answer {
        Ok(answer) => Finding::pass(CHECK, format!("node {} answers at {}", answer.node, member.node.address)),
        Err(error) => Finding::fail(
            CHECK,
            format!("node {} at {}: {error}", member.node.id, member.node.address),
            "clients go to this address by themselves: it must be reached from where they are",
        ),
    };
    members.iter().map(found).collect()
}

fn versions(members: &[Member]) -> Option<Finding> {
    let mut versions: Vec<&str> =
        members.iter().filter_map(|member| Some(member.answer.as_ref().ok()?.version.as_str())).collect();
    versions.sort_unstable();
    versions.dedup();
    match versions.as_slice() {
        [] => None,
        [version] => Some(Finding::pass(VERSIONS, format!("all run {version}"))),
        several => Some(Finding::warn(
            VERSIONS,
            several.join(" and "),
            "finish the upgrade: mixed versions are for hours, not weeks",
        )),
    }
}

fn stable(first: &StatusReply, later: &StatusReply) -> Finding {
    const CHECK: Check = Check { name: "elections", code: "ANN-3006" };
    if first.term == later.term {
        return Finding::pass(CHECK, "none while looking");
    }
    Finding::warn(
        CHECK,
        format!("term {} became {} within {} s", first.term, later.term, LOOK_AGAIN.as_secs()),
        "look at the log of the nodes: slow disks and lost packets end leaderships",
    )
}

/// How far the members are behind the newest of them. Each was asked for itself.
fn lag(members: &[Member], later: &StatusReply) -> Option<Finding> {
    let newest = members.iter().filter_map(|member| Some(member.answer.as_ref().ok()?.applied_index)).max()?;
    let newest = newest.min(later.applied_index);
    let (behind, node) = members
        .iter()
        .filter_map(|member| {
            let answer = member.answer.as_ref().ok()?;
            Some((newest.saturating_sub(answer.applied_index), answer.node))
        })
        .max()?;
    Some(if behind > LAG_MAX {
        Finding::warn(
            LAG,
            format!("node {node} is {behind} entries behind"),
            "it catches up, or its disk or network is too slow",
        )
    } else {
        Finding::pass(LAG, format!("{behind} entries at most"))
    })
}

fn parked(groups: impl Iterator<Item = (String, i64)>) -> Finding {
    let (mut count, mut parked, mut with) = (0, 0, Vec::new());
    for (name, of_group) in groups {
        count += 1;
        if of_group > 0 {
            parked += of_group;
            with.push(name);
        }
    }
    if parked > 0 {
        let found = format!("{parked} parked messages in {}", with.join(", "));
        return Finding::warn(GROUPS, found, "annals psub parked SOURCE GROUP tells why; then replay or drop-parked");
    }
    Finding::pass(GROUPS, format!("{count}, nothing parked"))
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    fn status(leader: u64, voters: usize) -> StatusReply {
        let node = Node { voter: true, ..Node::default() };
        StatusReply { leader, nodes: vec![node; voters], ..StatusReply::default() }
    }

    #[test]
    fn no_leader_fails_and_even_numbers_of_voters_are_told() {
        assert_eq!(leader(&status(0, 3)).grade, Grade::Fail);
        assert_eq!(leader(&status(2, 3)).grade, Grade::Pass);
        let grades: Vec<Grade> = [1, 2, 3, 4, 5].map(|count| voters(&status(1, count)).grade).into();
        assert_eq!(grades, [Grade::Warn, Grade::Warn, Grade::Pass, Grade::Warn, Grade::Pass]);
    }

    #[test]
    fn members_are_judged_by_their_own_answers() {
        let member = |node, applied_index, version: &str| Member {
            node: Node { id: node, ..Node::default() },
            answer: Ok(StatusReply { node, applied_index, version: version.to_owned(), ..StatusReply::default() }),
            clock: None,
        };
        let gone = Member { node: Node::default(), answer: Err("refused".to_owned()), clock: None };
        let members = [member(1, 50_000, "0.1.0"), member(2, 10, "0.1.0"), gone];
        let now = StatusReply { applied_index: 50_000, ..StatusReply::default() };
        assert_eq!(lag(&members, &now).map(|finding| finding.grade), Some(Grade::Warn));
        assert_eq!(lag(&members[..1], &now).map(|finding| finding.grade), Some(Grade::Pass));
        assert_eq!(versions(&members).map(|finding| finding.grade), Some(Grade::Pass));
        assert_eq!(
            versions(&[member(1, 1, "0.1.0"), member(2, 1, "0.2.0")]).map(|finding| finding.grade),
            Some(Grade::Warn)
        );
        let grades: Vec<Grade> = reachable(&members).iter().map(|finding| finding.grade).collect();
        assert_eq!(grades, [Grade::Pass, Grade::Pass, Grade::Fail]);
    }

    #[test]
    fn parked_messages_are_told_with_their_groups() {
        let finding = parked([("s::a".to_owned(), 0), ("s::b".to_owned(), 3)].into_iter());
        assert_eq!(finding.grade, Grade::Warn);
        assert!(finding.found.contains("3 parked messages in s::b"), "{}", finding.found);
        assert_eq!(parked([("s::a".to_owned(), 0)].into_iter()).grade, Grade::Pass);
    }
}
