//! Reading a history from its file.
//!
//! A history is read line by line, and the names of streams are shared: in a
//! long run the same few names stand in millions of sightings.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::history::{GroupStep, Outcome, ReadOutcome, Reason, Record, Seen, Target};

/// The records of a history. `path` is the file, or a directory that holds it
/// as `history.jsonl`.
///
/// # Errors
/// When the file cannot be read, or a line is no record: then the line is
/// named. A last line without its end is what a run that was killed leaves
/// behind, and is an error as well; cut it off to judge the rest.
pub fn load(path: impl AsRef<Path>) -> Result<Vec<Record>> {
    let path = path.as_ref();
    let path = if path.is_dir() { path.join("history.jsonl") } else { path.to_owned() };
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    read(BufReader::with_capacity(1 << 20, file)).with_context(|| format!("reading {}", path.display()))
}

/// The records in this text.
///
/// # Errors
/// As [`load`].
pub fn read(mut input: impl BufRead) -> Result<Vec<Record>> {
    let mut names = Names::default();
    let mut records = Vec::new();
    let mut line = String::new();
    for number in 1u64.. {
        line.clear();
        if input.read_line(&mut line).with_context(|| format!("line {number}"))? == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let mut record: Record = serde_json::from_str(&line).with_context(|| format!("line {number}"))?;
        names.share_all(&mut record);
        records.push(record);
    }
    Ok(records)
}

/// Names that were seen before.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn share(&mut self, name: &mut Arc<str>) {
        match self.0.get(name) {
            Some(known) => *name = known.clone(),
            None => {
                self.0.insert(name.clone());
            }
        }
    }

    fn share_events(&mut self, events: &mut Vec<Seen>) {
        for event in events.iter_mut() {
            self.share(&mut event.stream);
        }
        events.shrink_to_fit();
    }

    fn share_target(&mut self, target: &mut Target) {
        match target {
            Target::All { .. } => {}
            Target::Stream(name) => self.share(name),
        }
    }

    fn share_outcome(&mut self, outcome: &mut Outcome) {
        match outcome {
            Outcome::Acked { .. } | Outcome::Unknown { .. } => {}
            Outcome::Refused { reason, .. } => match reason {
                Reason::WrongExpectation { stream, .. } | Reason::Tombstoned { stream } => self.share(stream),
                Reason::Invalid { .. } | Reason::NotTaken { .. } => {}
            },
        }
    }

    fn share_all(&mut self, record: &mut Record) {
        match record {
            Record::Append(append) => {
                for write in &mut append.writes {
                    self.share(&mut write.stream);
                }
                self.share_outcome(&mut append.outcome);
            }
            Record::Delete(delete) => {
                self.share(&mut delete.stream);
                self.share_outcome(&mut delete.outcome);
            }
            Record::Read(read) => {
                self.share_target(&mut read.target);
                match &mut read.outcome {
                    ReadOutcome::Ok { events, .. } => self.share_events(events),
                    ReadOutcome::NoStream { .. } | ReadOutcome::Tombstoned { .. } | ReadOutcome::Failed { .. } => {}
                }
            }
            Record::Subscription(subscription) => self.share_target(&mut subscription.target),
            Record::Delivered(delivered) => self.share_events(&mut delivered.events),
            Record::Final(part) => self.share_events(&mut part.events),
            Record::Group(group) => {
                if let GroupStep::Handed(handed) = &mut group.step {
                    self.share(&mut handed.event.stream);
                }
            }
            Record::Run(_)
            | Record::Opened(_)
            | Record::CaughtUp(_)
            | Record::Dropped(_)
            | Record::Closed(_)
            | Record::Fault(_)
            | Record::Hash(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named() {
        let text =
            "{\"record\":\"closed\",\"subscription\":1,\"time\":2,\"drained\":true}\n\n{\"record\":\"nonsense\"}\n";
        let error = read(text.as_bytes()).expect_err("the third line is bad");
        assert!(format!("{error:#}").starts_with("line 3"), "{error:#}");
    }

    #[test]
    fn names_are_shared_between_records() {
        let line = r#"{"record":"subscription","subscription":1,"target":{"stream":"a"}}"#;
        let records = read(format!("{line}\n{line}").as_bytes()).expect("a valid history");
        let name = |record: &Record| match record {
            Record::Subscription(crate::history::Subscription { target: Target::Stream(name), .. }) => name.clone(),
            other => panic!("not a subscription: {other:?}"),
        };
        assert!(Arc::ptr_eq(&name(&records[0]), &name(&records[1])));
    }
}
