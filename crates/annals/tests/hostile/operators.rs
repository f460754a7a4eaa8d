//! The services of operators: cluster, maintenance, logs, backup and import.
//!
//! Who may call them can do much, so that nonsense must do nothing: what is too large is
//! refused before it is held, what cannot be read is refused whole, numbers at their ends
//! are answered, and who takes nothing of an answer holds up nobody and no drain.

use annals_proto::annals::v1::import_batch::Event;
use annals_proto::annals::v1::{
    DrainRequest, ImportBatch, InfoReply, InfoRequest, LogLevelRequest, LogLinesRequest, RecordsRequest, ReportRequest,
    ResumeRequest, StopScavengeRequest,
};
use prost::Message;

use crate::Shape;
use crate::call::{Call, INVALID_ARGUMENT, OK, RESOURCE_EXHAUSTED, framed};
use crate::raw::{DATA, END_STREAM, Raw, WINDOW_UPDATE, setting};
use crate::support::{self, eventually, free_ports};
use crate::victim::Victim;

pub(crate) const SHAPES: &[Shape] = &[
    ("operators' messages that are too large", too_large),
    ("operators' messages that are none", malformed),
    ("drains and leases at their ends", drains_at_their_ends),
    ("a drain of which nobody takes anything", drain_unheard),
    ("levels and lines of logs with nonsense", logs),
    ("log lines and records of which nobody takes anything", readers_that_take_nothing),
    ("records and reports at their ends", backups),
    ("imports of nothing, too much and nonsense", imports),
    ("imports that never end", imports_that_never_end),
    ("scavenges of no name", scavenges),
];

const UNAUTHENTICATED: &str = "16";

/// Those that only an operator may call.
const OPERATORS: [&str; 20] = [
    "annals.v1.Cluster/AddNode",
    "annals.v1.Cluster/Promote",
    "annals.v1.Cluster/Remove",
    "annals.v1.Cluster/TransferLeader",
    "annals.v1.Cluster/StartScavenge",
    "annals.v1.Cluster/StopScavenge",
    "annals.v1.Maintenance/Drain",
    "annals.v1.Maintenance/Resume",
    "annals.v1.Logs/Level",
    "annals.v1.Logs/Lines",
    "annals.v1.Backup/Records",
    "annals.v1.Backup/Report",
    "annals.v1.Backup/Import",
    "event_store.client.operations.Operations/StartScavenge",
    "event_store.client.operations.Operations/StopScavenge",
    "event_store.client.operations.Operations/Shutdown",
    "event_store.client.operations.Operations/MergeIndexes",
    "event_store.client.operations.Operations/ResignNode",
    "event_store.client.operations.Operations/SetNodePriority",
    "event_store.client.operations.Operations/RestartPersistentSubscriptions",
];

/// Those that others may call as well.
const OTHERS: [&str; 5] = [
    "annals.v1.Cluster/Status",
    "annals.v1.Cluster/Hash",
    "annals.v1.Cluster/ScavengeStatus",
    "annals.v1.Cluster/ListStreams",
    "annals.v1.Maintenance/Info",
];

fn to(method: &str) -> Call {
    Call::to(&format!("/{method}")).with("grpc-timeout", b"20S")
}

fn too_large(victim: &Victim) {
    let large = vec![0; 18 << 20];
    for method in OPERATORS.iter().chain(&OTHERS) {
        to(method).raw(&large).answer(victim.port).is(&[RESOURCE_EXHAUSTED, "11"]);
        to(method).bytes(framed(0, u32::MAX, b"x")).answer(victim.port).is(&[RESOURCE_EXHAUSTED, "11"]);
    }
}

fn malformed(victim: &Victim) {
    // A number that does not end, a field that ends early, and a group that was never begun.
    let wrong: [&[u8]; 3] = [&[0xff; 1_000], &[0x0a, 0x20, 0x01], &[0x0c]];
    for method in OPERATORS.iter().chain(&OTHERS) {
        for message in wrong {
            to(method).raw(message).answer(victim.port).is_no_success();
        }
        to(method).bytes(framed(0, 100, b"short")).answer(victim.port).is_no_success();
    }
    assert!(!info(victim).drained);
}

fn info(victim: &Victim) -> InfoReply {
    let answer = to("annals.v1.Maintenance/Info").message(&InfoRequest {}).answer(victim.port);
    answer.is(&[OK]);
    InfoReply::decode(answer.body.get(5..).expect("a message")).expect("a reply")
}

fn resume(victim: &Victim) {
    to("annals.v1.Maintenance/Resume").message(&ResumeRequest {}).answer(victim.port).is(&[OK]);
    eventually("the lease is given back", || {
        let info = info(victim);
        (!info.drained && info.lease.is_none()).then_some(())
    });
}

