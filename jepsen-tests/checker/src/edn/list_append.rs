//! For Elle: streams are lists, appends append, reads read whole lists.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::format::{Quoted, Spaced};
use super::operations::{End, Operations};
use super::process::Processes;
use super::writes::{Lasting, Values, writes};
use crate::history::{Direction, Mode, Nanos, Read, ReadOutcome, Record, Seen, Target};

/// Writes the list-append dialect: `[:append stream value]` and
/// `[:r stream [value …]]`. The reads are the linearizable ones of whole
/// streams, of everything, and the last ones.
///
/// # Errors
/// `out` could not be written.
pub fn list_append(records: &[Record], out: &mut dyn Write) -> io::Result<()> {
    let lasting = Lasting::new(records);
    let values = Values::new(records);
    let mut operations = Operations::new(records);
    let mut processes = Processes::new(records);
    let mut begun: Vec<Begun> = Vec::new();

    for logical in writes(records) {
        let appended: Vec<String> = logical
            .writes
            .iter()
            .filter(|write| lasting.has(&write.stream))
            .flat_map(|write| write.events.iter().map(|event| (&write.stream, event.id)))
            .filter_map(|(stream, id)| Some(format!("[:append {} {}]", Quoted(stream), values.of(id)?)))
            .collect();
        if appended.is_empty() {
            continue;
        }
        let value = format!("[{}]", Spaced(&appended));
        begun.push(Begun {
            process: logical.process,
            invoke: logical.invoke,
            invoked: value.clone(),
            complete: logical.complete,
            end: logical.end,
            completed: value,
        });
    }
    begun.extend(records.iter().filter_map(|record| match record {
        Record::Read(read) => whole(read, &lasting, &values),
        _ => None,
    }));
    begun.sort_by_key(|operation| operation.invoke);
    for Begun { process, invoke, invoked, complete, end, completed } in begun {
        let process = match process {
            Some(process) => processes.number(process, invoke, complete, end),
            None => processes.fresh(),
        };
        operations.add(process, ":txn", (invoke, &invoked), (complete, end, &completed));
    }
    for lists in last_reads(records, &lasting) {
        let (invoked, completed) = lists.values(&values);
        let time = operations.end();
        operations.add(processes.fresh(), ":txn", (time, &invoked), (Some(time + 1), End::Ok, &completed));
    }
    operations.write(out)
}

/// An operation that has no process number yet.
struct Begun {
    process: Option<u32>,
    invoke: Nanos,
    invoked: String,
    complete: Option<Nanos>,
    end: End,
    completed: String,
}

/// A read as a transaction, if it is one of whole streams.
fn whole(read: &Read, lasting: &Lasting<'_>, values: &Values) -> Option<Begun> {
    let from_the_beginning = match &read.target {
        Target::All { .. } => read.from.is_none_or(|from| from <= 1),
        Target::Stream(_) => read.from.is_none_or(|from| from == 0),
    };
    if read.mode != Mode::Linearizable || read.direction != Direction::Forwards || !from_the_beginning {
        return None;
    }
    let events = match &read.outcome {
        ReadOutcome::Ok { events, .. } if (events.len() as u64) < read.limit => Some(events.as_slice()),
        ReadOutcome::NoStream { .. } => Some(&[][..]),
        ReadOutcome::Failed { .. } => None,
        ReadOutcome::Ok { .. } | ReadOutcome::Tombstoned { .. } => return None,
    };
    let lists = match &read.target {
        Target::Stream(stream) if lasting.has(stream) => {
            Lists { streams: vec![&**stream], events: events.unwrap_or_default().iter().collect() }
        }
        Target::All { prefixes } if prefixes.is_empty() => {
            Lists { streams: lasting.iter().collect(), events: events.unwrap_or_default().iter().collect() }
        }
        Target::Stream(_) | Target::All { .. } => return None,
    };
    if lists.streams.is_empty() {
        return None;
    }
    let (invoked, read_lists) = lists.values(values);
    let (complete, end, completed) = match (events, read.complete) {
        (Some(_), complete @ Some(_)) => (complete, End::Ok, read_lists),
        (None, complete @ Some(_)) => (complete, End::Fail, invoked.clone()),
        (_, None) => (None, End::Info, invoked.clone()),
    };
    Some(Begun { process: Some(read.process), invoke: read.invoke, invoked, complete, end, completed })
}

/// Streams, and what was read of them.
struct Lists<'a> {
    streams: Vec<&'a str>,
    events: Vec<&'a Seen>,
}

impl Lists<'_> {
    /// As a transaction before and after.
    fn values(&self, values: &Values) -> (String, String) {
        let mut lists: BTreeMap<&str, Vec<u64>> = self.streams.iter().map(|stream| (*stream, Vec::new())).collect();
        for seen in &self.events {
            if let (Some(list), Some(value)) = (lists.get_mut(&*seen.stream), values.of(seen.id)) {
                list.push(value);
            }
        }
        let before: Vec<String> = lists.keys().map(|stream| format!("[:r {} nil]", Quoted(stream))).collect();
        let after: Vec<String> =
            lists.iter().map(|(stream, list)| format!("[:r {} [{}]]", Quoted(stream), Spaced(list))).collect();
        (format!("[{}]", Spaced(&before)), format!("[{}]", Spaced(&after)))
    }
}

/// The last linearizable reads, one for each node.
fn last_reads<'a>(records: &'a [Record], lasting: &Lasting<'a>) -> Vec<Lists<'a>> {
    super::writes::last_reads(records)
        .into_iter()
        .map(|events| Lists { streams: lasting.iter().collect(), events })
        .filter(|lists| !lists.streams.is_empty())
        .collect()
}
