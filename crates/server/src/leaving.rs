//! Whether clients that stay are to go elsewhere.
//!
//! A node that stops is left by them for good; one that is drained, until it is resumed.
//! Whoever streams takes the token of when it began: cancelled once it has to end, also
//! if the node was resumed meanwhile.

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// See the module.
pub(crate) struct Leaving {
    stopping: CancellationToken,
    token: Mutex<CancellationToken>,
    drained: watch::Sender<bool>,
}

impl Leaving {
    /// Nobody has to leave, until the process stops.
    pub(crate) fn new(stopping: &CancellationToken) -> Self {
        Leaving {
            stopping: stopping.clone(),
            token: Mutex::new(stopping.child_token()),
            drained: watch::Sender::new(false),
        }
    }

    /// Cancelled when who begins now has to leave.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.lock().clone()
    }

    /// Whether nobody who stays is taken.
    pub(crate) fn has_begun(&self) -> bool {
        self.token.lock().is_cancelled()
    }

    /// Tells whether the node is drained.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.drained.subscribe()
    }

    /// From now on everybody leaves.
    pub(crate) fn begin(&self) {
        self.token.lock().cancel();
        self.drained.send_replace(true);
    }

    /// From now on clients are welcome again.
    pub(crate) fn end(&self) {
        let mut token = self.token.lock();
        if token.is_cancelled() {
            *token = self.stopping.child_token();
        }
        drop(token);
        self.drained.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_to_leave_leaves_although_others_are_welcome_again() {
        let stopping = CancellationToken::new();
        let leaving = Leaving::new(&stopping);
        let early = leaving.token();
        leaving.begin();
        assert!(early.is_cancelled() && leaving.has_begun() && *leaving.watch().borrow());
        leaving.end();
        let late = leaving.token();
        assert!(early.is_cancelled() && !late.is_cancelled() && !leaving.has_begun());
        stopping.cancel();
        assert!(late.is_cancelled() && leaving.has_begun());
        leaving.end();
        assert!(leaving.has_begun(), "a process that stops takes nobody any more");
    }
}
