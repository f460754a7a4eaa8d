//! At which places of the log a read shows, or a refusal says, what it did.
//!
//! A *gap* is a place between two events: gap g comes after position g. An
//! answer about the log is an answer about one gap. Between two changes of its
//! metadata a stream changes only by growing, so the right gaps are a few
//! ranges of the number of its events, and each such range is a range of gaps.

use std::collections::HashMap;

use crate::history::{Append, Current, Direction, Expected, Read, ReadOutcome, Reason, Retention, Seen};
use crate::index::{Index, Log};
use crate::properties::Case;
use crate::rules::{self, Deed, State};
use crate::settings::Claim;
use crate::stream::{Epoch, Stream};

/// Ranges of gaps, both ends inclusive, in order.
pub(crate) type Gaps = Vec<(u64, u64)>;

/// The part of the ranges that a claim leaves.
pub(crate) fn claimed(gaps: &Gaps, as_of: Option<u64>, claim: Claim) -> Gaps {
    let Some(as_of) = as_of else { return gaps.clone() };
    let (from, to) = match claim {
        Claim::Ignored => return gaps.clone(),
        Claim::AtLeast => (as_of, u64::MAX),
        Claim::Exact => (as_of, as_of),
    };
    let cut = gaps.iter().map(|(low, high)| (*low.max(&from), *high.min(&to)));
    cut.filter(|(low, high)| low <= high).collect()
}

/// The least gap of these at or after `least` that is not inside a batch.
pub(crate) fn least(gaps: &[(u64, u64)], least: u64, boundary: impl Fn(u64) -> u64) -> Option<u64> {
    gaps.iter().find_map(|(low, high)| {
        let gap = boundary(*low.max(&least));
        (gap <= *high && least <= *high).then_some(gap)
    })
}

/// Adds the gaps of an epoch at which a stream has from `low` to `high` events.
fn add(gaps: &mut Gaps, stream: &Stream, epoch: &Epoch, low: u64, high: u64) {
    let place = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    if low > high || low > stream.positions.len() as u64 {
        return;
    }
    let from = if low == 0 { 0 } else { stream.positions[place(low) - 1] };
    let to = stream.positions.get(place(high)).map_or(u64::MAX, |next| next - 1);
    let (from, to) = (from.max(epoch.from), to.min(epoch.to));
    if from <= to {
        gaps.push((from, to));
    }
}

/// The gaps at which this stream reads as this read saw it. The events of the
/// answer are known to be events of the log.
pub(crate) fn of_stream_read(read: &Read, stream: &Stream, epochs: &[Epoch]) -> Gaps {
    let mut gaps = Gaps::new();
    for epoch in epochs {
        let hidden = rules::hides_everything(epoch.metadata);
        match &read.outcome {
            ReadOutcome::Failed { .. } => {}
            ReadOutcome::Tombstoned { .. } if epoch.tombstoned => gaps.push((epoch.from, epoch.to)),
            ReadOutcome::Tombstoned { .. } => {}
            ReadOutcome::NoStream { .. } | ReadOutcome::Ok { .. } if epoch.tombstoned => {}
            ReadOutcome::NoStream { .. } => add(&mut gaps, stream, epoch, 0, if hidden { u64::MAX } else { 0 }),
            ReadOutcome::Ok { .. } if hidden => {}
            ReadOutcome::Ok { events, .. } => {
                let mut counts = counts_of_slice(read, events, stream, epoch);
                counts.sort_unstable();
                for (low, high) in counts {
                    add(&mut gaps, stream, epoch, low.max(1), high);
                }
            }
        }
    }
    gaps
}

/// The numbers of events that a live stream may have for this slice to be
/// read, as ranges.
fn counts_of_slice(read: &Read, events: &[Seen], stream: &Stream, epoch: &Epoch) -> Vec<(u64, u64)> {
    const ANY: u64 = u64::MAX;
    let Retention { max_count, truncate_before } = epoch.metadata.unwrap_or_default();
    let hidden_below = truncate_before.unwrap_or(0);
    // Of metadata only the newest can be read.
    let kept = if stream.described.is_some() { 1 } else { max_count.unwrap_or(ANY) };
    let length = events.len() as u64;
    let (Some(first), Some(last)) = (events.first(), events.last()) else {
        return counts_of_nothing(read, hidden_below, kept);
    };
    if length > read.limit || !is_slice(events, read.direction, &stream.positions) {
        return Vec::new();
    }
    let is_full = length == read.limit;
    let (first, last) = (first.revision, last.revision);
    let intersect = |a: (u64, u64), b: (u64, u64)| (a.0.max(b.0), a.1.min(b.1));
    let (start, end) = match read.direction {
        Direction::Forwards => {
            let floor = read.from.unwrap_or(0).max(hidden_below);
            let start = match first.cmp(&floor) {
                std::cmp::Ordering::Less => return Vec::new(),
                std::cmp::Ordering::Equal => (1, first.saturating_add(kept)),
                std::cmp::Ordering::Greater => (first.saturating_add(kept), first.saturating_add(kept)),
            };
            (start, (last + 1, if is_full { ANY } else { last + 1 }))
        }
        Direction::Backwards => {
            let start = match read.from {
                Some(from) if first > from => return Vec::new(),
                Some(from) if first == from => (first + 1, ANY),
                Some(_) | None => (first + 1, first + 1),
            };
            let most = last.saturating_add(kept);
            let end = match last.cmp(&hidden_below) {
                std::cmp::Ordering::Less => return Vec::new(),
                _ if is_full => (1, most),
                std::cmp::Ordering::Equal => (1, most),
                std::cmp::Ordering::Greater => (most, most),
            };
            (start, end)
        }
    };
    vec![intersect(start, end)]
}

