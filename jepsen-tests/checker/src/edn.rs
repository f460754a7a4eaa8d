//! The same history for other people's checkers.
//!
//! A verdict is worth more when somebody else's program reaches it too. This
//! writes a history as Jepsen 0.3 would have recorded it, one operation map a
//! line, in three dialects: for Elle's list-append checker, for Jepsen's kafka
//! checker and for its set-full checker.
//!
//! What the dialects cannot say is left out rather than bent:
//!
//! - streams that were deleted or truncated, since a value that vanishes is a
//!   lost one there (list-append and kafka; all events stay readable together,
//!   therefore set-full has them all);
//! - metadata and tombstones;
//! - reads that promise less than linearizability (list-append and set-full).
//!
//! Invariants
//! - A value is a number that stands for one event id, the same in all files.
//! - Attempts to write the same events are one operation: it begins with the
//!   first attempt and ends with the first acknowledgement. Those checkers
//!   take a value that is written twice for a mistake of the test.
//! - A process does one thing at a time, and after an operation whose fate is
//!   unknown its number is not used again.
//! - Operations at the same nanosecond count as concurrent: what begins then
//!   stands before what ends then.

mod format;
mod kafka;
mod list_append;
mod nemesis;
mod operations;
mod process;
mod set_full;
mod writes;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::history::Record;

pub use kafka::kafka;
pub use list_append::list_append;
pub use nemesis::nemesis;
pub use set_full::set_full;

/// Writes `list-append.edn`, `kafka.edn`, `set-full.edn` and `nemesis.json`
/// into a directory, which is created if need be.
///
/// # Errors
/// A file could not be written.
pub fn export(records: &[Record], dir: &Path) -> Result<()> {
    type Dialect = fn(&[Record], &mut dyn Write) -> std::io::Result<()>;
    let files: [(&str, Dialect); 4] =
        [("list-append.edn", list_append), ("kafka.edn", kafka), ("set-full.edn", set_full), ("nemesis.json", nemesis)];
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    for (name, dialect) in files {
        let path = dir.join(name);
        let write = || {
            let mut out = BufWriter::new(File::create(&path)?);
            dialect(records, &mut out)?;
            out.flush()
        };
        write().with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
