//! The configuration of a node: one flat struct, every option documented once.
//!
//! The `options!` block below is the only place where an option exists: its
//! doc comment is what `annals config explain` prints, its default is what a
//! node runs with that was told nothing. The name of an option in a file is
//! its name here, in the environment `ANNALS_` and the name in capitals.
//!
//! A [`Config`] is read by the binary from its layers (defaults, files,
//! environment, flags), validated once, and from then on only read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use annals_core::limits;
use serde::{Deserialize, Deserializer, Serialize};

const MIB: u64 = 1024 * 1024;

/// An option as `annals config explain` tells it.
#[derive(Clone, Copy, Debug)]
pub struct OptionDoc {
    /// Its name in files; in the environment `ANNALS_` and this in capitals.
    pub name: &'static str,
    /// Unit, default and consequence.
    pub doc: &'static str,
}

macro_rules! options {
    ($(
        $(#[doc = $doc:literal])+
        $(#[serde($serde:meta)])*
        $name:ident: $type:ty = $default:expr,
    )+) => {
        /// The configuration of a node. See the module's documentation.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $(
                $(#[doc = $doc])+
                $(#[serde($serde)])*
                pub $name: $type,
            )+
        }

        impl Default for Config {
            fn default() -> Self {
                Config { $($name: $default,)+ }
            }
        }

        impl Config {
            /// Every option in the order in which it is documented.
            pub const OPTIONS: &[OptionDoc] = &[
                $(OptionDoc { name: stringify!($name), doc: concat!($($doc, "\n"),+) },)+
            ];
        }
    };
}

options! {
    /// Where this node listens for clients, HTTP and its peers, all on one
    /// port. An address other than loopback needs `insecure`.
    listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 2113)),

    /// The `host:port` by which clients and peers reach this node. It is
    /// named in gossip and in not-leader answers, and clients use it
    /// literally. Default: `listen`, which must then name one address. A
    /// member keeps the address it joined with, and does not start with another.
    node_address: Option<String> = None,

    /// The directory that holds everything this node must not lose: identity,
    /// log and state. One node per directory; never copy one to make another.
    data: PathBuf = PathBuf::from("/var/lib/annals"),

    /// The `node_address` of every first member of a new cluster, this one
    /// included: the same list on each of them. A node with an empty data
    /// directory starts a cluster only once all of them are there and empty.
    /// Empty: wait to be added to a cluster. Of no meaning later on.
    #[serde(deserialize_with = "list")]
    bootstrap: Vec<String> = Vec::new(),

    /// Serve without TLS and without authentication beyond loopback. Whoever
    /// reaches the port may read and write everything.
    insecure: bool = false,

    /// What is logged: a level, or directives such as `info,annals_raft=debug`.
    log: String = "info".to_owned(),

    /// `text` for people, `json` for machines: one object per line.
    log_format: LogFormat = LogFormat::Text,

    /// Open connections. One more is refused with a text that says so. Each
    /// costs some tens of KiB, and up to `connection_window_bytes` while it sends.
    connections_max: usize = 2_000,

    /// Calls at the same time on one HTTP/2 connection; further ones wait at
    /// the client. Clients keep one connection, and each subscription is a call.
    streams_per_connection_max: u32 = 1_000,

    /// Bytes of the headers of one request. Larger ones are refused.
    header_list_bytes_max: u32 = 16 * 1024,

    /// Bytes a client may send ahead in one call. Smaller values slow large
    /// appends over distance.
    stream_window_bytes: u32 = 4 * 1024 * 1024,

    /// Bytes a client may send ahead over one connection.
    connection_window_bytes: u32 = 8 * 1024 * 1024,

    /// Milliseconds of silence after which the node asks a connection whether
    /// it is still there.
    keep_alive_interval_ms: u64 = 20_000,

    /// Milliseconds to answer that, before the connection is closed.
    keep_alive_timeout_ms: u64 = 10_000,

    /// Milliseconds for a new connection to say its first byte.
    first_byte_timeout_ms: u64 = 30_000,

    /// Bytes of all events of one append, at most 256 MiB. One append is one
    /// entry of the log and held in memory on every node.
    append_bytes_max: u64 = limits::APPEND_BYTES_MAX_DEFAULT as u64,

    /// Milliseconds after which a call that does not stream is given up when
    /// the client sets no deadline. The fate of an append is then unknown.
    request_timeout_ms: u64 = 10_000,

    /// Milliseconds to which longer deadlines of clients are cut.
    request_timeout_max_ms: u64 = 60_000,

    /// Subscriptions at the same time on this node.
    subscriptions_max: usize = 10_000,

    /// Milliseconds that a stop may take: subscriptions told, leadership
    /// handed over, running calls finished. Then the rest is cut off.
    shutdown_timeout_ms: u64 = 10_000,

    /// Milliseconds between the leader's heartbeats.
    heartbeat_ms: u64 = 250,

    /// Least milliseconds of silence of the leader before a node stands for
    /// election. At least four heartbeats. A leader whose process is gone is
    /// replaced without waiting.
    election_min_ms: u64 = 1_000,

    /// Most milliseconds of the same; each node draws its own in between.
    election_max_ms: u64 = 2_000,

    /// Bytes of appends that wait to be proposed. Beyond it appends wait, and
    /// at their deadline are refused as overloaded, certainly not applied.
    append_queue_bytes: u64 = 64 * MIB,

    /// Bytes of applied log that are kept, so that a peer that was away is
    /// caught up from the log.
    log_keep_bytes: u64 = 256 * MIB,

    /// Entries of the same. What is reached first holds.
    log_keep_entries: u64 = 100_000,

    /// Free bytes on the disk of `data` below which appends are refused.
    /// Reads, subscriptions and removal go on.
    disk_reserve_bytes: u64 = 1024 * MIB,

    /// Bytes of applied events in memory before they go to the state's files.
    memtable_bytes: u64 = 64 * MIB,

    /// Bytes of the cache of the state's files.
    block_cache_bytes: u64 = 64 * MIB,

    /// Bytes of newest events kept in memory, from which live subscriptions
    /// are served. Who falls behind it reads from the disk.
    ring_bytes: u64 = 32 * MIB,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why a configuration cannot be used. The text names the option and what to
/// do about it.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Would serve without TLS to the network.
    #[error(
        "will not listen on {listen}: without TLS and authentication whoever reaches this address may read and write \
         everything. Listen on 127.0.0.1, or set `insecure` (--insecure) if the network is closed to others"
    )]
    Insecure {
        /// The address.
        listen: SocketAddr,
    },
    /// No address to tell clients.
    #[error(
        "`listen` is {listen}, which names no single address: set `node_address` (--node-address HOST:PORT) to the one \
         by which clients and peers reach this node"
    )]
    NoNodeAddress {
        /// The address.
        listen: SocketAddr,
    },
    /// Not `host:port`.
    #[error("`{option}` holds \"{value}\", which is not host:port")]
    Address {
        /// The option.
        option: &'static str,
        /// What it holds.
        value: String,
    },
    /// The list of first members does not name this node.
    #[error(
        "`bootstrap` lists {listed}, but not this node's own address {own}: the list is the same on every first member \
         and names each by its `node_address`"
    )]
    NotListed {
        /// This node.
        own: String,
        /// The list.
        listed: String,
    },
    /// A number out of its bounds.
    #[error("`{option}` is {value}, {rule}")]
    Number {
        /// The option.
        option: &'static str,
        /// What it holds.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
}