/// Whether these are events of the stream that follow each other. That they
/// agree with the log is known; then their positions tell.
fn is_slice(events: &[Seen], direction: Direction, positions: &[u64]) -> bool {
    let lowest = match direction {
        Direction::Forwards => events.first(),
        Direction::Backwards => events.last(),
    };
    let from = lowest.and_then(|event| usize::try_from(event.revision).ok());
    let slice = from.and_then(|from| positions.get(from..from.checked_add(events.len())?));
    let shown = events.iter().map(|event| &event.position);
    slice.is_some_and(|slice| match direction {
        Direction::Forwards => shown.eq(slice),
        Direction::Backwards => shown.rev().eq(slice),
    })
}

fn counts_of_nothing(read: &Read, hidden_below: u64, kept: u64) -> Vec<(u64, u64)> {
    const ANY: u64 = u64::MAX;
    if read.limit == 0 {
        return vec![(1, ANY)];
    }
    match (read.direction, read.from) {
        (Direction::Forwards, from) => vec![(1, from.unwrap_or(0).max(hidden_below))],
        (Direction::Backwards, None) => vec![(1, hidden_below)],
        (Direction::Backwards, Some(from)) if from < hidden_below => vec![(1, ANY)],
        (Direction::Backwards, Some(from)) => {
            vec![(1, hidden_below), (from.saturating_add(kept).saturating_add(1), ANY)]
        }
    }
}

/// The positions that filters let through, made once for each filter.
#[derive(Default)]
pub(crate) struct Filters(HashMap<Vec<String>, Vec<u64>>);

/// Whether a filter lets the events of a stream through.
pub(crate) fn passes(prefixes: &[String], stream: &str) -> bool {
    prefixes.is_empty() || prefixes.iter().any(|prefix| stream.starts_with(prefix.as_str()))
}

impl Filters {
    /// The positions that this filter lets through, in order.
    pub(crate) fn positions(&mut self, prefixes: &[String], log: &Log<'_>) -> &[u64] {
        if !self.0.contains_key(prefixes) {
            let events = log.events().iter().filter(|event| passes(prefixes, &event.stream));
            self.0.insert(prefixes.to_vec(), events.map(|event| event.position).collect());
        }
        &self.0[prefixes]
    }
}

/// The gaps at which all events read as this read saw them; `positions` are
/// those that its filter lets through.
pub(crate) fn of_all_read(read: &Read, events: &[Seen], positions: &[u64], tail: u64) -> Gaps {
    let length = events.len() as u64;
    if length > read.limit {
        return Gaps::new();
    }
    let is_full = length == read.limit;
    // The first of `positions` that is not below `from`, the first above.
    let from = |from: u64| positions.partition_point(|position| *position < from);
    let after = |from: u64| positions.partition_point(|position| *position <= from);
    let before = |at: usize| positions.get(at).map_or(tail, |next| next - 1);
    let range = match read.direction {
        Direction::Forwards => {
            let start = from(read.from.unwrap_or(0));
            let end = start + events.len();
            if end > positions.len() || !positions[start..end].iter().eq(events.iter().map(|event| &event.position)) {
                return Gaps::new();
            }
            let low = if events.is_empty() { 0 } else { positions[end - 1] };
            (low, if is_full { tail } else { before(end) })
        }
        Direction::Backwards => {
            let highest = read.from.map_or(positions.len(), after);
            let Some(newest) = events.first() else {
                // Nothing is below: the log was shorter than its first event,
                // or there is none up to `from`.
                return vec![(0, if is_full || highest == 0 { tail } else { positions[0] - 1 })];
            };
            let end = after(newest.position);
            let Some(start) = end.checked_sub(events.len()) else { return Gaps::new() };
            let same = positions[start..end].iter().rev().eq(events.iter().map(|event| &event.position));
            if end > highest || !same || (!is_full && start > 0) {
                return Gaps::new();
            }
            (newest.position, if end == highest { tail } else { before(end) })
        }
    };
    if range.0 <= range.1 { vec![range] } else { Gaps::new() }
}

/// A write that was refused because of one stream.
pub(crate) struct Refusal<'a> {
    /// What it wanted.
    pub(crate) deed: Deed,
    /// What it expected of the stream.
    pub(crate) expected: Expected,
    /// What it was told.
    pub(crate) reason: &'a Reason,
    /// Where its events are already, if another send of it was successful.
    pub(crate) repeated: Option<Repeated>,
}

