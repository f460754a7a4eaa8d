//! Judges a recorded history.
//!
//! Exit code 0: every property held. 1: one was violated. 2: nothing was found,
//! but the history holds too little to say that it is right. 3: the history
//! could not be read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use annals_checker::history::{NodeNumber, Record};
use annals_checker::{Settings, Verdict, check, edn, load, report};
use anyhow::{Context as _, Result};
use clap::Parser;

/// Judges a recorded history.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The history, or the directory that holds it as history.jsonl.
    history: PathBuf,
    /// Classes of faults that must have happened, such as F1,F3.
    #[arg(long, value_delimiter = ',')]
    require: Vec<String>,
    /// Appends that must have been acknowledged during the faults of each
    /// required class.
    #[arg(long, default_value_t = 50)]
    minimum: u64,
    /// Nodes whose complete final state must have been read, such as 1,2,3.
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<NodeNumber>,
    /// Where the verdict goes; verdict.json beside the history by default.
    #[arg(long)]
    verdict: Option<PathBuf>,
    /// Also export the history for Elle into this directory.
    #[arg(long)]
    edn: Option<PathBuf>,
    /// Also write a page for people to this file.
    #[arg(long)]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match judge(&arguments) {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(3)
        }
    }
}

fn judge(arguments: &Arguments) -> Result<Verdict> {
    let records = load(&arguments.history)?;
    let settings = Settings {
        required: arguments.require.clone(),
        minimum: arguments.minimum,
        final_nodes: arguments.nodes.clone(),
        ..Settings::default()
    };
    let verdict = check(&records, &settings);
    print!("{}", verdict.table());
    write(arguments, &records, &verdict)?;
    Ok(verdict)
}

fn write(arguments: &Arguments, records: &[Record], verdict: &Verdict) -> Result<()> {
    let beside = if arguments.history.is_dir() {
        arguments.history.clone()
    } else {
        arguments.history.parent().unwrap_or(Path::new(".")).to_owned()
    };
    let path = arguments.verdict.clone().unwrap_or_else(|| beside.join("verdict.json"));
    let json = serde_json::to_string_pretty(verdict).context("encoding the verdict")?;
    fs::write(&path, json).with_context(|| format!("writing {}", path.display()))?;
    if let Some(dir) = &arguments.edn {
        edn::export(records, dir).with_context(|| format!("exporting to {}", dir.display()))?;
    }
    if let Some(path) = &arguments.report {
        fs::write(path, report::html(records, verdict)).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
