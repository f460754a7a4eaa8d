//! Work that blocks, off the runtime's threads.

use tokio::task::JoinError;

/// Runs work that blocks on a thread of its own and waits for it. In a
/// simulation there is one thread only: the work is done in place, after the
/// virtual time that it is supposed to take.
///
/// # Errors
/// The work panicked, or the runtime is going down.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(feature = "simulation")]
    if let Some(duration) = crate::simulation::duration_of_blocking_work() {
        tokio::time::sleep(duration).await;
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
