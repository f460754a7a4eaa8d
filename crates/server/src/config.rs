//! The configuration of a node: one flat struct, every option documented once.
//!
//! The `options!` block below is the only place where an option exists: its
//! doc comment is what `annals config explain` prints, its default is what a
//! node runs with that was told nothing. The name of an option in a file is
//! its name here, in the environment `ANNALS_` and the name in capitals.
//!
//! A [`Config`] is read by the binary from its layers (defaults, files,
//! environment, flags), validated once, and from then on only read.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use annals_core::limits;
use annals_raft::Status;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use crate::seeds::Seed;

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
    /// port. An address other than loopback needs TLS (`tls_cert`) or `insecure`.
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

    /// Seeds: of these a node with an empty data directory finds its cluster, and asks
    /// to be added. Each is `HOST:PORT`, `dns://NAME:PORT` for every address of a name,
    /// or `dns+srv://NAME` for every host and port of its SRV records. Looked up again
    /// for as long as the node looks. Instead of `bootstrap`; of no meaning later on.
    #[serde(deserialize_with = "list")]
    join: Vec<String> = Vec::new(),

    /// How many empty nodes start a cluster: this many, this one included, that find
    /// each other through `join` when no seed belongs to a cluster and all of them
    /// answer. The same on all of them. 0: this node never starts one.
    bootstrap_expect: u32 = 0,

    /// What people call this node, in `annals cluster` and in what is told of the
    /// cluster. Taken over when it joins. Default: the host of `node_address`.
    node_name: Option<String> = None,

    /// Join as a read replica: follow for good, and never vote or lead. Taken over when
    /// the node joins.
    replica: bool = false,

    /// A replica that is stopped in order leaves the cluster, and what is in its data
    /// directory is of no use any more: with `join`, its next start empties that and joins
    /// anew. For replicas whose storage goes with them.
    leave_on_shutdown: bool = false,

    /// A leader gives votes to nodes that have joined and caught up while the cluster
    /// has fewer voters than this; the others follow without a vote. The same on all
    /// nodes. 0: only `annals cluster promote` gives votes.
    voters_max: u32 = 5,

    /// A PEM file with this node's certificate, followed by those that lead from
    /// it to its CA, if any. With it the port speaks TLS only. It must be valid
    /// for the host of `node_address`. This file and the next two are looked at
    /// every second, and at once on SIGHUP: new contents serve new connections.
    tls_cert: Option<PathBuf> = None,

    /// A PEM file with the private key of that certificate.
    tls_key: Option<PathBuf> = None,

    /// A PEM file with the CA of this cluster, or several while one replaces
    /// another. Every node has its certificate from it, for both ends of a
    /// connection, with the URI annals://CLUSTER_NAME/node/HOST; users may have
    /// one, with annals://CLUSTER_NAME/user/NAME. Nodes of a cluster need it. A
    /// node that is alone does without, and then nobody identifies by certificate.
    tls_ca: Option<PathBuf> = None,

    /// What certificates call this cluster, the same on every node: letters,
    /// digits, `.`, `_` and `-`. Nodes refuse those of another name, even of the
    /// same CA. Of no meaning without `tls_ca`.
    cluster_name: String = "annals".to_owned(),

    /// Serve beyond loopback, and speak to peers there, without TLS; and, unless
    /// `authentication` says otherwise, ask nobody who they are: whoever reaches the
    /// port may read and write everything.
    insecure: bool = false,

    /// Whether callers must say who they are. Default: unless `insecure`. With both, as
    /// behind a proxy that ends TLS, passwords travel in clear text from there on.
    authentication: Option<bool> = None,

    /// A file with the password of the first administrator, `admin`, of a new cluster.
    /// Read at the start; of no meaning once there was such an account. Default: one is
    /// drawn, and left in the file `admin-password` in `data` on the node that leads.
    admin_password_file: Option<PathBuf> = None,

    /// What is logged: a level, or directives such as `info,annals_raft=debug`.
    log: String = "info".to_owned(),

    /// `text` for people, `json` for machines: one object per line.
    log_format: LogFormat = LogFormat::Text,

    /// Lines of one kind that are logged in a second, from the level `info` up.
    /// More are left out, and counted in a line of their own. 0: any number.
    log_lines_per_second_max: u64 = 100,

    /// Other products whose names /metrics tells numbers under as well, so that
    /// existing dashboards show something: `kurrentdb`, and `eventstore` for
    /// the names before it. A list.
    #[serde(deserialize_with = "list")]
    metrics_compat: Vec<MetricsCompat> = Vec::new(),

    /// What is sent to an OpenTelemetry collector, by OTLP over gRPC: `traces`, `metrics`,
    /// or both. Where to and how much is told by the standard variables, such as
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME` and
    /// `OTEL_TRACES_SAMPLER`. No call waits for a collector, or fails for want of one.
    /// A list. Empty: nothing is sent.
    #[serde(deserialize_with = "list")]
    otlp: Vec<Signal> = Vec::new(),

    /// The collector, as `http://HOST:4317`, or `https://` with TLS. Default:
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, or else `http://localhost:4317`.
    otlp_endpoint: Option<String> = None,

    /// Open connections. One more is refused with a text that says so. Each
    /// costs some tens of KiB, and up to `connection_window_bytes` while it sends.
    connections_max: usize = 2_000,

    /// Of these, from one address (of IPv6 from one network of 64 bits).
    /// Connections from the machine itself count towards `connections_max`
    /// alone. Raise it where many clients come through one proxy.
    connections_per_address_max: usize = 200,

    /// Milliseconds without a call after which a connection is closed in order,
    /// at the latest after twice as many. Clients connect again when they need to.
    connection_idle_ms: u64 = 300_000,

    /// Calls at the same time on one HTTP/2 connection; further ones wait at
    /// the client. Clients keep one connection, and each subscription is a call.
    streams_per_connection_max: u32 = 256,

    /// Calls that one caller may begin in a second, and appends of a batch; one
    /// more is refused. 0: any number. Counted for the address, as for connections,
    /// and for the user, if a call says whose it is: raise it where many come
    /// through one proxy. Calls from the machine itself are not limited.
    calls_per_second_max: u64 = 20_000,

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

    /// Bytes of messages that have begun to come in and are not complete, over
    /// all calls. Beyond it such calls are refused as overloaded. At least as
    /// much as one message, 16 MiB.
    receive_bytes_max: u64 = 128 * MIB,

    /// Milliseconds after which a call that does not stream is given up when
    /// the client sets no deadline. The fate of an append is then unknown.
    request_timeout_ms: u64 = 10_000,

    /// Milliseconds to which longer deadlines of clients are cut.
    request_timeout_max_ms: u64 = 60_000,

    /// Subscriptions at the same time on this node.
    subscriptions_max: usize = 10_000,

    /// Of these, from one caller: a user, wherever it calls from, or an address
    /// where nobody says who they are. From the machine itself any number.
    subscriptions_per_caller_max: usize = 100,

    /// Milliseconds for which a reader or a subscriber may take nothing of what
    /// is ready for it. Then it is ended with a status that says how far it came.
    stall_timeout_ms: u64 = 60_000,

    /// Bytes that may be ready for all readers and subscribers together, beyond
    /// 64 KiB for each. When it is used up they get pages of 64 KiB.
    pages_bytes_max: u64 = 256 * MIB,

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

    /// Who should lead: a leader hands over to a voter with a higher number that
    /// has caught up. Where all have the same, whoever leads goes on.
    node_priority: i32 = 0,

    /// Free bytes on the disk of `data` below which appends are refused.
    /// Reads, subscriptions and removal go on.
    disk_reserve_bytes: u64 = 1024 * MIB,

    /// Bytes of the log that a scavenge looks at per second, at most, and of what each
    /// node then writes anew; an eighth of it while there are appends. It takes longer
    /// with less, and leaves more to those who append and read.
    scavenge_bytes_per_second: u64 = 32 * MIB,

    /// Bytes of records that are sent per second, at most, to each node that catches up
    /// because it is new or was away for longer than the log reaches back. It takes longer
    /// with less, and leaves more to those who append and read.
    catch_up_bytes_per_second: u64 = 64 * MIB,

    /// Bytes of records that one backup takes per second, at most. It takes longer with
    /// less, and leaves more to those who append and read.
    backup_bytes_per_second: u64 = 64 * MIB,

    /// Bytes of applied events in memory before they go to the state's files.
    /// Like the other budgets of memory smaller by default in a small container:
    /// `annals config explain` there tells.
    memtable_bytes: u64 = 64 * MIB,

    /// Bytes of the cache of the state's files.
    block_cache_bytes: u64 = 64 * MIB,

    /// Bytes of newest events kept in memory as they are answered. Live subscriptions
    /// and reads of streams that were just written are served from here; all else comes
    /// from the state's files and their cache, which costs a read of a short stream
    /// about twice as much.
    ring_bytes: u64 = 64 * MIB,
}

