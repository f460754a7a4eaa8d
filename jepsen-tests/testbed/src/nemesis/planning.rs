//! Which moves to make when.
//!
//! The same seed and arguments give the same plan. A plan is a list of moves
//! with the time at which each begins at the earliest: moves are made one after
//! the other, and one that takes longer than expected pushes the next.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{Changing, Move, Party, Region, Shape, Target, Weather, WrongDisk};
use crate::network::Cut;

/// The classes of faults that this crate can make.
pub const CLASSES: [&str; 9] = ["F1", "F2", "F3", "F4", "F11", "F12", "F13", "F14", "F15"];

const DAY: i64 = 86_400;

/// Draws moves of these classes for a cluster of so many nodes, until the
/// duration is full. `calm_share` of the time nothing is done, at most 0.95.
/// Unknown classes are left out.
pub fn plan(seed: u64, classes: &[&str], nodes: u32, duration: Duration, calm_share: f64) -> Vec<(Duration, Move)> {
    let classes: Vec<&str> = classes.iter().copied().filter(|class| CLASSES.contains(class)).collect();
    if classes.is_empty() {
        return Vec::new();
    }
    let mut random = StdRng::seed_from_u64(seed);
    let calm = calm_share.clamp(0.0, 0.95);
    let mut at = Duration::ZERO;
    let mut moves = Vec::new();
    // Every class once, in a drawn order, before any comes again: a short run
    // covers all it was asked for.
    let mut left: Vec<&str> = Vec::new();
    loop {
        if left.is_empty() {
            left = classes.clone();
        }
        let class = left.swap_remove(random.random_range(0..left.len()));
        let drawn = draw(class, nodes, &mut random);
        let takes = expected(&drawn);
        // The calm comes first: a run that has just healed should see some work.
        let gap = takes.mul_f64(calm / (1.0 - calm) * random.random_range(0.5..=1.5));
        if at + gap + takes > duration {
            return moves;
        }
        moves.push((at + gap, drawn));
        at += gap + takes;
    }
}

/// How long a move takes, roughly, with what it needs to settle.
pub(super) fn expected(what: &Move) -> Duration {
    let settle = Duration::from_secs(2);
    settle
        + match what {
            Move::Kill { down, .. } => *down,
            Move::Pause { time, .. } => *time,
            Move::Partition { time, .. } | Move::Network { time, .. } | Move::Clock { time, .. } => *time,
            Move::Membership(Changing::Transfer) => Duration::from_secs(1),
            Move::Membership(Changing::GrowAndShrink(_)) => Duration::from_secs(12),
            Move::Membership(_) => Duration::from_secs(8),
            Move::LongOutage { time, .. } => *time / 2,
            Move::Disk(WrongDisk::Restored { age, .. }) => *age + Duration::from_secs(14),
            Move::Disk(_) => Duration::from_secs(10),
            Move::RollingRestart => Duration::from_secs(8),
        }
}

fn draw(class: &str, nodes: u32, random: &mut StdRng) -> Move {
    match class {
        "F1" => Move::Kill { target: target(random, true), down: seconds(random, 0.0, 10.0) },
        "F2" => {
            let target = if random.random_bool(0.5) { Target::Leader } else { other_target(random, true) };
            // Short and long ones alike: each tenfold range as often.
            let time = Duration::from_secs_f64(0.1 * 300_f64.powf(random.random_range(0.0..=1.0)));
            Move::Pause { target, time, until_led: random.random_bool(0.7) }
        }
        "F3" => partition(nodes, random),
        "F4" => weather(random),
        "F11" => Move::Membership(match random.random_range(0..10) {
            0..3 => Changing::Replace(random.random()),
            3..5 => Changing::ReplaceLeader,
            5..7 => Changing::GrowAndShrink(random.random_range(0..1_000)),
            7..8 => Changing::Transfer,
            _ => Changing::OldIdReturns(random.random()),
        }),
        "F12" => Move::LongOutage {
            target: if random.random_bool(0.3) { Target::Leader } else { Target::Follower(random.random()) },
            // A leader keeps what a follower that was just helped may need for
            // 30 s more.
            time: Duration::from_secs(45),
            kill: [None, Some(Party::Receiver), Some(Party::Sender)][random.random_range(0..3)],
        },
        "F13" => clock(random),
        "F14" => Move::Disk(match random.random_range(0..3) {
            0 => WrongDisk::Wiped(target(random, false)),
            1 => WrongDisk::Swapped(random.random()),
            _ => WrongDisk::Restored { target: target(random, false), age: Duration::from_secs(10) },
        }),
        // Only known classes come here; the last one needs no drawing.
        _ => Move::RollingRestart,
    }
}

