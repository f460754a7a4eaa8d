//! Operations, put in order and written down.

use std::io::{self, Write};

use super::format::{Quoted, Spaced, keyword};
use crate::history::{Fault, Installed, Nanos, Record};

/// How an operation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It happened.
    Ok,
    /// It did not.
    Fail,
    /// Nobody knows.
    Info,
}

impl End {
    fn keyword(self) -> &'static str {
        match self {
            End::Ok => ":ok",
            End::Fail => ":fail",
            End::Info => ":info",
        }
    }
}

/// Where a line stands among those of the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Begin,
    Nemesis,
    End,
}

/// The operations of a history.
pub(super) struct Operations {
    lines: Vec<(Nanos, Rank, String)>,
    /// A time after everything that is recorded.
    end: Nanos,
}

impl Operations {
    /// Those of the nemesis.
    pub(super) fn new(records: &[Record]) -> Self {
        let end = records.iter().map(last_time).max().unwrap_or(0) + 1;
        let mut operations = Operations { lines: Vec::new(), end };
        for record in records {
            if let Record::Fault(fault) = record {
                operations.fault(fault);
            }
        }
        operations
    }

    /// A time after everything that is recorded.
    pub(super) fn end(&self) -> Nanos {
        self.end
    }

    /// Adds an operation. Where its end is not known, it ends with the
    /// history. `f` is its kind, `invoked` and `completed` its values.
    pub(super) fn add(
        &mut self,
        process: u64,
        f: &str,
        (invoke, invoked): (Nanos, &str),
        (complete, end, completed): (Option<Nanos>, End, &str),
    ) {
        let text = |kind: &str, value: &str| format!(":type {kind}, :process {process}, :f {f}, :value {value}");
        self.lines.push((invoke, Rank::Begin, text(":invoke", invoked)));
        let complete = complete.unwrap_or(self.end).max(invoke);
        self.lines.push((complete, Rank::End, text(end.keyword(), completed)));
    }

    fn fault(&mut self, fault: &Fault) {
        let installed = match fault.installed {
            Installed::Installed => ":installed",
            Installed::Skipped => ":skipped",
            Installed::Indeterminate => ":indeterminate",
        };
        let nodes: Vec<String> = fault.nodes.iter().map(|node| format!("\"n{node}\"")).collect();
        let value = format!(
            "{{:class {}, :nodes [{}], :outcome {installed}, :detail {}}}",
            Quoted(&fault.class),
            Spaced(&nodes),
            Quoted(&fault.detail),
        );
        for (time, word) in [(fault.start, "start"), (fault.end, "stop")] {
            let f = format!(":{word}-{}", keyword(&fault.name));
            self.lines.push((time, Rank::Nemesis, format!(":type :info, :process :nemesis, :f {f}, :value {value}")));
        }
    }

    /// Writes them, one a line.
    pub(super) fn write(mut self, out: &mut dyn Write) -> io::Result<()> {
        // Stable: of one process, what was added first stays first.
        self.lines.sort_by_key(|(time, rank, _)| (*time, *rank));
        for (index, (time, _, text)) in self.lines.iter().enumerate() {
            writeln!(out, "{{:index {index}, :time {time}, {text}}}")?;
        }
        Ok(())
    }
}

fn last_time(record: &Record) -> Nanos {
    match record {
        Record::Append(call) => call.complete.unwrap_or(call.invoke),
        Record::Delete(call) => call.complete.unwrap_or(call.invoke),
        Record::Read(call) => call.complete.unwrap_or(call.invoke),
        Record::Opened(opened) => opened.time,
        Record::Delivered(delivered) => delivered.time,
        Record::CaughtUp(caught_up) => caught_up.time,
        Record::Dropped(dropped) => dropped.time,
        Record::Closed(closed) => closed.time,
        Record::Fault(fault) => fault.end,
        Record::Hash(hash) => hash.time,
        Record::Group(group) => group.step.time().unwrap_or(0),
        Record::Run(_) | Record::Subscription(_) | Record::Final(_) => 0,
    }
}
