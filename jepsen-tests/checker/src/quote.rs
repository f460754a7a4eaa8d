//! Operations in words, for the texts of violations.

use std::fmt;

use crate::history::{
    Append, Delete, Direction, Expected, Mode, Nanos, Outcome, Read, ReadOutcome, Reason, Seen, Target,
};
use crate::verdict::Seconds;

/// Shows an operation in one line.
pub(crate) struct Quote<'a, T>(pub(crate) &'a T);

struct Interval(Nanos, Option<Nanos>);

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(complete) => write!(f, "{} to {}", Seconds(self.0), Seconds(complete)),
            None => write!(f, "from {} on", Seconds(self.0)),
        }
    }
}

impl fmt::Display for Quote<'_, Expected> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expected::Any => f.write_str("any"),
            Expected::NoStream => f.write_str("no stream"),
            Expected::Exists => f.write_str("exists"),
            Expected::Revision(revision) => write!(f, "revision {revision}"),
        }
    }
}

impl fmt::Display for Quote<'_, Outcome> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Acked { position, revisions } => {
                write!(f, "acked at position {position}, revisions {revisions:?}")
            }
            Outcome::Unknown { why } => write!(f, "unknown ({why})"),
            Outcome::Refused { reason, as_of } => {
                match reason {
                    Reason::WrongExpectation { stream, current } => {
                        write!(f, "refused: {stream} is not as expected but {current:?}")?;
                    }
                    Reason::Tombstoned { stream } => write!(f, "refused: {stream} is deleted")?,
                    Reason::Invalid { why } => write!(f, "refused as invalid: {why}")?,
                    Reason::NotTaken { why } => write!(f, "not taken: {why}")?,
                }
                as_of.map_or(Ok(()), |as_of| write!(f, " (as of {as_of})"))
            }
        }
    }
}

impl fmt::Display for Quote<'_, Append> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Append { process, node, invoke, complete, call, writes, outcome } = self.0;
        write!(f, "{call}")?;
        for write in writes {
            let count = write.events.len();
            write!(f, " to {} of {count} (expects {}", write.stream, Quote(&write.expected))?;
            if let Some(first) = write.events.first() {
                write!(f, ", first id {}", first.id)?;
            }
            f.write_str(")")?;
        }
        write!(f, " by process {process} via node {node}, {}, {}", Interval(*invoke, *complete), Quote(outcome))
    }
}

impl fmt::Display for Quote<'_, Delete> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Delete { process, node, invoke, complete, stream, expected, hard, outcome } = self.0;
        let kind = if *hard { "tombstone" } else { "delete" };
        write!(
            f,
            "{kind} of {stream} (expects {}) by process {process} via node {node}, {}, {}",
            Quote(expected),
            Interval(*invoke, *complete),
            Quote(outcome)
        )
    }
}

impl fmt::Display for Quote<'_, Target> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Target::All { prefixes } if prefixes.is_empty() => f.write_str("all events"),
            Target::All { prefixes } => write!(f, "all events of streams {prefixes:?}"),
            Target::Stream(stream) => write!(f, "stream {stream}"),
        }
    }
}

impl fmt::Display for Quote<'_, Read> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Read { process, node, invoke, complete, target, direction, from, limit, mode, outcome } = self.0;
        match mode {
            Mode::Linearizable => f.write_str("linearizable read")?,
            Mode::AtLeast(position) => write!(f, "read with at least {position}")?,
            Mode::Local => f.write_str("local read")?,
        }
        write!(f, " of {}", Quote(target))?;
        match direction {
            Direction::Forwards => f.write_str(" forwards")?,
            Direction::Backwards => f.write_str(" backwards")?,
        }
        if let Some(from) = from {
            write!(f, " from {from}")?;
        }
        if *limit < u64::from(u32::MAX) {
            write!(f, " limit {limit}")?;
        }
        write!(f, " by process {process} via node {node}, {}: ", Interval(*invoke, *complete))?;
        let as_of = match outcome {
            ReadOutcome::Ok { events, as_of } => {
                let number = |event: &Seen| match target {
                    Target::All { .. } => event.position,
                    Target::Stream(_) => event.revision,
                };
                match (events.first(), events.last()) {
                    (Some(first), Some(last)) => {
                        write!(f, "{} events, {} to {}", events.len(), number(first), number(last))?;
                    }
                    _ => f.write_str("no events")?,
                }
                as_of
            }
            ReadOutcome::NoStream { as_of } => {
                f.write_str("no stream")?;
                as_of
            }
            ReadOutcome::Tombstoned { as_of } => {
                f.write_str("tombstoned")?;
                as_of
            }
            ReadOutcome::Failed { why } => return write!(f, "failed ({why})"),
        };
        as_of.map_or(Ok(()), |as_of| write!(f, " (as of {as_of})"))
    }
}

impl fmt::Display for Quote<'_, Seen> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { position, stream, revision, id, digest, created, system } = self.0;
        write!(f, "[position {position}: {stream} revision {revision}, id {id}, digest {digest}, created {created}")?;
        f.write_str(if *system { ", system]" } else { "]" })
    }
}
