//! What was done to the cluster, for people and plots.

use std::io::{self, Write};

use crate::history::{Fault, Record};

/// Writes the faults as a JSON array, in the order of their beginning.
///
/// # Errors
/// `out` could not be written.
pub fn nemesis(records: &[Record], out: &mut dyn Write) -> io::Result<()> {
    let mut faults: Vec<&Fault> = records
        .iter()
        .filter_map(|record| match record {
            Record::Fault(fault) => Some(fault),
            _ => None,
        })
        .collect();
    faults.sort_by_key(|fault| fault.start);
    serde_json::to_writer_pretty(&mut *out, &faults)?;
    writeln!(out)
}
