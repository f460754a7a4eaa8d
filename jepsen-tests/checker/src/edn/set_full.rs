//! For Jepsen's set-full checker: every event is an element, a read of
//! everything reads the set.

use std::io::{self, Write};

use super::format::Spaced;
use super::operations::{End, Operations};
use super::process::Processes;
use super::writes::{Values, last_reads, writes};
use crate::history::{Direction, Mode, Nanos, Read, ReadOutcome, Record, Seen, Target};

/// Writes the set-full dialect: `:add value` for each event, `:read [value …]`
/// for linearizable reads of everything and the last ones.
///
/// # Errors
/// `out` could not be written.
pub fn set_full(records: &[Record], out: &mut dyn Write) -> io::Result<()> {
    let values = Values::new(records);
    let mut operations = Operations::new(records);
    let mut processes = Processes::new(records);
    let mut begun: Vec<(Nanos, Begun<'_>)> = Vec::new();
    begun.extend(writes(records).into_iter().map(|logical| (logical.invoke, Begun::Add(logical))));
    begun.extend(records.iter().filter_map(|record| match record {
        Record::Read(read) if is_of_everything(read) => Some((read.invoke, Begun::Read(read))),
        _ => None,
    }));
    begun.sort_by_key(|(invoke, _)| *invoke);
    for (invoke, operation) in begun {
        match operation {
            Begun::Add(logical) => {
                let (complete, end) = (logical.complete, logical.end);
                let mut own = logical.process;
                for event in logical.writes.iter().flat_map(|write| &write.events) {
                    let Some(value) = values.of(event.id) else { continue };
                    // The events of one append are added at the same time,
                    // which takes a process for each.
                    let process = match own.take() {
                        Some(process) => processes.number(process, invoke, complete, end),
                        None => processes.fresh(),
                    };
                    let value = value.to_string();
                    operations.add(process, ":add", (invoke, &value), (complete, end, &value));
                }
            }
            Begun::Read(read) => {
                let (complete, end, value) = match (&read.outcome, read.complete) {
                    (ReadOutcome::Ok { events, .. }, complete @ Some(_)) => (complete, End::Ok, set(events, &values)),
                    (ReadOutcome::Failed { .. }, complete @ Some(_)) => (complete, End::Fail, "nil".into()),
                    _ => (None, End::Info, "nil".into()),
                };
                let process = processes.number(read.process, invoke, complete, end);
                operations.add(process, ":read", (invoke, "nil"), (complete, end, &value));
            }
        }
    }
    for events in last_reads(records) {
        let time = operations.end();
        let value = set(events, &values);
        operations.add(processes.fresh(), ":read", (time, "nil"), (Some(time + 1), End::Ok, &value));
    }
    operations.write(out)
}

enum Begun<'a> {
    Add(super::writes::Logical<'a>),
    Read(&'a Read),
}

fn is_of_everything(read: &Read) -> bool {
    let whole = match &read.outcome {
        ReadOutcome::Ok { events, .. } => (events.len() as u64) < read.limit,
        ReadOutcome::Failed { .. } => true,
        ReadOutcome::NoStream { .. } | ReadOutcome::Tombstoned { .. } => false,
    };
    whole
        && read.mode == Mode::Linearizable
        && read.direction == Direction::Forwards
        && read.from.is_none_or(|from| from <= 1)
        && matches!(&read.target, Target::All { prefixes } if prefixes.is_empty())
}

fn set<'a>(events: impl IntoIterator<Item = &'a Seen>, values: &Values) -> String {
    let numbers: Vec<u64> = events.into_iter().filter_map(|seen| values.of(seen.id)).collect();
    format!("[{}]", Spaced(&numbers))
}
