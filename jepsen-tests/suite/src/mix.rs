//! Faults drawn from a seed: one after the other, or several kinds at once.

mod disks;

use std::rc::Rc;
use std::time::Duration;

use annals_checker::Settings;
use annals_testbed::nemesis;
use annals_workload::Plan;
use anyhow::Result;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::Mutex;

use self::disks::Disks;
use crate::harness::{Harness, Job, Report, Shape};
use crate::scenario::{Amount, pause_between};

/// Before the first fault and after the last.
const CALM: Duration = Duration::from_secs(4);

/// Faults in turn, each healed before the next.
pub(crate) async fn in_turn(
    job: Job,
    classes: &[&str],
    shape: Shape,
    amount: Amount,
    settings: Settings,
) -> Result<Report> {
    let mut harness = Harness::start(job, shape).await?;
    harness.follow_members();
    let load = harness.load(harness.plan());
    suffer(&mut harness, classes, amount).await;
    harness.finish(Some(load), settings).await
}

/// The same with consumer groups, whose consumers are half of the load.
pub(crate) async fn with_groups(job: Job, classes: &[&str], amount: Amount, settings: Settings) -> Result<Report> {
    let mut harness = Harness::start(job, Shape::default()).await?;
    harness.share().await?;
    let plan = Plan {
        appends_per_second: 250.0,
        reads_per_second: 60.0,
        subscriptions: 2,
        probe_every: Some(Duration::from_millis(100)),
        ..harness.plan()
    };
    let load = harness.load(plan);
    suffer(&mut harness, classes, amount).await;
    harness.finish(Some(load), settings).await
}

/// Makes faults in turn, each healed before the next.
async fn suffer(harness: &mut Harness, classes: &[&str], amount: Amount) {
    tokio::time::sleep(CALM).await;
    let end = tokio::time::Instant::now() + harness.job.duration;
    let mut rng = StdRng::seed_from_u64(harness.job.seed);
    // More than can be done in that time; the rest is left.
    let moves = nemesis::plan(harness.job.seed, classes, harness.job.nodes, Duration::from_secs(4 * 3_600), 0.0);
    for (_, each) in moves.into_iter().take(amount.faults) {
        if tokio::time::Instant::now() >= end {
            break;
        }
        let fault = nemesis::perform(&harness.testbed, &each.hurried(amount.hurry), &harness.recorder.clock()).await;
        if fault.class == "F14" && fault.detail.starts_with("admitted") {
            harness.complain(format!("a node was admitted with a disk that is not its own as it was: {}", fault.name));
        }
        harness.note(fault);
        tokio::time::sleep(pause_between(&mut rng).div_f64(amount.hurry)).await;
    }
    harness.heal().await;
    tokio::time::sleep(CALM).await;
}

/// Several kinds at once, each in a lane of its own, shifting every half
/// minute, with a calm quarter of the time. One of the nodes lives on a volume
/// whose power can be cut.
pub(crate) async fn at_once(job: Job, settings: Settings) -> Result<Report> {
    const SHIFT: Duration = Duration::from_secs(24);
    const REST: Duration = Duration::from_secs(6);
    const LANES: [&[&str]; 4] = [&["F1", "F2"], &["F3"], &["F4", "F13"], &["F11", "F12"]];

    let mut harness = Harness::prepare(job, Shape { fake_clock: true, ..Shape::small() }).await?;
    let disks = Rc::new(Mutex::new(Disks::prepare(&harness).await?));
    harness.start_all().await?;
    harness.follow_members();
    let load = harness.load(harness.plan());
    tokio::time::sleep(CALM).await;
    let end = tokio::time::Instant::now() + harness.job.duration;
    let mut shift = 0_u64;
    while tokio::time::Instant::now() < end {
        let mut lanes = tokio::task::JoinSet::new();
        for (number, classes) in LANES.iter().enumerate() {
            // The processes' and the network's lanes always run, the others
            // take turns: two changes of members at once tell nothing.
            if number >= 2 && shift % 2 != number as u64 % 2 {
                continue;
            }
            let seed = harness.job.seed.wrapping_mul(1_000_003).wrapping_add(shift * 16 + number as u64);
            let moves = nemesis::plan(seed, classes, harness.job.nodes, SHIFT, 0.25);
            let (testbed, clock) = (harness.testbed.clone(), harness.recorder.clock());
            lanes.spawn_local(async move {
                let begin = tokio::time::Instant::now();
                let mut done = Vec::new();
                for (at, each) in moves {
                    tokio::time::sleep_until(begin + at).await;
                    if begin.elapsed() >= SHIFT {
                        break;
                    }
                    done.push(nemesis::perform(&testbed, &each, &clock).await);
                }
                done
            });
        }
        // A disk that is beyond repair costs a member, so not with the lane of
        // the members.
        if shift.is_multiple_of(2) {
            let (disks, until) = (disks.clone(), tokio::time::Instant::now() + SHIFT);
            lanes.spawn_local(async move { disks.lock().await.suffer_until(until).await });
        }
        while let Some(done) = lanes.join_next().await {
            for fault in done? {
                harness.note(fault);
            }
        }
        if !harness.heal().await {
            break;
        }
        tokio::time::sleep(REST).await;
        shift += 1;
    }
    harness.heal().await;
    tokio::time::sleep(CALM).await;
    let report = harness.finish(Some(load), settings).await?;
    disks.lock().await.discard().await?;
    Ok(report)
}
