//! What was called, what came of it, and what was done to the cluster.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::chart::hue;
use super::escape::{Escaped, Grouped};
use super::time::Span;
use crate::Verdict;
use crate::history::{
    Expected, Fault, Installed, Mode, Outcome, ReadOutcome, Reason, Record, Subscription, Target, Write,
};

/// Faults that are listed one by one.
const FAULTS_LISTED: usize = 500;

/// Everything that is counted.
pub(super) fn sections(page: &mut String, records: &[Record], verdict: &Verdict) {
    coverage(page, records, verdict);
    page.push_str("<section>\n<h2>Calls</h2>\n<div class=\"tables\">\n");
    writes(page, records);
    reads(page, records);
    page.push_str("</div>\n</section>\n");
    subscriptions(page, records);
    totals(page, verdict);
}

/// A table with names at the left and numbers beside them.
fn table<const N: usize>(page: &mut String, title: &str, heads: [&str; N], rows: &BTreeMap<String, [u64; N]>) {
    let _ = write!(page, "<div class=\"scroll\"><table>\n<thead><tr><th>{}</th>", Escaped(title));
    for head in heads {
        let _ = write!(page, "<th class=\"n\">{head}</th>");
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for (name, numbers) in rows {
        let _ = write!(page, "<tr><td>{}</td>", Escaped(name));
        for number in numbers {
            let _ = write!(page, "<td class=\"n\">{}</td>", Grouped(*number));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

fn writes(page: &mut String, records: &[Record]) {
    let mut by_call: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    let mut by_expectation: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    let mut by_reason: BTreeMap<String, [u64; 1]> = BTreeMap::new();
    for record in records {
        let (call, expectation, outcome) = match record {
            Record::Append(append) => (append.call.clone(), expectation(&append.writes), &append.outcome),
            Record::Delete(delete) => {
                let call = if delete.hard { "tombstone" } else { "delete" };
                (call.to_owned(), name_of(delete.expected), &delete.outcome)
            }
            _ => continue,
        };
        let column = match outcome {
            Outcome::Acked { .. } => 0,
            Outcome::Refused { reason, .. } => {
                by_reason.entry(reason_of(reason).to_owned()).or_default()[0] += 1;
                1
            }
            Outcome::Unknown { .. } => 2,
        };
        by_call.entry(call).or_default()[column] += 1;
        by_expectation.entry(expectation.to_owned()).or_default()[column] += 1;
    }
    let heads = ["acked", "refused", "unknown"];
    table(page, "writes by call", heads, &by_call);
    table(page, "writes by expectation", heads, &by_expectation);
    table(page, "refusals by reason", ["count"], &by_reason);
}

fn expectation(writes: &[Write]) -> &'static str {
    match writes {
        [] => "nothing written",
        [write] => name_of(write.expected),
        _ => "several streams",
    }
}

fn name_of(expected: Expected) -> &'static str {
    match expected {
        Expected::Any => "any",
        Expected::NoStream => "no stream",
        Expected::Exists => "exists",
        Expected::Revision(_) => "revision",
    }
}

fn reason_of(reason: &Reason) -> &'static str {
    match reason {
        Reason::WrongExpectation { .. } => "not as expected",
        Reason::Tombstoned { .. } => "tombstone",
        Reason::Invalid { .. } => "invalid",
        Reason::NotTaken { .. } => "not taken",
    }
}

fn reads(page: &mut String, records: &[Record]) {
    let mut by_mode: BTreeMap<String, [u64; 4]> = BTreeMap::new();
    for record in records {
        let Record::Read(read) = record else { continue };
        let mode = match read.mode {
            Mode::Linearizable => "linearizable",
            Mode::AtLeast(_) => "at least a position",
            Mode::Local => "local",
        };
        let column = match read.outcome {
            ReadOutcome::Ok { .. } => 0,
            ReadOutcome::NoStream { .. } => 1,
            ReadOutcome::Tombstoned { .. } => 2,
            ReadOutcome::Failed { .. } => 3,
        };
        by_mode.entry(mode.to_owned()).or_default()[column] += 1;
    }
    table(page, "reads by mode", ["events", "no stream", "tombstone", "failed"], &by_mode);
}

fn subscriptions(page: &mut String, records: &[Record]) {
    let mut rows: BTreeMap<u32, Followed> = BTreeMap::new();
    let mut row = |number: &u32, change: &dyn Fn(&mut Followed)| change(rows.entry(*number).or_default());
    for record in records {
        match record {
            Record::Subscription(subscription) => {
                row(&subscription.subscription, &|row| row.target = describe(subscription));
            }
            Record::Opened(opened) => row(&opened.subscription, &|row| row.connections += 1),
            Record::Delivered(delivered) => {
                row(&delivered.subscription, &|row| row.events += delivered.events.len() as u64);
            }
            Record::CaughtUp(caught_up) => row(&caught_up.subscription, &|row| row.caught_up += 1),
            Record::Dropped(dropped) => row(&dropped.subscription, &|row| row.dropped += 1),
            Record::Closed(closed) => row(&closed.subscription, &|row| row.drained |= closed.drained),
            _ => {}
        }
    }
    if rows.is_empty() {
        return;
    }
    page.push_str(
        "<section>\n<h2>Subscriptions</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th class=\"n\"></th><th>follows</th>\
         <th class=\"n\">events</th><th class=\"n\">connections</th><th class=\"n\">dropped</th>\
         <th class=\"n\">caught up</th><th>drained</th></tr></thead>\n<tbody>\n",
    );
    for (number, row) in rows {
        let Followed { target, connections, dropped, events, caught_up, drained } = row;
        let _ = writeln!(
            page,
            "<tr><td class=\"n\">{number}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            Escaped(&target),
            Grouped(events),
            Grouped(connections),
            Grouped(dropped),
            Grouped(caught_up),
            if drained { "yes" } else { "no" }
        );
    }
    page.push_str("</tbody></table></div>\n</section>\n");
}

#[derive(Default)]
struct Followed {
    target: String,
    connections: u64,
    dropped: u64,
    events: u64,
    caught_up: u64,
    drained: bool,
}

fn describe(subscription: &Subscription) -> String {
    let mut text = match &subscription.target {
        Target::All { prefixes } if prefixes.is_empty() => "all events".to_owned(),
        Target::All { prefixes } => format!("streams that begin with {}", prefixes.join(", ")),
        Target::Stream(stream) => format!("stream {stream}"),
    };
    if let Some(after) = subscription.after {
        let _ = write!(text, " after {after}");
    }
    text
}

fn coverage(page: &mut String, records: &[Record], verdict: &Verdict) {
    let mut faults: Vec<&Fault> = records
        .iter()
        .filter_map(|record| match record {
            Record::Fault(fault) => Some(fault),
            _ => None,
        })
        .collect();
    faults.sort_by_key(|fault| fault.start);
    page.push_str("<section>\n<h2>Faults</h2>\n");
    if verdict.coverage.classes.is_empty() {
        page.push_str("<p class=\"soft\">None.</p>\n");
    } else {
        page.push_str(
            "<div class=\"scroll\"><table>\n<thead><tr><th>class</th><th>kinds</th><th class=\"n\">installed</th>\
             <th class=\"n\">skipped</th><th class=\"n\">indeterminate</th><th class=\"n\">appends acked meanwhile</th>\
             </tr></thead>\n<tbody>\n",
        );
        let mut classes: Vec<_> = verdict.coverage.classes.iter().collect();
        // F2 stands before F12.
        classes.sort_by_key(|(class, _)| (class.len(), *class));
        for (class, covered) in classes {
            let mut kinds: Vec<&str> =
                faults.iter().filter(|fault| fault.class == **class).map(|fault| &*fault.name).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let _ = writeln!(
                page,
                "<tr><td><i class=\"swatch f{}\"></i>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                hue(class),
                Escaped(class),
                Escaped(&kinds.join(", ")),
                Grouped(covered.installed),
                Grouped(covered.skipped),
                Grouped(covered.indeterminate),
                Grouped(covered.acked)
            );
        }
        page.push_str("</tbody></table></div>\n");
    }
    let unavailable = &verdict.coverage.unavailability;
    if unavailable.kills > 0 {
        let _ = writeln!(
            page,
            "<p>After {} {} of the leader the next append was acknowledged within <strong>{}</strong> (p50), \
             <strong>{}</strong> (p99), <strong>{}</strong> (max).</p>",
            Grouped(unavailable.kills),
            if unavailable.kills == 1 { "kill" } else { "kills" },
            Span(unavailable.p50),
            Span(unavailable.p99),
            Span(unavailable.max)
        );
    }
    if !faults.is_empty() {
        list(page, &faults);
    }
    page.push_str("</section>\n");
}

fn list(page: &mut String, faults: &[&Fault]) {
    let shown = faults.len().min(FAULTS_LISTED);
    let _ = write!(
        page,
        "<details><summary>{shown} of {} faults one by one</summary><div class=\"scroll\"><table>\n<thead><tr>\
         <th class=\"n\">at</th><th class=\"n\">for</th><th>class</th><th>what</th><th>nodes</th><th>happened</th>\
         <th>detail</th></tr></thead>\n<tbody>\n",
        faults.len()
    );
    for fault in &faults[..shown] {
        let nodes: Vec<String> = fault.nodes.iter().map(|node| format!("n{node}")).collect();
        let happened = match fault.installed {
            Installed::Installed => "yes",
            Installed::Skipped => "skipped",
            Installed::Indeterminate => "nobody knows",
        };
        let _ = writeln!(
            page,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{happened}</td>\
             <td>{}</td></tr>",
            Span(fault.start),
            Span(fault.end.saturating_sub(fault.start)),
            Escaped(&fault.class),
            Escaped(&fault.name),
            Escaped(&nodes.join(" ")),
            Escaped(&fault.detail)
        );
    }
    page.push_str("</tbody></table></div></details>\n");
}

fn totals(page: &mut String, verdict: &Verdict) {
    let counts = &verdict.counts;
    page.push_str("<section>\n<h2>In all</h2>\n<dl class=\"facts\">\n");
    let mut fact = |name: &str, value: &dyn Display| {
        let _ = writeln!(page, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    fact("events at the end", &Grouped(counts.events));
    fact("writes acked", &Grouped(counts.acked));
    fact("refused", &Grouped(counts.refused));
    fact("unknown", &Grouped(counts.unknown));
    fact("of these happened", &Grouped(counts.unknown_happened));
    fact("reads answered", &Grouped(counts.reads));
    fact("reads failed", &Grouped(counts.reads_failed));
    fact("subscriptions", &Grouped(counts.subscriptions));
    fact("connections", &Grouped(counts.connections));
    fact("events delivered", &Grouped(counts.delivered));
    fact("sightings of events", &Grouped(counts.sightings));
    fact("faults installed", &Grouped(counts.faults));
    page.push_str("</dl>\n</section>\n");
}