impl Config {
    /// Checks what no single option can know.
    ///
    /// # Errors
    /// [`Invalid`]: the first thing found wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        if !self.listen.ip().is_loopback() && !self.insecure {
            return Err(Invalid::Insecure { listen: self.listen });
        }
        if self.node_address.is_none() && self.listen.ip().is_unspecified() {
            return Err(Invalid::NoNodeAddress { listen: self.listen });
        }
        if let Some(address) = &self.node_address {
            host_port("node_address", address)?;
        }
        for address in &self.bootstrap {
            host_port("bootstrap", address)?;
        }
        let own = self.own_address();
        if !self.bootstrap.is_empty() && !self.bootstrap.contains(&own) {
            return Err(Invalid::NotListed { own, listed: self.bootstrap.join(", ") });
        }
        self.validate_numbers()
    }

    fn validate_numbers(&self) -> Result<(), Invalid> {
        let check = |option, value: u64, holds: bool, rule| {
            if holds { Ok(()) } else { Err(Invalid::Number { option, value, rule }) }
        };
        let positive = "but must be at least 1";
        check("connections_max", self.connections_max as u64, self.connections_max > 0, positive)?;
        check(
            "streams_per_connection_max",
            u64::from(self.streams_per_connection_max),
            self.streams_per_connection_max > 0,
            positive,
        )?;
        check("subscriptions_max", self.subscriptions_max as u64, self.subscriptions_max > 0, positive)?;
        check(
            "header_list_bytes_max",
            u64::from(self.header_list_bytes_max),
            self.header_list_bytes_max >= 8 * 1024,
            "but must be at least 8192: gRPC clients send some KiB",
        )?;
        // Flow control windows are 31-bit numbers (RFC 9113, 6.9.1).
        for (option, window) in [
            ("stream_window_bytes", self.stream_window_bytes),
            ("connection_window_bytes", self.connection_window_bytes),
        ] {
            let holds = (65_535..=i32::MAX as u32).contains(&window);
            check(option, u64::from(window), holds, "but must be between 65535 and 2147483647")?;
        }
        check(
            "append_bytes_max",
            self.append_bytes_max,
            (1..=limits::APPEND_BYTES_MAX_CEILING as u64).contains(&self.append_bytes_max),
            "but must be between 1 and 268435456 (256 MiB)",
        )?;
        check(
            "append_queue_bytes",
            self.append_queue_bytes,
            self.append_queue_bytes >= self.append_bytes_max,
            "but must not be below `append_bytes_max`: the largest append would never fit",
        )?;
        for (option, value) in [
            ("keep_alive_interval_ms", self.keep_alive_interval_ms),
            ("keep_alive_timeout_ms", self.keep_alive_timeout_ms),
            ("first_byte_timeout_ms", self.first_byte_timeout_ms),
            ("request_timeout_ms", self.request_timeout_ms),
            ("heartbeat_ms", self.heartbeat_ms),
        ] {
            check(option, value, value > 0, positive)?;
        }
        check(
            "request_timeout_max_ms",
            self.request_timeout_max_ms,
            self.request_timeout_max_ms >= self.request_timeout_ms,
            "but must not be below `request_timeout_ms`",
        )?;
        check(
            "election_min_ms",
            self.election_min_ms,
            self.election_min_ms >= 4 * self.heartbeat_ms,
            "but must be at least four times `heartbeat_ms`: one late heartbeat must not cause an election",
        )?;
        check(
            "election_max_ms",
            self.election_max_ms,
            self.election_max_ms > self.election_min_ms,
            "but must be above `election_min_ms`: equal times make nodes stand at once, again and again",
        )
    }

    /// The `host:port` that clients and peers are told: `node_address`, else
    /// `listen`.
    pub fn own_address(&self) -> String {
        self.node_address.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// [`Config::request_timeout_ms`] as a time.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// [`Config::request_timeout_max_ms`] as a time.
    pub fn request_timeout_max(&self) -> Duration {
        Duration::from_millis(self.request_timeout_max_ms)
    }

    /// [`Config::shutdown_timeout_ms`] as a time.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.shutdown_timeout_ms)
    }
}

