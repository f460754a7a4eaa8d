//! Whether a configuration can be used: what no single option can know.
//!
//! A configuration is refused before anything is opened or bound, by the first
//! thing found wrong, in words that name the option and what to do about it.

use std::net::{IpAddr, SocketAddr};

use annals_core::limits;
use annals_raft::Status;

use super::{Config, MIB};
use crate::seeds::Seed;

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

    /// Checks what only the data directory knows: whom the node is in a
    /// cluster with. `bootstrap` need not be given to a node that is.
    ///
    /// # Errors
    /// [`Invalid::InsecurePeer`] or [`Invalid::NoCa`].
    pub fn validate_members(&self, status: &Status) -> Result<(), Invalid> {
        self.validate_peers(status.members.iter().map(|member| member.address.as_str()))
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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
}
