//! Where a node looks for its cluster: the option `join`.
//!
//! | seed | is |
//! |---|---|
//! | `HOST:PORT` | itself; the host is resolved when it is called |
//! | `dns://NAME:PORT` | every address of the name, by the system's resolver |
//! | `dns+srv://NAME` | every target and port of the name's SRV records |
//!
//! Names are looked up anew for every look, and nothing is remembered in between:
//! records of pods come and go while a cluster starts, and a node that looks for its
//! cluster is in no hurry and asks seldom. SRV records are not what system resolvers
//! offer, so they are asked for with the name servers and search domains of
//! `/etc/resolv.conf`.

mod srv;

use std::str::FromStr;
use std::sync::Arc;

use annals_raft::{Resolved, Seeds};
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};

use crate::config::Config;

/// Seeds that one option may lead to. More are a mistake, and would all be called.
const ADDRESSES_MAX: usize = 64;

/// One element of `join`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seed {
    /// `host:port`.
    Address(String),
    /// `host:port`, the host standing for all its addresses.
    Addresses(String),
    /// The name of SRV records.
    Services(String),
}

impl Seed {
    /// What is asked for, to be looked at for whether it leaves this machine.
    pub(crate) fn host(&self) -> &str {
        match self {
            Seed::Address(name) | Seed::Addresses(name) | Seed::Services(name) => name,
        }
    }
}

impl FromStr for Seed {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(name) = text.strip_prefix("dns+srv://") {
            let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            let is_name = !name.is_empty() && name.len() <= 255 && name.chars().all(sound);
            return if is_name { Ok(Seed::Services(name.to_owned())) } else { Err(()) };
        }
        let (address, seed): (&str, fn(String) -> Seed) = match text.strip_prefix("dns://") {
            Some(address) => (address, Seed::Addresses),
            None => (text, Seed::Address),
        };
        let (host, port) = address.rsplit_once(':').ok_or(())?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        // No path, no user, no other scheme.
        let is_host = !host.is_empty() && !host.contains(['/', '@', '?', ' ']);
        if is_port && is_host { Ok(seed(address.to_owned())) } else { Err(()) }
    }
}

/// The seeds of a node, if it has any, or is to start a cluster on its own.
pub(crate) fn of(config: &Config) -> Option<Arc<dyn Seeds>> {
    let seeds: Vec<Seed> = config.join.iter().filter_map(|seed| seed.parse().ok()).collect();
    (!seeds.is_empty() || config.bootstrap_expect > 0).then(|| Arc::new(Named { seeds }) as Arc<dyn Seeds>)
}

struct Named {
    seeds: Vec<Seed>,
}

impl Seeds for Named {
    fn resolve(&self) -> BoxFuture<'_, Resolved> {
        async {
            let mut resolved = Resolved::default();
            for found in join_all(self.seeds.iter().map(look_up)).await {
                match found {
                    Ok(addresses) => resolved.addresses.extend(addresses),
                    Err(why) => resolved.missing.push(why),
                }
            }
            resolved.addresses.truncate(ADDRESSES_MAX);
            resolved
        }
        .boxed()
    }
}

async fn look_up(seed: &Seed) -> Result<Vec<String>, String> {
    match seed {
        Seed::Address(address) => Ok(vec![address.clone()]),
        Seed::Addresses(name) => match tokio::net::lookup_host(name).await {
            Ok(found) => Ok(found.map(|address| address.to_string()).collect()),
            Err(error) => Err(format!("dns://{name} ({error})")),
        },
        Seed::Services(name) => srv::look_up(name).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_an_address_or_a_name() {
        let parse = |text: &str| text.parse::<Seed>();
        assert_eq!(parse("a.example:2113"), Ok(Seed::Address("a.example:2113".into())));
        assert_eq!(parse("[::1]:2113"), Ok(Seed::Address("[::1]:2113".into())));
        assert_eq!(parse("dns://annals-headless:2113"), Ok(Seed::Addresses("annals-headless:2113".into())));
        assert_eq!(parse("dns+srv://_grpc._tcp.annals"), Ok(Seed::Services("_grpc._tcp.annals".into())));
        let bad = ["", "a", "a:", ":1", "a:0", "a:x", "dns://a", "dns+srv://", "dns+srv://a:1", "http://a:1", "u@a:1"];
        for text in bad {
            assert_eq!(parse(text), Err(()), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_stands_for_its_addresses() {
        let found = look_up(&Seed::Addresses("localhost:2113".into())).await.expect("every machine has it");
        assert!(found.contains(&"127.0.0.1:2113".to_owned()) || found.contains(&"[::1]:2113".to_owned()), "{found:?}");
        let missing = look_up(&Seed::Addresses("no-such-host.invalid:2113".into())).await.expect_err("reserved");
        assert!(missing.starts_with("dns://no-such-host.invalid:2113 ("), "{missing}");
    }
}
