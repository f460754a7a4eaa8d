//! Exchanging certificates while the node runs.
//!
//! The contents of the files are looked at every second, not their times: a
//! link that is switched to another directory, as secrets are mounted, changes
//! no time that could be relied on, and three small files cost nothing to read.
//! SIGHUP looks at once.
//!
//! Certificate and key are two files, so one may be new and the other old when
//! they are looked at. What cannot be used is therefore told only when it is
//! still the same at the next look, and then once.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Tls;
use super::files::{LoadError, Loaded};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What was wrong at the last look.
struct Wrong {
    /// Of the contents, if they could be read.
    fingerprint: Option<u128>,
    told: bool,
}

impl Tls {
    /// Looks for new certificates until told to stop.
    pub(crate) async fn reload(self, stop: CancellationToken) {
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut wrong = None;
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => false,
                Some(()) = async { hangup.as_mut()?.recv().await } => true,
            };
            self.look(asked, &mut wrong).await;
        }
    }

    async fn look(&self, asked: bool, wrong: &mut Option<Wrong>) {
        let (files, newest) = (self.0.files.clone(), self.0.current.load().fingerprint);
        let refused = wrong.as_ref().and_then(|wrong| wrong.fingerprint.filter(|_| wrong.told));
        let looked = tokio::task::spawn_blocking(move || {
            let fingerprint = match files.fingerprint() {
                Ok(same) if !asked && (same == newest || Some(same) == refused) => return (Some(same), Ok(None)),
                Ok(other) => Some(other),
                Err(error) => return (None, Err(error)),
            };
            (fingerprint, files.load().map(Some))
        });
        // Only while the runtime shuts down.
        let Ok((fingerprint, result)) = looked.await else { return };
        match result {
            Ok(Some(loaded)) => {
                *wrong = None;
                self.exchange(loaded);
            }
            Ok(None) if fingerprint == Some(newest) => *wrong = None,
            Ok(None) => {}
            Err(error) => {
                let before = wrong.take().filter(|before| before.fingerprint == fingerprint);
                let told = before.as_ref().is_some_and(|before| before.told);
                if asked || (before.is_some() && !told) {
                    self.keep(error);
                }
                *wrong = Some(Wrong { fingerprint, told: told || asked || before.is_some() });
            }
        }
    }

    fn exchange(&self, loaded: Loaded) {
        loaded.tell(&self.0.metrics);
        self.0.metrics.tls_reloaded(true);
        tracing::info!(expires = loaded.expires(), "new certificates are in use for new connections");
        self.0.current.store(Arc::new(loaded));
    }

    fn keep(&self, error: LoadError) {
        self.0.metrics.tls_reloaded(false);
        let expires = self.0.current.load().expires();
        let error = with_causes(&error);
        tracing::error!(error, expires, "the new certificates cannot be used: the ones before stay in use");
    }
}

/// An error with its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
