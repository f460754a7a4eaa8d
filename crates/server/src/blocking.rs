//! Reads of the state, off the threads that serve everybody, and some at a time.
//!
//! Nothing that is done in a turn may wait for another turn.

use std::num::NonZero;
use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// Who may read at the same time. Each has a thread, which keeps memory for as long as it
/// lives, and hundreds that want the same few processors and one disk get it no sooner.
static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    Arc::new(Semaphore::new((4 * processors).max(16)))
});

/// Runs what may wait for the disk, and for nobody else, off the threads that serve
/// everybody. Some at a time; the others wait for their turn.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let turn = TURNS.clone().acquire_owned().await.expect("it is never closed");
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(turn);
        done
    });
    match done.await.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is going down, and with it whoever waits for this.
        Err(Err(_)) => std::future::pending().await,
    }
}
