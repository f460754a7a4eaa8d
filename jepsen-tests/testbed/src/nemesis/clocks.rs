//! Wall clocks that jump.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Outcome, Target, who_leads};
use crate::testbed::Testbed;

/// F13.
pub(super) async fn move_clock(
    testbed: &Testbed,
    target: Target,
    by: i64,
    time: Duration,
    strobe: Option<Duration>,
) -> Result<Outcome> {
    if !testbed.options().fake_clock {
        return Ok(Outcome::skipped("this test bed was started without movable clocks"));
    }
    let nodes = target.resolve(testbed).await?;
    let set = |seconds: i64| nodes.iter().try_for_each(|node| testbed.set_clock_offset(*node, seconds));
    let before = who_leads(testbed).await;
    let start = testbed.now();
    let end = Instant::now() + time;
    let mut detail = vec![format!("before, {before}")];
    match strobe {
        None => {
            set(by)?;
            tokio::time::sleep_until(end.into()).await;
        }
        Some(period) => {
            let (mut next, mut times) = (Instant::now(), 0);
            while next < end {
                set(if times % 2 == 0 { by } else { -by })?;
                times += 1;
                next += period;
                tokio::time::sleep_until(next.into()).await;
            }
            detail.push(format!("{times} jumps of {by} s"));
        }
    }
    set(0)?;
    detail.push(format!("in the end, {}", who_leads(testbed).await));
    Ok(Outcome::installed(nodes, detail.join("; ")).since(start))
}