/// A product whose names of metrics are told as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsCompat {
    /// `kurrentdb_…`.
    Kurrentdb,
    /// `eventstore_…`, whose counters do not end in `_total`.
    Eventstore,
}

/// What can be sent by OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Spans of calls.
    Traces,
    /// What /metrics tells.
    Metrics,
}

impl Signal {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
        }
    }
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
         everything. Give the node a certificate (--tls-cert, --tls-key, --tls-ca; `annals certs` makes some to try \
         with), or listen on 127.0.0.1, or set `insecure` (--insecure) if the network is closed to others"
    )]
    Insecure {
        /// The address.
        listen: SocketAddr,
    },
    /// Would speak to other nodes without TLS over the network.
    #[error(
        "will not be in a cluster with {peer}: without TLS whoever is on the way may read and change what nodes tell \
         each other. Give every node a certificate (--tls-cert, --tls-key, --tls-ca; `annals certs` makes some to try \
         with), or set `insecure` (--insecure) if the network is closed to others"
    )]
    InsecurePeer {
        /// Where another node is.
        peer: String,
    },
    /// One of a pair is missing.
    #[error("`tls_cert` and `tls_key` (--tls-cert, --tls-key) are given together or not at all")]
    HalfTls,
    /// A CA and nothing to show.
    #[error("`tls_ca` is given without `tls_cert`: a node that checks certificates shows one (--tls-cert, --tls-key)")]
    OnlyCa,
    /// No way to know peers by.
    #[error(
        "`tls_ca` (--tls-ca) is missing: this node is in a cluster with {peer}, and nodes know each other by \
         certificates of one CA"
    )]
    NoCa {
        /// Where another node is.
        peer: String,
    },
    /// Not usable in a certificate.
    #[error("`cluster_name` is \"{0}\", but must be 1 to 64 letters, digits, `.`, `_` or `-`")]
    ClusterName(String),
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
    /// Two ways to begin.
    #[error(
        "`bootstrap` and `join` are both given: `bootstrap` lists all first members of a cluster that does not exist \
         yet, `join` finds a cluster, or with `bootstrap_expect` other empty nodes. Give one of them"
    )]
    TwoBeginnings,
    /// Nowhere to look.
    #[error("`bootstrap_expect` is {0}, but `join` names no seeds by which that many nodes could find each other")]
    NoSeeds(u32),
    /// Not a seed.
    #[error("`join` holds \"{0}\", which is none of HOST:PORT, dns://NAME:PORT and dns+srv://NAME")]
    Seed(String),
    /// Not usable as a name.
    #[error("`node_name` is \"{0}\", but must be 1 to 253 letters, digits, `.`, `_` or `-`, and not only digits")]
    NodeName(String),
    /// Only replicas come and go.
    #[error("`leave_on_shutdown` is set, but not `replica`: a node that may vote leaves by `annals cluster remove`")]
    LeavesAsVoter,
    /// Something about OTLP that cannot work.
    #[error(transparent)]
    Otlp(#[from] crate::telemetry::Unusable),
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
        self.validate_tls()?;
        if !self.listen.ip().is_loopback() && !self.has_tls() && !self.insecure {
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
        self.validate_membership()?;
        self.validate_peers(self.bootstrap.iter().map(String::as_str))?;
        self.validate_numbers()
    }

    fn validate_membership(&self) -> Result<(), Invalid> {
        if !self.bootstrap.is_empty() && !self.join.is_empty() {
            return Err(Invalid::TwoBeginnings);
        }
        if self.bootstrap_expect > 1 && self.join.is_empty() {
            return Err(Invalid::NoSeeds(self.bootstrap_expect));
        }
        if self.leave_on_shutdown && !self.replica {
            return Err(Invalid::LeavesAsVoter);
        }
        if let Some(name) = &self.node_name {
            let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            let is_number = name.chars().all(|c| c.is_ascii_digit());
            if !(1..=253).contains(&name.len()) || !name.chars().all(sound) || is_number {
                return Err(Invalid::NodeName(name.clone()));
            }
        }
        for seed in &self.join {
            let parsed: Seed = seed.parse().map_err(|_| Invalid::Seed(seed.clone()))?;
            self.validate_peers(std::iter::once(parsed.host()))?;
        }
        Ok(())
    }

    /// The name that is not the default one; empty where it is.
    pub fn own_name(&self) -> String {
        let own = self.own_address();
        let host = own.rsplit_once(':').map_or(own.as_str(), |(host, _)| host);
        self.node_name.clone().filter(|name| name != host).unwrap_or_default()
    }

    /// Checks what only the data directory knows: whom the node is in a
    /// cluster with. `bootstrap` need not be given to a node that is.
    ///
    /// # Errors
    /// [`Invalid::InsecurePeer`] or [`Invalid::NoCa`].
    pub fn validate_members(&self, status: &Status) -> Result<(), Invalid> {
        self.validate_peers(status.members.iter().map(|member| member.address.as_str()))
    }

    fn validate_tls(&self) -> Result<(), Invalid> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(Invalid::HalfTls);
        }
        if self.tls_ca.is_some() && !self.has_tls() {
            return Err(Invalid::OnlyCa);
        }
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=64).contains(&self.cluster_name.len()) || !self.cluster_name.chars().all(sound) {
            return Err(Invalid::ClusterName(self.cluster_name.clone()));
        }
        Ok(())
    }

    fn validate_peers<'a>(&self, members: impl Iterator<Item = &'a str>) -> Result<(), Invalid> {
        let own = self.own_address();
        for peer in members.filter(|member| *member != own) {
            if self.has_tls() && self.tls_ca.is_none() {
                return Err(Invalid::NoCa { peer: peer.to_owned() });
            }
            if !self.has_tls() && !self.insecure && !is_loopback(peer) {
                return Err(Invalid::InsecurePeer { peer: peer.to_owned() });
            }
        }
        Ok(())
    }

    /// Whether the port speaks TLS.
    pub fn has_tls(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Whether others than this machine reach the node without TLS.
    pub fn is_open_to_others(&self) -> bool {
        !self.has_tls() && !self.listen.ip().is_loopback()
    }

    fn validate_numbers(&self) -> Result<(), Invalid> {
        let check = |option, value: u64, holds: bool, rule| {
            if holds { Ok(()) } else { Err(Invalid::Number { option, value, rule }) }
        };
        let positive = "but must be at least 1";
        for (option, value) in [
            ("connections_max", self.connections_max),
            ("connections_per_address_max", self.connections_per_address_max),
            ("subscriptions_per_caller_max", self.subscriptions_per_caller_max),
        ] {
            check(option, value as u64, value > 0, positive)?;
        }
        check(
            "receive_bytes_max",
            self.receive_bytes_max,
            self.receive_bytes_max >= limits::MESSAGE_BYTES_MAX as u64,
            "but must be at least 16767216: the largest message would never fit",
        )?;
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
        check(
            "scavenge_bytes_per_second",
            self.scavenge_bytes_per_second,
            self.scavenge_bytes_per_second >= 64 * 1024,
            "but must be at least 65536 (64 KiB): a scavenge would never end",
        )?;
        check(
            "catch_up_bytes_per_second",
            self.catch_up_bytes_per_second,
            self.catch_up_bytes_per_second >= MIB,
            "but must be at least 1048576 (1 MiB): the node that catches up would take the silence for a broken connection",
        )?;
        check(
            "backup_bytes_per_second",
            self.backup_bytes_per_second,
            self.backup_bytes_per_second >= 64 * 1024,
            "but must be at least 65536 (64 KiB): a backup would never end",
        )?;
        for (option, value) in [
            ("keep_alive_interval_ms", self.keep_alive_interval_ms),
            ("keep_alive_timeout_ms", self.keep_alive_timeout_ms),
            ("first_byte_timeout_ms", self.first_byte_timeout_ms),
            ("connection_idle_ms", self.connection_idle_ms),
            ("stall_timeout_ms", self.stall_timeout_ms),
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

    /// Whether callers must say who they are.
    pub fn asks_who(&self) -> bool {
        self.authentication.unwrap_or(!self.insecure)
    }

    /// The `host:port` that clients and peers are told: `node_address`, else
    /// `listen`.
    pub fn own_address(&self) -> String {
        self.node_address.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// How clients name this node. Over TLS they also need the CA, if it is not
    /// one that their system trusts.
    pub fn url(&self) -> String {
        format!("kurrentdb://{}?tls={}", self.own_address(), self.has_tls())
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

/// Whether a `host:port` is this machine for certain.
pub(crate) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
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
fn list<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        Text(String),
    }
    let texts = match Either::deserialize(deserializer)? {
        Either::List(list) => list,
        Either::Text(text) => {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        }
    };
    let element = |text: String| T::deserialize(IntoDeserializer::<D::Error>::into_deserializer(text));
    texts.into_iter().map(element).collect()
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
        let listen = config.listen;
        with_tls(Config { listen, ..Config::default() }).validate().expect("TLS does as well");
    }

    #[test]
    fn a_node_begins_in_one_way_and_finds_others_by_seeds() {
        let list = |elements: &[&str]| elements.iter().map(|element| (*element).to_owned()).collect::<Vec<_>>();
        let base = Config { node_address: Some("127.0.0.1:2113".into()), ..Config::default() };
        let join = |seeds: &[&str], expect| Config { join: list(seeds), bootstrap_expect: expect, ..base.clone() };
        join(&["127.0.0.1:2114", "dns://localhost:2113"], 3).validate().expect("on this machine");
        join(&[], 1).validate().expect("alone");
        assert!(matches!(join(&[], 3).validate(), Err(Invalid::NoSeeds(3))));
        assert!(matches!(join(&["http://a:1"], 3).validate(), Err(Invalid::Seed(_))));
        for seed in ["a.example:2113", "dns://a.example:2113", "dns+srv://_grpc._tcp.annals"] {
            assert!(matches!(join(&[seed], 3).validate(), Err(Invalid::InsecurePeer { .. })), "{seed}");
            Config { insecure: true, ..join(&[seed], 3) }.validate().expect("said");
            assert!(matches!(with_tls(join(&[seed], 3)).validate(), Err(Invalid::NoCa { .. })), "{seed}");
        }
        let both = Config { bootstrap: list(&["127.0.0.1:2113"]), ..join(&["127.0.0.1:2114"], 0) };
        assert!(matches!(both.validate(), Err(Invalid::TwoBeginnings)));
        let leaving = Config { leave_on_shutdown: true, ..base.clone() };
        assert!(matches!(leaving.validate(), Err(Invalid::LeavesAsVoter)));
        Config { replica: true, ..leaving }.validate().expect("replicas come and go");
    }

    #[test]
    fn a_name_is_told_apart_from_an_id_and_from_the_default() {
        let named = |name: &str| Config { node_name: Some(name.into()), ..Config::default() };
        named("annals-0").validate().expect("a name");
        assert_eq!(named("annals-0").own_name(), "annals-0");
        assert_eq!(named("127.0.0.1").own_name(), "", "as by default");
        for wrong in ["", "7", "a b", "a/b"] {
            assert!(matches!(named(wrong).validate(), Err(Invalid::NodeName(_))), "{wrong:?}");
        }
    }

    fn with_tls(config: Config) -> Config {
        Config { tls_cert: Some("c".into()), tls_key: Some("k".into()), ..config }
    }

    #[test]
    fn certificate_key_and_ca_belong_together() {
        let with = |cert: bool, key: bool, ca: bool| {
            let file = |there: bool| there.then(|| PathBuf::from("f"));
            Config { tls_cert: file(cert), tls_key: file(key), tls_ca: file(ca), ..Config::default() }.validate()
        };
        assert!(matches!(with(true, false, false), Err(Invalid::HalfTls)));
        assert!(matches!(with(false, true, true), Err(Invalid::HalfTls)));
        assert!(matches!(with(false, false, true), Err(Invalid::OnlyCa)));
        with(true, true, false).expect("a node that is alone");
        with(true, true, true).expect("a node of a cluster");
    }

    #[test]
    fn a_cluster_beyond_this_machine_needs_tls_and_a_ca() {
        let among = |bootstrap: &[&str], config: Config| {
            let bootstrap = bootstrap.iter().map(|address| (*address).to_owned()).collect();
            Config { bootstrap, node_address: Some("localhost:1".into()), ..config }.validate()
        };
        let here = ["localhost:1", "127.0.0.1:2", "[::1]:3"];
        among(&here, Config::default()).expect("this machine");
        let there = ["localhost:1", "b.example:2"];
        assert!(
            matches!(among(&there, Config::default()), Err(Invalid::InsecurePeer { peer }) if peer == "b.example:2")
        );
        among(&there, Config { insecure: true, ..Config::default() }).expect("said");
        assert!(matches!(among(&there, with_tls(Config::default())), Err(Invalid::NoCa { .. })));
        assert!(matches!(among(&here, with_tls(Config::default())), Err(Invalid::NoCa { .. })));
        among(&there, with_tls(Config { tls_ca: Some("ca".into()), ..Config::default() })).expect("complete");
        among(&["localhost:1"], with_tls(Config::default())).expect("alone");
    }

    #[test]
    fn a_cluster_name_fits_into_a_certificate() {
        for name in ["", "a/b", "a b", "ä", &"x".repeat(65)] {
            let config = Config { cluster_name: name.to_owned(), ..Config::default() };
            assert!(matches!(config.validate(), Err(Invalid::ClusterName(_))), "{name}");
        }
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
        let mut config = Config { bootstrap: vec!["a:1".into(), "b:1".into()], insecure: true, ..Config::default() };
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
        refused(Config { receive_bytes_max: 1, ..Config::default() }, "receive_bytes_max");
        refused(Config { stall_timeout_ms: 0, ..Config::default() }, "stall_timeout_ms");
    }

    #[test]
    fn a_list_may_be_one_text() {
        let config: Config = serde_json::from_str(r#"{"bootstrap":"a:1, b:2"}"#).expect("reads");
        assert_eq!(config.bootstrap, ["a:1", "b:2"]);
    }

    #[test]
    fn products_with_other_names_are_known_ones() {
        let read = serde_json::from_str::<Config>;
        let config = read(r#"{"metrics_compat":"kurrentdb, eventstore"}"#).expect("reads");
        assert_eq!(config.metrics_compat, [MetricsCompat::Kurrentdb, MetricsCompat::Eventstore]);
        assert_eq!(read(r#"{"metrics_compat":["kurrentdb"]}"#).expect("reads").metrics_compat.len(), 1);
        let refused = read(r#"{"metrics_compat":"kafka"}"#).expect_err("no such product");
        assert!(refused.to_string().contains("`kurrentdb`"), "{refused}");
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
