//! Logs of a node, on standard error.

use std::io::IsTerminal as _;

use annals_server::config::LogFormat;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Sends logs to standard error from now on.
pub(crate) fn start(directives: &str, format: LogFormat) -> Result<(), Failure> {
    // Consensus tells of each of its steps, and of each call to a peer that
    // is down; our own lines say what an operator needs. Whoever wants the
    // rest names it.
    let quiet = if directives.contains("openraft") { "" } else { ",openraft=error" };
    let filter = EnvFilter::try_new(format!("{directives}{quiet}"))
        .map_err(|error| Failure::usage(format!("`log` holds \"{directives}\", which cannot be used: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    // A panic ends the process; it should be found where one looks first.
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%location, %backtrace, "panic: {}", message(panic));
    }));
    Ok(())
}

fn message<'a>(panic: &'a std::panic::PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
