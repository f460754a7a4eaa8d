//! F5: power is lost, and the disks keep what was flushed and some of the rest.
//!
//! While the cluster runs on volumes that log their block writes, moments are
//! noted. Later, for each moment, disks are rebuilt as a power cut on all nodes
//! at that moment could have left them, a cluster is started on them, and read:
//! everything acknowledged before the moment must be there. Such a cluster is a
//! *fork* of the history and is judged by the whole checker: the records of
//! before the moment, and the fork's final reads.
//!
//! After that the run goes on upon one of the forks' disks, and single nodes
//! lose power under load.

use std::time::Duration;

use annals_checker::history::{Nanos, NodeNumber, Outcome, ReadOutcome, Record};
use annals_checker::{Property, Settings, Validity};
use annals_disks::power_loss::{self, Cut, Filesystem, Moment, Volume};
use annals_testbed::{Testbed, nemesis};
use annals_workload::{FinalOptions, Plan, Recorder, Subscriptions};
use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Harness, Job, READY, Report, Shape};

/// The size of a volume; sparse.
pub(crate) const BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Looks at the disks around a moment; that at which most of them are between a
/// write and its flush is the one that matters.
const LOOKS: usize = 50;

/// Between two of them: a sync takes ten times as long on such a disk.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How often it is tried to see all disks at one moment.
const AT_ONCE_TRIES: usize = 1_000;

/// Under such a disk's hundred syncs a second the usual load would only queue.
fn modest(harness: &Harness, seed: u64) -> Plan {
    Plan { seed, appends_per_second: 60.0, reads_per_second: 40.0, subscriptions: 3, ..harness.plan() }
}

/// A moment of the whole cluster.
///
/// It has to be one moment: a disk that is cut later than another may hold what
/// its node was told of the other's later writes, and no power cut leaves a
/// cluster that knows of what nobody has.
struct Noted {
    time: Nanos,
    /// Empty: as the disks are at the end.
    moments: Vec<(NodeNumber, Moment)>,
}

/// Some moments close to each other.
async fn note(harness: &Harness, volumes: &[(NodeNumber, Volume)]) -> Result<Vec<Noted>> {
    let mut noted = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        // First the time, then the disks: what was acknowledged by then was
        // synced by then.
        let time = harness.recorder.now();
        noted.push(Noted { time, moments: at_once(volumes)? });
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(noted)
}

/// All disks at one moment: nothing was written to any of them from the first
/// look at the last of them to the second look at the first.
fn at_once(volumes: &[(NodeNumber, Volume)]) -> Result<Vec<(NodeNumber, Moment)>> {
    let look = || volumes.iter().map(|(node, volume)| Ok((*node, volume.moment()?))).collect::<Result<Vec<_>>>();
    for _ in 0..AT_ONCE_TRIES {
        let seen = look()?;
        if seen == look()? {
            return Ok(seen);
        }
    }
    anyhow::bail!("the disks are never all still between two looks")
}

/// One of the moments at which most disks had writes that were not flushed.
fn choose(noted: &[Noted], cuts: &[(NodeNumber, Cut)], seed: u64) -> Option<usize> {
    let exposed = |noted: &Noted| {
        let cut = |node| cuts.iter().find(|(each, _)| *each == node).map(|(_, cut)| cut);
        noted.moments.iter().filter(|(node, at)| cut(*node).is_some_and(|cut| cut.exposed_at(*at))).count()
    };
    let counts: Vec<usize> = noted.iter().map(exposed).collect();
    let most = counts.iter().max()?;
    let best: Vec<usize> = (0..noted.len()).filter(|at| counts[*at] == *most).collect();
    Some(best[usize::try_from(seed).unwrap_or(0) % best.len()])
}

async fn on_volumes(job: Job, shape: Shape) -> Result<(Harness, Vec<(NodeNumber, Volume)>)> {
    let harness = Harness::prepare(job, shape).await?;
    let filesystem = if harness.job.seed % 2 == 0 { Filesystem::Xfs } else { Filesystem::Ext4 };
    let mut volumes = Vec::new();
    for node in harness.testbed.nodes() {
        let directory = harness.testbed.directory(node);
        let volume = blocking(move || Volume::create(&directory, "volume-0", BYTES, filesystem)).await?;
        let data = volume.data();
        harness.respec(node, |spec| spec.data = data);
        volumes.push((node, volume));
    }
    harness.start_all().await?;
    Ok((harness, volumes))
}

