//! Every entry of the log, and the single values beside it.

use std::path::Path;

use annals_core::Batch;
use annals_store::verify::{Audience, Problems};
use openraft::EntryPayload;
use rocksdb::{DB, IteratorMode};

use crate::codec;
use crate::log_store::{self, COLUMN_LOG, COLUMN_META, meta};
use crate::types::{LogId, Vote};

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
    let database = match log_store::open_read_only(&path) {
        Ok(database) => database,
        Err(error) => {
            match log_store::torn_end(&path) {
                Some(end) => problems.add(format!(
                    "the log was not looked at: {end} are torn, as a power cut leaves them; the next start cuts them off"
                )),
                None => problems.add_error(format!("cannot open the log in {}", path.display()), &error),
            }
            return LogFound::default();
        }
    };
    let mut found = LogFound { complete: true, ..LogFound::default() };
    values(&database, &mut found, problems);
    entries(&database, &mut found, problems, audience);
    found
}

fn values(database: &DB, found: &mut LogFound, problems: &mut Problems) {
    let column = database.cf_handle(COLUMN_META).expect("opened with this column family");
    let mut get = |name: &[u8]| match database.get_cf(&column, name) {
        Ok(value) => value,
        Err(error) => {
            found.complete = false;
            problems.add_error(format!("cannot read the log's {}", String::from_utf8_lossy(name)), &error);
            None
        }
    };
    let (format, vote, purged, committed, snapshot) =
        (get(meta::FORMAT), get(meta::VOTE), get(meta::PURGED), get(meta::COMMITTED), get(meta::SNAPSHOT));
    if let Some(other) = format.filter(|format| *format != [log_store::FORMAT]) {
        problems.add(format!("the log has format {other:?}, this release reads format {}", log_store::FORMAT));
    }
    let mut read = |name: &str, complaint: Option<codec::CodecError>| {
        if let Some(error) = complaint {
            found.complete = false;
            problems.add_error(format!("the log's {name} cannot be read"), &error);
        }
    };
    let vote = vote.map(|bytes| codec::decode_vote(&bytes)).transpose();
    let purged = purged.map(|bytes| codec::decode_log_id(&bytes)).transpose();
    let committed = committed.map(|bytes| codec::decode_log_id(&bytes)).transpose();
    let snapshot = snapshot.map(|bytes| codec::decode_snapshot(&bytes)).transpose();
    read("vote", vote.as_ref().err().cloned());
    read("purged entry", purged.as_ref().err().cloned());
    read("committed entry", committed.as_ref().err().cloned());
    read("snapshot", snapshot.as_ref().err().cloned());
    found.vote = vote.ok().flatten();
    found.purged = purged.ok().flatten();
    found.last = found.purged;
    found.snapshot = snapshot.ok().flatten().and_then(|(meta, ..)| meta.last_log_id);
    found.committed = committed.ok().flatten();
}

fn entries(database: &DB, found: &mut LogFound, problems: &mut Problems, audience: &mut dyn Audience) {
    let column = database.cf_handle(COLUMN_LOG).expect("opened with this column family");
    let newest = database.iterator_cf(&column, IteratorMode::End).next().and_then(Result::ok);
    let end = newest.and_then(|(key, _)| Some(u64::from_be_bytes((*key).try_into().ok()?)));
    for item in database.iterator_cf(&column, IteratorMode::Start) {
        let (key, value) = match item {
            Ok(item) => item,
            Err(error) => {
                found.complete = false;
                let after = found.last.map_or("its beginning".to_owned(), |last| format!("entry {}", last.index()));
                problems.add_error(format!("cannot read the log after {after}"), &error);
                return;
            }
        };
        let entry = match log_store::decode(&key, value) {
            Ok(entry) => entry,
            Err(error) => {
                found.complete = false;
                problems.add(error);
                continue;
            }
        };
        let log_id = entry.log_id;
        let index = log_id.index();
        let expected = found.last.map_or(0, |last| last.index() + 1);
        // After an entry that could not be decoded its place is missing too,
        // which was told.
        if expected != index && found.complete {
            found.complete = false;
            problems.add(format!("the log has entry {index} where {expected} belongs"));
        }
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
        audience.progress("log entries", index, end.unwrap_or(index));
    }
    if let (Some(vote), Some(last)) = (&found.vote, &found.last) {
        let (voted, written) = (codec::VoteForm::from(vote).term, last.committed_leader_id().term);
        if voted < written {
            problems.add(format!("the node voted in term {voted}, but its log has entries of term {written}"));
        }
    }
}
