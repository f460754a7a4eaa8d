//! The history while it is written.
//!
//! Callers hand over a record and go on; one thread turns records into lines.
//! The queue between them is bounded: a disk that cannot keep up slows the
//! load down instead of filling the memory.
//!
//! Whatever is judged later is judged from the file. The counters kept here
//! are for progress lines and for deciding when to go on.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use annals_checker::history::{Nanos, Outcome, ReadOutcome, Record};
use anyhow::{Context as _, Result};
use parking_lot::Mutex;

/// Records that wait for the writer. A record is a few hundred bytes and its
/// events; a calm run never has more than some dozens waiting.
const QUEUE: usize = 8_192;

/// So long a record may stay in memory: what a killed run leaves is then
/// nearly complete.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Writes a history, and is its clock. Clones write the same history.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

struct Inner {
    start: Instant,
    started: u64,
    queue: SyncSender<Message>,
    writer: Mutex<Option<JoinHandle<Result<()>>>>,
    counters: Counters,
}

enum Message {
    Record(Box<Record>),
    /// Answered when everything before it is in the file.
    Flush(std::sync::mpsc::SyncSender<()>),
    Finish,
}

/// How often what happened, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Appends and deletions that were acknowledged.
    pub acked: u64,
    /// Events in acknowledged appends, counted once per acknowledgement.
    pub events_acked: u64,
    /// Appends and deletions that were refused.
    pub refused: u64,
    /// Appends and deletions whose fate is unknown.
    pub unknown: u64,
    /// Reads that were answered.
    pub reads_ok: u64,
    /// Reads that were not.
    pub reads_failed: u64,
    /// Events that arrived at subscriptions.
    pub delivered: u64,
    /// Connections of subscriptions that ended.
    pub dropped: u64,
    /// Calls that were not made because no connection could be made.
    pub unreachable: u64,
    /// Calls that were not made because all processes were busy.
    pub shed: u64,
}

#[derive(Default)]
struct Counters {
    acked: AtomicU64,
    events_acked: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    reads_ok: AtomicU64,
    reads_failed: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
    unreachable: AtomicU64,
    shed: AtomicU64,
}

