//! What time it is for each node, next to this machine.
//!
//! A node is asked, and halfway between question and answer is when it looked at its
//! clock; it may have looked half of that time earlier or later. A difference counts by
//! what it is at least.

use std::time::{Duration, SystemTime};

use annals_client::Cluster;

use super::{Check, Finding};

const CHECK: Check = Check { name: "clocks", code: "ANN-3011" };

/// More than services that keep the time allow.
const OFTEN: f64 = 1.0;

/// So much that times of events and certificates are wrong.
const FAR: f64 = 60.0;

/// A node's clock, next to this machine's. In seconds; ahead is positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Clock {
    ahead: f64,
    doubt: f64,
}

impl Clock {
    /// Asks for it.
    pub(super) async fn of(cluster: &Cluster) -> Option<Clock> {
        let before = SystemTime::now();
        let there = cluster.clock().await.ok()?;
        let took = before.elapsed().ok()?;
        Some(Clock::read(there, before, took))
    }

    fn read(there: SystemTime, before: SystemTime, took: Duration) -> Clock {
        let half = took / 2;
        let ahead = match there.duration_since(before + half) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        };
        Clock { ahead, doubt: half.as_secs_f64() }
    }

    /// By how much the two differ at least.
    fn apart(self, other: Clock) -> f64 {
        ((self.ahead - other.ahead).abs() - self.doubt - other.doubt).max(0.0)
    }
}

/// The nodes next to each other and next to this machine.
pub(super) fn compare(clocks: &[(u64, Clock)]) -> Option<Finding> {
    const ADVICE: &str = "let a time service keep it: timedatectl tells whether one does";
    let here = Clock { ahead: 0.0, doubt: 0.0 };
    let pairs = clocks.iter().enumerate().flat_map(|(at, (a, of_a))| {
        clocks.iter().skip(at + 1).map(move |(b, of_b)| (of_a.apart(*of_b), format!("nodes {a} and {b}")))
    });
    let to_here = clocks.iter().map(|(node, clock)| (clock.apart(here), format!("node {node} and this machine")));
    let (most, between) = pairs.chain(to_here).max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    if most <= OFTEN {
        return Some(Finding::pass(CHECK, format!("less than {OFTEN:.0} s apart")));
    }
    let found = format!("{between} differ by {most:.1} s or more");
    Some(if most > FAR { Finding::fail(CHECK, found, ADVICE) } else { Finding::warn(CHECK, found, ADVICE) })
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use std::time::UNIX_EPOCH;

    fn seconds(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_way_there_and_back_is_no_difference() {
        let clock = Clock::read(seconds(1_002), seconds(1_000), Duration::from_secs(4));
        assert_eq!(clock, Clock { ahead: 0.0, doubt: 2.0 });
        let behind = Clock::read(seconds(990), seconds(1_000), Duration::from_secs(2));
        assert_eq!(behind, Clock { ahead: -11.0, doubt: 1.0 });
        assert_eq!(clock.apart(behind), 8.0);
    }

    #[test]
    fn what_is_certain_counts() {
        let clock = |ahead, doubt| Clock { ahead, doubt };
        let of = |clocks: &[Clock]| {
            let numbered: Vec<(u64, Clock)> = (1..).zip(clocks.iter().copied()).collect();
            compare(&numbered).map(|finding| (finding.grade, finding.found))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[clock(0.1, 0.0), clock(-0.1, 0.0)]).map(|found| found.0), Some(Grade::Pass));
        assert_eq!(of(&[clock(3.0, 2.5), clock(0.0, 0.0)]).map(|found| found.0), Some(Grade::Pass), "who knows");
        let (grade, found) = of(&[clock(0.7, 0.0), clock(-0.7, 0.0)]).expect("found");
        assert_eq!((grade, found.as_str()), (Grade::Warn, "nodes 1 and 2 differ by 1.4 s or more"));
        let (grade, found) = of(&[clock(90.0, 0.1)]).expect("found");
        assert_eq!((grade, found.as_str()), (Grade::Fail, "node 1 and this machine differ by 89.9 s or more"));
    }
}
