//! What became of each promise.

use std::fmt::Write as _;

use super::escape::{Escaped, Grouped};
use crate::Verdict;
use crate::verdict::{Finding, Property};

/// The table of the promises.
pub(super) fn section(page: &mut String, verdict: &Verdict) {
    page.push_str(
        "<section>\n<h2>Promises</h2>\n<div class=\"scroll\"><table class=\"wide\">\n<thead><tr><th></th><th>promise</th>\
         <th>status</th><th class=\"n\">checked</th><th class=\"n\">violations</th></tr></thead>\n<tbody>\n",
    );
    for (property, finding) in &verdict.properties {
        row(page, *property, finding);
    }
    page.push_str("</tbody></table></div>\n</section>\n");
}

fn row(page: &mut String, property: Property, finding: &Finding) {
    let (class, status) = match (finding.violations, finding.checked) {
        (0, 0) => ("none", "· nothing to check"),
        (0, _) => ("good", "✓ holds"),
        _ => ("bad", "✕ violated"),
    };
    let _ = write!(
        page,
        "<tr><td><strong>{property}</strong></td><td><div>{}</div><div class=\"soft\">{}</div>",
        Escaped(property.title()),
        says(property)
    );
    if !finding.first.is_empty() {
        let shown = finding.first.len() as u64;
        let which = if shown < finding.violations {
            format!("the first {shown} of {}", Grouped(finding.violations))
        } else {
            format!("all {shown}")
        };
        let open = if finding.violations > 0 && shown <= 3 { " open" } else { "" };
        let _ = writeln!(page, "<details{open}><summary>{which}</summary><ol class=\"quotes\">");
        for violation in &finding.first {
            let _ = writeln!(page, "<li>{}</li>", Escaped(&violation.text));
        }
        page.push_str("</ol></details>");
    }
    let _ = writeln!(
        page,
        "</td><td><span class=\"badge {class}\">{status}</span></td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
        Grouped(finding.checked),
        Grouped(finding.violations)
    );
}

fn says(property: Property) -> &'static str {
    match property {
        Property::P1 => "A position holds the same event for everybody, always.",
        Property::P2 => "Whatever is seen was sent before, was not refused, and is intact.",
        Property::P3 => "What was acknowledged or seen is in the log at the end, on every node.",
        Property::P4 => "Positions and revisions have no gaps; a read is a slice of the log, with nothing left out.",
        Property::P5 => "No event is in the log twice; all acknowledgements of one event name one place.",
        Property::P6 => "The events of an append stand together, all of them or none, and no read sees half of them.",
        Property::P7 => "An append that began after another had ended stands after it.",
        Property::P8 => "A linearizable read sees everything that was acknowledged before it began.",
        Property::P9 => "An append was done only where its expectation was true, and refused only where it was false.",
        Property::P10 => "A local read shows a prefix of the log, a session's read everything up to its position.",
        Property::P11 => "A subscription delivers every event once and in order, over all its connections.",
        Property::P12 => "The faults happened under load, and the cluster came back in time.",
        Property::P13 => "All nodes hold the same log, during the run and at its end.",
        Property::P14 => "Truncation, deletion and tombstones hide what they must and nothing else.",
        Property::P15 => "The time of events never goes back along the log.",
    }
}
