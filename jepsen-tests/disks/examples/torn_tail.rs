//! What a power cut on ext4 leaves of a group of entries that was not synced:
//! the file has its size, the record's first page is there, the rest is zeros.
//! `torn_tail DIRECTORY` makes exactly that, without a power cut: a node is
//! killed as it syncs a record of several pages, whose rest is then zeroed.
//! Nothing of it was acknowledged, so the node must start and serve all else.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use annals_disks::io_error;
use annals_disks::ledger::Ledger;
use annals_disks::node::{self, Node, Options, Started};
use anyhow::{Context as _, Result, bail, ensure};

const PATIENCE: Duration = Duration::from_secs(20);
const PAGE: u64 = 4096;

fn main() -> Result<()> {
    let directory = PathBuf::from(std::env::args().nth(1).context("which directory?")?);
    std::fs::create_dir_all(&directory)?;
    let options = Options::new(&node::binary()?, &directory)?;
    let killed_at = io_error::kill_at("fdatasync", 60, &directory.join("trace"));
    let mut node = Node::start(&options.clone().wrapped(killed_at))?;
    ensure!(matches!(node.wait_ready(PATIENCE)?, Started::Ready(_)), "{}", node.message());
    let log = options.data.join("log/000004.log");
    let used = || -> Result<u64> {
        let bytes = std::fs::read(&log)?;
        Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
    };
    let mut ledger = Ledger::default();
    let mut synced = used()?;
    loop {
        let sent = ledger.next(12_000);
        match node.append(&sent.stream, sent.id, sent.data, PATIENCE) {
            Ok(position) => ledger.acked(position),
            Err(_) => break,
        }
        // The next record begins here or later.
        synced = used()?;
    }
    ensure!(node.wait_exit(PATIENCE)?.is_some(), "the node was not killed");
    let end = used()?;
    let tear = (synced / PAGE + 1) * PAGE;
    ensure!(tear < end, "the last record, from {synced} to {end}, has no second page");
    let zeros = vec![0; usize::try_from(end - tear)?];
    OpenOptions::new().write(true).open(&log)?.write_all_at(&zeros, tear)?;
    println!("{}: {synced} bytes synced, the record behind them torn at {tear} of {end}", log.display());

    let mut node = Node::start(&options)?;
    match node.wait_ready(PATIENCE)? {
        Started::Ready(_) => {}
        other => bail!("a torn record that was never synced keeps the node from starting: {other:?}"),
    }
    let wrong = ledger.verify(&node.read_all(PATIENCE)?);
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    println!("all {} acknowledged events are there", ledger.acks());
    Ok(())
}
