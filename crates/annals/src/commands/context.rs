//! `annals context`: servers by name.

use clap_complete::engine::ArgValueCandidates;
use schemars::JsonSchema;
use serde::Serialize;

use crate::complete;
use crate::contexts::{Context, Contexts};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Flags of `annals context`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Give a server a name, or change what the name means.
    #[command(after_help = "\
Examples:
  annals context add local 'kurrentdb://127.0.0.1:2113?tls=false' --select
  annals context add prod 'kurrentdb+discover://annals.example:2113?tlsCaFile=/etc/annals/ca.crt' \\
    --user ada --password env://ANNALS_PASSWORD")]
    Add {
        /// Letters, digits, `.`, `_` and `-`.
        name: String,
        /// A connection string without user and password.
        url: String,
        /// Who to be there.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Where that user's password is, never the password itself.
        #[arg(long, value_name = "env://VARIABLE|file:///PATH")]
        password: Option<String>,
        /// Select it, too.
        #[arg(long)]
        select: bool,
    },
    /// List all contexts.
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  annals context ls
  annals context ls -o json"
    )]
    Ls {
        /// How to print them.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Select the context that commands use where none is named.
    #[command(after_help = "\
Examples:
  annals context select prod
  annals context select -             # the one before")]
    Select {
        /// Its name; `-` is the one before.
        #[arg(allow_hyphen_values = true, add = ArgValueCandidates::new(complete::contexts))]
        name: String,
    },
    /// Forget a context. The server is not concerned.
    #[command(after_help = "\
Examples:
  annals context rm staging
  annals context rm prod && annals context ls")]
    Rm {
        /// Its name.
        #[arg(add = ArgValueCandidates::new(complete::contexts))]
        name: String,
    },
}

/// A context.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    /// Its name.
    name: String,
    /// A connection string without user and password.
    server: String,
    /// Who to be there; null: nobody.
    user: Option<String>,
    /// Where the password is (env:// or file://), never the password itself.
    password: Option<String>,
    /// Whether commands use it where none is named.
    selected: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let path = Contexts::path()?;
    let mut contexts = Contexts::load(&path)?;
    match arguments.command {
        Command::Ls { output } => return list(&contexts, output),
        Command::Add { name, url, user, password, select } => {
            contexts.add(&name, Context { server: url, user, password })?;
            if select {
                contexts.select(&name)?;
            }
        }
        Command::Select { name } => {
            let name = contexts.select(&name)?;
            eprintln!("commands talk to {name} from now on");
        }
        Command::Rm { name } => contexts.remove(&name)?,
    }
    contexts.save(&path)
}

fn list(contexts: &Contexts, format: Format) -> Result<(), Failure> {
    let is_selected = |name: &String| contexts.selected.as_ref() == Some(name);
    match format {
        Format::Json => {
            for (name, context) in &contexts.contexts {
                output::json(&Listed {
                    name: name.clone(),
                    server: context.server.clone(),
                    user: context.user.clone(),
                    password: context.password.clone(),
                    selected: is_selected(name),
                })?;
            }
        }
        Format::Table => {
            let row = |(name, context): (&String, &Context)| {
                let mark = if is_selected(name) { "*" } else { "" };
                vec![mark.to_owned(), name.clone(), context.user.clone().unwrap_or_default(), context.server.clone()]
            };
            output::table(&["SELECTED", "NAME", "USER", "SERVER"], contexts.contexts.iter().map(row).collect())?;
        }
    }
    Ok(())
}
