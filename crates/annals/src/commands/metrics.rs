//! `annals metrics`: what a node counts.

use annals_server::Metrics;
use schemars::JsonSchema;
use serde::Serialize;

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

/// A metric of a node.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metric {
    /// The part of the system that it belongs to.
    group: String,
    /// Its full name; the unit ends it.
    name: String,
    /// What Prometheus calls it.
    #[schemars(extend("enum" = ["counter", "gauge", "histogram"]))]
    #[serde(rename = "type")]
    kind: String,
    /// The names of its labels.
    labels: Vec<String>,
    /// What it says, with its unit.
    help: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Command::List { output } = &arguments.command;
    let metrics = Metrics::new();
    match output {
        Format::Table => output::line(metrics.markdown().trim_end())?,
        Format::Json => {
            for metric in metrics.declarations() {
                output::json(&Metric {
                    group: metric.group.to_owned(),
                    name: metric.name.clone(),
                    kind: metric.kind.to_owned(),
                    labels: metric.labels.clone(),
                    help: metric.help.clone(),
                })?;
            }
        }
    }
    Ok(())
}
