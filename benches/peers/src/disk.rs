//! How long this disk takes to make 4 KiB durable.
//!
//! Everything else in a run stands on this figure. It is taken in two ways: a
//! file that grows needs its metadata written as well, a file whose blocks were
//! written before does not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

const WRITES: u64 = 500;
const BLOCK: [u8; 4_096] = [0x5a; 4_096];

/// In milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sync {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Disk {
    pub(crate) growing: Sync,
    pub(crate) written_before: Sync,
}

/// Measures the disk that holds `directory`.
pub(crate) fn measure(directory: &Path) -> anyhow::Result<Disk> {
    let path = directory.join("disk");
    let file = File::create(&path)?;
    let growing = pass(&file)?;
    let written_before = pass(&file)?;
    std::fs::remove_file(path)?;
    Ok(Disk { growing, written_before })
}

fn pass(file: &File) -> anyhow::Result<Sync> {
    let mut latency = Histogram::<u64>::new(3)?;
    for turn in 0..WRITES {
        file.write_all_at(&BLOCK, turn * BLOCK.len() as u64)?;
        let begin = Instant::now();
        file.sync_data()?;
        latency.record(u64::try_from(begin.elapsed().as_micros())?.max(1))?;
    }
    let milliseconds = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(Sync { p50_ms: milliseconds(0.5), p99_ms: milliseconds(0.99) })
}
