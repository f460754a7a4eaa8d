//! Subscribers that take nothing cost nobody anything: memory stays bounded,
//! appends stay quick. Who reads again is told how far it came; who does not has
//! its call reset.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::call::READ;
use crate::raw::{DATA, END_STREAM, HEADERS, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, setting};
use crate::values;
use crate::victim::Victim;

const INITIAL_WINDOW_SIZE: u16 = 4;

const SUBSCRIBERS: u32 = 200;

/// What each takes before it stops.
const TAKEN: u32 = 100_000;

#[test]
fn subscribers_that_take_nothing_cost_nobody_anything_and_are_given_up() {
    let _turn = crate::TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut victim = Victim::start(&["--set", "stall_timeout_ms=4000"]);
    // 40 MB, so that every page could be a full one.
    let data = format!("\"{}\"", "x".repeat(100_000));
    let append = |victim: &Victim, count| {
        for _ in 0..count {
            values::append("filled-1", Uuid::new_v4(), data.as_bytes()).answer(victim.port).is(&["0"]);
        }
    };
    append(&victim, 400);
    victim.settle();
    let before = victim.resident();
    let mut connections: Vec<Raw> = (0..4)
        .map(|_| {
            let mut raw = Raw::open(victim.port, &setting(INITIAL_WINDOW_SIZE, TAKEN));
            raw.send(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
            for number in 0..SUBSCRIBERS / 4 {
                raw.begin(2 * number + 1, READ, 0);
                raw.send(DATA, END_STREAM, 2 * number + 1, &values::subscribe_to_everything());
            }
            raw
        })
        .collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        append(&victim, 10);
    }
    let grown = victim.resident().saturating_sub(before) / 1024;
    // The canary appends meanwhile, so that up to a memtable of 64 MiB comes with it.
    assert!(grown < 128 + 64, "{grown} MiB for {SUBSCRIBERS} subscribers that take nothing");
    println!("slow: {grown} MiB, {}", victim.survives("subscribers that take nothing"));
    crate::support::eventually("all are given up", || {
        let metrics = crate::support::get(victim.port, "/metrics").body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("annals_readers_given_up_total "))?;
        (line.trim().parse::<f64>().ok()? >= f64::from(SUBSCRIBERS)).then_some(())
    });
    let metrics = crate::support::get(victim.port, "/metrics").body;
    assert!(!metrics.lines().any(|line| line.starts_with("annals_subscriptions_active{") && !line.ends_with(" 0")));
    // They go on taking nothing: their calls are reset, their connections are kept.
    for raw in &mut connections {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut reset = 0;
        while reset < SUBSCRIBERS / 4 {
            let frame = raw.read(deadline).expect("a reset for each");
            assert!(matches!(frame.kind, DATA | HEADERS | RST_STREAM | SETTINGS | WINDOW_UPDATE | 6), "{frame:?}");
            reset += u32::from(frame.kind == RST_STREAM);
        }
        assert!(raw.answers_pings());
    }
    drop(connections);
    victim.survives("subscribers that were given up");
    victim.finish();
}

/// Whatever time a stop may take: who does not take its end is cut off long before.
#[test]
fn a_subscriber_that_takes_nothing_does_not_hold_up_a_stop() {
    let _turn = crate::TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let victim = Victim::start(&["--set", "shutdown_timeout_ms=600000", "--set", "stall_timeout_ms=600000"]);
    let data = vec![b'x'; 60_000];
    for _ in 0..20 {
        values::append("filled-1", Uuid::new_v4(), &data).answer(victim.port).is(&["0"]);
    }
    let mut raw = Raw::open(victim.port, &setting(INITIAL_WINDOW_SIZE, TAKEN));
    raw.begin(1, READ, 0);
    raw.send(DATA, END_STREAM, 1, &values::subscribe_to_everything());
    raw.wait_for(&[DATA]).expect("it is served");
    let log = victim.finish();
    assert!(log.contains("cutting off calls") && log.contains("stopped"), "{log}");
}

/// The status says the position, by a client that can read it.
#[test]
fn the_status_of_a_stalled_subscriber_names_its_position() {
    let _turn = crate::TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let victim = Victim::start(&["--set", "stall_timeout_ms=1500"]);
    let data = vec![b'x'; 60_000];
    for _ in 0..20 {
        values::append("filled-1", Uuid::new_v4(), &data).answer(victim.port).is(&["0"]);
    }
    let (body, trailers) = crate::call::run(crate::call::stalled(victim.port, values::subscribe_to_everything()));
    let status = trailers.get("grpc-status").expect("a status").to_str().expect("text").to_owned();
    let message = trailers.get("grpc-message").expect("a message").to_str().expect("text").to_owned();
    assert_eq!(status, "10", "{message}");
    assert!(message.contains("position"), "{message}");
    // Whole messages only: the client can decode all that it got.
    let mut rest = body.as_slice();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[1..5].try_into().expect("four bytes")) as usize;
        rest = rest.get(5 + length..).expect("a message that has begun is ended");
    }
    victim.finish();
}
