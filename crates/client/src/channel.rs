//! Which node a client talks to.
//!
//! One connection at a time. It is made when it is needed, to the host of the
//! connection string or to the node that gossip suggests; it moves when a
//! node names the leader, and is forgotten when the node cannot be reached.

use std::time::Duration;

use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::gossip::gossip_client::GossipClient;
use annals_proto::event_store::client::gossip::member_info::VNodeState;
use annals_proto::event_store::client::gossip::{ClusterInfo, MemberInfo};
use tokio::sync::Mutex;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{Error, Host, NodePreference, Settings};

/// HTTP/2 flow control: enough to read at full speed over some distance.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

pub(crate) struct Connector {
    settings: Settings,
    current: Mutex<Option<Channel>>,
}

impl Connector {
    pub(crate) fn new(settings: Settings) -> Self {
        Connector { settings, current: Mutex::new(None) }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The connection, made if there is none.
    pub(crate) async fn channel(&self) -> Result<Channel, Error> {
        // Held while connecting, so that callers at the same time share one
        // attempt.
        let mut current = self.current.lock().await;
        if let Some(channel) = &*current {
            return Ok(channel.clone());
        }
        let host = if self.settings.discover {
            self.discover().await?
        } else {
            self.settings.hosts.first().cloned().ok_or_else(|| Error::NoNode("no host is configured".to_owned()))?
        };
        let channel = self.connect(&host).await?;
        *current = Some(channel.clone());
        Ok(channel)
    }

    /// From now on this node.
    pub(crate) async fn move_to(&self, name: String, port: u16) -> Result<(), Error> {
        let channel = self.connect(&Host { name, port }).await;
        let mut current = self.current.lock().await;
        *current = None;
        *current = Some(channel?);
        Ok(())
    }

    /// The connection is of no use.
    pub(crate) async fn forget(&self) {
        *self.current.lock().await = None;
    }

    async fn discover(&self) -> Result<Host, Error> {
        let mut last = "nobody was asked".to_owned();
        for attempt in 0..self.settings.max_discover_attempts {
            if attempt > 0 {
                tokio::time::sleep(self.settings.discovery_interval).await;
            }
            for host in &self.settings.hosts {
                match self.gossip(host).await {
                    Ok(info) => match choose(&info.members, self.settings.node_preference) {
                        Some(host) => return Ok(host),
                        None => last = format!("{host} knows no node that serves"),
                    },
                    Err(error) => last = format!("{host}: {error}"),
                }
            }
        }
        Err(Error::NoNode(last))
    }

    async fn gossip(&self, host: &Host) -> Result<ClusterInfo, Error> {
        let asked = async {
            let channel = self.connect(host).await?;
            Ok(GossipClient::new(channel).read(Empty {}).await?.into_inner())
        };
        match tokio::time::timeout(self.settings.gossip_timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::NoNode("no answer in time".to_owned())),
        }
    }

    async fn connect(&self, host: &Host) -> Result<Channel, Error> {
        let scheme = if self.settings.tls { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}"))
            .map_err(|error| Error::NoNode(format!("{host} is no address: {error}")))?
            .connect_timeout(self.settings.gossip_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if let Some(interval) = self.settings.keep_alive_interval {
            endpoint = endpoint
                .http2_keep_alive_interval(interval.max(Duration::from_millis(1)))
                .keep_alive_timeout(self.settings.keep_alive_timeout)
                .keep_alive_while_idle(true);
        }
        if self.settings.tls {
            let tls = self.tls().await?.domain_name(self.settings.tls_server_name.as_ref().unwrap_or(&host.name));
            endpoint = endpoint.tls_config(tls).map_err(|error| Error::Tls(causes(&error)))?;
        }
        endpoint.connect().await.map_err(|error| {
            let why = causes(&error);
            Error::NoNode(format!("cannot connect to {host}: {why}{}", self.hint(&why)))
        })
    }

    /// What most likely helps against this failure to connect.
    fn hint(&self, why: &str) -> &'static str {
        if !self.settings.tls {
            ""
        } else if why.contains("UnknownIssuer") && self.settings.tls_ca_file.is_none() {
            " (name the certificate of the server's CA with tlsCaFile)"
        } else if why.contains("InvalidContentType") {
            " (the server seems to run without TLS: add tls=false)"
        } else {
            ""
        }
    }

