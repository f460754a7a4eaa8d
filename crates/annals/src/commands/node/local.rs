//! `--local`: the node on this machine, as it is configured here.
//!
//! What hooks and health checks of a container have at hand is the environment of the
//! node and its data directory: where it listens, whether with TLS, and the token that
//! shows that we may operate it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use annals_client::{Client, Host, Settings};
use annals_server::Config;

use super::Local;
use crate::failure::Failure;
use crate::layers::{self, Flags};

pub(super) fn client(local: &Local) -> Result<Client, Failure> {
    let mut flags = Flags::default();
    flags.set_some("data", local.data.as_ref().map(|data| data.display().to_string()));
    flags.set_some("listen", local.listen.clone());
    let figment = layers::layers(&local.config, flags)?;
    let config: Config = layers::read(&figment)?;
    Ok(Client::new(settings(&config)?))
}

fn settings(config: &Config) -> Result<Settings, Failure> {
    let address = loopback(config.listen.ip()).ok_or_else(|| {
        Failure::usage(format!(
            "the node listens on {} only, and --local needs it on loopback: let it listen on 0.0.0.0 or [::], or name it \
             with --server and credentials",
            config.listen
        ))
    })?;
    let tls = config.has_tls();
    let mut settings: Settings = format!("kurrentdb://127.0.0.1:{}?tls={tls}", config.listen.port())
        .parse()
        .map_err(|error| Failure::usage(format!("{} cannot be connected to: {error}", config.listen)))?;
    settings.hosts = vec![Host { name: address.to_string(), port: config.listen.port() }];
    settings.tls_ca_file = config.tls_ca.clone();
    if tls {
        // The certificate is for the name by which others reach the node.
        let own = config.own_address();
        let name = own.rsplit_once(':').map_or(own.as_str(), |(name, _)| name);
        settings.tls_server_name = Some(name.trim_matches(['[', ']']).to_owned());
    }
    // Without the file the node is asked as anybody is: it may need no token.
    settings.local_token = annals_server::read_local_token(&config.data).ok().map(|token| token.to_string());
    settings.node_preference = annals_client::NodePreference::Random;
    Ok(settings)
}

/// Where on loopback a listener on this address is reached.
fn loopback(listen: IpAddr) -> Option<IpAddr> {
    match listen {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        own => own.is_loopback().then_some(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(listen: &str) -> Result<Settings, Failure> {
        settings(&Config { listen: listen.parse().expect("an address"), ..Config::default() })
    }

    #[test]
    fn the_node_is_asked_over_loopback() {
        for (listen, host) in [
            ("0.0.0.0:2113", "127.0.0.1"),
            ("127.0.0.1:2113", "127.0.0.1"),
            ("127.0.0.9:2113", "127.0.0.9"),
            ("[::]:2113", "::1"),
        ] {
            let settings = of(listen).expect("settings");
            assert_eq!(settings.hosts, [Host { name: host.to_owned(), port: 2113 }], "{listen}");
            assert!(!settings.tls && !settings.discover && settings.tls_server_name.is_none());
        }
        assert!(of("192.0.2.1:2113").is_err());
    }
}
