//! The one place that writes the log and makes it durable.
//!
//! One thread owns all writing: it takes everything that waits, writes it in
//! one batch with one sync, and then answers all. Votes and entries therefore
//! reach the disk in the order in which they were handed over, and under load
//! one sync serves many entries.
//!
//! After a failed write or sync nothing can be trusted any more: the kernel
//! may have dropped the pages, so that a retry would succeed and lie. The
//! process ends instead, and the log is read back from disk at the next start.
//!
//! The index of the last committed entry is saved too, but only rides along:
//! losing the newest one costs a restart a little waiting, never data.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use annals_core::seeded::{self, Bug};
use bytes::Bytes;
use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use crate::codec::{LogIdForm, VoteForm};
use crate::log_store::{Shared, can_hold};
use crate::observer::Observer;
use crate::segments::{Record, Writer};
use crate::types::{LogId, TypeConfig, Vote};
use crate::witness::{self, Acknowledged, Witness};

/// Bytes after which a group is written even if more is waiting: larger ones
/// make each sync slower without making it cheaper per entry.
const GROUP_BYTES: usize = 2 * 1024 * 1024;

/// Requests that may wait. Bytes are bounded by those who make them: entries
/// in flight on a leader, the pipeline's depth on a follower.
pub(crate) const QUEUE: usize = 1_024;

/// How stale the witness may get while entries are written.
const WITNESS_AGE: Duration = Duration::from_secs(1);

/// What can be asked of the flusher.
pub(crate) enum Request {
    /// Entries, already readable from memory.
    Append {
        entries: Vec<Bytes>,
        last: LogId,
        generation: u64,
        since: Instant,
        done: IOFlushed<TypeConfig>,
    },
    Vote {
        vote: Vote,
        done: oneshot::Sender<()>,
    },
    /// Drop entries from this index on; what is left ends at `last`.
    Truncate {
        from: u64,
        last: Option<LogId>,
    },
    /// Drop entries up to this one.
    Purge {
        upto: LogId,
        /// Whether the log ends there now.
        empties: bool,
    },
    /// Keep this as the current snapshot.
    Snapshot {
        encoded: Bytes,
        done: oneshot::Sender<()>,
    },
    /// Bring the witness up to date if it is stale.
    Tick,
    /// Write what waits, bring the witness up to date and end.
    Close,
}

/// Ends the process, because going on could break a promise already given.
pub(crate) fn stop_process(why: &str, error: &dyn std::error::Error) -> ! {
    let mut causes = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        causes = format!("{causes}: {cause}");
        next = cause.source();
    }
    #[cfg(feature = "simulation")]
    assert!(!crate::simulation::is_running(), "{why}: {causes}: the process would end");
    tracing::error!("{why}: {causes}: ending the process, because nothing may be acknowledged after this");
    // Whoever starts the process sees its standard error even if nobody
    // collects its traces.
    eprintln!("annals: {why}: {causes}: ending the process, because nothing may be acknowledged after this");
    std::process::abort();
}

/// Starts the thread.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    writer: Writer,
    witness: Witness,
    acknowledged: Acknowledged,
    observer: Arc<dyn Observer>,
) -> std::io::Result<(mpsc::Sender<Request>, JoinHandle<()>)> {
    let (sender, requests) = mpsc::channel(QUEUE);
    let flusher = Flusher { shared, writer, witness, acknowledged, witnessed_at: Instant::now(), observer };
    let thread = std::thread::Builder::new().name("annals-log".into()).spawn(move || flusher.run(requests))?;
    Ok((sender, thread))
}

struct Flusher {
    shared: Arc<Shared>,
    writer: Writer,
    witness: Witness,
    /// What is durable, and may be claimed by the witness.
    acknowledged: Acknowledged,
    witnessed_at: Instant,
    observer: Arc<dyn Observer>,
}

/// What one group wants done once it is durable.
#[derive(Default)]
struct Group {
    records: Vec<Record>,
    bytes: usize,
    entries: usize,
    appended: Vec<(u64, u64, Instant, IOFlushed<TypeConfig>)>,
    answers: Vec<oneshot::Sender<()>>,
    close: bool,
}

