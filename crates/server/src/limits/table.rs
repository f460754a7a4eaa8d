//! The list of all limits, from which docs/limits.md is made.
//!
//! A number here is the constant that is enforced or the default of the option,
//! never a copy; a test compares the document with what this module says.

use std::fmt::Write as _;
use std::time::Duration;

use annals_core::limits as core;

use crate::config::Config;
use crate::grpc::backup;
use crate::listener::PLACES_FOR_NODES;

/// A limit as the document tells it.
#[derive(Clone, Debug)]
pub struct Limit {
    /// What is limited.
    pub what: &'static str,
    /// Its value, by default.
    pub value: String,
    /// The option that sets it, if one does.
    pub option: Option<&'static str>,
    /// Where it is enforced.
    pub at: &'static str,
    /// What the client sees beyond it.
    pub then: &'static str,
}

fn limit(
    what: &'static str,
    value: impl Into<String>,
    option: impl Into<Option<&'static str>>,
    at: &'static str,
    then: &'static str,
) -> Limit {
    Limit { what, value: value.into(), option: option.into(), at, then }
}

/// Limits that belong together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Of what.
    pub title: &'static str,
    /// In reading order.
    pub limits: Vec<Limit>,
}

/// All limits.
pub fn groups() -> Vec<Group> {
    let config = Config::default();
    vec![
        Group { title: "Connections", limits: connections(&config) },
        Group { title: "HTTP/2", limits: http2(&config) },
        Group { title: "Requests", limits: requests(&config) },
        Group { title: "Credentials", limits: credentials() },
        Group { title: "Appends", limits: appends(&config) },
        Group { title: "Reads and subscriptions", limits: reads(&config) },
        Group { title: "Consumer groups", limits: consumers() },
        Group { title: "Backups and imports", limits: backups(&config) },
        Group { title: "Inside", limits: inside(&config) },
    ]
}

fn connections(config: &Config) -> Vec<Limit> {
    vec![
        limit(
            "connections",
            count(config.connections_max as u64),
            "connections_max",
            "`server/listener`, before anything is read",
            "GOAWAY `ENHANCE_YOUR_CALM` or HTTP 503, with a text",
        ),
        limit(
            "connections from one address, or IPv6 network of 64 bits; not loopback",
            count(config.connections_per_address_max as u64),
            "connections_per_address_max",
            "`server/listener`, before anything is read",
            "the same",
        ),
        limit(
            "connections beyond these, for nodes that prove to be some, over TLS",
            count(PLACES_FOR_NODES as u64),
            None,
            "`server/listener`, after the TLS handshake, for which there are 5 s",
            "the connection is closed",
        ),
        limit(
            "time to the first byte, and for the head of an HTTP/1.1 request",
            milliseconds(config.first_byte_timeout_ms),
            "first_byte_timeout_ms",
            "`server/listener`",
            "the connection is closed",
        ),
        limit(
            "time for the TLS handshake; after it the first byte has its own",
            seconds(crate::tls::accept::HANDSHAKE),
            None,
            "`server/tls/accept`",
            "the connection is closed",
        ),
        limit(
            "silence until the node pings; time to answer it",
            format!("{}; {}", milliseconds(config.keep_alive_interval_ms), milliseconds(config.keep_alive_timeout_ms)),
            "keep_alive_interval_ms",
            "`server/listener`; the second is `keep_alive_timeout_ms`",
            "the connection is closed",
        ),
        limit(
            "time without a call, at most twice that",
            milliseconds(config.connection_idle_ms),
            "connection_idle_ms",
            "`server/listener`",
            "GOAWAY; clients connect again by themselves",
        ),
    ]
}

