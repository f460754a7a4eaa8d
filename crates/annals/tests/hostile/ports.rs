//! What operators and other nodes use, in the hands of a stranger.
//!
//! Without certificates a stranger who reaches the port can operate the cluster;
//! what is shown here is that nonsense changes nothing and nobody without an
//! identity is taken for a node.

use annals_proto::annals::internal::v1 as internal;
use annals_proto::annals::v1::{AddNodeRequest, HashRequest, ListStreamsRequest, NodeRequest, TransferLeaderRequest};

use crate::Shape;
use crate::call::{Answer, Call, OK};
use crate::victim::Victim;

pub(crate) const SHAPES: &[Shape] = &[
    ("membership with addresses that are none", wrong_addresses),
    ("membership with the node itself", oneself),
    ("removing and promoting nobody", nobody),
    ("hashes and lists at their ends", ends),
    ("a stranger at the services between nodes", stranger),
    ("a stranger with a made-up identity", made_up_identity),
    ("adopting a node that has a cluster", adopting),
    ("snapshots and records that nobody asked for", snapshots),
    ("pages of HTTP with nonsense", pages),
];

fn cluster(method: &str) -> Call {
    Call::to(&format!("/annals.v1.Cluster/{method}")).with("grpc-timeout", b"40S")
}

fn add(victim: &Victim, address: &str) -> Answer {
    cluster("AddNode")
        .message(&AddNodeRequest { address: address.to_owned(), ..AddNodeRequest::default() })
        .answer(victim.port)
}

fn members(victim: &Victim) -> String {
    let gossip = crate::support::get(victim.port, "/gossip").json();
    gossip["members"].as_array().expect("a list").iter().map(|member| member["httpEndPointPort"].to_string()).collect()
}

fn wrong_addresses(victim: &Victim) {
    let before = members(victim);
    let long = format!("{}:1", "a".repeat(1 << 20));
    for address in ["", ":", "a", "a:0", "a:65536", "a:-1", ":1", "a:b:c", "\0:1", "http://a:x", &long] {
        let answer = add(victim, address);
        answer.is_no_success();
        assert!(answer.fields.len() < 8_192, "it is not sent back: {} bytes", answer.fields.len());
    }
    assert_eq!(members(victim), before);
}

fn oneself(victim: &Victim) {
    let before = members(victim);
    // It is a member, and is told so.
    add(victim, &format!("127.0.0.1:{}", victim.port)).is(&[OK]);
    add(victim, &format!("localhost:{}", victim.port)).is_no_success();
    assert_eq!(members(victim), before);
}

fn nobody(victim: &Victim) {
    let before = members(victim);
    for node in [0, 7, u64::MAX] {
        for method in ["Promote", "Remove"] {
            cluster(method)
                .message(&NodeRequest { node, ..NodeRequest::default() })
                .answer(victim.port)
                .is_no_success();
        }
        if node != 0 {
            cluster("TransferLeader").message(&TransferLeaderRequest { node }).answer(victim.port).is_no_success();
        }
    }
    // The last voter.
    cluster("Remove").message(&NodeRequest { node: 1, ..NodeRequest::default() }).answer(victim.port).is_no_success();
    assert_eq!(members(victim), before);
}

fn ends(victim: &Victim) {
    for position in [u64::MAX, 1 << 63, 1 << 40] {
        cluster("Hash").message(&HashRequest { position }).answer(victim.port).is_no_success();
    }
    let long = "x".repeat(1 << 20);
    for (prefix, after, limit) in [
        ("", "", u32::MAX),
        ("\0", "\0", 1),
        (long.as_str(), long.as_str(), 10),
        ("$", "zzz", 0),
        ("", "\u{10ffff}", 5),
    ] {
        let list = ListStreamsRequest { prefix: prefix.to_owned(), after: after.to_owned(), limit, system: true };
        cluster("ListStreams").message(&list).answer(victim.port).is(&[OK, "3"]);
    }
}

/// Every call between nodes that is not open to all.
fn between_nodes() -> [String; 12] {
    let replication = ["Append", "Vote", "PreVote", "TransferLeader", "OfferSnapshot", "PullRecords"];
    let coordination = ["Forward", "ReadIndex", "Greet", "LostLeader", "Administer", "Retire"];
    let mut paths = [const { String::new() }; 12];
    for (path, method) in paths.iter_mut().zip(replication) {
        *path = format!("/annals.internal.v1.Replication/{method}");
    }
    for (path, method) in paths[6..].iter_mut().zip(coordination) {
        *path = format!("/annals.internal.v1.Coordination/{method}");
    }
    paths
}

fn stranger(victim: &Victim) {
    for path in between_nodes() {
        for message in [&[][..], &[0xff; 1_000], &[0x0a, 0x02, 0x01, 0x02]] {
            Call::to(&path).with("grpc-timeout", b"5S").raw(message).answer(victim.port).is_no_success();
        }
    }
}

fn made_up_identity(victim: &Victim) {
    let nil = "00000000-0000-0000-0000-000000000000";
    for path in between_nodes() {
        for (cluster, node) in [(nil, "1"), ("x", "x"), (nil, "18446744073709551615"), ("", "")] {
            let call = Call::to(&path).with("grpc-timeout", b"5S");
            let call = call.with("annals-cluster", cluster.as_bytes()).with("annals-from", node.as_bytes());
            let call = call.with("annals-to", node.as_bytes()).with("annals-incarnation", nil.as_bytes());
            call.with("annals-lineage", &[b','; 4_000]).raw(b"").answer(victim.port).is_no_success();
        }
    }
}

fn adopting(victim: &Victim) {
    for (cluster, node, address) in [
        (vec![7; 16], 9, "127.0.0.1:1".to_owned()),
        (vec![0; 16], 1, format!("127.0.0.1:{}", victim.port)),
        (vec![], 0, String::new()),
        (vec![1; 1_000], u64::MAX, "x".repeat(100_000)),
    ] {
        let adopt = internal::AdoptRequest { cluster: cluster.into(), node, address, founders: Vec::new() };
        Call::to("/annals.internal.v1.Coordination/Adopt").message(&adopt).answer(victim.port).is_no_success();
    }
}

fn snapshots(victim: &Victim) {
    for after in [0, u64::MAX] {
        let pull = internal::PullRequest { after, ..Default::default() };
        let path = "/annals.internal.v1.Replication/PullRecords";
        Call::to(path).message(&pull).answer(victim.port).is_no_success();
    }
    let path = "/annals.internal.v1.Replication/OfferSnapshot";
    for bytes in [&[0; 16][..], &[0xff; 100_000], b"PK\x03\x04"] {
        Call::to(path).raw(&[&[0x0a, 0x10], bytes].concat()).answer(victim.port).is_no_success();
        Call::to(path).raw(bytes).answer(victim.port).is_no_success();
    }
}

fn pages(victim: &Victim) {
    for path in ["/readyz?exclude=%ff", "/health/live?liveCode=99999", "/health/live?liveCode=0", "/stats?group=maybe"]
    {
        let answer = crate::support::http(victim.port, "GET", path, &[]).expect("an answer");
        assert!((200..500).contains(&answer.status), "{path}: {answer:?}");
    }
    let list = "a,".repeat(5_000);
    let answer = crate::support::http(victim.port, "GET", &format!("/readyz?exclude={list}"), &[]);
    assert!(answer.is_none_or(|answer| answer.status < 500));
    for method in ["POST", "DELETE", "PROPFIND", "X"] {
        let answer = crate::support::http(victim.port, method, "/stats", &[]).expect("an answer");
        assert_eq!(answer.status, 405, "{method}");
    }
}
