//! `annals reference`: pages of the documentation that are made from the program.
//!
//! A page that is written by hand is out of date with the next change; CI compares
//! these with what is committed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use annals_server::Config;
use clap::Command as Clap;

use crate::failure::Failure;
use crate::output;
use crate::schemas::PRINTED;

/// Flags of `annals reference`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  annals reference cli > docs/reference-cli.md
  annals reference config > docs/reference-config.md
  annals reference schemas --out docs/schemas")]
pub(crate) struct Arguments {
    /// Which page.
    page: Page,

    /// Where the schemas go.
    #[arg(long, value_name = "DIR", required_if_eq("page", "schemas"))]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Page {
    /// Every command with its help.
    Cli,
    /// Every option of a node.
    Config,
    /// What each command prints with `-o json`.
    Json,
    /// A file for each schema of that.
    Schemas,
}

pub(crate) fn run(arguments: &Arguments, cli: Clap) -> Result<(), Failure> {
    let page = match arguments.page {
        Page::Cli => commands(cli),
        Page::Config => options(),
        Page::Json => json(),
        Page::Schemas => return schemas(arguments.out.as_deref().unwrap_or_else(|| Path::new("."))),
    };
    Ok(output::line(page.trim_end())?)
}

fn commands(cli: Clap) -> String {
    let mut page = String::from(
        "# Command line\n\nMade by `annals reference cli`. Exit codes: 0 done, 1 failed, 2 usage, 3 not found, \
         4 conflict,\n5 unavailable, 6 unhealthy. Standard output is data, standard error is talk.\n",
    );
    // The same on every machine, however wide its terminal is.
    let mut cli = cli.term_width(90);
    cli.build();
    describe(&cli, "", &mut page);
    page
}

fn describe(command: &Clap, parent: &str, page: &mut String) {
    let name = format!("{parent}{}", command.get_name());
    let mut alone = command.clone().term_width(90);
    let help = alone.render_long_help().to_string();
    let level = if parent.is_empty() { "##" } else { "###" };
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    // Writing to a text cannot fail.
    let _ = write!(page, "\n{level} {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        describe(sub, &format!("{name} "), page);
    }
}

fn options() -> String {
    let mut page = String::from(
        "# Configuration of a node\n\nMade by `annals reference config`. Options come from defaults, then files \
         (TOML), then the\nenvironment (`ANNALS_` and the name in capitals), then flags; `annals config explain` tells \
         what\nholds and where it came from.\n",
    );
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    for option in Config::OPTIONS {
        let default = &defaults[option.name];
        let default = if default.is_null() { "none".to_owned() } else { default.to_string() };
        let doc: Vec<&str> = option.doc.lines().map(str::trim).collect();
        let _ = write!(page, "\n## {}\n\nDefault: `{default}`\n\n{}\n", option.name, doc.join("\n").trim_end());
    }
    page
}

fn json() -> String {
    let mut page = String::from(
        "# Output for programs\n\nMade by `annals reference json`. With `-o json` a command prints one JSON object, or \
         one object a\nline, on standard output; what else there is to say goes to standard error. Each has a \
         [JSON\nSchema](https://json-schema.org) (draft 2020-12), and tests run every command here against a \
         real\ncluster and validate what it prints.\n\n\
         Within a release series nothing is taken out and no value gets another meaning. What is new comes\nas a \
         further property: a program should not mind properties that it does not know, although the\nschemas of a \
         release name all that this release prints. Times are RFC 3339 in UTC. The command\nfails where its exit \
         code says so: what was printed before that is as the schema says.\n\n\
         | command | prints | schema |\n|---|---|---|\n",
    );
    for printed in PRINTED {
        let (command, how, name) = (printed.command, printed.how.as_str(), printed.name);
        let _ = writeln!(page, "| `annals {command}` | {how} | [{name}](schemas/{name}.json) |");
    }
    page
}

/// Writes them, and nothing else into that directory.
fn schemas(out: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(out)?;
    for printed in PRINTED {
        std::fs::write(out.join(format!("{}.json", printed.name)), printed.text())?;
    }
    Ok(())
}