fn http2(config: &Config) -> Vec<Limit> {
    use crate::listener::{LOCAL_RESETS_MAX, PENDING_RESETS_MAX};
    vec![
        limit(
            "calls at the same time on one connection",
            count(u64::from(config.streams_per_connection_max)),
            "streams_per_connection_max",
            "`server/listener`, SETTINGS",
            "further calls wait at the client; a client that ignores it has them reset",
        ),
        limit(
            "bytes of the headers of a request",
            bytes(u64::from(config.header_list_bytes_max)),
            "header_list_bytes_max",
            "`server/listener`, while they are decoded",
            "HTTP 431",
        ),
        limit(
            "calls reset by the client before they were looked at",
            count(PENDING_RESETS_MAX as u64),
            None,
            "`server/listener`",
            "GOAWAY `ENHANCE_YOUR_CALM`",
        ),
        limit(
            "calls reset by the node for the client's errors",
            count(LOCAL_RESETS_MAX as u64),
            None,
            "`server/listener`",
            "GOAWAY `ENHANCE_YOUR_CALM`",
        ),
        limit(
            "bytes a client may send ahead in one call",
            bytes(u64::from(config.stream_window_bytes)),
            "stream_window_bytes",
            "`server/listener`, flow control",
            "GOAWAY `FLOW_CONTROL_ERROR`",
        ),
        limit(
            "bytes a client may send ahead over one connection",
            bytes(u64::from(config.connection_window_bytes)),
            "connection_window_bytes",
            "`server/listener`, flow control",
            "GOAWAY `FLOW_CONTROL_ERROR`",
        ),
    ]
}

fn requests(config: &Config) -> Vec<Limit> {
    vec![
        limit(
            "calls of one caller in a second, appends of a batch among them; not from loopback",
            count(config.calls_per_second_max),
            "calls_per_second_max",
            "`server/http`, before the request is looked at",
            "RESOURCE_EXHAUSTED, or HTTP 429",
        ),
        limit(
            "bytes of a message to `Streams`, v1 and v2",
            bytes(core::MESSAGE_BYTES_MAX as u64),
            None,
            "`server/grpc/streams`, from its length, before memory is taken",
            "RESOURCE_EXHAUSTED",
        ),
        limit(
            "bytes of a message to any other service",
            bytes(crate::grpc::MESSAGE_BYTES_MAX as u64),
            None,
            "`server/grpc`, from its length",
            "OUT_OF_RANGE",
        ),
        limit(
            "compression of requests",
            "none is accepted",
            None,
            "`server/grpc`: no decoder is enabled",
            "UNIMPLEMENTED",
        ),
        limit(
            "bytes of messages that have begun to come in, all calls together",
            bytes(config.receive_bytes_max),
            "receive_bytes_max",
            "`server/receive`, as they arrive",
            "UNAVAILABLE `Server Is Too Busy`",
        ),
        limit(
            "bytes that a message takes when it is decoded",
            bytes(crate::receive::weight::WEIGHT_MAX as u64),
            None,
            "`server/receive/weight`, while it comes in, before it is decoded",
            "RESOURCE_EXHAUSTED",
        ),
        limit("depth of nested messages", "100", None, "the protobuf decoder", "INVALID_ARGUMENT or INTERNAL"),
        limit(
            "deadline of a call, to which longer ones are cut",
            milliseconds(config.request_timeout_max_ms),
            "request_timeout_max_ms",
            "`server/http`; until its answer begins, so that subscriptions go on",
            "DEADLINE_EXCEEDED",
        ),
        limit(
            "time that a read waits for a leader or a position",
            milliseconds(config.request_timeout_ms),
            "request_timeout_ms",
            "`server/consistency`",
            "UNAVAILABLE or DEADLINE_EXCEEDED",
        ),
    ]
}

fn credentials() -> Vec<Limit> {
    use crate::access::passwords::{FREE_FAILURES, IN_FLIGHT_MAX, PASSWORD_BYTES_MAX, PAUSE_MAX, WAITING_MAX};
    vec![
        limit(
            "bytes of a password",
            bytes(PASSWORD_BYTES_MAX as u64),
            None,
            "`server/access/credentials`, before it is hashed",
            "UNAUTHENTICATED",
        ),
        limit(
            "passwords that are checked at the same time; calls that wait for that",
            format!("{}; {}", count(IN_FLIGHT_MAX as u64), count(WAITING_MAX as u64)),
            None,
            "`server/access/passwords`, before it is hashed",
            "UNAVAILABLE `Server Is Too Busy`",
        ),
        limit(
            "wrong passwords in a row for one account from one address; the longest pause after more",
            format!("{}; {}", count(u64::from(FREE_FAILURES)), seconds(PAUSE_MAX)),
            None,
            "`server/access/passwords`, before it is hashed",
            "UNAUTHENTICATED",
        ),
        limit(
            "bytes of a stream's list of rights",
            bytes(annals_core::access::Acl::BYTES_MAX as u64),
            None,
            "`core/access/acl`, when it is read",
            "nobody but administrators may do anything with the stream",
        ),
    ]
}