fn host_port(option: &'static str, value: &str) -> Result<(), Invalid> {
    let port = value.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(port)) if port > 0 => Ok(()),
        Some(_) | None => Err(Invalid::Address { option, value: value.to_owned() }),
    }
}

/// A list, or its elements in one text with commas between them: what an
/// environment variable can hold.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::List(list) => list,
        Either::Text(text) => {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Config::default().validate().expect("defaults hold");
    }

    #[test]
    fn beyond_loopback_insecure_must_be_said() {
        let mut config = Config { listen: "192.0.2.1:2113".parse().expect("an address"), ..Config::default() };
        assert!(matches!(config.validate(), Err(Invalid::Insecure { .. })));
        config.insecure = true;
        config.validate().expect("said");
    }

    #[test]
    fn listening_everywhere_needs_an_address_to_tell() {
        let listen = "0.0.0.0:2113".parse().expect("an address");
        let mut config = Config { listen, insecure: true, ..Config::default() };
        assert!(matches!(config.validate(), Err(Invalid::NoNodeAddress { .. })));
        config.node_address = Some("node-1:2113".to_owned());
        config.validate().expect("told");
        config.node_address = Some("node-1".to_owned());
        assert!(matches!(config.validate(), Err(Invalid::Address { option: "node_address", .. })));
    }

    #[test]
    fn a_bootstrap_list_names_this_node() {
        let mut config = Config { bootstrap: vec!["a:1".into(), "b:1".into()], ..Config::default() };
        assert!(matches!(config.validate(), Err(Invalid::NotListed { .. })));
        config.node_address = Some("b:1".into());
        config.validate().expect("it does");
    }

    #[test]
    fn numbers_have_bounds() {
        let refused = |config: Config, name: &str| match config.validate() {
            Err(Invalid::Number { option, .. }) => assert_eq!(option, name),
            other => panic!("{name}: {other:?}"),
        };
        refused(Config { election_max_ms: 1_000, ..Config::default() }, "election_max_ms");
        refused(Config { election_min_ms: 999, ..Config::default() }, "election_min_ms");
        refused(Config { append_bytes_max: 1 << 40, ..Config::default() }, "append_bytes_max");
        refused(Config { append_queue_bytes: 1, ..Config::default() }, "append_queue_bytes");
        refused(Config { connections_max: 0, ..Config::default() }, "connections_max");
    }

    #[test]
    fn a_list_may_be_one_text() {
        let config: Config = serde_json::from_str(r#"{"bootstrap":"a:1, b:2"}"#).expect("reads");
        assert_eq!(config.bootstrap, ["a:1", "b:2"]);
    }

    #[test]
    fn an_unknown_option_is_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"lisen":"127.0.0.1:1"}"#).is_err());
    }

    #[test]
    fn every_option_is_documented() {
        let fields = serde_json::to_value(Config::default()).expect("serialises");
        assert_eq!(fields.as_object().expect("an object").len(), Config::OPTIONS.len());
        assert!(Config::OPTIONS.iter().all(|option| option.doc.trim().len() > 20));
    }
}