fn target(random: &mut StdRng, several: bool) -> Target {
    if random.random_bool(0.4) { Target::Leader } else { other_target(random, several) }
}

fn other_target(random: &mut StdRng, several: bool) -> Target {
    match random.random_range(0..4) {
        2 if several => Target::Minority(random.random()),
        3 if several => Target::All,
        _ => Target::Follower(random.random()),
    }
}

fn partition(nodes: u32, random: &mut StdRng) -> Move {
    let one = if random.random_bool(0.5) { Target::Leader } else { Target::Follower(random.random()) };
    let shape = match random.random_range(0..7) {
        0 => Shape::Halves(random.random()),
        1 | 2 => Shape::Isolated(Target::Leader),
        3 => Shape::Bridge,
        // With three nodes everybody is everybody's neighbour.
        4 if nodes > 3 => Shape::Ring,
        4 | 5 => Shape::Deaf(one),
        _ => Shape::Mute(one),
    };
    Move::Partition {
        shape,
        how: if random.random_bool(0.3) { Cut::Reset } else { Cut::Drop },
        time: seconds(random, 3.0, 15.0),
        clients: random.random_bool(0.2),
        flapping: random.random_bool(0.2).then_some(Duration::from_millis(200)),
    }
}

fn weather(random: &mut StdRng) -> Move {
    let region = match random.random_range(0..4) {
        0 => Region::Link(random.random()),
        1 => Region::Node(Target::Leader),
        2 => Region::Node(Target::Follower(random.random())),
        _ => Region::All,
    };
    let weather = match random.random_range(0..8) {
        at @ 0..3 => Weather::Loss([1, 5, 20][at]),
        at @ 3..7 => {
            let by = Duration::from_millis([50, 200][at % 2]);
            Weather::Delay { by, jitter: by / 2, reorder: at >= 5 }
        }
        _ => Weather::Bandwidth(1_000_000),
    };
    // At 1 Mbit/s everywhere nothing else can be seen.
    let slow = matches!(weather, Weather::Bandwidth(_)) && region == Region::All;
    let region = if slow { Region::Node(Target::Follower(0)) } else { region };
    Move::Network { weather, region, time: seconds(random, 5.0, 15.0) }
}

fn clock(random: &mut StdRng) -> Move {
    let size = [1, 60, 3_600, DAY, 365 * DAY][random.random_range(0..5)];
    let by = if random.random_bool(0.5) { size } else { -size };
    let target = match random.random_range(0..4) {
        0 => Target::All,
        1 => Target::Follower(random.random()),
        _ => Target::Leader,
    };
    let strobe = random.random_bool(0.3).then_some(Duration::from_millis(200));
    Move::Clock { target, by, time: seconds(random, 2.0, 8.0), strobe }
}

/// Whole milliseconds, so that a plan reads well.
fn seconds(random: &mut StdRng, least: f64, most: f64) -> Duration {
    Duration::from_millis((random.random_range(least..=most) * 1e3) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_one_another() {
        let plan = |seed| super::plan(seed, &CLASSES, 3, HOUR, 0.25);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn a_plan_holds_the_classes_that_were_asked_for_and_no_other() {
        let classes = |wanted: &[&str]| -> BTreeSet<&str> {
            plan(1, wanted, 5, HOUR, 0.25).iter().map(|(_, what)| what.class()).collect()
        };
        assert_eq!(classes(&CLASSES), BTreeSet::from(CLASSES));
        assert_eq!(classes(&["F3", "F0"]), BTreeSet::from(["F3"]));
        assert!(classes(&["F0"]).is_empty());
    }

    #[test]
    fn moves_follow_each_other_within_the_duration_with_calm_between() {
        for calm in [0.0, 0.25, 0.5] {
            let moves = plan(3, &["F1", "F2", "F3"], 3, HOUR, calm);
            let mut end = Duration::ZERO;
            let mut busy = Duration::ZERO;
            for (at, what) in &moves {
                assert!(*at >= end);
                end = *at + expected(what);
                busy += expected(what);
            }
            assert!(end <= HOUR);
            let share = 1.0 - busy.as_secs_f64() / end.as_secs_f64();
            assert!((share - calm).abs() < 0.08, "{share} calm instead of {calm}");
        }
    }

    #[test]
    fn three_nodes_are_never_put_into_a_ring() {
        let rings = |nodes| {
            let is_ring = |what: &Move| matches!(what, Move::Partition { shape: Shape::Ring, .. });
            plan(5, &["F3"], nodes, 4 * HOUR, 0.0).iter().filter(|(_, what)| is_ring(what)).count()
        };
        assert_eq!(rings(3), 0);
        assert!(rings(5) > 0);
    }
}