impl Recorder {
    /// Begins a history in this file, which must not exist. Time 0 is now.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Recorder> {
        let file = File::options().write(true).create_new(true).open(path);
        let file = file.with_context(|| format!("cannot create the history {}", path.display()))?;
        let (queue, records) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || write(file, &records))
            .context("cannot start the thread that writes the history")?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Recorder {
            inner: Arc::new(Inner {
                start: Instant::now(),
                started,
                queue,
                writer: Mutex::new(Some(writer)),
                counters: Counters::default(),
            }),
        })
    }

    /// The time of the run.
    pub fn now(&self) -> Nanos {
        u64::try_from(self.inner.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Seconds since 1970 at time 0.
    pub fn started(&self) -> u64 {
        self.inner.started
    }

    /// The clock, for those who must not know the recorder.
    pub fn clock(&self) -> Arc<dyn Fn() -> Nanos + Send + Sync> {
        let recorder = self.clone();
        Arc::new(move || recorder.now())
    }

    /// Adds a record. Waits only when the writer is thousands of records
    /// behind. After [`Recorder::finish`] it does nothing.
    pub fn record(&self, record: Record) {
        self.count(&record);
        // It fails only when the writer ended, which finish() reports.
        let _ = self.inner.queue.send(Message::Record(Box::new(record)));
    }

    /// How often what happened, so far.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.inner.counters;
        Counts {
            acked: get(&counters.acked),
            events_acked: get(&counters.events_acked),
            refused: get(&counters.refused),
            unknown: get(&counters.unknown),
            reads_ok: get(&counters.reads_ok),
            reads_failed: get(&counters.reads_failed),
            delivered: get(&counters.delivered),
            dropped: get(&counters.dropped),
            unreachable: get(&counters.unreachable),
            shed: get(&counters.shed),
        }
    }

    /// Waits until everything recorded so far is in the file and synced.
    /// What other clones record later is lost.
    ///
    /// # Errors
    /// When the file could not be written: the history is then incomplete,
    /// and must not be judged.
    pub fn finish(self) -> Result<()> {
        let Some(writer) = self.inner.writer.lock().take() else { return Ok(()) };
        let _ = self.inner.queue.send(Message::Finish);
        match writer.join() {
            Ok(result) => result.context("cannot write the history"),
            Err(_) => anyhow::bail!("the thread that writes the history panicked"),
        }
    }

    /// Returns when everything recorded so far can be read from the file.
    ///
    /// # Errors
    /// The writer has ended; [`Recorder::finish`] says why.
    pub fn flush(&self) -> Result<()> {
        let (done, answer) = std::sync::mpsc::sync_channel(1);
        let _ = self.inner.queue.send(Message::Flush(done));
        answer.recv().context("the history is not written any more")
    }

    pub(crate) fn count_unreachable(&self) {
        self.inner.counters.unreachable.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_shed(&self, calls: u64) {
        self.inner.counters.shed.fetch_add(calls, Ordering::Relaxed);
    }

    pub(crate) fn count_read_failed(&self) {
        self.inner.counters.reads_failed.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, record: &Record) {
        let counters = &self.inner.counters;
        let add = |counter: &AtomicU64, by: usize| counter.fetch_add(by as u64, Ordering::Relaxed);
        let outcome = |outcome: &Outcome, events: usize| match outcome {
            Outcome::Acked { .. } => {
                add(&counters.events_acked, events);
                add(&counters.acked, 1)
            }
            Outcome::Refused { .. } => add(&counters.refused, 1),
            Outcome::Unknown { .. } => add(&counters.unknown, 1),
        };
        match record {
            Record::Append(append) => {
                outcome(&append.outcome, append.writes.iter().map(|write| write.events.len()).sum());
            }
            Record::Delete(delete) => {
                outcome(&delete.outcome, 0);
            }
            Record::Read(read) => {
                match read.outcome {
                    ReadOutcome::Ok { .. } | ReadOutcome::NoStream { .. } | ReadOutcome::Tombstoned { .. } => {
                        add(&counters.reads_ok, 1)
                    }
                    ReadOutcome::Failed { .. } => add(&counters.reads_failed, 1),
                };
            }
            Record::Delivered(delivered) => {
                add(&counters.delivered, delivered.events.len());
            }
            Record::Dropped(_) => {
                add(&counters.dropped, 1);
            }
            Record::Run(_)
            | Record::Subscription(_)
            | Record::Opened(_)
            | Record::CaughtUp(_)
            | Record::Closed(_)
            | Record::Fault(_)
            | Record::Final(_)
            | Record::Hash(_)
            | Record::Group(_) => {}
        }
    }
}

/// Writes records until told to finish, or until nobody is left to record.
fn write(file: File, records: &Receiver<Message>) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut flushed = Instant::now();
    loop {
        match records.recv_timeout(FLUSH_EVERY) {
            Ok(Message::Record(record)) => {
                serde_json::to_writer(&mut file, &record)?;
                file.write_all(b"\n")?;
                if flushed.elapsed() < FLUSH_EVERY {
                    continue;
                }
            }
            Ok(Message::Flush(done)) => {
                file.flush()?;
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Message::Finish) | Err(RecvTimeoutError::Disconnected) => {
                file.flush()?;
                file.get_ref().sync_all()?;
                return Ok(());
            }
        }
        file.flush()?;
        flushed = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use annals_checker::history::{Hash, Read};

    use super::*;

    fn hash(position: u64) -> Record {
        Record::Hash(Hash { node: 1, time: 2, position, hash: "00".to_owned() })
    }

    #[test]
    fn what_was_recorded_by_any_clone_is_in_the_file_after_the_finish() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a recorder");
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let recorder = recorder.clone();
                std::thread::spawn(move || (0..5_000).for_each(|at| recorder.record(hash(writer * 5_000 + at))))
            })
            .collect();
        for writer in writers {
            writer.join().expect("a writer");
        }
        recorder.clone().finish().expect("written");
        recorder.record(hash(0));

        let text = std::fs::read_to_string(&path).expect("the file");
        let mut positions: Vec<u64> = text
            .lines()
            .map(|line| match serde_json::from_str(line).expect("a record") {
                Record::Hash(hash) => hash.position,
                other => panic!("not what was recorded: {other:?}"),
            })
            .collect();
        positions.sort_unstable();
        assert_eq!(positions, (0..20_000).collect::<Vec<_>>());
    }

    #[test]
    fn outcomes_are_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let recorder = Recorder::create(&directory.path().join("h")).expect("a recorder");
        let read = |outcome| {
            Record::Read(Read {
                process: 0,
                node: 1,
                invoke: recorder.now(),
                complete: None,
                target: annals_checker::history::Target::All { prefixes: Vec::new() },
                direction: annals_checker::history::Direction::Forwards,
                from: None,
                limit: 1,
                mode: annals_checker::history::Mode::Local,
                outcome,
            })
        };
        recorder.record(read(ReadOutcome::NoStream { as_of: None }));
        recorder.record(read(ReadOutcome::Failed { why: "x".to_owned() }));
        assert_eq!(recorder.counts(), Counts { reads_ok: 1, reads_failed: 1, ..Counts::default() });
        recorder.finish().expect("written");
    }
}
