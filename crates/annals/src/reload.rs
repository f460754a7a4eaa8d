//! Reading the configuration again on SIGHUP.
//!
//! What can change in a node that runs: the log level, and the certificates, which
//! the server looks at itself. Of everything else that has changed is said that it
//! waits for the next start. A configuration that cannot be used changes nothing.

use std::sync::Arc;

use annals_server::{Config, Context};
use tokio::signal::unix::Signal;

use crate::failure::Failure;
use crate::layers::Sources;

/// Options that are taken over by a node that runs.
const LIVE: [&str; 4] = ["log", "tls_cert", "tls_key", "tls_ca"];

/// Reads the configuration again at each signal, for as long as the node runs.
pub(crate) async fn run(mut hangup: Signal, sources: Sources, context: Arc<Context>) {
    // What the server has found out by itself, such as its port, is no change.
    let Ok(started_with) = sources.config() else { return };
    while hangup.recv().await.is_some() {
        let taken = sources.config().and_then(|config| take(&config, &context).map(|()| config));
        context.metrics.config_reloaded(taken.is_ok());
        match taken {
            Ok(config) => {
                let waits = waiting(&started_with, &config).join(", ");
                let level = context.logs.level().directives;
                if waits.is_empty() {
                    tracing::info!(level, "the configuration was read again");
                } else {
                    tracing::warn!(level, waits, "the configuration was read again: these wait for the next start");
                }
            }
            Err(failure) => {
                tracing::error!(error = failure.text(), "the configuration cannot be used: nothing was changed");
            }
        }
    }
}

fn take(config: &Config, context: &Context) -> Result<(), Failure> {
    context.logs.configure(&config.log).map(|_| ()).map_err(Failure::usage)
}

/// Options that are different and need a restart.
fn waiting(before: &Config, now: &Config) -> Vec<&'static str> {
    let told = |config| serde_json::to_value(config).unwrap_or_default();
    let (before, now) = (told(before), told(now));
    let options = Config::OPTIONS.iter().map(|option| option.name);
    options.filter(|name| !LIVE.contains(name) && before.get(name) != now.get(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_wait_for_a_restart_are_named() {
        let before = Config::default();
        let now = Config { log: "debug".to_owned(), heartbeat_ms: 300, ..before.clone() };
        assert_eq!(waiting(&before, &now), ["heartbeat_ms"]);
        assert!(LIVE.iter().all(|live| Config::OPTIONS.iter().any(|option| option.name == *live)));
    }
}
