//! `annals metrics`: what a node counts.

use annals_server::Metrics;
use serde_json::json;

use crate::failure::Failure;
use crate::output::{self, Format};

/// Flags of `annals metrics`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Every metric with its type, labels and meaning, as a Markdown table.
    #[command(after_help = "\
Examples:
  annals metrics list > docs/metrics.md
  annals metrics list -o json")]
    List {
        /// How to print them.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Command::List { output } = &arguments.command;
    let metrics = Metrics::new();
    match output {
        Format::Table => output::line(metrics.markdown().trim_end())?,
        Format::Json => {
            for metric in metrics.declarations() {
                output::json(&json!({
                    "group": metric.group,
                    "name": metric.name,
                    "type": metric.kind,
                    "labels": metric.labels,
                    "help": metric.help,
                }))?;
            }
        }
    }
    Ok(())
}