/// Runs until `forks` whole clusters were rebuilt and judged, at least 2.
pub(crate) async fn run(job: Job, forks: usize, settings: Settings) -> Result<Report> {
    let (mut harness, mut volumes) = on_volumes(job, Shape::small()).await?;
    harness.follow_members();
    let mut rng = StdRng::seed_from_u64(harness.job.seed);
    let load = harness.load(modest(&harness, harness.job.seed));

    // Moments under load, then a cut of all nodes at once.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut noted = Vec::new();
    for _ in 1..forks.max(2) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(600..1_800))).await;
        noted.push(note(&harness, &volumes).await?);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = harness.recorder.now();
    for (node, _) in &volumes {
        harness.testbed.expect_exit(*node);
    }
    power_loss::power_off_all(volumes.iter_mut().map(|(_, volume)| volume))?;
    load.stop().await.abandon().await;
    let mut cuts = Vec::new();
    for (node, volume) in volumes.drain(..) {
        let _ = harness.testbed.kill(node).await;
        cuts.push((node, blocking(move || volume.cut()).await?));
    }
    harness.noted("F5", "power-loss-all", &harness.testbed.nodes(), start, String::new());

    // The forks of the earlier moments, then that of the cut itself, which
    // the run goes on with.
    noted.push(vec![Noted { time: start, moments: Vec::new() }]);
    for (number, noted) in noted.iter().enumerate() {
        let start = harness.recorder.now();
        let fork = Fork { number, seed: harness.job.seed.wrapping_mul(97).wrapping_add(number as u64) };
        let noted = choose(noted, &cuts, fork.seed).map(|at| &noted[at]).context("a moment was noted")?;
        let detail = fork.raise(&mut harness, &mut cuts, noted, &mut volumes).await?;
        let nodes = harness.testbed.nodes();
        harness.noted("F5", "images", &nodes, start, detail);
        if harness.is_caught() {
            return end(harness, None, settings, volumes, cuts).await;
        }
        if number + 1 < forks.max(2) {
            fork.end(&harness, &mut volumes).await?;
        }
    }

    // Single nodes lose power under load and come back.
    let again = Plan { first_number: 1_000_000, ..modest(&harness, harness.job.seed + 1) };
    let load = harness.load(again);
    for turn in 0..2_u64 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let at = rng.random_range(0..volumes.len());
        let start = harness.recorder.now();
        let (node, volume) = volumes.swap_remove(at);
        let name = format!("single-{turn}");
        let volume = strike(&harness.testbed, node, volume, harness.job.seed + turn, name).await?;
        harness.testbed.start_node(node).await?;
        if let Err(error) = harness.testbed.wait_ready(node, READY).await {
            harness.complain(format!("node {node} does not come back after a power loss: {error:#}"));
        }
        volumes.push((node, volume));
        // What it missed it has to get, under load: that belongs to the fault.
        tokio::time::sleep(Duration::from_secs(3)).await;
        harness.noted("F5", "power-loss-one", &[node], start, String::new());
    }
    harness.heal().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    end(harness, Some(load), settings, volumes, cuts).await
}

/// Cuts the power of one node, and gives it a disk that may have come of it.
/// The node is not started.
pub(crate) async fn strike(
    testbed: &Testbed,
    node: NodeNumber,
    mut volume: Volume,
    seed: u64,
    name: String,
) -> Result<Volume> {
    testbed.expect_exit(node);
    volume.power_off()?;
    let _ = testbed.kill(node).await;
    let directory = testbed.directory(node);
    let volume = blocking(move || {
        let mut cut = volume.cut()?;
        let restored = cut.image(seed)?.restore(&directory, &name)?;
        cut.discard()?;
        restored.mounted()
    })
    .await?;
    let mut spec = testbed.spec(node);
    spec.data = volume.data();
    testbed.set_spec(node, spec);
    Ok(volume)
}

async fn end(
    harness: Harness,
    load: Option<annals_workload::Running>,
    settings: Settings,
    volumes: Vec<(NodeNumber, Volume)>,
    cuts: Vec<(NodeNumber, Cut)>,
) -> Result<Report> {
    let report = harness.finish(load, settings).await?;
    for (_, volume) in volumes {
        blocking(move || volume.discard()).await?;
    }
    for (_, cut) in cuts {
        blocking(move || cut.discard()).await?;
    }
    Ok(report)
}

