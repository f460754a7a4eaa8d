//! A node of one loses power again and again (F5).
//!
//! It appends, a few at a time; then the power is cut once. From the one log of
//! writes come images not only of that moment but of many before, between any
//! two writes of the disk, each with several choices of what the disk still had
//! in its cache. In every image everything must be there that had been
//! acknowledged by then. One run of seconds gives hundreds of power cuts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::node::{Node, Options, Started};
use crate::power_loss::{Cut, Filesystem, Moment, Restored, Volume};
use crate::tools;

/// A volume on which a node fits: its log reserves some hundred megabytes,
/// of which no block is ever written.
pub const BYTES: u64 = 2 << 30;

const PATIENCE: Duration = Duration::from_secs(20);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The binary `annals`.
    pub binary: PathBuf,
    /// On which file system.
    pub filesystem: Filesystem,
    /// How many appends.
    pub appends: u64,
    /// Bytes of each.
    pub event_bytes: usize,
    /// How many are sent at once.
    pub at_once: usize,
    /// Pauses of a second among the appends, for what a node does by itself.
    pub pauses: u64,
    /// At how many moments power is lost: the end, and others by chance, of
    /// which every other one is amid writes that were not flushed.
    pub moments: u64,
    /// Images for each moment.
    pub images: u64,
    /// Everything random follows from it.
    pub seed: u64,
    /// More settings of the node.
    pub settings: Vec<(String, String)>,
    /// Environment of the node.
    pub env: Vec<(String, String)>,
    /// What runs the node, such as [`crate::io_error::lying_sync`].
    pub wrapper: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Acknowledged appends.
    pub acked: usize,
    /// Writes and flushes that the disk saw.
    pub disk_requests: usize,
    /// Milliseconds from the cut until the node had ended by itself; none when
    /// it did not within 10 s.
    pub ended_after_ms: Option<u64>,
    /// Whether an append was acknowledged without power.
    pub acked_without_power: bool,
    /// Images that were tried.
    pub images: u64,
    /// Images with writes after the last flush of which some were lost.
    pub lossy_images: u64,
    /// Images from which the node served everything.
    pub good: u64,
    /// Images that the node or the file system refused, with the message.
    pub refused: Vec<String>,
    /// Images from which something acknowledged was missing, something wrong
    /// was served, or the node neither served nor refused.
    pub failures: Vec<String>,
    /// Most milliseconds to readiness.
    pub slowest_start_ms: u64,
    /// Milliseconds for all images.
    pub images_ms: u64,
}

