//! Kills a node at its system calls: `crash_points DIRECTORY [EVERY [SEED]]`.

use std::path::PathBuf;

use annals_disks::{crash_points, node};
use anyhow::{Context as _, Result, ensure};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("which directory?")?);
    let every = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let seed = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let plan = crash_points::Plan { binary: node::binary()?, env: Vec::new(), directory, every, seed };
    let report = crash_points::run(&plan)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    ensure!(report.failures.is_empty(), "{} points failed", report.failures.len());
    Ok(())
}
