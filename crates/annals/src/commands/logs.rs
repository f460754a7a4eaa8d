//! `annals node logs` and `annals node log-level`: what a node logs.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use annals_client::Logs;
use annals_proto::annals::v1::{LogLevelReply, LogLine};
use schemars::JsonSchema;
use serde::Serialize;

use crate::duration::time;
use crate::failure::Failure;
use crate::output::{self, Format, Time};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Tell what a node logs, or change it while it runs.
    #[command(after_help = "\
DIRECTIVES are a level (error, warn, info, debug, trace), or levels of parts of the
program: raft, server, store. What they do not name is logged as configured. Without
--for they hold until the node is restarted, or reads its configuration again.
What requests carry is never logged, whatever the level.

Examples:
  annals node log-level raft=debug --for 10m
  annals node log-level debug,store=info --server 'kurrentdb://127.0.0.1:2114?tls=false'
  annals node log-level --reset")]
    LogLevel {
        /// What is to be logged. Without it the node only tells.
        directives: Option<String>,

        /// For how long: 90s, 10m, 2h; a day at most.
        #[arg(long = "for", value_name = "TIME", value_parser = time, requires = "directives")]
        time: Option<Duration>,

        /// Log as configured again.
        #[arg(long, conflicts_with = "directives")]
        reset: bool,
    },
    /// Print what a node has logged lately.
    #[command(after_help = "\
A node keeps its last 5,000 lines in memory; they are gone when it is restarted.

Examples:
  annals node logs --last 100
  annals node logs -f --level warn --server 'kurrentdb://127.0.0.1:2114?tls=false'
  annals node logs --last 0 -o json | jq 'select(.level == \"error\")'")]
    Logs {
        /// How many of the last lines; 0: all that are kept.
        #[arg(long, default_value_t = 50)]
        last: u32,

        /// Print new lines as they come, until interrupted.
        #[arg(short, long)]
        follow: bool,

        /// Only lines of this level and graver ones.
        #[arg(long, default_value = "trace")]
        level: String,
    },
}

pub(crate) async fn run(command: Command, logs: &Logs, format: Format) -> Result<(), Failure> {
    match command {
        Command::LogLevel { directives, time, reset } => {
            let reply = match directives {
                Some(directives) => logs.set_level(&directives, time).await?,
                None if reset => logs.reset_level().await?,
                None => logs.level().await?,
            };
            Ok(tell_level(&reply, format)?)
        }
        Command::Logs { last, follow, level } => {
            let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let mut lines = logs.lines(last, &level, follow).await?;
            while let Some(line) = lines.next().await? {
                match format {
                    Format::Table => output::line(&text(&line, colours))?,
                    Format::Json => output::json(&object(&line))?,
                }
            }
            Ok(())
        }
    }
}

/// What a node logs.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Level {
    /// Who answers.
    node: u64,
    /// The directives that hold now.
    level: String,
    /// Those that are configured, and hold again later.
    configured: String,
    /// When a change at run time ends; null: there is none, or it has no end.
    ends: Option<Time>,
}

/// A line of a node's log.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Logged {
    /// Counts from 1 at the start of the process.
    number: u64,
    /// When it was said.
    time: Time,
    /// How grave it is.
    #[schemars(extend("enum" = ["error", "warn", "info", "debug", "trace"]))]
    level: String,
    /// The module that says it.
    target: String,
    /// What it says.
    message: String,
    /// Values by name, as text.
    fields: BTreeMap<String, String>,
    /// So many lines before this one were left out, as they came faster than they were
    /// read; only where there were such.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
}

fn tell_level(reply: &LogLevelReply, format: Format) -> std::io::Result<()> {
    let LogLevelReply { directives, configured, ends, node } = reply;
    let ends = Time::unless_never(*ends);
    if format == Format::Json {
        return output::json(&Level { node: *node, level: directives.clone(), configured: configured.clone(), ends });
    }
    if directives == configured {
        return output::line(&format!("node {node} logs {directives}, as configured"));
    }
    let until = ends.map_or_else(|| "its next restart or reload".to_owned(), |time| time.to_string());
    output::line(&format!("node {node} logs {directives} until {until}, then {configured} as configured"))
}

fn text(line: &LogLine, colours: bool) -> String {
    let colour = match line.level.as_str() {
        "error" => "31",
        "warn" => "33",
        "info" => "32",
        _ => "34",
    };
    let level = line.level.to_uppercase();
    let level = if colours { format!("\x1b[{colour}m{level:>5}\x1b[0m") } else { format!("{level:>5}") };
    let mut text = String::new();
    if line.missed > 0 {
        text.push_str(&format!("… {} lines left out: they came faster than they could be read\n", line.missed));
    }
    text.push_str(&format!("{} {level} {}: {}", Time::of_ticks(line.time), line.target, plain(&line.message)));
    for field in &line.fields {
        text.push_str(&format!(" {}={}", field.name, plain(&field.value)));
    }
    text
}

/// Without what a terminal would act on: a line may name what a client made up.
fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

fn object(line: &LogLine) -> Logged {
    Logged {
        number: line.number,
        time: Time::of_ticks(line.time),
        level: line.level.clone(),
        target: line.target.clone(),
        message: line.message.clone(),
        fields: line.fields.iter().map(|field| (field.name.clone(), field.value.clone())).collect(),
        missed: (line.missed > 0).then_some(line.missed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_to_act_on() {
        let line = LogLine { message: "a\u{1b}[2Jb".to_owned(), level: "info".to_owned(), ..LogLine::default() };
        assert!(text(&line, false).ends_with("a\\u{1b}[2Jb"), "{}", text(&line, false));
    }
}
