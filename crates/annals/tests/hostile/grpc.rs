//! Calls whose framing, headers or deadlines are wrong.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::Shape;
use crate::call::{
    APPEND, BATCH, Call, DEADLINE_EXCEEDED, GROUPS, INVALID_ARGUMENT, READ, RECORDS, RESOURCE_EXHAUSTED, UNIMPLEMENTED,
    framed,
};
use crate::raw::{DATA, END_STREAM, Raw};
use crate::victim::Victim;

pub(crate) const SHAPES: &[Shape] = &[
    ("a length of 4 GiB", length_of_4_gib),
    ("a message above the limit", above_the_limit),
    ("a message that ends early", ends_early),
    ("compressed, without saying how", compressed_somehow),
    ("compressed, and unfolding to a gigabyte", compression_bomb),
    ("a flag that is none", wrong_flag),
    ("a method and a service that do not exist", unknown_method),
    ("no content type, and others", content_types),
    ("a call without a message", no_message),
    ("a call by another method", other_methods),
    ("cancelled after it was sent", cancel_storm),
    ("a deadline of nothing", deadline_of_nothing),
    ("a deadline of centuries, and none at all", deadline_of_centuries),
    ("a call that never says what it wants", never_says),
    ("binary metadata that is garbage", garbage_metadata),
    ("credentials twice, and of no form", credentials),
    ("headers beyond the limit", large_headers),
    ("our own headers with nonsense", own_headers),
    ("many large messages that never end", unfinished_messages),
    ("a million empty messages", empty_messages),
];

fn length_of_4_gib(victim: &Victim) {
    for path in [APPEND, BATCH, READ, RECORDS] {
        let answer = Call::to(path).bytes(framed(0, u32::MAX, b"x")).answer(victim.port);
        answer.is(&[RESOURCE_EXHAUSTED, "11"]);
    }
}

fn above_the_limit(victim: &Victim) {
    Call::to(APPEND).raw(&vec![0; 17 << 20]).answer(victim.port).is(&[RESOURCE_EXHAUSTED, "11"]);
    let create = format!("{GROUPS}/Create");
    Call::to(&create).raw(&vec![0; 5 << 20]).answer(victim.port).is(&[RESOURCE_EXHAUSTED, "11"]);
}

fn ends_early(victim: &Victim) {
    for path in [APPEND, BATCH, READ, RECORDS] {
        Call::to(path).bytes(framed(0, 100, b"short")).answer(victim.port).is_no_success();
        Call::to(path).bytes(&b"\0\0"[..]).answer(victim.port);
    }
}

fn compressed_somehow(victim: &Victim) {
    let compressed = framed(1, 2, b"\x0a\x00");
    Call::to(APPEND).bytes(compressed.clone()).answer(victim.port).is_no_success();
    Call::to(APPEND).with("grpc-encoding", b"snappy").bytes(compressed).answer(victim.port).is(&[UNIMPLEMENTED]);
}

fn compression_bomb(victim: &Victim) {
    // A deflated block of zeros, again and again: a gigabyte in a megabyte. It is
    // not unfolded, so what it would be does not matter.
    let bomb =
        [&b"\x1f\x8b\x08\0\0\0\0\0\0\xff"[..], &[0xec, 0xc1, 0x01, 0x01, 0, 0, 0, 0x80].repeat(1 << 17)].concat();
    let length = u32::try_from(bomb.len()).expect("a megabyte");
    for encoding in ["gzip", "deflate", "zstd"] {
        let call = Call::to(APPEND).with("grpc-encoding", encoding.as_bytes());
        call.bytes(framed(1, length, &bomb)).answer(victim.port).is(&[UNIMPLEMENTED]);
    }
}

fn wrong_flag(victim: &Victim) {
    for flag in [2, 7, 0x80, 0xff] {
        Call::to(APPEND).bytes(framed(flag, 0, b"")).answer(victim.port).is_no_success();
    }
}

fn unknown_method(victim: &Victim) {
    let long = format!("/{}/{}", "a".repeat(5_000), "é%00".repeat(500).replace('é', "%C3%A9"));
    for path in ["/event_store.client.streams.Streams/Nothing", "/nobody.Knows/This", "/", "//", "/a", &long] {
        Call::to(path).raw(b"").answer(victim.port).is(&[UNIMPLEMENTED]);
    }
    let metrics = crate::support::get(victim.port, "/metrics").body;
    assert!(!metrics.contains("nobody"), "what a client makes up is no label");
}

fn content_types(victim: &Victim) {
    for content_type in [None, Some("text/plain"), Some("application/json"), Some("application/grpc-web"), Some("")] {
        let answer = Call::to(APPEND).content_type(content_type).raw(b"").answer(victim.port);
        answer.is_no_success();
        assert_eq!(answer.http, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type:?}");
    }
}

fn no_message(victim: &Victim) {
    Call::to(APPEND).answer(victim.port).is(&[INVALID_ARGUMENT]);
    for path in [READ, RECORDS] {
        Call::to(path).answer(victim.port).is_no_success();
    }
    Call::to(&format!("{GROUPS}/Read")).answer(victim.port).is_no_success();
}

fn other_methods(victim: &Victim) {
    for method in [Method::GET, Method::PUT, Method::OPTIONS, Method::TRACE] {
        let answer = Call::to(READ).by(method.clone()).raw(b"").make(victim.port);
        assert!(answer.is_ok() || method == Method::TRACE, "{method}: {answer:?}");
    }
}

