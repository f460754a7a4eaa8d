//! What no client sends: bytes, frames and headers that are wrong. Each gets an
//! answer or a closed connection, nothing panics, and the node goes on serving
//! those who behave.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use support::{annals, free_ports, wait_ready};

const APPEND: &str = "/event_store.client.streams.Streams/Append";
const READ: &str = "/event_store.client.streams.Streams/Read";

/// A node whose log can be looked through at the end.
struct Node {
    child: std::process::Child,
    port: u16,
}

impl Node {
    fn start() -> Node {
        let port = free_ports(1);
        let mut command = annals();
        command.args(["dev", "--port", &port.to_string()]).stderr(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn().expect("the binary runs");
        wait_ready(port);
        Node { child, port }
    }

    fn assert_serves(&self, after: &str) {
        let url = support::url(self.port);
        let ran = support::run(&["stream", "append", "canary-1", "--type", "Alive", "--server", &url]);
        assert_eq!(ran.code, 0, "after {after}: {ran:#?}");
    }

    /// Stops it and asserts that nothing panicked.
    fn finish(mut self) {
        support::signal(self.child.id(), "TERM");
        let mut log = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut log).expect("a log");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }
}

/// What a gRPC call comes to: the HTTP status and `grpc-status`, wherever it was.
async fn call(
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
    body: &[Bytes],
    end: bool,
) -> Result<(StatusCode, Option<String>), h2::Error> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let (mut client, connection) =
        h2::client::Builder::new().max_header_list_size(1 << 20).handshake::<_, Bytes>(stream).await?;
    let driver = tokio::spawn(connection);
    let mut request = Request::post(format!("http://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_str(value).expect("a header value"));
    }
    let (response, mut sending) = client.send_request(request.body(()).expect("a request"), body.is_empty() && end)?;
    for (at, chunk) in body.iter().enumerate() {
        // A server that refuses by the headers alone may have answered, and
        // ended the stream, by now; the answer is what counts.
        if sending.send_data(chunk.clone(), end && at + 1 == body.len()).is_err() {
            break;
        }
    }
    if !end {
        tokio::time::sleep(Duration::from_millis(100)).await;
        sending.send_reset(h2::Reason::CANCEL);
        driver.abort();
        return Ok((StatusCode::OK, None));
    }
    let answer = async {
        let response = response.await?;
        let status = response.status();
        let found =
            |headers: &HeaderMap| headers.get("grpc-status").map(|code| code.to_str().expect("ASCII").to_owned());
        let mut code = found(response.headers());
        let mut body = response.into_body();
        while let Some(chunk) = body.data().await {
            let length = chunk?.len();
            body.flow_control().release_capacity(length)?;
        }
        if let Some(trailers) = body.trailers().await? {
            code = found(&trailers).or(code);
        }
        Ok((status, code))
    };
    let answered = tokio::time::timeout(Duration::from_secs(20), answer).await.expect("an answer in time");
    driver.abort();
    answered
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// A gRPC message: flag, length, bytes.
fn message(flag: u8, length: u32, bytes: &[u8]) -> Bytes {
    let mut out = vec![flag];
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    out.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_frames_and_headers_are_answered_and_harm_nobody() {
    let node = Node::start();
    let port = node.port;

    // A length of 4 GiB is refused from the header, before memory is taken.
    let (status, code) = call(port, APPEND, &[GRPC], &[message(0, u32::MAX, b"x")], true).await.expect("answered");
    assert_eq!(status, StatusCode::OK);
    assert!(matches!(code.as_deref(), Some("8" | "11")), "{code:?}");
    node.assert_serves("a length of 4 GiB");

    // A message that ends early.
    let (_, code) = call(port, APPEND, &[GRPC], &[message(0, 100, b"short")], true).await.expect("answered");
    assert!(code.as_deref().is_some_and(|code| code != "0"), "{code:?}");
    node.assert_serves("a truncated message");

    // Bytes that are no protobuf; a field of a wrong wire type.
    for bytes in [b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".as_slice(), b"\x0d\x00", b"\x0a\x7f"] {
        let length = u32::try_from(bytes.len()).expect("short");
        for path in [APPEND, READ] {
            let (_, code) = call(port, path, &[GRPC], &[message(0, length, bytes)], true).await.expect("answered");
            assert!(code.as_deref().is_some_and(|code| code != "0"), "{bytes:?} at {path}: {code:?}");
        }
    }
    node.assert_serves("bytes that are no protobuf");

    // Compressed without saying how; with something unknown; a flag that is none.
    let compressed = message(1, 2, b"\x0a\x00");
    let (_, code) = call(port, APPEND, &[GRPC], std::slice::from_ref(&compressed), true).await.expect("answered");
    assert!(code.as_deref().is_some_and(|code| code != "0"), "{code:?}");
    let unknown = [GRPC, ("grpc-encoding", "snappy")];
    let (_, code) = call(port, APPEND, &unknown, &[compressed], true).await.expect("answered");
    assert_eq!(code.as_deref(), Some("12"));
    let (_, code) = call(port, APPEND, &[GRPC], &[message(7, 0, b"")], true).await.expect("answered");
    assert!(code.as_deref().is_some_and(|code| code != "0"), "{code:?}");

    // No message at all.
    let (_, code) = call(port, APPEND, &[GRPC], &[], true).await.expect("answered");
    assert_eq!(code.as_deref(), Some("3"), "an append without options");

    // Another content type, and none.
    for headers in [[("content-type", "text/plain")].as_slice(), &[]] {
        let answer = call(port, APPEND, headers, &[message(0, 0, b"")], true).await.expect("answered");
        assert!(answer.0 != StatusCode::OK || answer.1.as_deref().is_some_and(|code| code != "0"), "{answer:?}");
    }
    node.assert_serves("a wrong content type");

    // A method and a service that do not exist.
    for path in ["/event_store.client.streams.Streams/Nothing", "/nobody.Knows/This"] {
        let (_, code) = call(port, path, &[GRPC], &[message(0, 0, b"")], true).await.expect("answered");
        assert_eq!(code.as_deref(), Some("12"), "{path}");
    }

    // Headers beyond the limit: refused on this connection, others go on.
    let large = "x".repeat(60_000);
    let refused = call(port, READ, &[GRPC, ("annals-large", &large)], &[message(0, 0, b"")], true).await;
    assert!(
        refused.as_ref().is_err() || refused.as_ref().is_ok_and(|(status, _)| *status != StatusCode::OK),
        "{refused:?}"
    );
    node.assert_serves("headers beyond the limit");

    // Header values that are nonsense where something is expected.
    for (name, value) in [
        ("annals-consistency", "maybe"),
        ("annals-min-position", "-1"),
        ("annals-min-position", "99999999999999999999999"),
        ("grpc-timeout", "soon"),
        ("authorization", "Basic %%%"),
        ("requires-leader", "perhaps"),
    ] {
        let answered = call(port, READ, &[GRPC, (name, value)], &[message(0, 0, b"")], true).await;
        assert!(answered.is_ok(), "{name}: {value}: {answered:?}");
    }
    node.assert_serves("nonsense in headers");

    // Calls that are cancelled in the middle, many of them.
    for _ in 0..200 {
        let _ = call(port, APPEND, &[GRPC], &[message(0, 1_000, b"begun")], false).await;
    }
    node.assert_serves("cancelled calls");
    node.finish();
}

#[test]
fn bytes_that_are_no_protocol_close_their_connection_and_nothing_else() {
    let node = Node::start();
    let attempts: [&[u8]; 6] = [
        b"\x00\x01\x02\x03\x04\x05\x06\x07",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\xff\xff\xff\xff\xff",
        // A DATA frame on a stream that nobody opened.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x05abcd",
        // A SETTINGS frame that says that it has 16 MiB.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\x00\x00\x00\x00\x00",
        b"POST /event_store.client.streams.Streams/Append HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\nx: \x00\x01\r\n\r\n",
    ];
    for bytes in attempts {
        let mut stream = node.connect();
        // The node may have closed before everything was sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.take(1 << 20).read_to_end(&mut answer);
        node.assert_serves(&format!("{:?}", String::from_utf8_lossy(bytes)));
    }
    // Connections that say nothing do not keep others out.
    let silent: Vec<TcpStream> = (0..200).map(|_| node.connect()).collect();
    node.assert_serves("two hundred silent connections");
    drop(silent);
    node.finish();
}
