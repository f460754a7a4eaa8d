//! The tasks of calls, so that a call can be ended from outside.
//!
//! Whoever waits for a client to take what it was sent is not asked anything by
//! the connection until the client does, and so cannot end by itself. What it can
//! do is to leave the handle of its task ([`current`]) where somebody looks after
//! time ([`crate::grpc::streams`], `stalls`). A task that is aborted resets its
//! stream and nothing else of the connection.
//!
//! The span of a call that is traced is left with its task as well ([`enter`]): whatever
//! happens inside the call finds it there ([`span`]).

use std::sync::{Arc, OnceLock};

use opentelemetry::trace::TraceContextExt as _;
use tokio::task::AbortHandle;

tokio::task_local! {
    static TASK: Arc<Slot>;
}

/// What is known of the task of a call.
#[derive(Debug, Default)]
struct Slot {
    abort: OnceLock<AbortHandle>,
    span: OnceLock<opentelemetry::Context>,
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
        let slot = Arc::new(Slot::default());
        let task = tokio::spawn(TASK.scope(slot.clone(), call));
        let _ = slot.abort.set(task.abort_handle());
    }
}

/// The task of the call that asks. None over HTTP/1.1.
pub(crate) fn current() -> Option<Task> {
    TASK.try_with(|slot| Task(slot.clone())).ok()
}

/// This task's call has this span.
pub(crate) fn enter(span: &opentelemetry::Context) {
    // Over HTTP/1.1 there is no task of a call, nor are there gRPC calls.
    let _ = TASK.try_with(|slot| slot.span.get_or_init(|| span.clone()).has_active_span());
}

/// Something made with the span of this task's call. None if it has none.
pub(crate) fn span<T>(make: impl FnOnce(&opentelemetry::Context) -> Option<T>) -> Option<T> {
    TASK.try_with(|slot| slot.span.get().and_then(make)).ok().flatten()
}

/// The task of a call.
#[derive(Clone, Debug)]
pub(crate) struct Task(Arc<Slot>);

impl Task {
    /// Ends the call where it stands. The client sees its stream cancelled.
    pub(crate) fn abort(&self) {
        if let Some(handle) = self.0.abort.get() {
            handle.abort();
        }
    }
}
