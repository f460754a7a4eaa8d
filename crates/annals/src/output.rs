//! What commands print: tables for people, JSON for programs.
//!
//! Whatever is printed as JSON has a type, the type has a schema, and the schemas are
//! checked in (`schemas.rs`): a program that reads our output can rely on its shape.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use annals_server::time::rfc3339;
use comfy_table::{ContentArrangement, Table, presets};
use schemars::JsonSchema;
use serde::Serialize;

/// How to print what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: one object, or one object per line.
    Json,
}

/// Prints one line of JSON.
pub(crate) fn json<T: Serialize + JsonSchema>(value: &T) -> io::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Prints one line.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints text that is lines already.
pub(crate) fn bytes(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

/// Prints a table.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table.add_rows(rows);
    let text = table.to_string();
    let trimmed: Vec<_> = text.lines().map(|line| line.trim_end().trim_start_matches(' ')).collect();
    line(&trimmed.join("\n"))
}

/// A point in time as it is printed: RFC 3339, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Time(String);

impl Time {
    /// The time of so many ticks of 100 ns since 1970, as servers tell it.
    pub(crate) fn of_ticks(ticks: u64) -> Self {
        Time::from(UNIX_EPOCH + Duration::from_micros(ticks / 10))
    }

    /// The same where 0 stands for never.
    pub(crate) fn unless_never(ticks: u64) -> Option<Self> {
        (ticks > 0).then(|| Time::of_ticks(ticks))
    }

    /// A time that is text already.
    pub(crate) fn of_text(text: String) -> Self {
        Time(text)
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        Time(rfc3339(time))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}
