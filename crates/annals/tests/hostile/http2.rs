//! Frames that are wrong, and frames that are right but far too many.
//!
//! What a library must not do is written out byte by byte ([`crate::raw`]). The
//! error codes are those of RFC 9113, section 7.

use std::time::{Duration, Instant};

use crate::Shape;
use crate::call::{APPEND, READ};
use crate::raw::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY, PUSH_PROMISE,
    RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, call, field, frame, remembered, setting,
};
use crate::victim::Victim;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;

/// Frames of a flood: far above every limit that counts them.
const MANY: u32 = 100_000;

pub(crate) const SHAPES: &[Shape] = &[
    ("rapid reset", rapid_reset),
    ("reset in the middle of a message", reset_in_a_message),
    ("CONTINUATION flood", continuation_flood),
    ("empty CONTINUATION flood", empty_continuation_flood),
    ("header flood", header_flood),
    ("a field that is remembered and unfolded thousands of times", hpack_bomb),
    ("header compression that points nowhere", hpack_garbage),
    ("resizing of the header table", hpack_resizing),
    ("zero window", zero_window),
    ("WINDOW_UPDATE flood", window_update_flood),
    ("window beyond 2^31", window_overflow),
    ("WINDOW_UPDATE by nothing", window_update_by_nothing),
    ("PING flood, the answers unread", ping_flood),
    ("SETTINGS flood, the answers unread", settings_flood),
    ("settings that cannot be", impossible_settings),
    ("empty DATA flood", empty_data_flood),
    ("DATA on streams that are closed or never were", data_nowhere),
    ("half-open connections", half_open),
    ("half-closed calls", half_closed),
    ("slow frames", slow_frames),
    ("ten thousand idle connections", idle_connections),
    ("a wrong preface", wrong_preface),
    ("a frame above its size", oversized_frame),
    ("stream ids that go back", stream_ids_backwards),
    ("PRIORITY flood, streams that depend on themselves", priority_flood),
    ("PUSH_PROMISE of a client", push_promise),
    ("frames of unknown kinds", unknown_frames),
    ("more calls than are allowed", too_many_streams),
    ("padding longer than its frame", too_much_padding),
    ("calls after GOAWAY", calls_after_goaway),
    ("RST_STREAM of streams that never were", reset_of_nothing),
];

fn odd(number: u32) -> u32 {
    2 * number + 1
}

/// CVE-2023-44487. The node ends a connection that does it, again and again.
fn rapid_reset(victim: &Victim) {
    let (mut sent, mut connections) = (0, 0);
    while sent < MANY && connections < 200 {
        let mut raw = Raw::open(victim.port, &[]);
        connections += 1;
        for number in 0..20_000 {
            let begun = frame(HEADERS, END_HEADERS, odd(number), &call(READ));
            let reset = frame(RST_STREAM, 0, odd(number), &CANCEL);
            if !raw.flood(&[begun, reset].concat()) {
                break;
            }
            sent += 1;
        }
        raw.flush();
    }
    assert!(sent >= MANY || connections == 200, "{sent} over {connections}");
}

fn reset_in_a_message(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    for number in 0..2_000 {
        let begun = frame(HEADERS, END_HEADERS, odd(number), &call(APPEND));
        let half = frame(DATA, 0, odd(number), &[0, 0, 0, 4, 0, 1, 2, 3]);
        let reset = frame(RST_STREAM, 0, odd(number), &CANCEL);
        if !raw.flood(&[begun, half, reset].concat()) {
            break;
        }
    }
    raw.flush();
}

/// CVE-2024-27316 and others of its kind.
fn continuation_flood(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(HEADERS, 0, 1, &call(READ));
    let more = frame(CONTINUATION, 0, 1, &field(b"x", &[b'a'; 1_000]));
    let mut sent = 0;
    while sent < MANY && raw.flood(&more) {
        sent += 1;
    }
    assert!(sent < MANY, "100 MB of headers were taken");
}