/// A cluster on rebuilt disks.
struct Fork {
    number: usize,
    seed: u64,
}

impl Fork {
    /// Rebuilds the disks, starts the nodes on them, reads and judges. The
    /// nodes go on running on `volumes`.
    async fn raise(
        &self,
        harness: &mut Harness,
        cuts: &mut Vec<(NodeNumber, Cut)>,
        noted: &Noted,
        volumes: &mut Vec<(NodeNumber, Volume)>,
    ) -> Result<String> {
        let mut losses = Vec::new();
        for (node, mut cut) in std::mem::take(cuts) {
            let moment = noted.moments.iter().find(|(each, _)| *each == node).map(|(_, moment)| *moment);
            let directory = harness.testbed.directory(node);
            let name = format!("fork-{}", self.number);
            let seed = self.seed.wrapping_mul(31).wrapping_add(u64::from(node));
            let (back, restored, loss) = blocking(move || {
                let image = match moment {
                    Some(moment) => cut.image_at(moment, seed)?,
                    None => cut.image(seed)?,
                };
                let loss = format!("{:?}", image.loss);
                Ok((cut, image.restore(&directory, &name)?, loss))
            })
            .await?;
            cuts.push((node, back));
            losses.push(format!("node {node}: {loss}"));
            // A journal that cannot be replayed is the file system's fault,
            // and ends the run: it never was the case.
            let volume = restored.mounted()?;
            let data = volume.data();
            harness.respec(node, |spec| spec.data = data);
            volumes.push((node, volume));
        }
        for node in harness.testbed.nodes() {
            harness.testbed.start_node(node).await?;
        }
        for node in harness.testbed.nodes() {
            if let Err(error) = harness.testbed.wait_ready(node, READY).await {
                harness.complain(format!("node {node} is not ready on the disks of fork {}: {error:#}", self.number));
            }
        }
        match self.read(harness).await {
            Ok(finals) => self.judge(harness, noted.time, finals)?,
            Err(error) => {
                harness.complain(format!(
                    "after a power loss the cluster of fork {} cannot be read: {error:#}",
                    self.number
                ));
            }
        }
        Ok(losses.join(", "))
    }

    /// The final state of the fork, which is not that of the history.
    async fn read(&self, harness: &Harness) -> Result<Vec<Record>> {
        let file = harness.directory.join(format!("fork-{}.jsonl", self.number));
        let recorder = Recorder::create(&file)?;
        let nobody = Subscriptions::start(&Plan { subscriptions: 0, ..Plan::default() }, &harness.endpoints, &recorder);
        let options = FinalOptions { settle: Duration::from_secs(20), ..FinalOptions::default() };
        annals_workload::final_phase(&harness.endpoints, &recorder, nobody, options).await?;
        recorder.finish()?;
        let mut records = annals_checker::load(&file)?;
        records.retain(|record| matches!(record, Record::Final(_)));
        Ok(records)
    }

    fn judge(&self, harness: &mut Harness, time: Nanos, finals: Vec<Record>) -> Result<()> {
        harness.recorder.flush()?;
        let history = annals_checker::load(harness.directory.join("history.jsonl"))?;
        let mut records = before(history, time);
        records.extend(finals);
        let verdict = annals_checker::check(&records, &Settings { minimum: 0, ..Settings::default() });
        if verdict.validity != Validity::Valid {
            let texts: Vec<String> = Property::ALL
                .iter()
                .filter_map(|property| {
                    let finding = verdict.properties.get(property)?;
                    let first = finding.first.first()?;
                    Some(format!("{property} ({}): {}", finding.violations, first.text))
                })
                .collect();
            harness.complain(format!(
                "after a power loss at {:.3} s (fork {}): {:?} {}",
                Duration::from_nanos(time).as_secs_f64(),
                self.number,
                verdict.validity,
                texts.join("; ")
            ));
        }
        Ok(())
    }

    /// Ends the nodes and removes their disks.
    async fn end(&self, harness: &Harness, volumes: &mut Vec<(NodeNumber, Volume)>) -> Result<()> {
        for (node, volume) in volumes.drain(..) {
            harness.testbed.expect_exit(node);
            let _ = harness.testbed.kill(node).await;
            blocking(move || volume.discard()).await?;
        }
        Ok(())
    }
}

