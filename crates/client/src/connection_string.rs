//! `scheme://user:password@host:port,host:port/?option=value&…`, as all
//! official clients accept it.
//!
//! Nothing is guessed: what cannot be understood is an error that names it.
//! Options that only other clients know are accepted and listed in
//! [`Settings::ignored`], so that a string can be shared between programs.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The port where none is given.
pub const DEFAULT_PORT: u16 = 2113;

/// The schemes that are understood, each also with `+discover`.
const SCHEMES: &[&str] = &["kurrentdb", "kurrent", "kdb", "esdb", "annals"];

/// How to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where nodes may be found. Not empty.
    pub hosts: Vec<Host>,
    /// Whether to ask them who is in the cluster and choose among those. So
    /// with `+discover` and with several hosts.
    pub discover: bool,
    /// User and password, percent-decoded.
    pub credentials: Option<Credentials>,
    /// `tls` [true].
    pub tls: bool,
    /// `tlsVerifyCert` [true].
    pub tls_verify_cert: bool,
    /// `tlsCaFile`: a PEM file with the CA to trust. Default: those that this
    /// system trusts.
    pub tls_ca_file: Option<PathBuf>,
    /// `userCertFile` and `userKeyFile`: PEM files to identify with.
    pub user_certificate: Option<(PathBuf, PathBuf)>,
    /// `nodePreference` [leader].
    pub node_preference: NodePreference,
    /// `maxDiscoverAttempts` [10]: rounds over all hosts.
    pub max_discover_attempts: u32,
    /// `discoveryInterval`, milliseconds [100]: the pause between rounds.
    pub discovery_interval: Duration,
    /// `gossipTimeout`, milliseconds [5000]: how long one host may take.
    pub gossip_timeout: Duration,
    /// `keepAliveInterval`, milliseconds [10000]; none for -1.
    pub keep_alive_interval: Option<Duration>,
    /// `keepAliveTimeout`, milliseconds [10000].
    pub keep_alive_timeout: Duration,
    /// `defaultDeadline`, milliseconds [10000]: of calls that do not stream.
    pub default_deadline: Duration,
    /// The name for which the server's certificate must be, where it is another one than
    /// the host's. No connection string says it.
    pub tls_server_name: Option<String>,
    /// The token that a node on this machine leaves in its data directory. No connection
    /// string says it.
    pub local_token: Option<String>,
    /// `connectionName`: how the server calls us.
    pub connection_name: Option<String>,
    /// Options that this client does not know, in their order.
    pub ignored: Vec<String>,
}

/// Where a node may be found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A name or an address; IPv6 without brackets.
    pub name: String,
    /// The port.
    pub port: u16,
}

/// User and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password. Not shown by `Debug`.
    pub password: String,
}

/// Which node to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePreference {
    /// The leader; and calls demand that it is.
    Leader,
    /// A follower, if there is one.
    Follower,
    /// Any.
    Random,
    /// A replica without a vote, if there is one.
    ReadOnlyReplica,
}

/// Why a text is no connection string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConnectionString {
    /// No `://`.
    #[error("\"{0}\" is no connection string: it begins with a scheme, as in kurrentdb://127.0.0.1:2113?tls=false")]
    NoScheme(String),
    /// A scheme that is not known.
    #[error(
        "the scheme \"{0}\" is not known; use kurrentdb, kdb, esdb or annals, with +discover to find the cluster's nodes"
    )]
    Scheme(String),
    /// No host, or something that is none.
    #[error("\"{0}\" is not a host or host:port")]
    Host(String),
    /// A `%` that is not followed by two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the user information cannot be percent-decoded; write % as %25 and @ as %40")]
    UserInformation,
    /// An option without `=`.
    #[error("the option \"{0}\" has no value; write {0}=…")]
    NoValue(String),
    /// A value that does not fit its option.
    #[error("the option {option} is \"{value}\", but must be {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// One of a pair is missing.
    #[error("userCertFile and userKeyFile are given together or not at all")]
    HalfCertificate,
}

use InvalidConnectionString as Invalid;

impl FromStr for Settings {
    type Err = InvalidConnectionString;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| Invalid::NoScheme(text.to_owned()))?;
        let lower = scheme.to_ascii_lowercase();
        let (base, discover) = match lower.strip_suffix("+discover") {
            Some(base) => (base, true),
            None => (lower.as_str(), false),
        };
        if !SCHEMES.contains(&base) {
            return Err(Invalid::Scheme(scheme.to_owned()));
        }
        let (authority, query) = match rest.split_once('?') {
            Some((authority, query)) => (authority, query),
            None => (rest, ""),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        // The last @: one in a password that somebody forgot to encode.
        let (user_information, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
        let mut settings = Settings::defaults(hosts, discover);
        settings.credentials = user_information.map(credentials).transpose()?;
        settings.options(query)?;
        Ok(settings)
    }
}