fn empty_continuation_flood(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(HEADERS, 0, 1, &call(READ));
    for _ in 0..MANY {
        if !raw.flood(&frame(CONTINUATION, 0, 1, &[])) {
            break;
        }
    }
    raw.flush();
    // Whatever became of it, it is no call.
    assert_ne!(raw.wait_for(&[HEADERS, RST_STREAM, GOAWAY]).map(|frame| frame.kind), Some(HEADERS));
}

fn header_flood(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    for number in 0..50 {
        let mut headers = call(READ);
        for extra in 0..500 {
            headers.extend(field(format!("x-{extra}").as_bytes(), &[b'v'; 20]));
        }
        if !raw.send(HEADERS, END_HEADERS | END_STREAM, odd(number), &headers) {
            return;
        }
    }
    assert!(raw.wait_for(&[HEADERS, RST_STREAM, GOAWAY]).is_some(), "it is answered");
}

fn hpack_bomb(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    let mut headers = call(READ);
    headers.extend(remembered(b"x", &[b'a'; 4_000]));
    // The newest entry of the dynamic table, 8,000 times: 32 MB in 8 KB.
    headers.extend([0xbe; 8_000]);
    for number in 0..100 {
        if !raw.send(HEADERS, END_HEADERS | END_STREAM, odd(number), &headers) {
            return;
        }
    }
    assert!(raw.wait_for(&[HEADERS, RST_STREAM, GOAWAY]).is_some(), "it is answered");
}

fn hpack_garbage(victim: &Victim) {
    for block in [&[0xff; 100][..], &[0x80], &[0x40, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x00, 0x8f]] {
        let mut raw = Raw::open(victim.port, &[]);
        raw.send(HEADERS, END_HEADERS | END_STREAM, 1, block);
        assert!(raw.is_ended(), "{block:x?}");
    }
}

fn hpack_resizing(victim: &Victim) {
    // To 4 GiB, and to and fro in one block.
    for block in [vec![0x3f, 0xe1, 0xff, 0xff, 0xff, 0x0f], [0x20, 0x3f, 0xe1, 0x1f].repeat(2_000)] {
        let mut raw = Raw::open(victim.port, &[]);
        raw.send(HEADERS, END_HEADERS | END_STREAM, 1, &[block, call(READ)].concat());
        raw.wait_for(&[HEADERS, RST_STREAM, GOAWAY]);
    }
}

/// Asks for everything and takes nothing.
fn zero_window(victim: &Victim) {
    let connections: Vec<Raw> = (0..20)
        .map(|_| {
            let mut raw = Raw::open(victim.port, &setting(INITIAL_WINDOW_SIZE, 0));
            for number in 0..100 {
                raw.begin(odd(number), READ, 0);
                raw.send(DATA, END_STREAM, odd(number), &crate::values::read_everything());
            }
            raw
        })
        .collect();
    for mut raw in connections {
        assert!(raw.answers_pings(), "what cannot be sent keeps nothing else from being done");
    }
}

fn window_update_flood(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.begin(1, APPEND, 0);
    for number in 0..MANY {
        if !raw.flood(&frame(WINDOW_UPDATE, 0, number % 2, &[0, 0, 0, 1])) {
            return;
        }
    }
    raw.flush();
    assert!(raw.answers_pings() || raw.is_ended());
}

fn window_overflow(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    for _ in 0..2 {
        raw.send(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
    }
    let end = raw.wait_for(&[GOAWAY]);
    assert_eq!(end.and_then(|end| end.error()), Some(FLOW_CONTROL_ERROR));
}

fn window_update_by_nothing(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(WINDOW_UPDATE, 0, 0, &[0; 4]);
    assert_eq!(raw.wait_for(&[GOAWAY]).and_then(|end| end.error()), Some(PROTOCOL_ERROR));
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(WINDOW_UPDATE, 0, 0, &[0; 3]);
    assert!(raw.is_ended(), "of a wrong size");
}

fn ping_flood(victim: &Victim) {
    flood(victim, &frame(PING, 0, 0, b"flooding"));
}

fn settings_flood(victim: &Victim) {
    flood(victim, &frame(SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 65_535)));
}