/// Does it in `directory`. Of every image that was not served right, the data
/// is left there as `evidence-<seed>`, as it was before the node saw it.
///
/// # Errors
/// The run could not be carried out. What the node did wrong is in the report.
pub fn run(plan: &Plan, directory: &Path) -> Result<Report> {
    let mut report = Report::default();
    let volume = Volume::create(directory, "volume", BYTES, plan.filesystem)?;
    let mut options = Options::new(&plan.binary, directory)?;
    options.data = volume.data();
    options.settings.extend(plan.settings.iter().cloned());
    options.env.extend(plan.env.iter().cloned());
    options.wrapper.clone_from(&plan.wrapper);
    let mut node = Node::start(&options)?;
    let started = node.wait_ready(PATIENCE)?;
    let Started::Ready(_) = started else { bail!("the node does not start: {started:?}") };

    let mut ledger = Ledger::default();
    // When how many had been acknowledged.
    let mut known = vec![(0, volume.moment()?)];
    let waves = plan.appends.div_ceil(plan.at_once.max(1) as u64);
    for number in 1..=waves {
        let sent: Vec<_> = (0..plan.at_once.max(1)).map(|_| ledger.next(plan.event_bytes)).collect();
        for (sent, answer) in sent.iter().zip(node.append_all(&sent, PATIENCE)) {
            ledger.acked_one(sent.id, answer.context("an append fails without a fault")?);
        }
        known.push((ledger.acks(), volume.moment()?));
        if plan.pauses > 0 && number % (waves / plan.pauses).max(1) == 0 {
            std::thread::sleep(Duration::from_millis(1_100));
        }
    }
    report.acked = ledger.acks();
    let mut volume = volume;
    volume.power_off()?;
    let off = Instant::now();
    let sent = ledger.next(plan.event_bytes);
    report.acked_without_power = node.append(&sent.stream, sent.id, sent.data, Duration::from_secs(5)).is_ok();
    report.ended_after_ms = node
        .wait_exit(Duration::from_secs(10).saturating_sub(off.elapsed()))?
        .map(|_| off.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
    drop(node);
    let mut cut = volume.cut()?;
    report.disk_requests = cut.entries();

    // Restarted without what may have lied about its disk.
    options.wrapper.clear();
    options.env.clear();
    let since = Instant::now();
    let mut seed = plan.seed;
    let mut random = StdRng::seed_from_u64(seed);
    let first = cut.entries_at(known[0].1);
    let mut moments = chosen(&cut, first, plan.moments, &mut random);
    moments.sort();
    for moment in moments {
        let acks = known.iter().rev().find(|(_, then)| *then <= moment).map_or(0, |(acks, _)| *acks);
        for _ in 0..plan.images {
            let image = cut.image_at(moment, seed)?;
            let what = format!("image {seed} after {acks} acknowledgements, {:?}", image.loss);
            report.lossy_images += u64::from(image.loss.lost_sectors > 0);
            report.images += 1;
            seed += 1;
            match image.restore(directory, "image")? {
                Restored::Refused(why) => report.refused.push(format!("{what}: {why}")),
                Restored::Mounted(volume) => {
                    options.data = volume.data();
                    let evidence = directory.join(format!("evidence-{}", seed - 1));
                    copy(&options.data, &evidence)?;
                    let good = report.good;
                    judge(&options, &ledger, acks, &what, &mut report)?;
                    volume.discard()?;
                    if report.good > good {
                        std::fs::remove_dir_all(&evidence)?;
                    }
                    continue;
                }
            }
            std::fs::remove_dir_all(directory.join("image"))?;
        }
    }
    report.images_ms = since.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    cut.discard()?;
    Ok(report)
}

/// When power is lost: at the end, and at others by chance after the first
/// entries. A flush follows most writes, and a cut right after it has nothing to
/// lose; so every other moment is one at which the disk had something in its
/// cache.
fn chosen(cut: &Cut, first: usize, moments: u64, random: &mut StdRng) -> Vec<Moment> {
    let all: Vec<_> = (first..=cut.entries()).map(|entries| cut.moment(entries)).collect();
    let exposed: Vec<_> = all.iter().copied().filter(|moment| cut.exposed_at(*moment)).collect();
    let by_chance = (1..moments).map(|number| {
        let from = if number % 2 == 1 && !exposed.is_empty() { &exposed } else { &all };
        from[random.random_range(0..from.len())]
    });
    by_chance.chain([cut.moment(cut.entries())]).collect()
}

fn copy(data: &Path, to: &Path) -> Result<()> {
    // Not there yet in the earliest images.
    std::fs::create_dir_all(data)?;
    tools::run("cp", &["-r".as_ref(), "--sparse=always".as_ref(), data.as_os_str(), to.as_os_str()]).map(|_| ())
}

fn judge(options: &Options, ledger: &Ledger, acks: usize, what: &str, report: &mut Report) -> Result<()> {
    let mut node = Node::start(options)?;
    match node.wait_ready(PATIENCE)? {
        Started::Exited { message, .. } => report.refused.push(format!("{what}: {message}")),
        Started::NotReady { message } => report.failures.push(format!("{what}: not ready: {message}")),
        Started::Ready(took) => {
            report.slowest_start_ms = report.slowest_start_ms.max(took.as_millis().try_into().unwrap_or(u64::MAX));
            let wrong = match node.read_all(PATIENCE) {
                Err(error) => vec![format!("it cannot be read: {error:#}")],
                Ok(events) => ledger.verify_first(acks, &events),
            };
            if wrong.is_empty() {
                report.good += 1;
            } else {
                report.failures.push(format!("{what}: {}", wrong.join("; ")));
            }
        }
    }
    Ok(())
}
