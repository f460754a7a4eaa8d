//! `annals version`.

use annals_server::version;
use schemars::JsonSchema;
use serde::Serialize;

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

/// What this program is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Version {
    /// The release.
    version: String,
    /// The commit it was built from.
    commit: String,
    /// The compiler.
    rustc: String,
    /// The KurrentDB release whose protocol it speaks.
    protocol: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments.output {
        Format::Json => output::json(&Version {
            version: version::VERSION.to_string(),
            commit: version::COMMIT.to_string(),
            rustc: version::RUSTC.to_string(),
            protocol: version::PROTOCOL.to_string(),
        })?,
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
