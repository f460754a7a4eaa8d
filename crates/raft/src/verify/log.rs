//! Every entry of the log, and the single values beside it.

use std::path::Path;

use annals_core::Batch;
use annals_store::verify::{Audience, Problems};
use openraft::EntryPayload;

use crate::codec;
use crate::segments::{self, Scan, Segments};
use crate::types::{Entry, LogId, Vote};

/// Bytes of entries that are looked at together.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// What was found in a log.
#[derive(Debug, Default)]
pub(super) struct LogFound {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    pub(super) snapshot: Option<LogId>,
    /// The last entry, or the last one that was purged.
    pub(super) last: Option<LogId>,
    /// Whether all of it could be read.
    pub(super) complete: bool,
    first: Option<u64>,
    /// Where each leader's entries begin: few, and enough to tell any log id.
    leaders: Vec<LogId>,
}

impl LogFound {
    /// Whether nothing was ever written.
    pub(super) fn is_pristine(&self) -> bool {
        self.vote.is_none() && self.last.is_none()
    }

    /// The indexes of the first and the last entry that are there.
    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        Some((self.first?, self.last?.index()))
    }

    /// The log id at an index that is there.
    pub(super) fn at(&self, index: u64) -> Option<LogId> {
        let (first, last) = self.bounds()?;
        let begin = self.leaders.iter().rev().find(|begin| begin.index() <= index)?;
        (first..=last).contains(&index).then(|| LogId::new(*begin.committed_leader_id(), index))
    }
}

/// Verifies the log in `<data>/log`. Without an identity it need not be there.
pub(super) fn verify(
    data: &Path,
    has_identity: bool,
    notes: &mut Vec<String>,
    problems: &mut Problems,
    audience: &mut dyn Audience,
) -> LogFound {
    let path = data.join("log");
    if !path.is_dir() {
        if has_identity {
            problems.add(format!("the log {} is not there", path.display()));
        }
        return LogFound::default();
    }
    let scan = match segments::scan(&path) {
        Ok(scan) => scan,
        Err(error) => {
            problems.add_error(format!("cannot read the log in {}", path.display()), &error);
            return LogFound::default();
        }
    };
    let mut found = LogFound { complete: true, ..LogFound::default() };
    if let Some(torn) = &scan.torn {
        notes.push(format!(
            "the log's last write, in {} from byte {} on, is incomplete as a power cut leaves it; it was never acknowledged",
            torn.file.display(),
            torn.offset
        ));
    }
    values(&scan, &mut found, problems);
    entries(&path, scan, &mut found, problems, audience);
    found
}

fn values(scan: &Scan, found: &mut LogFound, problems: &mut Problems) {
    let values = scan.values();
    found.vote = values.vote;
    found.purged = values.purged;
    found.committed = values.committed;
    found.last = found.purged;
    match values.snapshot.as_deref().map(codec::decode_snapshot).transpose() {
        Ok(snapshot) => found.snapshot = snapshot.and_then(|(meta, ..)| meta.last_log_id),
        Err(error) => {
            found.complete = false;
            problems.add_error("the log's snapshot cannot be read", &error);
        }
    }
}

/// The scan has seen that entries are in the files without a gap; here each is read.
fn entries(path: &Path, scan: Scan, found: &mut LogFound, problems: &mut Problems, audience: &mut dyn Audience) {
    let (Some(first), Some(last)) = (scan.first(), scan.last()) else { return };
    let segments = match Segments::look(scan) {
        Ok(segments) => segments,
        Err(error) => {
            found.complete = false;
            problems.add_error(format!("cannot read the log in {}", path.display()), &error);
            return;
        }
    };
    let mut next = first;
    while next <= last.index() {
        let read = match segments.read(next, last.index() + 1, READ_BYTES) {
            // One by one, so that only what cannot be read is left out.
            Err(_) => segments.read(next, next + 1, READ_BYTES),
            read => read,
        };
        match read {
            Ok(entries) if !entries.is_empty() => {
                next += entries.len() as u64;
                entries.into_iter().for_each(|entry| look_at(entry, found, problems));
            }
            Ok(_) => unreachable!("the scan found the entry"),
            Err(error) => {
                found.complete = false;
                problems.add(error);
                next += 1;
            }
        }
        audience.progress("log entries", next - 1, last.index());
    }
    if let (Some(vote), Some(last)) = (&found.vote, &found.last) {
        let (voted, written) = (codec::VoteForm::from(vote).term, last.committed_leader_id().term);
        if voted < written {
            problems.add(format!("the node voted in term {voted}, but its log has entries of term {written}"));
        }
    }
}

fn look_at(entry: Entry, found: &mut LogFound, problems: &mut Problems) {
    let log_id = entry.log_id;
    let index = log_id.index();
    if found.last.is_some_and(|last| last >= log_id) {
        problems.add(format!("log entry {index} is of an earlier term than the entry before it"));
    }
    if let EntryPayload::Normal(proposal) = entry.payload
        && let Err(error) = Batch::decode(proposal.batch)
    {
        problems.add_error(format!("log entry {index} is no batch of commands"), &error);
    }
    let leader = *log_id.committed_leader_id();
    if found.leaders.last().is_none_or(|begin| *begin.committed_leader_id() != leader) {
        found.leaders.push(log_id);
    }
    found.first.get_or_insert(index);
    found.last = Some(log_id);
}