fn appends(config: &Config) -> Vec<Limit> {
    vec![
        limit(
            "bytes of a stream's name, valid UTF-8 without control characters",
            bytes(core::STREAM_NAME_BYTES_MAX as u64),
            None,
            "`core/stream_name`",
            "INVALID_ARGUMENT",
        ),
        limit(
            "bytes of an event's type",
            bytes(core::EVENT_TYPE_BYTES_MAX as u64),
            None,
            "`core/event`",
            "INVALID_ARGUMENT",
        ),
        limit(
            "bytes of an event: data, metadata, type",
            bytes(core::EVENT_BYTES_MAX as u64),
            None,
            "`server/grpc/streams/convert`; the message's limit is below it",
            "INVALID_ARGUMENT `maximum-append-event-size-exceeded`",
        ),
        limit(
            "bytes of all events of an append",
            bytes(config.append_bytes_max),
            "append_bytes_max",
            "`server/grpc/streams/append`, event by event",
            "INVALID_ARGUMENT `maximum-append-size-exceeded`",
        ),
        limit(
            "events of an append",
            count(core::APPEND_EVENTS_MAX as u64),
            None,
            "`server/grpc/streams/append`, event by event",
            "INVALID_ARGUMENT",
        ),
        limit(
            "streams that an append writes or checks",
            count(core::APPEND_STREAMS_MAX as u64),
            None,
            "`server/grpc/streams_v2`",
            "INVALID_ARGUMENT",
        ),
        limit(
            "bytes of appends that are being received, for each generation of the protocol",
            format!("{} × `append_bytes_max`", crate::grpc::streams::APPENDS_RECEIVED_AT_ONCE),
            None,
            "`server/grpc/streams/budget`, before an event is kept",
            "UNAVAILABLE `Server Is Too Busy`, after 2 s",
        ),
        limit(
            "appends of one batch call that are not final; that are with the node",
            format!(
                "{}; {}",
                count(crate::grpc::streams::GATHERING_MAX as u64),
                count(crate::grpc::streams::IN_FLIGHT_MAX as u64)
            ),
            None,
            "`server/grpc/streams/batch_append`",
            "an entry `Server Is Too Busy`; nothing more is read from the call",
        ),
        limit(
            "bytes of appends that wait to be proposed, 256 for each besides its own",
            bytes(config.append_queue_bytes),
            "append_queue_bytes",
            "`raft/proposer`, before it is queued",
            "waits; after 2 s UNAVAILABLE `Server Is Too Busy`, certainly not applied",
        ),
        limit(
            "appends that wait for a place among those",
            count(annals_raft::APPENDS_WAITING_MAX as u64),
            None,
            "`raft/proposer`",
            "UNAVAILABLE `Server Is Too Busy` at once, certainly not applied",
        ),
        limit(
            "free bytes of the disk below which appends are refused",
            bytes(config.disk_reserve_bytes),
            "disk_reserve_bytes",
            "`raft/proposer`",
            "RESOURCE_EXHAUSTED",
        ),
    ]
}