/// Sends a frame that wants an answer, without reading any, until the node does
/// not take more. Memory must not grow by answers that nobody takes.
fn flood(victim: &Victim, frame: &[u8]) {
    let before = victim.resident();
    let mut raw = Raw::open(victim.port, &[]);
    for _ in 0..20 * MANY {
        if !raw.flood(frame) {
            break;
        }
    }
    let grown = victim.resident().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more while nobody reads");
}

fn impossible_settings(victim: &Victim) {
    for settings in [
        setting(INITIAL_WINDOW_SIZE, u32::MAX),
        setting(MAX_FRAME_SIZE, 1),
        setting(MAX_FRAME_SIZE, u32::MAX),
        setting(2, 7),
        vec![0; 5],
    ] {
        let mut raw = Raw::open(victim.port, &[]);
        raw.send(SETTINGS, 0, 0, &settings);
        assert!(raw.is_ended(), "{settings:?}");
    }
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(SETTINGS, ACK, 0, &setting(INITIAL_WINDOW_SIZE, 1));
    assert!(raw.is_ended(), "an acknowledgement with content");
}

/// RUSTSEC-2026-0258.
fn empty_data_flood(victim: &Victim) {
    let before = victim.resident();
    let mut raw = Raw::open(victim.port, &[]);
    raw.begin(1, APPEND, 0);
    for _ in 0..10 * MANY {
        if !raw.flood(&frame(DATA, 0, 1, &[])) {
            break;
        }
    }
    raw.flush();
    let grown = victim.resident().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more of nothing");
}

fn data_nowhere(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(DATA, 0, 5, b"abcd");
    assert!(raw.is_ended(), "a stream that never was");
    let mut raw = Raw::open(victim.port, &[]);
    raw.begin(1, "/nobody.Knows/This", END_STREAM);
    for _ in 0..10_000 {
        if !raw.flood(&frame(DATA, 0, 1, &[7; 100])) {
            break;
        }
    }
    raw.flush();
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(DATA, 0, 0, b"abcd");
    assert!(raw.is_ended(), "the connection itself");
}

fn half_open(victim: &Victim) {
    let connections: Vec<Raw> = (0..200)
        .map(|number| {
            let mut raw = Raw::connect(victim.port);
            raw.write(&PREFACE[..number % PREFACE.len()]);
            raw
        })
        .collect();
    for raw in &connections {
        raw.half_close();
    }
}

/// Calls that begin and never end, over connections that do.
fn half_closed(victim: &Victim) {
    for _ in 0..50 {
        let mut raw = Raw::open(victim.port, &[]);
        for number in 0..50 {
            raw.begin(odd(number), [APPEND, READ][number as usize % 2], 0);
        }
        raw.half_close();
    }
}

/// One byte at a time, over many connections.
fn slow_frames(victim: &Victim) {
    let mut connections: Vec<Raw> = (0..100).map(|_| Raw::open(victim.port, &[])).collect();
    let begun = frame(HEADERS, END_HEADERS, 1, &call(APPEND));
    let until = Instant::now() + Duration::from_secs(2);
    for byte in &begun {
        for raw in &mut connections {
            raw.write(&[*byte]);
        }
        if Instant::now() > until {
            break;
        }
    }
}

/// More than are served. They cost little, and end by themselves; whoever comes
/// beyond the limit is told, and the canary's connection is not touched.
fn idle_connections(victim: &Victim) {
    let before = victim.resident();
    let connections: Vec<std::net::TcpStream> =
        (0..10_000).filter_map(|_| std::net::TcpStream::connect(("127.0.0.1", victim.port)).ok()).collect();
    assert!(connections.len() > 5_000, "{}", connections.len());
    let grown = victim.resident().saturating_sub(before);
    assert!(grown < 128 * 1024, "{grown} KiB for connections that say nothing");
    drop(connections);
    // The next attack needs a place.
    let until = Instant::now() + Duration::from_secs(20);
    while !Raw::open(victim.port, &[]).answers_pings() {
        assert!(Instant::now() < until, "places come free");
    }
}

