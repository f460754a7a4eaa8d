//! Cuts the power of a node: `power_cut DIRECTORY [ext4|xfs [SEED [APPENDS
//! [MOMENTS [IMAGES]]]]]`. With `LYING=1` in the environment its disk lies
//! about syncs, and the run must find losses.

use std::path::PathBuf;

use annals_disks::power_cut::{self, Plan};
use annals_disks::power_loss::Filesystem;
use annals_disks::{io_error, node};
use anyhow::{Context as _, Result, ensure};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("which directory?")?);
    let filesystem = match arguments.next().as_deref() {
        Some("xfs") => Filesystem::Xfs,
        Some(_) | None => Filesystem::Ext4,
    };
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (seed, appends, moments, images) = (number(1)?, number(200)?, number(10)?, number(4)?);
    std::fs::create_dir_all(&directory)?;
    let lying = std::env::var_os("LYING").is_some();
    let wrapper = if lying { io_error::lying_sync(&directory.join("trace")) } else { Vec::new() };
    let small = [("memtable_bytes", "65536"), ("log_keep_entries", "20"), ("log_keep_bytes", "65536")];
    let plan = Plan {
        binary: node::binary()?,
        filesystem,
        appends,
        event_bytes: 2_000,
        at_once: 8,
        pauses: 3,
        moments,
        images,
        seed,
        settings: small.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        env: std::env::var("SEEDED_BUG").map(|bug| ("SEEDED_BUG".to_owned(), bug)).into_iter().collect(),
        wrapper,
    };
    let report = power_cut::run(&plan, &directory)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    let bad = report.failures.len() + report.refused.len() + usize::from(report.acked_without_power);
    ensure!((bad == 0) != lying, "{bad} images are not as they must be");
    Ok(())
}