impl Settings {
    fn defaults(hosts: Vec<Host>, discover: bool) -> Self {
        Settings {
            discover: discover || hosts.len() > 1,
            hosts,
            credentials: None,
            tls: true,
            tls_verify_cert: true,
            tls_ca_file: None,
            user_certificate: None,
            node_preference: NodePreference::Leader,
            max_discover_attempts: 10,
            discovery_interval: Duration::from_millis(100),
            gossip_timeout: Duration::from_millis(5_000),
            keep_alive_interval: Some(Duration::from_millis(10_000)),
            keep_alive_timeout: Duration::from_millis(10_000),
            default_deadline: Duration::from_millis(10_000),
            tls_server_name: None,
            local_token: None,
            connection_name: None,
            ignored: Vec::new(),
        }
    }

    fn options(&mut self, query: &str) -> Result<(), Invalid> {
        let (mut certificate, mut key) = (None, None);
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| Invalid::NoValue(option.to_owned()))?;
            let value = decode(value).ok_or(Invalid::UserInformation)?;
            match name.to_ascii_lowercase().as_str() {
                "tls" => self.tls = boolean("tls", &value)?,
                "tlsverifycert" => self.tls_verify_cert = boolean("tlsVerifyCert", &value)?,
                "tlscafile" => self.tls_ca_file = Some(PathBuf::from(value)),
                "usercertfile" => certificate = Some(PathBuf::from(value)),
                "userkeyfile" => key = Some(PathBuf::from(value)),
                "nodepreference" => self.node_preference = preference(&value)?,
                "maxdiscoverattempts" => {
                    let attempts = number("maxDiscoverAttempts", &value)?;
                    self.max_discover_attempts = u32::try_from(attempts.max(1)).unwrap_or(u32::MAX);
                }
                "discoveryinterval" => self.discovery_interval = milliseconds("discoveryInterval", &value)?,
                "gossiptimeout" => self.gossip_timeout = milliseconds("gossipTimeout", &value)?,
                "keepaliveinterval" if value == "-1" => self.keep_alive_interval = None,
                "keepaliveinterval" => self.keep_alive_interval = Some(milliseconds("keepAliveInterval", &value)?),
                "keepalivetimeout" if value == "-1" => self.keep_alive_interval = None,
                "keepalivetimeout" => self.keep_alive_timeout = milliseconds("keepAliveTimeout", &value)?,
                "defaultdeadline" => self.default_deadline = milliseconds("defaultDeadline", &value)?,
                "connectionname" => self.connection_name = Some(value),
                _ => self.ignored.push(name.to_owned()),
            }
        }
        self.user_certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(Invalid::HalfCertificate),
        };
        Ok(())
    }
}

fn host(text: &str) -> Result<Host, Invalid> {
    let invalid = || Invalid::Host(text.to_owned());
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or_else(invalid)?;
            (name, port.strip_prefix(':').or_else(|| port.is_empty().then_some("")).ok_or_else(invalid)?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = match port {
        "" if text.ends_with(':') => return Err(invalid()),
        "" => DEFAULT_PORT,
        port => port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?,
    };
    let sound = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if name.is_empty() || !name.chars().all(sound) {
        return Err(invalid());
    }
    Ok(Host { name: name.to_owned(), port })
}

fn credentials(text: &str) -> Result<Credentials, Invalid> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let user = decode(user).ok_or(Invalid::UserInformation)?;
    let password = decode(password).ok_or(Invalid::UserInformation)?;
    Ok(Credentials { user, password })
}

/// Percent-decoding, where `+` stays a plus.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits are one byte"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn boolean(option: &'static str, value: &str) -> Result<bool, Invalid> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Invalid::Value { option, value: value.to_owned(), expected: "true or false" }),
    }
}

fn number(option: &'static str, value: &str) -> Result<u64, Invalid> {
    value.parse().map_err(|_| Invalid::Value { option, value: value.to_owned(), expected: "a number" })
}