fn drains_at_their_ends(victim: &Victim) {
    for (timeout_seconds, lease_seconds) in [(u32::MAX, 0), (3_601, 0), (0, u32::MAX)] {
        let drain = DrainRequest { timeout_seconds, lease_seconds };
        to("annals.v1.Maintenance/Drain").message(&drain).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
    assert!(!info(victim).drained);
    // Many at a time are one, and being taken back many times is being taken back.
    let drain = DrainRequest { timeout_seconds: 20, lease_seconds: 5 };
    for answer in to("annals.v1.Maintenance/Drain").message(&drain).make_many(victim.port, 20) {
        answer.expect("an answer").is(&[OK]);
    }
    assert!(info(victim).drained);
    for answer in to("annals.v1.Maintenance/Resume").message(&ResumeRequest {}).make_many(victim.port, 20) {
        answer.expect("an answer").is(&[OK]);
    }
    resume(victim);
}

/// Neither the drain nor its lease waits for whom they are told.
fn drain_unheard(victim: &Victim) {
    let mut raw = deaf(victim);
    ask(&mut raw, 1, "annals.v1.Maintenance/Drain", &DrainRequest::default());
    eventually("it is drained", || info(victim).drained.then_some(()));
    resume(victim);
    drop(raw);
    resume(victim);
}

/// A connection by which nothing but headers can be received.
fn deaf(victim: &Victim) -> Raw {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let mut raw = Raw::open(victim.port, &setting(INITIAL_WINDOW_SIZE, 0));
    raw.send(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
    raw
}

fn ask(raw: &mut Raw, stream: u32, method: &str, message: &impl Message) {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a small one");
    raw.begin(stream, &format!("/{method}"), 0);
    raw.send(DATA, END_STREAM, stream, &framed(0, length, &message));
}

fn logs(victim: &Victim) {
    let long = "annals=trace,".repeat(100_000);
    for directives in ["", "loudly", "=", "annals=", "a=b=c", "\0", "[{", long.as_str()] {
        let level = LogLevelRequest { directives: directives.to_owned(), for_seconds: u64::MAX, reset: false };
        let answer = to("annals.v1.Logs/Level").message(&level).answer(victim.port);
        assert!(answer.fields.len() < 8_192, "it is not sent back: {} bytes", answer.fields.len());
    }
    let reset = LogLevelRequest { reset: true, ..LogLevelRequest::default() };
    to("annals.v1.Logs/Level").message(&reset).answer(victim.port).is(&[OK]);
    for (last, level) in [(u32::MAX, ""), (1, "shouting"), (0, "\0"), (5, long.as_str())] {
        let lines = LogLinesRequest { last, follow: false, level: level.to_owned() };
        to("annals.v1.Logs/Lines").message(&lines).answer(victim.port).is(&[OK, INVALID_ARGUMENT]);
    }
}

fn readers_that_take_nothing(victim: &Victim) {
    let data = format!("\"{}\"", "x".repeat(100_000));
    for _ in 0..20 {
        crate::values::append("taken-1", uuid::Uuid::new_v4(), data.as_bytes()).answer(victim.port).is(&[OK]);
    }
    let follow = LogLinesRequest { last: 0, follow: true, level: String::new() };
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut raw = deaf(victim);
        for call in 0..50 {
            ask(&mut raw, 4 * call + 1, "annals.v1.Logs/Lines", &follow);
            ask(&mut raw, 4 * call + 3, "annals.v1.Backup/Records", &RecordsRequest::default());
        }
        connections.push(raw);
    }
    // There is something to be told, all the while.
    for _ in 0..50 {
        to("annals.v1.Cluster/Promote").raw(b"").answer(victim.port).is_no_success();
    }
    for raw in &mut connections {
        assert!(raw.answers_pings());
    }
}

fn backups(victim: &Victim) {
    let hashes = ["", "x", "00000000000000000000000000000000", &"0".repeat(1 << 20)];
    for (after, through) in [(u64::MAX, 0), (u64::MAX, u64::MAX), (5, 1), (0, u64::MAX), (1 << 63, 1 << 62)] {
        for after_hash in hashes {
            let after_hash = after_hash.to_owned();
            let records = RecordsRequest { after, through, after_hash, bytes_per_second: 1, as_applied: true };
            let answer =
                to("annals.v1.Backup/Records").with("grpc-timeout", b"1S").message(&records).answer(victim.port);
            answer.is_no_success();
            assert!(answer.fields.len() < 8_192, "it is not sent back: {} bytes", answer.fields.len());
        }
    }
    let long = "x".repeat(1 << 20);
    for (kind, backup) in [("", "a"), ("both", "a"), ("full", ""), ("full", "\0"), ("full", &long), (&long, "a")] {
        let (kind, backup) = (kind.to_owned(), backup.to_owned());
        let report = ReportRequest { kind, backup, through: u64::MAX, bytes: u64::MAX, began: u64::MAX, ended: 0 };
        to("annals.v1.Backup/Report").message(&report).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
}

fn event(stream: &str, id: &[u8]) -> Event {
    Event {
        stream: stream.to_owned(),
        id: id.to_vec().into(),
        r#type: "T".to_owned(),
        data: b"{}".to_vec().into(),
        json: true,
        ..Event::default()
    }
}

fn imports(victim: &Victim) {
    let import = |events: Vec<Event>| to("annals.v1.Backup/Import").message(&ImportBatch { sequence: 1, events });
    let id = [7; 16];
    let long = "x".repeat(1 << 20);
    import(Vec::new()).answer(victim.port).is(&[INVALID_ARGUMENT]);
    import(vec![event("i-1", &id); 100_000]).answer(victim.port).is(&[INVALID_ARGUMENT]);
    for wrong in [
        event("", &id),
        event(&long, &id),
        event("i-1", b""),
        event("i-1", &[1; 17]),
        Event { r#type: String::new(), ..event("i-1", &id) },
        Event { r#type: long.clone(), ..event("i-1", &id) },
        Event { data: vec![b'x'; 17_000_000].into(), ..event("i-1", &id) },
    ] {
        import(vec![wrong]).answer(victim.port).is_no_success();
    }
    // Its place is known by what is there, whatever it says of itself.
    let far = Event { revision: Some(u64::MAX), created: u64::MAX, ..event("i-1", &id) };
    import(vec![far]).answer(victim.port).is_no_success();
    for computed in ["$all", "$streams", "$ce-i", "$et-T", "$bc-1", "$mem-gossip"] {
        let ended = Event { tombstone: true, revision: Some(5), ..event(computed, &id) };
        import(vec![ended]).answer(victim.port).is(&[INVALID_ARGUMENT]);
        import(vec![event(computed, &id)]).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
}

/// Batches that are announced and do not come: nothing is held for them.
fn imports_that_never_end(victim: &Victim) {
    let before = victim.resident();
    let mut connections = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::open(victim.port, &[]);
        for number in 0..25 {
            raw.begin(2 * number + 1, "/annals.v1.Backup/Import", 0);
            raw.send(DATA, 0, 2 * number + 1, &framed(0, 16_000_000, b"begun"));
        }
        connections.push(raw);
    }
    let grown = victim.resident().saturating_sub(before) / 1024;
    assert!(grown < 256, "{grown} MiB for batches that never come");
}

fn scavenges(victim: &Victim) {
    let long = "x".repeat(1 << 20);
    for scavenge in ["", "x", "00000000-0000-0000-0000-000000000000", "\0", &long] {
        let stop = StopScavengeRequest { scavenge: scavenge.to_owned() };
        let answer = to("annals.v1.Cluster/StopScavenge").message(&stop).answer(victim.port);
        answer.is_no_success();
        assert!(answer.fields.len() < 8_192, "it is not sent back: {} bytes", answer.fields.len());
    }
}

/// Where it is asked who calls, nothing happens for who cannot say it.
#[test]
fn operators_services_do_nothing_for_who_does_not_say_who_it_is() {
    let data = tempfile::tempdir().expect("a directory");
    let password = data.path().join("password");
    std::fs::write(&password, "a first password\n").expect("written");
    let port = free_ports(1);
    let address = format!("127.0.0.1:{port}");
    let mut command = support::annals();
    command.args(["serve", "--listen", &address, "--bootstrap", &address, "--data"]).arg(data.path().join("data"));
    command.args(["--set", &format!("admin_password_file={}", password.display())]);
    let node = support::Running { child: command.spawn().expect("the binary runs"), port };
    support::wait_ready(port);
    let is_admin = |password: &str| {
        let url = format!("kurrentdb://admin:{password}@{address}?tls=false");
        support::run(&["scavenge", "status", "--server", &url]).code
    };
    // There never was a scavenge, and one who may ask is told so.
    eventually("the administrator is there", || (is_admin("a%20first%20password") == 3).then_some(()));

    let long = "QUJD".repeat(2_000);
    // A field of 3 MiB that nobody knows: the message can be read.
    let mut large = vec![0x7a, 0x80, 0x80, 0xc0, 0x01];
    large.resize(large.len() + (3 << 20), 0);
    for method in OPERATORS {
        // A wrong password of a real account is tried once: each one more is waited for longer.
        let wrong = if method == OPERATORS[0] { "Basic YWRtaW46d3Jvbmc=" } else { "Basic %%%" };
        for credentials in [None, Some(wrong), Some("Bearer x"), Some(&long)] {
            let call = credentials.iter().fold(to(method), |call, who| call.with("authorization", who.as_bytes()));
            // An empty message is one that asks for something.
            for message in [&[][..], &large] {
                let answer = call.clone().raw(message).answer(port);
                answer.is(&[UNAUTHENTICATED, "7"]);
            }
        }
    }
    let nothing = eventually("it serves", || {
        let info = to("annals.v1.Maintenance/Info").message(&InfoRequest {}).answer(port);
        InfoReply::decode(info.body.get(5..)?).ok()
    });
    assert!(!nothing.drained && nothing.lease.is_none() && nothing.ready, "{nothing:?}");
    assert_eq!(is_admin("a%20first%20password"), 3, "nothing was scavenged");
    assert_eq!(node.terminate(), Some(0));
}