fn reads(config: &Config) -> Vec<Limit> {
    use crate::grpc::streams::{ANSWER_BYTES_MAX, page, room::Room, subscribe};
    vec![
        limit(
            "subscriptions and consumers on one node",
            count(config.subscriptions_max as u64),
            "subscriptions_max",
            "`server/limits`, before one begins",
            "RESOURCE_EXHAUSTED",
        ),
        limit(
            "of one caller; not from loopback",
            count(config.subscriptions_per_caller_max as u64),
            "subscriptions_per_caller_max",
            "`server/limits`, before one begins",
            "RESOURCE_EXHAUSTED",
        ),
        limit(
            "page of a counted read: bytes, events",
            format!("{}, {}", bytes(page::BYTES_MAX as u64), count(page::EVENTS_MAX as u64)),
            None,
            "`server/grpc/streams/page`; one page is made ahead",
            "–",
        ),
        limit(
            "page of a subscription: bytes, the first one, the largest",
            format!("{}, {}", bytes(Room::LEAST as u64), bytes(subscribe::PAGE_BYTES_MAX as u64)),
            None,
            "`server/grpc/streams/subscribe`; a slow reader's get smaller",
            "–",
        ),
        limit(
            "bytes of pages that wait to be taken, beyond 64 KiB for each reader",
            bytes(config.pages_bytes_max),
            "pages_bytes_max",
            "`server/grpc/streams/room`, before a page is made",
            "pages of 64 KiB",
        ),
        limit(
            "time in which a reader takes nothing of what is ready",
            milliseconds(config.stall_timeout_ms),
            "stall_timeout_ms",
            "`server/grpc/streams/stalls`",
            "ABORTED with the place up to which it was sent everything; a reset after twice that",
        ),
        limit(
            "time to take the end of a call when the node stops",
            seconds(crate::run::TAKEN_WITHIN),
            None,
            "`server/run`, within `shutdown_timeout_ms`",
            "a reset",
        ),
        limit(
            "bytes of one answer",
            bytes(ANSWER_BYTES_MAX as u64),
            None,
            "`server/grpc/streams/frames`",
            "OUT_OF_RANGE",
        ),
        limit(
            "bytes of a filter's regular expression; compiled",
            format!(
                "{}; {}",
                bytes(core::FILTER_REGEX_BYTES_MAX as u64),
                bytes(core::FILTER_COMPILED_BYTES_MAX as u64)
            ),
            None,
            "`core/filter`, before and while it is compiled",
            "INVALID_ARGUMENT",
        ),
        limit(
            "steps of an expression with look-around, for one name",
            count(core::FILTER_STEPS_MAX as u64),
            None,
            "`core/filter`; all other expressions take linear time",
            "INVALID_ARGUMENT",
        ),
        limit(
            "prefixes of a filter; their bytes",
            format!("{}; {}", count(core::FILTER_PREFIXES_MAX as u64), bytes(core::FILTER_PREFIX_BYTES_MAX as u64)),
            None,
            "`core/filter`",
            "INVALID_ARGUMENT",
        ),
    ]
}

fn consumers() -> Vec<Limit> {
    vec![limit(
        "events that a group or a consumer holds",
        "as the group is defined",
        None,
        "`core/group/settings`, when it is defined",
        "INTERNAL `persistent-subscription-failed`",
    )]
}

fn backups(config: &Config) -> Vec<Limit> {
    vec![
        limit(
            "backups that one node sends at a time; imports that it takes",
            count(backup::AT_ONCE as u64),
            None,
            "`server/grpc/backup`",
            "RESOURCE_EXHAUSTED",
        ),
        limit(
            "bytes of records that a node that catches up is sent in a second",
            bytes(config.catch_up_bytes_per_second),
            "catch_up_bytes_per_second",
            "`raft/snapshot`",
            "waits",
        ),
        limit(
            "bytes of records that one backup is sent in a second",
            bytes(config.backup_bytes_per_second),
            "backup_bytes_per_second",
            "`server/grpc/backup/records`",
            "waits",
        ),
        limit(
            "bytes of a message of an import",
            bytes(backup::MESSAGE_BYTES_MAX as u64),
            None,
            "tonic, before it is received",
            "OUT_OF_RANGE",
        ),
        limit(
            "events of a batch of an import",
            count(annals_core::import::EVENTS_MAX as u64),
            None,
            "`server/grpc/backup/import`",
            "INVALID_ARGUMENT",
        ),
    ]
}

fn inside(config: &Config) -> Vec<Limit> {
    vec![
        limit(
            "bytes of a message between nodes",
            bytes(annals_raft::MESSAGE_BYTES_MAX as u64),
            None,
            "`raft/network`, `raft/service`; one entry of the log and room to spare",
            "the call is dropped",
        ),
        limit(
            "appends of one peer that are carried out at a time",
            count(annals_raft::FORWARDED_MAX as u64),
            None,
            "`raft/service`",
            "nothing more is read from it",
        ),
        limit(
            "lines of one kind in the log, in a second; from `info` up",
            count(config.log_lines_per_second_max),
            "log_lines_per_second_max",
            "`annals/logging`",
            "they are left out; how many is said",
        ),
    ]
}

