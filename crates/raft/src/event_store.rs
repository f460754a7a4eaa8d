//! What replication needs of what lies beneath it.
//!
//! Two traits, each with one implementation that serves clients and one in
//! memory for the simulation: whatever is written against them is run by both.

use std::error::Error;
use std::io;

use annals_core::{Batch, Outcome, Position};
use annals_store::{Direction, Durable, Mark, PageLimit, Record};
use bytes::Bytes;

use crate::log_store::LogStore;

/// An event store to which the replicated log is applied. Every method but
/// `apply_at_hand` may block, and each means what the method of the same name of
/// [`annals_store::Store`] says.
pub(crate) trait EventStore: Clone + Send + Sync + 'static {
    /// A second state in the making.
    type CatchUp: CatchUp;
    /// The disk failed.
    type Error: Error + Send + Sync + 'static;

    fn apply(&self, mark: Mark, batch: Option<Batch>) -> Result<Vec<Outcome>, Self::Error>;
    fn apply_at_hand(&self, mark: Mark, batch: Batch) -> Result<Option<Vec<Outcome>>, Self::Error>;
    fn mark(&self) -> Option<Mark>;
    fn durable(&self) -> Result<Option<Durable>, Self::Error>;
    fn flush(&self) -> Result<Option<Mark>, Self::Error>;
    fn read_forward(&self, from: Position, limit: PageLimit) -> Result<Vec<Record>, Self::Error>;
    fn begin_catch_up(&self) -> Result<Self::CatchUp, <Self::CatchUp as CatchUp>::Error>;
}

/// As [`annals_store::CatchUp`].
pub(crate) trait CatchUp: Sized + Send + 'static {
    /// The catch-up is to be dropped.
    type Error: Error + Send + Sync + 'static;

    fn position(&self) -> Position;
    fn lacks_stubs(&self, residue: &[u8]) -> Result<bool, Self::Error>;
    fn reclaim(&mut self, stubs: Vec<Bytes>) -> Result<(), Self::Error>;
    fn ingest(&mut self, records: Vec<Bytes>) -> Result<(), Self::Error>;
    fn finish(self, mark: Mark, residue: &[u8]) -> Result<(), Self::Error>;
}

/// Where the current snapshot is kept, beside the log.
pub(crate) trait SnapshotShelf: Clone + Send + Sync + 'static {
    /// The current snapshot, encoded.
    fn snapshot(&self) -> Option<Bytes>;
    /// Keeps a snapshot. Durable on return.
    fn save_snapshot(&self, encoded: Bytes) -> impl Future<Output = io::Result<()>> + Send;
}

impl EventStore for annals_store::Store {
    type CatchUp = annals_store::CatchUp;
    type Error = annals_store::Error;

    fn apply(&self, mark: Mark, batch: Option<Batch>) -> Result<Vec<Outcome>, Self::Error> {
        self.apply(mark, batch)
    }

    fn apply_at_hand(&self, mark: Mark, batch: Batch) -> Result<Option<Vec<Outcome>>, Self::Error> {
        self.apply_at_hand(mark, batch)
    }

    fn mark(&self) -> Option<Mark> {
        self.mark()
    }

    fn durable(&self) -> Result<Option<Durable>, Self::Error> {
        self.durable()
    }

    fn flush(&self) -> Result<Option<Mark>, Self::Error> {
        self.flush()
    }

    fn read_forward(&self, from: Position, limit: PageLimit) -> Result<Vec<Record>, Self::Error> {
        self.read_all(from, Direction::Forward, limit)
    }

    fn begin_catch_up(&self) -> Result<annals_store::CatchUp, annals_store::CatchUpError> {
        self.begin_catch_up()
    }
}

impl CatchUp for annals_store::CatchUp {
    type Error = annals_store::CatchUpError;

    fn position(&self) -> Position {
        self.position()
    }

    fn lacks_stubs(&self, residue: &[u8]) -> Result<bool, Self::Error> {
        self.lacks_stubs(residue)
    }

    fn reclaim(&mut self, stubs: Vec<Bytes>) -> Result<(), Self::Error> {
        self.reclaim(stubs)
    }

    fn ingest(&mut self, records: Vec<Bytes>) -> Result<(), Self::Error> {
        self.ingest(records)
    }

    fn finish(self, mark: Mark, residue: &[u8]) -> Result<(), Self::Error> {
        self.finish(mark, residue)
    }
}

impl SnapshotShelf for LogStore {
    fn snapshot(&self) -> Option<Bytes> {
        self.snapshot()
    }

    async fn save_snapshot(&self, encoded: Bytes) -> io::Result<()> {
        self.save_snapshot(encoded).await
    }
}
