//! `annals doctor`: what is wrong, or will be, in one list.
//!
//! Each check looks at one thing, changes nothing, and says what to do about what it
//! finds. A warning is what works today and may not tomorrow; only failures count for
//! the exit code.

mod certificates;
mod clocks;
mod cluster;
mod machine;
mod names;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::Connection;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};

/// Flags of `annals doctor`.
#[derive(clap::Args)]
#[command(after_help = "\
Looks at the server from here, as a client would: names must have addresses, certificates
must hold, every member must answer at the address that it tells clients, and clocks must
agree. Each finding has a code that `annals explain` tells more of. With --data also at this machine, for who runs a node on
it. Exit code 6 if something fails.

Examples:
  annals doctor --server 'kurrentdb://127.0.0.1:2113?tls=false'
  annals doctor --context prod --data /var/lib/annals -o json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,

    /// Also look at this machine, and at the disk of this data directory. Writes and
    /// removes one small file in it.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Do not ask a server.
    #[arg(long, requires = "data")]
    offline: bool,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Grade {
    /// As it should be.
    Pass,
    /// It works today and may not tomorrow.
    Warn,
    /// It does not work.
    Fail,
}

impl Grade {
    fn as_str(self) -> &'static str {
        match self {
            Grade::Pass => "PASS",
            Grade::Warn => "WARN",
            Grade::Fail => "FAIL",
        }
    }
}

/// A check, and the code under which its findings are explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    code: &'static str,
}

/// What a check found.
#[derive(Debug)]
struct Finding {
    check: Check,
    grade: Grade,
    /// What is so.
    found: String,
    /// What to do about it; empty where there is nothing to do.
    advice: &'static str,
}

impl Finding {
    fn pass(check: Check, found: impl Into<String>) -> Self {
        Finding { check, grade: Grade::Pass, found: found.into(), advice: "" }
    }

    fn warn(check: Check, found: impl Into<String>, advice: &'static str) -> Self {
        Finding { check, grade: Grade::Warn, found: found.into(), advice }
    }

    fn fail(check: Check, found: impl Into<String>, advice: &'static str) -> Self {
        Finding { check, grade: Grade::Fail, found: found.into(), advice }
    }
}

/// What a check found.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Found {
    /// The check.
    check: String,
    /// How it came out.
    grade: Grade,
    /// The error code whose page tells more; null where the check passed.
    code: Option<String>,
    /// What is so.
    found: String,
    /// What to do about it; null where there is nothing to do.
    advice: Option<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut findings = Vec::new();
    if let Some(data) = &arguments.data {
        findings.extend(machine::look(data));
    }
    if !arguments.offline {
        findings.extend(cluster::look(&arguments.connection.settings()?).await);
    }
    tell(&findings, arguments.connection.format())?;
    match findings.iter().filter(|finding| finding.grade == Grade::Fail).count() {
        0 => Ok(()),
        failed => Err(Failure::new(Code::Unhealthy, anyhow::anyhow!("{failed} of {} checks failed", findings.len()))),
    }
}

fn tell(findings: &[Finding], format: Format) -> Result<(), Failure> {
    for Finding { check, grade, found, advice } in findings {
        match format {
            Format::Json => output::json(&Found {
                check: check.name.to_owned(),
                grade: *grade,
                code: (*grade != Grade::Pass).then(|| check.code.to_owned()),
                found: found.clone(),
                advice: (!advice.is_empty()).then(|| (*advice).to_owned()),
            })?,
            Format::Table => {
                output::line(&format!("{}  {:<12}  {found}", grade.as_str(), check.name))?;
                if !advice.is_empty() {
                    output::line(&format!("                    {advice} (annals explain {})", check.code))?;
                }
            }
        }
    }
    Ok(())
}
