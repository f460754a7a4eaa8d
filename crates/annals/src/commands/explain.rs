//! `annals explain`: what an error code means and what to do about it.

use clap_complete::engine::ArgValueCandidates;
use schemars::JsonSchema;
use serde::Serialize;

use crate::codes::{PAGES, title};
use crate::complete;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// Flags of `annals explain`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  annals explain ANN-1003
  annals explain                     # all codes, a line each")]
pub(crate) struct Arguments {
    /// The code, as an error shows it; `1003` and `ann-1003` mean the same.
    #[arg(add = ArgValueCandidates::new(complete::codes))]
    code: Option<String>,

    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// An error code.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explained {
    /// As errors show it: ANN- and four digits.
    code: String,
    /// What it means, in a line.
    title: String,
    /// Its page, in Markdown; only where one code was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Some(wanted) = &arguments.code else {
        return match arguments.output {
            Format::Table => {
                let row = |(code, page): &(&str, &str)| vec![(*code).to_owned(), title(page).to_owned()];
                Ok(output::table(&["CODE", "MEANING"], PAGES.iter().map(row).collect())?)
            }
            Format::Json => {
                for (code, page) in PAGES {
                    output::json(&Explained { code: (*code).to_owned(), title: title(page).to_owned(), page: None })?;
                }
                Ok(())
            }
        };
    };
    let number = wanted.to_ascii_uppercase();
    let number = number.trim_start_matches("ANN-");
    let found = PAGES.iter().find(|(code, _)| code.trim_start_matches("ANN-") == number);
    let (code, page) = found.ok_or_else(|| {
        let text = format!("there is no code {wanted}; `annals explain` lists them all");
        Failure::new(Code::NotFound, anyhow::anyhow!(text))
    })?;
    match arguments.output {
        Format::Table => output::line(page.trim_end())?,
        Format::Json => output::json(&Explained {
            code: (*code).to_owned(),
            title: title(page).to_owned(),
            page: Some((*page).to_owned()),
        })?,
    }
    Ok(())
}