fn milliseconds(option: &'static str, value: &str) -> Result<Duration, Invalid> {
    match value.parse() {
        Ok(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
        _ => Err(Invalid::Value { option, value: value.to_owned(), expected: "a number of milliseconds above 0" }),
    }
}

fn preference(value: &str) -> Result<NodePreference, Invalid> {
    match value.to_ascii_lowercase().as_str() {
        "leader" => Ok(NodePreference::Leader),
        "follower" => Ok(NodePreference::Follower),
        "random" => Ok(NodePreference::Random),
        "readonlyreplica" => Ok(NodePreference::ReadOnlyReplica),
        _ => Err(Invalid::Value {
            option: "nodePreference",
            value: value.to_owned(),
            expected: "leader, follower, random or readOnlyReplica",
        }),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("hosts", &self.hosts)
            .field("discover", &self.discover)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .field("node_preference", &self.node_preference)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Settings {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refuse(text: &str) -> Invalid {
        text.parse::<Settings>().expect_err(text)
    }

    fn at(name: &str, port: u16) -> Host {
        Host { name: name.to_owned(), port }
    }

    #[test]
    fn every_scheme_is_understood_with_and_without_discovery() {
        for scheme in SCHEMES {
            assert!(!parse(&format!("{scheme}://localhost")).discover);
            assert!(parse(&format!("{scheme}+discover://localhost")).discover);
        }
        assert!(parse("KurrentDB+Discover://localhost").discover);
        assert_eq!(refuse("http://localhost"), Invalid::Scheme("http".to_owned()));
        assert_eq!(refuse("localhost:2113"), Invalid::NoScheme("localhost:2113".to_owned()));
    }

    #[test]
    fn hosts_have_ports_or_the_default_one() {
        assert_eq!(
            parse("esdb://a,b:1,[::1]:2,[fe80::1]").hosts,
            [at("a", 2113), at("b", 1), at("::1", 2), at("fe80::1", 2113)]
        );
        assert!(parse("esdb://a,b").discover, "several hosts are a cluster");
        for bad in [
            "esdb://",
            "esdb://a:x",
            "esdb://a:0",
            "esdb://a:",
            "esdb://:1",
            "esdb://a b",
            "esdb://[::1",
            "esdb://a,,b",
            "esdb://a:99999",
        ] {
            assert!(matches!(refuse(bad), Invalid::Host(_)), "{bad}");
        }
    }

    #[test]
    fn user_information_is_percent_decoded() {
        let settings = parse("kurrentdb://ad%40min:p%3Aw+%C3%BC@h:1?tls=false");
        let credentials = settings.credentials.as_ref().expect("given");
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("ad@min", "p:w+ü"));
        assert!(!format!("{settings:?}").contains("p:w"), "a password is never shown");
        assert_eq!(parse("kurrentdb://u:a@b@h").hosts, [at("h", 2113)]);
        assert_eq!(refuse("kurrentdb://u:%zz@h"), Invalid::UserInformation);
        assert_eq!(refuse("kurrentdb://u:%f@h"), Invalid::UserInformation);
        assert_eq!(refuse("kurrentdb://u:%ff@h"), Invalid::UserInformation);
    }

    #[test]
    fn options_are_matched_without_case() {
        let settings = parse(
            "esdb://h/?TLS=False&tlsVerifyCert=false&NODEPREFERENCE=Follower&maxDiscoverAttempts=3&discoveryInterval=7\
             &gossipTimeout=8&keepAliveInterval=9&keepAliveTimeout=10&defaultDeadline=11&connectionName=me&tlsCaFile=/c",
        );
        assert!(!settings.tls && !settings.tls_verify_cert);
        assert_eq!(settings.node_preference, NodePreference::Follower);
        assert_eq!(settings.max_discover_attempts, 3);
        assert_eq!(settings.discovery_interval, Duration::from_millis(7));
        assert_eq!(settings.gossip_timeout, Duration::from_millis(8));
        assert_eq!(settings.keep_alive_interval, Some(Duration::from_millis(9)));
        assert_eq!(settings.keep_alive_timeout, Duration::from_millis(10));
        assert_eq!(settings.default_deadline, Duration::from_millis(11));
        assert_eq!(settings.connection_name.as_deref(), Some("me"));
        assert_eq!(settings.tls_ca_file, Some(PathBuf::from("/c")));
    }

    #[test]
    fn what_other_clients_know_is_told_but_not_refused() {
        let settings = parse("esdb://h?throwOnAppendFailure=true&tls=false&dnsDiscover=false");
        assert_eq!(settings.ignored, ["throwOnAppendFailure", "dnsDiscover"]);
    }

    #[test]
    fn a_wrong_value_names_its_option() {
        for (text, name) in [
            ("esdb://h?tls=maybe", "tls"),
            ("esdb://h?nodePreference=boss", "nodePreference"),
            ("esdb://h?gossipTimeout=0", "gossipTimeout"),
            ("esdb://h?defaultDeadline=soon", "defaultDeadline"),
        ] {
            assert!(matches!(refuse(text), Invalid::Value { option, .. } if option == name), "{text}");
        }
        assert_eq!(refuse("esdb://h?tls"), Invalid::NoValue("tls".to_owned()));
        assert_eq!(refuse("esdb://h?userCertFile=a"), Invalid::HalfCertificate);
    }
}
