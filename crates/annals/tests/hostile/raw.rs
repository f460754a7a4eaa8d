//! A client that builds HTTP/2 frames by hand (RFC 9113, 4.1), so that it can send
//! what no library would. It reads only as much as it must.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM and GOAWAY.
    pub(crate) fn error(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }
}

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
    /// Frames that wait to be sent in one piece.
    pending: Vec<u8>,
    closed: bool,
}

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("below 2^24").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header field that is in no table and in no code (RFC 7541, 6.2.2).
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    text(name, &mut bytes);
    text(value, &mut bytes);
    bytes
}

/// The same, to be remembered (RFC 7541, 6.2.1).
pub(crate) fn remembered(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = field(name, value);
    bytes[0] = 0x40;
    bytes
}

fn text(text: &[u8], out: &mut Vec<u8>) {
    match text.len() {
        short @ 0..127 => out.push(u8::try_from(short).expect("below 127")),
        long => {
            out.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                out.push(u8::try_from(rest % 128).expect("below 128") | 128);
                rest /= 128;
            }
            out.push(u8::try_from(rest).expect("below 128"));
        }
    }
    out.extend_from_slice(text);
}

/// The headers of a call to this path.
pub(crate) fn call(path: &str) -> Vec<u8> {
    [
        field(b":method", b"POST"),
        field(b":scheme", b"http"),
        field(b":path", path.as_bytes()),
        field(b":authority", b"localhost"),
        field(b"content-type", b"application/grpc"),
        field(b"te", b"trailers"),
    ]
    .concat()
}

/// A setting (RFC 9113, 6.5.1).
pub(crate) fn setting(identifier: u16, value: u32) -> Vec<u8> {
    [identifier.to_be_bytes().as_slice(), &value.to_be_bytes()].concat()
}

impl Raw {
    /// A connection over which nothing was said.
    pub(crate) fn connect(port: u16) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        // Who does not read our flood any more has stopped it.
        stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Raw { stream, received: Vec::new(), pending: Vec::new(), closed: false }
    }

    /// One that has begun as it should, with these settings.
    pub(crate) fn open(port: u16, settings: &[u8]) -> Raw {
        let mut raw = Raw::connect(port);
        raw.write(PREFACE);
        raw.send(SETTINGS, 0, 0, settings);
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Some(frame) = raw.read(deadline) {
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                raw.send(SETTINGS, ACK, 0, &[]);
                break;
            }
        }
        raw
    }

    /// Writes bytes; whether the other side still takes them.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        self.closed = self.closed || self.stream.write_all(bytes).is_err();
        !self.closed
    }

    /// Sends a frame at once.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let bytes = frame(kind, flags, stream, payload);
        self.write(&bytes)
    }

    /// Sends a frame, with others that follow, in pieces of 64 KiB. Ends as soon
    /// as the other side has said that it ends.
    pub(crate) fn flood(&mut self, frames: &[u8]) -> bool {
        self.pending.extend_from_slice(frames);
        if self.pending.len() < 64 * 1024 {
            return !self.closed;
        }
        self.flush()
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self) -> bool {
        let pending = std::mem::take(&mut self.pending);
        self.write(&pending)
    }

    /// Opens a stream with a call, and may end it.
    pub(crate) fn begin(&mut self, stream: u32, path: &str, flags: u8) -> bool {
        self.send(HEADERS, END_HEADERS | flags, stream, &call(path))
    }

    /// Nothing more will be sent.
    pub(crate) fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next frame; none when the connection is closed, or at the deadline.
    pub(crate) fn read(&mut self, deadline: Instant) -> Option<Frame> {
        loop {
            if let Some(header) = self.received.get(..9) {
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
                if self.received.len() >= 9 + length {
                    let frame = Frame {
                        kind: header[3],
                        flags: header[4],
                        stream: u32::from_be_bytes([header[5], header[6], header[7], header[8]]),
                        payload: self.received[9..9 + length].to_vec(),
                    };
                    self.received.drain(..9 + length);
                    return Some(frame);
                }
            }
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return None,
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }

    /// The first frame of one of these kinds; none when the connection is closed,
    /// or after five seconds.
    pub(crate) fn wait_for(&mut self, kinds: &[u8]) -> Option<Frame> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Some(frame) = self.read(deadline) {
            let answers_us = matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK != 0;
            if kinds.contains(&frame.kind) && !answers_us {
                return Some(frame);
            }
        }
        None
    }

    /// Whether the other side ends this connection, saying why or not, soon.
    pub(crate) fn is_ended(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match self.read(deadline) {
                Some(Frame { kind: GOAWAY, .. }) => return true,
                Some(_) => {}
                None => return Instant::now() < deadline,
            }
        }
    }

    /// Whether the connection still works: a ping is answered.
    pub(crate) fn answers_pings(&mut self) -> bool {
        let opaque = *b"are you?";
        self.send(PING, 0, 0, &opaque);
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Some(frame) = self.read(deadline) {
            if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == opaque {
                return true;
            }
        }
        false
    }
}