impl Flusher {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            // Every sender gone means the same as `Close`.
            let first = requests.blocking_recv().unwrap_or(Request::Close);
            let mut group = Group::default();
            self.add(&mut group, first);
            while group.bytes < GROUP_BYTES && !group.close {
                match requests.try_recv() {
                    Ok(request) => self.add(&mut group, request),
                    Err(_) => break,
                }
            }
            let close = group.close;
            self.flush(group);
            if close {
                self.bring_witness_up_to_date();
                return;
            }
        }
    }

    fn add(&mut self, group: &mut Group, request: Request) {
        match request {
            Request::Append { entries, last, generation, since, done } => {
                group.bytes += entries.iter().map(Bytes::len).sum::<usize>();
                group.entries += entries.len();
                group.records.extend(entries.into_iter().map(Record::Entry));
                group.appended.push((generation, last.index(), since, done));
                self.acknowledged.last = Some(LogIdForm::from(&last));
            }
            #[cfg(feature = "seeded-bugs")]
            Request::Vote { vote, done } if seeded::is(Bug::S3) => {
                crate::mistakes::write_vote(self.witness.path(), &vote);
                let _ = done.send(());
            }
            Request::Vote { vote, done } => {
                group.records.push(Record::Vote(vote));
                group.answers.push(done);
                self.acknowledged.vote = Some(VoteForm::from(&vote));
            }
            Request::Truncate { from, last } => {
                group.records.push(Record::Truncated(from, last));
                let last = last.as_ref().map(LogIdForm::from);
                self.acknowledged.last = last;
                // Before the log gets shorter the witness must not claim what
                // is about to go: a crash between the two would look like loss.
                // What this group already holds is not claimed either: it is
                // not durable yet. That only makes the witness lag.
                let lower = Acknowledged {
                    last: shorter(self.witness.acknowledged().last, last),
                    ..self.witness.acknowledged()
                };
                if lower != self.witness.acknowledged() {
                    self.write_witness(lower);
                }
            }
            Request::Purge { upto, empties } => {
                group.records.push(if empties { Record::Emptied(upto) } else { Record::Purged(upto) });
                if empties {
                    self.acknowledged.last = Some(LogIdForm::from(&upto));
                }
            }
            Request::Snapshot { encoded, done } => {
                group.records.push(Record::Snapshot(encoded));
                group.answers.push(done);
            }
            Request::Tick => {}
            Request::Close => group.close = true,
        }
    }

    fn flush(&mut self, mut group: Group) {
        if (group.close || !group.appended.is_empty())
            && let Some(committed) = self.shared.committed()
            // A quorum may have entries that still wait for the next group
            // here: a log without what it calls committed would not open.
            && self.acknowledged.last.is_some_and(|last| can_hold(&last.into(), &committed))
        {
            group.records.push(Record::Committed(committed));
        }
        if !group.records.is_empty() {
            let started = Instant::now();
            let sync = !(seeded::is(Bug::S2) && group.answers.is_empty());
            match self.writer.write(&group.records, sync) {
                Ok(()) => {}
                Err(error) if seeded::is(Bug::S20) => tracing::error!(%error, "the log could not be written"),
                Err(error) => stop_process("the log could not be written", &error),
            }
            self.observer.log_synced(started.elapsed(), group.bytes, group.entries);
        }
        for (generation, last, since, done) in group.appended {
            self.shared.flushed(generation, last);
            self.observer.log_appended(since.elapsed());
            done.io_completed(Ok(()));
        }
        for done in group.answers {
            // Whoever asked may have gone; the write stands.
            let _ = done.send(());
        }
        self.witness_if_stale();
    }

    fn witness_if_stale(&mut self) {
        let written = self.witness.acknowledged();
        if written == self.acknowledged {
            return;
        }
        let index = |acknowledged: &Acknowledged| acknowledged.last.map_or(0, |last| last.index);
        let behind = index(&self.acknowledged).saturating_sub(index(&written));
        if behind >= witness::ENTRIES_MAX || self.witnessed_at.elapsed() >= WITNESS_AGE {
            self.write_witness(self.acknowledged);
        }
    }

    fn bring_witness_up_to_date(&mut self) {
        if self.witness.acknowledged() != self.acknowledged {
            self.write_witness(self.acknowledged);
        }
    }

    fn write_witness(&mut self, acknowledged: Acknowledged) {
        if let Err(error) = self.witness.write(acknowledged)
            && !seeded::is(Bug::S20)
        {
            stop_process(&format!("{} could not be written", self.witness.path().display()), &error);
        }
        self.witnessed_at = Instant::now();
    }
}

/// The earlier of both ends.
fn shorter(left: Option<LogIdForm>, right: Option<LogIdForm>) -> Option<LogIdForm> {
    match (left, right) {
        (Some(left), Some(right)) => {
            Some(if (left.term, left.node, left.index) <= (right.term, right.node, right.index) { left } else { right })
        }
        (None, _) | (_, None) => None,
    }
}