/// Where the events of a refused append are already.
pub(crate) struct Repeated {
    /// The position of the last of them.
    pub(crate) position: u64,
    /// The revision of the first one in this stream.
    pub(crate) first: u64,
    /// After that position, the gaps at which some other stream of the append
    /// does not recognise it. Then all that recognise it refuse it as well.
    pub(crate) torn: Gaps,
}

/// The gaps at which this stream is a reason for this refusal.
pub(crate) fn of_refusal(refusal: &Refusal<'_>, stream: &Stream) -> Gaps {
    let mut gaps = Gaps::new();
    let mut edges = vec![0, 1];
    let mut edge = |revision: u64| edges.extend([revision.saturating_add(1), revision.saturating_add(2)]);
    match refusal.expected {
        Expected::Revision(revision) => edge(revision),
        Expected::Any | Expected::NoStream | Expected::Exists => {}
    }
    match refusal.reason {
        Reason::WrongExpectation { current: Some(Current::Revision(revision)), .. } => edge(*revision),
        Reason::WrongExpectation { .. }
        | Reason::Tombstoned { .. }
        | Reason::Invalid { .. }
        | Reason::NotTaken { .. } => {}
    }
    edges.sort_unstable();
    edges.dedup();
    for epoch in &stream.epochs {
        for (at, low) in edges.iter().enumerate() {
            // Between two edges all numbers of events are alike.
            let high = edges.get(at + 1).map_or(u64::MAX, |next| next - 1);
            let state = State::of(*low, epoch.metadata, epoch.tombstoned);
            if !rules::tells(refusal.reason, state, refusal.expected) {
                continue;
            }
            let mut alike = Gaps::new();
            add(&mut alike, stream, epoch, *low, high);
            let is_refused = !rules::allows(state, refusal.deed, refusal.expected);
            let recognised = refusal.repeated.as_ref().filter(|repeated| {
                state != State::Tombstoned && is_recognised(refusal.expected, repeated.first, stream, epoch)
            });
            // Where its events are already, it is refused only if torn.
            let (usual, torn) = match recognised {
                Some(repeated) => {
                    let before = vec![(0, repeated.position.saturating_sub(1))];
                    (intersection(&alike, &before), intersection(&alike, &repeated.torn))
                }
                None => (alike, Gaps::new()),
            };
            if is_refused {
                gaps.extend(usual);
            }
            gaps.extend(torn);
        }
    }
    gaps.sort_unstable();
    gaps
}

/// Whether events that are in the stream from this revision on are recognised
/// in this epoch as those of a repeated append. With "no stream" they are
/// wherever the stream was ever begun anew: there its metadata truncated it.
fn is_recognised(expected: Expected, first: u64, stream: &Stream, epoch: &Epoch) -> bool {
    match expected {
        Expected::Any | Expected::Exists => true,
        Expected::Revision(revision) => revision.checked_add(1) == Some(first),
        Expected::NoStream => {
            let mut until_now = stream.epochs.iter().take_while(|other| other.from <= epoch.from);
            let begins = |epoch: &Epoch| epoch.metadata.and_then(|retention| retention.truncate_before) == Some(first);
            first == 0 || until_now.any(begins)
        }
    }
}

/// The gaps at or after `last` at which the events of this append, the first
/// of which has the index `first` in the log, are recognised in all streams
/// that it writes but `besides`.
pub(crate) fn of_repetition(
    append: &Append,
    case: &Case<'_, '_>,
    first: usize,
    last: u64,
    besides: Option<&str>,
) -> Gaps {
    let mut gaps = vec![(last, case.index.log.tail())];
    let writes = append.writes.iter().filter(|write| !write.events.is_empty() && Some(&*write.stream) != besides);
    for write in writes {
        let revision = first_revision_of(append, &write.stream, case.index, first);
        let (Some(stream), Some(revision)) = (case.replay.stream(&write.stream), revision) else { return Gaps::new() };
        let epochs = stream.epochs.iter().filter(|epoch| !epoch.tombstoned);
        let epochs = epochs.filter(|epoch| is_recognised(write.expected, revision, stream, epoch));
        gaps = intersection(&gaps, &epochs.map(|epoch| (epoch.from, epoch.to)).collect());
    }
    gaps
}

fn intersection(a: &Gaps, b: &Gaps) -> Gaps {
    let both = a.iter().flat_map(|a| b.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    both.filter(|(low, high)| low <= high).collect()
}

/// The gaps from `from` to `to` that are not among these.
pub(crate) fn complement(gaps: &Gaps, from: u64, to: u64) -> Gaps {
    let mut rest = Gaps::new();
    let mut next = from;
    for (low, high) in gaps {
        if *low > next {
            rest.push((next, low - 1));
        }
        next = next.max(high.saturating_add(1));
    }
    if next <= to {
        rest.push((next, to));
    }
    rest
}

/// The revision of the first event of this append in a stream, where its first
/// event has the index `first` in the log.
pub(crate) fn first_revision_of(append: &Append, stream: &str, index: &Index<'_>, first: usize) -> Option<u64> {
    let at = crate::index::flattened(append).position(|(write, _)| &*write.stream == stream)?;
    index.log.events().get(first + at).map(|event| event.revision)
}
