//! Waiting for servers that start.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::process::Process;

const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is not an error.
///
/// # Errors
/// When that takes too long, or one of the servers has ended: with what the
/// servers said.
pub(crate) async fn until<T>(
    what: &str,
    processes: &mut [Process],
    mut ask: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        for process in processes.iter_mut() {
            process.check()?;
        }
        if begin.elapsed() > PATIENCE {
            let said: Vec<String> = processes.iter().map(Process::last_words).collect();
            bail!("waited in vain until {what}: {error:#}\n{}", said.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
