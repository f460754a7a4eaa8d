//! `annals version`.

use annals_server::version;
use serde_json::json;

use crate::failure::Failure;
use crate::output::{self, Format};

/// Flags of `annals version`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  annals version
  annals version -o json")]
pub(crate) struct Arguments {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments.output {
        Format::Json => output::json(&json!({
            "version": version::VERSION,
            "commit": version::COMMIT,
            "rustc": version::RUSTC,
            "protocol": version::PROTOCOL,
        }))?,
        Format::Table => output::line(&format!(
            "annals {} (commit {}, {}), protocol {}",
            version::VERSION,
            version::COMMIT,
            version::RUSTC,
            version::PROTOCOL
        ))?,
    }
    Ok(())
}