/// What had been told by this time. Calls that were under way may have had
/// any fate.
fn before(records: Vec<Record>, time: Nanos) -> Vec<Record> {
    let unknown = || Outcome::Unknown { why: "power was lost".into() };
    let late = |complete: &Option<Nanos>| complete.is_none_or(|complete| complete > time);
    let mut kept = Vec::with_capacity(records.len());
    for mut record in records {
        let keep = match &mut record {
            Record::Append(append) => {
                if late(&append.complete) {
                    append.complete = None;
                    append.outcome = unknown();
                }
                // The disks' moment is a little later than the time.
                true
            }
            Record::Delete(delete) => {
                if late(&delete.complete) {
                    delete.complete = None;
                    delete.outcome = unknown();
                }
                true
            }
            Record::Read(read) => !late(&read.complete) && !matches!(read.outcome, ReadOutcome::Failed { .. }),
            Record::Opened(opened) => opened.time <= time,
            Record::Delivered(delivered) => delivered.time <= time,
            Record::CaughtUp(caught_up) => caught_up.time <= time,
            Record::Dropped(dropped) => dropped.time <= time,
            Record::Hash(hash) => hash.time <= time,
            Record::Group(group) => group.step.time().is_none_or(|at| at <= time),
            Record::Run(_) | Record::Subscription(_) => true,
            Record::Closed(_) | Record::Fault(_) | Record::Final(_) => false,
        };
        if keep {
            kept.push(record);
        }
    }
    kept
}

/// Power lost just after a vote: whoever has told a term must still know it.
///
/// The network is slow, so that a vote is given long before the new leader's
/// first entry arrives, whose sync would make the vote durable as well.
pub(crate) async fn vote_loss(job: Job, rounds: usize, settings: Settings) -> Result<Report> {
    const DELAY: Duration = Duration::from_millis(150);
    /// A sync takes a tenth of it on such a disk.
    const SETTLED: Duration = Duration::from_millis(100);

    let (mut harness, mut volumes) = on_volumes(job, Shape::default()).await?;
    let load = harness.load(modest(&harness, harness.job.seed));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for round in 0..rounds {
        let (leader, others) = harness.roles().await?;
        let voter = others[round % others.len()];
        let slow = nemesis::Move::Network {
            weather: nemesis::Weather::Delay { by: DELAY, jitter: Duration::ZERO, reorder: false },
            region: nemesis::Region::All,
            time: Duration::from_secs(8),
        };
        let (testbed, clock) = (harness.testbed.clone(), harness.recorder.clock());
        let slow = tokio::task::spawn_local(async move { nemesis::perform(&testbed, &slow, &clock).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let told = harness.testbed.status(voter).await?.term;
        let start = harness.recorder.now();
        harness.testbed.kill(leader).await?;
        // The moment at which the voter tells a new term.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(7);
        let mut seen = told;
        while seen == told && tokio::time::Instant::now() < deadline {
            if let Ok(status) = harness.testbed.status(voter).await {
                seen = status.term;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(SETTLED).await;
        let at = volumes.iter().position(|(node, _)| *node == voter).context("every node has a volume")?;
        let (_, volume) = volumes.swap_remove(at);
        let (seed, name) = (harness.job.seed + round as u64, format!("round-{round}"));
        volumes.push((voter, strike(&harness.testbed, voter, volume, seed, name).await?));
        // Alone, so that nobody tells it the term again.
        let isolated = harness.testbed.partition(&annals_testbed::Partition::isolate(
            voter,
            &harness.testbed.nodes(),
            annals_testbed::Cut::Drop,
        ))?;
        harness.testbed.start_node(voter).await?;
        match harness.testbed.wait_listening(voter, READY).await {
            Ok(_) => {
                let remembered = harness.testbed.status(voter).await?.term;
                if remembered < seen {
                    harness.complain(format!(
                        "P3, election safety: node {voter} told term {seen} and knows {remembered} after a power loss: it could vote twice"
                    ));
                }
            }
            Err(error) => harness.complain(format!(
                "P3, election safety: node {voter} told term {seen} and does not start after a power loss: {error:#}"
            )),
        }
        harness.testbed.network().lift(isolated)?;
        let detail = format!("term {told}, then {seen}");
        let name = if seen > told { "power-loss-after-vote" } else { "power-loss-one" };
        harness.noted("F5", name, &[voter], start, detail);
        harness.note(slow.await?);
        if harness.is_caught() {
            break;
        }
        harness.heal().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    harness.finish(Some(load), settings).await
}

/// What blocks, off the threads of the clients.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