fn cancel_storm(victim: &Victim) {
    let append = crate::values::append("storm-1", uuid::Uuid::new_v4(), b"{}");
    for _ in 0..20 {
        append.clone().cancelled().make_many(victim.port, 100);
    }
    let half = Call::to(APPEND).bytes(framed(0, 1_000, b"begun")).cancelled();
    half.make_many(victim.port, 500);
}

fn deadline_of_nothing(victim: &Victim) {
    for timeout in ["0n", "0S", "1n"] {
        let begun = Instant::now();
        // Without an end it would wait for the rest of the call.
        let answer = Call::to(APPEND).with("grpc-timeout", timeout.as_bytes()).raw(b"").answer(victim.port);
        answer.is(&[DEADLINE_EXCEEDED, INVALID_ARGUMENT]);
        assert!(begun.elapsed() < Duration::from_secs(5), "{timeout}");
    }
}

fn deadline_of_centuries(victim: &Victim) {
    // What Go sends for "none" (protocol 2.8), and what is no time.
    for timeout in
        ["2562047H", "99999999H", "99999999S", "999999999999H", "-1S", "1", "H", "soon", "18446744073709551615n"]
    {
        let append = crate::values::append("late-1", uuid::Uuid::new_v4(), b"{}");
        append.with("grpc-timeout", timeout.as_bytes()).answer(victim.port).is(&["0"]);
    }
}

/// The deadline holds also where nothing was received to begin with.
fn never_says(victim: &Victim) {
    let mut raw = Raw::open(victim.port, &[]);
    let headers = [crate::raw::call(READ), crate::raw::field(b"grpc-timeout", b"100m")].concat();
    for number in 0..200 {
        raw.send(crate::raw::HEADERS, crate::raw::END_HEADERS, 2 * number + 1, &headers);
    }
    let answered = raw.wait_for(&[crate::raw::HEADERS]).expect("an answer, or the deadline's");
    assert_eq!(answered.flags & END_STREAM, END_STREAM);
}

fn garbage_metadata(victim: &Victim) {
    for (name, value) in [
        ("x-bin", &b"%%%"[..]),
        ("x-bin", b"AAA="),
        ("x-bin", &[b'A'; 8_000]),
        ("x-bin", b"\xff\xfe\x80"),
        ("x", b"\xff\xfe\x80"),
        ("grpc-status", b"0"),
        ("grpc-message", b"%ff%"),
        ("grpc-status-details-bin", b"!!"),
    ] {
        let append = crate::values::append("metadata-1", uuid::Uuid::new_v4(), b"{}");
        append.with(name, value).answer(victim.port).is(&["0"]);
    }
}

fn credentials(victim: &Victim) {
    let long = "a".repeat(8_000);
    for value in ["", "Basic", "Basic %%%", "Basic Og==", "Bearer", "Bearer a.b.c", "Digest x", "basic YWRtaW4=", &long]
    {
        let append = || crate::values::append("credentials-1", uuid::Uuid::new_v4(), b"{}");
        // Whether they are refused is for the users' tests; they are answered.
        append().with("authorization", value.as_bytes()).answer(victim.port);
        let twice = append().with("authorization", b"Basic YTpi").with("authorization", value.as_bytes());
        twice.answer(victim.port);
    }
}

fn large_headers(victim: &Victim) {
    let refused = Call::to(READ).with("annals-large", &[b'x'; 60_000]).raw(b"").make(victim.port);
    assert!(refused.as_ref().map_or(true, |answer| answer.http != StatusCode::OK), "{refused:?}");
    let mut many = Call::to(READ).raw(b"");
    for _ in 0..300 {
        many = many.with("annals-again", &[b'x'; 50]);
    }
    let refused = many.make(victim.port);
    assert!(refused.as_ref().map_or(true, |answer| answer.http != StatusCode::OK), "{refused:?}");
}

fn own_headers(victim: &Victim) {
    for (name, value) in [
        ("annals-consistency", "maybe"),
        ("annals-min-position", "-1"),
        ("annals-min-position", "99999999999999999999999"),
    ] {
        crate::values::read_all_call().with(name, value.as_bytes()).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
    let future = crate::values::read_all_call().with("annals-min-position", b"18446744073709551615");
    future.with("grpc-timeout", b"200m").answer(victim.port).is(&[DEADLINE_EXCEEDED]);
    crate::values::read_all_call().with("requires-leader", b"perhaps").answer(victim.port).is(&["0"]);
}

/// Each is within the limit of one message; together they would be 3 GiB.
fn unfinished_messages(victim: &Victim) {
    let before = victim.resident();
    let mut connections = Vec::new();
    let piece = vec![7; 16 * 1024];
    for _ in 0..8 {
        let mut raw = Raw::open(victim.port, &[]);
        for number in 0..25 {
            raw.begin(2 * number + 1, APPEND, 0);
            raw.send(DATA, 0, 2 * number + 1, &framed(0, 16_000_000, b""));
        }
        'sending: for _ in 0..900 {
            for number in 0..25 {
                if !raw.send(DATA, 0, 2 * number + 1, &piece) {
                    break 'sending;
                }
            }
        }
        connections.push(raw);
    }
    let grown = victim.resident().saturating_sub(before) / 1024;
    assert!(grown < 512, "{grown} MiB for messages that never end");
}

fn empty_messages(victim: &Victim) {
    let messages = framed(0, 0, b"").repeat(1_000_000);
    for path in [APPEND, BATCH, READ] {
        Call::to(path).bytes(messages.clone()).answer(victim.port);
    }
}
