//! Who looks on while something is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

/// Is told how far it is, and may end it early.
#[derive(Clone)]
pub struct Watch {
    /// Events done so far, warm-up included.
    pub counted: Arc<AtomicU64>,
    /// When cancelled, what was measured until then is reported.
    pub stop: CancellationToken,
    /// Takes a line for people, from a measurement that talks while it runs.
    pub say: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Watch {
    pub(crate) fn count(&self, events: u64) {
        self.counted.fetch_add(events, Ordering::Relaxed);
    }
}
