//! P15 of the log: the time of events never goes back along positions.

use crate::properties::Case;
use crate::quote::Quote;
use crate::verdict::{Findings, Property};

pub(crate) fn judge(case: &Case<'_, '_>, findings: &mut Findings) {
    let events = case.index.log.events();
    findings.checked(Property::P15, events.len() as u64);
    for pair in events.windows(2).filter(|pair| pair[1].created < pair[0].created) {
        findings
            .violation(Property::P15, None, || format!("time goes back from {} to {}", Quote(pair[0]), Quote(pair[1])));
    }
}
