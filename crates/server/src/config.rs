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
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

mod validate;

pub use self::validate::Invalid;
pub(crate) use self::validate::is_loopback;

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

impl Config {
    /// The name that is not the default one; empty where it is.
    pub fn own_name(&self) -> String {
        let own = self.own_address();
        let host = own.rsplit_once(':').map_or(own.as_str(), |(host, _)| host);
        self.node_name.clone().filter(|name| name != host).unwrap_or_default()
    }

    /// Whether the port speaks TLS.
    pub fn has_tls(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Whether others than this machine reach the node without TLS.
    pub fn is_open_to_others(&self) -> bool {
        !self.has_tls() && !self.listen.ip().is_loopback()
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