/// docs/limits.md.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    for group in groups() {
        let _ = write!(
            out,
            "\n## {}\n\n| limit | default | option | enforced | beyond it |\n|---|---|---|---|---|\n",
            group.title
        );
        for Limit { what, value, option, at, then } in group.limits {
            let option = option.map_or_else(|| "–".to_owned(), |option| format!("`{option}`"));
            let _ = writeln!(out, "| {what} | {value} | {option} | {at} | {then} |");
        }
    }
    out.push_str(REASONS);
    out
}

const INTRODUCTION: &str = "\
# Limits

What a client, a connection or a call can make a node hold or do. Each limit is
enforced before memory is taken for what it limits. This page is made from the
program (`annals config limits > docs/limits.md`), and a test fails when it says
something else.

A *caller* is an address and, where callers say who they are, also a user, wherever
the calls come from: calls are counted for both, subscriptions for the user if there
is one. The machine itself (loopback) has no limits of its own as a caller: a proxy beside the node is many clients, and whoever runs there can
do worse. Limits of the whole node hold for it too.
";

const REASONS: &str = "
## Why some are as they are

- **Larger than elsewhere.** A message of 16 MiB, an event of nearly that, 64 MiB and
  100,000 events in an append: the protocol's clients rely on them. An event's metadata
  has no limit of its own but counts towards the event's.
- **256 calls on a connection** is above what the protocol's own server grants (100) and
  above the subscriptions that one caller has. A node that hands consumers on to the
  leader uses a connection for each hundred.
- **Appends wait before they are refused.** With 64 MiB queued a further append waits
  up to 2 s for its turn, so that a burst is absorbed; 4,096 may wait. The protocol's
  clients know `UNAVAILABLE` as \"too busy\" and go to another node, so this is the status, not
  `RESOURCE_EXHAUSTED`.
- **No compression.** Not accepting it bounds what a compressed message could unfold to.
- **What remains.** A connection's window (8 MiB) can be filled with data for calls that
  are not read, and it is not counted over all connections: lower
  `connection_window_bytes` where many strangers connect. Peers count as connections:
  whoever holds all of `connections_max` keeps a node's peers from connecting anew,
  so clients and peers should not share a network that strangers reach.
";

fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn bytes(number: u64) -> String {
    const KIB: u64 = 1024;
    const MIB: u64 = KIB * KIB;
    match number {
        _ if number >= MIB && number.is_multiple_of(MIB) => format!("{} MiB", count(number / MIB)),
        _ if number >= KIB && number.is_multiple_of(KIB) => format!("{} KiB", count(number / KIB)),
        _ => format!("{} bytes", count(number)),
    }
}

fn seconds(time: Duration) -> String {
    milliseconds(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn milliseconds(number: u64) -> String {
    match number {
        _ if number >= 60_000 && number.is_multiple_of(60_000) => format!("{} min", number / 60_000),
        _ if number >= 1_000 && number.is_multiple_of(1_000) => format!("{} s", number / 1_000),
        _ => format!("{number} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_what_is_enforced() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/limits.md");
        let document = std::fs::read_to_string(document).expect("docs/limits.md is there");
        assert!(document == markdown(), "stale: annals config limits > docs/limits.md");
    }

    #[test]
    fn every_option_that_is_named_exists() {
        for limit in groups().into_iter().flat_map(|group| group.limits) {
            if let Some(option) = limit.option {
                assert!(Config::OPTIONS.iter().any(|known| known.name == option), "{option}");
            }
        }
    }

    #[test]
    fn numbers_are_told_in_the_unit_that_fits() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(16 * 1024), "16 KiB");
        assert_eq!(bytes(16_767_216), "16,767,216 bytes");
        assert_eq!(milliseconds(300_000), "5 min");
        assert_eq!(milliseconds(1_500), "1500 ms");
    }
}
