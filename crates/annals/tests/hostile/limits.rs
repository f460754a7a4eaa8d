//! Limits that only a node of its own can show, because they are set low.

use std::time::{Duration, Instant};

use crate::call::{APPEND, READ};
use crate::raw::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw, call, frame};
use crate::support::eventually;
use crate::values;
use crate::victim::Victim;

#[test]
fn a_connection_without_calls_is_closed_and_one_with_a_subscription_is_not() {
    let _turn = crate::TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut victim = Victim::start(&["--set", "connection_idle_ms=500"]);
    let mut idle = Raw::open(victim.port, &[]);
    let mut subscribed = Raw::open(victim.port, &[]);
    subscribed.begin(1, READ, 0);
    subscribed.send(DATA, END_STREAM, 1, &values::subscribe_to_everything());
    assert_eq!(idle.wait_for(&[GOAWAY]).map(|frame| frame.kind), Some(GOAWAY));
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        if let Some(frame) = subscribed.read(until) {
            assert_ne!(frame.kind, GOAWAY, "it is in use");
        }
    }
    assert!(subscribed.answers_pings());
    // The canary connects again by itself where it must.
    victim.survives("idle connections were closed");
    victim.finish();
}

#[test]
fn a_call_that_is_never_completed_is_given_up() {
    let _turn = crate::TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let options = ["--set", "request_timeout_ms=300", "--set", "request_timeout_max_ms=300"];
    let victim = Victim::start(&options);
    let mut raw = Raw::open(victim.port, &[]);
    // One that holds events, one that holds nothing.
    raw.begin(1, APPEND, 0);
    raw.begin(3, READ, 0);
    let mut ended = 0;
    while ended < 2 {
        let frame = raw.wait_for(&[HEADERS]).expect("both are answered");
        ended += u32::from(frame.flags & END_STREAM != 0);
    }
    victim.finish();
}

#[test]
fn a_flood_of_one_kind_does_not_fill_the_log() {
    let _turn = crate::TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let victim = Victim::start(&["--set", "log_lines_per_second_max=2"]);
    let begun = Instant::now();
    for _ in 0..60 {
        let mut raw = Raw::open(victim.port, &[]);
        for number in 0..200 {
            let begun = frame(HEADERS, END_HEADERS, 2 * number + 1, &call(READ));
            let reset = frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8]);
            if !raw.flood(&[begun, reset].concat()) {
                break;
            }
        }
        raw.flush();
        raw.is_ended();
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).expect("a short time");
    eventually("it is said that lines were left out", || victim.log().contains("left out").then_some(()));
    let lines = victim.log().lines().filter(|line| line.contains("remotely-reset")).count();
    assert!(lines <= 2 * (seconds + 2), "{lines} lines in {seconds} s");
    victim.finish();
}
