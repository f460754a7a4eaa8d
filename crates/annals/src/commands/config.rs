//! `annals config`: what a node would run with, and why.

use std::path::PathBuf;

use annals_server::Config;
use clap_complete::engine::ArgValueCandidates;
use figment::Figment;

use crate::complete;
use crate::failure::{Code, Failure};
use crate::layers::{self, Flags};
use crate::output;

/// Flags of `annals config`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Every option with its value, where that came from, and what it means.
    #[command(after_help = "\
Examples:
  annals config explain
  ANNALS_LOG=debug annals config explain --file annals.toml log")]
    Explain {
        /// Only this option.
        #[arg(add = ArgValueCandidates::new(complete::options))]
        option: Option<String>,
        /// A TOML file with options; several are read in their order.
        #[arg(long, value_name = "FILE")]
        file: Vec<PathBuf>,
    },
    /// What a client can make a node hold or do, as Markdown.
    #[command(after_help = "\
Examples:
  annals config limits
  annals config limits > docs/limits.md")]
    Limits,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (option, file) = match &arguments.command {
        Command::Explain { option, file } => (option, file),
        Command::Limits => return Ok(output::line(annals_server::limits::table::markdown().trim_end())?),
    };
    let figment = layers::layers(file, Flags::default())?;
    explain(&figment, option.as_deref())?;
    // What is wrong is told after what there is, which helps to find it.
    layers::config(&figment).map(|_| ())
}

/// Prints all options, or one.
pub(crate) fn explain(figment: &Figment, only: Option<&str>) -> Result<(), Failure> {
    let mut found = false;
    for option in Config::OPTIONS.iter().filter(|option| only.is_none_or(|only| option.name == only)) {
        found = true;
        let value = match figment.find_value(option.name) {
            Ok(value) => serde_json::to_string(&value).unwrap_or_else(|error| error.to_string()),
            Err(_) => "null".to_owned(),
        };
        output::line(&format!("{} = {value}    ({})", option.name, layers::origin(figment, option.name)))?;
        for line in option.doc.lines().map(str::trim).filter(|line| !line.is_empty()) {
            output::line(&format!("    {line}"))?;
        }
    }
    match only {
        Some(only) if !found => {
            Err(Failure::new(Code::NotFound, anyhow::anyhow!("there is no option `{only}`; see annals config explain")))
        }
        Some(_) | None => Ok(()),
    }
}
