//! SRV records, which the system's resolver does not offer: asked of the name servers,
//! and with the search domains, of `/etc/resolv.conf`.

use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

/// How long one question to a name server may take.
const ANSWER: Duration = Duration::from_secs(2);

/// Every `target:port` of a name, in any order.
///
/// # Errors
/// Which name could not be looked up, and why.
pub(super) async fn look_up(name: &str) -> Result<Vec<String>, String> {
    services(resolver()?, name).await
}

/// As the system is configured at this moment.
fn resolver() -> Result<TokioResolver, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("the name servers of this machine are not known: {error}");
    let mut builder = TokioResolver::builder_tokio().map_err(|error| unreadable(&error))?;
    builder.options_mut().cache_size = 0;
    builder.options_mut().timeout = ANSWER;
    // The records of three nodes do not fit into the 512 bytes of an answer without.
    builder.options_mut().edns0 = true;
    builder.build().map_err(|error| unreadable(&error))
}

async fn services(resolver: TokioResolver, name: &str) -> Result<Vec<String>, String> {
    let found = match resolver.srv_lookup(name).await {
        Ok(found) => found,
        Err(error) if error.is_no_records_found() => return Err(format!("dns+srv://{name} (it has no SRV records)")),
        Err(error) => return Err(format!("dns+srv://{name} ({error})")),
    };
    let target = |data: &RData| match data {
        RData::SRV(srv) => Some(format!("{}:{}", srv.target.to_ascii().trim_end_matches('.'), srv.port)),
        _ => None,
    };
    Ok(found.answers().iter().filter_map(|record| target(&record.data)).collect())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;

    use super::*;

    /// Answers one question with these SRV records (priority and weight 0), or with
    /// none.
    fn name_server(targets: &'static [(&'static str, u16)]) -> u16 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = socket.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            let (len, from) = socket.recv_from(&mut packet).expect("a question");
            let question_end = 12 + packet[12..len].iter().position(|byte| *byte == 0).expect("the root") + 5;
            let mut answer = packet[..question_end].to_vec();
            answer[2] = 0x84; // a response, authoritative
            answer[3] = 0;
            answer[6..8].copy_from_slice(&u16::try_from(targets.len()).expect("few").to_be_bytes());
            answer[8..12].fill(0);
            for (target, port) in targets {
                let mut data = vec![0, 0, 0, 0];
                data.extend(port.to_be_bytes());
                for label in target.split('.') {
                    data.push(u8::try_from(label.len()).expect("short"));
                    data.extend(label.as_bytes());
                }
                data.push(0);
                answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 30]); // the name asked for, SRV, IN, 30 s
                answer.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
                answer.extend(data);
            }
            socket.send_to(&answer, from).expect("sent");
        });
        port
    }

    fn asking(port: u16) -> TokioResolver {
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().expect("a resolver")
    }

    #[tokio::test]
    async fn service_records_are_hosts_and_ports() {
        let port = name_server(&[("annals-0.annals-headless", 2113), ("annals-1.annals-headless", 2114)]);
        let found = services(asking(port), "_grpc._tcp.annals-headless.").await;
        let expected = ["annals-0.annals-headless:2113", "annals-1.annals-headless:2114"].map(str::to_owned);
        assert_eq!(found, Ok(expected.to_vec()));
    }

    #[tokio::test]
    async fn a_name_without_service_records_is_told() {
        let missing = services(asking(name_server(&[])), "_grpc._tcp.annals-headless.").await;
        assert_eq!(missing, Err("dns+srv://_grpc._tcp.annals-headless. (it has no SRV records)".into()));
    }
}
