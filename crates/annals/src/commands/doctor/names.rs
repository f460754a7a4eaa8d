//! Names of servers, as this machine resolves them.

use std::net::IpAddr;
use std::time::Duration;

use annals_client::Host;
use tokio::net::lookup_host;

use super::{Check, Finding};

const CHECK: Check = Check { name: "names", code: "ANN-3009" };

/// How long a resolver may take before it is as good as none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Every name once. Addresses need no resolver.
pub(super) async fn look(hosts: &[Host]) -> Vec<Finding> {
    let mut names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    names.retain(|name| name.parse::<IpAddr>().is_err());
    names.sort_unstable();
    names.dedup();
    futures::future::join_all(names.into_iter().map(resolved)).await
}

async fn resolved(name: &str) -> Finding {
    let advice = "is the name right, and can this machine's resolver know it?";
    let found = match tokio::time::timeout(PATIENCE, lookup_host((name, 0))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Finding::fail(CHECK, format!("{name} has no address: {error}"), advice),
        Err(_) => return Finding::fail(CHECK, format!("{name}: no answer within {} s", PATIENCE.as_secs()), advice),
    };
    let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    match addresses.is_empty() {
        true => Finding::fail(CHECK, format!("{name} has no address"), advice),
        false => Finding::pass(CHECK, format!("{name} is {}", addresses.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[tokio::test]
    async fn names_are_looked_up_once_and_addresses_not_at_all() {
        let host = |name: &str| Host { name: name.to_owned(), port: 2113 };
        // A name that by its definition never exists (RFC 2606).
        let hosts = [host("localhost"), host("localhost"), host("127.0.0.1"), host("::1"), host("annals.invalid")];
        let found: Vec<(Grade, bool)> =
            look(&hosts).await.iter().map(|finding| (finding.grade, finding.found.contains("localhost is"))).collect();
        assert_eq!(found, [(Grade::Fail, false), (Grade::Pass, true)]);
    }
}
