//! What is no HTTP/2: HTTP/1.1 that is slow, large or ambiguous, and other
//! protocols altogether.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::Shape;
use crate::victim::Victim;

pub(crate) const SHAPES: &[Shape] = &[
    ("bytes of no protocol", no_protocol),
    ("TLS where there is none", tls),
    ("slow heads", slow_heads),
    ("a head without end", endless_head),
    ("a head of a thousand fields", many_fields),
    ("two lengths of one body", smuggling),
    ("a body that never comes", promised_body),
    ("a body that nobody wants", unwanted_body),
    ("paths that are none", paths),
    ("an end before the answer", half_closed),
];

/// Sends bytes; what came back until the other side closed, or a while.
fn say(victim: &Victim, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", victim.port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    // The node may have closed before everything was sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.take(1 << 20).read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer.
fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn no_protocol(victim: &Victim) {
    for bytes in [&b"\x00\x01\x02\x03\x04\x05\x06\x07"[..], &[0xff; 10_000], b"\r\n\r\n\r\n\r\n", b"SSH-2.0-x\r\n"] {
        let answer = say(victim, bytes);
        assert!(matches!(status(&answer), None | Some(400..500)), "{answer}");
    }
    let answer = say(victim, b"GET /livez HTTP/1.1\r\nhost: a\r\nx: \x00\x01\r\n\r\n");
    assert_eq!(status(&answer), Some(400), "{answer}");
}

fn tls(victim: &Victim) {
    // A ClientHello that says that it has 512 bytes, and has them.
    let hello = [[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03].as_slice(), &[0x55; 506]].concat();
    for _ in 0..100 {
        assert!(!say(victim, &hello).starts_with("HTTP/1.1 200"));
    }
}

fn slow_heads(victim: &Victim) {
    let head = b"GET /livez HTTP/1.1\r\nhost: a\r\n";
    let mut connections: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(("127.0.0.1", victim.port)).expect("it listens")).collect();
    let until = Instant::now() + Duration::from_secs(2);
    for byte in head {
        for stream in &mut connections {
            let _ = stream.write_all(&[*byte]);
        }
        if Instant::now() > until {
            break;
        }
    }
}

fn endless_head(victim: &Victim) {
    let mut stream = TcpStream::connect(("127.0.0.1", victim.port)).expect("it listens");
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    stream.write_all(b"GET /").expect("it reads");
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(&[b'a'; 16 * 1024]).is_ok() {
        sent += 16 * 1024;
    }
    assert!(sent < 64 << 20, "64 MiB of a path were taken");
}

fn many_fields(victim: &Victim) {
    let fields: String = (0..1_000).map(|number| format!("x-{number}: y\r\n")).collect();
    let answer = say(victim, format!("GET /livez HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes());
    assert!(matches!(status(&answer), None | Some(400..500)), "{answer}");
}

fn smuggling(victim: &Victim) {
    for lengths in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "content-length: -1\r\n",
        "content-length: 99999999999999999999999\r\n",
    ] {
        let hidden = "0\r\n\r\nGET /info HTTP/1.1\r\nhost: b\r\n\r\n";
        let answer = say(victim, format!("POST /livez HTTP/1.1\r\nhost: a\r\n{lengths}\r\n{hidden}").as_bytes());
        assert!(!answer.contains("dbVersion"), "what was hidden in a body was carried out: {lengths}: {answer}");
    }
}

fn promised_body(victim: &Victim) {
    let path = "/event_store.client.streams.Streams/Append";
    let connections: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", victim.port)).expect("it listens");
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\ncontent-length: 99999999999\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).expect("it reads");
            stream
        })
        .collect();
    drop(connections);
}

fn unwanted_body(victim: &Victim) {
    let mut stream = TcpStream::connect(("127.0.0.1", victim.port)).expect("it listens");
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 268435456\r\n\r\n").expect("it reads");
    let mut sent = 0;
    while sent < 256 << 20 && stream.write_all(&[7; 64 * 1024]).is_ok() {
        sent += 64 * 1024;
    }
}

fn paths(victim: &Victim) {
    for path in ["/../../etc/passwd", "/stats/../../..", "/readyz/%00", "//", "/stats/%2e%2e/%2e%2e", "*"] {
        let answer = say(victim, format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes());
        assert!(matches!(status(&answer), None | Some(400..500)), "{path}: {answer}");
        assert!(!answer.contains("root:"), "{answer}");
    }
    let long = "a".repeat(15_000);
    let answer = say(victim, format!("GET /{long} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes());
    assert!(matches!(status(&answer), Some(400..500)), "{answer}");
}

/// Who closes their side after the request still gets the answer (RFC 9112, 9.6).
fn half_closed(victim: &Victim) {
    for round in 0..1_000 {
        let answer = say(victim, b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert_eq!(status(&answer), Some(200), "round {round}: {answer}");
    }
}