fn wrong_preface(victim: &Victim) {
    for preface in [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".as_slice(), b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n"] {
        let mut raw = Raw::connect(victim.port);
        raw.write(preface);
        raw.send(SETTINGS, 0, 0, &[]);
        assert!(raw.is_ended());
    }
    let mut raw = Raw::connect(victim.port);
    raw.write(PREFACE);
    // A call before SETTINGS is borne.
    raw.begin(1, READ, END_STREAM);
    assert!(raw.wait_for(&[SETTINGS, HEADERS, RST_STREAM, GOAWAY]).is_some());
}

fn oversized_frame(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.begin(1, APPEND, 0);
    raw.send(DATA, 0, 1, &vec![0; 20_000]);
    assert!(raw.is_ended());
    let mut raw = Raw::open(victim.port, &[]);
    // Says that it has 16 MiB; nothing follows.
    raw.write(&[0xff, 0xff, 0xff, SETTINGS, 0, 0, 0, 0, 0]);
    assert!(raw.is_ended());
}

fn stream_ids_backwards(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.begin(101, READ, END_STREAM);
    raw.begin(7, READ, END_STREAM);
    assert!(raw.is_ended());
    for even in [2, 0] {
        let mut raw = Raw::open(victim.port, &[]);
        raw.begin(even, READ, END_STREAM);
        assert!(raw.is_ended(), "{even}");
    }
}

fn priority_flood(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    for number in 0..MANY {
        // Of streams that nobody opened, each depending on the one before.
        let before = odd(number).saturating_sub(2).to_be_bytes();
        if !raw.flood(&frame(PRIORITY, 0, odd(number), &[before.as_slice(), &[200]].concat())) {
            break;
        }
    }
    raw.flush();
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(PRIORITY, 0, 3, &[0, 0, 0, 3, 16]);
    raw.wait_for(&[RST_STREAM, GOAWAY]);
}

fn push_promise(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.begin(1, APPEND, 0);
    raw.send(PUSH_PROMISE, END_HEADERS, 1, &[[0, 0, 0, 2].as_slice(), &call(READ)].concat());
    assert!(raw.is_ended());
}

fn unknown_frames(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    for number in 0..MANY {
        if !raw.flood(&frame(10 + u8::try_from(number % 200).expect("small"), 0xff, number, &[1; 64])) {
            break;
        }
    }
    raw.flush();
    assert!(raw.answers_pings(), "what is not known is ignored (RFC 9113, 4.1)");
}

fn too_many_streams(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    for number in 0..2_000 {
        if !raw.begin(odd(number), APPEND, 0) {
            return;
        }
    }
    let refused = raw.wait_for(&[RST_STREAM, GOAWAY]);
    assert!(refused.is_some(), "beyond the limit calls are refused");
}

fn too_much_padding(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.begin(1, APPEND, 0);
    raw.send(DATA, PADDED, 1, &[255, 1, 2, 3]);
    assert!(raw.is_ended());
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(HEADERS, PADDED | END_HEADERS, 1, &[200]);
    assert!(raw.is_ended());
}

fn calls_after_goaway(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(GOAWAY, 0, 0, &[0; 8]);
    for number in 0..1_000 {
        if !raw.begin(odd(number), READ, END_STREAM) {
            break;
        }
    }
}

fn reset_of_nothing(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(RST_STREAM, 0, 9, &CANCEL);
    assert!(raw.is_ended());
    let mut raw = Raw::open(victim.port, &[]);
    raw.send(RST_STREAM, 0, 0, &CANCEL);
    assert!(raw.is_ended());
}
