//! The tasks of calls, so that a call can be ended from outside.
//!
//! Whoever waits for a client to take what it was sent is not asked anything by
//! the connection until the client does, and so cannot end by itself. What it can
//! do is to leave the handle of its task ([`current`]) where somebody looks after
//! time ([`crate::grpc::streams`], `stalls`). A task that is aborted resets its
//! stream and nothing else of the connection.

use std::sync::{Arc, OnceLock};

use tokio::task::AbortHandle;

tokio::task_local! {
    static TASK: Arc<OnceLock<AbortHandle>>;
}

/// Runs what connections spawn, one task for each call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tasks;

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, call: F) {
        let handle = Arc::new(OnceLock::new());
        let task = tokio::spawn(TASK.scope(handle.clone(), call));
        let _ = handle.set(task.abort_handle());
    }
}

/// The task of the call that asks. None over HTTP/1.1.
pub(crate) fn current() -> Option<Task> {
    TASK.try_with(|handle| Task(handle.clone())).ok()
}

/// The task of a call.
#[derive(Clone, Debug)]
pub(crate) struct Task(Arc<OnceLock<AbortHandle>>);

impl Task {
    /// Ends the call where it stands. The client sees its stream cancelled.
    pub(crate) fn abort(&self) {
        if let Some(handle) = self.0.get() {
            handle.abort();
        }
    }
}