    async fn tls(&self) -> Result<ClientTlsConfig, Error> {
        if !self.settings.tls_verify_cert {
            return Err(Error::Tls(
                "tlsVerifyCert=false is not possible with this client: encryption for whoever answers protects \
                 nothing; name the certificate of the server's CA with tlsCaFile"
                    .to_owned(),
            ));
        }
        let mut tls = match &self.settings.tls_ca_file {
            Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate(file).await?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((own, key)) = &self.settings.user_certificate {
            tls = tls.identity(Identity::from_pem(certificate(own).await?, read(key).await?));
        }
        Ok(tls)
    }
}

/// A file in which there is a certificate: one without would be trusted to
/// trust nobody, and be told as a failure of the server's.
async fn certificate(file: &std::path::Path) -> Result<Vec<u8>, Error> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let pem = read(file).await?;
    if pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
        Ok(pem)
    } else {
        Err(Error::Tls(format!("{} holds no certificate in PEM", file.display())))
    }
}

async fn read(file: &std::path::Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(file).await.map_err(|error| Error::Tls(format!("cannot read {}: {error}", file.display())))
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some say what their cause says, and nothing more.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// The best living member; any of them among equals when the preference is
/// random, else the first.
fn choose(members: &[MemberInfo], preference: NodePreference) -> Option<Host> {
    let serving = |member: &&MemberInfo| member.is_alive && rank(member.state(), preference).is_some();
    let serving: Vec<_> = members.iter().filter(serving).collect();
    let chosen = if preference == NodePreference::Random {
        // Spreads clients; nothing depends on how well.
        let dice = uuid::Uuid::new_v4().as_u64_pair().1;
        let index = usize::try_from(dice % serving.len().max(1) as u64).unwrap_or(0);
        serving.get(index).copied()
    } else {
        serving.into_iter().min_by_key(|member| rank(member.state(), preference))
    };
    let end_point = chosen?.http_end_point.as_ref()?;
    Some(Host { name: end_point.address.clone(), port: u16::try_from(end_point.port).ok()? })
}

/// How welcome a member is, lowest first; none for those that do not serve.
fn rank(state: VNodeState, preference: NodePreference) -> Option<u8> {
    use NodePreference::{Follower, Leader, Random, ReadOnlyReplica};
    let replica =
        matches!(state, VNodeState::ReadOnlyReplica | VNodeState::PreReadOnlyReplica | VNodeState::ReadOnlyLeaderless);
    let leader = state == VNodeState::Leader;
    let follower = state == VNodeState::Follower;
    if !(replica || leader || follower) {
        return None;
    }
    Some(match preference {
        Leader if leader => 0,
        Leader if follower => 1,
        Follower if follower => 0,
        Follower if leader => 1,
        ReadOnlyReplica if replica => 0,
        Random => 0,
        Leader | Follower | ReadOnlyReplica => 2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use annals_proto::event_store::client::gossip::EndPoint;

    fn member(port: u32, state: VNodeState, is_alive: bool) -> MemberInfo {
        MemberInfo {
            state: state.into(),
            is_alive,
            http_end_point: Some(EndPoint { address: "h".to_owned(), port }),
            ..MemberInfo::default()
        }
    }

    #[test]
    fn the_preferred_living_member_is_chosen() {
        let members = [
            member(1, VNodeState::Follower, false),
            member(2, VNodeState::Leader, true),
            member(3, VNodeState::Follower, true),
            member(4, VNodeState::ReadOnlyReplica, true),
            member(5, VNodeState::CatchingUp, true),
        ];
        let port = |preference| choose(&members, preference).map(|host| host.port);
        assert_eq!(port(NodePreference::Leader), Some(2));
        assert_eq!(port(NodePreference::Follower), Some(3));
        assert_eq!(port(NodePreference::ReadOnlyReplica), Some(4));
        assert_eq!(choose(&members[4..], NodePreference::Leader), None);
    }
}
